"""The text front end: written English -> phones, with marks between the words.

    "Hello, world?" -> HH AH L OW , W ER L D ?

A word that the lexicon lacks is built from known words (endings, compounds), or else read by the
rules of english/spelling.py. `{HH AH L OW}` gives the phones of a word directly.
"""
import functools
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from english.counting import cardinal, money, numeral, ordinal, year
from english.spelling import derived, guess, joined, plural

PHONES = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW "
    "V W Y Z ZH".split()
)
# A word boundary, a short pause, a long pause and a question's end, from weak to strong.
MARKS = (" ", ",", ".", "?")
# The id of a symbol is its place here, and 0 pads.
SYMBOLS = ("<pad>", *MARKS, *PHONES)
IDS = {symbol: index for index, symbol in enumerate(SYMBOLS)}

LETTERS = {
    "a": "EY", "b": "B IY", "c": "S IY", "d": "D IY", "e": "IY", "f": "EH F", "g": "JH IY",
    "h": "EY CH", "i": "AY", "j": "JH EY", "k": "K EY", "l": "EH L", "m": "EH M", "n": "EH N",
    "o": "OW", "p": "P IY", "q": "K Y UW", "r": "AA R", "s": "EH S", "t": "T IY", "u": "Y UW",
    "v": "V IY", "w": "D AH B AH L Y UW", "x": "EH K S", "y": "W AY", "z": "Z IY",
}


class Reading(NamedTuple):
    """How a text is said: its symbols, and the words whose sounds are only guessed."""

    symbols: list[str]
    guessed: list[str]


@functools.cache
def lexicon() -> dict[str, tuple[str, ...]]:
    """The phones of each known word, the most frequent word first, then the names of the letters.

    "a" is the letter here; inside a sentence `read` says the article "a" as AH.
    """
    words = {}
    lines = Path(__file__).with_name("lexicon.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        word, *phones = line.split()
        words[word] = tuple(phones)
    for letter, name in LETTERS.items():
        words[letter] = tuple(name.split())
    return words


@functools.cache
def ranks() -> dict[str, int]:
    """The place of each known word by frequency."""
    return {word: place for place, word in enumerate(lexicon())}


# ---------------------------------------------------------------------------------------- one word

# What an apostrophe and the letters after it add to a word, besides "'s".
CONTRACTIONS = {
    "n't": "AH N T", "'ll": "AH L", "'ve": "V", "'re": "ER", "'d": "D", "'m": "M",
}

# Abbreviations that are also words, and are spelled out where only they stand in capitals.
SPELLED = ("AI", "ID", "US")


def known(word: str) -> list[str] | None:
    """The phones of a word that the lexicon has, or None."""
    if word in lexicon():
        return list(lexicon()[word])
    return None


def spell(letters: str) -> list[str]:
    """The names of the letters, one after the other; anything but a small letter is passed over."""
    phones = []
    for letter in letters:
        phones += lexicon()[letter] if letter in LETTERS else []
    return phones


def compound(word: str) -> list[str] | None:
    """The phones of two known words of three letters or more written as one, or None."""
    found = []
    for cut in range(3, len(word) - 2):
        halves = (word[:cut], word[cut:])
        if all(half in lexicon() for half in halves):
            found.append((max(ranks()[half] for half in halves), halves))
    if not found:
        return None
    # Of several cuts the one whose rarer half is the most frequent is the likeliest.
    first, second = min(found)[1]
    return joined(known(first), known(second))


def simple(word: str) -> list[str] | None:
    """The phones of a known word, of one with a regular ending or of a compound, or None."""
    # A word with an ending is surer than a compound.
    return known(word) or derived(word, known) or compound(word)


def built(word: str) -> list[str] | None:
    """The phones of a word that is built from known words, with two endings at most, or None."""
    return simple(word) or derived(word, simple)


def pronounce(word: str, shouted: bool, guessed: list[str]) -> list[str]:
    """The phones of one word; a word that only the spelling rules can read joins `guessed`."""
    small = word.lower()
    # Quotation marks around a word look like its apostrophes: they go unless the lexicon has them.
    if small not in lexicon():
        word = word.strip("'")
        small = word.lower()
    if small == "a":
        return ["AH"]
    if word in SPELLED and not shouted:
        return spell(small)
    if small in lexicon():
        return known(small)

    # A contraction or a possessive is its stem and an ending. The stem "a" is the letter.
    for ending in ("'s", *CONTRACTIONS):
        stem = word[: -len(ending)]
        if small.endswith(ending) and stem:
            phones = known("a") if stem in "aA" else pronounce(stem, shouted, guessed)
            return plural(phones) if ending == "'s" else phones + CONTRACTIONS[ending].split()

    # Capitals with a small s are the plural of an abbreviation.
    if re.fullmatch("[A-Z]{2,}s", word):
        return plural(pronounce(word[:-1], False, guessed))
    # A word without vowels is spelled, and so are a few capitals, unless all the text is shouted
    # and they make an English word.
    if not re.search("[aeiouy]", small):
        return spell(small)
    short = word.isupper() and len(word) <= 4
    phones = None if short and not shouted else built(small)
    if phones is None and short:
        return spell(small)
    if phones is None:
        phones = guess(small)
        if small not in guessed:
            guessed.append(small)
    return phones


# ------------------------------------------------------------------------------------------ a text

SHORT = {
    "mr": "mister", "mrs": "mrs", "ms": "ms", "dr": "doctor", "prof": "professor",
    "vs": "versus", "etc": "etc", "e.g": "for example", "i.e": "that is", "no": "number",
}
SIGNS = {"&": "and", "@": "at", "+": "plus", "=": "equals", "%": "percent"}
NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)*|\.\d+"

