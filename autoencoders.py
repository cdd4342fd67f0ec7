"""The frozen parts around the Talker (arXiv 2604.23586, section 3.1): one latent vector per frame
and stream, nothing spatial.

    AudioVAE             waveform (B, n)     <-> latents (B, T, 32) at 25 Hz
    MotionAutoencoder    a clip (T, 3, S, S) <-> motion (T, 20) relative to its first picture
    SpeakerEncoder       waveform (B, n)      -> speaker embedding (B, G) of unit length

What stands for what in these small forms. The paper's own need other people's weights or days of
training; they are in paper/autoencoders.py, behind the same interface.

| paper                                | here                                                      |
|--------------------------------------|-----------------------------------------------------------|
| Whisper large-v3 encoder, frozen     | WhisperEncoder: the same architecture, small, trained     |
|                                      | with a CTC loss on the text, and with nothing else        |
| DAC's convolutions on the waveform   | ConvNeXt blocks on the log spectrum at 50 Hz              |
| DAC's transposed convolutions        | ConvNeXt blocks at 25, then 100 Hz, and an inverse STFT   |
| adversarial, feature-matching losses | none: spectral losses at two resolutions                  |
| LIA-X at 512 x 512, 40 directions    | the same idea at 64 or 96, 20 or 40 directions            |
| WavLM speaker embedding, 256-d       | SpeakerEncoder: contrastive loss of crops, without labels |

Axis letters: B batch, n samples, T frames (25 Hz), F spectral bins, C channels, S picture side,
D width, d latent width, G width of the speaker embedding, K directions, H heads.

`python autoencoders.py` prints the shapes.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from model import FPS, attention, initialise, zero_init


# ------------------------------------------------------------------------------------ spectra
def triangular_filters(edges: Tensor, hertz: Tensor) -> Tensor:
    """Corner frequencies (bands + 2,) and those of the bins (F,) -> overlapping triangular filters
    (bands, F), 1 at their centres."""
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (hertz - low) / (centre - low)
    falling = (high - hertz) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0)


def mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


class Spectrum(nn.Module):
    """Magnitudes and log-mel energies of a waveform. window, hop: samples; bands: of mel."""

    def __init__(self, sample_rate: int, window: int, hop: int, bands: int):
        super().__init__()
        self.window, self.hop = window, hop
        edges = torch.linspace(mel(20), mel(sample_rate / 2), bands + 2)
        edges = 700 * (10 ** (edges / 2595) - 1)                              # back to hertz
        hertz = torch.linspace(0, sample_rate / 2, window // 2 + 1)
        self.register_buffer("filters", triangular_filters(edges, hertz), persistent=False)
        self.register_buffer("hann", torch.hann_window(window), persistent=False)

    def magnitude(self, wave: Tensor) -> Tensor:
        """(B, n) -> (B, F, 1 + n / hop)."""
        spectrum = torch.stft(wave, self.window, self.hop, window=self.hann, pad_mode="constant",
                              return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + 1e-7).sqrt()

    def log_mel(self, magnitude: Tensor) -> Tensor:
        """(B, F, frames) -> (B, bands, frames)."""
        return (self.filters @ magnitude).clamp(min=1e-3).log()


class Standardize(nn.Module):
    """Zero mean and unit deviation per latent dimension, by statistics of the corpus, which the
    checkpoint keeps."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def forward(self, latents: Tensor) -> Tensor:
        return (latents - self.mean) / self.deviation

    def inverse(self, latents: Tensor) -> Tensor:
        return latents * self.deviation + self.mean

    @torch.no_grad()
    def fit_statistics(self, latents: Tensor) -> None:
        """Set mean and deviation to those of latents (n, d), as they are before `forward`."""
        self.mean.copy_(latents.mean(0))
        self.deviation.copy_(latents.std(0).clamp(min=1e-4))


