"""What the texts of a training run are made of, and how to say a text that is unlike them.

A model knows nothing of a mark that it never saw: "bin blue at f two now!" comes out as other
words than without the mark, if no text of the training had one. So such marks are dropped, digits
are spelled out, and words that training never had are named.
"""
import re
from dataclasses import dataclass
from typing import Iterable

from english.text import MARKS, read, small, spell_out, write_phones

FEW = 200           # words; a model of phones that knows fewer can't say others
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
BRACES = re.compile(r"\{[^{}]*\}")
SIMPLE = re.compile(r"[a-z', -]*")          # nothing in it has to be spelled out
# The signs of a plain text that can become a mark between phones.
SIGNS = {",": ",;:()[]-\u2212", ".": ".!", "?": "?"}


def words_in(text: str) -> list[str]:
    """The words of a text in small letters, with numbers and signs spelled out and without phones
    in braces."""
    bare = small(BRACES.sub(" ", text)).rstrip(".!? ")
    if not SIMPLE.fullmatch(bare):
        bare = spell_out(bare)
    return WORD.findall(bare)


@dataclass(frozen=True)
class Seen:
    """What the texts of a training run are made of.

    Args:
        tokens: phones or characters, what the model reads.
        words: in small letters.
        marks: of english.text.MARKS for phones, and else all characters that are no letters.
    """

    tokens: str
    words: frozenset[str]
    marks: frozenset[str]

    @classmethod
    def collect(cls, texts: Iterable[str], tokens: str) -> "Seen":
        """The texts of a training -> what they are made of. Each can be read (english.text.read)
        if tokens is phones."""
        words = set()
        marks = set()
        for text in texts:
            simple = small(text)
            if tokens == "phones":
                words.update(words_in(text))
                # To read a text takes long, so only those are read that may have a further mark.
                missing = "".join(SIGNS[mark] for mark in SIGNS if mark not in marks)
                if any(sign in simple for sign in missing):
                    marks.update(read(text).symbols)
            else:
                words.update(WORD.findall(simple))
                marks.update(simple)

        if tokens == "phones":
            # Between words of phones there is a space, whatever else there is.
            marks = {" "}.union(marks.intersection(MARKS))
        else:
            marks = {mark for mark in marks if not mark.isalpha()}
        return cls(tokens, frozenset(words), frozenset(marks))

    @classmethod
    def load(cls, content: dict) -> "Seen":
        """What `content` gave, read from JSON."""
        return cls(content["tokens"], frozenset(content["words"]), frozenset(content["marks"]))

    def content(self) -> dict:
        """All of it, as a value that JSON can write."""
        return dict(tokens=self.tokens, words=sorted(self.words), marks=sorted(self.marks))

    def adapt(self, text: str) -> tuple[str, list[str]]:
        """A text -> the text as this model can say it, and its words that training never had.

        A text of the training stays as it is, but for what encoding drops in any case. Where a
        model of phones knows at least FEW words none is named, since it reads any. Raises
        ValueError as `read` does, for phones.
        """
        if self.tokens == "phones":
            words = words_in(text) if len(self.words) < FEW else []
            text = self._adapt_phones(text)
        else:
            text = self._adapt_characters(text)
            words = WORD.findall(text)
        # Each word once, in the order of the text.
        return text, [word for word in dict.fromkeys(words) if word not in self.words]

    def _adapt_phones(self, text: str) -> str:
        symbols = read(text).symbols
        if self.marks.issuperset(set(symbols).intersection(MARKS)):
            return text
        # In place of an unknown mark stands the next weaker one that is known; a space always is.
        # At the end of a text neither a space nor a comma is read.
        return write_phones([self._weaker(symbol) for symbol in symbols])

    def _weaker(self, symbol: str) -> str:
        if symbol not in MARKS or symbol in self.marks:
            return symbol
        weaker = [mark for mark in MARKS[:MARKS.index(symbol)] if mark in self.marks]
        return weaker[-1]

    def _adapt_characters(self, text: str) -> str:
        spelled = spell_out(small(text), self.marks)
        # Without an apostrophe the letters around it stay one word, as in "dont". Any other mark
        # parts words.
        if "'" not in self.marks:
            spelled = spelled.replace("'", "")
        known = "".join(c if c.isalpha() or c in self.marks else " " for c in spelled)
        # Where nothing is left the text stays, so that encoding it tells what is wrong.
        return " ".join(known.split()) or text


def never_seen(words: list[str]) -> str:
    """The line that names words which training never had, ten of them at most."""
    named = ", ".join(f"'{word}'" for word in words[:10])
    more = f" and {len(words) - 10} more" if len(words) > 10 else ""
    return f"never seen in training: {named}{more}; expect nonsense"
