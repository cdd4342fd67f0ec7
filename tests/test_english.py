"""The text front end: words, numbers, marks, spelling, pieces (english/)."""

import re
import string
from pathlib import Path

import numpy as np
import pytest

from english import sentences
from english.spelling import guess
from english.text import (MARKS, PHONES, SYMBOLS, encode_phones, lexicon, read, split_text,
                          write_phones)

EVERYDAY = Path(__file__).parent.parent / "english" / "everyday.txt"


def test_symbols():
    assert len(PHONES) == 39
    assert len(SYMBOLS) == 44
    assert SYMBOLS[:5] == ("<pad>", *MARKS)
    found = [SYMBOLS[i] for i in encode_phones("Hi, you?")]
    assert found == ["HH", "AY", ",", "Y", "UW", "?"]
    assert encode_phones("hi you")[2] == SYMBOLS.index(" ")


def test_lexicon():
    words = lexicon()
    assert next(iter(words)) == "the"
    assert words["hello"] == ("HH", "AH", "L", "OW")
    assert words["a"] == ("EY",)
    assert all(letter in words for letter in string.ascii_lowercase)
    assert {phone for phones in words.values() for phone in phones} == set(PHONES)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("no", []),
        ("no.", ["."]),
        ("no,", []),
        ("no ", []),
        ("...no?", ["?"]),
        ("no!", ["."]),
        ("no\u2026", ["."]),
        ("no?! no", ["?"]),
        ("no no", [" "]),
        ("no, no; no: no - no -- no \u2014 no", [","] * 6),
        ("no (no) no", [",", ","]),
        ('"no," no.', [",", "."]),
        ("no , . no", ["."]),
        ("no\nno\t no", [" ", " "]),
        ("\U0001f600 no \U0001f600 no \u041d\u0435\u0442", [" "]),
    ],
)
def test_marks(text, marks):
    assert [symbol for symbol in read(text).symbols if symbol in MARKS] == marks


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("HELLO There", "hello there"),
        ("caf\u00e9", "cafe"),
        ("it\u2019s \u201cfine\u201d \u2018now\u2019", "it's fine now"),
        ("well-known", "well known"),
        ("2026", "twenty twenty six"),
        ("1905", "nineteen oh five"),
        ("1900", "nineteen hundred"),
        ("2005", "two thousand five"),
        ("2100", "two thousand one hundred"),
        ("1,250", "one thousand two hundred fifty"),
        ("2,026", "two thousand twenty six"),
        ("$2026", "two thousand twenty six dollars"),
        ("1990s", "nineteen nineties"),
        ("3.5", "three point five"),
        ("0.25", "zero point two five"),
        ("-4", "minus four"),
        ("5-4", "five four"),
        ("50%", "fifty percent"),
        ("$5", "five dollars"),
        ("$1", "one dollar"),
        ("\u00a32.50", "two pounds fifty"),
        ("\u20ac3 million", "three million euros"),
        ("3rd", "third"),
        ("21st", "twenty first"),
        ("20th", "twentieth"),
        ("10:30", "ten thirty"),
        ("9:05", "nine oh five"),
        ("7:00", "seven o'clock"),
        ("007", "zero zero seven"),
        ("5000000000012", "five trillion twelve"),
        ("1234567890123456", "one two three four five six seven eight nine zero one two three "
         "four five six"),
        ("20\u00b0", "twenty degrees"),
        ("1\u00b0", "one degree"),
        ("salt & pepper @ home + 2 = 3", "salt and pepper at home plus two equals three"),
        ("#7", "number seven"),
        ("Mr. Smith, Mrs. Jones, Dr. Brown", "mister smith, mrs jones, doctor brown"),
        ("Ms. Smith and Prof. Jones", "ms smith and professor jones"),
        ("St. Paul, Main St.", "saint paul, main street."),
        ("cats vs. dogs etc.", "cats versus dogs etc."),
        ("cats vs dogs", "cats versus dogs"),
        ("e.g. cats, i.e. dogs", "for example cats, that is dogs"),
        ("No. 5", "number five"),
        ("No. Five.", "no. five."),
        ("no. 5", "no! five"),
    ],
)  # fmt: skip
def test_words(text, words):
    assert read(text).symbols == read(words).symbols


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("a", "EY"),
        ("A.", "EY ."),
        ("a cat", "AH _ K AE T"),
        ("is it a t-shirt", "IH Z _ IH T _ AH _ T IY _ SH ER T"),
        ("it's a cat", "IH T S _ AH _ K AE T"),
        ("A B C", "EY _ B IY _ S IY"),
        ("A, B and C", "EY , B IY _ AH N D _ S IY"),
        ("at f two", "AE T _ EH F _ T UW"),
        ("A4 F2", "EY _ F AO R _ EH F _ T UW"),
        ("I", "AY"),
        ("USA", "Y UW EH S EY"),
        ("the US", "DH AH _ Y UW EH S"),
        ("TV, BBC", "T IY V IY , B IY B IY S IY"),
        ("U.S.", "Y UW EH S ."),
        ("the U.S. is", "DH AH _ Y UW EH S _ IH Z"),
        ("GPUs", "JH IY P IY Y UW Z"),
        ("STOP IT NOW", "S T AA P _ IH T _ N AW"),
        ("5 p.m.", "F AY V _ P IY EH M ."),
        ("9 a.m. now", "N AY N _ EY EH M _ N AW"),
        ("{HH AH0 L OW1} {y uw}!", "HH AH L OW _ Y UW ."),
    ],
)
def test_letters_and_phones(text, symbols):
    # A space between two words is written "_" here.
    assert [symbol.replace(" ", "_") for symbol in read(text).symbols] == symbols.split()


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("don't", "D OW N T"),
        ("I'll", "AY L"),
        ("mustn't", "M AH S T AH N T"),
        ("cat's", "K AE T S"),
        ("boss's", "B AA S IH Z"),
        ("dogs'", "D AA G Z"),
        ("table's", "T EY B AH L Z"),
        ("wug's", "W AH G Z"),
        ("cat'll", "K AE T AH L"),
        ("who've", "HH UW V"),
    ],
)
def test_apostrophes(word, phones):
    assert " ".join(read(word).symbols) == phones


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("bookshelves", "B UH K SH EH L V Z"),
        ("rereading", "R IY R IY D IH NG"),
        ("nanotalker", "N AA N OW T AO K ER"),
        ("walkable", "W AO K AH B AH L"),
    ],
)
def test_built_words(word, phones):
    assert word not in lexicon()
    assert " ".join(read(word).symbols) == phones
    assert read(word).guessed == []


