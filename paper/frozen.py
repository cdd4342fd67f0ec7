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
    """The files of a frozen part, one for each pattern. FileNotFoundError says which one is
    missing, ValueError which one there is twice."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    found = []
    for pattern in FILES[stage]:
        # A file that `paper.weights.convert` has made stands for the one that it was made of.
        paths = [path for path in sorted(folder.rglob(pattern))
                 if not path.with_suffix(".weights" + path.suffix).exists()]
        if not paths:
            where = "in the folder lia_x of the released code" if pattern.endswith(".npy") else (
                "among the files that the authors published")
            raise FileNotFoundError(f"{folder} holds no {pattern}; it is {where}")
        if len(paths) > 1:
            raise ValueError(f"{folder} holds more than one {pattern}: "
                             f"{', '.join(str(path.relative_to(folder)) for path in paths)}")
        found += paths
    return found


def build_part(stage: str, folder: Path, files: list[Path] | None = None) -> torch.nn.Module:
    """The released WhisperX-VAE (audio) or LIA-X with the statistics of its motion (motion), from
    the files that `files_of` finds, or from these."""
    files = files or files_of(stage, folder)
    weights, *statistics = files
    if stage == "audio":
        # The talker's config.json knows the number of Whisper's attention heads.
        heads = None
        for path in sorted(folder.rglob("config.json")):
            heads = json.loads(path.read_text()).get("whisper_n_head", heads)
        return build_audio(read_weights(weights.parent, weights.name), heads)
    model = build_motion(read_weights(weights.parent, weights.name))
    mean, deviation = (torch.from_numpy(np.load(path)) for path in statistics)
    model.standardize.mean.copy_(mean)
    model.standardize.deviation.copy_(deviation.clamp(min=1e-6))
    return model


def check_parts(config) -> None:
    """Before anything is written: config.frozen holds released autoencoders of the run's sizes.
    ValueError where it does not."""
    for stage in FILES:
        if finished(Path(config.out_dir), stage):
            continue
        model = build_part(stage, Path(config.frozen))
        found = {"audio_latent": model.from_latent.in_features,
                 "sample_rate": model.sample_rate} if stage == "audio" else {
            "motion_size": len(model.standardize.mean), "size": model.size}
        other = [f"--{name}={value}" for name, value in found.items()
                 if getattr(config, name) != value]
        if other:
            raise ValueError(f"what is in {config.frozen} needs {' '.join(other)}")


def adopt_parts(config) -> None:
    """Let a run use the released autoencoders in config.frozen: <stage>.pt says where they are, and
    what is in their files."""
    out = Path(config.out_dir)
    folder = Path(config.frozen).resolve()
    for stage in FILES:
        if finished(out, stage):
            continue
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
    files = [folder / name for name in released["files"]]
    for path, (size, digest) in zip(files, released["files"].values()):
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; this run was made with it (--frozen)")
        # To read gigabytes takes long. Of such a file the size has to do.
        changed = path.stat().st_size != size or size < 10 ** 8 and digest_of(path) != digest
        if changed:
            raise ValueError(f"{path} is not the file that this run was made with")
    return build_part(stage, folder, files)
