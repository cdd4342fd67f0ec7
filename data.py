"""Data: clips of talking faces in, batches of latents out. Imports nothing of ours but the cartoon talkers (lab/cartoon.py).

A clip is a text, a square video (T, S, S, 3) uint8 at 25 frames a second and mono audio (n,) float32 of exactly T frames. It
comes from SyntheticCorpus (cartoon talkers, made on the spot) or ClipFolder (real files); cache_clips decodes either once into a
ClipStore for the autoencoders. Their latents live in a LatentSet; BatchOrder and collate make of it what the talker trains on:
text ids (B, L), and for each modality latents (B, T, width).
Axes: B batch, T frames, S image side, L text tokens, n audio samples (or clips, where said).

The synthetic corpus stands for a recorded one such as GRID, whose grammar it borrows: one articulatory trajectory per utterance
drives a formant synthesizer and a face renderer, so speech and face share their cause and the truth is known for every frame.

    python data.py --export truth --n 100 --split test      # writes clips to watch, and their texts
"""
import hashlib
import json
import multiprocessing
import os
import subprocess
import tempfile
import unicodedata
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile
import torch
from tqdm import tqdm

from lab.cartoon import CONTROL_RATE, GRAMMAR, VERSION, articulate, make_talker, move_face, render, synthesize

FPS = 25
SPLITS = ("train", "dev", "test")
SHORTEST, LONGEST = 10, 30 * FPS                        # frames of a usable clip


@dataclass
class Clip:
    """One utterance, seen and heard."""
    name: str
    text: str
    video: np.ndarray                       # (T, S, S, 3) uint8
    audio: np.ndarray                       # (T * sample_rate // FPS,) float32 in [-1, 1]
    talker: int | None = None               # synthetic clips only
    opening: np.ndarray | None = None       # (T,) float32, the true mouth opening, 0 shut to 1 wide; synthetic clips only


class BrokenClip(ValueError):
    """A clip that can't be used: its path and the reason, one line."""

    def __init__(self, path, reason):
        super().__init__(str(path), reason)             # both as arguments, so that it survives the trip from a worker process
        self.path, self.reason = str(path), reason

    def __str__(self):
        return f"{self.path}: {self.reason}"


def check_split(split, splits=SPLITS):
    if split not in splits:
        raise ValueError(f"there is no split {split!r}: use {', '.join(splits)}")


