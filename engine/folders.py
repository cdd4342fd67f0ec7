"""Folders: of clips, for data.py; of samples and of round trips, and lists of texts, for sample.py
and lab/."""
import hashlib
import os
import re
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from engine.media import VERSION, generated, write_clip
from engine.transcripts import read_utf8
from english.text import read
from model import FPS

# Files that may be clips: whatever ffmpeg reads that holds pictures and sound.
VIDEOS = (
    ".mp4", ".m4v", ".mov", ".qt", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".ts", ".mts", ".m2ts",
    ".vob", ".avi", ".divx", ".mkv", ".webm", ".flv", ".f4v", ".wmv", ".asf", ".3gp", ".3g2",
    ".ogv", ".ogm", ".mxf", ".dv", ".rm", ".rmvb", ".nut")
# Folders in which systems keep what was thrown away, thumbnails and halves of files.
TRASH = ("$recycle.bin", "system volume information", "__macosx", "@eadir", "#recycle")
LONGEST_NAME = 180                  # bytes, without an ending: most systems allow 255 with it
# Names that Windows has taken for devices, with whatever ending.
DEVICES = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
MOST_PROBLEMS = 10                  # that one error tells of


# ------------------------------------------------------------------------------ folders of clips
def find_videos(root: Path, without: Path | None = None) -> list[Path]:
    """What may be a clip, in a folder and all below it, by the ending of its name in any case.

    Symbolic links are followed, and no folder is entered twice. What is hidden or in the trash is
    left out. Folders and links to nowhere that are called like videos are among the paths, and so
    are folders that can't be looked into: `why_unreadable` tells of them.

    Args:
        without: a folder below root that is left out.
    """
    top = Path(os.path.realpath(root))
    entered = set() if without is None else {Path(os.path.realpath(without))}
    found = []
    # What is reached by a link comes last, so that a folder in the tree keeps its own path if a
    # link to it is added.
    folders = [root]
    linked = []
    while folders or linked:
        folder = folders.pop() if folders else linked.pop(0)
        place = Path(os.path.realpath(folder))
        if place in entered:
            continue
        entered.add(place)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except PermissionError:
            if folder == root:
                raise
            found.append(folder)
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in TRASH:
                continue
            path = folder / entry.name
            # A link to nowhere without an ending may have been one to a folder of clips.
            lost = entry.is_symlink() and not path.suffix and not os.path.exists(path)
            if lost or path.suffix.lower() in VIDEOS:
                found.append(path)
            if not entry.is_symlink():
                if entry.is_dir():
                    folders.append(path)
            elif os.path.isdir(path):
                # A link to a folder that holds this one is a loop.
                target = os.path.realpath(path)
                if not (place.is_relative_to(target) or top.is_relative_to(target)):
                    linked.append(path)
    return found


def why_unreadable(path: Path) -> str | None:
    """Why there is no file to be read at a path that `find_videos` gave; None if there is one."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8: rename it"
    if not os.path.exists(path):
        return "it is a link that leads nowhere" if path.is_symlink() else "there is no such file"
    if not os.access(path, os.R_OK):
        return "there is no permission to read it"
    if os.path.isdir(path):
        return "it is a folder, not a file"
    if not os.path.isfile(path):
        return "it is not a regular file"
    return None


def printable(path: Path | str) -> str:
    """A path as one line of text: what can't be printed is written as an escape."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode()
                   for letter in str(path))


def clip_name(root: Path, path: Path) -> str:
    """The name of a clip below root: a/b.mp4 is a_b."""
    return "_".join(path.relative_to(root).with_suffix("").parts)


def other_names(root: Path, paths: list[Path]) -> dict[Path, str]:
    """The names of those clips that can't have their `clip_name`, since another clip has it or it
    is too long: a hash of their own path is added, so that no further clip changes it.

    Of several clips with one name the one keeps it that lies highest; then the first by path."""
    names = {}
    taken = set()
    for path in sorted(paths, key=lambda path: (len(path.parts), path)):
        name = clip_name(root, path)
        raw = os.fsencode(name)
        # Some systems take a file's name in capitals for the same name.
        if name.casefold() in taken or len(raw) > LONGEST_NAME:
            mark = hashlib.sha256(os.fsencode(path.relative_to(root))).hexdigest()[:12]
            name = f"{raw[:LONGEST_NAME - 13].decode(errors='ignore')}_{mark}"
            names[path] = name
        taken.add(name.casefold())
    return names


# ----------------------------------------------------------------------------- folders of samples
def write_outputs(path: Path, outputs: dict, sample_rate: int, about: str) -> None:
    """The outputs of a sample, name -> array: motion (T, S, S, 3) and audio (n,) become the mp4
    `path`, any other stream an array beside it, NAME.<stream>.npy. about: see write_clip."""
    write_clip(path, outputs["motion"], outputs["audio"], sample_rate, about=about)
    for name, array in outputs.items():
        if name not in ("motion", "audio"):
            np.save(path.with_suffix(f".{name}.npy"), array)


