"""A reader of phones, trained on the synthetic corpus itself, which judges what is understood:

    python -m lab.reader --out reader.pt

A convolutional network over log-mel features with a CTC loss (Graves et al., 2006) learns from the
ground truth alone, so that it never hears an autoencoder or a Talker. lab/listen.py uses it.

Axis letters: B batch, n audio samples, R rows of a spectrogram (100 per second), T' = R / 2 steps,
C channels.
"""
import argparse
from pathlib import Path

import engine.machine  # noqa: F401       before torch
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import data
from engine.machine import cores
from engine.processes import plainly
from engine.workers import parallel
from english.text import PHONES, read
from lab.cartoon import articulate, make_speaker, synthesize
from lab.metrics import log_mel

BANDS = 40


def spoken_phones(text: str) -> list[int]:
    """The phones of a text, without marks, as numbers from 1 on: 0 is the blank of CTC."""
    return [1 + PHONES.index(symbol) for symbol in read(text).symbols if symbol in PHONES]


class Reader(nn.Module):
    """Log-mel rows (B, R, 40) -> logarithms of the probabilities of blank and phones,
    (B, T', 1 + 39)."""

    def __init__(self, channels=192, dilations=(1, 2, 4, 8, 1, 2)):
        super().__init__()
        self.first = nn.Conv1d(BANDS, channels, 5, stride=2, padding=2)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in dilations)
        self.blocks = nn.ModuleList(
            nn.Conv1d(channels, 2 * channels, 5, padding=2 * dilation, dilation=dilation)
            for dilation in dilations)
        self.out = nn.Linear(channels, 1 + len(PHONES))

    def forward(self, mel: Tensor) -> Tensor:
        x = F.relu(self.first((mel + 4) .mT / 4))                             # (B, C, T')
        for norm, block in zip(self.norms, self.blocks):
            x = x + F.glu(block(norm(x.mT).mT), 1)
        return self.out(x.mT).log_softmax(-1)                                 # (B, T', 40)

    @torch.inference_mode()
    def phones(self, audio: np.ndarray) -> list[int]:
        """A waveform (n,) at 16 kHz -> the likeliest phones, as `spoken_phones` numbers them."""
        # With silence around it a clip may begin and end anywhere.
        mel = torch.from_numpy(log_mel(np.pad(audio, 1600)).astype(np.float32))
        best = self(mel[None])[0].argmax(-1).unique_consecutive()
        return [number for number in best.tolist() if number]


class Sounds:
    """Clip i of the training split without its pictures: log-mel rows and phones."""

    def __init__(self, n: int, seed: int):
        self.corpus = data.SyntheticCorpus("train", n, seed=seed)

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> tuple[np.ndarray, list[int]]:
        text = self.corpus.text(index)
        rng = np.random.default_rng([self.corpus.seed, index])
        speaker = make_speaker(self.corpus.speakers[index % len(self.corpus.speakers)])
        tracks = articulate(read(text).symbols, speaker, rng)
        audio = synthesize(tracks, speaker, 16000, rng)
        mel = log_mel(np.pad(audio, 1600)).astype(np.float32)
        return mel, spoken_phones(text)


def train_reader(n=4000, epochs=8, batch=32, seed=1) -> Reader:
    """Train a Reader on n clips. Their seed is none that a run uses by default."""
    torch.manual_seed(seed)
    sounds = Sounds(n, seed)
    items = list(parallel(data.make_clip, sounds, range(n), cores(), "sounds"))
    reader = Reader()
    order = data.BatchOrder([len(mel) for mel, _ in items], batch, seed)
    steps = epochs * n // batch
    optimizer = torch.optim.AdamW(reader.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    bar = tqdm(range(steps), desc="reader", unit="step")
    for _ in bar:
        mels, targets = zip(*(items[i] for i in next(order)))
        lengths = torch.tensor([(len(mel) + 1) // 2 for mel in mels])
        mel = nn.utils.rnn.pad_sequence([torch.from_numpy(mel) for mel in mels], True)
        scores = reader(mel + 0.3 * torch.randn_like(mel))                    # (B, T', 40)
        target = torch.tensor([number for row in targets for number in row])
        loss = F.ctc_loss(scores.transpose(0, 1), target, lengths,
                          torch.tensor([len(row) for row in targets]), zero_infinity=True)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix_str(f"loss {loss.item():.3f}")
    return reader.eval()


def load_reader(path: Path) -> Reader:
    reader = Reader()
    reader.load_state_dict(torch.load(path, weights_only=True))
    return reader.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.reader", description="Train the reader of phones on true clips.")
    parser.add_argument("--out", type=Path, required=True, help="a .pt file")
    parser.add_argument("--n", type=int, default=4000, help="clips to learn from (default 4000)")
    options = parser.parse_args()
    reader = train_reader(options.n)
    torch.save(reader.state_dict(), options.out)
    print(f"{options.out}: next: python -m lab.listen --reader {options.out} --truth ...")


if __name__ == "__main__":
    plainly(main)
