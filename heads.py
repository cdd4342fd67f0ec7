"""The flow-matching heads of Talker-T2AV (arXiv 2604.23586, section 3.3): a hidden state in, the P
latents of the next patch out.

There is one FlowHead per modality, with the same architecture and separate weights. It is a
bidirectional transformer over

    [hidden + timestep] [condition] [P clean frames of the patch before] [P noisy frames]

that predicts the velocity of the noisy frames. The loss and the sampler stand side by side below.
The convention of time:

    t = 0 is data, t = 1 is noise;      x_t = (1 - t) x + t z,  z ~ N(0, I);
    velocity = dx_t / dt = z - x;       sampling walks from t = 1 to t = 0.

Axis letters: B batch, N patches, M rows (the patches that are drawn from a batch, with repeats and
padding), P frames per patch, d width of a latent, G width of the condition, D width of the language
model.

`python heads.py` trains a flow in two dimensions and draws it.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from model import HeadInput, Modality, Transformer, initialise, zero_init

TIME_BINS = 10                            # the loss is logged per tenth of the timestep


def sinusoids(t: Tensor, width: int, scale=1000.0) -> Tensor:
    """Sinusoidal embedding of timesteps t (M,) -> (M, width): sines, then cosines, of scale * t at
    geometrically spaced frequencies."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / (half - 1)))
    angle = scale * t[:, None] * frequency                                    # (M, width / 2)
    return torch.cat((angle.sin(), angle.cos()), -1)                          # (M, width)


def time_mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))


