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
from engine.checkpoints import replacing
from engine.media import SILENCE, BrokenClip, fit_length
from engine.shards import pack, unpack
from model import FPS
from paper.autoencoders import resample

COLUMNS = ("motion_pt_path", "wav_path", "text")
IN_A_FILE = -1                  # in place of the number of a shard
MISSING = -2


def is_published(root: Path | str) -> bool:
    """Whether a folder has this layout: a CSV file in metadata/ with one of the columns."""
    for path in sorted(Path(root).glob("metadata/*.csv")):
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            if any(name in file.readline() for name in COLUMNS[:2]):
                return True
    return False


def read_rows(root: Path) -> list[dict]:
    """The lines of all CSV files, with paths in one spelling. ValueError for one without a column
    that is needed, or that can't be read. Lines that name the same motion as an earlier one, or
    none, are left out, with a line that counts them."""
    rows = {}
    dropped = 0
    for path in sorted(root.glob("metadata/*.csv")):
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file, strict=True)
            try:
                missing = [name for name in COLUMNS if name not in (lines.fieldnames or ())]
                if missing:
                    raise ValueError(f"{path} has no column {', '.join(missing)}; its columns are "
                                     f"{', '.join(lines.fieldnames or ['none'])}")
                for line in lines:
                    row = {name: line[name] or "" for name in COLUMNS}
                    for name in COLUMNS[:2]:
                        row[name] = Path(row[name]).as_posix() if row[name] else ""
                    if row["motion_pt_path"] in ("", *rows):
                        dropped += 1
                        continue
                    rows[row["motion_pt_path"]] = row
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(f"{path}, line {lines.line_num + 1}: {error}") from None
    if not rows:
        raise ValueError(f"{root}/metadata: there is no clip in these files")
    if dropped:
        print(f"{root}/metadata: {dropped} lines name no motion, or one that is named before, and "
              "are left out")
    return list(rows.values())


