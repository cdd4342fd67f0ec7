"""Clips from anywhere: each is read, or named with the reason, and the run goes on."""
from pathlib import Path

import numpy as np
import pytest

import data
from test_shapes import check_clip, command

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "clips"
TEXT = "bin blue at f two now"


def ffmpeg(*arguments):
    data.run_ffmpeg("test", *arguments)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    clip = data.SyntheticCorpus("test", 3)[0]
    path = tmp_path_factory.mktemp("original") / "clip.mp4"
    data.write_clip(path, clip.video, clip.audio, 16000)
    return path, clip


READ = {                                                  # name -> how ffmpeg makes it of a good clip
    "30fps.mp4": ("-r", 30), "50fps.mkv": ("-r", 50), "12fps.avi": ("-r", 12, "-c:a", "pcm_s16le"), "8kHz.mp4": ("-ar", 8000),
    "48kHz_stereo.mov": ("-ar", 48000, "-ac", 2), "odd.avi": ("-vf", "scale=101:77", "-c:v", "mjpeg", "-pix_fmt", "yuvj444p"),
    "grey.mkv": ("-pix_fmt", "gray", "-c:v", "ffv1"), "tall.webm": ("-vf", "scale=48:202", "-c:v", "libvpx", "-c:a", "libopus"),
    "GROSS.MP4": (), "ünïcode ☺.mp4": (), "two words.mpg": ("-c:v", "mpeg1video", "-c:a", "mp2", "-r", 25), "-dash.mp4": ()}
NAMED = {                                                 # name -> how, and the reason that is given
    "mute.mp4": (("-an",), "no audio stream"), "blind.mp4": (("-vn",), "no video stream"),
    "two_frames.mp4": (("-frames:v", 2), "too short: 0.08 s"), "long.mp4": (("-vf", "tpad=stop_mode=clone:stop_duration=40", "-af", "apad", "-t", 35), "too long")}


def test_what_can_be_read(original, tmp_path):
    path, clip = original
    for name, options in READ.items():
        ffmpeg("-i", path, *options, f"file:{tmp_path / name}")
        (tmp_path / name).with_suffix(".txt").write_text(TEXT)
    (tmp_path / "GROSS.txt").write_text("\ufeff  Bin BLUE\r\nat f — two, now ☺ \n", encoding="utf-8")
    store = data.cache_clips(data.ClipFolder(tmp_path, "all"), 100, tmp_path / "cache")
    assert not store.skipped and len(store) == len(READ)
    for i in range(len(store)):
        found = store[i]
        n = min(len(clip.video), len(found.video))
        assert abs(len(found.video) - len(clip.video)) <= 3, found.name
        assert found.video.shape[1:] == (64, 64, 3) and found.audio.shape == (640 * len(found.video),)
        loudness = lambda audio: np.abs(audio[:n * 640]).reshape(-1, 640).mean(1)
        ours, true = loudness(found.audio), loudness(clip.audio)                         # some containers begin a frame or two later
        assert max(np.corrcoef(ours[late:], true[:n - late])[0, 1] for late in range(3)) > 0.95, found.name
        if "tall" not in found.name:                      # its centre square is another part of the picture
            assert np.abs(found.video[:n].mean((1, 2, 3)).astype(float) - clip.video[:n].mean((1, 2, 3))).max() < 25, found.name
    assert {store[i].text for i in range(len(store))} == {TEXT, "Bin BLUE at f — two, now ☺"}


