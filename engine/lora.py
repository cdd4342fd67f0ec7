"""LoRA (arXiv 2106.09685): fine-tuning by a small change of each matrix, `train.py --lora=RANK`.

    W + up down     W (R, C) stays what it is; up (R, rank) starts at zero, down (rank, C) at random

Only the matrices of Transformer blocks change, those of the backbone, the patch encoders and the
heads, so that the optimizer keeps moments of a hundredth of the parameters. In the end `merge` adds
the products to the weights: a finished talker.pt looks as if it had been trained without.
"""
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from model import Block


class LowRank(nn.Module):
    """A matrix -> the matrix with its change."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        rows, columns = weight.shape
        down = torch.randn(rank, columns, device=weight.device) / columns ** 0.5
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self.down = nn.Parameter(down)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def changed_layers(model: nn.Module) -> list[nn.Linear]:
    """The linear layers of all Transformer blocks of a model."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    return [layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear)]


def add_changes(model: nn.Module, rank: int) -> None:
    """Let nothing of a model be trained but a change of that rank of each of `changed_layers`."""
    model.requires_grad_(False)
    for layer in changed_layers(model):
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


def merge(model: nn.Module) -> None:
    """Make the changes part of the weights."""
    for layer in changed_layers(model):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
