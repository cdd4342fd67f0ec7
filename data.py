"""Data: clips of talking faces in, batches of latents out.

A Clip is a text, a square video (T, S, S, 3) uint8 at 25 frames per second and mono audio (n,)
float32 of exactly T frames. In the order in which data passes:

    SyntheticCorpus or ClipFolder      makes or decodes a clip when asked
      -> cache_clips -> ClipStore      decoded clips on disk, which the autoencoders learn from
      -> LatentSet                     encoded clips on disk, which the Talker learns from
      -> BatchOrder, collate           which clips, and one batch of them: text ids (B, L), and
                                       for each modality latents (B, T, d)

The synthetic corpus stands in for a recorded one. Cartoon speakers (lab/cartoon.py) say sentences
of random English words (english/sentences.py); speech and face of an utterance come from one
articulatory trajectory, so they share their cause, and the truth is known for every frame.

Axis letters: B batch, T frames, S side of the pictures, L text tokens, n audio samples, d width of
a latent. `python data.py` prints the shapes.
"""
import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Iterable, Iterator, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.checkpoints import named_if_full
from engine.folders import (VIDEOS, clip_name, find_videos, other_names, printable,
                            why_unreadable)
from engine.media import (BrokenClip, digest, fit_length, look, read_audio, read_video,
                          write_json)
from engine.shards import open_shards, unpack, write_set
from engine.transcripts import read_transcript
from engine.workers import kept, parallel
from english.sentences import KINDS
from english.text import SYMBOLS, encode_phones, read, small, write_phones
from lab.cartoon import (CONTROL_RATE, VERSION, articulate, make_speaker, move_face, render,
                         synthesize)
from model import FPS

SPLITS = ("train", "dev", "test")
TIMINGS = ("natural", "free")
SHORTEST, LONGEST = 10, 30 * FPS            # frames of a usable clip


@dataclass
class Clip:
    """One utterance, seen and heard."""

    name: str
    text: str
    video: np.ndarray                       # (T, S, S, 3) uint8
    audio: np.ndarray                       # (T * sample_rate // FPS,) float32 in [-1, 1]
    speaker: int | None = None              # their number; None for real clips
    tracks: dict[str, np.ndarray] | None = None     # name -> (T,) float32, the true controls of the
    #                                         face (lab.cartoon.move_face); None for real clips
    poses: np.ndarray | None = None         # (T, K) float32, what a clip without pictures comes
    #                                         with: LIA-X's numbers, not standardized

    @property
    def speech_alone(self) -> bool:
        """Whether there is neither a picture nor a pose."""
        return not self.video.size and self.poses is None

    @property
    def opening(self) -> np.ndarray | None:
        """(T,) float32, the true opening of the mouth, 0 shut to 1 wide; None if unknown."""
        return self.tracks["opening"] if self.tracks else None


def check_split(split: str, splits=SPLITS) -> None:
    if split not in splits:
        raise ValueError(f"there is no split {split!r}: use {', '.join(splits)}")


