"""Write a clip while it is being generated: a fragmented mp4, in a file or on standard output, that
a player can follow.

    python sample.py --ckpt out/small --text "..." --speaker 3 --stream --out - | ffplay -

Axis letters: T frames, n samples of audio, S side of the pictures.
"""
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Queue

import imageio_ffmpeg
import numpy as np

from engine.media import video_options
from model import FPS


class StreamWriter:
    """H.264 and AAC, encoded as pictures and sound are added.

    Args:
        path: an .mp4, or '-' for standard output.
        height, width: of the pictures. They are enlarged until the shorter side is `side`.
        sample_rate: of the sound, mono. about: see engine.media.write_clip.
    """

    def __init__(self, path, height: int, width: int, sample_rate: int, side=256, about=""):
        self.path = path
        if str(path) == "-":
            target = "pipe:1"
        else:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            target = f"file:{path}"

        # ffmpeg reads the pictures from its standard input, the sound from a pipe of its own.
        sound_out, sound_in = os.pipe()
        pictures, encoding = video_options(height, width, side, about)
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *pictures,
            "-f", "f32le", "-ar", sample_rate, "-ac", 1, "-i", f"pipe:{sound_out}",
            *encoding, "-tune", "zerolatency",
            # A fragment per frame. The header waits for the first packets, which tell it how
            # much later than the pictures the sound begins.
            "-movflags", "delay_moov+default_base_moof", "-frag_duration", 10 ** 6 // FPS,
            "-flush_packets", 1, target]
        self.ffmpeg = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=(sound_out,))
        os.close(sound_out)

        # ffmpeg reads from whichever of the pipes it needs next. Each has a thread that feeds it,
        # so that a full pipe never holds up the other.
        pipes = (self.ffmpeg.stdin, os.fdopen(sound_in, "wb"))
        self.queues = [Queue() for _ in pipes]
        self.threads = [threading.Thread(target=self.feed, args=pair, daemon=True)
                        for pair in zip(self.queues, pipes)]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def feed(queue: Queue, pipe) -> None:
        """Write the blocks of a queue to a pipe, until a None."""
        try:
            with pipe:
                while (block := queue.get()) is not None:
                    pipe.write(block)
                    pipe.flush()
        except BrokenPipeError:
            # The player was closed, or ffmpeg failed. `close` says which.
            pass

    def add(self, video: np.ndarray, audio: np.ndarray) -> None:
        """Pictures (T, S, S, 3) uint8 and their sound (n,) float32."""
        self.queues[0].put(video.tobytes())
        self.queues[1].put(audio.astype("<f4").tobytes())

    def close(self) -> None:
        """Wait until all is written. RuntimeError with the end of ffmpeg's stderr if it failed."""
        for queue in self.queues:
            queue.put(None)
        for thread in self.threads:
            thread.join()
        complaint = self.ffmpeg.stderr.read().decode(errors="replace").strip()
        if self.ffmpeg.wait():
            last = (complaint or "failed without a word").splitlines()[-1]
            raise RuntimeError(f"{self.path}: ffmpeg: {last}")


def write_stream(path, pieces, sample_rate: int, about="") -> None:
    """Write pieces (video (T, S, S, 3), audio (n,)), of which there is at least one, as they come.
    In the end, print when the first came and how fast the rest."""
    start = time.perf_counter()
    first = None                    # seconds until the first piece
    writer = None
    frames = 0
    try:
        for video, audio in pieces:
            # The first piece tells the size of the pictures.
            if writer is None:
                first = time.perf_counter() - start
                writer = StreamWriter(path, *video.shape[1:3], sample_rate, about=about)
            writer.add(video, audio)
            frames += len(video)
    except ValueError:
        # A later sentence failed. What was made before it is written to its end.
        if writer is not None:
            writer.close()
        raise
    seconds = time.perf_counter() - start
    writer.close()
    print(f"{path}: {frames / FPS:.2f} s of audio-video in {seconds:.2f} s: the first patch after "
          f"{1000 * first:.0f} ms, real-time factor {seconds * FPS / frames:.2f}. Next: play it",
          file=sys.stderr)
