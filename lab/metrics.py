"""How good are the clips? Folders of clips in, one table out: truth, autoencoder round trip, generated, and controls.

    python -m lab.metrics --truth T --generated G0 G1 [--also A2V V2A ...] [--fit F] [--roundtrip R] [--refs F2] [--json out.json]

A folder holds NAME.mp4 and, where it is truth, NAME.txt (the sentence) and, if known, NAME.npy (true mouth opening, (T,) float32); a name
ending in _t007 says talker 7. T, R, every G (one a sampling seed) and every other folder (--also, a row each) hold the same
names: rows are over those that all of them have, the rest is counted and named. F holds truth with other sentences of the same talkers (train split, 300 clips or more); all
that is learnt here is learnt on F. F2: clips of the talkers to choose from, where they are not F's (unseen talkers).

In every function a video is (T, 64, 64, 3) uint8 at 25 fps and audio (n,) float32 at 16 kHz. What the numbers are:

word errors   percent of words that pocketsphinx, held to the grammar of the six-word sentence, hears otherwise, position by
              position; also by slot. Nothing decoded is six errors.
sync r        correlation over a clip of the mouth opening read off the picture with that read off the sound, mean over clips; a
              constant reading counts as 0. The two probes are fitted on F; their r with the truth on unused clips is printed.
              Real clips have no true opening: it is then what `fit_opening` reads off the picture.
lag, r there  the shift in frames (-5 to 5, positive: the picture is late) with the highest mean r, and that r.
frames        mean length; x truth, length r, length error: ratio to truth's, correlation with it, mean distance in frames.
RMS, silent   level of the sound, full scale 1, mean over clips; percent of clips below 0.005.
voice, looks  percent of clips nearest to the right talker, in units of the variation within talkers. Voice: mean and deviation
              of the voiced log-mel spectrum, median log2 pitch. Looks: the mean picture at 16x16. Chance is 1 in 32.
PSNR, mouth   dB at 64x64 over all frames but each clip's first (it may be given), whole picture and mouth box; round trip only.
              Both clips come from mp4s, and those are not lossless: enlarged to 256 and coded at crf 14, truth is 35.5 dB (mouth
              34.6) from its original. It loses the same on both sides, so the figure flatters: a round trip 31.7 dB off
              in pixels reads 33.0, white noise of 30.0 reads 33.0. Compare such figures with each other only.

Controls: a mismatched row joins the sound of a clip with the picture and text of another sentence, the floor. Samples of one text
resemble each other in timing, so the last row joins the sound of one seed with the picture of the other: only the sync above it
is coupling proper. The probes err a little, so the ceiling of sync is truth's row, not 1.
"""
import argparse
import json
import multiprocessing
import re
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from tqdm import tqdm

from data import GRAMMAR, BrokenClip, Clip, read_audio, read_video

SIZE, SAMPLE_RATE = 64, 16000
MOUTH = (slice(None), slice(38, 56), slice(18, 46))         # the mouth box of a 64x64 video of the synthetic corpus
LAGS = range(-5, 6)
SILENT = .005
SLOTS = ("command", "colour", "preposition", "letter", "digit", "adverb")


# ---- folders -----------------------------------------------------------------------------------------------------------------

def clip_names(folder):
    """Sorted names of the clips in a folder. ValueError if it has none."""
    names = sorted(path.stem for path in Path(folder).glob("*.mp4"))
    if not names:
        raise ValueError(f"{folder}: there are no .mp4 clips in it. `python data.py --export {folder}` writes true ones")
    return names


def talker_of(name):
    """'test_00012_t007' -> 7; None if the name doesn't say."""
    found = re.search(r"_t(\d+)$", name)
    return int(found[1]) if found else None


