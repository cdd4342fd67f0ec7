"""What the experiments of lab.ablate are measured by. Latents in, numbers out: no pictures are
decoded, so that 400 sentences take a minute.

A Sample is a clip in latents, generated or true; the latents are those of a run's autoencoders,
standardized. What the numbers are:

sync        correlation over a clip of the mouth opening read off the motion latents with that read
            off the audio latents. The probes are fitted on true clips of training sentences
control     the same, of the sound of one sampling seed with the motion of another, same text
coupling    sync minus control, per clip: what the two streams have agreed on beyond the text
captured    percent of what the control leaves: (sync - control) / (1 - control), of the means
diversity   1 minus the correlation of the openings that are heard in two samples of one text
lag         percent of clips whose best lag, of -5 to 5 frames, is not 0
closures    by how many milliseconds the mouth is off about a P, B or M, which forced alignment
            finds in the decoded sound: the shift that brings the two openings together there,
            mean of its absolute value
phones      phone error rate, percent, of the decoded sound, by the audio autoencoder's CTC head
LSE-D, LSE-C, offset    of a small SyncNet, which tells matching windows of 5 frames of audio and
            motion latents from others; as in Wav2Lip (arXiv 2008.10010), see lip_sync_error
x truth, length r       length divided by the ground truth's (of the totals), and correlation with
            it over clips
voice       percent of clips whose speaker embedding is nearest to the right speaker's of 32
FD audio, FD motion     Frechet distances of patches of 4 frames of latents to the ground truth's

`python -m lab.ablate --measures` shows what they say of clips about which the answer is known.

Axis letters: T frames, d latent width, N rows or clips, S steps of the CTC scores, G width of a
condition, n audio samples.
"""
from dataclasses import dataclass
from typing import Callable, NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from tqdm import tqdm

import train
from engine.alignment import best_path
from english.text import MARKS
from lab.listen import align, errors
from lab.metrics import LAGS, correlation, fit_network, fit_ridge, lengths, mismatch
from model import FPS

WINDOW = 5                      # frames of SyncNet's windows
REACH = 15                      # its largest offset, in frames
LABIALS = ("P", "B", "M")


@dataclass
class Sample:
    """A clip in latents."""

    text: str
    speaker: int
    audio: np.ndarray                       # (T, d)
    motion: np.ndarray                      # (T, d)
    pose: np.ndarray                        # (G,), the first pose, which motion is relative to
    opening: np.ndarray | None = None       # (T,), the true one, where it is known


class Probes(NamedTuple):
    """What is fitted on true clips of the training split, and reads samples."""

    heard: Callable             # Sample -> the opening that is heard (T,)
    seen: Callable              # Sample -> the opening that is seen (T,)
    syncnet: nn.Module


# --------------------------------------------------------------------------------------- openings
def context(latents: np.ndarray, reach=3) -> np.ndarray:
    """(T, d) -> (T, (2 reach + 1) d): each frame with its neighbours."""
    padded = np.pad(latents, ((reach, reach), (0, 0)), mode="edge")
    windows = sliding_window_view(padded, 2 * reach + 1, axis=0)              # (T, d, 2 reach + 1)
    return windows.reshape(len(latents), -1).astype(np.float32)


def motion_rows(sample: Sample) -> np.ndarray:
    """The motion of each frame beside the first pose, (T, d + G)."""
    pose = np.broadcast_to(sample.pose, (len(sample.motion), len(sample.pose)))
    return np.concatenate((sample.motion, pose), 1).astype(np.float32)        # (T, d + G)


def fit_probes(clips: list[Sample], seed=0) -> Probes:
    """True clips, 100 or more, with their openings -> Probes."""
    openings = np.concatenate([clip.opening for clip in clips])
    heard = fit_network(np.concatenate([context(clip.audio) for clip in clips]), openings)
    seen = fit_ridge(np.concatenate([motion_rows(clip) for clip in clips]), openings)
    return Probes(lambda sample: heard(context(sample.audio)),
                  lambda sample: seen(motion_rows(sample)), train_syncnet(clips, seed))


