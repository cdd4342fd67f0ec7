"""The gallery and the measures of real clips (lab/gallery.py, lab/metrics.py)."""
import re
from dataclasses import replace

import numpy as np

import data
from engine.media import read_video
from lab.metrics import blinks, correlation, fit_opening, fit_probes, in_grammar, speaker_of
from tests.helpers import check_clip, command

TASKS = ("truth", "roundtrip", "t2av", "a2v", "v2a", "continuation")


def test_names_say_who_speaks():
    assert speaker_of("test_00012_s007") == 7
    assert speaker_of("bbaf2n") is None
    assert speaker_of(data.SyntheticCorpus("test", 4)[3].name) == 3


def test_an_unknown_opening_is_found_by_what_sound_and_picture_share():
    corpus = data.SyntheticCorpus("train", 80)
    clips = [corpus[i] for i in range(80)]
    blind = [replace(clip, tracks=None) for clip in clips]

    # Fitted on 60 clips, held against the others.
    read_opening = fit_opening(blind[:60])
    found = [correlation(read_opening(clip.video), clip.opening) for clip in clips[60:]]
    assert np.mean(found) > 0.8, found

    # The probes of sound and picture agree on a clip, and not across clips.
    probes = fit_probes(blind)
    heard = [probes.audio(clip.audio) for clip in clips[::5]]
    seen = [probes.video(clip.video) for clip in clips[::5]]
    others = [probes.video(clip.video) for clip in clips[5::5]]
    agree = np.mean([correlation(a, b) for a, b in zip(heard, seen)])
    cross = np.mean([correlation(a, b) for a, b in zip(heard, others)])
    assert agree > 0.6 > 0.4 > cross, (agree, cross)


def test_blinks_are_counted():
    clips = [data.SyntheticCorpus("dev", 20)[i] for i in range(20)]
    true = 0
    for clip in clips:
        shut = clip.tracks["blink"] > 0.6                                       # (T,)
        true += np.sum(shut[1:] & ~shut[:-1]) + shut[0]
    minutes = sum(len(clip.video) for clip in clips) / 25 / 60
    assert true > 10
    assert abs(blinks([clip.video for clip in clips])["blinks"] * minutes - true) <= 2
    # A picture that stands still has none.
    assert blinks([clip.video[:1].repeat(50, 0) for clip in clips])["blinks"] == 0


def test_gallery(tiny_run, tmp_path):
    """A page that holds all it shows."""
    gallery = ("-m", "lab.gallery", "--ckpt", tiny_run, "--out", tmp_path / "ev",
               "--n", 2, "--show", 1, "--fit", 20)
    assert "open it in a browser" in command(*gallery)
    page = (tmp_path / "ev" / "index.html").read_text(encoding="utf-8")
    assert page.count("data:video/mp4;base64,") == 6
    assert page.count("<polyline") == 12
    assert len(re.findall(r"r = -?\d", page)) == 6
    assert not re.search(r"https?://", page)

    # A folder per task.
    lengths = {}
    written = {}
    for task in TASKS:
        made = sorted((tmp_path / "ev" / task).glob("*.mp4"))
        assert len(made) == 2
        check_clip(made[0])
        lengths[task] = [len(read_video(path, 64)) for path in made]
        written[task] = [path.stat().st_mtime_ns for path in made]
    assert lengths["truth"] == lengths["roundtrip"] == lengths["a2v"] == lengths["v2a"]

    # What is there is not made again; what is missing is.
    made[0].unlink()
    command(*gallery)
    for task in TASKS:
        now = [path.stat().st_mtime_ns
               for path in sorted((tmp_path / "ev" / task).glob("*.mp4"))]
        if task == TASKS[-1]:
            assert now[0] > written[task][0] and now[1] == written[task][1]
        else:
            assert now == written[task]


def test_sentences_of_the_grammar():
    """In large letters, as the synthetic corpus writes them, or in small ones, as GRID does."""
    for text in ("bin blue at F two now", "place green with l one soon\n"):
        assert in_grammar(text)
    for text in ("bin blue at W two now", "bin blue at f two", "hello world this is a test"):
        assert not in_grammar(text)
