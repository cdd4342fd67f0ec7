"""lab.ablate: the heads of the experiments, the measures on clips with known answers, the kit."""
import functools

import numpy as np
import pytest
import torch

import data
import heads
import train
from engine import sampling
from engine.media import write_clip
from lab import ablate, measures, report
from lab.ablations import COMMON, CORPORA, EXPERIMENTS, Corpus
from lab.measures import Sample
from sample import Models
from tests.helpers import (command, error, generate, random_batch, record_places, said_here,
                           tiny_talker)

COUPLED = ("lab.ablations.coupled:JointHeads", "lab.ablations.coupled:CrossHeads",
           "lab.ablations.follow:FollowHeads", "lab.ablations.follow:LeadHeads")


# ------------------------------------------------------------------------------------ the heads
@pytest.mark.parametrize("name", ["joint", "cross", "follow", "lead", "shared"])
def test_heads_have_as_many_parameters_as_separate_ones(name):
    def heads(settings) -> int:
        config = train.parse_config(["--config", "small", *COMMON, *settings])
        return sum(p.numel() for p in train.build("talker", config).heads.parameters())

    settings = next(x.settings for x in EXPERIMENTS if x.name == name)
    assert abs(heads(settings) / heads(()) - 1) < 0.02


@pytest.mark.parametrize("heads", COUPLED)
def test_heads_learn_from_both_streams(heads):
    """Every parameter gets a gradient, and the losses are those of two streams."""
    talker, config = tiny_talker(heads=heads, drop_hidden=0, drop_history=0)
    batch = random_batch(config)
    losses, _ = talker.heads.loss(talker.teacher_forced(**batch)[1])
    assert list(losses) == ["audio", "motion"]
    sum(losses.values()).backward()
    still = [name for name, p in talker.heads.named_parameters() if p.grad is None]
    assert not still


@pytest.mark.parametrize("heads, sees", list(zip(COUPLED, (
    ("audio", "motion"), ("audio", "motion"), ("motion",), ("audio",)))))
def test_which_stream_sees_the_other(heads, sees):
    """Other noise of one stream changes the other, where that one sees it, and else nothing."""
    talker, config = tiny_talker(heads=heads)
    batch = random_batch(config)
    _, inputs, _ = talker.teacher_forced(**batch)
    first = {name: x._replace(hidden=x.hidden[:, :1], history=x.history[:, :1], target=None)
             for name, x in inputs.items()}
    widths = {name: m.latent for name, m in talker.modalities.items()}

    def made(seeds: dict) -> dict:
        def noise(shape):
            name = next(n for n, width in widths.items() if width == shape[-1])
            return torch.randn(shape, generator=torch.Generator().manual_seed(seeds[name]))
        return talker.heads.sample(first, noise, steps=3, guidance=2.0, temperature=1.0)

    before = made({"audio": 0, "motion": 0})
    for name, other in (("motion", "audio"), ("audio", "motion")):
        after = made({name: 0, other: 1})
        assert (error(after[name], before[name]) > 1e-4) == (name in sees)


@pytest.mark.parametrize("heads", COUPLED)
def test_a_given_stream_is_returned_and_heeded(heads):
    talker, config = tiny_talker(heads=heads)
    batch = random_batch(config)
    _, inputs, _ = talker.teacher_forced(**batch)
    first = {name: x._replace(hidden=x.hidden[:, :1], history=x.history[:, :1],
                              target=x.target[:, :1] if name == "audio" else None)
             for name, x in inputs.items()}

    def motion(audio):
        given = first | {"audio": first["audio"]._replace(target=audio)}
        made = talker.heads.sample(
            given, lambda shape: torch.ones(shape), steps=3, guidance=1.0, temperature=1.0)
        assert torch.equal(made["audio"], audio)
        return made["motion"]

    audio = first["audio"].target
    heeds = heads != "lab.ablations.follow:LeadHeads"       # there the motion comes first
    assert (error(motion(audio + 1), motion(audio)) > 1e-4) == heeds


