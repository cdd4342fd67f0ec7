"""The Talker's transformers for sampling on a CPU. A first reading can skip this file.

With few rows, calling modules and small operations costs more than they do. So a stack of blocks is written out here, operation by
operation; the heads, whose sizes are the same but for the latents, are sampled as one: FlowHead.sample runs as it is on the rows of
all heads, one head's after the other's, and only a product has to know whose they are (latents are padded with zeros); so are the
patch encoders; and what always has the same sizes, a step of a head and an encoder, is traced, so that its operations need no Python.

Axis letters: K stacks of the same sizes, R rows of each, M = K R, L tokens, W width, H heads, H' of keys; B batch, P frames per patch, d latent width.
"""
import copy
import functools
import sys
import warnings
from types import SimpleNamespace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from heads import FlowHead, SeparateHeads
from lab.by_hand import gated
from lab.machine import PackedLinear, pack
from model import Blocks, HeadInput, PatchEncoder, PatchEncoders, RMSNorm, attention


TRACES = sys.version_info < (3, 14)               # from there on PyTorch no longer promises that torch.jit.trace works


class Traced:
    """A function of tensors, then numbers, without its Python, but for the first call of each shape: calling an operation from Python
    costs a small one as much again. What else it reads must stay as it is."""

    def __init__(self, function):
        self.function, self.traces = function, {}

    def __call__(self, *given):
        tensors = [x for x in given if isinstance(x, Tensor)]
        numbers = given[len(tensors):]
        key = (numbers, *(x.shape for x in tensors))
        if key not in self.traces:
            with warnings.catch_warnings():       # of the tracer: sizes become constants, as they should
                warnings.simplefilter("ignore")
                traced = torch.jit.trace(lambda *tensors: self.function(*tensors, *numbers), tensors, check_trace=False)
            torch._C._jit_pass_peephole(traced.graph)             # sizes, which the tracer leaves to be computed
            torch._C._jit_pass_constant_propagation(traced.graph)                        # every time, become numbers
            self.traces[key] = traced
        with torch.jit.optimized_execution(False):                # its optimizer takes longer than it saves
            return self.traces[key](*tensors)


def widen(x: Tensor, width: int) -> Tensor:
    """Zeros behind, where x (..., less) is narrower."""
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))


def joined(parts: list[Tensor]) -> Tensor:
    """The rows of all, made equally wide."""
    return torch.cat([widen(x, max(x.shape[-1] for x in parts)) for x in parts])


