"""Every task of one checkpoint, side by side:

    python -m lab.gallery --ckpt out/grid --out ev

Takes test clips of the run's own corpus and writes folders of the form that lab.metrics reads
(NAME.mp4, NAME.txt):

    truth roundtrip t2av a2v v2a continuation      each clip in its own voice, from its own first
                                                   picture; its first second is what is continued
    fit                                            320 training clips, to fit the probes of the
                                                   mouth opening on

and index.html, a page of the first few clips that holds all it shows, with the mouth opening read
off sound and picture under each. What is there already is not made again, so that a stopped run
goes on: another checkpoint needs another --out.

Axis letters: T frames.
"""
import argparse
import base64
import html
import itertools
from dataclasses import replace
from pathlib import Path

import engine.machine  # noqa: F401       before torch
import numpy as np
from tqdm import tqdm

import data
import sample
import train
from engine import folders
from engine.media import first_with_pictures, fitting_crop, write_clip
from engine.processes import plainly
from engine.settings import parse_crop
from lab.metrics import Probes, correlation, fit_probes, load
from model import FPS

# Folder -> its title on the page.
TASKS = {
    "truth": "ground truth",
    "roundtrip": "autoencoder round trip",
    "t2av": "from text",
    "a2v": "face from text and speech",
    "v2a": "speech from text and face",
    "continuation": "continued after 1 s"}
SOUND, PICTURE = "#d9480f", "#1c7ed6"           # colours of the two curves

