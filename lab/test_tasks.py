"""The tasks of sample.py on a run of `tiny`, in functions and on the command line: what is given stays, lengths, streaming, messages."""
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

import data
import sample
import train
from autoencoders import FourierDecoder
from lab.paper_autoencoders import StridedDecoder
from test_shapes import check_clip, command, error, inputs, randomise, tiny_talker

TEXT = "bin blue at f two now"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of `tiny` whose weights are random everywhere, so that a sample depends on all that it should depend on."""
    out = tmp_path_factory.mktemp("run")
    command("train.py", "--config", "tiny", "--out_dir", out)
    torch.manual_seed(0)
    state = train.load_checkpoint(out, "talker")
    talker = randomise(train.load_model(out, "talker"))
    torch.nn.init.zeros_(talker.stop.out.weight)          # a probability of one half everywhere: every sample stops after two patches
    talker.longest.fill_(8)
    train.save_checkpoint(out, "talker", state | {"model": talker.state_dict()})
    return out


@pytest.fixture(scope="module")
def models(run):
    return sample.Models(run)


@pytest.fixture(scope="module")
def clip():
    return data.SyntheticCorpus("test", 3)[1]


@pytest.fixture(scope="module")
def files(clip, tmp_path_factory):
    """The clip as files: with sound, silent, its sound, its first picture."""
    folder = tmp_path_factory.mktemp("files")
    data.write_clip(folder / "clip.mp4", clip.video, clip.audio, 16000)
    data.write_clip(folder / "silent.mp4", clip.video, None, 16000)
    data.soundfile.write(folder / "speech.wav", clip.audio, 16000)
    imageio.imwrite(folder / "face.png", clip.video[0])
    return folder


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("given", [("audio",), ("motion",), ("audio", "motion")])
def test_given_patches_are_fed_and_steer_what_is_sampled(delay, given):
    talker, config = tiny_talker(motion_delay=delay)
    batch, P = inputs(config), config.patch
    patches = 5 if len(given) == 1 else 2
    draws = [torch.randn(3, P, 32) for _ in range(20)]
    def generate(fed):
        made, noise = {n: [] for n in talker.modalities}, iter(draws)
        for patch, _ in talker.generate(batch["text"], batch["text_mask"], batch["conditions"], lambda shape: next(noise)[..., :shape[-1]], 5 + delay,
                                        given=fed, steps=3, stop_hits=99):
            for n, x in patch.items():
                made[n].append(x)
        return {n: torch.cat(x, 1)[:, :5 * P] for n, x in made.items()}
    fed = {n: torch.randn_like(batch["latents"][n])[:, :patches * P] for n in given}
    made = generate(fed)
    for n in given:
        assert torch.equal(made[n][:, :patches * P], fed[n])
    fed[given[0]][:, P:2 * P] += 1                                                       # a change in patch 1 of the first given stream
    moved = {n: (x - made[n]).abs().amax((0, 2)).unflatten(0, (-1, P)).amax(1) > 1e-6 for n, x in generate(fed).items()}
    for n in talker.modalities:
        first = 2 + talker.modalities[given[0]].delay - talker.modalities[n].delay       # the first patch that can know of it
        expected = [j >= first if n not in given else j >= max(first, patches) or (n == given[0] and j == 1) for j in range(5)]
        assert moved[n].tolist() == expected


def test_several_clips_tell_a_voice(models):
    """A talker that was in training is known by 8 utterances, a stranger by one; the face is the first clip's."""
    corpus = data.SyntheticCorpus("test", 3)
    assert [len(corpus.references(talker)) for talker in (3, 300)] == [8, 1]
    clips = corpus.references(3)
    assert len({clip.text for clip in clips}) > 4 and {clip.talker for clip in clips} == {3}
    who, each = models.clip_reference(*clips), [models.clip_reference(clip) for clip in clips]
    assert error(who.voice, sum(one.voice for one in each) / 8) < 1e-5 < error(who.voice, each[0].voice)
    assert torch.equal(who.face, each[0].face)
    assert torch.equal(models.talker_reference(3).voice, who.voice)


