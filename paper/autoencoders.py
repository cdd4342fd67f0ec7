"""The paper's own autoencoders (arXiv 2604.23586, section 3.1) in plain PyTorch, behind the
interface of the small ones in autoencoders.py.

    WhisperXVAE   waveform (B, n) at 24 kHz <-> latents (B, T, 32) at 25 Hz
                  DAC (arXiv 2306.06546) and Whisper (2212.04356)
    LIAX          pictures (B, 3, 512, 512) <-> motion (B, 40)
                  LIA-X (arXiv 2508.09959)

`Discriminators` provide the adversarial training of the first. The released weights fit by the
tables of paper/weights.py. StyleGAN's "equalised" layers (weights times a constant at run time)
are plain layers here, since loading multiplies once and for all.

Axis letters: B batch, n samples, T frames (25 Hz), F spectral bins, C channels, S picture side,
D width, K directions.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.nn.utils.parametrizations import weight_norm

from autoencoders import (
    AudioVAE, MotionAutoencoder, Standardize, WhisperEncoder, average_pairs, triangular_filters)
from model import FPS, initialise


# ------------------------------------------------------------------------- audio: convolutions
class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha (arXiv 2006.08195), an activation with a bias towards periodic
    signals. One alpha per channel of x (B, C, n)."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha * x).sin().square() / (self.alpha + 1e-9)


def conv1d(inputs: int, outputs: int, kernel: int, **options) -> nn.Conv1d:
    """A weight-normalised convolution."""
    return weight_norm(nn.Conv1d(inputs, outputs, kernel, **options))


class Residual1d(nn.Module):
    """DAC's residual unit: x + a dilated and a pointwise convolution of x, (B, C, n)."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.layers = nn.Sequential(
            Snake(channels),
            conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            Snake(channels),
            conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class StridedEncoder(nn.Module):
    """DAC's encoder (arXiv 2306.06546): strided convolutions on the waveform, (B, n) ->
    (B, T, D) with T = n / product of the strides.

    channels: of the first convolution; every stride doubles them.
    """

    def __init__(self, channels: int, strides: tuple[int, ...], width: int):
        super().__init__()
        layers = [conv1d(1, channels, 7, padding=3)]
        for s in strides:
            layers += [Residual1d(channels, dilation) for dilation in (1, 3, 9)]
            layers += [
                Snake(channels),
                conv1d(channels, 2 * channels, 2 * s, stride=s, padding=math.ceil(s / 2))]
            channels *= 2
        layers += [Snake(channels), conv1d(channels, width, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, wave: Tensor) -> Tensor:
        return self.layers(wave[:, None]).mT                                  # (B, T, D)


class StridedDecoder(nn.Module):
    """DAC's decoder (arXiv 2306.06546), the mirror image of the encoder: (B, T, D) -> (B, n).

    channels: of the first convolution; every stride halves them. reach: the receptive field, in
    frames at 25 Hz on either side of a sample.
    """

    def __init__(self, width: int, channels: int, strides: tuple[int, ...]):
        super().__init__()
        layers = [conv1d(width, channels, 7, padding=3)]
        rate = 1                    # samples per frame so far
        reach = 3                   # frames; half of the first kernel
        for s in strides:
            layers += [
                Snake(channels),
                weight_norm(nn.ConvTranspose1d(
                    channels, channels // 2, 2 * s, stride=s, output_padding=s % 2,
                    padding=math.ceil(s / 2)))]
            channels //= 2
            layers += [Residual1d(channels, dilation) for dilation in (1, 3, 9)]
            # The transposed convolution reaches one of its inputs further, the residual units
            # half a kernel times their dilations, at the new rate.
            reach = reach + 1 / rate + 3 * (1 + 3 + 9) / (rate * s)
            rate *= s
        layers += [Snake(channels), conv1d(channels, 1, 7, padding=3), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.reach = math.ceil(reach + 3 / rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.mT)[:, 0]                                        # (B, n)


# ------------------------------------------------------------------------------ audio: spectra
def resample(wave: Tensor, old: int, new: int) -> Tensor:
    """(B, n) at the sampling rate `old` -> (B, n new / old) at `new`, by Fourier transform."""
    n = wave.shape[1] * new // old
    spectrum = torch.fft.rfft(wave)                                           # (B, F)

    # Frequencies above the new Nyquist frequency are cut off, missing ones are zero.
    bins = n // 2 + 1
    spectrum = F.pad(spectrum, (0, max(0, bins - spectrum.shape[1])))[:, :bins]

    # The inverse transform divides by the new length, the forward one did not by the old.
    return torch.fft.irfft(spectrum, n) * (n / wave.shape[1])


def whisper_mel(wave: Tensor, sample_rate: int, bands: int, seconds: float) -> Tensor:
    """(B, n) -> the log-mel spectrogram that Whisper was trained on (arXiv 2212.04356), (B,
    bands, 100 * seconds): 16 kHz, padded with silence, Slaney's mel scale, a range of at most
    eight decades."""
    wave = resample(wave, sample_rate, 16000)
    wave = F.pad(wave, (0, int(16000 * seconds) - wave.shape[1]))

    # Slaney's mel scale is linear up to 1 kHz (15 mel), then logarithmic. Each triangular filter
    # has the same area.
    hertz = torch.linspace(0, 8000, 201, device=wave.device)
    highest = 15 + 27 * math.log(8) / math.log(6.4)
    mels = torch.linspace(0, highest, bands + 2, device=wave.device)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * (6.4 ** ((mels - 15) / 27)))
    filters = triangular_filters(edges, hertz) * 2 / (edges[2:] - edges[:-2])[:, None]

    # Power in windows of 25 ms at 100 Hz. The last window, half of it padding, is left out.
    window = torch.hann_window(400, device=wave.device)
    spectrum = torch.stft(wave, 400, 160, window=window, return_complex=True)
    power = spectrum.abs().square()[..., :-1]                                 # (B, F, frames)

    # Log-mel, at most eight decades below the loudest value of the clip.
    logs = (filters @ power).clamp(min=1e-10).log10()                         # (B, bands, frames)
    logs = torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8)
    return (logs + 4) / 4