def test_a_history_of_two_patches(monkeypatch):
    """In generation the heads see what they learned from: the two patches before."""
    talker, config = tiny_talker(heads="lab.ablations.history:LongHistoryHeads", drop_hidden=0,
                                 drop_history=0)
    batch = random_batch(config, patches=4)
    seen = {}

    def watch(self, x, t, hidden, history, condition):
        seen.setdefault(x.shape[-1], []).append(history)
        return torch.zeros_like(x)

    monkeypatch.setattr(heads.FlowHead, "velocity", watch)
    talker.heads.loss(talker.teacher_forced(**batch)[1])
    latents = {name: x[:1] for name, x in batch["latents"].items()}
    learned = {d: rows[0] for d, rows in seen.items()}
    seen.clear()
    # Two samples one after the other: the second one begins without the history of the first.
    one = dict(text=batch["text"][:1], text_mask=batch["text_mask"][:1],
               conditions={name: c[:1] for name, c in batch["conditions"].items()})
    for _ in range(2):
        made = generate(talker, one, 4, guidance=1.0, steps=2, temperature=1.0)
    for name, x in latents.items():
        d = x.shape[-1]
        # Training: patch 2 of sample 0 has seen patches 0 and 1.
        assert torch.equal(learned[d][2], x[0, :2 * config.patch])
        assert not learned[d][0].any() and not learned[d][1][:config.patch].any()
        # Generation: the same, of what was made.
        per_sample = seen[d][len(seen[d]) // 2:]
        assert not per_sample[0].any()
        assert torch.equal(per_sample[2][0], made[name][0, :2 * config.patch])


def test_noise_on_the_history_is_for_training_alone():
    talker, config = tiny_talker(heads="lab.ablations.history:NoisyHistoryHeads")
    plain, _ = tiny_talker()
    batch = random_batch(config)
    inputs = talker.teacher_forced(**batch)[1]
    # The same draws; the loss differs by the noise alone, and not at level 0.
    torch.nn.init.normal_(talker.heads["audio"].out.weight)
    noisy, _ = talker.heads.loss(inputs, torch.Generator().manual_seed(0))
    talker.heads.level = 0
    clean, _ = talker.heads.loss(inputs, torch.Generator().manual_seed(0))
    assert error(noisy["audio"], clean["audio"]) > 1e-6
    plain.load_state_dict(talker.state_dict())
    made = [generate(model, batch, 3) for model in (talker, plain)]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


@pytest.mark.parametrize("heads", COUPLED[:2])
def test_coupled_heads_say_what_they_need(heads):
    with pytest.raises(ValueError, match="leave --motion_delay out"):
        tiny_talker(heads=heads, motion_delay=1)
    talker, config = tiny_talker(heads=heads)
    _, inputs, _ = talker.teacher_forced(**random_batch(config))
    with pytest.raises(ValueError, match="need audio, motion; there is only audio"):
        talker.heads.sample({"audio": inputs["audio"]}, torch.zeros)


def test_a_condition_of_each_patch_is_that_of_all():
    """What `per_patch` accepts: (B, G), or the same as (B, N, G)."""
    talker, config = tiny_talker()
    _, inputs, _ = talker.teacher_forced(**random_batch(config))
    wide = {name: x._replace(condition=x.condition[:, None].expand(-1, x.mask.shape[1], -1))
            for name, x in inputs.items()}
    one, _ = talker.heads.loss(inputs, torch.Generator().manual_seed(0))
    two, _ = talker.heads.loss(wide, torch.Generator().manual_seed(0))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", ["InterleavedTalker", "MotionFirstTalker"])
def test_interleaved_generation_is_the_inverse_of_training(name):
    """Given all patches, generation passes the hidden states that training does, and a patch of
    one stream reaches the other's of the same moment where it precedes it."""
    talker, config = tiny_talker(talker=f"lab.ablations.interleaved:{name}")
    batch = random_batch(config, batch=1, patches=3)
    # About a symbol and a half per patch.
    torch.nn.init.constant_(talker.alignment.out.bias, 1.5)
    places = record_places(talker)
    seen = []
    sample = talker.heads.sample
    talker.heads.sample = lambda given, *rest, **options: (
        seen.append((next(iter(given)), next(iter(given.values())))) or sample(given, *rest))
    generate(talker, batch, 3, given=batch["latents"])
    # The text is spoken up to where generation finds that it is, after each patch of the audio.
    ends = places[1:][talker.order.index("audio")::2]
    batch["spoken"] = torch.cat(ends, 1).repeat_interleave(config.patch, 1)
    assert len(ends) == 3 and 0 < ends[0] < ends[2]
    hidden, inputs, _ = talker.teacher_forced(**batch)
    for place, (stream, x) in enumerate(seen):
        expected = inputs[stream].hidden[:, place // 2:place // 2 + 1]
        assert error(x.hidden, expected) < 1e-5
    assert [stream for stream, _ in seen[:2]] == talker.order

    first, second = talker.order
    other = {n: x.clone() for n, x in batch["latents"].items()}
    other[first][:, :config.patch] += 1
    _, changed, _ = talker.teacher_forced(**batch | dict(latents=other))
    assert torch.equal(changed[first].hidden[:, 0], inputs[first].hidden[:, 0])
    assert error(changed[second].hidden[:, 0], inputs[second].hidden[:, 0]) > 1e-3


@pytest.mark.parametrize("name", ["InterleavedTalker", "MotionFirstTalker"])
def test_interleaved_talkers_learn_and_follow_the_text(name):
    talker, config = tiny_talker(talker=f"lab.ablations.interleaved:{name}")
    batch = random_batch(config)
    loss, log = talker(**batch)
    loss.backward()
    assert {"audio", "motion", "alignment", "stop"} <= log.keys()
    still = [n for n, p in talker.named_parameters() if p.grad is None]
    assert all("absent" in n or n.startswith("task") for n in still)
    assert {n: x.shape[1] for n, x in generate(talker, batch, 4).items()} == {
        "audio": 4 * config.patch, "motion": 4 * config.patch}


def test_a_cascade_speaks_before_it_moves():
    """The speech does not depend on the second Talker, and the motion depends on all of the speech
    that precedes it."""
    talker, config = tiny_talker(talker="lab.ablations.cascade:CascadeTalker", motion_delay=1)
    batch = random_batch(config)
    loss, log = talker(**batch)
    loss.backward()
    assert {"audio", "motion", "audio_regression", "motion_regression"} <= log.keys()
    assert talker.heads.heads["audio"].out.weight.grad is not None
    assert talker.heads.heads["motion"].out.weight.grad is not None

    made = generate(talker, batch, 5)
    assert made["audio"].shape[1] == made["motion"].shape[1] == 4 * config.patch
    talker.encoders["motion"].project.weight.data.add_(1)
    again = generate(talker, batch, 5)
    assert torch.equal(made["audio"], again["audio"])
    assert error(made["motion"], again["motion"]) > 1e-4
    # Another last patch of a given speech changes the last motion alone.
    speech = made["audio"].clone()
    speech[:, -config.patch:] += 1
    other = generate(talker, batch, 5, given={"audio": speech})
    same = generate(talker, batch, 5, given={"audio": made["audio"]})
    assert error(other["motion"][:, :-config.patch], same["motion"][:, :-config.patch]) < 1e-5
    assert error(other["motion"][:, -config.patch:], same["motion"][:, -config.patch:]) > 1e-4


def test_dual_branches():
    """They learn from all that they have, padding changes nothing, and a length is kept."""
    talker, config = tiny_talker(talker="lab.ablations.dual_branch:DualBranchTalker")
    batch = random_batch(config, patches=8)
    loss, log = talker(**batch)
    loss.backward()
    assert {"audio", "motion", "length"} <= log.keys()
    assert all(p.grad is not None for p in talker.parameters())

    # Sample 1 has fewer frames and a shorter text. Alone, without padding, it is the same.
    long = batch["frames"]["audio"]
    states, length = talker.read(batch["text"], batch["text_mask"])
    x = batch["latents"]
    t = torch.full((len(long),), 0.5)
    found = talker.velocities(x, t, states, batch["text_mask"], long, batch["conditions"])
    own = int(long[1])
    text = batch["text"][1:2, 3:]
    alone, one = talker.read(text, text > 0)
    assert error(one, length[1:2]) < 1e-5
    conditions = {name: c[1:2] for name, c in batch["conditions"].items()}
    single = talker.velocities({name: y[1:2, :own] for name, y in x.items()}, t[:1], alone,
                               text > 0, long[1:2], conditions)
    for name in single:
        assert error(single[name], found[name][1:2, :own]) < 1e-4

    # A length that is fixed from outside.
    assert generate(talker, batch, 8, shortest=8)["audio"].shape[1] == 8 * config.patch

    given = generate(talker, batch, 8, given={"audio": x["audio"]})
    assert torch.equal(given["audio"], x["audio"])
    assert given["motion"].shape == x["motion"].shape


def test_guidance_of_dual_branches_is_about_the_frames_of_a_sample(monkeypatch):
    """A shorter sample of a batch is the same as alone, with the same noise."""
    talker, config = tiny_talker(talker="lab.ablations.dual_branch:DualBranchTalker")
    batch = random_batch(config)
    read = talker.read
    fixed = torch.randn(3, 8 * config.patch, 64)

    def sampled(rows: slice, patches: list[int]) -> dict:
        length = torch.tensor(patches).mul(config.patch).log()
        monkeypatch.setattr(talker, "read", lambda *text: (read(*text)[0], length))
        steps = talker.generate(
            batch["text"][rows], batch["text_mask"][rows],
            {name: c[rows] for name, c in batch["conditions"].items()},
            lambda shape: fixed[rows, :shape[1], :shape[2]], 8, steps=4, guidance=3.0)
        made = [patch for patch, _ in steps]
        return {name: torch.cat([patch[name] for patch in made], 1) for name in made[0]}

    together = sampled(slice(None), [8, 8, 5])
    alone = sampled(slice(2, 3), [5])
    for name, x in alone.items():
        assert error(x, together[name][2:, :5 * config.patch]) < 1e-5


@pytest.mark.parametrize("heads", COUPLED)
def test_heads_can_sample_fast(heads, capsys):
    """engine/sampling.py may replace what it knows, and samples the same."""
    talker, config = tiny_talker(heads=heads)
    batch = random_batch(config)
    before = generate(talker, batch, 3)
    sampling.install(talker, torch.float32)
    after = generate(talker, batch, 3)
    assert all(error(after[name], before[name]) < 1e-3 for name in before)
    # The transformers of cross heads see each other block by block, which it does not know.
    first = talker.heads["audio"]
    assert isinstance(first.transformer, sampling.FusedTransformer) == ("Cross" not in heads)
    assert isinstance(first, sampling.FusedHead) == ("Follow" in heads or "Lead" in heads)
    assert ("sampling as model.py does" in capsys.readouterr().err) == ("Cross" in heads)


def test_experiments_name_others():
    names = {x.name for x in EXPERIMENTS}
    assert len(names) == len(EXPERIMENTS)
    for experiment in EXPERIMENTS:
        assert {experiment.trained, experiment.chosen_for, experiment.minus} <= names | {""}


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_experiments_are_tried_out(experiment):
    """All of them learn and sample; what would not is found before a run."""
    trained = next(x for x in EXPERIMENTS if x.name == (experiment.trained or experiment.name))
    small = ["--config", "tiny", *COMMON, *trained.settings]
    ablate.try_out(experiment, small)
    wrong = experiment._replace(sampling=dict(stepps=4))
    with pytest.raises(TypeError, match="stepps"):
        ablate.try_out(wrong, small)


# --------------------------------------------------------------------------------- the measures
def moving(n: int, T=80) -> list[Sample]:
    """Clips whose latents are an opening of the mouth, smooth and random, in another basis."""
    rng = np.random.default_rng(0)
    audio, motion = rng.standard_normal((2, 1, 4))
    clips = []
    for i in range(n):
        opening = np.convolve(rng.standard_normal(T + 8), np.ones(5) / 2, "same")[4:-4]
        rows = opening[:, None].astype(np.float32)
        clips.append(Sample(f"bin {i}", 0, rows @ audio + 0.05 * rng.standard_normal((T, 4)),
                            rows @ motion + 0.05 * rng.standard_normal((T, 4)),
                            np.zeros(3, np.float32), opening.astype(np.float32)))
    return clips


@pytest.fixture(scope="module")
def probes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "train_syncnet",
                      functools.partial(measures.train_syncnet, steps=500))
        return measures.fit_probes(moving(60))


def shifted(clips, frames):
    return [Sample(x.text, 0, x.audio, np.roll(x.motion, frames, 0), x.pose) for x in clips]


def test_measures_put_shifts_into_their_order(probes):
    clips = moving(20)
    rows = [measures.sync_figures(probes, shifted(clips, frames)) for frames in (0, 1, 2, 5)]
    assert rows[0]["sync"] > 0.9 > rows[1]["sync"] > rows[2]["sync"] > rows[3]["sync"]
    assert rows[0]["lag"] == 0 and rows[1]["lag"] == 100
    assert rows[0]["offset"] < 10
    others = measures.sync_figures(probes, measures.crossed(clips, clips[1:] + clips[:1]))
    assert abs(others["sync"]) < 0.3
    assert others["LSE-C"] < 0.5 * rows[0]["LSE-C"] and others["LSE-D"] > rows[0]["LSE-D"]


def test_diversity_is_that_of_the_timing(probes):
    clips = moving(20)
    assert measures.diversity(probes, clips, clips) < 1e-6
    late = [Sample(x.text, 0, np.roll(x.audio, 1, 0), x.motion, x.pose) for x in clips]
    longer = [Sample(x.text, 0, np.concatenate((x.audio, x.audio)), x.motion, x.pose)
              for x in clips]
    others = clips[1:] + clips[:1]
    assert measures.diversity(probes, clips, longer) < 1e-2
    assert 0.1 < measures.diversity(probes, clips, late) < 0.5
    assert 0.7 < measures.diversity(probes, clips, others) < 1.3


def test_offset_has_syncnets_sign(probes):
    """The distance is least where the audio window is taken later by the offset: motion that comes
    3 frames late matches audio 3 frames earlier."""
    offsets = [measures.lip_sync_error(probes.syncnet, x)[2] for x in shifted(moving(10), 3)]
    assert np.median(offsets) == -3


def test_a_shift_is_found_to_a_fraction_of_a_frame():
    seconds = (np.arange(50) + 0.5) / 25

    def opening(closed):
        return 1 - np.exp(-((seconds - closed) / 0.08) ** 2)

    for late in (0.0, 0.013, -0.027, 0.04):
        found = measures.local_shift(opening(1.0), opening(1.0 + late), 1.05)
        assert abs(found - 1000 * late) < 3
    # About the ends of a clip there is less to see, but no error.
    assert abs(measures.local_shift(opening(0.1), opening(0.1), 0.0)) < 3
    assert abs(measures.local_shift(opening(1.9), opening(1.9), 9.0)) < 3


def test_frechet_distance():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20000, 3))
    assert measures.frechet(rows, rows) < 1e-9
    # Two normal distributions: |difference of means|^2 + the sum of (difference of deviations)^2.
    assert measures.frechet(2 * rows + 1, rows) == pytest.approx(3 + 3, rel=0.05)


