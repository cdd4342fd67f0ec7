"""The tasks of sample.py on a run of `tiny`, in functions and on the command line: what is given
stays, lengths, streaming, messages."""
import re
import shutil
import subprocess
import sys
import textwrap

import imageio.v3 as imageio
import numpy as np
import pytest
import soundfile
import torch

import data
import sample
import train
from autoencoders import FourierDecoder
from engine.checkpoints import load_checkpoint, save_checkpoint
from engine.media import read_audio, write_clip
from paper.autoencoders import StridedDecoder
from tests.helpers import (HOME, check_clip, command, error, random_batch, randomise, said_here,
                           tiny_talker)

TEXT = "bin blue at f two now"


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A run of `tiny` whose weights are random everywhere, so that a sample depends on all that it
    should depend on."""
    out = shutil.copytree(tiny_run, tmp_path_factory.mktemp("run") / "out")
    torch.manual_seed(0)
    state = load_checkpoint(out, "talker")
    talker = randomise(train.load_model(out, "talker"))
    # A probability of one half everywhere: every sample stops after two patches.
    torch.nn.init.zeros_(talker.stop.out.weight)
    talker.longest_seen.fill_(8)
    save_checkpoint(out, "talker", state | {"model": talker.state_dict()})
    return out


@pytest.fixture(scope="module")
def models(run):
    return sample.Models(run)


@pytest.fixture(scope="module")
def clip():
    return data.SyntheticCorpus("test", 3).say("We are going to the beach this weekend.", 1)


@pytest.fixture(scope="module")
def files(clip, tmp_path_factory):
    """The clip as files: with sound, silent, its sound, its first picture."""
    folder = tmp_path_factory.mktemp("files")
    write_clip(folder / "clip.mp4", clip.video, clip.audio, 16000)
    write_clip(folder / "silent.mp4", clip.video, None, 16000)
    soundfile.write(folder / "speech.wav", clip.audio, 16000)
    imageio.imwrite(folder / "face.png", clip.video[0])
    return folder


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("given", [("audio",), ("motion",), ("audio", "motion")])
def test_given_patches_are_fed_and_steer_what_is_sampled(delay, given):
    talker, config = tiny_talker(motion_delay=delay)
    batch, P = random_batch(config), config.patch
    patches = 5 if len(given) == 1 else 2
    draws = [torch.randn(3, P, 32) for _ in range(20)]

    def generate(fed):
        made = {name: [] for name in talker.modalities}
        noise = iter(draws)
        for patch, _ in talker.generate(
                batch["text"], batch["text_mask"], batch["conditions"],
                lambda shape: next(noise)[..., :shape[-1]], 5 + delay, given=fed, steps=3,
                stop_hits=99):
            for name, x in patch.items():
                made[name].append(x)
        return {name: torch.cat(x, 1)[:, :5 * P] for name, x in made.items()}

    fed = {name: torch.randn_like(batch["latents"][name])[:, :patches * P] for name in given}
    made = generate(fed)
    for name in given:
        assert torch.equal(made[name][:, :patches * P], fed[name])

    # A change in patch 1 of the first given stream.
    changed = given[0]
    fed[changed][:, P:2 * P] += 1
    delays = {name: m.delay for name, m in talker.modalities.items()}
    for name, x in generate(fed).items():
        moved = (x - made[name]).abs().amax((0, 2)).unflatten(0, (-1, P)).amax(1) > 1e-6
        first = 2 + delays[changed] - delays[name]        # the first patch that can know of it
        if name in given:
            expected = [j >= max(first, patches) or (name == changed and j == 1)
                        for j in range(5)]
        else:
            expected = [j >= first for j in range(5)]
        assert moved.tolist() == expected


def test_heads_see_a_given_patch():
    """A joint head needs it: separate heads return it, another class may condition on it."""
    talker, config = tiny_talker()
    batch, seen = random_batch(config), []

    class Spy(torch.nn.Module):
        def sample(self, inputs, noise, **sampling):
            seen.append(inputs["audio"].target)
            return {"audio": inputs["audio"].target, "motion": inputs["motion"].history}

    talker.heads = Spy()
    speech = batch["latents"]["audio"]
    list(talker.generate(batch["text"], batch["text_mask"], batch["conditions"], torch.randn, 3,
                         given={"audio": speech}, stop_hits=9))
    assert all(torch.equal(x[:, 0], speech[:, 4 * i:4 * i + 4]) for i, x in enumerate(seen))


def test_several_clips_give_a_voice(models):
    """A speaker that was in training is given by 8 utterances, an unseen one by one; the face is
    the first clip's."""
    corpus = data.SyntheticCorpus("test", 3, sentences="grid")
    assert [len(corpus.references(number)) for number in (3, 300)] == [8, 1]
    clips = corpus.references(3)
    assert len({clip.text for clip in clips}) > 4 and {clip.speaker for clip in clips} == {3}
    reference = models.clip_reference(*clips)
    each = [models.clip_reference(clip) for clip in clips]
    voice = reference.conditions["audio"]
    mean = sum(one.conditions["audio"] for one in each) / 8
    assert error(voice, mean) < 1e-5 < error(voice, each[0].conditions["audio"])
    assert torch.equal(reference.face, each[0].face)
    assert torch.equal(models.speaker_reference(3).conditions["audio"], voice)