def log_mel(wave: Tensor, sample_rate: int, window: int) -> Tensor:
    """(B, n) -> log10 of the mel magnitudes (B, bands, frames), for the reconstruction loss. The
    longer the window, the more bands: 5 at 32 samples, 320 at 2048."""
    # Corner frequencies, evenly spaced on the mel scale, from mel back to hertz.
    bands = max(5, window * 5 // 32)
    highest = 2595 * math.log10(1 + sample_rate / 1400)
    mels = torch.linspace(0, highest, bands + 2, device=wave.device)
    edges = 700 * (10 ** (mels / 2595) - 1)
    hertz = torch.linspace(0, sample_rate / 2, window // 2 + 1, device=wave.device)

    # The small constant keeps the gradient of the root finite in silence.
    hann = torch.hann_window(window, device=wave.device)
    spectrum = torch.stft(wave, window, window // 4, window=hann, return_complex=True)
    magnitude = (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt() # (B, F, frames)
    return (triangular_filters(edges, hertz) @ magnitude).clamp(min=1e-5).log10()


def mel_loss(wave: Tensor, truth: Tensor, sample_rate: int) -> Tensor:
    """Mean absolute difference of two waveforms (B, n) in log-mel, over the seven windows of 32
    to 2048 samples (arXiv 2306.06546)."""
    windows = (32, 64, 128, 256, 512, 1024, 2048)
    total = 0
    for window in windows:
        made = log_mel(wave, sample_rate, window)                             # (B, bands, frames)
        total = total + F.l1_loss(made, log_mel(truth, sample_rate, window))
    return total / len(windows)


# -------------------------------------------------------------------------- audio: autoencoder
class WhisperXVAE(AudioVAE):
    """AudioVAE with the paper's parts: DAC's convolutions, Whisper large-v3 (frozen), and
    adversarial training. Unlike the small one's, its decoder is not conditioned on the speaker.

    Args:
        channels, decoder_channels: of the outermost convolution of the encoder and of the
            innermost of the decoder. strides: of the encoder; the decoder has them in reverse.
        width: of Whisper, and of both streams. latent: d, the width of the latents.
        bands, heads, layers: of Whisper. seconds: the length of sound that it takes.
        kl: weight of the KL divergence. crop: frames of a clip that a training step decodes.
        adversary: width of the discriminators (the paper: 32); 0: none, which is enough to use
            the model but not to train it.

    Raises:
        ValueError: if the strides do not give 25 latents per second.
    """

    def __init__(self, sample_rate=24000, channels=64, strides=(2, 4, 10, 12), width=1280,
                 decoder_channels=1536, latent=32, bands=128, seconds=30.0, heads=20, layers=32,
                 kl=1e-2, crop=24, adversary=0):
        # Not AudioVAE's own constructor: the parts differ.
        nn.Module.__init__(self)
        self.strides = strides
        self.samples_per_frame = math.prod(strides)
        if self.samples_per_frame * FPS != sample_rate:
            raise ValueError(
                f"the strides {strides} give {sample_rate / self.samples_per_frame:.2f} latents a "
                f"second, not {FPS}: take --sample_rate={FPS * self.samples_per_frame}")
        self.sample_rate = sample_rate
        self.kl, self.crop = kl, crop
        self.bands, self.seconds = bands, seconds
        self.semantic = WhisperEncoder(bands, width, layers, heads).requires_grad_(False)
        self.acoustic = StridedEncoder(channels, strides, width)
        self.to_latent = nn.Linear(width, 2 * latent)
        self.from_latent = nn.Linear(latent, width)
        self.standardize = Standardize(latent)
        self.rebuild = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.decoder = StridedDecoder(width, decoder_channels, strides[::-1])
        self.discriminators = Discriminators(adversary) if adversary else None
        initialise(self)

    # ---- encoder
    def semantics(self, wave: Tensor, frames: Tensor | None = None) -> Tensor:
        """(B, n) -> semantic features (B, 2 T, D) at 50 Hz, without a gradient.

        Whisper always takes `seconds` of sound, with silence at the end. The features of the
        silence are cut off again, so padding needs no mask: frames (B,) is AudioVAE's argument,
        and not used. ValueError if the clip is longer than `seconds`.
        """
        if wave.shape[1] > self.seconds * self.sample_rate:
            raise ValueError(
                f"Whisper hears at most {self.seconds:g} s; this clip has "
                f"{wave.shape[1] / self.sample_rate:.1f} s")
        length = wave.shape[1] // self.samples_per_frame * 2                  # 2 T
        with torch.no_grad():
            mel = whisper_mel(wave, self.sample_rate, self.bands, self.seconds)
            return self.semantic(mel)[:, :length]                             # (B, 2 T, D)

    # ---- decoder
    def decode(self, latents: Tensor, speaker=None) -> Tensor:
        """Standardized latents (B, T, d) -> (B, n). speaker: AudioVAE's argument, not used."""
        return self.decoder(self.from_latent(self.standardize.inverse(latents)))

    # ---- training
    def loss(self, wave: Tensor, frames: Tensor, text: Tensor, speaker=None,
             generator=None) -> tuple[Tensor, dict]:
        """wave (B, n) padded with zeros, frames (B,) -> the loss, and its parts to log.

        There is no CTC, since Whisper can read already: text and speaker are AudioVAE's arguments,
        and not used. One loss trains the autoencoder and the discriminators, see
        `Discriminators.losses`.
        """
        # The semantic features of the whole clips at 25 Hz, then a crop of each.
        semantic = average_pairs(self.semantics(wave))                        # (B, T, D)
        wave, semantic = self.random_crop(wave, semantic, frames, generator)

        # The crop through the bottleneck and the decoder.
        mean, deviation = self.bottleneck(wave, semantic)                     # (B, T', d) each
        rebuilt, kl = self.sample_latent(mean, deviation, generator)          # (B, T', D)
        sound = self.decoder(rebuilt).float()                                 # (B, n')

        # Reconstruction: of the semantic features from the draw, and of the sound in log-mel.
        semantic_loss = self.semantic_loss(rebuilt, semantic)
        mel = mel_loss(sound, wave, self.sample_rate)

        # Adversarial training: the first two train the autoencoder, the last the discriminators.
        adversarial, feature_matching, discriminator = self.discriminators.losses(wave, sound)

        log = {"mel": mel, "kl": kl, "semantic": semantic_loss, "adversarial": adversarial,
               "feature_matching": feature_matching, "discriminator": discriminator}
        total = 15 * mel + self.kl * kl + semantic_loss + adversarial
        return total + 2 * feature_matching + discriminator, log


# ----------------------------------------------------------------------- audio: discriminators
class SubDiscriminator(nn.Module):
    """A stack of 2-d convolutions that scores every place of x (B, C, height, width): 1 for real,
    0 for generated. The outputs of its layers serve feature matching.

    kernel, stride: of all layers but the last, as (height, width).
    """

    def __init__(self, inputs: int, channels: tuple[int, ...], kernel: tuple[int, int],
                 stride: tuple[int, int]):
        super().__init__()
        sizes = (inputs, *channels)
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, kernel, stride, padding))
            for before, after in zip(sizes, channels))
        # Where the layers do not look along the width, the last one does not either.
        last_kernel = (3, 1) if kernel[1] == 1 else (3, 3)
        last_padding = (1, 0) if kernel[1] == 1 else (1, 1)
        self.out = weight_norm(nn.Conv2d(channels[-1], 1, last_kernel, padding=last_padding))

    def forward(self, x: Tensor) -> list[Tensor]:
        """x (B, C, height, width) -> the output of every layer, the scores last."""
        outputs = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            outputs.append(x)
        return outputs + [self.out(x)]


class Discriminators(nn.Module):
    """A multi-period discriminator (arXiv 2010.05646), which sees the waveform folded at prime
    periods, and a multi-resolution one (2306.06546), which sees its complex spectrograms.

    width: channels of the first layers (the papers: 32).
    """

    PERIODS = (2, 3, 5, 7, 11)      # samples
    WINDOWS = (2048, 1024, 512)     # samples

    def __init__(self, width: int):
        super().__init__()
        growing = (width, 4 * width, 16 * width, 32 * width)
        self.by_period = nn.ModuleList(
            SubDiscriminator(1, growing, (5, 1), (3, 1)) for _ in self.PERIODS)
        self.by_window = nn.ModuleList(
            SubDiscriminator(2, (width,) * 4, (3, 9), (1, 2)) for _ in self.WINDOWS)

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """(B, n) -> for each sub-discriminator the outputs of its layers, the scores last."""
        outputs = []

        # Rows of one period each: samples of the same phase stand in one column.
        for period, sub_discriminator in zip(self.PERIODS, self.by_period):
            x = F.pad(wave, (0, -wave.shape[1] % period))
            x = rearrange(x, "B (n p) -> B 1 n p", p=period)                  # (B, 1, n / p, p)
            outputs.append(sub_discriminator(x))

        # Real and imaginary part of the spectrogram as two channels.
        for window, sub_discriminator in zip(self.WINDOWS, self.by_window):
            hann = torch.hann_window(window, device=wave.device)
            x = torch.stft(wave, window, window // 4, window=hann, return_complex=True)
            x = rearrange(torch.view_as_real(x), "B F n c -> B c n F")        # (B, 2, frames, F)
            outputs.append(sub_discriminator(x))
        return outputs

    def losses(self, real: Tensor, made: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Waveforms (B, n) each, recorded and generated -> the adversarial, the feature-matching
        and the discriminator loss, in least-squares form (arXiv 1611.04076).

        The first two train the autoencoder alone, the third the discriminators alone, so that one
        backward pass and one optimizer serve both: the weights are constants to the first two,
        the generated sound to the third.
        """
        # The generated sound, seen with detached weights: its gradient reaches the sound only.
        constants = {name: weight.detach() for name, weight in self.named_parameters()}
        seen = torch.func.functional_call(self, constants, (made,))
        true = self(real)

        # Adversarial loss: the scores of the generated sound should be those of real sound.
        adversarial = sum((1 - outputs[-1]).square().mean() for outputs in seen) / len(seen)

        # Feature matching: the outputs of all other layers should be as for the recording. Each
        # distance is relative to the size of the recording's features.
        feature_matching = 0
        for ours, theirs in zip(seen, true):
            for x, y in zip(ours[:-1], theirs[:-1]):
                y = y.detach()
                size = y.abs().mean().clamp(min=1e-4)
                feature_matching = feature_matching + F.l1_loss(x, y) / size
        feature_matching = feature_matching / sum(len(outputs) - 1 for outputs in seen)

        # Discriminator loss: 1 for the recording, 0 for the generated sound, which is detached.
        discriminator = 0
        for theirs, ours in zip(true, self(made.detach())):
            squares = (1 - theirs[-1]).square().mean() + ours[-1].square().mean()
            discriminator = discriminator + squares
        return adversarial, feature_matching, discriminator / len(seen)


# ------------------------------------------------------------------------ motion: convolutions
def blur(x: Tensor, padding: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Tensor:
    """Smooth each channel of x (B, C, S, S) with the kernel [1 3 3 1] / 8 along both sides, after
    padding with zeros (left, right, top, bottom). The side becomes 3 shorter than the padded."""
    kernel = x.new_tensor([1, 3, 3, 1]) / 8
    x = F.pad(x, padding)
    C = x.shape[1]
    x = F.conv2d(x, kernel.view(1, 1, 4, 1).expand(C, -1, -1, -1), groups=C)
    return F.conv2d(x, kernel.view(1, 1, 1, 4).expand(C, -1, -1, -1), groups=C)


def upsample(x: Tensor) -> Tensor:
    """(B, C, S, S) -> (B, C, 2 S, 2 S): zeros between the pixels, then smoothed."""
    kernel = x.new_tensor([1, 3, 3, 1]) / 4
    C = x.shape[1]
    rows = kernel.view(1, 1, 4, 1).expand(C, -1, -1, -1)                      # (C, 1, 4, 1)
    columns = kernel.view(1, 1, 1, 4).expand(C, -1, -1, -1)                   # (C, 1, 1, 4)
    x = F.conv_transpose2d(x, rows, stride=(2, 1), padding=(1, 0), groups=C)  # (B, C, 2 S, S)
    return F.conv_transpose2d(x, columns, stride=(1, 2), padding=(0, 1), groups=C)


def leaky_relu(x: Tensor) -> Tensor:
    """StyleGAN's activation: a leaky ReLU, scaled so that the variance stays about the same."""
    return F.leaky_relu(x, 0.2) * 2 ** 0.5


class Down(nn.Module):
    """Residual block that halves the side: (B, C, S, S) -> (B, C', S / 2, S / 2)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=2)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Both branches are blurred before the stride, against aliasing.
        y = leaky_relu(self.conv1(x))                                         # (B, C', S, S)
        y = leaky_relu(self.conv2(blur(y, (2, 2, 2, 2))))                     # (B, C', S/2, S/2)
        skip = self.skip(blur(x, (1, 1, 1, 1)))                               # (B, C', S/2, S/2)
        return (y + skip) / 2 ** 0.5


class Refine(nn.Module):
    """Residual block at one size, (B, C, S, S)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = leaky_relu(self.conv2(leaky_relu(self.conv1(x))))
        return (x + y) / 2 ** 0.5


class Modulated(nn.Module):
    """StyleGAN2's modulated convolution (arXiv 1912.04958): a style (B, D) scales the input
    channels, and demodulation scales the outputs back to unit variance.

    To scale the features instead of the weights gives the same result, and needs no separate
    kernel for every sample of the batch.

    up: double the side. demodulate: scale the outputs back.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style: int, up=False,
                 demodulate=True):
        super().__init__()
        std = (inputs * kernel * kernel) ** -0.5
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) * std)
        self.scale = nn.Linear(style, inputs)
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.up, self.demodulate = up, demodulate

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, C, S, S), style (B, D) -> (B, C', S, S), with `up` (B, C', 2 S, 2 S)."""
        # Modulation: the style scales the input channels.
        scale = self.scale(style)                                             # (B, C)
        x = x * scale[:, :, None, None]

        # The convolution, or a transposed one and a blur of gain 4, since 3 of 4 inputs are zero.
        if self.up:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = blur(x, (1, 1, 1, 1)) * 4                                     # (B, C', 2 S, 2 S)
        else:
            x = F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)  # (B, C', S, S)

        # Demodulation: divide by the deviation that inputs of unit variance would lead to.
        if self.demodulate:
            squares = self.weight.square().sum((2, 3))                        # (C', C)
            variance = scale.square() @ squares.T                             # (B, C')
            x = x * (variance + 1e-8).rsqrt()[:, :, None, None]
        return x + self.bias


# -------------------------------------------------------------------------- motion: the network
class FlowBlock(nn.Module):
    """Two modulated convolutions, the second in a residual branch that starts near zero.
    (B, C, S, S) and a style (B, D) -> (B, C, S, S)."""

    def __init__(self, channels: int, style: int):
        super().__init__()
        self.conv1 = Modulated(channels, channels, 3, style)
        self.conv2 = Modulated(channels, channels, 3, style)
        self.norm = nn.GroupNorm(32, channels)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 1e-5))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = leaky_relu(self.conv1(x, style))
        return x + self.gamma * leaky_relu(self.conv2(self.norm(x), style))


