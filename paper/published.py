"""The layout in which the paper's authors published their data, as a source of clips:

    metadata/*.csv      a line per clip: motion_pt_path, wav_path, text, and other columns
    shards/*.tar        the files that these paths name; or the files themselves, below the folder

Shards are read where they are: an index says at which byte of which shard a file begins. A clip has
its motion in LIA-X's latents, not standardized, and its sound; there are no pictures. So it needs
the released autoencoders, `train.py --frozen=DIR` (docs/paper.md). Speech without video is a list
of .wav files (SpeechList).

Axis letters: T frames, K motion latents, n audio samples.
"""
import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from data import LONGEST, SHORTEST, Clip, check_split, split_paths, stable_hash
from engine.media import BrokenClip, fit_length
from model import FPS
from paper.autoencoders import resample

COLUMNS = ("motion_pt_path", "wav_path", "text")
IN_A_FILE = -1                  # in place of the number of a shard
MISSING = -2


def read_rows(root: Path) -> list[dict]:
    """The lines of all CSV files. ValueError for one without a column that is needed."""
    rows = []
    for path in sorted(root.glob("metadata/*.csv")):
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (lines.fieldnames or ())]
            if missing:
                raise ValueError(f"{path} has no column {', '.join(missing)}; its columns are "
                                 f"{', '.join(lines.fieldnames or ['none'])}")
            rows += [{name: line[name] or "" for name in COLUMNS} for line in lines]
    if not rows:
        raise ValueError(f"{root}/metadata: there is no clip in these files")
    return rows


def find_files(root: Path, names: list[str], shards: list[Path]) -> np.ndarray:
    """Where each file is: (names, 3) int64, shard, offset and size. ValueError for a shard that is
    no tar file."""
    places = np.full((len(names), 3), MISSING)
    wanted = {}
    for number, name in enumerate(names):
        wanted.setdefault(name, []).append(number)
    for number, path in enumerate(tqdm(shards, desc="shards", leave=False)):
        try:
            with tarfile.open(path, "r:") as shard:
                for member in shard:
                    for place in wanted.get(member.name.removeprefix("./"), ()):
                        places[place] = number, member.offset_data, member.size
        except tarfile.TarError as error:
            raise ValueError(f"{path} is no tar file, or only part of one ({error})") from None
    for name, numbers in wanted.items():
        inside = name and not Path(name).is_absolute() and ".." not in Path(name).parts
        if inside and places[numbers[0], 0] == MISSING and (root / name).is_file():
            places[numbers] = IN_A_FILE, 0, (root / name).stat().st_size
    return places


def read_sound(name: str, content: bytes, sample_rate: int) -> np.ndarray:
    """A file's bytes -> mono audio (n,) float32. BrokenClip with its name if they hold none."""
    try:
        wave, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise BrokenClip(name, f"it holds no sound ({error})") from None
    mono = torch.from_numpy(wave.mean(1))[None]                               # (1, n)
    return resample(mono, rate, sample_rate)[0].numpy()


def checked_text(name: str, text: str, encode) -> str:
    """A text that can be said. BrokenClip with the name of its clip if it can't. encode: see
    PublishedData."""
    try:
        if not text.strip():
            raise ValueError("it is empty")
        if encode:
            encode(text)
    except ValueError as error:
        raise BrokenClip(name, f"its text can't be used: {error}") from None
    return text.strip()