def stable_hash(parts):
    """JSON-able parts -> 16 hex digits that are the same in every process and on every machine."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


# ---- text: characters to ids ---------------------------------------------------------------------------------------------------

TEXT_VOCAB = ("<pad>", "<unknown>", *" abcdefghijklmnopqrstuvwxyz0123456789'.,?!-:;")


def encode_text(text):
    """Text -> list of ids, one a character, none of them 0 (padding). Accents are folded, case and repeated spaces dropped.

    ValueError if no letter or digit is left: there would be nothing to say."""
    plain = text.translate(str.maketrans("’‘–—", "''--"))           # typeset marks that Unicode doesn't fold by itself
    folded = [mark for mark in unicodedata.normalize("NFKD", plain).casefold() if not unicodedata.combining(mark)]
    ids = [TEXT_VOCAB.index(mark) if mark in TEXT_VOCAB else 1 for mark in " ".join("".join(folded).split())]
    if not any(TEXT_VOCAB[number].isalnum() for number in ids):
        raise ValueError(f"the text {text[:40]!r} has no letter a-z and no digit, so there is nothing to say")
    return ids


def pad_text(ids):
    """Lists of ids -> (B, L) int64, padded on the left with 0, and their mask (B, L) bool (another vocabulary may use 0)."""
    padding = [max(map(len, ids)) - len(row) for row in ids]
    text = torch.tensor([[0] * n + list(row) for n, row in zip(padding, ids)])
    return text, torch.arange(text.shape[1]) >= torch.tensor(padding)[:, None]


# ---- the synthetic corpus ------------------------------------------------------------------------------------------------------

def split_of_sentence(text):
    """The split of a sentence, by a hash of the sentence itself: no test sentence is in a train set, whatever the seed."""
    percent = int(stable_hash(text), 16) % 100
    return "test" if percent < 5 else "dev" if percent < 10 else "train"


def draw_sentence(rng, split):
    """A random sentence of a split."""
    while True:
        text = " ".join(words[rng.integers(len(words))] for words in GRAMMAR)
        if split_of_sentence(text) == split:
            return text


class SyntheticCorpus:
    """Sentences of GRID's grammar, spoken by cartoon talkers. Clip i is made when asked, from seed, split, i and talkers alone.

    split: train, dev or test; no sentence is in two. n: clips. talkers: their numbers, by default 0 to 255 for train, 0 to 31 for
    dev and test; UNSEEN, from 256 on, are never in train's. size: image side in pixels. sample_rate: a multiple of 200 Hz from
    16000 on. Bad arguments raise ValueError."""
    TALKERS = dict(train=range(256), dev=range(32), test=range(32))
    UNSEEN = range(256, 288)

    def __init__(self, split="train", n=1000, talkers=None, seed=0, size=64, sample_rate=16000):
        check_split(split)
        talkers = list(self.TALKERS[split] if talkers is None else talkers)
        if not talkers or min(talkers) < 0:
            raise ValueError(f"talkers must be one or more numbers from 0 on, such as range(32); got {talkers}")
        if n < 1 or seed < 0:
            raise ValueError(f"the corpus needs n of at least 1 and a seed of at least 0; got n={n}, seed={seed}")
        if size < 16 or sample_rate < 16000 or sample_rate % CONTROL_RATE:
            raise ValueError(f"the corpus needs a size of at least 16 and a sample rate from 16000 on that is a multiple of "
                             f"{CONTROL_RATE}; got size={size}, sample_rate={sample_rate}")
        if split == "train":                            # so that the first few clips hold voices of every kind
            talkers = np.random.default_rng(0).permutation(talkers).tolist()
        self.split, self.n, self.talkers, self.seed, self.size, self.sample_rate = split, n, talkers, seed, size, sample_rate
        self.key = stable_hash(["synthetic", VERSION, split, talkers, seed, size, sample_rate])

    def __len__(self):
        return self.n

    def text(self, index):
        """The sentence of clip `index`, without making the clip."""
        if not 0 <= index < self.n:
            raise IndexError(f"clip {index} of a corpus of {self.n}")
        return draw_sentence(np.random.default_rng([self.seed, SPLITS.index(self.split), index]), self.split)

    def __getitem__(self, index):
        text, talker = self.text(index), self.talkers[index % len(self.talkers)]
        return self._make(f"{self.split}_{index:05d}_t{talker:03d}", text, talker, [self.seed, SPLITS.index(self.split), index, 1])

    def references(self, talker):
        """Fixed utterances of any talker (train sentences), 'the voice and face of talker N': 8 of one this corpus holds, 1 of a stranger."""
        numbers = range(2, 18, 2) if talker in self.talkers else [2]
        texts = [draw_sentence(np.random.default_rng([VERSION, talker, number]), "train") for number in numbers]
        return [self._make(f"reference_t{talker:03d}", text, talker, [VERSION, talker, n + 1]) for n, text in zip(numbers, texts)]

    def _make(self, name, text, number, entropy):
        rng, talker = np.random.default_rng(entropy), make_talker(number)
        tracks = articulate(text, talker, rng)
        controls = move_face(tracks, rng)
        audio = synthesize(tracks, talker, self.sample_rate, rng)
        return Clip(name, text, render(controls, talker, self.size), audio, number, controls["opening"])


# ---- files: reading and writing clips ------------------------------------------------------------------------------------------

def run_ffmpeg(path, *arguments, data=b""):
    """Run ffmpeg -> the bytes it writes to its standard output. A failure is a BrokenClip with ffmpeg's own last line."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True)
    complaint = done.stderr.decode(errors="replace").strip()
    if done.returncode and "matches no streams" in complaint:
        raise BrokenClip(path, "it has no video stream" if "0:V:0" in command else "it has no audio stream")
    if done.returncode and "non positive size" in complaint:
        raise BrokenClip(path, "the crop does not fit into the picture")
    if "partial file" in complaint or "ended prematurely" in complaint:
        raise BrokenClip(path, "the file is truncated: its end is missing")
    if done.returncode:
        raise BrokenClip(path, "ffmpeg: " + (complaint or "failed without a word").splitlines()[-1])
    return done.stdout


def decode(path, *options):
    """What ffmpeg makes of a file, with these options for the output: bytes."""
    if not Path(path).is_file() or not Path(path).stat().st_size:
        raise BrokenClip(path, "the file is empty" if Path(path).is_file() else "there is no such file")
    raw = run_ffmpeg(path, "-i", f"file:{path}", *options, "-")
    if not raw:
        raise BrokenClip(path, "nothing could be decoded from it")
    return raw