class Level(nn.Module):
    """One size of the generator. The style gives a flow field and an occlusion mask, by which
    features of the source are warped, refined and turned into a picture.

    inputs, outputs: channels of the level before and of this one. first: there is none before.
    """

    def __init__(self, inputs: int, outputs: int, style: int, first: bool):
        super().__init__()
        # The branch that the style drives, and its outputs: flow x, flow y, mask.
        self.up = Modulated(inputs, outputs, 3, style, up=True)
        self.plan = nn.ModuleList(FlowBlock(outputs, style) for _ in range(4))
        self.flow = Modulated(outputs, 3, 1, style, demodulate=False)
        # The branch of the warped features, and its output: RGB.
        self.grow = None if first else nn.Conv2d(inputs, outputs, 3, padding=1)
        self.refine = nn.Sequential(*(Refine(outputs) for _ in range(4)))
        self.picture = nn.Conv2d(outputs, 3, 1)
        self.tint = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x: Tensor, style: Tensor, feature: Tensor,
                before: tuple[Tensor, Tensor, Tensor] | None):
        """One level, of twice the side of the level before.

        Args:
            x: (B, C, S / 2, S / 2) of the branch that the style drives.
            style: (B, D).
            feature: (B, C', S, S) of the source.
            before: what this method returned second at the level before; None at the first.

        Returns:
            x (B, C', S, S) for the next level, and a tuple: the warped and refined features
            (B, C', S, S), the flow field and mask before their activations (B, 3, S, S), and the
            picture (B, 3, S, S).
        """
        # The style drives this branch to twice the side.
        x = leaky_relu(self.up(x, style))                                     # (B, C', S, S)
        for block in self.plan:
            x = block(x, style)

        # Flow field and mask: what this level adds to those of the level before.
        flow = self.flow(x, style)                                            # (B, 3, S, S)
        if before is not None:
            flow = flow + upsample(before[1])

        # Warp the source's features. Where the mask hides them, x takes their place.
        side = torch.linspace(-1, 1, x.shape[-1], device=x.device)
        grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)     # (S, S, 2)
        grid = grid + flow[:, :2].tanh().permute(0, 2, 3, 1)                  # (B, S, S, 2)
        mask = flow[:, 2:].sigmoid()                                          # (B, 1, S, S)
        warped = F.grid_sample(feature, grid, align_corners=True) * mask      # (B, C', S, S)
        x = warped + (1 - mask) * x

        # Add the features of the level before, and refine.
        if before is not None:
            warped = warped + leaky_relu(self.grow(upsample(before[0])))
        warped = self.refine(warped)                                          # (B, C', S, S)

        # The picture: what this level adds to that of the level before.
        picture = leaky_relu(self.picture(warped)) + self.tint                # (B, 3, S, S)
        if before is not None:
            picture = picture + upsample(before[2])
        return x, (warped, flow, picture)


