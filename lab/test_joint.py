"""All heads as one sample what they sample one by one."""
import copy

import pytest
import torch

import train
from heads import SeparateHeads
from lab.bench import batch_of
from lab.joint import JointHeads, for_sampling

CPU = torch.device("cpu")


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("sampling", [dict(guidance=1.0), dict(guidance=2.0), dict(guidance=2.0, zero_star=False, sway=0.0)])
def test_joint_heads_sample_the_same(delay, sampling):
    """Latents of different widths; a delayed stream, whose head is alone at first; a given stream, which is not sampled."""
    config = train.parse_config(["--config=tiny", f"--motion_delay={delay}"])
    separate = train.build("talker", config).eval()
    for p in separate.parameters():
        torch.nn.init.normal_(p, std=.2)                  # at its first values a head computes 0
    joint = copy.deepcopy(separate)
    for_sampling(joint, torch.float32)
    assert isinstance(joint.heads, JointHeads)
    x, spoken = batch_of(config, CPU, 3), {"audio": torch.randn(3, 8, config.audio_latent)}
    for given in ({}, spoken):
        made = []
        for talker in (separate, joint):
            draw = torch.Generator().manual_seed(0)
            patches = list(talker.generate(x["text"], x["text_mask"], x["conditions"], lambda shape: torch.randn(shape, generator=draw), 5, given,
                                           stop_hits=9, steps=4, **sampling))
            made.append([patch[name] for patch, _ in patches for name in sorted(patch)])
        for a, b in zip(*made, strict=True):
            assert a.shape == b.shape and (a - b).abs().max() < 1e-5 * a.abs().max()
        assert torch.cat([a[..., :1] for a in made[0]]).std() > .1


@pytest.mark.parametrize("width, apart", [(160, False), (384, True), (1024, True)])
def test_wide_heads_stay_apart(width, apart):
    """Where some products of a head are wide, or all, they are packed where that helps, and the heads sample one by one."""
    config = train.parse_config(["--config=tiny", f"--head_width={width}"])
    talker = train.build("talker", config).eval()
    for_sampling(talker, torch.float32)
    assert isinstance(talker.heads, SeparateHeads) == apart
    x = batch_of(config, CPU, 2)
    patches = list(talker.generate(x["text"], x["text_mask"], x["conditions"], torch.randn, 2, stop_hits=9, steps=3, guidance=2.0))
    assert len(patches) == 2 and patches[1][0]["audio"].isfinite().all()
