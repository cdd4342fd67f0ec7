"""The motion autoencoder's round trip on pixels, before any video codec:

    python -m lab.ceiling --ckpt out/small

lab/metrics.py compares mp4s, whose figure is too high: both sides lose the same to the codec. Here
the ground truth is the corpus itself.

PSNR in dB at the model's own size: mean over frames of the frame's PSNR, over all frames but each
clip's first, which is given; of the whole picture, and (synthetic clips) of the mouth box, rows 38
to 55 and columns 18 to 45 of 64. And whether the face moves: how much of the squared change since
the first frame is kept, in the twentieth of the picture that changes most (a mouth that stands
still: 0 %). Test split, seen and unseen speakers; for a model of real clips, its test clips.

Axis letters: T frames, S side of the pictures.
"""
import argparse
import itertools
from pathlib import Path

import engine.machine  # noqa: F401       before torch
import numpy as np
import torch
from tqdm import tqdm

import data
import train
from autoencoders import pictures_to_tensor, tensor_to_pictures
from engine.processes import plainly
from lab.metrics import psnr


def movement(made: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Two videos (T, S, S, 3) -> squared error, and the ground truth's squared change since its
    first frame, both summed where the ground truth changes most."""
    made = made.astype(np.float32)
    truth = truth.astype(np.float32)
    change = (truth - truth[0]) ** 2                                          # (T, S, S, 3)
    mean_change = change.mean((0, 3))                                         # (S, S)
    busy = mean_change >= np.quantile(mean_change, 0.95)
    return ((made - truth) ** 2)[:, busy].sum(), change[:, busy].sum()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.ceiling", description="PSNR of the motion round trip.")
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--n", type=int, default=100, help="clips of each kind")
    options = parser.parse_args()
    motion = train.load_model(options.ckpt, "motion")
    config = train.run_config(options.ckpt)

    # Kind of clips -> the numbers of their speakers (None: those of the split).
    kinds = {"seen speakers": None, "unseen speakers": data.SyntheticCorpus.UNSEEN}
    if config.data:
        kinds = {"test clips": None}

    print("| | whole, dB | mouth, dB | movement kept, % |\n|---|--:|--:|--:|")
    for kind, speakers in kinds.items():
        source = data.usable(train.corpus(config, "test", options.n, speakers))
        clips = itertools.islice(source, options.n)

        # Encode and decode every clip, from its own first picture.
        truth = []
        ours = []
        for clip in tqdm(clips, desc=kind, leave=False, total=options.n):
            pictures = pictures_to_tensor(clip.video)                         # (T, 3, S, S)
            latents = motion.encode(pictures)[None]                           # (1, T, K)
            decoded = motion.decode(pictures[:1], latents)[0]                 # (T, 3, S, S)
            truth.append(clip.video)
            ours.append(tensor_to_pictures(decoded))

        found = psnr(ours, truth)
        sums = [movement(made, true) for made, true in zip(ours, truth)]
        wrong, moved = np.sum(sums, 0)
        # The mouth of a real face is at an unknown place; and the box is that of 64 x 64.
        known = config.size == 64 and not config.data
        mouth = f"{found['mouth']:.1f}" if known else ""
        print(f"| {kind}, {len(truth)} clips | {found['PSNR']:.1f} | {mouth} | "
              f"{100 * (1 - wrong / moved):.0f} |")


if __name__ == "__main__":
    plainly(main)
