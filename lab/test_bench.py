"""The benchmark runs, and its figures hang together; how fast things are is asserted nowhere."""
import copy
import json
import sys

import pytest
import torch

import train
from lab import bench
from lab.joint import for_sampling, some
from lab.machine import PACKS, PackedLinear, pack


def test_bench_measures_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "train", "sample", "autoencoders", "--config=tiny", "--json", str(tmp_path / "figures.json")])
    bench.main()
    found = json.loads((tmp_path / "figures.json").read_text())
    assert 0 < found["train"]["of peak %"] < 100 and len(found["peak"]) == 3 and found["sample"][0]["least ms"] > 0
    rows = {(row["batch"], row["guidance"]): row for row in found["sample"]}
    assert rows[32, 2.0]["cache MB"] == 32 * rows[1, 1.0]["cache MB"] > 0
    assert rows[32, 2.0]["real-time factor"] < rows[1, 2.0]["real-time factor"]          # a batch shares the weights
    assert all(speed > 0 for speed in found["autoencoders"].values())


@pytest.mark.skipif(not PACKS, reason="weights are packed on x86 with oneDNN alone")
def test_packed_weights_compute_the_same():
    """In float32 to 1e-5, in bf16 to its precision; whatever the number of rows; narrow layers stay what they are."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(512, 640)
    for shape in ((512,), (1, 512), (3, 7, 512), (300, 512)):
        x = torch.randn(*shape)
        with torch.inference_mode():
            for dtype, close in ((torch.float32, 1e-5), (torch.bfloat16, .03)):
                y = PackedLinear(layer, dtype)(x)
                assert y.dtype == torch.float32 and y.shape == (*shape[:-1], 640) and (y - layer(x)).abs().max() < close
    config = train.parse_config(["--config=tiny", "--width=256", "--head_width=256", "--hidden=1024"])
    plain = train.build("talker", config).eval()
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=.05)             # at its first values a head computes 0
    packed, half, narrow = copy.deepcopy(plain), copy.deepcopy(plain), train.build("talker", train.parse_config(["--config=small"]))
    assert pack(packed, torch.float32) and pack(half, torch.bfloat16) and not pack(narrow, torch.float32)
    assert sum(isinstance(m, PackedLinear) for m in packed.modules()) >= 2
    expected = some(plain)
    scale = expected.abs().max()
    assert scale > .1
    assert (some(half) - expected).abs().max() < .02 * scale
    assert (some(packed) - expected).abs().max() < 1e-5 * scale
    for_sampling(packed, torch.float32)               # which need not be the one who packs
    assert (some(packed) - expected).abs().max() < 1e-5 * scale
