"""Files in the released format, of random weights at reduced sizes: they go through sample.py,
wrong ones are named, none of them runs code. And what stands beside the release: Qwen3, Whisper,
the paper's sizes, the adversarial training of its audio autoencoder."""
import io
import json
import pickle
import re
import shutil
import struct
import sys
import tarfile
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

import data
import sample
import train
from engine.media import BrokenClip, write_clip
from heads import FlowHead, SeparateHeads
from model import Backbone, Modality, Talker
from paper import frozen, release, weights
from paper.autoencoders import LIAX, WhisperXVAE
from paper.describe import count, describe
from paper.published import PublishedData
from paper.qwen import qwen_ids
from tests.helpers import command, error, random_batch

HEADS = {"audio": "speech", "motion": "motion"}


# ------------------------------------------------------------------- a folder in their format
def in_their_names(module, table, prefix, kv=0):
    """Random weights for a module under the released names: `rename` backwards. kv: rows of the
    stacked keys, and of the values."""
    found = {}
    for ours, x in module.state_dict().items():
        names = weights.their_names(table, ours)
        if len(names) == 1:
            parts = [x]
        elif len(names) == 2:
            parts = x.chunk(2)
        else:
            parts = x.split([len(x) - 2 * kv, kv, kv])
        for name, part in zip(names, parts):
            found[prefix + name] = torch.randn(part.shape) * part[:1].numel() ** -0.5
    return found


def write_safetensors(path, state):
    header = {}
    start = 0
    for name, x in state.items():
        stop = start + 4 * x.numel()
        header[name] = dict(dtype="F32", shape=list(x.shape), data_offsets=[start, stop])
        start = stop
    text = json.dumps(header).encode()
    numbers = b"".join(x.contiguous().numpy().tobytes() for x in state.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + numbers)


def released_talker(width, latent, motion, speaker) -> dict:
    """The talker's weights under the released names. It always says stop."""
    backbone = Backbone(width, 2, 4, 2, 16, 48)
    modalities = {"audio": Modality(latent, speaker), "motion": Modality(motion, motion)}
    heads = SeparateHeads(modalities, width, 24, 2, 4, 4)
    talker = Talker(modalities, heads, backbone, 300, 4, 1, 4)
    state = in_their_names(backbone, weights.BACKBONE, "llm.model.", kv=32)
    for ours, theirs in HEADS.items():
        state |= in_their_names(talker.heads[ours], weights.HEAD, f"{theirs}_cfm.estimator.")
        encoder = talker.encoders[ours]
        for part, x in encoder.project.state_dict().items():
            state[f"projector_{theirs}.linear1.{part}"] = torch.randn(x.shape)
        encoder.project = torch.nn.Identity()
        state |= in_their_names(encoder, weights.PATCH_ENCODER, f"{theirs}_patch_encoder.")
    return state | {
        "llm.model.embed_tokens.weight": torch.randn(300, width),
        "task_embedding.weight": torch.randn(2, width), "motion_pad_emb": torch.randn(width),
        "head_stop.proj.weight": torch.zeros(width, width),
        "head_stop.proj.bias": torch.ones(width), "head_stop.head.weight": torch.ones(1, width)}


