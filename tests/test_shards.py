"""Latents in shards (engine/shards.py): whole or absent, made by several processes, mapped into
memory.

As a script, by torchrun or alone, this file encodes the clips of a run whose autoencoders are
trained, in shards of four, and trains its talker:  python -m tests.test_shards FOLDER [options ...]
"""
import functools
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

import engine.machine  # noqa: F401       before torch
import numpy as np
import torch

import data
import train
from engine import shards
from engine.checkpoints import load_checkpoint
from engine.media import BrokenClip, read_audio
from engine.processes import join_processes, plainly, rank, world
from tests.helpers import check_clip, command, error, in_processes

OPTIONS = ["--config=tiny", "--clips=22", "--accumulate=3", "--muon_rate=0", "--speaker_batch=3",
           "--audio_batch=3", "--motion_batch=3", "--talker_batch=6", "--short_first=0"]


# ---------------------------------------------------------------------------------- the script
def main(out: str, *options: str) -> None:
    config = train.parse_config([*OPTIONS, f"--out_dir={out}", *options])
    shards.SHARD = 4
    device = torch.device("cpu")
    join_processes(device)
    torch.set_num_threads(1)
    if os.environ.get("VICTIM") == str(rank()):
        die_after_a_shard()
    train.encode_latents(config, train.corpus(config))
    train.train_talker(config, device, torch.float32)


def die_after_a_shard() -> None:
    """Let this process kill itself when it has written one shard."""
    write = shards.write_shard

    def write_and_die(*arguments):
        write(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    shards.write_shard = write_and_die


run = functools.partial(in_processes, "tests.test_shards")


def written(folder: Path) -> dict[str, int]:
    """The files of a folder, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run."""
    out = tmp_path_factory.mktemp("trained") / "run"
    command("train.py", *OPTIONS, "--out_dir", out)
    return out


def frozen_parts_of(trained: Path, out: Path) -> Path:
    """A run whose autoencoders are trained, and no more."""
    ignored = shutil.ignore_patterns("latents", "talker*", "*.mp4", "log*")
    return shutil.copytree(trained, out, ignore=ignored)


# ----------------------------------------------------------------------------------------- tests
def test_processes_share_the_shards_and_continue_each_other(trained, tmp_path):
    """Two processes encode, one is killed; three go on, and train sharded. The latents are bit for
    bit those of one process, and so is the talker but for rounding."""
    one, many = (frozen_parts_of(trained, tmp_path / name) for name in ("one", "many"))
    done = run(one)
    assert done.returncode == 0, done.stderr

    done = run(many, processes=2, VICTIM="1")
    assert done.returncode != 0 and "SIGKILL" in done.stderr
    before = written(many / "latents")
    assert "00000004-00000008.pt" in before and len(before) < 7 and "meta.json" not in before

    done = run(many, "--fsdp=1", processes=3)
    assert done.returncode == 0, done.stderr
    after = written(many / "latents")
    assert len(after) == 8 and all(after[name] == time for name, time in before.items())
    for name in after:
        assert (one / "latents" / name).read_bytes() == (many / "latents" / name).read_bytes()
    first, second = (load_checkpoint(out, "talker") for out in (one, many))
    assert first["done"] and second["done"]
    for name, weight in first["model"].items():
        assert (weight - second["model"][name]).abs().max() < 1e-4, name

    waves = []
    for out in (one, many):
        command("sample.py", "--ckpt", out, "--text", "bin blue", "--speaker", "1", "--out",
                out / "a.mp4")
        check_clip(out / "a.mp4")
        waves.append(read_audio(out / "a.mp4", 16000))
    assert len(waves[0]) == len(waves[1])
    assert np.abs(waves[0] - waves[1]).max() < 0.05 * np.abs(waves[0]).max()


def test_a_process_with_a_gpu_encodes_as_workers_do(trained):
    """Its way, taken on the CPU, with clips that are not in the store, where sound has 16 bits."""
    config = train.run_config(trained)
    source = train.corpus(config)
    frozen = train.load_frozen(trained, torch.device("cpu"))
    latents = data.LatentSet(trained / "latents")
    for i, made in zip((20, 21), train.encoded_here(frozen, source, "test", [20, 21], 2)):
        assert made["text"] == latents.text(i)
        for name, expected in latents[i].items():
            if name != "text":
                assert error(torch.from_numpy(made[name]), expected) < 1e-4, name


def item(number: int) -> dict:
    frames = 10 + number
    return dict(
        name=str(number), text=f"naïve {number}", audio=np.full((frames, 3), number),
        motion=np.arange(frames, dtype=np.float16)[:, None] / 8, audio_condition=np.full(4, number))


def test_shards_read_as_one_set(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 3)
    items = [item(i) for i in range(8)]
    results = [BrokenClip("b.mp4", "it is broken"), *items]
    data.LatentSet.write(tmp_path, results)
    latents = data.LatentSet(tmp_path, lambda text: [len(text)])
    assert len(latents.shards) == 3
    assert latents.frames.tolist() == list(range(10, 18))
    assert [latents.text(i) for i in range(8)] == [made["text"] for made in items]
    for i, made in enumerate(items):
        found = latents[i]
        for name in ("audio", "motion", "audio_condition"):
            assert found[name].dtype == torch.float32
            assert np.array_equal(found[name], made[name].astype(np.float32))
    assert latents.shards[1]["sequences"]["motion"].dtype == torch.float16
    assert latents.shards[1]["sequences"]["audio"].dtype == torch.float32
    assert latents.vectors("audio_condition")[:, 0].tolist() == list(range(8))
    # A batch that is written to leaves the file as it was.
    latents[2]["audio"].zero_()
    assert (latents[2]["audio"] == 2).all()
    for index in (-1, 8):
        with pytest.raises(IndexError, match="there is no clip"):
            latents[index]
    assert shards.finish(tmp_path, 9) == ["b.mp4: it is broken"]


def test_a_shard_without_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 2)
    broken = [BrokenClip(f"{i}.mp4", "it is broken") for i in range(2)]
    data.LatentSet.write(tmp_path / "a", [*broken, item(2), item(3)])
    assert data.LatentSet(tmp_path / "a").frames.tolist() == [12, 13]
    with pytest.raises(ValueError, match="no latents to write"):
        data.LatentSet.write(tmp_path / "b", broken)
    assert not (tmp_path / "b" / "meta.json").exists()


