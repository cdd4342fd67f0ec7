"""What is there for a GPU. The tests that need one skip without; the whole suite runs on it too,
where there is one."""
import copy
import shutil
import sys

import pytest
import torch

from engine.machine import to_device
from engine.sampling import compile_heads
from model import attention
from tests.helpers import generate, random_batch, tiny_talker

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("g++"), reason="torch.compile needs g++ here")
DEVICES = [pytest.param("cpu", marks=needs_compiler), pytest.param("cuda", marks=on_gpu)]


def moved(x, device):
    if isinstance(x, dict):
        return {name: moved(value, device) for name, value in x.items()}
    return x.to(device)


def tiny(device):
    """A talker whose heads are not zero, and a batch for it."""
    torch.manual_seed(0)
    talker, config = tiny_talker()
    for p in talker.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return talker.to(device), moved(random_batch(config), device)


def sample(talker, batch) -> torch.Tensor:
    made = generate(talker, batch, 3, steps=4, guidance=2.0)
    return torch.cat(list(made.values()), -1).cpu()


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_heads_sample_the_same(device):
    """With the compiler's kernels, and on a GPU with the CUDA graph that replays them."""
    talker, batch = tiny(device)
    compiled = copy.deepcopy(talker)
    compile_heads(compiled)
    expected = sample(talker, batch)
    assert expected.abs().max() > 0.1
    for _ in range(2):                            # the second from the recorded graph
        difference = (sample(compiled, batch) - expected).abs().max()
        assert difference < 1e-4 * expected.abs().max()


@on_gpu
def test_a_gpu_computes_what_a_cpu_does():
    """Hidden states, their gradients, and samples, in float32."""
    found = []
    for device in ("cpu", "cuda"):
        talker, batch = tiny(device)
        hidden, _, _ = talker.teacher_forced(**batch)
        hidden.square().mean().backward()
        gradients = [p.grad.cpu() for p in talker.parameters() if p.grad is not None]
        found.append([hidden.detach().cpu(), sample(talker, batch), *gradients])
    for here, there in zip(*found, strict=True):
        assert (here - there).abs().max() <= 1e-4 * here.abs().max()


@on_gpu
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_attention_on_a_gpu(dtype, close, padded):
    """The fused kernels against the plain lines on the CPU: grouped queries, causal, with and
    without padding."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, 9, 16) for heads in (4, 2, 2))
    valid = torch.arange(9)[None] >= torch.tensor([[0], [3]]) if padded else None
    expected = attention(q, k, v, True, valid, fused=False)
    valid = None if valid is None else valid.cuda()
    found = attention(*(x.to("cuda", dtype) for x in (q, k, v)), True, valid)
    assert (found.float().cpu() - expected).abs().max() < close


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
def test_a_batch_reaches_its_device(device):
    batch = dict(a=torch.randn(5, 3), b=torch.arange(4))
    for name, x in to_device(batch, torch.device(device)).items():
        assert x.device.type == device and torch.equal(x.cpu(), batch[name])
