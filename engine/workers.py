"""Worker processes: the same function for many clips.

    parallel        function(source, number) for each number, in order, from several processes
    kept            what was made of the clips, without the broken ones

Every worker has a pipe of its own, which ends when the worker does, at whatever moment that is.
(multiprocessing.Pool would wait for ever for a worker that was killed, and concurrent.futures for
one that was killed while it handed over a result.) A worker is a new process and no copy of this
one, since threads of PyTorch that a copy lacks may hold its locks.
"""
import multiprocessing
import pickle
import signal
import traceback
from multiprocessing import connection
from typing import Callable, Iterable, Iterator, Sequence

from tqdm import tqdm

from engine.media import BrokenClip
from engine.processes import AWAKE, how_it_ended, rank, start

# A worker takes seconds to start, so there is one for so many clips at most.
CLIPS_PER_WORKER = 16
# Numbers that a worker has at a time: while it hands over a result, the next one waits already.
AT_ONCE = 2
# Per worker, so many clips are at most in work or waiting for their turn: they fill the memory.
AHEAD = 4


# ---------------------------------------------------------------------------------- the worker
def work(pipe: connection.Connection) -> None:
    """The main program of a worker. First comes (function, source), pickled, then the numbers of
    clips. For each of them it sends (function(source, number), "") or (exception, traceback)."""
    # Ctrl-C reaches all processes of a terminal. This one is ended by the one that started it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        function, source = pipe.recv()
        while True:
            pipe.send(outcome(function, source, pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The process that wanted the results has ended.
        return


def outcome(function: Callable, source, number: int) -> tuple:
    """(result, "") of a call, or the exception that it raised and where it did so."""
    try:
        return function(source, number), ""
    except Exception as error:
        return error, traceback.format_exc()


class Worker:
    """A worker process, as the one that started it sees it.

    Attributes: process, pipe. tasks: the numbers that it was given, without those that it has
    answered, the oldest first.
    """

    def __init__(self):
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=work, args=(theirs,), daemon=True)
        self.tasks = []
        start(self.process)
        # Without this copy of the worker's end, the pipe ends with the worker.
        theirs.close()

    def begin(self, job: bytes) -> None:
        """Send what `work` needs before the first number."""
        self.handed(self.pipe.send_bytes, job)

    def give(self, number: int) -> None:
        self.handed(self.pipe.send, number)
        self.tasks.append(number)

    def take(self) -> tuple[int, object]:
        """The next result and its number. Raises what the function has raised."""
        result, where = self.handed(self.pipe.recv)
        number = self.tasks.pop(0)
        if where:
            raise result from RuntimeError(f"in a worker process:\n{where}")
        return number, result

    def handed(self, pass_on: Callable, *arguments):
        """pass_on(*arguments), through the pipe. RuntimeError if the worker has ended."""
        try:
            return pass_on(*arguments)
        except (EOFError, OSError):
            at = f" (at clip {self.tasks[0]})" if self.tasks else ""
            raise RuntimeError(f"a worker process{at} {how_it_ended(self.process)}") from None

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


# ------------------------------------------------------------------------------------ many clips
def parallel(function: Callable, source, numbers: Sequence[int], workers: int,
             label: str) -> Iterator:
    """function(source, number) for each of the numbers, in order, from worker processes, behind a
    progress bar. Of several processes of a run, rank 0 shows its own.

    An exception of the function is raised here. RuntimeError if a worker is killed. Then, at the
    end, and when this generator is closed, all workers end at once."""
    # The source may know thousands of files. It is pickled once; a task is a number.
    job = pickle.dumps((function, source))
    crew = []
    try:
        for _ in range(min(workers, 1 + len(numbers) // CLIPS_PER_WORKER)):
            crew.append(Worker())
        for worker in crew:
            worker.begin(job)

        waiting = {}                    # number -> result, of clips that came before their turn
        given = 0                       # how many of the numbers were given to workers
        bar = tqdm(numbers, desc=label, unit="clip", disable=rank() > 0)
        for place, number in enumerate(bar):
            while number not in waiting:
                ahead = numbers[given:place + AHEAD * len(crew)]
                given += hand_out(crew, ahead)
                waiting.update(collect(crew))
            yield waiting.pop(number)
    finally:
        for worker in crew:
            worker.end()


def hand_out(crew: list[Worker], numbers: Sequence[int]) -> int:
    """Give numbers to the workers that have the fewest. A worker has AT_ONCE of them at most.
    Returns how many were given."""
    for given, number in enumerate(numbers):
        worker = min(crew, key=lambda worker: len(worker.tasks))
        if len(worker.tasks) == AT_ONCE:
            return given
        worker.give(number)
    return len(numbers)


def collect(crew: list[Worker]) -> dict:
    """Wait until a worker has a result -> number -> result, of all that have one. After a while it
    gives none."""
    by_pipe = {worker.pipe: worker for worker in crew}
    return dict(by_pipe[pipe].take() for pipe in connection.wait(list(by_pipe), AWAKE))


def kept(results: Iterable, n: int, label: str, skipped: list[str]) -> Iterator[tuple]:
    """What was made of n clips -> (number, result) of all but the BrokenClips. Those are listed in
    `skipped` and named at the end; ValueError if all are broken."""
    for number, result in enumerate(results):
        if isinstance(result, BrokenClip):
            skipped.append(str(result))
        else:
            yield number, result
    name_skipped(skipped, n, label)


def name_skipped(skipped: list[str], n: int, label: str) -> None:
    """Say which of n clips could not be used, and why. ValueError if that is all of them."""
    if len(skipped) == n:
        raise ValueError(f"{label}: none of the {n} clips can be used; the first reasons:\n  "
                         + "\n  ".join(skipped[:3]))
    if skipped:
        more = ["..."] if len(skipped) > 10 else []
        print(f"{label}: {len(skipped)} of {n} clips can't be used:\n  "
              + "\n  ".join(skipped[:10] + more))
