"""Experiments: talkers that differ in one point, trained on shared frozen parts and measured alike.

    python train.py --config small                      # makes the frozen parts, out/small
    python -m lab.ablate --list
    python -m lab.ablate --corpus free --only separate follow --seeds 0 1 2
    python -m lab.ablate --report

The experiments stand in lab/ablations, the measures in lab/measures.py. A run trains a talker on
one core, samples the test sentences with two sampling seeds, measures them, and adds a line to
docs/ablations.jsonl; as many runs as there are cores go on at once. A killed run goes on by the
same command. A finished one is not repeated; with --again it is sampled and measured anew.

    out/ablations/<corpus>/base                 the corpus in latents, test sentences, references
    out/ablations/<corpus>/<name>/sampling.json     guidance and temperature, chosen on dev
    out/ablations/<corpus>/<name>/seed<n>       a talker, and result.json

Guidance and temperature are chosen once for each experiment, on dev, by the first of its runs to be
trained; see `best_sampling`.
"""
import argparse
import fnmatch
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from engine.machine import cores, prepare_machine       # before torch
import numpy as np
import torch
from tqdm import tqdm

import data
import train
from engine import settings
from engine.checkpoints import finished, replacing, resume_points
from engine.media import read_json, write_json
from engine.processes import plainly
from engine.workers import kept, parallel
from lab import measures
from lab.ablations import COMMON, CORPORA, EXPERIMENTS, Experiment
from lab.measures import Sample
from lab.metrics import SAMPLE_RATE, SIZE, fit_opening, lengths
from sample import Job, Models, Reference

RESULTS = Path("docs/ablations.jsonl")
SETS = {"fit": ("train", 300), "dev": ("dev", 64), "test": ("test", 400)}
SEEDS = (0, 1000)                               # of sampling: seed + i for sentence i
GUIDANCES = (1.0, 1.5, 2.0, 3.0)                # of which one is chosen on dev
TEMPERATURES = (0.3, 0.6)
# Settings of train.py that say how a run is sampled. Here an experiment says that.
OF_SAMPLING = ("euler_steps", "guidance", "temperature", "motion_temperature", "alignment_pace",
               "stop_hits", "stop_keeps", "stop_shortest")


# ----------------------------------------------------------------------------------- the corpora
def encode_truth(out: Path, opening_of, pictures, source, index: int):
    """A clip as an item of a LatentSet, with the opening of its mouth: the true one, or, with
    `opening_of` (see lab.metrics.fit_opening), what that reads off the clip in `pictures`."""
    clip = data.make_clip(source, index)
    item = train.latent_item(train.frozen_parts(out), clip)
    if isinstance(item, data.BrokenClip):
        return item
    opening = opening_of(pictures[index].video) if opening_of else clip.opening
    return item | {"opening": opening[:, None].astype(np.float32),
                   "speaker": np.array([clip.speaker or 0])}


