"""How good are the clips? Folders of clips in, one table out: truth, autoencoder round trip, generated, and controls.

    python -m lab.metrics --truth T --fit F --generated G0 G1 [--roundtrip R] [--refs F2] [--json out.json]

A folder holds NAME.mp4 and, where it is truth, NAME.txt (the sentence) and NAME.npy (true mouth opening, (T,) float32); a name
that ends in _t007 says talker 7. T, R and every G (one a sampling seed) hold the same names; each row is over the names that all of
them have, the others are counted and named. F holds truth with other sentences of the same talkers (train split, 300 clips or
more): all that is learnt here is learnt on F. F2: clips of the talkers to choose from, if those are not F's (unseen talkers).

In every function a video is (T, 64, 64, 3) uint8 at 25 fps and audio (n,) float32 at 16 kHz. What the numbers are:

word errors   percent of words that pocketsphinx, held to the grammar of the six-word sentence, hears otherwise; position by position,
              also by slot (command, colour, preposition, letter, digit, adverb). Nothing decoded is six errors. (needs pocketsphinx)
sync r        correlation over a clip of the mouth opening read off the picture with the one read off the sound, averaged over clips.
              A constant reading counts as 0. The two probes are fitted on F's truth; their held-out correlation with it is printed.
lag, r there  the shift in frames (-5 to 5; positive: the picture is late) with the highest mean correlation, and that correlation.
              Controls: sound of a clip with the picture of another sentence (the floor), and, since samples of one text resemble
              each other in timing, sound of one seed with the picture of another: only what exceeds it is coupling proper.
frames        mean length; x truth: its ratio to truth's; length r, length error: correlation with truth's, mean distance in frames.
voice, looks  percent of clips nearest to the right talker. Voice: mean and deviation of the voiced log-mel spectrum, median log2 of
              the pitch. Looks: the mean picture at 16x16. Distances are in units of the variation within talkers, measured on F.
PSNR, mouth   dB at 64x64 against truth's clip, the mean over frames from 1 on (frame 0 may be given) of all clips; whole picture and
              mouth box. Round trip only. Both sides have been through H.264: at crf 14 truth's own clip is 45.7 dB (mouth 44.5)
              from its lossless original, so read 35 dB as is and distrust differences above 42.
RMS, silent   mean level of the sound, full scale 1, and percent of clips below 0.005.
"""
import argparse
import json
import multiprocessing
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from tqdm import tqdm

from data import GRAMMAR, BrokenClip, Clip, read_audio, read_video

SIZE, SAMPLE_RATE = 64, 16000
MOUTH = (slice(None), slice(38, 56), slice(18, 46))         # the mouth box of a 64x64 video
LAGS = range(-5, 6)
SILENT = .005
SLOTS = ("command", "colour", "preposition", "letter", "digit", "adverb")


# ---- folders ---------------------------------------------------------------------------------------------------------------------

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
        return Clip(name, text.read_text().strip() if text.exists() else "", video, audio, talker_of(name),
                    np.load(opening) if opening.exists() else None)

    names = clip_names(folder) if names is None else names
    with ThreadPoolExecutor(2) as pool:                     # the work is done by ffmpeg, in processes of its own
        clips = list(tqdm(pool.map(read, names), desc=f"reading {Path(folder).name}", total=len(names), unit="clip", leave=False))
    return ({clip.name: clip for clip in clips if isinstance(clip, Clip)},
            [str(clip) for clip in clips if isinstance(clip, BrokenClip)])


# ---- words -----------------------------------------------------------------------------------------------------------------------

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
        decoder.start_stream()                              # forget the last clip's noise level: the order must not matter
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
        import pocketsphinx                                 # noqa: F401  (asked for here so that the message comes from one process)
    except ImportError:
        raise RuntimeError("word errors need pocketsphinx (39 MB, with its English model): pip install pocketsphinx") from None
    shares = [audios[first:first + 8] for first in range(0, len(audios), 8)]
    with multiprocessing.Pool(2) as pool:
        done = list(tqdm(pool.imap(recognise_share, shares), desc="recognising", total=len(shares), unit="8 clips", leave=False))
    return [words for share in done for words in share]