def stable_hash(parts) -> str:
    """A value that JSON can write -> 16 hexadecimal digits. They are the same in every process,
    unlike those of `hash`."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


# ----------------------------------------------------------------------------------------- text
CHARACTERS = ("<pad>", "<unknown>", *" abcdefghijklmnopqrstuvwxyz0123456789'.,?!-:;")


def encode_characters(text: str) -> list[int]:
    """Text -> ids, one per character, none of them 0 (padding).

    Accents, case, repeated spaces and invisible characters are removed. Any other character that is
    not in CHARACTERS becomes 1. ValueError if no letter or digit is left."""
    ids = [CHARACTERS.index(mark) if mark in CHARACTERS else 1 for mark in small(text)]
    if not any(CHARACTERS[i].isalnum() for i in ids):
        raise ValueError(
            f"the text {text[:40]!r} has no letter a-z and no digit, so there is nothing to say")
    return ids


def write_characters(symbols: list[str]) -> str:
    return "".join(symbol for symbol in symbols if len(symbol) == 1).strip()


class Alphabet(NamedTuple):
    """What a text is made of for the models: the symbol of each id, text -> ids, and symbols ->
    a text that gives them."""

    symbols: tuple[str, ...]
    encode: Callable
    write: Callable


# "Hello world?" becomes HH AH L OW, a space, W ER L D and ?: [20, 7, 25, 29, 1, 40, 16, 25, 13, 4].
# There are 44 symbols: padding (0, CTC's blank as well), space, comma, full stop, question mark and
# 39 phones. Spelling is not learned from a few thousand sentences: in a trial a recogniser that had
# 20 words to choose from erred on 65 % of them with characters, on 9 % with phones (docs/paper.md).
ALPHABETS = {
    "phones": Alphabet(SYMBOLS, encode_phones, write_phones),
    "characters": Alphabet(CHARACTERS, encode_characters, write_characters),
}


def pad_text(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids of B texts -> text (B, L) int64, padded on the left with 0, and its mask (B, L) bool,
    which alone tells what is padding: another vocabulary may use 0 as well."""
    longest = max(len(row) for row in ids)
    padding = [longest - len(row) for row in ids]
    text = torch.tensor([[0] * n + list(row) for n, row in zip(padding, ids)])    # (B, L)
    mask = torch.arange(longest) >= torch.tensor(padding)[:, None]                # (B, L)
    return text, mask


# ------------------------------------------------------------------------- the synthetic corpus
class SyntheticCorpus:
    """Random sentences, spoken by cartoon speakers. Clip i is made when it is asked for, and
    depends on i and on the arguments below, n excepted.

    Args:
        split: train, dev or test. Some words are in the sentences of one of them only.
        n: number of clips.
        speakers: their numbers; by default 0 to 255 for train, 0 to 31 for dev and test. Those of
            UNSEEN, from 256 on, are never in the default of train.
        size: side of the pictures in pixels.
        sample_rate: in Hz, a multiple of 200 from 16000 on.
        sentences: open, of one to twelve words of the lexicon, or grid, of GRID's grammar.
        timing: natural, or free, where every word and pause has a random length, so that the text
            does not tell when anything is said.

    Raises ValueError for arguments out of these ranges.
    """
    SPEAKERS = dict(train=range(256), dev=range(32), test=range(32))
    UNSEEN = range(256, 288)

    def __init__(self, split="train", n=1000, speakers: Iterable[int] | None = None, seed=0,
                 size=64, sample_rate=16000, sentences="open", timing="natural"):
        check_split(split)
        if sentences not in KINDS:
            raise ValueError(f"the sentences are one of {', '.join(KINDS)}, not {sentences!r}")
        if timing not in TIMINGS:
            raise ValueError(f"the timing is one of {', '.join(TIMINGS)}, not {timing!r}")
        speakers = list(self.SPEAKERS[split] if speakers is None else speakers)
        if not speakers or min(speakers) < 0:
            raise ValueError(
                "speakers must be one or more numbers from 0 on, such as range(32); "
                f"got {speakers}")
        if n < 1 or seed < 0:
            raise ValueError("the corpus needs n of at least 1 and a seed of at least 0; "
                             f"got n={n}, seed={seed}")
        if size < 16 or sample_rate < 16000 or sample_rate % CONTROL_RATE:
            raise ValueError(
                "the corpus needs a size of at least 16 and a sample rate from 16000 on that is a "
                f"multiple of {CONTROL_RATE}; got size={size}, sample_rate={sample_rate}")

        # Clip i is by speaker i modulo their number. For training they are shuffled, so that the
        # first few clips hold voices of every kind.
        if split == "train":
            speakers = np.random.default_rng(0).permutation(speakers).tolist()
        self.split = split
        self.n = n
        self.speakers = speakers
        self.seed = seed
        self.size = size
        self.sample_rate = sample_rate
        self.draw_sentence = KINDS[sentences]
        self.timing = timing
        # The key says what the clips depend on (not n: more clips begin with the same ones).
        of = ["synthetic", VERSION, split, speakers, seed, size, sample_rate, sentences]
        self.key = stable_hash(of if timing == "natural" else [*of, timing])

    def __len__(self) -> int:
        return self.n

    def text(self, index: int) -> str:
        """The sentence of a clip, without making the clip."""
        if not 0 <= index < self.n:
            raise IndexError(f"clip {index} of a corpus of {self.n}")
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        return self.draw_sentence(rng, self.split)

    def __getitem__(self, index: int) -> Clip:
        text = self.text(index)
        speaker = self.speakers[index % len(self.speakers)]
        name = f"{self.split}_{index:05d}_s{speaker:03d}"
        entropy = [self.seed, SPLITS.index(self.split), index, 1]
        return self._make(name, text, speaker, entropy)

    def references(self, speaker: int) -> list[Clip]:
        """Reference clips for voice and face of a speaker, always the same ones, of training
        sentences: 8 for a speaker of this corpus, 1 for any other."""
        numbers = range(2, 18, 2) if speaker in self.speakers else [2]
        clips = []
        for number in numbers:
            rng = np.random.default_rng([VERSION, speaker, number])
            text = self.draw_sentence(rng, "train")
            entropy = [VERSION, speaker, number + 1]
            clips.append(self._make(f"reference_s{speaker:03d}", text, speaker, entropy))
        return clips

    def say(self, text: str, speaker: int, name="clip", seed=0) -> Clip:
        """Any text, by any speaker. ValueError for a text with nothing to say."""
        return self._make(name, text, speaker, [VERSION, speaker, seed, 0])

    def _make(self, name: str, text: str, number: int, entropy: list[int]) -> Clip:
        rng = np.random.default_rng(entropy)
        speaker = make_speaker(number)
        # One trajectory of the articulators moves the face and makes the sound.
        trajectory = articulate(read(text).symbols, speaker, rng, self.timing == "free")
        controls = move_face(trajectory, rng)
        audio = synthesize(trajectory, speaker, self.sample_rate, rng)
        video = render(controls, speaker, self.size)
        return Clip(name, text, video, audio, number, controls)


