"""The released WhisperX-VAE and LIA-X in place of trained autoencoders (`train.py --frozen=DIR`,
docs/paper.md). The files stay where they are; the checkpoints of a run, audio.pt and motion.pt, say
which files they were."""
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from engine.checkpoints import finished, save_checkpoint
from paper.weights import build_audio, build_motion, read_weights

# The files of each frozen part, anywhere below a folder.
FILES = {"audio": ("*.ckpt",), "motion": ("lia-x*.pt", "motion_mean.npy", "motion_std.npy")}


def files_of(stage: str, folder: Path) -> list[Path]:
    """The files of a frozen part. FileNotFoundError says which one is missing."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; it held the released files")
    found = []
    for pattern in FILES[stage]:
        paths = sorted(folder.rglob(pattern))
        if not paths:
            where = "in the folder lia_x of the released code" if pattern.endswith(".npy") else (
                "among the files that the authors published")
            raise FileNotFoundError(f"{folder} holds no {pattern}; it is {where}")
        found += paths
    return found


def build_part(stage: str, folder: Path) -> torch.nn.Module:
    """The released WhisperX-VAE (audio) or LIA-X with the statistics of its motion (motion)."""
    files = files_of(stage, folder)
    if stage == "audio":
        about = next(iter(sorted(folder.rglob("config.json"))), None)
        about = json.loads(about.read_text()) if about else {}
        return build_audio(read_weights(folder, FILES["audio"][0]), about.get("whisper_n_head"))
    model = build_motion(read_weights(folder, FILES["motion"][0]))
    for path in files:
        if path.name == "motion_mean.npy":
            model.standardize.mean.copy_(torch.from_numpy(np.load(path)))
        if path.name == "motion_std.npy":
            model.standardize.deviation.copy_(torch.from_numpy(np.load(path)).clamp(min=1e-6))
    return model


def adopt_parts(config) -> None:
    """Let a run use the released autoencoders in config.frozen: <stage>.pt says where they are, and
    what is in their files. ValueError where the run's settings are those of others."""
    out = Path(config.out_dir)
    folder = Path(config.frozen)
    missing = [stage for stage in FILES if not finished(out, stage)]
    # Both are looked at before anything is written.
    for stage in missing:
        model = build_part(stage, folder)
        found = {"audio_latent": model.from_latent.in_features,
                 "sample_rate": model.sample_rate} if stage == "audio" else {
            "motion_size": len(model.standardize.mean), "size": model.size}
        other = [f"--{name}={value}" for name, value in found.items()
                 if getattr(config, name) != value]
        if other:
            raise ValueError(f"what is in {folder} needs {' '.join(other)}")
    for stage in missing:
        files = {str(path.relative_to(folder)): [path.stat().st_size, digest_of(path)]
                 for path in files_of(stage, folder)}
        released = dict(folder=str(folder), files=files)
        save_checkpoint(out, stage, dict(model={}, released=released, done=True))


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2 ** 20):
            found.update(block)
    return found.hexdigest()


def load_part(stage: str, released: dict) -> torch.nn.Module:
    """A frozen part, from what `adopt_parts` has written. ValueError if its files have changed."""
    folder = Path(released["folder"])
    for name, (size, _) in released["files"].items():
        path = folder / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; this run was made with it (--frozen)")
        if path.stat().st_size != size:
            raise ValueError(f"{path} is not the file that this run was made with: it has "
                             f"{path.stat().st_size} bytes, and had {size}")
    return build_part(stage, folder)
