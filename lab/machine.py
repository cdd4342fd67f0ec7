"""What this machine is good at: device, cores, threads, allocator, dtype. A first reading can skip it.

Import it before torch: OpenMP and oneDNN read the lines below when torch loads.
"""
import ctypes
import math
import os
import platform
import sys
import time
import warnings

os.environ.setdefault("GOMP_SPINCOUNT", "10000")      # turns for which a thread waits awake: at 1000, waking it cost more than it did; for ever, it starves others
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
        start = time.perf_counter()
        x @ x
        return time.perf_counter() - start
    float32 = bfloat16 = math.inf
    for turn in range(10):
        float32, bfloat16 = min(float32, seconds(torch.float32)), min(bfloat16, seconds(torch.bfloat16))
        if turn and bfloat16 > float32:   # emulated: a product takes a third of a second then
            break
    return torch.bfloat16 if float32 > 1.5 * bfloat16 else torch.float32      # at 2.1 training is 1.7 times as fast in bf16


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """A batch made on the CPU, where the loss wants it; a GPU fetches it from pinned memory by itself, while it computes the step before."""
    return batch if device.type == "cpu" else {name: x.pin_memory().to(device, non_blocking=True) for name, x in batch.items()}


WIDE = 2 ** 18                                        # weights of a Linear from which on its product takes the time, and not the call
PACKS = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


class PackedLinear(torch.nn.Module):
    """A Linear for sampling alone: its weights lie in blocks, the way oneDNN wants them, and in the dtype that is fastest. It can't be
    copied, moved or saved.

    PyTorch's own products of few rows lose most of their time with weights that lie in rows: 20 rows times 1024 x 3072 took 1.43 ms,
    .58 in blocks, .31 in blocks of bf16 (.41 in rows of it), on two cores. The operators are those that torch.compile calls."""

    def __init__(self, linear: torch.nn.Linear, dtype: torch.dtype):
        super().__init__()
        self.in_features, self.out_features, self.dtype = linear.in_features, linear.out_features, dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), 64)      # for so many rows; others do as well
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.dtype}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.weight, self.bias, "none", [], "").to(x.dtype)


def pack(model: torch.nn.Module, dtype: torch.dtype) -> bool:
    """Before sampling: the wide Linears of a float32 model on an x86 CPU become PackedLinears -> whether it has any; narrow ones
    (`small` has no others) gain nothing."""
    for parent in [m for m in model.modules() if not isinstance(m, torch.nn.Linear)]:          # or all would live until the end
        for name, child in parent.named_children():
            if PACKS and isinstance(child, torch.nn.Linear) and child.weight.numel() >= WIDE and child.weight.device.type == "cpu":
                setattr(parent, name, PackedLinear(child, dtype))
    return any(isinstance(m, PackedLinear) for m in model.modules())


def compile_heads(talker: torch.nn.Module) -> None:
    """Before sampling on a GPU: a head's small operations become a few kernels (torch.compile), which are replayed as one CUDA graph. The
    first patch of a batch size waits for the compiler. A CPU gains nothing: lab/joint.py is as fast, without a compiler."""
    warnings.filterwarnings("ignore", message=".*lru_cache.*")             # the tables of rotary positions: a constant of the kernels
    for head in [m for m in talker.heads.modules() if hasattr(m, "velocity")]:
        head.velocity = torch.compile(head.velocity, dynamic=False, mode="reduce-overhead" if next(head.parameters()).is_cuda else None)
