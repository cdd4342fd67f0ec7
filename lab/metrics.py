"""How good are the clips? Folders of clips in, one table out: ground truth, autoencoder round trip,
generated clips, and controls.

    python -m lab.metrics --truth T --generated G0 G1 [--also A2V V2A ...] [--fit F]
                          [--roundtrip R] [--refs F2] [--json out.json]

A folder holds NAME.mp4 and, where it is ground truth, NAME.txt (the sentence) and, if known,
NAME.npy (the true opening of the mouth, (T,) float32). A name that ends in _s007 says speaker 7.

    T, R, G, A  all hold the same names: the ground truth, its round trip, generated clips (one
                folder per sampling seed), other clips (--also, a row each). Rows are over the
                clips that all folders have; the rest is counted and named.
    F           ground truth with other sentences of the same speakers: 300 clips or more of the
                train split. Whatever is fitted here is fitted on F.
    F2          clips of the speakers to choose from, where they are not F's: unseen speakers.

In every function a video is (T, 64, 64, 3) uint8 at 25 fps and audio (n,) float32 at 16 kHz. What
the numbers are:

word errors   percent of words that pocketsphinx, held to the grammar of the six-word sentence,
              recognises otherwise, position by position; also by slot. Nothing recognised is six
              errors.
sync r        correlation over a clip of the mouth opening read off the picture with that read off
              the sound, mean over clips; a constant reading counts as 0. The two probes are fitted
              on F; their r with the ground truth on held-out clips is printed. Real clips have no
              true opening: it is then what `fit_opening` reads off the picture.
lag, r there  the shift in frames (-5 to 5, positive: the picture is late) with the highest mean r,
              and that r.
frames        mean length; x truth, length r, length error: ratio to the ground truth's,
              correlation with it, mean absolute error in frames.
RMS, silent   level of the sound, full scale 1, mean over clips; percent of clips below 0.005.
voice, looks  percent of clips that are nearest to the right speaker, in units of the variation
              within speakers. Voice: mean and deviation of the voiced log-mel spectrum, median
              log2 pitch. Looks: the mean picture at 16x16. Chance is 1 in 32.
blinks        how often the eyes close, per minute: closed is where less than 30 % of the white
              pixels are left that the clip has at its median. Of the synthetic face alone. On 120
              dev clips it found 158 where the synthesizer made 157, and r was .997.
PSNR, mouth   dB at 64x64 over all frames but each clip's first (which may be given), of the whole
              picture and of the mouth box; round trip only. Both clips come from mp4s, which are
              not lossless: enlarged to 256 and coded at crf 14, the ground truth is 35.5 dB (mouth
              34.6) from its original. It loses the same on both sides, so the figure is too high: a
              round trip of 31.7 dB in pixels reads 33.0, white noise of 30.0 reads 33.0. Compare
              such figures with each other only.

Controls: a mismatched row joins the sound of a clip with the picture and the text of another
sentence. It is the floor. Samples of one text resemble each other in timing, so the last row joins
the sound of one seed with the picture of another: only the sync above it is coupling. The probes
err a little, so the ceiling of sync is the row of the ground truth, not 1.

Axis letters: T frames, n audio samples, R rows of a spectrogram (100 per second), N rows or clips,
D features.
"""
import argparse
import functools
import json
import re
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

from engine.media import BrokenClip, read_audio, read_video     # before torch
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from tqdm import tqdm

from data import Clip
from engine.workers import parallel
from english.sentences import GRID
from model import FPS

SIZE = 64
SAMPLE_RATE = 16000
WHOLE = (slice(None), slice(None), slice(None))
MOUTH = (slice(None), slice(38, 56), slice(18, 46))     # the mouth box of the synthetic corpus
EYES = (slice(None), slice(20, 36), slice(12, 52))      # the box of its eyes
WHITE = 190                                             # of the darkest of the three colours
LAGS = range(-5, 6)
SILENT = 0.005
SLOTS = ("command", "colour", "preposition", "letter", "digit", "adverb")


# -------------------------------------------------------------------------------------- folders
def clip_names(folder: Path | str) -> list[str]:
    """Sorted names of the clips in a folder. ValueError if it has none."""
    names = sorted(path.stem for path in Path(folder).glob("*.mp4"))
    if not names:
        raise ValueError(f"{folder}: there are no .mp4 clips in it. `python -m lab.export --out "
                         f"{folder}` writes true ones")
    return names


