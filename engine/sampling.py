"""Faster sampling on a CPU: other implementations of the Talker's modules. `install` swaps them in.

With few rows, calling modules and small operations costs more than they do. So the transformers
are written out here, operation by operation; the flow-matching heads, whose sizes are the same but
for the latents, are fused into one, whose products know which rows belong to which head; so are
the patch encoders; and what always has the same sizes, an Euler step and a patch encoder, is
traced, so that its operations need no Python. On x86 wide weights are packed in blocks.

The function stays the same up to rounding; wide weights may be in bf16 where that is fast.
`install` samples a few patches both ways first, so that an edited model is sampled as it was
trained, and tests/test_sampling.py holds both equal.

Axis letters: K transformers of the same sizes, R rows of each, M = K R rows, L tokens, W width,
H heads, H' of keys; B batch, P frames per patch, d latent width.
"""
import copy
import functools
import platform
import sys
import warnings
from collections import Counter
from types import SimpleNamespace

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from heads import FlowHead, SeparateHeads, euler_times, guide, of_stream
from model import (Backbone, HeadInput, KeyValueCache, PatchEncoder, PatchEncoders, Transformer,
                   attention, rotary_tables, turn_by_place)

TRACES = sys.version_info < (3, 14)       # from there on PyTorch no longer supports torch.jit.trace
PLAIN_PATCHES = 2                         # before a trace; one of `small` takes 7 Euler steps
WIDE = 2 ** 18                            # weights from which a product takes longer than its call
PACKS = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


