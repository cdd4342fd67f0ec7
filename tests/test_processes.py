"""Two processes on the CPU (torchrun, gloo) compute what one does with the same global batch, and a
process that is killed ends the run (engine/processes.py).

As a script, by torchrun or alone, this file trains a tiny talker on random latents in the folder it
is given:  python -m tests.test_processes FOLDER [--field=value ...]
"""
import functools
import json
import os
import signal
import sys
from pathlib import Path

import pytest

import engine.machine  # noqa: F401       before torch
import numpy as np
import torch

import data
import train
from engine.checkpoints import load_checkpoint
from engine.processes import join_processes, plainly, rank, world
from tests.helpers import in_processes

SIZES = ["--config=tiny", "--data=none", "--talker_steps=6", "--speech_only=0.3"]


# ---------------------------------------------------------------------------------- the script
def main(out: str, *options: str) -> None:
    config = train.parse_config([*SIZES, f"--out_dir={out}", *options])
    device = torch.device("cpu")
    join_processes(device)
    torch.set_num_threads(1)
    if os.environ.get("VICTIM") == str(rank()):
        die_at_batch(3)
    train.train_talker(config, device, torch.float32)


def die_at_batch(position: int) -> None:
    """Let this process kill itself when it draws that batch. Batches are prepared a step ahead, so
    number 3 is drawn in the third step."""
    draw = data.BatchOrder.__next__

    def draw_or_die(order):
        if order.count + order.position == position:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(order)

    data.BatchOrder.__next__ = draw_or_die


# --------------------------------------------------------------------------------- what tests share
def random_latents(out: Path) -> Path:
    """Write latents of 16 clips of 20 to 35 frames into the folder of a run."""
    config = train.parse_config(SIZES)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).numpy()

    items = [dict(name=str(i), text="bin blue at f two now",
                  audio=draw(20 + i, config.audio_latent), motion=draw(20 + i, config.motion_size),
                  motion_condition=draw(config.motion_size),
                  spoken=np.linspace(0, 15, 20 + i)[:, None],
                  audio_condition=draw(config.voice_size)) for i in range(16)]
    data.LatentSet.write(out / "latents", items)
    return out


run = functools.partial(in_processes, "tests.test_processes")


def curve(out: Path) -> torch.Tensor:
    """What the log says of each step: loss, norm of the gradient, losses of both heads."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    names = ("loss", "gradient", "audio", "motion", "alignment")
    return torch.tensor([[line[name] for name in names] for line in lines])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process, each batch in two pieces."""
    out = random_latents(tmp_path_factory.mktemp("alone"))
    done = run(out, "--accumulate=2", "--muon_rate=0")
    assert done.returncode == 0, done.stderr
    return out


def compare(one: Path, two: Path, close: float) -> None:
    """Logs (of five digits) and weights of both runs differ by less than `close`."""
    assert len(curve(two)) == 6
    assert (curve(one) - curve(two)).abs().max() < close
    first, second = (load_checkpoint(out, "talker")["model"] for out in (one, two))
    assert first.keys() == second.keys()
    for name in first:
        assert (first[name] - second[name]).abs().max() < close, name


# ----------------------------------------------------------------------------------------- tests
def test_two_processes_are_one(tmp_path):
    """With DDP and Muon, of which each process computes half. At these widths it has matrices."""
    wide = ["--accumulate=2", "--width=96", "--mlp_width=96", "--flow_width=64"]
    for name, processes in (("one", 1), ("two", 2)):
        done = run(random_latents(tmp_path / name), *wide, processes=processes)
        assert done.returncode == 0, done.stderr
    compare(tmp_path / "one", tmp_path / "two", 1e-3)
    assert len(load_checkpoint(tmp_path / "two", "talker")["optimizers"][1]["state"]) > 20


def test_sharded_processes_are_one(alone, tmp_path):
    done = run(random_latents(tmp_path), "--fsdp=1", "--muon_rate=0", processes=2)
    assert done.returncode == 0, done.stderr
    compare(alone, tmp_path, 1e-4)


def test_killed_process_ends_the_run_and_one_process_resumes_it(alone, tmp_path):
    done = run(random_latents(tmp_path), "--fsdp=1", "--muon_rate=0", "--save_every=0",
               processes=2, VICTIM="1")
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    assert load_checkpoint(tmp_path, "talker")["step"] == 2
    done = run(tmp_path, "--accumulate=2", "--muon_rate=0")
    assert done.returncode == 0, done.stderr
    assert (curve(alone)[2:] - curve(tmp_path)[-4:]).abs().max() < 1e-4


if __name__ == "__main__":
    plainly(main, *sys.argv[1:])
    assert world() == 1                       # a process of a group has ended by now
