"""Several processes, on one machine or many:  torchrun --nproc_per_node=N train.py --config small

A first reading can skip this file: alone, a process is rank 0 of 1 and everything here passes through. A step's batch is cut
into `accumulate` pieces, each with its own draws of noise; the processes share the pieces, so that N processes compute what one
does with as many pieces. Rank 0 alone makes clips and latents and writes log and checkpoints.
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


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def join(device: torch.device) -> None:
    """Meet the other processes. They wait for each other for days, since rank 0 may encode that long; torchrun ends all when one fails."""
    if world() > 1 and not dist.is_initialized():
        tqdm.set_lock(threading.RLock())  # its own lock is a semaphore, which a process that ends at once would leave to the system
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=datetime.timedelta(days=7))


def leave() -> None:
    """The end of a process that worked in a group and has nothing left to do. It ends at once: gloo's threads may outlive its group, and
    one that meets an interpreter on its way out aborts the process, which then counts as failed."""
    if world() > 1:
        if dist.is_initialized():
            dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def plainly(function, *arguments) -> None:
    """Run it; what goes wrong is said in plain words and ends this process."""
    try:
        function(*arguments)
        leave()
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command resumes from the last checkpoints")


def in_processes(calls: list[tuple]) -> None:
    """Run each call (function, *arguments) in a new process and wait for all."""
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=function, args=arguments) for function, *arguments in calls]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a process did not finish; its error is above. The same command resumes from the checkpoints")


def wait() -> None:
    if world() > 1:
        dist.barrier()


def add_up(values: list[Tensor]) -> list[Tensor]:
    """The sum of each tensor over all processes."""
    if world() == 1:
        return values
    flat = torch.cat([v.detach().double().flatten() for v in values])
    dist.all_reduce(flat)
    return [part.view(v.shape) for part, v in zip(flat.split([v.numel() for v in values]), values)]


def agree(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """bf16 where it was found to be fast in every process."""
    votes, = add_up([torch.tensor(float(dtype == torch.bfloat16), device=device)])
    return torch.bfloat16 if votes == world() else torch.float32


class Shared(torch.nn.Module):
    """The model and its loss as one module, whose gradients are the means over all processes."""

    def __init__(self, model: torch.nn.Module, loss: Callable, device: torch.device, sharded: bool):
        """sharded: FSDP2, each process keeps a part of the weights and of the optimizers' state; else DDP, each keeps all."""
        super().__init__()
        self.model, self.loss = model, loss
        if sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard
            mesh = init_device_mesh(device.type, (world(),))
            for block in (m for m in model.modules() if isinstance(m, Block)):
                fully_shard(block, mesh=mesh)
            fully_shard(self, mesh=mesh)

    def forward(self, *inputs):
        return self.loss(*inputs)


def spread(model: torch.nn.Module, loss: Callable, device: torch.device, sharded: bool) -> tuple[Callable, Callable]:
    """-> loss, to be called instead, and exchange(bool), a context around forward and backward: gradients travel only if True."""
    if world() == 1:
        return loss, lambda last: contextlib.nullcontext()
    together = Shared(model, loss, device, sharded)
    if sharded:
        def exchange(yes):
            together.set_requires_gradient_sync(yes)
            return contextlib.nullcontext()
        return together, exchange
    together = torch.nn.parallel.DistributedDataParallel(together, gradient_as_bucket_view=True)
    return together, lambda yes: contextlib.nullcontext() if yes else together.no_sync()


def whole(state):
    """A state_dict whose sharded tensors are gathered: what a checkpoint holds is the same however many processes wrote it."""
    if isinstance(state, dict):
        return {k: whole(v) for k, v in state.items()}
    return state.full_tensor() if hasattr(state, "full_tensor") else state


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Put the whole state of a checkpoint into an optimizer, in shards where its parameters are."""
    from torch.distributed.tensor import DTensor, distribute_tensor
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    def fit(value, p):
        cut = isinstance(p, DTensor) and isinstance(value, Tensor) and value.shape == p.shape
        return distribute_tensor(value.to(p.device), p.device_mesh, p.placements) if cut else value
    per = {i: {k: fit(v, parameters[i]) for k, v in s.items()} for i, s in state["state"].items()}
    optimizer.load_state_dict(state | {"state": per})
