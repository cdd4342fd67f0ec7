"""Text, sound or pictures in, a talking face out:  python sample.py --ckpt out/small --text "..." --talker 3 --out hello.mp4

One checkpoint, five tasks (arXiv 2604.23586, section 3.6); the streams that are given are fed, the others are sampled:

    text -> sound and pictures    --text "..." and who speaks: --talker N, --ref clip.mp4, or --voice a.wav --face b.png
    speech -> pictures            --audio speech.wav --face b.png [--text "..."]
    pictures -> speech            --video silent.mp4 --text "..." [--voice a.wav]
    continuation                  --ref clip.mp4 --prefix-seconds 1 --text "..." (all that is said, the beginning included)
    autoencoders alone            --roundtrip DIR, the ceiling of what a model can reach

--stream writes while it generates, --n 8 makes eight samples, --texts FILE a folder of clips from a list as `data.py --export` writes it.

Axis letters: B batch, L text tokens, T frames, N patches, P frames per patch, S picture side, d latent width, n audio samples.
What this file does not do: training (train.py), measuring (lab/metrics.py), files of the release (lab/released.py).
"""
import argparse
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab.machine import compile_heads, pick_device, prepare_machine     # before torch
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import data
import train
from autoencoders import as_input, as_pictures
from lab.joint import for_sampling
from lab.settings import parse_crop

CUT = "did not stop by itself and was cut: the text is unlike what the model learned"


@dataclass
class Reference:
    """Who speaks."""
    voice: Tensor                         # (G,) the speaker vector, and what else the audio head is told of the voice
    face: Tensor                          # (3, S, S) the picture that is animated
    pose: Tensor                          # (K,) its pose, where the sample starts


@dataclass
class Job:
    """One sample to make. `speech_job` and its neighbours below fill it in for each task."""
    text: str
    who: Reference
    seed: int = 0
    given: dict[str, Tensor] = field(default_factory=dict)      # name -> (T, d) latents that are not sampled
    frames: int | None = None             # the length, where a whole stream is given; else the stop predictor decides
    sound: np.ndarray | None = None       # (n,) what is heard, where the speech was given
    pictures: np.ndarray | None = None    # (T, S', S', 3) uint8, what is seen, where the face was given