def test_a_face_for_a_speech(models, clip):
    who = models.clip_reference(clip)
    wave = clip.audio[:20 * 640 + 7]                                                     # neither whole frames nor whole patches
    job = sample.speech_job(models, wave, who, TEXT)
    [(video, audio)], [stopped] = models.generate([job])
    assert len(video) == 21 and len(audio) == 21 * 640 and stopped
    assert np.array_equal(audio[:len(wave)], wave) and not audio[len(wave):].any()
    louder = sample.speech_job(models, 3 * wave, who, TEXT)
    motions = [torch.cat([patch["motion"] for patch, *_ in models.patches([j])], 1) for j in (job, louder)]
    assert error(*motions) > 1e-5                                                        # the face depends on the speech


def test_a_speech_for_a_face(models, clip):
    who = models.clip_reference(clip)
    [(video, audio)], _ = models.generate([sample.dubbing_job(models, clip.video[:21], TEXT, who)])
    assert np.array_equal(video, clip.video[:21]) and audio.shape == (21 * 640,)
    [(_, other)], _ = models.generate([sample.dubbing_job(models, clip.video[20::-1].copy(), TEXT, who)])
    assert not np.array_equal(other, audio)                                              # the speech depends on the face


def test_a_continuation_begins_as_the_clip_did(models, clip):
    who = models.clip_reference(clip)
    job = sample.continuation_job(models, clip, 0.5, TEXT, who)                          # 12 whole frames of 12.5
    [(video, audio)], [stopped] = models.generate([job])
    assert stopped and len(video) > 12 and len(audio) == 640 * len(video)
    assert np.array_equal(video[:12], models.roundtrip(clip)[0][:12])
    with pytest.raises(ValueError, match="prefix-seconds must be from 0.16"):
        sample.continuation_job(models, clip, 0.1, TEXT, who)


@pytest.mark.parametrize("keeps", [0, 1])
def test_given_lengths_hold_whatever_the_delay_and_the_stop_rule(models, clip, keeps, monkeypatch):
    talker = randomise(train.build("talker", train.parse_config(["--config", "tiny", "--motion_delay=2"])))
    talker.longest.fill_(8)
    torch.nn.init.zeros_(talker.stop.out.weight)          # it always wants to stop
    monkeypatch.setattr(models, "talker", talker)
    for name, value in dict(motion_delay=2, stop_keeps=keeps, stop_hits=1).items():
        monkeypatch.setattr(models.config, name, value)
    who = models.clip_reference(clip)
    for job, frames in ((sample.speech_job(models, clip.audio[:16 * 640], who, TEXT), 16), (sample.dubbing_job(models, clip.video[:17], TEXT, who), 17)):
        [(video, audio)], [stopped] = models.generate([job])
        assert len(video) == frames and len(audio) == 640 * frames and stopped
    [(video, _)], _ = models.generate([sample.continuation_job(models, clip, 0.64, TEXT, who)])
    assert len(video) >= 16


def test_two_jobs_of_a_batch_must_match(models, clip):
    who = models.clip_reference(clip)
    with pytest.raises(ValueError, match="equally long"):
        next(models.patches([sample.Job(TEXT, who), sample.speech_job(models, clip.audio, who, TEXT)]))


@pytest.mark.parametrize("decoder", [FourierDecoder(16000, 32, 32, 32), StridedDecoder(32, 64, (12, 10, 4, 2))])
def test_reach_of_the_decoders(decoder):
    """Frames decoded with `reach` frames around them are those of the whole; with two they are not."""
    randomise(decoder)
    x = torch.randn(1, 50, 32)
    whole = decoder(x)
    samples = whole.shape[1] // 50
    def part(reach):
        return decoder(x[:, 20 - reach:24 + reach])[:, reach * samples:(reach + 4) * samples]
    assert error(part(decoder.reach), whole[:, 20 * samples:24 * samples]) < 1e-5
    assert error(part(2), whole[:, 20 * samples:24 * samples]) > 1e-4


@pytest.mark.parametrize("task", ["text", "speech", "face", "continuation"])
def test_a_stream_is_what_is_generated_at_once(models, clip, task, monkeypatch):
    who = models.clip_reference(clip)
    monkeypatch.setattr(models.config, "stop_hits", 9)                                                          # longer than the decoder reaches
    job = {"text": lambda: sample.Job(TEXT, who), "speech": lambda: sample.speech_job(models, clip.audio[:41 * 640], who, TEXT),
           "face": lambda: sample.dubbing_job(models, clip.video[:41], TEXT, who),
           "continuation": lambda: sample.continuation_job(models, clip, 0.5, TEXT, who)}[task]()
    [(video, audio)], _ = models.generate([job])
    for ahead, limit in ((models.audio.decoder.reach, 1e-5), (4, 0.5)):
        pieces = list(models.stream(job, ahead))
        shown, heard = (np.concatenate(part) for part in zip(*pieces))
        assert len(pieces) > 3 and all(len(s) == 640 * len(v) for v, s in pieces)
        assert shown.shape == video.shape and np.abs(shown.astype(int) - video).max() <= 1
        assert np.abs(heard - audio).max() <= limit * np.abs(audio).max()


