"""The language model of Talker-T2AV (arXiv 2604.23586, section 3): text and past patches in,
one hidden state per patch out.

    [task] [text ...] [patch 0] [patch 1] ...        one position per patch

The hidden state at the last text position predicts patch 0, the one at patch i predicts patch
i + 1. A patch is P = 4 frames of latents (160 ms) of every modality. The frames of each modality
pass a linear projection and a small bidirectional transformer (PatchEncoder), and the resulting
tokens of one position are added. What turns a hidden state into the latents of the next patch is
not in this file: the flow-matching heads of heads.py are handed to the Talker.

Text is padded on the left, so that patch 0 stands in the same column for every sample of a batch,
and everything after it is a slice. Rotary attention depends on differences alone, of positions and
of places in the text (see Alignment), so the padding changes nothing.

Axis letters: B batch, L text tokens (or any tokens), T frames, N patches, P frames per patch,
D width, H attention heads (H' of keys and values), S keys, d width of a latent, G width of a
condition. "The release" is the code that the authors published (docs/paper.md).

What this file does not do: autoencoders, data, training, files.

`python model.py` prints the shapes of a small model.
"""
import functools
import math
from dataclasses import dataclass
from typing import Callable, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

FPS = 25                                  # latent frames per second, the same in every modality
IGNORE = -100                             # stop label of a position that does not count
SPEECH_ONLY, SPEECH_AND_VIDEO = 0, 1      # the task tags, in the released code's order
PLACE_NOISE = 0.2                         # deviation, in symbols, of the noise that training adds
#                                           to places in the text; see Talker.forward


@dataclass(frozen=True)
class Modality:
    """What the Talker knows of one stream of latents. The paper has two, audio and motion."""

    latent: int             # width d of one frame's latent vector
    condition: int          # width G of the head's condition (the voice; the first pose)
    weight: float = 1.0     # of its flow-matching loss (the paper: 1 for audio, 8 for motion)
    delay: int = 0          # patches by which it lags behind the others: its hidden state has
    #                         then read their patch of the same moment. 0 in every preset


class HeadInput(NamedTuple):
    """Everything that the flow-matching head of one modality sees. The Talker fills it."""

    hidden: Tensor                  # (B, N, D) hidden states of the language model
    history: Tensor                 # (B, N, P, d) the clean patch before, zeros at the start
    condition: Tensor               # (B, G) the same for all patches of a sample. A class of heads
    #                                 may put one per patch in its place, (B, N, G)
    target: Tensor | None = None    # (B, N, P, d) the clean patch: in training; in generation
    #                                 only where the patch is given and need not be sampled
    mask: Tensor | None = None      # (B, N) True where there is a patch to learn from (training)


# ------------------------------------------------------------------------------- initialisation
def initialise(module: nn.Module) -> None:
    """Give all Linear, Conv and Embedding layers their first values. Bare parameters (CLS tokens,
    motion directions, norms) are set where they are defined.

    | what                                         | value                                    |
    |----------------------------------------------|------------------------------------------|
    | Linear, Conv                                 | normal, 0.7 / sqrt(inputs); bias 0       |
    | the last Linear or Conv of a residual branch | 0: every block starts as the identity    |
    | the last Linear of a flow-matching head      | 0: the first predicted velocity is 0     |
    | Embedding                                    | normal, 0.5                              |

    The zeros are marked where the layers are made, by `zero_init`.
    """
    for m in module.modules():
        if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            inputs = m.weight[0].numel()
            std = 0.0 if getattr(m, "zero_init", False) else 0.7 * inputs ** -0.5
            nn.init.normal_(m.weight, std=std)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Embedding):
            nn.init.normal_(m.weight, std=0.5)


def zero_init(module: nn.Module) -> nn.Module:
    """Mark a Linear or Conv that starts at zero (see `initialise`)."""
    module.zero_init = True
    return module