# ------------------------------------------------------------------------------------ real clips
def read_clip(path: Path | str, size: int, sample_rate: int, crop: tuple | None = None) -> Clip:
    """A video file with sound -> Clip without a text, as long as its video. Raises BrokenClip.
    The arguments are those of ClipFolder."""
    streams = look(path)
    video = read_video(path, size, crop, LONGEST / FPS, streams)
    if not SHORTEST <= len(video) <= LONGEST:
        wrong = "short" if len(video) < SHORTEST else "long"
        raise BrokenClip(path, f"too {wrong}: {len(video) / FPS:.2f} s; "
                               f"a clip has {SHORTEST / FPS} to {LONGEST // FPS} s")
    sound = read_audio(path, sample_rate, LONGEST / FPS + 1, streams=streams)
    audio = fit_length(sound, len(video), sample_rate)
    return Clip(Path(path).stem, "", video, audio)


class ClipFolder:
    """A tree of video files with the text of each beside it: the same name, ending in .txt, or in
    .align as in GRID (lines `start end word`); see engine/transcripts.py for what is in them.

    Args:
        root: the folder.
        split: train, dev or test, see `split_paths`; "all" takes all clips.
        size: side of the pictures in pixels. sample_rate: in Hz.
        crop: (x, y, side) in pixels of the files, and the size of these where it is for that size
            alone, see engine.media.read_video; None is the largest square in the centre.
        encode: text -> ids, which raises ValueError for a text that can't be said.
        without: a folder of the tree that is left out: that of a run, which has clips of its own.

    Attributes: paths, one per clip, among them what can't be read. key: a hash of what is in them.

    Raises ValueError if no clip is found. Asking for a clip that can't be used raises BrokenClip.
    """
    def __init__(self, root: Path | str, split="train", size=64, sample_rate=16000,
                 crop: tuple | None = None, encode: Callable = encode_characters,
                 without: Path | str | None = None):
        check_split(split, (*SPLITS, "all"))
        if size < 16 or sample_rate < 8000 or sample_rate % (4 * FPS):
            raise ValueError(f"size must be at least 16 and sample_rate a multiple of {4 * FPS} "
                             f"from 8000 on; got {size} and {sample_rate}")
        if crop and (len(crop) not in (3, 4) or min(crop[:3]) < 0 or crop[2] < 2):
            raise ValueError("crop must be three numbers, x, y and side, in pixels of the source; "
                             f"got {crop}")
        self.root = Path(root)
        self.size = size
        self.sample_rate = sample_rate
        self.crop = crop
        self.encode = encode
        if not self.root.is_dir():
            raise ValueError(f"{root}: there is no such folder of clips")
        if without is not None and self.root.resolve() == Path(without).resolve():
            raise ValueError(f"{root} holds the clips, and can't be the folder of the run as well: "
                             "give the run a folder of its own")
        found = find_videos(self.root, without)
        if not found:
            raise ValueError(f"{root}: no clips in it or below it; looked for files ending in "
                             f"{' '.join(VIDEOS)}")
        self.paths = split_paths(found, split)
        # Names come from the whole folder, so that a clip has the same one in any split.
        self.other_names = other_names(self.root, found)

        # What can't be read has no content for the hash, but takes a place among the clips.
        missing = {path for path in self.paths if why_unreadable(path)}
        present = [path for path in self.paths if path not in missing]
        names = sorted(str(path.relative_to(self.root)) for path in missing)
        self.key = stable_hash(
            [digest(self.root, present), size, sample_rate, crop and crop[:3], split, *names])

    def __len__(self) -> int:
        return len(self.paths)

    def text(self, index: int) -> str:
        """What is said in a clip. Raises BrokenClip if that is unknown, or nothing."""
        path = self.paths[index]
        if reason := why_unreadable(path):
            raise BrokenClip(printable(path), reason)
        try:
            text = read_transcript(path)
            self.encode(text)                           # raises ValueError if there is no word
        except FileNotFoundError:
            raise BrokenClip(
                path, "no text beside it (same name, ending in .txt or .align)") from None
        except PermissionError:
            raise BrokenClip(path, "there is no permission to read the text beside it") from None
        except ValueError as error:
            raise BrokenClip(path, f"its text can't be used: {error}") from None
        return text

    def __getitem__(self, index: int) -> Clip:
        path = self.paths[index]
        text = self.text(index)
        clip = read_clip(path, self.size, self.sample_rate, self.crop)
        # Nobody speaks 50 characters per second: such a text belongs to another clip.
        if len(text) > 2 * len(clip.video):
            raise BrokenClip(path, f"its text has {len(text)} characters, and the clip lasts only "
                                   f"{len(clip.video) / FPS:.1f} s")
        name = self.other_names.get(path) or clip_name(self.root, path)
        return replace(clip, name=name, text=text)


