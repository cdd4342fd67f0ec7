"""What the tests share: small models with random weights, batches for them, the command line."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch

import train
from engine.media import read_audio
from engine.processes import plainly

HOME = Path(__file__).resolve().parent.parent


def randomise(module, gain=0.7):
    """Random weights everywhere, also where training starts from zero: an identity would pass any
    test."""
    for p in module.parameters():
        inputs = p[0].numel() if p.ndim > 1 else 1
        torch.nn.init.normal_(p, std=gain / max(1, inputs) ** 0.5)
    return module.eval()


def tiny_talker(**changes):
    """A Talker of preset `tiny` with random weights, and its Config."""
    changes = [f"--{name}={value}" for name, value in changes.items()]
    config = train.parse_config(["--config", "tiny", *changes])
    return randomise(train.build("talker", config)), config


def random_batch(config, batch=3, patches=5, text=7) -> dict:
    """A batch as Talker.teacher_forced takes it: a text with padding at the left, samples of
    different lengths."""
    P = config.patch
    ids = torch.randint(1, 20, (batch, text))
    ids[1:2, :3] = 0
    frames = torch.full((batch,), patches * P)
    frames[1:2] = (patches - 2) * P
    present = (torch.arange(patches * P)[None] < frames[:, None])[..., None]
    modalities = {name: stream.modality(config) for name, stream in train.MODALITIES.items()}
    return dict(
        text=ids, text_mask=ids > 0,
        latents={n: torch.randn(batch, patches * P, m.latent) * present
                 for n, m in modalities.items()},
        frames=dict.fromkeys(modalities, frames),
        spoken=torch.linspace(0, text, patches * P).expand(batch, -1),
        conditions={n: torch.randn(batch, m.condition) for n, m in modalities.items()})


def record_places(talker) -> list:
    """A list that gets the places (B, L) of every later call of a Talker's backbone."""
    seen = []
    forward = talker.backbone.forward

    def recording(x, valid, cache, places):
        seen.append(places)
        return forward(x, valid, cache, places)

    talker.backbone.forward = recording
    return seen


def generate(talker, batch: dict, patches: int, seed=0, **options) -> dict:
    """What a Talker generates for a batch: name -> (B, T, d). A seed decides the noise, whatever
    the device."""
    generator = torch.Generator().manual_seed(seed)
    device = batch["text"].device

    def noise(shape):
        return torch.randn(shape, generator=generator).to(device)

    steps = talker.generate(batch["text"], batch["text_mask"], batch["conditions"], noise, patches,
                            **dict(stop_hits=patches + 1, steps=3) | options)
    made = {}
    for patch, _ in steps:
        for name, frames in patch.items():
            made.setdefault(name, []).append(frames)
    return {name: torch.cat(frames, 1) for name, frames in made.items()}


def error(ours, theirs) -> float:
    """Largest difference, relative to the scale of theirs."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def command(*arguments, fails=False, cwd=HOME) -> str:
    """Run `python ARGUMENTS` and return all that it prints. It must fail exactly if it should."""
    words = [sys.executable, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd)
    said = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, said
    return said


def said_here(main, monkeypatch, capsys, *arguments) -> tuple[int, str]:
    """Run a `main` with these arguments in this process, since importing PyTorch takes a new one
    seconds -> exit code, and all that it prints."""
    monkeypatch.setattr(sys, "argv", [main.__module__, *map(str, arguments)])
    before = signal.getsignal(signal.SIGTERM)
    code = 0
    try:
        plainly(main)
    except SystemExit as end:
        code = end.code
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr()
    return code, said.out + said.err


def in_processes(module: str, out: Path, *options: str, processes=1, **environment):
    """Run a module of tests/ as a script, `python -m MODULE OUT OPTIONS`, in that many processes of
    one thread each -> subprocess.CompletedProcess."""
    words = [sys.executable, "-m"]
    if processes > 1:
        words += ["torch.distributed.run", f"--nproc_per_node={processes}", "--standalone",
                  "--module"]
    return subprocess.run(
        [*words, module, str(out), *options], cwd=HOME, timeout=300, capture_output=True,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)


def check_clip(path, seconds=None) -> None:
    """A clip has two streams, equally long, neither silent nor black."""
    # One frame at a time: the video of a run that learned nothing is a minute long.
    deviations = [picture.std() for picture in imageio.imiter(path, plugin="FFMPEG")]
    height, width = imageio.improps(path, plugin="FFMPEG").shape[-3:-1]
    audio = read_audio(path, 16000)
    assert abs(len(deviations) / 25 - len(audio) / 16000) < 0.1
    assert min(height, width) >= 256
    assert seconds is None or abs(len(deviations) / 25 - seconds) < 1e-6
    assert np.mean(deviations) > 10 and audio.std() > 1e-4
