"""Several processes, on one machine or many:

    torchrun --nproc_per_node=N train.py --config small

A step's batch is cut into pieces, `accumulate` of them or more, each with random draws of its own.
The processes share the pieces, so that N processes compute what one does with as many pieces. They
share the shards of the latents as well. Rank 0 alone makes the clips that the autoencoders learn
from, and writes the log and the checkpoints.

Without torchrun a process is rank 0 of 1, and everything here passes through.
"""
import contextlib
import datetime
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from model import Block


# ---------------------------------------------------------------------------------- the group
def rank() -> int:
    """The number of this process."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def processes_here() -> int:
    """The number of processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def join_processes(device: torch.device) -> None:
    """Join the group of processes that torchrun has started, if any."""
    if world() == 1 or dist.is_initialized():
        return
    # tqdm's own lock holds a semaphore, which a process that ends at once (see `leave`) would
    # leave to the system.
    tqdm.set_lock(threading.RLock())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Some wait for others while the corpus is encoded, which may take days. If a process
    # fails, torchrun ends all of them.
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(days=7))


def leave() -> None:
    """The end of a process of a group that has nothing left to do.

    It ends at once, without the interpreter's own clean-up: threads of gloo may outlive the group,
    and one that still runs when the interpreter shuts down can abort the process, which then
    counts as failed."""
    if world() == 1:
        return
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def barrier() -> None:
    """Wait until all processes are here."""
    if world() > 1:
        dist.barrier()


# ------------------------------------------------------------------------- starting and ending
# What the person at the keyboard can mend. Commands then end with exit code 2, as argparse does.
USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError,
               IsADirectoryError, PermissionError)
# Seconds. Whoever waits for other processes wakes up so often: a signal that comes just before
# waiting begins would otherwise be seen at its end only.
AWAKE = 1.0


class Terminated(KeyboardInterrupt):
    """SIGTERM has come: a scheduler, a container or `kill` wants this process to end."""


def end_now(number: int, frame) -> None:
    """What SIGTERM does, unless a training loop takes note of it."""
    raise Terminated