def prepare(corpus: str, frozen_run: Path, out: Path, n: int | None) -> None:
    """Encode a corpus by the frozen parts of a run, and the true clips that experiments are
    measured by. n: at most so many clips of each set. ValueError if `out` has those of another run,
    or another number."""
    config = replace(train.run_config(frozen_run), **CORPORA[corpus].changes)
    real = CORPORA[corpus].real
    if bool(config.data) != real:
        raise ValueError(f"the corpus {corpus} needs the frozen parts of a run "
                         f"{'with' if real else 'without'} --data, and {frozen_run} is none: give "
                         "--frozen")
    config.out_dir, config.from_run = str(out), ""
    config.clips = min(config.clips, n or config.clips)
    settings.check_settings(config)
    for stage in settings.FROZEN_STAGES:
        if not finished(frozen_run, stage):
            raise ValueError(f"{frozen_run} has no finished {stage}.pt: `python train.py --out_dir "
                             f"{frozen_run}` makes it")
    source = train.corpus(config)
    made_of = dict(frozen=settings.frozen_digest(frozen_run), key=source.key, n=n)
    about = out / "base.json"
    if about.exists():
        if read_json(about) != made_of:
            raise ValueError(f"{out} was made of other frozen parts or other clips, with another "
                             f"--n, or by another version: give --out, or delete {out.parent}")
        return

    # The frozen parts are the run's, the latents are made anew.
    settings.lock_folder(out)
    settings.open_run(config, source.key, resume_points(out, train.STAGES))
    for stage in settings.FROZEN_STAGES:
        with replacing(out / f"{stage}.pt") as file:
            file.write((frozen_run / f"{stage}.pt").read_bytes())
    data.cache_clips(source, 4, out / "clips", cores())
    train.encode_latents(config, source)

    # The true opening of real clips is not known: it is read off pictures of this size.
    at_64 = replace(config, size=SIZE, sample_rate=SAMPLE_RATE)
    opening_of = None
    if real:
        opening_of = fit_opening(list(itertools.islice(data.usable(train.corpus(at_64)), 300)))

    # True clips of each split, by the first 32 speakers.
    for name, (split, clips) in SETS.items():
        true = train.corpus(config, split, clips, range(32))
        clips = min(clips, n or clips, len(true))
        pictures = train.corpus(at_64, split) if real else None
        encode = functools.partial(encode_truth, out, opening_of, pictures)
        made = kept(parallel(encode, true, range(clips), cores(), name), clips, name, [])
        data.LatentSet.write(out / name, (item for _, item in made))

    # Voices and first poses of the speakers, which samples begin from.
    frozen = train.frozen_parts(out)
    references = {}
    for speaker in tqdm(range(1 if real else 32), desc="references", leave=False):
        clips = reference_clips(source, speaker)
        with torch.inference_mode():
            voices = [train.audio_condition(frozen, clip) for clip in clips]
            references[speaker] = {"audio": torch.stack(voices).mean(0),
                                   "motion": train.first_pose(frozen, clips[0])}
    with replacing(out / "references.pt") as file:
        torch.save(references, file)
    write_json(about, made_of)


def reference_clips(source, speaker: int) -> list[data.Clip]:
    """Eight clips of a speaker. Real clips are taken as those of one speaker."""
    if isinstance(source, data.SyntheticCorpus):
        return source.references(speaker)
    return list(itertools.islice(data.usable(source), 8))


def load_references(base: Path) -> dict[int, dict]:
    return torch.load(base / "references.pt", weights_only=True)


def true_samples(base: Path, name: str) -> list[Sample]:
    """One of SETS."""
    clips = data.LatentSet(base / name)
    samples = []
    for i in range(len(clips)):
        item = clips[i]
        samples.append(Sample(
            clips.text(i), int(item["speaker"]), item["audio"].numpy(), item["motion"].numpy(),
            item["motion_condition"].numpy(), item["opening"][:, 0].numpy()))
    return samples


@functools.lru_cache
def instruments(base: Path) -> tuple[measures.Probes, measures.Recogniser]:
    """What the samples of a corpus are measured with."""
    frozen = train.frozen_parts(base)
    probes = measures.fit_probes(true_samples(base, "fit"))
    return probes, measures.Recogniser(frozen, load_references(base))


# --------------------------------------------------------------------------------------- one run
def source_of(experiment: Experiment) -> Experiment:
    """The experiment whose talkers it samples: itself, or that which its `trained` names."""
    return next(x for x in EXPERIMENTS if x.name == (experiment.trained or experiment.name))


def config_of(experiment: Experiment, corpus: str, seed: int, base: Path, out: Path,
              more: list[str]) -> train.Config:
    """The settings of a run of an experiment that is trained."""
    return train.parse_config([
        "--config", CORPORA[corpus].preset, "--from", str(base), "--out_dir", str(out),
        f"--seed={seed}", *COMMON,
        f"--talker_steps={round(CORPORA[corpus].steps * experiment.steps)}",
        *experiment.settings, *more])