class PublishedData:
    """A source of clips, as data.ClipFolder is one.

    Args:
        root: the folder. split: train, dev, test or all, by a hash of the motion's file name, see
            data.split_paths. sample_rate: in Hz. encode: text -> ids, which raises ValueError for a
            text that can't be said; None lets any text pass that is not empty.

    Asking for a clip whose files are missing, short or broken raises BrokenClip, which names it. No
    other one takes its place.
    """
    size = 0                    # there are no pictures

    def __init__(self, root: Path | str, split="train", sample_rate=24000, encode=None):
        check_split(split, ("train", "dev", "test", "all"))
        self.root = Path(root)
        self.sample_rate = sample_rate
        self.encode = encode
        rows = read_rows(self.root)
        # Two lines with one name would be in two splits by chance: the first one counts.
        by_path = {Path(row["motion_pt_path"]): row for row in reversed(rows)}
        self.rows = [by_path[path] for path in split_paths(list(by_path), split)]
        self.shards = sorted(self.root.glob("shards/*.tar"))
        names = [row[column] for row in self.rows for column in COLUMNS[:2]]
        self.places = find_files(self.root, names, self.shards).reshape(-1, 2, 3)
        texts = [[row[name] for name in COLUMNS] for row in self.rows]
        self.key = stable_hash(["published", texts, self.places.tolist(), sample_rate])

    def __len__(self) -> int:
        return len(self.rows)

    def text(self, index: int) -> str:
        """What is said in a clip. Raises BrokenClip if that is nothing."""
        row = self.rows[index]
        return checked_text(row["motion_pt_path"], row["text"], self.encode)

    def read(self, index: int, column: int) -> bytes:
        """The bytes of a clip's motion (column 0) or sound (1)."""
        name = self.rows[index][COLUMNS[column]]
        shard, offset, size = self.places[index, column].tolist()
        if shard == MISSING:
            raise BrokenClip(name, "it is neither in the folder nor in one of its shards")
        path = self.root / name if shard == IN_A_FILE else self.shards[shard]
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def motion(self, index: int) -> np.ndarray:
        """Motion latents (T, K) float32, not standardized."""
        name = self.rows[index][COLUMNS[0]]
        try:
            motion = torch.load(io.BytesIO(self.read(index, 0)), weights_only=True)
            motion = motion.detach().float().numpy()
        except BrokenClip:
            raise
        except Exception as error:                # whatever a damaged file leads to
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise BrokenClip(name, f"it holds no motion ({reason})") from None
        if motion.ndim != 2 or not np.isfinite(motion).all():
            raise BrokenClip(name, f"its motion should be finite and (T, K); it is {motion.shape}")
        return motion

    def sound(self, index: int) -> np.ndarray:
        """Mono audio (n,) float32."""
        name = self.rows[index][COLUMNS[1]]
        return read_sound(name, self.read(index, 1), self.sample_rate)

    def __getitem__(self, index: int) -> Clip:
        """The clip, as long as its motion, of which at most 30 s are kept, from a place that its
        name decides."""
        name = self.rows[index][COLUMNS[0]]
        text = self.text(index)
        motion = self.motion(index)
        sound = self.sound(index)
        if len(motion) < SHORTEST:
            raise BrokenClip(name, f"too short: {len(motion) / FPS:.2f} s; a clip has "
                                   f"{SHORTEST / FPS} s or more")
        missing = len(motion) / FPS - len(sound) / self.sample_rate
        if missing > 0.5:
            raise BrokenClip(name, f"its sound ends {missing:.1f} s before its motion")
        start = 0
        if len(motion) > LONGEST:
            start = int(stable_hash(name), 16) % (len(motion) - LONGEST + 1)
        motion = motion[start:start + LONGEST]
        sound = fit_length(sound[start * self.sample_rate // FPS:], len(motion), self.sample_rate)
        pictures = np.zeros((len(motion), 0, 0, 3), np.uint8)
        return Clip(Path(name).stem, text, pictures, sound, motion=motion)


class SpeechList:
    """Speech without video, as a source of clips: a text file with the path of a .wav on each line,
    relative to its folder; beside each .wav a .json of the same name, {"text": ...}.

    The arguments are those of PublishedData. At most the first 30 s of a file are kept. What is
    missing or broken raises BrokenClip.
    """
    size = 0

    def __init__(self, path: Path | str, sample_rate=24000, encode=None):
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path}: there is no such list of .wav files")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        self.paths = [path.parent / line.strip() for line in lines if line.strip()]
        if not self.paths:
            raise ValueError(f"{path} names no .wav file")
        self.sample_rate = sample_rate
        self.encode = encode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Clip:
        path = self.paths[index]
        about = path.with_suffix(".json")
        for needed in (path, about):
            if not needed.is_file():
                raise BrokenClip(needed, "it is not there")
        try:
            text = json.loads(about.read_text(encoding="utf-8"))["text"]
        except (ValueError, KeyError, TypeError):
            raise BrokenClip(about, 'it is not {"text": ...}') from None
        text = checked_text(str(path), str(text), self.encode)
        sound = read_sound(str(path), path.read_bytes(), self.sample_rate)
        frames = min(LONGEST, len(sound) * FPS // self.sample_rate)
        if frames < SHORTEST:
            raise BrokenClip(path, f"too short: {len(sound) / self.sample_rate:.2f} s")
        sound = fit_length(sound, frames, self.sample_rate)
        return Clip(path.stem, text, np.zeros((frames, 0, 0, 3), np.uint8), sound)