def load(folder, names=None):
    """Clips of a folder (all, or these names) -> (dict name -> data.Clip, list of what was broken). Text '' and opening None
    where there is no such file."""
    def read(name):
        stem = Path(folder) / name
        try:
            video, audio = read_video(f"{stem}.mp4", SIZE), read_audio(f"{stem}.mp4", SAMPLE_RATE)
        except BrokenClip as error:
            return error
        text, opening = (Path(f"{stem}{ending}") for ending in (".txt", ".npy"))
        return Clip(name, text.read_text(encoding="utf-8").strip() if text.exists() else "", video, audio, talker_of(name),
                    np.load(opening) if opening.exists() else None)

    names = clip_names(folder) if names is None else names
    with ThreadPoolExecutor(2) as pool:                     # the work is done by ffmpeg, in processes of its own
        clips = list(tqdm(pool.map(read, names), desc=f"reading {Path(folder).name}", total=len(names), unit="clip", leave=False))
    return ({clip.name: clip for clip in clips if isinstance(clip, Clip)},
            [str(clip) for clip in clips if isinstance(clip, BrokenClip)])


# ---- words -------------------------------------------------------------------------------------------------------------------

def recognise_share(audios):
    """Recognise some clips; one worker's share of `recognise`."""
    from pocketsphinx import Decoder
    decoder = Decoder(lm=None, loglevel="FATAL")
    decoder.add_word("letter_a", "EY", True)                # the dictionary's 'a' is first of all the article
    rules = " ".join("(" + " | ".join("letter_a" if word == "a" else word for word in words) + ")" for words in GRAMMAR)
    decoder.add_jsgf_string("sentence", f"#JSGF V1.0; grammar sentence; public <sentence> = {rules};")
    decoder.activate_search("sentence")
    noise = 5e-4 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE // 10)
    heard = []
    for audio in audios:
        sound = np.concatenate((audio, noise)).clip(-1, 1)  # without a faint end the last words are lost
        decoder.reinit_feat()                               # forget the last clip: the order must not matter
        decoder.start_utt()
        decoder.process_raw((32767 * sound).astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        words = decoder.hyp().hypstr.lower().replace("letter_a", "a").split() if decoder.hyp() else []
        heard.append(words if len(words) == len(GRAMMAR) else [])
    return heard


def recognise(audios):
    """List of audio (n,) -> list of what was heard: six words each, or [] where nothing was. Two processes.

    RuntimeError if pocketsphinx is not installed."""
    try:
        import pocketsphinx                                 # for the message; the workers use it
    except ImportError:
        raise RuntimeError("word errors need pocketsphinx: pip install pocketsphinx") from None
    shares = [audios[first:first + 8] for first in range(0, len(audios), 8)]
    with multiprocessing.Pool(2) as pool:
        done = list(tqdm(pool.imap(recognise_share, shares), desc="recognising", total=len(shares), unit="8 clips", leave=False))
    return [words for share in done for words in share]


def in_grammar(text):
    """Whether a text is a sentence of the grammar, such as 'bin blue at a one now': only those can be measured in words."""
    return len(text.split()) == len(GRAMMAR) and all(word in choices for word, choices in zip(text.split(), GRAMMAR))


def wrong_words(heard, texts):
    """What `recognise` gave, and n texts of the grammar -> (n, 6) bool, True where a word is wrong."""
    return np.array([[not words or words[slot] != word for slot, word in enumerate(text.split())]
                     for words, text in zip(heard, texts)])


def word_errors(audios, texts):
    """n audios and their texts -> (n, 6) bool, True where a word was not heard. The mean is the word error rate."""
    return wrong_words(recognise(audios), texts)


# ---- sync --------------------------------------------------------------------------------------------------------------------

@dataclass
class Probes:
    """Two readers of the mouth opening, and the mean correlation of each with the truth on clips they were not fitted on."""
    video: Callable                         # (T, 64, 64, 3) uint8 -> (T,)
    audio: Callable                         # (n,) float32 -> (n // 640,)
    held_out: dict


def log_mel(audio, bands=40):
    """(n,) -> (n // 160, 40), natural log of the power in mel bands, 100 rows a second; all clips brought to one RMS."""
    level = np.sqrt(np.mean(audio ** 2)) if len(audio) else 0
    audio = audio * (.08 / max(level, 1e-4))
    rows = len(audio) // 160                                # row k is a window of 25 ms centred on its 10 ms
    frames = sliding_window_view(np.pad(audio, (120, 400)), 400)[::160][:rows] * np.hanning(400)
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([60, 7600]) / 700)), bands + 2) / 2595) - 1)
    hertz, low, centre, high = np.fft.rfftfreq(512, 1 / SAMPLE_RATE), edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.maximum(0, np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)))
    return np.log(np.abs(np.fft.rfft(frames, 512)) ** 2 @ triangles.T + 1e-5)