def test_what_can_not_is_named(original, tmp_path):
    path, _ = original
    for name, (options, _) in NAMED.items():
        ffmpeg("-i", path, *options, f"file:{tmp_path / name}")
        (tmp_path / name).with_suffix(".txt").write_text(TEXT)
    whole = path.read_bytes()
    others = {"empty.mp4": (b"", "is empty"), "truncated.mp4": (whole[:len(whole) // 2], "truncated"), "picture.mp4": (b"\x89PNG" + bytes(100), "ffmpeg"),
              "sentence.mp4": (b"hello", "ffmpeg")}
    ffmpeg("-i", path, f"file:{tmp_path / 'whole.mkv'}")
    others["truncated.mkv"] = ((tmp_path / "whole.mkv").read_bytes()[:20000], "truncated")
    (tmp_path / "whole.mkv").unlink()
    texts = {"mumble.mp4": "...", "novel.mp4": "word " * 5000, "japanese.mp4": "こんにちは"}
    for name, (content, _) in others.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).with_suffix(".txt").write_text(TEXT)
    for name, text in texts.items():
        (tmp_path / name).write_bytes(whole)
        (tmp_path / name).with_suffix(".txt").write_text(text, encoding="utf-8")
    (tmp_path / "latin1.mp4").write_bytes(whole)
    (tmp_path / "latin1.txt").write_bytes("zéro".encode("latin-1"))
    (tmp_path / "good.mp4").write_bytes(whole)
    (tmp_path / "good.txt").write_text(TEXT)
    store = data.cache_clips(data.ClipFolder(tmp_path, "all"), 100, tmp_path / "cache")
    assert [store[i].name for i in range(len(store))] == ["good"]
    reasons = {name: reason for name, (_, reason) in (NAMED | others).items()}
    reasons |= {"mumble.mp4": "nothing to say", "japanese.mp4": "nothing to say", "novel.mp4": "24999 characters", "latin1.mp4": "text can't be used"}
    for name, reason in reasons.items():
        lines = [line for line in store.skipped if f"{name}: " in line]
        assert len(lines) == 1 and reason in lines[0] and "\n" not in lines[0], (name, store.skipped)


@pytest.mark.parametrize("content, message", [((), "no clips in it or below it; looked for"), (("broken.mp4",), "none of the 1 clips can be used")])
def test_a_folder_without_a_usable_clip(tmp_path, content, message):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in content:
        (folder / name).write_text("not a video")
        (folder / name).with_suffix(".txt").write_text(TEXT)
    words = command("train.py", "--config", "tiny", "--data", folder, "--out_dir", tmp_path / "out", fails=True)
    assert message in words and "Traceback" not in words


def test_broken_clips_are_named(tmp_path):
    clip = data.SyntheticCorpus("test", 3)[0]
    data.write_clip(tmp_path / "good.mp4", clip.video, clip.audio, 16000)
    data.write_clip(tmp_path / "mute.mp4", clip.video, None, 16000)
    data.write_clip(tmp_path / "short.mp4", clip.video[:3], clip.audio[:1920], 16000)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "wrong.MP4").write_text("not a video")
    for name in ("good", "mute", "short", "empty", "wrong"):
        (tmp_path / f"{name}.txt").write_text("bin blue at f two now")
    data.write_clip(tmp_path / "untold.mp4", clip.video, clip.audio, 16000)
    store = data.cache_clips(data.ClipFolder(tmp_path, "all"), 100, tmp_path / "cache")
    assert len(store) == 1 and store[0].name == "good" and len(store[0].video) == len(clip.video)
    assert store[0].audio.shape == clip.audio.shape and np.corrcoef(store[0].audio, clip.audio)[0, 1] > 0.99
    why = "\n".join(store.skipped)
    for name, reason in (("mute", "no audio"), ("short", "too short: 0.12 s"), ("empty", "is empty"), ("wrong", "ffmpeg"), ("untold", "no text")):
        assert any(f"{name}." in line and reason in line for line in store.skipped), why
    (tmp_path / "good.mp4").unlink()
    with pytest.raises(ValueError, match="none of the 5"):
        data.cache_clips(data.ClipFolder(tmp_path, "all"), 100, tmp_path / "cache2")
    with pytest.raises(ValueError, match="no clips in it"):
        data.ClipFolder(tmp_path / "cache")


@pytest.mark.skipif(not CLIPS.exists(), reason="../shared/clips (four raw GRID clips) is absent")
def test_raw_clips():
    folder = data.ClipFolder(CLIPS, "all", crop=(100, 60, 200))
    assert len(folder) == 4
    clip = next(folder[i] for i in range(4) if folder.paths[i].stem == "bbaf2n")
    assert clip.video.shape == (75, 64, 64, 3) and clip.audio.shape == (75 * 640,) and clip.text == "bin blue at f two now"
    assert clip.video.std() > 20 and 0.01 < clip.audio.std() < 0.5


def test_real_clips_end_to_end(tmp_path):
    """A folder of clips, one of them broken, through every stage."""
    folder = tmp_path / "clips"
    for i in range(5):
        clip = data.SyntheticCorpus("train", 8)[i]
        data.write_clip(folder / f"{i}.mp4", clip.video, clip.audio, 16000)
        (folder / f"{i}.txt").write_text(clip.text)
    (folder / "broken.mp4").write_text("not a video")
    words = command("train.py", "--config", "tiny", "--data", folder, "--out_dir", tmp_path / "out", "--crop", "8,8,240")
    assert "broken.mp4" in words
    check_clip(tmp_path / "out" / "sample.mp4")
    assert "other settings" in command("train.py", "--config", "tiny", "--out_dir", tmp_path / "out", fails=True)
    assert "no such folder" in command("train.py", "--config", "tiny", "--data", tmp_path / "nowhere", "--out_dir", tmp_path / "o", fails=True)
