"""Several processes, on one machine or many:

    torchrun --nproc_per_node=N train.py --config small

A step's batch is cut into pieces, `accumulate` of them or more, each with random draws of its own.
The processes share the pieces, so that N processes compute what one does with as many pieces. Rank
0 alone makes clips and latents, and writes the log and the checkpoints.

Without torchrun a process is rank 0 of 1, and everything here passes through.
"""
import contextlib
import datetime
import multiprocessing
import os
import sys
import threading
from pathlib import Path
from typing import Callable

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


def join_processes(device: torch.device) -> None:
    """Join the group of processes that torchrun has started, if any."""
    if world() == 1 or dist.is_initialized():
        return
    # tqdm's own lock holds a semaphore, which a process that ends at once (see `leave`) would
    # leave to the system.
    tqdm.set_lock(threading.RLock())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The others wait for rank 0 while it encodes the corpus, which may take days. If a process
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
def plainly(function: Callable, *arguments) -> None:
    """Run the function as the main program. Its errors become one line on stderr, without a
    traceback, and end this process."""
    try:
        function(*arguments)
        leave()
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command resumes from the last checkpoints")


def run_in_processes(calls: list[tuple]) -> None:
    """Run each call (function, *arguments) in a new process of this machine, and wait for all.
    RuntimeError if one of them fails."""
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=function, args=arguments) for function, *arguments in calls]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a process did not finish; its error is above. The same command "
                           "resumes from the checkpoints")


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