def audio_context(audio, reach=3):
    """(n,) -> (T, 28 * 40): for each video frame the log-mel rows of it and of `reach` frames either side."""
    mel = log_mel(audio)
    frames, width = len(mel) // 4, 4 * (2 * reach + 1)
    if not frames:
        return np.zeros((0, width * mel.shape[1]), np.float32)
    mel = np.pad(mel, ((4 * reach, 4 * reach), (0, 0)), mode="edge")
    return sliding_window_view(mel, width, axis=0)[::4][:frames].reshape(frames, -1).astype(np.float32)


def mouth_pixels(video):
    """(T, 64, 64, 3) -> (T, 20 * 32 * 3): the mouth box and a margin."""
    return (video[:, 37:57, 16:48] / np.float32(255)).reshape(len(video), -1)


def fit_ridge(inputs, targets, strength=1e-3):
    """(N, D), (N,) -> function (N, D) -> (N,): linear regression, ridge relative to the variance of the inputs."""
    mean, deviation = inputs.mean(0), inputs.std(0) + 1e-3
    scaled = (inputs - mean) / deviation
    weights = np.linalg.solve(scaled.T @ scaled + strength * len(scaled) * np.eye(scaled.shape[1], dtype=scaled.dtype),
                              scaled.T @ (targets - targets.mean()))
    return lambda rows: (rows - mean) / deviation @ weights + targets.mean()