# ------------------------------------------------------------------------------- packed weights
class PackedLinear(nn.Module):
    """A Linear for sampling alone, whose weights lie in blocks, the way oneDNN wants them, and in
    the dtype that is fastest. It can't be copied, moved or saved.

    PyTorch's own products of few rows lose most of their time with weights that lie in rows: 20
    rows times 1024 x 3072 took 1.43 ms, .58 in blocks, .31 in blocks of bf16 (.41 in rows of it),
    on two cores. The operators are those that torch.compile calls.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = dtype
        weight = linear.weight.detach().to(dtype)
        # Packed for 64 rows; other numbers do as well.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, 64)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.dtype}"

    def forward(self, x: Tensor) -> Tensor:
        y = torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype), self.weight, self.bias, "none", [], "")
        return y.to(x.dtype)


def pack(model: nn.Module, dtype: torch.dtype) -> bool:
    """Replace the wide Linears of a float32 model on an x86 CPU by PackedLinears -> whether it has
    any. Narrow ones (`small` has no others) gain nothing."""
    # A list of parents, since a list of all modules would keep the replaced ones alive.
    for parent in [m for m in model.modules() if not isinstance(m, nn.Linear)]:
        for name, child in parent.named_children():
            wide = isinstance(child, nn.Linear) and child.weight.numel() >= WIDE
            if PACKS and wide and child.weight.device.type == "cpu":
                setattr(parent, name, PackedLinear(child, dtype))
    return has_packed(model)


def has_packed(module: nn.Module) -> bool:
    return any(isinstance(m, PackedLinear) for m in module.modules())


# --------------------------------------------------------------------------------------- tracing
class Traced:
    """A function of tensors, then numbers, that keeps a torch.jit trace per shape, since calling a
    small operation from Python costs as much as the operation. What else the function reads must
    not change.

    To make a trace takes as long as a few patches. So the first `plain_calls` calls of a shape run
    without one, and a listener does not wait for traces before the first patches."""

    def __init__(self, function, plain_calls: int):
        self.function = function
        self.plain_calls = plain_calls
        self.calls = Counter()                    # of each shape
        self.traces = {}

    def __call__(self, *given):
        tensors = [x for x in given if isinstance(x, Tensor)]
        numbers = given[len(tensors):]
        key = (numbers, *(x.shape for x in tensors))
        if key not in self.traces:
            self.calls[key] += 1
            if self.calls[key] <= self.plain_calls:
                return self.function(*given)
            self.traces[key] = self.checked(tensors, numbers)
        # The optimizer of traces takes longer than it saves.
        with torch.jit.optimized_execution(False):
            return self.traces[key](*tensors)

    def checked(self, tensors, numbers):
        """A trace, or the plain function where no trace can be made or one computes something else:
        a fork may have edited what the function calls."""
        def plain(*tensors):
            return self.function(*tensors, *numbers)
        try:
            traced = self.trace(tensors, numbers)
            same = torch.allclose(traced(*tensors), plain(*tensors), rtol=1e-3, atol=1e-4)
        except Exception:                         # whatever a fork's own code does here
            same = False
        return traced if same else plain

    def trace(self, tensors, numbers):
        with warnings.catch_warnings():
            # The tracer warns that sizes become constants. They should.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(
                lambda *tensors: self.function(*tensors, *numbers), tensors, check_trace=False)
        # Sizes, which the tracer leaves to be computed every time, become numbers.
        torch._C._jit_pass_peephole(traced.graph)
        torch._C._jit_pass_constant_propagation(traced.graph)
        return traced


# ------------------------------------------------------------------------- products of K layers
def widened(x: Tensor, width: int) -> Tensor:
    """x (..., less) with zeros behind -> (..., width)."""
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))


def stacked(parts: list[Tensor]) -> Tensor:
    """The rows of all parts, one after the other, made equally wide."""
    width = max(x.shape[-1] for x in parts)
    return torch.cat([widened(x, width) for x in parts])


class Product:
    """The Linears that have the same place in K modules: x (M, ..., in) or (K, rows, in) ->
    (..., out), added in place to `onto` where given. Missing inputs and outputs of a narrower
    Linear count as zeros."""

    def __init__(self, layers: list):
        inputs = max(layer.in_features for layer in layers)
        self.outputs = max(layer.out_features for layer in layers)
        self.layers = layers if any(isinstance(m, PackedLinear) for m in layers) else None
        if self.layers:
            return

        def padded(layer: nn.Linear) -> Tensor:
            missing = (0, self.outputs - layer.out_features, 0, inputs - layer.in_features)
            return F.pad(layer.weight.T, missing)                             # (in, out)

        self.weight = torch.stack([padded(layer) for layer in layers])        # (K, in, out)
        self.bias = None
        if layers[0].bias is not None:
            biases = [widened(layer.bias, self.outputs) for layer in layers]
            self.bias = torch.stack(biases)[:, None]                          # (K, 1, out)
        # A product of one layer, often of one row, is cut in four, or a single core would read
        # all of its weights.
        single = len(layers) == 1 and self.bias is None and self.outputs % 4 == 0
        self.parts = 4 if single else 1
        if single:
            self.weight = torch.stack(self.weight[0].chunk(4, 1))             # (4, in, out / 4)

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        if self.layers:
            return self.packed(x, onto)
        rows = x.reshape(len(self.weight) // self.parts, -1, x.shape[-1])     # (K, rows, in)
        if self.parts == 1 and onto is not None:
            y = onto.baddbmm_(rows, self.weight)
            return y if self.bias is None else y.add_(self.bias)
        if self.parts > 1:
            y = torch.bmm(rows.expand(self.parts, -1, -1), self.weight)       # (4, rows, out / 4)
            y = y.transpose(0, 1).reshape(1, -1, self.outputs)                # (1, rows, out)
        elif self.bias is None:
            y = torch.bmm(rows, self.weight)                                  # (K, rows, out)
        else:
            y = torch.baddbmm(self.bias, rows, self.weight)                   # (K, rows, out)
        return y.view(*x.shape[:-1], -1) if onto is None else onto.add_(y)

    def packed(self, x: Tensor, onto: Tensor | None) -> Tensor:
        made = [widened(layer(rows[..., :layer.in_features]), self.outputs)
                for layer, rows in zip(self.layers, x.chunk(len(self.layers)))]
        y = made[0] if len(made) == 1 else torch.cat(made)
        return y if onto is None else y.add_(onto)


class Norm:
    """RMSNorm of x (..., W) in four operations, where PyTorch's own takes seven. weight: what x is
    multiplied by in the end, (K, 1, W) or (H + H', 1, head_dim)."""

    def __init__(self, weight: Tensor, eps: float):
        width = weight.shape[-1]
        self.weight = weight * width ** 0.5
        self.least = torch.tensor((eps * width) ** 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot(self.least)
        return x / norm * self.weight


def norm_of(norms: list) -> Norm:
    """K RMSNorms as one, for x (K, rows, W)."""
    return Norm(torch.stack([norm.weight for norm in norms])[:, None], norms[0].eps)


# ---------------------------------------------------------------------------------- transformers
class FusedTransformer(nn.Module):
    """K Transformers of the same sizes as one, for sampling alone: it can't be moved, saved or
    trained."""

    @torch.no_grad()
    def __init__(self, transformers: list[Transformer]):
        super().__init__()
        first = transformers[0]
        shared = first.blocks[0].attention
        self.K = len(transformers)
        self.heads, self.kv_heads, self.head_dim = shared.heads, shared.kv_heads, shared.head_dim
        self.causal, self.rotary_base = first.causal, first.rotary_base
        self.packed = nn.ModuleList(m for t in transformers for m in t.modules()
                                    if isinstance(m, PackedLinear))
        self.norm = norm_of([t.norm for t in transformers])
        self.parts = [self.part(list(blocks)) for blocks in zip(*(t.blocks for t in transformers))]

    def part(self, blocks: list) -> SimpleNamespace:
        """The blocks that have the same place in all K transformers."""
        attentions = [block.attention for block in blocks]
        mlps = [block.mlp for block in blocks]
        part = SimpleNamespace(
            norm1=norm_of([block.norm1 for block in blocks]),
            qkv=Product([a.qkv for a in attentions]), out=Product([a.out for a in attentions]),
            norm2=norm_of([block.norm2 for block in blocks]),
            gate_up=Product([m.gate_up for m in mlps]), down=Product([m.down for m in mlps]),
            qk_norm=None)
        if attentions[0].qk_norm:                 # of one transformer alone, the backbone
            q_norm, k_norm = attentions[0].q_norm, attentions[0].k_norm
            weight = torch.cat((q_norm.weight.expand(self.heads, 1, -1),
                                k_norm.weight.expand(self.kv_heads, 1, -1)))
            part.qk_norm = Norm(weight, q_norm.eps)                           # (H + H', 1, .)
        return part

    def new_cache(self, batch: int, capacity: int) -> list[KeyValueCache]:
        weight = self.norm.weight
        return [KeyValueCache(batch, self.kv_heads, capacity, self.head_dim, weight.device,
                              weight.dtype) for _ in self.parts]

    def forward(self, x: Tensor, valid: Tensor | None = None, cache=None,
                places: Tensor | None = None, read: slice | None = None) -> Tensor:
        """x (M, L, W) -> (M, L, W), or the tokens in `read`, of which the last block computes no
        others. places: see model.turn_by_place."""
        M, L, W = map(int, x.shape)               # the tracer has tensors here
        start = cache[0].length if cache else 0
        stop = start + L
        tables = rotary_tables(1 << stop.bit_length(), self.head_dim, self.rotary_base, x.device)
        tables = tuple(table[start:stop] for table in tables)
        if places is not None:
            tables = turn_by_place(tables, places)
        turn = torch.complex(*tables)             # (L, head_dim / 2), or (M, 1, L, head_dim / 2)

        y = x.reshape(self.K, -1, W).clone()      # (K, R L, W), to be added to in place
        for i, part in enumerate(self.parts):
            qkv = part.qkv(part.norm1(y)).view(M, L, -1, self.head_dim).transpose(1, 2)
            qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), 1)
            if part.qk_norm:
                qk = part.qk_norm(qk)
            # Rotation as a product of complex numbers. It leaves pairs side by side, in queries
            # and keys alike.
            turned = torch.complex(*qk.chunk(2, -1)) * turn                   # (M, H + H', L, .)
            turned = torch.view_as_real(turned).flatten(-2)
            q, k = turned.split((self.heads, self.kv_heads), 1)
            if read is not None and i == len(self.parts) - 1:
                q = q[:, :, read]
                y = y.view(M, L, W)[:, read].reshape(self.K, -1, W)
            if cache:
                k, v = cache[i].append(k, v)
            seen = attention(q, k, v, self.causal, valid).transpose(1, 2)     # (M, L, H, .)
            y = part.out(seen.reshape(self.K, -1, self.heads * self.head_dim), y)
            gate, up = part.gate_up(part.norm2(y)).chunk(2, -1)
            y = part.down(F.silu(gate).mul_(up), y)                           # (K, rows, W)
        return self.norm(y).view(M, -1, W)


