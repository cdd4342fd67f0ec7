"""The sentences of the synthetic corpus: random words of the lexicon, or the grammar of GRID.

A sentence belongs to a split by its words: some 5 % of the lexicon are the words of the test split,
5 % those of dev, and no training sentence has any of them. So test sentences are made of words that
training never had, among words that it had.
"""
import functools
import hashlib

import numpy as np

from english.text import LETTERS, lexicon

# Words that carry grammar more than meaning. English is full of them, and they are not stressed.
FUNCTION_WORDS = """
the to and a of you that in it is for but was have they on like be so with i not just this at are
he my do all she if about as what we or can there has were when who out would up them because some
then from will had an his him by where their could did me which your been these how its her our us
than should into does am those while before after may over until being though every off through
shall any might must each upon during without between against among nor too i'm i'll i've you'll
we'll he's she's it's there's that's don't didn't can't it'll we've you've they've""".split()

# The grammar of the GRID corpus (Cooke et al., 2006), which leaves out the letter w: 64,000
# sentences of six words. The letter is spoken by its name.
GRID = [words.split() for words in (
    "bin lay place set",                                        # command
    "blue green red white",                                     # colour
    "at by in with",                                            # preposition
    "A B C D E F G H I J K L M N O P Q R S T U V X Y Z",        # letter
    "zero one two three four five six seven eight nine",        # digit
    "again now please soon")]                                   # adverb

COMMON = 500            # the most frequent words, and GRID's, are never held out
LONGEST_SENTENCE = 12   # words


def percentile(text: str) -> int:
    """0 to 99, by a hash that is the same in every process."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 100


def split_by_hash(text: str) -> str:
    """5 % test, 5 % dev, the rest train."""
    percent = percentile(text)
    return "test" if percent < 5 else "dev" if percent < 10 else "train"


@functools.cache
def vocabulary() -> dict[str, list[str]]:
    """The words of each split, the most frequent first: those of dev and test are held out."""
    never = {word.lower() for words in GRID for word in words} | set(FUNCTION_WORDS) | set(LETTERS)
    words = dict(train=[], dev=[], test=[])
    for rank, word in enumerate(lexicon()):
        if word in LETTERS:
            continue
        held_out = rank >= COMMON and word not in never
        words[split_by_hash(word) if held_out else "train"].append(word)
    return words


@functools.cache
def flattened(split: str) -> np.ndarray:
    """Cumulative probabilities of the words of a split. Word number r has a share of about one in
    the root of r: frequent words are frequent, and rare ones occur."""
    share = (np.arange(len(vocabulary()[split])) + 30) ** -0.5
    return np.cumsum(share / share.sum())


def draw_word(rng: np.random.Generator, split: str) -> str:
    place = np.searchsorted(flattened(split), rng.random())
    return vocabulary()[split][min(place, len(vocabulary()[split]) - 1)]


def draw_open(rng: np.random.Generator, split: str) -> str:
    """One to twelve random words with commas, a letter now and then, and mostly a mark at the end.

    In dev and test at least one word is held out, and about half of those that are not function
    words."""
    # Short sentences are somewhat more frequent than long ones.
    count = 1 + int(LONGEST_SENTENCE * rng.random() ** 2)
    certain = int(rng.integers(count))                  # this word is held out in any case
    words = []
    for place in range(count):
        # The draws are the same whatever comes of them, so that the code is easy to follow.
        kind, hold_out, mark = rng.random(3)
        function = FUNCTION_WORDS[int(rng.integers(len(FUNCTION_WORDS)))]
        letter = list(LETTERS)[int(rng.integers(len(LETTERS)))].upper()
        if place == certain and split != "train":
            word = draw_word(rng, split)
        elif kind < 0.35:
            word = function
        elif kind < 0.37:
            word = letter
        else:
            word = draw_word(rng, split if hold_out < 0.5 else "train")
        if place < count - 1 and mark < 0.12:
            word += ","
        words.append(word)
    end = ("?", "", ".", ".", ".")[int(rng.integers(5))]
    return " ".join(words) + end


def draw_grid(rng: np.random.Generator, split: str) -> str:
    """A sentence of GRID's grammar. A hash of the sentence itself decides its split."""
    while True:
        text = " ".join(words[rng.integers(len(words))] for words in GRID)
        if split_by_hash(text) == split:
            return text


KINDS = {"open": draw_open, "grid": draw_grid}