# ------------------------------------------------------------------------------------ attention
@functools.lru_cache(64)
def rotary_tables(tokens: int, head_dim: int, base: float, device=None) -> tuple[Tensor, Tensor]:
    """Cosines and sines (tokens, head_dim / 2) of rotary positions (arXiv 2104.09864)."""
    # NOTE: sampling and training share the cached tables, and autograd refuses tensors that were
    # made in inference mode. So leave that mode here.
    with torch.inference_mode(False):
        channel = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
        frequency = base ** (-channel / head_dim)                             # (head_dim / 2,)
        position = torch.arange(tokens, device=device, dtype=torch.float32)
        angle = position[:, None] * frequency                                 # (L, head_dim / 2)
        return angle.cos(), angle.sin()


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the channel pairs (i, i + head_dim / 2) of x (B, H, L, head_dim). tables: cosines and
    sines of the angles, see `rotary_tables` and `turn_by_place`."""
    cos, sin = (table.to(x.dtype) for table in tables)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def turn_by_place(tables: tuple[Tensor, Tensor], places: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary tables in which half of the channel pairs turn by places in the text instead of
    positions. A position counts the tokens of the sequence, a place counts the symbols of the text
    (see Alignment). The product of a query and a key then also depends on how many symbols lie
    between the two, which means the same at the beginning of a text and at its end.

    Args:
        tables: cosines and sines of positions, (L, head_dim / 2) each. The second half of the
            pairs, which is slow and hardly turns within a clip, is replaced. The new ones have
            periods of 3 to 300 symbols.
        places: (B, L), in symbols. They need not be whole numbers.

    Returns: cosines and sines, (B, 1, L, head_dim / 2) each.
    """
    pairs = tables[0].shape[-1] // 2
    period = 3 * 100 ** torch.linspace(0, 1, pairs, device=places.device)     # (head_dim / 4,)
    angle = 2 * math.pi * places[:, None, :, None] / period                   # (B, 1, L, .)
    turned = []
    for table, of_places in zip(tables, (angle.cos(), angle.sin())):
        of_positions = table[:, :table.shape[-1] - pairs].expand(*angle.shape[:2], -1, -1)
        turned.append(torch.cat((of_positions, of_places), -1))
    return turned[0], turned[1]


def attention(q: Tensor, k: Tensor, v: Tensor, causal=False, valid: Tensor | None = None,
              fused: bool | None = None) -> Tensor:
    """Scaled dot-product attention. The backbone, the patch encoders, the flow-matching heads and
    the encoder of speech in autoencoders.py all call this one function.

    Args:
        q: queries (B, H, L, head_dim).
        k, v: keys and values (B, H', S, head_dim), H a multiple of H' (grouped queries).
        causal: the queries are the last L of the S positions, and see no later one.
        valid: (B, S) bool, False hides a key (padding) from all queries but the one at its own
            position, so that no row of the softmax is empty.
        fused: True for PyTorch's fused kernels (flash attention on CUDA), False for the plain
            lines below, None to choose. The plain lines are up to six times as fast for short
            sequences in bf16 on a CPU, and up to 30 times as slow in fp32.

    Returns: (B, H, L, head_dim).
    """
    L, S = q.shape[2], k.shape[2]
    if fused is None:
        fused = q.is_cuda or q.dtype == torch.float32 or S > 256

    # Which key may be seen by which query: (B, 1, L, S), or None where all may.
    mask = None
    if valid is not None:
        own = torch.ones(L, S, dtype=torch.bool, device=q.device).triu(S - L).tril(S - L)
        mask = valid[:, None, None, :] | own
    # The fused kernels need no mask for plain causal attention, and one query sees everything.
    if causal and L > 1 and (mask is not None or L != S or not fused):
        past = torch.ones(L, S, dtype=torch.bool, device=q.device).tril(S - L)
        mask = past if mask is None else mask & past

    if fused:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and L > 1 and mask is None,
            enable_gqa=bool(k.shape[1] != q.shape[1]))

    if k.shape[1] != q.shape[1]:          # each key head serves several query heads
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    score = (q * q.shape[-1] ** -0.5) @ k.mT                                  # (B, H, L, S)
    if mask is not None:
        score = score.masked_fill(~mask, float("-inf"))
    return score.softmax(-1) @ v                                              # (B, H, L, head_dim)


