"""What is done by hand for speed computes what the plain form does."""
import torch

from lab.by_hand import Gate, Normalise
from lab.muon import Muon, orthogonal
from model import rotary_tables, rotate


def test_gradients_by_hand():
    torch.manual_seed(0)
    x, weight, tables = torch.randn(3, 5, 8), torch.randn(8), rotary_tables(5, 8, 1e4)
    plain = {"norm": lambda x, w: torch.nn.functional.rms_norm(x, (8,), w, 1e-6), "gate": lambda x, w: torch.nn.functional.silu(x[..., :4]) * x[..., 4:],
             "rotate": lambda x, w: torch.view_as_real(torch.complex(x[..., :4], x[..., 4:]) * torch.complex(*tables)).mT.flatten(-2)}
    by_hand = {"norm": lambda x, w: Normalise.apply(x, w, 1e-6), "gate": lambda x, w: Gate.apply(x), "rotate": lambda x, w: rotate(x, tables)}
    for name, function in plain.items():
        found = []
        for f in (function, by_hand[name]):
            leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
            y = f(*leaves)
            (y * torch.linspace(-1, 2, y.numel()).view(y.shape)).sum().backward()
            found.append((y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)))
        assert len(found[0]) == (3 if name == "norm" else 2) and all(torch.allclose(*pair, atol=1e-5) for pair in zip(*found))


def test_muon_orthogonalises():
    for shape in ((2, 48, 96), (2, 96, 48)):
        s = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert s.min() > 0.5 and s.max() < 1.5


def test_muon_takes_turns():
    """Each matrix moves once in two steps, by twice the rate along an orthogonal matrix."""
    torch.manual_seed(0)
    matrices = [torch.nn.Parameter(torch.zeros(48, 96)) for _ in range(4)]
    optimizer = Muon(matrices, 0.02)
    for turn in range(2):
        for p in matrices:
            p.grad = torch.randn(48, 96)
        before = [p.clone() for p in matrices]
        optimizer.step()
        moved = [torch.linalg.svdvals((p - b).detach()).median().item() for p, b in zip(matrices, before)]
        assert [round(m / 0.04) for m in moved] == [int(i % 2 == turn) for i in range(4)]
