"""The benchmark runs, and its figures are consistent. How fast things are is asserted nowhere."""
import copy
import json
import sys

import pytest
import torch

import train
from engine.sampling import PACKS, PackedLinear, few_patches, install, pack
from lab import bench

NEEDS_BF16 = pytest.mark.skipif(
    PACKS and not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="this CPU has no instructions that oneDNN needs for bf16, so none is used")


@pytest.mark.parametrize("plain", [False, True])
def test_bench_measures_what_it_says(tmp_path, monkeypatch, plain):
    figures = tmp_path / "figures.json"
    arguments = ["bench", "train", "sample", "autoencoders", "--config=tiny", "--json",
                 str(figures)]
    if plain:
        def must_not_be_called(*given):
            raise AssertionError("--plain installs nothing")
        monkeypatch.setattr(bench.kernels, "install", must_not_be_called)
        monkeypatch.setattr(bench.sampling, "install", must_not_be_called)
        arguments.append("--plain")
    monkeypatch.setattr(sys, "argv", arguments)
    bench.main()

    found = json.loads(figures.read_text())
    assert 0 < found["train"]["of peak %"] < 100
    assert len(found["peak"]) == 3
    rows = {(row["batch"], row["guidance"]): row for row in found["sample"]}
    assert rows.keys() == {(batch, guidance) for batch in (1, 8, 32) for guidance in (1.0, 2.0)}
    assert all(row["least ms"] > 0 for row in found["sample"])
    assert rows[32, 2.0]["cache MB"] == 32 * rows[1, 1.0]["cache MB"] > 0
    # A batch shares the weights.
    assert rows[32, 2.0]["real-time factor"] < rows[1, 2.0]["real-time factor"]
    assert all(speed > 0 for speed in found["autoencoders"].values())


@pytest.mark.skipif(not PACKS, reason="weights are packed on x86 with oneDNN alone")
@pytest.mark.parametrize("shape", [(512,), (1, 512), (3, 7, 512), (300, 512)])
@pytest.mark.parametrize("dtype, close", [
    (torch.float32, 1e-5), pytest.param(torch.bfloat16, 0.03, marks=NEEDS_BF16)])
def test_a_packed_linear_computes_the_same(shape, dtype, close):
    """In float32 to 1e-5, in bf16 to its precision, whatever the number of rows."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(512, 640)
    x = torch.randn(*shape)
    with torch.inference_mode():
        y = PackedLinear(layer, dtype)(x)
        assert y.dtype == torch.float32
        assert y.shape == (*shape[:-1], 640)
        assert (y - layer(x)).abs().max() < close


@pytest.mark.skipif(not PACKS, reason="weights are packed on x86 with oneDNN alone")
@pytest.mark.parametrize("dtype, close", [
    (torch.float32, 1e-5), pytest.param(torch.bfloat16, 0.02, marks=NEEDS_BF16)])
def test_a_packed_talker_samples_the_same(dtype, close):
    """Wide layers are packed, in each dtype."""
    torch.manual_seed(0)
    config = train.parse_config(
        ["--config=tiny", "--width=256", "--flow_width=256", "--mlp_width=1024"])
    plain = train.build("talker", config).eval()
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=0.05)        # at its first values a head computes 0
    packed = copy.deepcopy(plain)
    assert pack(packed, dtype)
    assert sum(isinstance(m, PackedLinear) for m in packed.modules()) >= 2

    expected = few_patches(plain)
    scale = expected.abs().max()
    assert scale > 0.1
    assert (few_patches(packed) - expected).abs().max() < close * scale
    # `install` meets weights that are packed already.
    assert install(packed, dtype)
    assert (few_patches(packed) - expected).abs().max() < close * scale


def test_narrow_layers_are_not_packed():
    narrow = train.build("talker", train.parse_config(["--config=small"]))
    assert not pack(narrow, torch.float32)