def fit_network(inputs, targets, epochs=8, batch=256):
    """(N, D), (N,) -> function (N, D) -> (N,): a small network, for a linear reading of the sound reaches only r = 0.92."""
    mean, deviation = inputs.mean(0), inputs.std(0) + 1e-3
    rows, targets = torch.tensor((inputs - mean) / deviation), torch.tensor(targets)
    with torch.random.fork_rng(devices=[]):                 # seeded, and the caller's random numbers stay as they were
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Dropout(.2), torch.nn.Linear(rows.shape[1], 128), torch.nn.GELU(),
            torch.nn.Dropout(.2), torch.nn.Linear(128, 128), torch.nn.GELU(), torch.nn.Linear(128, 1), torch.nn.Flatten(0))
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=.05)
        batches = [part for _ in range(epochs) for part in torch.randperm(len(rows)).split(batch)]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=len(batches))
        for part in tqdm(batches, desc="fitting the audio probe", leave=False):
            loss = torch.nn.functional.mse_loss(network(rows[part]), targets[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval().requires_grad_(False)
    return lambda rows: network(torch.tensor((rows - mean) / deviation)).numpy()


def lower_face(video):
    """(T, 64, 64, 3) -> (T, 20 * 24 * 3): the lower middle of the picture in blocks of 2x2, less its mean over the clip."""
    blocks = video[:, 24:, 8:56].reshape(len(video), 20, 2, 24, 2, 3).mean((2, 4), dtype=np.float32).reshape(len(video), -1) / 255
    return blocks - blocks.mean(0)


def whiten(rows, kept):
    """(N, D) of zero mean -> (D, kept): onto the leading principal components, each of unit variance."""
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    return vectors[:, -kept:] / np.sqrt(values[-kept:] + 1e-3 * values[-1])


def fit_opening(clips, kept=60):
    """True clips without a known opening -> function (T, 64, 64, 3) -> (T,) that reads one off the picture: of all linear readings
    of the lower face the one that the sound can tell best (first pair of a canonical correlation); up where it is loud."""
    seen = np.concatenate([lower_face(clip.video) for clip in clips])
    heard = [audio_context(clip.audio)[:len(clip.video)] for clip in clips]
    heard = [np.pad(rows, ((0, len(clip.video) - len(rows)), (0, 0)), mode="edge") for rows, clip in zip(heard, clips)]
    heard = np.concatenate([rows - rows.mean(0) for rows in heard])
    see, hear = whiten(seen, kept), whiten(heard, kept)
    first = np.linalg.svd((seen @ see).T @ (heard @ hear))[0][:, 0]
    reading = see @ first * np.sign((seen @ see @ first) @ heard.mean(1))
    return lambda video: lower_face(video) @ reading


def fit_probes(clips):
    """List of true clips (data.Clip) -> Probes, fitted on four clips of five and tried on the fifth. 20 s.

    Clips without NAME.npy (real ones) get the opening that `fit_opening` reads. ValueError if there are fewer than 20."""
    if len(clips) < 20:
        raise ValueError(f"the sync probes need true clips, 300 or more; found {len(clips)}. "
                         "`python data.py --export F --split train --talkers 0:32 --n 320` writes such a folder")
    read = None if all(clip.opening is not None for clip in clips) else fit_opening([c for index, c in enumerate(clips) if index % 5])
    clips = [replace(clip, opening=read(clip.video)) for clip in clips] if read else clips

    def fit(fit_map, features):                             # the sound may be a frame shorter than the video
        pairs = [(features(clip), clip.opening) for index, clip in enumerate(clips) if index % 5]
        return fit_map(*map(np.concatenate, zip(*((rows[:len(opening)], opening[:len(rows)]) for rows, opening in pairs))))

    video_map = None if read else fit(fit_ridge, lambda clip: mouth_pixels(clip.video))
    audio_map = fit(fit_network, lambda clip: audio_context(clip.audio))
    probes = Probes(read or (lambda video: video_map(mouth_pixels(video))), lambda audio: audio_map(audio_context(audio)), {})
    probes.held_out = probe_quality(probes, clips[::5])
    return probes


def probe_quality(probes, clips):
    """True clips with their opening -> {'video': r, 'audio': r}, the mean correlation of the probes' readings with it."""
    return {stream: float(np.mean([correlation(getattr(probes, stream)(getattr(clip, stream)), clip.opening) for clip in clips]))
            for stream in ("video", "audio")}


def correlation(first, second, lag=0):
    """Pearson's r of two series, cut to the shorter, the second read `lag` later; 0 if one is constant or under 3 overlap."""
    length = min(len(first), len(second))
    if length - abs(lag) < 3:
        return 0.
    first, second = first[max(0, -lag):length - max(0, lag)], second[max(0, lag):length - max(0, -lag)]
    if np.ptp(first) < 1e-6 or np.ptp(second) < 1e-6:
        return 0.
    return float(np.corrcoef(first, second)[0, 1])


def sync(heard, seen):
    """Openings read off n sounds and n videos (lists of (T,)) -> {'sync r', 'lag', 'r there'}; see the top of this file."""
    means = {lag: float(np.mean([correlation(*pair, lag) for pair in zip(heard, seen)])) for lag in LAGS}
    best = max(means, key=means.get)
    return {"sync r": means[0], "lag": best, "r there": means[best]}


def mismatch(texts):
    """n texts -> for each the index of the next one that differs. ValueError if all are the same."""
    if len(set(texts)) < 2:
        raise ValueError("the mismatched control needs at least two different sentences (NAME.txt in the --truth folder)")
    ahead = [np.roll(range(len(texts)), -index) for index in range(len(texts))]
    return [next(int(other) for other in others if texts[other] != texts[others[0]]) for others in ahead]


# ---- talkers -----------------------------------------------------------------------------------------------------------------

def pitch(audio):
    """(n,) -> (n // 160,) pitch in Hz by autocorrelation, nan where there is no voice; 70 to 400 Hz."""
    rows = len(audio) // 160
    frames = sliding_window_view(np.pad(audio, (432, 1024)), 1024)[::160][:rows] * np.hanning(1024).astype(np.float32)
    similarity = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)[:, :400]
    similarity = similarity / np.maximum(similarity[:, :1], 1e-9)           # the window favours the shortest of equal periods
    period = 40 + similarity[:, 40:230].argmax(1)
    loud = np.sqrt(np.mean(frames ** 2, 1))
    voiced = (similarity[np.arange(rows), period] > .5) & (loud > .2 * loud.max(initial=1e-3))
    return np.where(voiced, SAMPLE_RATE / period, np.nan)


def voice_features(audio):
    """(n,) -> (81,): mean and deviation of the voiced log-mel rows, median log2 pitch. Zeros if nothing is voiced."""
    hertz = pitch(audio)
    if np.isnan(hertz).all():
        return np.zeros(81)
    mel = log_mel(audio)[~np.isnan(hertz)]
    return np.concatenate((mel.mean(0), mel.std(0), [np.nanmedian(np.log2(hertz[~np.isnan(hertz)]))]))


def looks_features(video):
    """(T, 64, 64, 3) -> (768,): the mean picture, in blocks of 4x4 pixels."""
    return (video.mean(0) / 255).reshape(16, 4, 16, 4, 3).mean((1, 3)).ravel()


def fit_talkers(features, talkers, choices, choice_talkers, shrinkage=.1):
    """Features (N, D) of clips by N talkers give the variation within talkers; choices (M, D) by M talkers the centroids to
    choose from. -> function (K, D) -> list of K talkers. ValueError if nobody has two clips."""
    features, talkers, choices = np.asarray(features), np.asarray(talkers), np.asarray(choices)
    within = features - np.stack([features[talkers == talker].mean(0) for talker in talkers])
    if not within.any():
        raise ValueError("telling talkers apart needs several clips of each in the --fit folder")
    deviation = within.std(0) + 1e-6                        # the features have different units: first to one scale, then shrink
    covariance = (1 - shrinkage) * np.cov((within / deviation).T) + shrinkage * np.eye(features.shape[1])
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T / deviation[:, None]
    known = np.unique(choice_talkers)
    centroids = np.stack([choices[np.asarray(choice_talkers) == talker].mean(0) for talker in known]) @ whiten

    def nearest(rows):
        distances = (np.asarray(rows) @ whiten)[:, None] - centroids
        return known[(distances ** 2).sum(-1).argmin(1)].tolist()
    return nearest


# ---- lengths, pictures, levels -----------------------------------------------------------------------------------------------

def lengths(frames, true_frames):
    """Two lists of n lengths -> mean, ratio to truth's mean, correlation with truth's, mean absolute error in frames."""
    frames, true_frames = np.asarray(frames, float), np.asarray(true_frames, float)
    return {"frames": frames.mean(), "x truth": frames.mean() / true_frames.mean(), "length r": correlation(frames, true_frames),
            "length error": np.abs(frames - true_frames).mean()}


def psnr(videos, true_videos):
    """Two lists of videos, cut to the shorter of each pair -> {'PSNR', 'mouth'} in dB. A frame's is 68 dB at most."""
    def frames_psnr(video, truth, box=...):
        length = min(len(video), len(truth))
        error = (video[1:length][box].astype(np.float32) - truth[1:length][box]) ** 2
        return 10 * np.log10(255 ** 2 / np.maximum(error.mean((1, 2, 3)), .01))
    pairs = list(zip(videos, true_videos))
    return {"PSNR": np.concatenate([frames_psnr(*pair) for pair in pairs]).mean(),
            "mouth": np.concatenate([frames_psnr(*pair, MOUTH) for pair in pairs]).mean()}


def levels(audios):
    """List of audio -> mean RMS and percent of silent clips."""
    rms = np.array([np.sqrt(np.mean(audio ** 2)) if len(audio) else 0 for audio in audios])
    return {"RMS": rms.mean(), "silent %": 100 * np.mean(rms < SILENT)}


# ---- the table ---------------------------------------------------------------------------------------------------------------

def error_columns(wrong):
    """(n, 6) bool -> percentages, of all words and by slot."""
    return {"word errors %": 100 * wrong.mean()} | {slot: 100 * share for slot, share in zip(SLOTS, wrong.mean(0))}


def mean_of(rows):
    """List of dicts with the same columns -> dict of their means."""
    return {column: float(np.mean([row[column] for row in rows])) for column in rows[0]}


def talker_rules(fit, choices, wanted):
    """List of F's clips, of those to choose from, and the talkers that will be asked for -> {column: (feature of a clip, nearest
    rule)}, empty where names don't say who talks. ValueError if a wanted talker is not to choose from."""
    fit, choices = ([clip for clip in clips if clip.talker is not None] for clips in (fit, choices))
    if None in wanted or not fit:
        return {}
    strangers = sorted(wanted - {clip.talker for clip in choices})
    if strangers:
        raise ValueError(f"nothing to tell talkers {', '.join(map(str, strangers))} by: give --refs a folder with clips of them")
    features = {"voice %": lambda clip: voice_features(clip.audio), "looks %": lambda clip: looks_features(clip.video)}
    return {column: (feature, fit_talkers([feature(clip) for clip in fit], [clip.talker for clip in fit],
                                          [feature(clip) for clip in choices], [clip.talker for clip in choices]))
            for column, feature in features.items()}


def compare(truth, generated, fit=None, roundtrip=None, refs=None, also=()):
    """Folders (generated, also: lists of them) -> dict: clips a row, rows (name -> column -> number), probes (r with the true opening,
    held out on F and on truth), notes (what was missing or broken). ValueError says what a folder lacks."""
    folders = {"truth": truth} | ({"round trip": roundtrip} if roundtrip else {})
    seeds = [f"generated {seed}" for seed in range(len(generated))]
    folders |= dict(zip(seeds, generated))
    for folder in also:
        if Path(folder).name in folders:
            raise ValueError(f"{folder}: there is a row '{Path(folder).name}' already; rename the folder")
        folders[Path(folder).name] = folder
    present = {row: set(clip_names(folder)) for row, folder in folders.items()}
    shared, notes = sorted(set.intersection(*present.values())), []
    if not shared:
        raise ValueError(f"no clip is in all of {', '.join(map(str, folders.values()))}: they must use truth's names")
    for row, folder in folders.items():
        absent = sorted(set.union(*present.values()) - present[row])
        notes += [f"{folder} lacks {len(absent)} clips that other folders have: {', '.join(absent)}"] if absent else []

    def read(folder, names=None):
        clips, broken = load(folder, names)
        notes.extend(f"left out {complaint}" for complaint in broken)
        return clips

    fitted = list(read(fit).values()) if fit else []
    choices = list(read(refs).values()) if refs else fitted
    found = {row: read(folder, shared) for row, folder in folders.items()}
    names = [name for name in shared if all(name in clips for clips in found.values())]
    clips = {row: [found[row][name] for name in names] for row in folders}
    true, texts = clips["truth"], [clip.text for clip in clips["truth"]]
    others, known = mismatch(texts), len(set(texts) & {clip.text for clip in fitted})
    notes += [f"{known} of the test sentences are in {fit} too"] if known else []
    spoken = all(map(in_grammar, texts))
    notes += [] if spoken else ["no word errors: the recogniser is held to GRID's grammar, and some texts are not of it"]
    probes = fit_probes(fitted) if fit else None
    rules = talker_rules(fitted, choices, {clip.talker for clip in true})

    opened = [clip for clip in true if clip.opening is not None]
    rows, mismatched, heard, seen = {}, {}, {}, {}
    for row in folders:
        audios, videos = [clip.audio for clip in clips[row]], [clip.video for clip in clips[row]]
        rows[row], mismatched[row] = {}, {}
        if spoken:
            words = recognise(audios)
            rows[row] = error_columns(wrong_words(words, texts))
            mismatched[row] = error_columns(wrong_words(words, [texts[other] for other in others]))
        if probes:
            heard[row], seen[row] = [*map(probes.audio, audios)], [*map(probes.video, videos)]
            rows[row] |= sync(heard[row], seen[row])
            mismatched[row] |= sync(heard[row], [seen[row][other] for other in others])
        rows[row] |= lengths([*map(len, videos)], [len(clip.video) for clip in true]) | levels(audios)
        for column, (feature, nearest) in rules.items():
            guesses = nearest([feature(clip) for clip in clips[row]])
            rows[row][column] = 100 * np.mean([guess == clip.talker for guess, clip in zip(guesses, true)])
        if row == "round trip":
            decibels = psnr(videos, [clip.video for clip in true])
            rows[row] |= decibels if opened else {"PSNR": decibels["PSNR"]}              # where the mouth of a real face is, nobody knows

    rows["generated, mean"] = mean_of([rows[seed] for seed in seeds])
    rows["mismatched truth"] = mismatched["truth"]
    rows["mismatched generated"] = mean_of([mismatched[seed] for seed in seeds])
    if len(seeds) > 1 and probes:
        rows["same text, other seed"] = mean_of([sync(heard[seed], seen[other]) for seed, other in zip(seeds, np.roll(seeds, 1))])
    quality = {"held out": probes.held_out} if probes else {}
    quality |= {"on truth": probe_quality(probes, opened)} if probes and opened else {}
    return dict(clips=len(names), rows=rows, notes=notes, probes=quality)


def table(rows):
    """Rows (name -> column -> number) -> aligned markdown; what a row lacks is left blank."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    digits = {"sync r": 3, "r there": 3, "x truth": 3, "length r": 2, "RMS": 3}
    cells = [["", *columns]]
    cells += [[name] + [f"{row[column]:.{digits.get(column, 1)}f}" if column in row else "" for column in columns]
              for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells)]
    cells.insert(1, ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]])
    lines = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main():
    parser = argparse.ArgumentParser(prog="python -m lab.metrics", description="Measure folders of clips against truth.")
    parser.add_argument("--truth", required=True, metavar="T", help="true clips of test sentences")
    parser.add_argument("--fit", metavar="F", help="true clips of other sentences, 300 or more, to fit the probes on; "
                        "without it there is no sync, voice and looks")
    parser.add_argument("--generated", required=True, nargs="+", metavar="G", help="generated clips, one folder a sampling seed")
    parser.add_argument("--also", nargs="+", default=(), metavar="A", help="other clips of the same names, such as those of lab.gallery")
    parser.add_argument("--roundtrip", metavar="R", help="truth through the autoencoders")
    parser.add_argument("--refs", metavar="F2", help="clips of the talkers to choose from, if they are not F's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    options = vars(parser.parse_args())
    target = options.pop("json")
    try:
        result = compare(**options)
    except (ValueError, RuntimeError, OSError) as error:
        parser.error(str(error))
    for note in result["notes"]:
        print("note:", textwrap.shorten(note, 400, placeholder=" ..."), file=sys.stderr)        # the json has it whole
    quality = "; ".join(f"{where} {r['video']:.3f} (video) {r['audio']:.3f} (audio)" for where, r in result["probes"].items())
    print(f"{result['clips']} clips a row. Correlation of the probes with the mouth opening: {quality or 'not asked for'}\n")
    print(table(result["rows"]))
    if target:
        target.write_text(json.dumps(options | result, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