def test_what_is_no_set(tmp_path):
    data.LatentSet.write(tmp_path, [item(0)])
    meta = json.loads((tmp_path / "meta.json").read_text())
    path = tmp_path / meta["shards"][0]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{path.name} is no shard of latents"):
        data.LatentSet(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps({"texts": [], "widths": {}}))
    with pytest.raises(ValueError, match="older version"):
        data.LatentSet(tmp_path)


def test_shards_of_other_clips_or_encoders_are_not_mixed_in(tmp_path, monkeypatch):
    """Neither a list that has changed, nor a clip that was broken, nor another autoencoder."""
    monkeypatch.setattr(shards, "SHARD", 2)
    made = []

    def encode(value: int, broken=()):
        def results(numbers):
            for number in numbers:
                made.append(number)
                yield BrokenClip("b", "it is broken") if number in broken else item(value + number)
        return results

    with pytest.raises(ValueError, match="none of the 4 clips can be used"):
        shards.make_set(tmp_path, 4, dict(clips="a"), encode(0, range(4)))
    (tmp_path / "00000000-00000002.pt").unlink()
    shards.make_set(tmp_path, 4, dict(clips="a"), encode(5))
    assert data.LatentSet(tmp_path).frames.tolist() == [15, 16]
    assert made == [0, 1, 2, 3, 0, 1]
    shards.make_set(tmp_path, 4, dict(clips="b"), encode(7))
    assert data.LatentSet(tmp_path).frames.tolist() == [17, 18, 19, 20]

    # Should a shard of another kind be there nevertheless, it is named.
    other = item(0) | {"gesture": np.zeros((10, 2))}
    shards.write_shard(tmp_path, range(2, 4), [other, other])
    with pytest.raises(ValueError, match="00000002-00000004.pt has other arrays"):
        shards.finish(tmp_path, 4)


@pytest.mark.parametrize("name, array, words", [
    ("audio", np.full((10, 3), np.nan), "audio should have finite numbers alone$"),
    ("motion", np.full((10, 1), np.inf, np.float16), "motion should .*; --latent_dtype=float32"),
    ("motion", np.zeros((9, 1)), "of one length; they have {'audio': 10, 'motion': 9} frames")])
def test_items_that_are_none(tmp_path, name, array, words):
    with pytest.raises(ValueError, match=words):
        data.LatentSet.write(tmp_path, [item(0) | {name: array}])


def test_the_talker_begins_with_some_and_goes_on_with_more(trained, tmp_path):
    """--encode_first: the shards that are there stay, and a new epoch of all clips begins."""
    out = frozen_parts_of(trained, tmp_path / "run")
    done = run(out, "--encode_first=10", "--talker_steps=2")
    assert done.returncode == 0, done.stderr
    assert shards.size_of_set(out / "latents") == 12          # three shards of four
    state = load_checkpoint(out, "talker")
    assert state["order"]["clips"] == 12 and state["step"] == 2
    before = written(out / "latents")

    # The same before the end of a longer run.
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"talker_steps": 4}))
    torch.save(state | {"done": False}, out / "talker.pt")
    done = run(out, "--talker_steps=4")
    assert done.returncode == 0, done.stderr
    assert shards.size_of_set(out / "latents") == 22
    changed = before.items() - written(out / "latents").items()
    assert changed == {("meta.json", before["meta.json"])}
    order = load_checkpoint(out, "talker")["order"]
    assert (order["clips"], order["epoch"], order["position"]) == (22, 1, 2)
    longest = data.LatentSet(out / "latents").frames.max() // 4
    assert load_checkpoint(out, "talker")["model"]["longest_seen"] == longest


if __name__ == "__main__":
    plainly(main, *sys.argv[1:])
    assert world() == 1                       # a process of a group has ended by now
