"""Three elementwise parts of a transformer block with their gradients by hand. A first reading can skip this file.

Training small networks on a CPU is bound by passes over memory: torch's own RMSNorm takes twice as many as these, and chunks and
concatenations copy what can be written in place. Nothing here changes what is computed (lab/test_by_hand.py holds them to torch's own).
"""
import torch
import torch.nn.functional as F


def turned(x, cos, sin):
    """Rotary positions: pairs (i, i + d / 2) of x (..., L, d) by angles whose cosines and sines are (L, d / 2)."""
    first, second = x.chunk(2, -1)
    if torch.compiler.is_compiling():     # it can't write into a half
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    to_first, to_second = y.chunk(2, -1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin)
    return y


class Rotate(torch.autograd.Function):
    """`turned` with its gradient, the rotation back, so that nothing is kept."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient):
        cos, sin = ctx.saved_tensors
        return turned(gradient, cos, -sin), None, None


class Normalise(torch.autograd.Function):
    """RMSNorm: x (..., d) / root mean square over d, times weight (d,)."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        inverse, weight = square.div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype), weight.to(x.dtype)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return unit * weight

    @staticmethod
    def backward(ctx, gradient):
        unit, inverse, weight = ctx.saved_tensors
        product = gradient * unit
        for_weight = product.flatten(0, -2).sum(0, dtype=torch.float32)
        mean = (product @ weight)[..., None].div_(unit.shape[-1])
        return (gradient * weight).addcmul_(unit, mean, value=-1).mul_(inverse), for_weight, None


def gated(x):
    """silu(gate) * up of x (..., 2 d), which holds gate and up side by side."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate).mul_(up)


class Gate(torch.autograd.Function):
    """`gated` with its gradient."""

    @staticmethod
    def forward(ctx, x):
        gate, up = x.chunk(2, -1)
        open = F.silu(gate)
        ctx.save_for_backward(x, open)
        return open * up

    @staticmethod
    def backward(ctx, gradient):
        x, open = ctx.saved_tensors
        (gate, up), result = x.chunk(2, -1), torch.empty_like(x)
        for_gate, for_up = result.chunk(2, -1)
        torch.mul(gradient, open, out=for_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=for_gate)
        return result