def wrong_words(heard, texts):
    """What `recognise` gave, and the n texts -> (n, 6) bool, True where a word is wrong. ValueError for texts not of the grammar."""
    for text in texts:
        words = text.split()
        if len(words) != len(GRAMMAR) or any(word not in choices for word, choices in zip(words, GRAMMAR)):
            raise ValueError(f"{text!r} is not a sentence of the grammar, such as 'bin blue at a one now': word errors can't be counted")
    return np.array([[not words or words[slot] != word for slot, word in enumerate(text.split())]
                     for words, text in zip(heard, texts)])


def word_errors(audios, texts):
    """n audios and their texts -> (n, 6) bool, True where a word was not heard. The mean is the word error rate."""
    return wrong_words(recognise(audios), texts)


# ---- sync ------------------------------------------------------------------------------------------------------------------------

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


def fit_probes(clips):
    """List of true clips (data.Clip with its opening) -> Probes, fitted on four clips of five and tried on the fifth. 20 s.

    ValueError if fewer than 20 clips come with their opening."""
    clips = [clip for clip in clips if clip.opening is not None]
    if len(clips) < 20:
        raise ValueError(f"the sync probes need true clips with NAME.npy, 300 or more; found {len(clips)}. "
                         "`python data.py --export F --split train --talkers 0:32 --n 320` writes such a folder")

    def fit(read, fit_map):                                 # a clip's sound may be shorter than its video by a frame
        pairs = [(read(clip), clip.opening) for index, clip in enumerate(clips) if index % 5]
        pairs = [(rows[:len(opening)], opening[:len(rows)]) for rows, opening in pairs]
        return fit_map(np.concatenate([rows for rows, _ in pairs]), np.concatenate([opening for _, opening in pairs]))

    video_map = fit(lambda clip: mouth_pixels(clip.video), fit_ridge)
    audio_map = fit(lambda clip: audio_context(clip.audio), fit_network)
    probes = Probes(lambda video: video_map(mouth_pixels(video)), lambda audio: audio_map(audio_context(audio)), {})
    probes.held_out = probe_quality(probes, clips[::5])
    return probes


def probe_quality(probes, clips):
    """True clips with their opening -> {'video': r, 'audio': r}, mean correlation of the probes' readings with it."""
    return {"video": float(np.mean([correlation(probes.video(clip.video), clip.opening) for clip in clips])),
            "audio": float(np.mean([correlation(probes.audio(clip.audio), clip.opening) for clip in clips]))}


def correlation(first, second, lag=0):
    """Pearson's r of two series, cut to the shorter, the second read `lag` later; 0 if one is constant or under 3 overlap."""
    length = min(len(first), len(second))
    first, second = first[max(0, -lag):length - max(0, lag)], second[max(0, lag):length - max(0, -lag)]
    if len(first) < 3 or np.ptp(first) < 1e-6 or np.ptp(second) < 1e-6:
        return 0.
    return float(np.corrcoef(first, second)[0, 1])


def sync(heard, seen):
    """Openings read off n sounds and n videos (lists of (T,)) -> {'sync r', 'lag', 'r there'}; see the top of this file."""
    means = {lag: float(np.mean([correlation(*pair, lag) for pair in zip(heard, seen)])) for lag in LAGS}
    best = max(means, key=means.get)
    return {"sync r": means[0], "lag": best, "r there": means[best]}


def mismatch(texts):
    """n texts -> for each the index of the next clip with another text; a ValueError if all are the same."""
    if len(set(texts)) < 2:
        raise ValueError("the mismatched control needs clips of at least two different sentences")
    order = range(len(texts))
    return [next(other % len(texts) for other in range(index + 1, index + len(texts)) if texts[other % len(texts)] != texts[index])
            for index in order]


# ---- talkers ---------------------------------------------------------------------------------------------------------------------