# ---------------------------------------------------------------------------------------- SyncNet
class SyncNet(nn.Module):
    """Windows of audio and of motion latents (N, WINDOW d) -> embeddings (N, 32) of unit length,
    near each other where the windows match."""

    def __init__(self, audio: int, motion: int, width=128):
        super().__init__()
        self.towers = nn.ModuleDict({
            name: nn.Sequential(nn.Linear(WINDOW * d, width), nn.GELU(), nn.Dropout(0.1),
                                nn.Linear(width, width), nn.GELU(), nn.Linear(width, 32))
            for name, d in (("audio", audio), ("motion", motion))})

    def forward(self, name: str, windows: Tensor) -> Tensor:
        return F.normalize(self.towers[name](windows), dim=-1)


def windows_of(latents: np.ndarray) -> Tensor:
    """(T, d) -> (T - 4, WINDOW d). Shorter ones are filled up by their last frame."""
    missing = max(0, WINDOW - len(latents))
    latents = np.pad(latents, ((0, missing), (0, 0)), mode="edge")
    found = sliding_window_view(latents, WINDOW, axis=0)
    return torch.tensor(found.reshape(len(found), -1), dtype=torch.float32)


def train_syncnet(clips: list[Sample], seed=0, steps=1500, batch=32, moments=16) -> SyncNet:
    """True clips -> SyncNet, by contrast: of the windows of the batch, among them others of the
    same clip, each has to find the one that matches it."""
    clips = [clip for clip in clips if len(clip.audio) >= WINDOW + moments]
    audio = [windows_of(clip.audio) for clip in clips]
    motion = [windows_of(clip.motion) for clip in clips]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SyncNet(clips[0].audio.shape[1], clips[0].motion.shape[1])
        optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        for _ in tqdm(range(steps), desc="fitting SyncNet", leave=False):
            heard = []
            seen = []
            for number in torch.randint(len(clips), (batch,)).tolist():
                at = torch.randperm(len(audio[number]))[:moments]
                heard.append(audio[number][at])
                seen.append(motion[number][at])
            heard = net("audio", torch.cat(heard))                            # (N, 32)
            seen = net("motion", torch.cat(seen))                             # (N, 32)
            scores = heard @ seen.mT / 0.07                                   # (N, N)
            right = torch.arange(len(scores))
            loss = F.cross_entropy(scores, right) + F.cross_entropy(scores.mT, right)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


def lip_sync_error(net: SyncNet, sample: Sample) -> tuple[float, float, int]:
    """LSE-D, LSE-C and offset of a clip. d(t, s) is the distance of the motion window at t from
    the audio window at t + s, m(s) its mean over t, for s from -15 to 15."""
    heard = net("audio", windows_of(sample.audio))                            # (N, 32)
    seen = net("motion", windows_of(sample.motion))                           # (N, 32)
    distance = torch.cdist(seen, heard)                                       # (N, N)
    reach = min(REACH, len(distance) - 1)
    m = torch.stack([distance.diagonal(s).mean() for s in range(-reach, reach + 1)])
    least = int(m.argmin())
    return float(m[least]), float(m.median() - m[least]), least - reach


# ----------------------------------------------------------------------------------- recogniser
class Recogniser:
    """The frozen parts of a run as a recogniser of decoded sound: phones, when they are, and the
    speaker."""

    def __init__(self, frozen: train.Frozen, references: dict[int, dict]):
        """references: speaker -> {"audio": condition (G,), ...}."""
        self.frozen = frozen
        self.alphabet = frozen.config.alphabet
        size = frozen.config.speaker_size
        self.speakers = list(references)
        self.voices = torch.stack([references[n]["audio"][:size] for n in references])

    @torch.inference_mode()
    def listen(self, sample: Sample) -> tuple[np.ndarray, int]:
        """A sample -> CTC scores (S, symbols) of its sound, and the speaker that it sounds like."""
        voice = self.voices[self.speakers.index(sample.speaker)][None]
        wave = self.frozen.audio.decode(torch.tensor(sample.audio)[None], voice)      # (1, n)
        scores = self.frozen.audio.ctc_scores(wave)[0].numpy()
        found = F.normalize(self.frozen.speaker(wave), dim=-1)                # (1, G)
        nearest = int((F.normalize(self.voices, dim=-1) @ found[0]).argmax())
        return scores, self.speakers[nearest]

    def phones(self, ids: list[int]) -> list[str]:
        symbols = [self.alphabet.symbols[i] for i in ids]
        return [symbol for symbol in symbols if symbol not in MARKS]

    def wrong_phones(self, text: str, scores: np.ndarray) -> tuple[int, int]:
        """How many phones are read otherwise, and how many there are."""
        best = scores.argmax(1)
        read = best[np.flatnonzero(np.diff(best, prepend=-1))]
        truth = self.phones(self.alphabet.encode(text))
        found = self.phones([i for i in read if i > 0])
        return errors(align(truth, found)), len(truth)

    def phone_errors(self, samples: list[Sample], scores: list[np.ndarray]) -> float:
        """Percent of the phones that are read otherwise."""
        wrong = np.sum([self.wrong_phones(x.text, y) for x, y in zip(samples, scores)], 0)
        return float(100 * wrong[0] / wrong[1])

    def labials(self, text: str, scores: np.ndarray) -> list[float]:
        """When each P, B and M of a text is heard, in seconds. An empty list where the sound is too
        short for the text."""
        ids = self.alphabet.encode(text)
        try:
            states = best_path(scores, ids)
        except ValueError:
            return []
        found = []
        for place, symbol in enumerate(ids):
            if self.alphabet.symbols[symbol] in LABIALS:
                steps = np.flatnonzero(states == 2 * place + 1)
                found.append((steps.mean() + 0.5) / (2 * FPS))
        return found


