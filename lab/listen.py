"""What is understood of the clips? Folders of clips in, one table of errors out:

    python -m lab.listen --truth T [--roundtrip R] --generated G0 G1 [--reader reader.pt]
                         [--choices 20 200] [--general]

The folders are those of lab/metrics.py: NAME.mp4 with NAME.txt, the same names in all. Two
listeners judge, and neither has heard an autoencoder or a Talker:

of 20, new     percent of words that pocketsphinx takes for another one, where each word of the
               sentence is one of 20 of the lexicon, the other 19 at random; of words that are
               held out of the training split
of 20, known   the same, of words that training has
phones         edit distance between the phones of the text and what lab/reader.py reads, per 100
               phones of the text
skipped        words of which nothing is read, per 1000 words; mumbled: less than half of whose
               phones are read; repeated: words after which three phones or more are read that the
               text does not have
complete       percent of the sentences in which no word is skipped or repeated
general        percent of words wrong (edit distance) by pocketsphinx with its own English language
               model, told nothing. For sentences that are English (english/everyday.txt)
"""
import argparse
import functools
import re
import sys
from pathlib import Path

import engine.machine  # noqa: F401       before torch
import numpy as np

from engine.workers import parallel
from english.sentences import vocabulary
from english.text import PHONES, lexicon, read
from lab.metrics import SAMPLE_RATE, hear, load, mean_of, shared_names, table
from lab.reader import load_reader, spoken_phones


