"""The sample.mp4 at the end of a training run: generated clips beside the ground truth.

    python -m lab.grid --ckpt out/small --out out/small/sample.mp4

train.py starts it as a program of its own, since sample.py imports train.py.

Axis letters: T frames, S side of the pictures, R rows and C columns of the grid.
"""
import argparse
import itertools
from pathlib import Path

from engine.machine import pick_device      # before torch
import numpy as np

import data
import train
from engine.media import generated, run_ffmpeg, write_clip
from engine.processes import plainly
from model import FPS
from sample import Job, Models


# What a person would write. All are spoken in the picture of the README.
SENTENCES = (
    "Hello world, this is nano talker.",
    "One model speaks and moves its face.",
    "Good morning! How are you today?",
    "The last train leaves at half past seven.",
    "I would like a cup of tea, please.",
    "Did you remember to close the window?")


def find_truths(config: train.Config, n: int) -> list[data.Clip]:
    """n clips by unseen speakers: SENTENCES as the corpus says them, or clips of the test split,
    or of the next split that has any."""
    if not config.data and config.sentences == "open":
        source = train.corpus(config)
        speakers = data.SyntheticCorpus.UNSEEN
        return [source.say(SENTENCES[i % len(SENTENCES)], speakers[i % len(speakers)])
                for i in range(n)]
    for split in ("test", "dev", "train"):
        source = train.corpus(config, split, n, data.SyntheticCorpus.UNSEEN)
        found = list(itertools.islice(data.usable(source, needed=False), n))
        if found:
            return found
    raise ValueError(f"{config.data}: no clip of it can be used")


def generate_pairs(models: Models, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """n sentences, generated and true in turns -> (pictures (T, S, S, 3), sound) of each."""
    truths = find_truths(models.config, n)
    if models.config.data:
        # A real clip is generated in the voice and with the face of the next one.
        references = [models.clip_reference(clip) for clip in truths[1:] + truths[:1]]
    else:
        references = [models.speaker_reference(clip.speaker) for clip in truths]
    jobs = [Job(clip.text, reference, seed)
            for seed, (clip, reference) in enumerate(zip(truths, references))]
    outputs, _ = models.generate(jobs)

    cells = []
    for made, clip in zip(outputs, truths):
        cells.append((made["motion"], made["audio"]))
        cells.append((clip.video, clip.audio))
    return cells


def tiled(pictures: np.ndarray) -> np.ndarray:
    """One picture per cell (cells, S, S, 3) -> the whole grid (R S, C S, 3), two pairs a row."""
    size = pictures.shape[1]
    columns = 4 if len(pictures) % 4 == 0 else 2
    rows = pictures.reshape(-1, columns, size, size, 3)                       # (R, C, S, S, 3)
    return rows.swapaxes(1, 2).reshape(-1, columns * size, 3)                 # (R S, C S, 3)


def write_mp4(cells: list, path: Path, sample_rate: int) -> None:
    """An mp4 in which one cell speaks after the other."""
    still = np.stack([video[0] for video, _ in cells])                        # (cells, S, S, 3)
    frames = []
    for i, (video, _) in enumerate(cells):
        # While one speaks, with a white frame around it, the others stand still.
        for picture in video:
            now = still.copy()
            now[i] = picture
            now[i, [0, -1]] = 255
            now[i][:, [0, -1]] = 255
            frames.append(tiled(now))
    sound = np.concatenate([audio for _, audio in cells])
    side = max(256, 2 * min(frames[0].shape[:2]))          # twice as large, or more
    write_clip(path, np.stack(frames), sound, sample_rate, side=side,
               about=f"{generated(0)} and on, each beside its ground truth")


def write_gif(cells: list, path: Path, side=2) -> None:
    """A GIF, for a page that plays no sound: all cells move at the same time. side: enlargement."""
    length = max(len(video) for video, _ in cells)
    frames = [tiled(np.stack([video[min(t, len(video) - 1)] for video, _ in cells]))
              for t in range(length)]
    height, width = frames[0].shape[:2]
    # A GIF has 256 colours: ffmpeg picks them for this video. Each frame lasts 40 ms.
    colours = (f"scale={side * width}:-1:flags=lanczos,split[a][b];[a]palettegen[p];"
               "[b][p]paletteuse=dither=none")
    run_ffmpeg(path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", FPS,
               "-i", "-", "-filter_complex", colours, f"file:{path}",
               data=np.stack(frames).tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.grid", description="Generated sentences beside the ground truth.")
    parser.add_argument("--ckpt", type=Path, required=True, help="the folder of a training run")
    parser.add_argument("--out", type=Path, required=True, help="an .mp4, or a silent .gif")
    parser.add_argument("--n", type=int, default=6, help="sentences")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N")
    options = parser.parse_args()
    models = Models(options.ckpt, pick_device(options.device))
    cells = generate_pairs(models, options.n)
    if options.out.suffix == ".gif":
        write_gif(cells, options.out)
    else:
        write_mp4(cells, options.out, models.config.sample_rate)
    print(f"{options.out}: {len(cells) // 2} sentences, the ground truth at the right of each")


if __name__ == "__main__":
    plainly(main)