def test_a_paragraph_goes_on_where_a_sentence_ends(models, clip):
    reference = models.clip_reference(clip)
    paragraph = sample.Job("Hello world. Is it you?", reference, seed=3)
    first, second = models.sentences(paragraph)
    assert (first.text, second.text) == ("Hello world.", "Is it you?") and first.seed != second.seed

    # The second sentence starts at the last pose of the first, with the same voice and face.
    [latents], _ = models.latents([first])
    second = models.follow(second, first, latents)
    assert torch.equal(second.reference.face, reference.face)
    assert torch.equal(second.reference.conditions["audio"], reference.conditions["audio"])
    assert not torch.equal(second.reference.conditions["motion"], reference.conditions["motion"])
    still = models.motion.standardize_change(torch.zeros(1, models.config.motion_size))
    ended = models.decode(first, latents)["motion"][-1]
    begun = train.decode_motion(models.frozen, second.reference, still)[0]
    assert np.abs(begun.astype(int) - ended).max() <= 1

    # All at once is both, one after the other; next to another job, too.
    [made, other], _ = models.generate([paragraph, sample.Job("One.", reference)])
    parts = [models.decode(first, latents)]
    [latents], _ = models.latents([second])
    parts.append(models.decode(second, latents))
    expected = np.concatenate([part["audio"] for part in parts])
    assert made["audio"].shape == expected.shape
    assert np.abs(made["audio"] - expected).max() < 1e-3
    assert len(other["audio"]) < len(expected)


def test_words_that_are_read_by_rules_are_named(run, tmp_path):
    said = command("sample.py", "--ckpt", run, "--text", "Say zyxogram and {B L AO R F}",
                   "--speaker", 3, "--out", tmp_path / "a.mp4")
    assert "rules of spelling: zyxogram;" in said
    assert "brace" in command("sample.py", "--ckpt", run, "--text", "{HH AH", "--speaker", 3,
                              "--out", tmp_path / "b.mp4", fails=True)


def test_a_face_for_a_speech(models, clip):
    reference = models.clip_reference(clip)
    wave = clip.audio[:20 * 640 + 7]              # neither whole frames nor whole patches
    job = sample.face_for_speech(models, wave, reference, TEXT)
    [made], [stopped] = models.generate([job])
    assert len(made["motion"]) == 21 and len(made["audio"]) == 21 * 640 and stopped
    assert np.array_equal(made["audio"][:len(wave)], wave)
    assert not made["audio"][len(wave):].any()
    louder = sample.face_for_speech(models, 3 * wave, reference, TEXT)
    motions = [torch.cat([patch["motion"] for patch, *_ in models.patches([j])], 1)
               for j in (job, louder)]
    assert error(*motions) > 1e-5                 # the face depends on the speech


def test_a_speech_for_a_face(models, clip):
    reference = models.clip_reference(clip)
    [made], _ = models.generate([sample.speech_for_face(models, clip.video[:21], TEXT, reference)])
    assert np.array_equal(made["motion"], clip.video[:21]) and made["audio"].shape == (21 * 640,)
    backwards = clip.video[20::-1].copy()
    [other], _ = models.generate([sample.speech_for_face(models, backwards, TEXT, reference)])
    assert not np.array_equal(other["audio"], made["audio"])      # it depends on the face


def test_a_continuation_begins_as_the_clip_did(models, clip):
    reference = models.clip_reference(clip)
    job = sample.continuation(models, clip, 0.5, TEXT, reference)     # 12 frames of 12.5
    [made], [stopped] = models.generate([job])
    video, audio = made["motion"], made["audio"]
    assert stopped and len(video) > 12 and len(audio) == 640 * len(video)
    rebuilt = models.roundtrip(clip)["motion"][:12].astype(int)
    assert np.abs(rebuilt - video[:12]).max() <= 1
    with pytest.raises(ValueError, match="prefix-seconds must be from 0.16"):
        sample.continuation(models, clip, 0.1, TEXT, reference)


