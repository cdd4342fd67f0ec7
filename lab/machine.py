"""What this machine is good at: device, cores, threads, allocator, dtype. A first reading can skip it.

Import it before torch: OpenMP and oneDNN read the lines below when torch loads.
"""
import ctypes
import functools
import os
import sys
import time
from typing import Callable

os.environ.setdefault("GOMP_SPINCOUNT", "1000")       # waiting threads: asleep at once they are slow, spinning on they starve others
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")      # a kernel per size of a product: a run has more than the usual 1024

import torch


def pick_device() -> torch.device:
    """The GPU that torchrun gave this process, or the first; else the CPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")


def cores() -> int:
    """CPU cores that this process may use, at most 8: more processes than that only cost memory."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def prepare_machine(device: torch.device, threads: int | None = None) -> torch.dtype:
    """Threads, allocator, and the dtype in which matrix products are fastest here: found out, not assumed."""
    torch.set_flush_denormal(True)        # numbers below 1e-38 count as 0: a trained network meets many, and each costs 100 products
    if threads:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        return torch.bfloat16
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        libc = ctypes.CDLL(None)          # glibc hands big blocks back to the system each time they are freed, and fetching
        libc.mallopt(-3, 1 << 30)         # them again costs more than the arithmetic on them: keep them
        libc.mallopt(-1, (1 << 31) - 1)
    def seconds(dtype):
        x = torch.randn(768, 768).to(dtype)
        x @ x
        start = time.perf_counter()
        for _ in range(4):
            x @ x
        return time.perf_counter() - start
    return torch.bfloat16 if 2 * min(seconds(torch.bfloat16) for _ in range(2)) < min(seconds(torch.float32) for _ in range(2)) \
        else torch.float32


def in_few_threads(generate: Callable) -> Callable:
    """Talker.generate, in one thread where samples times width squared are few: then waking the others costs more than they do.
    A patch of `small` took 22 ms in one thread and 30 in two at batch 1, 62 and 64 at batch 8."""
    @functools.wraps(generate)
    def run(talker, text, *arguments, **options):
        threads = torch.get_num_threads()
        torch.set_num_threads(1 if len(text) * talker.task.embedding_dim ** 2 < 300_000 else threads)
        try:
            yield from generate(talker, text, *arguments, **options)
        finally:
            torch.set_num_threads(threads)
    return run
