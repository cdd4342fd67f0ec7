"""The motion autoencoder's round trip on pixels, before any video codec:  python -m lab.ceiling --ckpt out/small

lab/metrics.py compares mp4s, which flatters: both sides lose the same to the codec. Here the truth is the corpus itself.
PSNR in dB at the model's own size: mean over frames of the frame's PSNR, over all frames but each clip's first, which is given;
whole picture, and the mouth box (rows 38 to 55, columns 18 to 45 of 64). Test split, seen and unseen talkers; for a model of real
clips, its test clips.
"""
import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import data
import train
from autoencoders import as_pictures, as_input


def psnr(ours: np.ndarray, truth: np.ndarray) -> float:
    """Videos (T, S, S, 3) uint8 -> mean over frames of the PSNR in dB."""
    error = np.square((ours.astype(np.float32) - truth) / 255).mean((1, 2, 3))
    return float(np.mean(-10 * np.log10(np.maximum(error, 1e-9))))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="PSNR of the motion round trip")
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--n", type=int, default=100, help="clips of each kind")
    a = parser.parse_args()
    motion = train.load_model(a.ckpt, "motion")
    config = train.run_config(a.ckpt)
    mouth = tuple(slice(round(b * config.size / 64), round(e * config.size / 64)) for b, e in ((38, 56), (18, 46)))
    kinds = {"test clips": None} if config.data else {"seen talkers": None, "unseen talkers": data.SyntheticCorpus.UNSEEN}
    print("| | whole, dB | mouth, dB |\n|---|--:|--:|")
    for kind, talkers in kinds.items():
        source = train.corpus(config, "test", a.n, talkers)
        found = []
        for i in tqdm(range(min(a.n, len(source))), desc=kind, leave=False):
            clip = data.make_clip(source, i)
            if isinstance(clip, data.BrokenClip):
                continue
            x = as_input(clip.video)
            ours = as_pictures(motion.decode(x[:1], motion.encode(x)[None])[0])
            found.append([psnr(o[1:], t[1:]) for o, t in ((ours, clip.video), (ours[:, mouth[0], mouth[1]], clip.video[:, mouth[0], mouth[1]]))])
        print(f"| {kind}, {len(found)} clips | {np.mean(found, 0)[0]:.1f} | {np.mean(found, 0)[1]:.1f} |")


if __name__ == "__main__":
    main()