class ConvNeXt(nn.Module):
    """A ConvNeXt block on (B, T, C): depthwise convolution over time, then a pointwise MLP."""

    def __init__(self, channels: int, kernel=7, expand=3):
        super().__init__()
        self.depthwise = nn.Conv1d(
            channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, expand * channels)
        self.down = zero_init(nn.Linear(expand * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.mT).mT                                           # (B, T, C)
        return x + self.down(F.gelu(self.up(self.norm(y))))


# -------------------------------------------------------------------------------------- audio
class WhisperBlock(nn.Module):
    """A pre-norm transformer block with absolute positions, as Whisper has them."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = zero_init(nn.Linear(width, width))
        self.up = nn.Linear(width, 4 * width)
        self.down = zero_init(nn.Linear(4 * width, width))

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """x (B, T, D), valid (B, T) False on padding -> (B, T, D)."""
        y = self.norm1(x)
        q, k, v = (rearrange(layer(y), "B T (H D) -> B H T D", H=self.heads)
                   for layer in (self.query, self.key, self.value))           # (B, H, T, D / H)
        y = rearrange(attention(q, k, v, valid=valid), "B H T D -> B T (H D)")
        x = x + self.out(y)                                                   # (B, T, D)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class WhisperEncoder(nn.Module):
    """Whisper's encoder (arXiv 2212.04356): log-mel at 100 Hz -> features at 50 Hz."""

    def __init__(self, bands: int, width: int, layers: int, heads: int):
        super().__init__()
        self.conv1 = nn.Conv1d(bands, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(WhisperBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, log_mel: Tensor, valid: Tensor | None = None) -> Tensor:
        """log_mel (B, bands, 2 T'), valid (B, T') False on padding -> (B, T', D)."""
        x = F.gelu(self.conv1(log_mel))
        x = F.gelu(self.conv2(x)).mT                                          # (B, T', D)
        # Sinusoidal positions are added once, before the first block.
        half = x.shape[-1] // 2
        rate = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half, device=x.device))
        angle = torch.arange(x.shape[1], device=x.device)[:, None] * rate     # (T', D / 2)
        x = x + torch.cat((angle.sin(), angle.cos()), 1)
        for block in self.blocks:
            x = block(x, valid)
        return self.norm(x)


def average_pairs(x: Tensor) -> Tensor:
    """Average neighbours: (B, 2 T, D) at 50 Hz -> (B, T, D) at 25 Hz."""
    return rearrange(x, "B (T r) D -> B T r D", r=2).mean(2)                  # (B, T, D)


