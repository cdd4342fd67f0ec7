"""The motion autoencoder's round trip on pixels, before any video codec:  python -m lab.ceiling --ckpt out/small

lab/metrics.py compares mp4s, which flatters: both sides lose the same to the codec. Here the truth is the corpus itself.
PSNR in dB at the model's own size: mean over frames of the frame's PSNR, over all frames but each clip's first, which is given;
whole picture, and (synthetic clips) the mouth box, rows 38 to 55 and columns 18 to 45 of 64. Test split, seen and unseen talkers;
for a model of real clips, its test clips.
"""
import argparse
import itertools
from pathlib import Path

import torch
from tqdm import tqdm

import data
import train
from autoencoders import as_input, as_pictures
from lab.metrics import psnr
from sample import usable


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="PSNR of the motion round trip")
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--n", type=int, default=100, help="clips of each kind")
    a = parser.parse_args()
    motion = train.load_model(a.ckpt, "motion")
    config = train.run_config(a.ckpt)
    kinds = {"test clips": None} if config.data else {"seen talkers": None, "unseen talkers": data.SyntheticCorpus.UNSEEN}
    print("| | whole, dB | mouth, dB |\n|---|--:|--:|")
    for kind, talkers in kinds.items():
        truth, ours = [], []
        clips = itertools.islice(usable(train.corpus(config, "test", a.n, talkers)), a.n)
        for clip in tqdm(clips, desc=kind, leave=False, total=a.n):
            x = as_input(clip.video)
            truth.append(clip.video)
            ours.append(as_pictures(motion.decode(x[:1], motion.encode(x)[None])[0]))
        found = psnr(ours, truth)
        mouth = f"{found['mouth']:.1f}" if config.size == 64 and not config.data else ""
        print(f"| {kind}, {len(truth)} clips | {found['PSNR']:.1f} | {mouth} |")


if __name__ == "__main__":
    main()