def train_one(config: train.Config) -> None:
    """Train the talker of a run, from where it stands."""
    out = Path(config.out_dir)
    base = Path(config.from_run)
    settings.lock_folder(out)
    settings.check_frozen(config, train.modality_table(config))
    # Latents are large, and the same for all.
    if not (out / "latents").is_symlink():
        (out / "latents").symlink_to((base / "latents").resolve())
    settings.open_run(config, train.corpus(config).key, resume_points(out, train.STAGES))
    settings.copy_frozen(config)
    train.run_stages(("talker",), config, threads=1)


def begin(true: Sample, references: dict, seed: int, given: str, patch: int,
          true_length: bool) -> Job:
    """The job of saying what a true clip says, in the voice and from the pose of its speaker. With
    a stream given, from the clip's own pose, and as many whole patches as the clip has; with
    true_length as many as that, too."""
    conditions = references[true.speaker]
    frames = len(true.audio) // patch * patch
    if not given:
        return Job(true.text, Reference(conditions, None), seed,
                   frames=frames if true_length else None)
    conditions = conditions | {"motion": torch.tensor(true.pose)}
    latents = {given: torch.tensor(getattr(true, given)[:frames])}
    return Job(true.text, Reference(conditions, None), seed, latents, frames)


def draw(models: Models, truth: list[Sample], references: dict, seed: int, options: dict,
         given="", batch=50) -> list[Sample]:
    """Generate the sentences of true clips, in latents. options: guidance, the audio's temperature,
    and Experiment.sampling. given: a stream that is the clips' own."""
    # Of the temperatures that are not given, Models.sampling takes the run's own.
    options = options | {"temperature": {models.talker.leader: options["temperature"],
                                         "motion": options.get("motion_temperature")}}
    options.pop("motion_temperature", None)
    true_length = options.pop("true_length", False)
    jobs = [begin(true, references, seed + i, given, models.config.patch, true_length)
            for i, true in enumerate(truth)]
    # Sentences of similar lengths share a batch; where the length is fixed, those of one length.
    order = sorted(range(len(jobs)), key=lambda i: jobs[i].frames or len(jobs[i].text))
    batches = []
    for _, same in itertools.groupby(order, key=lambda i: jobs[i].frames):
        same = list(same)
        batches += [same[first:first + batch] for first in range(0, len(same), batch)]

    made = {}
    for numbers in tqdm(batches, desc=f"{given} seed {seed}", leave=False):
        found, _ = models.latents([jobs[i] for i in numbers], **options)
        for i, latents in zip(numbers, found):
            pose = jobs[i].reference.conditions["motion"].numpy()
            made[i] = Sample(jobs[i].text, truth[i].speaker, latents["audio"].numpy(),
                             latents["motion"].numpy(), pose)
    return [made[i] for i in range(len(jobs))]


def given_figures(probes, recogniser, streams: dict[str, list[Sample]]) -> dict[str, float]:
    """Of samples whose audio (A2V) or motion (V2A) is the ground truth's."""
    found = {}
    scores = {}
    for given, task in (("audio", "A2V"), ("motion", "V2A")):
        samples = streams[given]
        scores[given] = [recogniser.listen(sample)[0] for sample in samples]
        found[f"{task} sync"] = float(measures.per_clip_sync(probes, samples).mean())
        found[f"{task} closures"] = measures.closures(probes, recogniser, samples, scores[given])
    found["V2A phones"] = recogniser.phone_errors(streams["motion"], scores["motion"])
    return found