class SpectrumEncoder(nn.Module):
    """The acoustic branch: waveform (B, n) -> (B, T, D)."""

    def __init__(self, sample_rate: int, width: int):
        super().__init__()
        # Windows of 40 ms at 100 Hz.
        self.spectrum = Spectrum(sample_rate, sample_rate // FPS, sample_rate // (4 * FPS), 80)
        self.input = nn.Linear(2 * (sample_rate // FPS // 2 + 1), width)
        self.blocks = nn.Sequential(ConvNeXt(width), ConvNeXt(width))
        self.output = nn.Linear(2 * width, width)

    def forward(self, wave: Tensor) -> Tensor:
        frames = wave.shape[-1] // (4 * self.spectrum.hop)
        x = self.spectrum.magnitude(wave).clamp(min=1e-3).log()
        x = x[..., :4 * frames] / 3                                           # (B, F, 4 T)
        x = rearrange(x, "B F (T r) -> B T (r F)", r=2)                       # (B, 2 T, 2 F)
        x = self.blocks(self.input(x))                                        # (B, 2 T, D)
        x = rearrange(x, "B (T r) D -> B T (r D)", r=2)                       # (B, T, 2 D)
        return self.output(x)                                                 # (B, T, D)


class FourierDecoder(nn.Module):
    """The decoder, after Vocos (arXiv 2306.00814): predict the spectrum of each frame at 100 Hz,
    and invert it. (B, T, D) -> (B, n).

    slow, fast: channels of the blocks at 25 and at 100 Hz. reach: the receptive field, in frames
    at 25 Hz on either side of a sample.
    """

    def __init__(self, sample_rate: int, width: int, slow: int, fast: int, blocks=3):
        super().__init__()
        self.hop = sample_rate // (4 * FPS)
        self.window = 2 ** round(math.log2(sample_rate * 0.032))
        self.input = nn.Conv1d(width, slow, 3, padding=1)
        self.slow = nn.Sequential(*(ConvNeXt(slow) for _ in range(blocks)))
        self.up = nn.Linear(slow, 4 * fast)
        self.fast = nn.Sequential(*(ConvNeXt(fast) for _ in range(blocks)), nn.LayerNorm(fast))
        self.out = nn.Linear(fast, self.window + 2)
        self.reach = 1 + 3 * blocks + math.ceil((3 * blocks + 3) / 4)
        self.register_buffer("hann", torch.hann_window(self.window), persistent=False)

    def overlap_add(self, frames: Tensor) -> Tensor:
        """Windows (B, window, 4 T), each a hop after the one before, added up -> (B, n)."""
        length = (frames.shape[-1] - 1) * self.hop + self.window
        return F.fold(frames, (1, length), (1, self.window), stride=(1, self.hop))[:, 0, 0]

    def forward(self, x: Tensor) -> Tensor:
        # From 25 to 100 Hz.
        x = self.slow(self.input(x.mT).mT)                                    # (B, T, slow)
        x = rearrange(self.up(x), "B T (r D) -> B (T r) D", r=4)              # (B, 4 T, fast)
        x = self.fast(x)

        # Magnitude and phase of each window, and their inverse Fourier transform.
        magnitude, phase = self.out(x).float().mT.chunk(2, 1)                 # (B, F, 4 T)
        magnitude = (magnitude - 1).exp().clamp(max=1e2)
        spectrum = torch.polar(magnitude, phase)
        windows = torch.fft.irfft(spectrum, n=self.window, dim=1)             # (B, window, 4 T)
        windows = windows * self.hann[:, None]

        # Overlapping windows are added, and divided by the sum of the squared Hann windows.
        number = windows.shape[-1]
        squares = self.hann.square()[None, :, None].expand(1, -1, number)
        wave = self.overlap_add(windows) / self.overlap_add(squares).clamp(min=1e-3)
        edge = (self.window - self.hop) // 2
        return wave[:, edge:edge + number * self.hop]                         # (B, n)


class AudioVAE(nn.Module):
    """Acoustic and semantic branch -> Gaussian bottleneck -> decoder, and an MLP that reconstructs
    the semantic features from the bottleneck.

    Unlike the paper's, the decoder is conditioned on the speaker embedding: in the minutes that it
    has, it does not learn to keep a voice in latents this small (docs/paper.md).

    Args:
        width, layers, heads: of the semantic encoder. latent: d. bands: of its mel spectrogram.
        slow, fast: of the decoder. vocabulary: of the CTC loss.
        kl: weight of the KL divergence. crop: frames of a clip that a training step decodes.
        speaker_size: width of the speaker embedding.
    """

    def __init__(self, sample_rate=16000, width=128, latent=32, bands=80, layers=2, heads=4,
                 slow=256, fast=160, vocabulary=64, kl=5e-2, crop=24, speaker_size=64):
        super().__init__()
        self.sample_rate = sample_rate
        self.samples_per_frame = sample_rate // FPS
        self.kl, self.crop = kl, crop
        # Whisper's windows of 25 ms at 100 Hz.
        self.mel = Spectrum(sample_rate, sample_rate // 40, sample_rate // 100, bands)
        self.semantic = WhisperEncoder(bands, width, layers, heads)
        self.ctc_head = nn.Linear(width, vocabulary)
        self.acoustic = SpectrumEncoder(sample_rate, width)
        self.to_latent = nn.Linear(width, 2 * latent)
        self.from_latent = nn.Linear(latent, width)
        self.speaker_in = nn.Linear(speaker_size, width, bias=False)
        self.standardize = Standardize(latent)
        self.rebuild = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.decoder = FourierDecoder(sample_rate, width, slow, fast)
        # The two resolutions of the spectral loss: (window, hop, bands).
        self.spectra = nn.ModuleList(
            Spectrum(sample_rate, *sizes) for sizes in ((320, 100, 40), (1280, 320, 100)))
        initialise(self)

    # ---- encoder
    def semantics(self, wave: Tensor, frames: Tensor | None = None) -> Tensor:
        """(B, n), of which frames (B,) are not padding -> semantic features (B, 2 T, D), 50 Hz."""
        log_mel = self.mel.log_mel(self.mel.magnitude(wave))
        log_mel = log_mel[..., :wave.shape[-1] // self.samples_per_frame * 4] # (B, bands, 4 T)
        valid = None
        if frames is not None:
            position = torch.arange(log_mel.shape[-1] // 2, device=wave.device)
            valid = position[None] < 2 * frames[:, None]                      # (B, 2 T)
        return self.semantic((log_mel + 4) / 4, valid)

    def ctc_scores(self, wave: Tensor) -> Tensor:
        """(B, n) -> what the CTC loss has taught the semantic encoder to read: the logarithms of
        the probabilities of its blank, 0, and of the text's symbols, at 50 Hz, (B, 2 T,
        vocabulary). T as for `encode`."""
        wave = F.pad(wave, (0, -wave.shape[1] % self.samples_per_frame))
        return self.ctc_head(self.semantics(wave)).float().log_softmax(-1)

    def bottleneck(self, wave: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n) and its semantic features at 25 Hz (B, T, D) -> mean and deviation of the
        posterior, each (B, T, d)."""
        x = self.to_latent(self.acoustic(wave) + semantic).float()            # (B, T, 2 d)
        mean, scale = x.chunk(2, -1)
        return mean, F.softplus(scale) + 1e-4

    def encode(self, wave: Tensor) -> Tensor:
        """(B, n) -> standardized latents (B, T, d), the means of the posterior. T = ceil(n /
        samples per frame): an odd end is padded with silence."""
        if wave.ndim != 2 or wave.shape[1] == 0:
            raise ValueError(f"AudioVAE.encode takes waveforms (B, n) with n > 0, not "
                             f"{tuple(wave.shape)}")
        wave = F.pad(wave, (0, -wave.shape[1] % self.samples_per_frame))
        mean, _ = self.bottleneck(wave, average_pairs(self.semantics(wave)))
        return self.standardize(mean)

    def fit_statistics(self, waves) -> None:
        """Fit the standardization to the latents of clips, each (n,)."""
        latents = torch.cat([self.encode(wave[None])[0] for wave in waves])   # (n, d)
        self.standardize.fit_statistics(self.standardize.inverse(latents))

    # ---- decoder
    def decode(self, latents: Tensor, speaker: Tensor) -> Tensor:
        """Standardized latents (B, T, d), speaker embedding (B, G) -> (B, n)."""
        x = self.from_latent(self.standardize.inverse(latents))               # (B, T, D)
        return self.decoder(x + self.speaker_in(speaker)[:, None])

    # ---- training
    def random_crop(self, wave: Tensor, semantic: Tensor, frames: Tensor,
                    generator=None) -> tuple[Tensor, Tensor]:
        """A random crop, of at most `crop` frames, of each clip (B, n) and of its semantic
        features (B, T, D)."""
        draw = torch.rand(len(wave), generator=generator, device=wave.device)
        start = (draw * (frames - self.crop + 1).clamp(min=1)).long()         # (B,)
        length = min(self.crop, wave.shape[1] // self.samples_per_frame)
        at = start[:, None] + torch.arange(length, device=wave.device)        # (B, T')

        def crop(x: Tensor) -> Tensor:
            return x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))     # (B, T', ...)

        by_frame = wave.unflatten(1, (-1, self.samples_per_frame))            # (B, T, n / T)
        return crop(by_frame).flatten(1), crop(semantic)

    def sample_latent(self, mean: Tensor, deviation: Tensor,
                      generator=None) -> tuple[Tensor, Tensor]:
        """The posterior, each (B, T, d) -> a draw from it as the decoder gets it (B, T, D), and
        its KL divergence from the standard normal distribution, per dimension."""
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        kl = 0.5 * (mean.square() + deviation.square() - 1).mean() - deviation.log().mean()
        return self.from_latent(mean + deviation * noise), kl

    def semantic_loss(self, drawn: Tensor, semantic: Tensor) -> Tensor:
        """Squared error and cosine distance of the semantic features (B, T, D), reconstructed from
        what the decoder gets."""
        guess = self.rebuild(drawn).float()
        return F.mse_loss(guess, semantic) + 1 - F.cosine_similarity(guess, semantic, -1).mean()

    def spectral_loss(self, wave: Tensor, truth: Tensor) -> Tensor:
        """Distance of two waveforms (B, n): log-mel, log and linear magnitudes, two resolutions."""
        total = 0
        for spectrum in self.spectra:
            y, x = spectrum.magnitude(wave), spectrum.magnitude(truth)        # (B, F, frames)
            log_mel = spectrum.log_mel(y) - spectrum.log_mel(x)               # (B, bands, frames)
            logs = F.l1_loss(y.clamp(min=1e-3).log(), x.clamp(min=1e-3).log())
            # The mean over time of the log-mel difference is one of timbre: a voice.
            timbre = log_mel.mean(-1).abs().mean()
            linear = (y - x).abs().mean() / x.mean()
            total = total + log_mel.abs().mean() + 0.5 * timbre + 0.5 * logs + 1.5 * linear
        return total / len(self.spectra)

    def loss(self, wave: Tensor, frames: Tensor, text: Tensor, speaker: Tensor,
             generator=None) -> tuple[Tensor, dict]:
        """wave (B, n) padded with zeros, frames (B,), text (B, L) ids padded on the left with 0,
        speaker (B, G) -> the loss, and its parts to log."""
        # CTC (Graves et al. 2006) on whole sentences teaches the semantic encoder to read.
        features = self.semantics(wave, frames)                               # (B, 2 T, D)
        scores = self.ctc_head(features).float().log_softmax(-1)              # (B, 2 T, vocabulary)
        target = text[text > 0]                   # (sum of lengths,), the packed form
        lengths = (text > 0).sum(1)
        ctc = F.ctc_loss(
            scores.transpose(0, 1), target, 2 * frames, lengths, zero_infinity=True)

        # The autoencoder learns from a crop of each clip. For it the semantic features are given,
        # as Whisper's are in the paper, so no gradient reaches them.
        semantic = average_pairs(features).detach()                           # (B, T, D)
        wave, semantic = self.random_crop(wave, semantic, frames, generator)
        mean, deviation = self.bottleneck(wave, semantic)
        drawn, kl = self.sample_latent(mean, deviation, generator)            # (B, T', D)
        semantic_loss = self.semantic_loss(drawn, semantic)

        # What the decoder makes of the draw must sound like the crop.
        sound = self.decoder(drawn + self.speaker_in(speaker)[:, None])       # (B, n')
        spectral = self.spectral_loss(sound, wave)
        log = {"spectral": spectral, "kl": kl, "semantic": semantic_loss, "ctc": ctc}
        return spectral + self.kl * kl + 0.1 * semantic_loss + 0.2 * ctc, log


# ------------------------------------------------------------------------------------ speaker
class SpeakerEncoder(nn.Module):
    """Who speaks: log-mel -> ConvNeXt blocks -> mean and deviation over time -> an embedding of
    unit length (B, size)."""

    def __init__(self, sample_rate=16000, size=64, width=128, bands=80, blocks=2, temperature=0.1):
        super().__init__()
        self.samples_per_frame = sample_rate // FPS
        self.temperature = temperature
        self.mel = Spectrum(sample_rate, sample_rate // FPS, sample_rate // 100, bands)
        self.input = nn.Linear(2 * bands, width)
        self.blocks = nn.Sequential(*(ConvNeXt(width) for _ in range(blocks)))
        self.out = nn.Linear(2 * width, size)
        initialise(self)

    def forward(self, wave: Tensor) -> Tensor:
        """(B, n) -> (B, size)."""
        if wave.shape[1] < 2 * self.samples_per_frame:
            seconds = wave.shape[1] / self.samples_per_frame / FPS
            raise ValueError(f"a speaker embedding needs at least {2 / FPS} s of sound, not "
                             f"{seconds:.3f} s")
        log_mel = self.mel.log_mel(self.mel.magnitude(wave))                  # (B, bands, frames)
        log_mel = log_mel[..., :log_mel.shape[-1] // 2 * 2]
        x = rearrange((log_mel + 4) / 4, "B F (T r) -> B T (r F)", r=2)       # (B, T', 2 bands)
        x = self.blocks(self.input(x))                                        # (B, T', D)
        x = torch.cat((x.mean(1), x.std(1)), -1)                              # (B, 2 D)
        return F.normalize(self.out(x).float(), dim=-1)

    def loss(self, wave: Tensor, frames: Tensor, generator=None) -> tuple[Tensor, dict]:
        """wave (B, n), frames (B,) -> contrastive loss (arXiv 2002.05709), and the share of crops
        whose partner was found.

        Two crops of one utterance attract each other, crops of others repel. They share the
        speaker but not the words, so the speaker is all that the embedding can carry.
        """
        # Two crops of equal length that do not overlap, at a random place of each clip.
        length = int(frames.min()) // 2
        if length < 5:
            raise ValueError(f"the speaker encoder needs clips of at least 10 frames; the "
                             f"shortest here has {int(frames.min())}")
        slack = frames - 2 * length
        draw = torch.rand(len(wave), generator=generator, device=wave.device)
        first = (draw * (slack + 1)).long()                                   # (B,)
        by_frame = wave.unflatten(1, (-1, self.samples_per_frame))            # (B, T, n / T)

        def crop(start: Tensor) -> Tensor:
            at = start[:, None] + torch.arange(length, device=wave.device)    # (B, T')
            index = at[..., None].expand(-1, -1, self.samples_per_frame)
            return by_frame.gather(1, index).flatten(1)                       # (B, n')

        # Row i of the similarities should be largest in column i, and the other way round.
        similarity = self(crop(first)) @ self(crop(first + length)).T         # (B, B)
        similarity = similarity / self.temperature
        same = torch.arange(len(wave), device=wave.device)
        loss = F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)
        return loss / 2, {"found": (similarity.argmax(1) == same).float().mean()}


# ------------------------------------------------------------------------------------- motion
def conv(inputs: int, outputs: int, kernel=3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Residual(nn.Module):
    """x + two convolutions of x, (B, C, S, S)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = conv(channels, channels)
        self.conv2 = zero_init(conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Fetch x (B, C, S, S) from where the flow field (B, 2, S, S) points, in units of half the
    picture's side."""
    centre = (torch.arange(x.shape[-1], device=x.device) + 0.5) * 2 / x.shape[-1] - 1
    grid = torch.stack(torch.meshgrid(centre, centre, indexing="xy"), -1)     # (S, S, 2)
    grid = grid + flow.permute(0, 2, 3, 1)                                    # (B, S, S, 2)
    return F.grid_sample(x.contiguous(), grid, padding_mode="border", align_corners=False)


class MotionAutoencoder(nn.Module):
    """LIA (arXiv 2203.09043; LIA-X 2508.09959) in small: an appearance code plus a motion along
    orthogonal directions.

    The face comes from a source picture. Its features are warped by flow fields, coarse to fine,
    that its code and the motion give. It is trained on pairs of frames of one clip. The motion of
    a clip is how its poses differ from the first one: those of a real speaker differ ten times as
    much between clips as within one.

    A direction is a learned vector in the space of the codes, such as "the mouth opens" or "the
    head turns". The magnitudes of a picture say how far it lies along each: that is its pose.

    size: side of the pictures, a multiple of 16. directions: K. code_width: D, of the appearance
    code. coarse, fine: channels at 8 x 8 and at 16 x 16.
    """

    def __init__(self, size=64, directions=20, code_width=128, coarse=96, fine=48):
        super().__init__()
        if size % 16:
            raise ValueError(f"the picture's side must be a multiple of 16, not {size}")
        self.size = size
        self.cell = size // 16                    # pixels of a cell of the finest features
        # Encoder: pictures -> features -> appearance code, magnitudes along the directions.
        self.encode1 = conv(3 * self.cell ** 2, fine)
        self.encode2 = conv(4 * fine, coarse, 1)
        self.encode2_more = Residual(coarse)
        self.code = nn.Sequential(nn.LayerNorm(64 * coarse), nn.Linear(64 * coarse, code_width),
                                  nn.LayerNorm(code_width))
        self.appearance = nn.Linear(code_width, code_width)
        self.magnitudes = nn.Sequential(
            nn.Linear(code_width, code_width), nn.SiLU(), nn.Linear(code_width, directions))
        self.directions = nn.Parameter(torch.randn(code_width, directions))
        # Decoder: from 4 x 4 to 16 x 16, each level with a flow field and an occlusion mask.
        self.input = nn.Linear(code_width, 16 * coarse)
        self.up = nn.ModuleList((conv(coarse, 4 * coarse), conv(coarse, 4 * fine)))
        self.flow = nn.ModuleList(zero_init(conv(c, 3, 1)) for c in (coarse, fine))
        self.mix = nn.ModuleList(conv(2 * c, c) for c in (coarse, fine))
        self.more = nn.ModuleList(Residual(c) for c in (coarse, fine))
        # RGB, flow x, flow y and mask of every pixel.
        self.out = zero_init(conv(fine, 6 * self.cell ** 2))
        # Statistics of poses, and of their change within a clip.
        self.standardize = Standardize(directions)
        self.standardize_change = Standardize(directions)
        initialise(self)

    # ---- encoder
    def encode_source(self, pictures: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 3, S, S) in -1..1 -> features [coarse (B, C, 8, 8), fine (B, C', 16, 16)], code
        (B, D)."""
        # Cells of pixels become channels: (B, 3 cell^2, 16, 16).
        x = F.pixel_unshuffle(pictures, self.cell)
        x = x.contiguous(memory_format=torch.channels_last)
        fine = F.silu(self.encode1(x))
        coarse = F.silu(self.encode2(F.pixel_unshuffle(fine, 2)))             # (B, C, 8, 8)
        coarse = self.encode2_more(coarse)
        code = self.code(F.silu(F.pixel_unshuffle(coarse, 2).flatten(1)))     # (B, D)
        return [coarse, fine], code

    def pose(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) -> magnitudes along the directions, standardized (B, K)."""
        _, code = self.encode_source(pictures)
        return self.standardize(self.magnitudes(code).float())

    def relative(self, poses: Tensor) -> Tensor:
        """The poses of a clip (T, K) -> its motion (T, K)."""
        return self.standardize_change(poses - poses[:1])

    def pose_after(self, start: Tensor, motion: Tensor) -> Tensor:
        """The pose (K,) at the end of a motion (T, K) that begins at the pose `start` (K,)."""
        return start + self.standardize_change.inverse(motion[-1])

    def encode(self, pictures: Tensor) -> Tensor:
        """A clip (T, 3, S, S) -> its motion (T, K)."""
        return self.relative(self.pose(pictures))

    def fit_statistics(self, clips) -> None:
        """Fit the standardization to poses and motions of clips, each (T, 3, S, S)."""
        poses = [self.standardize.inverse(self.pose(pictures)) for pictures in clips]
        self.standardize.fit_statistics(torch.cat(poses))
        poses = [self.standardize(x) for x in poses]
        self.standardize_change.fit_statistics(torch.cat([x - x[:1] for x in poses]))

    # ---- decoder
    def decode(self, source: Tensor, motion: Tensor, start: Tensor | None = None) -> Tensor:
        """Source pictures (B, 3, S, S) and motions (B, T, K) -> (B, T, 3, S, S).

        start: the poses (B, K) at which the motions begin, those of the sources by default."""
        features, code = self.encode_source(source)
        if start is None:
            begin = self.magnitudes(code).float()                             # (B, K)
        else:
            begin = self.standardize.inverse(start)
        change = self.standardize_change.inverse(motion) * self.standardize.deviation
        return self.render(source, features, code, begin[:, None] + change)

    def render(self, source: Tensor, features: list[Tensor], code: Tensor,
               wanted: Tensor) -> Tensor:
        """The source (B, 3, S, S), with features and code of `encode_source`, and its magnitudes
        replaced by those that are wanted (B, T, K) -> (B, T, 3, S, S).

        Only the difference of magnitudes is rendered. Given the magnitudes themselves the network
        first learned to copy the source: a real mouth, 2 % of the picture, stood still after
        1,800 steps. Rendered by differences, it moves after 200.
        """
        B, T = wanted.shape[:2]

        def each(x: Tensor) -> Tensor:
            return x.repeat_interleave(T, 0)                                  # (B T, ...)

        # The code of each picture: appearance plus the change along orthonormal directions, which
        # QR makes of the learned ones.
        basis = torch.linalg.qr(self.directions.float())[0]                   # (D, K)
        change = wanted - self.magnitudes(code).float()[:, None]              # (B, T, K)
        moved = each(self.appearance(code)) + change.flatten(0, 1) @ basis.T  # (B T, D)

        # At each level: refine the flow field, fetch the source's features through it, hide what
        # the source does not show, and mix.
        x = self.input(moved).unflatten(1, (-1, 4, 4))                        # (B T, C, 4, 4)
        flow = 0
        for i, feature in enumerate(features):
            x = F.silu(x).contiguous(memory_format=torch.channels_last)
            x = F.pixel_shuffle(self.up[i](x), 2)                             # twice the side
            step = self.flow[i](x).float()                                    # (B T, 3, S', S')
            if i:
                flow = F.interpolate(flow, scale_factor=2, mode="bilinear")
            flow = step[:, :2] / 4 + flow                                     # (B T, 2, S', S')
            seen = warp(each(feature), flow) * torch.sigmoid(step[:, 2:] + 1)
            x = torch.cat((x, seen), 1).contiguous(memory_format=torch.channels_last)
            x = self.more[i](self.mix[i](x))

        # Last the pixels: the warped source where the mask is open (at first everywhere), and
        # colours that are painted on.
        last = F.pixel_shuffle(self.out(F.silu(x)).contiguous(), self.cell)   # (B T, 6, S, S)
        colours, fine_flow, mask = last.split((3, 2, 1), 1)
        flow = F.interpolate(flow.contiguous(), scale_factor=self.cell, mode="bilinear")
        flow = flow + fine_flow / 4
        picture = warp(each(source), flow) * torch.sigmoid(mask + 4) + colours
        return picture.unflatten(0, (B, T))                                   # (B, T, 3, S, S)

    # ---- training
    def loss(self, source: Tensor, target: Tensor) -> tuple[Tensor, dict]:
        """source (B, 3, S, S), target (B, T, 3, S, S) of the same clips -> the loss, and the PSNR
        to log."""
        # Render the targets from the source and their own magnitudes.
        features, code = self.encode_source(source)
        change = (target - target.mean(1, keepdim=True)).abs().flatten(0, 1)  # (B T, 3, S, S)
        target = target.flatten(0, 1)                                         # (B T, 3, S, S)
        _, target_code = self.encode_source(target)
        magnitudes = self.magnitudes(target_code).float()                     # (B T, K)
        magnitudes = magnitudes.unflatten(0, (len(source), -1))               # (B, T, K)
        picture = self.render(source, features, code, magnitudes).flatten(0, 1)
        error = (picture - target).abs()                                      # (B T, 3, S, S)

        # The mouth is a small part of the picture. Places weigh more the more wrong they still are
        # and the more they change within the clip, so that it is not left blurred. (In real clips
        # hair is wrong everywhere, and does not change.)
        wrong = error.detach() / error.detach().mean().clamp(min=1e-6)
        wrong = wrong + change / change.mean().clamp(min=1e-6)
        wrong = F.avg_pool2d(wrong.mean(1, keepdim=True), 4)                  # (B T, 1, S/4, S/4)
        weight = 1 + (wrong / (wrong.mean() + 1e-6)).clamp(max=10)
        weight = F.interpolate(weight, scale_factor=4)

        # Edges must be as sharp, and averages over blocks the same; magnitudes stay small.
        edges = sum((picture.diff(dim=axis) - target.diff(dim=axis)).abs().mean()
                    for axis in (-1, -2))
        blocks = sum(F.l1_loss(F.avg_pool2d(picture, k), F.avg_pool2d(target, k)) for k in (4, 8))
        total = (error * weight).mean() + 0.5 * edges + 0.5 * blocks
        psnr = -10 * ((picture - target) / 2).square().mean().log10()
        return total + 1e-4 * magnitudes.square().mean(), {"psnr": psnr}


def pictures_to_tensor(pictures) -> Tensor:
    """uint8 pictures (..., S, S, 3), numpy or torch -> float (..., 3, S, S) in -1..1."""
    if not isinstance(pictures, Tensor):
        pictures = torch.tensor(pictures)
    return pictures.movedim(-1, -3).float() / 127.5 - 1


def tensor_to_pictures(x: Tensor):
    """Inverse of `pictures_to_tensor`: (..., 3, S, S) -> numpy uint8 (..., S, S, 3)."""
    bytes = ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return bytes.movedim(-3, -1).cpu().numpy()


def demonstrate() -> None:
    """Print the shapes as they flow through the three models, at small sizes."""
    audio, speaker = AudioVAE(width=64, slow=64, fast=64), SpeakerEncoder(width=64)
    motion = MotionAutoencoder(coarse=32, fine=16)

    def show(name: str, x: Tensor, note="") -> None:
        print(f"  {name:34}{str(tuple(x.shape)):20}{note}")

    with torch.no_grad():
        print("AudioVAE, two seconds of sound")
        wave = 0.1 * torch.randn(1, 2 * audio.sample_rate)
        semantic = audio.semantics(wave)
        mean, deviation = audio.bottleneck(wave, average_pairs(semantic))
        show("waveform", wave, f"{audio.samples_per_frame} samples per latent frame")
        show("acoustic branch", audio.acoustic(wave), "25 Hz")
        show("semantic branch", semantic, "50 Hz, averaged in pairs and added")
        show("posterior: mean", mean, "and deviation")
        embedding = speaker(wave)
        latents = audio.encode(wave)
        show("latents", latents, "standardized means")
        show("waveform again", audio.decode(latents, embedding),
             f"a sample depends on {audio.decoder.reach} frames on either side")
        print("SpeakerEncoder")
        show("speaker embedding", embedding, f"length {embedding.norm():.3f}")
        print("MotionAutoencoder, a clip of ten pictures")
        clip = torch.rand(10, 3, 64, 64) * 2 - 1
        features, code = motion.encode_source(clip)
        for name, x in (("pictures", clip), ("coarse features", features[0]),
                        ("fine features", features[1]), ("appearance code", code),
                        ("poses", motion.pose(clip)), ("motion", motion.encode(clip))):
            show(name, x)
        made = motion.decode(clip[:1], motion.encode(clip)[None])
        show("pictures again", made, "the first one, animated by the motion")


if __name__ == "__main__":
    demonstrate()
