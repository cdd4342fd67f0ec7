"""`python data.py --export DIR`: synthetic clips to watch, with the truth beside each.

NAME.mp4 the clip, NAME.txt its sentence, NAME.npy its true mouth opening (T,), and texts.tsv with a line a clip: name, talker, text.
"""
import argparse
from pathlib import Path

import numpy as np

import data


def export_clip(job, index):
    corpus, folder = job
    clip = corpus[index]
    data.write_clip(folder / f"{clip.name}.mp4", clip.video, clip.audio, corpus.sample_rate)
    (folder / f"{clip.name}.txt").write_text(clip.text + "\n", encoding="utf-8")
    np.save(folder / f"{clip.name}.npy", clip.opening)
    return f"{clip.name}\t{clip.talker}\t{clip.text}\n"


def main():
    parser = argparse.ArgumentParser(description="Write synthetic clips to watch: video with sound, text, true mouth opening.")
    parser.add_argument("--export", metavar="DIR", required=True, type=Path, help="folder to write to")
    parser.add_argument("--n", type=int, default=100, help="how many clips (default 100)")
    parser.add_argument("--split", default="test", choices=data.SPLITS)
    parser.add_argument("--talkers", metavar="A:B", help="talkers A to B - 1; from 256 on they are never trained on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        first, last = (int(bound) for bound in options.talkers.split(":")) if options.talkers else (None, None)
    except ValueError:
        parser.error(f"--talkers wants two numbers such as 256:288, not {options.talkers!r}")
    try:
        corpus = data.SyntheticCorpus(options.split, options.n, range(first, last) if options.talkers else None, options.seed)
        options.export.mkdir(parents=True, exist_ok=True)
        lines = list(data.parallel(export_clip, (corpus, options.export), options.n, 2, "writing clips"))
        (options.export / "texts.tsv").write_text("".join(lines), encoding="utf-8")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{options.n} clips are in {options.export}. What a trained model makes of the same texts:\n"
          f"  python sample.py --ckpt out/small --texts {options.export / 'texts.tsv'} --out {options.export}_generated")
