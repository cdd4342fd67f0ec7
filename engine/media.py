"""Everything that talks to ffmpeg: video and audio files in, arrays out, and back. Beside it, what
data.py does to many files at once.

    read_video, read_audio      any file that ffmpeg knows -> pictures at 25 fps, mono audio
    read_transcript             the text beside it
    write_clip                  pictures and audio -> an mp4 that any player plays
    parallel, kept, digest      many clips: in processes, without the broken ones; a hash of them

What can't be read is a BrokenClip, an exception with the path and the reason in one line. data.py
makes clips of what is read here; engine/streaming.py writes an mp4 while it is being generated.

Axis letters: T frames, H and W pixels, S side of a square picture, n audio samples.
"""
import functools
import hashlib
import json
import multiprocessing
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Callable, Iterable, Iterator

import imageio_ffmpeg
import numpy as np
import soundfile
from tqdm import tqdm

from model import FPS


class BrokenClip(ValueError):
    """A clip that can't be used: its path and the reason, in one line."""

    def __init__(self, path: Path | str, reason: str):
        # Both are arguments of the exception, so that it can be pickled by a worker process.
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


# --------------------------------------------------------------------------------------- reading
def run_ffmpeg(path: Path | str, *arguments, data=b"") -> bytes:
    """Run ffmpeg and return what it writes to its standard output.

    Args:
        path: the file that an error names. arguments: ffmpeg's own. data: its standard input.

    Raises BrokenClip, with ffmpeg's own last line if none of the reasons below is known.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True)
    failed = done.returncode != 0
    complaint = done.stderr.decode(errors="replace").strip()

    # The usual complaints, in plainer words.
    if failed and "matches no streams" in complaint:
        missing = "video" if "0:V:0" in command else "audio"
        raise BrokenClip(path, f"it has no {missing} stream")
    if failed and "non positive size" in complaint:
        raise BrokenClip(path, "the crop does not fit into the picture")
    # NOTE: ffmpeg decodes a truncated file as far as it goes, and does not call that a failure.
    if "partial file" in complaint or "ended prematurely" in complaint:
        raise BrokenClip(path, "the file is truncated: its end is missing")
    if failed:
        last = (complaint or "failed without a word").splitlines()[-1]
        raise BrokenClip(path, f"ffmpeg: {last}")
    return done.stdout


def decode(path: Path | str, *options) -> bytes:
    """What ffmpeg makes of a file with these options for the output. Raises BrokenClip."""
    if not Path(path).is_file():
        raise BrokenClip(path, "there is no such file")
    if not Path(path).stat().st_size:
        raise BrokenClip(path, "the file is empty")
    raw = run_ffmpeg(path, "-i", f"file:{path}", *options, "-")
    if not raw:
        raise BrokenClip(path, "nothing could be decoded from it")
    return raw


def read_video(path: Path | str, size: int, crop: tuple | None = None) -> np.ndarray:
    """The pictures of any video file, resampled to 25 fps -> (T, size, size, 3) uint8.

    Args:
        crop: (x, y, side) in pixels of the file; None is the largest square in the centre.

    Raises BrokenClip.
    """
    x, y, side = crop or ("(iw-ow)/2", "(ih-oh)/2", "min(iw,ih)")
    if crop:
        # ffmpeg would silently move a crop that sticks out; a side of -1 makes it complain.
        side = f"if(lte({x}+{side},iw)*lte({y}+{side},ih),{side},-1)"
    filters = (f"fps={FPS}:start_time=0,crop=w='{side}':h='{side}':x='{x}':y='{y}',"
               f"scale={size}:{size}:flags=lanczos")
    raw = decode(path, "-map", "0:V:0", "-vf", filters, "-f", "rawvideo", "-pix_fmt", "rgb24")
    return np.frombuffer(raw, np.uint8).reshape(-1, size, size, 3)            # (T, S, S, 3)


def read_audio(path: Path | str, sample_rate: int) -> np.ndarray:
    """The sound of any audio or video file, mixed down to mono -> (n,) float32 in [-1, 1].

    Sample 0 coincides with frame 0 of the video. Raises BrokenClip, also if there is no sound."""
    # Where the sound starts late, this filter fills up with silence: no shift against the video.
    filters = f"aresample={sample_rate}:async=1:first_pts=0"
    raw = decode(path, "-map", "0:a:0", "-af", filters, "-ac", 1, "-f", "f32le")
    return np.clip(np.frombuffer(raw, np.float32), -1, 1)


def read_transcript(path: Path) -> str:
    """The text beside a video file: NAME.txt, or NAME.align as in GRID (lines `start end word`),
    where a single letter is spoken by its name, so that it is written large.

    Raises FileNotFoundError, or ValueError for a file that is not UTF-8."""
    if path.with_suffix(".txt").is_file():
        return " ".join(path.with_suffix(".txt").read_text(encoding="utf-8-sig").split())
    lines = path.with_suffix(".align").read_text(encoding="utf-8").splitlines()
    words = [word for line in lines for word in line.split()[2:]]
    words = [word for word in words if word not in ("sil", "sp")]             # without silences
    return " ".join(word.upper() if len(word) == 1 else word for word in words)


# --------------------------------------------------------------------------------------- writing
def fit_length(audio: np.ndarray, frames: int, sample_rate: int) -> np.ndarray:
    """Cut audio (n,), or pad it with silence, to exactly this many video frames."""
    samples = frames * sample_rate // FPS
    return np.pad(audio[:samples], (0, max(0, samples - len(audio))))


def video_options(height: int, width: int, side: int) -> tuple[list, list]:
    """Options of ffmpeg: for raw pictures (height, width) from its standard input, and for an mp4
    with H.264 and AAC, enlarged until its short side is at least `side`."""
    # H.264 with subsampled colours needs even sides.
    enlarge = max(1, side / min(height, width))
    out_width, out_height = (2 * int(np.ceil(enlarge * x / 2)) for x in (width, height))
    pictures = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", FPS,
                "-i", "-"]
    coding = ["-vf", f"scale={out_width}:{out_height}:flags=lanczos", "-c:v", "libx264",
              "-crf", 14, "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "128k", "-f", "mp4"]
    return pictures, coding


def write_clip(path: Path | str, video: np.ndarray, audio: np.ndarray | None, sample_rate: int,
               side=256) -> None:
    """Write an mp4 that any player plays: H.264 at 25 fps and AAC, exactly as long as the video.

    Args:
        video: (T, H, W, 3) uint8, enlarged until its short side is at least `side`.
        audio: (n,) float32, clipped to [-1, 1]; None leaves the clip without an audio stream.

    Raises ValueError for arrays of another kind, or for audio that is not finite.
    """
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or not video.size:
        raise ValueError(f"{path}: the video must be (T, H, W, 3) uint8 with T of at least 1; "
                         f"got {video.shape} {video.dtype}")
    if audio is not None and (audio.ndim != 1 or not np.isfinite(audio).all()):
        raise ValueError(
            f"{path}: the audio must be (n,) finite numbers; got shape {audio.shape}")
    frames, height, width = video.shape[:3]
    Path(path).parent.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory() as folder:
        # The pictures come through ffmpeg's standard input, the audio in a file beside it.
        pictures, coding = video_options(height, width, side)
        sound = []
        if audio is not None:
            audio = fit_length(audio, frames, sample_rate).clip(-1, 1)
            soundfile.write(f"{folder}/audio.wav", audio, sample_rate)
            sound = ["-i", f"{folder}/audio.wav"]

        # Written under another name and then renamed: a killed run leaves no half of a clip.
        ending = ["-movflags", "+faststart", "-t", frames / FPS, f"file:{path}.part"]
        run_ffmpeg(path, *pictures, *sound, *coding, *ending, data=video.tobytes())
        os.replace(f"{path}.part", path)


def write_json(path: Path | str, content) -> None:
    """Write a file under another name and rename it: a killed run leaves the old one or the new."""
    Path(f"{path}.part").write_text(json.dumps(content))
    os.replace(f"{path}.part", path)


# ------------------------------------------------------------------------------------ many clips
def parallel(function: Callable, source, n: int, workers: int, label: str) -> Iterator:
    """function(source, 0), function(source, 1), ... in order, from worker processes, behind a
    progress bar."""
    with multiprocessing.Pool(workers) as pool:
        results = pool.imap(functools.partial(function, source), range(n), chunksize=8)
        yield from tqdm(results, desc=label, total=n, unit="clip")


def kept(results: Iterable, n: int, label: str, skipped: list[str]) -> Iterator[tuple]:
    """What was made of n clips -> (number, result) of all but the BrokenClips. Those are listed in
    `skipped` and named at the end; ValueError if all are broken."""
    for number, result in enumerate(results):
        if isinstance(result, BrokenClip):
            skipped.append(str(result))
        else:
            yield number, result
    if len(skipped) == n:
        raise ValueError(f"{label}: none of the {n} clips can be used; the first reasons:\n  "
                         + "\n  ".join(skipped[:3]))
    if skipped:
        more = ["..."] if len(skipped) > 10 else []
        print(f"{label}: {len(skipped)} of {n} clips can't be used:\n  "
              + "\n  ".join(skipped[:10] + more))


def digest(root: Path, paths: list[Path]) -> str:
    """A hash of clips below root and the texts beside them, by name and content.

    Of a video the length and both ends are read: that tells one version of a file from another,
    however large the files are."""
    contents = hashlib.sha256()
    for path in tqdm(paths, desc=f"looking at {root}", delay=2):
        with open(path, "rb") as file:
            head = file.read(65536)
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - 65536))
            tail = file.read()
        name = json.dumps([str(path.relative_to(root)), length])
        contents.update(name.encode() + head + tail)
        for transcript in (path.with_suffix(".txt"), path.with_suffix(".align")):
            contents.update(transcript.read_bytes() if transcript.is_file() else b"-")
    return contents.hexdigest()