def speaker_of(name: str) -> int | None:
    """'test_00012_s007' -> 7; None if the name doesn't say."""
    found = re.search(r"_s(\d+)$", name)
    return int(found[1]) if found else None


def read_named(folder: Path | str, name: str) -> Clip | BrokenClip:
    """One clip of a folder, with the text and the true opening that lie beside it: text '' and
    tracks None where there is no such file."""
    path = Path(folder) / f"{name}.mp4"
    try:
        video = read_video(path, SIZE)
        audio = read_audio(path, SAMPLE_RATE, silent=True)
    except BrokenClip as error:
        return error
    # NOTE: a name may hold a dot, so the endings are appended and not exchanged.
    text_path = Path(folder) / f"{name}.txt"
    opening_path = Path(folder) / f"{name}.npy"
    text = text_path.read_text(encoding="utf-8").strip() if text_path.exists() else ""
    tracks = {"opening": np.load(opening_path)} if opening_path.exists() else None
    return Clip(name, text, video, audio, speaker_of(name), tracks)


def load(folder: Path | str, names: list[str] | None = None) -> tuple[dict[str, Clip], list[str]]:
    """Clips of a folder (all, or these names) -> name -> Clip, and a line for each broken one."""
    names = clip_names(folder) if names is None else names
    # ffmpeg does the work, in processes of its own, so threads are enough.
    with ThreadPoolExecutor(2) as pool:
        reading = pool.map(functools.partial(read_named, folder), names)
        clips = list(tqdm(reading, desc=f"reading {Path(folder).name}", total=len(names),
                          unit="clip", leave=False))
    found = {clip.name: clip for clip in clips if isinstance(clip, Clip)}
    return found, [str(clip) for clip in clips if isinstance(clip, BrokenClip)]


