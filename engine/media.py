"""Everything that talks to ffmpeg: video and audio files in, arrays out, and back.

    look                        what streams a file has
    read_video, read_audio      any file that ffmpeg knows -> pictures at 25 fps, mono audio
    read_picture                its first picture
    write_clip                  pictures and audio -> an mp4 that any player plays
    digest                      a hash of many clips

What can't be read is a BrokenClip, an exception with the path and the reason in one line. data.py
makes clips of what is read here; engine/streaming.py writes an mp4 while it is being generated.

Axis letters: T frames, H and W pixels, S side of a square picture, n audio samples.
"""
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile
from tqdm import tqdm

from engine.checkpoints import replacing
from engine.transcripts import transcript_contents
from model import FPS


VERSION = "1.0"                     # of nanoTalker, in the files that it makes
SILENCE = 1e-4                      # the loudest sample of what counts as silent; full scale is 1


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
def run_ffmpeg(path: Path | str, *arguments, data=b"", strict=False) -> bytes:
    """Run ffmpeg and return what it writes to its standard output.

    Args:
        path: the file that an error names. arguments: ffmpeg's own. data: its standard input.
        strict: whatever ffmpeg complains of counts as a failure.

    Raises BrokenClip, with ffmpeg's own last line if none of the reasons below is known.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True)
    failed = done.returncode != 0
    complaint = done.stderr.decode(errors="replace").strip()

    # The usual complaints, in plainer words.
    if failed and "non positive size" in complaint:
        raise BrokenClip(path, "the crop does not fit into the picture")
    if "partial file" in complaint or "ended prematurely" in complaint:
        raise BrokenClip(path, "the file is truncated: its end is missing")
    # NOTE: what is damaged ffmpeg decodes as far as it goes: grey pictures, half of the sound. It
    # complains, and does not call that a failure.
    if failed or strict and complaint:
        lines = (complaint or "failed without a word").splitlines()
        kind = "ffmpeg: " if failed else "the file is damaged: "
        raise BrokenClip(path, kind + without_addresses(lines[-1] if failed else lines[0]))
    return done.stdout


def without_addresses(line: str) -> str:
    """A line of ffmpeg's without the places in memory that it names."""
    return re.sub(r" @ 0x[0-9a-f]+", "", line)


@dataclass(frozen=True)
class Streams:
    """What the headers of a file say of the streams that are read.

    video, audio: the numbers of these streams, None where there is none. seconds: the length, NaN
    where it is not said. form: ffmpeg's line about the video.
    """

    video: int | None
    audio: int | None
    seconds: float
    form: str


def look(path: Path | str) -> Streams:
    """What is in a file: of several streams of a kind the default one, or the first. Raises
    BrokenClip if it can't be opened."""
    if not Path(path).is_file():
        raise BrokenClip(path, "there is no such file")
    if not Path(path).stat().st_size:
        raise BrokenClip(path, "the file is empty")
    # Without an output ffmpeg says what the input is.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", f"file:{path}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    said = done.stderr.decode(errors="replace")
    lines = re.findall(r"^ *Stream #0:(\d+)[^:]*: (Video|Audio): (.*)$", said, re.MULTILINE)
    if not lines and "Input #0" not in said:
        last = (said.strip() or "failed without a word").splitlines()[-1]
        raise BrokenClip(path, f"ffmpeg: {without_addresses(last)}")

    def choose(wanted: str) -> tuple[int | None, str]:
        # The cover of a record is a picture, too, but not a video.
        found = [(int(number), form) for number, kind, form in lines
                 if kind == wanted and "attached pic" not in form and not form.startswith("none")]
        default = [entry for entry in found if "(default)" in entry[1]]
        return (default or found or [(None, "")])[0]

    video, form = choose("Video")
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", said)
    seconds = math.nan
    if length:
        hours, minutes, rest = length.groups()
        seconds = 3600 * int(hours) + 60 * int(minutes) + float(rest)
    return Streams(video, choose("Audio")[0], seconds, form)


def decode(path: Path | str, wanted: int, other: int | None, longest: float | None,
           *options, strict=True) -> bytes:
    """What ffmpeg makes of a stream with these options for the output. Raises BrokenClip.

    Args:
        wanted: the number of the stream. other: that of a stream to which it keeps its place in
            time. longest: seconds after which reading ends; None reads everything. strict: see
            `run_ffmpeg`.
    """
    until = [] if longest is None else ["-t", longest]
    arguments = ["-i", f"file:{path}", "-map", f"0:{wanted}", *options, *until, "-"]
    # Of some containers (MPEG, transport streams) the time begins with the first stream that is
    # used, so the other one is used, too.
    if other is not None:
        arguments += ["-map", f"0:{other}", "-c", "copy", *until, "-f", "null", "-"]
    # If a stream changes its form in the middle, ffmpeg would start its filters anew, and these
    # would fill up from time 0 again. Without this it says so, and the clip counts as damaged.
    raw = run_ffmpeg(path, "-reinit_filter", 0, *arguments, strict=strict)
    if not raw:
        raise BrokenClip(path, "nothing could be decoded from it")
    return raw


