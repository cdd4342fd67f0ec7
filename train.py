"""Train everything, from nothing to a talking face:  python train.py --config small  [--field=value ...]  [--describe]

Stages, each through the one loop in `fit`, each with a checkpoint in the run's folder (out/small by default):

    corpus    clips for the autoencoders, made or decoded once                    clips/
    speaker   SpeakerEncoder                                                      speaker.pt
    audio     AudioVAE, and its reader of text   } side by side, in processes
    motion    MotionAutoencoder                  } of their own                   audio.pt  motion.pt
    latents   every clip of the corpus, encoded once                              latents/
    talker    Talker with its flow-matching heads (arXiv 2604.23586, section 3.5) talker.pt
    sample    six unseen sentences by unseen talkers beside the truth             sample.mp4

log.jsonl gets one line per logged step. A killed run resumes where its checkpoints stand, exactly, by the same command.
`--data DIR` trains on a folder of real clips instead of the synthetic corpus (README: "Your own clips").

What this file does not do: models (model.py, heads.py, autoencoders.py), clips (data.py), generation (sample.py).
"""
import dataclasses
import functools
import json
import math
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lab.machine import cores, pick_device, prepare_machine, to_device     # before torch
import torch

import data
from autoencoders import AudioVAE, MotionAutoencoder, SpeakerEncoder, as_input
from heads import FlowHead, SeparateHeads
from lab.muon import optimizers
from lab.ranks import add_up, agree, in_processes, join, load_optimizer, plainly, rank, spread, wait, whole, world
from lab.settings import check_settings, open_run, parse_crop, read_settings
from model import Backbone, Modality, Talker, initialise


# -------------------------------------------------------------------------------------------------------- configuration
@dataclass
class Config:
    """Every setting, with the values of `small`; the other presets say what they change."""
    config: str = "small"
    out_dir: str = ""                     # default: out/<config>
    data: str = ""                        # a folder of real clips; empty: the synthetic corpus
    crop: str = ""                        # x,y,size in source pixels of real clips; empty: the centre square
    seed: int = 0
    # corpus
    size: int = 64                        # side of the square pictures
    sample_rate: int = 16000
    vocabulary: int = 47                  # the characters of data.TEXT_VOCAB (47) or another tokenizer's ids (Qwen3: 151936)
    start: str = ""                       # where the talker starts from: Qwen3's weights (a folder, or a name on Hugging Face) or a run
    autoencoders: str = "small"           # or paper: WhisperX-VAE and LIA-X, see lab/paper_autoencoders.py
    whisper: str = ""                     # for WhisperX-VAE: the file of Whisper's weights (large-v3.pt); without it they are random
    clips: int = 3500                     # sentences the talker learns from
    autoencoder_clips: int = 1000         # the first of them, which the autoencoders learn from
    # audio autoencoder and speaker encoder
    audio_width: int = 128
    audio_layers: int = 2                 # of the semantic encoder
    audio_heads: int = 4
    audio_bands: int = 80
    audio_slow: int = 256                 # decoder channels at 25 Hz (paper: innermost)
    audio_fast: int = 160                 # and at 100 Hz (paper: outermost of the encoder; half of it, the discriminators)
    audio_latent: int = 32
    audio_kl: float = 0.05
    audio_steps: int = 1000
    audio_batch: int = 16
    speaker_size: int = 64
    speaker_steps: int = 400
    speaker_batch: int = 48
    timbre: int = 1                       # 1: beside the speaker vector, the talker is told mean and deviation of the reference's latents
    introduce: int = 1                    # 1: the voice is told to the language model as well, not to the audio head alone
    # motion autoencoder
    motion_size: int = 20                 # orthogonal directions
    motion_coarse: int = 96               # channels at 8 x 8 (paper: up to 64 x 64, half of it with each doubling from there)
    motion_fine: int = 48                 # and at 16 x 16
    motion_steps: int = 900
    motion_batch: int = 8                 # clips, with 4 pairs of frames from each
    # talker
    patch: int = 4                        # frames
    width: int = 192
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 48
    hidden: int = 512                     # of SwiGLU
    patch_layers: int = 1
    patch_heads: int = 3
    head_width: int = 128                 # flow-matching heads
    head_layers: int = 3
    head_heads: int = 2
    repeats: float = 1.0                  # draws of time and noise per target and step (the release: 2; 0.5: half of the targets have one)
    motion_weight: float = 1.0
    motion_delay: int = 0                 # patches by which the motion lags
    regression: float = 1.0               # auxiliary loss, see model.Talker
    jitter: int = 0                       # up to so many frames are cut off at the start: patches of every phase, where clips are few
    speech_only: float = 0.1              # share of samples that are treated as having no video
    talker_steps: int = 1200
    talker_batch: int = 32
    # optimisation
    learning_rate: float = 2e-3           # AdamW
    muon_rate: float = 0.02               # Muon, on hidden matrices; 0: AdamW everywhere
    weight_decay: float = 0.01
    warmup: float = 0.03                  # share of the steps
    decay: float = 0.6                    # share of the steps at the end over which the rates fall to 2 %
    clip: float = 1.0                     # gradient norm
    accumulate: int = 1                   # a batch goes through in so many pieces, one after the other or in several processes
    fsdp: int = 0                         # 1: with torchrun, weights and optimizer of the talker are cut among the processes
    log_every: int = 20
    save_every: float = 60.0              # seconds between checkpoints
    # sampling: chosen on the dev split
    steps: int = 8
    guidance: float = 1.5
    temperature: float = 0.6
    stop_hits: int = 2                    # stop at so many patches in a row above 0.5; the two before the last are not trained
    stop_keeps: int = 1                   # 1: the patch that says stop is still part of the sample, 0: it is not
    stop_shortest: int = 0                # patches in which nothing counts as a stop

    voice_size = property(lambda self: self.speaker_size + 2 * self.timbre * self.audio_latent)    # what the audio head is told of the voice


