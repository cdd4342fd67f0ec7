"""Device, CPU cores, threads, memory, its allocator and the dtype for this machine.

What a container or a batch job may use is often less than what the machine has. On Linux its
control groups say how much.

NOTE: import it before torch. OpenMP and oneDNN read the environment variables below once, when
torch loads them.
"""
import ctypes
import functools
import math
import multiprocessing
import os
import sys
import time
from pathlib import Path

# A thread that has nothing to do spin-waits for this many iterations before it goes to sleep. At
# 1000, waking it cost more than the spin-wait; without a limit it starves other processes.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# oneDNN makes a kernel for each shape of a product. A run has more shapes than the 1024
# kernels that it keeps by default.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

import torch

# Two parameters of glibc's mallopt.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


# -------------------------------------------------------------------------------------- device
def pick_device(name: str = "") -> torch.device:
    """The device of that name: cpu, cuda or cuda:N. Without one, the GPU that torchrun gave this
    process, or the first GPU; the CPU if there is none that works.

    ValueError if there is no such device, or it does not work."""
    number = int(os.environ.get("LOCAL_RANK", 0))
    if name == "cpu" or not name and not torch.cuda.is_available():
        return torch.device("cpu")
    if not name and number >= torch.cuda.device_count():
        raise ValueError(f"there are more processes than GPUs ({torch.cuda.device_count()}): start "
                         "fewer, or use --device=cpu")
    if name in ("", "cuda"):
        device = torch.device("cuda", number)
    elif name.startswith("cuda:") and name[5:].isdecimal():
        device = torch.device(name)
    else:
        # Not mps: PyTorch has no CTC loss for it.
        raise ValueError(f"the device is cpu, cuda, or cuda:N for the GPU of that number, not "
                         f"'{name}'")

    trouble = gpu_trouble(device)
    if not trouble:
        return device
    if name:
        raise ValueError(f"{name} can't be used: {trouble}; --device=cpu can")
    say_once(f"The GPU can't be used ({trouble}): computing on the CPU.")
    return torch.device("cpu")


@functools.lru_cache
def gpu_trouble(device: torch.device) -> str:
    """Why a GPU does not work, '' if it does. A PyTorch that sees it may still lack the kernels for
    it, so a small sum is tried."""
    try:
        torch.ones(2, device=device).add(1).sum().item()
    except (RuntimeError, AssertionError) as error:
        # AssertionError: a PyTorch without CUDA.
        return str(error).splitlines()[0]
    return ""


@functools.lru_cache
def say_once(line: str) -> None:
    """Print a line, but only once, and not in the processes that a run starts."""
    if multiprocessing.parent_process() is None:
        print(line, file=sys.stderr)


# ------------------------------------------------------------------------------ cores and memory
def control_group_files(controller: str, name: str) -> list[str]:
    """What the control groups of this process say in the file `name`: its own group and all that
    this one is in. Of version 1 if a controller (cpu, memory) is named, of version 2 for ''."""
    groups = Path("/proc/self/cgroup")
    found = []
    for line in groups.read_text().splitlines() if groups.exists() else []:
        # Lines such as 4:memory:/docker/12ab, or 0::/user.slice of version 2.
        _, controllers, group = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        # Inside of a container the root may be what is called /docker/12ab outside.
        own = Path(group.strip("/"))
        for part in (own, *own.parents):
            path = Path("/sys/fs/cgroup", controller, part, name)
            if path.is_file():
                found.append(path.read_text())
    return found


def quota(text: str, period: str) -> float:
    """CPU cores that a group may use, from its microseconds in each period ('max' or -1: all)."""
    if text.strip() in ("max", "-1"):
        return math.inf
    return int(text) / int(period)


def limit(text: str) -> float:
    """Bytes of memory that a group may use ('max': all)."""
    return math.inf if text.strip() == "max" else int(text)


def usable_cores() -> int:
    """CPU cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        there = len(os.sched_getaffinity(0))
    else:
        there = os.cpu_count() or 1
    quotas = [quota(*text.split()) for text in control_group_files("", "cpu.max")]
    quotas += map(quota, control_group_files("cpu", "cpu.cfs_quota_us"),
                  control_group_files("cpu", "cpu.cfs_period_us"))
    return max(1, int(min([there, *quotas])))


def cores(sharing=1) -> int:
    """CPU cores that this process may use, at most 8: more worker processes only cost memory.
    sharing: processes that share the machine."""
    return min(8, max(1, usable_cores() // sharing))


def memory(device: torch.device) -> float:
    """Bytes of memory that this process may use on the device; infinite if that is unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    there = math.inf
    if hasattr(os, "sysconf"):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    texts = control_group_files("", "memory.max")
    texts += control_group_files("memory", "memory.limit_in_bytes")
    return min([there, *map(limit, texts)])


# --------------------------------------------------------------------------------------- set up
def prepare_machine(device: torch.device, threads: int | None = None) -> torch.dtype:
    """Set up denormal numbers, threads (as many as are given, else no more than there are cores)
    and the allocator. Returns the dtype in which matrix products are fastest here; on a CPU that is
    measured."""
    # Numbers below 1e-38 count as 0. A trained network meets many of them, and each costs as much
    # as a hundred products.
    torch.set_flush_denormal(True)
    # PyTorch counts all cores of the machine. Threads beyond those of a container would spin.
    if not threads and torch.get_num_threads() > usable_cores():
        threads = usable_cores()
    if threads:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        # What names no device, such as pinned memory, then takes this GPU too.
        torch.cuda.set_device(device.index or 0)
        return torch.bfloat16
    keep_freed_memory()

    if slow_in_bf16():
        return torch.float32

    # The fastest of up to ten products in each dtype.
    float32 = math.inf
    bfloat16 = math.inf
    for turn in range(10):
        float32 = min(float32, time_product(torch.float32))
        bfloat16 = min(bfloat16, time_product(torch.bfloat16))
        if turn and bfloat16 > float32:
            break
    # Products are not all of the work: at a ratio of 2.1, training is 1.7 times as fast in bf16.
    return torch.bfloat16 if float32 > 1.5 * bfloat16 else torch.float32


def keep_freed_memory() -> None:
    """On Linux, glibc hands large blocks back to the system each time they are freed. Getting them
    again costs more than the arithmetic on them, so this process keeps them."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def slow_in_bf16() -> bool:
    """Whether this CPU has no instructions for bf16. A product in it then takes tens of times as
    long as in float32, and small ones tell that in no time."""
    float32, bfloat16 = (min(time_product(dtype, 256) for _ in range(4))
                         for dtype in (torch.float32, torch.bfloat16))
    return bfloat16 > 8 * float32


def time_product(dtype: torch.dtype, side=768) -> float:
    """Seconds that a product of two matrices, side x side, takes."""
    x = torch.randn(side, side).to(dtype)
    start = time.perf_counter()
    x @ x
    return time.perf_counter() - start


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Move a batch from the CPU to the device. A GPU fetches it from pinned memory by itself, while
    it computes the step before."""
    if device.type == "cpu":
        return batch
    return {name: x.pin_memory().to(device, non_blocking=True) for name, x in batch.items()}