def write_released(folder, latent=6, motion=5, speaker=7, width=32):
    """Everything that `sample.py --released` wants."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    state = released_talker(width, latent, motion, speaker)
    home = folder / "talker-t2av"
    home.mkdir()
    names = list(state)
    for i, part in enumerate((names[:len(names) // 2], names[len(names) // 2:])):    # sharded
        path = home / f"model-0000{i + 1}-of-00002.safetensors"
        write_safetensors(path, {name: state[name] for name in part})
    (home / "config.json").write_text(json.dumps(dict(
        patch_size=4, delay=0, patch_encoder_n_head=4, dit_n_head=4, whisper_n_head=2)))

    vae = WhisperXVAE(24000, 4, (2, 4, 10, 12), width, 64, latent, 16, 30.0, 2, 2)
    audio = in_their_names(vae.acoustic, weights.strided(4, False), "CodecEnc.block.")
    audio |= in_their_names(vae.decoder, weights.strided(4, True), "CodecDec.model.")
    audio |= in_their_names(vae.semantic, weights.WHISPER, "semantic_model.encoder.")
    for name, outputs, inputs in (("in_proj", 2 * latent, width), ("out_proj", width, latent)):
        audio |= {f"vae.{name}.weight_g": torch.ones(outputs, 1, 1),
                  f"vae.{name}.weight_v": torch.randn(outputs, inputs, 1),
                  f"vae.{name}.bias": torch.zeros(outputs)}
    audio["semantic_model.encoder.positional_embedding"] = torch.zeros(1500, width)
    torch.save({"state_dict": audio}, folder / "model.ckpt")

    lia = LIAX(width, (32,) * 4, motion, size=64)
    del lia.standardize
    torch.save(in_their_names(lia, weights.motion_table(4), ""), folder / "lia-x.pt")
    np.save(folder / "motion_mean.npy", np.zeros(motion, np.float32))
    np.save(folder / "motion_std.npy", np.ones(motion, np.float32))
    np.save(folder / "voice.npy", np.ones(speaker, np.float32))


def test_a_released_folder_makes_a_clip(tmp_path, monkeypatch):
    write_released(tmp_path)
    clip = data.SyntheticCorpus("test", 1)[0]
    write_clip(tmp_path / "ref.mp4", clip.video, clip.audio, 16000)
    # transformers may be absent.
    monkeypatch.setattr(release, "qwen_ids", lambda text, folder: [ord(c) % 300 for c in text])
    out = tmp_path / "out.mp4"
    words = ["--released", tmp_path, "--text", "hello", "--ref", tmp_path / "ref.mp4", "--voice",
             tmp_path / "voice.npy", "--out", out, "--steps", 3]
    monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, words)])
    sample.main()
    made = data.read_clip(out, 64, 24000)
    # Patches 7, 8 and 9 say stop (the release's rule), and the last of them is dropped.
    assert len(made.video) == 9 * 4
    assert np.abs(made.audio).max() > 0.01 and made.video.std() > 1


def test_wrong_weights_are_named(tmp_path):
    write_released(tmp_path)
    state = weights.read_weights(tmp_path, "*.safetensors")

    def refused(message):
        with pytest.raises(ValueError, match=message):
            weights.build_talker(state, 0, 4, 4)

    state["llm.model.norm.weight"] = torch.ones(3)
    del state["speech_patch_encoder.cls_token"]
    refused("misshapen: llm.model.norm.weight")
    state["llm.model.norm.weight"] = torch.ones(32)
    refused("missing: speech_patch_encoder.cls_token")
    state["speech_patch_encoder.cls_token"] = torch.ones(32)
    state["llm.model.layers.0.extra"] = torch.ones(1)
    refused("surplus: llm.model.layers.0.extra")
    torch.save({"state_dict": {}, "hyper_parameters": Path("x")}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="convert it once"):
        weights.read_weights(tmp_path, "*.ckpt")


def test_heads_of_unequal_sizes_are_loaded():
    state = released_talker(32, 6, 5, 7)
    prefix = "motion_cfm.estimator."
    state = {name: x for name, x in state.items() if not name.startswith(prefix)}
    state |= in_their_names(FlowHead(5, 5, 32, 16, 3, 4), weights.HEAD, prefix)
    talker = weights.build_talker(state, 0, 4, 4)
    sizes = {name: (head.input.out_features, len(head.transformer.blocks))
             for name, head in talker.heads.items()}
    assert sizes == {"audio": (24, 2), "motion": (16, 3)}


def attack(path):
    path.touch()


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return attack, (self.path,)


def test_converting_runs_no_code_of_a_file(tmp_path):
    state = {"a": torch.randn(3), "b": torch.randn(2, 2)}
    settings = {"path": Path("x"), "space": SimpleNamespace(a=1, b=[2]),
                "count": defaultdict(list, {"k": [1]}), "bad": Malicious(tmp_path / "ran")}
    torch.save({"state_dict": state, "hyper_parameters": settings}, tmp_path / "model.ckpt")
    weights.convert(tmp_path / "model.ckpt")
    found = weights.read_weights(tmp_path, "*.ckpt")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert not (tmp_path / "ran").exists()
    # The control: this test's own object does run its code where pickle loads it.
    pickle.loads(pickle.dumps(settings["bad"]))
    assert (tmp_path / "ran").exists()


# ------------------------------------------------------------------------- Qwen3 and Whisper
def test_start_from_qwen3_and_from_a_run(tmp_path):
    config = train.parse_config(["--config", "tiny", f"--out_dir={tmp_path}"])
    talker, other = train.build("talker", config), train.build("talker", config)
    state = in_their_names(talker.backbone, weights.BACKBONE, "model.", kv=16)
    state["model.embed_tokens.weight"] = torch.randn(44, 32)
    write_safetensors(tmp_path / "model.safetensors", state)
    weights.start_from(talker, str(tmp_path))
    assert torch.equal(talker.embedding.weight, state["model.embed_tokens.weight"])
    down = talker.backbone.blocks[1].mlp.down.weight
    assert torch.equal(down, state["model.layers.1.mlp.down_proj.weight"])
    torch.save({"model": talker.state_dict()}, tmp_path / "talker.pt")
    weights.start_from(other, str(tmp_path))
    pairs = zip(talker.state_dict().values(), other.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)


RELEASED_SIZES = [
    "--tokens=qwen", "--alignment_weight=0", "--regression_weight=0", "--condition_backbone=0",
    "--voice_statistics=0", "--hidden_per_frame=0", "--width=32", "--layers=2",
    "--attention_heads=4", "--kv_heads=2", "--head_dim=16", "--mlp_width=48", "--patch_heads=4",
    "--flow_width=24", "--flow_layers=2", "--flow_heads=4", "--audio_latent=6", "--motion_size=5",
    "--speaker_size=7", "--flow_repeats=2"]


def test_fine_tuning_begins_at_the_released_models_loss(tmp_path, monkeypatch):
    """A Talker that starts from released weights has the loss of the released model."""
    monkeypatch.setattr(train, "QWEN_VOCABULARY", 300)
    write_released(tmp_path)
    theirs = weights.build_talker(weights.read_weights(tmp_path, "*.safetensors"), 0, 4, 4)
    config = train.parse_config(["--config", "tiny", *RELEASED_SIZES])
    ours = train.build("talker", config)
    weights.start_from(ours, str(tmp_path))
    ours.longest_seen.copy_(theirs.longest_seen)

    batch = random_batch(config) | dict(spoken=None)
    losses = [talker(**batch, generator=torch.Generator().manual_seed(0))[1]
              for talker in (ours, theirs)]
    for name in ("audio", "motion", "stop"):
        assert error(losses[0][name], losses[1][name]) < 1e-5

    # What the weights don't say is compared as well.
    other = train.parse_config(["--config", "tiny", *RELEASED_SIZES, "--patch=2"])
    with pytest.raises(ValueError, match=r"--patch=4 \(not 2\)"):
        weights.start_from(train.build("talker", other), str(tmp_path))
    wider = train.parse_config(["--config", "tiny", *RELEASED_SIZES, "--mlp_width=64"])
    with pytest.raises(ValueError, match="misshapen"):
        weights.start_from(train.build("talker", wider), str(tmp_path))


# What the released speaker model is in these tests: its code is another's.
SPEAKER_MODEL = """
import torch

