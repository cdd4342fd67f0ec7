"""The released Talker-T2AV, from a folder of its files, as a sample.Models (docs/paper.md)."""
import functools
import json
from pathlib import Path

from engine.machine import pick_device, prepare_machine     # before torch
import torch

import train
from engine import sampling
from paper.frozen import ReleasedSpeaker, build_part
from paper.qwen import find_tokenizer, qwen_ids
from paper.weights import build_talker, read_vector, read_weights


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
        speaker = ReleasedSpeaker(Path(wavlm), self.config.sample_rate)
        self.speaker = speaker.to(self.device).eval()
    tokenizer = find_tokenizer(folder) or weights.parent
    self.text_to_ids = functools.partial(qwen_ids, folder=tokenizer)
    return self