def test_guessed_words():
    reading = read("The Frobnicate, a blicket and another FROBNICATE.")
    assert reading.guessed == ["frobnicate", "blicket"]
    assert reading.symbols[-1] == "."


@pytest.mark.parametrize("word", [*string.ascii_lowercase, "ghgh", "eee", "hh", "aesthetique"])
def test_guess_is_never_empty(word):
    assert guess(word)
    assert set(guess(word)) <= set(PHONES)


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("knazing", "N EY Z IH NG"),
        ("phintion", "F IH N SH AH N"),
        ("wrobe", "R OW B"),
        ("cimber", "S IH M B ER"),
        ("blick", "B L IH K"),
        ("glight", "G L AY T"),
    ],
)
def test_spelling_rules(word, phones):
    assert " ".join(guess(word)) == phones


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing to say"),
        ("\U0001f600 ...", "nothing to say"),
        ("\u041f\u0440\u0438\u0432\u0435\u0442", "nothing to say"),
        ("{HH AH", "brace"),
        ("HH}", "brace"),
        ("{}", "no phones"),
        ("{HH QQ}", "'QQ' is not a phone; the phones are AA AE .* ZH"),
    ],
)
def test_errors(text, message):
    for function in (read, encode_phones, split_text):
        with pytest.raises(ValueError, match=message):
            function(text)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("one. two", ["one.", "two"]),
        ("Mr. Smith paid $3.50. He left.", ["Mr. Smith paid $3.50.", "He left."]),
        ("The U.S. Army came at 5 p.m. on foot.", ["The U.S. Army came at 5 p.m. on foot."]),
        ("See No. 5. No. It left.", ["See No. 5.", "No.", "It left."]),
        ("Fruit, e.g. apples. Wait... what?", ["Fruit, e.g. apples.", "Wait... what?"]),
        ('"Really?" she said. (He did.) Yes.', ['"Really?" she said.', "(He did.)", "Yes."]),
        ("... Hello. \U0001f600", ["... Hello. \U0001f600"]),
        ("no mark", ["no mark"]),
    ],
)
def test_sentences_are_split(text, pieces):
    assert split_text(text) == pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("We went home early, we slept.", ["We went home early,", "we slept."]),
        ("We went home and we slept well.", ["We went home", "and we slept well."]),
        ("We went home -- we slept well.", ["We went home --", "we slept well."]),
        ("One two three four five six.", ["One two three", "four five six."]),
        (
            "Oh no {AH AH AH AH AH AH AH AH AH AH AH AH AH AH}.",
            ["Oh no", "{" + "AH " * 13 + "AH}."],
        ),
    ],
)
def test_long_sentences_are_split(text, pieces):
    assert split_text(text, longest=18) == pieces


def test_a_long_text_keeps_its_words():
    text = " ".join(EVERYDAY.read_text().split()).replace(".", "").replace("?", "")
    pieces = split_text(text, longest=40)
    assert " ".join(pieces) == text
    assert max(len(read(piece).symbols) for piece in pieces) <= 40


def test_everyday_sentences():
    lines = EVERYDAY.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 200
    assert 25 <= sum(line.endswith("?") for line in lines) <= 60
    for line in lines:
        words = line.rstrip(".?").replace(",", "").lower().split()
        assert 4 <= len(words) <= 10, line
        assert all(word in lexicon() for word in words), line
        assert line[-1] in ".?", line
        assert split_text(line) == [line], line


def test_spelling_is_near_the_lexicon():
    """Phone errors of the rules on words that the lexicon has."""
    from lab.listen import align, errors
    words = list(lexicon().items())[2000:12000:25]
    wrong = sum(errors(align(list(phones), guess(word))) for word, phones in words)
    assert wrong / sum(len(phones) for _, phones in words) < 0.15


def test_phones_are_written_and_read_again():
    for text in ("hello world", "one, two three. four?"):
        symbols = read(text).symbols
        assert read(write_phones(symbols)).symbols == symbols


def test_a_capital_within_a_sentence_is_a_letter():
    assert read("bin blue at A two").symbols[10:13] == [" ", "EY", " "]


def test_sentences():
    """All can be read. No training sentence has a held-out word, every other one does."""
    held_out = {split: set(sentences.vocabulary()[split]) for split in ("dev", "test")}
    assert not held_out["dev"] & held_out["test"]
    for split in ("train", "dev", "test"):
        counts = set()
        for seed in range(300):
            text = sentences.draw_open(np.random.default_rng(seed), split)
            words = set(re.findall(r"[a-z']+", text.lower()))
            counts.add(len(text.split()))
            assert not read(text).guessed
            for other, those in held_out.items():
                assert bool(words & those) == (other == split)
        assert counts == set(range(1, 13))
