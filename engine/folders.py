"""Folders of samples and of round trips, and lists of texts, for sample.py and lab/."""
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from engine.media import write_clip
from model import FPS


def write_outputs(path: Path, outputs: dict, sample_rate: int) -> None:
    """The outputs of a sample, name -> array: motion (T, S, S, 3) and audio (n,) become the mp4
    `path`, any other stream an array beside it, NAME.<stream>.npy."""
    write_clip(path, outputs["motion"], outputs["audio"], sample_rate)
    for name, array in outputs.items():
        if name not in ("motion", "audio"):
            np.save(path.with_suffix(f".{name}.npy"), array)


def write_samples(models, jobs: list, out: Path, batch=16, **settings) -> None:
    """(name, sample.Job) ... -> out/NAME.mp4 and out/NAME.txt. Says how many did not stop. Jobs
    with given streams go one at a time. settings: see sample.Models.patches."""
    out.mkdir(parents=True, exist_ok=True)
    if any(job.given for _, job in jobs):
        batch = 1
    endless = []
    seconds = 0.0
    start = time.time()
    with tqdm(total=len(jobs), desc=f"sampling {out.name}", unit="clip") as bar:
        for at in range(0, len(jobs), batch):
            part = jobs[at:at + batch]
            outputs, stopped = models.generate([job for _, job in part], **settings)
            for (name, job), made, end in zip(part, outputs, stopped):
                (out / f"{name}.txt").write_text(job.text + "\n", encoding="utf-8")
                write_outputs(out / f"{name}.mp4", made, models.config.sample_rate)
                seconds += len(made["motion"]) / FPS
                if not end:
                    endless.append(name)
            bar.update(len(part))
    if endless:
        print(f"{len(endless)} of {len(jobs)} did not stop by themselves and were cut: "
              f"{', '.join(endless[:5])}")
    print(f"{len(jobs)} clips, {seconds:.0f} s of audio-video in {time.time() - start:.0f} s")


def write_roundtrip(models, clips, total: int, out: Path) -> None:
    """Clips through the autoencoders -> out/NAME.mp4 and out/NAME.txt."""
    out.mkdir(parents=True, exist_ok=True)
    for clip in tqdm(clips, desc="round trip", total=total, unit="clip"):
        write_outputs(out / f"{clip.name}.mp4", models.roundtrip(clip), models.config.sample_rate)
        (out / f"{clip.name}.txt").write_text(clip.text + "\n", encoding="utf-8")


def read_list(path: Path, needs_speaker: bool) -> list[tuple[str, str, str]]:
    """Lines of a text, or of name<TAB>speaker<TAB>text as `python -m lab.export` writes them into
    texts.tsv -> (name, speaker number or '', text). ValueError with the line's number."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) not in (1, 3):
            raise ValueError(f"{path}, line {number}: expected a text, or name, speaker and text "
                             "separated by tabs")
        name, speaker, text = fields if len(fields) == 3 else (f"{number:05d}", "", fields[0])
        if needs_speaker and not speaker.isdigit():
            raise ValueError(f"{path}, line {number} names no speaker: give --speaker N, --ref "
                             "CLIP, or --voice and --face")
        found.append((name, speaker, text))
    if not found:
        raise ValueError(f"{path} holds no text")
    return found