def pitch(audio):
    """(n,) -> (n // 160,) pitch in Hz by autocorrelation, nan where there is no voice; 70 to 400 Hz."""
    rows = len(audio) // 160
    frames = sliding_window_view(np.pad(audio, (432, 1024)), 1024)[::160][:rows] * np.hanning(1024).astype(np.float32)
    similarity = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)[:, :400]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(1024), 2048)) ** 2)[:400]       # the window shrinks long periods: undo it
    similarity = similarity / np.maximum(similarity[:, :1], 1e-9) / (window / window[0])
    period = 40 + similarity[:, 40:230].argmax(1)
    loud = np.sqrt(np.mean(frames ** 2, 1))
    voiced = (similarity[np.arange(rows), period] > .6) & (loud > .2 * loud.max(initial=1e-3))
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


def fit_talkers(features, talkers, references=None, shrinkage=.1):
    """Nearest-talker rule. features (N, D) of N clips of `talkers` (list of N numbers, several clips each) give the variation within
    talkers; centroids come from references, such a pair (features, talkers), or else from the same clips.

    -> function (M, D) -> list of M talkers. ValueError if no talker has two clips."""
    features, talkers = np.asarray(features), np.asarray(talkers)
    within = features - np.stack([features[talkers == talker].mean(0) for talker in talkers])
    if not within.any():
        raise ValueError("telling talkers apart needs several clips of each in the --fit folder")
    deviation = within.std(0) + 1e-6                        # features of different units, so the shrinkage is towards these
    covariance = np.cov((within / deviation).T) * (1 - shrinkage) + shrinkage * np.eye(features.shape[1])
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T / deviation[:, None]
    features, talkers = (np.asarray(part) for part in references or (features, talkers))
    known = np.unique(talkers)
    centroids = np.stack([features[talkers == talker].mean(0) for talker in known]) @ whiten

    def nearest(rows):
        distances = ((np.asarray(rows) @ whiten)[:, None] - centroids) ** 2
        return known[distances.sum(-1).argmin(1)].tolist()
    return nearest


# ---- lengths, pictures, levels ----------------------------------------------------------------------------------------------------

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


# ---- the table -------------------------------------------------------------------------------------------------------------------

def row_of_errors(wrong):
    """(n, 6) bool -> percentages, of all words and by slot."""
    return {"word errors %": 100 * wrong.mean()} | {slot: 100 * share for slot, share in zip(SLOTS, wrong.mean(0))}


def measure(clips, truth, probes, talker_rules):
    """Clips of one folder and of truth in the same order -> (row: dict of numbers, readings for the controls)."""
    readings = dict(heard=[probes.audio(clip.audio) for clip in clips], seen=[probes.video(clip.video) for clip in clips],
                    words=recognise([clip.audio for clip in clips]))
    row = row_of_errors(wrong_words(readings["words"], [clip.text for clip in truth])) | sync(readings["heard"], readings["seen"])
    row |= lengths([len(clip.video) for clip in clips], [len(clip.video) for clip in truth]) | levels([clip.audio for clip in clips])
    for column, (feature, nearest) in talker_rules.items():
        guesses = nearest([feature(clip) for clip in clips])
        row[column] = 100 * np.mean([guess == clip.talker for guess, clip in zip(guesses, truth)])
    return row, readings


def table(rows):
    """dict row name -> dict column -> number; columns in order of appearance -> aligned markdown. What a row lacks is left blank."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    digits = {"sync r": 3, "r there": 3, "x truth": 3, "length r": 2, "RMS": 3, "lag": 1}
    cells = [["", *columns]] + [[name, *(f"{row[column]:.{digits.get(column, 1)}f}" if column in row else "" for column in columns)]
                                for name, row in rows.items()]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns) + 1)]
    lines = ["| " + " | ".join([line[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]) + " |"
             for line in cells]
    rule = "|" + "|".join("-" * (width + 1) + (":" if place else "-") for place, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def fit_talker_rules(fit, references, wanted):
    """Clips of F, of F2 (or None) and the talkers of the test clips -> {column: (feature of a clip, nearest-talker rule)}; empty
    where the names don't say who talks. ValueError if a wanted talker is not among those to choose from."""
    fit = [clip for clip in fit if clip.talker is not None]
    choices = [clip for clip in references if clip.talker is not None] if references else fit
    if None in wanted:
        return {}
    strangers = sorted(wanted - {clip.talker for clip in choices})
    if strangers:
        raise ValueError(f"talkers {', '.join(map(str, strangers))} of the test clips are not in the {'--refs' if references else '--fit'} "
                         "folder: give --refs a folder with clips of them")
    rules = {}
    for column, feature in (("voice %", lambda clip: voice_features(clip.audio)), ("looks %", lambda clip: looks_features(clip.video))):
        rules[column] = feature, fit_talkers([feature(clip) for clip in fit], [clip.talker for clip in fit],
                                             ([feature(clip) for clip in choices], [clip.talker for clip in choices]))
    return rules


