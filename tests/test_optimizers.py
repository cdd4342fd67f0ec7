"""Muon orthogonalises, takes turns, and gets the hidden matrices alone (engine/optimizers.py)."""
from types import SimpleNamespace

import engine.machine  # noqa: F401       before torch
import torch
from torch import nn

from engine.optimizers import Muon, optimizers, orthogonalise


def test_muon_orthogonalises():
    """All singular values come near 1, for wide matrices and for tall ones."""
    for shape in ((2, 48, 96), (2, 96, 48)):
        singular = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert singular.min() > 0.5
        assert singular.max() < 1.5


def test_muon_takes_turns():
    """Each matrix moves once in two steps, by twice the rate along an orthogonal matrix."""
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.zeros(48, 96)) for _ in range(4)]
    optimizer = Muon(matrices, 0.02)
    for turn in range(2):
        for p in matrices:
            p.grad = torch.randn(48, 96)
        before = [p.clone() for p in matrices]
        optimizer.step()
        for i, (p, was) in enumerate(zip(matrices, before)):
            moved = torch.linalg.svdvals((p - was).detach()).median().item()
            assert round(moved / 0.04) == int(i % 2 == turn)


def test_muon_gets_hidden_matrices_alone():
    """Narrow matrices, biases, embeddings, outputs and frozen weights are not among them."""
    model = nn.ModuleDict(dict(
        hidden=nn.Linear(64, 48), conv=nn.Conv1d(64, 64, 3), narrow=nn.Linear(64, 20),
        embedding=nn.Embedding(64, 64), frozen=nn.Linear(64, 64), out=nn.Linear(64, 64),
        ctc_head=nn.Linear(64, 64), regressors=nn.ModuleDict({"audio": nn.Linear(64, 64)})))
    model["frozen"].requires_grad_(False)
    learned = {p for p in model.parameters() if p.requires_grad}
    config = SimpleNamespace(learning_rate=1e-3, weight_decay=0.01, muon_rate=0.02)

    adamw, muon = optimizers(model, config, torch.float32)
    assert set(muon.param_groups[0]["params"]) == {model["hidden"].weight, model["conv"].weight}
    others = set(adamw.param_groups[0]["params"])
    assert others == learned - {model["hidden"].weight, model["conv"].weight}

    config.muon_rate = 0.0
    adamw, = optimizers(model, config, torch.float32)
    assert set(adamw.param_groups[0]["params"]) == learned
