"""The language model of Talker-T2AV (arXiv 2604.23586, section 3): text and past patches in, one hidden state per patch out.

    [task] [text ...] [patch 0] [patch 1] ...      one position per patch; the hidden state at the last text position
                                                   predicts patch 0, the one at patch i predicts patch i + 1

A patch is P = 4 frames of latents (160 ms) of every modality. Each modality's frames go through a linear projection and a
small bidirectional transformer (PatchEncoder); the resulting tokens of one position are added. What turns a hidden state
into the latents of the next patch is not here: the flow-matching heads of heads.py are handed to the Talker.

Text is padded on the left, so that patch 0 stands in the same column for every sample and everything after it is a slice.

Axis letters: B batch, L text tokens, T frames, N patches, P frames per patch, D width, H heads, S keys, d latent width.
What this file does not do: autoencoders, data, training, files.
"""
import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lab.by_hand import Gate, Normalise, Rotate, gated, turned   # gradients by hand, for speed: a first reading takes them as what their names say

IGNORE = -100                                     # stop label of positions that do not count


@dataclass(frozen=True)
class Modality:
    """What the Talker knows of one stream; it treats all streams alike (the paper's two: audio and motion)."""
    latent: int                                   # width of one frame's latent vector
    condition: int                                # width of the head's global condition (speaker vector; first frame's motion)
    weight: float = 1.0                           # of its flow-matching loss (the paper: 1 for audio, 8 for motion)
    delay: int = 0                                # by how many patches it lags


class HeadInput(NamedTuple):
    """Everything that one modality's head sees. The Talker fills it, heads.py reads it."""
    hidden: Tensor                                # (B, N, D) what the language model says of each patch
    history: Tensor                               # (B, N, P, d) the clean patch before, zeros at the start
    condition: Tensor                             # (B, G) global condition
    target: Tensor | None = None                  # (B, N, P, d) the clean patch itself (training)
    mask: Tensor | None = None                    # (B, N) True where there is a patch to learn from (training)


def initialise(module: nn.Module) -> None:
    """The one place where weights get their first values, but for a few bare parameters (CLS tokens, motion directions: normal, 1).

    | what                                         | value                                                            |
    |----------------------------------------------|------------------------------------------------------------------|
    | Linear, Conv                                 | normal, 0.7 / sqrt(inputs); bias 0                               |
    | the last Linear or Conv of a residual branch | 0, so that every block starts as the identity (marked `.zero_init`) |
    | a head's last Linear                         | 0: the first predicted velocity is 0                             |
    | Embedding                                    | normal, 0.5                                                      |
    """
    for m in module.modules():
        if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            fan_in = m.weight[0].numel()
            nn.init.normal_(m.weight, std=0.0 if getattr(m, "zero_init", False) else 0.7 * fan_in ** -0.5)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Embedding):
            nn.init.normal_(m.weight, std=0.5)


def zero_init(module: nn.Module) -> nn.Module:
    """Mark a Linear or Conv that starts at zero (see `initialise`)."""
    module.zero_init = True
    return module


# ---------------------------------------------------------------------------------------------------------- attention
@functools.lru_cache(64)
def rotary_tables(tokens: int, head_dim: int, base: float, device=None) -> tuple[Tensor, Tensor]:
    """Cosines and sines (tokens, head_dim / 2) of the rotary positions (arXiv 2104.09864), made once."""
    with torch.inference_mode(False):             # what is made while sampling may serve training later
        frequency = base ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
        angle = torch.arange(tokens, device=device, dtype=torch.float32)[:, None] * frequency
        return angle.cos(), angle.sin()


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2) of x (B, H, L, head_dim) by their position's angles."""
    cos, sin = (t.to(x.dtype) for t in tables)
    return Rotate.apply(x, cos, sin) if x.requires_grad else turned(x, cos, sin)


