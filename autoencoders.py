"""The frozen parts around the Talker (arXiv 2604.23586, section 3.1): one latent vector per frame and stream, nothing spatial.

    AudioVAE            waveform (B, n)            <-> latents (B, T, 32) at 25 Hz
    MotionAutoencoder   a clip (T, 3, S, S)        <-> motion (T, 20) relative to the face of its first picture
    SpeakerEncoder      waveform (B, n)             -> speaker (B, G), unit length: who speaks, and not what

What stands for what in the small forms (the paper's parts, which need other people's weights or days of training):

| paper                                          | here                                                                 |
|------------------------------------------------|----------------------------------------------------------------------|
| Whisper large-v3 encoder, frozen               | WhisperEncoder: same shape, small; learns to read (CTC on the text). |
|                                                | Only CTC teaches it: for the autoencoder its features are given      |
| DAC's strided convolutions on the waveform     | ConvNeXt blocks on the log spectrum, 50 then 25 Hz                   |
| DAC's transposed convolutions                  | ConvNeXt blocks at 25, then 100 Hz, and an inverse STFT              |
| adversarial and feature-matching losses        | none: spectral losses at two resolutions                             |
| LIA-X at 512 x 512, 40 directions              | the same idea at 64 or 96: 20 or 40 directions, warps at 3 sizes     |
| WavLM speaker embedding, 256-d                 | SpeakerEncoder, taught by contrast of crops, without labels          |

Axis letters: B batch, n samples, T frames (25 Hz), F spectral bins, C channels, S picture side, D width, K directions.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from model import attention, initialise, zero_init

FPS = 25


def triangles(edges: Tensor, hertz: Tensor) -> Tensor:
    """Corner frequencies (bands + 2,) and those of the bins (F,) -> overlapping triangular filters (bands, F), 1 at their centres."""
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)).clamp(min=0)


class Spectrum(nn.Module):
    """Magnitudes and log-mel energies of a waveform."""

    def __init__(self, sample_rate: int, window: int, hop: int, bands: int):
        super().__init__()
        self.window, self.hop = window, hop
        mel = lambda hertz: 2595 * math.log10(1 + hertz / 700)
        edges = 700 * (10 ** (torch.linspace(mel(20), mel(sample_rate / 2), bands + 2) / 2595) - 1)
        hertz = torch.linspace(0, sample_rate / 2, window // 2 + 1)
        self.register_buffer("filters", triangles(edges, hertz), persistent=False)
        self.register_buffer("hann", torch.hann_window(window), persistent=False)

    def magnitude(self, wave: Tensor) -> Tensor:
        """(B, n) -> (B, F, 1 + n / hop)."""
        spectrum = torch.stft(wave, self.window, self.hop, window=self.hann, pad_mode="constant", return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + 1e-7).sqrt()

    def log_mel(self, magnitude: Tensor) -> Tensor:
        """(B, F, frames) -> (B, bands, frames)."""
        return (self.filters @ magnitude).clamp(min=1e-3).log()


class Normal(nn.Module):
    """Zero mean and unit deviation per latent dimension, by statistics of the corpus that the checkpoint keeps."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def forward(self, latents: Tensor) -> Tensor:
        return (latents - self.mean) / self.deviation

    def inverse(self, latents: Tensor) -> Tensor:
        return latents * self.deviation + self.mean

    @torch.no_grad()
    def fit(self, latents: Tensor) -> None:
        """latents (n, d) as `forward` returned them."""
        self.mean += latents.mean(0) * self.deviation
        self.deviation *= latents.std(0).clamp(min=1e-4)