def choose_sampling(models: Models, base: Path, path: Path, fixed: dict) -> dict:
    """Guidance and temperature of an experiment, chosen on dev by that of its runs which gets here
    first; the others wait for it. fixed: what is not chosen, Experiment.sampling."""
    with open(path.with_suffix(".lock"), "w") as lock:
        if settings.fcntl:
            settings.fcntl.flock(lock, settings.fcntl.LOCK_EX)
        if path.exists():
            return read_json(path)
        probes, recogniser = instruments(base)
        truth = true_samples(base, "dev")
        references = load_references(base)
        tried = []
        for guidance, temperature in itertools.product(GUIDANCES, TEMPERATURES):
            options = dict(guidance=guidance, temperature=temperature) | fixed
            made = draw(models, truth, references, 0, options)
            scores = [recogniser.listen(sample)[0] for sample in made]
            long = lengths([len(x.audio) for x in made], [len(x.audio) for x in truth])
            tried.append({"guidance": guidance, "temperature": temperature,
                          "phones": round(recogniser.phone_errors(made, scores), 2),
                          "x truth": round(float(long["x truth"]), 3),
                          "sync": round(float(measures.per_clip_sync(probes, made).mean()), 4)})
        chosen = best_sampling(tried) | {"tried": tried}
        write_json(path, chosen)
    return chosen


def best_sampling(tried: list[dict]) -> dict:
    """Of those whose phone errors are within a point of the least, and of these of those whose
    lengths are off by up to 5 % (or, where none is, by no more than a point above the best of
    them), the one with the highest sync."""
    # Without the rounding, 1.05 - 1 is more than 0.05.
    def off(row: dict) -> float:
        return round(abs(row["x truth"] - 1), 3)

    least = min(row["phones"] for row in tried)
    readable = [row for row in tried if round(row["phones"] - least, 2) <= 1]
    nearest = min(map(off, readable))
    allowed = 0.05 if nearest <= 0.05 else nearest + 0.01
    return max((row for row in readable if off(row) <= allowed), key=lambda row: row["sync"])


def run_one(experiment: Experiment, corpus: str, seed: int, home: Path, more: list[str]) -> dict:
    """Train, sample and measure -> the line of RESULTS."""
    base = home / corpus / "base"
    trained = source_of(experiment)
    out = home / corpus / trained.name / f"seed{seed}"
    code = commit()                 # as it was when this began
    config = config_of(trained, corpus, seed, base, out, more)
    if not experiment.trained:
        train_one(config)
    elif not finished(out, "talker"):
        raise ValueError(f"{experiment.name} samples the talkers of {trained.name}: run that one "
                         "first")
    else:
        free = settings.ALWAYS_FREE | {"from_run"}              # the folder may have been moved
        changed = settings.changed_settings(train.run_config(out), config, free)
        if changed:
            raise ValueError(f"{out} was trained with other settings ({'; '.join(changed)}): give "
                             f"another --out, and train {trained.name} there first")
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])

    prepare_machine(torch.device("cpu"), 1)
    models = Models(out, "cpu")
    if experiment.chosen_for:
        choice = home / corpus / experiment.chosen_for / "sampling.json"
        if not choice.exists():
            raise ValueError(f"{experiment.name} is sampled as {experiment.chosen_for}: run that "
                             "one first")
        chosen = read_json(choice)
    else:
        fixed = {} if experiment.trained else experiment.sampling
        chosen = choose_sampling(models, base, out.parent / "sampling.json", fixed)
    options = {name: chosen[name] for name in ("guidance", "temperature")} | experiment.sampling
    probes, recogniser = instruments(base)
    truth = true_samples(base, "test")
    references = load_references(base)
    start = time.time()
    made = [draw(models, truth, references, number, options) for number in SEEDS]
    seconds = time.time() - start
    given = {name: draw(models, truth, references, SEEDS[0], options, given=name)
             for name in models.talker.modalities}

    # The figures are means over the sampling seeds; the primary one is kept clip by clip.
    rows = [measures.figures(probes, recogniser, samples, truth) for samples in made]
    figures = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
    figures |= {name: round(value, 4)
                for name, value in given_figures(probes, recogniser, given).items()}
    sync = np.mean([measures.per_clip_sync(probes, samples) for samples in made], 0)
    control, of_pairs = pair_figures(probes, sync, *made)
    figures |= of_pairs
    speech = sum(len(x.audio) for samples in made for x in samples) / train.FPS
    talker = train.build("talker", config)
    heads = getattr(talker, "heads", torch.nn.Identity())       # a model may have none
    return identity(experiment, corpus, seed, base, more) | dict(
        command=f"python -m lab.ablate --corpus {corpus} --only {experiment.name} --seeds {seed} "
                + " ".join(more),
        commit=code, dtype=train.load_checkpoint(out, "talker")["dtype"],
        parameters=sum(p.numel() for p in talker.parameters()),
        head_parameters=sum(p.numel() for p in heads.parameters()),
        steps=config.talker_steps, train_minutes=round(last["seconds"] / 60, 2),
        sample_seconds=round(seconds, 1), speech_seconds=round(speech, 1),
        sampling=options, tried=chosen["tried"], figures=figures,
        sync=[round(float(x), 3) for x in sync], control=[round(float(x), 3) for x in control])


