"""The text beside a clip, as people keep it.

    read_transcript         what is said in a clip: from NAME.txt or NAME.align, without the labels,
                            numbers and times of common layouts
    transcript_contents     the bytes of both, for a hash
    read_utf8               any text file, with or without a byte-order mark

The layouts, which are told by what is in the file:

    plain text              a sentence, on one line or several
    alignment               lines `start end word`, as in GRID; silences are left out
    labelled text           `Text:  HELLO WORLD`, then `Conf: 4` and times of words, as in LRS3
    subtitles               SubRip and WebVTT: the lines below `00:00:01,000 --> 00:00:02,500`
"""
import codecs
import html
import itertools
import os
import re
from pathlib import Path

ENDINGS = (".txt", ".align")
# A file that begins so is encoded so.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

# In alignments: silences, noises and what stands in brackets, such as <eps> or [noise].
SILENCES = ("sil", "sp", "spn", "nsn", "pau", "h#")
BRACKETED = re.compile(r"<.*>|\[.*\]")

TIME = r"(?:\d+:)?\d{1,2}:\d\d(?:[.,]\d{1,3})?"
CUE = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}")
# Italics, names of speakers and places on the screen, within a subtitle.
TAGS = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
LABELLED = re.compile(r"\s*text:(.*)", re.IGNORECASE)
LABEL = re.compile(r"\s*(?:\w+:|WORD\s+START\s+END)")


# ------------------------------------------------------------------------------------------ files
def find_beside(path: Path, ending: str) -> Path | None:
    """The file of the same name with another ending, in whatever case; None if there is none."""
    # The usual spelling first, then .TXT, and all others: to look for each is quicker than to list
    # a folder of a hundred thousand clips.
    letters = [sorted({letter.lower(), letter.upper()}, reverse=True) for letter in ending]
    for spelling in itertools.product(*letters):
        beside = path.with_suffix("".join(spelling))
        if os.path.isfile(beside):
            return beside
    return None


def transcript_contents(path: Path) -> list[bytes]:
    """What stands in NAME.txt and in NAME.align; b"-" for one that is missing or can't be read."""
    found = [find_beside(path, ending) for ending in ENDINGS]
    return [file.read_bytes() if file and os.access(file, os.R_OK) else b"-" for file in found]


def read_utf8(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 if a byte-order mark says so. That mark is left out.

    Raises ValueError, with the number of the line, for another encoding."""
    raw = path.read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if raw.startswith(mark)),
                    "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line} is not UTF-8: save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}, line {line} has a NUL character: save the file as UTF-8")
    return text


def read_transcript(path: Path) -> str:
    """What is said in a video file, by the text beside it.

    In an alignment a single letter is spoken by its name, so that it is written large. Raises
    FileNotFoundError, or ValueError for a file that is not UTF-8 or has a broken line."""
    text_file = find_beside(path, ".txt")
    if text_file:
        return " ".join(text_in(read_utf8(text_file).splitlines()).split())
    alignment = find_beside(path, ".align")
    if alignment is None:
        raise FileNotFoundError(f"{path}: no text beside it")
    return words_of_alignment(read_utf8(alignment).splitlines())


# ---------------------------------------------------------------------------------------- layouts
def text_in(lines: list[str]) -> str:
    """What is said, of the lines of a .txt in any layout."""
    filled = [line for line in lines if line.strip()]
    if not filled:
        return ""
    if filled[0].startswith("WEBVTT") or any(CUE.match(line) for line in lines):
        return text_of_subtitles(lines)
    if LABELLED.match(filled[0]):
        return text_of_labels(filled)
    if is_alignment(filled):
        return words_of_alignment(filled)
    return " ".join(filled)


def text_of_labels(lines: list[str]) -> str:
    """`Text: ...` and the lines below it, as far as no other label or table begins."""
    first, *rest = lines
    below = itertools.takewhile(lambda line: not LABEL.match(line), rest)
    return " ".join([LABELLED.match(first)[1], *below])


def text_of_subtitles(lines: list[str]) -> str:
    """The lines below the times of subtitles, each down to the next empty line."""
    said = []
    speaking = False
    for line, following in zip(lines, [*lines[1:], ""]):
        # Where the empty line before a subtitle is missing, its number still is not spoken.
        number = line.strip().isdigit() and CUE.match(following)
        if CUE.match(line):
            speaking = True
        elif not line.strip():
            speaking = False
        elif speaking and not number:
            said.append(html.unescape(TAGS.sub("", line)))
    return " ".join(said)


def times_of(line: str) -> tuple[float, float] | None:
    """Start and end, the first two words of a line of an alignment; None if it is none."""
    fields = line.split()[:2]
    if len(fields) < 2 or not all(re.fullmatch(r"\d*\.?\d+", field) for field in fields):
        return None
    start, end = map(float, fields)
    return (start, end) if start <= end else None


def is_alignment(lines: list[str]) -> bool:
    """Whether lines that are not empty are those of an alignment: of two or more, one word each,
    each later than the one before. A text of digits is hardly so."""
    times = [times_of(line) for line in lines]
    if len(lines) < 2 or None in times or any(len(line.split()) > 3 for line in lines):
        return False
    return all(end <= start for (_, end), (start, _) in zip(times, times[1:]))


def is_silence(word: str) -> bool:
    return word.casefold() in SILENCES or bool(BRACKETED.fullmatch(word))


def words_of_alignment(lines: list[str]) -> str:
    """Lines `start end word` -> the words. ValueError for a line that is not of this form."""
    words = []
    for number, line in enumerate(lines, 1):
        if line.strip() and times_of(line) is None:
            raise ValueError(f"line {number} of its alignment, {line.strip()[:40]!r}, is not "
                             "`start end word`")
        words += [word for word in line.split()[2:] if not is_silence(word)]
    return " ".join(word.upper() if len(word) == 1 else word for word in words)
