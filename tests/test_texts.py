"""Texts as people keep them: beside clips in any common layout, in folders of any kind, in lists;
and texts that are unlike those that a model was trained on."""
import json
import os
from pathlib import Path

import pytest

import data
from engine.folders import clip_name, find_videos, other_names, read_list, why_unreadable
from engine.media import BrokenClip
from engine.transcripts import read_transcript, transcript_contents
from english.seen import Seen, never_seen
from english.sentences import GRID
from english.text import read, spell_out, split_text

# GRID's sentences: all of its words, and no mark.
GRID_TEXTS = [" ".join(words[i % len(words)] for words in GRID) for i in range(25)]


# -------------------------------------------------------------- texts unlike those of a training
@pytest.mark.parametrize("text, mended, unknown", [
    ("bin blue at f two now!", "bin blue at f two now", []),
    ("Bin blue, at F 2 now.", "bin blue at f two now", []),
    ("\u201cbin blue\u201d at f2 -- now?", "bin blue at f two now", []),
    ("place red by g nine soon", "place red by g nine soon", []),
    ("hello world", "hello world", ["hello", "world"]),
    ("bin hello 21 hello", "bin hello twenty one hello", ["hello", "twenty"]),
    ("don't bin blue", "dont bin blue", ["dont"]),
    ("bin & blue", "bin and blue", ["and"]),
])
def test_characters_that_training_never_had(text, mended, unknown):
    """Marks are dropped, digits and signs are words, and new words are named, each once."""
    seen = Seen.collect(GRID_TEXTS, "characters")
    assert seen.adapt(text) == (mended, unknown)


def test_characters_that_training_had_stay():
    """What training had, marks and digits among it, is encoded as training encoded it."""
    texts = ["It's 2 o'clock, isn't it?", "Well-known: 5 & 6!", "\u00e9t\u00e9 \u2014 summer"]
    seen = Seen.collect(texts, "characters")
    for text in texts:
        mended, unknown = seen.adapt(text)
        assert data.encode_characters(mended) == data.encode_characters(text)
        assert unknown == []
    # Of a number all digits must be known.
    assert seen.adapt("it's 5 2 7 27") == ("it's 5 2 seven twenty seven",
                                           ["seven", "twenty"])


def test_a_text_of_which_nothing_is_left_is_told():
    """Encoding says what is wrong, with the text that was given."""
    text, _ = Seen.collect(GRID_TEXTS, "characters").adapt("?!")
    with pytest.raises(ValueError, match=r"'\?!' has no letter"):
        data.encode_characters(text)


@pytest.mark.parametrize("text, plain", [
    ("bin blue at f two now!", "bin blue at f two now"),
    ("bin blue, at f two; now?", "bin blue at f two now"),
    ("Mr. Smith at 5 p.m.", "mister smith at five p m"),
])
def test_marks_of_phones_that_training_never_had(text, plain):
    """A model of phones that never saw a pause gets the phones alone."""
    mended, _ = Seen.collect(GRID_TEXTS, "phones").adapt(text)
    phones = [symbol for symbol in read(plain).symbols if symbol != " "]
    assert [symbol for symbol in read(mended).symbols if symbol != " "] == phones
    assert not {",", ".", "?"}.intersection(read(mended).symbols)


def test_a_weaker_mark_stands_for_an_unknown_one():
    """A model that knows full stops says a question as a statement."""
    seen = Seen.collect([*GRID_TEXTS, "Bin blue. Now."], "phones")
    mended, _ = seen.adapt("Now? Please, bin!")
    assert read(mended).symbols == read("now. please bin.").symbols
    assert seen.adapt("Bin now. Please.")[0] == "Bin now. Please."


def test_marks_are_found_however_they_are_written():
    """Typographic dashes and dots are marks, the dot of an abbreviation is none."""
    assert Seen.collect(["Mr. Smith now"], "phones").marks == {" "}
    assert Seen.collect(["so \u2014 now\u2026"], "phones").marks == {" ", ",", "."}


