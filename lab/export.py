"""Write synthetic clips to watch, with the ground truth beside each:

    python -m lab.export --out truth --n 100 --split test
    python -m lab.export --out truth --lines english/everyday.txt

NAME.mp4 is the clip, NAME.txt its sentence, NAME.npy the true opening of its mouth, (T,) float32.
texts.tsv has one line per clip: name, speaker and text, separated by tabs.
"""
import argparse
import functools
import itertools
from pathlib import Path

import numpy as np

import data
from engine.media import write_clip
from engine.workers import parallel


class Lines:
    """The lines of a file as clips of a corpus, whose speakers take turns."""

    def __init__(self, corpus: data.SyntheticCorpus, path: Path):
        self.corpus = corpus
        self.sample_rate = corpus.sample_rate
        self.lines = path.read_text(encoding="utf-8").splitlines()

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> data.Clip:
        speaker = self.corpus.speakers[index % len(self.corpus.speakers)]
        name = f"line_{index:05d}_s{speaker:03d}"
        return self.corpus.say(self.lines[index], speaker, name, seed=index)


class Chosen:
    """The first n clips of a corpus whose sentences have so many words."""

    def __init__(self, corpus: data.SyntheticCorpus, words: range, n: int):
        self.corpus = corpus
        self.sample_rate = corpus.sample_rate
        found = (i for i in range(len(corpus)) if len(corpus.text(i).split()) in words)
        self.numbers = list(itertools.islice(found, n))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> data.Clip:
        return self.corpus[self.numbers[index]]


def export_clip(folder: Path, corpus, index: int) -> str:
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
    parser.add_argument("--sentences", default="open", choices=data.KINDS,
                        help="open: words of the lexicon; grid: GRID's grammar")
    parser.add_argument("--words", metavar="A:B", help="only sentences of A to B - 1 words")
    parser.add_argument("--lines", metavar="FILE", type=Path,
                        help="these sentences, one a line, instead of random ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    def read_range(option: str) -> range | None:
        text = getattr(options, option)
        if not text:
            return None
        try:
            first, last = (int(bound) for bound in text.split(":"))
        except ValueError:
            parser.error(f"--{option} wants two numbers such as 8:13, not {text!r}")
        return range(first, last)

    speakers = read_range("speakers")
    words = read_range("words")
    try:
        # To find sentences of so many words takes many more.
        n = 1000 * options.n if words else options.n
        corpus = data.SyntheticCorpus(options.split, n, speakers, options.seed,
                                      sentences=options.sentences)
        if options.lines:
            corpus = Lines(corpus, options.lines)
            options.n = len(corpus)
        elif words:
            corpus = Chosen(corpus, words, options.n)
            options.n = len(corpus)
        options.out.mkdir(parents=True, exist_ok=True)
        export = functools.partial(export_clip, options.out)
        lines = list(parallel(export, corpus, range(options.n), 2, "writing clips"))
        (options.out / "texts.tsv").write_text("".join(lines), encoding="utf-8")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{options.n} clips are in {options.out}. What a trained model makes of the same texts:\n"
          f"  python sample.py --ckpt out/small --texts {options.out / 'texts.tsv'} "
          f"--out {options.out}_generated")


if __name__ == "__main__":
    main()
