"""The flow-matching heads of Talker-T2AV (arXiv 2604.23586, section 3.3): a hidden state in, the P latents of a patch out.

One FlowHead per modality, same architecture, separate weights: a bidirectional transformer over

    [hidden + time] [global condition] [P clean frames of the patch before] [P noisy frames]

that predicts the velocity of the noisy frames. Loss and sampler stand side by side below. The convention of time:

    t = 0 is data, t = 1 is noise;  x_t = (1 - t) x + t z;  velocity = dx_t / dt = z - x;  sampling walks from 1 to 0.

Axis letters: B batch, N patches, M = rows (patches of a batch that count), P frames per patch, d latent width, D width.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from model import Block, Blocks, HeadInput, RMSNorm, rotary_tables, zero_init

TIME_BINS = 10                                    # the loss is logged per tenth of flow time


def sinusoids(t: Tensor, width: int, scale=1000.0) -> Tensor:
    """t (M,) -> (M, width): sines, then cosines, of scale * t at geometrically spaced frequencies."""
    frequency = torch.exp(torch.arange(width // 2, device=t.device) * (-math.log(10000) / (width // 2 - 1)))
    angle = scale * t[:, None] * frequency
    return torch.cat((angle.sin(), angle.cos()), -1)


class FlowHead(nn.Module):
    def __init__(self, latent: int, condition: int, hidden: int, width: int, layers: int, heads: int, drop_hidden=0.1, drop_history=0.05):
        """latent, condition: widths d and G; hidden: width of the language model; width, layers, heads: of the transformer.

        drop_hidden: share of rows whose hidden state is zeroed (learns the unconditional velocity that guidance needs).
        drop_history: share whose history is zeroed (it must not lean on the past alone).
        """
        super().__init__()
        self.noisy_in, self.history_in = nn.Linear(latent, hidden), nn.Linear(latent, hidden)
        self.condition_in = nn.Linear(condition, hidden)
        self.time, self.step = (nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)) for _ in range(2))
        self.input = nn.Linear(hidden, width)
        self.blocks = Blocks(Block(width, heads) for _ in range(layers))
        self.norm, self.out = RMSNorm(width), zero_init(nn.Linear(width, latent))
        self.drop_hidden, self.drop_history = drop_hidden, drop_history

    def context(self, history: Tensor, condition: Tensor) -> Tensor:
        """The tokens that do not change while a patch is denoised: history (M, P, d), condition (M, G) -> (M, 1 + P, width)."""
        return self.input(torch.cat((self.condition_in(condition)[:, None], self.history_in(history)), 1))

    def clock(self, t: Tensor) -> Tensor:
        """Flow times t (M,) -> what is added to the hidden state (M, D)."""
        width = self.time[0].in_features
        # The release adds a second embedding, of a step size that is always 0: one vector for all rows.
        return self.time(sinusoids(t, width)) + self.step(sinusoids(t.new_zeros(1), width))

    def moments(self, t: Tensor, hidden: Tensor) -> Tensor:
        """t (steps,), hidden (M, D) -> (steps, M, width): the token that tells each step what time it is."""
        return self.input(hidden + self.clock(t)[:, None])

    def velocity(self, x: Tensor, now: Tensor, context: Tensor) -> Tensor:
        """x (M, P, d) noisy, now (M, width) the token of hidden state and flow time, context (M, 1 + P, width) -> velocity (M, P, d)."""
        y = torch.cat((now[:, None], context, self.input(self.noisy_in(x))), 1)          # (M, 2 + 2 P, width)
        tables = rotary_tables(y.shape[1], self.blocks.head_dim, 1e4, y.device)
        y = self.blocks(y, tables, slice(-x.shape[1], None))                             # (M, P, width) the noisy frames alone
        return self.out(self.norm(y))

    def loss(self, x: Tensor, hidden: Tensor, history: Tensor, condition: Tensor, counts: Tensor, generator=None) -> tuple[Tensor, Tensor]:
        """Clean patches x (M, P, d) -> mean squared error of the velocity, and the same per tenth of flow time (nan: no row).

        counts (M,) float: 1 for a row that counts, 0 for one that only fills up."""
        draw = lambda f, *shape: f(*shape, generator=generator, device=x.device)
        t = torch.sigmoid(draw(torch.randn, len(x)) - 0.4)
        z = draw(torch.randn, *x.shape)
        keep = lambda p: (draw(torch.rand, len(x)) >= p).to(hidden.dtype)
        hidden = hidden * keep(self.drop_hidden)[:, None]
        history = history * keep(self.drop_history)[:, None, None]
        noisy = (1 - t)[:, None, None] * x + t[:, None, None] * z
        velocity = self.velocity(noisy, self.input(hidden + self.clock(t)), self.context(history, condition)).float()
        error = (velocity - (z - x)).square().mean((1, 2)) * counts
        bins = (t * TIME_BINS).long().clamp(max=TIME_BINS - 1)
        by_time = error.new_zeros(2, TIME_BINS).index_add_(1, bins, torch.stack((error.detach(), counts)))
        return error.sum() / counts.sum().clamp(min=1), by_time[0] / by_time[1]          # a batch may hold speech alone: no rows

    def sample(self, z: Tensor, hidden: Tensor, history: Tensor, condition: Tensor, steps=10, guidance=2.0, temperature=0.7,
               sway=1.0, zero_star=True) -> Tensor:
        """Standard normal z (M, P, d) -> a clean patch (M, P, d) by Euler steps from t = 1 to 0.

        sway warps the steps towards the noise end (arXiv 2410.06885). guidance w extrapolates from the velocity u without
        hidden state to c with it: a u + w (c - a u). zero_star is CFG-Zero* (arXiv 2503.18886): a = <c, u> / |u|^2 instead
        of 1, and the first 4 % of the steps do not move. At guidance 1 (where a u cancels) u is never computed.
        """
        t = torch.linspace(1, 0, steps + 1, device=z.device)
        t = t + sway * (torch.cos(math.pi / 2 * t) - 1 + t)
        context, x = self.context(history, condition), z * temperature
        if guidance != 1:                 # both in one batch, rows with and without hidden state in turns
            hidden, context = torch.stack((hidden, torch.zeros_like(hidden)), 1).flatten(0, 1), context.repeat_interleave(2, 0)
        still = max(1, int(0.04 * (steps + 1))) if zero_star else 0
        for now, step in zip(self.moments(t[still:-1], hidden), t.diff()[still:]):
            x = self.euler(x, now, context, step, guidance, zero_star)
        return x

    def euler(self, x: Tensor, now: Tensor, context: Tensor, step: Tensor, guidance: float, zero_star: bool) -> Tensor:
        """One step of `sample`: x (M, P, d) at one time -> at the next."""
        if guidance == 1:
            return x + step * self.velocity(x, now, context)
        v = self.velocity(x.repeat_interleave(2, 0), now, context)
        c, u = v[::2], v[1::2]
        a = (c * u).sum((1, 2), True) / (u.square().sum((1, 2), True) + 1e-8) if zero_star else 1.0
        return x + step * (a * u + guidance * (c - a * u))


def draw_rows(mask: Tensor, repeats: float, generator=None) -> tuple[Tensor, Tensor]:
    """mask (B, N), True where there is a patch -> numbers (M,) among the B * N of those to learn from, and counts (M,).

    repeats: each is used with so many draws of time and noise; 0.5: a random half of them with one. M is filled up to a multiple
    of 16 with rows that count 0 instead of 1: a CPU makes a kernel for every new size of a product, for half of its time again.
    """
    at = mask.flatten().nonzero()[:, 0]
    wanted = math.ceil(repeats * len(at))
    at = at.repeat(math.ceil(repeats))
    if wanted < len(at):
        at = at[torch.randperm(len(at), generator=generator, device=at.device)[:wanted]]
    fill = (0, -wanted % 16)
    return F.pad(at, fill), F.pad(torch.ones(wanted, device=at.device), fill)


class SeparateHeads(nn.ModuleDict):
    """One FlowHead per modality, name -> FlowHead: the paper's choice. Dictionaries of HeadInput in, dictionaries out.

    repeats: draws of time and noise per patch and step (the release: 2), see `draw_rows`."""

    def __init__(self, heads: dict[str, FlowHead], repeats=2.0):
        super().__init__(heads)
        self.repeats = repeats

    def loss(self, inputs: dict[str, HeadInput], generator=None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """-> name -> loss; name_by_time -> (TIME_BINS,). All patches of the batch that count go through a head in one call."""
        losses, by_time = {}, {}
        for name, x in inputs.items():
            at, counts = draw_rows(x.mask, self.repeats, generator)                      # (M,), (M,)
            condition = x.condition[:, None].expand(-1, x.mask.shape[1], -1)             # (B, N, G)
            rows = (v.flatten(0, 1).index_select(0, at) for v in (x.target, x.hidden, x.history, condition))     # each (M, ...)
            losses[name], by_time[f"{name}_by_time"] = self[name].loss(*rows, counts, generator)
        return losses, by_time

    def sample(self, inputs: dict[str, HeadInput], noise, **sampling) -> dict[str, Tensor]:
        """HeadInputs with N = 1 -> name -> the next patch (B, 1, P, d)."""
        return {name: self[name].sample(noise(tuple(x.history[:, 0].shape)), x.hidden[:, 0], x.history[:, 0], x.condition,
                                        **sampling)[:, None] for name, x in inputs.items()}