def test_words_of_phones_are_named_where_few_are_known():
    """A model that knows GRID's words alone warns of others; one that knows many reads any."""
    seen = Seen.collect(GRID_TEXTS, "phones")
    assert seen.adapt("Hello {W ER L D} at f 2, 21")[1] == ["hello", "twenty"]
    assert never_seen(["hello", "world"]) == (
        "never seen in training: 'hello', 'world'; expect nonsense")
    assert "and 3 more" in never_seen([f"word{i}" for i in range(13)])
    lexicon = Path(data.__file__).parent / "english" / "lexicon.txt"
    words = [line.split()[0] for line in lexicon.read_text(encoding="utf-8").splitlines()]
    assert Seen.collect(words[:1000], "phones").adapt("frobnicate")[1] == []


@pytest.mark.parametrize("tokens", data.ALPHABETS)
def test_what_was_seen_is_kept_as_json(tokens):
    seen = Seen.collect([*GRID_TEXTS, "Well, it's 5!"], tokens)
    assert Seen.load(json.loads(json.dumps(seen.content()))) == seen


# -------------------------------------------------------------------------------------- typography
@pytest.mark.parametrize("text, plain", [
    ("hel\u00adlo wor\u200bld", "hello world"),
    ("\ufeffhello\u2060 \u200dworld\u200c", "hello world"),
    ("\u202ahello\u202c world", "hello world"),
    ("10\u00a0cats\u202fand 2\u2007dogs", "ten cats and two dogs"),
    ("\u22124 and 5 \u2212 3", "minus four and five minus three"),
    ("5\u22123", "five minus three"),
    ("don\u2032t, don\u02bct, don\u201bt", "don't, don't, don't"),
    ("\u00abyes\u00bb \u201eno\u201c \u2039so\u203a \u300cnow\u300d", "yes no so now"),
    ("Stra\u00dfe \u1e9e", "Strasse ss"),
    ("\u00e6on \u0153dema", "aeon oedema"),
    ("S\u00f8ren \u0141\u00f3d\u017a \u0111ak", "Soren Lodz dak"),
    ("\u00deor \u00fe\u0131n \u00f0a", "Thor thin da"),
    ("\u01ff", "o"),
    ("\u2015 so \u2014 now", "-- so -- now"),
])
def test_typography_is_read(text, plain):
    """Invisible marks, typeset quotes and dashes, and letters that have no plain form in Unicode
    are said as the plain text is."""
    assert read(text).symbols == read(plain).symbols


def test_typography_is_encoded_as_characters():
    """The same text with and without typography has the same ids."""
    fancy = "\ufeffS\u00f8ren\u2019s \u201cw\u00f6rk\u201d \u2014 re\u00addone \u2212\u00a05"
    assert data.encode_characters(fancy) == data.encode_characters('soren\'s "work" - redone - 5')
    assert 1 not in data.encode_characters("\u0142\u0111\u00df\u00e6\u0153\u00fe\u00f0\u0131\u200b")


def test_capitals_stay_capitals():
    """A shouted text with a ligature still is a shouted text, and its short words are no letters.
    """
    assert read("\u00c6ON FLUX").symbols == read("AEON FLUX").symbols


def test_sentences_end_before_invisible_marks_and_quotes():
    """The mark at the end of a sentence may be followed by either."""
    text = "\u00abOne.\u00bb Two.\u200b Three."
    assert split_text(text) == ["\u00abOne.\u00bb", "Two.", "Three."]


@pytest.mark.parametrize("text, keep, spelled", [
    ("f2 & 3rd", "", "f two and third"),
    ("f2 & 3rd", "23", "f2 and 3rd"),
    ("at 10:30, $5", "", "at ten thirty, five dollars"),
    ("{HH AH} 1990s", "", "{HH AH} nineteen nineties"),
    ("Mr. Smith of the U.S.", "", "mister Smith of the U.S."),
])
def test_numbers_and_signs_are_spelled_out(text, keep, spelled):
    assert spell_out(text, keep) == spelled


# ----------------------------------------------------------------------------- texts beside clips
def beside(folder: Path, content: str | bytes, ending=".txt") -> str:
    """What is read beside a clip if that file has this content."""
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / f"clip{ending}").write_bytes(raw)
    return read_transcript(folder / "clip.mp4")


SUBRIP = """1
00:00:00,000 --> 00:00:01,000
<i>Hello</i>

2
00:00:01,000 --> 00:00:02,500
{\\an8}world &amp; all
3
00:00:02,500 --> 00:00:03,000
of 2026
2027
"""
WEBVTT = """WEBVTT - a title

NOTE a remark

intro
00:00.000 --> 00:01.000 align:start
<v Ann>Hello

00:01.000 --> 00:02.000
world
"""


