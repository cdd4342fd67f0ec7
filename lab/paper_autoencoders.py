"""The paper's own autoencoders, in plain PyTorch, behind the interface of the small ones in autoencoders.py (section 3.1).

    WhisperXVAE   waveform (B, n) at 24 kHz  <-> latents (B, T, 32) at 25 Hz      DAC (arXiv 2306.06546) + Whisper (2212.04356)
    LIAX          pictures (B, 3, 512, 512)  <-> motion (B, 40)                   LIA-X (arXiv 2508.09959)

`Discriminators` judge sound, for training the first. The released weights fit by the tables of lab/released.py; StyleGAN's
"equalised" layers (weights times a constant at run time) are plain layers here, since loading multiplies once and for all.

Axis letters: B batch, n samples, T frames (25 Hz), C channels, S picture side, D width, K directions.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.nn.utils.parametrizations import weight_norm

from autoencoders import FPS, AudioVAE, MotionAutoencoder, Normal, WhisperEncoder, pairs, triangles
from model import initialise


# --------------------------------------------------------------------------------------------------------------- audio
class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha (arXiv 2006.08195): an activation that likes periods. x (B, C, n)."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha * x).sin().square() / (self.alpha + 1e-9)


def conv1d(inputs: int, outputs: int, kernel: int, **options) -> nn.Conv1d:
    return weight_norm(nn.Conv1d(inputs, outputs, kernel, **options))


class Residual1d(nn.Module):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.layers = nn.Sequential(Snake(channels), conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation),
                                    Snake(channels), conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class StridedEncoder(nn.Module):
    """DAC's encoder: strided convolutions on the waveform, (B, n) -> (B, T, D)."""

    def __init__(self, channels: int, strides: tuple[int, ...], width: int):
        super().__init__()
        layers = [conv1d(1, channels, 7, padding=3)]
        for s in strides:
            layers += [Residual1d(channels, d) for d in (1, 3, 9)]
            layers += [Snake(channels), conv1d(channels, 2 * channels, 2 * s, stride=s, padding=math.ceil(s / 2))]
            channels *= 2
        self.layers = nn.Sequential(*layers, Snake(channels), conv1d(channels, width, 3, padding=1))

    def forward(self, wave: Tensor) -> Tensor:
        return self.layers(wave[:, None]).mT


class StridedDecoder(nn.Module):
    """DAC's decoder, the encoder's mirror: (B, T, D) -> (B, n)."""

    def __init__(self, width: int, channels: int, strides: tuple[int, ...]):
        super().__init__()
        layers, rate, reach = [conv1d(width, channels, 7, padding=3)], 1, 3
        for s in strides:
            rate, reach = rate * s, reach + 1 / rate + 3 * (1 + 3 + 9) / (rate * s)
            layers += [Snake(channels), weight_norm(nn.ConvTranspose1d(channels, channels // 2, 2 * s, stride=s, output_padding=s % 2,
                                                                       padding=math.ceil(s / 2)))]
            channels //= 2
            layers += [Residual1d(channels, d) for d in (1, 3, 9)]
        self.layers = nn.Sequential(*layers, Snake(channels), conv1d(channels, 1, 7, padding=3), nn.Tanh())
        self.reach = math.ceil(reach + 3 / rate)                                         # frames that a sample depends on, each way

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.mT)[:, 0]


def resample(wave: Tensor, old: int, new: int) -> Tensor:
    """(B, n) at one rate -> (B, n new / old) at another, by Fourier transform."""
    n, spectrum = wave.shape[1] * new // old, torch.fft.rfft(wave)
    bins = n // 2 + 1
    return torch.fft.irfft(F.pad(spectrum, (0, max(0, bins - spectrum.shape[1])))[:, :bins], n) * (n / wave.shape[1])


