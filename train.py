"""Train everything, from nothing to a talking face:

    python train.py --config small  [--field=value ...]

The stages, and what each leaves in the run's folder (out/small by default):

    corpus    the first 1,000 clips, for the autoencoders                     clips/
    speaker   SpeakerEncoder                                                  speaker.pt
    audio     AudioVAE                 } side by side, in processes           audio.pt
    motion    MotionAutoencoder        } of their own                         motion.pt
    latents   all 4,000 clips, encoded once, in shards                        latents/
    talker    Talker and its flow-matching heads (arXiv 2604.23586, 3.5)      talker.pt
    sample    six sentences by unseen speakers                                sample.mp4

All models train by the one loop in `train_model`. log.jsonl gets a line per logged step. A killed
run resumes exactly where its checkpoints stand, by the same command (engine/training.py says how).
`--data DIR` trains on real clips instead of the synthetic corpus, `--from RUN` another talker on
the frozen parts and latents of a finished run.

What this file does not do: models (model.py, heads.py, autoencoders.py), clips (data.py),
generation (sample.py), the bookkeeping around the loop (engine/training.py).
"""
import functools
import gc
import importlib
import inspect
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

from engine.machine import cores, memory, pick_device, prepare_machine     # before torch
import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import data
from autoencoders import (AudioVAE, MotionAutoencoder, SpeakerEncoder, pictures_to_tensor,
                          tensor_to_pictures)
from engine import kernels
from engine.alignment import spoken_symbols
from engine.checkpoints import (finished, load_checkpoint, load_weights, resume_points,
                                save_checkpoint)
from engine.lora import add_changes, merge
from engine.media import first_with_pictures, picture_size, write_json
from engine.processes import (agree_on_dtype, barrier, from_rank_0, join_processes, plainly,
                              processes_here, rank, run_in_processes, world)
from engine.settings import (check_frozen, check_memory, check_settings, copy_frozen, frozen_digest,
                             lock_folder, open_run, parse_crop, read_run_config, read_settings,
                             widths_of)
from engine.training import TrainingRun, recompute_blocks
from engine.shards import make_set, size_of_set, whole_shards
from engine.workers import parallel
from english.seen import Seen
from heads import SeparateHeads
from model import FPS, Backbone, Modality, Talker, initialise


# -------------------------------------------------------------------------------- configuration
QWEN_VOCABULARY = 151936