# ----------------------------------------------------------------------------------- statistics
def test_sign_flip_and_interval():
    assert report.sign_flip(np.ones(5)) == pytest.approx(2 / 32)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((5, 400))
    assert report.sign_flip(noise.mean(0)) > 0.05 > report.sign_flip(noise.mean(0) + 0.2)
    low, high = report.interval(noise + 1, draws=1000)
    assert low < (noise + 1).mean() < high and high - low < 0.3
    # Five values of deviation 1: the interval is 2 x 2.78 / sqrt 5 wide.
    values = np.array([-1.0, -1, 0, 1, 1])
    assert report.student(values) == pytest.approx(2.78 * values.std(ddof=1) / 5 ** 0.5)
    assert np.isnan(report.student(values[:1]))


def test_tables_compare_what_may_be_compared():
    def row(corpus, name, phones, settings=(), frozen="f", **more):
        return dict(corpus=corpus, name=name, seed=0, frozen=frozen, sentences=400, **more,
                    settings=list(settings), figures={"phones": phones, "FD audio": 1.0,
                                                      "FD motion": 2.0, "LSE-C": 0.5,
                                                      "LSE-D": 0.25})

    delay = ["--motion_delay=1"]
    rows = [row("open", "separate", 3.0), row("free", "truth", 1.0),
            row("free", "delay1", 2.5, delay), row("free", "delay1", 9.0, delay, "other"),
            row("free", "delay1", 9.0, [*delay, "--layers=2"])]
    assert report.groups_of(rows) == {
        "`free`, 400 sentences": {"f": rows[1:3], "other": rows[3:4]},
        "`free`, 400 sentences, --layers=2": {"f": [rows[1], rows[4]]},
        "`open`": {"f": rows[:1]}}
    # A result of other settings than the experiment's own is not taken for another seed of it.
    for old in (row("free", "delay1", 9.0, ["--motion_delay=2"]), row("free", "delay7", 9.0)):
        with pytest.raises(ValueError, match="is of no experiment"):
            report.groups_of([*rows, old])
    # Differences are tabled where there is what an experiment is compared with.
    assert "p, sentences" not in report.tables(rows[:1])
    both = [row("free", name, 2.0, next(x.settings for x in EXPERIMENTS if x.name == name),
                sync=[0.9], control=[0.5]) for name in ("patch2", "follow_patch2")]
    assert "| follow_patch2 - patch2 " in report.tables(both)
    # Only runs of the same frozen parts are paired; each set has a pair of its own. Both pairs are
    # of one seed, which counts once.
    elsewhere = [x | {"frozen": "other", "sync": [0.9 + 0.12 * place]}
                 for place, x in enumerate(both)]
    assert len(report.pairs(both + elsewhere, "follow_patch2", "patch2")) == 2
    assert not report.pairs([both[0], elsewhere[1]], "follow_patch2", "patch2")
    beginning = "follow_patch2 - patch2 | +0.0600 |     2 |        1 of 1 | "
    assert beginning in report.tables(both + elsewhere)
    another = [x | {"seed": 1} for x in both]
    beginning = "follow_patch2 - patch2 | +0.0300 |     3 |        1 of 2 | -0.3513 to +0.4113"
    assert beginning in report.tables(both + elsewhere + another)
    assert "p, sentences" not in report.tables([both[0], elsewhere[1]])
    # Ours at the left, the paper's at the right.
    line = report.paper_table(rows[1:3]).splitlines()[-1]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "delay1", "2.5", "14.2", "1.00", "3.15", "2.00", "299", "0.500", "5.78", "0.250", "9.03"]


