"""Write synthetic clips to watch, with the ground truth beside each:

    python -m lab.export --out truth --n 100 --split test

NAME.mp4 is the clip, NAME.txt its sentence, NAME.npy the true opening of its mouth, (T,) float32.
texts.tsv has one line per clip: name, speaker and text, separated by tabs.
"""
import argparse
import functools
from pathlib import Path

import numpy as np

import data
from engine.media import parallel, write_clip


def export_clip(folder: Path, corpus: data.SyntheticCorpus, index: int) -> str:
    """Write one clip -> its line of texts.tsv."""
    clip = corpus[index]
    write_clip(folder / f"{clip.name}.mp4", clip.video, clip.audio, corpus.sample_rate)
    (folder / f"{clip.name}.txt").write_text(clip.text + "\n", encoding="utf-8")
    np.save(folder / f"{clip.name}.npy", clip.opening)
    return f"{clip.name}\t{clip.speaker}\t{clip.text}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.export",
        description="Write synthetic clips to watch: video with sound, text, true mouth opening.")
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder to write to")
    parser.add_argument("--n", type=int, default=100, help="how many clips (default 100)")
    parser.add_argument("--split", default="test", choices=data.SPLITS)
    parser.add_argument("--speakers", metavar="A:B",
                        help="speakers A to B - 1; from 256 on they are never trained on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    speakers = None
    if options.speakers:
        try:
            first, last = (int(bound) for bound in options.speakers.split(":"))
        except ValueError:
            parser.error(
                f"--speakers wants two numbers such as 256:288, not {options.speakers!r}")
        speakers = range(first, last)

    try:
        corpus = data.SyntheticCorpus(options.split, options.n, speakers, options.seed)
        options.out.mkdir(parents=True, exist_ok=True)
        export = functools.partial(export_clip, options.out)
        lines = list(parallel(export, corpus, options.n, 2, "writing clips"))
        (options.out / "texts.tsv").write_text("".join(lines), encoding="utf-8")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{options.n} clips are in {options.out}. What a trained model makes of the same texts:\n"
          f"  python sample.py --ckpt out/small --texts {options.out / 'texts.tsv'} "
          f"--out {options.out}_generated")


if __name__ == "__main__":
    main()