@dataclass
class Config:
    """Every setting, with the values of `small`. Each is an option, --name=value."""

    config: str = "small"           # the preset
    out_dir: str = ""               # the run's folder; default: out/<config>
    from_run: str = ""              # --from: a run whose frozen parts and latents this one uses
    seed: int = 0

    # ---- The frozen parts: corpus, speaker encoder and autoencoders.
    data: str = ""                  # a folder of real clips; empty: the synthetic corpus
    crop: str = ""                  # x,y,size in pixels of real clips; empty: the centre square
    sentences: str = "open"         # of the synthetic corpus: open, or grid (GRID's 51 words)
    timing: str = "natural"         # of its speech: natural, or free, which no text tells
    tokens: str = "phones"          # what a text becomes: phones, characters, or qwen (Qwen3's)
    size: int = 64                  # side of the square pictures, pixels
    sample_rate: int = 16000
    clips: int = 4000               # sentences that the talker learns from
    autoencoder_clips: int = 1000   # the first of them, which the autoencoders learn from
    speech: str = ""                # a list of .wav files, each with its text beside it in a .json,
    #                                 {"text": ...}: speech without video
    autoencoders: str = "small"     # or paper: WhisperX-VAE and LIA-X (paper/autoencoders.py)
    whisper: str = ""               # with paper: the file of Whisper's weights; else random ones
    frozen: str = ""                # with paper: a folder with the released WhisperX-VAE and LIA-X,
    #                                 which are then not trained
    wavlm: str = ""                 # with frozen: the checkpoint of the released speaker model, in
    #                                 place of a trained one

    audio_width: int = 128
    audio_layers: int = 2           # of the semantic encoder
    audio_heads: int = 4            # attention heads of it
    audio_bands: int = 80           # of the mel spectrogram
    audio_slow: int = 256           # channels of the decoder at 25 Hz; paper: the innermost ones
    audio_fast: int = 160           # and at 100 Hz; paper: the encoder's outermost ones
    audio_latent: int = 32
    audio_kl: float = 0.05          # weight of the KL divergence
    audio_steps: int = 1000
    audio_batch: int = 16

    speaker_size: int = 64          # of the speaker embedding
    speaker_steps: int = 400
    speaker_batch: int = 48
    voice_statistics: bool = True   # the audio head's condition is the speaker embedding with mean
    #                                 and deviation of the reference's latents; see audio_condition

    latent_dtype: str = "float32"   # or float16: of the latents on disk
    encode_first: int = 0           # clips (in whole shards of 500) after which the talker begins
    #                                 to train; 0: all. The same command with more of them, once
    #                                 this one was stopped, encodes more and goes on

    motion_size: int = 20           # orthogonal directions, the width of the motion latents
    motion_coarse: int = 96         # channels at 8 x 8 (paper: up to 64 x 64, halved from there)
    motion_fine: int = 48           # and at 16 x 16
    motion_steps: int = 900
    motion_batch: int = 8           # clips, with 4 pairs of frames from each

    # ---- The talker. Everything from here on may differ between talkers on the same latents.
    patch: int = 4                  # frames
    start: str = ""                 # first weights: Qwen3 (a folder or a name), a run's folder, or
    #                                 that of the released talker
    lora: int = 0                   # with start: the rank of the changes that are trained in place
    #                                 of the weights, see engine/lora.py; 0: the weights are
    width: int = 192
    layers: int = 4
    attention_heads: int = 4
    kv_heads: int = 2
    head_dim: int = 48
    mlp_width: int = 512            # of SwiGLU
    patch_layers: int = 1
    patch_heads: int = 3            # attention heads of each patch encoder
    condition_backbone: bool = True     # the voice (audio_condition) conditions the backbone too
    alignment_weight: float = 0.3   # of the loss of model.Alignment; 0: there is none
    talker: str = "Talker"          # a class of model.py, or module:Class
    heads: str = "SeparateHeads"    # the flow-matching heads: a class of heads.py, or module:Class
    flow_width: int = 192
    flow_layers: int = 3
    flow_heads: int = 3             # attention heads inside each flow-matching head
    hidden_per_frame: bool = True   # each noisy frame gets the hidden state, see heads.FlowHead
    flow_repeats: float = 1.0       # draws of timestep and noise per target (the release: 2)
    drop_hidden: float = 0.1
    drop_history: float = 0.05      # 1: no history
    motion_weight: float = 1.0      # of its flow-matching loss
    motion_delay: int = 0           # patches by which the motion lags
    regression_weight: float = 1.0  # of the auxiliary loss, see model.Talker
    jitter: int = 0                 # 0 to this many frames are cropped at the start, at random:
    #                                 patches then start at any frame, where clips are few
    keep_end: bool = False          # of the audio the frames after the last whole patch are kept,
    #                                 as in the release
    max_tokens: int = 0             # of text and patches together; what a clip has beyond them is
    #                                 cut off; 0: no limit
    speech_only: float = 0.1        # share of samples that are treated as having no video
    speech_share: float = 0.5       # with --speech, in its place: of each batch, what comes from it
    short_first: float = 0.5        # share of the talker's steps, at the beginning, on short clips
    talker_steps: int = 1200
    talker_batch: int = 32

    # ---- Optimisation, of every model that is trained.
    learning_rate: float = 2e-3     # of AdamW
    muon_rate: float = 0.02         # of Muon (engine/optimizers.py), on hidden matrices; 0: AdamW
    #                                 everywhere
    weight_decay: float = 0.01
    warmup: float = 0.03            # share of the steps
    decay: float = 0.6              # share of the steps at the end, over which rates fall to 2 %
    grad_clip: float = 1.0          # largest norm of the gradient
    accumulate: int = 1             # pieces of a batch (gradient accumulation)
    recompute: bool = False         # gradient checkpointing of the backbone: less memory, more time
    fsdp: bool = False              # with torchrun: the talker is sharded among the processes
    device: str = ""                # cpu, cuda, or cuda:1; empty: a GPU if there is one that works
    log_every: int = 20             # steps
    save_every: float = 60.0        # seconds between checkpoints

    # ---- Sampling, chosen on the dev split.
    euler_steps: int = 8            # of sampling, see heads.FlowHead.sample
    guidance: float = 2.0
    temperature: float = 0.3
    motion_temperature: float = 0.8     # more than the audio's, or the eyes never blink
    alignment_pace: float = 0.86    # by what the alignment's estimates are multiplied; below 1
    #                                 fewer symbols are skipped
    stop_hits: int = 2              # stop at so many patches in a row of one half or more
    stop_keeps: bool = True         # the patch that says stop is still part of the sample
    stop_shortest: int = 0          # patches in which nothing counts as a stop

    @property
    def vocabulary(self) -> int:
        """The number of text ids."""
        return QWEN_VOCABULARY if self.tokens == "qwen" else len(self.alphabet.symbols)

    @property
    def alphabet(self) -> "data.Alphabet":
        """What the audio autoencoder's CTC loss reads, and the Talker but for Qwen's tokens."""
        return data.ALPHABETS.get(self.tokens, data.ALPHABETS["characters"])

    @property
    def aligned(self) -> bool:
        """Whether the latents come with an alignment, which a Talker needs that has one: the
        audio autoencoder has to read the ids that the Talker does."""
        return self.tokens != "qwen" and self.autoencoders == "small"

    @property
    def voice_size(self) -> int:
        """Width of the audio head's condition."""
        return self.speaker_size + 2 * self.voice_statistics * self.audio_latent