# ---------------------------------------------------------------------------------- patch encoders
class FusedEncoder(nn.Module):
    """K PatchEncoders of the same sizes as one."""

    @torch.no_grad()
    def __init__(self, encoders: list[PatchEncoder]):
        super().__init__()
        self.project = Product([e.project for e in encoders])
        self.input = Product([e.input for e in encoders])
        self.cls = torch.stack([e.cls for e in encoders])                     # (K, W)
        self.transformer = FusedTransformer([e.transformer for e in encoders])
        self.pool = self.pool_plainly
        if TRACES and not any(map(has_packed, encoders)):
            self.pool = Traced(self.pool_plainly, PLAIN_PATCHES)

    def forward(self, x: Tensor, has_frame: Tensor | None = None) -> Tensor:
        """As PatchEncoder.forward, on rows of one encoder after the other's: x (K B, N, P, d)."""
        x = self.project(x)
        if has_frame is not None:
            x = x * has_frame[..., None]
        return self.pool(x)

    def pool_plainly(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.input(rearrange(x, "B N P W -> (B N) P W"))                  # (M, P, W)
        cls = self.cls.repeat_interleave(len(x) // len(self.cls), 0)[:, None]
        x = self.transformer(torch.cat((cls, x), 1), read=slice(0, 1))        # (M, 1, W)
        return rearrange(x, "(B N) 1 W -> B N W", B=batch)


class FusedEncoders(nn.Module):
    """What PatchEncoders computes."""

    def __init__(self, separate: PatchEncoders, same_sizes: bool):
        super().__init__()
        self.alone = nn.ModuleDict({name: FusedEncoder([e]) for name, e in separate.items()})
        self.together = FusedEncoder(list(separate.values())) if same_sizes else None

    def __getitem__(self, name: str) -> FusedEncoder:
        return self.alone[name]

    def forward(self, patches: dict[str, Tensor]) -> Tensor:
        if self.together and list(patches) == list(self.alone):
            return sum(self.together(stacked(list(patches.values()))).chunk(len(patches)))
        return sum(self.alone[name](patch) for name, patch in patches.items())


# ------------------------------------------------------------------------------------------ heads
class FusedHead(nn.Module):
    """K FlowHeads of the same sizes as one. What does not change while a patch is denoised (the
    tokens of condition and history, the embeddings of the timesteps) is computed once."""

    @torch.no_grad()
    def __init__(self, heads: list[FlowHead]):
        super().__init__()
        self.no_history = heads[0].drop_history == 1
        for name in ("noisy_in", "history_in", "condition_in", "input", "out"):
            setattr(self, name, Product([getattr(head, name) for head in heads]))
        self.frames_in = None
        if heads[0].frames_in is not None:
            self.frames_in = Product([head.frames_in for head in heads])
        self.transformer = FusedTransformer([head.transformer for head in heads])
        embeddings = [head.time_embedding for head in heads]
        # The timesteps are the same for every patch.
        self.time_embeddings = functools.lru_cache(4)(
            lambda t: torch.stack([embed(torch.tensor(t)) for embed in embeddings]))
        self.euler_step = self.euler_step_plainly
        if TRACES and not any(map(has_packed, heads)):
            self.euler_step = Traced(self.euler_step_plainly, 7 * PLAIN_PATCHES)

    def sample(self, z, hidden, history, condition, steps=10, guidance=2.0, temperature=0.7,
               sway=1.0, zero_star=True) -> Tensor:
        """As FlowHead.sample, on rows of one head after the other's. temperature: a number, or one
        per row (M, 1, 1)."""
        t = euler_times(steps, sway, zero_star)
        if self.no_history:
            history = torch.zeros_like(history)
        tokens = (self.condition_in(condition)[:, None], self.history_in(history))
        context = self.input(torch.cat(tokens, 1))                            # (M, 1 + P, W)
        if guidance != 1:
            # One doubled batch, rows with and without hidden state in turns, so that those of
            # one head stay together.
            hidden = torch.stack((hidden, torch.zeros_like(hidden)), 1).flatten(0, 1)
            context = context.repeat_interleave(2, 0)                         # (2 M, 1 + P, W)

        # The first token and what it adds to the noisy frames, for all steps at once.
        times = self.time_embeddings(tuple(t[:-1].tolist()))[:, None]         # (K, 1, steps, D)
        now = hidden.view(len(times), -1, 1, hidden.shape[-1]) + times        # (K, R, steps, D)
        now = now.flatten(0, 1)                                               # (M, steps, D)
        added = z.new_zeros(now.shape[1])
        if self.frames_in is not None:
            added = rearrange(self.frames_in(now), "M steps (P D) -> steps M P D", P=z.shape[1])
        now = self.input(now).transpose(0, 1)                                 # (steps, M, W)

        x = z * temperature
        for token, to_frames, step in zip(now, added, t.diff()):
            x = self.euler_step(x, token, to_frames, context, step, guidance, zero_star)
        return x

    def euler_step_plainly(self, x, token, added, context, step, guidance: float,
                           zero_star: bool):
        if guidance == 1:
            return x + step * self.velocity(x, token, added, context)
        v = self.velocity(x.repeat_interleave(2, 0), token, added, context)
        return x + step * guide(v[::2], v[1::2], guidance, zero_star)

    def velocity(self, x: Tensor, token: Tensor, added: Tensor, context: Tensor) -> Tensor:
        """x (M, P, d), token (M, W) of hidden state and timestep, what it adds to the noisy frames
        (M, P, D), or one 0, context (M, 1 + P, W)."""
        tokens = torch.cat((token[:, None], context, self.input(self.noisy_in(x) + added)), 1)
        return self.out(self.transformer(tokens, read=slice(-x.shape[1], None)))


class FusedHeads(nn.Module):
    """What SeparateHeads samples."""

    def __init__(self, separate: SeparateHeads, same_sizes: bool):
        super().__init__()
        self.alone = nn.ModuleDict({name: FusedHead([head]) for name, head in separate.items()})
        self.together = FusedHead(list(separate.values())) if same_sizes else None

    def sample(self, inputs: dict[str, HeadInput], noise, **sampling) -> dict[str, Tensor]:
        patches = {name: x.target for name, x in inputs.items() if x.target is not None}
        wanted = {name: x for name, x in inputs.items() if x.target is None}
        z = {name: noise(tuple(x.history[:, 0].shape)) for name, x in wanted.items()}
        options = {name: of_stream(sampling, name) for name in wanted}
        if self.together and list(wanted) == list(self.alone):
            # A temperature per stream becomes one per row.
            if isinstance(sampling.get("temperature"), dict):
                rows = [torch.full((len(z[name]), 1, 1), float(row["temperature"]))
                        for name, row in options.items()]
                sampling = sampling | {"temperature": torch.cat(rows)}        # (M, 1, 1)
            made = self.together.sample(
                stacked(list(z.values())), stacked([x.hidden[:, 0] for x in wanted.values()]),
                stacked([x.history[:, 0] for x in wanted.values()]),
                stacked([x.condition for x in wanted.values()]), **sampling)
            for (name, x), patch in zip(wanted.items(), made.chunk(len(wanted))):
                patches[name] = patch[:, None, :, :x.history.shape[-1]]       # (B, 1, P, d)
        else:
            for name, x in wanted.items():
                patch = self.alone[name].sample(
                    z[name], x.hidden[:, 0], x.history[:, 0], x.condition, **options[name])
                patches[name] = patch[:, None]
        return {name: patches[name] for name in inputs}


# ---------------------------------------------------------------------------------- installation
def same_sizes(parts: list) -> bool:
    """Whether heads or encoders can be fused: one architecture, one head_dim."""
    return len({(p.transformer.blocks[0].attention.head_dim, str(p.transformer),
                 getattr(p, "frames_in", None) is None) for p in parts}) == 1


def all_of(parts: nn.ModuleDict, whole: type, part: type) -> bool:
    """Whether these are the classes that are written out here, and not a fork's own."""
    return type(parts) is whole and all(type(p) is part for p in parts.values())


def replace_modules(talker: nn.Module, single_heads: bool) -> None:
    """Give a Talker the forms of this file. single_heads: of a fork's own class of heads, each
    FlowHead by itself too; that class must use nothing but their `sample`."""
    if all_of(talker.heads, SeparateHeads, FlowHead):
        talker.heads = FusedHeads(talker.heads, same_sizes(talker.heads.values()))
    if all_of(talker.encoders, PatchEncoders, PatchEncoder):
        talker.encoders = FusedEncoders(talker.encoders, same_sizes(talker.encoders.values()))
    if type(talker.backbone) is Backbone:
        talker.backbone = FusedTransformer([talker.backbone])
    # The heads of a fork's own class, then the transformers of its heads or encoders.
    if single_heads and isinstance(talker.heads, SeparateHeads):
        for name, head in talker.heads.items():
            if type(head) is FlowHead:
                talker.heads[name] = FusedHead([head])
    for module in list(talker.modules()):
        if type(getattr(module, "transformer", None)) is Transformer:
            module.transformer = FusedTransformer([module.transformer])


def few_patches(talker: nn.Module) -> Tensor:
    """A few patches, from noise that is always the same."""
    generator = torch.Generator().manual_seed(0)
    text = torch.ones(2, 3, dtype=torch.long)

    def noise(shape):
        return torch.randn(shape, generator=generator)

    conditions = {name: noise((2, m.condition)) for name, m in talker.modalities.items()}
    number = 2 + max(m.delay for m in talker.modalities.values())
    patches = talker.generate(text, text > 0, conditions, noise, number, stop_hits=99, steps=4,
                              guidance=2.0)
    return torch.cat([x.flatten() for patch, _ in patches for x in patch.values()])


def install(talker: nn.Module, dtype: torch.dtype) -> bool:
    """Before sampling on a CPU: pack wide weights in dtype, then replace the modules by those of
    this file, if both sample the same. An edited model that computes something else is sampled as
    it is, and a message says so. Returns whether any weight was packed. The weights can no longer
    be trained."""
    if next(talker.parameters()).device.type != "cpu":
        return False
    packed = pack(talker, dtype)
    talker.requires_grad_(False)                  # a trace takes no others

    expected = few_patches(talker)
    tolerance = (1e-4 if dtype == torch.float32 else 0.05) * expected.abs().max().item()
    for single_heads in (True, False):
        fused = shared_copy(talker)
        reason = "other values"
        try:
            replace_modules(fused, single_heads)
            same = torch.allclose(few_patches(fused), expected, rtol=0, atol=tolerance)
        except Exception as error:                # whatever a fork's parts do here
            same = False
            reason = f"{type(error).__name__}: {error}"
        if same:
            talker.heads = fused.heads
            talker.encoders = fused.encoders
            talker.backbone = fused.backbone
            return packed
    print(f"this Talker computes something else than engine/sampling.py, which samples fast "
          f"({reason}): sampling as model.py does", file=sys.stderr)
    return packed


def shared_copy(talker: nn.Module) -> nn.Module:
    """A copy of a Talker that shares all weights."""
    shared = [*talker.parameters(), *talker.buffers()]
    shared += [m for m in talker.modules() if isinstance(m, PackedLinear)]
    return copy.deepcopy(talker, {id(x): x for x in shared})


def compile_heads(talker: nn.Module) -> None:
    """Before sampling on a GPU: torch.compile turns a head's small operations into a few kernels,
    which are replayed as one CUDA graph. The first patch of a batch size waits for the compiler. A
    CPU gains nothing: the forms above are as fast, without a compiler."""
    # The rotary tables become a constant of the kernels.
    warnings.filterwarnings("ignore", message=".*lru_cache.*")
    for head in [m for m in talker.heads.modules() if hasattr(m, "velocity")]:
        on_gpu = next(head.parameters()).is_cuda
        head.velocity = torch.compile(
            head.velocity, dynamic=False, mode="reduce-overhead" if on_gpu else None)
