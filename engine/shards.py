"""Encoded clips on disk, in shards: files of 500 clips each, for data.LatentSet.

A set is a folder. A shard is one file, named by the numbers of the clips that it was made of, as in
00000500-00001000.pt. It is whole or absent, and never changes, so that several processes can write
a set together, and a killed run goes on at the next shard. meta.json is written last: without it
the set counts as unfinished.

A shard is a dict, which torch.load maps into memory:

    frames (n,) int64           of its clips
    starts (n + 1,) int64       rows of clip i in each sequence: starts[i] to starts[i + 1]
    text (bytes,) uint8, text_starts (n + 1,) int64     the texts, UTF-8, one after the other
    sequences                   name -> (frames of all, d)
    vectors                     name -> (n, G)
    skipped                     of each clip that could not be used: its name, and why
"""
import itertools
from pathlib import Path
from typing import Callable, Generator, Iterable

import numpy as np
import torch

from engine.checkpoints import replacing
from engine.media import BrokenClip, read_json, write_json
from engine.processes import barrier, from_rank_0, rank, world
from engine.workers import name_skipped

# ------------------------------------------------------------------------------------- writing
SHARD = 500                     # clips
FORMAT = 2                      # of meta.json; 1 had one file for each array


def shard_ranges(n: int) -> list[range]:
    """The numbers of the clips of each shard, for a set of n clips."""
    return [range(first, min(first + SHARD, n)) for first in range(0, n, SHARD)]


def whole_shards(n: int) -> int:
    """n, rounded up to whole shards."""
    return -(-n // SHARD) * SHARD


def shard_path(folder: Path, numbers: range) -> Path:
    return folder / f"{numbers.start:08d}-{numbers.stop:08d}.pt"


def checked(item: dict) -> dict[str, np.ndarray]:
    """The arrays of an item by name, float32 or float16. ValueError if its sequences are not of one
    length, or hold what is not a finite number."""
    arrays = {}
    for name in sorted(item.keys() - {"name", "text"}):
        array = np.asarray(item[name])
        arrays[name] = array if array.dtype == np.float16 else array.astype(np.float32)
    lengths = {name: len(array) for name, array in arrays.items() if array.ndim == 2}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{item['name']}: its sequences should be of one length; they have "
                         f"{lengths} frames")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            wider = "; --latent_dtype=float32 holds larger ones" * (array.dtype == np.float16)
            raise ValueError(f"{item['name']}: {name} should have finite numbers alone{wider}")
    return arrays


def starts(lengths: list[int]) -> torch.Tensor:
    """(n,) lengths -> (n + 1,) int64: where each begins, and where the last one ends."""
    return torch.cumsum(torch.tensor([0, *lengths]), 0)