def local_shift(heard: np.ndarray, seen: np.ndarray, second: float, half=5, reach=4) -> float:
    """By how many milliseconds what is seen about a moment comes later than what is heard: the
    shift, of -160 to 160, that brings the two openings (T,) together best within 0.44 s."""
    length = min(len(heard), len(seen))
    edge = half + reach
    heard = np.pad(heard[:length], edge, mode="edge")
    seen = np.pad(seen[:length], edge, mode="edge")
    centre = edge + min(round(second * FPS - 0.5), length - 1)
    window = heard[centre - half:centre + half + 1]
    error = np.array([
        np.square(seen[centre - half + lag:centre + half + 1 + lag] - window).mean()
        for lag in range(-reach, reach + 1)])
    # Between the lags a parabola finds the least.
    least = int(error.argmin())
    shift = 0.0
    if 0 < least < len(error) - 1:
        before, at, after = error[least - 1:least + 2]
        shift = 0.5 * (before - after) / (before - 2 * at + after)
    return 1000 / FPS * (least - reach + shift)


# ------------------------------------------------------------------------------------ the numbers
def frechet(rows: np.ndarray, truth: np.ndarray) -> float:
    """Frechet distance of two sets (N, D) of vectors, taken as normally distributed."""
    means = np.square(rows.mean(0) - truth.mean(0)).sum()
    one, other = np.cov(rows.T), np.cov(truth.T)
    # The trace of the root of a product is the sum of the roots of its eigenvalues.
    root = np.sqrt(np.linalg.eigvals(one @ other).real.clip(0)).sum()
    return max(0.0, float(means + np.trace(one) + np.trace(other) - 2 * root))