def split_paths(paths: list[Path], split: str) -> list[Path]:
    """The files of a split: about 5 % test, 5 % dev, and the rest for training.

    A hash of the file's name without ending decides, so that a folder may grow and few clips change
    sides. In GRID that name is the sentence, which all speakers of it thus say in one split. dev
    and test have a clip each if there are three; fewer than that serve as every split."""
    # The lowest hashes are test, the next ones dev. In this order the first few files of a split
    # are of every kind.
    draws = {path: int(stable_hash(path.stem), 16) / 16 ** 16 for path in paths}    # in [0, 1)
    paths = sorted(paths, key=lambda path: (draws[path], path))
    if split == "all" or len(paths) < 3:
        return paths
    test = sum(draw < 0.05 for draw in draws.values())
    dev = sum(draw < 0.1 for draw in draws.values())
    test = min(max(1, test), len(paths) - 2)
    dev = min(max(test + 1, dev), len(paths) - 1)
    return dict(test=paths[:test], dev=paths[test:dev], train=paths[dev:])[split]


# --------------------------------------------------------------------- clips one after the other
def make_clip(source, index: int) -> Clip | BrokenClip:
    """A clip of a source, or the BrokenClip that says why there is none."""
    try:
        return source[index]
    except BrokenClip as error:
        return error


