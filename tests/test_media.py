"""Files of other people (engine/media.py, engine/streaming.py): channels, offsets, damage, pixels,
transparency, metadata, and an mp4 that is written while it plays."""
import subprocess

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

import data
from engine.media import (BrokenClip, fitting_crop, generated, look, read_about, read_audio,
                          read_picture, read_video, run_ffmpeg, write_clip)
from engine.streaming import StreamWriter, write_stream

RATE = 16000


def ffmpeg(*arguments):
    run_ffmpeg("test", *arguments)


@pytest.fixture(scope="module")
def clip():
    return data.SyntheticCorpus("test", 1)[0]


@pytest.fixture(scope="module")
def mp4(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "clip.mp4"
    write_clip(path, clip.video, clip.audio, RATE)
    return path


def reason(function, *arguments) -> str:
    with pytest.raises(BrokenClip) as caught:
        function(*arguments)
    return caught.value.reason


# ------------------------------------------------------------------------------------- the sound
@pytest.mark.parametrize("layout", ["stereo", "5.1", "quad"])
def test_channels_are_averaged(clip, tmp_path, layout):
    """Channels that are all alike sound as one of them does, and are not clipped."""
    loud = (clip.audio / np.abs(clip.audio).max()).astype(np.float32)
    soundfile.write(tmp_path / "mono.wav", loud, RATE)
    count = {"stereo": 2, "5.1": 6, "quad": 4}[layout]
    copies = "|".join(f"c{i}=c0" for i in range(count))
    ffmpeg("-i", tmp_path / "mono.wav", "-af", f"pan={layout}|{copies}", tmp_path / "many.wav")
    one, many = (read_audio(tmp_path / name, RATE) for name in ("mono.wav", "many.wav"))
    assert np.abs(one - many).max() < 1e-3 and np.abs(one).max() > 0.9


def test_what_is_too_loud_is_turned_down(tmp_path):
    """A file of floating-point numbers may hold any: its form stays."""
    wave = np.sin(np.arange(RATE) / 20).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", 5 * wave, RATE, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "loud.wav", RATE) - wave).max() < 1e-3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_the_fault_of_the_input(tmp_path, value):
    wave = np.full(RATE, 0.1, np.float32)
    wave[100] = value
    soundfile.write(tmp_path / "bad.wav", wave, RATE, subtype="FLOAT")
    assert "not finite" in reason(read_audio, tmp_path / "bad.wav", RATE)


def test_silence_is_named_and_the_default_track_is_taken(clip, mp4, tmp_path):
    """Of two tracks the first is silent, and the second is the default one."""
    ffmpeg("-i", mp4, "-f", "lavfi", "-t", 1, "-i", "anullsrc=r=16000:cl=mono",
           "-map", "0:v", "-map", "1:a", "-map", "0:a", "-c:v", "copy", "-c:a", "aac",
           "-disposition:a:0", 0, "-disposition:a:1", "default", tmp_path / "two.mp4")
    assert np.corrcoef(read_audio(tmp_path / "two.mp4", RATE)[:9000],
                       read_audio(mp4, RATE)[:9000])[0, 1] > 0.99
    ffmpeg("-i", mp4, "-af", "volume=0", "-c:v", "copy", tmp_path / "silent.mp4")
    assert "silent" in reason(read_audio, tmp_path / "silent.mp4", RATE)
    assert "silent" in reason(data.read_clip, tmp_path / "silent.mp4", 64, RATE)
    assert not read_audio(tmp_path / "silent.mp4", RATE, silent=True).any()


@pytest.mark.parametrize("name, codecs", [
    ("late.mp4", ("libx264", "aac")), ("late.mkv", ("libx264", "aac")),
    ("late.mpg", ("mpeg1video", "mp2")), ("late.ts", ("mpeg2video", "mp2"))])
def test_sound_that_begins_late_stays_late(clip, mp4, tmp_path, name, codecs):
    """Half a second, in every container."""
    ffmpeg("-i", mp4, "-itsoffset", 0.5, "-i", mp4, "-map", "0:v", "-map", "1:a", "-r", 25,
           "-c:v", codecs[0], "-c:a", codecs[1], tmp_path / name)
    found = read_audio(tmp_path / name, RATE)
    true = read_audio(mp4, RATE)
    n = min(len(found), len(true)) - RATE // 2
    scores = {late: np.dot(found[late:late + n - 800], true[:n - 800])
              for late in range(7000, 8800, 20)}
    assert abs(max(scores, key=scores.get) - RATE // 2) <= 0.02 * RATE


def test_channels_that_change_in_the_middle(mp4, tmp_path):
    """Half of the sound would come out late, so the clip is named."""
    for name, channels in (("one", 1), ("two", 2)):
        ffmpeg("-i", mp4, "-c:v", "libx264", "-c:a", "aac", "-ac", channels, "-t", 1,
               tmp_path / f"{name}.mkv")
    (tmp_path / "list.txt").write_text("file 'one.mkv'\nfile 'two.mkv'\n")
    ffmpeg("-f", "concat", "-i", tmp_path / "list.txt", "-c", "copy", tmp_path / "both.mkv")
    assert reason(data.read_clip, tmp_path / "both.mkv", 64, RATE)


# ---------------------------------------------------------------------------------- the pictures
def test_pixels_that_are_not_square(mp4, tmp_path):
    """They are shown as a player shows them, and a crop is in displayed pixels."""
    ffmpeg("-i", mp4, "-vf", "scale=640:360,setsar=1", "-crf", 10, "-t", 1, tmp_path / "wide.mp4")
    ffmpeg("-i", tmp_path / "wide.mp4", "-vf", "scale=480:360,setsar=4/3", "-crf", 10,
           tmp_path / "narrow.mp4")
    for crop in (None, (100, 40, 280)):
        square, other = (read_video(tmp_path / name, 64, crop).astype(float)
                         for name in ("wide.mp4", "narrow.mp4"))
        assert np.abs(square - other).mean() < 2


@pytest.mark.parametrize("transfer", ["arib-std-b67", "smpte2084"])
def test_hdr_is_named(mp4, tmp_path, transfer):
    colours = f"color_trc={transfer}:color_primaries=bt2020:colorspace=bt2020nc"
    ffmpeg("-i", mp4, "-t", 1, "-vf", f"setparams={colours}", "-c:v", "libx264",
           "-pix_fmt", "yuv420p10le", tmp_path / "hdr.mp4")
    assert "HDR" in reason(read_video, tmp_path / "hdr.mp4", 64)


def test_a_crop_belongs_to_a_size(mp4, tmp_path, capsys):
    crop = (0, 0, 128, "256x256")
    assert fitting_crop(mp4, crop) == crop
    assert read_video(mp4, 32, crop).shape[1:] == (32, 32, 3)
    ffmpeg("-i", mp4, "-vf", "scale=320:320", tmp_path / "other.mp4")
    assert fitting_crop(tmp_path / "other.mp4", crop) is None
    assert "320x320" in capsys.readouterr().err
    assert "256x256" in reason(read_video, tmp_path / "other.mp4", 32, crop)


def test_hidden_colours_do_not_show(tmp_path):
    """What is transparent is white, whatever colour lies below; half of it is half white."""
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., 0] = 255
    picture[:, 32:, 3] = 255
    imageio.imwrite(tmp_path / "face.png", picture)
    found = read_picture(tmp_path / "face.png", 64)
    assert np.abs(found[:, :28].astype(int) - 255).max() <= 2
    assert np.abs(found[:, 36:].astype(int) - (255, 0, 0)).max() <= 3
    # An opaque one stays as it is.
    plain = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    imageio.imwrite(tmp_path / "plain.png", plain)
    assert np.abs(read_picture(tmp_path / "plain.png", 64).astype(int) - plain).max() <= 2


# ------------------------------------------------------------------------------------ the damaged
def test_damaged_files_are_named(mp4, tmp_path):
    ffmpeg("-i", mp4, "-c:v", "mpeg1video", "-b:v", "2M", "-c:a", "mp2", "-r", 25,
           tmp_path / "whole.mpg")
    ffmpeg("-i", mp4, "-c:a", "aac", tmp_path / "whole.mp4")
    assert len(data.read_clip(tmp_path / "whole.mpg", 64, RATE).video) > 20
    for name, share in (("whole.mpg", 0.15), ("whole.mp4", 0.2)):
        content = bytearray((tmp_path / name).read_bytes())
        start = len(content) * 2 // 5
        length = int(len(content) * share)
        content[start:start + length] = bytes(length)
        (tmp_path / f"zero_{name}").write_bytes(content)
        assert "damaged" in reason(data.read_clip, tmp_path / f"zero_{name}", 64, RATE)


def test_a_long_film_is_not_read(mp4, monkeypatch):
    """Its headers say how long it is. Where they say nothing, reading ends soon after the limit."""
    seconds = look(mp4).seconds
    assert seconds == pytest.approx(len(read_video(mp4, 16)) / 25, abs=0.05)
    assert "too long" in reason(read_video, mp4, 16, None, seconds - 1.5)
    assert len(read_audio(mp4, RATE, 0.5)) == RATE // 2


# ------------------------------------------------------------------------------------- the written
def test_files_say_that_they_are_generated(clip, tmp_path):
    write_clip(tmp_path / "a.mp4", clip.video[:5], None, RATE, about=generated(7))
    assert "AI-generated" in read_about(tmp_path / "a.mp4")
    assert "seed 7" in read_about(tmp_path / "a.mp4")
    write_clip(tmp_path / "b.mp4", clip.video[:5], None, RATE)
    assert read_about(tmp_path / "b.mp4") == ""


def packets(path, *options) -> np.ndarray:
    """Times of the packets of the video, in ticks, as ffmpeg's framecrc lists them."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-map", "0:v",
               *options, "-f", "framecrc", "-"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return np.array([int(line.split(",")[2]) for line in lines if line[0] != "#"])


def test_a_streamed_mp4_plays_what_was_written(tmp_path):
    """Every frame is shown once, in equal steps, and a flash and a click in one frame stay
    together."""
    marks = (10, 35, 60)
    video = np.full((72, 64, 64, 3), 40, np.uint8)
    audio = np.zeros((72, RATE // 25), np.float32)
    for mark in marks:
        video[mark] = 250
        audio[mark, :200] = 0.9 * np.sin(np.arange(200))
    writer = StreamWriter(tmp_path / "s.mp4", 64, 64, RATE, about=generated(3))
    for start in range(0, 72, 4):
        writer.add(video[start:start + 4], audio[start:start + 4].ravel())
    writer.close()

    # As many pictures as packets, all of the same length.
    coded = packets(tmp_path / "s.mp4", "-c", "copy")
    shown = packets(tmp_path / "s.mp4", "-fps_mode", "passthrough")
    assert len(coded) == len(shown) == 72
    assert len(set(np.diff(np.sort(coded)))) == 1 and len(set(np.diff(shown))) == 1
    seen = read_video(tmp_path / "s.mp4", 16).mean((1, 2, 3))
    heard = read_audio(tmp_path / "s.mp4", RATE)
    assert len(seen) == 72
    for mark in marks:
        window = slice(max(0, (mark - 8) * 640), (mark + 8) * 640)
        click = window.start + np.flatnonzero(np.abs(heard[window]) > 0.3)[0]
        flash = mark - 8 + seen[mark - 8:mark + 8].argmax()
        assert flash == mark
        assert abs(click / RATE - flash / 25) < 0.02
    assert "seed 3" in read_about(tmp_path / "s.mp4")


def test_what_was_made_before_an_error_is_streamed_to_its_end(tmp_path):
    def pieces():
        for brightness in range(0, 240, 20):
            yield np.full((4, 64, 64, 3), brightness, np.uint8), np.zeros(4 * 640, np.float32)
        raise ValueError("the second sentence is empty")

    with pytest.raises(ValueError, match="second sentence"):
        write_stream(tmp_path / "s.mp4", pieces(), RATE)
    assert len(imageio.imread(tmp_path / "s.mp4")) == 48