def patches_of(latents: list[np.ndarray], patch=4) -> np.ndarray:
    """Clips (T, d) -> (N, patch d)."""
    return np.concatenate([x[:len(x) // patch * patch].reshape(-1, patch * x.shape[1])
                           for x in latents])


def crossed(one: list[Sample], other: list[Sample]) -> list[Sample]:
    """The sound of one with the motion of the other."""
    found = []
    for a, b in zip(one, other):
        length = min(len(a.audio), len(b.motion))
        found.append(Sample(a.text, a.speaker, a.audio[:length], b.motion[:length], b.pose))
    return found


def diversity(probes: Probes, one: list[Sample], other: list[Sample]) -> float:
    """Two samples of each text, cut to the shorter of each pair: 0 where the timing of both is the
    same, 1 where it has nothing in common."""
    found = []
    for a, b in zip(one, other):
        heard = probes.heard(a), probes.heard(b)
        length = min(map(len, heard))
        found.append(correlation(heard[0][:length], heard[1][:length]))
    return 1 - float(np.mean(found))


def per_clip_sync(probes: Probes, samples: list[Sample]) -> np.ndarray:
    """The correlation of heard and seen opening, (N,)."""
    return np.array([correlation(probes.heard(x), probes.seen(x)) for x in samples])


def sync_figures(probes: Probes, samples: list[Sample]) -> dict[str, float]:
    """What tells how well sound and motion go together."""
    syncs = []
    lags = []
    nets = []
    for sample in samples:
        heard, seen = probes.heard(sample), probes.seen(sample)
        at = {lag: correlation(heard, seen, lag) for lag in LAGS}
        syncs.append(at[0])
        lags.append(max(at, key=at.get))
        nets.append(lip_sync_error(probes.syncnet, sample))
    lse_d, lse_c, offset = np.array(nets).T
    return {"sync": float(np.mean(syncs)),
            "lag": 100 * float(np.mean(np.array(lags) != 0)),
            "LSE-D": float(lse_d.mean()), "LSE-C": float(lse_c.mean()),
            "offset": 100 * float(np.mean(offset != 0))}


def closures(probes: Probes, recogniser: Recogniser, samples: list[Sample], scores: list) -> float:
    """Mean absolute shift in milliseconds about every P, B and M. NaN if there is none."""
    found = []
    for sample, heard in zip(samples, scores):
        openings = probes.heard(sample), probes.seen(sample)
        found += [abs(local_shift(*openings, second))
                  for second in recogniser.labials(sample.text, heard)]
    return float(np.mean(found)) if found else float("nan")


def figures(probes: Probes, recogniser: Recogniser, samples: list[Sample],
            truth: list[Sample]) -> dict[str, float]:
    """All numbers of one set of samples, beside the true clips of the same texts."""
    listened = [recogniser.listen(sample) for sample in samples]
    scores = [heard for heard, _ in listened]
    long = lengths([len(x.audio) for x in samples], [len(x.audio) for x in truth])
    # Of a single speaker every clip is nearest to that one.
    voices = {}
    if len(recogniser.speakers) > 1:
        right = [s == x.speaker for x, (_, s) in zip(samples, listened)]
        voices = {"voice": 100 * float(np.mean(right))}
    return sync_figures(probes, samples) | {
        "closures": closures(probes, recogniser, samples, scores),
        "phones": recogniser.phone_errors(samples, scores),
        "x truth": float(long["x truth"]), "length r": float(long["length r"]),
        **voices} | distances(samples, truth)


def distances(samples: list[Sample], truth: list[Sample]) -> dict[str, float]:
    """Frechet distances of the two streams."""
    return {f"FD {name}": frechet(patches_of([getattr(x, name) for x in samples]),
                                  patches_of([getattr(x, name) for x in truth]))
            for name in ("audio", "motion")}


# ---------------------------------------------------------------------- answers that are known
def known_answers(probes: Probes, recogniser: Recogniser, truth: list[Sample]) -> dict[str, dict]:
    """What the measures say of true clips, and of true clips whose motion or audio was perturbed:
    row -> column -> number. A measure that does not put them into their order is of no use."""
    rng = np.random.default_rng(0)

    def changed(change: Callable) -> list[Sample]:
        return [Sample(x.text, x.speaker, x.audio, change(x.motion), x.pose) for x in truth]

    def later(frames: int) -> Callable:
        """The motion comes so many frames later: it waits at its beginning."""
        return lambda motion: np.concatenate((motion[:1].repeat(frames, 0), motion))[:len(motion)]

    def noisy(level: float) -> Callable:
        return lambda motion: motion + level * rng.standard_normal(motion.shape)

    def other_audio(level: float) -> list[Sample]:
        return [Sample(x.text, x.speaker, (x.audio + level * rng.standard_normal(
            x.audio.shape)).astype(np.float32), x.motion, x.pose) for x in truth]

    def sound_of(number: int) -> list[Sample]:
        """Clips with the sound of those `number` places on, another sentence by another speaker."""
        rolled = truth[number:] + truth[:number]
        return [Sample(x.text, x.speaker, y.audio, x.motion[:len(y.audio)], x.pose)
                for x, y in zip(truth, rolled)]

    others = mismatch([x.text for x in truth])
    perturbed = {
        "truth": truth,
        **{f"motion {n} frame{'s'[:n > 1]} late": changed(later(n)) for n in (1, 2, 5)},
        "noise of .3 deviations on the motion": changed(noisy(0.3)),
        "noise of 1 deviation on the motion": changed(noisy(1.0)),
        "motion of another sentence": crossed(truth, [truth[i] for i in others]),
        "noise of .3 deviations on the audio": other_audio(0.3),
        "noise of 1 deviation on the audio": other_audio(1.0),
        "audio of another speaker and sentence": sound_of(1)}
    return {name: figures(probes, recogniser, samples, truth)
            for name, samples in tqdm(perturbed.items(), desc="known answers", leave=False)}