class Product:
    """The Linears of K stacks that have the same place: x (M, ..., in) or (K, rows, in) -> (..., out), added in place to `onto` where given.
    Missing inputs and outputs of a narrower one count as zeros."""

    def __init__(self, layers: list[nn.Linear | PackedLinear]):
        inputs, self.outputs = (max(getattr(layer, side) for layer in layers) for side in ("in_features", "out_features"))
        self.layers = layers if any(isinstance(layer, PackedLinear) for layer in layers) else None
        if self.layers is None:
            pad = lambda x: F.pad(x, (0, self.outputs - x.shape[1], 0, inputs - len(x)))
            self.weight = torch.stack([pad(layer.weight.T) for layer in layers])                                     # (K, in, out)
            self.bias = None if layers[0].bias is None else torch.stack([widen(l.bias, self.outputs)[None] for l in layers])            # (K, 1, out)
            self.parts = 4 if len(layers) == 1 and self.bias is None and self.outputs % 4 == 0 else 1
            if self.parts > 1:            # a product of one stack, often of one row, is cut, or a single core would read its weights
                self.weight = torch.stack(self.weight[0].chunk(self.parts, 1))                                       # (4, in, out / 4)

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        if self.layers is not None:
            made = [widen(layer(rows[..., :layer.in_features]), self.outputs) for layer, rows in zip(self.layers, x.chunk(len(self.layers)))]
            y = made[0] if len(made) == 1 else torch.cat(made)
            return y if onto is None else y.add_(onto)
        rows = x.reshape(len(self.weight) // self.parts, -1, x.shape[-1])                # (K, rows, in)
        if self.parts == 1 and onto is not None:
            y = onto.baddbmm_(rows, self.weight)
            return y if self.bias is None else y.add_(self.bias)
        if self.parts > 1:
            y = torch.bmm(rows.expand(self.parts, -1, -1), self.weight).transpose(0, 1).reshape(1, -1, self.outputs)
        else:
            y = torch.bmm(rows, self.weight) if self.bias is None else torch.baddbmm(self.bias, rows, self.weight)
        return y.view(*x.shape[:-1], -1) if onto is None else onto.add_(y)


class Norm:
    """RMSNorm of x (..., W) in four operations, where torch's own takes seven. weight: what then multiplies x, (K, 1, W) or (H + H', 1, head_dim)."""

    def __init__(self, weight: Tensor, eps: float):
        width = weight.shape[-1]
        self.weight, self.least = weight * width ** 0.5, torch.tensor((eps * width) ** 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot(self.least) * self.weight


def joint_norm(norms: list[RMSNorm]) -> Norm:
    return Norm(torch.stack([norm.weight for norm in norms])[:, None], norms[0].eps)     # weight (K, 1, W)


def rowwise(norm: Norm):
    """norm for x (M, ..., W), whose rows are those of one stack after the other's."""
    return lambda x: norm(x.view(len(norm.weight), -1, x.shape[-1])).view(x.shape)


class Stack(nn.Module):
    """K Blocks of the same sizes, as one, for sampling alone: it can't be moved, saved or trained."""

    @torch.no_grad()
    def __init__(self, stacks: list[Blocks]):
        super().__init__()
        first = stacks[0][0].attention
        self.K, self.heads, self.kv_heads, self.head_dim = len(stacks), first.heads, first.kv_heads, first.head_dim
        self.parts, self.packed = [], nn.ModuleList(m for stack in stacks for m in stack.modules() if isinstance(m, PackedLinear))
        for blocks in zip(*stacks):
            attentions, mlps = [b.attention for b in blocks], [b.mlp for b in blocks]
            self.parts.append(SimpleNamespace(
                norm1=joint_norm([b.norm1 for b in blocks]), qkv=Product([a.qkv for a in attentions]), out=Product([a.out for a in attentions]),
                norm2=joint_norm([b.norm2 for b in blocks]), gate_up=Product([m.gate_up for m in mlps]), down=Product([m.down for m in mlps])))
            if first.qk_norm:                                                            # of one stack alone: the backbone
                of_each = [norm.weight.expand(n, 1, -1) for norm, n in ((attentions[0].q_norm, self.heads), (attentions[0].k_norm, self.kv_heads))]
                self.parts[-1].qk_norm = Norm(torch.cat(of_each), attentions[0].q_norm.eps)                          # weight (H + H', 1, head_dim)

    def __len__(self) -> int:
        return len(self.parts)

    def forward(self, x: Tensor, tables, wanted: slice, caches=None, causal=False, valid: Tensor | None = None) -> Tensor:
        """What Blocks.forward computes: x (M, L, W) -> the wanted tokens of the last block."""
        M, L, W = x.shape
        y = x.reshape(self.K, -1, W).clone()                                             # (K, R L, W) to be added to in place
        turn = torch.complex(*tables)                                                    # (L, head_dim / 2)
        for i, part in enumerate(self.parts):
            qkv = part.qkv(part.norm1(y)).view(M, L, -1, self.head_dim).transpose(1, 2)  # (M, H + 2 H', L, head_dim)
            qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), 1)
            if hasattr(part, "qk_norm"):
                qk = part.qk_norm(qk)
            turned = torch.view_as_real(torch.complex(*qk.chunk(2, -1)) * turn).flatten(-2)          # pairs side by side in q and k alike
            q, k = turned.split((self.heads, self.kv_heads), 1)
            if i == len(self.parts) - 1:
                q, y = q[:, :, wanted], y.view(M, L, W)[:, wanted].reshape(self.K, -1, W)
            if caches:
                k, v = caches[i].append(k, v)
            seen = attention(q, k, v, causal, valid).transpose(1, 2).reshape(self.K, -1, self.heads * self.head_dim)
            y = part.out(seen, y)                                                        # (K, rows, W)
            y = part.down(gated(part.gate_up(part.norm2(y))), y)
        return y.view(M, -1, W)


def once(clock):
    """FlowHead.clock, which says the same for every patch."""
    remembered = functools.lru_cache(1)(lambda times: clock(torch.tensor(times)))
    return lambda t: remembered(tuple(t.tolist()))


class JointHead(FlowHead):
    """K FlowHeads in one; only what the time says is asked of each."""

    @torch.no_grad()
    def __init__(self, heads: list[FlowHead]):
        nn.Module.__init__(self)
        self.heads = nn.ModuleList(heads)
        for head in heads:
            head.clock = once(head.clock)
        for name in ("noisy_in", "history_in", "condition_in", "input", "out"):
            setattr(self, name, Product([getattr(head, name) for head in heads]))
        self.blocks, self.norm = Stack([head.blocks for head in heads]), rowwise(joint_norm([head.norm for head in heads]))

    def moments(self, t: Tensor, hidden: Tensor) -> Tensor:
        times = torch.stack([head.clock(t) for head in self.heads])[:, None]             # (K, 1, steps, D)
        x = hidden.view(len(times), -1, 1, hidden.shape[-1]) + times                     # (K, R, steps, D)
        return self.input(x.flatten(0, 1)).transpose(0, 1)                               # (steps, M, W)