class KeyValueCache:
    """Keys and values of one attention layer, (B, H', capacity, head_dim), allocated once and
    filled up to `length`."""

    def __init__(self, batch: int, heads: int, capacity: int, head_dim: int, device, dtype):
        self.k = torch.zeros(batch, heads, capacity, head_dim, device=device, dtype=dtype)
        self.v = torch.zeros_like(self.k)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values of new positions, return those of all positions so far."""
        start = self.length
        self.length += k.shape[2]
        self.k[:, :, start:self.length] = k
        self.v[:, :, start:self.length] = v
        return self.k[:, :, :self.length], self.v[:, :, :self.length]


# ---------------------------------------------------------------------------------- transformer
class RMSNorm(nn.Module):
    """x / root mean square of x over its last axis, times a learned weight (arXiv 1910.07467)."""

    def __init__(self, width: int, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Self-attention with rotary positions. Grouped queries and an RMSNorm of every head's queries
    and keys are options, since Qwen3 has them."""

    def __init__(self, width: int, attention_heads: int, kv_heads: int | None = None,
                 head_dim: int | None = None, qk_norm=False):
        super().__init__()
        self.heads = attention_heads
        self.kv_heads = kv_heads or attention_heads
        self.head_dim = head_dim or width // attention_heads
        heads = attention_heads + 2 * self.kv_heads       # of queries, keys and values
        self.qkv = nn.Linear(width, heads * self.head_dim, bias=False)
        self.out = zero_init(nn.Linear(attention_heads * self.head_dim, width, bias=False))
        self.qk_norm = qk_norm
        if qk_norm:
            self.q_norm = RMSNorm(self.head_dim)
            self.k_norm = RMSNorm(self.head_dim)

    def forward(self, x: Tensor, tables, causal=False, valid: Tensor | None = None,
                cache: KeyValueCache | None = None) -> Tensor:
        """x (B, L, D) -> (B, L, D). tables: see `rotate`; causal, valid: see `attention`."""
        qkv = rearrange(self.qkv(x), "B L (H D) -> B H L D", D=self.head_dim)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 1)    # (B, H, L, head_dim)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, tables), rotate(k, tables)
        if cache is not None:
            k, v = cache.append(k, v)                                         # (B, H', S, head_dim)
        y = attention(q, k, v, causal, valid)                                 # (B, H, L, head_dim)
        return self.out(rearrange(y, "B H L D -> B L (H D)"))                 # (B, L, D)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), with gate and up in one matrix (arXiv 2002.05202)."""

    def __init__(self, width: int, mlp_width: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * mlp_width, bias=False)
        self.down = zero_init(nn.Linear(mlp_width, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, attention_heads: int, mlp_width: int | None = None,
                 **attention_options):
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attention = Attention(width, attention_heads, **attention_options)
        self.norm2 = RMSNorm(width)
        self.mlp = SwiGLU(width, mlp_width or int(8 * width / 3))

    def forward(self, x: Tensor, tables, causal=False, valid=None, cache=None) -> Tensor:
        x = x + self.attention(self.norm1(x), tables, causal, valid, cache)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A stack of blocks and a last RMSNorm. Backbone, patch encoders and flow-matching heads are
    this one class; the backbone alone is causal and has a KV cache."""

    def __init__(self, width: int, layers: int, attention_heads: int, mlp_width: int | None = None,
                 causal=False, rotary_base=1e4, **attention_options):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, attention_heads, mlp_width, **attention_options) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.causal = causal
        self.rotary_base = rotary_base

    def new_cache(self, batch: int, capacity: int) -> list[KeyValueCache]:
        """An empty KV cache for so many samples and positions, one entry per layer."""
        weight = self.norm.weight
        return [KeyValueCache(batch, block.attention.kv_heads, capacity, block.attention.head_dim,
                              weight.device, weight.dtype) for block in self.blocks]

    def tables_for(self, x: Tensor, cache: list[KeyValueCache] | None) -> tuple[Tensor, Tensor]:
        """The rotary tables for x (B, L, D), which continues where the cache ends."""
        start = cache[0].length if cache else 0
        stop = start + x.shape[1]
        # Tables are made for a power of two of positions, so that a growing cache reuses them.
        head_dim = self.blocks[0].attention.head_dim
        cos, sin = rotary_tables(1 << stop.bit_length(), head_dim, self.rotary_base, x.device)
        return cos[start:stop], sin[start:stop]

    def forward(self, x: Tensor, valid: Tensor | None = None,
                cache: list[KeyValueCache] | None = None, places: Tensor | None = None) -> Tensor:
        """x (B, L, D) -> (B, L, D). valid (B, S) bool: False on padding, S counts the cached
        positions too. places (B, L): of the tokens of x, see `turn_by_place`; without them
        positions alone rotate."""
        tables = self.tables_for(x, cache)
        if places is not None:
            tables = turn_by_place(tables, places)
        for i, block in enumerate(self.blocks):
            x = block(x, tables, self.causal, valid, cache[i] if cache else None)
        return self.norm(x)


class Backbone(Transformer):
    """Qwen3's decoder (arXiv 2505.09388): embeddings in, normalised hidden states out."""

    def __init__(self, width: int, layers: int, attention_heads: int, kv_heads: int, head_dim: int,
                 mlp_width: int, rotary_base=1e6):
        super().__init__(width, layers, attention_heads, mlp_width, causal=True,
                         rotary_base=rotary_base, kv_heads=kv_heads, head_dim=head_dim,
                         qk_norm=True)


# ------------------------------------------------------------------------------- patches to tokens
class PatchEncoder(nn.Module):
    """The P frames of a patch -> one token: a learned CLS token reads the frames through
    bidirectional blocks (section 3.2)."""

    def __init__(self, latent: int, width: int, layers: int, attention_heads: int):
        super().__init__()
        # Two linear projections in a row, as in the release. One would do.
        self.project = nn.Linear(latent, width)
        self.input = nn.Linear(width, width)
        self.cls = nn.Parameter(torch.randn(width))
        self.transformer = Transformer(width, layers, attention_heads)

    def forward(self, x: Tensor, has_frame: Tensor | None = None) -> Tensor:
        """Latents x (B, N, P, d) -> tokens (B, N, D). has_frame (B, N, P) bool: False where the
        stream has no frame; such a frame is a zero after the projection, as in the release."""
        x = self.project(x)                                                   # (B, N, P, D)
        if has_frame is not None:
            x = x * has_frame[..., None]
        return self.pool(x)

    def pool(self, x: Tensor) -> Tensor:
        """Projected frames (B, N, P, D) -> (B, N, D)."""
        batch = x.shape[0]
        x = self.input(rearrange(x, "B N P D -> (B N) P D"))                  # (B N, P, D)
        cls = self.cls.expand(len(x), 1, -1).to(x.dtype)                      # (B N, 1, D)
        x = self.transformer(torch.cat((cls, x), 1))                          # (B N, 1 + P, D)
        return rearrange(x[:, 0], "(B N) D -> B N D", B=batch)                # (B, N, D)


class PatchEncoders(nn.ModuleDict):
    """One PatchEncoder per modality. Their tokens of one position are added."""

    def forward(self, patches: dict[str, Tensor]) -> Tensor:
        """Clean patches, name -> (B, N, P, d), of the streams that there are -> (B, N, D)."""
        return sum(self[name](patch) for name, patch in patches.items())


# ----------------------------------------------------------------------------------------- stop
class StopPredictor(nn.Module):
    """Hidden states (..., D) -> logit (...) that the patch they predict is the last one."""

    def __init__(self, width: int):
        super().__init__()
        self.project = nn.Linear(width, width)
        self.out = nn.Linear(width, 1, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out(F.silu(self.project(hidden)))[..., 0]


def stop_labels(start: Tensor, length: Tensor, columns: int, patch: int, fps=FPS,
                max_seconds=30.0) -> tuple[Tensor, Tensor]:
    """Labels of the stop predictor (section 3.4).

    Args:
        start, length: (B,) the first position that predicts a patch (the Talker's is 0), and how
            many positions do.
        columns: of the labels. patch: frames per patch. fps: frames per second.
        max_seconds: samples longer than this count as cut off by the data: their last patch is
            no end.

    Returns:
        labels (B, columns): 1 at the last patch, IGNORE for the 0.3 s before it, 0 earlier,
            IGNORE outside. Samples that were cut, by the data or by `columns`, have no 1.
        zeros (): the mean number of zeros in the samples that have a 1. The loss weighs its ones
            by 0.3 times that (a weight, which has nothing to do with the 0.3 s).
    """
    column = torch.arange(columns, device=start.device)[None]                 # (1, columns)
    start, end = start[:, None], (start + length)[:, None]                    # (B, 1)
    whole = length[:, None] <= int(max_seconds * fps / patch)
    stops = (length[:, None] > 0) & (end <= columns) & whole                  # (B, 1)

    # An early stop within the last 0.3 s is no mistake: these positions teach nothing.
    tolerated = max(1, round(0.3 * fps / patch))
    zeros_end = torch.where(stops, (end - 1 - tolerated).maximum(start), end)

    labels = torch.full((len(start), columns), IGNORE, device=start.device)
    labels = labels.masked_fill((column >= start) & (column < zeros_end), 0)
    labels = labels.masked_fill(stops & (column == end - 1), 1)
    zeros = ((zeros_end - start) * stops).sum() / stops.sum().clamp(min=1)
    return labels, torch.where(stops.any(), zeros, 1.0)


class Alignment(nn.Module):
    """Where in the text the voice is. Not in the paper.

    Every token of the backbone has a place in the text, which counts symbols. Text symbol i has
    place i. A patch has the number of symbols that have been spoken when it ends, which need not be
    whole. Half of the channels of queries and keys are rotated by places (`turn_by_place`). So the
    symbol that is due next is always as far from the patch before it, and attention finds it at the
    end of a long text as it does at the beginning. Without places a Talker that trains for minutes
    gets lost in long sentences (docs/paper.md).

    The first patch is an exception: the last symbol of the text predicts it, whose place is its own
    and not 0.

    In training the places of patches come from a forced alignment, which was made once for each
    clip from the CTC scores of the audio autoencoder (see train.latent_item). In generation this
    module estimates how many symbols each patch speaks, and `Talker.generate` adds these up.
    """

    def __init__(self, width: int, patch_size: int):
        """width: D. patch_size: P d, the size of a patch of the leading stream."""
        super().__init__()
        self.project = nn.Linear(width + patch_size, width)
        self.out = nn.Linear(width, 1)

    def forward(self, hidden: Tensor, patch: Tensor) -> Tensor:
        """Hidden states (B, N, D), and the patches of the leading stream that they predict
        (B, N, P, d) -> how many symbols each patch speaks, (B, N)."""
        patch = rearrange(patch, "B N P d -> B N (P d)")
        x = torch.cat((hidden, patch.to(hidden.dtype)), -1)                   # (B, N, D + P d)
        return self.out(F.silu(self.project(x)))[..., 0].float()


# --------------------------------------------------------------------------------------- Talker
class Talker(nn.Module):
    """Text and patches in; the loss, or new patches, out. A patch here is one of every stream.

    Args:
        modalities: name -> Modality. The leading one stands first (audio): every sample has it,
            its condition goes into the task tag, and speech-only samples have no other.
        heads: any module with `loss(inputs, generator)` and `sample(inputs, noise, ...)` over
            dictionaries name -> HeadInput. heads.py has one FlowHead each; an ablation may pass
            a joint one.
        backbone, vocabulary, patch (frames), patch_layers and patch_heads (of the patch encoders).
        regression_weight: of an auxiliary loss that is not in the paper, see below.
        condition_backbone: the leading modality's condition (the voice) is added to the task tag.
            In the paper the audio head alone is conditioned on it; a head that trains for minutes
            does not learn to use it, while the backbone does.
        encode_absence: how generation treats a delayed stream that has not begun. True: as
            training does, it adds the token of a patch without frames. False: it adds no token,
            as the released code does, which disagrees there with its own training.
        alignment_weight: of the loss of an Alignment; 0: there is none, as in the paper.
    """

    def __init__(self, modalities: dict[str, Modality], heads: nn.Module, backbone: Backbone,
                 vocabulary: int, patch: int, patch_layers: int, patch_heads: int,
                 regression_weight=0.0, condition_backbone=False, encode_absence=True,
                 alignment_weight=0.0):
        super().__init__()
        width = backbone.norm.weight.numel()
        self.modalities = dict(modalities)
        self.leader = next(iter(modalities))
        self.patch = patch
        self.encode_absence = encode_absence

        self.embedding = nn.Embedding(vocabulary, width)
        self.task = nn.Embedding(2, width)
        leading = modalities[self.leader].condition
        self.condition_in = nn.Linear(leading, width) if condition_backbone else None
        self.alignment_weight = alignment_weight
        self.alignment = None
        if alignment_weight:
            if modalities[self.leader].delay:
                raise ValueError(f"an Alignment follows the leading stream, {self.leader}, which "
                                 "can't be delayed then")
            self.alignment = Alignment(width, patch * modalities[self.leader].latent)
        # What stands in for the token of a stream that a sample does not have.
        self.absent = nn.ParameterDict(
            {name: torch.zeros(width) for name in modalities if name != self.leader})
        self.encoders = PatchEncoders(
            {name: PatchEncoder(m.latent, width, patch_layers, patch_heads)
             for name, m in modalities.items()})
        self.backbone = backbone
        self.heads = heads
        self.stop = StopPredictor(width)
        # The number of patches of the longest training sample. sample.Models.limits cuts a sample
        # that does not stop at 1.5 times this.
        self.register_buffer("longest_seen", torch.tensor(int(30 * FPS / patch)))

        # Not in the paper: a linear regression of the next clean patch from the hidden state.
        # Most of the gradient of flow matching is about noise, and teaches a small backbone to
        # read too slowly for a run of minutes. This signal is direct (docs/paper.md).
        self.regression_weight = regression_weight
        self.regressors = nn.ModuleDict(
            {name: nn.Linear(width, patch * m.latent) for name, m in modalities.items()}
            if regression_weight else {})

    # ---- what both training and generation use
    def prefix(self, text: Tensor, text_mask: Tensor, speech_only: Tensor,
               condition: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The embeddings before patch 0, their mask, and their places (None without an Alignment).

        text (B, L) ids, padded on the left; text_mask (B, L) bool; speech_only (B,) bool;
        condition (B, G) of the leading modality -> (B, 1 + L, D), (B, 1 + L), (B, 1 + L) or None.
        """
        x = F.pad(self.embedding(text), (0, 0, 1, 0))                         # (B, 1 + L, D)
        places = None
        if self.alignment is not None:
            # Text symbols have the places 0, 1, 2, ... Task tag and padding have 0.
            places = F.pad((text_mask.cumsum(1) - 1).clamp(min=0), (1, 0))    # (B, 1 + L)
        valid = F.pad(text_mask, (1, 0))                                      # (B, 1 + L)
        tag = self.task(torch.where(speech_only, SPEECH_ONLY, SPEECH_AND_VIDEO))     # (B, D)
        if self.condition_in is not None:
            tag = tag + self.condition_in(condition)
        # The tag goes right before the text, into the last column of the padding.
        padding = (~text_mask).sum(1, keepdim=True)                           # (B, 1)
        at_tag = torch.arange(x.shape[1], device=text.device)[None] == padding
        return torch.where(at_tag[..., None], tag[:, None], x), valid | at_tag, places

    def split(self, x: Tensor) -> Tensor:
        """Frames (B, N P, d) -> patches (B, N, P, d)."""
        return rearrange(x, "B (N P) d -> B N P d", P=self.patch)

    def patch_ends(self, spoken: Tensor, frames: Tensor, N: int) -> Tensor:
        """Symbols spoken by the end of each frame (B, T), of which frames (B,) are the sample's own
        -> by the end of each of N positions, (B, N). After the sample's end all are spoken."""
        ends = self.patch * torch.arange(1, N + 1, device=spoken.device) - 1  # (N,)
        return spoken.gather(1, ends[None].minimum(frames[:, None] - 1))

    # ---- training
    def teacher_forced(self, text, text_mask, latents, frames, conditions, present=None,
                       spoken=None):
        """One pass over whole samples, with the ground truth as the past of every position.

        Args:
            text (B, L), text_mask (B, L): see `prefix`.
            latents: name -> (B, T, d), T a multiple of P, zero beyond the sample's own frames.
            frames: name -> (B,) the number of frames of each sample.
            conditions: name -> (B, G).
            present: name -> (B,) bool, False for samples that do not have this stream. Streams
                that are not named are present everywhere, the leading one always is.
            spoken: (B, T) for an Alignment: how many text symbols have been spoken by the end of
                each frame of the leading stream.

        Returns:
            hidden (B, N, D): position j predicts patch j. N counts the positions of the longest
                sample, delays included.
            inputs: name -> HeadInput. positions (B,): how many positions each sample has.
        """
        B, P = len(text), self.patch
        everywhere = torch.ones(B, dtype=torch.bool, device=text.device)
        present = {name: everywhere for name in self.modalities} | (present or {})
        # Speech-only samples have the leading stream alone. A Talker of one stream has none.
        others = [present[name] for name in self.modalities if name != self.leader]
        speech_only = ~torch.stack(others or [everywhere]).any(0)             # (B,)

        # A sample ends where the last of its streams does; a delayed stream ends later.
        positions = torch.stack([(-(-frames[name] // P) + m.delay) * present[name]
                                 for name, m in self.modalities.items()]).amax(0)
        N = max(latents[name].shape[1] // P + m.delay for name, m in self.modalities.items())

        token = 0
        inputs = {}
        for name, m in self.modalities.items():
            # Shift a delayed stream to the right. Zeros stand before its beginning and after its
            # end, and has_frame says where these are.
            clean = self.split(latents[name])                                 # (B, N', P, d)
            behind = N - m.delay - clean.shape[1]
            clean = F.pad(clean, (0, 0, 0, 0, m.delay, behind))               # (B, N, P, d)
            time = torch.arange(N * P, device=text.device)[None] - m.delay * P
            has_frame = (time >= 0) & (time < frames[name][:, None])          # (B, N P)
            has_frame = self.split(has_frame[..., None])[..., 0]              # (B, N, P)

            # Every patch but the last, which predicts nothing, becomes a token. The tokens of
            # all streams are added; a sample without this stream gets a learned vector instead.
            encoded = self.encoders[name](clean[:, :-1], has_frame[:, :-1])   # (B, N - 1, D)
            if name != self.leader:
                absent = self.absent[name].to(encoded.dtype)
                encoded = torch.where(present[name][:, None, None], encoded, absent)
            token = token + encoded

            # What the head learns from: each patch, with the one before it as its history. The
            # hidden states follow below.
            history = F.pad(clean[:, :-1], (0, 0, 0, 0, 1, 0))                # (B, N, P, d)
            mask = has_frame.any(-1) & present[name][:, None]                 # (B, N)
            inputs[name] = HeadInput(None, history, conditions[name], clean, mask)

        # Text and patches pass the backbone as one sequence. The last text position predicts
        # patch 0, so what stands before it is cut off.
        x, valid, places = self.prefix(text, text_mask, speech_only, conditions[self.leader])
        before = x.shape[1] - 1
        x = torch.cat((x, token), 1)                                          # (B, L + N, D)
        # What comes after the end of a sample needs no mask: no earlier position sees it.
        valid = F.pad(valid, (0, N - 1), value=True)                          # (B, L + N)
        if self.alignment is not None:
            ends = self.patch_ends(spoken, frames[self.leader], N)            # (B, N)
            places = torch.cat((places, ends[:, :-1]), 1)                     # (B, L + N)
        hidden = self.backbone(x, valid, None, places)[:, before:]             # (B, N, D)
        inputs = {name: x._replace(hidden=hidden) for name, x in inputs.items()}
        return hidden, inputs, positions

    def forward(self, text, text_mask, latents, frames, conditions, present=None,
                generator=None, spoken=None) -> tuple[Tensor, dict]:
        """The loss, and what to log: name -> scalar; name_by_time -> loss per bin of the timestep
        (see FlowHead.loss). The arguments are those of `teacher_forced`."""
        # The Talker learns from places in the text that are a little wrong, as they will be in
        # generation, and the Alignment learns to correct them.
        noisy = None
        if self.alignment is not None:
            if spoken is None:
                raise ValueError("a Talker with an Alignment learns from clips with `spoken`")
            noise = torch.randn(spoken.shape, generator=generator, device=spoken.device)
            noisy = (spoken + PLACE_NOISE * noise).clamp(min=0)               # (B, T)
        hidden, inputs, positions = self.teacher_forced(
            text, text_mask, latents, frames, conditions, present, noisy)

        # Flow matching: each head compares its velocity with the ground truth's.
        losses, log = self.heads.loss(inputs, generator)
        total = sum(m.weight * losses[name] for name, m in self.modalities.items())

        # Stop: binary cross-entropy. A sample has a single 1, so its weight grows with the zeros.
        # The data is cut at 30 s, 750 frames. So a clip of 187 patches of four frames, or of 188
        # where the rest is kept too (keep_end in train.py), may have no end. Only shorter ones
        # count as whole.
        labels, zeros = stop_labels(
            start=torch.zeros_like(positions), length=positions, columns=hidden.shape[1],
            patch=self.patch, max_seconds=30 - self.patch / FPS)
        counts = labels != IGNORE                                             # (B, N)
        stop = F.binary_cross_entropy_with_logits(
            self.stop(hidden).float(), labels.clamp(min=0).float(), reduction="none",
            pos_weight=0.3 * zeros)                                           # (B, N)
        log["stop"] = (stop * counts).sum() / counts.sum()
        total = total + log["stop"]

        # How many symbols each patch speaks, from the place at which the model believes it begins.
        if self.alignment is not None:
            x = inputs[self.leader]
            N = hidden.shape[1]
            true_ends = self.patch_ends(spoken, frames[self.leader], N)       # (B, N)
            noisy_ends = self.patch_ends(noisy, frames[self.leader], N)
            believed_starts = F.pad(noisy_ends[:, :-1], (1, 0))
            symbols = true_ends - believed_starts
            error = (self.alignment(x.hidden, x.target) - symbols).square() * x.mask
            log["alignment"] = error.sum() / x.mask.sum().clamp(min=1)
            total = total + self.alignment_weight * log["alignment"]

        # The auxiliary regression. Padding and absent streams do not count.
        for name, regressor in self.regressors.items():
            x = inputs[name]
            guess = rearrange(regressor(x.hidden), "B N (P d) -> B N P d", P=self.patch)
            error = (guess.float() - x.target).square().mean((2, 3)) * x.mask         # (B, N)
            log[f"{name}_regression"] = error.sum() / x.mask.sum().clamp(min=1)
            total = total + self.regression_weight * log[f"{name}_regression"]
        return total, log | losses

    # ---- generation
    def cached_backbone(self, valid: Tensor, more: int) -> Callable[
            [Tensor, Tensor | None], Tensor]:
        """A function step(tokens, places) -> hidden, which keeps the KV cache from call to call.

        tokens (B, n, D) are the next ones, places (B, n) are theirs (None without an Alignment),
        and hidden (B, 1, D) is the hidden state of the last of them.

        Args:
            valid: (B, n) bool, of the tokens of the first call; False is padding.
            more: the number of tokens of all later calls.
        """
        B, first = valid.shape
        cache = self.backbone.new_cache(B, first + more)
        # Without padding there is nothing to hide, and attention is faster without a mask.
        padded = not valid.all()
        valid = F.pad(valid, (0, more), value=True)                           # (B, capacity)

        def step(tokens: Tensor, places: Tensor | None) -> Tensor:
            length = cache[0].length + tokens.shape[1]
            seen = valid[:, :length] if padded else None
            return self.backbone(tokens, seen, cache, places)[:, -1:]

        return step

    @torch.inference_mode()
    def generate(self, text, text_mask, conditions, noise, max_patches: int, given=None,
                 streams=None, stop_hits=1, stop_keeps=True, shortest=0, threshold=0.5,
                 alignment_pace=1.0, **sampling):
        """Generate patch by patch. This is a Python generator, which yields for every position
        (name -> (B, P, d), finished (B,) bool: this patch ends the sample).

        Args:
            text, text_mask, conditions: as for `teacher_forced`.
            noise: noise(shape) -> standard normal numbers (B, ...). This is the one source of
                randomness; it is called per patch, in the order of the modalities.
            max_patches: positions at most, delays included.
            given: name -> (B, T, d) latents that are fed instead of sampled, T a multiple of P:
                all of one stream (a face for a speech, a speech for a face), or the beginning of
                all (continuation).
            streams: names of the streams to generate, the leader among them; None for all, the
                leader alone for speech. ValueError without the leader.
            stop_hits, threshold: `finished` is True at a patch if the stop predictor's probability
                has reached the threshold at so many patches in a row. More than one, since the
                patches of the last 0.3 s have no label, and the predictor may fire at any of them.
                The caller remembers it and leaves the loop (sample.Models.patches).
            shortest: so many patches at the beginning do not count for that.
            stop_keeps: False if the patch at which a sample finishes is no longer part of it. Where
                all samples finish at once, it is not made then. (The release: stop_hits=3,
                shortest=7, stop_keeps=False.)
            alignment_pace: with an Alignment, the factor by which its estimates are multiplied
                before they are added up. Below 1 the place stays a little behind the voice, and
                fewer symbols are skipped (docs/paper.md).
            sampling: steps, guidance, temperature, ... of FlowHead.sample. The temperature is a
                number, or name -> number.
        """
        B, P = len(text), self.patch
        active = {n: m for n, m in self.modalities.items() if streams is None or n in streams}
        if self.leader not in active:
            raise ValueError(f"the leading stream, {self.leader}, is always generated: streams has "
                             f"only {streams}")
        given = {name: self.split(latents) for name, latents in (given or {}).items()}

        # Prefill: the task tag and the text.
        alone = len(active) == 1 and len(self.modalities) > 1
        speech_only = torch.full((B,), alone, device=text.device)
        x, valid, places = self.prefix(text, text_mask, speech_only, conditions[self.leader])
        step = self.cached_backbone(valid, max_patches)
        hidden = step(x, places)                                              # (B, 1, D)

        history = {name: torch.zeros(B, 1, P, m.latent, device=text.device)
                   for name, m in active.items()}
        hits = torch.zeros(B, dtype=torch.long, device=text.device)
        symbols = text_mask.sum(1, keepdim=True)                              # (B, 1)
        place = None
        if self.alignment is not None:
            place = torch.zeros(B, 1, device=text.device)
        for i in range(max_patches):
            # Does the next patch end the sample? One forward pass of a small MLP says so.
            stop = self.stop(hidden)[:, 0].sigmoid() >= threshold             # (B,)
            hits = torch.where(stop & (i >= shortest), hits + 1, 0)
            finished = hits >= stop_hits
            if not stop_keeps and bool(finished.all()):
                return

            # Sample the next patch of every stream that has begun, from noise. A given patch is
            # handed over as the target; the heads return it as it is.
            inputs = {}
            for name, m in active.items():
                j = i - m.delay                                               # its own patch number
                if j < 0:
                    continue
                known = name in given and j < given[name].shape[1]
                target = given[name][:, j:j + 1] if known else None           # (B, 1, P, d)
                inputs[name] = HeadInput(hidden, history[name], conditions[name], target)
            patches = self.heads.sample(inputs, noise, **sampling)            # (B, 1, P, d) each
            yield {name: patch[:, 0] for name, patch in patches.items()}, finished

            # What was made is the history of the next patch, and its token the next input.
            history.update(patches)
            token = self.encoders(patches)                                    # (B, 1, D)
            for name in self.modalities:
                if name not in active:
                    token = token + self.absent[name]
                elif name not in patches and self.encode_absence:
                    nothing = torch.zeros(B, 1, P, dtype=torch.bool, device=text.device)
                    token = token + self.encoders[name](history[name], nothing)
            # The place of the patch that was made: at its end so many symbols are spoken.
            if self.alignment is not None:
                place = place + alignment_pace * self.alignment(hidden, patches[self.leader])
                place = place.clamp(min=0).minimum(symbols)                   # (B, 1)
            hidden = step(token, place)


def demonstrate() -> None:
    """Print the shapes of a small Talker, from text and latents to hidden states."""
    modalities = {"audio": Modality(latent=32, condition=64), "motion": Modality(20, 20, delay=1)}
    backbone = Backbone(192, layers=4, attention_heads=4, kv_heads=2, head_dim=48, mlp_width=512)
    talker = Talker(modalities, nn.Identity(), backbone, vocabulary=44, patch=4, patch_layers=1,
                    patch_heads=3)
    initialise(talker)

    # A batch of two. The second text is shorter, so it is padded on the left; so are the second
    # latents, on the right.
    text = torch.randint(1, 44, (2, 21))
    text[1, :5] = 0
    frames = torch.tensor([40, 32])
    latents = {name: torch.randn(2, 40, m.latent) for name, m in modalities.items()}
    for x in latents.values():
        x[1, 32:] = 0
    conditions = {name: torch.randn(2, m.condition) for name, m in modalities.items()}
    hidden, inputs, positions = talker.teacher_forced(
        text, text > 0, latents, dict.fromkeys(latents, frames), conditions)
    print(f"text ids           {tuple(text.shape)}   left-padded")
    for name, x in latents.items():
        patches = talker.split(x)
        print(f"{name + ' latents':18} {tuple(x.shape)} -> patches {tuple(patches.shape)}"
              f" -> tokens {tuple(talker.encoders[name](patches).shape)}")
    print(f"hidden states      {tuple(hidden.shape)}   position j predicts patch j")
    for name, x in inputs.items():
        print(f"{name + ' head sees':18} hidden {tuple(x.hidden.shape)}, history "
              f"{tuple(x.history.shape)}, condition {tuple(x.condition.shape)}; its target is "
              f"{tuple(x.target.shape)}, delayed by {modalities[name].delay}")
    labels, _ = stop_labels(torch.zeros_like(positions), positions, hidden.shape[1], talker.patch)
    print(f"stop labels of sample 1 ({IGNORE} does not count): {labels[1].tolist()}")
    print(f"parameters         {sum(p.numel() for p in talker.parameters()):,}")


if __name__ == "__main__":
    demonstrate()