PRESETS = {
    # The default: two CPU cores, minutes.
    "small": {},
    # For the tests: seconds.
    "tiny": dict(
        sentences="grid", clips=24, autoencoder_clips=12, audio_width=32, audio_slow=32,
        audio_fast=32, audio_steps=3, audio_batch=4, speaker_size=8, speaker_steps=2,
        speaker_batch=4, motion_size=6, motion_coarse=16, motion_fine=16, motion_steps=3,
        motion_batch=2, width=32, layers=2, attention_heads=2, kv_heads=1, head_dim=16,
        mlp_width=64, patch_heads=2, flow_width=32, flow_layers=2, flow_heads=2, talker_steps=4,
        talker_batch=4, log_every=1, euler_steps=3, stop_hits=2),
    # Not the paper: the motion head is given the audio patch just sampled (docs/ablations.md).
    "follow": dict(heads="lab.ablations.follow:FollowHeads", guidance=1.5),
    # Real clips: GRID, or a folder of one's own. Its pace and stop rule were chosen before places
    # rotated queries and keys.
    "grid": dict(
        size=96, sentences="grid", clips=100000, audio_steps=2500, speaker_steps=200,
        motion_size=40, motion_coarse=128, motion_fine=96, motion_steps=5000, short_first=0.0,
        flow_width=128, flow_heads=2, talker_steps=1300, jitter=3, guidance=1.5, temperature=0.6,
        motion_temperature=0.6, alignment_pace=1.0, stop_hits=3),
    # The paper: Qwen3-0.6B, WhisperX-VAE and LIA-X.
    "paper": dict(
        size=512, sample_rate=24000, tokens="qwen", autoencoders="paper", clips=1000000,
        latent_dtype="float16",
        audio_width=1280, audio_layers=32, audio_heads=20, audio_bands=128, audio_slow=1536,
        audio_fast=64, audio_kl=0.01, audio_steps=500000, speaker_size=256,
        voice_statistics=False, condition_backbone=False, motion_size=40, motion_coarse=1024,
        motion_steps=500000, width=1024, layers=28, attention_heads=16, kv_heads=8, head_dim=128,
        mlp_width=3072, patch_layers=4, patch_heads=8, alignment_weight=0.0, short_first=0.0,
        flow_width=1024, flow_layers=8, flow_heads=8, hidden_per_frame=False, flow_repeats=2.0,
        motion_weight=8.0, regression_weight=0.0, keep_end=True, max_tokens=1000, speech_only=0.5,
        talker_steps=200000, talker_batch=256, learning_rate=1e-4, muon_rate=0.0, decay=1.0,
        start="Qwen/Qwen3-0.6B", euler_steps=10, guidance=2.0, temperature=0.7,
        motion_temperature=0.7, stop_hits=1),
}
# Where the released code differs from the paper.
PRESETS["release"] = PRESETS["paper"] | dict(
    motion_weight=10.0, warmup=0.1, euler_steps=20, guidance=1.0, temperature=0.3,
    motion_temperature=0.3, stop_hits=3, stop_keeps=False, stop_shortest=7)


def parse_config(arguments: list[str]) -> Config:
    """['--config', 'small', '--seed=3'] -> Config. Unknown fields, wrong types and impossible
    sizes are a ValueError that says what was meant."""
    config = read_settings(arguments, Config, PRESETS, __doc__)
    check_settings(config)
    return config


def run_config(out: Path) -> Config:
    """The settings of a run, from its folder."""
    return read_run_config(Path(out), Config)


# ----------------------------------------------------------------------------------- modalities
class Frozen(NamedTuple):
    """The frozen parts of a run, and its settings."""

    config: Config
    audio: AudioVAE
    motion: MotionAutoencoder
    speaker: SpeakerEncoder
    device: torch.device
    dtype: torch.dtype              # for pictures


@dataclass(frozen=True)
class Stream:
    """All that training needs to know of a modality; sampling encodes and decodes by it too.

    modality(config) -> model.Modality: latent width, condition width, loss weight, delay.
    encode(frozen, clip) -> latents (T, d).
    condition(frozen, clip, latents) -> (G,), the same for all patches of a sample. latents are
        the clip's where they are known already, else None.
    decode(frozen, reference, latents (T, d)) -> array, its first axis a multiple of T long.
    receptive_field(frozen): frames at either side that decoding a frame depends on.
    vary_condition(config, condition, latents, draw in [0, 1)) -> the condition as one training
        step sees it.
    carry(frozen, condition, latents) -> the condition of the sample that follows upon this one.
    pictures: whether it is read off pictures, which speech alone does not have.
    temperature(config) -> of sampling, see FlowHead.sample.
    """

    modality: Callable
    encode: Callable
    condition: Callable
    decode: Callable
    receptive_field: Callable = lambda frozen: 0
    vary_condition: Callable | None = None
    carry: Callable = lambda frozen, condition, latents: condition
    pictures: bool = True
    temperature: Callable = lambda c: c.temperature


def waveform(frozen: Frozen, clip: data.Clip) -> torch.Tensor:
    return torch.from_numpy(clip.audio)[None].to(frozen.device)               # (1, n)


def encode_audio(frozen: Frozen, clip: data.Clip) -> torch.Tensor:
    return frozen.audio.encode(waveform(frozen, clip))[0]                     # (T, d)


def audio_condition(frozen: Frozen, clip: data.Clip, latents=None) -> torch.Tensor:
    """The speaker embedding of a clip; with voice_statistics also mean and deviation of its
    latents. The embedding was trained to tell speakers apart: a linear probe reads the pitch from
    it with an error of 4.2 times the deviation within a speaker, from both together with 1.2
    times (docs/paper.md)."""
    speaker = frozen.speaker(waveform(frozen, clip))[0]                       # (G,)
    if latents is None and frozen.config.voice_statistics:
        latents = encode_audio(frozen, clip)
    return with_statistics(frozen.config, speaker, latents)


def with_statistics(config: Config, speaker: torch.Tensor, latents) -> torch.Tensor:
    if not config.voice_statistics:
        return speaker
    return torch.cat((speaker, latents.mean(0), latents.std(0)))              # (voice_size,)


def statistics_of_a_half(config: Config, condition, latents, draw: float) -> torch.Tensor:
    """In training the statistics are those of a random half of the clip. Those of the whole clip
    would leak its content, which those of a reference do not have."""
    half = len(latents) // 2
    start = int(draw * (len(latents) - half + 1))
    return with_statistics(config, condition[:config.speaker_size], latents[start:][:half])


def decode_audio(frozen: Frozen, reference, latents: torch.Tensor) -> np.ndarray:
    speaker = reference.conditions["audio"][:frozen.config.speaker_size]
    wave = frozen.audio.decode(latents[None], speaker[None])[0]               # (n,)
    return wave.float().cpu().numpy().clip(-1, 1)


def poses(frozen: Frozen, video: np.ndarray) -> torch.Tensor:
    """Pictures (T, S, S, 3) uint8 -> poses (T, K), at most 64 pictures at a time."""
    found = []
    reduced = frozen.dtype != torch.float32
    with torch.autocast(frozen.device.type, frozen.dtype, enabled=reduced):
        for start in range(0, len(video), 64):
            pictures = pictures_to_tensor(video[start:start + 64]).to(frozen.device)
            found.append(frozen.motion.pose(pictures))
    return torch.cat(found)