def read_video(path, size, crop=None):
    """Pictures of any video file at 25 fps -> (T, size, size, 3) uint8, or BrokenClip. crop: (x, y, side) in source pixels, or the central square."""
    x, y, side = crop or ("(iw-ow)/2", "(ih-oh)/2", "min(iw,ih)")
    if crop:                                            # ffmpeg would move a crop that sticks out; -1 makes it complain
        side = f"if(lte({x}+{side},iw)*lte({y}+{side},ih),{side},-1)"
    filters = f"fps={FPS}:start_time=0,crop=w='{side}':h='{side}':x='{x}':y='{y}',scale={size}:{size}:flags=lanczos"
    raw = decode(path, "-map", "0:V:0", "-vf", filters, "-f", "rawvideo", "-pix_fmt", "rgb24")
    return np.frombuffer(raw, np.uint8).reshape(-1, size, size, 3)


def read_audio(path, sample_rate):
    """Sound of any audio or video file, mono -> (n,) float32 in [-1, 1]; it starts when the video does. BrokenClip if it has none."""
    filters = f"aresample={sample_rate}:async=1:first_pts=0"         # a late start becomes silence, not a shift against the video
    raw = decode(path, "-map", "0:a:0", "-af", filters, "-ac", 1, "-f", "f32le")
    return np.clip(np.frombuffer(raw, np.float32), -1, 1)


def read_clip(path, size, sample_rate, crop=None):
    """A video file with sound -> Clip without a text, as long as its video. BrokenClip if it can't be used."""
    video = read_video(path, size, crop)
    if not SHORTEST <= len(video) <= LONGEST:
        raise BrokenClip(path, f"too {'short' if len(video) < SHORTEST else 'long'}: {len(video) / FPS:.2f} s; "
                               f"a clip has {SHORTEST / FPS} to {LONGEST // FPS} s")
    return Clip(Path(path).stem, "", video, fit_length(read_audio(path, sample_rate), len(video), sample_rate))