def attention(q: Tensor, k: Tensor, v: Tensor, causal=False, valid: Tensor | None = None, fused: bool | None = None) -> Tensor:
    """The one attention of this project: backbone, patch encoders, heads and autoencoders all call it.

    q (B, H, L, head_dim), k and v (B, H', S, head_dim) with H a multiple of H' (grouped queries) -> (B, H, L, head_dim).
    causal: the queries are the last L of the S positions and see no later one. valid (B, S) bool: False hides a key
    (from all but the query at its own position, so that no row is empty). fused: torch's fused kernels (flash on CUDA)
    or the three lines below, which on CPU are up to six times as fast in bf16 and up to 30 times as slow in fp32; None chooses.
    """
    L, S = q.shape[2], k.shape[2]
    if fused is None:
        fused = q.is_cuda or q.dtype == torch.float32 or S > 256
    mask = None
    if valid is not None:
        mask = valid[:, None, None, :] | torch.ones(L, S, dtype=torch.bool, device=q.device).triu(S - L).tril(S - L)
    if causal and L > 1 and (mask is not None or L != S or not fused):
        below = torch.ones(L, S, dtype=torch.bool, device=q.device).tril(S - L)
        mask = below if mask is None else mask & below
    if fused:
        grouped = bool(k.shape[1] != q.shape[1])          # lab/joint.py traces this, where sizes are tensors
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and L > 1 and mask is None, enable_gqa=grouped)
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    score = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        score = score.masked_fill(~mask, float("-inf"))
    return score.softmax(-1) @ v


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and not x.is_cuda:
            return Normalise.apply(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class KeyValues:
    """Preallocated keys and values of one attention layer, (B, H', capacity, head_dim), filled up to `length`."""

    def __init__(self, batch: int, heads: int, capacity: int, head_dim: int, device, dtype):
        self.k, self.v = (torch.zeros(batch, heads, capacity, head_dim, device=device, dtype=dtype) for _ in range(2))
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        start, self.length = self.length, self.length + k.shape[2]
        self.k[:, :, start:self.length], self.v[:, :, start:self.length] = k, v
        return self.k[:, :, :self.length], self.v[:, :, :self.length]


class Attention(nn.Module):
    """Self-attention with rotary positions; grouped queries and per-head RMSNorm of queries and keys where Qwen3 has them."""

    def __init__(self, width: int, heads: int, kv_heads: int | None = None, head_dim: int | None = None, qk_norm=False):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads or heads, head_dim or width // heads
        self.qkv = nn.Linear(width, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.out = zero_init(nn.Linear(self.heads * self.head_dim, width, bias=False))
        self.qk_norm = qk_norm
        if qk_norm:
            self.q_norm, self.k_norm = RMSNorm(self.head_dim), RMSNorm(self.head_dim)

    def forward(self, x: Tensor, tables, causal=False, valid=None, cache: KeyValues | None = None, wanted: slice | None = None) -> Tensor:
        """x (B, L, D) -> (B, L, D), or of the wanted tokens alone (where causal, the last ones)."""
        qkv = rearrange(self.qkv(x), "B L (H D) -> B H L D", D=self.head_dim)            # (B, H + 2 H', L, head_dim)
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), 1)
        if self.qk_norm:
            qk = torch.cat((self.q_norm(qk[:, :self.heads]), self.k_norm(qk[:, self.heads:])), 1)
        q, k = rotate(qk, tables).split((self.heads, self.kv_heads), 1)                  # together: small operations cost their call
        if wanted is not None:
            q = q[:, :, wanted]
        if cache is not None:
            k, v = cache.append(k, v)
        y = attention(q, k, v, causal, valid)
        return self.out(rearrange(y, "B H L D -> B L (H D)"))                            # (B, L, D)


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = zero_init(nn.Linear(hidden, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate_up(x)
        return self.down(Gate.apply(x) if x.requires_grad else gated(x))


class Block(nn.Module):
    """Pre-norm transformer block; the backbone, the patch encoders and the heads are stacks of it."""

    def __init__(self, width: int, heads: int, hidden: int | None = None, **attention_options):
        super().__init__()
        self.norm1, self.attention = RMSNorm(width), Attention(width, heads, **attention_options)
        self.norm2, self.mlp = RMSNorm(width), SwiGLU(width, hidden or int(8 * width / 3))

    def forward(self, x: Tensor, tables, causal=False, valid=None, cache=None, wanted: slice | None = None) -> Tensor:
        """wanted: the tokens whose outputs are read (all, if None); the last block of a stack need not compute the others."""
        y = self.attention(self.norm1(x), tables, causal, valid, cache, wanted)
        x = (x if wanted is None else x[:, wanted]) + y
        return x + self.mlp(self.norm2(x))


class Blocks(nn.ModuleList):
    head_dim = property(lambda self: self[0].attention.head_dim)

    def forward(self, x: Tensor, tables, wanted: slice, caches: list[KeyValues] | None = None, **options) -> Tensor:
        """A stack of blocks: x (B, L, D) -> the wanted tokens of the last one, which computes no others.
        What is sampled on a CPU goes through lab/joint.py's Stack instead, which computes the same."""
        for i, block in enumerate(self):
            x = block(x, tables, cache=caches[i] if caches else None, wanted=wanted if i == len(self) - 1 else None, **options)
        return x


# ------------------------------------------------------------------------------------------------- backbone and patches
class Backbone(nn.Module):
    """Qwen3's decoder (arXiv 2505.09388): embeddings in, normalised hidden states out."""

    def __init__(self, width: int, layers: int, heads: int, kv_heads: int, head_dim: int, hidden: int, rotary_base=1e6):
        super().__init__()
        self.blocks = Blocks(Block(width, heads, hidden, kv_heads=kv_heads, head_dim=head_dim, qk_norm=True) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.kv_heads, self.head_dim, self.rotary_base = kv_heads, head_dim, rotary_base

    def new_cache(self, batch: int, capacity: int) -> list[KeyValues]:
        weight = self.norm.weight
        return [KeyValues(batch, self.kv_heads, capacity, self.head_dim, weight.device, weight.dtype) for _ in range(len(self.blocks))]

    def forward(self, x: Tensor, valid: Tensor | None = None, cache: list[KeyValues] | None = None, first=0) -> Tensor:
        """x (B, L, D); valid (B, S) bool, False on padding, S counting the cached positions too -> (B, L - first, D): of the
        positions from `first` on (which counts from the end if negative), the only ones that the last block computes."""
        start = cache[0].length if cache else 0
        stop = start + x.shape[1]
        tables = tuple(t[start:stop] for t in rotary_tables(1 << stop.bit_length(), self.head_dim, self.rotary_base, x.device))
        return self.norm(self.blocks(x, tables, slice(first, None), cache, causal=True, valid=valid))


class PatchEncoder(nn.Module):
    """P frames -> one token: a learned CLS token reads the frames through bidirectional blocks (section 3.2)."""

    def __init__(self, latent: int, width: int, layers: int, heads: int):
        super().__init__()
        self.project, self.input = nn.Linear(latent, width), nn.Linear(width, width)
        self.cls = nn.Parameter(torch.randn(width))
        self.blocks = Blocks(Block(width, heads) for _ in range(layers))
        self.norm = RMSNorm(width)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """x (B, N, P, d) latents; present (B, N, P) bool, False where a stream has no frame -> tokens (B, N, D)."""
        x = self.project(x)
        if present is not None:
            x = x * present[..., None]            # an absent frame is a zero after the projection, as in the release
        return self.pool(x)

    def pool(self, x: Tensor) -> Tensor:
        """Projected frames (B, N, P, D) -> (B, N, D)."""
        batch = x.shape[0]
        x = self.input(rearrange(x, "B N P D -> (B N) P D"))                             # (B N, P, D)
        x = torch.cat((self.start(x.shape[0]).to(x.dtype), x), 1)                        # (B N, 1 + P, D)
        tables = rotary_tables(x.shape[1], self.blocks.head_dim, 1e4, x.device)
        x = self.blocks(x, tables, slice(0, 1))                                          # (B N, 1, D) the CLS token alone
        return rearrange(self.norm(x), "(B N) 1 D -> B N D", B=batch)                    # (B, N, D)

    def start(self, rows: int) -> Tensor:
        return self.cls.expand(rows, 1, -1)                                              # (rows, 1, D)


class PatchEncoders(nn.ModuleDict):
    def forward(self, patches: dict[str, Tensor]) -> list[Tensor]:
        """name -> latents (B, N, P, d), of the streams that there are -> the tokens (B, N, D) of each."""
        return [self[name](x) for name, x in patches.items()]


class StopPredictor(nn.Module):
    """Hidden states (..., D) -> logit that the patch they predict is the last one (...)."""

    def __init__(self, width: int):
        super().__init__()
        self.project, self.out = nn.Linear(width, width), nn.Linear(width, 1, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out(F.silu(self.project(hidden)))[..., 0]


def stop_labels(start: Tensor, length: Tensor, positions: int, patch: int, fps=25, longest=187) -> tuple[Tensor, Tensor]:
    """Where to stop (section 3.4). start, length (B,): first position that predicts a patch, and how many do.

    -> labels (B, positions): 1 at the last patch, IGNORE for the 0.3 s before it, 0 earlier, IGNORE outside; samples cut
    off by `positions`, or longer than `longest` patches (30 s: cut by the data), have no 1. And the mean number of zeros
    of a sample that has a 1: the loss weighs its ones by 0.3 times that.
    """
    column = torch.arange(positions, device=start.device)[None]
    start, end = start[:, None], (start + length)[:, None]
    stops = (length[:, None] > 0) & (end <= positions) & (length[:, None] <= longest)
    tolerated = max(1, round(0.3 * fps / patch))
    zeros_end = torch.where(stops, (end - 1 - tolerated).maximum(start), end)
    labels = torch.full((len(start), positions), IGNORE, device=start.device)
    labels = labels.masked_fill((column >= start) & (column < zeros_end), 0)
    labels = labels.masked_fill(stops & (column == end - 1), 1)
    zeros = ((zeros_end - start) * stops).sum() / stops.sum().clamp(min=1)
    return labels, torch.where(stops.any(), zeros, 1.0)


# --------------------------------------------------------------------------------------------------------------- Talker
SPEECH_ONLY, SPEECH_AND_VIDEO = 0, 1              # the task tags, in the release's order


class Talker(nn.Module):
    """Text and patches in; the loss, or new patches, out.

    modalities: name -> Modality, the leading one first (audio): its length decides where a sample stops, and speech-only
    samples have no other. heads: any module with `loss(inputs, generator)` and `sample(inputs, noise, ...)` over dictionaries
    of HeadInput (heads.py: one FlowHead each; an ablation may pass a joint one).
    regression: weight of the auxiliary regression below; 0 in the paper.
    introduce: tell the backbone the leader's condition (who speaks) too, with the task tag; the paper tells the head alone.
    """

    def __init__(self, modalities: dict[str, Modality], heads: nn.Module, backbone: Backbone, vocabulary: int, patch: int,
                 patch_layers: int, patch_heads: int, regression=0.0, introduce=False):
        super().__init__()
        width = backbone.norm.weight.numel()
        self.modalities, self.patch = dict(modalities), patch
        self.leader = next(iter(modalities))
        self.embedding, self.task = nn.Embedding(vocabulary, width), nn.Embedding(2, width)
        self.introduce = nn.Linear(modalities[self.leader].condition, width) if introduce else None
        self.no_video = nn.Parameter(torch.zeros(width))    # stands in for the motion token in speech-only samples
        self.encoders = PatchEncoders({name: PatchEncoder(m.latent, width, patch_layers, patch_heads) for name, m in modalities.items()})
        self.backbone, self.heads, self.stop = backbone, heads, StopPredictor(width)
        self.register_buffer("longest", torch.tensor(187))  # patches of the longest sample it learned from (30 s in the paper)
        # Not in the paper: a plain regression of the next clean patch. Flow matching alone teaches a small backbone to
        # read only after many hours, since most of its gradient is about noise; this signal is direct (README, "small").
        self.regression = regression
        self.regressors = nn.ModuleDict({name: nn.Linear(width, patch * m.latent) for name, m in modalities.items()} if regression else {})

    # ---- what both training and generation use
    def prefix(self, text: Tensor, text_mask: Tensor, paired: Tensor, who: Tensor) -> tuple[Tensor, Tensor]:
        """text (B, L) ids, left-padded; text_mask (B, L); who (B, G) -> embeddings (B, 1 + L, D) with the task tag, and their mask.

        The tag goes right before the text: into the last column of the padding.
        """
        x = F.pad(self.embedding(text), (0, 0, 1, 0))                                    # (B, 1 + L, D)
        valid = F.pad(text_mask, (1, 0))                                                 # (B, 1 + L)
        at_tag = torch.arange(x.shape[1], device=text.device)[None] == (~text_mask).sum(1)[:, None]
        tag = self.task(torch.where(paired, SPEECH_AND_VIDEO, SPEECH_ONLY))              # (B, D)
        tag = tag if self.introduce is None else tag + self.introduce(who)
        return torch.where(at_tag[..., None], tag[:, None], x), valid | at_tag

    def split(self, x: Tensor) -> Tensor:
        return rearrange(x, "B (N P) d -> B N P d", P=self.patch)                        # (B, N, P, d)

    # ---- training
    def teacher_forced(self, text, text_mask, latents, frames, conditions, paired):
        """-> hidden (B, N, D), position j predicting patch j; name -> HeadInput; positions per sample (B,).

        latents: name -> (B, T, d), T a multiple of P, zero beyond the sample's frames: name -> (B,).
        N counts the positions of the longest sample, delays included.
        """
        counts = {name: -(-frames[name] // self.patch) for name in self.modalities}
        follows = {name: torch.ones_like(paired) if name == self.leader else paired for name in self.modalities}
        ends = torch.stack([(counts[n] + m.delay) * follows[n] for n, m in self.modalities.items()]).amax(0)
        N = max(latents[n].shape[1] // self.patch + m.delay for n, m in self.modalities.items())
        token, inputs = 0, {}
        for name, m in self.modalities.items():
            clean = self.split(latents[name])                                            # (B, N', P, d)
            shifted = F.pad(clean, (0, 0, 0, 0, m.delay, N - m.delay - clean.shape[1]))  # (B, N, P, d)
            time = torch.arange(N * self.patch, device=text.device)[None] - m.delay * self.patch
            present = self.split(((time >= 0) & (time < frames[name][:, None]))[..., None])[..., 0]      # (B, N, P)
            encoded = self.encoders[name](shifted[:, :-1], present[:, :-1])              # (B, N - 1, D) the last predicts nothing
            token = token + torch.where(follows[name][:, None, None], encoded, self.no_video.to(encoded.dtype))
            history = F.pad(shifted[:, :-1], (0, 0, 0, 0, 1, 0))                         # (B, N, P, d) the patch before
            mask = present.any(-1) & follows[name][:, None]                              # (B, N)
            inputs[name] = (history, conditions[name], shifted, mask)
        x, valid = self.prefix(text, text_mask, paired, conditions[self.leader])
        before = x.shape[1] - 1                                                          # the last text position predicts patch 0
        x, valid = torch.cat((x, token), 1), F.pad(valid, (0, N - 1), value=True)
        hidden = self.backbone(x, valid, first=before)                                   # (B, N, D)
        return hidden, {name: HeadInput(hidden, *rest) for name, rest in inputs.items()}, ends

    def forward(self, text, text_mask, latents, frames, conditions, paired=None, generator=None) -> tuple[Tensor, dict]:
        """Loss, and what to log: name -> scalar, name_by_time -> loss per bin of flow time (see FlowHead.loss)."""
        paired = torch.ones(len(text), dtype=torch.bool, device=text.device) if paired is None else paired
        hidden, inputs, ends = self.teacher_forced(text, text_mask, latents, frames, conditions, paired)
        losses, log = self.heads.loss(inputs, generator)
        labels, zeros = stop_labels(torch.zeros_like(ends), ends, hidden.shape[1], self.patch)
        stop = F.binary_cross_entropy_with_logits(self.stop(hidden).float(), labels.clamp(min=0).float(), reduction="none", pos_weight=0.3 * zeros)
        log["stop"] = (stop * (labels != IGNORE)).sum() / (labels != IGNORE).sum()
        total = sum(m.weight * losses[name] for name, m in self.modalities.items()) + log["stop"]
        for name, regressor in self.regressors.items():
            x = inputs[name]
            guess = rearrange(regressor(hidden), "B N (P d) -> B N P d", P=self.patch)   # (B, N, P, d)
            error = (guess.float() - x.target).square().mean((2, 3)) * x.mask            # (B, N)
            log[f"{name}_regression"] = error.sum() / x.mask.sum().clamp(min=1)          # a batch may hold speech alone
            total = total + self.regression * log[f"{name}_regression"]
        return total, log | losses

    # ---- generation
    @torch.inference_mode()
    def generate(self, text, text_mask, conditions, noise, longest: int, given=None, paired=True, stop_hits=1, stop_keeps=True,
                 shortest=0, threshold=0.5, **sampling):
        """A Python generator over patches: yields (name -> (B, P, d), finished (B,) bool: this patch ends the sample).

        noise(shape) -> standard normal numbers (B, ...): the one source of randomness, drawn per patch in the order of
        the modalities. given: name -> (B, T, d) latents that are fed instead of sampled, T a multiple of P: all of one stream
        (a face for a speech, a speech for a face) or the beginning of both (continuation). sampling: steps, guidance, temperature, ... of FlowHead.sample. A sample ends when the stop
        predictor says so `stop_hits` patches in a row; that patch is still part of it unless stop_keeps is False (the
        release: three in a row, the third dropped); the first `shortest` patches never count (7). Delayed modalities are `delay` patches behind.
        """
        B = len(text)
        active = {n: m for n, m in self.modalities.items() if paired or n == self.leader}
        x, valid = self.prefix(text, text_mask, torch.full((B,), paired, device=text.device), conditions[self.leader])
        cache = self.backbone.new_cache(B, x.shape[1] + longest)
        padding = None if text_mask.all() else F.pad(valid, (0, longest), value=True)
        hidden = self.backbone(x, None if padding is None else valid, cache, first=-1)   # (B, 1, D)
        given = {n: self.split(latents) for n, latents in (given or {}).items()}         # (B, N, P, d)
        history = {n: torch.zeros(B, 1, self.patch, m.latent, device=text.device) for n, m in active.items()}
        hits = torch.zeros(B, dtype=torch.long, device=text.device)
        for i in range(longest):
            stop = self.stop(hidden)[:, 0].sigmoid() >= threshold
            hits = torch.where(stop & (i >= shortest), hits + 1, 0)
            finished = hits >= stop_hits
            if not stop_keeps and bool(finished.all()):
                return
            now = {n: i - m.delay for n, m in active.items() if i >= m.delay}            # which patch of each stream it is
            known = {n: given[n][:, j:j + 1] for n, j in now.items() if n in given and j < given[n].shape[1]}
            inputs = {n: HeadInput(hidden, history[n], conditions[n]) for n in now if n not in known}
            patches = self.heads.sample(inputs, noise, **sampling) | known               # name -> (B, 1, P, d)
            yield {n: p[:, 0] for n, p in patches.items()}, finished
            history.update(patches)
            token = sum(self.encoders(patches))                                          # (B, 1, D)
            token = token if paired else token + (len(self.modalities) - 1) * self.no_video
            hidden = self.backbone(token, None if padding is None else padding[:, :cache[0].length + 1], cache)