def poses_of(frozen: Frozen, clip: data.Clip, frames: slice) -> torch.Tensor:
    """The poses of some frames of a clip (T, K): of its pictures, or those that it comes with."""
    if clip.poses is None:
        return poses(frozen, clip.video[frames])
    if clip.poses.shape[1] != frozen.config.motion_size:
        raise data.BrokenClip(clip.name, f"it has {clip.poses.shape[1]} numbers a frame, "
                              f"and the motion autoencoder {frozen.config.motion_size}")
    return frozen.motion.standardize(torch.from_numpy(clip.poses[frames]).to(frozen.device))


def encode_motion(frozen: Frozen, clip: data.Clip) -> torch.Tensor:
    return frozen.motion.relative(poses_of(frozen, clip, slice(None)))        # (T, K)


def first_pose(frozen: Frozen, clip: data.Clip, latents=None) -> torch.Tensor:
    return poses_of(frozen, clip, slice(1))[0]                                # (K,)


def decode_motion(frozen: Frozen, reference, latents: torch.Tensor) -> np.ndarray:
    start = reference.conditions["motion"]
    pictures = frozen.motion.decode(reference.face[None], latents[None], start[None])[0]
    return tensor_to_pictures(pictures)                                       # (T, S, S, 3)


def last_pose(frozen: Frozen, condition: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Where the next sentence begins: at the pose in which this one ends."""
    return frozen.motion.pose_after(condition, latents)                       # (K,)


# The table of modalities. The leading one stands first (see model.Talker); a further entry is a
# further stream of latents, head and output (docs/forking.md).
MODALITIES = {
    "audio": Stream(
        modality=lambda c: Modality(c.audio_latent, c.voice_size),
        encode=encode_audio, condition=audio_condition, decode=decode_audio,
        receptive_field=lambda frozen: frozen.audio.decoder.reach,
        vary_condition=statistics_of_a_half, pictures=False),
    "motion": Stream(
        modality=lambda c: Modality(c.motion_size, c.motion_size, c.motion_weight, c.motion_delay),
        encode=encode_motion, condition=first_pose, decode=decode_motion, carry=last_pose,
        temperature=lambda c: c.motion_temperature),
}


# --------------------------------------------------------------------------------------- models
def build(stage: str, config: Config) -> torch.nn.Module:
    """The model of a stage at the configured size, with fresh weights that the seed decides."""
    c = config
    torch.manual_seed(c.seed)
    if c.autoencoders == "paper" and stage in ("audio", "motion"):
        from paper.autoencoders import LIAX, WhisperXVAE     # here, since few need them
        if stage == "motion":
            channels = tuple(c.motion_coarse >> i for i in range(4))
            return LIAX(c.motion_coarse, channels, c.motion_size, c.size)
        return WhisperXVAE(
            c.sample_rate, c.audio_fast, width=c.audio_width, decoder_channels=c.audio_slow,
            latent=c.audio_latent, bands=c.audio_bands, heads=c.audio_heads, layers=c.audio_layers,
            kl=c.audio_kl, adversary=c.audio_fast // 2)

    if stage == "audio":
        return AudioVAE(
            c.sample_rate, c.audio_width, c.audio_latent, c.audio_bands, c.audio_layers,
            c.audio_heads, slow=c.audio_slow, fast=c.audio_fast, vocabulary=len(c.alphabet.symbols),
            kl=c.audio_kl, speaker_size=c.speaker_size)
    if stage == "speaker":
        return SpeakerEncoder(c.sample_rate, c.speaker_size, c.audio_width)
    if stage == "motion":
        model = MotionAutoencoder(
            c.size, c.motion_size, coarse=c.motion_coarse, fine=c.motion_fine)
        return model.to(memory_format=torch.channels_last)

    modalities = modality_table(c)
    flow = named_class("heads", c.heads, SeparateHeads)(
        modalities, hidden_width=c.width, width=c.flow_width, layers=c.flow_layers,
        attention_heads=c.flow_heads, patch=c.patch, repeats=c.flow_repeats,
        drop_hidden=c.drop_hidden, drop_history=c.drop_history,
        hidden_per_frame=c.hidden_per_frame)
    backbone = Backbone(
        c.width, c.layers, c.attention_heads, c.kv_heads, c.head_dim, c.mlp_width)
    talker = named_class("talker", c.talker, Talker)(
        modalities, flow, backbone, c.vocabulary, c.patch, c.patch_layers, c.patch_heads,
        c.regression_weight, c.condition_backbone, alignment_weight=c.alignment_weight)
    initialise(talker)
    return talker


def modality_table(config: Config) -> dict[str, Modality]:
    """Name -> widths, weight and delay of each modality, as the Talker takes them."""
    return {name: stream.modality(config) for name, stream in MODALITIES.items()}


def named_class(option: str, name: str, usual: type) -> type:
    """The class that an option names: 'SeparateHeads', of the file that the usual one is in, or
    'module:Class', of that module. ValueError if it can't take the usual one's place."""
    module, _, attribute = name.rpartition(":")
    home = usual.__module__
    wanted = f"give a class of {home}.py, such as {usual.__name__}, or module:Class"
    try:
        found = getattr(importlib.import_module(module or home), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--{option}={name}: {error}; {wanted}") from None
    # Its constructor must take what that of the usual one takes.
    needed = inspect.signature(usual).parameters
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise ValueError(f"--{option}={name}: it is no class of modules; {wanted}")
    try:
        inspect.signature(found).bind(**needed)
    except TypeError as error:
        raise ValueError(f"--{option}={name}: its constructor must take {', '.join(needed)} "
                         f"({error}); {wanted}") from None
    return found


def load_model(out: Path, stage: str, device="cpu") -> torch.nn.Module:
    """A trained model from a run's folder, which is all it needs."""
    state = load_checkpoint(out, stage)
    if "released" in state:
        from paper.frozen import load_part
        return load_part(stage, state["released"]).to(device).eval()
    config = run_config(out)
    model = build(stage, config)
    changing = stage == "talker" and config.lora and not state.get("done")
    if changing:
        add_changes(model, config.lora)
    load_weights(model, state, Path(out) / f"{stage}.pt")
    if changing:
        merge(model)
    return model.to(device).eval()


# --------------------------------------------------------------------------------- training loop
def train_model(stage: str, model, make_batch, compute_loss, order: data.BatchOrder, steps: int,
                config: Config, device, dtype, bar=0) -> None:
    """The one training loop. It resumes from <stage>.pt, and leaves its result there.

    make_batch(clip numbers, generator) -> name -> tensor; compute_loss(batch, generator) -> loss,
    name -> what to log.
    """
    run = TrainingRun(stage, model, make_batch, compute_loss, order, steps, config, device, dtype,
                      bar)
    for step, pieces in run.batches():
        # Learning rates rise over the warm-up, stay, and fall to 2 % over the decay.
        share = (step + 1) / steps
        rising = share / max(config.warmup, 1 / steps)
        falling = (1 - share) / max(config.decay, 1 / steps)
        run.set_rates(min(1, rising, max(0.02, falling)))

        # Forward and backward, for each piece of the batch (a micro-batch: gradient accumulation,
        # or the share of another process). Gradients add up.
        for batch in pieces:
            with torch.autocast(device.type, run.dtype, enabled=run.dtype != torch.float32):
                loss, log = run.compute_loss(batch, run.generator)
            (loss / len(run.my_pieces)).backward()
            run.record(loss, log)

        # Clip the norm of the gradient, and step. One that is not finite ends the run.
        run.clip_gradients(step)
        for optimizer in run.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        # Now and then a line of the log, and a checkpoint.
        run.write_log(step)
    run.save(steps)
    model.eval()


# ------------------------------------------------------------------- speaker, audio and motion
def corpus(config: Config, split="train", n: int | None = None, speakers=None):
    """The source of clips: a folder of real ones, one in the layout that the paper's authors
    published, or the synthetic corpus."""
    if config.data and (Path(config.data) / "metadata").is_dir():
        from paper.published import PublishedData, is_published
        if is_published(config.data):
            index = Path(config.out_dir, f"rows_{split}.pt")
            return PublishedData(
                config.data, split, config.sample_rate, text_check(config), index)
    if config.data:
        return data.ClipFolder(
            config.data, split, config.size, config.sample_rate, parse_crop(config.crop),
            config.alphabet.encode, without=config.out_dir)
    return data.SyntheticCorpus(
        split, n or config.clips, speakers, config.seed, config.size, config.sample_rate,
        config.sentences, config.timing)


def open_corpus(config: Config):
    """The source of clips, where a run starts. It completes config.crop. ValueError if the other
    settings do not go with these clips."""
    source = corpus(config)
    if not source.size and not config.frozen:
        raise ValueError(f"{config.data} has motion in the latents of the released LIA-X and no "
                         "pictures: give --frozen, the folder of the released files")
    if not source.size and config.crop:
        raise ValueError(f"{config.data} has no pictures: leave --crop out")
    if config.data and config.crop.count(",") == 2:
        # The crop belongs to pictures of this size, also where other files are sampled with.
        config.crop += f",{picture_size(first_with_pictures(source.paths))}"
        source.crop = parse_crop(config.crop)
    return source


def padded_audio(clips: list, samples_per_frame: int) -> dict[str, torch.Tensor]:
    """Clips -> wave (B, n), padded with zeros, and frames (B,)."""
    waves = [torch.from_numpy(clip.audio) for clip in clips]
    frames = torch.tensor([len(wave) // samples_per_frame for wave in waves])
    waves = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)          # (B, n)
    # Lengths are multiples of 8 frames: few sizes of products, few kernels to make.
    return dict(wave=F.pad(waves, (0, -waves.shape[1] % (8 * samples_per_frame))), frames=frames)


def train_autoencoder(stage: str, config: Config, device, dtype, bar=0) -> None:
    """speaker, audio or motion, on the clips that the corpus stage left in the run's folder."""
    out = Path(config.out_dir)
    store = data.ClipStore(out / "clips")
    model = build(stage, config).to(device)

    def sounds(indices, generator) -> dict:
        return padded_audio([store[i] for i in indices], config.sample_rate // FPS)

    def sounds_with_texts(indices, generator) -> dict:
        """Sounds with their texts, which the CTC loss reads, and their speaker embeddings."""
        text, _ = data.pad_text([config.alphabet.encode(store[i].text) for i in indices])
        return sounds(indices, generator) | dict(text=text, speaker=speakers[indices])

    def pictures(indices, generator) -> dict:
        """Five random frames of each clip: a source, and four to make of it."""
        draws = torch.rand(len(indices), 5, generator=generator).numpy()
        chosen = [store[i].video[(draw * store.frames[i]).astype(int)]
                  for i, draw in zip(indices, draws)]
        return dict(pictures=torch.from_numpy(np.stack(chosen)))              # (B, 5, S, S, 3)

    def sound_loss(batch, generator):
        return model.loss(**batch, generator=generator)

    def picture_loss(batch, generator):
        clip = pictures_to_tensor(batch["pictures"])                          # (B, 5, 3, S, S)
        return model.loss(clip[:, 0], clip[:, 1:])

    if stage == "speaker":
        make_batch, compute_loss = sounds, sound_loss
    elif stage == "motion":
        make_batch, compute_loss = pictures, picture_loss
    else:
        make_batch, compute_loss = sounds_with_texts, sound_loss
        if config.whisper and not (out / "audio.pt").exists():
            from paper.weights import load_whisper
            load_whisper(model.semantic, Path(config.whisper))
        # The decoder is conditioned on the speaker, so the embeddings are made beforehand.
        encoder = load_model(out, "speaker", device)
        clips = tqdm(range(len(store)), desc="speakers", position=bar, leave=False)
        with torch.no_grad():
            speakers = torch.cat([
                encoder(torch.from_numpy(store[i].audio)[None].to(device)) for i in clips]).cpu()

    steps = getattr(config, f"{stage}_steps")
    order = data.BatchOrder(store.frames, getattr(config, f"{stage}_batch"), config.seed)
    train_model(stage, model, make_batch, compute_loss, order, steps, config, device, dtype, bar)
    if rank() > 0:
        return

    # The language model wants latents of zero mean and unit deviation: some 300 clips say how.
    some = range(0, len(store), max(1, len(store) // 300))
    with torch.inference_mode():
        if stage == "audio":
            model.fit_statistics(torch.from_numpy(store[i].audio).to(device) for i in some)
        elif stage == "motion":
            model.fit_statistics(pictures_to_tensor(store[i].video[::4]).to(device) for i in some)
    state = load_checkpoint(out, stage) | {"model": model.state_dict(), "done": True}
    save_checkpoint(out, stage, state)


# -------------------------------------------------------------------------------------- latents
def load_frozen(out: Path, device: torch.device, threads: int | None = None) -> Frozen:
    """The frozen parts of a run."""
    dtype = prepare_machine(device, threads)
    parts = [load_model(out, stage, device) for stage in ("audio", "motion", "speaker")]
    return Frozen(run_config(out), *parts, device, dtype)


@functools.lru_cache
def frozen_parts(out: Path) -> Frozen:
    """The frozen parts of a run on the CPU, loaded once in each process, which then has one
    thread."""
    return load_frozen(out, torch.device("cpu"), 1)


@functools.lru_cache
def clip_store(out: Path) -> data.ClipStore:
    return data.ClipStore(out / "clips")


def encode_clip(out: Path, source, index: int):
    """Clip `index` of source as `latent_item` gives it, in a worker process."""
    store = clip_store(out)
    # The store has pictures and sound, so a clip without pictures is read again.
    stored = index in store.number_here and source.size
    clip = store[store.number_here[index]] if stored else data.make_clip(source, index)
    return latent_item(frozen_parts(out), clip)


@torch.inference_mode()
def latent_item(frozen: Frozen, clip: data.Clip | data.BrokenClip) -> dict | data.BrokenClip:
    """A clip as an item of a LatentSet, or the BrokenClip that says why it can't be one."""
    if isinstance(clip, data.BrokenClip):
        return clip
    item = dict(name=clip.name, text=clip.text)
    if frozen.config.aligned:
        # Where in its text the clip is at every frame, by what the audio autoencoder reads.
        scores = frozen.audio.ctc_scores(waveform(frozen, clip))[0]           # (2 T, symbols)
        ids = frozen.config.alphabet.encode(clip.text)
        try:
            spoken = spoken_symbols(scores.cpu().numpy(), ids)
        except ValueError as error:
            return data.BrokenClip(clip.name, f"its text and its sound do not match: {error}")
        item["spoken"] = spoken[:, None]                                      # (T, 1)

    dtype = getattr(torch, frozen.config.latent_dtype)
    for name, stream in MODALITIES.items():
        if clip.speech_alone and stream.pictures:
            continue
        try:
            latents = stream.encode(frozen, clip)
        except data.BrokenClip as error:
            return error
        condition = stream.condition(frozen, clip, latents)
        for key, array in ((name, latents), (f"{name}_condition", condition)):
            item[key] = array.to("cpu", dtype).numpy()
            if not np.isfinite(item[key]).all():
                return data.BrokenClip(
                    clip.name, f"{key} has numbers that {frozen.config.latent_dtype} does not hold")
    return item


def encoded(config: Config, source, label: str, numbers: list[int]) -> Iterator:
    """Clips of a source -> what `latent_item` gives of them, in order. Each clip is made or
    decoded, encoded and forgotten."""
    out = Path(config.out_dir)
    workers = cores(processes_here())
    device = pick_device(config.device)
    if device.type == "cpu":
        encode = functools.partial(encode_clip, out)
        yield from parallel(encode, source, numbers, workers, label)
    else:
        yield from encoded_here(load_frozen(out, device), source, label, numbers, workers)


def encoded_here(frozen: Frozen, source, label: str, numbers: list[int], workers: int) -> Iterator:
    """`encoded` where a GPU encodes: worker processes make or decode, and this one encodes."""
    for clip in parallel(data.make_clip, source, numbers, workers, label):
        yield latent_item(frozen, clip)


def encode_latents(config: Config, source) -> None:
    """The corpus -> latents/, and the sounds of --speech -> speech/, without what needs
    pictures."""
    out = Path(config.out_dir)
    n = min(config.clips, len(source))
    if n < len(source) and rank() == 0:
        print(f"latents: the first {n} of {len(source)} clips (--clips={len(source)} takes all)")
    # With --encode_first some of them have to do for now. A later start may want more.
    n = min(n, whole_shards(config.encode_first or n))

    def made_of(clips) -> dict:
        """What tells these latents from others. Rank 0 asks, where there is something to encode:
        to look through the frozen parts and the files takes long."""
        if rank() > 0:
            return {}
        widths = widths_of(config, modality_table(config))
        return dict(frozen=frozen_digest(out), modalities=widths, clips=clips.key)

    if from_rank_0(size_of_set(out / "latents")) < n and not finished(out, "talker"):
        make_set(out / "latents", n, made_of(source),
                 functools.partial(encoded, config, source, "latents"))
    if config.speech and not from_rank_0(size_of_set(out / "speech")):
        from paper.published import SpeechList
        sounds = SpeechList(config.speech, config.sample_rate, text_check(config))
        make_set(out / "speech", len(sounds), made_of(sounds),
                 functools.partial(encoded, config, sounds, "speech"))


# --------------------------------------------------------------------------------------- talker
def text_check(config: Config) -> Callable | None:
    """What raises ValueError for a text that can't be said. Qwen's tokens write any text."""
    return None if config.tokens == "qwen" else config.alphabet.encode


def text_reader(config: Config) -> Callable:
    """What turns a text into ids: phones or characters, or Qwen3's tokens."""
    if config.tokens != "qwen":
        return config.alphabet.encode
    from paper.qwen import find_tokenizer, qwen_ids
    folder = find_tokenizer(config.start) or "Qwen/Qwen3-0.6B"
    return functools.partial(qwen_ids, folder=folder)


def without_video(item: dict, modalities: dict[str, Modality]) -> dict:
    """An item of speech alone, with zeros for the streams that it lacks, name -> (T, d) and
    name_condition -> (G,)."""
    length = min(len(value) for value in item.values() if value.ndim == 2)
    zeros = {}
    for name, m in modalities.items():
        if name not in item:
            zeros[name] = torch.zeros(length, m.latent)
            zeros[f"{name}_condition"] = torch.zeros(m.condition)
    return item | zeros


def vary(item: dict, which_half: float, cut: float, config: Config) -> dict:
    """An item of a LatentSet as one training step sees it.

    Two draws from [0, 1): which_half, for the voice's statistics (statistics_of_a_half), and cut,
    for the frames that `jitter` cuts off. max_tokens cuts off the end."""
    seen = {"text": item["text"]}
    skip = int(cut * (config.jitter + 1))         # frames that are cut off at the start
    end = None                                    # of the frames that are seen
    if config.max_tokens:
        # There is room for a patch at least.
        seen["text"] = item["text"][:config.max_tokens - 1]
        end = skip + config.patch * (config.max_tokens - len(seen["text"]))
    for name, stream in MODALITIES.items():
        condition = item[f"{name}_condition"]
        if stream.vary_condition:
            condition = stream.vary_condition(config, condition, item[name], which_half)
        seen[name] = item[name][skip:end]
        seen[f"{name}_condition"] = condition
    if config.aligned:
        seen["spoken"] = item["spoken"][skip:end]                             # (T, 1)
    return seen


def train_talker(config: Config, device, dtype) -> None:
    out = Path(config.out_dir)
    clips = data.LatentSet(out / "latents", text_reader(config))
    speech = data.LatentSet(out / "speech", text_reader(config)) if config.speech else None
    if rank() == 0 and config.tokens != "qwen":
        # So that sampling can tell of words that training never had.
        texts = (a_set.text(i) for a_set in (clips, speech) if a_set for i in range(len(a_set)))
        write_json(out / "seen.json", Seen.collect(texts, config.tokens).content())
    talker = build("talker", config)
    if config.start and not (out / "talker.pt").exists():
        from paper.weights import start_from
        whole = start_from(talker, config.start)
        if config.lora and not whole:
            raise ValueError(f"--lora changes a talker, and --start={config.start} holds only the "
                             "language model")
    if config.lora:
        add_changes(talker, config.lora)
    talker.to(device)
    # Faster classes take the place of those of model.py and heads.py. One that computes something
    # else, since it was edited, trains as it is written, and a line says so.
    kernels.install(talker)
    if config.recompute:
        if not hasattr(talker, "backbone"):
            raise ValueError(f"--recompute is about a backbone, and {config.talker} has none")
        recompute_blocks(talker.backbone)

    # The sequences that keep what follows upon the last whole patch.
    to_the_end = (talker.leader, "spoken") if config.keep_end else ()
    # How many patches the longest sample has; one that is not full counts with keep_end.
    rest = config.patch - 1 if config.keep_end else 0
    longest = max(int(a_set.frames.max()) for a_set in (clips, speech) if a_set)
    longest = (longest + rest) // config.patch

    def item_of(index: int) -> dict:
        # Speech without video has numbers after those of the clips.
        if index < len(clips):
            return clips[index]
        return without_video(speech[index - len(clips)], talker.modalities)

    def make_batch(indices, generator) -> dict:
        draws = torch.rand(len(indices), 3, generator=generator)
        items = [vary(item_of(i), *draw, config) for i, draw in zip(indices, draws[:, :2].tolist())]
        # Without speech of its own, some clips are treated as having no video, so that the model
        # also learns plain speech.
        with_video = draws[:, 2] >= config.speech_only
        if speech:
            with_video = torch.tensor(indices) < len(clips)
        return data.collate(items, config.patch, to_the_end) | dict(with_video=with_video)

    def compute_loss(batch, generator):
        # Here, since loading a checkpoint would overwrite it, perhaps with that of fewer clips.
        talker.longest_seen.fill_(longest)
        return talker(
            batch["text"], batch["text_mask"],
            latents={name: batch[name] for name in MODALITIES},
            frames={name: batch["frames" if name in to_the_end else "whole"]
                    for name in MODALITIES},
            conditions={name: batch[f"{name}_condition"] for name in MODALITIES},
            present={name: batch["with_video"] for name in MODALITIES if name != talker.leader},
            generator=generator, spoken=batch["spoken"][..., 0] if config.aligned else None)

    of_speech = round(config.speech_share * config.talker_batch) if speech else 0
    order = data.BatchOrder(clips.frames, config.talker_batch - of_speech, config.seed,
                            int(config.short_first * config.talker_steps))
    if speech:
        following = data.BatchOrder(speech.frames, of_speech, config.seed)
        order = data.MixedOrder(order, following, len(clips))
    train_model("talker", talker, make_batch, compute_loss, order, config.talker_steps, config,
                device, dtype)
    if config.lora:
        merge(talker)
    if rank() == 0:
        state = load_checkpoint(out, "talker") | {"done": True}
        if config.lora:
            state["model"] = talker.state_dict()
        save_checkpoint(out, "talker", state)


# --------------------------------------------------------------------------------------- stages
STAGES = ("speaker", "audio", "motion", "talker")


def run_stages(stages: tuple[str, ...], config: Config, threads: int | None = None, bar=0) -> None:
    """Train those of the stages that are not finished yet, one after the other."""
    device = pick_device(config.device)
    join_processes(device)
    dtype = agree_on_dtype(prepare_machine(device, threads), device)
    for stage in stages:
        if finished(Path(config.out_dir), stage):
            continue
        if stage == "talker":
            train_talker(config, device, dtype)
        else:
            train_autoencoder(stage, config, device, dtype, bar)
        barrier()


def train_frozen_parts(config: Config, source) -> None:
    """Corpus, speaker encoder, autoencoders and latents. With --from these are another run's, and
    with --frozen the autoencoders are those of a folder."""
    out = Path(config.out_dir)
    if rank() == 0 and config.frozen:
        from paper.frozen import adopt_parts
        adopt_parts(config)
    if rank() == 0 and not config.from_run:
        data.cache_clips(source, config.autoencoder_clips, out / "clips", cores())
    barrier()
    run_stages(("speaker",), config)
    missing = [stage for stage in ("audio", "motion") if not finished(out, stage)]
    if missing and pick_device(config.device).type == "cpu" and cores() > 1 and world() == 1:
        # Small networks keep two cores busy better side by side than one after the other.
        run_in_processes([
            (run_stages, (stage,), config, cores() // 2, line)
            for line, stage in enumerate(missing)])
        print("\n" * len(missing), end="")
    else:
        run_stages(tuple(missing), config)
    if not config.from_run:
        encode_latents(config, source)


def main() -> None:
    config = parse_config(sys.argv[1:])
    # Fail early: impossible sizes, and such as don't fit into memory, are reported before any work.
    # Modules that --heads and --talker name are imported first, as they are no models.
    named_class("heads", config.heads, SeparateHeads)
    named_class("talker", config.talker, Talker)
    device = pick_device(config.device)
    given = ("audio", "motion") * bool(config.frozen) + ("speaker",) * bool(config.wavlm)
    trained = [stage for stage in STAGES if stage not in given]
    check_memory(build, trained, config, memory(device))

    start = time.time()
    out = Path(config.out_dir)
    join_processes(device)
    source = None
    if rank() == 0:
        # What is given is looked at before anything is written.
        source = open_corpus(config)
        if config.speech:
            from paper.published import SpeechList
            SpeechList(config.speech)
        if config.frozen:
            from paper.frozen import check_parts
            check_parts(config)
        check_frozen(config, modality_table(config))
        lock_folder(out)
        steps = resume_points(out, STAGES)
        open_run(config, source.key, steps)
        copy_frozen(config)
        if hasattr(source, "keep"):
            source.keep()
    config = from_rank_0(config)
    if rank() > 0:
        source = corpus(config)
    train_frozen_parts(config, source)
    run_stages(("talker",), config)
    if rank() > 0:
        return

    if not source.size:
        print(f"\nFinished in {(time.time() - start) / 60:.1f} minutes: {out}. Its clips have no "
              f"pictures to compare with.\nNext: python sample.py --ckpt {out} --text \"...\" "
              "--face face.png --voice voice.wav --out hello.mp4")
        return

    # The last stage samples. It is a program of its own, which needs nothing but the run's folder
    # and the memory that training has used.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    home = Path(__file__).parent.resolve()
    paths = [str(home), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, home / "lab" / "grid.py", "--ckpt", out, "--out", out / "sample.mp4",
         f"--device={config.device}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))})
    if done.returncode:
        raise RuntimeError(f"{out / 'sample.mp4'} could not be made; the reason is above")
    say_what_is_next(config, (time.time() - start) / 60)


def say_what_is_next(config: Config, minutes: float) -> None:
    out = Path(config.out_dir)
    text, who = "Hello world, this is nano talker.", "--speaker 3"
    what = "six sentences by unseen speakers"
    if config.data:
        clips = corpus(config, "all")
        first = next(i for i in range(len(clips))
                     if isinstance(data.make_clip(clips, i), data.Clip))
        text, who = clips.text(first), f"--ref {clips.paths[first]}"
        what = "texts of test clips, each in the voice and with the face of the next clip"
    log, curve = out / "log.jsonl", out / "curve.png"
    print(f"""
Finished in {minutes:.1f} minutes.
  checkpoints  {', '.join(str(out / f'{stage}.pt') for stage in STAGES)}
  log          {log}   (python -m lab.plot {log} --out {curve})
  clips        {out / 'sample.mp4'}   {what}, the ground truth at the right of each
Next: python sample.py --ckpt {out} --text "{text}" {who} --seed 0 --out hello.mp4""")


if __name__ == "__main__":
    plainly(main)
