"""Text, sound or pictures in, a talking face out:

    python sample.py --ckpt out/small --text "..." --speaker 3 --out hello.mp4

One checkpoint, five tasks (arXiv 2604.23586, section 3.6). The streams that are given are fed, the
others are sampled:

    text -> sound and pictures   --text "..." and a reference: --speaker N, --ref clip.mp4, or
                                 --voice a.wav --face b.png
    speech -> pictures           --audio speech.wav --face b.png [--text "..."]
    pictures -> speech           --video silent.mp4 --text "..." [--voice a.wav]
    continuation                 --ref clip.mp4 --prefix-seconds 1 --text "..." (the whole text)
    autoencoders alone           --roundtrip DIR, the ceiling of what a model can reach

--stream writes while it generates, --n 8 makes eight samples, --texts FILE a folder of clips.

The same in Python, for a batch of jobs:

    models = Models("out/small")
    jobs = [Job("Hello world.", models.speaker_reference(3), seed) for seed in range(8)]
    outputs, stopped = models.generate(jobs, guidance=1.5)
    sound, pictures = outputs[0]["audio"], outputs[0]["motion"]

The way of a sample: Job -> Models.sentences, a Job per sentence -> Models.patches (ids, conditions
and noise; Talker.generate) -> latents -> Models.decode -> outputs, name -> array: audio (n,),
motion (T, S, S, 3) -> mp4.

Axis letters: B batch, L text tokens, T frames, N patches, P frames per patch, S picture side,
d latent width, G condition width, n audio samples.

What this file does not do: training (train.py), measuring (lab/metrics.py), the command line's
options (engine/options.py), folders and lists (engine/folders.py).
"""
import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.machine import pick_device, prepare_machine     # before torch
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import data
import train
from autoencoders import pictures_to_tensor
from engine import folders, sampling
from engine.media import (BrokenClip, first_with_pictures, fit_length, fitting_crop, generated,
                          read_audio, read_picture, read_video)
from engine.options import parse_options
from engine.processes import plainly
from engine.settings import parse_crop
from engine.streaming import write_stream
from english.seen import Seen, never_seen
from english.text import read, split_text
from model import FPS

CUT = "did not stop by itself and was cut: the text is unlike what the model learned"
EMPTY = ("the sample stopped before its first patch: the text is unlike what the model learned, "
         "or its stop rule is too eager")


# A text is spoken in sentences, or clauses, of at most so many symbols: the longest of training.
SENTENCE = 80
QWEN_SENTENCE = 300                 # of a model that learned from clips of up to 30 s
SEED_STEP = 1_000_003               # from the seed of a sentence to that of the next
LONGEST = data.LONGEST / FPS        # seconds of what is given


@dataclass
class Reference:
    """The voice and the face of a sample."""

    conditions: dict[str, Tensor]   # name -> (G,): the voice; the first pose
    face: Tensor                    # (3, S, S) the picture that is animated


@dataclass
class Job:
    """One sample to make. `face_for_speech` and its neighbours below fill it in for each task."""

    text: str
    reference: Reference
    seed: int = 0
    given: dict[str, Tensor] = field(default_factory=dict)      # name -> (T, d): not sampled
    frames: int | None = None       # the length where it is fixed, as where a whole stream is
    #                                 given; else the sample stops by itself
    outputs: dict[str, np.ndarray] = field(default_factory=dict)    # what is passed through