@pytest.mark.parametrize("content, text", [
    ("Hello\n  world \r\n", "Hello world"),
    ("Text:  HELLO WORLD\nConf:  4\n", "HELLO WORLD"),
    ("Text:  HELLO WORLD\nRef:  x1\n\nWORD START END ASDSCORE\nHELLO 0.1 0.4 7\nWORLD 0.4 0.9 3\n",
     "HELLO WORLD"),
    ("text: hello\nworld\nConf: 4", "hello world"),
    ("He said: text: no", "He said: text: no"),
    (SUBRIP, "Hello world & all of 2026 2027"),
    (WEBVTT, "Hello world"),
    ("\ufeff" + WEBVTT.replace("\n", "\r\n"), "Hello world"),
    ("0 10 SIL\n10 20 hello\n20 35 world\n35 40 sil\n", "hello world"),
    ("10 20 30", "10 20 30"),
    ("", ""),
    ("WEBVTT\n", ""),
])
def test_layouts_of_texts(tmp_path, content, text):
    """Labels, numbers and times of common layouts are not spoken."""
    assert beside(tmp_path, content) == text


@pytest.mark.parametrize("content, text", [
    ("0 10 sil\n10 20 bin\n20 30 a\n30 40 sp\n40 50 two\n", "bin A two"),
    ("0 1 SIL\n1 2 SP\n2 3 bin\n3 4 <eps>\n4 5 <SIL>\n5 6 spn\n6 7 [noise]\n7 8 now\n8 9\n",
     "bin now"),
    ("\ufeff0.0 .5 sil\r\n.5 0.75 bin\r\n\r\n", "bin"),
])
def test_alignments(tmp_path, content, text):
    """Silences are left out however they are written, and single letters stand for their names."""
    assert beside(tmp_path, content, ".align") == text


def test_a_broken_line_of_an_alignment_is_told(tmp_path):
    with pytest.raises(ValueError, match="line 2 of its alignment, 'bin 10 20'"):
        beside(tmp_path, "0 10 sil\nbin 10 20\n", ".align")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending, content", [(".txt", "z\u00e9ro"), (".align", "0 9 z\u00e9ro")])
def test_encodings(tmp_path, encoding, ending, content):
    """A byte-order mark tells the encoding and is no letter."""
    assert beside(tmp_path, content.encode(encoding), ending) == "z\u00e9ro"


@pytest.mark.parametrize("raw, message", [
    (b"one\nz\xe9ro", "clip.txt, line 2 is not UTF-8"),
    ("one\nzero".encode("utf-16-le"), "line 1 has a NUL character"),
])
def test_other_encodings_are_told(tmp_path, raw, message):
    with pytest.raises(ValueError, match=message):
        beside(tmp_path, raw)


@pytest.mark.parametrize("ending", [".TXT", ".Txt", ".ALIGN", ".Align"])
def test_endings_of_texts_in_any_case(tmp_path, ending):
    content = "0 9 hello" if ending.lower() == ".align" else "hello"
    assert beside(tmp_path, content, ending) == "hello"
    assert content.encode() in transcript_contents(tmp_path / "clip.mp4")


def test_contents_of_texts_for_a_hash(tmp_path):
    """The bytes of both files, the text first; a mark for one that is not there."""
    assert transcript_contents(tmp_path / "clip.mp4") == [b"-", b"-"]
    beside(tmp_path, "0 9 hello", ".align")
    (tmp_path / "clip.txt").mkdir()
    assert transcript_contents(tmp_path / "clip.mp4") == [b"-", b"0 9 hello"]
    with pytest.raises(FileNotFoundError):
        read_transcript(tmp_path / "other.mp4")


# -------------------------------------------------------------------------------- folders of clips
def make_files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def found_in(root: Path, without: Path | None = None) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in find_videos(root, without))