PRESETS = {
    "small": {},
    "tiny": dict(clips=24, autoencoder_clips=12, audio_width=32, audio_slow=32, audio_fast=32, audio_steps=3, audio_batch=4,
                 speaker_size=8, speaker_steps=2, speaker_batch=4, motion_size=6, motion_coarse=16, motion_fine=16, motion_steps=3,
                 motion_batch=2, width=32, layers=2, heads=2, kv_heads=1, head_dim=16, hidden=64, patch_heads=2, head_width=32,
                 head_layers=2, head_heads=2, talker_steps=4, talker_batch=4, log_every=1, steps=3, stop_hits=2),
    "grid": dict(size=96, clips=100000, audio_steps=2500, speaker_steps=200, motion_size=40, motion_coarse=128, motion_fine=96,
                 motion_steps=5000, talker_steps=1300, jitter=3, stop_hits=3),
    "paper": dict(size=512, sample_rate=24000, vocabulary=151936, autoencoders="paper", clips=1000000, audio_width=1280, audio_layers=32,
                  audio_heads=20, audio_bands=128, audio_slow=1536, audio_fast=64, audio_kl=0.01, audio_steps=500000, speaker_size=256, timbre=0, introduce=0,
                  motion_size=40, motion_coarse=1024, motion_steps=500000, width=1024, layers=28, heads=16, kv_heads=8, head_dim=128,
                  hidden=3072, patch_layers=4, patch_heads=8, head_width=1024, head_layers=8, head_heads=8, repeats=2.0, motion_weight=8.0,
                  regression=0.0, speech_only=0.5, talker_steps=200000, talker_batch=256, learning_rate=1e-4, muon_rate=0.0, decay=1.0,
                  start="Qwen/Qwen3-0.6B", steps=10, guidance=2.0, temperature=0.7, stop_hits=1),
}
PRESETS["release"] = PRESETS["paper"] | dict(motion_weight=10.0, warmup=0.1, steps=20, guidance=1.0, temperature=0.3, stop_hits=3,
                                             stop_keeps=0, stop_shortest=7)     # where the released code differs from the paper
