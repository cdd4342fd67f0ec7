"""Device, CPU cores, threads, memory allocator and dtype for this machine.

NOTE: import it before torch. OpenMP and oneDNN read the environment variables below once, when
torch loads them.
"""
import ctypes
import math
import os
import sys
import time

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


def pick_device() -> torch.device:
    """The GPU that torchrun gave this process, or the first GPU; without one, the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def cores() -> int:
    """CPU cores that this process may use, at most 8: more worker processes only cost memory."""
    if hasattr(os, "sched_getaffinity"):
        return min(8, len(os.sched_getaffinity(0)))
    return min(8, os.cpu_count() or 1)


def prepare_machine(device: torch.device, threads: int | None = None) -> torch.dtype:
    """Set up denormal numbers, threads (if a number is given) and the allocator. Returns the dtype
    in which matrix products are fastest here; on a CPU that is measured."""
    # Numbers below 1e-38 count as 0. A trained network meets many of them, and each costs as much
    # as a hundred products.
    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        return torch.bfloat16
    keep_freed_memory()

    # The fastest of up to ten products in each dtype.
    float32 = math.inf
    bfloat16 = math.inf
    for turn in range(10):
        float32 = min(float32, time_product(torch.float32))
        bfloat16 = min(bfloat16, time_product(torch.bfloat16))
        # Without bf16 instructions a product takes a third of a second: two turns are enough.
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


def time_product(dtype: torch.dtype) -> float:
    """Seconds that a product of two 768 x 768 matrices takes."""
    x = torch.randn(768, 768).to(dtype)
    start = time.perf_counter()
    x @ x
    return time.perf_counter() - start


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Move a batch from the CPU to the device. A GPU fetches it from pinned memory by itself, while
    it computes the step before."""
    if device.type == "cpu":
        return batch
    return {name: x.pin_memory().to(device, non_blocking=True) for name, x in batch.items()}
