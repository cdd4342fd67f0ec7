"""The faster classes of training compute what model.py and heads.py do, and yield to a fork's."""
import pytest
import torch

import model
from engine import kernels
from engine.training import recompute_blocks
from heads import FlowHead
from model import Block, PatchEncoder, RMSNorm, Transformer
from tests.helpers import error, random_batch, tiny_talker


def loss_and_gradients(talker, batch) -> list:
    generator = torch.Generator().manual_seed(0)
    loss, _ = talker(**batch, generator=generator)
    talker.zero_grad()
    loss.backward()
    return [loss, *(p.grad for p in talker.parameters() if p.grad is not None)]


@pytest.mark.parametrize("form", [{}, dict(alignment_weight=0, hidden_per_frame=0)])
def test_values_and_gradients_are_the_same(form):
    torch.manual_seed(0)
    talker, config = tiny_talker(motion_delay=1, **form)
    batch = random_batch(config)
    plain = [x.clone() for x in loss_and_gradients(talker, batch)]
    kernels.install(talker)
    assert type(talker.heads["audio"]) is kernels.FastFlowHead
    assert type(talker.backbone.norm) is kernels.FastRMSNorm
    fast = loss_and_gradients(talker, batch)
    assert len(plain) == len(fast) > 50
    for a, b in zip(plain, fast):
        assert a.abs().max() == 0 == b.abs().max() or error(b, a) < 1e-4


def test_recomputed_blocks_keep_less_and_give_the_same_gradients():
    torch.manual_seed(0)
    talker, config = tiny_talker(layers=4)
    batch = random_batch(config, patches=10)

    def kept_bytes() -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
                lambda x: sizes.append(x.nbytes) or x, lambda x: x):
            talker.teacher_forced(**batch)
        return sum(sizes)

    plain = [x.clone() for x in loss_and_gradients(talker, batch)]
    all_kept = kept_bytes()
    recompute_blocks(talker.backbone)
    for a, b in zip(plain, loss_and_gradients(talker, batch), strict=True):
        assert torch.equal(a, b)
    assert kept_bytes() < 0.7 * all_kept


@pytest.mark.parametrize("part, method", [
    (RMSNorm, "forward"), (PatchEncoder, "pool"), (FlowHead, "velocity"),
    (model.Attention, "forward")])
def test_a_fork_trains_what_it_says(part, method, monkeypatch, capsys):
    """A fork edits model.py or heads.py, and knows nothing of engine/kernels.py."""
    plain = getattr(part, method)
    monkeypatch.setattr(part, method, lambda self, *given: 1.1 * plain(self, *given))
    talker, _ = tiny_talker()
    kernels.install(talker)
    assert type(talker.heads["audio"]) is FlowHead
    assert "other values" in capsys.readouterr().err


def test_an_option_that_is_off_by_default_is_not_lost(monkeypatch, capsys):
    """A fork's option may be switched on for one head alone."""
    plain = FlowHead.velocity
    monkeypatch.setattr(FlowHead, "doubled", False, raising=False)
    monkeypatch.setattr(FlowHead, "velocity", lambda self, *given: (
        plain(self, *given) * (2 if self.doubled else 1)))
    talker, _ = tiny_talker()
    kernels.install(talker)
    assert type(talker.heads["motion"]) is kernels.FastFlowHead
    talker, _ = tiny_talker()
    talker.heads["motion"].doubled = True
    kernels.install(talker)
    assert type(talker.heads["motion"]) is FlowHead
    assert "other values" in capsys.readouterr().err


def test_another_signature_is_named(monkeypatch, capsys):
    plain = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, x, tables, *rest, scale=2: (
        scale * plain(self, x, tables, *rest)))
    monkeypatch.setattr(Transformer, "forward", lambda self, x, *rest: self.norm(
        self.blocks[0](x, self.tables_for(x, None), scale=3)))
    talker, _ = tiny_talker()
    kernels.install(talker)
    assert type(talker.heads["audio"]) is FlowHead
    assert "TypeError" in capsys.readouterr().err


def test_a_forks_subclass_keeps_its_methods():
    class OwnHead(FlowHead):
        pass

    talker, _ = tiny_talker()
    talker.heads["motion"].__class__ = OwnHead
    kernels.install(talker)
    assert type(talker.heads["motion"]) is OwnHead
    assert type(talker.heads["audio"]) is kernels.FastFlowHead