def pack(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts -> their UTF-8 bytes, one after the other, and where each begins, (n + 1,)."""
    content = [text.encode() for text in texts]
    joined = np.frombuffer(b"".join(content), np.uint8).copy()
    return torch.from_numpy(joined), starts([len(text) for text in content])


def unpack(content: torch.Tensor, text_starts: torch.Tensor, index: int) -> str:
    """One of the texts that were packed."""
    start, end = text_starts[index:index + 2].tolist()
    return content[start:end].numpy().tobytes().decode()


def write_shard(folder: Path, numbers: range, results: Iterable[dict | BrokenClip]) -> None:
    """Write one shard.

    Args:
        results: for each of the numbers, in order: an item, see data.LatentSet.write, or the
            BrokenClip that says why there is none."""
    clips = []
    texts = []
    frames = []
    skipped = []
    for result in results:
        if isinstance(result, BrokenClip):
            skipped.append(str(result))
            continue
        clips.append(checked(result))
        texts.append(result["text"])
        frames.append(next(len(array) for array in clips[-1].values() if array.ndim == 2))

    sequences = {}
    vectors = {}
    for name in clips[0] if clips else ():
        arrays = [clip[name] for clip in clips]
        if arrays[0].ndim == 2:
            sequences[name] = torch.from_numpy(np.concatenate(arrays))        # (frames, d)
        else:
            vectors[name] = torch.from_numpy(np.stack(arrays))                # (n, G)
    text, text_starts = pack(texts)
    shard = dict(
        frames=torch.tensor(frames, dtype=torch.int64), starts=starts(frames), text=text,
        text_starts=text_starts, sequences=sequences, vectors=vectors, skipped=skipped)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(shard_path(folder, numbers)) as file:
        torch.save(shard, file)


def finish(folder: Path, n: int) -> list[str]:
    """Write meta.json of a set of n clips whose shards are all there -> what the shards have
    skipped."""
    names = [shard_path(folder, numbers).name for numbers in shard_ranges(n)]
    skipped = []
    widths = {}
    for name in names:
        shard = open_shard(folder / name)
        skipped += shard["skipped"]
        arrays = shard["sequences"] | shard["vectors"]
        found = {name: array.shape[1] for name, array in arrays.items()}
        if found and found != (widths or found):
            raise ValueError(f"{folder / name} has other arrays ({found}) than the shards before "
                             f"it ({widths}): delete {folder} to encode the clips anew")
        widths = found or widths
    if widths:
        write_json(folder / "meta.json", dict(format=FORMAT, n=n, shards=names, widths=widths))
    return skipped


def begin(folder: Path, made_of: dict) -> None:
    """Let a folder hold shards of nothing else, and say what they are made of."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "made_of.json"
    if path.exists() and read_json(path) == made_of:
        return
    (folder / "meta.json").unlink(missing_ok=True)
    for shard in folder.glob("*-*.pt"):
        shard.unlink()
    write_json(path, made_of)


def make_set(folder: Path, n: int, made_of: dict,
             encode: Callable[[list[int]], Generator]) -> None:
    """Make a set of the first n clips of a source. All processes of a run call this together, and
    share the shards; one that is there already is not made again. ValueError if no clip can be
    used.

    Args:
        made_of: what tells these clips and their encoders from others, in JSON; rank 0's counts.
            Shards that were made of something else are deleted.
        encode: numbers of clips -> for each an item or a BrokenClip, see `write_shard`."""
    # Rank 0 says what is missing: on a shared folder, others may see it later.
    missing = []
    if rank() == 0:
        begin(folder, made_of)
        missing = [x for x in shard_ranges(n) if not shard_path(folder, x).exists()]
    mine = from_rank_0(missing)[rank()::world()]
    results = encode([number for numbers in mine for number in numbers])
    for numbers in mine:
        write_shard(folder, numbers, itertools.islice(results, len(numbers)))
    # Whoever is ready first waits, without worker processes.
    results.close()
    barrier()
    if rank() == 0:
        name_skipped(finish(folder, n), n, folder.name)
    barrier()


def write_set(folder: Path, results: Iterable[dict | BrokenClip]) -> None:
    """Write a whole set, shard by shard as its clips come. ValueError if there are none."""
    # Without meta.json the set counts as unfinished.
    (folder / "meta.json").unlink(missing_ok=True)
    results = iter(results)
    n = 0
    while some := list(itertools.islice(results, SHARD)):
        write_shard(folder, range(n, n + len(some)), some)
        n += len(some)
    if len(finish(folder, n)) == n:
        raise ValueError(f"{folder}: there are no latents to write")


# ------------------------------------------------------------------------------------- reading
def open_shard(path: Path) -> dict:
    """A shard, mapped into memory. ValueError for a file that is none."""
    try:
        return torch.load(path, mmap=True, weights_only=True)
    except Exception as error:                    # whatever a damaged file leads to
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} is no shard of latents ({reason}). Without it and the meta.json "
                         f"beside it, `python train.py --out_dir {path.parent.parent} ...` makes "
                         "it again") from None


def read_meta(folder: Path) -> dict:
    """meta.json of a set. ValueError if the set is not finished, or of another format."""
    path = folder / "meta.json"
    if not path.is_file():
        raise ValueError(
            f"{folder}: no finished set of latents here; `python train.py` makes one")
    meta = read_json(path)
    if meta.get("format") != FORMAT:
        raise ValueError(f"{folder} was written by an older version of nanoTalker: delete it, and "
                         f"`python train.py --out_dir {folder.parent} ...` encodes the clips again")
    return meta


def size_of_set(folder: Path) -> int:
    """The number of clips that a set was made of, also of those that were skipped; 0 if it is not
    finished."""
    return read_meta(folder)["n"] if (folder / "meta.json").exists() else 0


def open_shards(folder: Path) -> list[dict]:
    """The shards of a set that hold clips. ValueError as `read_meta`."""
    shards = [open_shard(folder / name) for name in read_meta(folder)["shards"]]
    return [shard for shard in shards if len(shard["frames"])]
