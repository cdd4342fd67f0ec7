"""A Talker with interleaved positions: one patch of audio, one of motion. The sequence is twice as
long, and the hidden state of the second stream has read the first one's patch of the same moment.

    InterleavedTalker       audio first:  [text ...] [audio 0] [motion 0] [audio 1] ...
    MotionFirstTalker       motion first

The paper's ablation has both (docs/ablations.md). No delays, no speech without video.

Axis letters: B batch, T frames, N patches, P frames per patch, D width, K streams, d latent width.
"""
import torch
import torch.nn.functional as F
from einops import rearrange

from model import HeadInput, Talker


class InterleavedTalker(Talker):
    """As Talker, with a position for each stream of a patch; the audio's comes first."""

    motion_first = False

    def __init__(self, modalities, *args, **settings):
        super().__init__(modalities, *args, **settings)
        if any(m.delay for m in modalities.values()):
            raise ValueError("interleaved streams have no delay: leave --motion_delay out")
        self.order = list(modalities)[::-1] if self.motion_first else list(modalities)

    def after_leader(self, name: str) -> bool:
        """Whether the leading stream's patch of the moment precedes the token of this stream."""
        return self.order.index(self.leader) <= self.order.index(name)

    def teacher_forced(self, text, text_mask, latents, frames, conditions, present=None,
                       spoken=None):
        """As Talker.teacher_forced. hidden (B, N, D) is that which predicts the first stream."""
        P = self.patch
        N = latents[self.leader].shape[1] // P
        speech_only = torch.zeros(len(text), dtype=torch.bool, device=text.device)
        if self.alignment is not None:
            place = self.patch_ends(spoken, frames[self.leader], N)           # (B, N)

        tokens = []
        known = []                                # places of the tokens of each stream, (B, N)
        seen = {}
        for name in self.order:
            clean = self.split(latents[name])                                 # (B, N, P, d)
            time = torch.arange(N * P, device=text.device)[None]
            has_frame = self.split((time < frames[name][:, None])[..., None])[..., 0]
            token = self.encoders[name](clean, has_frame)                     # (B, N, D)
            if self.alignment is not None:
                # A token before the leading stream's patch of the moment has the place before it.
                heard = self.after_leader(name)
                known.append(place if heard else F.pad(place[:, :-1], (1, 0)))
            tokens.append(token)
            history = F.pad(clean[:, :-1], (0, 0, 0, 0, 1, 0))                # (B, N, P, d)
            seen[name] = (history, conditions[name], clean, has_frame.any(-1))

        # Text and patches pass the backbone as one sequence, of which the last patch is left out.
        x, valid, places = self.prefix(text, text_mask, speech_only, conditions[self.leader])
        before = x.shape[1] - 1
        tokens = rearrange(torch.stack(tokens, 2), "B N K D -> B (N K) D")[:, :-1]
        valid = F.pad(valid, (0, tokens.shape[1]), value=True)
        if known:
            known = rearrange(torch.stack(known, 2), "B N K -> B (N K)")[:, :-1]
            places = torch.cat((places, known), 1)                            # (B, L + N K)
        hidden = self.backbone(torch.cat((x, tokens), 1), valid, None, places)[:, before:]
        hidden = rearrange(hidden, "B (N K) D -> K B N D", K=len(self.order))
        inputs = {name: HeadInput(hidden[self.order.index(name)], *seen[name])
                  for name in self.modalities}
        return hidden[0], inputs, -(-frames[self.leader] // P)

    @torch.inference_mode()
    def generate(self, text, text_mask, conditions, noise, max_patches: int, given=None,
                 streams=None, stop_hits=1, stop_keeps=True, shortest=0, threshold=0.5,
                 alignment_pace=1.0, **sampling):
        """As Talker.generate, of all streams."""
        if streams is not None and set(streams) != set(self.modalities):
            raise ValueError("interleaved streams are all generated: leave streams out")
        B, P = len(text), self.patch
        given = {name: self.split(latents) for name, latents in (given or {}).items()}
        speech_only = torch.zeros(B, dtype=torch.bool, device=text.device)
        x, valid, places = self.prefix(text, text_mask, speech_only, conditions[self.leader])
        step = self.cached_backbone(valid, len(self.order) * max_patches)
        hidden = step(x, places)                                              # (B, 1, D)
        patches = {name: torch.zeros(B, 1, P, m.latent, device=text.device)
                   for name, m in self.modalities.items()}
        hits = torch.zeros(B, dtype=torch.long, device=text.device)
        symbols = text_mask.sum(1, keepdim=True)                              # (B, 1)
        place = None
        if self.alignment is not None:
            place = torch.zeros(B, 1, device=text.device)
        for i in range(max_patches):
            stop = self.stop(hidden)[:, 0].sigmoid() >= threshold             # (B,)
            hits = torch.where(stop & (i >= shortest), hits + 1, 0)
            finished = hits >= stop_hits
            if not stop_keeps and bool(finished.all()):
                return
            for name in self.order:
                known = name in given and i < given[name].shape[1]
                target = given[name][:, i:i + 1] if known else None           # (B, 1, P, d)
                patch = HeadInput(hidden, patches[name], conditions[name], target)
                patches |= self.heads.sample({name: patch}, noise, **sampling)
                if self.alignment is not None and name == self.leader:
                    spoken = self.alignment(hidden, patches[name])
                    place = (place + alignment_pace * spoken).clamp(min=0).minimum(symbols)
                if name == self.order[-1]:
                    yield {n: patches[n][:, 0] for n in self.modalities}, finished
                token = self.encoders[name](patches[name])                    # (B, 1, D)
                hidden = step(token, place)


class MotionFirstTalker(InterleavedTalker):
    motion_first = True
