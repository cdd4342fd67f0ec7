"""What the latents of a million clips cost a training run, beside its computing:

    python -m lab.million --n 1000000 10000

writes latents of so many clips of 2 to 30 s at the paper's widths, in float16. They are zeros, and
their files sparse: they take little of the disk. Two processes at the same time, as two ranks of a
run, open them, draw batches, and collate them. It prints, of the slower or larger of both:

    open        seconds until data.LatentSet is there
    order       seconds until data.BatchOrder has given its first batch, and, on resume, the next
    batches     a second, of 64 clips each. Texts become ids byte by byte; a tokenizer costs more
    memory      MB of the process: its own, and shared, which is what was read of the mapped files.
                Before the set was opened, and after the last batch

Axis letters: T frames.
"""
import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import engine.machine  # noqa: F401       before torch
import numpy as np
from tqdm import tqdm

import data
import train
from engine import shards
from engine.processes import plainly
from model import FPS

BATCH = 64
BLOCK = 4096                            # bytes; a block of zeros is not written
LETTERS = 15                            # of a text, per second


# ------------------------------------------------------------------------------------- writing
def silent_clips(config: train.Config, numbers: range):
    """An item of a LatentSet for each of the numbers: zeros, and a text of as many letters as are
    said in that time."""
    rng = np.random.default_rng(numbers.start)
    table = train.modality_table(config)
    for number in numbers:
        frames = int(rng.integers(2 * FPS, 30 * FPS + 1))
        item = dict(name=str(number), text="a" * (frames * LETTERS // FPS))
        for name, modality in table.items():
            item[name] = np.zeros((frames, modality.latent), np.float16)      # (T, d)
            item[f"{name}_condition"] = np.zeros(modality.condition, np.float16)
        yield item


def copy_sparsely(source: Path, path: Path) -> None:
    """Copy a file without its blocks of zeros, which a file system then need not store."""
    content = np.fromfile(source, np.uint8)
    size = len(content)
    blocks = np.pad(content, (0, -size % BLOCK)).reshape(-1, BLOCK)
    with open(path, "wb") as file:
        for number in np.flatnonzero(blocks.any(1)):
            file.seek(number * BLOCK)
            file.write(blocks[number])
        file.truncate(size)


def write_latents(config: train.Config, n: int, folder: Path) -> None:
    folder.mkdir(parents=True)
    for numbers in tqdm(shards.shard_ranges(n), desc="shards"):
        shards.write_shard(folder / "dense", numbers, silent_clips(config, numbers))
        dense = shards.shard_path(folder / "dense", numbers)
        copy_sparsely(dense, shards.shard_path(folder, numbers))
        dense.unlink()
    shards.finish(folder, n)


# ------------------------------------------------------------------------------------- reading
def memory() -> tuple[float, float]:
    """MB of this process that are its own, and that are of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":") for line in lines)
    return tuple(int(found[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))


def load(folder: Path, batches: int, patch: int) -> dict[str, float]:
    """Open a set as a run does, and draw batches of it."""
    own, shared = memory()
    start = time.perf_counter()
    latents = data.LatentSet(folder, lambda text: list(text.encode()))
    found = {"open": time.perf_counter() - start}

    start = time.perf_counter()
    order = data.BatchOrder(latents.frames, BATCH)
    next(order)
    found["order"] = time.perf_counter() - start
    start = time.perf_counter()
    again = data.BatchOrder(latents.frames, BATCH)
    again.load_state_dict(order.state_dict())
    expected = next(order)
    if next(again) != expected:
        raise RuntimeError("the order of batches did not resume exactly")
    found["order, on resume"] = time.perf_counter() - start

    start = time.perf_counter()
    for _ in range(batches):
        data.collate([latents[i] for i in next(order)], patch)
    found["batches"] = batches / (time.perf_counter() - start)
    found |= {"own, before": own, "shared, before": shared}
    found["own, after"], found["shared, after"] = memory()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.million", description="What the latents of many clips cost a run.")
    parser.add_argument("--n", nargs="+", type=int, default=[10_000], help="clips")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--folder", type=Path,
                        help="where there is space for a hundredth of 60 GB (default: that of "
                             "temporary files)")
    options = parser.parse_args()
    config = train.parse_config(["--config=paper"])
    spawn = multiprocessing.get_context("spawn")
    for n in options.n:
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            folder = Path(temporary, "latents")
            write_latents(config, n, folder)
            files = list(folder.iterdir())
            size = sum(path.stat().st_size for path in files) / 1e9
            taken = sum(path.stat().st_blocks * 512 for path in files) / 1e9
            with spawn.Pool(2) as pool:
                both = pool.starmap(load, 2 * [(folder, options.batches, config.patch)])
        print(f"\n{n:,} clips, {len(files) - 1:,} shards, {size:.1f} GB ({taken:.2f} on the disk)")
        for name in both[0]:
            worst = min if name == "batches" else max
            print(f"  {name:18} {worst(row[name] for row in both):10.2f}")


if __name__ == "__main__":
    plainly(main)