# ----------------------------------------------------------------------------------- edit distance
def align(truth: list, found: list) -> list[tuple]:
    """The cheapest way from one list to the other: pairs (item of truth, item of found), None
    where an item was deleted or inserted."""
    rows, columns = len(truth) + 1, len(found) + 1
    cost = np.zeros((rows, columns), int)
    cost[:, 0] = np.arange(rows)
    cost[0] = np.arange(columns)
    for i in range(1, rows):
        for j in range(1, columns):
            different = truth[i - 1] != found[j - 1]
            cost[i, j] = min(cost[i - 1, j - 1] + different, cost[i - 1, j] + 1,
                             cost[i, j - 1] + 1)
    # Back from the end, by the step that explains the cost.
    pairs = []
    i, j = rows - 1, columns - 1
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (truth[i - 1] != found[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((truth[i], found[j]))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            pairs.append((truth[i], None))
        else:
            j -= 1
            pairs.append((None, found[j]))
    return pairs[::-1]


def errors(pairs: list[tuple]) -> int:
    return sum(true != found for true, found in pairs)


# ------------------------------------------------------------------------------------ pocketsphinx
def words_of(text: str) -> list[str]:
    """The words of a text as the lexicon spells them; letters too."""
    return re.findall(r"[a-z']+", text.lower())


def hear_words(decoder, audio: np.ndarray) -> list[str]:
    """The words that a decoder finds in a waveform (n,), without its marks of silence and of the
    second pronunciation of a word."""
    noise = 5e-4 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE // 10)
    found = hear(decoder, np.concatenate((noise, audio)))
    return [re.sub(r"\(\d+\)$", "", word) for word in found if word[0] not in "<["]


@functools.lru_cache
def empty_decoder() -> tuple:
    """A decoder without words, the set of those that it was given since, and the number of each
    word of the lexicon."""
    from pocketsphinx import Decoder
    numbers = {name: number for number, name in enumerate(lexicon())}
    return Decoder(lm=None, dict=None, loglevel="FATAL"), set(), numbers


def choose(jobs: list[tuple[str, np.ndarray]], index: int, choices: int) -> list[bool]:
    """One of (text, audio) ... -> per word of the text whether it is taken for another one of as
    many choices."""
    decoder, known, numbers = empty_decoder()
    text, audio = jobs[index]
    names = list(numbers)
    # Each word stands among others, by a draw that the text decides.
    rng = np.random.default_rng([len(text), *text.encode()])
    slots = []
    truth = []
    for name, phones in zip(words_of(text), pronounced(text)):
        others = [names[i] for i in rng.choice(len(names), choices + 20, replace=False)]
        others = [other for other in others if lexicon()[other] != phones][:choices - 1]
        slots.append([(f"w{numbers[other]}", lexicon()[other]) for other in others])
        truth.append("x" + "_".join(phones).lower())
        slots[-1].append((truth[-1], phones))
    for word, phones in {pair for slot in slots for pair in slot} - known:
        decoder.add_word(word, " ".join(phones), False)
        known.add((word, phones))

    rules = " ".join("(" + " | ".join(word for word, _ in slot) + ")" for slot in slots)
    decoder.add_jsgf_string(
        f"s{index}", f"#JSGF V1.0; grammar s{index}; public <s{index}> = {rules};")
    decoder.activate_search(f"s{index}")
    heard = hear_words(decoder, audio)
    return [len(heard) != len(truth) or heard[i] != word for i, word in enumerate(truth)]


def pronounced(text: str) -> list[tuple[str, ...]]:
    """The phones of each word of a text, as its front end reads it."""
    words = [[]]
    for symbol in read(text).symbols:
        if symbol in PHONES:
            words[-1].append(symbol)
        else:
            words.append([])
    return [tuple(word) for word in words if word]


@functools.lru_cache
def english_decoder():
    from pocketsphinx import Decoder
    return Decoder(loglevel="FATAL")


def general(jobs: list[tuple[str, np.ndarray]], index: int) -> tuple[int, int]:
    """One of (text, audio) ... -> its word errors and words, by the recogniser's own language
    model."""
    text, audio = jobs[index]
    heard = hear_words(english_decoder(), audio)
    return errors(align(words_of(text), heard)), len(words_of(text))


# ------------------------------------------------------------------------------------------ table
def forced_choice(texts: list[str], audios: list[np.ndarray], choices: int) -> dict[str, float]:
    """Percent of words that are taken for another one, held out of training and not."""
    held_out = set(vocabulary()["test"]) | set(vocabulary()["dev"])
    jobs = list(zip(texts, audios))
    ask = functools.partial(choose, choices=choices)
    wrong = parallel(ask, jobs, range(len(jobs)), 2, f"one of {choices}")
    new = []
    old = []
    for text, row in zip(texts, wrong):
        for word, mistaken in zip(words_of(text), row):
            (new if word in held_out else old).append(mistaken)
    columns = {f"of {choices}, new": new, f"of {choices}, known": old}
    return {name: 100 * float(np.mean(row)) for name, row in columns.items() if row}


def read_phones(reader, texts: list[str], audios: list[np.ndarray]) -> dict[str, float]:
    """Phone errors, and words by how they fail."""
    total = wrong = words = complete = 0
    failed = dict(skipped=0, mumbled=0, repeated=0)
    for text, audio in zip(texts, audios):
        # Each phone carries the number of its word along; only the phones are compared.
        spoken = [[1 + PHONES.index(phone) for phone in word] for word in pronounced(text)]
        owner = [number for number, word in enumerate(spoken) for _ in word]
        pairs = align(spoken_phones(text), reader.phones(audio))
        right = np.zeros(len(spoken), int)
        deleted = np.zeros(len(spoken), int)
        inserted = np.zeros(len(spoken) + 1, int)
        at = 0
        for true, found in pairs:
            if true is None:
                inserted[owner[at - 1] if at else 0] += 1
                continue
            right[owner[at]] += true == found
            deleted[owner[at]] += found is None
            at += 1
        sizes = np.array([len(word) for word in spoken])
        skipped = (right == 0) & (deleted > sizes / 2)
        failed["skipped"] += int(skipped.sum())
        failed["mumbled"] += int((~skipped & (right < sizes / 2)).sum())
        repeated = inserted >= 3
        failed["repeated"] += int(repeated.sum())
        complete += not (skipped.any() or repeated.any())
        wrong += errors(pairs)
        total += len(owner)
        words += len(spoken)
    per_thousand = {name: 1000 * count / words for name, count in failed.items()}
    return {"phones": 100 * wrong / total} | per_thousand | {
        "complete": 100 * complete / len(texts)}


def compare(truth, generated, roundtrip=None, reader=None, choices=(), everyday=False) -> dict:
    """Measure folders -> row -> column -> number; see the top of this file."""
    folders = {"truth": truth}
    if roundtrip:
        folders["round trip"] = roundtrip
    seeds = {f"generated {number}": folder for number, folder in enumerate(generated)}
    names, notes = shared_names(folders | seeds)
    for note in notes:
        print("note:", note[:400], file=sys.stderr)
    texts = [clip.text for clip in load(truth, names)[0].values()]
    rows = {}
    for row, folder in (folders | seeds).items():
        clips, broken = load(folder, names)
        if broken:
            raise ValueError(f"{folder}: {broken[0]}")
        audios = [clip.audio for clip in clips.values()]
        rows[row] = {}
        for number in choices:
            rows[row] |= forced_choice(texts, audios, number)
        if reader:
            rows[row] |= read_phones(reader, texts, audios)
        if everyday:
            jobs = list(zip(texts, audios))
            counts = np.array(list(parallel(general, jobs, range(len(jobs)), 2, "general")))
            rows[row]["general"] = 100 * counts[:, 0].sum() / counts[:, 1].sum()
    if seeds:
        rows["generated, mean"] = mean_of([rows[row] for row in seeds])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.listen", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", required=True, metavar="T", help="true clips")
    parser.add_argument("--roundtrip", metavar="R", help="the truth through the autoencoders")
    parser.add_argument("--generated", nargs="+", default=(), metavar="G",
                        help="generated clips, one folder per sampling seed")
    parser.add_argument("--reader", type=Path, help="the file that lab.reader wrote")
    parser.add_argument("--choices", type=int, nargs="+", default=(), help="such as 20 200")
    parser.add_argument("--general", action="store_true",
                        help="pocketsphinx with its own language model")
    options = parser.parse_args()
    try:
        import pocketsphinx  # noqa: F401       for the message; the workers use it
    except ImportError:
        parser.error("pocketsphinx is needed: pip install pocketsphinx")
    reader = load_reader(options.reader) if options.reader else None
    try:
        rows = compare(options.truth, options.generated, options.roundtrip, reader,
                       options.choices, options.general)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(table(rows))


if __name__ == "__main__":
    main()