class JointEncoder(PatchEncoder):
    """K PatchEncoders in one; project, pool and norm as they are."""

    @torch.no_grad()
    def __init__(self, encoders: list[PatchEncoder]):
        nn.Module.__init__(self)
        self.encoders = nn.ModuleList(encoders)
        self.project, self.input = (Product([getattr(e, name) for e in encoders]) for name in ("project", "input"))
        self.blocks, self.norm = Stack([e.blocks for e in encoders]), rowwise(joint_norm([e.norm for e in encoders]))
        self.starts = torch.stack([e.cls for e in encoders])                             # (K, W)

    def start(self, rows: int) -> Tensor:
        return self.starts.repeat_interleave(rows // len(self.starts), 0)[:, None]                                   # (rows, 1, W)


class JointEncoders(nn.Module):
    """What PatchEncoders makes, for all streams at once."""

    def __init__(self, separate: PatchEncoders):
        super().__init__()
        self.separate, self.joint = separate, JointEncoder(list(separate.values()))

    def forward(self, patches: dict[str, Tensor]) -> list[Tensor]:
        if list(patches) != list(self.separate):
            return self.separate(patches)
        return self.joint(joined(list(patches.values()))).chunk(len(patches))


class JointHeads(nn.Module):
    """What SeparateHeads samples, from all heads at once."""

    def __init__(self, separate: SeparateHeads):
        super().__init__()
        self.separate, self.joint = separate, JointHead(list(separate.values()))

    def sample(self, inputs: dict[str, HeadInput], noise, **sampling) -> dict[str, Tensor]:
        if list(inputs) != list(self.separate):                                          # a stream is given, or not there yet
            return self.separate.sample(inputs, noise, **sampling)
        given = list(inputs.values())
        z = joined([noise(tuple(x.history[:, 0].shape)) for x in given])                 # (K B, P, most d)
        hidden, history, condition = (joined(x) for x in ([x.hidden[:, 0] for x in given], [x.history[:, 0] for x in given],
                                                          [x.condition for x in given]))
        made = self.joint.sample(z, hidden, history, condition, **sampling).chunk(len(given))
        return {name: part[:, None, :, :x.history.shape[-1]] for (name, x), part in zip(inputs.items(), made)}


def write_out(talker: nn.Module) -> None:
    """Blocks become Stacks, heads of the same sizes one JointHead, encoders one JointEncoder; what is joined stays, for when one of them is
    alone. Then a head's step and an encoder are traced, but for those with packed weights, which can't be constants of a trace."""
    def alike(parts, whole: type, part: type) -> bool:
        return (type(parts) is whole and all(type(p) is part and not p.blocks[0].attention.qk_norm for p in parts.values())
                and len({(p.blocks.head_dim, str(p.blocks)) for p in parts.values()}) == 1)
    owners = [module for module in talker.modules() if isinstance(getattr(module, "blocks", None), Blocks)]
    stacks = [Stack([module.blocks]) for module in owners]
    if alike(talker.heads, SeparateHeads, FlowHead):
        talker.heads = JointHeads(talker.heads)
    if alike(talker.encoders, PatchEncoders, PatchEncoder):
        talker.encoders = JointEncoders(talker.encoders)
    for module, stack in zip(owners, stacks):
        module.blocks = stack
    what = {FlowHead: "euler", JointHead: "euler", PatchEncoder: "pool", JointEncoder: "pool"}
    for module in talker.modules():
        name = what.get(type(module))             # of a fork's own class it is not known what else it reads
        if TRACES and name and not any(isinstance(m, PackedLinear) for m in module.modules()):
            setattr(module, name, Traced(getattr(module, name)))


def some(talker: nn.Module) -> Tensor:
    """A few patches, from what is always the same noise."""
    draw, text = torch.Generator().manual_seed(0), torch.ones(2, 3, dtype=torch.long)
    noise = lambda shape: torch.randn(shape, generator=draw)
    patches = talker.generate(text, text > 0, {n: noise((2, m.condition)) for n, m in talker.modalities.items()}, noise,
                              2 + max(m.delay for m in talker.modalities.values()), stop_hits=99, steps=4, guidance=2.0)
    return torch.cat([x.flatten() for patch, _ in patches for x in patch.values()])


def for_sampling(talker: nn.Module, dtype: torch.dtype) -> bool:
    """On a CPU: wide weights are packed in dtype (see machine.pack) -> whether there are any; the rest is written out, if that samples the
    same: a fork may have changed the Talker, and what it samples must be what it trained. No weight can be trained any more."""
    if next(talker.parameters()).device.type != "cpu":
        return False
    packed = pack(talker, dtype)
    talker.requires_grad_(False)                  # a trace takes no others
    shared = [*talker.parameters(), *talker.buffers(), *(m for m in talker.modules() if isinstance(m, PackedLinear))]
    fast, expected, why = copy.deepcopy(talker, {id(x): x for x in shared}), some(talker), "other values"
    try:
        write_out(fast)
        same = torch.allclose(some(fast), expected, rtol=0, atol=(1e-4 if dtype == torch.float32 else .05) * expected.abs().max().item())
    except Exception as error:                    # whatever a fork's parts do here
        same, why = False, f"{type(error).__name__}: {error}"
    if same:
        talker.heads, talker.encoders, talker.backbone = fast.heads, fast.encoders, fast.backbone
    else:
        print(f"this Talker computes something else than lab/joint.py, which samples fast ({why}): sampling as model.py does", file=sys.stderr)
    return packed
