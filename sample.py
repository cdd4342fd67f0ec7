"""Text in, a talking face out:  python sample.py --ckpt out/small --text "bin blue at f two now" --talker 3 --out hello.mp4

Voice and face come from a reference clip: one of talker N of the synthetic corpus (--talker N, seen in training or not), or
any clip (--ref clip.mp4). A file of texts (--texts) gives a folder of clips of the same form as `data.py --export` writes;
--roundtrip DIR passes the clips of a folder through the autoencoders alone, which is the ceiling of what a model can reach.

Axis letters: B batch, L text tokens, T frames, N patches, P frames per patch, S picture side, d latent width.
What this file does not do: training (train.py), measuring (lab/metrics.py).
"""
import argparse
import functools
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

from lab.machine import pick_device, prepare_machine     # before torch
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import data
import train
from autoencoders import as_input, as_pictures


@dataclass
class Reference:
    """Who speaks."""
    speaker: Tensor                       # (G,) what the voice is like
    face: Tensor                          # (3, S, S) the picture that is animated
    motion: Tensor                        # (K,) its motion, where the sample starts


class Models:
    """The four trained parts of a run's folder, and the settings they were trained with."""

    def __init__(self, folder, device=None):
        self.config = train.run_config(folder)
        self.device = torch.device(device or pick_device())
        prepare_machine(self.device)
        self.audio, self.motion, self.speaker, self.talker = (
            train.load_model(folder, s, self.device) for s in ("audio", "motion", "speaker", "talker"))
        self.ids = train.text_reader(self.config)

    @classmethod
    def released(cls, folder: Path, voice=None, wavlm: str | None = None, device=None) -> "Models":
        """The released Talker-T2AV from a folder of its files (README). voice: a file with the speaker's 256 numbers; or
        wavlm: the checkpoint of the speaker model, which then listens to the reference clip."""
        from lab import released
        from lab.paper_autoencoders import resample
        self = cls.__new__(cls)
        self.device = torch.device(device or pick_device())
        prepare_machine(self.device)
        weights = next(iter(sorted(folder.rglob("*.safetensors"))), folder / "model.safetensors")
        about = weights.parent / "config.json"
        about = json.loads(about.read_text()) if about.exists() else {}
        self.talker = released.build_talker(released.read_weights(weights.parent, "*.safetensors"), about.get("delay", 0), about.get("dit_n_head", 8),
                                            about.get("patch_encoder_n_head", 8), about.get("patch_size", 4)).to(self.device)
        self.audio = released.build_audio(released.read_weights(folder, "*.ckpt"), about.get("whisper_n_head")).to(self.device)
        self.motion = released.build_motion(released.read_weights(folder, "lia-x*.pt")).to(self.device)
        for name, statistic in (("motion_mean.npy", self.motion.normal.mean), ("motion_std.npy", self.motion.normal.deviation)):
            path = next(folder.rglob(name), None)
            if path is None:
                raise FileNotFoundError(f"{folder} holds no {name}; it is in the folder lia_x of the released code")
            statistic.copy_(torch.from_numpy(np.load(path)).clamp(min=1e-6 if "std" in name else -1e9))
        self.config = train.Config(**train.PRESETS["release"] | dict(
            config="release", data=str(folder), size=self.motion.size, sample_rate=self.audio.sample_rate, patch=self.talker.patch,
            motion_delay=self.talker.modalities["motion"].delay))
        if voice:
            vector = released.read_vector(Path(voice), self.talker.modalities["audio"].condition).to(self.device)
            self.speaker = lambda wave: vector[None]
        else:
            self.speaker = lambda wave: released.wavlm_speaker(resample(wave, self.config.sample_rate, 16000), wavlm).to(self.device)
        self.ids = functools.partial(released.qwen_ids, folder=released.find_tokenizer(folder) or weights.parent)
        return self

    @torch.inference_mode()
    def reference(self, clip: data.Clip) -> Reference:
        """Voice and face of a clip: the speaker vector of its sound, its first picture."""
        face = as_input(clip.video[:1]).to(self.device)
        wave = torch.from_numpy(clip.audio).to(self.device)
        return Reference(self.speaker(wave[None])[0], face[0], self.motion.encode(face)[0])

    def talker_reference(self, number: int) -> Reference:
        """Voice and face of a talker of the synthetic corpus, from one utterance of theirs."""
        if self.config.data:
            raise ValueError(f"this model was trained on {self.config.data}, not on the synthetic talkers: give a clip with --ref")
        return self.reference(train.corpus(self.config).reference(number))

    @torch.inference_mode()
    def generate(self, texts: list[str], references: list[Reference], seeds: list[int], steps=None, guidance=None,
                 temperature=None) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[bool]]:
        """A batch of texts -> [(video (T, S, S, 3) uint8, audio (n,) float32)], and whether each stopped by itself.

        A sample depends on its own seed alone, not on what else is in the batch. None: the setting of the preset.
        """
        c, P = self.config, self.config.patch
        text, mask = (x.to(self.device) for x in data.pad_text([self.ids(t) for t in texts]))
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        noise = lambda shape: torch.stack([torch.randn(shape[1:], generator=g) for g in generators]).to(self.device)
        conditions = {"audio": torch.stack([r.speaker for r in references]), "motion": torch.stack([r.motion for r in references])}
        pick = lambda given, preset: preset if given is None else given
        parts = {"audio": [], "motion": []}
        patches = torch.zeros(len(texts), dtype=torch.long, device=self.device)
        done = torch.zeros(len(texts), dtype=torch.bool, device=self.device)
        longest = int(self.talker.longest) * 3 // 2 + c.motion_delay
        sampling = dict(steps=pick(steps, c.steps), guidance=pick(guidance, c.guidance), temperature=pick(temperature, c.temperature))
        for patch, finished in self.talker.generate(text, mask, conditions, noise, longest, stop_hits=c.stop_hits,
                                                    stop_keeps=bool(c.stop_keeps), shortest=c.stop_shortest, **sampling):
            for name, frames in patch.items():
                parts[name].append(frames)
            patches += ~done if c.stop_keeps else ~(done | finished)
            done |= finished
            if done.all():
                break
        else:
            done |= len(parts["audio"]) < longest                                        # where the last patch is dropped, it is not made
        if not all(parts.values()):
            raise ValueError("the sample stopped before its first patch: the text is unlike what the model learned, or its stop rule is too eager")
        audio, motion = (torch.cat(p, 1) for p in parts.values())                        # (B, N P, d)
        clips = []
        for i, n in enumerate(((patches - c.motion_delay).clamp(min=1) * P).tolist()):
            wave = self.audio.decode(audio[i:i + 1, :n])[0].float().cpu().numpy()
            video = self.motion.decode(references[i].face[None], motion[i:i + 1, :n])[0]
            clips.append((as_pictures(video), np.clip(wave, -1, 1)))
        return clips, done.tolist()

    @torch.inference_mode()
    def roundtrip(self, clip: data.Clip) -> tuple[np.ndarray, np.ndarray]:
        """A clip through the autoencoders: its own first picture animated by its own motion, its own latents decoded."""
        video, wave = as_input(clip.video).to(self.device), torch.from_numpy(clip.audio).to(self.device)
        rebuilt = self.motion.decode(video[:1], self.motion.encode(video)[None])[0]
        sound = self.audio.decode(self.audio.encode(wave[None]))[0].float().cpu().numpy()
        return as_pictures(rebuilt), np.clip(sound, -1, 1)