class FlowHead(nn.Module):
    """The diffusion transformer of one modality.

    Args:
        latent, condition: widths d and G. hidden_width: D, of the language model's hidden states.
        width, layers, attention_heads: of this transformer.
        drop_hidden: share of training rows whose hidden state is zeroed. They teach the
            unconditional velocity, which classifier-free guidance needs.
        drop_history: share of training rows whose history is zeroed, so that the head does not
            lean on the past alone. 1 is a head without history, also in sampling.
        patch: P, where the first token (hidden state and timestep) is also added to each noisy
            frame, through a projection of the frame's own; 0, where the noisy frames know it by
            attention alone, as in the paper.
    """

    def __init__(self, latent: int, condition: int, hidden_width: int, width: int, layers: int,
                 attention_heads: int, drop_hidden=0.1, drop_history=0.05, patch=0):
        super().__init__()
        # Each kind of token is projected to D, then all of them to the width of the head: two
        # linear projections in a row, as in the release.
        self.noisy_in = nn.Linear(latent, hidden_width)
        self.history_in = nn.Linear(latent, hidden_width)
        self.condition_in = nn.Linear(condition, hidden_width)
        self.time = time_mlp(hidden_width)
        self.step = time_mlp(hidden_width)
        self.frames_in = None
        if patch:
            self.frames_in = nn.Linear(hidden_width, patch * hidden_width, bias=False)
        self.input = nn.Linear(hidden_width, width)
        self.transformer = Transformer(width, layers, attention_heads)
        self.out = zero_init(nn.Linear(width, latent))
        self.drop_hidden = drop_hidden
        self.drop_history = drop_history

    def time_embedding(self, t: Tensor) -> Tensor:
        """Timesteps t (M,) -> what is added to the hidden state (M, D)."""
        width = self.time[0].in_features
        # The release adds a second embedding, of a step size that is always 0: one learned vector.
        return self.time(sinusoids(t, width)) + self.step(sinusoids(t.new_zeros(1), width))

    def tokens(self, x: Tensor, t: Tensor, hidden: Tensor, history: Tensor,
               condition: Tensor) -> Tensor:
        """What the transformer reads, (M, 2 + 2 P, width). The arguments are those of
        `velocity`."""
        first = hidden + self.time_embedding(t)                               # (M, D)
        noisy = self.noisy_in(x)                                              # (M, P, D)
        if self.frames_in is not None:
            noisy = noisy + rearrange(self.frames_in(first), "M (P D) -> M P D", P=x.shape[1])
        tokens = torch.cat((
            first[:, None],                                                   # (M, 1, D)
            self.condition_in(condition)[:, None],                            # (M, 1, D)
            self.history_in(history),                                         # (M, P, D)
            noisy), 1)                                                        # (M, P, D)
        return self.input(tokens)                                             # (M, 2 + 2 P, width)

    def velocity(self, x: Tensor, t: Tensor, hidden: Tensor, history: Tensor,
                 condition: Tensor) -> Tensor:
        """Noisy frames x (M, P, d) at timesteps t (M,), hidden (M, D), history (M, P, d),
        condition (M, G) -> velocity (M, P, d)."""
        tokens = self.tokens(x, t, hidden, history, condition)
        tokens = self.transformer(tokens)                                     # (M, 2 + 2 P, width)
        # The velocity is read off the last P tokens, those of the noisy frames.
        return self.out(tokens[:, -x.shape[1]:])                              # (M, P, d)

    def loss(self, x: Tensor, hidden: Tensor, history: Tensor, condition: Tensor, counts: Tensor,
             generator=None) -> tuple[Tensor, Tensor]:
        """The flow-matching loss (arXiv 2210.02747) of clean patches.

        Args:
            x (M, P, d), hidden (M, D), history (M, P, d), condition (M, G).
            counts (M,): 1.0 for a row that counts, 0.0 for padding.

        Returns: mean squared error of the velocity, and the same per bin of the timestep
            (TIME_BINS,), NaN where a bin has no row.
        """
        def draw(distribution, *shape):
            return distribution(*shape, generator=generator, device=x.device)

        # A timestep per row: logit-normal, mostly in the middle, shifted towards the data.
        t = torch.sigmoid(draw(torch.randn, len(x)) - 0.4)                    # (M,)
        # Noise, and the point between data and noise that the head gets to see.
        z = draw(torch.randn, *x.shape)
        x_t = (1 - t)[:, None, None] * x + t[:, None, None] * z               # (M, P, d)

        # Now and then the hidden state or the history is missing (see the class).
        keep_hidden = draw(torch.rand, len(x)) >= self.drop_hidden            # (M,)
        keep_history = draw(torch.rand, len(x)) >= self.drop_history          # (M,)
        hidden = hidden * keep_hidden[:, None]
        history = history * keep_history[:, None, None]

        # The velocity along the straight path from x to z is z - x, whatever t is.
        velocity = self.velocity(x_t, t, hidden, history, condition).float()
        error = (velocity - (z - x)).square().mean((1, 2)) * counts           # (M,)

        # The same error, sorted into bins of t, shows where the flow is hard.
        bins = (t * TIME_BINS).long().clamp(max=TIME_BINS - 1)
        by_time = error.new_zeros(2, TIME_BINS)
        by_time.index_add_(1, bins, torch.stack((error.detach(), counts)))
        # A batch of speech alone has no row of motion that counts: then the loss is 0.
        return error.sum() / counts.sum().clamp(min=1), by_time[0] / by_time[1]

    def sample(self, z: Tensor, hidden: Tensor, history: Tensor, condition: Tensor, steps=10,
               guidance=2.0, temperature=0.7, sway=1.0, zero_star=True) -> Tensor:
        """Sample a patch by Euler steps from t = 1 to t = 0.

        Args:
            z (M, P, d): standard normal noise. hidden (M, D), history (M, P, d), condition (M, G).
            steps: Euler steps. With zero_star the first 4 % of them, at least one, do not move x,
                whatever the guidance is: 8 steps are 7 evaluations.
            guidance: weight w of classifier-free guidance. The velocity is extrapolated from u,
                without hidden state, to c, with it: a u + w (c - a u). At w = 1 u cancels, and is
                not computed.
            temperature: scale of the noise.
            sway: sway sampling (arXiv 2410.06885), steps that are smaller near the noise end.
            zero_star: CFG-Zero* (arXiv 2503.18886), a = <c, u> / |u|^2 instead of a = 1, and the
                first steps do not move x.

        Returns: a clean patch (M, P, d).
        """
        t = euler_times(steps, sway, zero_star, z.device)
        # A head that was trained without history gets none.
        if self.drop_history == 1:
            history = torch.zeros_like(history)
        # Guidance needs two velocities. One doubled batch, the second half without hidden state.
        guided = guidance != 1
        if guided:
            hidden = torch.cat((hidden, torch.zeros_like(hidden)))            # (2 M, D)
            history = history.repeat(2, 1, 1)                                 # (2 M, P, d)
            condition = condition.repeat(2, 1)                                # (2 M, G)

        x = z * temperature
        for now, following in zip(t[:-1], t[1:]):
            x_t = x.repeat(2, 1, 1) if guided else x
            v = self.velocity(x_t, now.expand(len(x_t)), hidden, history, condition)
            if guided:
                v = guide(*v.chunk(2), guidance, zero_star)
            x = x + (following - now) * v
        return x