class LIAX(MotionAutoencoder):
    """LIA-X (arXiv 2508.09959): the encoder's code of the source, moved along orthogonal
    directions, is the style of a generator of flow fields. The motion of a clip is its poses.

    Args:
        style: D, the width of the code. directions: K. size: S, the side of the pictures.
        channels: at sides up to 64, at 128, at 256, and at 512 and above.

    Raises:
        ValueError: if a size or a number of channels does not fit.
    """

    def __init__(self, style=1024, channels=(1024, 512, 256, 128), directions=40, size=512):
        # Not MotionAutoencoder's own constructor: the parts differ.
        nn.Module.__init__(self)
        power_of_two = size & (size - 1) == 0
        used = channels[:max(1, size.bit_length() - 6)]       # FlowBlock has 32 groups of channels
        if size < 16 or not power_of_two or any(c % 32 for c in used):
            raise ValueError(
                f"LIA-X needs pictures of 16, 32, 64 ... pixels and channels in multiples of 32, "
                f"not {size} and {channels}")

        def at(side: int) -> int:
            """Channels at pictures of this side."""
            return channels[min(3, max(0, int(math.log2(side)) - 6))]

        levels = int(math.log2(size)) - 2                     # at 512 seven: 8 x 8 to 512 x 512
        self.size = size
        # Encoder: features of the source from S to 4, then a code, and from it the magnitudes.
        self.first = nn.Conv2d(3, at(size), 1)
        self.down = nn.ModuleList(
            Down(at(size >> i), at(size >> (i + 1))) for i in range(levels))
        self.code = nn.Conv2d(channels[0], style, 4, bias=False)
        self.magnitudes = nn.Linear(style, directions)
        self.directions = nn.Parameter(torch.randn(style, directions))
        # Generator: a learned constant of 4 x 4, then levels from 8 to S.
        self.start = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.start_conv = Modulated(channels[0], channels[0], 3, style)
        self.levels = nn.ModuleList(
            Level(at(4 << i), at(8 << i), style, i == 0) for i in range(levels))
        # Statistics of poses.
        self.standardize = Standardize(directions)
        initialise(self)
        # A style of zero leaves every channel as it is.
        for module in self.modules():
            if isinstance(module, Modulated):
                nn.init.ones_(module.scale.bias)

    # ---- encoder
    def encode_source(self, pictures: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 3, S, S) in -1..1 -> features (B, C, 8, 8) to (B, C', S, S), the smallest first,
        and the code (B, D)."""
        features = [leaky_relu(self.first(pictures))]                         # (B, C', S, S)
        for down in self.down:
            features.append(down(features[-1]))                               # half the side
        code = self.code(features[-1]).flatten(1)                             # (B, D)
        # The last features, 4 x 4, are in the code alone.
        return features[-2::-1], code

    def relative(self, poses: Tensor) -> Tensor:
        """The poses of a clip (T, K) -> its motion (T, K), in the paper the poses themselves."""
        return poses

    def fit_statistics(self, clips) -> None:
        """Take over the statistics of the poses of clips, each (T, 3, S, S)."""
        poses = [self.standardize.inverse(self.pose(pictures)) for pictures in clips]
        self.standardize.fit_statistics(torch.cat(poses))

    def pose_after(self, start: Tensor, motion: Tensor) -> Tensor:
        """The pose (K,) at the end of a motion (T, K)."""
        return motion[-1]

    # ---- decoder
    def decode(self, source: Tensor, motion: Tensor, start: Tensor | None = None) -> Tensor:
        """Source pictures (B, 3, S, S) and motions (B, T, K), which are poses whatever `start` is
        -> (B, T, 3, S, S)."""
        features, code = self.encode_source(source)
        return self.render(source, features, code, self.standardize.inverse(motion))

    def render(self, source: Tensor, features: list[Tensor], code: Tensor,
               magnitudes: Tensor) -> Tensor:
        """features and code of `encode_source`, magnitudes (B, T, K) -> pictures (B, T, 3, S, S).

        The source itself, MotionAutoencoder's argument, is not used. One frame is rendered at a
        time, since the features of one at 512 x 512 are large enough.
        """
        # Orthonormal directions, which QR makes of the learned ones.
        basis = torch.linalg.qr(self.directions + 1e-8)[0]                    # (D, K)
        frames = []
        for magnitude in magnitudes.unbind(1):                                # (B, K)
            # The code moved along the directions is the style of every layer.
            style = code + magnitude @ basis.T                                # (B, D)

            # From the learned constant through the levels, each with the source's features.
            x = self.start.expand(len(code), -1, -1, -1)                      # (B, C, 4, 4)
            x = leaky_relu(self.start_conv(x, style))
            before = None
            for level, feature in zip(self.levels, features):
                x, before = level(x, style, feature, before)

            # The picture of the last level has the full size.
            _, _, picture = before
            frames.append(picture)                                            # (B, 3, S, S)
        return torch.stack(frames, 1)                                         # (B, T, 3, S, S)
