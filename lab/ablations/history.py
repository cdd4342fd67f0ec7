"""Flow-matching heads with another history: two patches in place of one, or a noisy one.

Axis letters: B batch, N patches, P frames per patch, d latent width.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from heads import SeparateHeads
from model import HeadInput


class LongHistoryHeads(SeparateHeads):
    """Separate heads whose history is the two patches before, (B, N, 2 P, d)."""

    def loss(self, inputs: dict[str, HeadInput], generator=None) -> tuple[dict, dict]:
        longer = {}
        for name, x in inputs.items():
            # The history of the patch before is the patch before that one; zeros at the beginning.
            earlier = F.pad(x.history[:, :-1], (0, 0, 0, 0, 1, 0))            # (B, N, P, d)
            longer[name] = x._replace(history=torch.cat((earlier, x.history), 2))
        return super().loss(longer, generator)

    def sample(self, inputs: dict[str, HeadInput], noise, **sampling) -> dict[str, Tensor]:
        """As SeparateHeads.sample. The heads remember the history of the call before: a history of
        zeros, which no sampled patch is, begins another sample."""
        longer = {}
        for name, x in inputs.items():
            if not x.history.any():
                self.earlier = getattr(self, "earlier", {}) | {name: torch.zeros_like(x.history)}
            longer[name] = x._replace(history=torch.cat((self.earlier[name], x.history), 2))
            self.earlier[name] = x.history

        def noise_of_a_patch(shape: tuple[int, int, int]) -> Tensor:
            """SeparateHeads asks for noise of the shape of the history."""
            B, frames, d = shape
            return noise((B, frames // 2, d))

        return super().sample(longer, noise_of_a_patch, **sampling)


class NoisyHistoryHeads(SeparateHeads):
    """Separate heads that learn from a history with noise of .3 deviations, as generation has its
    errors there."""

    level = 0.3

    def loss(self, inputs: dict[str, HeadInput], generator=None) -> tuple[dict, dict]:
        noisy = {}
        for name, x in inputs.items():
            noise = torch.randn(x.history.shape, generator=generator, device=x.history.device)
            # The zeros before the first patch stay zeros, as they are in generation.
            real = x.history.abs().sum((2, 3), keepdim=True) > 0              # (B, N, 1, 1)
            noisy[name] = x._replace(history=x.history + self.level * noise * real)
        return super().loss(noisy, generator)