def euler_times(steps: int, sway: float, zero_star: bool, device=None) -> Tensor:
    """The timesteps from which the Euler steps start, and 0, where they end (see `sample`)."""
    t = torch.linspace(1, 0, steps + 1, device=device)
    t = t + sway * (torch.cos(math.pi / 2 * t) - 1 + t)
    still = max(1, int(0.04 * (steps + 1))) if zero_star else 0
    return t[still:]                                                          # (steps + 1 - still,)


def guide(c: Tensor, u: Tensor, guidance: float, zero_star: bool) -> Tensor:
    """Classifier-free guidance: velocities with and without hidden state, c and u (M, P, d) ->
    the one to follow (M, P, d). See `FlowHead.sample`."""
    a = 1.0
    if zero_star:
        product = (c * u).sum((1, 2), keepdim=True)                           # (M, 1, 1)
        a = product / (u.square().sum((1, 2), keepdim=True) + 1e-8)
    return a * u + guidance * (c - a * u)


# ---------------------------------------------------------------------------- one head per modality
def draw_rows(mask: Tensor, repeats: float, generator=None) -> tuple[Tensor, Tensor]:
    """Choose the patches to learn from.

    Args:
        mask (B, N): True where there is a patch.
        repeats: the number of draws of timestep and noise per patch; 0.5: a random half of the
            patches has one.

    Returns: numbers (M,) among the B * N patches, and counts (M,): 1.0, or 0.0 for rows that only
        pad M to a multiple of 16. oneDNN compiles a kernel per shape of a matrix, and without the
        padding half of the time on a CPU went there.
    """
    at = mask.flatten().nonzero()[:, 0]
    wanted = math.ceil(repeats * len(at))
    at = at.repeat(math.ceil(repeats))
    if wanted < len(at):
        chosen = torch.randperm(len(at), generator=generator, device=at.device)[:wanted]
        at = at[chosen]
    fill = (0, -wanted % 16)
    return F.pad(at, fill), F.pad(torch.ones(wanted, device=at.device), fill)


def per_patch(condition: Tensor, patches: int) -> Tensor:
    """A condition (B, G), or one per patch already (B, N, G) -> (B, N, G)."""
    if condition.ndim == 3:
        return condition
    return condition[:, None].expand(-1, patches, -1)


def of_stream(sampling: dict, name: str) -> dict:
    """The options of FlowHead.sample for one modality, from those for all: the temperature may be a
    dictionary, name -> number."""
    temperature = sampling.get("temperature")
    if not isinstance(temperature, dict):
        return sampling
    return sampling | {"temperature": temperature[name]}