def init_model(name):
    assert name == "wavlm_large"
    return Mean()

class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(3, 8)

    def forward(self, wave):
        return self.out(torch.stack((wave.mean(1), wave.std(1), wave.abs().amax(1)), 1))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run on released autoencoders, with voices by the released speaker model. Attributes: home,
    where all its files are; released, run; words, its command; checkpoint, of the speaker model,
    and weight, what it holds."""
    home = tmp_path_factory.mktemp("made")
    write_released(home / "released")
    package = home / "code" / "speaker_verification"
    package.mkdir(parents=True)
    (package / "verification.py").write_text(SPEAKER_MODEL)
    weight = {"out.weight": torch.randn(8, 3), "out.bias": torch.randn(8)}
    torch.save({"model": weight}, home / "wavlm.pt")
    words = ["--config", "tiny", "--autoencoders=paper", f"--frozen={home / 'released'}",
             "--clips=6", "--autoencoder_clips=4", "--sample_rate=24000", "--audio_latent=6",
             "--motion_size=5", "--alignment_weight=0", "--talker_steps=2",
             f"--out_dir={home / 'run'}", "--voice_statistics=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(package.parent))
        patch.syspath_prepend(package.parent)
        assert "Finished" in command("train.py", *words, f"--wavlm={home / 'wavlm.pt'}")
        yield SimpleNamespace(home=home, released=home / "released", run=home / "run", words=words,
                              checkpoint=home / "wavlm.pt", weight=weight)


def check_another(made, *words) -> None:
    """frozen.check_parts for a run of the same command and these words, in another folder."""
    frozen.check_parts(train.parse_config(
        [*made.words, *words, f"--out_dir={made.home / 'other'}"]))


def test_a_run_on_released_autoencoders(made):
    """--frozen: of autoencoders nothing is trained, and the run's folder stays small. A file that
    has changed, is gone, or has other sizes is named."""
    released, run = made.released, made.run
    with pytest.raises(ValueError, match="needs --motion_size=5$"):
        check_another(made, "--motion_size=6")
    assert (run / "audio.pt").stat().st_size < 10000

    # The latents are those of the released weights, of sound that was stored in 16 bits.
    theirs = frozen.build_part("audio", released)
    clip = train.corpus(train.run_config(run))[0]
    latents = data.LatentSet(run / "latents")[0]["audio"]
    with torch.inference_mode():
        assert error(latents, theirs.encode(torch.from_numpy(clip.audio)[None])[0]) < 1e-3

    # A file changes, though not in size; then there are two of it, then another one is gone.
    mean = np.load(released / "motion_mean.npy")
    np.save(released / "motion_mean.npy", mean + 1)
    with pytest.raises(ValueError, match="motion_mean.npy is not the file that this run was made"):
        train.load_model(run, "motion")
    np.save(released / "motion_mean.npy", mean)
    assert train.load_model(run, "motion") is not None
    (released / "more").mkdir()
    np.save(released / "more" / "motion_mean.npy", mean)
    with pytest.raises(ValueError, match="more than one motion_mean.npy"):
        frozen.files_of("motion", released)
    shutil.rmtree(released / "more")
    (released / "lia-x.pt").rename(released / "away")
    with pytest.raises(FileNotFoundError, match="lia-x.pt is not there"):
        train.load_model(run, "motion")
    with pytest.raises(FileNotFoundError, match=r"holds no lia-x\*.pt; .* published"):
        frozen.files_of("motion", released)
    (released / "away").rename(released / "lia-x.pt")


def test_voices_by_the_released_speaker_model(made):
    """--wavlm: no speaker encoder is trained, and voices are what the released model hears in them,
    at 16 kHz."""
    stages = {json.loads(line)["stage"]
              for line in (made.run / "log.jsonl").read_text().splitlines()}
    assert stages == {"talker"}
    clip = train.corpus(train.run_config(made.run))[0]
    found = data.LatentSet(made.run / "latents")[0]["audio_condition"]
    wave = torch.from_numpy(clip.audio)
    heard = torch.stack((wave.mean(), wave.std(), wave.abs().max()))
    expected = made.weight["out.weight"] @ heard + made.weight["out.bias"]
    assert error(found, expected) < 0.1
    command("sample.py", "--ckpt", made.run, "--text", "bin blue", "--speaker", "1", "--out",
            made.home / "a.mp4")


def test_what_wavlm_needs_is_said(made, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        check_another(made, "--wavlm=nowhere.pt")
    with pytest.raises(ValueError, match="--wavlm goes with --frozen"):
        train.parse_config(["--config=paper", "--wavlm=a.pt"])
    wrong = made.home / "other.pt"
    torch.save({"model": {"encoder.weight": torch.ones(2)}}, wrong)
    with pytest.raises(ValueError, match="other.pt is not the speaker model.*lacks 2 of"):
        check_another(made, f"--wavlm={wrong}")
    with pytest.raises(ValueError, match="wavlm.pt needs --speaker_size=8$"):
        check_another(made, f"--wavlm={made.checkpoint}", "--speaker_size=6")
    for name in ("speaker_verification", "speaker_verification.verification"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeError, match="needs the folder speaker_verification"):
        check_another(made, f"--wavlm={made.checkpoint}")


# --------------------------------------------------------------- the layout of the published data
def bytes_of_motion(motion) -> bytes:
    file = io.BytesIO()
    torch.save(torch.tensor(motion).half(), file)
    return file.getvalue()


def bytes_of_sound(seconds: float, rate=24000) -> bytes:
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal(int(seconds * rate))
    soundfile.write(file, noise, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def write_published(root, rows, in_shards=True) -> None:
    """rows: name -> (motion bytes, sound bytes, text); None for a file that is missing."""
    (root / "metadata").mkdir(parents=True)
    (root / "shards").mkdir()
    lines = ["motion_pt_path,wav_path,text,duration"]
    shards = [tarfile.open(root / "shards" / f"00{i}.tar", "w") for i in range(2)]
    for number, (name, (motion, sound, text)) in enumerate(rows.items()):
        paths = f"motion/{name}.pt", f"audio/{name}.wav"
        lines.append(f'{paths[0]},{paths[1]},"{text}",1.0')
        for path, content in zip(paths, (motion, sound)):
            if content is None:
                continue
            if in_shards:
                member = tarfile.TarInfo(path)
                member.size = len(content)
                shards[number % 2].addfile(member, io.BytesIO(content))
            else:
                (root / path).parent.mkdir(exist_ok=True)
                (root / path).write_bytes(content)
    for shard in shards:
        shard.close()
    (root / "metadata" / "train.csv").write_text("\n".join(lines) + "\n")


def published_rows(K=5) -> dict:
    rng = np.random.default_rng(0)
    return {f"{i:03d}": (bytes_of_motion(3 + rng.standard_normal((20 + i, K))),
                         bytes_of_sound((20 + i) / 25, 16000 if i == 1 else 24000), f"bin blue {i}")
            for i in range(8)}


@pytest.mark.parametrize("in_shards", [True, False])
def test_published_clips_are_read_where_they_are(tmp_path, in_shards):
    rows = published_rows()
    write_published(tmp_path, rows, in_shards)
    source = PublishedData(tmp_path, "all")
    assert len(source) == 8
    for i in range(8):
        clip = source[i]
        motion = torch.load(io.BytesIO(rows[clip.name][0]), weights_only=True)
        assert np.array_equal(clip.poses, motion.float().numpy())
        assert len(clip.audio) == len(motion) * 960 and clip.text == rows[clip.name][2]
        assert 0.05 < clip.audio.std() < 0.15
    parts = [PublishedData(tmp_path, split) for split in data.SPLITS]
    names = [part.column(i, "motion_pt_path") for part in parts for i in range(len(part))]
    assert len(names) == len(set(names)) == 8
    # Longer than 30 s: a window, of sound and motion alike.
    long = np.arange(800 * 5).reshape(800, 5) / 2048
    more = tmp_path / "more"
    write_published(more, {"a": (bytes_of_motion(long), bytes_of_sound(32), "bin")}, in_shards)
    clip = PublishedData(more, "all")[0]
    assert clip.poses.shape == (750, 5) and len(clip.audio) == 750 * 960
    # The window is the same in both, and what was cut off has no end.
    start = round(clip.poses[0, 0] * 2048) // 5
    noise = np.random.default_rng(0).standard_normal(32 * 24000)
    assert np.abs(clip.audio[:99] - 0.1 * noise[start * 960:][:99]).max() < 1e-3
    config = train.parse_config(["--config", "tiny", "--alignment_weight=0"])
    talker = train.build("talker", config)
    # A stop predictor that never says stop is right about such a clip, and wrong about others.
    torch.nn.init.zeros_(talker.stop.project.weight)
    torch.nn.init.ones_(talker.stop.project.bias)
    torch.nn.init.constant_(talker.stop.out.weight, -1)
    for patches, right in ((750 // 4, True), (180, False)):
        batch = random_batch(config, batch=1, patches=patches) | dict(spoken=None)
        assert (talker(**batch)[1]["stop"] < 1e-6) == right


def test_an_index_of_published_data_is_read_while_it_is_true(tmp_path, monkeypatch):
    """Once it is kept, neither metadata nor shards are read again, and a worker gets its name."""
    write_published(tmp_path, published_rows())
    index = tmp_path / "rows.pt"
    source = PublishedData(tmp_path, "all", index=index)
    assert len(pickle.dumps(source)) > 1000 and not index.exists()
    source.keep()
    assert len(pickle.dumps(source)) < 500
    with monkeypatch.context() as patch:
        patch.delattr(PublishedData, "look")
        others = (PublishedData(tmp_path, "all", index=index), pickle.loads(pickle.dumps(source)))
    for other in others:
        assert other.key == source.key and len(other) == 8
        for i in range(8):
            assert np.array_equal(other[i].poses, source[i].poses)
            assert (other[i].text, other[i].name) == (source[i].text, source[i].name)
    # A damaged one counts as none.
    content = index.read_bytes()
    index.write_bytes(content[:200])
    assert len(PublishedData(tmp_path, "all", index=index)) == 8
    index.write_bytes(content)
    # Of another split, or of another table, it is not true.
    assert len(PublishedData(tmp_path, "test", index=index)) == 1
    with open(tmp_path / "metadata" / "train.csv", "a") as table:
        table.write("motion/x.pt,audio/x.wav,bin,1.0\n")
    source = PublishedData(tmp_path, "all", index=index)
    assert len(source) == 9
    source.keep()
    # Nor where a file has come since then, or has another size.
    (tmp_path / "motion").mkdir(exist_ok=True)
    for frames in (20, 30):
        (tmp_path / "motion" / "x.pt").write_bytes(bytes_of_motion(np.zeros((frames, 5))))
        other = PublishedData(tmp_path, "all", index=index)
        at = [other.column(i, "text") for i in range(9)].index("bin")
        assert other.key != source.key and other.motion(at).shape == (frames, 5)
        other.keep()
        source = other


def test_what_is_wrong_with_published_data(tmp_path):
    good = published_rows()["000"]
    nan = bytes_of_motion(np.full((20, 5), np.nan))
    wrong = {"no_motion": (None, good[1], "bin"), "no_sound": (good[0], None, "bin"),
             "no_text": (*good[:2], " "), "nan": (nan, *good[1:]),
             "junk": (b"junk", *good[1:]), "noise": (good[0], b"junk", "bin"),
             "empty": (good[0], bytes_of_sound(0), "bin"),
             "babble": (*good[:2], "bin " * 100),
             "flat": (bytes_of_motion(np.zeros(20)), *good[1:]),
             "short": (bytes_of_motion(np.zeros((5, 5))), *good[1:]),
             "cut": (bytes_of_motion(np.zeros((60, 5))), *good[1:])}
    write_published(tmp_path, wrong)
    source = PublishedData(tmp_path, "all")
    reasons = {}
    for i in range(len(source)):
        with pytest.raises(BrokenClip) as found:
            source[i]
        reasons[Path(source.column(i, "motion_pt_path")).stem] = str(found.value)
    for name, words in dict(
            no_motion="motion/no_motion.pt: it is neither", no_sound="audio/no_sound.wav: it is",
            no_text="its text can't be used: it is empty", nan="should be finite",
            junk="it holds no motion", noise="it holds no sound", flat="it is (20,)",
            empty="its sound is silent", babble="it has 399 characters for 0.8 s",
            short="too short", cut="its sound ends 1.6 s before its motion").items():
        assert words in reasons[name]

    whole = (tmp_path / "shards" / "000.tar").read_bytes()
    with tarfile.open(tmp_path / "shards" / "000.tar") as shard:
        second = shard.getmembers()[1].offset
    # Cut off in the middle of a file, and between two of them.
    for content in (whole[:3 * 512], whole[:second], b"not a tar file" * 100):
        (tmp_path / "shards" / "000.tar").write_bytes(content)
        with pytest.raises(ValueError, match="000.tar is no tar file, or only part of one"):
            PublishedData(tmp_path)
    (tmp_path / "shards" / "000.tar").write_bytes(whole)
    table = tmp_path / "metadata" / "train.csv"
    table.write_text(table.read_text() + 'motion/x.pt,audio/x.wav,"a"quote",1.0\n')
    with pytest.raises(ValueError, match="train.csv, line 13: "):
        PublishedData(tmp_path)
    table.write_text("wav_path,words\n")
    with pytest.raises(ValueError, match="train.csv has no column motion_pt_path, text; its col"):
        PublishedData(tmp_path)


def test_a_run_on_published_data(tmp_path):
    """Released autoencoders, published layout: motion passes as it is, standardized. A broken row
    is named and left out."""
    write_released(tmp_path / "released")
    rows = published_rows() | {"broken": (b"junk", bytes_of_sound(1), "bin")}
    write_published(tmp_path / "data", rows)
    words = ["train.py", "--config", "tiny", "--autoencoders=paper", "--data", tmp_path / "data",
             "--sample_rate=24000", "--audio_latent=6", "--motion_size=5", "--tokens=characters",
             "--alignment_weight=0", "--talker_steps=2", "--out_dir", tmp_path / "run"]
    said = command("train.py", "--config", "tiny", "--data", tmp_path / "data", "--out_dir",
                   tmp_path / "other", fails=True)
    assert "give --frozen" in said
    said = command(*words, "--frozen", tmp_path / "released")
    assert "Finished" in said and "motion/broken.pt: it holds no motion" in said
    latents = data.LatentSet(tmp_path / "run" / "latents")
    source = PublishedData(tmp_path / "data")
    assert len(latents) == len(source) - 1
    names = [Path(source.column(i, "motion_pt_path")).stem for i in range(len(source))]
    first = next(name for name in names if name != "broken")
    theirs = torch.load(io.BytesIO(rows[first][0]), weights_only=True).float()
    # The statistics are those of the released files: mean 0, deviation 1.
    assert torch.equal(latents[0]["motion"], theirs)
    assert torch.equal(latents[0]["motion_condition"], theirs[0])
    assert (tmp_path / "run" / "talker.pt").exists()
    # Without --wavlm the speaker encoder is trained, and no autoencoder is.
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert {json.loads(line)["stage"] for line in lines} == {"speaker", "talker"}


def test_speech_without_video(tmp_path):
    """A list of .wav files has its share of every batch, and teaches the audio alone. What is
    wrong with a file is named."""
    names = []
    for i in range(6):
        (tmp_path / f"{i}.wav").write_bytes(bytes_of_sound(1 + 0.1 * i))
        (tmp_path / f"{i}.json").write_text(json.dumps({"text": f"red at {i}"}))
        names.append(f"{i}.wav")
    (tmp_path / "5.json").unlink()
    (tmp_path / "4.json").write_text("[]")
    (tmp_path / "list.txt").write_text("\n".join([*names, "nowhere.wav"]) + "\n")
    run = tmp_path / "run"
    words = ["--config", "tiny", "--sentences=open", "--clips=8", "--autoencoder_clips=4",
             "--speech_only=0", f"--speech={tmp_path / 'list.txt'}", f"--out_dir={run}"]
    said = command("train.py", *words)
    for name, reason in (("5.json", "it is not there"), ("4.json", 'it is not {"text": ...}'),
                         ("nowhere.wav", "it is not there")):
        assert f"{tmp_path / name}: {reason}" in said
    speech = data.LatentSet(run / "speech")
    assert [speech.text(i) for i in range(4)] == [f"red at {i}" for i in range(4)]
    assert "motion" not in speech[0] and "red" in (run / "seen.json").read_text()
    assert "motion" in (run / "log.jsonl").read_text()

    # Half of a batch of four; with nothing but that, the head of the motion has nothing to learn.
    clips = data.BatchOrder([30] * 8, 2)
    order = data.MixedOrder(clips, data.BatchOrder([30] * 4, 2), 8)
    state = order.state_dict()
    batches = [next(order) for _ in range(7)]
    assert all(max(b[:2]) < 8 <= min(b[2:]) and len(b) == 4 for b in batches)
    order.load_state_dict(state)
    assert [next(order) for _ in range(7)] == batches
    with pytest.raises(ValueError, match="it was of two sets"):
        clips.load_state_dict(order.state_dict())
    with pytest.raises(ValueError, match="not all; 1.0 are 4"):
        train.parse_config([*words, "--speech_share=1"])


MINIATURE = Path(__file__).resolve().parent.parent.parent / "shared" / "t2av_data"


@pytest.mark.skipif(not MINIATURE.exists(), reason="../shared/t2av_data is not there")
def test_the_miniature_of_the_published_data():
    """Real motion and speech: every row but the last, whose files do not exist."""
    source = PublishedData(MINIATURE, "all")
    mean, deviation = (np.load(MINIATURE / f"motion_{name}.npy") for name in ("mean", "std"))
    found = 0
    for i in range(len(source)):
        try:
            clip = source[i]
        except BrokenClip as error:
            assert "neither in the folder nor in one of its shards" in str(error)
            continue
        found += 1
        # Motion and sound of a clip are equally long, and motion is of the scale of its statistics.
        assert clip.poses.shape[1] == 40 and len(clip.audio) == len(clip.poses) * 960
        standardized = (clip.poses - mean) / deviation
        assert np.abs(standardized.mean()) < 2 and 0.1 < standardized.std() < 5
        assert clip.audio.std() > 0.01
    assert found == len(source) - 1


def test_whisper_is_loaded_and_stays_as_it_is(tmp_path):
    config = train.parse_config([
        "--config", "tiny", "--autoencoders=paper", "--sample_rate=24000", "--audio_heads=2",
        "--audio_fast=8", "--alignment_weight=0"])
    vae = train.build("audio", config)
    state = in_their_names(vae.semantic, weights.WHISPER, "encoder.")
    rest = {"encoder.positional_embedding": torch.zeros(3), "decoder.ln.bias": torch.zeros(3)}
    torch.save({"dims": {"n_mels": 80}, "model_state_dict": state | rest}, tmp_path / "tiny.pt")
    weights.load_whisper(vae.semantic, tmp_path / "tiny.pt")
    assert torch.equal(vae.semantic.conv1.weight, state["encoder.conv1.weight"])
    assert torch.equal(vae.semantic.blocks[1].up.bias, state["encoder.blocks.1.mlp.0.bias"])
    assert not any(p.requires_grad for p in vae.semantic.parameters())
    deeper = state | {"encoder.blocks.7.mlp.0.bias": torch.zeros(3)}
    torch.save({"model_state_dict": deeper}, tmp_path / "deep.pt")
    with pytest.raises(ValueError, match="surplus: encoder.blocks.7.mlp.0.bias"):
        weights.load_whisper(vae.semantic, tmp_path / "deep.pt")
    with pytest.raises(FileNotFoundError, match="large-v3"):
        weights.load_whisper(vae.semantic, tmp_path / "nowhere.pt")


def test_backbone_equals_hugging_face():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.Qwen3Config(
        vocab_size=50, hidden_size=48, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, rope_theta=1e6,
        tie_word_embeddings=True)
    torch.manual_seed(0)
    theirs = transformers.Qwen3Model(config).eval()
    state = {f"model.{name}": x for name, x in theirs.state_dict().items()}
    ours = Backbone(48, 3, 4, 2, 16, 96)
    ours.load_state_dict(weights.rename(state, weights.BACKBONE, "model.", ours.state_dict()))
    x, valid = torch.randn(2, 11, 48), torch.ones(2, 11, dtype=torch.bool)
    valid[1, :4] = False
    with torch.inference_mode():
        positions = torch.arange(11)[None].expand(2, -1)
        expected = theirs(inputs_embeds=x, attention_mask=valid.long(), position_ids=positions)
        assert error(ours(x, valid)[valid], expected.last_hidden_state[valid]) < 1e-5


def test_qwen_ids_end_where_the_speech_begins(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers
    words = ("[user]", "[assistant]", "hello", "there", "<SPEECH_FRAME>", "?")
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="?", chat_template=template).save_pretrained(tmp_path)
    assert qwen_ids("hello there", tmp_path) == [0, 2, 3, 1]


# ---------------------------------------------------------------------------- the paper's sizes
def test_adversary_and_autoencoder_train_in_one_pass():
    torch.manual_seed(0)
    vae = WhisperXVAE(24000, 4, (2, 4, 10, 12), 32, 32, 6, 16, 2.0, 2, 1, crop=10, adversary=2)
    wave = 0.1 * torch.randn(2, 20 * 960)

    def loss(frames):
        return vae.loss(wave, torch.tensor(frames), None, torch.Generator().manual_seed(0))

    def moved(name):
        vae.zero_grad()
        loss([20, 15])[1][name].backward()
        return {part for part, p in vae.named_parameters()
                if p.grad is not None and p.grad.abs().sum() > 0}

    for name in ("adversarial", "feature_matching"):
        assert not any(part.startswith("discriminators") for part in moved(name))
        assert any(part.startswith("acoustic") for part in moved(name))
    assert all(part.startswith("discriminators") for part in moved("discriminator"))
    assert not any(part.startswith("semantic.") for part in moved("semantic"))       # frozen
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        total, log = loss([20, 20])
        total.backward()
        optimizer.step()
        return log["mel"].item()

    first = step()
    assert min(step() for _ in range(12)) < 0.9 * first


def test_paper_sizes():
    """Qwen3-0.6B has 596 million parameters, and the release's heads and encoders the sizes that
    the paper gives."""
    with torch.device("meta"):
        talker = train.build("talker", train.parse_config(["--config", "paper"]))
    assert len(talker.backbone.blocks) == 28
    assert count(talker.backbone) + count(talker.embedding) == 596_049_920
    parts = (*talker.heads.values(), *talker.encoders.values())
    assert [len(part.transformer.blocks) for part in parts] == [8, 8, 4, 4]


def parameters(table: str) -> list[int]:
    """The Talker's rows of a description, without their sum."""
    rows = table.partition("| **Talker**")[0].splitlines()[2:]
    return [int(row.split("|")[2].replace(",", "")) for row in rows]


