"""The benchmark runs, and its figures hang together; how fast things are is asserted nowhere."""
import json
import sys

from lab import bench


def test_bench_measures_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "train", "sample", "autoencoders", "--config=tiny", "--json", str(tmp_path / "figures.json")])
    bench.main()
    found = json.loads((tmp_path / "figures.json").read_text())
    assert 0 < found["train"]["of peak %"] < 100 and len(found["peak"]) == 3 and found["sample"][0]["least ms"] > 0
    rows = {(row["batch"], row["guidance"]): row for row in found["sample"]}
    assert rows[32, 2.0]["cache MB"] == 32 * rows[1, 1.0]["cache MB"] > 0
    assert rows[32, 2.0]["real-time factor"] < rows[1, 2.0]["real-time factor"]          # a batch shares the weights
    assert all(speed > 0 for speed in found["autoencoders"].values())