def pair_figures(probes, sync: np.ndarray, one: list[Sample],
                 other: list[Sample]) -> tuple[np.ndarray, dict]:
    """Of two samples of each text, and their sync (N,): the control (N,), and figures."""
    control = np.mean([measures.per_clip_sync(probes, measures.crossed(*pair))
                       for pair in ((one, other), (other, one))], 0)
    coupling = float((sync - control).mean())
    return control, {
        "control": round(float(control.mean()), 4), "coupling": round(coupling, 4),
        "captured": round(100 * coupling / (1 - float(control.mean())), 2),
        "diversity": round(measures.diversity(probes, one, other), 4)}


class Readings:
    """The sentences of true clips, which their speakers say another time, with other timing."""

    def __init__(self, source: data.SyntheticCorpus, truth: list[Sample]):
        self.source = source
        self.wanted = [(sample.text, sample.speaker) for sample in truth]

    def __getitem__(self, index: int) -> data.Clip:
        return self.source.say(*self.wanted[index], f"reading{index}", seed=index)


def truth_row(corpus: str, base: Path) -> dict:
    """The line of RESULTS for the true clips, which pass through the autoencoders."""
    probes, recogniser = instruments(base)
    truth = true_samples(base, "test")
    figures = measures.figures(probes, recogniser, truth, truth)
    if not CORPORA[corpus].real:
        # A second reading of each sentence says what the truth's control is.
        if not (base / "again" / "meta.json").exists():
            encode = functools.partial(encode_truth, base, None, None)
            readings = Readings(train.corpus(train.run_config(base)), truth)
            data.LatentSet.write(base / "again", parallel(
                encode, readings, range(len(truth)), cores(), "second readings"))
        again = true_samples(base, "again")
        sync = np.mean([measures.per_clip_sync(probes, x) for x in (truth, again)], 0)
        figures |= pair_figures(probes, sync, truth, again)[1]
        # How far the truth is from itself: two readings of the same sentences.
        figures |= measures.distances(again, truth)
    return identity(Experiment("truth", ""), corpus, 0, base, []) | dict(
        commit=commit(), figures={name: round(value, 4) for name, value in figures.items()})


def identity(experiment: Experiment, corpus: str, seed: int, base: Path, more: list[str]) -> dict:
    """What tells a run from others: two rows that share all of it are the same run."""
    return dict(corpus=corpus, name=experiment.name, seed=seed,
                settings=[*experiment.settings, *more],
                sentences=len(data.LatentSet(base / "test")), frozen=settings.frozen_digest(base))


def commit() -> str:
    """The commit of the code, with a + where the code differs from it."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True,
                              cwd=Path(__file__).parent.parent)
        return done.stdout.strip()
    changed = git("status", "--porcelain", "--", "*.py")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


# --------------------------------------------------------------------------------------- all runs
def read_results(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def add_line(path: Path, row: dict, own: dict) -> None:
    """Add a row to the results. It takes the place of the row of the same run; own: its
    `identity`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [x for x in read_results(path) if not own.items() <= x.items()]
    with replacing(path) as file:
        file.write("".join(json.dumps(x) + "\n" for x in [*kept, row]).encode())