STAGES = ("speaker", "audio", "motion", "talker")


def parse_config(arguments: list[str]) -> Config:
    """['--config', 'small', '--seed=3'] -> Config. Unknown fields, wrong types and impossible sizes are errors that say what was meant."""
    config = read_settings(arguments, Config, PRESETS, __doc__)
    check_settings(config)
    return config


# ---------------------------------------------------------------------------------------------------------- optimisation
def fit(stage: str, model, batch, loss, order: data.BatchOrder, steps: int, config: Config, device, dtype, bar=0) -> None:
    """The one training loop. batch(indices, generator) -> name -> tensor, on the CPU; loss(batch, generator) -> (loss, log dict), on the device.
    Resumes from <stage>.pt, and leaves it there.

    All randomness comes from the order of batches and from generators that seed and step start anew, so a resumed run is the
    same run, and the dtype is in the checkpoint. A batch is cut into pieces, which the processes share (lab/ranks.py).
    bar: the line of the screen that shows the progress.
    """
    pieces = math.lcm(config.accumulate, world())
    if order.batch_size % pieces:
        raise ValueError(f"--{stage}_batch ({order.batch_size}) can't be cut into {pieces} equal pieces (--accumulate={config.accumulate}, {world()} processes)")
    out = Path(config.out_dir)
    state = load_checkpoint(out, stage) if (out / f"{stage}.pt").exists() else None
    dtype = getattr(torch, state["dtype"]) if state else dtype
    if state:
        model.load_state_dict(state["model"])
    model.to(device).train()
    loss, exchange = spread(model, loss, device, bool(config.fsdp) and stage == "talker")
    opts = optimizers(model, config, dtype)
    rates = [o.param_groups[0]["lr"] for o in opts]
    draws = torch.Generator()             # for the batches; a loss on a GPU draws there
    generator = draws if device.type == "cpu" else torch.Generator(device)
    first, seconds = 0, 0.0
    if state:
        for o, s in zip(opts, state["optimizers"]):
            load_optimizer(o, s)
        order.load_state_dict(state["order"])
        first, seconds = state["step"], state["seconds"]
    mine = range(rank(), pieces, world())
    def prepared():                       # the pieces of this process, one after the other
        for step in range(first, steps):
            indices = next(order)
            for piece in mine:
                for g in {draws, generator}:
                    g.manual_seed(config.seed * 1_000_003 + step * pieces + piece)
                yield indices, order.state_dict(), to_device(batch(indices[piece::pieces], draws), device)
    def save(step):
        weights, moments = whole(model.state_dict()), [whole(o.state_dict()) for o in opts]
        if rank() == 0:
            save_checkpoint(out, stage, dict(model=weights, optimizers=moments, order=place, step=step, seconds=seconds,
                                             dtype=str(dtype).removeprefix("torch."), done=False))
    start, saved = time.perf_counter() - seconds, seconds
    bar = tqdm(range(first, steps), desc=stage, initial=first, total=steps, unit="step", position=bar, disable=rank() > 0)
    parent, sums, samples, norms, logged = multiprocessing.parent_process(), {}, 0, 0, first
    coming, place = prepared(), order.state_dict()
    following = next(coming, None)
    for step in bar:
        share = (step + 1) / steps
        scale = min(1, share / max(config.warmup, 1 / steps), max(0.02, (1 - share) / max(config.decay, 1 / steps)))
        for o, rate in zip(opts, rates):
            o.param_groups[0]["lr"] = rate * scale
        for piece in mine:
            indices, place, values = following
            with exchange(piece == mine[-1]):
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    value, log = loss(values, generator)
                (value / len(mine)).backward()
            following = next(coming, None)              # while a GPU still computes this one
            for name, v in {"loss": value.detach(), **log}.items():
                total, n = sums.get(name, (0, 0))
                counted = ~torch.isnan(v)               # a bin of flow time may be empty
                sums[name] = total + v.detach().nan_to_num(), n + counted
        norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip))
        if not torch.isfinite(norm):
            raise RuntimeError(f"{stage}: the gradient is not finite at step {step}; try a smaller --learning_rate (clips {indices})")
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        samples, norms = samples + len(indices), norms + norm
        if (step + 1) % config.log_every == 0 or step + 1 == steps:
            now = time.perf_counter() - start
            line = {"stage": stage, "step": step + 1, "lr": rates[0] * scale, "seconds": round(now, 2),
                    "samples_per_s": round(samples / (now - seconds), 2)}
            late = torch.tensor(float(now - saved > config.save_every), device=device)
            late, *totals = add_up([late, *(v for pair in sums.values() for v in pair)])
            line |= {"gradient": float(norms) / (step + 1 - logged)} | {k: (s / n).tolist() for k, s, n in zip(sums, totals[::2], totals[1::2])}
            line = {k: [None if x != x else round(x, 5) for x in v] if isinstance(v, list) else v for k, v in line.items()}
            if rank() == 0:
                with open(out / "log.jsonl", "a") as file:
                    file.write(json.dumps(line) + "\n")
            bar.set_postfix_str(f"loss {line['loss']:.3f}")
            sums, samples, norms, seconds, logged = {}, 0, 0, now, step + 1
            if parent and not parent.is_alive():
                sys.exit(f"{stage}: the run that started this process has ended")
            if late and step + 1 < steps:               # the clocks of several processes differ: any one's is enough
                save(step + 1)
                saved = now
    save(steps)
    model.eval()