class ConvNeXt(nn.Module):
    """A ConvNeXt block on (B, T, C): depthwise convolution over time, then a pointwise MLP."""

    def __init__(self, channels: int, kernel=7, expand=3):
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, expand * channels), zero_init(nn.Linear(expand * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.mT).mT
        return x + self.down(F.gelu(self.up(self.norm(y))))


# --------------------------------------------------------------------------------------------------------------- audio
class WhisperEncoder(nn.Module):
    """Whisper's encoder (arXiv 2212.04356): log-mel at 100 Hz -> features at 50 Hz."""

    def __init__(self, bands: int, width: int, layers: int, heads: int):
        super().__init__()
        self.conv1 = nn.Conv1d(bands, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(WhisperBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, mel: Tensor, valid: Tensor | None = None) -> Tensor:
        """mel (B, bands, 2 T'), valid (B, T') False on padding -> (B, T', D)."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).mT                               # (B, T', D)
        half = x.shape[-1] // 2
        rate = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half, device=x.device))
        angle = torch.arange(x.shape[1], device=x.device)[:, None] * rate
        x = x + torch.cat((angle.sin(), angle.cos()), 1)
        for block in self.blocks:
            x = block(x, valid)
        return self.norm(x)


class WhisperBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.out = zero_init(nn.Linear(width, width))
        self.up, self.down = nn.Linear(width, 4 * width), zero_init(nn.Linear(4 * width, width))

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        y = self.norm1(x)
        q, k, v = (rearrange(f(y), "B T (H D) -> B H T D", H=self.heads) for f in (self.query, self.key, self.value))
        x = x + self.out(rearrange(attention(q, k, v, valid=valid), "B H T D -> B T (H D)"))             # (B, T, D)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class SpectrumEncoder(nn.Module):
    """The small acoustic stream: waveform (B, n) -> (B, T, D)."""

    def __init__(self, sample_rate: int, width: int):
        super().__init__()
        self.spectrum = Spectrum(sample_rate, sample_rate // FPS, sample_rate // (4 * FPS), 80)          # 40 ms windows at 100 Hz
        self.input = nn.Linear(2 * (sample_rate // FPS // 2 + 1), width)
        self.blocks = nn.Sequential(ConvNeXt(width), ConvNeXt(width))
        self.output = nn.Linear(2 * width, width)

    def forward(self, wave: Tensor) -> Tensor:
        frames = wave.shape[-1] // (4 * self.spectrum.hop)
        x = self.spectrum.magnitude(wave).clamp(min=1e-3).log()[..., :4 * frames] / 3                    # (B, F, 4 T)
        x = self.blocks(self.input(rearrange(x, "B F (T r) -> B T (r F)", r=2)))                         # (B, 2 T, D)
        return self.output(rearrange(x, "B (T r) D -> B T (r D)", r=2))                                  # (B, T, D)


class FourierDecoder(nn.Module):
    """The small decoder, Vocos' idea (arXiv 2306.00814): predict each frame's spectrum, invert it. (B, T, D) -> (B, n)."""

    def __init__(self, sample_rate: int, width: int, slow: int, fast: int, blocks=3):
        """slow, fast: channels of the blocks at 25 and at 100 Hz."""
        super().__init__()
        self.hop, self.window = sample_rate // (4 * FPS), 2 ** round(math.log2(sample_rate * 0.032))
        self.input = nn.Conv1d(width, slow, 3, padding=1)
        self.slow = nn.Sequential(*(ConvNeXt(slow) for _ in range(blocks)))
        self.up = nn.Linear(slow, 4 * fast)
        self.fast = nn.Sequential(*(ConvNeXt(fast) for _ in range(blocks)), nn.LayerNorm(fast))
        self.out = nn.Linear(fast, self.window + 2)
        self.reach = 1 + 3 * blocks + math.ceil((3 * blocks + 3) / 4)                    # frames at 25 Hz that a sample depends on, each way
        self.register_buffer("hann", torch.hann_window(self.window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slow(self.input(x.mT).mT)
        x = self.fast(rearrange(self.up(x), "B T (r D) -> B (T r) D", r=4))              # (B, 4 T, D)
        magnitude, phase = self.out(x).float().mT.chunk(2, 1)                            # (B, F, 4 T)
        magnitude = (magnitude - 1).exp().clamp(max=1e2)
        pieces = torch.fft.irfft(torch.polar(magnitude, phase), n=self.window, dim=1) * self.hann[:, None]
        length = (pieces.shape[-1] - 1) * self.hop + self.window
        overlap = lambda p: F.fold(p, (1, length), (1, self.window), stride=(1, self.hop))[:, 0, 0]
        envelope = overlap(self.hann.square()[None, :, None].expand(1, -1, pieces.shape[-1]))
        edge = (self.window - self.hop) // 2
        return (overlap(pieces) / envelope.clamp(min=1e-3))[:, edge:edge + pieces.shape[-1] * self.hop]


class AudioVAE(nn.Module):
    """Acoustic stream + semantic stream -> Gaussian bottleneck -> decoder, with a head that rebuilds the semantic features.

    Unlike the paper's, the decoder is also told who speaks: in minutes it does not learn to keep a voice in latents this small.
    """

    def __init__(self, sample_rate=16000, width=128, latent=32, bands=80, layers=2, heads=4, slow=256, fast=160,
                 vocabulary=64, kl=5e-2, crop=24, speaker=64):
        """layers, heads: of the semantic encoder. speaker: width of a SpeakerEncoder's vector. kl: weight of the bottleneck's KL divergence; crop: frames of a clip that a training step resynthesises."""
        super().__init__()
        self.samples = sample_rate // FPS                                                # per latent frame
        self.sample_rate, self.kl, self.crop = sample_rate, kl, crop
        self.mel = Spectrum(sample_rate, sample_rate // 40, sample_rate // 100, bands)   # Whisper's 25 ms windows at 100 Hz
        self.semantic = WhisperEncoder(bands, width, layers, heads)
        self.reader = nn.Linear(width, vocabulary)                                       # CTC: teaches the semantic encoder only
        self.acoustic = SpectrumEncoder(sample_rate, width)
        self.to_latent, self.from_latent = nn.Linear(width, 2 * latent), nn.Linear(latent, width)
        self.voice = nn.Linear(speaker, width, bias=False)
        self.normal = Normal(latent)
        self.rebuild = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.decoder = FourierDecoder(sample_rate, width, slow, fast)
        self.spectra = nn.ModuleList(Spectrum(sample_rate, w, h, b) for w, h, b in ((320, 100, 40), (1280, 320, 100)))
        initialise(self)

    def semantics(self, wave: Tensor, frames: Tensor | None = None) -> Tensor:
        """(B, n), frames (B,) that are not padding -> (B, 2 T, D) at 50 Hz."""
        mel = self.mel.log_mel(self.mel.magnitude(wave))[..., :wave.shape[-1] // self.samples * 4]
        valid = None if frames is None else torch.arange(mel.shape[-1] // 2, device=wave.device)[None] < 2 * frames[:, None]
        return self.semantic((mel + 4) / 4, valid)

    def bottleneck(self, wave: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n) and its semantics at 25 Hz (B, T, D) -> means and deviations, each (B, T, latent)."""
        mean, scale = self.to_latent(self.acoustic(wave) + semantic).float().chunk(2, -1)
        return mean, F.softplus(scale) + 1e-4

    def encode(self, wave: Tensor) -> Tensor:
        """(B, n) -> normalised latents (B, T, latent), T = ceil(n / samples per frame): an odd end is padded with silence."""
        if wave.ndim != 2 or wave.shape[1] == 0:
            raise ValueError(f"AudioVAE.encode takes waveforms (B, n) with n > 0, not {tuple(wave.shape)}")
        wave = F.pad(wave, (0, -wave.shape[1] % self.samples))
        return self.normal(self.bottleneck(wave, pairs(self.semantics(wave)))[0])

    def fit(self, waves) -> None:
        """Learn the statistics of the latents from clips, each (n,)."""
        self.normal.fit(torch.cat([self.encode(wave[None])[0] for wave in waves]))

    def decode(self, latents: Tensor, speaker: Tensor) -> Tensor:
        """Normalised latents (B, T, latent), who speaks (B, G) -> (B, T * samples per frame)."""
        return self.decoder(self.from_latent(self.normal.inverse(latents)) + self.voice(speaker)[:, None])

    def cut(self, wave: Tensor, semantic: Tensor, frames: Tensor, generator=None) -> tuple[Tensor, Tensor]:
        """A random crop of at most `crop` frames of each clip (B, n) and of its semantics (B, T, D)."""
        start = (torch.rand(len(wave), generator=generator, device=wave.device) * (frames - self.crop + 1).clamp(min=1)).long()
        at = start[:, None] + torch.arange(min(self.crop, wave.shape[1] // self.samples), device=wave.device)
        crop = lambda x: x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))          # (B, T', ...)
        return crop(wave.unflatten(1, (-1, self.samples))).flatten(1), crop(semantic)

    def sample_latent(self, mean: Tensor, deviation: Tensor, generator=None) -> tuple[Tensor, Tensor]:
        """The bottleneck's posterior -> what the decoder gets of a draw from it (B, T, D), and the KL divergence per dimension."""
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        kl = 0.5 * (mean.square() + deviation.square() - 1).mean() - deviation.log().mean()
        return self.from_latent(mean + deviation * noise), kl

    def meaning(self, rebuilt: Tensor, semantic: Tensor) -> Tensor:
        """How badly the semantics (B, T, D) can be told from what the decoder gets: squared error and cosine distance."""
        guess = self.rebuild(rebuilt).float()
        return F.mse_loss(guess, semantic) + 1 - F.cosine_similarity(guess, semantic, -1).mean()

    def loss(self, wave: Tensor, frames: Tensor, text: Tensor, speaker: Tensor, generator=None) -> tuple[Tensor, dict]:
        """wave (B, n) zero-padded, frames (B,), text (B, L) ids left-padded with 0, speaker (B, G) -> loss, parts to log.

        The reader needs whole sentences; the autoencoder learns from a crop of each.
        """
        features = self.semantics(wave, frames)
        characters = self.reader(features).float().log_softmax(-1)
        target = text[text > 0]                                                          # (sum of lengths,) CTC's packed form
        ctc = F.ctc_loss(characters.transpose(0, 1), target, 2 * frames, (text > 0).sum(1), zero_infinity=True)
        wave, semantic = self.cut(wave, pairs(features).detach(), frames, generator)
        rebuilt, kl = self.sample_latent(*self.bottleneck(wave, semantic), generator)
        meaning = self.meaning(rebuilt, semantic)
        spectral = self.spectral_loss(self.decoder(rebuilt + self.voice(speaker)[:, None]), wave)
        log = {"spectral": spectral, "kl": kl, "meaning": meaning, "ctc": ctc}
        return spectral + self.kl * kl + 0.1 * meaning + 0.2 * ctc, log

    def spectral_loss(self, wave: Tensor, truth: Tensor) -> Tensor:
        total = 0
        for spectrum in self.spectra:
            y, x = spectrum.magnitude(wave), spectrum.magnitude(truth)
            logs = F.l1_loss(y.clamp(min=1e-3).log(), x.clamp(min=1e-3).log())
            mel = spectrum.log_mel(y) - spectrum.log_mel(x)                              # (B, bands, frames); its mean over time is timbre
            total = total + mel.abs().mean() + 0.5 * mel.mean(-1).abs().mean() + 0.5 * logs + 1.5 * (y - x).abs().mean() / x.mean()
        return total / len(self.spectra)


def pairs(x: Tensor) -> Tensor:
    """Average neighbours: (B, 2 T, D) at 50 Hz -> (B, T, D) at 25 Hz."""
    return rearrange(x, "B (T r) D -> B T r D", r=2).mean(2)                             # (B, T, D)


# -------------------------------------------------------------------------------------------------------------- speaker
class SpeakerEncoder(nn.Module):
    """Who speaks: log-mel -> ConvNeXt blocks -> mean and deviation over time -> unit vector (B, size)."""

    def __init__(self, sample_rate=16000, size=64, width=128, bands=80, blocks=2, temperature=0.1):
        super().__init__()
        self.samples, self.temperature = sample_rate // FPS, temperature
        self.mel = Spectrum(sample_rate, sample_rate // FPS, sample_rate // 100, bands)
        self.input = nn.Linear(2 * bands, width)
        self.blocks = nn.Sequential(*(ConvNeXt(width) for _ in range(blocks)))
        self.out = nn.Linear(2 * width, size)
        initialise(self)

    def forward(self, wave: Tensor) -> Tensor:
        if wave.shape[1] < 2 * self.samples:
            raise ValueError(f"a voice can't be told from {wave.shape[1] / self.samples / FPS:.3f} s of sound: it takes {2 / FPS} s or more")
        mel = self.mel.log_mel(self.mel.magnitude(wave))                                 # (B, bands, frames)
        mel = mel[..., :mel.shape[-1] // 2 * 2]
        x = self.blocks(self.input(rearrange((mel + 4) / 4, "B F (T r) -> B T (r F)", r=2)))             # (B, T', D)
        return F.normalize(self.out(torch.cat((x.mean(1), x.std(1)), -1)).float(), dim=-1)

    def loss(self, wave: Tensor, frames: Tensor, generator=None) -> tuple[Tensor, dict]:
        """wave (B, n), frames (B,) -> contrastive loss (arXiv 2002.05709) of two crops that do not overlap.

        Those of one utterance attract, others repel: they share the speaker but not the words, so that is all the vector can carry.
        """
        length = int(frames.min()) // 2
        if length < 5:
            raise ValueError(f"the speaker encoder needs clips of at least 10 frames; the shortest here has {int(frames.min())}")
        slack = frames - 2 * length
        first = (torch.rand(len(wave), generator=generator, device=wave.device) * (slack + 1)).long()
        by_frame = wave.unflatten(1, (-1, self.samples))                                 # (B, T, samples)
        def crop(start):
            at = start[:, None] + torch.arange(length, device=wave.device)
            return self(by_frame.gather(1, at[..., None].expand(-1, -1, self.samples)).flatten(1))
        similarity = crop(first) @ crop(first + length).T / self.temperature             # (B, B)
        same = torch.arange(len(wave), device=wave.device)
        loss = (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2
        return loss, {"found": (similarity.argmax(1) == same).float().mean()}


# --------------------------------------------------------------------------------------------------------------- motion
def conv(inputs: int, outputs: int, kernel=3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels), zero_init(conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Fetch x (B, C, S, S) from where flow (B, 2, S, S) points, in units of half the picture's side."""
    centre = (torch.arange(x.shape[-1], device=x.device) + 0.5) * 2 / x.shape[-1] - 1
    grid = torch.stack(torch.meshgrid(centre, centre, indexing="xy"), -1) + flow.permute(0, 2, 3, 1)     # (B, S, S, 2)
    return F.grid_sample(x.contiguous(), grid, padding_mode="border", align_corners=False)


class MotionAutoencoder(nn.Module):
    """LIA's form (arXiv 2203.09043; LIA-X 2508.09959), small: an appearance code plus a motion along orthogonal directions.

    The face comes from a source picture, whose features are warped by the flow fields that its code and the motion give, coarse
    to fine. Taught on pairs of frames of one clip. The motion of a clip is how its poses differ from the first one: clips of a
    real speaker differ ten times as much in pose as the pose changes within one.
    """

    def __init__(self, size=64, directions=20, code=128, coarse=96, fine=48):
        """size: side of the pictures, a multiple of 16; coarse, fine: channels at 8 x 8 and 16 x 16."""
        super().__init__()
        if size % 16:
            raise ValueError(f"the picture's side must be a multiple of 16, not {size}")
        self.size, self.cell = size, size // 16
        self.encode1, self.encode2 = conv(3 * self.cell ** 2, fine), conv(4 * fine, coarse, 1)
        self.encode2_more = Residual(coarse)
        self.code = nn.Sequential(nn.LayerNorm(64 * coarse), nn.Linear(64 * coarse, code), nn.LayerNorm(code))
        self.appearance = nn.Linear(code, code)
        self.magnitudes = nn.Sequential(nn.Linear(code, code), nn.SiLU(), nn.Linear(code, directions))
        self.directions = nn.Parameter(torch.randn(code, directions))
        self.input = nn.Linear(code, 16 * coarse)
        self.up = nn.ModuleList((conv(coarse, 4 * coarse), conv(coarse, 4 * fine)))
        self.flow = nn.ModuleList(zero_init(conv(c, 3, 1)) for c in (coarse, fine))      # flow x, flow y, mask
        self.mix = nn.ModuleList(conv(2 * c, c) for c in (coarse, fine))
        self.more = nn.ModuleList(Residual(c) for c in (coarse, fine))
        self.out = zero_init(conv(fine, 6 * self.cell ** 2))                             # RGB, flow x, flow y, mask
        self.normal, self.change = Normal(directions), Normal(directions)                # of poses, and of their change within a clip
        initialise(self)

    def look(self, pictures: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 3, S, S) in -1..1 -> features [coarse (B, C, 8, 8), fine (B, C', 16, 16)], code (B, D)."""
        x = F.pixel_unshuffle(pictures, self.cell).contiguous(memory_format=torch.channels_last)
        fine = F.silu(self.encode1(x))
        coarse = self.encode2_more(F.silu(self.encode2(F.pixel_unshuffle(fine, 2))))
        return [coarse, fine], self.code(F.silu(F.pixel_unshuffle(coarse, 2).flatten(1)))

    def pose(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) -> how far each is along the directions, normalised (B, K)."""
        return self.normal(self.magnitudes(self.look(pictures)[1]).float())

    def moves(self, poses: Tensor) -> Tensor:
        """The poses of a clip (T, K) -> its motion (T, K)."""
        return self.change(poses - poses[:1])

    def encode(self, pictures: Tensor) -> Tensor:
        """A clip (T, 3, S, S) -> its motion (T, K)."""
        return self.moves(self.pose(pictures))

    def decode(self, source: Tensor, motion: Tensor) -> Tensor:
        """Source pictures (B, 3, S, S) and motions (B, T, K), taken to begin at their poses -> (B, T, 3, S, S)."""
        features, code = self.look(source)
        change = self.change.inverse(motion) * self.normal.deviation
        return self.render(source, features, code, self.magnitudes(code).float()[:, None] + change)

    def fit(self, clips) -> None:
        """Learn the statistics of poses and motions from clips, each (T, 3, S, S)."""
        poses = [self.pose(pictures) for pictures in clips]
        self.normal.fit(torch.cat(poses))
        poses = [self.normal(x) for x in poses]
        self.change.fit(torch.cat([x - x[:1] for x in poses]))

    def render(self, source: Tensor, features: list[Tensor], code: Tensor, magnitudes: Tensor) -> Tensor:
        """The source with its own magnitudes along the directions replaced by the given ones (B, T, K) -> (B, T, 3, S, S).

        Only the difference is rendered. Given the magnitudes themselves, the network first learned to copy the source, and a
        real mouth, 2 % of the picture, stood still after 1,800 steps; so it moves after 200.
        """
        B, T = magnitudes.shape[:2]
        each = lambda x: x.repeat_interleave(T, 0)
        basis = torch.linalg.qr(self.directions.float())[0]                              # (D, K) orthonormal columns
        change = magnitudes - self.magnitudes(code).float()[:, None]                     # (B, T, K)
        moved = each(self.appearance(code)) + change.flatten(0, 1) @ basis.T             # (B T, D)
        x = self.input(moved).unflatten(1, (-1, 4, 4))                                   # (B T, C, 4, 4)
        flow = 0
        for i, feature in enumerate(features):
            x = F.pixel_shuffle(self.up[i](F.silu(x).contiguous(memory_format=torch.channels_last)), 2)
            step = self.flow[i](x).float()
            flow = step[:, :2] / 4 + (F.interpolate(flow, scale_factor=2, mode="bilinear") if i else 0)
            seen = warp(each(feature), flow) * torch.sigmoid(step[:, 2:] + 1)
            x = torch.cat((x, seen), 1).contiguous(memory_format=torch.channels_last)
            x = self.more[i](self.mix[i](x))
        last = F.pixel_shuffle(self.out(F.silu(x)).contiguous(), self.cell)              # (B T, 6, S, S)
        flow = F.interpolate(flow.contiguous(), scale_factor=self.cell, mode="bilinear") + last[:, 3:5] / 4
        picture = warp(each(source), flow) * torch.sigmoid(last[:, 5:] + 4) + last[:, :3]   # at first the source itself
        return picture.unflatten(0, (B, T))

    def loss(self, source: Tensor, target: Tensor) -> tuple[Tensor, dict]:
        """source (B, 3, S, S), target (B, T, 3, S, S) of the same clips -> loss, parts to log."""
        features, code = self.look(source)
        change, target = (target - target.mean(1, keepdim=True)).abs().flatten(0, 1), target.flatten(0, 1)
        magnitudes = self.magnitudes(self.look(target)[1]).float().unflatten(0, (len(source), -1))
        picture = self.render(source, features, code, magnitudes).flatten(0, 1)
        error = (picture - target).abs()
        # The mouth is a twentieth of the picture: weigh places by how wrong they still are and by how much they change within the clip,
        # so that it is not left blurred. (In real clips hair is wrong everywhere, and does not change.)
        wrong = error.detach() / error.detach().mean().clamp(min=1e-6) + change / change.mean().clamp(min=1e-6)
        wrong = F.avg_pool2d(wrong.mean(1, keepdim=True), 4)
        weight = F.interpolate(1 + (wrong / (wrong.mean() + 1e-6)).clamp(max=10), scale_factor=4)
        edges = sum((picture.diff(dim=d) - target.diff(dim=d)).abs().mean() for d in (-1, -2))
        blocks = sum(F.l1_loss(F.avg_pool2d(picture, k), F.avg_pool2d(target, k)) for k in (4, 8))
        psnr = -10 * ((picture - target) / 2).square().mean().log10()
        return (error * weight).mean() + 0.5 * edges + 0.5 * blocks + 1e-4 * magnitudes.square().mean(), {"psnr": psnr}


def as_input(pictures) -> Tensor:
    """uint8 pictures (..., S, S, 3), numpy or torch -> float (..., 3, S, S) in -1..1."""
    return (pictures if isinstance(pictures, Tensor) else torch.tensor(pictures)).movedim(-1, -3).float() / 127.5 - 1


def as_pictures(x: Tensor):
    """Inverse of `as_input`: (..., 3, S, S) -> numpy uint8 (..., S, S, 3)."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-3, -1).cpu().numpy()