def stored_size(streams: Streams) -> str:
    """Width and height of the pictures as they are stored, such as 720x576."""
    found = re.search(r", (\d+x\d+)", streams.form)
    return found[1] if found else "unknown"


def picture_size(path: Path | str) -> str:
    """`stored_size` of a file. Raises BrokenClip."""
    return stored_size(with_pictures(path, look(path)))


def first_with_pictures(paths: list[Path]) -> Path:
    """The first file whose pictures can be shown. ValueError if there is none."""
    reasons = []
    for path in paths:
        try:
            with_pictures(path, look(path))
            return path
        except BrokenClip as error:
            reasons.append(str(error))
    raise ValueError(f"none of the {len(paths)} files has pictures; the first reason: {reasons[0]}")


def fitting_crop(path: Path | str, crop: tuple | None) -> tuple | None:
    """The crop of a run for a picture from elsewhere. If it was made for pictures of another size,
    the centre is taken, and one line says so."""
    if not crop or len(crop) == 3:
        return crop
    size = picture_size(path)
    if size == crop[3]:
        return crop
    print(f"{path}: its centre is taken, since it is {size} and the crop of the training is for "
          f"{crop[3]}; --crop x,y,size takes another part", file=sys.stderr)
    return None


def square_filters(path: Path | str, streams: Streams, size: int, crop: tuple | None) -> str:
    """ffmpeg's filters from a picture to (size, size): a crop of the picture as it is displayed."""
    if crop and len(crop) == 4 and crop[3] != stored_size(streams):
        raise BrokenClip(path, f"its pictures are {stored_size(streams)}, and the crop is for "
                               f"{crop[3]}")
    x, y, side = crop[:3] if crop else ("(iw-ow)/2", "(ih-oh)/2", "min(iw,ih)")
    if crop:
        # ffmpeg would silently move a crop that sticks out; a side of -1 makes it complain.
        side = f"if(lte({x}+{side},iw)*lte({y}+{side},ih),{side},-1)"
    filters = [f"crop=w='{side}':h='{side}':x='{x}':y='{y}'", f"scale={size}:{size}:flags=lanczos"]
    # Pixels that are not square become so: the picture is stretched as a player does it.
    aspect = re.search(r"SAR (\d+):(\d+)", streams.form)
    if aspect and aspect[1] != aspect[2]:
        filters.insert(0, "scale=w='iw*max(1,sar)':h='ih/min(1,sar)',setsar=1")
    return ",".join(filters)


def with_pictures(path: Path | str, streams: Streams) -> Streams:
    """The streams of a file whose pictures are wanted. Raises BrokenClip if there are none, or such
    as can't be shown."""
    if streams.video is None:
        raise BrokenClip(path, "it has no video stream")
    for mark, name in (("arib-std-b67", "HLG"), ("smpte2084", "PQ")):
        if mark in streams.form:
            raise BrokenClip(path, f"it is HDR video ({name}), whose colours would come out wrong: "
                                   "convert it to SDR first")
    return streams


def read_video(path: Path | str, size: int, crop: tuple | None = None,
               longest: float | None = None, streams: Streams | None = None) -> np.ndarray:
    """The pictures of any video file, resampled to 25 fps -> (T, size, size, 3) uint8.

    Args:
        crop: (x, y, side) in pixels of the picture as it is displayed, and, where it is for files
            of one size alone, that size, such as "720x576"; None is the largest square in the
            centre.
        longest: seconds that are wanted at most. A longer file is not read further than a second
            beyond, and not at all if its headers tell.
        streams: what `look` has found, if it is known already.

    Raises BrokenClip.
    """
    streams = with_pictures(path, streams or look(path))
    if longest is not None:
        longest += 1
        if streams.seconds > longest:
            raise BrokenClip(path, f"too long: {streams.seconds:.2f} s, where {longest - 1:g} s "
                                   "are the most")
    filters = f"fps={FPS}:start_time=0,{square_filters(path, streams, size, crop)}"
    raw = decode(path, streams.video, streams.audio, longest,
                 "-vf", filters, "-f", "rawvideo", "-pix_fmt", "rgb24")
    return np.frombuffer(raw, np.uint8).reshape(-1, size, size, 3)            # (T, S, S, 3)


def read_picture(path: Path | str, size: int, crop: tuple | None = None) -> np.ndarray:
    """A picture, or the first one of a video -> (size, size, 3) uint8. What is transparent is
    white. Raises BrokenClip."""
    streams = with_pictures(path, look(path))
    # The colours of transparent pixels are hidden, and may be any. They become black, and then
    # white is added.
    filters = f"format=gbrap,premultiply=inplace=1,{square_filters(path, streams, size, crop)}"
    raw = decode(path, streams.video, None, None, "-vf", filters, "-frames:v", 1,
                 "-f", "rawvideo", "-pix_fmt", "rgba", strict=False)
    picture = np.frombuffer(raw, np.uint8).reshape(size, size, 4)
    return (picture[..., :3] + (255 - picture[..., 3:]).astype(int)).clip(0, 255).astype(np.uint8)