def find_files(root: Path, names: list[str], shards: list[Path]) -> np.ndarray:
    """Where each file is: (names, 3) int64, shard, offset and size. ValueError for a shard that is
    no tar file, or only part of one."""
    places = np.full((len(names), 3), MISSING)
    wanted = {}
    for number, name in enumerate(names):
        wanted.setdefault(name, []).append(number)
    for number, path in enumerate(tqdm(shards, desc="shards", leave=False)):
        try:
            with tarfile.open(path, "r:") as shard:
                for member in shard:
                    name = member.name.removeprefix("./")
                    if member.isreg():
                        for place in wanted.get(name, ()):
                            places[place] = number, member.offset_data, member.size
                end = shard.offset
        except tarfile.TarError as error:
            raise ValueError(f"{path} is no tar file, or only part of one ({error})") from None
        # A tar ends with blocks of zeros. Where it was cut off, Python just stops reading.
        with open(path, "rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ValueError(f"{path} is no tar file, or only part of one (it has no end)")
    for name, numbers in wanted.items():
        inside = name and not Path(name).is_absolute() and ".." not in Path(name).parts
        if inside and places[numbers[0], 0] == MISSING and (root / name).is_file():
            places[numbers] = IN_A_FILE, 0, (root / name).stat().st_size
    return places


def read_sound(name: str, content: bytes, sample_rate: int) -> np.ndarray:
    """A file's bytes -> mono audio (n,) float32 in [-1, 1], of at most 60 s. BrokenClip with its
    name if they hold none, or nothing to hear."""
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate = file.samplerate
            wave = file.read(60 * rate, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise BrokenClip(name, f"it holds no sound ({error})") from None
    mono = torch.from_numpy(wave.mean(1))[None]                               # (1, n)
    if not torch.isfinite(mono).all():
        raise BrokenClip(name, "its sound holds values that are not finite numbers")
    if not mono.numel() or mono.abs().max() < SILENCE:
        raise BrokenClip(name, "its sound is silent")
    if rate != sample_rate:
        mono = resample(mono, rate, sample_rate)
    return (mono[0] / mono.abs().max().clamp(min=1)).numpy()


def checked_text(name: str, text: str, seconds: float, encode) -> str:
    """A text that can be said in so many seconds. BrokenClip with the name of its clip if it can't.
    encode: see PublishedData."""
    text = text.strip()
    try:
        if not text:
            raise ValueError("it is empty")
        # Nobody speaks 50 characters per second: such a text belongs to another clip.
        if len(text) > 50 * seconds:
            raise ValueError(f"it has {len(text)} characters for {seconds:.1f} s")
        text.encode()                             # half of a pair of surrogates can't be written
        if encode:
            encode(text)
    except ValueError as error:
        raise BrokenClip(name, f"its text can't be used: {error}") from None
    return text


class PublishedData:
    """A source of clips, as data.ClipFolder is one.

    Args:
        root: the folder. split: train, dev, test or all, by a hash of the motion's file name, see
            data.split_paths. sample_rate: in Hz. encode: text -> ids, which raises ValueError for a
            text that can't be said; None lets any text pass that is not empty.
        index: a file for what was found, see `keep`. It is read instead of the metadata and the
            shards if these are as they were.

    Asking for a clip whose files are missing, short or broken raises BrokenClip, which names it. No
    other one takes its place.
    """
    size = 0                    # there are no pictures

    def __init__(self, root: Path | str, split="train", sample_rate=24000, encode=None,
                 index: Path | None = None):
        check_split(split, ("train", "dev", "test", "all"))
        self.root = Path(root)
        self.sample_rate = sample_rate
        self.encode = encode
        self.index = index
        # Where the files are, in a dict of tensors: rows and their starts, of three texts for each
        # clip, see engine.shards.pack; places (n, 2, 3), see find_files; and the tar files.
        self.found = None
        files = [*sorted(self.root.glob("metadata/*.csv")), *sorted(self.root.glob("shards/*.tar"))]
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        stamp = stable_hash(["published", files, split, sample_rate])
        if index and index.exists():
            self.found = self.read_index()
        self.kept = bool(self.found) and self.found["stamp"] == stamp and not self.moved()
        if not self.kept:
            self.found = self.look(split) | {"stamp": stamp}

    def look(self, split: str) -> dict:
        """Read the metadata, and find all files."""
        by_path = {Path(row["motion_pt_path"]): row for row in read_rows(self.root)}
        rows = [by_path[path] for path in split_paths(list(by_path), split)]
        shards = sorted(self.root.glob("shards/*.tar"))
        names = [row[column] for row in rows for column in COLUMNS[:2]]
        places = find_files(self.root, names, shards).reshape(-1, 2, 3)
        texts = [[row[name] for name in COLUMNS] for row in rows]
        # Of the places only the sizes: shards may be extracted later.
        key = stable_hash(["published", texts, places[..., 2].tolist(), self.sample_rate])
        packed, starts = pack([text for row in texts for text in row])
        return dict(key=key, shards=[str(path) for path in shards], rows=packed, starts=starts,
                    places=torch.from_numpy(places))

    def read_index(self) -> dict | None:
        """What `keep` has written; None if it is damaged."""
        try:
            return torch.load(self.index, mmap=True, weights_only=True)
        except Exception:                         # whatever a damaged file leads to
            return None

    def moved(self) -> bool:
        """Whether a file that was in no tar, or nowhere, is not as it was found."""
        places = self.found["places"]
        for index, column in (places[..., 0] < 0).nonzero().tolist():
            path = self.root / self.column(index, COLUMNS[column])
            size = path.stat().st_size if path.is_file() else 0
            if size != places[index, column, 2].clamp(min=0):
                return True
        return False

    def keep(self) -> None:
        """Write the index. From then on it is mapped into memory: a million clips are handed to
        worker processes by the name of a file."""
        if self.kept:
            return
        with replacing(self.index) as file:
            torch.save(self.found, file)
        self.found = self.read_index()
        self.kept = True

    def __getstate__(self) -> dict:
        return self.__dict__ | {"found": None} if self.kept else self.__dict__

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state
        if self.found is None:
            self.found = self.read_index()

    @property
    def key(self) -> str:
        return self.found["key"]

    def column(self, index: int, name: str) -> str:
        """What the metadata say of a clip in one of COLUMNS."""
        number = len(COLUMNS) * index + COLUMNS.index(name)
        return unpack(self.found["rows"], self.found["starts"], number)

    def __len__(self) -> int:
        return len(self.found["places"])

    def read(self, index: int, column: str) -> bytes:
        """The bytes of the file that a column names."""
        name = self.column(index, column)
        shard, offset, size = self.found["places"][index, COLUMNS.index(column)].tolist()
        if shard == MISSING:
            raise BrokenClip(name, "it is neither in the folder nor in one of its shards")
        path = self.root / name if shard == IN_A_FILE else Path(self.found["shards"][shard])
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise BrokenClip(name, f"{path} can't be read: {error.strerror}") from None

    def motion(self, index: int) -> np.ndarray:
        """Motion latents (T, K) float32, not standardized."""
        name = self.column(index, "motion_pt_path")
        try:
            content = self.read(index, "motion_pt_path")
            motion = torch.load(io.BytesIO(content), weights_only=True)
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
        content = self.read(index, "wav_path")
        return read_sound(self.column(index, "wav_path"), content, self.sample_rate)

    def __getitem__(self, index: int) -> Clip:
        """The clip, as long as its motion, of which at most 30 s are kept, from a place that its
        name decides."""
        name = self.column(index, "motion_pt_path")
        motion = self.motion(index)
        text = checked_text(name, self.column(index, "text"), len(motion) / FPS, self.encode)
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
        return Clip(Path(name).stem, text, pictures, sound, poses=motion)


class SpeechList:
    """Speech without video, as a source of clips: a text file with the path of a .wav on each line,
    relative to its folder; beside each .wav a .json of the same name, {"text": ...}.

    path: of the list. sample_rate, encode: as for PublishedData. At most the first 30 s of a file
    are kept. What is missing or broken raises BrokenClip. ValueError for a list that names no file.
    """
    size = 0

    def __init__(self, path: Path | str, sample_rate=24000, encode=None):
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path}: there is no such list of .wav files")
        lines = map(str.strip, path.read_text(encoding="utf-8-sig").splitlines())
        names = [line for line in lines if line]
        if not names:
            raise ValueError(f"{path} names no .wav file")
        self.folder = path.parent
        # Packed, since a worker process gets all of them.
        self.names, self.starts = pack(names)
        self.sample_rate = sample_rate
        self.encode = encode

    @property
    def key(self) -> str:
        """A hash of the list, and of the sizes of its files."""
        sizes = []
        for index in range(len(self)):
            wav = self.path(index)
            sizes += [path.stat().st_size if path.is_file() else None
                      for path in (wav, wav.with_suffix(".json"))]
        names = self.names.numpy().tobytes().hex()
        return stable_hash(["speech", names, self.starts.tolist(), sizes, self.sample_rate])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def path(self, index: int) -> Path:
        """Of a .wav file."""
        return self.folder / unpack(self.names, self.starts, index)

    def __getitem__(self, index: int) -> Clip:
        path = self.path(index)
        about = path.with_suffix(".json")
        for needed in (path, about):
            if not needed.is_file():
                raise BrokenClip(needed, "it is not there")
        try:
            text = json.loads(about.read_text(encoding="utf-8"))["text"]
            content = path.read_bytes()
        except (ValueError, KeyError, TypeError):
            text = None
        except OSError as error:
            raise BrokenClip(path, f"it can't be read: {error.strerror}") from None
        if not isinstance(text, str):
            raise BrokenClip(about, 'it is not {"text": ...}')
        sound = read_sound(str(path), content, self.sample_rate)
        text = checked_text(str(path), text, len(sound) / self.sample_rate, self.encode)
        frames = min(LONGEST, len(sound) * FPS // self.sample_rate)
        if frames < SHORTEST:
            raise BrokenClip(path, f"too short: {len(sound) / self.sample_rate:.2f} s")
        sound = fit_length(sound, frames, self.sample_rate)
        return Clip(path.stem, text, np.zeros((frames, 0, 0, 3), np.uint8), sound)