# ----------------------------------------------------------------------------------------------------------- checkpoints
def save_checkpoint(out: Path, stage: str, state: dict) -> None:
    """Atomic: a run killed while it writes keeps the checkpoint before."""
    torch.save(state, out / f"{stage}.tmp")
    os.replace(out / f"{stage}.tmp", out / f"{stage}.pt")


def load_checkpoint(out: Path, stage: str) -> dict:
    """<out>/<stage>.pt on the CPU. Only tensors and plain values are loaded: a checkpoint never runs code."""
    path = Path(out) / f"{stage}.pt"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; `python train.py --out_dir {out} ...` trains it")
    return torch.load(path, map_location="cpu", weights_only=True)


def finished(out: Path, stage: str) -> bool:
    return (out / f"{stage}.pt").exists() and load_checkpoint(out, stage)["done"]


# ---------------------------------------------------------------------------------------------------------------- models
def build(stage: str, config: Config) -> torch.nn.Module:
    """The model of a stage at the configured size, with fresh weights decided by the seed."""
    c = config
    torch.manual_seed(c.seed)
    if c.autoencoders == "paper" and stage in ("audio", "motion"):
        from lab.paper_autoencoders import LIAX, WhisperXVAE     # here, since few need them
        if stage == "motion":
            return LIAX(c.motion_coarse, tuple(c.motion_coarse >> i for i in range(4)), c.motion_size, c.size)
        return WhisperXVAE(c.sample_rate, c.audio_fast, width=c.audio_width, decoder_channels=c.audio_slow, latent=c.audio_latent,
                           bands=c.audio_bands, heads=c.audio_heads, layers=c.audio_layers, kl=c.audio_kl, adversary=c.audio_fast // 2)
    if stage == "audio":
        return AudioVAE(c.sample_rate, c.audio_width, c.audio_latent, c.audio_bands, c.audio_layers, c.audio_heads, slow=c.audio_slow,
                        fast=c.audio_fast, vocabulary=len(data.TEXT_VOCAB), kl=c.audio_kl, speaker=c.speaker_size)
    if stage == "speaker":
        return SpeakerEncoder(c.sample_rate, c.speaker_size, c.audio_width)
    if stage == "motion":
        return MotionAutoencoder(c.size, c.motion_size, coarse=c.motion_coarse, fine=c.motion_fine).to(memory_format=torch.channels_last)
    modalities = {"audio": Modality(c.audio_latent, c.voice_size), "motion": Modality(c.motion_size, c.motion_size, c.motion_weight, c.motion_delay)}
    heads = SeparateHeads({name: FlowHead(m.latent, m.condition, c.width, c.head_width, c.head_layers, c.head_heads)
                           for name, m in modalities.items()}, c.repeats)
    backbone = Backbone(c.width, c.layers, c.heads, c.kv_heads, c.head_dim, c.hidden)
    talker = Talker(modalities, heads, backbone, c.vocabulary, c.patch, c.patch_layers, c.patch_heads, c.regression, bool(c.introduce))
    initialise(talker)
    return talker


def run_config(out: Path) -> Config:
    """The settings of a run, from its folder."""
    path = Path(out) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{out} holds no trained model (no config.json); `python train.py --out_dir {out}` makes one")
    found = json.loads(path.read_text())
    if other := found.keys() ^ {f.name for f in dataclasses.fields(Config)}:
        raise ValueError(f"{out} was made by another version of nanoTalker, which differs in the settings {', '.join(sorted(other))}; train it again")
    return Config(**found)


def load_model(out: Path, stage: str, device="cpu") -> torch.nn.Module:
    """A trained model from a run's folder, which is all it needs."""
    state = load_checkpoint(out, stage)
    model = build(stage, run_config(out))
    model.load_state_dict(state["model"])
    return model.to(device).eval()


# ---------------------------------------------------------------------------------------------------------------- stages
def corpus(config: Config, split="train", n: int | None = None, talkers=None):
    """The source of clips: a folder of real ones, or the synthetic corpus."""
    if config.data:
        return data.ClipFolder(config.data, split, config.size, config.sample_rate, parse_crop(config.crop))
    return data.SyntheticCorpus(split, n or config.clips, talkers, config.seed, config.size, config.sample_rate)


def padded_audio(clips: list, samples: int) -> dict[str, torch.Tensor]:
    """Clips -> wave (B, n) padded with zeros, frames (B,); samples: per frame. n is a multiple of 8 frames: few sizes, few kernels."""
    waves = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(c.audio) for c in clips], batch_first=True)
    waves = torch.nn.functional.pad(waves, (0, -waves.shape[1] % (8 * samples)))
    return dict(wave=waves, frames=torch.tensor([len(c.audio) // samples for c in clips]))


def train_autoencoder(stage: str, config: Config, device, dtype, bar=0) -> None:
    """audio, speaker or motion, on the clips that the corpus stage left in the run's folder."""
    out = Path(config.out_dir)
    store = data.ClipStore(out / "clips")
    model = build(stage, config).to(device)
    if stage == "audio" and config.whisper and not (out / "audio.pt").exists():
        from lab.released import load_whisper
        load_whisper(model.semantic, Path(config.whisper))
    if stage == "audio":                  # its decoder is told who speaks
        speaker, clips = load_model(out, "speaker", device), tqdm(range(len(store)), desc="voices", position=bar, leave=False)
        with torch.no_grad():
            voices = torch.cat([speaker(torch.from_numpy(store[i].audio)[None].to(device)) for i in clips]).cpu()

    sounds = lambda indices, generator: padded_audio([store[i] for i in indices], config.sample_rate // data.FPS)

    def spoken(indices, generator):
        text, _ = data.pad_text([data.encode_text(store[i].text) for i in indices])
        return sounds(indices, generator) | dict(text=text, speaker=voices[indices])

    def pairs(indices, generator):
        draws = torch.rand(len(indices), 5, generator=generator).numpy()
        return dict(pictures=torch.from_numpy(np.stack([store[i].video[(d * store.frames[i]).astype(int)] for i, d in zip(indices, draws)])))

    def motion_loss(x, generator):
        pictures = as_input(x["pictures"])                                               # (B, 5, 3, S, S)
        return model.loss(pictures[:, 0], pictures[:, 1:])

    batch = {"audio": spoken, "speaker": sounds, "motion": pairs}[stage]
    loss = motion_loss if stage == "motion" else lambda x, generator: model.loss(**x, generator=generator)
    steps, size = getattr(config, f"{stage}_steps"), getattr(config, f"{stage}_batch")
    fit(stage, model, batch, loss, data.BatchOrder(store.frames, size, config.seed), steps, config, device, dtype, bar)
    if rank() > 0:
        return
    if stage != "speaker":                # the language model wants latents of zero mean and unit deviation
        take = {"audio": lambda c: torch.from_numpy(c.audio).to(device), "motion": lambda c: as_input(c.video[::4]).to(device)}[stage]
        with torch.inference_mode():
            model.fit(take(store[i]) for i in range(0, len(store), max(1, len(store) // 300)))
    save_checkpoint(out, stage, load_checkpoint(out, stage) | {"model": model.state_dict(), "done": True})


def voice_of(speaker: torch.Tensor, latents: torch.Tensor, config: Config) -> torch.Tensor:
    """Speaker vector (G,) and latents (T, d) of one utterance -> what the audio head is told of the voice (voice_size,)."""
    return torch.cat((speaker, latents.mean(0), latents.std(0))) if config.timbre else speaker


@functools.lru_cache
def encoders(out: Path) -> tuple:
    """The frozen parts of a run, the clips it keeps, its settings and the dtype for pictures, loaded once in each worker process."""
    dtype = prepare_machine(torch.device("cpu"), 1)
    return *(load_model(out, stage) for stage in ("audio", "motion", "speaker")), data.ClipStore(out / "clips"), run_config(out), dtype


@torch.inference_mode()
def encode_clip(out: Path, source, index: int):
    """Clip `index` of source as an item of a LatentSet, or the BrokenClip that says why there is none."""
    audio, motion, speaker, store, config, dtype = encoders(out)
    clip = store[store.places[index]] if index in store.places else data.make_clip(source, index)
    if isinstance(clip, data.BrokenClip):
        return clip
    wave = torch.from_numpy(clip.audio)[None]
    latents = audio.encode(wave)[0]
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        poses = motion.pose(as_input(clip.video))
    return dict(name=clip.name, text=clip.text, audio=latents.numpy(), voice=voice_of(speaker(wave)[0], latents, config).numpy(),
                motion=motion.moves(poses).numpy(), pose=poses[0].numpy())


def encode_latents(config: Config, source) -> None:
    """The whole corpus -> latents/, in one process per core; each clip is made or decoded, encoded and forgotten."""
    out = Path(config.out_dir)
    if (out / "latents" / "meta.json").exists():
        return
    n = min(config.clips, len(source))
    if n < len(source):
        print(f"latents: the first {n} of {len(source)} clips (--clips={len(source)} takes all)")
    found = data.parallel(functools.partial(encode_clip, out), source, n, cores(), "latents")
    data.LatentSet.write(out / "latents", (item for _, item in data.kept(found, n, "latents", [])))


def text_reader(config: Config):
    """What turns a text into ids: characters, or (another vocabulary) Qwen3's tokens."""
    if config.vocabulary == len(data.TEXT_VOCAB):
        return data.encode_text
    from lab.released import find_tokenizer, qwen_ids
    return functools.partial(qwen_ids, folder=find_tokenizer(config.start) or "Qwen/Qwen3-0.6B")


def vary(item: dict, half: float, cut: float, config: Config) -> dict:
    """An item of a LatentSet as one step sees it; half and cut are draws from [0, 1). Up to `jitter` frames are cut off at the
    start, and the voice's statistics are those of a random half: a whole clip's tell what it says, a reference's don't."""
    audio, skip = item["audio"], int(cut * (config.jitter + 1))
    voice = voice_of(item["voice"][:config.speaker_size], audio[int(half * (len(audio) - len(audio) // 2 + 1)):][:len(audio) // 2], config)
    return {k: v[skip:] if v.ndim == 2 else v for k, v in item.items()} | {"voice": voice}


def train_talker(config: Config, device, dtype) -> None:
    clips = data.LatentSet(Path(config.out_dir) / "latents", text_reader(config))
    talker = build("talker", config)
    if config.start and not (Path(config.out_dir) / "talker.pt").exists():
        from lab.released import start_from
        start_from(talker, config.start)
    talker.to(device)
    talker.longest.fill_(int(clips.frames.max()) // config.patch)

    def batch(indices, generator):
        draws = torch.rand(len(indices), 3, generator=generator)
        items = [vary(clips[i], *draw, config) for i, draw in zip(indices, draws[:, :2].tolist())]
        return data.collate(items, config.patch) | dict(paired=draws[:, 2] >= config.speech_only)

    def loss(x, generator):
        frames, latents = x["patches"] * config.patch, {"audio": x["audio"], "motion": x["motion"]}
        conditions = {"audio": x["voice"], "motion": x["pose"]}
        return talker(x["text"], x["text_mask"], latents, {n: frames for n in latents}, conditions, x["paired"], generator)

    fit("talker", talker, batch, loss, data.BatchOrder(clips.frames, config.talker_batch, config.seed), config.talker_steps, config, device, dtype)
    if rank() == 0:
        save_checkpoint(Path(config.out_dir), "talker", load_checkpoint(config.out_dir, "talker") | {"done": True})


def run_stages(stages: tuple[str, ...], config: Config, threads: int | None = None, bar=0) -> None:
    """The stages that are not finished yet, one after the other, in this process."""
    device = pick_device()
    join(device)
    dtype = agree(prepare_machine(device, threads), device)
    for stage in stages:
        if finished(Path(config.out_dir), stage):
            continue
        if stage == "talker":
            train_talker(config, device, dtype)
        else:
            train_autoencoder(stage, config, device, dtype, bar)
        wait()


def main() -> None:
    arguments = sys.argv[1:]
    if "--describe" in arguments:
        from lab.describe import describe
        return print(describe(parse_config([a for a in arguments if a != "--describe"])))
    config = parse_config(arguments)
    with torch.device("meta"):                    # settings that no model can have are told before the corpus is made
        for stage in STAGES:
            build(stage, config)
    start = time.time()
    source, out = corpus(config), Path(config.out_dir)
    join(pick_device())
    if rank() == 0:
        at = {s: load_checkpoint(out, s)["step"] if (out / f"{s}.pt").exists() else 0 for s in STAGES}
        open_run(config, source.key, at)
        data.cache_clips(source, config.autoencoder_clips, out / "clips", cores())
    wait()
    run_stages(("speaker",), config)
    if pick_device().type == "cpu" and cores() > 1 and world() == 1:         # small networks keep two cores busy better side by side
        in_processes([(plainly, run_stages, (stage,), config, cores() // 2, line) for line, stage in enumerate(("audio", "motion"))])
        print("\n\n", end="")
    else:
        run_stages(("audio", "motion"), config)
    if rank() == 0:
        encode_latents(config, source)
    wait()
    run_stages(("talker",), config)
    if rank() > 0:
        return
    from lab.sheet import write_grid      # here, since it and sample.py stand above this file and import it
    write_grid(out, out / "sample.mp4")
    text, who, what = "bin blue at f two now", "--talker 3", "six unseen sentences by unseen talkers"
    if config.data:
        clips = corpus(config, "all")
        first = next(i for i in range(len(clips)) if isinstance(data.make_clip(clips, i), data.Clip))
        text, who = clips.text(first), f"--ref {clips.paths[first]}"
        what = "texts of test clips, each in the voice and with the face of the next clip"
    print(f"""
Finished in {(time.time() - start) / 60:.1f} minutes.
  checkpoints  {', '.join(str(out / f'{s}.pt') for s in STAGES)}
  log          {out / 'log.jsonl'}   (python -m lab.plot {out / 'log.jsonl'} --out {out / 'curve.png'})
  clips        {out / 'sample.mp4'}   {what}, the truth at the right of each
Next: python sample.py --ckpt {out} --text "{text}" {who} --seed 0 --out hello.mp4""")


if __name__ == "__main__":
    plainly(main)