def film_options(height, width, side):
    """ffmpeg's options: for raw pictures from its standard input, and for H.264 and AAC in an mp4, enlarged until the short side is `side`."""
    enlarge = max(1, side / min(height, width))
    wide, high = (2 * int(np.ceil(enlarge * length / 2)) for length in (width, height))          # H.264 wants even sides
    return (["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", FPS, "-i", "-"],
            ["-vf", f"scale={wide}:{high}:flags=lanczos", "-c:v", "libx264", "-crf", 14, "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "128k", "-f", "mp4"])


def write_clip(path, video, audio, sample_rate, side=256):
    """Write an mp4 that any player plays: H.264 at 25 fps and AAC, exactly as long as the video.

    video: (T, H, W, 3) uint8, enlarged until its short side is at least `side`. audio: (n,) float32 in [-1, 1], or None.
    ValueError for arrays of another kind or for sound that is not finite."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or not video.size:
        raise ValueError(f"{path}: the video must be (T, H, W, 3) uint8 with T of at least 1; got {video.shape} {video.dtype}")
    frames, height, width = video.shape[:3]
    pictures, coding = film_options(height, width, side)
    coding = [*coding, "-movflags", "+faststart", "-t", frames / FPS, f"file:{path}.part"]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        sound = []
        if audio is not None:
            if audio.ndim != 1 or not np.isfinite(audio).all():
                raise ValueError(f"{path}: the audio must be (n,) finite numbers; got shape {audio.shape}")
            soundfile.write(f"{folder}/audio.wav", fit_length(audio, frames, sample_rate).clip(-1, 1), sample_rate)
            sound = ["-i", f"{folder}/audio.wav"]
        run_ffmpeg(path, *pictures, *sound, *coding, data=video.tobytes())
        os.replace(f"{path}.part", path)                # a killed run leaves no half of a clip


def fit_length(audio, frames, sample_rate):
    """Cut (n,) audio, or pad it with silence, to exactly that many video frames."""
    samples = frames * sample_rate // FPS
    return np.pad(audio[:samples], (0, max(0, samples - len(audio))))


class ClipFolder:
    """A tree of video files with the text of each beside it: same stem, .txt, or GRID's .align (lines 'start end word').

    split: by a hash of the stem, about 90 / 5 / 5 % (in GRID the stem is the sentence, so its speakers stay together); dev and
    test have a clip each when there are three, and fewer than that serve as every split; "all" takes them all. size: image side in
    pixels. crop: (x, y, side) in source pixels, or the central square. ValueError if no clip is found; asking for an unusable one raises
    BrokenClip."""
    ENDINGS = (".mp4", ".mpg", ".avi", ".mov", ".mkv", ".webm")

    def __init__(self, root, split="train", size=64, sample_rate=16000, crop=None):
        check_split(split, (*SPLITS, "all"))
        if size < 16 or sample_rate < 8000 or sample_rate % (4 * FPS):
            raise ValueError(f"size must be at least 16 and sample_rate a multiple of {4 * FPS}; got {size} and {sample_rate}")
        if crop is not None and (len(crop) != 3 or min(crop) < 0 or crop[2] < 2):
            raise ValueError(f"crop must be three numbers, x, y and side, in pixels of the source; got {crop}")
        self.root, self.size, self.sample_rate, self.crop = Path(root), size, sample_rate, crop
        if not self.root.is_dir():
            raise ValueError(f"{root}: there is no such folder of clips")
        paths = sorted(path for path in self.root.rglob("*") if path.suffix.lower() in self.ENDINGS and path.name[0] != ".")
        if not paths:
            raise ValueError(f"{root}: no clips in it or below it; looked for files ending in {' '.join(self.ENDINGS)}")
        draws = {path: int(stable_hash(path.stem), 16) / 16 ** 16 for path in paths}
        paths.sort(key=lambda path: (draws[path], path))        # the lowest draws are test, the next dev
        if len(paths) >= 3 and split != "all":
            test = min(max(1, sum(draw < .05 for draw in draws.values())), len(paths) - 2)
            dev = min(max(test + 1, sum(draw < .1 for draw in draws.values())), len(paths) - 1)
            paths = dict(test=paths[:test], dev=paths[test:dev], train=paths[dev:])[split]
        self.paths = paths                              # in the order of the draws: the first few are of every kind
        contents = hashlib.sha256()
        for path in tqdm(self.paths, desc=f"looking at {root}", delay=2):
            with open(path, "rb") as file:              # its length and both ends tell a version of a file from another
                head, length = file.read(65536), file.seek(0, os.SEEK_END)
                file.seek(max(0, length - 65536))
                contents.update(json.dumps([str(path.relative_to(root)), length]).encode() + head + file.read())
            for script in (path.with_suffix(".txt"), path.with_suffix(".align")):
                contents.update(script.read_bytes() if script.is_file() else b"-")
        self.key = stable_hash([contents.hexdigest(), size, sample_rate, crop, split])

    def __len__(self):
        return len(self.paths)

    def text(self, index):
        path = self.paths[index]
        try:
            if path.with_suffix(".txt").is_file():
                text = " ".join(path.with_suffix(".txt").read_text(encoding="utf-8-sig").split())
            else:
                lines = path.with_suffix(".align").read_text(encoding="utf-8").splitlines()
                text = " ".join(word for line in lines for word in line.split()[2:] if word not in ("sil", "sp"))
            encode_text(text)                           # complains of a text without a word
        except FileNotFoundError:
            raise BrokenClip(path, "no text beside it (same name, ending in .txt or .align)") from None
        except ValueError as error:
            raise BrokenClip(path, f"its text can't be used: {error}") from None
        return text

    def __getitem__(self, index):
        path, text = self.paths[index], self.text(index)
        name = "_".join(path.relative_to(self.root).with_suffix("").parts)
        clip = read_clip(path, self.size, self.sample_rate, self.crop)
        if len(text) > 2 * len(clip.video):             # nobody speaks 50 characters a second
            raise BrokenClip(path, f"its text has {len(text)} characters, and the clip lasts only {len(clip.video) / FPS:.1f} s")
        return replace(clip, name=name, text=text)


class ClipStore:
    """Decoded clips in a folder made by cache_clips, memory-mapped, so that memory stays bounded however many there are.

    frames: (n,) lengths. skipped: list of broken clips, one line each. places: number of a clip in its source -> in here. size,
    sample_rate, key: of the clips."""

    def __init__(self, folder):
        if not (Path(folder) / "index.json").is_file():
            raise ValueError(f"{folder}: no finished cache of clips here; cache_clips makes one")
        self.index = json.loads((Path(folder) / "index.json").read_text())
        self.size, self.sample_rate, self.key, self.skipped = (self.index[name] for name in ("size", "sample_rate", "key", "skipped"))
        self.frames = np.array([length for *_, length in self.index["clips"]])
        self.places = {number: place for place, number in enumerate(self.index["numbers"])}
        self.starts = np.concatenate([[0], np.cumsum(self.frames)])
        self.video = np.memmap(f"{folder}/video.u8", np.uint8, "r", shape=(self.starts[-1], self.size, self.size, 3))
        self.audio = np.memmap(f"{folder}/audio.i16", np.int16, "r")

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        name, text, talker, opening, _ = self.index["clips"][index]
        start, end = self.starts[index], self.starts[index + 1]
        audio = self.audio[start * self.sample_rate // FPS:end * self.sample_rate // FPS].astype(np.float32) / 32767
        return Clip(name, text, self.video[start:end], audio, talker, opening and np.array(opening, np.float32))


def cache_clips(source, n, folder, workers=2, label="corpus"):
    """Make or decode the first n clips of a SyntheticCorpus or ClipFolder (all, if fewer) into a folder, in `workers` processes.

    What is there is reused if it has the same key and n. Broken clips are named and left out; ValueError if all are broken.
    Returns the ClipStore."""
    folder, n = Path(folder), min(n, len(source))
    index = folder / "index.json"
    if index.is_file():
        found = json.loads(index.read_text())
        if "numbers" in found and (found["key"], found["n"]) == (source.key, n):
            return ClipStore(folder)
        index.unlink()                                  # from here until it is written again the cache counts as unfinished
    folder.mkdir(parents=True, exist_ok=True)
    clips, numbers, skipped = [], [], []
    with open(folder / "video.u8", "wb") as video, open(folder / "audio.i16", "wb") as audio:
        for number, clip in kept(parallel(make_clip, source, n, workers, label), n, label, skipped):
            video.write(clip.video)
            audio.write(np.round(clip.audio * 32767).astype(np.int16))
            opening = None if clip.opening is None else [round(float(value), 4) for value in clip.opening]
            clips.append((clip.name, clip.text, clip.talker, opening, len(clip.video)))
            numbers.append(number)
    write_json(index, dict(key=source.key, n=n, size=source.size, sample_rate=source.sample_rate, skipped=skipped, numbers=numbers, clips=clips))
    return ClipStore(folder)


def kept(results, n, label, skipped):
    """What was made of n clips -> (number, result) of all but BrokenClips, which are listed in `skipped` and named at the end; ValueError
    if all are broken."""
    for number, result in enumerate(results):
        if isinstance(result, BrokenClip):
            skipped.append(str(result))
        else:
            yield number, result
    if len(skipped) == n:
        raise ValueError(f"{label}: none of the {n} clips can be used; the first reasons:\n  " + "\n  ".join(skipped[:3]))
    if skipped:
        print(f"{label}: {len(skipped)} of {n} clips can't be used:\n  " + "\n  ".join(skipped[:10] + ["..."] * (len(skipped) > 10)))


def make_clip(source, index):
    """Clip `index`, or the BrokenClip that tells why there is none."""
    try:
        return source[index]
    except BrokenClip as error:
        return error


def parallel(function, source, n, workers, label):
    """function(source, 0), function(source, 1), ... in order, from worker processes, behind a progress bar."""
    with multiprocessing.Pool(workers) as pool:
        yield from tqdm(pool.imap(partial(function, source), range(n), chunksize=8), desc=label, total=n, unit="clip")


def write_json(path, content):
    """Write a json file in one stroke: a killed run leaves the old one or the new one."""
    Path(f"{path}.part").write_text(json.dumps(content))
    os.replace(f"{path}.part", path)


# ---- latents: what the talker trains on ----------------------------------------------------------------------------------------

class LatentSet:
    """Encoded clips in a folder, memory-mapped. Item i is a dict of tensors: text (L,) int64, the sequences audio (T, 32) and
    motion (T, M), and the globals voice (G,) and pose (M,), float32. Any other names do as well: two axes make a sequence, one a global.

    frames: (n,) lengths. texts: of the clips."""

    @staticmethod
    def write(folder, items):
        """items: dicts of name, text and arrays as above, one a clip, written as they come. ValueError for arrays that are not
        finite or not of one length, or when there are no items."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "meta.json").unlink(missing_ok=True)  # written last: without it the set counts as unfinished
        texts, frames, widths, sequences, files = [], [], {}, [], {}
        for item in items:
            arrays = {key: np.asarray(item[key], np.float32) for key in sorted(item.keys() - {"name", "text"})}
            lengths = {len(array) for array in arrays.values() if array.ndim == 2}
            if len(lengths) != 1 or not all(np.isfinite(array).all() for array in arrays.values()):
                raise ValueError(f"{item['name']}: latents must be finite and of one length; got {[x.shape for x in arrays.values()]}")
            for key, array in arrays.items():
                if key not in files:
                    files[key], widths[key] = open(folder / f"{key}.f32", "wb"), array.shape[-1]
                    sequences += [key] if array.ndim == 2 else []
                files[key].write(array)
            texts.append(item["text"])
            frames.append(lengths.pop())
        for file in files.values():
            file.close()
        if not texts:
            raise ValueError(f"{folder}: there are no latents to write")
        write_json(folder / "meta.json", dict(texts=texts, frames=frames, widths=widths, sequences=sequences))

    def __init__(self, folder, encode=encode_text):
        """encode: text -> ids."""
        if not (Path(folder) / "meta.json").is_file():
            raise ValueError(f"{folder}: no finished set of latents here; `python train.py` makes one")
        index = json.loads((Path(folder) / "meta.json").read_text())
        self.texts, self.frames, self.sequences, self.encode = index["texts"], np.array(index["frames"]), index["sequences"], encode
        self.starts = np.concatenate([[0], np.cumsum(self.frames)])
        self.arrays = {key: np.memmap(f"{folder}/{key}.f32", np.float32, "r").reshape(-1, width) for key, width in index["widths"].items()}

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        item = {"text": torch.tensor(self.encode(self.texts[index]))}
        for key, array in self.arrays.items():
            rows = slice(self.starts[index], self.starts[index + 1]) if key in self.sequences else index
            item[key] = torch.tensor(np.array(array[rows]))
        return item


def collate(items, patch):
    """Items of a LatentSet -> one batch: text (B, L) int64 and text_mask (B, L) bool, padded on the left; patches (B,) int64, the
    whole patches of each clip; every sequence (B, most patches * patch, width), zero beyond its own; every global (B, width)."""
    patches = torch.tensor([min(len(value) for value in item.values() if value.ndim == 2) // patch for item in items])
    if patches.min() < 1:
        raise ValueError(f"a clip is shorter than one patch of {patch} frames")
    text, mask = pad_text([item["text"].tolist() for item in items])
    batch = dict(text=text, text_mask=mask, patches=patches)
    for key in [key for key in items[0] if key != "text"]:
        values = [item[key] if item[key].ndim == 1 else item[key][:count * patch] for item, count in zip(items, patches)]
        batch[key] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
    return batch


class BatchOrder:
    """Endless lists of `batch_size` clip numbers of similar length, decided by the seed alone. An epoch shuffles the clips, sorts
    windows of 32 batches by length and shuffles the batches; clips left over wait for the next epoch.

    lengths: (n,) frames; fewer clips than batch_size repeat. state_dict and load_state_dict make a killed run resume exactly."""

    def __init__(self, lengths, batch_size, seed=0):
        if len(lengths) < 1 or batch_size < 1:
            raise ValueError(f"batches need at least 1 clip and a batch_size of at least 1; got {len(lengths)}, {batch_size}")
        self.lengths, self.batch_size, self.seed, self.epoch, self.position = np.asarray(lengths), batch_size, seed, 0, 0
        self.batches = self._shuffle()

    def _shuffle(self):
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        order = np.resize(order, max(1, len(order) // self.batch_size) * self.batch_size)
        windows = np.split(order, range(32 * self.batch_size, len(order), 32 * self.batch_size))
        order = np.concatenate([window[np.argsort(self.lengths[window], kind="stable")] for window in windows])
        return rng.permutation(order.reshape(-1, self.batch_size))

    def __next__(self):
        if self.position == len(self.batches):
            self.epoch, self.position = self.epoch + 1, 0
            self.batches = self._shuffle()
        self.position += 1
        return self.batches[self.position - 1].tolist()

    def state_dict(self):
        return dict(epoch=self.epoch, position=self.position, clips=len(self.lengths), batch_size=self.batch_size, seed=self.seed)

    def load_state_dict(self, state):
        now = self.state_dict()
        changed = [f"{name} was {state[name]}, is {now[name]}" for name in ("clips", "batch_size", "seed") if state[name] != now[name]]
        if changed:
            raise ValueError("the order of batches can't be resumed: " + "; ".join(changed))
        self.epoch, self.position = state["epoch"], state["position"]
        self.batches = self._shuffle()


if __name__ == "__main__":
    from lab.export import main
    main()
