"""No language model over patches: two diffusion transformers, one per stream, over the whole clip,
as in MOVA, Ovi and LTX-2, in small.

In every block a branch attends to the frames of both streams and to the text. One timestep holds
for the whole clip. The length is fixed beforehand: a regression from the text predicts it. Queries
and keys of the attention to the text have rotary positions along the clip and along the text, as
shares of their lengths, so that the text lies along the clip before anything is learned.

The settings mean: width and layers (of each branch and of the text's encoder), attention_heads;
drop_hidden is the share of training clips whose text is zeroed, for guidance. There are no patches
but in what `generate` yields. No delay, no speech without video.

Axis letters: B batch, T frames, L text tokens, N patches, P frames per patch, d latent width,
W width, H attention heads, G width of a condition.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from heads import euler_times, guide, of_stream, sinusoids, time_mlp
from lab.ablations.coupled import projected
from model import Block, RMSNorm, Transformer, attention, rotary_tables, rotate, zero_init

SPAN = 64.0                     # of the rotary positions along a text and along its clip


def along(lengths: Tensor, before: Tensor, size: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Rotary tables (B, 1, size, head_dim / 2) of positions that rise from 0 to SPAN over a
    sample's own tokens. lengths, before (B,): how many these are, and how much padding precedes
    them."""
    place = torch.arange(size, device=lengths.device)[None] - before[:, None]
    place = place / lengths[:, None] * SPAN                                   # (B, size)
    frequency = 1e4 ** (-torch.arange(0, head_dim, 2, device=lengths.device) / head_dim)
    angle = (place[..., None] * frequency)[:, None]                           # (B, 1, size, .)
    return angle.cos(), angle.sin()


class TextAttention(nn.Module):
    """Frames (B, T, W) attend to the text (B, L, W)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = zero_init(nn.Linear(width, width, bias=False))

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor, of_x, of_text) -> Tensor:
        """x (B, T, W), text (B, L, W), text_mask (B, L); of_x, of_text: rotary tables of both, see
        `along` -> (B, T, W)."""
        q = rearrange(self.q(self.norm(x)), "B T (H c) -> B H T c", H=self.heads)
        k, v = rearrange(self.kv(text), "B L (two H c) -> two B H L c", two=2, H=self.heads)
        # NOTE: model.attention shows every query the key at its own place, which means nothing
        # between frames and text.
        y = F.scaled_dot_product_attention(
            rotate(q, of_x), rotate(k, of_text), v, attn_mask=text_mask[:, None, None])
        return self.out(rearrange(y, "B H T c -> B T (H c)"))                 # (B, T, W)


class Branch(nn.Module):
    """The diffusion transformer of one stream, without the attention that it shares."""

    def __init__(self, latent: int, condition: int, width: int, layers: int, heads: int):
        super().__init__()
        self.noisy_in = nn.Linear(latent, width)
        self.condition_in = nn.Linear(condition, width)
        self.time = time_mlp(width)
        self.reads = nn.ModuleList(TextAttention(width, heads) for _ in range(layers))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.out = zero_init(nn.Linear(width, latent))

    def tokens(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Noisy frames x (B, T, d), timesteps t (B,), condition (B, G) -> (B, T, W)."""
        every = self.condition_in(condition) + self.time(sinusoids(t, self.norm.weight.numel()))
        return self.noisy_in(x) + every[:, None]