@pytest.mark.parametrize("keeps", [False, True])
def test_given_lengths_hold_whatever_the_delay_and_the_stop_rule(models, clip, keeps, monkeypatch):
    talker, _ = tiny_talker(motion_delay=2)
    talker.longest_seen.fill_(8)
    torch.nn.init.zeros_(talker.stop.out.weight)  # it always wants to stop
    monkeypatch.setattr(models, "talker", talker)
    for name, value in dict(motion_delay=2, stop_keeps=keeps, stop_hits=1).items():
        monkeypatch.setattr(models.config, name, value)
    reference = models.clip_reference(clip)
    jobs = [(sample.face_for_speech(models, clip.audio[:16 * 640], reference, TEXT), 16),
            (sample.speech_for_face(models, clip.video[:17], TEXT, reference), 17)]
    for job, frames in jobs:
        [made], [stopped] = models.generate([job])
        assert len(made["motion"]) == frames and len(made["audio"]) == 640 * frames and stopped
    job = sample.continuation(models, clip, 0.64, TEXT, reference)
    [made], _ = models.generate([job])
    assert len(made["motion"]) >= 16


@pytest.mark.parametrize("shortest, patches", [(0, 0), (3, 3), (99, 12)])
def test_a_stream_that_stops_by_a_patch_that_is_not_made(models, clip, shortest, patches,
                                                         monkeypatch, capsys):
    """It says that it was cut only where it ends at the limit, of 12 patches here."""
    talker, _ = tiny_talker()
    talker.longest_seen.fill_(8)
    torch.nn.init.zeros_(talker.stop.out.weight)  # it always wants to stop
    monkeypatch.setattr(models, "talker", talker)
    for name, value in dict(stop_keeps=False, stop_hits=1, stop_shortest=shortest).items():
        monkeypatch.setattr(models.config, name, value)
    job = sample.Job(TEXT, models.clip_reference(clip))
    if not patches:
        with pytest.raises(ValueError, match="before its first patch"):
            list(models.stream(job))
        return
    pieces = list(models.stream(job))
    assert sum(len(piece["motion"]) for piece in pieces) == patches * models.config.patch
    assert (sample.CUT in capsys.readouterr().err) == (patches == 12)


def test_a_stream_may_have_its_own_temperature(models, clip):
    """Without noise the first patch of the motion is the same whatever the seed; the sound has the
    run's temperature."""
    own = models.config.temperature
    chosen = models.sampling(temperature={"motion": 0.0})["temperature"]
    assert chosen == {"audio": own, "motion": 0.0} and own > 0
    jobs = [sample.Job(TEXT, models.clip_reference(clip), seed) for seed in (0, 1)]
    patch, _, _ = next(models.patches(jobs, temperature=chosen))
    assert torch.equal(*patch["motion"])
    assert not torch.allclose(*patch["audio"], atol=1e-3)


def test_two_jobs_of_a_batch_must_match(models, clip):
    reference = models.clip_reference(clip)
    speech = sample.face_for_speech(models, clip.audio, reference, TEXT)
    with pytest.raises(ValueError, match="equally long"):
        next(models.patches([sample.Job(TEXT, reference), speech]))


@pytest.mark.parametrize("decoder", [
    FourierDecoder(16000, 32, 32, 32), StridedDecoder(32, 64, (12, 10, 4, 2))])
def test_receptive_field_of_the_decoders(decoder):
    """Frames decoded with `reach` frames around them are those of the whole; with two they are
    not."""
    randomise(decoder)
    x = torch.randn(1, 50, 32)
    whole = decoder(x)
    samples = whole.shape[1] // 50

    def part(reach):
        y = decoder(x[:, 20 - reach:24 + reach])
        return y[:, reach * samples:(reach + 4) * samples]

    assert error(part(decoder.reach), whole[:, 20 * samples:24 * samples]) < 1e-5
    assert error(part(2), whole[:, 20 * samples:24 * samples]) > 1e-4


@pytest.mark.parametrize("task", ["text", "paragraph", "speech", "face", "continuation"])
def test_a_stream_is_what_is_generated_at_once(models, clip, task, monkeypatch):
    reference = models.clip_reference(clip)
    monkeypatch.setattr(models.config, "stop_hits", 9)    # longer than the receptive field
    if task == "text":
        job = sample.Job(TEXT, reference)
    elif task == "paragraph":
        job = sample.Job("One, two. Three! Four?", reference)
    elif task == "speech":
        job = sample.face_for_speech(models, clip.audio[:41 * 640], reference, TEXT)
    elif task == "face":
        job = sample.speech_for_face(models, clip.video[:41], TEXT, reference)
    else:
        job = sample.continuation(models, clip, 0.5, TEXT, reference)
    [made], _ = models.generate([job])
    video, audio = made["motion"], made["audio"]
    for ahead, limit in ((models.audio.decoder.reach, 1e-5), (4, 0.5)):
        pieces = list(models.stream(job, ahead))
        assert len(pieces) > 3
        assert all(len(piece["audio"]) == 640 * len(piece["motion"]) for piece in pieces)
        shown = np.concatenate([piece["motion"] for piece in pieces])
        heard = np.concatenate([piece["audio"] for piece in pieces])
        assert shown.shape == video.shape and np.abs(shown.astype(int) - video).max() <= 1
        assert np.abs(heard - audio).max() <= limit * np.abs(audio).max()


