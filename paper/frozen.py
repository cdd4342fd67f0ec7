"""The released WhisperX-VAE and LIA-X in place of trained autoencoders (`train.py --frozen=DIR`,
docs/paper.md), and the released speaker model in place of a trained one (`--wavlm=CHECKPOINT`). The
files stay where they are; the checkpoints of a run, audio.pt, motion.pt and speaker.pt, say which
files they were."""
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from engine.checkpoints import finished, read_checkpoint, save_checkpoint
from paper.autoencoders import resample
from paper.weights import build_audio, build_motion, read_weights

# The files of each frozen part, anywhere below a folder.
FILES = {"audio": ("*.ckpt",), "motion": ("lia-x*.pt", "motion_mean.npy", "motion_std.npy")}


def files_of(stage: str, folder: Path) -> list[Path]:
    """The files of a frozen part, one for each pattern. FileNotFoundError says which one is
    missing, ValueError which one there is twice."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    found = []
    for pattern in FILES[stage]:
        # A file that `paper.weights.convert` has made stands for the one that it was made of.
        paths = [path for path in sorted(folder.rglob(pattern))
                 if not path.with_suffix(".weights" + path.suffix).exists()]
        if not paths:
            where = "in the folder lia_x of the released code" if pattern.endswith(".npy") else (
                "among the files that the authors published")
            raise FileNotFoundError(f"{folder} holds no {pattern}; it is {where}")
        if len(paths) > 1:
            raise ValueError(f"{folder} holds more than one {pattern}: "
                             f"{', '.join(str(path.relative_to(folder)) for path in paths)}")
        found += paths
    return found


def build_part(stage: str, folder: Path, files: list[Path] | None = None) -> torch.nn.Module:
    """The released WhisperX-VAE (audio) or LIA-X with the statistics of its motion (motion), from
    the files that `files_of` finds, or from these."""
    files = files or files_of(stage, folder)
    weights, *statistics = files
    if stage == "audio":
        # The talker's config.json knows the number of Whisper's attention heads.
        heads = None
        for path in sorted(folder.rglob("config.json")):
            heads = json.loads(path.read_text()).get("whisper_n_head", heads)
        return build_audio(read_weights(weights.parent, weights.name), heads)
    model = build_motion(read_weights(weights.parent, weights.name))
    mean, deviation = (torch.from_numpy(np.load(path)) for path in statistics)
    model.standardize.mean.copy_(mean)
    model.standardize.deviation.copy_(deviation.clamp(min=1e-6))
    return model


class ReleasedSpeaker(torch.nn.Module):
    """The speaker model of the release, WavLM-large with a head of its own. Its code is the folder
    `speaker_verification` of the released code, which must be importable.

    checkpoint: of the model. sample_rate: of the sounds that it is given, in Hz. RuntimeError if
    its code is not there, FileNotFoundError if the checkpoint is not."""

    def __init__(self, checkpoint: Path, sample_rate: int):
        super().__init__()
        if not checkpoint.is_file():
            raise FileNotFoundError(f"--wavlm={checkpoint}: there is no such file")
        try:
            from speaker_verification.verification import init_model
        except ImportError as error:
            raise RuntimeError(
                f"the released speaker model needs the folder speaker_verification of the released "
                f"code on PYTHONPATH, and what that imports ({error}); with sample.py --released, "
                "--voice can be a file with the embedding instead (.npy or .pt)") from None
        # It fetches WavLM's code with torch.hub. The weights are loaded here, without pickle.
        self.model = init_model("wavlm_large")
        state = read_checkpoint(checkpoint)["model"]
        missing, _ = self.model.load_state_dict(state, strict=False)
        if len(missing) > len(self.model.state_dict()) / 10:
            raise ValueError(f"{checkpoint} is not the speaker model of the release: it lacks "
                             f"{len(missing)} of its weights, such as {missing[0]}")
        self.sample_rate = sample_rate

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        """(B, n) -> speaker embedding (B, G)."""
        return self.model(resample(wave, self.sample_rate, 16000)).float()


def files_by_stage(config) -> dict[str, list[Path]]:
    """The files of each frozen part that a run has still to take over."""
    stages = (*FILES, "speaker") if config.wavlm else FILES
    found = {}
    for stage in stages:
        # What a run has taken over is not looked for again.
        if not finished(Path(config.out_dir), stage):
            found[stage] = ([Path(config.wavlm)] if stage == "speaker" else
                            files_of(stage, Path(config.frozen)))
    return found


def check_parts(config) -> None:
    """Before anything is written: the released models are of the run's sizes. ValueError where they
    are not."""
    for stage, files in files_by_stage(config).items():
        if stage == "speaker":
            model = ReleasedSpeaker(*files, config.sample_rate).eval()
            with torch.inference_mode():
                found = {"speaker_size": model(torch.zeros(1, config.sample_rate)).shape[1]}
        else:
            model = build_part(stage, Path(config.frozen), files)
            found = {"audio_latent": model.from_latent.in_features,
                     "sample_rate": model.sample_rate} if stage == "audio" else {
                "motion_size": len(model.standardize.mean), "size": model.size}
        other = [f"--{name}={value}" for name, value in found.items()
                 if getattr(config, name) != value]
        if other:
            raise ValueError(f"{files[0]} needs {' '.join(other)}")


def adopt_parts(config) -> None:
    """Let a run use the released models: <stage>.pt says where they are, and what is in their
    files."""
    out = Path(config.out_dir)
    for stage, paths in files_by_stage(config).items():
        folder = Path(config.frozen if stage in FILES else paths[0].parent)
        files = {str(path.relative_to(folder)): [path.stat().st_size, digest_of(path)]
                 for path in paths}
        released = dict(folder=str(folder.resolve()), files=files, sample_rate=config.sample_rate)
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
    files = [folder / name for name in released["files"]]
    for path, (size, digest) in zip(files, released["files"].values()):
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; this run was made with it")
        # To read gigabytes takes long. Of such a file the size has to do.
        changed = path.stat().st_size != size or size < 10 ** 8 and digest_of(path) != digest
        if changed:
            raise ValueError(f"{path} is not the file that this run was made with")
    if stage == "speaker":
        return ReleasedSpeaker(*files, released["sample_rate"])
    return build_part(stage, folder, files)