def test_every_kind_of_video_is_found_and_trash_is_not(tmp_path):
    good = ["a.mp4", "b.M4V", "c.ts", "d.mpeg", "e.Flv", "f.wmv", "g.3gp", "h.mts", "i.m2ts",
            "j.OGV", "deep/er/k.mkv"]
    bad = ["._a.mp4", ".AppleDouble/a.mp4", ".Trash/b.mp4", ".Trash-1000/files/c.mp4",
           "$RECYCLE.BIN/d.mp4", "$Recycle.Bin/e.mp4", "deep/__MACOSX/er/f.mp4", "a.txt", "a.jpg"]
    make_files(tmp_path, *good, *bad)
    assert found_in(tmp_path) == sorted(good)


def test_a_folder_may_lie_in_a_hidden_one(tmp_path):
    """What is above the folder itself does not matter."""
    make_files(tmp_path / ".cache" / "clips", "a.mp4")
    assert found_in(tmp_path / ".cache" / "clips") == ["a.mp4"]


def test_links_to_folders_are_followed(tmp_path):
    """Once each, and a folder of the tree keeps its own path; loops end."""
    root = tmp_path / "root"
    make_files(root, "z/real.mp4")
    make_files(tmp_path / "elsewhere", "far.mp4", "sub/farther.mp4")
    make_files(tmp_path, "not_asked_for.mp4")
    (root / "a_link").symlink_to(root / "z")
    (root / "b_link").symlink_to(tmp_path / "elsewhere")
    (root / "c_link").symlink_to(tmp_path / "elsewhere")
    (root / "z" / "loop").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)
    assert found_in(root) == ["b_link/far.mp4", "b_link/sub/farther.mp4", "z/real.mp4"]


def test_the_folder_of_the_run_is_left_out(tmp_path):
    make_files(tmp_path, "a.mp4", "out/mine/sample.mp4", "out/b.mp4")
    run = tmp_path / "out" / "mine"
    assert found_in(tmp_path, run) == ["a.mp4", "out/b.mp4"]
    folder = data.ClipFolder(tmp_path, "all", without=run)
    key = folder.key
    make_files(run, "another.mp4")
    assert data.ClipFolder(tmp_path, "all", without=run).key == key
    with pytest.raises(ValueError, match="folder of its own"):
        data.ClipFolder(tmp_path, without=tmp_path / "out" / "..")


def test_names_of_clips_are_unique_and_stable(tmp_path):
    """Of several clips with one name the highest keeps it; what others have does not change when
    further ones come."""
    def names(*files: str) -> dict[str, str]:
        paths = [tmp_path / file for file in files]
        others = other_names(tmp_path, paths)
        return {file: others.get(path) or clip_name(tmp_path, path)
                for file, path in zip(files, paths)}

    few = names("a_b.mp4", "a/b.mp4", "c/d.mp4")
    assert few["a_b.mp4"] == "a_b" and few["c/d.mp4"] == "c_d"
    more = names("a/b.mov", "a_b.mp4", "A/B.mp4", "c/d.mp4", "a/b.mp4", "c/e.mp4")
    assert more.items() >= few.items()
    assert len({name.lower() for name in more.values()}) == len(more)
    assert all(name.startswith(("a_b", "A_B", "c_")) for name in more.values())

    # A name must be that of a file, with endings.
    stem = "\u00e9" * 100 + "/" + "x" * 100
    long = names(f"{stem}.mp4", f"{stem}.mov")
    assert len(set(long.values())) == 2
    for name in long.values():
        (tmp_path / f"{name}.audio.npy.part").touch()


@pytest.fixture
def strange(tmp_path):
    """A folder with paths of which none can be read, and what is wrong with each."""
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    (tmp_path / "disk").symlink_to(tmp_path / "not_mounted")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).write_bytes(b"video")
    return tmp_path, {
        "gone.mp4": "leads nowhere", "self.mp4": "leads nowhere", "disk": "leads nowhere",
        "folder.mp4": "is a folder", "pipe.mp4": "not a regular file", r"caf\udce9.mp4": "UTF-8"}


def test_what_is_no_file_is_named_and_left_out(strange):
    """Each is a BrokenClip whose message can be printed and is one line; the run goes on."""
    root, reasons = strange
    make_files(root, "good.mp4")
    folder = data.ClipFolder(root, "all")
    assert len(folder) == len(reasons) + 1
    told = {}
    for i, path in enumerate(folder.paths):
        if path.name == "good.mp4":
            assert why_unreadable(path) is None
            continue
        with pytest.raises(BrokenClip) as caught:
            folder[i]
        str(caught.value).encode()
        assert "\n" not in str(caught.value)
        told[Path(caught.value.path).name] = caught.value.reason
    assert told.keys() == reasons.keys()
    assert all(reasons[name] in reason for name, reason in told.items()), told