def usable(source, needed=True) -> Iterator[Clip]:
    """The clips of a source. Broken ones are named and left out; ValueError if all are broken and
    one is needed."""
    found = 0
    for i in range(len(source)):
        clip = make_clip(source, i)
        if isinstance(clip, BrokenClip):
            print(f"left out {clip}")
            continue
        found += 1
        yield clip
    if not found and needed:
        raise ValueError(f"none of the {len(source)} clips can be used")


# -------------------------------------------------------------------------------- decoded clips
STORE_FORMAT = 2                            # raise it whenever the files of a ClipStore change


def read_index(folder: Path | str) -> dict | None:
    """index.json of a finished ClipStore; None if there is none, or one of another format."""
    path = Path(folder) / "index.json"
    index = json.loads(path.read_text()) if path.is_file() else {}
    return index if index.get("format") == STORE_FORMAT else None


class ClipStore:
    """Decoded clips in a folder that cache_clips made. Item i is a Clip.

    The files hold all clips one after the other: video.u8 (frames of all, S, S, 3), audio.i16
    (samples of all,) and, if the source has tracks, tracks.f32 (frames of all, number of tracks).
    They are memory-mapped, so that memory stays bounded however many clips there are.

    Attributes: frames, (n,) lengths. skipped: the broken clips, one line each. number_here: number
    of a clip in its source -> its number in here. size, sample_rate, key: those of the source.
    """

    def __init__(self, folder: Path | str):
        index = read_index(folder)
        if index is None:
            raise ValueError(f"{folder}: no finished cache of clips here; cache_clips makes one")
        self.size = index["size"]
        self.sample_rate = index["sample_rate"]
        self.key = index["key"]
        self.skipped = index["skipped"]
        self.clips = index["clips"]                     # name, text, speaker, frames of each
        # By the number that a clip has in its source: the number that it has here.
        self.number_here = {number: here for here, number in enumerate(index["numbers"])}

        # Clip i has the rows starts[i] to starts[i + 1] of each file.
        self.frames = np.array([frames for *_, frames in self.clips])
        self.starts = np.concatenate([[0], np.cumsum(self.frames)])
        total = self.starts[-1]
        shape = (total, self.size, self.size, 3)
        # A source without pictures leaves an empty file.
        self.video = np.zeros(shape, np.uint8)
        if self.size:
            self.video = np.memmap(f"{folder}/video.u8", np.uint8, "r", shape=shape)
        self.audio = np.memmap(f"{folder}/audio.i16", np.int16, "r")
        self.track_names = index["tracks"]
        if self.track_names:
            shape = (total, len(self.track_names))
            self.tracks = np.memmap(f"{folder}/tracks.f32", np.float32, "r", shape=shape)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Clip:
        name, text, speaker, _ = self.clips[index]
        start, end = self.starts[index], self.starts[index + 1]
        samples = slice(start * self.sample_rate // FPS, end * self.sample_rate // FPS)
        audio = self.audio[samples].astype(np.float32) / 32767
        tracks = None
        if self.track_names:
            tracks = dict(zip(self.track_names, np.array(self.tracks[start:end].T, order="C")))
        return Clip(name, text, self.video[start:end], audio, speaker, tracks)


def cache_clips(source, n: int, folder: Path | str, workers=2, label="corpus") -> ClipStore:
    """Make or decode the first n clips of a source (all, if it has fewer) into a folder.

    A finished store there is reused if its clips are the same ones. Broken clips are named and left
    out. workers: processes. ValueError if all clips are broken.
    """
    folder = Path(folder)
    n = min(n, len(source))
    index = read_index(folder)
    if index and (index["key"], index["n"]) == (source.key, n):
        return ClipStore(folder)

    # The index is written last. From here until then the store counts as unfinished.
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    (folder / "tracks.f32").unlink(missing_ok=True)
    clips = []
    numbers = []
    skipped = []
    made = parallel(make_clip, source, range(n), workers, label)
    with (named_if_full(folder), open(folder / "video.u8", "wb") as video,
          open(folder / "audio.i16", "wb") as audio):
        for number, clip in kept(made, n, label, skipped):
            video.write(clip.video)
            audio.write(np.round(clip.audio * 32767).astype(np.int16))
            # The tracks, one column each, if this source knows any. All its clips have the same.
            names = list(clip.tracks or {})
            if names:
                with open(folder / "tracks.f32", "ab") as tracks:
                    tracks.write(np.stack([clip.tracks[name] for name in names], 1))     # (T, K)
            clips.append((clip.name, clip.text, clip.speaker, len(clip.video)))
            numbers.append(number)
    write_json(folder / "index.json", dict(
        format=STORE_FORMAT, key=source.key, n=n, size=source.size, sample_rate=source.sample_rate,
        tracks=names, skipped=skipped, numbers=numbers, clips=clips))
    return ClipStore(folder)


# -------------------------------------------------------------------------------- encoded clips
class LatentSet:
    """Encoded clips in a folder, memory-mapped from the shards that they are written in
    (engine/shards.py). Item i is a dict of tensors: text (L,) int64, and float32 arrays by name.

    An array with two axes is a sequence, (T, d), with as many frames as the clip; one with a single
    axis is a vector per clip, (G,). train.py writes for each modality NAME a sequence of latents,
    and a vector NAME_condition that its flow-matching head is conditioned on. Other names work too.

    Args:
        folder: with a finished set; ValueError if there is none. encode: text -> ids.

    Attributes: frames, (n,) lengths of the clips.
    """

    @staticmethod
    def write(folder: Path | str, items: Iterable[dict]) -> None:
        """Write a set, clip by clip as they come.

        items: per clip a dict of name, text and arrays as above, of which those in float16 stay
        so. ValueError for sequences that are not of one length, for numbers that are not finite,
        or if there are no items."""
        write_set(Path(folder), items)

    def __init__(self, folder: Path | str, encode: Callable = encode_phones):
        self.encode = encode
        self.shards = open_shards(Path(folder))
        self.frames = np.concatenate([shard["frames"].numpy() for shard in self.shards])
        # Shard s has the clips firsts[s] to firsts[s + 1].
        self.firsts = np.cumsum([0] + [len(shard["frames"]) for shard in self.shards])

    def __len__(self) -> int:
        return len(self.frames)

    def shard_of(self, index: int) -> tuple[dict, int]:
        """The shard that holds a clip, and the clip's number in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no clip {index} among {len(self)}")
        number = np.searchsorted(self.firsts, index, side="right") - 1
        return self.shards[number], int(index - self.firsts[number])

    def text(self, index: int) -> str:
        shard, i = self.shard_of(index)
        return unpack(shard["text"], shard["text_starts"], i)

    def vectors(self, name: str) -> np.ndarray:
        """A vector of all clips, (n, G) float32."""
        return np.concatenate([shard["vectors"][name].float().numpy() for shard in self.shards])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        shard, i = self.shard_of(index)
        start, end = shard["starts"][i:i + 2].tolist()
        item = {name: array[start:end] for name, array in shard["sequences"].items()}
        item |= {name: array[i] for name, array in shard["vectors"].items()}
        # Copies, so that nobody writes into the mapped memory.
        item = {name: array.to(torch.float32, copy=True) for name, array in item.items()}
        return item | {"text": torch.tensor(self.encode(self.text(index)))}


# -------------------------------------------------------------------------------------- batches
def collate(items: list[dict[str, Tensor]], patch: int,
            to_the_end: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Items of a LatentSet -> one batch.

    to_the_end: names of sequences that keep the frames after the last whole patch.

    Returns a dict:
        text (B, L) int64 and text_mask (B, L) bool, padded on the left.
        frames (B,) int64: how many frames each clip has. whole (B,) int64: how many of these are in
            whole patches of `patch` frames.
        every sequence (B, T, d), T a multiple of `patch`: the first `whole` frames of each clip
            (all of them for a name in to_the_end), then zeros.
        every vector per clip (B, G).

    ValueError if a clip is shorter than a patch.
    """
    lengths = [min(len(value) for value in item.values() if value.ndim == 2) for item in items]
    frames = torch.tensor(lengths)                                                   # (B,)
    whole = frames // patch * patch                                                  # (B,)
    if whole.min() < 1:
        raise ValueError(f"a clip is shorter than one patch of {patch} frames")
    # T is a multiple of patch, also where the longest clip ends within a patch.
    longest = int((frames if to_the_end else whole).max())
    T = -(-longest // patch) * patch
    text, mask = pad_text([item["text"].tolist() for item in items])

    batch = dict(text=text, text_mask=mask, frames=frames, whole=whole)
    for name in items[0]:
        if name == "text":
            continue
        values = [item[name] for item in items]
        if values[0].ndim == 2:
            kept = frames if name in to_the_end else whole
            values = [F.pad(value[:count], (0, 0, 0, T - int(count)))                # (T, d)
                      for value, count in zip(values, kept)]
        batch[name] = torch.stack(values)                                            # (B, ...)
    return batch


class BatchOrder:
    """Endless lists of `batch_size` clip numbers, clips of similar length together. The seed alone
    decides them, and state_dict and load_state_dict make a killed run resume exactly.

    lengths: (n,) frames of the clips. If there are fewer clips than batch_size, they repeat.
    short_first: so many batches at the beginning have short clips: at first of the shortest 30 % of
        all, in the end of the shortest 60 %. From these a Talker learns to read sooner, and each
        batch takes less time.
    """

    def __init__(self, lengths, batch_size: int, seed=0, short_first=0):
        if len(lengths) < 1 or batch_size < 1:
            raise ValueError("batches need at least 1 clip and a batch_size of at least 1; "
                             f"got {len(lengths)}, {batch_size}")
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.sizes = (batch_size,)                      # of the parts of a batch, see MixedOrder
        self.seed = seed
        self.short_first = short_first
        self.shortest = np.argsort(self.lengths, kind="stable")
        self.count = 0                                  # of the short batches that were given
        self.epoch = 0
        self.position = 0                               # of the next batch in this epoch
        self.batches = self._shuffle()

    def _shuffle(self) -> np.ndarray:
        """The batches of this epoch, (number of batches, batch_size)."""
        rng = np.random.default_rng([self.seed, self.epoch])
        # Shuffle the clips. Those that fill no whole batch wait for another epoch.
        order = rng.permutation(len(self.lengths))
        order = np.resize(order, max(1, len(order) // self.batch_size) * self.batch_size)

        # Sort windows of 32 batches by length: little padding, yet other neighbours every epoch.
        window = 32 * self.batch_size
        windows = np.split(order, range(window, len(order), window))
        windows = [part[np.argsort(self.lengths[part], kind="stable")] for part in windows]

        # Then shuffle the batches, so that short and long ones alternate.
        return rng.permutation(np.concatenate(windows).reshape(-1, self.batch_size))

    def _short_batch(self) -> list[int]:
        """A batch from the short clips; which ones depends on how many batches came before."""
        rng = np.random.default_rng([self.seed, self.count, 1])
        share = 0.3 + 0.3 * self.count / self.short_first
        shortest = self.shortest[:max(1, int(share * len(self.shortest)))]
        # Two batches are drawn and sorted by length, and one half is taken: little padding.
        few = len(shortest) < 2 * self.batch_size
        drawn = rng.choice(shortest, 2 * self.batch_size, replace=few)
        drawn = drawn[np.argsort(self.lengths[drawn], kind="stable")]
        return np.split(drawn, 2)[rng.integers(2)].tolist()

    def __next__(self) -> list[int]:
        if self.count < self.short_first:
            batch = self._short_batch()
            self.count += 1
            return batch
        if self.position == len(self.batches):
            self.epoch += 1
            self.position = 0
            self.batches = self._shuffle()
        self.position += 1
        return self.batches[self.position - 1].tolist()

    def state_dict(self) -> dict[str, int]:
        return dict(count=self.count, epoch=self.epoch, position=self.position,
                    clips=len(self.lengths), batch_size=self.batch_size, seed=self.seed)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """ValueError if the state is of more clips, another batch_size or seed. If it is of fewer
        clips, a new epoch of all of them begins."""
        if "clips" not in state:
            raise ValueError("the order of batches can't be resumed: it was of two sets, is of one")
        if state["clips"] < len(self.lengths):
            state = state | dict(clips=len(self.lengths), epoch=state["epoch"] + 1, position=0)
        now = self.state_dict()
        changed = [f"{name} was {state[name]}, is {now[name]}"
                   for name in ("clips", "batch_size", "seed") if state[name] != now[name]]
        if changed:
            raise ValueError("the order of batches can't be resumed: " + "; ".join(changed))
        self.count = state["count"]
        self.epoch = state["epoch"]
        self.position = state["position"]
        self.batches = self._shuffle()


class MixedOrder:
    """Batches of two sets: clips of the first BatchOrder, then those of the second one, which have
    the numbers from `start` on."""

    def __init__(self, first: BatchOrder, second: BatchOrder, start: int):
        self.first = first
        self.second = second
        self.start = start
        self.sizes = first.sizes + second.sizes

    def __next__(self) -> list[int]:
        return next(self.first) + [self.start + index for index in next(self.second)]

    def state_dict(self) -> dict:
        return dict(first=self.first.state_dict(), second=self.second.state_dict())

    def load_state_dict(self, state: dict) -> None:
        """ValueError if the state is of other orders."""
        if state.keys() != {"first", "second"}:
            raise ValueError("the order of batches can't be resumed: it was of one set, is of two")
        self.first.load_state_dict(state["first"])
        self.second.load_state_dict(state["second"])


# -------------------------------------------------------------------------------- demonstration
def demonstrate() -> None:
    """A few clips on their way from the corpus to a batch. Random numbers stand for latents."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        store = cache_clips(SyntheticCorpus("test", n=6), 6, f"{folder}/clips")
        clip = store[0]
        print(f"{clip.name}, speaker {clip.speaker}: {clip.text!r}\n"
              f"  video {clip.video.shape} {clip.video.dtype}, "
              f"audio {clip.audio.shape} {clip.audio.dtype}\n"
              f"  tracks {clip.tracks['jaw'].shape}: {', '.join(clip.tracks)}\n"
              f"  text ids {encode_phones(clip.text)}")

        def encoded(clip: Clip) -> dict:
            frames = len(clip.video)
            return dict(name=clip.name, text=clip.text,
                        audio=rng.normal(size=(frames, 32)), audio_condition=rng.normal(size=128),
                        motion=rng.normal(size=(frames, 20)), motion_condition=rng.normal(size=20))

        LatentSet.write(f"{folder}/latents", (encoded(clip) for clip in store))
        latents = LatentSet(f"{folder}/latents")
        indices = next(BatchOrder(latents.frames, batch_size=3))
        batch = collate([latents[i] for i in indices], patch=4)
        print(f"a batch: clips {indices} with {batch['frames'].tolist()} frames, "
              f"{batch['whole'].tolist()} of them in whole patches")
        for name, value in batch.items():
            print(f"  {name:16} {tuple(value.shape)} {value.dtype}")


if __name__ == "__main__":
    demonstrate()
