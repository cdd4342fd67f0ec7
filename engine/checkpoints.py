"""The checkpoints of a run: <run's folder>/<stage>.pt.

A checkpoint is a dict. Its "model" is a state_dict, "done" tells whether the stage is finished, and
the rest (engine/training.py) is what training needs to resume. Until its stage is finished, the
checkpoint before it is kept as <stage>.prev.pt, in case that the newest one can't be read.
"""
import contextlib
import errno
import os
import pickle
import re
from pathlib import Path
from typing import BinaryIO, Iterator

import torch

# How a file begins that stands for another one, which was not fetched.
LFS_POINTER = b"version https://git-lfs"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


# ------------------------------------------------------------------------------------- writing
@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """`with replacing(path) as file`: a binary file that is renamed to `path` at the end, when all
    of it is on the disk. If anything goes wrong, path stays what it was and nothing else is left.

    OSError with the path and the reason, such as a full disk."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            yield file
            # A system that goes down may otherwise keep the new name, and lose what is in it.
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        # PyTorch has words of its own for a failed write. The system's error comes before them.
        reason = error
        while reason and not isinstance(reason, OSError):
            reason = reason.__context__
        if reason is None:
            raise
        words = "disk full" if reason.errno in DISK_FULL else reason.strerror or reason
        raise OSError(reason.errno, f"{path} can't be written: {words}") from None
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def named_if_full(path: Path | str) -> Iterator[None]:
    """`with named_if_full(path)`, around what is written there: where the disk is full, an OSError
    says so, and where."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise OSError(error.errno, f"{path} can't be written: disk full") from None


def checkpoint_paths(out: Path | str, stage: str) -> tuple[Path, Path]:
    """The checkpoint of a stage, and where the one before it is kept."""
    return Path(out) / f"{stage}.pt", Path(out) / f"{stage}.prev.pt"


def save_checkpoint(out: Path, stage: str, state: dict) -> None:
    """Write <out>/<stage>.pt. A run that is killed at any moment has this checkpoint or the one
    before it. OSError if the disk is full; the checkpoints that are there then stay."""
    path, previous = checkpoint_paths(out, stage)
    with replacing(path) as file:
        torch.save(state, file)
        # Only an unfinished stage may have to go back. The result of a finished one is all there.
        if not state.get("done") and path.exists():
            keep(path, previous)
    if state.get("done"):
        previous.unlink(missing_ok=True)


def keep(path: Path, previous: Path) -> None:
    """Let `previous` be what `path` is now."""
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:
        # Some file systems have no hard links. `path` is then missing for a moment; `resume_points`
        # finds the other one.
        os.replace(path, previous)


# ------------------------------------------------------------------------------------- reading
def read_checkpoint(path: Path) -> dict:
    """The checkpoint in a file, onto the CPU. Only tensors and plain values are loaded, so that a
    checkpoint never runs code. ValueError for a file that is none."""
    with open(path, "rb") as file:
        head = file.read(len(LFS_POINTER))
    if not head:
        raise ValueError(f"{path} is empty")
    if head == LFS_POINTER:
        raise ValueError(f"{path} is only a pointer of Git LFS (`git lfs pull` fetches the file)")

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # NOTE: PyTorch's own words recommend to run the code that is in it.
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise ValueError(f"{path} holds code ({code[1]}) where a checkpoint has weights only, "
                             "and is not loaded") from None
        raise ValueError(f"{path} is damaged, or no checkpoint") from None
    except Exception as error:
        # Whatever else reading a damaged file leads to.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} is damaged, or no checkpoint ({reason})") from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise ValueError(f"{path} is no checkpoint of a stage: it has no weights named 'model'")
    return state


def load_checkpoint(out: Path, stage: str) -> dict:
    """Load <out>/<stage>.pt. FileNotFoundError if there is none, ValueError if it can't be used."""
    path, _ = checkpoint_paths(out, stage)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there; `python train.py --out_dir {out} ...` trains it")
    try:
        return read_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"{error}: get it anew, or delete it, and `python train.py --out_dir "
                         f"{out} ...` trains this stage again") from None


def load_weights(model: torch.nn.Module, state: dict, path: Path) -> None:
    """Give a model the weights of a checkpoint, which was read from path. ValueError in one line if
    they are not those of such a model."""
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        # Line by line, PyTorch names what is missing, what is too much, and what has another shape.
        reasons = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        advice = ""
        if path.stem == "talker":
            advice = (f". `python train.py --from {path.parent} --out_dir NEW` trains another "
                      "talker on its frozen parts")
        raise ValueError(
            f"{path} does not fit the settings in {path.parent / 'config.json'}, or another "
            f"version of nanoTalker made it ({reasons[0][:200]}{more}){advice}") from None


def finished(out: Path, stage: str) -> bool:
    """Whether a stage has a checkpoint, and that is its last one."""
    path, _ = checkpoint_paths(out, stage)
    return path.exists() and bool(load_checkpoint(out, stage).get("done"))


def resume_points(out: Path, stages: tuple[str, ...]) -> dict[str, int]:
    """Stage -> the step at which its checkpoint stands, 0 if there is none.

    A checkpoint that can't be read is replaced by the one before it, with a line that says so. So
    this comes first in a run, and only in the one that works in the folder. ValueError if there is
    none before it."""
    steps = {}
    for stage in stages:
        path, previous = checkpoint_paths(out, stage)
        if previous.exists() and not path.exists():
            os.replace(previous, path)
        if not path.exists():
            steps[stage] = 0
            continue
        reason = ""
        if previous.exists():
            try:
                read_checkpoint(path)
            except ValueError as error:
                reason = str(error)
                os.replace(previous, path)
        steps[stage] = load_checkpoint(out, stage).get("step", 0)
        if reason:
            print(f"{reason}: back to the checkpoint before it, of step {steps[stage]}")
    return steps