def compare(truth, fit, generated, roundtrip=None, refs=None):
    """Folders (generated: a list of them) -> dict of rows, probes (their r, held out and on truth), clips, and notes."""
    folders = {"truth": truth, **({"round trip": roundtrip} if roundtrip else {}),
               **{f"generated {seed}": folder for seed, folder in enumerate(generated)}}
    present = {row: set(clip_names(folder)) for row, folder in folders.items()}
    names = sorted(set.intersection(*present.values()))
    if not names:
        raise ValueError(f"no clip name is in all of {', '.join(map(str, folders.values()))}: they must share truth's names")
    clips, notes = {}, []
    fit_clips, broken = load(fit)
    notes += broken
    reference_clips, broken = load(refs) if refs else ({}, [])
    notes += broken
    for row, folder in folders.items():
        clips[row], broken = load(folder, names)
        notes += broken
        absent = sorted(set.union(*present.values()) - present[row])
        if absent:
            notes.append(f"{folder} lacks {len(absent)} clips that other folders have: {', '.join(absent)}")
    names = [name for name in names if all(name in found for found in clips.values())]
    clips = {row: [found[name] for name in names] for row, found in clips.items()}
    true = clips["truth"]
    texts = [clip.text for clip in true]
    overlap = set(texts) & {clip.text for clip in fit_clips.values()}
    if overlap:
        notes.append(f"{len(overlap)} of the test sentences are in {fit} too: the probes are fitted on what they are tried on")

    probes = fit_probes(list(fit_clips.values()))
    rules = fit_talker_rules(list(fit_clips.values()), list(reference_clips.values()), {clip.talker for clip in true})
    rows, readings = {}, {}
    for row in folders:
        rows[row], readings[row] = measure(clips[row], true, probes, rules)
    if roundtrip:
        rows["round trip"] |= psnr([clip.video for clip in clips["round trip"]], [clip.video for clip in true])

    seeds = [row for row in folders if row.startswith("generated")]
    rows["generated, mean"] = {column: float(np.mean([rows[seed][column] for seed in seeds])) for column in rows[seeds[0]]}
    others = mismatch(texts)
    for row in ("truth", *seeds):
        rows[f"mismatched, {row}"] = (row_of_errors(wrong_words(readings[row]["words"], [texts[other] for other in others]))
                                      | sync(readings[row]["heard"], [readings[row]["seen"][other] for other in others]))
    if len(seeds) > 1:
        pairs = zip(seeds, seeds[1:] + seeds[:1])
        halves = [sync(readings[one]["heard"], readings[other]["seen"]) for one, other in pairs]
        rows["same text, other seed"] = {column: float(np.mean([half[column] for half in halves])) for column in halves[0]}
    tried = [clip for clip in true if clip.opening is not None]
    return dict(clips=len(names), rows=rows, notes=notes,
                probes=dict(held_out=probes.held_out, truth=probe_quality(probes, tried) if tried else None))


def main():
    parser = argparse.ArgumentParser(prog="python -m lab.metrics", description="Measure folders of clips against truth.")
    parser.add_argument("--truth", required=True, metavar="T", help="true clips of test sentences")
    parser.add_argument("--fit", required=True, metavar="F", help="true clips of other sentences, 300 or more: the probes learn on them")
    parser.add_argument("--generated", required=True, nargs="+", metavar="G", help="generated clips, one folder a sampling seed")
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
        print(f"note: {note}", file=sys.stderr)
    print(f"{result['clips']} clips a row. Mean r of the probes with the true opening: " + "; ".join(
        f"{where.replace('_', ' ')} {of['video']:.3f} video, {of['audio']:.3f} audio" for where, of in result["probes"].items() if of))
    print(table(result["rows"]))
    if target:
        target.write_text(json.dumps(options | result, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
