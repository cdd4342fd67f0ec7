"""Unusual and broken files: each is read, or named with the reason, and the run goes on. And what a
ClipStore keeps of them."""
import json
from pathlib import Path

import numpy as np
import pytest

import data
from engine.media import read_about, run_ffmpeg, write_clip
from tests.helpers import check_clip, command

RAW_CLIPS = Path(__file__).resolve().parents[2] / "shared" / "clips"
TEXT = "bin blue at f two now"

READ = {                                # name -> how ffmpeg makes it of a good clip
    "30fps.mp4": ("-r", 30),
    "50fps.mkv": ("-r", 50),
    "12fps.avi": ("-r", 12, "-c:a", "pcm_s16le"),
    "8kHz.mp4": ("-ar", 8000),
    "48kHz_stereo.mov": ("-ar", 48000, "-ac", 2),
    "odd.avi": ("-vf", "scale=101:77", "-c:v", "mjpeg", "-pix_fmt", "yuvj444p"),
    "grey.mkv": ("-pix_fmt", "gray", "-c:v", "ffv1"),
    "tall.webm": ("-vf", "scale=48:202", "-c:v", "libvpx", "-c:a", "libopus"),
    "GROSS.MP4": (),
    "ünïcode ☺.mp4": (),
    "two words.mpg": ("-c:v", "mpeg1video", "-c:a", "mp2", "-r", 25),
    "-dash.mp4": (),
}
LONG = ("-vf", "tpad=stop_mode=clone:stop_duration=40", "-af", "apad", "-t", 35)
NAMED = {                               # name -> how, and the reason that is given
    "mute.mp4": (("-an",), "no audio stream"),
    "blind.mp4": (("-vn",), "no video stream"),
    "two_frames.mp4": (("-frames:v", 2), "too short: 0.08 s"),
    "long.mp4": (LONG, "too long"),
}


def ffmpeg(*arguments):
    run_ffmpeg("test", *arguments)


def cache_all(folder):
    return data.cache_clips(data.ClipFolder(folder, "all"), 100, folder / "cache")


def loudness(audio, frames):
    """(n,) -> the mean magnitude of each of the first frames."""
    return np.abs(audio[:frames * 640]).reshape(-1, 640).mean(1)


def brightness(video, frames):
    return video[:frames].mean((1, 2, 3)).astype(float)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    clip = data.SyntheticCorpus("test", 3)[0]
    path = tmp_path_factory.mktemp("original") / "clip.mp4"
    write_clip(path, clip.video, clip.audio, 16000)
    return path, clip


def test_what_can_be_read(original, tmp_path):
    path, clip = original
    for name, options in READ.items():
        ffmpeg("-i", path, *options, f"file:{tmp_path / name}")
        (tmp_path / name).with_suffix(".txt").write_text(TEXT)
    other = "\ufeff  Bin BLUE\r\nat f — two, now ☺ \n"
    (tmp_path / "GROSS.txt").write_text(other, encoding="utf-8")

    store = cache_all(tmp_path)
    assert not store.skipped and len(store) == len(READ)
    for i in range(len(store)):
        found = store[i]
        assert found.speaker is None and found.tracks is None and found.opening is None
        assert abs(len(found.video) - len(clip.video)) <= 3, found.name
        assert found.video.shape[1:] == (64, 64, 3), found.name
        assert found.audio.shape == (640 * len(found.video),), found.name
        # Some containers begin a frame or two later.
        n = min(len(clip.video), len(found.video))
        ours, true = loudness(found.audio, n), loudness(clip.audio, n)
        alike = max(np.corrcoef(ours[late:], true[:n - late])[0, 1] for late in range(3))
        assert alike > 0.95, found.name
        # The central square of the tall one is another part of the picture.
        if "tall" not in found.name:
            difference = np.abs(brightness(found.video, n) - brightness(clip.video, n))
            assert difference.max() < 25, found.name
    texts = {store[i].text for i in range(len(store))}
    assert texts == {TEXT, "Bin BLUE at f — two, now ☺"}


