"""The benchmark runs, and its figures hang together; how fast things are is asserted nowhere."""
import json
import sys
import types

import pytest
import torch

from lab import bench
from lab.machine import in_few_threads


def test_bench_measures_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "train", "sample", "autoencoders", "--config=tiny", "--json", str(tmp_path / "figures.json")])
    bench.main()
    found = json.loads((tmp_path / "figures.json").read_text())
    assert 0 < found["train"]["of peak %"] < 100 and len(found["peak"]) == 3 and found["sample"][0]["least ms"] > 0
    rows = {(row["batch"], row["guidance"]): row for row in found["sample"]}
    assert rows[32, 2.0]["cache MB"] == 32 * rows[1, 1.0]["cache MB"] > 0
    assert rows[32, 2.0]["real-time factor"] < rows[1, 2.0]["real-time factor"]          # a batch shares the weights
    assert all(speed > 0 for speed in found["autoencoders"].values())


@pytest.mark.parametrize("width, expected", [(16, 1), (10 ** 5, 2)])
def test_threads_come_back(width, expected):
    """Few threads while patches are made, and as many as before afterwards, also when nobody takes the rest."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        talker = types.SimpleNamespace(task=types.SimpleNamespace(embedding_dim=width))
        for _ in (patches := in_few_threads(lambda talker, text: iter(range(3)))(talker, ["a text"])):
            assert torch.get_num_threads() == expected
            break
        patches.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
