"""The motion autoencoder's round trip on pixels, before any video codec:  python -m lab.ceiling --ckpt out/small

lab/metrics.py compares mp4s, which flatters: both sides lose the same to the codec. Here the truth is the corpus itself.
PSNR in dB at the model's own size: mean over frames of the frame's PSNR, over all frames but each clip's first, which is given;
whole picture, and (synthetic clips) the mouth box, rows 38 to 55 and columns 18 to 45 of 64. And whether the face moves: how much of the
squared change since the first frame is there, in the twentieth of the picture that changes most (a mouth that stands still: 0 %).
Test split, seen and unseen talkers; for a model of real clips, its test clips.
"""
import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import data
import train
from autoencoders import as_input, as_pictures
from lab.metrics import psnr
from sample import usable


def movement(made: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Two videos (T, S, S, 3) -> squared error, and the truth's squared change since its first frame, where it changes most."""
    made, truth = made.astype(np.float32), truth.astype(np.float32)
    change = ((truth - truth[0]) ** 2).mean((0, 3))                                      # (S, S)
    busy = change >= np.quantile(change, .95)
    return ((made - truth) ** 2)[:, busy].sum(), ((truth - truth[0]) ** 2)[:, busy].sum()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="PSNR of the motion round trip")
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--n", type=int, default=100, help="clips of each kind")
    a = parser.parse_args()
    motion = train.load_model(a.ckpt, "motion")
    config = train.run_config(a.ckpt)
    kinds = {"test clips": None} if config.data else {"seen talkers": None, "unseen talkers": data.SyntheticCorpus.UNSEEN}
    print("| | whole, dB | mouth, dB | movement kept, % |\n|---|--:|--:|--:|")
    for kind, talkers in kinds.items():
        truth, ours = [], []
        clips = itertools.islice(usable(train.corpus(config, "test", a.n, talkers)), a.n)
        for clip in tqdm(clips, desc=kind, leave=False, total=a.n):
            x = as_input(clip.video)
            truth.append(clip.video)
            ours.append(as_pictures(motion.decode(x[:1], motion.encode(x)[None])[0]))
        found = psnr(ours, truth)
        wrong, moved = np.sum([movement(*pair) for pair in zip(ours, truth)], 0)
        mouth = f"{found['mouth']:.1f}" if config.size == 64 and not config.data else ""
        print(f"| {kind}, {len(truth)} clips | {found['PSNR']:.1f} | {mouth} | {100 * (1 - wrong / moved):.0f} |")


if __name__ == "__main__":
    main()