def run_all(a: argparse.Namespace, experiments: list[Experiment], more: list[str]) -> None:
    """Every run that RESULTS lacks, in processes of one core each."""
    for experiment in experiments:
        try_out(experiment, ["--config", CORPORA[a.corpus].preset, *COMMON,
                             *source_of(experiment).settings, *more])
    base = a.out / a.corpus / "base"
    prepare(a.corpus, a.frozen, base, a.n)
    own = {(x.name, seed): identity(x, a.corpus, seed, base, more)
           for x in experiments for seed in a.seeds}

    results = read_results(a.results)

    def done(row: dict) -> bool:
        return any(row.items() <= other.items() for other in results)

    truth = identity(Experiment("truth", ""), a.corpus, 0, base, [])
    if a.again or not done(truth):
        add_line(a.results, truth_row(a.corpus, base), truth)

    # Those that sample the talkers of others come after these.
    failed = 0
    for depend in (False, True):
        jobs = [(x.name, seed) for seed in a.seeds for x in experiments
                if bool(x.trained) == depend and (a.again or not done(own[x.name, seed]))]
        for (name, seed), wrong in side_by_side(a, jobs, own, more):
            failed += bool(wrong)
            if not wrong:
                result = result_path(a, name, seed)
                add_line(a.results, json.loads(result.read_text()), own[name, seed])
            tqdm.write(f"{name}, seed {seed}: {wrong or 'done'}")
    if failed:
        raise RuntimeError(f"{failed} runs failed; the reasons are in their logs")
    print(f"results: {a.results}; python -m lab.ablate --report makes tables of them")
    names = {row["name"] for row in read_results(a.results)
             if row["frozen"] == truth["frozen"] and row["corpus"] == a.corpus}
    missing = sorted({x.minus for x in experiments} - names)
    if missing:
        print(f"to compare them with {', '.join(missing)}, run that as well, on the same --frozen")


def try_out(experiment: Experiment, words: list[str]) -> None:
    """Build a talker with random weights, compute its loss and sample three patches, so that wrong
    settings, classes and sampling options are found before anything is trained. words: as train.py
    takes them."""
    config = train.parse_config(words)
    talker = train.build("talker", config).eval()
    conditions = {name: torch.zeros(1, m.condition) for name, m in talker.modalities.items()}
    options = {name: value for name, value in experiment.sampling.items()
               if name not in ("motion_temperature", "true_length")}
    text = torch.ones(1, 3, dtype=torch.long)
    T = 3 * config.patch
    latents = {name: torch.randn(1, T, m.latent) for name, m in talker.modalities.items()}
    frames = dict.fromkeys(latents, torch.tensor([T]))
    talker(text, text > 0, latents, frames, conditions, spoken=torch.linspace(0, 3, T)[None])
    for _ in talker.generate(text, text > 0, conditions, torch.zeros, 3, **options):
        pass


def result_path(a: argparse.Namespace, name: str, seed: int) -> Path:
    return a.out / a.corpus / name / f"seed{seed}" / "result.json"


