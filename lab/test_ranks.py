"""Two processes on the CPU (torchrun, gloo) compute what one does with the same global batch; a killed one ends the run.

Run as a script, by torchrun or alone, this file trains a tiny talker on random latents in the folder it is given.
"""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import machine     # before torch
import torch

import data
import train
from lab import ranks

HOME = Path(__file__).resolve().parent.parent
SIZES = ["--config=tiny", "--data=none", "--talker_steps=6", "--speech_only=0.3"]


def main(out: str, *options: str) -> None:
    config = train.parse_config([*SIZES, f"--out_dir={out}", *options])
    ranks.join(torch.device("cpu"))
    torch.set_num_threads(1)
    if os.environ.get("VICTIM") == str(ranks.rank()):     # dies at the fourth batch, which is made in the third step
        draw = data.BatchOrder.__next__
        data.BatchOrder.__next__ = lambda self: os.kill(os.getpid(), signal.SIGKILL) if self.position == 3 else draw(self)
    train.train_talker(config, torch.device("cpu"), torch.float32)


def latents(out: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    c, draw = train.parse_config(SIZES), lambda *shape: torch.randn(*shape, generator=generator).numpy()
    data.LatentSet.write(out / "latents", (dict(name=str(i), text="bin blue at f two now", audio=draw(20 + i, c.audio_latent), motion=draw(20 + i, c.motion_size), pose=draw(c.motion_size),
                                                voice=draw(c.voice_size)) for i in range(16)))
    return out


def run(out: Path, *options: str, processes=1, **environment) -> subprocess.CompletedProcess:
    torchrun = [] if processes == 1 else ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    return subprocess.run([sys.executable, *torchrun, "-m" if processes == 1 else "--module", "lab.test_ranks", str(out), *options], cwd=HOME, timeout=200,
                          capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)


def curve(out: Path) -> torch.Tensor:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return torch.tensor([[line["loss"], line["gradient"], line["audio"], line["motion"]] for line in lines])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = latents(tmp_path_factory.mktemp("alone"))
    done = run(out, "--accumulate=2", "--muon_rate=0")
    assert done.returncode == 0, done.stderr
    return out


def compare(one: Path, two: Path, close: float) -> None:
    assert len(curve(two)) == 6 and (curve(one) - curve(two)).abs().max() < close         # the log has five digits
    weights = [train.load_checkpoint(out, "talker")["model"] for out in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert max((a - b).abs().max() for a, b in zip(*(w.values() for w in weights))) < close


def test_two_processes_are_one(tmp_path):
    """With DDP and Muon, of which each process computes half; at these widths it takes 20 matrices."""
    wide = ["--accumulate=2", "--width=96", "--hidden=96", "--head_width=64"]
    for name, processes in (("one", 1), ("two", 2)):
        done = run(latents(tmp_path / name), *wide, processes=processes)
        assert done.returncode == 0, done.stderr
    compare(tmp_path / "one", tmp_path / "two", 1e-3)
    assert len(train.load_checkpoint(tmp_path / "two", "talker")["optimizers"][1]["state"]) > 20


def test_sharded_processes_are_one(alone, tmp_path):
    done = run(latents(tmp_path), "--fsdp=1", "--muon_rate=0", processes=2)
    assert done.returncode == 0, done.stderr
    compare(alone, tmp_path, 1e-4)


def test_killed_process_ends_the_run_and_one_process_resumes_it(alone, tmp_path):
    done = run(latents(tmp_path), "--fsdp=1", "--muon_rate=0", "--save_every=0", processes=2, VICTIM="1")
    assert done.returncode != 0 and "SIGKILL" in done.stderr
    assert train.load_checkpoint(tmp_path, "talker")["step"] == 2
    done = run(tmp_path, "--accumulate=2", "--muon_rate=0")
    assert done.returncode == 0, done.stderr
    assert (curve(alone)[2:] - curve(tmp_path)[-4:]).abs().max() < 1e-4


if __name__ == "__main__":
    train.plainly(main, *sys.argv[1:])
    assert ranks.world() == 1                 # one of a group has ended
