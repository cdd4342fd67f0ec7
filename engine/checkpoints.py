"""The checkpoints of a run: <run's folder>/<stage>.pt.

A checkpoint is a dict. Its "model" is a state_dict, "done" tells whether the stage is finished, and
the rest (engine/training.py) is what training needs to resume.
"""
import os
from pathlib import Path

import torch


def save_checkpoint(out: Path, stage: str, state: dict) -> None:
    """Write <out>/<stage>.pt. Atomic: a run that is killed while it writes keeps the old one."""
    torch.save(state, out / f"{stage}.tmp")
    os.replace(out / f"{stage}.tmp", out / f"{stage}.pt")


def load_checkpoint(out: Path, stage: str) -> dict:
    """Load <out>/<stage>.pt onto the CPU. Only tensors and plain values are loaded, so that a
    checkpoint never runs code."""
    path = Path(out) / f"{stage}.pt"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there; `python train.py --out_dir {out} ...` trains it")
    return torch.load(path, map_location="cpu", weights_only=True)


def finished(out: Path, stage: str) -> bool:
    """Whether a stage has a checkpoint, and that is its last one."""
    return (out / f"{stage}.pt").exists() and load_checkpoint(out, stage)["done"]