def test_the_example_in_python(run, monkeypatch):
    """The lines of sample.py's docstring."""
    example = re.search(r"in Python.*?\n\n(.*?)\n\n", sample.__doc__, re.DOTALL)[1]
    names = dict(vars(sample))
    exec(textwrap.dedent(example).replace("out/small", str(run)).replace("range(8)", "range(2)"),
         names)
    assert len(names["outputs"]) == len(names["stopped"]) == 2
    assert names["pictures"].shape[1:] == (64, 64, 3) and names["pictures"].dtype == np.uint8
    assert names["sound"].shape == (640 * len(names["pictures"]),)


def test_command_line(run, files, tmp_path, clip):
    call = ["sample.py", "--ckpt", run, "--text", TEXT]
    voice, face = files / "speech.wav", files / "face.png"
    seconds = len(clip.video) / 25
    command(*call, "--voice", voice, "--face", face, "--out", tmp_path / "apart.mp4")
    check_clip(tmp_path / "apart.mp4")
    command(*call, "--audio", voice, "--face", face, "--out", tmp_path / "a2v.mp4")
    check_clip(tmp_path / "a2v.mp4", seconds)
    # The speech itself is heard, not its round trip.
    heard = read_audio(tmp_path / "a2v.mp4", 16000)[:len(clip.audio)]
    assert np.corrcoef(heard, clip.audio[:len(heard)])[0, 1] > 0.98
    command(*call, "--video", files / "silent.mp4", "--out", tmp_path / "v2a.mp4")
    check_clip(tmp_path / "v2a.mp4", seconds)
    command(*call, "--ref", files / "clip.mp4", files / "clip.mp4", "--prefix-seconds", 1,
            "--n", 2, "--out", tmp_path / "on.mp4")
    check_clip(tmp_path / "on_0.mp4")
    check_clip(tmp_path / "on_1.mp4")


def test_streaming_command_line(run, files, tmp_path):
    call = ["sample.py", "--ckpt", run, "--text", TEXT, "--stream"]
    words = [sys.executable, *map(str, call), "--speaker", "3", "--out", "-"]
    done = subprocess.run(words, capture_output=True, cwd=HOME)
    # Nothing but the film may be on standard output.
    (tmp_path / "pipe.mp4").write_bytes(done.stdout)
    assert done.returncode == 0 and done.stdout[4:8] == b"ftyp"
    check_clip(tmp_path / "pipe.mp4")
    said = command(*call, "--speaker", 3, "--out", tmp_path / "live.mp4")
    assert "first patch after" in said and "real-time factor" in said
    check_clip(tmp_path / "live.mp4")
    command(*call, "--audio", files / "speech.wav", "--face", files / "face.png", "--out",
            tmp_path / "a2v.mp4")
    check_clip(tmp_path / "a2v.mp4")


@pytest.mark.parametrize("arguments, message", [
    ("", "what is to be said"), ("--video x.mp4", "--text what is spoken"),
    ("--text a --prefix-seconds 1", "give --ref"), ("--text a --n 0", "--n is a number"),
    ("--text a --out x.wav", "must end in .mp4"), ("--text a --face b.png", "who speaks"),
    ("--audio nowhere.wav --face b.png", "no such file"),
    ("--texts b --face b.png", "needs both --voice and --face"), ("--texts .", "directory"),
    ("--text a --texts b", "does not go with"),
    ("--text a --speaker 1 --ref x.mp4", "not allowed with")])
def test_messages(run, arguments, message, monkeypatch, capsys):
    words = ["--ckpt", run, "--out", "x.mp4", *arguments.split()]
    code, said = said_here(sample.main, monkeypatch, capsys, *words)
    assert code == 2 and message in said


def test_a_shorter_run_folder_is_enough(run, files, tmp_path):
    """sample.py needs the checkpoints and the settings only; a silent film then needs a voice."""
    for part in ("config.json", "audio.pt", "motion.pt", "speaker.pt", "talker.pt"):
        shutil.copy(run / part, tmp_path)
    film = ["sample.py", "--ckpt", tmp_path, "--text", TEXT, "--video", files / "silent.mp4",
            "--out", tmp_path / "x.mp4"]
    assert "whose voice" in command(*film, fails=True)
    command(*film, "--voice", files / "speech.wav")
    check_clip(tmp_path / "x.mp4")