class Models:
    """The trained parts of a run's folder, and the settings they were trained with."""

    def __init__(self, folder, device=None):
        self.folder = folder
        self.config = train.run_config(folder)
        self.device = torch.device(device or pick_device())
        dtype = prepare_machine(self.device)
        self.audio = train.load_model(folder, "audio", self.device)
        self.motion = train.load_model(folder, "motion", self.device)
        self.speaker = train.load_model(folder, "speaker", self.device)
        self.talker = train.load_model(folder, "talker", self.device)
        # Faster classes (engine/sampling.py), which compute the same up to rounding.
        sampling.install(self.talker, dtype)
        self.text_to_ids = train.text_reader(self.config)
        # What the texts of the training were made of. Older runs do not know.
        seen = Path(folder) / "seen.json"
        self.seen = Seen.load(json.loads(seen.read_text())) if seen.exists() else None

    @property
    def frozen(self) -> train.Frozen:
        """What the table of modalities needs to encode and decode."""
        return train.Frozen(self.config, self.audio, self.motion, self.speaker, self.device,
                            torch.float32)

    @property
    def streams(self) -> dict[str, train.Stream]:
        """The modalities of this Talker: train.MODALITIES may have more."""
        return {name: train.MODALITIES[name] for name in self.talker.modalities}

    # ---- references
    @torch.inference_mode()
    def voice(self, wave: np.ndarray) -> Tensor:
        """A waveform (n,) -> the audio head's condition (G,)."""
        clip = data.Clip("", "", np.zeros((0, 0, 0, 3), np.uint8), wave)
        return train.MODALITIES["audio"].condition(self.frozen, clip, None)

    @torch.inference_mode()
    def reference(self, clip: data.Clip, voice: Tensor) -> Reference:
        """The first picture of a clip, and a voice (G,)."""
        conditions = {"audio": voice}
        for name, stream in self.streams.items():
            if name != "audio":
                conditions[name] = stream.condition(self.frozen, clip, None)
        return Reference(conditions, pictures_to_tensor(clip.video[:1])[0].to(self.device))

    def picture_reference(self, picture: np.ndarray, voice: Tensor) -> Reference:
        """A picture (S, S, 3) uint8 and a voice (G,)."""
        return self.reference(data.Clip("", "", picture[None], np.zeros(0, np.float32)), voice)

    def clip_reference(self, *clips: data.Clip) -> Reference:
        """Clips of one person: the mean voice, since each utterance varies, and the first picture
        of the first."""
        voices = torch.stack([self.voice(clip.audio) for clip in clips])
        return self.reference(clips[0], voices.mean(0))

    def speaker_reference(self, number: int) -> Reference:
        """A speaker of the synthetic corpus, by 8 utterances if in training, else by one."""
        if self.config.data:
            raise ValueError(f"this model was trained on {self.config.data}, not on the synthetic "
                             "speakers: give a clip with --ref")
        return self.clip_reference(*train.corpus(self.config).references(number))

    def voice_of_video(self, path: Path) -> Tensor:
        """(G,): the voice that a video has, or, if it is silent, the most average of those that the
        model was trained on."""
        try:
            return self.voice(read_audio(path, self.config.sample_rate, LONGEST))
        except BrokenClip as error:
            if "no audio stream" not in error.reason and "silent" not in error.reason:
                raise
            latents = Path(self.folder) / "latents"
            if not (latents / "meta.json").exists():
                raise ValueError(f"{path} is silent: whose voice? give --voice a.wav") from None
            voices = data.LatentSet(latents).vectors("audio_condition")        # (clips, G)
            average = np.square(voices - voices.mean(0)).sum(1).argmin()
            return torch.tensor(voices[average], device=self.device)

    # ---- what is given
    @torch.inference_mode()
    def transcribe(self, wave: np.ndarray) -> str:
        """The text that the audio autoencoder's CTC head reads in a waveform (n,): the likeliest
        symbol of each 20 ms, repetitions and blanks removed. Phones are written in braces."""
        if not hasattr(self.audio, "ctc_scores"):
            raise ValueError("this audio autoencoder can't read: say with --text what is spoken")
        wave = torch.from_numpy(wave).to(self.device)
        scores = self.audio.ctc_scores(wave[None])[0]                         # (2 T, symbols)
        ids = scores.argmax(-1).unique_consecutive().tolist()
        alphabet = self.config.alphabet
        text = alphabet.write([alphabet.symbols[i] for i in ids if i > 0])
        if not any(mark.isalnum() for mark in text):
            raise ValueError("no word was understood in this speech: say with --text what is "
                             "spoken")
        return text

    @torch.inference_mode()
    def encode_sound(self, wave: np.ndarray) -> Tensor:
        """A waveform (n,) -> latents (T, d), T whole patches: silence at the end."""
        padding = -len(wave) % (self.config.patch * self.audio.samples_per_frame)
        clip = data.Clip("", "", np.zeros((0, 0, 0, 3), np.uint8), np.pad(wave, (0, padding)))
        return train.MODALITIES["audio"].encode(self.frozen, clip)

    @torch.inference_mode()
    def encode_pictures(self, video: np.ndarray) -> Tensor:
        """Pictures (T', S, S, 3) uint8 -> latents (T, d), T whole patches: the last repeated."""
        clip = data.Clip("", "", video, np.zeros(0, np.float32))
        motion = train.MODALITIES["motion"].encode(self.frozen, clip)
        return torch.cat((motion, motion[-1:].expand(-len(motion) % self.config.patch, -1)))

    # ---- generation
    def limits(self, job: Job) -> tuple[int, int]:
        """How many patches are given, and how many there can be."""
        known = max((len(x) // self.config.patch for x in job.given.values()), default=0)
        if job.frames:
            return known, max(known, -(-job.frames // self.config.patch))
        return known, known + int(self.talker.longest_seen) * 3 // 2

    def sampling(self, steps=None, guidance=None, temperature=None, **more) -> dict:
        """The options of Talker.generate's heads, see FlowHead.sample. What is None is the run's
        own. temperature: a number for all streams, or name -> number. more: sway, zero_star."""
        c = self.config
        if not isinstance(temperature, dict):
            temperature = dict.fromkeys(self.streams, temperature)
        own = {name: stream.temperature(c) for name, stream in self.streams.items()}
        given = {name: value for name, value in temperature.items() if value is not None}
        return dict(steps=c.euler_steps if steps is None else steps,
                    guidance=c.guidance if guidance is None else guidance,
                    temperature=own | given, **more)

    def patches(self, jobs: list[Job], **settings):
        """Generate a batch of jobs. This is a Python generator, which yields per patch (name ->
        (B, P, d), alive, stopped), the streams in step.

        alive (B,) bool: the patch is part of the sample. stopped (B,) bool: the sample has come to
        its end. A sample depends on its own seed alone, not on what else is in the batch. settings:
        see `sampling`.
        """
        c = self.config
        first = jobs[0]
        lengths = [(job.frames, {name: len(x) for name, x in job.given.items()}) for job in jobs]
        if any(length != lengths[0] for length in lengths):
            raise ValueError("the jobs of one batch must be given the same streams, equally long")

        # The inputs of the Talker: text, conditions and given streams, each as one batch.
        texts = [self.seen.adapt(job.text)[0] if self.seen else job.text for job in jobs]
        text, mask = data.pad_text([self.text_to_ids(text) for text in texts])        # (B, L)
        conditions = {name: torch.stack([job.reference.conditions[name] for job in jobs])
                      for name in self.talker.modalities}                     # (B, G)
        given = {name: torch.stack([job.given[name] for job in jobs]) for name in first.given}

        # Each sample draws its noise from a generator of its own.
        generators = [torch.Generator().manual_seed(job.seed) for job in jobs]

        def noise(shape: tuple) -> Tensor:
            rows = [torch.randn(shape[1:], generator=generator) for generator in generators]
            return torch.stack(rows).to(self.device)

        # Where a whole stream is given its length decides; a continuation does not stop within
        # what is given. A delayed stream needs more positions than the sample has patches.
        delay = max(m.delay for m in self.talker.modalities.values())
        known, most = self.limits(first)
        shortest = max(c.stop_shortest, known + delay if known else 0)
        if first.frames:
            shortest = most + delay

        # Position i generates patch i of a stream, and patch i - delay of a delayed one. The first
        # waits for the other, so that both are yielded in step: at position i patch i - delay. The
        # stop predictor counts positions too, so `finished` is about that patch.
        waiting = {name: [] for name in self.talker.modalities}
        stopped = torch.zeros(len(jobs), dtype=torch.bool, device=self.device)
        for patch, finished in self.talker.generate(
                text.to(self.device), mask.to(self.device), conditions, noise, most + delay, given,
                stop_hits=c.stop_hits, stop_keeps=c.stop_keeps, shortest=shortest,
                alignment_pace=c.alignment_pace, **self.sampling(**settings)):
            for name, frames in patch.items():
                waiting[name].append(frames)
            alive = ~stopped if c.stop_keeps else ~(stopped | finished)
            stopped = stopped | finished
            if all(waiting.values()):
                yield {name: queue.pop(0) for name, queue in waiting.items()}, alive, stopped
            if stopped.all():
                return

    def sentences(self, job: Job) -> list[Job]:
        """A text of any length -> jobs of a sentence or a clause each, as long as those that the
        model learned from. Where a stream is given, the text stays whole."""
        if job.given:
            return [job]
        longest = QWEN_SENTENCE if self.config.tokens == "qwen" else SENTENCE
        texts = split_text(job.text, longest)
        return [replace(job, text=text, seed=job.seed + SEED_STEP * number)
                for number, text in enumerate(texts)]

    def follow(self, job: Job, before: Job, latents: dict[str, Tensor]) -> Job:
        """`job` as it goes on from the end of `before`, whose latents are name -> (T, d): with the
        same voice and face, from the last pose."""
        reference = before.reference
        conditions = {name: stream.carry(self.frozen, reference.conditions[name], latents[name])
                      for name, stream in self.streams.items()}
        return replace(job, reference=replace(reference, conditions=conditions))

    def generate(self, jobs: list[Job], **settings) -> tuple[list[dict], list[bool]]:
        """A batch of jobs -> the outputs of each, name -> array, and whether each stopped by
        itself. Texts of several sentences are spoken one after the other. settings: see
        `patches`."""
        sentences = [self.sentences(job) for job in jobs]
        outputs = [[] for _ in jobs]
        ended = [True] * len(jobs)
        for number in range(max(len(row) for row in sentences)):
            # The same sentence of every job that has so many, as one batch.
            active = [i for i, row in enumerate(sentences) if len(row) > number]
            batch = [sentences[i][number] for i in active]
            made, stopped = self.latents(batch, **settings)
            for i, job, latents, end in zip(active, batch, made, stopped):
                outputs[i].append(self.decode(job, latents))
                ended[i] = ended[i] and end
                if number + 1 < len(sentences[i]):
                    sentences[i][number + 1] = self.follow(sentences[i][number + 1], job, latents)
        joined = [{name: np.concatenate([part[name] for part in row]) for name in row[0]}
                  for row in outputs]
        return joined, ended

    def stopped_early(self, job: Job, patches: int) -> bool:
        """Whether a batch of samples that has so many patches was stopped by a patch that was not
        made, with stop_keeps=False. `patches` can't report it then."""
        return not self.config.stop_keeps and patches < self.limits(job)[1]

    def latents(self, jobs: list[Job], **settings) -> tuple[list[dict], list[bool]]:
        """A batch of jobs, of a sentence each -> the latents of each, name -> (T, d), and whether
        each stopped by itself."""
        made = {name: [] for name in self.talker.modalities}
        counts = torch.zeros(len(jobs), dtype=torch.long, device=self.device)
        for patch, alive, stopped in self.patches(jobs, **settings):
            for name, frames in patch.items():
                made[name].append(frames)
            counts = counts + alive
        patches = len(next(iter(made.values())))
        if not patches:
            raise ValueError(EMPTY)
        latents = {name: torch.cat(frames, 1) for name, frames in made.items()}      # (B, N P, d)
        stopped = stopped | self.stopped_early(jobs[0], patches)

        found = []
        for i, job in enumerate(jobs):
            length = job.frames or max(1, int(counts[i])) * self.config.patch
            found.append({name: x[i, :length] for name, x in latents.items()})
        return found, [bool(job.frames) or end for job, end in zip(jobs, stopped.tolist())]

    @torch.inference_mode()
    def decode(self, job: Job, latents: dict[str, Tensor], start=0, context=(0, 0)) -> dict:
        """Latents, name -> (T, d), that begin at frame `start` of a sample -> outputs, name ->
        array. What is given is passed through.

        context: so many frames at either end are surroundings, on which decoding depends, and not
        part of what is returned.
        """
        before, after = context
        outputs = {}
        for name, stream in self.streams.items():
            stop = len(latents[name]) - after
            if name in job.outputs:
                per_frame = len(job.outputs[name]) // job.frames
                shown = slice((start + before) * per_frame, (start + stop) * per_frame)
                outputs[name] = job.outputs[name][shown]
                continue
            # Decode no more of the surroundings than the decoder's receptive field.
            reach = stream.receptive_field(self.frozen)
            first = max(0, before - reach)
            x = latents[name][first:stop + min(after, reach)]
            decoded = stream.decode(self.frozen, job.reference, x)
            per_frame = len(decoded) // len(x)
            outputs[name] = decoded[(before - first) * per_frame:(stop - first) * per_frame]
        return outputs

    def stream(self, job: Job, ahead=4, **settings):
        """A Python generator over parts of one sample, outputs as `generate` returns them, as they
        come: sentence by sentence, see `stream_sentence`."""
        following = self.sentences(job)
        while following:
            sentence = following.pop(0)
            latents = yield from self.stream_sentence(sentence, ahead, **settings)
            if following:
                following[0] = self.follow(following[0], sentence, latents)

    def stream_sentence(self, job: Job, ahead: int, **settings):
        """`stream` of one sentence. Returns its latents, name -> (T, d).

        An audio sample depends on `reach` frames on either side. All of the past is used, and as
        soon as `ahead` frames of the future are there what is due is decoded: exactly if that is
        `reach` (0.52 s), nearly so with less (docs/speed.md).
        """
        reach = self.audio.decoder.reach
        ahead = 0 if "audio" in job.outputs else min(ahead, reach)
        latents = {name: torch.empty(0, m.latent, device=self.device)
                   for name, m in self.talker.modalities.items()}
        yielded = 0                               # frames

        def decode_up_to(stop: int) -> dict:
            first = max(0, yielded - reach)
            last = min(len(latents["audio"]), stop + ahead)
            window = {name: x[first:last] for name, x in latents.items()}
            return self.decode(job, window, first, (yielded - first, last - stop))

        for patch, alive, stopped in self.patches([job], **settings):
            if alive:
                latents = {name: torch.cat((x, patch[name][0]))[:job.frames]
                           for name, x in latents.items()}                    # (T, d)
            ready = len(latents["audio"]) - ahead
            if ready > yielded:
                yield decode_up_to(ready)
                yielded = ready
        made = len(latents["audio"])
        if not made:
            raise ValueError(EMPTY)
        if made > yielded:
            yield decode_up_to(made)
        if not (job.frames or stopped or self.stopped_early(job, made // self.config.patch)):
            print(f"the sample {CUT}", file=sys.stderr)
        return latents

    @torch.inference_mode()
    def roundtrip(self, clip: data.Clip) -> dict:
        """A clip through the autoencoders -> outputs: its own first picture animated by its own
        motion, its own latents decoded."""
        latents = {name: stream.encode(self.frozen, clip)
                   for name, stream in self.streams.items()}
        return self.decode(Job(clip.text, self.clip_reference(clip)), latents)


# ------------------------------------------------------------------------------------- the tasks
def check_length(frames: int) -> None:
    if not data.SHORTEST <= frames <= data.LONGEST:
        raise ValueError(f"what is given lasts {frames / FPS:.2f} s; it must be "
                         f"{data.SHORTEST / FPS} to {LONGEST:g} s")


def face_for_speech(models: Models, wave: np.ndarray, reference: Reference,
               text: str | None = None) -> Job:
    """A face for a speech (n,): the audio patches are given, the motion is sampled. Without a
    text, the transcription is taken."""
    frames = -(-len(wave) // models.audio.samples_per_frame)
    check_length(frames)
    return Job(text or models.transcribe(wave), reference, frames=frames,
               given={"audio": models.encode_sound(wave)},
               outputs={"audio": fit_length(wave, frames, models.config.sample_rate)})


def speech_for_face(models: Models, video: np.ndarray, text: str, reference: Reference,
                shown: np.ndarray | None = None) -> Job:
    """A speech for a face (T, S, S, 3): the motion is given, the audio is sampled. shown: the same
    frames at any size, to be written."""
    check_length(len(video))
    return Job(text, reference, frames=len(video), given={"motion": models.encode_pictures(video)},
               outputs={"motion": video if shown is None else shown})


def continuation(models: Models, clip: data.Clip, seconds: float, text: str,
                     reference: Reference) -> Job:
    """On from the first seconds of a clip: its first patches are given, in both streams. The text
    is that of the whole, these seconds included.

    The audio encoder hears the whole clip, so that the prefix does not sound as if it ended there.
    """
    patch = models.config.patch
    frames = int(round(seconds * FPS, 6)) // patch * patch
    if not 0 < frames < len(clip.video):
        raise ValueError(f"--prefix-seconds must be from {patch / FPS} (a patch) up to less than "
                         f"the clip's {len(clip.video) / FPS:.2f} s, not {seconds:g}")
    return Job(text, reference, given={
        "audio": models.encode_sound(clip.audio)[:frames],
        "motion": models.encode_pictures(clip.video[:frames])})


# ---------------------------------------------------------------------------------- command line
def find_reference(options, models: Models, crop) -> Reference | None:
    """The reference that the command line names: voice and face of one speaker or clip, or each
    from its own file. None if it names none."""
    size, rate = models.config.size, models.config.sample_rate
    reference = None
    if options.ref:
        clips = [data.read_clip(path, size, rate, fitting_crop(path, crop))
                 for path in options.ref]
        reference = models.clip_reference(*clips)
    elif options.speaker is not None:
        reference = models.speaker_reference(options.speaker)

    # The voice: its own file, else that of the reference, of the speech or of the video.
    if options.embedding:
        # The speaker encoder is a file then, whatever it is given to hear.
        voice = models.voice(np.zeros(1, np.float32))
    elif options.voice:
        voice = models.voice(read_audio(options.voice, rate, LONGEST))
    elif reference:
        voice = reference.conditions["audio"]
    elif options.audio:
        voice = models.voice(read_audio(options.audio, rate, LONGEST))
    elif options.video:
        voice = models.voice_of_video(options.video)
    else:
        return None

    # The face: its own file, else that of the video or of the reference.
    if picture := options.face or options.video:
        face = read_picture(picture, size, fitting_crop(picture, crop))
        return models.picture_reference(face, voice)
    if reference:
        reference.conditions["audio"] = voice
    return reference


def find_job(options, models: Models, reference: Reference, crop) -> Job:
    """The task, by what the command line gives."""
    size, rate = models.config.size, models.config.sample_rate
    if options.audio:
        # A second more than may be given: `check_length` tells of what is longer.
        wave = read_audio(options.audio, rate, LONGEST + 1)
        job = face_for_speech(models, wave, reference, options.text)
        print(f"a face for {options.audio}, text: {job.text}", file=sys.stderr)
        return job
    if options.video:
        crop = fitting_crop(options.video, crop)
        video = read_video(options.video, size, crop, LONGEST)
        shown = read_video(options.video, max(256, size), crop, LONGEST)
        return speech_for_face(models, video, options.text, reference, shown)
    if options.prefix_seconds is not None:
        path = options.ref[0]
        clip = data.read_clip(path, size, rate, fitting_crop(path, crop))
        return continuation(models, clip, options.prefix_seconds, options.text, reference)
    return Job(options.text, reference)


def find_jobs(options, models: Models, default: Reference | None) -> list[tuple[str, Job]]:
    """A job per line of --texts; line i takes seed + i."""
    jobs = []
    references = {}
    lines = folders.read_list(options.texts, not default)
    for i, (name, speaker, text) in enumerate(tqdm(lines, desc="voices", delay=2, leave=False)):
        if not default and speaker not in references:
            references[speaker] = models.speaker_reference(int(speaker))
        jobs.append((name, Job(text, default or references[speaker], options.seed + i)))
    return jobs


def name_unknown_words(models: Models, texts: list[str]) -> None:
    """One line about the words that the training never had, where the model can't read others."""
    unknown = [word for text in texts if text and models.seen
               for word in models.seen.adapt(text)[1]]
    if unknown:
        print(never_seen(list(dict.fromkeys(unknown))), file=sys.stderr)


def main() -> None:
    options = parse_options(__doc__)
    if options.released:
        from paper.release import load_models
        models = load_models(Models, options.released, options.embedding, options.wavlm,
                             pick_device(options.device))
    else:
        models = Models(options.ckpt, pick_device(options.device))
    if options.compile:
        sampling.compile_heads(models.talker)
    c = models.config
    crop = parse_crop(c.crop if options.crop is None else options.crop)
    temperature = dict.fromkeys(models.streams, options.temperature)
    if options.motion_temperature is not None:
        temperature["motion"] = options.motion_temperature
    settings = dict(steps=options.steps, guidance=options.guidance, temperature=temperature)

    # Folders: a round trip of clips, or a clip per line of a list.
    if options.roundtrip:
        source = data.ClipFolder(options.roundtrip, "all", c.size, c.sample_rate)
        source.crop = fitting_crop(first_with_pictures(source.paths), crop)
        folders.write_roundtrip(models, data.usable(source), len(source), options.out)
        return print(f"{options.out}: the round trip. Next: python -m lab.metrics --truth "
                     f"{options.roundtrip} --roundtrip {options.out} --generated ...")
    reference = find_reference(options, models, crop)
    if options.texts:
        jobs = find_jobs(options, models, reference)
        name_unknown_words(models, [job.text for _, job in jobs])
        folders.write_samples(models, jobs, options.out, **settings)
        return print(f"{options.out}: next: python -m lab.metrics --help")

    # Words that the lexicon lacks are read by rules, which may be wrong: say which.
    name_unknown_words(models, [options.text or ""])
    if options.text and c.tokens == "phones":
        if guessed := read(options.text).guessed:
            print(f"read by the rules of spelling: {', '.join(guessed)}; to say it otherwise, "
                  "write phones in braces, such as {HH AH L OW}", file=sys.stderr)

    # One sample, or several of the same text.
    if reference is None:
        raise ValueError("who speaks? give --speaker N, --ref clip.mp4, or a voice and a face: "
                         "--voice a.wav --face b.png")
    job = find_job(options, models, reference, crop)
    jobs = [replace(job, seed=options.seed + i) for i in range(options.n)]
    if options.stream:
        parts = ((x["motion"], x["audio"]) for x in models.stream(jobs[0], **settings))
        return write_stream(options.out, parts, c.sample_rate, generated(options.seed))
    start = time.time()
    outputs, stopped = models.generate(jobs, **settings)
    print(f"generated in {time.time() - start:.1f} s")
    for i, made in enumerate(outputs):
        out = options.out
        if options.n > 1:
            out = out.with_stem(f"{out.stem}_{i}")
        folders.write_outputs(out, made, c.sample_rate, generated(jobs[i].seed))
        seconds = len(made["motion"]) / FPS
        cut = "" if stopped[i] else f" (it {CUT})"
        print(f"{out}: {seconds:.2f} s of audio-video{cut}; play it")


if __name__ == "__main__":
    plainly(main)