def whisper_mel(wave: Tensor, sample_rate: int, bands: int, seconds: float) -> Tensor:
    """(B, n) -> Whisper's own log-mel (B, bands, 100 * seconds): 16 kHz, padded with silence, Slaney's mel scale, 8 decades at most."""
    wave = resample(wave, sample_rate, 16000)
    wave = F.pad(wave, (0, int(16000 * seconds) - wave.shape[1]))
    hertz = torch.linspace(0, 8000, 201, device=wave.device)
    mels = torch.linspace(0, 15 + 27 * math.log(8) / math.log(6.4), bands + 2, device=wave.device)       # linear to 1 kHz, then log
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * (6.4 ** ((mels - 15) / 27)))
    filters = triangles(edges, hertz) * 2 / (edges[2:] - edges[:-2])[:, None]
    power = torch.stft(wave, 400, 160, window=torch.hann_window(400, device=wave.device), return_complex=True).abs().square()[..., :-1]
    logs = (filters @ power).clamp(min=1e-10).log10()
    return (torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8) + 4) / 4


class WhisperXVAE(AudioVAE):
    """AudioVAE with the paper's parts: DAC's convolutions, Whisper large-v3 (frozen), and adversarial training."""

    def __init__(self, sample_rate=24000, channels=64, strides=(2, 4, 10, 12), width=1280, decoder_channels=1536, latent=32,
                 bands=128, seconds=30.0, heads=20, layers=32, kl=1e-2, crop=24, adversary=0):
        """channels, decoder_channels: of the outermost and innermost convolution. seconds: the length that Whisper takes.
        adversary: width of the discriminators; 0: none (for use)."""
        nn.Module.__init__(self)
        self.strides, self.samples = strides, math.prod(strides)
        if self.samples * FPS != sample_rate:
            raise ValueError(f"the strides {strides} give {sample_rate / self.samples:.2f} latents a second, not {FPS}: take --sample_rate={FPS * self.samples}")
        self.sample_rate, self.kl, self.crop, self.bands, self.seconds = sample_rate, kl, crop, bands, seconds
        self.semantic = WhisperEncoder(bands, width, layers, heads).requires_grad_(False)
        self.acoustic = StridedEncoder(channels, strides, width)
        self.to_latent, self.from_latent = nn.Linear(width, 2 * latent), nn.Linear(latent, width)
        self.normal = Normal(latent)
        self.rebuild = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.decoder = StridedDecoder(width, decoder_channels, strides[::-1])
        self.discriminators = Discriminators(adversary) if adversary else None
        initialise(self)

    def semantics(self, wave: Tensor, frames: Tensor | None = None) -> Tensor:
        """(B, n) -> (B, 2 T, D) at 50 Hz. Whisper always hears `seconds` of sound, silence at the end; that is cut off again."""
        if wave.shape[1] > self.seconds * self.sample_rate:
            raise ValueError(f"Whisper hears at most {self.seconds:g} s; this clip has {wave.shape[1] / self.sample_rate:.1f} s")
        with torch.no_grad():
            return self.semantic(whisper_mel(wave, self.sample_rate, self.bands, self.seconds))[:, :wave.shape[1] // self.samples * 2]

    def decode(self, latents: Tensor, speaker=None) -> Tensor:
        """As AudioVAE.decode; the paper's decoder is not told who speaks."""
        return self.decoder(self.from_latent(self.normal.inverse(latents)))

    def loss(self, wave: Tensor, frames: Tensor, text: Tensor, speaker=None, generator=None) -> tuple[Tensor, dict]:
        """As AudioVAE.loss, without CTC (Whisper can read already), and with an adversary: log-mel at seven resolutions, KL,
        semantic reconstruction, least-squares GAN, feature matching. One loss trains both sides, see `Discriminators.losses`."""
        semantic = pairs(self.semantics(wave))
        wave, semantic = self.cut(wave, semantic, frames, generator)
        mean, deviation = self.bottleneck(wave, semantic)
        rebuilt, kl = self.sample_latent(mean, deviation, generator)
        sound = self.decoder(rebuilt).float()
        meaning = self.meaning(rebuilt, semantic)
        mel = sum(F.l1_loss(log_mel(sound, self.sample_rate, 2 ** k), log_mel(wave, self.sample_rate, 2 ** k)) for k in range(5, 12)) / 7
        fool, match, judge = self.discriminators.losses(wave, sound)
        log = {"mel": mel, "kl": kl, "meaning": meaning, "fool": fool, "match": match, "judge": judge}
        return 15 * mel + self.kl * kl + meaning + fool + 2 * match + judge, log


def log_mel(wave: Tensor, sample_rate: int, window: int) -> Tensor:
    """(B, n) -> log10 mel energies (B, bands, frames); the longer the window, the more bands: 5 at 32 samples, 320 at 2048."""
    bands = max(5, window * 5 // 32)
    edges = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + sample_rate / 1400), bands + 2, device=wave.device) / 2595) - 1)
    hertz = torch.linspace(0, sample_rate / 2, window // 2 + 1, device=wave.device)
    magnitude = torch.stft(wave, window, window // 4, window=torch.hann_window(window, device=wave.device), return_complex=True)
    magnitude = (torch.view_as_real(magnitude).square().sum(-1) + 1e-9).sqrt()
    return (triangles(edges, hertz) @ magnitude).clamp(min=1e-5).log10()


class Judge(nn.Module):
    """A stack of 2-d convolutions that says of each place whether it is real; its layers' outputs are compared too."""

    def __init__(self, inputs: int, channels: tuple[int, ...], kernel: tuple[int, int], stride: tuple[int, int]):
        super().__init__()
        sizes = (inputs, *channels)
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.layers = nn.ModuleList(weight_norm(nn.Conv2d(a, b, kernel, stride, padding)) for a, b in zip(sizes, channels))
        self.out = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1) if kernel[1] == 1 else 3, padding=(1, 0) if kernel[1] == 1 else 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            found.append(x)
        return found + [self.out(x)]


class Discriminators(nn.Module):
    """Multi-period (arXiv 2010.05646): the waveform folded at prime periods. Multi-resolution: its complex spectra (2306.06546)."""
    PERIODS, WINDOWS = (2, 3, 5, 7, 11), (2048, 1024, 512)

    def __init__(self, width: int):
        """width: channels of the first layers (the papers: 32)."""
        super().__init__()
        self.by_period = nn.ModuleList(Judge(1, (width, 4 * width, 16 * width, 32 * width), (5, 1), (3, 1)) for _ in self.PERIODS)
        self.by_window = nn.ModuleList(Judge(2, (width,) * 4, (3, 9), (1, 2)) for _ in self.WINDOWS)

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """(B, n) -> for each judge its layers' outputs, the verdict last."""
        found = []
        for period, judge in zip(self.PERIODS, self.by_period):
            x = F.pad(wave, (0, -wave.shape[1] % period))
            found.append(judge(rearrange(x, "B (n p) -> B 1 n p", p=period)))
        for window, judge in zip(self.WINDOWS, self.by_window):
            x = torch.stft(wave, window, window // 4, window=torch.hann_window(window, device=wave.device), return_complex=True)
            found.append(judge(rearrange(torch.view_as_real(x), "B F n c -> B c n F")))
        return found

    def losses(self, real: Tensor, made: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, n) each -> fool, match (they move the autoencoder alone) and judge (it moves the discriminators alone).

        So one backward pass and one optimizer train both: the weights are constants to the first two, the sound to the third.
        """
        seen = torch.func.functional_call(self, {name: p.detach() for name, p in self.named_parameters()}, (made,))
        true = self(real)
        fool = sum((1 - x[-1]).square().mean() for x in seen) / len(seen)
        match = sum(F.l1_loss(x, y.detach()) / y.detach().abs().mean().clamp(min=1e-4)
                    for s, t in zip(seen, true) for x, y in zip(s[:-1], t[:-1]))
        match = match / sum(len(s) - 1 for s in seen)
        judge = sum((1 - r[-1]).square().mean() + m[-1].square().mean() for r, m in zip(true, self(made.detach()))) / len(seen)
        return fool, match, judge


# --------------------------------------------------------------------------------------------------------------- motion
def blur(x: Tensor, padding: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Tensor:
    """Smooth each channel of x (B, C, S, S) with the kernel [1 3 3 1] / 8 along both sides, after padding with zeros."""
    kernel = x.new_tensor([1, 3, 3, 1]) / 8
    x, C = F.pad(x, padding), x.shape[1]
    x = F.conv2d(x, kernel.view(1, 1, 4, 1).expand(C, -1, -1, -1), groups=C)
    return F.conv2d(x, kernel.view(1, 1, 1, 4).expand(C, -1, -1, -1), groups=C)


def double(x: Tensor) -> Tensor:
    """(B, C, S, S) -> (B, C, 2 S, 2 S): zeros between the pixels, smoothed."""
    kernel, C = x.new_tensor([1, 3, 3, 1]) / 4, x.shape[1]
    x = F.conv_transpose2d(x, kernel.view(1, 1, 4, 1).expand(C, -1, -1, -1), stride=(2, 1), padding=(1, 0), groups=C)
    return F.conv_transpose2d(x, kernel.view(1, 1, 1, 4).expand(C, -1, -1, -1), stride=(1, 2), padding=(0, 1), groups=C)


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * 2 ** 0.5


class Down(nn.Module):
    """Residual block that halves the side: (B, C, S, S) -> (B, C', S / 2, S / 2)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, stride=2)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = leaky(self.conv2(blur(leaky(self.conv1(x)), (2, 2, 2, 2))))
        return (y + self.skip(blur(x, (1, 1, 1, 1)))) / 2 ** 0.5


class Refine(nn.Module):
    """Residual block at one size."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return (x + leaky(self.conv2(leaky(self.conv1(x))))) / 2 ** 0.5


class Modulated(nn.Module):
    """StyleGAN2's convolution (arXiv 1912.04958): a style (B, D) scales the input channels, and the outputs back to unit variance.

    Scaling the pictures instead of the weights is the same, and needs no convolution per sample.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style: int, up=False, demodulate=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) * (inputs * kernel * kernel) ** -0.5)
        self.scale = nn.Linear(style, inputs)
        self.bias, self.up, self.demodulate = nn.Parameter(torch.zeros(outputs, 1, 1)), up, demodulate

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale = self.scale(style)                                                        # (B, C)
        x = x * scale[:, :, None, None]
        if self.up:
            x = blur(F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2), (1, 1, 1, 1)) * 4
        else:
            x = F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)
        if self.demodulate:
            x = x * (scale.square() @ self.weight.square().sum((2, 3)).T + 1e-8).rsqrt()[:, :, None, None]
        return x + self.bias