def write_samples(models, jobs: list, out: Path, batch=16, **settings) -> None:
    """(name, sample.Job) ... -> out/NAME.mp4 and out/NAME.txt. Says how many did not stop. Jobs
    with given streams go one at a time. settings: see sample.Models.patches."""
    out.mkdir(parents=True, exist_ok=True)
    if any(job.given for _, job in jobs):
        batch = 1
    endless = []
    seconds = 0.0
    start = time.time()
    with tqdm(total=len(jobs), desc=f"sampling {out.name}", unit="clip") as bar:
        for at in range(0, len(jobs), batch):
            part = jobs[at:at + batch]
            outputs, stopped = models.generate([job for _, job in part], **settings)
            for (name, job), made, end in zip(part, outputs, stopped):
                (out / f"{name}.txt").write_text(job.text + "\n", encoding="utf-8")
                write_outputs(out / f"{name}.mp4", made, models.config.sample_rate,
                              generated(job.seed))
                seconds += len(made["motion"]) / FPS
                if not end:
                    endless.append(name)
            bar.update(len(part))
    if endless:
        print(f"{len(endless)} of {len(jobs)} did not stop by themselves and were cut: "
              f"{', '.join(endless[:5])}")
    print(f"{len(jobs)} clips, {seconds:.0f} s of audio-video in {time.time() - start:.0f} s")


def write_roundtrip(models, clips, total: int, out: Path) -> None:
    """Clips through the autoencoders -> out/NAME.mp4 and out/NAME.txt."""
    out.mkdir(parents=True, exist_ok=True)
    for clip in tqdm(clips, desc="round trip", total=total, unit="clip"):
        write_outputs(out / f"{clip.name}.mp4", models.roundtrip(clip), models.config.sample_rate,
                      f"{clip.name} through the autoencoders of nanoTalker {VERSION}")
        (out / f"{clip.name}.txt").write_text(clip.text + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------- lists
def why_no_name(name: str) -> str | None:
    """Why a file in a folder can't have this name, with an ending; None if it can."""
    if not name:
        return "there is no name before the first tab"
    if not name.isprintable() or re.search(r'[/\\:*?"<>|]', name):
        return f"{name!r} can't be the name of a file: use letters, digits, - and _"
    if name.startswith(".") or DEVICES.fullmatch(name):
        return f"{name!r} can't be the name of a file on every system: use another"
    if len(name.encode()) > LONGEST_NAME:
        return f"the name has {len(name.encode())} bytes, where {LONGEST_NAME} are the most"
    return None


def read_line(number: int, line: str, needs_speaker: bool) -> tuple[str, str, str]:
    """One line of a list -> name, speaker and text, see `read_list`. ValueError if it is broken."""
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) not in (1, 3):
        raise ValueError("expected a text, or name, speaker and text separated by tabs")
    name, speaker, text = fields if len(fields) == 3 else (f"{number:05d}", "", fields[0])
    if problem := why_no_name(name):
        raise ValueError(problem)
    if needs_speaker and not speaker:
        raise ValueError("it names no speaker: give --speaker N, --ref CLIP, or --voice and --face")
    if needs_speaker and not re.fullmatch("[0-9]{1,9}", speaker):
        raise ValueError(f"the speaker must be a number such as 3, not {speaker!r}")
    read(text)                                              # raises ValueError if there is no word
    return name, speaker, text


def read_list(path: Path, needs_speaker: bool) -> list[tuple[str, str, str]]:
    """Lines of a text, or of name<TAB>speaker<TAB>text as `python -m lab.export` writes them into
    texts.tsv -> (name, speaker number or '', text). A line without a name has its number for one.

    All lines are checked: that the text can be read, and that each name is the name of a file and
    occurs once. ValueError with the numbers of the lines that are broken."""
    found = []
    problems = []
    first_lines = {}                        # name -> the number of the line that has it
    # Not splitlines, which takes some rare characters for ends of lines that no editor does.
    for number, line in enumerate(re.split("\r\n|\r|\n", read_utf8(path)), 1):
        if not line.strip():
            continue
        try:
            name, speaker, text = read_line(number, line, needs_speaker)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        # Some systems take a file's name in capitals for the same name.
        first = first_lines.setdefault(name.casefold(), number)
        if first != number:
            problems.append(f"line {number}: line {first} has the name {name!r} already")
        found.append((name, speaker, text))
    if problems:
        more = len(problems) - MOST_PROBLEMS
        end = [f"and {more} more"] if more > 0 else []
        raise ValueError(f"{path} can't be used as it is:\n  "
                         + "\n  ".join(problems[:MOST_PROBLEMS] + end))
    if not found:
        raise ValueError(f"{path} holds no text")
    return found
