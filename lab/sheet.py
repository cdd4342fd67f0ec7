"""A contact sheet: every row shows one clip, at evenly spaced moments.

    python -m lab.sheet a.mp4 b.mp4 ... --out sheet.png [--columns 16] [--size 64]

Axis letters: T frames, S side of the pictures.
"""
import argparse
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from engine.media import read_video


def contact_sheet(paths: list[Path], columns: int, size: int) -> np.ndarray:
    """Clips -> (rows * size, columns * size, 3) uint8. Clips that are shorter than the longest end
    early, in white."""
    videos = [read_video(path, size) for path in paths]                       # (T, S, S, 3) each
    longest = max(len(video) for video in videos)
    moments = np.linspace(0, longest - 1, columns).astype(int)
    blank = np.full((size, size, 3), 255, np.uint8)
    rows = []
    for video in videos:
        pictures = [video[t] if t < len(video) else blank for t in moments]
        rows.append(np.concatenate(pictures, 1))                              # (S, columns S, 3)
    return np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.sheet", description="Frames of clips, one row per clip.")
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    try:
        sheet = contact_sheet(options.clips, options.columns, options.size)
        imageio.imwrite(options.out, sheet)
    except ValueError as error:
        parser.error(str(error))
    print(f"{len(options.clips)} clips are in {options.out}")


if __name__ == "__main__":
    main()