def side_by_side(a: argparse.Namespace, jobs: list[tuple[str, int]], own: dict, more: list[str]):
    """Let processes make result.json of each run, as many at once as there are cores. This is a
    Python generator of (job, what went wrong or ''), in the order of the jobs. own: job -> its
    `identity`."""
    running = []
    ending = threading.Event()

    def run(job: tuple[str, int]) -> str:
        result = result_path(a, *job)
        result.parent.mkdir(parents=True, exist_ok=True)
        if ending.is_set():
            return "not begun"
        if result.exists() and not a.again:
            if own[job].items() <= json.loads(result.read_text()).items():
                return ""
        words = [sys.executable, "-m", "lab.ablate", "--one", "--corpus", a.corpus, "--only",
                 job[0], "--seeds", str(job[1]), "--out", a.out, *more]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        log = result.with_name("run.log")
        with open(log, "a") as file:
            process = subprocess.Popen(words, stdout=file, stderr=file, env=environment)
            running.append(process)
            if not process.wait():
                return ""
        last = log.read_text().strip().rpartition("\n")[2]
        return f"failed with exit code {process.returncode}: {last[-200:]} ({log})"

    with ThreadPoolExecutor(cores()) as pool:
        try:
            results = zip(jobs, pool.map(run, jobs))
            yield from tqdm(results, desc="runs", total=len(jobs), unit="run")
        finally:
            # Where this process is told to end, so are those.
            ending.set()
            for process in running:
                process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.ablate", allow_abbrev=False,
        description="Experiments on shared frozen parts. Further options, --field=value, are "
                    "settings of train.py for all of them.")
    parser.add_argument("--list", action="store_true", help="what experiments there are")
    parser.add_argument("--measures", action="store_true",
                        help="what the measures say of clips about which the answer is known")
    parser.add_argument("--report", action="store_true",
                        help="write the tables of docs/ablations.md and its plot, or print the "
                             "tables of other --results")
    parser.add_argument("--corpus", choices=CORPORA, default="free")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN",
                        help="experiments, such as follow or 'delay*'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--frozen", type=Path, default=Path("out/small"),
                        help="a finished run of train.py, whose frozen parts are used")
    parser.add_argument("--out", type=Path, default=Path("out/ablations"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--n", type=int, help="at most so many clips of each set, for a trial")
    parser.add_argument("--again", action="store_true",
                        help="sample and measure finished runs anew")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    a, more = parser.parse_known_args()
    wrong = [word for word in more if not re.fullmatch(r"--\w+=.*", word)]
    if wrong:
        parser.error(f"not an option, and not a setting of train.py, which is --name=value: "
                     f"{' '.join(wrong)}")
    named = ("out_dir", "from", "from_run", "seed", "config")
    if ours := [word for word in more if word[2:].partition("=")[0] in named]:
        parser.error(f"folders, seeds and preset are told by --out, --frozen, --seeds and "
                     f"--corpus: leave {' '.join(ours)} out")
    if sampled := [word for word in more if word[2:].partition("=")[0] in OF_SAMPLING]:
        parser.error(f"guidance and temperature are chosen on dev, and how else an experiment is "
                     f"sampled stands in lab/ablations: leave {' '.join(sampled)} out")
    if a.n and a.results == RESULTS and not (a.list or a.measures or a.report):
        parser.error(f"--n is for trials, which do not belong into {RESULTS}: give --results")
    chosen = [x for x in EXPERIMENTS if any(fnmatch.fnmatch(x.name, p) for p in a.only)]
    if not chosen:
        parser.error(f"there is no experiment {' '.join(a.only)}: --list shows them")

    if a.list:
        for experiment in chosen:
            print(f"{experiment.name:16} {experiment.claim}")
            print(f"{'':16} {' '.join(experiment.settings)}")
    elif a.measures:
        base = a.out / a.corpus / "base"
        prepare(a.corpus, a.frozen, base, a.n)
        probes, recogniser = instruments(base)
        from lab.report import known_table
        print(known_table(measures.known_answers(probes, recogniser, true_samples(base, "test"))))
    elif a.report:
        from lab.report import tables, write_report
        results = read_results(a.results)
        if a.results == RESULTS:
            write_report(results)
        else:
            print(tables(results))
    elif a.one:
        row = run_one(chosen[0], a.corpus, a.seeds[0], a.out, more)
        write_json(result_path(a, chosen[0].name, a.seeds[0]), row)
    else:
        run_all(a, chosen, more)


if __name__ == "__main__":
    plainly(main)