def read_audio(path: Path | str, sample_rate: int, longest: float | None = None,
               silent=False, streams: Streams | None = None) -> np.ndarray:
    """The sound of any audio or video file, mixed down to mono -> (n,) float32 in [-1, 1]. Sample 0
    coincides with frame 0 of the video.

    Args:
        longest: seconds that are read at most. silent: silence counts as a sound, too. streams: as
            for `read_video`.

    Raises BrokenClip, also if there is nothing to hear.
    """
    streams = streams or look(path)
    if streams.audio is None:
        raise BrokenClip(path, "it has no audio stream")
    # Several channels are averaged, with weights that add up to 1. Where the sound starts late,
    # this filter fills up with silence: no shift against the video.
    filters = f"aresample={sample_rate}:ochl=mono:rematrix_maxval=1:async=1:first_pts=0"
    raw = decode(path, streams.audio, streams.video, longest,
                 "-af", filters, "-c:a", "pcm_f32le", "-f", "f32le")
    audio = np.frombuffer(raw, np.float32)
    if not np.isfinite(audio).all():
        raise BrokenClip(path, "its sound holds values that are not finite numbers")
    # Coding may overshoot full scale, and a file of floating-point numbers may hold any: then all
    # of it is turned down.
    peak = np.abs(audio).max()
    if peak < SILENCE and not silent:
        raise BrokenClip(path, "its sound is silent")
    return audio / max(1, peak)


# --------------------------------------------------------------------------------------- writing
def fit_length(audio: np.ndarray, frames: int, sample_rate: int) -> np.ndarray:
    """Cut audio (n,), or pad it with silence, to exactly this many video frames."""
    samples = frames * sample_rate // FPS
    return np.pad(audio[:samples], (0, max(0, samples - len(audio))))


def video_options(height: int, width: int, side: int, about="") -> tuple[list, list]:
    """Options of ffmpeg: for raw pictures (height, width) from its standard input, and for an mp4
    with H.264 and AAC, enlarged until its short side is at least `side`. about: a comment in its
    metadata."""
    # H.264 with subsampled colours needs even sides.
    enlarge = max(1, side / min(height, width))
    out_width, out_height = (2 * int(np.ceil(enlarge * x / 2)) for x in (width, height))
    pictures = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", FPS,
                "-i", "-"]
    coding = ["-vf", f"scale={out_width}:{out_height}:flags=lanczos", "-c:v", "libx264",
              "-crf", 14, "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "128k", "-f", "mp4"]
    if about:
        coding += ["-metadata", f"comment={about}"]
    return pictures, coding


def generated(seed: int) -> str:
    """What a generated file says about itself."""
    return f"AI-generated by nanoTalker {VERSION}, seed {seed}"


def read_about(path: Path | str) -> str:
    """What an mp4 says about itself, '' if nothing: the `about` of `write_clip`."""
    raw = run_ffmpeg(path, "-i", f"file:{path}", "-f", "ffmetadata", "-")
    found = re.search(r"^comment=(.*)$", raw.decode(errors="replace"), re.MULTILINE)
    return found[1] if found else ""


def write_clip(path: Path | str, video: np.ndarray, audio: np.ndarray | None, sample_rate: int,
               side=256, about="") -> None:
    """Write an mp4 that any player plays: H.264 at 25 fps and AAC, exactly as long as the video.

    Args:
        video: (T, H, W, 3) uint8, enlarged until its short side is at least `side`.
        audio: (n,) float32, clipped to [-1, 1]; None leaves the clip without an audio stream.
        about: what the file says about itself, as a comment in its metadata.

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
        pictures, coding = video_options(height, width, side, about)
        sound = []
        if audio is not None:
            audio = fit_length(audio, frames, sample_rate).clip(-1, 1)
            soundfile.write(f"{folder}/audio.wav", audio, sample_rate)
            sound = ["-i", f"{folder}/audio.wav"]

        # Written under another name and then renamed: a killed run leaves no half of a clip.
        ending = ["-movflags", "+faststart", "-t", frames / FPS, f"file:{path}.part"]
        try:
            run_ffmpeg(path, *pictures, *sound, *coding, *ending, data=video.tobytes())
            os.replace(f"{path}.part", path)
        except BrokenClip as error:
            raise OSError(f"{path} can't be written: {error.reason}") from None
        finally:
            Path(f"{path}.part").unlink(missing_ok=True)


def write_json(path: Path | str, content) -> None:
    """Write a file under another name and rename it: a killed run leaves the old one or the new."""
    with replacing(path) as file:
        file.write(json.dumps(content).encode())


def read_json(path: Path) -> dict:
    """The object in a JSON file of a run. ValueError if there is none in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, it is not JSON ({error}): get it anew, or train the "
                         "run again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged, it holds no settings by name: get it anew, or train "
                         "the run again")
    return found


# ----------------------------------------------------------------------------------------- a hash
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
        for content in transcript_contents(path):
            contents.update(content)
    return contents.hexdigest()
