"""Write a clip while it is being made: a fragmented mp4 in a file or on standard output, that a player can follow.

    python sample.py --ckpt out/small --text "..." --talker 3 --stream --out - | ffplay -
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

from data import FPS, film_options


class LiveWriter:
    """H.264 and AAC, written as pictures and sound are added; ffmpeg reads both from pipes of their own."""

    def __init__(self, path, height: int, width: int, sample_rate: int, side=256):
        """path: an .mp4, or '-' for standard output. height, width: of the pictures, enlarged until the shorter is `side`."""
        if str(path) != "-":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        hears, speaks = os.pipe()
        pictures, coding = film_options(height, width, side)
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *pictures, "-f", "f32le", "-ar", sample_rate, "-ac", 1, "-i", f"pipe:{hears}",
                   *coding, "-tune", "zerolatency", "-movflags", "empty_moov+default_base_moof+frag_every_frame", "-flush_packets", 1,
                   "pipe:1" if str(path) == "-" else f"file:{path}"]
        self.path = path
        self.ffmpeg = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(hears,))
        os.close(hears)
        # ffmpeg reads from the pipe that it lacks; a thread each, so that a full pipe of the one never holds up the other
        self.queues = [Queue(), Queue()]
        self.threads = [threading.Thread(target=self.feed, args=pair, daemon=True)
                        for pair in zip(self.queues, (self.ffmpeg.stdin, os.fdopen(speaks, "wb")))]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def feed(queue: Queue, pipe) -> None:
        try:
            with pipe:
                while (block := queue.get()) is not None:
                    pipe.write(block)
                    pipe.flush()
        except BrokenPipeError:           # the player was closed, or ffmpeg failed: `close` says which
            pass

    def add(self, video: np.ndarray, audio: np.ndarray) -> None:
        """video (t, S, S, 3) uint8 and its sound (n,) float32."""
        self.queues[0].put(video.tobytes())
        self.queues[1].put(audio.astype("<f4").tobytes())

    def close(self) -> None:
        """Wait until all is written. RuntimeError with ffmpeg's own last words if it failed."""
        for queue in self.queues:
            queue.put(None)
        for thread in self.threads:
            thread.join()
        complaint = self.ffmpeg.stderr.read().decode(errors="replace").strip()
        if self.ffmpeg.wait():
            raise RuntimeError(f"{self.path}: ffmpeg: {(complaint or 'failed without a word').splitlines()[-1]}")


def write_stream(path, pieces, sample_rate: int) -> None:
    """Pieces (video, audio) -> path, as they come; then says when the first came and how fast the rest."""
    start, first, frames, writer = time.perf_counter(), None, 0, None
    for video, audio in pieces:
        if writer is None:
            first, writer = time.perf_counter() - start, LiveWriter(path, *video.shape[1:3], sample_rate)
        writer.add(video, audio)
        frames += len(video)
    if writer is None:
        raise ValueError("the sample stopped before its first patch: the text is unlike what the model learned, or its stop rule is too eager")
    seconds = time.perf_counter() - start
    writer.close()
    print(f"{path}: {frames / FPS:.2f} s of audio-video in {seconds:.2f} s: the first patch after {1000 * first:.0f} ms, "
          f"real-time factor {seconds * FPS / frames:.2f}. Next: play it", file=sys.stderr)
