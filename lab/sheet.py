"""A contact sheet: every row shows one clip, at evenly spaced moments.

    python -m lab.sheet a.mp4 b.mp4 ... --out sheet.png [--columns 16] [--size 64]

And `write_grid`, the sample.mp4 at the end of a training run.
"""
import argparse
import itertools
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

import data
import train
from sample import Job, Models, usable


def sheet(paths: list, columns: int, size: int) -> np.ndarray:
    """Clips -> (rows * size, columns * size, 3) uint8; clips shorter than the longest end early, in white."""
    videos = [data.read_video(path, size) for path in paths]
    moments = np.linspace(0, max(map(len, videos)) - 1, columns).astype(int)
    blank = np.full((size, size, 3), 255, np.uint8)
    return np.concatenate([np.concatenate([v[t] if t < len(v) else blank for t in moments], 1) for v in videos])


def write_grid(folder: Path, path: Path, n=6) -> None:
    """n test sentences by unseen talkers, generated at the left and true at the right of each pair; one speaks at a time."""
    models = Models(folder)
    c = models.config
    sources = (train.corpus(c, split, n, data.SyntheticCorpus.UNSEEN) for split in ("test", "dev", "train"))
    truths = next(found for source in sources if (found := list(itertools.islice(usable(source, needed=False), n))))
    if c.data:                            # a real clip speaks with the voice and face of the next one
        references = [models.clip_reference(t) for t in truths[1:] + truths[:1]]
    else:
        references = [models.talker_reference(t.talker) for t in truths]
    clips, _ = models.generate([Job(t.text, who, i) for i, (t, who) in enumerate(zip(truths, references))])
    cells = [cell for t, made in zip(truths, clips) for cell in (made, (t.video, t.audio))]
    still = np.stack([video[0] for video, _ in cells])                                   # (2 n, S, S, 3)
    columns, frames, sound = (4 if len(truths) % 2 == 0 else 2), [], []
    for i, (video, audio) in enumerate(cells):
        for picture in video:
            now = still.copy()
            now[i] = picture
            now[i][[0, -1]] = now[i][:, [0, -1]] = 255                                   # a white frame round the one that speaks
            frames.append(now.reshape(-1, columns, c.size, c.size, 3).swapaxes(1, 2).reshape(-1, columns * c.size, 3))
        sound.append(audio)
    data.write_clip(path, np.stack(frames), np.concatenate(sound), c.sample_rate, side=max(256, 3 * 4 * c.size))


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
