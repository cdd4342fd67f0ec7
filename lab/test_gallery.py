"""The gallery and the measures of real clips (lab/gallery.py, lab/metrics.py)."""
import re
from dataclasses import replace

import numpy as np

import data
from lab.metrics import correlation, fit_opening, fit_probes
from test_shapes import check_clip, command


def test_an_unknown_opening_is_found_by_what_sound_and_picture_share():
    clips = [data.make_clip(data.SyntheticCorpus("train", 80), i) for i in range(80)]
    blind = [replace(clip, opening=None) for clip in clips]
    read = fit_opening(blind[:60])
    found = np.mean([correlation(read(clip.video), clip.opening) for clip in clips[60:]])
    assert found > 0.8, found
    probes = fit_probes(blind)
    agree = np.mean([correlation(probes.audio(clip.audio), probes.video(clip.video)) for clip in clips[::5]])
    cross = np.mean([correlation(probes.audio(a.audio), probes.video(b.video)) for a, b in zip(clips[::5], clips[5::5])])
    assert agree > 0.6 > 0.4 > cross, (agree, cross)


def test_gallery(tmp_path):
    """A page that holds all it shows."""
    command("train.py", "--config", "tiny", "--out_dir", tmp_path / "run")
    words = command("-m", "lab.gallery", "--ckpt", tmp_path / "run", "--out", tmp_path / "ev", "--n", 2, "--show", 1, "--fit", 20)
    assert "open it in a browser" in words
    page = (tmp_path / "ev" / "index.html").read_text(encoding="utf-8")
    assert page.count("data:video/mp4;base64,") == 6 and page.count("<polyline") == 12 and len(re.findall(r"r = -?\d", page)) == 6
    assert not re.search(r"https?://", page)
    lengths = {}
    for task in ("truth", "roundtrip", "t2av", "a2v", "v2a", "continuation"):
        made = sorted((tmp_path / "ev" / task).glob("*.mp4"))
        assert len(made) == 2
        check_clip(made[0])
        lengths[task] = [len(data.read_video(path, 64)) for path in made]
    assert lengths["truth"] == lengths["roundtrip"] == lengths["a2v"] == lengths["v2a"]