# --------------------------------------------------------------------------------------- the kit
def test_the_kit_at_tiny(tiny_run, tmp_path, monkeypatch):
    """Two experiments, and one that samples the talkers of another; then the tables."""
    monkeypatch.setitem(CORPORA, "free", Corpus(dict(timing="free", clips=12), 4))
    monkeypatch.setattr(ablate, "GUIDANCES", (1.0, 2.0))
    monkeypatch.setattr(ablate, "TEMPERATURES", (0.5,))
    monkeypatch.setattr(ablate, "SETS", {"fit": ("train", 20), "dev": ("dev", 4),
                                         "test": ("test", 6)})
    few_steps = functools.partial(measures.train_syncnet, steps=20)
    monkeypatch.setattr(measures, "train_syncnet", few_steps)
    small = [f"--{name}={value}" for name, value in train.PRESETS["tiny"].items()
             if name in ("width", "layers", "attention_heads", "kv_heads", "head_dim", "mlp_width",
                         "patch_heads", "flow_width", "flow_layers", "flow_heads", "talker_steps",
                         "talker_batch", "log_every", "euler_steps")]
    base = tmp_path / "free" / "base"
    ablate.prepare("free", tiny_run, base, 20)
    # Nothing is made twice, and nothing is taken for something else.
    written = (base / "latents" / "meta.json").stat().st_mtime_ns
    ablate.prepare("free", tiny_run, base, 20)
    assert (base / "latents" / "meta.json").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="made of other frozen parts or other clips"):
        ablate.prepare("free", tiny_run, base, 10)

    results = tmp_path / "results.jsonl"
    rows = [ablate.truth_row("free", base)]
    steps4 = next(x for x in EXPERIMENTS if x.name == "steps4")
    for name in ("separate", "follow", "follow_same", "steps4"):
        experiment = next(x for x in EXPERIMENTS if x.name == name)
        own = ablate.identity(experiment, "free", 0, base, small)
        rows.append(ablate.run_one(experiment, "free", 0, tmp_path, small))
        assert own.items() <= rows[-1].items()
        for _ in range(2):
            ablate.add_line(results, rows[-1], own)
    assert ablate.read_results(results) == rows[1:]
    with pytest.raises(ValueError, match="other settings .layers was 2, is 3.: give"):
        ablate.run_one(steps4, "free", 0, tmp_path, [*small, "--layers=3"])
    # Nor is one taken that was trained with settings that are not given now.
    without = [word for word in small if not word.startswith("--width")]
    with pytest.raises(ValueError, match="other settings .width was "):
        ablate.run_one(steps4, "free", 0, tmp_path, without)
    assert rows[4]["sampling"]["steps"] == 4
    assert rows[3]["sampling"] == rows[1]["sampling"]
    # A length that is fixed from outside.
    models = Models(tmp_path / "free" / "separate" / "seed0", "cpu")
    truth = ablate.true_samples(base, "test")
    options = dict(guidance=1.0, temperature=0.5, true_length=True)
    made = ablate.draw(models, truth, ablate.load_references(base), 0, options)
    patch = models.config.patch
    assert [len(x.audio) for x in made] == [len(x.audio) // patch * patch for x in truth]
    # Two readings of a sentence differ, and two samples of it.
    assert all(0 < row["figures"]["diversity"] < 2 for row in rows)
    assert [x["guidance"] for x in rows[1]["tried"]] == [1.0, 2.0]
    text = report.tables(rows)
    assert "| follow" in text and "| follow - separate" in text
    pytest.importorskip("matplotlib")
    report.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_the_opening_of_real_clips_is_read_off_their_pictures(tmp_path, monkeypatch):
    clips = data.SyntheticCorpus("train", 16, range(2), sentences="grid")
    for number in range(len(clips)):
        clip = clips[number]
        write_clip(tmp_path / "clips" / f"{number}.mp4", clip.video, clip.audio, 16000)
        (tmp_path / "clips" / f"{number}.txt").write_text(clip.text)
    run = tmp_path / "run"
    command("train.py", "--config", "tiny", "--data", tmp_path / "clips", "--out_dir", run)
    monkeypatch.setattr(ablate, "SETS", {"fit": ("train", 300)})

    with pytest.raises(ValueError, match="needs the frozen parts of a run without --data"):
        ablate.prepare("free", run, tmp_path / "free", None)
    base = tmp_path / "grid" / "base"
    ablate.prepare("grid", run, base, None)
    assert list(ablate.load_references(base)) == [0]
    found = ablate.true_samples(base, "fit")
    true = {clips[i].text: clips[i].opening for i in range(len(clips))}
    openings = [true[sample.text][:len(sample.opening)] for sample in found]
    assert len(found) > 10
    agreement = [np.corrcoef(x.opening, y)[0, 1] for x, y in zip(found, openings)]
    assert np.mean(agreement) > 0.6


def test_guidance_is_chosen_among_those_that_speak_well():
    def row(number, phones, long, sync):
        return {"guidance": number, "phones": phones, "x truth": long, "sync": sync}

    rows = [row(1, 2.0, 1.12, 0.99), row(2, 2.5, 1.04, 0.97), row(3, 2.8, 0.97, 0.98),
            row(4, 3.5, 1.00, 0.99)]
    assert ablate.best_sampling(rows)["guidance"] == 3
    # 5 % are allowed.
    rows = [row(1, 2.0, 1.05, 0.99), row(2, 2.5, 1.01, 0.97)]
    assert ablate.best_sampling(rows)["guidance"] == 1
    # One at the edge does not let in what is beyond it.
    rows = [row(1, 2.0, 1.055, 0.99), row(2, 2.5, 1.045, 0.97)]
    assert ablate.best_sampling(rows)["guidance"] == 2
    # Where all are too long, the least of them.
    rows = [row(1, 2.0, 1.12, 0.99), row(2, 2.5, 1.08, 0.97)]
    assert ablate.best_sampling(rows)["guidance"] == 2


def test_bad_words_are_named(tmp_path, monkeypatch, capsys):
    assert "follow" in command("-m", "lab.ablate", "--list")
    expected = {
        ("--only", "nothing"): "there is no experiment",
        ("--frozen", tmp_path, "--out", tmp_path): "holds no trained model",
        ("--out_dir=a",): "leave --out_dir=a out",
        ("--seed=4",): "leave --seed=4 out",
        ("--guidance=3",): "leave --guidance=3 out",
        ("--seed", "3"): "which is --name=value",
        ("--heads=lab.ablations.follow:Nobody",): "Nobody"}
    for words, text in expected.items():
        code, said = said_here(ablate.main, monkeypatch, capsys, *words)
        assert code == 2 and text in said