class Models:
    """The four trained parts of a run's folder, and the settings they were trained with."""

    def __init__(self, folder, device=None):
        self.folder, self.config = folder, train.run_config(folder)
        self.device = torch.device(device or pick_device())
        dtype = prepare_machine(self.device)
        self.audio, self.motion, self.speaker, self.talker = (train.load_model(folder, s, self.device) for s in ("audio", "motion", "speaker", "talker"))
        for_sampling(self.talker, dtype)
        self.ids = train.text_reader(self.config)

    # ---- who speaks
    @torch.inference_mode()
    def voice(self, wave: np.ndarray) -> Tensor:
        """(n,) -> (G,), as train.voice_of puts it together."""
        wave = torch.from_numpy(wave).to(self.device)[None]
        return train.voice_of(self.speaker(wave)[0], self.audio.encode(wave)[0] if self.config.timbre else None, self.config)

    @torch.inference_mode()
    def reference(self, picture: np.ndarray, voice: Tensor) -> Reference:
        """A picture (S, S, 3) uint8 and a voice (G,)."""
        face = as_input(picture[None]).to(self.device)
        return Reference(voice, face[0], self.motion.pose(face)[0])

    def clip_reference(self, *clips: data.Clip) -> Reference:
        """Who speaks in clips of one person: the mean voice, since each utterance varies, and the first picture of the first."""
        return self.reference(clips[0].video[0], torch.stack([self.voice(clip.audio) for clip in clips]).mean(0))

    def talker_reference(self, number: int) -> Reference:
        """Voice and face of a talker of the synthetic corpus: of 8 utterances for those in training, of one for any other."""
        if self.config.data:
            raise ValueError(f"this model was trained on {self.config.data}, not on the synthetic talkers: give a clip with --ref")
        return self.clip_reference(*train.corpus(self.config).references(number))

    def film_voice(self, path: Path) -> Tensor:
        """(G,): the voice that a film has, or, if it is silent, the most average of those that the model was trained on."""
        try:
            return self.voice(data.read_audio(path, self.config.sample_rate))
        except data.BrokenClip as error:
            if "no audio stream" not in error.reason:
                raise
            if not (Path(self.folder) / "latents" / "meta.json").exists():
                raise ValueError(f"{path} is silent: whose voice? give --voice a.wav") from None
            voices = data.LatentSet(Path(self.folder) / "latents").arrays["voice"]
            return torch.tensor(voices[np.square(voices - voices.mean(0)).sum(1).argmin()], device=self.device)

    # ---- what is given
    @torch.inference_mode()
    def hear(self, wave: np.ndarray) -> str:
        """The text that the audio autoencoder's reader makes of a speech (n,): the likeliest character of each 20 ms (CTC)."""
        if not hasattr(self.audio, "reader"):
            raise ValueError("this audio autoencoder can't read: say with --text what is spoken")
        wave = F.pad(torch.from_numpy(wave), (0, -len(wave) % self.audio.samples)).to(self.device)
        ids = self.audio.reader(self.audio.semantics(wave[None]))[0].argmax(-1).unique_consecutive().tolist()
        text = "".join(data.TEXT_VOCAB[i] for i in ids if i > 1).strip()
        if not any(mark.isalnum() for mark in text):
            raise ValueError("no word was understood in this speech: say with --text what is spoken")
        return text

    @torch.inference_mode()
    def sound_latents(self, wave: np.ndarray) -> Tensor:
        """(n,) -> (T, d), T whole patches: silence at the end."""
        wave = F.pad(torch.from_numpy(wave), (0, -len(wave) % (self.config.patch * self.audio.samples)))
        return self.audio.encode(wave.to(self.device)[None])[0]

    @torch.inference_mode()
    def picture_latents(self, video: np.ndarray) -> Tensor:
        """(T', S, S, 3) uint8 -> (T, K), T whole patches: the last picture repeated."""
        parts = [self.motion.pose(as_input(part).to(self.device)) for part in np.array_split(video, -(-len(video) // 64))]
        motion = self.motion.moves(torch.cat(parts))
        return torch.cat((motion, motion[-1:].expand(-len(motion) % self.config.patch, -1)))

    # ---- generation
    def limits(self, job: Job) -> tuple[int, int]:
        """How many patches are given, and how many there can be."""
        known = max((len(x) // self.config.patch for x in job.given.values()), default=0)
        return known, known if job.frames else known + int(self.talker.longest) * 3 // 2

    @torch.inference_mode()
    def patches(self, jobs: list[Job], steps=None, guidance=None, temperature=None):
        """A Python generator over patches: yields (name -> (B, P, d), alive, stopped), the streams in step.

        alive (B,) bool: the patch is part of the sample; stopped (B,): the sample has come to its end. A sample depends on its own
        seed alone, not on what else is in the batch. None: the setting of the preset.
        """
        c, first = self.config, jobs[0]
        if any(j.frames != first.frames or {n: len(x) for n, x in j.given.items()} != {n: len(x) for n, x in first.given.items()} for j in jobs):
            raise ValueError("the jobs of one batch must be given the same streams, equally long")
        text, mask = (x.to(self.device) for x in data.pad_text([self.ids(j.text) for j in jobs]))
        generators = [torch.Generator().manual_seed(j.seed) for j in jobs]
        noise = lambda shape: torch.stack([torch.randn(shape[1:], generator=g) for g in generators]).to(self.device)
        conditions = {"audio": torch.stack([j.who.voice for j in jobs]), "motion": torch.stack([j.who.pose for j in jobs])}
        given = {n: torch.stack([j.given[n] for j in jobs]) for n in first.given}
        pick = lambda value, preset: preset if value is None else value
        sampling = dict(steps=pick(steps, c.steps), guidance=pick(guidance, c.guidance), temperature=pick(temperature, c.temperature))
        known, longest = self.limits(first)
        shortest = longest + c.motion_delay if first.frames else max(c.stop_shortest, known + c.motion_delay if known else 0)
        waiting = {n: [] for n in self.talker.modalities}                                # a stream ahead of a delayed one waits for it
        done = torch.zeros(len(jobs), dtype=torch.bool, device=self.device)
        for patch, finished in self.talker.generate(text, mask, conditions, noise, longest + c.motion_delay, given, stop_hits=c.stop_hits,
                                                    stop_keeps=bool(c.stop_keeps), shortest=shortest, **sampling):
            for n, frames in patch.items():
                waiting[n].append(frames)
            alive = ~done if c.stop_keeps else ~(done | finished)
            done = done | finished
            if all(waiting.values()):
                yield {n: queue.pop(0) for n, queue in waiting.items()}, alive, done
            if done.all():
                return

    def generate(self, jobs: list[Job], **sampling) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[bool]]:
        """A batch of jobs -> [(video (T, S, S, 3) uint8, audio (n,) float32)], and whether each stopped by itself. `sampling`: see `patches`."""
        parts, counts, made = {n: [] for n in self.talker.modalities}, 0, 0
        for patch, alive, done in self.patches(jobs, **sampling):
            for n, frames in patch.items():
                parts[n].append(frames)
            counts, made = counts + alive.long(), made + 1
        if not made:
            raise ValueError("the sample stopped before its first patch: the text is unlike what the model learned, or its stop rule is too eager")
        latents = {n: torch.cat(p, 1) for n, p in parts.items()}                         # (B, N P, d)
        if not self.config.stop_keeps:                                                   # the patch that says stop was not made: no news of it
            done = done | (made < self.limits(jobs[0])[1])
        lengths = [job.frames or max(1, n) * self.config.patch for job, n in zip(jobs, counts.tolist())]
        clips = [self.render(job, {n: x[i, :length] for n, x in latents.items()}) for i, (job, length) in enumerate(zip(jobs, lengths))]
        return clips, [bool(job.frames) or stopped for job, stopped in zip(jobs, done.tolist())]

    def sound(self, latents: Tensor, voice: Tensor) -> np.ndarray:
        """Audio latents (T, d), voice (G,), of which the decoder is told the speaker vector alone -> (n,)."""
        return self.audio.decode(latents[None], voice[None, :self.config.speaker_size])[0].float().cpu().numpy().clip(-1, 1)

    @torch.inference_mode()
    def render(self, job: Job, latents: dict[str, Tensor], start=0, hidden=(0, 0)) -> tuple[np.ndarray, np.ndarray]:
        """Latents (T, d) that begin at frame `start` of a sample -> its pictures and its sound; what is given is passed through.

        hidden: so many frames at either end serve the audio decoder as surroundings, and are not part of what is returned.
        """
        stop = len(latents["audio"]) - hidden[1]
        spoken, shown = slice(hidden[0] * self.audio.samples, stop * self.audio.samples), slice(start + hidden[0], start + stop)
        if job.sound is None:
            sound = self.sound(latents["audio"], job.who.voice)[spoken]
        else:
            sound = data.fit_length(job.sound, shown.stop, self.config.sample_rate)[shown.start * self.audio.samples:]
        if job.pictures is None:
            pictures = as_pictures(self.motion.decode(job.who.face[None], latents["motion"][None, hidden[0]:stop])[0])
        else:
            pictures = job.pictures[shown]
        return pictures, sound

    def stream(self, job: Job, ahead=4, **sampling):
        """A Python generator over pieces (video (t, S, S, 3), audio (n,)) of one sample, as they come; together they are what `generate` makes.

        The audio decoder looks `reach` frames either way. A piece is decoded with all it needs of the past, and as soon as `ahead`
        frames of its future are there: exact if that is `reach` (0.52 s), nearly so with less (README).
        """
        reach, told = self.audio.decoder.reach, 0
        latents = {n: torch.empty(0, m.latent, device=self.device) for n, m in self.talker.modalities.items()}
        ahead = 0 if job.sound is not None else min(ahead, reach)
        def piece(stop):
            start, end = max(0, told - reach), min(len(latents["audio"]), stop + ahead)
            return self.render(job, {n: x[start:end] for n, x in latents.items()}, start, (told - start, end - stop))
        for patch, alive, done in self.patches([job], **sampling):
            if alive:
                latents = {n: torch.cat((x, patch[n][0]))[:job.frames] for n, x in latents.items()}
            ready = len(latents["audio"]) - ahead
            if ready > told:
                yield piece(ready)
                told = ready
        if len(latents["audio"]) > told:
            yield piece(len(latents["audio"]))
        if len(latents["audio"]) and not (job.frames or done):
            print(f"the sample {CUT}", file=sys.stderr)

    @torch.inference_mode()
    def roundtrip(self, clip: data.Clip) -> tuple[np.ndarray, np.ndarray]:
        """A clip through the autoencoders: its own first picture animated by its own motion, its own latents decoded."""
        video, wave = as_input(clip.video).to(self.device), torch.from_numpy(clip.audio).to(self.device)[None]
        rebuilt = self.motion.decode(video[:1], self.motion.encode(video)[None])[0]
        return as_pictures(rebuilt), self.sound(self.audio.encode(wave)[0], self.speaker(wave)[0])


# ------------------------------------------------------------------------------------------------------------ the tasks
def check_length(frames: int) -> None:
    if not data.SHORTEST <= frames <= data.LONGEST:
        raise ValueError(f"what is given lasts {frames / data.FPS:.2f} s; it must be {data.SHORTEST / data.FPS} to {data.LONGEST // data.FPS} s")


def speech_job(models: Models, wave: np.ndarray, who: Reference, text: str | None = None) -> Job:
    """A face for a speech (n,): the audio patches are given, the motion is sampled. Without a text, the one that is heard."""
    frames = -(-len(wave) // models.audio.samples)
    check_length(frames)
    return Job(text or models.hear(wave), who, given={"audio": models.sound_latents(wave)}, frames=frames, sound=wave)


def dubbing_job(models: Models, video: np.ndarray, text: str, who: Reference, pictures: np.ndarray | None = None) -> Job:
    """A speech for a face (T, S, S, 3): the motion is given, the audio is sampled. pictures: the same frames at any size, to show."""
    check_length(len(video))
    return Job(text, who, given={"motion": models.picture_latents(video)}, frames=len(video), pictures=video if pictures is None else pictures)


def continuation_job(models: Models, clip: data.Clip, seconds: float, text: str, who: Reference) -> Job:
    """On from the first seconds of a clip: its first patches are given, in both streams; the text says all, these seconds included.

    The audio encoder hears the whole clip, so that the prefix does not sound as if it ended there.
    """
    frames = int(round(seconds * data.FPS, 6)) // models.config.patch * models.config.patch
    if not 0 < frames < len(clip.video):
        raise ValueError(f"--prefix-seconds must be from {models.config.patch / data.FPS} (a patch) up to less than the clip's "
                         f"{len(clip.video) / data.FPS:.2f} s, not {seconds:g}")
    return Job(text, who, given={"audio": models.sound_latents(clip.audio)[:frames], "motion": models.picture_latents(clip.video[:frames])})


# ------------------------------------------------------------------------------------------------------------- folders
def sample_folder(models: Models, jobs: list[tuple[str, Job]], out: Path, batch=16, **sampling) -> None:
    """(name, job) ... -> out/NAME.mp4 and out/NAME.txt. Says how many did not stop. Jobs with streams given go one at a time."""
    out.mkdir(parents=True, exist_ok=True)
    endless, start, seconds = [], time.time(), 0.0
    batch = 1 if any(job.given for _, job in jobs) else batch
    with tqdm(total=len(jobs), desc=f"sampling {out.name}", unit="clip") as bar:
        for at in range(0, len(jobs), batch):
            part = jobs[at:at + batch]
            clips, done = models.generate([job for _, job in part], **sampling)
            for (name, job), (video, audio), stopped in zip(part, clips, done):
                (out / f"{name}.txt").write_text(job.text + "\n", encoding="utf-8")
                data.write_clip(out / f"{name}.mp4", video, audio, models.config.sample_rate)
                seconds += len(video) / data.FPS
                endless += [] if stopped else [name]
            bar.update(len(part))
    if endless:
        print(f"{len(endless)} of {len(jobs)} did not stop by themselves and were cut: {', '.join(endless[:5])}")
    print(f"{len(jobs)} clips, {seconds:.0f} s of audio-video in {time.time() - start:.0f} s")


def read_jobs(path: Path, models: Models, default: Reference | None, seed: int) -> list[tuple[str, Job]]:
    """Lines of `text`, or of `name<TAB>talker<TAB>text` as data.py --export writes into texts.tsv; line i takes seed + i."""
    jobs, references = [], {}
    for number, line in enumerate(tqdm(path.read_text(encoding="utf-8").splitlines(), desc="voices", delay=2, leave=False), 1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) not in (1, 3):
            raise ValueError(f"{path}, line {number}: expected a text, or name, talker and text separated by tabs")
        name, talker, text = fields if len(fields) == 3 else (f"{number:05d}", "", fields[0])
        if default is None and not talker.isdigit():
            raise ValueError(f"{path}, line {number} names no talker: give --talker N, --ref CLIP, or --voice and --face")
        if default is None and talker not in references:
            references[talker] = models.talker_reference(int(talker))
        jobs.append((name, Job(text, default or references[talker], seed + len(jobs))))
    if not jobs:
        raise ValueError(f"{path} holds no text")
    return jobs


def usable(source, needed=True):
    """The clips of a source, one after the other; broken ones are named and passed over. ValueError if all are broken and one is needed."""
    found = 0
    for i in range(len(source)):
        clip = data.make_clip(source, i)
        if isinstance(clip, data.BrokenClip):
            print(f"left out {clip}")
            continue
        found += 1
        yield clip
    if not found and needed:
        raise ValueError(f"none of the {len(source)} clips can be used")


# -------------------------------------------------------------------------------------------------------- command line
def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--ckpt", type=Path, help="the folder of a training run")
    model.add_argument("--released", type=Path, help="a folder with the released Talker-T2AV: its safetensors and tokenizer, the WhisperX-VAE "
                       ".ckpt, lia-x.pt, motion_mean.npy and motion_std.npy")
    parser.add_argument("--text", help="what to say")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--texts", type=Path, help="a file: a text per line, or name<TAB>talker<TAB>text")
    what.add_argument("--audio", type=Path, help="a speech, to which a face is made")
    what.add_argument("--video", type=Path, help="a face, to which a speech is made")
    what.add_argument("--prefix-seconds", type=float, help="go on from so much of --ref (the first)")
    what.add_argument("--roundtrip", type=Path, help="a folder of clips to pass through the autoencoders")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--talker", type=int, help="voice and face of this synthetic talker (0..255 were in training)")
    who.add_argument("--ref", type=Path, nargs="+", help="voice and face of this clip; several clips of a person tell the voice better")
    parser.add_argument("--voice", type=Path, help="the voice of this sound or clip")
    parser.add_argument("--face", type=Path, help="the face of this picture, or of a clip's first")
    voice = parser.add_mutually_exclusive_group()
    voice.add_argument("--speaker", help="with --released: the voice, a .npy or .pt file with the speaker embedding")
    voice.add_argument("--wavlm", help="with --released: the checkpoint of the speaker model; the voice is then that of --ref or --voice")
    parser.add_argument("--out", type=Path, required=True, help="an .mp4 ('-' with --stream: standard output), or a folder for --texts and --roundtrip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=1, help="so many samples, NAME_0.mp4 and so on; the first has the seed, each next one more")
    parser.add_argument("--stream", action="store_true", help="write patch by patch, for a player that follows")
    parser.add_argument("--steps", type=int, help="Euler steps; default: the preset's")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance, 1: none; default: the preset's")
    parser.add_argument("--temperature", type=float, help="scale of the initial noise; default: the preset's")
    parser.add_argument("--compile", action="store_true", help="for a GPU: wait for a compiler, then sample faster, as a CUDA graph")
    parser.add_argument("--crop", help="x,y,size in pixels of --ref, --face, --video or --roundtrip, or 'centre'; default: as in training")
    a = parser.parse_args()
    complain = lambda wrong, words: parser.error(words) if wrong else None
    complain(not any((a.text, a.texts, a.audio, a.video, a.roundtrip)), "what is to be said? give --text, or --texts, --audio, --video, --roundtrip")
    complain(a.text and (a.texts or a.roundtrip), "--text does not go with --texts or --roundtrip")
    complain((a.video or a.prefix_seconds is not None) and not a.text, "say with --text what is spoken")
    complain(a.prefix_seconds is not None and not a.ref, "--prefix-seconds goes on from a clip: give --ref clip.mp4")
    complain(a.texts and not (a.ref or a.talker is not None) and bool(a.voice) != bool(a.face), "--texts needs both --voice and --face, or --ref or "
             "--talker to take the other from")
    complain(a.video and a.face, "--video brings its own face: leave --face out")
    complain(a.n < 1 or a.n > 1 and (a.texts or a.roundtrip or a.stream), "--n is a number of samples of one text, from 1 on, without --stream")
    complain(a.stream and (a.texts or a.roundtrip), "--stream goes with one sample")
    complain(a.steps is not None and a.steps < 2, f"--steps must be at least 2, not {a.steps}: the first does not move")
    complain(a.compile and pick_device().type == "cpu", "--compile is for a GPU: a CPU gains nothing by it")
    complain(a.ckpt and (a.speaker or a.wavlm), "--speaker and --wavlm go with --released; a run's own speaker encoder listens to a clip")
    complain(a.released and not a.roundtrip and not (a.speaker or a.wavlm), "--released needs a voice: --speaker FILE, or --wavlm CHECKPOINT "
             "to take that of --ref or --voice")
    complain(not (a.texts or a.roundtrip) and a.out.suffix.lower() != ".mp4" and not (a.stream and str(a.out) == "-"), f"--out must end in .mp4, not '{a.out}'")
    return a


def find_reference(a: argparse.Namespace, models: Models, crop) -> Reference | None:
    """Who speaks, by the command line: voice and face of one talker or clip, or each from its own file. None: nobody was named."""
    c, who = models.config, None
    if a.ref:
        who = models.clip_reference(*(data.read_clip(ref, c.size, c.sample_rate, crop) for ref in a.ref))
    elif a.talker is not None:
        who = models.talker_reference(a.talker)
    if speech := a.voice or (None if who else a.audio):
        voice = models.voice(data.read_audio(speech, c.sample_rate))
    elif who:
        voice = who.voice
    elif a.speaker:
        voice = models.voice(np.zeros(1, np.float32))                                    # a file: the same whatever it hears
    elif a.video:
        voice = models.film_voice(a.video)
    else:
        return None
    if picture := a.face or a.video:
        return models.reference(data.read_video(picture, c.size, crop)[0], voice)
    return who and replace(who, voice=voice)


def main() -> None:
    a = parse()
    if a.released:
        from lab.released import load_models
        models = load_models(Models, a.released, a.speaker, a.wavlm)
    else:
        models = Models(a.ckpt)
    if a.compile:
        compile_heads(models.talker)
    c = models.config
    crop = parse_crop(c.crop if a.crop is None else a.crop)
    sampling = dict(steps=a.steps, guidance=a.guidance, temperature=a.temperature)
    if a.roundtrip:
        source = data.ClipFolder(a.roundtrip, "all", c.size, c.sample_rate, crop)
        a.out.mkdir(parents=True, exist_ok=True)
        for clip in tqdm(usable(source), desc="round trip", total=len(source), unit="clip"):
            video, audio = models.roundtrip(clip)
            data.write_clip(a.out / f"{clip.name}.mp4", video, audio, c.sample_rate)
            (a.out / f"{clip.name}.txt").write_text(clip.text + "\n", encoding="utf-8")
        print(f"{a.out}: the round trip. Next: python -m lab.metrics --truth {a.roundtrip} --roundtrip {a.out} --generated ...")
        return
    who = find_reference(a, models, crop)
    if a.texts:
        sample_folder(models, read_jobs(a.texts, models, who, a.seed), a.out, **sampling)
        print(f"{a.out}: next: python -m lab.metrics --help")
        return
    if who is None:
        raise ValueError("who speaks? give --talker N, --ref clip.mp4, or a voice and a face: --voice a.wav --face b.png")
    if a.audio:
        job = speech_job(models, data.read_audio(a.audio, c.sample_rate), who, a.text)
        print(f"a face for {a.audio}, text: {job.text}", file=sys.stderr)
    elif a.video:
        job = dubbing_job(models, data.read_video(a.video, c.size, crop), a.text, who, data.read_video(a.video, max(256, c.size), crop))
    elif a.prefix_seconds is not None:
        job = continuation_job(models, data.read_clip(a.ref[0], c.size, c.sample_rate, crop), a.prefix_seconds, a.text, who)
    else:
        job = Job(a.text, who)
    jobs, start = [replace(job, seed=a.seed + i) for i in range(a.n)], time.time()
    if a.stream:
        from lab.live import write_stream
        write_stream(a.out, models.stream(jobs[0], **sampling), c.sample_rate)
        return
    clips, stopped = models.generate(jobs, **sampling)
    print(f"generated in {time.time() - start:.1f} s")
    for i, (video, audio) in enumerate(clips):
        out = a.out if a.n == 1 else a.out.with_stem(f"{a.out.stem}_{i}")
        data.write_clip(out, video, audio, c.sample_rate)
        cut = "" if stopped[i] else f" (it {CUT})"
        print(f"{out}: {len(video) / data.FPS:.2f} s of audio-video{cut}; play it")


if __name__ == "__main__":
    train.plainly(main)