class DualBranchTalker(nn.Module):
    """Takes the place of model.Talker: the same constructor, `forward` and `generate`. The heads
    are not used; of the backbone, its width, depth and number of heads are."""

    def __init__(self, modalities, heads, backbone, vocabulary: int, patch: int, patch_layers: int,
                 patch_heads: int, regression_weight=0.0, condition_backbone=False,
                 encode_absence=True, alignment_weight=0.0):
        super().__init__()
        self.modalities = dict(modalities)
        self.leader = next(iter(modalities))
        self.patch = patch
        if any(m.delay for m in modalities.values()):
            raise ValueError("two branches have no delay: leave --motion_delay out")
        width, layers = backbone.norm.weight.numel(), len(backbone.blocks)
        count = backbone.blocks[0].attention.heads
        self.head_dim = width // count
        self.drop_text = next(iter(heads.values())).drop_hidden
        self.embedding = nn.Embedding(vocabulary, width)
        self.text = Transformer(width, layers // 2, count)
        self.branches = nn.ModuleDict({
            name: Branch(m.latent, m.condition, width, layers, count)
            for name, m in modalities.items()})
        self.length = nn.Linear(width, 1)
        self.register_buffer("longest_seen", torch.tensor(1))

    def read(self, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text ids (B, L) -> states (B, L, W), and the logarithm of the length in frames (B,)."""
        states = self.text(self.embedding(text), text_mask) * text_mask[..., None]
        each = F.softplus(self.length(states))[..., 0] * text_mask            # (B, L)
        return states, each.sum(1).clamp(min=1).log()

    def velocities(self, x: dict, t: Tensor, states: Tensor, text_mask: Tensor, frames: Tensor,
                   conditions: dict) -> dict[str, Tensor]:
        """Noisy latents, name -> (B, T, d), at timesteps t (B,) -> velocities."""
        T = x[self.leader].shape[1]
        symbols = text_mask.sum(1)
        of_text = along(symbols, text_mask.shape[1] - symbols, text_mask.shape[1], self.head_dim)
        of_x = along(frames, torch.zeros_like(frames), T, self.head_dim)
        tables = tuple(table[:T] for table in rotary_tables(
            1 << T.bit_length(), self.head_dim, 1e4, t.device))
        valid = torch.arange(T, device=t.device)[None] < frames[:, None]      # (B, T)
        valid = valid.repeat(1, len(x))

        branches = [self.branches[name] for name in x]
        tokens = [b.tokens(x[name], t, conditions[name]) for name, b in zip(x, branches)]
        for reads, blocks in zip(zip(*(b.reads for b in branches)),
                                 zip(*(b.blocks for b in branches))):
            tokens = [y + r(y, states, text_mask, of_x, of_text) for r, y in zip(reads, tokens)]
            parts = [projected(b.attention, b.norm1(y), tables) for b, y in zip(blocks, tokens)]
            # All streams' frames, one after the other.
            q, k, v = (torch.cat(same, 2) for same in zip(*parts))            # (B, H, 2 T, .)
            seen = rearrange(attention(q, k, v, valid=valid), "B H T c -> B T (H c)")
            tokens = [y + b.attention.out(z)
                      for b, y, z in zip(blocks, tokens, seen.chunk(len(tokens), 1))]
            tokens = [y + b.mlp(b.norm2(y)) for b, y in zip(blocks, tokens)]
        return {name: b.out(b.norm(y)) for name, b, y in zip(x, branches, tokens)}

    def forward(self, text, text_mask, latents, frames, conditions, present=None, generator=None,
                spoken=None) -> tuple[Tensor, dict]:
        def draw(distribution, *shape):
            return distribution(*shape, generator=generator, device=text.device)

        B = len(text)
        long = frames[self.leader]
        states, length = self.read(text, text_mask)
        t = torch.sigmoid(draw(torch.randn, B) - 0.4)                         # (B,)
        states = states * (draw(torch.rand, B) >= self.drop_text)[:, None, None]
        at = t[:, None, None]
        noisy = {}
        velocity = {}
        for name, x in latents.items():
            z = draw(torch.randn, *x.shape)
            noisy[name] = (1 - at) * x + at * z                               # (B, T, d)
            velocity[name] = z - x
        found = self.velocities(noisy, t, states, text_mask, long, conditions)

        log = {"length": (length.float() - long.log()).square().mean()}
        total = log["length"]
        own = torch.arange(noisy[self.leader].shape[1], device=text.device) < long[:, None]
        for name, m in self.modalities.items():
            error = (found[name].float() - velocity[name]).square().mean(2) * own     # (B, T)
            log[name] = error.sum() / own.sum()
            total = total + m.weight * log[name]
        return total, log

    @torch.inference_mode()
    def generate(self, text, text_mask, conditions, noise, max_patches: int, given=None,
                 streams=None, stop_hits=1, stop_keeps=True, shortest=0, threshold=0.5,
                 alignment_pace=1.0, steps=10, guidance=2.0, temperature=0.7, sway=1.0,
                 zero_star=True):
        """As Talker.generate: yields (name -> (B, P, d), finished (B,)). The whole clip is sampled
        before the first patch is yielded.

        The noise is drawn for the longest sample of the batch, so that which noise a shorter one
        begins with depends on what else is in the batch."""
        given = given or {}
        states, length = self.read(text, text_mask)
        # Where the length is fixed from outside, `shortest` is that length.
        least = min(max(1, shortest), max_patches)
        patches = (length.exp() / self.patch).round().clamp(least, max_patches).long()    # (B,)
        if given:
            patches = torch.full_like(patches, next(iter(given.values())).shape[1] // self.patch)
        frames = patches * self.patch
        shape = (len(text), int(frames.max()))
        own = torch.arange(shape[1], device=text.device) < frames[:, None]    # (B, T)
        own = own[..., None]
        z = {name: noise((*shape, m.latent)) for name, m in self.modalities.items()}
        x = {name: of_stream({"temperature": temperature}, name)["temperature"] * z[name]
             for name in z}
        nothing = torch.zeros_like(states)
        t = euler_times(steps, sway, zero_star, text.device)
        for now, following in zip(t[:-1], t[1:]):
            for name, latents in given.items():
                x[name] = (1 - now) * latents + now * z[name]
            rest = (text_mask, frames, conditions)
            time = now.expand(len(text))
            v = self.velocities(x, time, states, *rest)
            if guidance != 1:
                u = self.velocities(x, time, nothing, *rest)
                # CFG-Zero* scales by all frames. Those after the end were never trained.
                v = {name: guide(v[name] * own, u[name] * own, guidance, zero_star) for name in v}
            x = {name: x[name] + (following - now) * v[name] for name in x}
        x = x | given
        for i in range(int(patches.max())):
            at = slice(i * self.patch, (i + 1) * self.patch)
            yield {name: frames[:, at] for name, frames in x.items()}, patches == i + 1
