"""The fast forms of training compute what the plain ones do, and yield to a fork's own."""
import pytest
import torch

import model
from engine import kernels
from heads import FlowHead
from model import PatchEncoder, RMSNorm
from tests.helpers import error, random_batch, tiny_talker


def loss_and_gradients(talker, batch) -> list:
    generator = torch.Generator().manual_seed(0)
    loss, _ = talker(**batch, generator=generator)
    talker.zero_grad()
    loss.backward()
    return [loss, *(p.grad for p in talker.parameters() if p.grad is not None)]


def test_values_and_gradients_are_the_same():
    torch.manual_seed(0)
    talker, config = tiny_talker(motion_delay=1)
    batch = random_batch(config)
    plain = [x.clone() for x in loss_and_gradients(talker, batch)]
    kernels.install(talker)
    assert type(talker.heads["audio"]) is kernels.FastFlowHead
    assert type(talker.backbone.norm) is kernels.FastRMSNorm
    fast = loss_and_gradients(talker, batch)
    assert len(plain) == len(fast) > 50
    for a, b in zip(plain, fast):
        assert a.abs().max() == 0 == b.abs().max() or error(b, a) < 1e-4


@pytest.mark.parametrize("part, method", [
    (RMSNorm, "forward"), (PatchEncoder, "pool"), (FlowHead, "velocity"),
    (model.Attention, "forward")])
def test_a_fork_trains_what_it_says(part, method, monkeypatch, capsys):
    """A fork edits model.py or heads.py, and knows nothing of engine/kernels.py."""
    plain = getattr(part, method)
    monkeypatch.setattr(part, method, lambda self, *given: 1.1 * plain(self, *given))
    kernels.both_forms_agree.cache_clear()
    try:
        talker, _ = tiny_talker()
        kernels.install(talker)
        assert type(talker.heads["audio"]) is FlowHead
        assert "plain forms" in capsys.readouterr().err
    finally:
        kernels.both_forms_agree.cache_clear()


def test_a_forks_subclass_keeps_its_methods():
    class OwnHead(FlowHead):
        pass

    talker, _ = tiny_talker()
    talker.heads["motion"].__class__ = OwnHead
    kernels.install(talker)
    assert type(talker.heads["motion"]) is OwnHead
    assert type(talker.heads["audio"]) is kernels.FastFlowHead