def sample_folder(models: Models, jobs: list[tuple[str, str, Reference]], out: Path, seed: int, batch=16, **settings) -> None:
    """(name, text, reference) ... -> out/NAME.mp4 and out/NAME.txt; sample i takes seed + i. Says how many did not stop."""
    out.mkdir(parents=True, exist_ok=True)
    endless, start, seconds = [], time.time(), 0.0
    with tqdm(total=len(jobs), desc="sampling", unit="clip") as bar:
        for at in range(0, len(jobs), batch):
            names, texts, references = zip(*jobs[at:at + batch])
            clips, done = models.generate(list(texts), list(references), [seed + at + i for i in range(len(texts))], **settings)
            for name, text, (video, audio), stopped in zip(names, texts, clips, done):
                data.write_clip(out / f"{name}.mp4", video, audio, models.config.sample_rate)
                (out / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
                seconds += len(video) / data.FPS
                endless += [] if stopped else [name]
            bar.update(len(texts))
    if endless:
        print(f"{len(endless)} of {len(jobs)} did not stop by themselves and were cut: {', '.join(endless[:5])}")
    print(f"{len(jobs)} clips, {seconds:.0f} s of audio-video in {time.time() - start:.0f} s")


def read_jobs(path: Path, models: Models, default: Reference | None) -> list[tuple[str, str, Reference]]:
    """Lines of `text`, or of `name<TAB>talker<TAB>text` as data.py --export writes into texts.tsv."""
    jobs, references = [], {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) not in (1, 3):
            raise ValueError(f"{path}, line {number}: expected a text, or name, talker and text separated by tabs")
        name, talker, text = fields if len(fields) == 3 else (f"{number:05d}", "", fields[0])
        if default is None and not talker.isdigit():
            raise ValueError(f"{path}, line {number} names no talker: give --talker N or --ref CLIP")
        if default is None and talker not in references:
            references[talker] = models.talker_reference(int(talker))
        jobs.append((name, text, default or references[talker]))
    if not jobs:
        raise ValueError(f"{path} holds no text")
    return jobs


def usable(source):
    """The clips of a source, one after the other; broken ones are named and passed over. ValueError if all are broken."""
    found = 0
    for i in range(len(source)):
        clip = data.make_clip(source, i)
        if isinstance(clip, data.BrokenClip):
            print(f"left out {clip}")
            continue
        found += 1
        yield clip
    if not found:
        raise ValueError(f"none of the {len(source)} clips can be used")


def write_grid(folder, path, n=6) -> None:
    """n test sentences by unseen talkers, generated at the left and true at the right of each pair; one speaks at a time."""
    models = Models(folder)
    c = models.config
    source = train.corpus(c, "test", n, data.SyntheticCorpus.UNSEEN)
    truths = list(itertools.islice(usable(source), n))
    if c.data:                            # a real clip speaks with the voice and face of the next one
        references = [models.reference(t) for t in truths[1:] + truths[:1]]
    else:
        references = [models.talker_reference(t.talker) for t in truths]
    clips, _ = models.generate([t.text for t in truths], references, list(range(len(truths))))
    cells = [cell for t, made in zip(truths, clips) for cell in (made, (t.video, t.audio))]
    still = np.stack([video[0] for video, _ in cells])                                   # (2 n, S, S, 3)
    columns, frames, sound = (4 if len(truths) % 2 == 0 else 2), [], []
    for i, (video, audio) in enumerate(cells):
        for picture in video:
            now = still.copy()
            now[i] = picture
            now[i][[0, -1]] = now[i][:, [0, -1]] = 255                                   # a white frame round the one that speaks
            frames.append(now.reshape(-1, columns, c.size, c.size, 3).swapaxes(1, 2).reshape(-1, columns * c.size, 3))
        sound.append(audio)
    data.write_clip(path, np.stack(frames), np.concatenate(sound), c.sample_rate, side=max(256, 3 * 4 * c.size))


def main() -> None:
    parser = argparse.ArgumentParser(description="text in, a talking face out")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--ckpt", type=Path, help="the folder of a training run")
    model.add_argument("--released", type=Path, help="a folder with the released Talker-T2AV: its safetensors and tokenizer, the WhisperX-VAE "
                       ".ckpt, lia-x.pt, motion_mean.npy and motion_std.npy")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="what to say")
    what.add_argument("--texts", type=Path, help="a file: a text per line, or name<TAB>talker<TAB>text")
    what.add_argument("--roundtrip", type=Path, help="a folder of clips to pass through the autoencoders")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--talker", type=int, help="voice and face of this synthetic talker (0..255 were in training)")
    who.add_argument("--ref", type=Path, help="voice and face of this clip")
    voice = parser.add_mutually_exclusive_group()
    voice.add_argument("--speaker", help="with --released: the voice, a .npy or .pt file with the speaker embedding")
    voice.add_argument("--wavlm", help="with --released: the checkpoint of the speaker model; the voice is then that of --ref")
    parser.add_argument("--out", type=Path, required=True, help="an .mp4, or a folder for --texts and --roundtrip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="Euler steps; default: the preset's")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance, 1: none; default: the preset's")
    parser.add_argument("--temperature", type=float, help="scale of the initial noise; default: the preset's")
    parser.add_argument("--crop", help="x,y,size in pixels of --ref or --roundtrip, or 'centre'; default: as in training")
    a = parser.parse_args()
    if a.steps is not None and a.steps < 2:
        raise ValueError(f"--steps must be at least 2, not {a.steps}: the first does not move")
    if a.ckpt and (a.speaker or a.wavlm):
        raise ValueError("--speaker and --wavlm go with --released; a run's own speaker encoder listens to --ref or --talker")
    if a.released and not a.roundtrip and not (a.ref and (a.speaker or a.wavlm)):
        raise ValueError("--released needs a face (--ref clip.mp4) and a voice (--speaker FILE, or --wavlm CHECKPOINT to take that of the clip)")
    models = Models.released(a.released, a.speaker, a.wavlm) if a.released else Models(a.ckpt)
    c = models.config
    crop = data.parse_crop(c.crop if a.crop is None else a.crop)
    settings = dict(steps=a.steps, guidance=a.guidance, temperature=a.temperature)
    if a.roundtrip:
        source = data.ClipFolder(a.roundtrip, "all", c.size, c.sample_rate, crop)
        a.out.mkdir(parents=True, exist_ok=True)
        for clip in tqdm(usable(source), desc="round trip", total=len(source), unit="clip"):
            video, audio = models.roundtrip(clip)
            data.write_clip(a.out / f"{clip.name}.mp4", video, audio, c.sample_rate)
            (a.out / f"{clip.name}.txt").write_text(clip.text + "\n", encoding="utf-8")
        print(f"{a.out}: the round trip. Next: python -m lab.metrics --truth {a.roundtrip} --roundtrip {a.out} --generated ...")
        return
    reference = None
    if a.ref:
        reference = models.reference(data.read_clip(a.ref, c.size, c.sample_rate, crop))
    elif a.talker is not None:
        reference = models.talker_reference(a.talker)
    if a.texts:
        jobs = read_jobs(a.texts, models, reference)
        sample_folder(models, jobs, a.out, a.seed, **settings)
        print(f"{a.out}: next: python -m lab.metrics --help")
        return
    if reference is None:
        raise ValueError("who speaks? give --talker N or --ref clip.mp4")
    if a.out.suffix.lower() != ".mp4":
        raise ValueError(f"--out must end in .mp4, not '{a.out}'")
    start = time.time()
    [(video, audio)], [stopped] = models.generate([a.text], [reference], [a.seed], **settings)
    data.write_clip(a.out, video, audio, c.sample_rate)
    cut = "" if stopped else " (it did not stop by itself and was cut: the text is unlike what the model learned)"
    print(f"{a.out}: {len(video) / data.FPS:.2f} s of audio-video in {time.time() - start:.1f} s{cut}. Next: play it")


if __name__ == "__main__":
    train.plainly(main)