@pytest.mark.parametrize("preset", train.PRESETS)
def test_every_preset_is_described(preset):
    config = train.parse_config(["--config", preset])
    table = describe(config)
    with torch.device("meta"):
        total = count(train.build("talker", config))
    assert f"| **Talker** | {total:,} |" in table and "GFLOP" in table
    assert sum(parameters(table)) == total
    assert f"{config.layers} layers" in table
    assert preset != "paper" or "440,467,456" in table


def test_what_a_training_takes():
    """Half as many GPUs take twice as long; a process holds less with FSDP, and fewer clips where
    the batch passes in pieces."""
    def numbers(*words, **assumed) -> tuple[float, ...]:
        text = describe(train.parse_config(["--config", "paper", *words]), **assumed)
        found = re.search(r": ([\d.,e+-]+) days.*process, ([\d.]+) clips.*: ([\d.,]+) GB, .*"
                          r"--fsdp=1 ([\d.,]+) GB", text, re.DOTALL)
        return tuple(float(number.replace(",", "")) for number in found.groups())

    days, clips, whole, sharded = numbers(gpus=8, teraflops=100.0)
    assert numbers(gpus=4, teraflops=100.0)[0] == pytest.approx(2 * days, rel=0.05)
    assert clips == 256 / 8 and sharded < whole
    assert numbers("--accumulate=32", gpus=8)[1] == 256 / 32
    with pytest.raises(ValueError, match="has no backbone and heads"):
        describe(train.parse_config(
            ["--config", "tiny", "--talker=lab.ablations.dual_branch:DualBranchTalker"]))


class JointHeads(torch.nn.Module):
    """One FlowHead for all streams, and a parameter beside it."""

    def __init__(self, modalities, hidden_width, width, layers, attention_heads, patch, repeats,
                 drop_hidden, drop_history, hidden_per_frame):
        super().__init__()
        latent = sum(m.latent for m in modalities.values())
        self.head = FlowHead(latent, 4, hidden_width, width, layers, attention_heads)
        self.scale = torch.nn.Parameter(torch.ones(3))


class HeadsOfAnotherKind(torch.nn.Module):
    def __init__(self, modalities, **options):
        super().__init__()
        self.out = torch.nn.Linear(2, 3)


@pytest.mark.parametrize("kind, says", [(JointHeads, "joint head "),
                                        (HeadsOfAnotherKind, "holds no heads.FlowHead")])
def test_other_heads_are_described(kind, says):
    config = train.parse_config(["--config", "tiny", f"--heads={__name__}:{kind.__name__}"])
    table = describe(config)
    with torch.device("meta"):
        total = count(train.build("talker", config))
    assert says in table and sum(parameters(table)) == total
