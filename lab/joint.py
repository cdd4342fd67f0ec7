"""All heads as one, for sampling on a CPU: where products are small, calling them costs more than they do, and two heads call twice.
A first reading can skip this file.

The heads have the same sizes but for the latents, which are padded with zeros here, and a row of the batch never sees another; so
FlowHead.sample runs as it is on the rows of all heads, one head's after the other's, and only a Linear has to know whose they are.
A patch of `small` takes 17 ms for 21 at batch 1 and 39 for 52 at batch 8 (guidance 2, two cores).

Axis letters: K heads, R rows of each, M = K R rows in all, B batch, P frames per patch, d latent width, D width.
"""
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from heads import FlowHead, SeparateHeads
from lab.machine import WIDE, PackedLinear, pack
from model import HeadInput, RMSNorm


class StackedLinear(nn.Module):
    """The Linears of K heads: x (K R, ..., in) -> (K R, ..., out). Missing inputs and outputs of a narrower one count as zeros."""

    def __init__(self, linears: list[nn.Linear], norms: list[RMSNorm] | None = None):
        """norms: of what enters; their weights are multiplied into these."""
        super().__init__()
        scale = [1.0] * len(linears) if norms is None else [norm.weight for norm in norms]
        inputs, outputs = (max(getattr(linear, side) for linear in linears) for side in ("in_features", "out_features"))
        pad = lambda x: F.pad(x, (0, outputs - x.shape[-1], 0, inputs - len(x)))
        with torch.no_grad():
            self.weight = torch.stack([pad((l.weight * s).T) for l, s in zip(linears, scale)]).contiguous()       # (K, in, out)
            self.bias = None if linears[0].bias is None else torch.stack([pad(l.bias[None].expand(inputs, -1))[:1] for l in linears])    # (K, 1, out)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(len(self.weight), -1, x.shape[-1])                              # (K, rows, in)
        y = rows @ self.weight if self.bias is None else torch.baddbmm(self.bias, rows, self.weight)
        return y.view(*x.shape[:-1], -1)


class Scale(nn.Module):
    """RMSNorm whose weights are in the next Linear."""

    def __init__(self, norm: RMSNorm):
        super().__init__()
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], None, self.eps)


class JointHead(FlowHead):
    """K FlowHeads in one: what changes with every step is stacked, what a patch needs once is asked of each."""

    def __init__(self, heads: list[FlowHead]):
        nn.Module.__init__(self)
        self.heads = nn.ModuleList(heads)
        self.noisy_in, self.input = (StackedLinear([getattr(h, name) for h in heads]) for name in ("noisy_in", "input"))
        self.blocks = copy.deepcopy(heads[0].blocks)
        for block, parts in zip(self.blocks, zip(*(h.blocks for h in heads))):
            block.norm1, block.norm2 = Scale(block.norm1), Scale(block.norm2)
            block.attention.qkv = StackedLinear([p.attention.qkv for p in parts], [p.norm1 for p in parts])
            block.attention.out = StackedLinear([p.attention.out for p in parts])
            block.mlp.gate_up = StackedLinear([p.mlp.gate_up for p in parts], [p.norm2 for p in parts])
            block.mlp.down = StackedLinear([p.mlp.down for p in parts])
        self.norm, self.out = Scale(heads[0].norm), StackedLinear([h.out for h in heads], [h.norm for h in heads])

    def context(self, history: list[Tensor], condition: list[Tensor]) -> Tensor:         # (M, 1 + P, width)
        return torch.cat([head.context(*x) for head, *x in zip(self.heads, history, condition)])

    def moments(self, t: Tensor, hidden: Tensor) -> Tensor:                              # (steps, M, width)
        return torch.cat([head.moments(t, x) for head, x in zip(self.heads, hidden.chunk(len(self.heads)))], 1)


class JointHeads(nn.Module):
    """What SeparateHeads samples, from all heads at once."""

    def __init__(self, separate: SeparateHeads):
        super().__init__()
        self.separate, self.joint = separate, JointHead(list(separate.values()))

    def sample(self, inputs: dict[str, HeadInput], noise, **sampling) -> dict[str, Tensor]:
        if len(inputs) < len(self.separate):                                             # a stream is given, or not there yet
            return self.separate.sample(inputs, noise, **sampling)
        given, widths = list(inputs.values()), [x.history.shape[-1] for x in inputs.values()]
        z = [F.pad(noise(tuple(x.history[:, 0].shape)), (0, max(widths) - d)) for x, d in zip(given, widths)]       # each (B, P, most d)
        made = self.joint.sample(torch.cat(z), torch.cat([x.hidden[:, 0] for x in given]), [x.history[:, 0] for x in given],
                                 [x.condition for x in given], **sampling)               # (K B, P, most d)
        return {name: part[:, None, :, :d] for name, part, d in zip(inputs, made.chunk(len(given)), widths)}


def for_sampling(talker: nn.Module, dtype: torch.dtype) -> bool:
    """On a CPU: wide weights are packed in dtype (see machine.pack) -> whether there were any; narrow heads become one."""
    packed, heads = pack(talker, dtype), talker.heads
    products = [m for m in heads.modules() if isinstance(m, (nn.Linear, PackedLinear))]
    if next(talker.parameters()).device.type == "cpu" and isinstance(heads, SeparateHeads) and all(m.in_features * m.out_features < WIDE for m in products):
        talker.heads = JointHeads(heads)
    return packed