def test_what_can_not_is_named(original, tmp_path):
    path, _ = original
    reasons = {}

    def add(name, content, reason, text=TEXT.encode()):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        (tmp_path / name).with_suffix(".txt").write_bytes(text)
        reasons[name] = reason

    # Videos that can't be used ...
    for name, (options, reason) in NAMED.items():
        ffmpeg("-i", path, *options, f"file:{tmp_path / name}")
        add(name, None, reason)
    whole = path.read_bytes()
    ffmpeg("-i", path, f"file:{tmp_path / 'whole.mkv'}")
    mkv = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "whole.mkv").unlink()
    add("empty.mp4", b"", "is empty")
    add("truncated.mp4", whole[:len(whole) // 2], "truncated")
    add("truncated.mkv", mkv[:20000], "truncated")
    add("picture.mp4", b"\x89PNG" + bytes(100), "ffmpeg")
    add("sentence.mp4", b"hello", "ffmpeg")

    # ... and texts.
    add("mumble.mp4", whole, "nothing to say", b"...")
    add("japanese.mp4", whole, "nothing to say", "こんにちは".encode())
    add("novel.mp4", whole, "24999 characters", b"word " * 5000)
    add("latin1.mp4", whole, "text can't be used", "zéro".encode("latin-1"))
    (tmp_path / "good.mp4").write_bytes(whole)
    (tmp_path / "good.txt").write_text(TEXT)

    store = cache_all(tmp_path)
    assert [store[i].name for i in range(len(store))] == ["good"]
    for name, reason in reasons.items():
        lines = [line for line in store.skipped if f"{name}: " in line]
        assert len(lines) == 1 and reason in lines[0], (name, store.skipped)
        assert "\n" not in lines[0], (name, store.skipped)


@pytest.mark.parametrize("content, message", [
    ((), "no clips in it or below it; looked for"),
    (("broken.mp4",), "none of the 1 clips can be used")])
def test_a_folder_without_a_usable_clip(tmp_path, content, message):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in content:
        (folder / name).write_text("not a video")
        (folder / name).with_suffix(".txt").write_text(TEXT)
    words = command("train.py", "--config", "tiny", "--data", folder,
                    "--out_dir", tmp_path / "out", fails=True)
    assert message in words and "Traceback" not in words


def test_broken_clips_are_named(tmp_path):
    clip = data.SyntheticCorpus("test", 3)[0]
    write_clip(tmp_path / "good.mp4", clip.video, clip.audio, 16000)
    write_clip(tmp_path / "mute.mp4", clip.video, None, 16000)
    write_clip(tmp_path / "short.mp4", clip.video[:3], clip.audio[:1920], 16000)
    write_clip(tmp_path / "untold.mp4", clip.video, clip.audio, 16000)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "wrong.MP4").write_text("not a video")
    for name in ("good", "mute", "short", "empty", "wrong"):
        (tmp_path / f"{name}.txt").write_text(TEXT)

    store = cache_all(tmp_path)
    assert len(store) == 1 and store[0].name == "good"
    assert len(store[0].video) == len(clip.video) and store[0].audio.shape == clip.audio.shape
    assert np.corrcoef(store[0].audio, clip.audio)[0, 1] > 0.99
    reasons = dict(mute="no audio", short="too short: 0.12 s", empty="is empty", wrong="ffmpeg",
                   untold="no text")
    for name, reason in reasons.items():
        assert any(f"{name}." in line and reason in line for line in store.skipped), store.skipped

    found = list(data.usable(data.ClipFolder(tmp_path, "all")))
    assert [clip.name for clip in found] == ["good"]
    (tmp_path / "good.mp4").unlink()
    broken = data.ClipFolder(tmp_path, "all")
    with pytest.raises(ValueError, match="none of the 5"):
        data.cache_clips(broken, 100, tmp_path / "cache2")
    with pytest.raises(ValueError, match="none of the 5"):
        list(data.usable(broken))
    assert list(data.usable(broken, needed=False)) == []
    with pytest.raises(ValueError, match="no clips in it"):
        data.ClipFolder(tmp_path / "cache")


def test_a_store_keeps_the_tracks(tmp_path):
    corpus = data.SyntheticCorpus("dev", 4)
    store = data.cache_clips(corpus, 4, tmp_path)
    for i in range(4):
        clip, kept = corpus[i], store[i]
        assert (kept.name, kept.text, kept.speaker) == (clip.name, clip.text, clip.speaker)
        assert list(kept.tracks) == list(clip.tracks)
        for name, track in clip.tracks.items():
            assert track.shape == (len(clip.video),) and track.dtype == np.float32
            assert np.array_equal(kept.tracks[name], track)
        assert np.array_equal(kept.opening, clip.tracks["opening"])

    # What is there is reused, but not a store of another format.
    written = (tmp_path / "video.u8").stat().st_mtime_ns
    data.cache_clips(corpus, 4, tmp_path)
    assert (tmp_path / "video.u8").stat().st_mtime_ns == written
    index = json.loads((tmp_path / "index.json").read_text())
    del index["format"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="no finished cache"):
        data.ClipStore(tmp_path)
    assert np.array_equal(data.cache_clips(corpus, 4, tmp_path)[3].opening, corpus[3].opening)
    assert (tmp_path / "video.u8").stat().st_mtime_ns != written


@pytest.mark.skipif(not RAW_CLIPS.exists(), reason="no shared/clips (four raw GRID clips)")
def test_raw_clips():
    folder = data.ClipFolder(RAW_CLIPS, "all", crop=(100, 60, 200))
    assert len(folder) == 4
    clip = next(folder[i] for i in range(4) if folder.paths[i].stem == "bbaf2n")
    assert clip.video.shape == (75, 64, 64, 3) and clip.audio.shape == (75 * 640,)
    assert clip.text == "bin blue at f two now"
    assert clip.video.std() > 20 and 0.01 < clip.audio.std() < 0.5


def test_real_clips_end_to_end(tmp_path):
    """A folder of clips, one of them broken, through every stage."""
    folder = tmp_path / "clips"
    corpus = data.SyntheticCorpus("train", 8)
    for i in range(5):
        clip = corpus[i]
        write_clip(folder / f"{i}.mp4", clip.video, clip.audio, 16000)
        (folder / f"{i}.txt").write_text(clip.text)
    (folder / "broken.mp4").write_text("not a video")

    out = tmp_path / "out"
    train = ("train.py", "--config", "tiny")
    words = command(*train, "--data", folder, "--out_dir", out, "--crop", "8,8,240")
    assert "broken.mp4" in words
    check_clip(out / "sample.mp4")
    assert "AI-generated" in read_about(out / "sample.mp4")
    assert "other settings" in command(*train, "--out_dir", out, fails=True)
    words = command(*train, "--data", tmp_path / "nowhere", "--out_dir", tmp_path / "o", fails=True)
    assert "no such folder" in words