class SeparateHeads(nn.ModuleDict):
    """One FlowHead per modality: the paper's choice. name -> FlowHead.

    Args:
        modalities: name -> Modality. hidden_width: D. width, layers, attention_heads: of each head.
        patch: frames per patch. Only with hidden_per_frame do separate heads depend on it.
        repeats: draws of timestep and noise per patch and training step (the release: 2).
        drop_hidden, drop_history: see FlowHead.
        hidden_per_frame: whether each noisy frame gets the hidden state, see FlowHead.

    Another class with this constructor, `loss` and `sample` takes its place by `--heads`.
    """

    def __init__(self, modalities: dict[str, Modality], hidden_width: int, width: int, layers: int,
                 attention_heads: int, patch: int, repeats=2.0, drop_hidden=0.1, drop_history=0.05,
                 hidden_per_frame=False):
        super().__init__({
            name: FlowHead(m.latent, m.condition, hidden_width, width, layers, attention_heads,
                           drop_hidden, drop_history,
                           patch if hidden_per_frame else 0)
            for name, m in modalities.items()})
        self.repeats = repeats

    def loss(self, inputs: dict[str, HeadInput], generator=None) -> tuple[dict, dict]:
        """Two dictionaries: the loss of each modality under its name, and its loss per bin of the
        timestep (TIME_BINS,) under NAME_by_time. All patches of the batch that count pass through
        a head in one call."""
        losses = {}
        by_time = {}
        for name, x in inputs.items():
            at, counts = draw_rows(x.mask, self.repeats, generator)           # (M,), (M,)
            condition = per_patch(x.condition, x.mask.shape[1])               # (B, N, G)
            rows = [values.flatten(0, 1).index_select(0, at)                  # (M, ...)
                    for values in (x.target, x.hidden, x.history, condition)]
            losses[name], by_time[f"{name}_by_time"] = self[name].loss(*rows, counts, generator)
        return losses, by_time

    def sample(self, inputs: dict[str, HeadInput], noise, **sampling) -> dict[str, Tensor]:
        """The next patch (B, 1, P, d) of each modality, from HeadInputs with N = 1. A patch that is
        given (its target) is returned as it is. sampling: see `of_stream`."""
        patches = {}
        for name, x in inputs.items():
            if x.target is not None:
                patches[name] = x.target
                continue
            history = x.history[:, 0]                                         # (B, P, d)
            z = noise(tuple(history.shape))
            condition = per_patch(x.condition, 1)[:, 0]                       # (B, G)
            patch = self[name].sample(
                z, x.hidden[:, 0], history, condition, **of_stream(sampling, name))
            patches[name] = patch[:, None]                                    # (B, 1, P, d)
        return patches


# ---------------------------------------------------------------------------------- demonstration
def demonstrate(steps=400) -> None:
    """Train a flow in two dimensions (one frame, d = 2), from noise to two half circles, and draw
    its samples beside the data. Ten seconds."""
    print("The velocity error stays near 1, since x_t does not determine z - x. At its least the "
          "prediction\nis the mean of z - x given x_t, and that leads from noise to the data.")
    torch.manual_seed(0)
    head = FlowHead(latent=2, condition=1, hidden_width=64, width=64, layers=2, attention_heads=2,
                    drop_hidden=0, drop_history=0)
    initialise(head)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)

    def two_moons(rows: int) -> Tensor:
        angle = math.pi * torch.rand(rows)
        upper = torch.rand(rows) < 0.5
        x = torch.where(upper, angle.cos() - 0.5, 0.5 - angle.cos())
        y = torch.where(upper, angle.sin() - 0.25, 0.25 - angle.sin())
        return torch.stack((x, y), 1)[:, None] + 0.05 * torch.randn(rows, 1, 2)       # (rows, 1, 2)

    def nothing(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros(rows, 64), torch.zeros(rows, 1, 2), torch.zeros(rows, 1)

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        loss, by_time = head.loss(two_moons(256), *nothing(256), torch.ones(256))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: velocity error {loss.item():.3f}; near the data "
                  f"{by_time[1]:.3f}, in the middle {by_time[5]:.3f}, near noise {by_time[8]:.3f}")

    with torch.no_grad():
        noise = torch.randn(1500, 1, 2)
        made = head.sample(noise, *nothing(1500), steps=20, guidance=1, temperature=1,
                           zero_star=False)
    for title, points in (("noise, t = 1", noise), ("sampled, t = 0", made),
                          ("data", two_moons(1500))):
        print(f"\n{title}, {tuple(points.shape)}")
        print(draw_points(points[:, 0]))


def draw_points(points: Tensor, columns=64, rows=16, reach=1.8) -> str:
    """Points (n, 2) within -reach..reach -> a picture in characters, darker where more lie."""
    column = ((points[:, 0] + reach) / (2 * reach) * columns).long()
    row = ((reach - points[:, 1]) / (2 * reach) * rows).long()
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    counts = (row * columns + column)[inside].bincount(minlength=rows * columns)
    shades = " .:*#"
    lines = counts.clamp(max=len(shades) - 1).view(rows, columns).tolist()
    return "\n".join("".join(shades[n] for n in line) for line in lines)


if __name__ == "__main__":
    demonstrate()