class FlowBlock(nn.Module):
    def __init__(self, channels: int, style: int):
        super().__init__()
        self.conv1, self.conv2 = (Modulated(channels, channels, 3, style) for _ in range(2))
        self.norm, self.gamma = nn.GroupNorm(32, channels), nn.Parameter(torch.full((channels, 1, 1), 1e-5))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = leaky(self.conv1(x, style))
        return x + self.gamma * leaky(self.conv2(self.norm(x), style))


class Level(nn.Module):
    """One size of the generator: a plan (where to fetch from) and the fetched features, both twice as large as the level before."""

    def __init__(self, inputs: int, outputs: int, style: int, first: bool):
        super().__init__()
        self.up = Modulated(inputs, outputs, 3, style, up=True)
        self.plan = nn.ModuleList(FlowBlock(outputs, style) for _ in range(4))
        self.flow = Modulated(outputs, 3, 1, style, demodulate=False)                    # flow x, flow y, mask
        self.grow = None if first else nn.Conv2d(inputs, outputs, 3, padding=1)
        self.refine = nn.Sequential(*(Refine(outputs) for _ in range(4)))
        self.picture, self.tint = nn.Conv2d(outputs, 3, 1), nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x, style, feature, before):
        """x (B, C, S / 2, S / 2) the plan so far, feature (B, C', S, S) of the source, before: (fetched, flow, picture) or None."""
        x = leaky(self.up(x, style))
        for block in self.plan:
            x = block(x, style)
        flow = self.flow(x, style)
        flow = flow if before is None else flow + double(before[1])
        side = torch.linspace(-1, 1, x.shape[-1], device=x.device)
        grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1) + flow[:, :2].tanh().permute(0, 2, 3, 1)       # (B, S, S, 2)
        mask = flow[:, 2:].sigmoid()
        fetched = F.grid_sample(feature, grid, align_corners=True) * mask
        x = fetched + (1 - mask) * x
        if before is not None:
            fetched = fetched + leaky(self.grow(double(before[0])))
        fetched = self.refine(fetched)
        picture = leaky(self.picture(fetched)) + self.tint
        return x, (fetched, flow, picture if before is None else picture + double(before[2]))


