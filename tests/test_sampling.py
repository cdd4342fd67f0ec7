"""engine/sampling.py's Talker samples what model.py's does."""
import copy
import dataclasses

import pytest
import torch

import train
from engine.sampling import (FusedEncoders, FusedHeads, FusedTransformer, few_patches, install)
from heads import FlowHead, SeparateHeads
from model import Block, PatchEncoder, Transformer
from tests.helpers import error, generate, random_batch, randomise


def talker_of(*changes):
    config = train.parse_config(["--config=tiny", *changes])
    return train.build("talker", config).eval(), config


def assert_same(plain, config, std: float, **sampling):
    """What both sample, from text alone and for a speech -> the talker as `install` leaves it."""
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=std)         # at its first values a head computes 0
    fused = copy.deepcopy(plain)
    install(fused, torch.float32)
    # What is traced is traced for one shape and guidance.
    for batch, changed in ((3, {}), (1, dict(guidance=1.5)), (3, {})):
        x = random_batch(config, batch)
        for given in ({}, {"audio": torch.randn(batch, 8, config.audio_latent)}):
            options = dict(given=given, steps=4) | sampling | changed
            expected, made = (generate(talker, x, 5, **options) for talker in (plain, fused))
            assert expected.keys() == made.keys()
            for name in expected:
                assert error(made[name], expected[name]) < 1e-5
                assert given or expected[name].std() > 0.1
    assert isinstance(fused.backbone, FusedTransformer)
    assert not any(type(m) is Transformer for m in fused.modules())
    return fused


@pytest.mark.parametrize("delay, width, latent", [
    (0, 32, 32), (1, 32, 32), (0, 160, 32), (1, 384, 700)])
@pytest.mark.parametrize("sampling", [
    dict(guidance=1.0), dict(guidance=2.0), dict(guidance=2.0, zero_star=False, sway=0.0),
    dict(guidance=2.0, temperature=dict(audio=0.3, motion=1.0))])
def test_samples_are_the_same(delay, width, latent, sampling):
    """Latents of different widths; a delayed stream, whose head is alone at first; a given stream,
    which is not sampled; heads of which no weights are wide enough to be packed, or some, those of
    one head's latents among them; text that is padded."""
    talker, config = talker_of(
        f"--motion_delay={delay}", f"--flow_width={width}", f"--audio_latent={latent}")
    fused = assert_same(talker, config, 0.2 if width < 100 else 0.05, **sampling)
    assert isinstance(fused.heads, FusedHeads) and fused.heads.together
    assert isinstance(fused.encoders, FusedEncoders) and fused.encoders.together


@pytest.mark.parametrize("change", [dict(flow_layers=3), dict(flow_heads=4)])
def test_heads_of_different_sizes_stay_apart(change):
    """A fork may give a stream a head of other sizes."""
    talker, config = talker_of()
    assert all(getattr(config, name) != value for name, value in change.items())
    other = train.build("talker", dataclasses.replace(config, **change))
    talker.heads["motion"] = other.heads["motion"]
    assert assert_same(talker, config, 0.2, guidance=2.0).heads.together is None


def test_one_head_may_get_the_hidden_state_in_each_frame():
    talker, config = talker_of()
    other = train.build("talker", dataclasses.replace(config, hidden_per_frame=False))
    talker.heads["motion"] = other.heads["motion"]
    assert assert_same(talker, config, 0.2, guidance=2.0).heads.together is None


@pytest.mark.parametrize("changes", [
    ["--drop_history=1"], ["--alignment_weight=0", "--hidden_per_frame=0"],
    ["--width=256", "--flow_width=256"]])
def test_other_settings(changes):
    """No history; the paper's form; widths of which frames_in is packed."""
    talker, config = talker_of(*changes)
    fused = assert_same(talker, config, 0.2 if len(changes) < 2 else 0.05, guidance=2.0)
    assert fused.heads.together


@pytest.mark.parametrize("part, method", [
    (Block, "forward"), (FlowHead, "velocity"), (PatchEncoder, "pool")])
def test_a_fork_samples_what_it_trained(part, method, monkeypatch, capsys):
    """A fork edits what engine/sampling.py writes out, and knows nothing of that."""
    talker, _ = talker_of()
    for p in talker.parameters():
        torch.nn.init.normal_(p, std=0.2)
    before = few_patches(talker)
    plain = getattr(part, method)
    monkeypatch.setattr(part, method, lambda self, *given: 1.1 * plain(self, *given))
    expected = few_patches(talker)
    install(talker, torch.float32)
    assert (few_patches(talker) - expected).abs().max() < 1e-5
    assert (before - expected).abs().max() > 1e-5
    assert "something else" in capsys.readouterr().err
    assert not any(isinstance(m, FusedTransformer) for m in talker.modules())


def test_a_forks_own_heads_get_fused_transformers():
    class OwnHeads(SeparateHeads):
        pass

    talker, _ = talker_of()
    randomise(talker).heads.__class__ = OwnHeads
    expected = few_patches(talker)
    install(talker, torch.float32)
    assert type(talker.heads) is OwnHeads
    assert isinstance(talker.heads["audio"].transformer, FusedTransformer)
    assert error(few_patches(talker), expected) < 1e-5
