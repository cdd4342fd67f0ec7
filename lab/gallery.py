"""Every task of one checkpoint, side by side:  python -m lab.gallery --ckpt out/grid --out ev

Takes test clips of the run's own corpus and writes folders of the form that lab.metrics reads (NAME.mp4, NAME.txt):

    truth  roundtrip  t2av  a2v  v2a  continuation      each clip by its own first picture and voice, the prefix is its first second
    fit                                                 320 training clips, to fit the probes of the mouth opening on

and index.html, a page of the first few that holds all it shows, with the mouth opening read off sound and picture under each clip.
What is there already is not made again, so that a stopped run goes on: another checkpoint needs another --out.
"""
import argparse
import base64
import html
import itertools
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import sample
import train
from lab.metrics import correlation, fit_probes, load
from lab.settings import parse_crop

TASKS = {"truth": "truth", "roundtrip": "through the autoencoders", "t2av": "from text", "a2v": "face from text and speech",
         "v2a": "speech from text and face", "continuation": "continued after 1 s"}
STYLE = """body { font: 15px sans-serif; margin: 2em; color: #222 } td { padding: 4px; vertical-align: top } th { text-align: left; padding: 4px }
video { width: 200px; display: block; cursor: pointer } svg { width: 200px; height: 60px; background: #f4f4f4 } small { color: #666 } td small { display: block }"""


def write_clips(clips, folder: Path, sample_rate: int, total: int) -> None:
    """True clips -> folder/NAME.mp4, .txt, and .npy where the mouth opening is known."""
    for clip in tqdm(clips, desc=f"writing {folder.name}", total=total, unit="clip"):
        if (folder / f"{clip.name}.mp4").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{clip.name}.txt").write_text(clip.text + "\n", encoding="utf-8")
        if clip.opening is not None:
            np.save(folder / f"{clip.name}.npy", clip.opening)
        data.write_clip(folder / f"{clip.name}.mp4", clip.video, clip.audio, sample_rate)        # last: what has an mp4 is complete


def write_tasks(models, clips: list, out: Path, seed: int) -> None:
    """Test clips -> a folder per task."""
    c = models.config
    write_clips(clips, out / "truth", c.sample_rate, len(clips))
    rebuilt = (data.replace(clip, video=video, audio=audio, opening=None) for clip in clips
               for video, audio in [models.roundtrip(clip)])
    write_clips(rebuilt, out / "roundtrip", c.sample_rate, len(clips))
    make = {"t2av": lambda clip, who: sample.Job(clip.text, who),
            "a2v": lambda clip, who: sample.speech_job(models, clip.audio, who, clip.text),
            "v2a": lambda clip, who: sample.dubbing_job(models, clip.video, clip.text, who),
            "continuation": lambda clip, who: sample.continuation_job(models, clip, 1.0, clip.text, who)}
    for task, job in make.items():
        todo = [(i, clip) for i, clip in enumerate(clips) if not (out / task / f"{clip.name}.mp4").exists()]
        jobs = [(clip.name, data.replace(job(clip, models.clip_reference(clip)), seed=seed + i)) for i, clip in todo]
        sample.sample_folder(models, jobs, out / task)


def curves(heard: np.ndarray, seen: np.ndarray) -> str:
    """Two readings of the mouth opening (T,), from the sound and from the picture -> a drawing and their correlation."""
    lines = []
    for values, colour in ((heard, "#d9480f"), (seen, "#1c7ed6")):
        height = 30 - 12 * (values - values.mean()) / (values.std() + 1e-6)
        points = " ".join(f"{200 * i / max(1, len(values) - 1):.1f},{y:.1f}" for i, y in enumerate(height.clip(1, 59)))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return f'<svg viewBox="0 0 200 60">{"".join(lines)}</svg><small>r = {correlation(heard, seen):.2f}</small>'


def write_page(out: Path, names: list[str], about: str) -> Path:
    """Folders of `write_tasks` -> out/index.html."""
    probes = fit_probes(list(load(out / "fit")[0].values()))
    found = {task: load(out / task, names)[0] for task in TASKS}
    rows = []
    for name in names:
        cells = []
        for task in TASKS:
            clip = found[task][name]
            film = base64.b64encode((out / task / f"{name}.mp4").read_bytes()).decode()
            cells.append(f'<td><video loop preload="metadata" onclick="this.paused ? this.play() : this.pause()" src="data:video/mp4;base64,{film}"></video>'
                         f'{curves(probes.audio(clip.audio), probes.video(clip.video))}</td>')
        rows.append(f'<tr><th colspan="{len(TASKS)}">{html.escape(found["truth"][name].text)} <small>{html.escape(name)}</small></th></tr>'
                    f'<tr>{"".join(cells)}</tr>')
    page = out / "index.html"
    page.write_text(f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>nanoTalker: every task</title><style>{STYLE}</style>
<h1>Every task, one checkpoint</h1>
<p>{html.escape(about)} A click plays a clip, another halts it. Under each clip the mouth opening over time, read off the <span style="color:#d9480f">sound</span> and off the
<span style="color:#1c7ed6">picture</span>, and their correlation.</p>
<table><tr>{"".join(f"<th>{html.escape(title)}</th>" for title in TASKS.values())}</tr>{"".join(rows)}</table></html>
""", encoding="utf-8")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description="every task of one checkpoint, as folders and as a page")
    parser.add_argument("--ckpt", type=Path, required=True, help="the folder of a training run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", help="a folder of clips that the run was not trained on; default: the test split of its own")
    parser.add_argument("--n", type=int, default=50, help="test clips")
    parser.add_argument("--show", type=int, default=6, help="how many of them are on the page")
    parser.add_argument("--fit", type=int, default=320, help="training clips to fit the probes on")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    models = sample.Models(a.ckpt)
    c = models.config
    if a.data:
        source = data.ClipFolder(a.data, "all", c.size, c.sample_rate, parse_crop(c.crop))
    else:
        source = train.corpus(c, "test", a.n)
    long = (clip for clip in sample.usable(source) if len(clip.video) > data.FPS + c.patch)      # long enough to be continued after 1 s
    clips = list(itertools.islice(long, a.n))
    training = train.corpus(c, "train", a.fit, range(32))
    if not clips or min(a.fit, len(training)) < 20:
        raise ValueError(f"a gallery needs a test clip of more than {1 + c.patch / data.FPS:.2f} s ({len(clips)} here) and at least 20 training clips "
                         f"to fit its probes on ({min(a.fit, len(training))} here)")
    write_clips(itertools.islice(sample.usable(training), a.fit), a.out / "fit", c.sample_rate, min(a.fit, len(training)))
    write_tasks(models, clips, a.out, a.seed)
    page = write_page(a.out, [clip.name for clip in clips[:a.show]], f"{a.ckpt}, {len(clips)} test clips, seed {a.seed}.")
    others = " ".join(str(a.out / task) for task in ("a2v", "v2a", "continuation"))
    print(f"{page}: open it in a browser. Next: python -m lab.metrics --truth {a.out / 'truth'} --fit {a.out / 'fit'} "
          f"--roundtrip {a.out / 'roundtrip'} --generated {a.out / 't2av'} --also {others}")


if __name__ == "__main__":
    train.plainly(main)