def test_what_is_no_file_counts_for_the_key(strange):
    """Clips are known by their numbers, so a cache is not reused when a broken one comes or goes.
    """
    root, _ = strange
    key = data.ClipFolder(root, "all").key
    (root / "gone.mp4").unlink()
    assert data.ClipFolder(root, "all").key != key


def test_splits_of_strange_folders(strange):
    """Every path is in one split."""
    root, reasons = strange
    parts = [data.ClipFolder(root, split).paths for split in data.SPLITS]
    assert sum(map(len, parts)) == len(reasons) == len(set().union(*parts))


# ------------------------------------------------------------------------------------------ lists
def write(path: Path, content: str, encoding="utf-8") -> Path:
    path.write_text(content, encoding=encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists(tmp_path, encoding):
    """Names, speakers and texts, or texts alone, whose names are the numbers of their lines."""
    path = write(tmp_path / "texts.tsv", "one\t3\tHello.\n\nHow are\u2028you?\n two \t\t Hi. \n",
                 encoding)
    assert read_list(path, False) == [
        ("one", "3", "Hello."), ("00003", "", "How are\u2028you?"), ("two", "", "Hi.")]


@pytest.mark.parametrize("name", [
    "../esc", "/abs", "a/b", "a\\b", "con", "NUL", "aux.b", "lpt1", "", ".", "..", ".hidden",
    "a\u200bb", "a\x01b", "a:b", "x" * 200])
def test_names_that_leave_the_folder_or_are_no_names(tmp_path, name):
    """A name that can't be that of a file in --out is told with its line."""
    path = write(tmp_path / "texts.tsv", f"good\t3\tHello.\n{name}\t3\tHello.\n")
    with pytest.raises(ValueError, match="texts.tsv can't be used.*\n  line 2: .*name"):
        read_list(path, True)


def test_all_broken_lines_are_told_at_once(tmp_path):
    path = write(tmp_path / "texts.tsv", "\n".join([
        "one\t3\tHello.", "ONE\t3\tHello again.", "two\tanna\tHello.", "three\t\tHello.",
        "four\t3\t...", "five\t3", "six\t3\t{HH", "seven\t\u00b2\tHello."]))
    with pytest.raises(ValueError) as caught:
        read_list(path, True)
    lines = str(caught.value).splitlines()
    assert str(path) in lines[0] and len(lines) == 8
    for line, words in zip(lines[1:], [
            "line 2: line 1 has the name 'ONE' already",
            "line 3: the speaker must be a number such as 3, not 'anna'",
            "line 4: it names no speaker", "line 5: the text '...' has nothing to say",
            "line 6: expected a text, or name, speaker and text", "line 7: the text '{HH'",
            "line 8: the speaker must be a number"]):
        assert words in line
    # Where the reference is given the speakers don't matter.
    with pytest.raises(ValueError) as caught:
        read_list(path, False)
    assert "speaker must" not in str(caught.value)


def test_ten_broken_lines_are_enough(tmp_path):
    path = write(tmp_path / "texts.txt", "...\n" * 13)
    with pytest.raises(ValueError) as caught:
        read_list(path, False)
    lines = str(caught.value).splitlines()
    assert len(lines) == 12 and "and 3 more" in lines[-1]


def test_a_number_of_a_line_is_a_name_like_others(tmp_path):
    path = write(tmp_path / "texts.tsv", "00002\t3\tHello.\nHello.\n")
    with pytest.raises(ValueError, match="line 2: line 1 has the name '00002' already"):
        read_list(path, False)


@pytest.mark.parametrize("content, message", [
    ("\n \n", "holds no text"), ("", "holds no text"), ("z\u00e9ro", "line 1 is not UTF-8"),
    ("one\t3\tHello.\na\0b\t3\tHello.", "line 2 has a NUL character")])
def test_lists_without_texts(tmp_path, content, message):
    path = write(tmp_path / "texts.tsv", content, "latin-1")
    with pytest.raises(ValueError, match=message):
        read_list(path, False)