STYLE = """
body { font: 15px sans-serif; margin: 2em; color: #222 }
td { padding: 4px; vertical-align: top }
th { text-align: left; padding: 4px }
video { width: 200px; display: block; cursor: pointer }
svg { width: 200px; height: 60px; background: #f4f4f4 }
small { color: #666 }
td small { display: block }
"""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>nanoTalker: every task</title>
<style>{style}</style>
<h1>Every task, one checkpoint</h1>
<p>{about} A click plays a clip, another halts it. Under each clip the mouth opening over time,
read off the <span style="color:{sound}">sound</span> and off the
<span style="color:{picture}">picture</span>, and their correlation.</p>
<table>
<tr>{titles}</tr>
{rows}
</table>
</html>
"""

VIDEO = ('<video loop preload="metadata" onclick="this.paused ? this.play() : this.pause()" '
         'src="data:video/mp4;base64,{mp4}"></video>')


# -------------------------------------------------------------------------------------- folders
def is_there(folder: Path, clip: data.Clip) -> bool:
    return (folder / f"{clip.name}.mp4").exists()


def write_clips(clips, folder: Path, sample_rate: int, total: int) -> None:
    """True clips -> folder/NAME.mp4, .txt, and .npy where the mouth opening is known."""
    for clip in tqdm(clips, desc=f"writing {folder.name}", total=total, unit="clip"):
        if is_there(folder, clip):
            continue
        # The mp4 comes last: what has one is complete.
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{clip.name}.txt").write_text(clip.text + "\n", encoding="utf-8")
        if clip.opening is not None:
            np.save(folder / f"{clip.name}.npy", clip.opening)
        write_clip(folder / f"{clip.name}.mp4", clip.video, clip.audio, sample_rate)


def job_of(task: str, models: sample.Models, clip: data.Clip, seed: int) -> sample.Job:
    """A test clip as the input of a task: its own text, voice, first picture and streams."""
    reference = models.clip_reference(clip)
    if task == "t2av":
        job = sample.Job(clip.text, reference)
    elif task == "a2v":
        job = sample.face_for_speech(models, clip.audio, reference, clip.text)
    elif task == "v2a":
        job = sample.speech_for_face(models, clip.video, clip.text, reference)
    else:
        job = sample.continuation(models, clip, 1.0, clip.text, reference)
    return replace(job, seed=seed)


def write_tasks(models: sample.Models, clips: list[data.Clip], out: Path, seed: int) -> None:
    """Test clips -> a folder per task. Clip i takes seed + i."""
    write_clips(clips, out / "truth", models.config.sample_rate, len(clips))

    # Through the autoencoders, without the Talker.
    todo = [clip for clip in clips if not is_there(out / "roundtrip", clip)]
    folders.write_roundtrip(models, todo, len(todo), out / "roundtrip")

    # Each task of the Talker.
    for task in ("t2av", "a2v", "v2a", "continuation"):
        jobs = [(clip.name, job_of(task, models, clip, seed + i)) for i, clip in enumerate(clips)
                if not is_there(out / task, clip)]
        folders.write_samples(models, jobs, out / task)


# ----------------------------------------------------------------------------------------- page
def draw_curve(values: np.ndarray, colour: str) -> str:
    """(T,) -> a line of an svg of 200 x 60, of unit deviation and zero mean."""
    height = 30 - 12 * (values - values.mean()) / (values.std() + 1e-6)
    points = []
    for i, y in enumerate(height.clip(1, 59)):
        x = 200 * i / max(1, len(values) - 1)
        points.append(f"{x:.1f},{y:.1f}")
    return (f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" '
            'stroke-width="1.5"/>')


def draw_openings(heard: np.ndarray, seen: np.ndarray) -> str:
    """Two readings of the mouth opening (T,), off the sound and off the picture -> a drawing and
    their correlation."""
    curves = draw_curve(heard, SOUND) + draw_curve(seen, PICTURE)
    return (f'<svg viewBox="0 0 200 60">{curves}</svg>'
            f"<small>r = {correlation(heard, seen):.2f}</small>")


def draw_cell(path: Path, clip: data.Clip, probes: Probes) -> str:
    """One clip of the page: the film itself and its curves."""
    film = VIDEO.format(mp4=base64.b64encode(path.read_bytes()).decode())
    return f"<td>{film}{draw_openings(probes.audio(clip.audio), probes.video(clip.video))}</td>"


def write_page(out: Path, names: list[str], about: str) -> Path:
    """Folders of `write_tasks` -> out/index.html."""
    probes = fit_probes(list(load(out / "fit")[0].values()))
    found = {task: load(out / task, names)[0] for task in TASKS}

    # For each clip a row with its text and a row with what every task makes of it.
    rows = []
    for name in names:
        text = html.escape(found["truth"][name].text)
        cells = [draw_cell(out / task / f"{name}.mp4", found[task][name], probes)
                 for task in TASKS]
        rows.append(f'<tr><th colspan="{len(TASKS)}">{text} '
                    f"<small>{html.escape(name)}</small></th></tr>")
        rows.append(f'<tr>{"".join(cells)}</tr>')

    titles = "".join(f"<th>{html.escape(title)}</th>" for title in TASKS.values())
    page = out / "index.html"
    page.write_text(
        PAGE.format(style=STYLE, about=html.escape(about), sound=SOUND, picture=PICTURE,
                    titles=titles, rows="\n".join(rows)),
        encoding="utf-8")
    return page


# ---------------------------------------------------------------------------------- command line
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.gallery",
        description="Every task of one checkpoint, as folders and as a page.")
    parser.add_argument("--ckpt", type=Path, required=True, help="the folder of a training run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", help="a folder of clips that the run was not trained on; "
                        "default: the test split of its own")
    parser.add_argument("--n", type=int, default=50, help="test clips")
    parser.add_argument("--show", type=int, default=6, help="how many of them are on the page")
    parser.add_argument("--fit", type=int, default=320,
                        help="training clips to fit the probes on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    models = sample.Models(options.ckpt)
    c = models.config

    # Test clips that are long enough to be continued after 1 s.
    if options.data:
        source = data.ClipFolder(options.data, "all", c.size, c.sample_rate)
        source.crop = fitting_crop(first_with_pictures(source.paths), parse_crop(c.crop))
    else:
        source = train.corpus(c, "test", 4 * options.n)
    long = (clip for clip in data.usable(source) if len(clip.video) > FPS + c.patch)
    clips = list(itertools.islice(long, options.n))

    # Training clips for the probes.
    training = train.corpus(c, "train", options.fit, range(32))
    fit = min(options.fit, len(training))
    if not clips or fit < 20:
        raise ValueError(
            f"a gallery needs a test clip of more than {1 + c.patch / FPS:.2f} s ({len(clips)} "
            f"here) and at least 20 training clips to fit its probes on ({fit} here)")
    write_clips(itertools.islice(data.usable(training), options.fit), options.out / "fit",
                c.sample_rate, fit)

    write_tasks(models, clips, options.out, options.seed)
    page = write_page(options.out, [clip.name for clip in clips[:options.show]],
                      f"{options.ckpt}, {len(clips)} test clips, seed {options.seed}.")
    out = options.out
    print(f"{page}: open it in a browser. Next: python -m lab.metrics --truth {out / 'truth'} "
          f"--fit {out / 'fit'} --roundtrip {out / 'roundtrip'} --generated {out / 't2av'} "
          f"--also {out / 'a2v'} {out / 'v2a'} {out / 'continuation'}")


if __name__ == "__main__":
    plainly(main)