class LIAX(MotionAutoencoder):
    """LIA-X at S = 512: the encoder's code of the source, moved along orthogonal directions, styles a generator of flow fields."""

    def __init__(self, style=1024, channels=(1024, 512, 256, 128), directions=40, size=512):
        """channels: at up to 64 pixels, at 128, at 256 and at 512."""
        nn.Module.__init__(self)
        if size < 16 or size & (size - 1) or any(c % 32 for c in channels[:max(1, size.bit_length() - 6)]):
            raise ValueError(f"LIA-X needs pictures of 16, 32, 64 ... pixels and channels in multiples of 32, not {size} and {channels}")
        levels = int(math.log2(size)) - 2                                                # 7: from 8 x 8 to 512 x 512
        at = lambda side: channels[min(3, max(0, int(math.log2(side)) - 6))]
        self.size = size
        self.first = nn.Conv2d(3, at(size), 1)
        self.down = nn.ModuleList(Down(at(size >> i), at(size >> (i + 1))) for i in range(levels))
        self.code = nn.Conv2d(channels[0], style, 4, bias=False)
        self.magnitudes = nn.Linear(style, directions)
        self.directions = nn.Parameter(torch.randn(style, directions))
        self.start = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.start_conv = Modulated(channels[0], channels[0], 3, style)
        self.levels = nn.ModuleList(Level(at(4 << i), at(8 << i), style, i == 0) for i in range(levels))
        self.normal = Normal(directions)
        initialise(self)
        for m in self.modules():
            if isinstance(m, Modulated):          # no style: every channel as it is
                nn.init.ones_(m.scale.bias)

    def look(self, pictures: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 3, S, S) in -1..1 -> features, the smallest first, and the code (B, D)."""
        features = [leaky(self.first(pictures))]
        for down in self.down:
            features.append(down(features[-1]))
        return features[-2::-1], self.code(features[-1]).flatten(1)

    def moves(self, poses: Tensor) -> Tensor:
        """The paper's motion is the pose itself."""
        return poses

    def decode(self, source: Tensor, motion: Tensor) -> Tensor:
        return self.render(source, *self.look(source), self.normal.inverse(motion))

    def fit(self, clips) -> None:
        self.normal.fit(torch.cat([self.pose(pictures) for pictures in clips]))

    def render(self, source: Tensor, features: list[Tensor], code: Tensor, magnitudes: Tensor) -> Tensor:
        """magnitudes (B, T, K) -> pictures (B, T, 3, S, S), a frame at a time: one fills the memory well enough."""
        basis = torch.linalg.qr(self.directions + 1e-8)[0]                               # (D, K)
        frames = []
        for magnitude in magnitudes.unbind(1):
            style, before = code + magnitude @ basis.T, None
            x = leaky(self.start_conv(self.start.expand(len(code), -1, -1, -1), style))
            for level, feature in zip(self.levels, features):
                x, before = level(x, style, feature, before)
            frames.append(before[2])
        return torch.stack(frames, 1)
