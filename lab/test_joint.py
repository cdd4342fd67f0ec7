"""The Talker as it is sampled on a CPU makes what the plain one does."""
import copy

import pytest
import torch

import train
from heads import FlowHead
from lab.bench import batch_of
from lab.joint import JointHeads, Stack, for_sampling, some
from model import Block, Blocks, PatchEncoder

CPU = torch.device("cpu")


def assert_the_same(plain, config, width: int, **sampling):
    """What both sample, from text alone and for a speech -> the talker as for_sampling leaves it."""
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=.2 if width < 100 else .05)      # at its first values a head computes 0
    written = copy.deepcopy(plain)
    for_sampling(written, torch.float32)
    for batch, changed in ((3, {}), (1, dict(guidance=1.5)), (3, {})):                   # what is traced is traced for one shape and guidance
        x, spoken = batch_of(config, CPU, batch), {"audio": torch.randn(batch, 8, config.audio_latent)}
        for given in ({}, spoken):
            made = []
            for talker in (plain, written):
                draw = torch.Generator().manual_seed(0)
                patches = list(talker.generate(x["text"], x["text_mask"], x["conditions"], lambda shape: torch.randn(shape, generator=draw), 5, given,
                                               stop_hits=9, steps=4, **sampling | changed))
                made.append([patch[name] for patch, _ in patches for name in sorted(patch)])
            for a, b in zip(*made, strict=True):
                assert a.shape == b.shape and (a - b).abs().max() < 1e-5 * a.abs().max()
            assert torch.cat([a[..., :1] for a in made[0]]).std() > .1
    assert isinstance(written.backbone.blocks, Stack) and not any(isinstance(m, Blocks) for m in written.modules())
    return written


@pytest.mark.parametrize("delay, width, latent", [(0, 32, 32), (1, 32, 32), (0, 160, 32), (1, 384, 700)])
@pytest.mark.parametrize("sampling", [dict(guidance=1.0), dict(guidance=2.0), dict(guidance=2.0, zero_star=False, sway=0.0)])
def test_samples_are_the_same(delay, width, latent, sampling):
    """Latents of different widths; a delayed stream, whose head is alone at first; a given stream, which is not sampled; heads of
    which no weights are wide enough to be packed, or some, those of one head's latents among them; text that is padded."""
    config = train.parse_config(["--config=tiny", f"--motion_delay={delay}", f"--head_width={width}", f"--audio_latent={latent}"])
    assert isinstance(assert_the_same(train.build("talker", config).eval(), config, width, **sampling).heads, JointHeads)


@pytest.mark.parametrize("change", [dict(head_layers=3), dict(head_heads=4)])
def test_heads_of_different_sizes_stay_apart(change):
    """A fork may give a stream a head of its own."""
    config = train.parse_config(["--config=tiny"])
    talker, name = train.build("talker", config).eval(), next(iter(change))
    assert getattr(config, name) != change[name]
    talker.heads["motion"] = train.build("talker", train.dataclasses.replace(config, **change)).heads["motion"]
    assert not isinstance(assert_the_same(talker, config, 32, guidance=2.0).heads, JointHeads)


@pytest.mark.parametrize("part, method, noticed", [(Block, "forward", True), (FlowHead, "moments", True), (FlowHead, "velocity", False),
                                                   (PatchEncoder, "pool", False)])
def test_a_fork_samples_what_it_trained(part, method, noticed, monkeypatch, capsys):
    """One that edits what lab/joint.py writes out, and knows nothing of that; what is not written out is its own anyway."""
    talker = train.build("talker", train.parse_config(["--config=tiny"])).eval()
    for p in talker.parameters():
        torch.nn.init.normal_(p, std=.2)
    before, plain = some(talker), getattr(part, method)
    monkeypatch.setattr(part, method, lambda self, *given, **options: 1.1 * plain(self, *given, **options))
    expected = some(talker)
    for_sampling(talker, torch.float32)
    assert (some(talker) - expected).abs().max() < 1e-5 < (before - expected).abs().max()
    assert noticed == ("something else" in capsys.readouterr().err) == (not any(isinstance(m, Stack) for m in talker.modules()))
