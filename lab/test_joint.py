"""The Talker as it is sampled on a CPU makes what the plain one does."""
import copy

import pytest
import torch

import train
from lab.bench import batch_of
from lab.joint import JointHeads, Stack, for_sampling
from model import Blocks

CPU = torch.device("cpu")


@pytest.mark.parametrize("delay, width", [(0, 32), (1, 32), (0, 160), (1, 384)])
@pytest.mark.parametrize("sampling", [dict(guidance=1.0), dict(guidance=2.0), dict(guidance=2.0, zero_star=False, sway=0.0)])
def test_samples_are_the_same(delay, width, sampling):
    """Latents of different widths; a delayed stream, whose head is alone at first; a given stream, which is not sampled;
    heads of which no weights are wide enough to be packed, or some; text that is padded."""
    config = train.parse_config(["--config=tiny", f"--motion_delay={delay}", f"--head_width={width}"])
    plain = train.build("talker", config).eval()
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=.2 if width < 100 else .05)      # at its first values a head computes 0
    written = copy.deepcopy(plain)
    for_sampling(written, torch.float32)
    assert isinstance(written.heads, JointHeads) and isinstance(written.backbone.blocks, Stack) and not any(isinstance(m, Blocks) for m in written.modules())
    x, spoken = batch_of(config, CPU, 3), {"audio": torch.randn(3, 8, config.audio_latent)}
    for given in ({}, spoken):
        made = []
        for talker in (plain, written):
            draw = torch.Generator().manual_seed(0)
            patches = list(talker.generate(x["text"], x["text_mask"], x["conditions"], lambda shape: torch.randn(shape, generator=draw), 5, given,
                                           stop_hits=9, steps=4, **sampling))
            made.append([patch[name] for patch, _ in patches for name in sorted(patch)])
        for a, b in zip(*made, strict=True):
            assert a.shape == b.shape and (a - b).abs().max() < 1e-5 * a.abs().max()
        assert torch.cat([a[..., :1] for a in made[0]]).std() > .1


def test_heads_of_different_sizes_stay_apart():
    """A fork may give a stream a head of its own size."""
    config = train.parse_config(["--config=tiny"])
    talker = train.build("talker", config).eval()
    other = train.build("talker", train.dataclasses.replace(config, head_layers=config.head_layers + 1)).heads["motion"]
    talker.heads["motion"] = other
    for_sampling(talker, torch.float32)
    assert not isinstance(talker.heads, JointHeads) and [len(head.blocks) for head in talker.heads.values()] == [config.head_layers, config.head_layers + 1]
    x = batch_of(config, CPU, 2)
    patches = list(talker.generate(x["text"], x["text_mask"], x["conditions"], torch.randn, 2, stop_hits=9, steps=3, guidance=2.0))
    assert len(patches) == 2 and patches[1][0]["audio"].isfinite().all()