# ---------------------------------------------------------------------------------------- words
def hear(decoder, sound: np.ndarray) -> list[str]:
    """The words that a decoder of pocketsphinx finds in a waveform (n,)."""
    # Without a faint noise at the end the last words are lost.
    noise = 5e-4 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE // 10)
    sound = np.concatenate((sound, noise)).clip(-1, 1)
    # Forget the clip before: the order must not matter.
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw((32767 * sound).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr.lower().split() if hypothesis else []


@functools.lru_cache
def grammar_decoder():
    """A decoder of pocketsphinx that is held to GRID's grammar: one word of each slot."""
    from pocketsphinx import Decoder
    decoder = Decoder(lm=None, loglevel="FATAL")

    # The dictionary's 'a' is first of all the article, so the letter gets a word of its own.
    decoder.add_word("letter_a", "EY", True)
    slots = []
    for words in GRID:
        choices = ["letter_a" if word == "A" else word.lower() for word in words]
        slots.append("(" + " | ".join(choices) + ")")
    rules = " ".join(slots)
    decoder.add_jsgf_string(
        "sentence", f"#JSGF V1.0; grammar sentence; public <sentence> = {rules};")
    decoder.activate_search("sentence")
    return decoder


def recognise_one(audios: list[np.ndarray], index: int) -> list[str]:
    words = [word.replace("letter_a", "a") for word in hear(grammar_decoder(), audios[index])]
    return words if len(words) == len(GRID) else []


def recognise(audios: list[np.ndarray]) -> list[list[str]]:
    """List of audio (n,) -> the words of each: six, or [] where nothing was recognised. Two
    processes. RuntimeError if pocketsphinx is not installed."""
    try:
        import pocketsphinx  # noqa: F401       for the message; the workers use it
    except ImportError:
        raise RuntimeError("word errors need pocketsphinx: pip install pocketsphinx") from None
    return list(parallel(recognise_one, audios, range(len(audios)), 2, "recognising"))


def in_grammar(text: str) -> bool:
    """Whether a text is a sentence of the grammar, such as 'bin blue at A one now', in large or
    small letters: word errors of other texts can't be measured."""
    words = text.lower().split()
    if len(words) != len(GRID):
        return False
    return all(word in " ".join(choices).lower().split() for word, choices in zip(words, GRID))


def wrong_words(heard: list[list[str]], texts: list[str]) -> np.ndarray:
    """What `recognise` returned, and n texts of the grammar -> (n, 6) bool, True where a word is
    wrong."""
    wrong = []
    for words, text in zip(heard, texts):
        true = text.lower().split()
        wrong.append([not words or words[slot] != word for slot, word in enumerate(true)])
    return np.array(wrong)


# ------------------------------------------------------------------------------------- features
def log_mel(audio: np.ndarray, bands=40) -> np.ndarray:
    """(n,) -> (R, bands), R = n // 160: natural logarithm of the power in mel bands, 100 rows per
    second. All clips are brought to one RMS first."""
    level = np.sqrt(np.mean(audio ** 2)) if len(audio) else 0
    audio = audio * (0.08 / max(level, 1e-4))

    # Row k is a window of 25 ms, centred on its 10 ms.
    rows = len(audio) // 160
    padded = np.pad(audio, (120, 400))
    frames = sliding_window_view(padded, 400)[::160][:rows] * np.hanning(400)   # (R, 400)

    # Triangular filters, equally spaced on the mel scale from 60 to 7600 Hz.
    lowest, highest = 2595 * np.log10(1 + np.array([60, 7600]) / 700)
    edges = 700 * (10 ** (np.linspace(lowest, highest, bands + 2) / 2595) - 1)
    hertz = np.fft.rfftfreq(512, 1 / SAMPLE_RATE)                               # (257,)
    low = edges[:-2, None]
    centre = edges[1:-1, None]
    high = edges[2:, None]
    rising = (hertz - low) / (centre - low)
    falling = (high - hertz) / (high - centre)
    triangular_filters = np.maximum(0, np.minimum(rising, falling))             # (bands, 257)

    power = np.abs(np.fft.rfft(frames, 512)) ** 2                               # (R, 257)
    return np.log(power @ triangular_filters.T + 1e-5)


def audio_context(audio: np.ndarray, reach=3) -> np.ndarray:
    """(n,) -> (T, 28 * 40): for each video frame, the log-mel rows of it and of `reach` frames on
    either side."""
    mel = log_mel(audio)                                                        # (R, 40)
    frames = len(mel) // 4
    width = 4 * (2 * reach + 1)
    if not frames:
        return np.zeros((0, width * mel.shape[1]), np.float32)
    mel = np.pad(mel, ((4 * reach, 4 * reach), (0, 0)), mode="edge")
    windows = sliding_window_view(mel, width, axis=0)[::4][:frames]             # (T, 40, width)
    return windows.reshape(frames, -1).astype(np.float32)


def mouth_pixels(video: np.ndarray) -> np.ndarray:
    """(T, 64, 64, 3) -> (T, 20 * 32 * 3): the mouth box and a margin."""
    return (video[:, 37:57, 16:48] / np.float32(255)).reshape(len(video), -1)


def lower_face(video: np.ndarray) -> np.ndarray:
    """(T, 64, 64, 3) -> (T, 20 * 24 * 3): the lower middle of the picture in blocks of 2x2, less
    its mean over the clip."""
    T = len(video)
    blocks = video[:, 24:, 8:56].reshape(T, 20, 2, 24, 2, 3)
    blocks = blocks.mean((2, 4), dtype=np.float32).reshape(T, -1) / 255         # (T, 20 * 24 * 3)
    return blocks - blocks.mean(0)


# --------------------------------------------------------------------------------------- probes
@dataclass
class Probes:
    """Two probes of the mouth opening, and the mean correlation of each with the ground truth on
    held-out clips."""

    video: Callable                         # (T, 64, 64, 3) uint8 -> (T,)
    audio: Callable                         # (n,) float32 -> (n // 640,)
    held_out: dict


def fit_ridge(inputs: np.ndarray, targets: np.ndarray, strength=1e-3) -> Callable:
    """(N, D), (N,) -> a function (N, D) -> (N,): linear regression, its ridge relative to the
    variance of the inputs."""
    mean = inputs.mean(0)
    deviation = inputs.std(0) + 1e-3
    scaled = (inputs - mean) / deviation                                        # (N, D)
    ridge = strength * len(scaled) * np.eye(scaled.shape[1], dtype=scaled.dtype)
    centred = targets - targets.mean()
    weights = np.linalg.solve(scaled.T @ scaled + ridge, scaled.T @ centred)    # (D,)

    def regression(rows: np.ndarray) -> np.ndarray:
        return (rows - mean) / deviation @ weights + targets.mean()
    return regression


def fit_network(inputs: np.ndarray, targets: np.ndarray, epochs=8, batch=256) -> Callable:
    """(N, D), (N,) -> a function (N, D) -> (N,): a small network, since a linear reading of the
    sound reaches only r = 0.92."""
    mean = inputs.mean(0)
    deviation = inputs.std(0) + 1e-3
    rows = torch.tensor((inputs - mean) / deviation)                            # (N, D)
    targets = torch.tensor(targets)                                             # (N,)

    # Seeded, and the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Dropout(0.2), torch.nn.Linear(rows.shape[1], 128), torch.nn.GELU(),
            torch.nn.Dropout(0.2), torch.nn.Linear(128, 128), torch.nn.GELU(),
            torch.nn.Linear(128, 1), torch.nn.Flatten(0))
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
        batches = []
        for _ in range(epochs):
            batches.extend(torch.randperm(len(rows)).split(batch))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=len(batches))
        for part in tqdm(batches, desc="fitting the audio probe", leave=False):
            loss = torch.nn.functional.mse_loss(network(rows[part]), targets[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval().requires_grad_(False)

    def regression(rows: np.ndarray) -> np.ndarray:
        return network(torch.tensor((rows - mean) / deviation)).numpy()
    return regression


def whiten(rows: np.ndarray, kept: int) -> np.ndarray:
    """(N, D) of zero mean -> (D, kept): the projection onto the leading principal components, each
    of unit variance."""
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    return vectors[:, -kept:] / np.sqrt(values[-kept:] + 1e-3 * values[-1])


def fit_opening(clips: list[Clip], kept=60) -> Callable:
    """True clips without a known opening -> a function (T, 64, 64, 3) -> (T,) that reads one off
    the picture.

    Of all linear readings of the lower face it is the one that the sound predicts best: the first
    pair of a canonical correlation analysis. It goes up where the sound is loud.
    """
    # Features of picture and sound, frame by frame. The sound may be a frame shorter.
    seen = np.concatenate([lower_face(clip.video) for clip in clips])           # (N, D)
    heard = []
    for clip in clips:
        frames = len(clip.video)
        rows = audio_context(clip.audio)[:frames]
        rows = np.pad(rows, ((0, frames - len(rows)), (0, 0)), mode="edge")
        heard.append(rows - rows.mean(0))
    heard = np.concatenate(heard)                                               # (N, D')

    # Canonical correlation: the singular vectors of the covariance of the whitened features.
    see = whiten(seen, kept)                                                    # (D, kept)
    hear = whiten(heard, kept)                                                  # (D', kept)
    first = np.linalg.svd((seen @ see).T @ (heard @ hear))[0][:, 0]             # (kept,)
    sign = np.sign((seen @ see @ first) @ heard.mean(1))
    reading = see @ first * sign                                                # (D,)
    return functools.partial(read_opening, reading)


def read_opening(reading: np.ndarray, video: np.ndarray) -> np.ndarray:
    """A linear reading (D,) of the lower face, and a video (T, 64, 64, 3) -> (T,)."""
    return lower_face(video) @ reading


def fit_probe(fit: Callable, features: list[np.ndarray], openings: list[np.ndarray]) -> Callable:
    """Features (T', D) and openings (T,) of several clips -> fit(rows, targets). The sound may be a
    frame shorter than the video, so both are cut to the shorter one."""
    rows = [x[:len(opening)] for x, opening in zip(features, openings)]
    targets = [opening[:len(x)] for x, opening in zip(features, openings)]
    return fit(np.concatenate(rows), np.concatenate(targets))


def fit_probes(clips: list[Clip]) -> Probes:
    """True clips -> Probes, fitted on four clips of five and held against the fifth. 20 s.

    Clips without NAME.npy (real ones) get the opening that `fit_opening` reads. ValueError if there
    are fewer than 20.
    """
    if len(clips) < 20:
        raise ValueError(
            f"the sync probes need true clips, 300 or more; found {len(clips)}. `python -m "
            "lab.export --out F --split train --speakers 0:32 --n 320` writes such a folder")

    # Without a true opening, the one that is read off the picture takes its place.
    opening_of = None
    if any(clip.opening is None for clip in clips):
        opening_of = fit_opening([clip for index, clip in enumerate(clips) if index % 5])
        clips = [replace(clip, tracks={"opening": opening_of(clip.video)}) for clip in clips]

    # Pictures: a ridge regression, or that reading itself. Sound: a small network.
    fitted = [clip for index, clip in enumerate(clips) if index % 5]
    openings = [clip.opening for clip in fitted]
    if opening_of is None:
        pixels = [mouth_pixels(clip.video) for clip in fitted]
        video_regression = fit_probe(fit_ridge, pixels, openings)
    contexts = [audio_context(clip.audio) for clip in fitted]
    audio_regression = fit_probe(fit_network, contexts, openings)

    def read_pictures(video: np.ndarray) -> np.ndarray:
        return video_regression(mouth_pixels(video))

    def read_sound(audio: np.ndarray) -> np.ndarray:
        return audio_regression(audio_context(audio))

    probes = Probes(opening_of or read_pictures, read_sound, {})
    probes.held_out = probe_quality(probes, clips[::5])
    return probes


def probe_quality(probes: Probes, clips: list[Clip]) -> dict[str, float]:
    """True clips with their opening -> {'video': r, 'audio': r}, the mean correlation of the
    probes' readings with it."""
    video = [correlation(probes.video(clip.video), clip.opening) for clip in clips]
    audio = [correlation(probes.audio(clip.audio), clip.opening) for clip in clips]
    return {"video": float(np.mean(video)), "audio": float(np.mean(audio))}


# ----------------------------------------------------------------------------------------- sync
def correlation(first: np.ndarray, second: np.ndarray, lag=0) -> float:
    """Pearson's r of two series, cut to the shorter, the second read `lag` later. 0 if one is
    constant or fewer than 3 values overlap."""
    length = min(len(first), len(second))
    if length - abs(lag) < 3:
        return 0.0
    first = first[max(0, -lag):length - max(0, lag)]
    second = second[max(0, lag):length - max(0, -lag)]
    if np.ptp(first) < 1e-6 or np.ptp(second) < 1e-6:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def sync(heard: list[np.ndarray], seen: list[np.ndarray]) -> dict[str, float]:
    """Openings read off n sounds and n videos, (T,) each -> {'sync r', 'lag', 'r there'}; see the
    top of this file."""
    means = {}
    for lag in LAGS:
        means[lag] = float(np.mean([correlation(a, b, lag) for a, b in zip(heard, seen)]))
    best = max(means, key=means.get)
    return {"sync r": means[0], "lag": best, "r there": means[best]}


def mismatch(texts: list[str]) -> list[int]:
    """n texts -> for each the index of the next one that differs. ValueError if none does."""
    if len(set(texts)) < 2:
        raise ValueError("the mismatched control needs at least two different sentences (NAME.txt "
                         "in the --truth folder)")
    n = len(texts)
    others = []
    for index, text in enumerate(texts):
        following = ((index + step) % n for step in range(1, n))
        others.append(next(other for other in following if texts[other] != text))
    return others


# ------------------------------------------------------------------------------------- speakers
def pitch(audio: np.ndarray) -> np.ndarray:
    """(n,) -> (R,), R = n // 160: pitch in Hz by autocorrelation, from 70 to 400 Hz; nan where
    there is no voice."""
    rows = len(audio) // 160
    padded = np.pad(audio, (432, 1024))
    window = np.hanning(1024).astype(np.float32)
    frames = sliding_window_view(padded, 1024)[::160][:rows] * window           # (R, 1024)

    # Autocorrelation. The window favours the shortest of equal periods.
    similarity = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)[:, :400]  # (R, 400)
    similarity = similarity / np.maximum(similarity[:, :1], 1e-9)
    period = 40 + similarity[:, 40:230].argmax(1)                               # (R,)

    # A row has a voice if it is periodic and not faint.
    loud = np.sqrt(np.mean(frames ** 2, 1))
    periodic = similarity[np.arange(rows), period] > 0.5
    voiced = periodic & (loud > 0.2 * loud.max(initial=1e-3))
    return np.where(voiced, SAMPLE_RATE / period, np.nan)


def voice_features(audio: np.ndarray) -> np.ndarray:
    """(n,) -> (81,): mean and deviation of the voiced log-mel rows, median log2 pitch. Zeros if
    nothing is voiced."""
    hertz = pitch(audio)
    if np.isnan(hertz).all():
        return np.zeros(81)
    voiced = ~np.isnan(hertz)
    mel = log_mel(audio)[voiced]
    height = np.nanmedian(np.log2(hertz[voiced]))
    return np.concatenate((mel.mean(0), mel.std(0), [height]))


def looks_features(video: np.ndarray) -> np.ndarray:
    """(T, 64, 64, 3) -> (768,): the mean picture, in blocks of 4x4 pixels."""
    picture = video.mean(0) / 255                                               # (64, 64, 3)
    return picture.reshape(16, 4, 16, 4, 3).mean((1, 3)).ravel()


def voice_of_clip(clip: Clip) -> np.ndarray:
    return voice_features(clip.audio)


def looks_of_clip(clip: Clip) -> np.ndarray:
    return looks_features(clip.video)


def fit_speakers(features, speakers, choices, choice_speakers, shrinkage=0.1) -> Callable:
    """A rule that says to which speaker a clip is nearest.

    Args:
        features (N, D), speakers (N,): of clips that give the variation within speakers.
        choices (M, D), choice_speakers (M,): of clips that give the centroids to choose from.
        shrinkage: of the covariance towards a diagonal.

    Returns: a function (K, D) -> list of K speakers. ValueError if nobody has two clips.
    """
    features = np.asarray(features)
    speakers = np.asarray(speakers)
    choices = np.asarray(choices)
    choice_speakers = np.asarray(choice_speakers)

    # The variation within speakers: what remains of each clip without its speaker's mean.
    means = [features[speakers == speaker].mean(0) for speaker in speakers]
    within = features - np.stack(means)                                         # (N, D)
    if not within.any():
        raise ValueError(
            "telling speakers apart needs several clips of each in the --fit folder")

    # The features have different units. First bring them to one scale, then shrink.
    deviation = within.std(0) + 1e-6                                            # (D,)
    covariance = np.cov((within / deviation).T)                                 # (D, D)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.eye(features.shape[1])
    whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T / deviation[:, None]

    known = np.unique(choice_speakers)
    centroids = np.stack([choices[choice_speakers == speaker].mean(0) for speaker in known])
    centroids = centroids @ whitening                                           # (speakers, D)

    def nearest(rows) -> list[int]:
        differences = (np.asarray(rows) @ whitening)[:, None] - centroids
        return known[(differences ** 2).sum(-1).argmin(1)].tolist()
    return nearest


# -------------------------------------------------------------------- lengths, pictures, levels
def lengths(frames: list[int], true_frames: list[int]) -> dict[str, float]:
    """Two lists of n lengths -> mean, ratio to the ground truth's mean, correlation with the ground
    truth's, mean absolute error in frames."""
    frames = np.asarray(frames, float)
    true_frames = np.asarray(true_frames, float)
    return {"frames": frames.mean(), "x truth": frames.mean() / true_frames.mean(),
            "length r": correlation(frames, true_frames),
            "length error": np.abs(frames - true_frames).mean()}


def frame_psnr(video: np.ndarray, truth: np.ndarray, box: tuple) -> np.ndarray:
    """Two videos, cut to the shorter -> dB of each frame but the first (T - 1,), within a box."""
    length = min(len(video), len(truth))
    error = (video[1:length][box].astype(np.float32) - truth[1:length][box]) ** 2
    return 10 * np.log10(255 ** 2 / np.maximum(error.mean((1, 2, 3)), 0.01))


def psnr(videos: list[np.ndarray], true_videos: list[np.ndarray]) -> dict[str, float]:
    """Two lists of videos -> {'PSNR', 'mouth'} in dB. A frame's is 68 dB at most."""
    whole = [frame_psnr(video, truth, WHOLE) for video, truth in zip(videos, true_videos)]
    mouth = [frame_psnr(video, truth, MOUTH) for video, truth in zip(videos, true_videos)]
    return {"PSNR": np.concatenate(whole).mean(), "mouth": np.concatenate(mouth).mean()}


def blinks(videos: list[np.ndarray]) -> dict[str, float]:
    """Blinks per minute of video."""
    found = 0
    for video in videos:
        white = (video[EYES].min(-1) > WHITE).sum((1, 2))                       # (T,)
        shut = white < 0.3 * np.median(white)
        found += np.sum(shut[1:] & ~shut[:-1]) + shut[0]
    return {"blinks": 60 * FPS * found / sum(map(len, videos))}


def levels(audios: list[np.ndarray]) -> dict[str, float]:
    """List of audio -> mean RMS and percent of silent clips."""
    rms = np.array([np.sqrt(np.mean(audio ** 2)) if len(audio) else 0 for audio in audios])
    return {"RMS": rms.mean(), "silent %": 100 * np.mean(rms < SILENT)}


# ------------------------------------------------------------------------------------ the table
def error_columns(wrong: np.ndarray) -> dict[str, float]:
    """(n, 6) bool -> percentages, of all words and by slot."""
    columns = {"word errors %": 100 * wrong.mean()}
    for slot, share in zip(SLOTS, wrong.mean(0)):
        columns[slot] = 100 * share
    return columns


def mean_of(rows: list[dict]) -> dict[str, float]:
    """List of dicts with the same columns -> dict of their means."""
    return {column: float(np.mean([row[column] for row in rows])) for column in rows[0]}


def speaker_rules(fit: list[Clip], choices: list[Clip], wanted: set) -> dict[str, tuple]:
    """F's clips, those to choose from, and the speakers that will be asked for -> {column: (feature
    of a clip, nearest rule)}. Empty where names have no speaker. ValueError if a wanted
    speaker is not to choose from."""
    fit = [clip for clip in fit if clip.speaker is not None]
    choices = [clip for clip in choices if clip.speaker is not None]
    if None in wanted or not fit:
        return {}
    strangers = sorted(wanted - {clip.speaker for clip in choices})
    if strangers:
        raise ValueError(f"nothing to tell speakers {', '.join(map(str, strangers))} by: give "
                         "--refs a folder with clips of them")

    rules = {}
    for column, feature in (("voice %", voice_of_clip), ("looks %", looks_of_clip)):
        nearest = fit_speakers(
            [feature(clip) for clip in fit], [clip.speaker for clip in fit],
            [feature(clip) for clip in choices], [clip.speaker for clip in choices])
        rules[column] = (feature, nearest)
    return rules


def name_rows(truth, generated, roundtrip, also) -> dict[str, str]:
    """The folders of the command line -> row -> folder. ValueError for two rows of one name."""
    folders = {"truth": truth}
    if roundtrip:
        folders["round trip"] = roundtrip
    for seed, folder in enumerate(generated):
        folders[f"generated {seed}"] = folder
    for folder in also:
        if Path(folder).name in folders:
            raise ValueError(
                f"{folder}: there is a row '{Path(folder).name}' already; rename the folder")
        folders[Path(folder).name] = folder
    return folders


def shared_names(folders: dict[str, str]) -> tuple[list[str], list[str]]:
    """row -> folder -> the names that all of them have, and a note per folder that lacks some.
    ValueError if no name is in all."""
    present = {row: set(clip_names(folder)) for row, folder in folders.items()}
    shared = sorted(set.intersection(*present.values()))
    if not shared:
        raise ValueError(f"no clip is in all of {', '.join(map(str, folders.values()))}: they must "
                         "use truth's names")
    anywhere = set.union(*present.values())
    notes = []
    for row, folder in folders.items():
        absent = sorted(anywhere - present[row])
        if absent:
            notes.append(f"{folder} lacks {len(absent)} clips that other folders have: "
                         f"{', '.join(absent)}")
    return shared, notes


def compare(truth, generated, fit=None, roundtrip=None, refs=None, also=()) -> dict:
    """Measure folders.

    Args: paths, as at the top of this file; generated and also are lists of them.

    Returns: clips (number per row), rows (name -> column -> number), probes (r with the true
    opening, held out on F and on the ground truth), notes (what was missing or broken).

    ValueError says what a folder lacks.
    """
    folders = name_rows(truth, generated, roundtrip, also)
    shared, notes = shared_names(folders)

    def read(folder, names=None) -> dict[str, Clip]:
        clips, broken = load(folder, names)
        notes.extend(f"left out {complaint}" for complaint in broken)
        return clips

    # Read everything. A clip that is broken in one folder is left out of all rows.
    fitted = list(read(fit).values()) if fit else []
    choices = list(read(refs).values()) if refs else fitted
    found = {row: read(folder, shared) for row, folder in folders.items()}
    names = [name for name in shared if all(name in clips for clips in found.values())]
    clips = {row: [found[row][name] for name in names] for row in folders}
    true = clips["truth"]
    texts = [clip.text for clip in true]
    others = mismatch(texts)
    known = len(set(texts) & {clip.text for clip in fitted})
    if known:
        notes.append(f"{known} of the test sentences are in {fit} too")
    spoken = all(in_grammar(text) for text in texts)
    if not spoken:
        notes.append("no word errors by GRID's grammar, since some texts are not of it: lab.listen "
                     "has measures for them")

    # What is fitted on F: the probes of the mouth opening, and the speakers.
    probes = fit_probes(fitted) if fit else None
    rules = speaker_rules(fitted, choices, {clip.speaker for clip in true})
    opened = [clip for clip in true if clip.opening is not None]

    # One row per folder; and what it is with the picture and the text of another sentence.
    rows = {}
    mismatched = {}
    heard = {}
    seen = {}
    for row in folders:
        audios = [clip.audio for clip in clips[row]]
        videos = [clip.video for clip in clips[row]]
        rows[row] = {}
        mismatched[row] = {}
        if spoken:
            words = recognise(audios)
            other_texts = [texts[other] for other in others]
            rows[row] |= error_columns(wrong_words(words, texts))
            mismatched[row] |= error_columns(wrong_words(words, other_texts))
        if probes:
            heard[row] = [probes.audio(audio) for audio in audios]
            seen[row] = [probes.video(video) for video in videos]
            rows[row] |= sync(heard[row], seen[row])
            mismatched[row] |= sync(heard[row], [seen[row][other] for other in others])
        rows[row] |= lengths([len(video) for video in videos], [len(clip.video) for clip in true])
        rows[row] |= levels(audios)
        # Eyes and mouth of a real face are at unknown places.
        if opened:
            rows[row] |= blinks(videos)
        for column, (feature, nearest) in rules.items():
            guesses = nearest([feature(clip) for clip in clips[row]])
            right = [guess == clip.speaker for guess, clip in zip(guesses, true)]
            rows[row][column] = 100 * np.mean(right)
        if row == "round trip":
            decibels = psnr(videos, [clip.video for clip in true])
            rows[row] |= decibels if opened else {"PSNR": decibels["PSNR"]}

    # The mean over seeds, and the controls.
    seeds = [f"generated {seed}" for seed in range(len(generated))]
    rows["generated, mean"] = mean_of([rows[seed] for seed in seeds])
    rows["mismatched truth"] = mismatched["truth"]
    rows["mismatched generated"] = mean_of([mismatched[seed] for seed in seeds])
    if len(seeds) > 1 and probes:
        crossed = [sync(heard[seed], seen[other]) for seed, other in zip(seeds, np.roll(seeds, 1))]
        rows["same text, other seed"] = mean_of(crossed)

    quality = {}
    if probes:
        quality["held out"] = probes.held_out
    if probes and opened:
        quality["on truth"] = probe_quality(probes, opened)
    return dict(clips=len(names), rows=rows, notes=notes, probes=quality)


def table(rows: dict[str, dict]) -> str:
    """Rows (name -> column -> number) -> aligned markdown. What a row lacks is left blank."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    digits = {"sync r": 3, "r there": 3, "x truth": 3, "length r": 2, "RMS": 3}

    # The cells as text: a header, then a line per row.
    cells = [["", *columns]]
    for name, row in rows.items():
        numbers = [f"{row[column]:.{digits.get(column, 1)}f}" if column in row else ""
                   for column in columns]
        cells.append([name, *numbers])

    # Names are aligned at the left, numbers at the right.
    widths = [max(len(cell) for cell in column) for column in zip(*cells)]
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    cells.insert(1, rule)
    lines = []
    for name, *numbers in cells:
        padded = [cell.rjust(width) for cell, width in zip(numbers, widths[1:])]
        lines.append(f"| {' | '.join([name.ljust(widths[0]), *padded])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.metrics", description="Measure folders of clips against ground truth.")
    parser.add_argument("--truth", required=True, metavar="T", help="true clips of test sentences")
    parser.add_argument("--fit", metavar="F",
                        help="true clips of other sentences, 300 or more, to fit the probes on; "
                        "without it there is no sync, voice and looks")
    parser.add_argument("--generated", required=True, nargs="+", metavar="G",
                        help="generated clips, one folder per sampling seed")
    parser.add_argument("--also", nargs="+", default=(), metavar="A",
                        help="other clips of the same names, such as those of lab.gallery")
    parser.add_argument("--roundtrip", metavar="R",
                        help="the ground truth through the autoencoders")
    parser.add_argument("--refs", metavar="F2",
                        help="clips of the speakers to choose from, if they are not F's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    options = vars(parser.parse_args())
    target = options.pop("json")
    try:
        result = compare(**options)
    except (ValueError, RuntimeError, OSError) as error:
        parser.error(str(error))

    # Notes are shortened; the json has them whole.
    for note in result["notes"]:
        print("note:", textwrap.shorten(note, 400, placeholder=" ..."), file=sys.stderr)
    quality = "; ".join(f"{where} {r['video']:.3f} (video) {r['audio']:.3f} (audio)"
                        for where, r in result["probes"].items())
    print(f"{result['clips']} clips a row. Correlation of the probes with the mouth opening: "
          f"{quality or 'not asked for'}\n")
    print(table(result["rows"]))
    if target:
        target.write_text(json.dumps(options | result, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