# The pieces of a text, each by the first line that fits; what no line takes is dropped.
TOKEN = re.compile(
    rf"""
    \{{(?P<phones>[^{{}}]*)\}}
    | (?P<money>[$€£])\s?(?P<amount>{NUMBER})(?:\s(?P<scale>(?:thousand|[mbtr]+illion)\b))?
    | (?P<hour>\b\d{{1,2}}):(?P<minute>[0-5]\d)\b
    | (?P<ordinal>\d[\d,]*)(?:st|nd|rd|th)\b
    | (?<![\w.\#\u2212])(?<!\s-)(?P<year>(?:1[1-9]|20)\d\d)(?!\d|[.,]\d|[%°])(?P<years>'?s\b)?
    | (?P<number>{NUMBER})(?P<numbers>'?s\b)?
    | (?P<minus>(?<=[\s(])-(?=[$€£]?\.?\d)|\u2212(?=\s?[$€£]?\.?\d))
    | \b(?P<short>(?i:mrs?|ms|dr|prof|vs|etc|e\.g|i\.e)(?=\.)|vs\b)\.?
    | \b(?P<title>Mrs?|Ms|Dr|Prof)(?=\s+[A-Z])
    | \b(?P<numero>N[Oo])\.(?=\s?\d)
    | \b(?P<saint>(?i:st)\.|St(?=\s+[A-Z]))
    | \b(?P<dotted>(?:[A-Za-z]\.){{2,}}(?:[A-Za-z]\b)?)
    | (?P<word>'?[A-Za-z]+(?:'[A-Za-z]+)*'?)
    | (?P<sign>[&@+=%\#°])
    | (?P<mark>[.!?,;:()\[\]]+|--+|(?<=\s)[-\u2212](?=\s))
    """,
    re.VERBOSE | re.ASCII,
)