def test_command_line(run, files, tmp_path, clip):
    call = ["sample.py", "--ckpt", run, "--text", TEXT]
    seconds = len(clip.video) / 25
    command(*call, "--voice", files / "speech.wav", "--face", files / "face.png", "--out", tmp_path / "apart.mp4")
    check_clip(tmp_path / "apart.mp4")
    command(*call, "--audio", files / "speech.wav", "--face", files / "face.png", "--out", tmp_path / "a2v.mp4")
    check_clip(tmp_path / "a2v.mp4", seconds)
    heard = data.read_audio(tmp_path / "a2v.mp4", 16000)[:len(clip.audio)]
    assert np.corrcoef(heard, clip.audio[:len(heard)])[0, 1] > 0.98                      # the speech itself, not the autoencoder's idea of it
    command(*call, "--video", files / "silent.mp4", "--out", tmp_path / "v2a.mp4")
    check_clip(tmp_path / "v2a.mp4", seconds)
    command(*call, "--ref", files / "clip.mp4", files / "clip.mp4", "--prefix-seconds", 1, "--n", 2, "--out", tmp_path / "on.mp4")
    check_clip(tmp_path / "on_0.mp4")
    check_clip(tmp_path / "on_1.mp4")


def test_streaming_command_line(run, files, tmp_path):
    words = ["sample.py", "--ckpt", str(run), "--text", TEXT, "--talker", "3", "--stream", "--out", "-"]
    done = subprocess.run([sys.executable, *words], capture_output=True, cwd=Path(sample.__file__).parent)
    (tmp_path / "pipe.mp4").write_bytes(done.stdout)      # nothing but the film may be on standard output
    assert done.returncode == 0 and done.stdout[4:8] == b"ftyp"
    check_clip(tmp_path / "pipe.mp4")
    words = command("sample.py", "--ckpt", run, "--text", TEXT, "--talker", 3, "--stream", "--out", tmp_path / "live.mp4")
    assert "first patch after" in words and "real-time factor" in words
    check_clip(tmp_path / "live.mp4")
    command("sample.py", "--ckpt", run, "--audio", files / "speech.wav", "--text", TEXT, "--face", files / "face.png", "--stream",
            "--out", tmp_path / "a2v.mp4")
    check_clip(tmp_path / "a2v.mp4")


@pytest.mark.parametrize("arguments, message", [
    ((), "what is to be said"), (("--video", "x.mp4"), "--text what is spoken"), (("--text", "a", "--prefix-seconds", 1), "give --ref"),
    (("--text", "a", "--n", 0), "--n is a number"), (("--text", "a", "--out", "x.wav"), "must end in .mp4"),
    (("--text", "a", "--face", "b.png"), "who speaks"), (("--audio", "nowhere.wav", "--face", "b.png"), "no such file"),
    (("--texts", "b", "--face", "b.png"), "needs both --voice and --face"), (("--texts", "."), "directory"),
    (("--text", "a", "--texts", "b"), "does not go with"), (("--text", "a", "--talker", 1, "--ref", "x.mp4"), "not allowed with")])
def test_messages(run, arguments, message):
    words = command("sample.py", "--ckpt", run, "--out", "x.mp4", *arguments, fails=True)
    assert message in words and "Traceback" not in words


def test_a_shorter_run_folder_is_enough(run, files, tmp_path):
    """sample.py needs the checkpoints and the settings only; a silent film then needs a voice."""
    for part in ("config.json", "audio.pt", "motion.pt", "speaker.pt", "talker.pt"):
        shutil.copy(run / part, tmp_path)
    film = ["sample.py", "--ckpt", tmp_path, "--text", TEXT, "--video", files / "silent.mp4", "--out", tmp_path / "x.mp4"]
    assert "whose voice" in command(*film, fails=True)
    command(*film, "--voice", files / "speech.wav")
    check_clip(tmp_path / "x.mp4")
