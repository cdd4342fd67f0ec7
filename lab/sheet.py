"""A contact sheet: every row shows one clip, at evenly spaced moments.

    python -m lab.sheet a.mp4 b.mp4 ... --out sheet.png [--columns 16] [--size 64]
"""
import argparse
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

import data


def sheet(paths: list, columns: int, size: int) -> np.ndarray:
    """Clips -> (rows * size, columns * size, 3) uint8; clips shorter than the longest end early, in white."""
    videos = [data.read_video(path, size) for path in paths]
    moments = np.linspace(0, max(map(len, videos)) - 1, columns).astype(int)
    blank = np.full((size, size, 3), 255, np.uint8)
    return np.concatenate([np.concatenate([v[t] if t < len(v) else blank for t in moments], 1) for v in videos])


def main() -> None:
    parser = argparse.ArgumentParser(description="frames of clips, one row a clip")
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    a = parser.parse_args()
    try:
        imageio.imwrite(a.out, sheet(a.clips, a.columns, a.size))
    except ValueError as error:
        parser.error(str(error))
    print(f"{len(a.clips)} clips are in {a.out}")


if __name__ == "__main__":
    main()
