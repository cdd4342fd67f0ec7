"""Flow-matching heads that take turns: one stream's patch is sampled first, and the other head is
given it, flattened beside its condition.

    p(audio, motion | hidden) = p(audio | hidden) p(motion | hidden, audio)

The heads stay separate networks. In training the second one is given the ground truth (teacher
forcing). FollowHeads begins with the leading stream, audio; LeadHeads with the other one.

Axis letters: B batch, N patches, P frames per patch, d latent width, G condition width.
"""
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from heads import SeparateHeads, per_patch
from model import HeadInput


class FollowHeads(SeparateHeads):
    """Separate heads. The second one's condition has the first one's patch too: (B, N, G + P d)."""

    leads = 0                   # the place of the stream that is sampled first

    def __init__(self, modalities, hidden_width, width, layers, attention_heads, patch, *args,
                 **settings):
        names = list(modalities)
        if len(names) != 2:
            raise ValueError(f"one stream follows another: two are needed, not {len(names)}")
        self.first, self.second = names if self.leads == 0 else reversed(names)
        more = patch * modalities[self.first].latent
        condition = modalities[self.second].condition + more
        wider = dict(modalities)
        wider[self.second] = replace(modalities[self.second], condition=condition)
        super().__init__(wider, hidden_width, width, layers, attention_heads, patch, *args,
                         **settings)

    def informed(self, follower: HeadInput, patches: Tensor) -> HeadInput:
        """The second stream's input, given patches of the first (B, N, P, d)."""
        condition = per_patch(follower.condition, patches.shape[1])           # (B, N, G)
        given = rearrange(patches, "B N P d -> B N (P d)").to(condition.dtype)
        return follower._replace(condition=torch.cat((condition, given), -1))

    def loss(self, inputs: dict[str, HeadInput], generator=None) -> tuple[dict, dict]:
        second = self.informed(inputs[self.second], inputs[self.first].target)
        return super().loss(inputs | {self.second: second}, generator)

    def sample(self, inputs: dict[str, HeadInput], noise, **sampling) -> dict[str, Tensor]:
        """As SeparateHeads.sample: the first stream, then the second. ValueError if the second one
        is wanted without the first."""
        if self.first not in inputs:
            raise ValueError(f"{self.second} is made after {self.first}, which is missing")
        made = super().sample({self.first: inputs[self.first]}, noise, **sampling)
        if self.second in inputs:
            second = self.informed(inputs[self.second], made[self.first])
            made |= super().sample({self.second: second}, noise, **sampling)
        return {name: made[name] for name in inputs}


class LeadHeads(FollowHeads):
    """The other way round: the motion comes first, and the audio's head is given it."""

    leads = 1
