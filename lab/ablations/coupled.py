"""Flow-matching heads whose streams attend to each other at every denoising step.

heads.SeparateHeads gives each stream a transformer of its own, and two streams share nothing but
the hidden state. Here the tokens of all streams of a patch stand side by side, at one timestep:

    JointHeads    one transformer reads the tokens of all streams
    CrossHeads    each stream has its transformer, whose attention sees the tokens of all
    SharedHeads   one transformer reads each stream by itself: shared weights, no coupling

The first two need every stream at every position: no delay, and --speech_only=0.

Axis letters: B batch, N patches, M rows, P frames per patch, d latent width, D width of the
language model, G width of a condition, L tokens of a stream, W width of a head, H attention heads.
"""
import copy

import torch
from einops import rearrange
from torch import Tensor

from heads import SeparateHeads, draw_rows, euler_times, guide, of_stream, per_patch
from model import Attention, HeadInput, attention, rotate


def share_transformer(heads: SeparateHeads) -> None:
    """Let all FlowHeads use the transformer of the first one."""
    shared = next(iter(heads.values())).transformer
    for head in heads.values():
        head.transformer = shared


class SharedHeads(SeparateHeads):
    """A FlowHead per stream. They have projections of their own, and one transformer."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        share_transformer(self)


class JointHeads(SeparateHeads):
    """A FlowHead per stream embeds its frames and projects to its velocities; one transformer
    reads the tokens of all of them."""

    def __init__(self, modalities, *args, **settings):
        super().__init__(modalities, *args, **settings)
        if any(m.delay for m in modalities.values()):
            raise ValueError("heads that see each other need every stream at every position: leave "
                             "--motion_delay out")
        share_transformer(self)

    def transform(self, tokens: list[Tensor]) -> list[Tensor]:
        """Tokens (M, L, W) of each stream -> the same, after they have seen each other."""
        shared = next(iter(self.values())).transformer
        return shared(torch.cat(tokens, 1)).chunk(len(tokens), 1)

    def velocities(self, x: dict[str, Tensor], t: Tensor, context: dict[str, tuple]) -> dict:
        """Noisy frames, name -> (M, P, d), at one timestep per row (M,), and the context of each
        stream (hidden, history, condition) -> velocities, name -> (M, P, d)."""
        tokens = [self[name].tokens(x[name], t, *context[name]) for name in x]
        read = self.transform(tokens)
        return {name: self[name].out(y[:, -x[name].shape[1]:]) for name, y in zip(x, read)}

    def loss(self, inputs: dict[str, HeadInput], generator=None) -> tuple[dict, dict]:
        """As FlowHead.loss, with one timestep for all streams of a row."""
        first = next(iter(self.values()))
        mask = torch.stack([x.mask for x in inputs.values()]).all(0)          # (B, N)
        at, counts = draw_rows(mask, self.repeats, generator)                 # (M,), (M,)

        def draw(distribution, *shape):
            return distribution(*shape, generator=generator, device=mask.device)

        t = torch.sigmoid(draw(torch.randn, len(at)) - 0.4)                   # (M,)
        keep_hidden = draw(torch.rand, len(at)) >= first.drop_hidden          # (M,)
        keep_history = draw(torch.rand, len(at)) >= first.drop_history        # (M,)

        noisy = {}
        velocity = {}
        context = {}
        for name, x in inputs.items():
            target, hidden, history, condition = (
                values.flatten(0, 1).index_select(0, at) for values in (
                    x.target, x.hidden, x.history, per_patch(x.condition, mask.shape[1])))
            z = draw(torch.randn, *target.shape)
            at_t = t[:, None, None]
            noisy[name] = (1 - at_t) * target + at_t * z                      # (M, P, d)
            velocity[name] = z - target
            context[name] = (hidden * keep_hidden[:, None],
                             history * keep_history[:, None, None], condition)

        found = self.velocities(noisy, t, context)
        losses = {}
        for name, v in found.items():
            error = (v.float() - velocity[name]).square().mean((1, 2)) * counts       # (M,)
            losses[name] = error.sum() / counts.sum().clamp(min=1)
        return losses, {}

    def sample(self, inputs: dict[str, HeadInput], noise, steps=10, guidance=2.0, temperature=0.7,
               sway=1.0, zero_star=True) -> dict[str, Tensor]:
        """As SeparateHeads.sample. A given patch follows its own path from noise to data.
        ValueError if a stream is missing."""
        if inputs.keys() != self.keys():
            raise ValueError(f"heads that see each other need {', '.join(self)}; there is only "
                             f"{', '.join(inputs)}")
        guided = guidance != 1
        x = {}
        z = {}
        context = {}
        for name, given in inputs.items():
            hidden = given.hidden[:, 0]                                       # (B, D)
            history = given.history[:, 0]                                     # (B, P, d)
            condition = per_patch(given.condition, 1)[:, 0]                   # (B, G)
            if self[name].drop_history == 1:
                history = torch.zeros_like(history)
            z[name] = noise(tuple(history.shape))
            x[name] = z[name] * of_stream({"temperature": temperature}, name)["temperature"]
            if guided:
                # A doubled batch, the second half without hidden state.
                hidden = torch.cat((hidden, torch.zeros_like(hidden)))
                history = history.repeat(2, 1, 1)
                condition = condition.repeat(2, 1)
            context[name] = (hidden, history, condition)

        t = euler_times(steps, sway, zero_star, hidden.device)
        for now, following in zip(t[:-1], t[1:]):
            for name, given in inputs.items():
                if given.target is not None:
                    x[name] = (1 - now) * given.target[:, 0] + now * z[name]
            x_t = {name: frames.repeat(1 + guided, 1, 1) for name, frames in x.items()}
            found = self.velocities(x_t, now.expand(len(hidden)), context)
            for name, v in found.items():
                if guided:
                    v = guide(*v.chunk(2), guidance, zero_star)
                x[name] = x[name] + (following - now) * v
        return {name: frames[:, None] if inputs[name].target is None else inputs[name].target
                for name, frames in x.items()}


class CrossHeads(JointHeads):
    """As JointHeads, with a transformer for each stream, as large as those of SeparateHeads: in
    each block the queries of a stream see the keys and values of all."""

    def __init__(self, modalities, *args, **settings):
        super().__init__(modalities, *args, **settings)
        # The other streams get transformers of their own again.
        for head in list(self.values())[1:]:
            head.transformer = copy.deepcopy(head.transformer)

    def transform(self, tokens: list[Tensor]) -> list[Tensor]:
        """Tokens (M, L, W) of each stream -> the same, after they have seen each other."""
        transformers = [head.transformer for head in self.values()]
        # The same frame of all streams has the same position.
        tables = transformers[0].tables_for(tokens[0], None)
        for blocks in zip(*(transformer.blocks for transformer in transformers)):
            parts = [projected(b.attention, b.norm1(x), tables) for b, x in zip(blocks, tokens)]
            q, k, v = (torch.cat(same, 2) for same in zip(*parts))            # (M, H, streams L, .)
            seen = rearrange(attention(q, k, v), "M H L c -> M L (H c)").chunk(len(tokens), 1)
            tokens = [x + b.attention.out(y) for b, x, y in zip(blocks, tokens, seen)]
            tokens = [x + b.mlp(b.norm2(x)) for b, x in zip(blocks, tokens)]
        return [transformer.norm(x) for transformer, x in zip(transformers, tokens)]


def projected(module: Attention, x: Tensor, tables) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (M, L, W) -> rotated queries and keys, and values, (M, H, L, head_dim). tables: see
    model.rotary_tables."""
    qkv = rearrange(module.qkv(x), "M L (H c) -> M H L c", c=module.head_dim)
    q, k, v = qkv.split((module.heads, module.kv_heads, module.kv_heads), 1)
    return rotate(q, tables), rotate(k, tables), v
