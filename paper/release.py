"""The released Talker-T2AV, from a folder of its files, as a sample.Models (docs/paper.md)."""
import functools
import hashlib
import json
from pathlib import Path

from engine.machine import pick_device, prepare_machine     # before torch
import numpy as np
import torch
from torch import Tensor

import train
from engine import sampling
from engine.checkpoints import finished, save_checkpoint
from paper.autoencoders import resample
from paper.qwen import find_tokenizer, qwen_ids
from paper.weights import build_audio, build_motion, build_talker, read_vector, read_weights


def wavlm_speaker(wave: Tensor, checkpoint: str) -> Tensor:
    """(B, n) at 16 kHz -> speaker embedding (B, 256), by the WavLM speaker model of the release:
    its folder `speaker_verification` must be importable."""
    try:
        from speaker_verification.verification import init_model
    except ImportError as error:
        raise RuntimeError(
            f"--wavlm needs the folder speaker_verification of the released code on PYTHONPATH, "
            f"and what that imports ({error}); or give the speaker embedding as --voice FILE "
            f"(.npy or .pt)") from None
    # It fetches WavLM's code with torch.hub. The weights are loaded here, without pickle.
    model = init_model("wavlm_large")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"], strict=False)
    return model.eval()(wave.cpu()).float()


# The files of each frozen part, anywhere below a folder.
FILES = {"audio": ("*.ckpt",), "motion": ("lia-x*.pt", "motion_mean.npy", "motion_std.npy")}


def files_of(stage: str, folder: Path) -> list[Path]:
    """The files of a frozen part. FileNotFoundError says which one is missing."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; it held the released files")
    found = []
    for pattern in FILES[stage]:
        paths = sorted(folder.rglob(pattern))
        if not paths:
            where = "in the folder lia_x of the released code" if pattern.endswith(".npy") else (
                "among the files that the authors published")
            raise FileNotFoundError(f"{folder} holds no {pattern}; it is {where}")
        found += paths
    return found


def build_part(stage: str, folder: Path) -> torch.nn.Module:
    """The released WhisperX-VAE (audio) or LIA-X with the statistics of its motion (motion)."""
    files = files_of(stage, folder)
    if stage == "audio":
        about = next(iter(sorted(folder.rglob("config.json"))), None)
        about = json.loads(about.read_text()) if about else {}
        return build_audio(read_weights(folder, FILES["audio"][0]), about.get("whisper_n_head"))
    model = build_motion(read_weights(folder, FILES["motion"][0]))
    for path in files:
        if path.name == "motion_mean.npy":
            model.standardize.mean.copy_(torch.from_numpy(np.load(path)))
        if path.name == "motion_std.npy":
            model.standardize.deviation.copy_(torch.from_numpy(np.load(path)).clamp(min=1e-6))
    return model


def adopt_parts(config) -> None:
    """Let a run use the released autoencoders in config.frozen: <stage>.pt says where they are, and
    what is in their files. ValueError where the run's settings are those of others."""
    out = Path(config.out_dir)
    folder = Path(config.frozen)
    missing = [stage for stage in FILES if not finished(out, stage)]
    # Both are looked at before anything is written.
    for stage in missing:
        model = build_part(stage, folder)
        found = {"audio_latent": model.from_latent.in_features,
                 "sample_rate": model.sample_rate} if stage == "audio" else {
            "motion_size": len(model.standardize.mean), "size": model.size}
        other = [f"--{name}={value}" for name, value in found.items()
                 if getattr(config, name) != value]
        if other:
            raise ValueError(f"what is in {folder} needs {' '.join(other)}")
    for stage in missing:
        files = {str(path.relative_to(folder)): [path.stat().st_size, digest_of(path)]
                 for path in files_of(stage, folder)}
        released = dict(folder=str(folder), files=files)
        save_checkpoint(out, stage, dict(model={}, released=released, done=True))


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2 ** 20):
            found.update(block)
    return found.hexdigest()


def load_part(stage: str, released: dict) -> torch.nn.Module:
    """A frozen part, from what `adopt_parts` has written. ValueError if its files have changed."""
    folder = Path(released["folder"])
    for name, (size, _) in released["files"].items():
        path = folder / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; this run was made with it (--frozen)")
        if path.stat().st_size != size:
            raise ValueError(f"{path} is not the file that this run was made with: it has "
                             f"{path.stat().st_size} bytes, and had {size}")
    return build_part(stage, folder)


def load_models(Models, folder: Path, embedding=None, wavlm: str | None = None, device=None):
    """The released Talker-T2AV as an instance of sample.Models.

    Args:
        Models: the class. folder: holds the files, anywhere below it.
        embedding: a file with the 256 numbers of the speaker embedding; or wavlm: the checkpoint
            of the speaker model, which then listens to the clip whose voice is wanted.
    """
    self = Models.__new__(Models)
    self.folder = folder
    self.device = torch.device(device or pick_device())
    self.seen = None
    dtype = prepare_machine(self.device)

    # The talker. Its config.json has what its weights don't say.
    weights = next(iter(sorted(folder.rglob("*.safetensors"))), folder / "model.safetensors")
    about = weights.parent / "config.json"
    about = json.loads(about.read_text()) if about.exists() else {}
    self.talker = build_talker(
        read_weights(weights.parent, "*.safetensors"), about.get("delay", 0),
        about.get("dit_n_head", 8), about.get("patch_encoder_n_head", 8),
        about.get("patch_size", 4)).to(self.device)
    sampling.install(self.talker, dtype)

    # The autoencoders, and the statistics of the motion.
    self.audio = build_part("audio", folder).to(self.device)
    self.motion = build_part("motion", folder).to(self.device)

    # The settings of the release, at the sizes of these weights.
    delay = self.talker.modalities["motion"].delay
    self.config = train.Config(**train.PRESETS["release"] | dict(
        config="release", data=str(folder), size=self.motion.size,
        sample_rate=self.audio.sample_rate, patch=self.talker.patch, motion_delay=delay))

    # Voice and text.
    if embedding:
        size = self.talker.modalities["audio"].condition
        vector = read_vector(Path(embedding), size).to(self.device)
        self.speaker = lambda wave: vector[None]
    else:
        self.speaker = lambda wave: wavlm_speaker(
            resample(wave, self.config.sample_rate, 16000), wavlm).to(self.device)
    tokenizer = find_tokenizer(folder) or weights.parent
    self.text_to_ids = functools.partial(qwen_ids, folder=tokenizer)
    return self