# Typographic characters and their plain forms; then the letters that Unicode does not take apart
# into a plain one and an accent. The minus sign U+2212 stays: it is surer than a hyphen.
PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2035\u02b9\u02bb\u02bc\u02bd\u00b4`\u275b\u275c",
                  "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb\u2039\u203a\u275d\u275e"
                    "\u300c\u300d\u300e\u300f\u301d\u301e\u301f", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2043", "-")
    | dict.fromkeys("\u2013\u2014\u2015\u2e3a\u2e3b", "--")
    | {
        "æ": "ae", "œ": "oe", "ø": "o", "ß": "ss", "ł": "l", "đ": "d", "ð": "d", "þ": "th",
        "ħ": "h", "ŧ": "t", "ŋ": "n", "ĸ": "k", "ı": "i", "ȷ": "j", "ə": "e", "ƒ": "f",
        "Æ": "AE", "Œ": "OE", "Ø": "O", "ẞ": "SS", "Ł": "L", "Đ": "D", "Ð": "D", "Þ": "TH",
        "Ħ": "H", "Ŧ": "T", "Ŋ": "N", "Ə": "E", "Ƒ": "F",
    }
)
# For models of characters a dash of any length is a hyphen.
DASHES = str.maketrans(dict.fromkeys("\u2013\u2014\u2015\u2212", "-"))


def visible(text: str) -> str:
    """The text without what has no shape of its own: soft hyphens, zero-width marks, byte-order
    marks, marks of the direction of writing."""
    return "".join(letter for letter in text if unicodedata.category(letter) != "Cf")


def plain(text: str) -> str:
    """The text in plain letters without accents, on one line, with a space at both ends."""
    # Typography goes first: of an acute accent that stands for an apostrophe NFKD makes a space and
    # an accent. It goes once more afterwards, since the plain letter of ǿ is ø.
    letters = unicodedata.normalize("NFKD", visible(text).translate(PLAIN)).translate(PLAIN)
    bare = "".join(letter for letter in letters
                   if unicodedata.category(letter) not in ("Mn", "Me"))
    return " " + " ".join(bare.split()) + " "


def small(text: str) -> str:
    """The text as models of characters read it: plain, in small letters, dashes as hyphens."""
    return plain(text.translate(DASHES)).casefold().strip()


def given_phones(text: str) -> list[str]:
    """The phones written inside braces, without their stress digits.

    Raises ValueError where there are none and where one of them is not a phone.
    """
    phones = [phone.rstrip("012") for phone in text.upper().split()]
    if not phones:
        raise ValueError("a pair of braces has no phones in it")
    for phone in phones:
        if phone not in PHONES:
            raise ValueError(f"{phone!r} is not a phone; the phones are {' '.join(PHONES)}")
    return phones


def is_letter(match: re.Match) -> bool:
    """Whether a word of one character is said by its name: "a" is mostly the article."""
    before, after = match.string[: match.start()], match.string[match.end() :]
    if len(match[0]) > 1 or match[0] not in "aA":
        return len(match[0]) == 1
    # A lonely "a", one joined to a digit or a letter, one beside another single letter, and a
    # capital within a sentence.
    return bool(
        not re.search(r"\w", before + after)
        or re.search(r"(?:\d|\w[-&+/])$", before)
        or re.match(r"\d|[-&+/]\w", after)
        or re.search(r"(?<![\w'])[b-hj-z][ ,]+$", before, re.IGNORECASE)
        or re.match(r"[ ,]+[b-hj-z](?![\w'-])", after, re.IGNORECASE)
        or (match[0] == "A" and re.match(r" I(?![\w'-])", after))
        or (match[0] == "A" and re.search(r" [a-z][a-z']* $", before))
    )


def words_of(match: re.Match) -> list[str]:
    """The words that a piece of the text stands for, where it is not a plain word."""
    if match["money"]:
        return money(match["money"], match["amount"], match["scale"])
    if match["hour"]:
        minute = int(match["minute"])
        words = ["oh"] * (0 < minute < 10) + (cardinal(minute) if minute else ["o'clock"])
        return cardinal(int(match["hour"])) + words
    if match["ordinal"]:
        return ordinal(numeral(match["ordinal"]))
    if match["year"] or match["number"]:
        words = year(int(match["year"])) if match["year"] else numeral(match["number"])
        # The nineties and the thousands.
        if match["years"] or match["numbers"]:
            words[-1] = re.sub("y$", "ie", words[-1]) + "s"
        return words
    if match["saint"]:
        return ["saint" if re.match(r"\s+[A-Z]", match.string[match.end() :]) else "street"]
    if match["minus"]:
        return ["minus"]
    if match["sign"] == "#":
        return ["number" if match.string[match.end()].isdigit() else "hash"]
    if match["sign"] == "°":
        one = re.search(r"\b1\s?$", match.string[: match.start()])
        return ["degree" if one else "degrees"]
    if match["sign"]:
        return [SIGNS[match["sign"]]]
    return SHORT[(match["short"] or match["title"] or match["numero"]).lower()].split()


def spell_out(text: str, keep=()) -> str:
    """A text with its numbers, signs and abbreviations as words: "f2 & 3rd" -> "f two and third".

    keep: characters that may stay. What consists of these and of letters stays as it is.
    """
    def as_words(match: re.Match) -> str:
        stays = all(c.isalpha() or c.isspace() or c in keep for c in match[0])
        if stays or match.lastgroup in ("mark", "word", "dotted", "phones"):
            return match[0]
        # Words stand apart from what is around them, but for punctuation.
        before, after = match.string[match.start() - 1], match.string[match.end()]
        spaces = [" " * (near not in " .,;:!?()[]\"'") for near in (before, after)]
        return spaces[0] + " ".join(words_of(match)) + spaces[1]

    return " ".join(TOKEN.sub(as_words, plain(text)).split())


def strongest(signs: str) -> str:
    """The mark that a run of punctuation signs stands for."""
    if "?" in signs:
        return "?"
    if "." in signs or "!" in signs:
        return "."
    return ","


def spoken(text: str) -> Reading:
    """The reading of a text, which may have no symbols; see `read`."""
    if re.search("[{}]", re.sub(r"\{[^{}]*\}", "", text)):
        raise ValueError(f"the text {text[:40]!r} has a brace without its other half")
    text = plain(text)
    shouted = text.isupper() and " " in text.strip()
    symbols, guessed, pause = [], [], " "
    for match in TOKEN.finditer(text):
        # A mark waits for the next word; of several the strongest stays.
        mark = ""
        words = []
        if match["mark"]:
            mark = strongest(match["mark"])
        elif match["phones"] is not None:
            words = [given_phones(match["phones"])]
        elif match["dotted"]:
            words = [spell(match["dotted"].lower())]
        elif match["word"] and is_letter(match):
            words = [known(match["word"].lower())]
        elif match["word"]:
            words = [pronounce(match["word"], shouted, guessed)]
        else:
            words = [pronounce(word, shouted, guessed) for word in words_of(match)]
        for phones in words:
            symbols += ([pause] if symbols else []) + phones
            pause = " "
        # The dot of an abbreviation that ends the text is a full stop as well.
        if words and match[0].endswith(".") and not re.search(r"\w", text[match.end() :]):
            mark = "."
        if mark:
            pause = max(pause, mark, key=MARKS.index)
    if symbols and pause in ".?":
        symbols.append(pause)
    return Reading(symbols, guessed)


def read(text: str) -> Reading:
    """A text as phones with marks between the words, and the words that were guessed.

    Phones may be written in braces, as in "say {HH AH L OW}". Raises ValueError for a brace
    without its other half, for an unknown phone in braces and for a text with nothing to say.
    """
    reading = spoken(text)
    if not reading.symbols:
        raise ValueError(
            f"the text {text[:40]!r} has nothing to say: it needs a Latin letter, a digit or phones"
        )
    return reading


def encode_phones(text: str) -> list[int]:
    """The ids of the symbols of a text. Raises ValueError as `read` does."""
    return [IDS[symbol] for symbol in read(text).symbols]


def write_phones(symbols: list[str]) -> str:
    """Phones and marks -> a text with the words in braces, which `read` gives back."""
    text = ""
    word = []
    for symbol in [*symbols, ""]:
        if symbol in PHONES:
            word.append(symbol)
            continue
        if word:
            text += "{" + " ".join(word) + "}"
            word = []
        # After a comma and its like a new word begins, too.
        text += symbol + " " * (symbol not in (" ", ""))
    return text.strip()


# ------------------------------------------------------------------------------------- a paragraph

# A unit is never cut: a word with its punctuation, or phones in braces.
UNIT = re.compile(r"(?:\{[^{}]*\}|[^\s{}])+")
END = re.compile(r"[.!?\u2026][\"')\]\u2018\u2019\u201c\u201d\u00ab\u00bb\u2039\u203a]*$")
PAUSE = re.compile(r"(?:[,;:)\u2013-\u2015]|--|^[-\u2212])\W*$")
ABBREVIATED = re.compile(
    r"\W*(?:mrs?|ms|dr|prof|st|vs|etc|e\.g|i\.e|(?:[a-z]\.)+[a-z])\.\W*$", re.IGNORECASE
)
CONJUNCTIONS = ("and", "but", "or", "because", "which", "that", "while")


def ends_sentence(unit: str, following: str) -> bool:
    """Whether a sentence ends between two units."""
    if not END.search(unit) or ABBREVIATED.match(unit):
        return False
    # "No. 5" is a number. After dots or a closing quotation mark a small letter goes on with the
    # sentence: "Wait... what?"
    start = following.lstrip("\"'([\u2018\u201a\u201c\u201e\u00ab\u00bb\u2039\u203a")[:1]
    if unit in ("No.", "NO.") and start.isdigit():
        return False
    return not (start.islower() and re.search(r"(?:\.\.|\u2026|[^.!?])$", unit))


def shortened(units: list[str], longest: int) -> list[str]:
    """A sentence as pieces of at most `longest` symbols, as far as its words allow."""
    text = " ".join(units)
    if len(units) == 1 or len(spoken(text).symbols) <= longest:
        return [text]
    # The places to cut, the best kind first: after a pause, before a conjunction, anywhere.
    places = range(1, len(units))
    pauses = [i for i in places if PAUSE.search(units[i - 1])]
    conjunctions = [i for i in places if units[i].lower() in CONJUNCTIONS]
    lengths = [len(" ".join(units[:i])) / len(text) for i in range(len(units))]
    for kind in (pauses, conjunctions, places):
        # The cut nearest to the middle makes even pieces; one near an edge is passed over.
        if kind:
            cut = min(kind, key=lambda i: abs(lengths[i] - 0.5))
            if kind is places or 0.15 < lengths[cut] < 0.85:
                break
    return shortened(units[:cut], longest) + shortened(units[cut:], longest)


def split_text(text: str, longest: int = 80) -> list[str]:
    """A paragraph as pieces to be spoken one by one, which joined with spaces give it again.

    It is cut at the ends of sentences, and inside a sentence of more than `longest` symbols; only
    a single word may be longer. Raises ValueError as `read` does.
    """
    read(text)
    units = UNIT.findall(visible(text))
    pieces, sentence = [], []
    for unit, following in zip(units, [*units[1:], ""], strict=True):
        sentence.append(unit)
        if not following or ends_sentence(unit, following):
            pieces += shortened(sentence, longest)
            sentence = []
    # A piece without anything to say joins the piece before it, and the first the one after it.
    merged = []
    for piece in pieces:
        if merged and not (spoken(piece).symbols and spoken(merged[-1]).symbols):
            merged[-1] += " " + piece
        else:
            merged.append(piece)
    return merged