@contextlib.contextmanager
def sigterm_noted() -> Iterator[list]:
    """Within this context SIGTERM does not end the process. The list that it gives is empty until
    the signal has come."""
    came = []
    if threading.current_thread() is not threading.main_thread():
        # Signals are the main thread's.
        yield came
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def plainly(function: Callable, *arguments) -> None:
    """Run the function as the main program. Its errors become one line on stderr, without a
    traceback, and end this process: with exit code 2 if they are of its input, else 1. Ctrl-C ends
    it with 130, SIGTERM with 143."""
    signal.signal(signal.SIGTERM, end_now)
    try:
        function(*arguments)
        leave()
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        print(f"{Path(sys.argv[0]).name}: {in_words(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, USER_ERRORS) else 1)
    except KeyboardInterrupt as stop:
        # Of several processes of a run, the one that started the others says it.
        if multiprocessing.parent_process() is None and rank() == 0:
            program = Path(sys.argv[0]).name
            resumes = "; the same command resumes from the last checkpoints"
            print("\nstopped" + resumes * (program == "train.py"), file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)


def in_words(error: BaseException) -> str:
    """What an error says, without the number that the system gives it."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if "Connection closed by peer" in str(error):
        # What gloo says where the other end is gone.
        return "another process of this run has ended, and said why"
    return str(error)


def start(process: multiprocessing.Process) -> None:
    """Start a process that Ctrl-C does not reach: this one ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        # Windows. Until the process ignores the signal itself, it may answer with a traceback.
        process.start()
        return
    # The new process inherits what is blocked. A helper that Python starts with the first process
    # would lift the block, so it comes before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(process: multiprocessing.Process) -> str:
    """Why a process is not there any more, and what to do."""
    process.join()
    code = process.exitcode
    if code >= 0:
        return f"ended too early (exit code {code}); its error is above"
    cause = ""
    if -code == signal.SIGKILL:
        cause = (", probably for lack of memory: close other programs, or take a machine with more "
                 "memory or smaller settings. The same command then goes on")
    return f"was killed ({signal.Signals(-code).name}){cause}"


def run_in_processes(calls: list[tuple]) -> None:
    """Run each call (function, *arguments) in a new process of this machine, and wait for all.

    If one fails, or this process is to end, the others end as well; those that train save a
    checkpoint first. RuntimeError if one was killed; one that has said itself what was wrong ends
    this process with its exit code.
    """
    spawn = multiprocessing.get_context("spawn")
    workers = []
    try:
        for call in calls:
            workers.append(spawn.Process(target=run_call, args=call))
            start(workers[-1])
        running = workers
        while running:
            connection.wait([worker.sentinel for worker in running], AWAKE)
            running = [worker for worker in running if worker.is_alive()]
            for worker in workers:
                if worker.exitcode:
                    fail(worker)
    finally:
        end(workers)


def run_call(function: Callable, *arguments) -> None:
    """The main program of a process that run_in_processes has started."""
    # Ctrl-C reaches all processes of a terminal. This one is ended by the one that started it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plainly(function, *arguments)


def fail(worker: multiprocessing.Process) -> None:
    """End this process as a worker has ended, which has said why unless a signal ended it."""
    if worker.exitcode in (143, -signal.SIGTERM):
        # A scheduler may tell all processes, and this one a moment later.
        raise Terminated
    if worker.exitcode > 0:
        sys.exit(worker.exitcode)
    raise RuntimeError(f"a process of this run {how_it_ended(worker)}")


def end(workers: list[multiprocessing.Process]) -> None:
    """Let processes end: by SIGTERM, upon which a training loop saves. Those that are still there
    after a minute are killed."""
    started = [worker for worker in workers if worker.pid]
    for worker in started:
        worker.terminate()
    for worker in started:
        worker.join(60)
        worker.kill()


# ------------------------------------------------------------------------- what they exchange
def sum_over_processes(values: list[Tensor]) -> list[Tensor]:
    """The sum of each tensor over all processes, in the same shapes."""
    if world() == 1:
        return values
    # One exchange for all of them.
    flat = torch.cat([value.detach().double().flatten() for value in values])
    dist.all_reduce(flat)
    sums = flat.split([value.numel() for value in values])
    return [total.view(value.shape) for total, value in zip(sums, values)]


def from_rank_0(value):
    """In every process the value that rank 0 has; it can be pickled."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def agree_on_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """bf16 if it was found to be fast in every process, else float32."""
    vote = torch.tensor(float(dtype == torch.bfloat16), device=device)
    votes, = sum_over_processes([vote])
    return torch.bfloat16 if votes == world() else torch.float32


class ModelAndLoss(torch.nn.Module):
    """A model and the loss that calls it, as one module: DDP and FSDP2 act on a module's forward.

    Args:
        sharded: True for FSDP2, with which each process keeps a part of the weights and of the
            optimizers' state. DDP, with which each keeps all, is put around this by `distribute`.
    """

    def __init__(self, model: torch.nn.Module, loss: Callable, device: torch.device,
                 sharded: bool):
        super().__init__()
        self.model = model
        self.loss = loss
        if sharded:
            # Here, since few runs need them and they take long to load.
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard
            mesh = init_device_mesh(device.type, (world(),))
            for module in list(model.modules()):
                if isinstance(module, Block):
                    fully_shard(module, mesh=mesh)
            fully_shard(self, mesh=mesh)

    def forward(self, *inputs):
        return self.loss(*inputs)


def distribute(model: torch.nn.Module, loss: Callable, device: torch.device,
               sharded: bool) -> tuple[Callable, Callable]:
    """Let the gradients of a model be the means over all processes.

    Args:
        loss: loss(*inputs), which calls the model. sharded: FSDP2 instead of DDP.

    Returns:
        loss, to be called in place of the one that is given.
        exchange: exchange(True) is a context for forward and backward in which the processes
            exchange gradients; in exchange(False) gradients add up in each of them.
    """
    if world() == 1:
        def exchange(wanted: bool):
            return contextlib.nullcontext()
        return loss, exchange

    together = ModelAndLoss(model, loss, device, sharded)
    if sharded:
        def exchange(wanted: bool):
            together.set_requires_gradient_sync(wanted)
            return contextlib.nullcontext()
        return together, exchange

    parallel = torch.nn.parallel.DistributedDataParallel(together, gradient_as_bucket_view=True)

    def exchange(wanted: bool):
        return contextlib.nullcontext() if wanted else parallel.no_sync()
    return parallel, exchange


# ------------------------------------------------------------- checkpoints of sharded models
def gathered(state):
    """A tensor, or a (nested) state_dict, whose shards are gathered: what a checkpoint holds is the
    same however many processes wrote it."""
    if isinstance(state, dict):
        return {name: gathered(value) for name, value in state.items()}
    return state.full_tensor() if hasattr(state, "full_tensor") else state


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a gathered state_dict into an optimizer, in shards where its parameters are sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def sharded_like(value, parameter):
        # Moments have the shape of their parameter. Counts of steps have none, and stay whole.
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor):
            return value
        if value.shape != parameter.shape:
            return value
        return distribute_tensor(
            value.to(parameter.device), parameter.device_mesh, parameter.placements)

    by_parameter = {}
    for i, values in state["state"].items():
        by_parameter[i] = {name: sharded_like(value, parameters[i])
                           for name, value in values.items()}
    optimizer.load_state_dict(state | {"state": by_parameter})
