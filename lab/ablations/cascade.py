"""A causal cascade in place of one model: a Talker of half the depth speaks, and another one moves
the face to what was said.

    text -> [speech Talker] -> audio -> [this Talker, which is given the audio] -> motion

The second one's motion lags by a patch (--motion_delay=1), so that it has read the audio up to the
patch that it belongs to, and none after it: it could be streamed. The flow-matching heads are as
large as those of one model; `--layers` is the depth of each Talker.

Axis letters: B batch, N patches, P frames per patch, d latent width.
"""
import copy

import torch
import torch.nn as nn

from model import Talker


class MaskedHeads(nn.Module):
    """Wraps heads, and leaves one stream out of the loss."""

    def __init__(self, heads: nn.Module, out: str):
        super().__init__()
        self.heads = heads
        self.out = out

    def loss(self, inputs, generator=None):
        wanted = {name: x for name, x in inputs.items() if name != self.out}
        losses, log = self.heads.loss(wanted, generator)
        return losses | {self.out: torch.zeros(())}, log

    def sample(self, inputs, noise, **sampling):
        return self.heads.sample(inputs, noise, **sampling)


class CascadeTalker(Talker):
    """The second Talker, which is given the audio. `speech` is the first."""

    def __init__(self, modalities, heads, backbone, *args, **settings):
        leader = next(iter(modalities))
        super().__init__(modalities, MaskedHeads(heads, leader), backbone, *args, **settings)
        # What the audio of the second Talker will be is given, so it need not learn to guess.
        if leader in self.regressors:
            self.regressors.pop(leader)
        self.speech = Talker({leader: modalities[leader]}, heads, copy.deepcopy(backbone), *args,
                             **settings)

    def forward(self, text, text_mask, latents, frames, conditions, present=None, generator=None,
                spoken=None):
        def leading(named: dict) -> dict:
            return {self.leader: named[self.leader]}

        total, log = super().forward(
            text, text_mask, latents, frames, conditions, present, generator, spoken)
        speech, spoken_log = self.speech(
            text, text_mask, leading(latents), leading(frames), leading(conditions), None,
            generator, spoken)
        return total + speech, log | spoken_log

    @torch.inference_mode()
    def generate(self, text, text_mask, conditions, noise, max_patches: int, given=None,
                 streams=None, stop_hits=1, stop_keeps=True, shortest=0, threshold=0.5,
                 alignment_pace=1.0, **sampling):
        """As Talker.generate; all of the speech of a batch is made before its first motion, so that
        the noise of a sample's motion depends on how long the others speak."""
        given = given or {}
        delay = max(m.delay for m in self.modalities.values())
        stop = dict(stop_hits=stop_hits, stop_keeps=stop_keeps, shortest=shortest,
                    threshold=threshold, alignment_pace=alignment_pace)
        first = {name: x for name, x in given.items() if name == self.leader}

        # The speech, until every sample of the batch has ended.
        patches = []
        ends = []
        ended = torch.zeros(len(text), dtype=torch.bool, device=text.device)
        for patch, finished in self.speech.generate(
                text, text_mask, conditions, noise, max_patches - delay, first, **stop, **sampling):
            patches.append(patch[self.leader])
            ends.append(finished)
            ended = ended | finished
            if ended.all():
                break
        if not patches:
            return

        # The motion to it. Where the speech ends the samples do.
        given = given | {self.leader: torch.cat(patches, 1)}                  # (B, N P, d)
        count = len(patches) + delay
        for i, (patch, _) in enumerate(super().generate(
                text, text_mask, conditions, noise, count, given, streams, stop_hits=count + 1,
                alignment_pace=alignment_pace, **sampling)):
            if i >= len(patches):
                # Positions after the last word, for the motion that lags.
                del patch[self.leader]
            yield patch, ends[i - delay] if i >= delay else torch.zeros_like(ended)
