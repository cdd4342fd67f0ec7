"""The experiments of lab.ablate: what is changed, and which claim that tests.

An experiment is an entry of EXPERIMENTS. What can't be said by settings of train.Config is a class
in a file of this folder: of heads (`--heads=lab.ablations.follow:FollowHeads`), or a Talker
(`--talker=lab.ablations.interleaved:InterleavedTalker`).

To add one: write the class, if it needs one, and add the entry. If heads are to have as many
parameters as separate ones, add its name to the first test of tests/test_ablate.py; if they couple
the streams, add the class to COUPLED there. Then try it by

    python -m lab.ablate --only NAME --n 20 --out out/trial --results out/trial.jsonl \
        --talker_steps=20
    python -m lab.ablate --report --results out/trial.jsonl

Results are compared only with those of the same frozen parts, and each kind of machine makes others
of the same code and seed. So run what it is to be compared with as well, in the same folder of
frozen parts:

    python -m lab.ablate --corpus open --only separate NAME --seeds 0 1 2

What heads have to do (heads.SeparateHeads, model.HeadInput): `loss` takes every stream of every
patch; `sample` takes one patch, N = 1, and returns all streams that it is given, those with a
target as they are. Before a delay has passed a stream is missing. noise(shape) is called in the
order of the modalities, and is all that is random. With drop_history == 1 the history is zero.

What a Talker has to do: it has `modalities`, `leader` and the buffer `longest_seen`; `forward`
returns the loss and what to log, and `generate` yields (name -> patch, finished), both with the
arguments of model.Talker. InterleavedTalker hands its heads one stream at a time, so that it goes
with separate heads alone.

What runs of one training seed have in common is the order of the batches. They have the first
weights in common only where their models have the same layers, made in the same order: such as
cross, delay1, interleaved and motion_weight8 have those of separate heads, joint and follow have
none. Sentence i of the test is sampled with the seeds i and 1000 + i in every run.

A finished run is known by its name, seed and settings. Where the code, the steps or the sampling of
an experiment change, its old results stay: give it another name, or delete its folder and its lines
of the results.
"""
from typing import NamedTuple


class Experiment(NamedTuple):
    name: str
    claim: str                      # what it tests, in a sentence
    settings: tuple[str, ...] = ()  # of train.py, beside those of COMMON
    trained: str = ""               # an experiment whose talkers it samples otherwise; none is
    #                                 trained then
    sampling: dict = {}             # options of heads.FlowHead.sample; motion_temperature, and
    #                                 true_length: as many patches as the true clip has
    chosen_for: str = ""            # an experiment whose guidance and temperature it takes
    steps: float = 1.0              # by this the corpus's steps are multiplied
    minus: str = "separate"         # the experiment whose sync and coupling are taken off its own
    #                                 in the tables of differences


# Settings of `small` that all experiments share, so that a run takes minutes: narrower heads, and
# no speech without video, which heads that are coupled could not learn from.
COMMON = ("--flow_width=128", "--flow_heads=2", "--speech_only=0")


class Corpus(NamedTuple):
    changes: dict                   # settings that differ from the run whose frozen parts encode it
    steps: int                      # of a talker
    preset: str = "small"
    real: bool = False              # real clips, those of the run (train.py --data)


CORPORA = {
    "free": Corpus(dict(sentences="grid", timing="free", clips=3500), 1000),
    "open": Corpus(dict(clips=4000), 1200),
    "grid": Corpus({}, 1300, "grid", real=True),
}

COUPLED = "--heads=lab.ablations.coupled"
FOLLOW = "--heads=lab.ablations.follow"
HISTORY = "--heads=lab.ablations.history"
TURNS = "--talker=lab.ablations.interleaved"

EXPERIMENTS = [
    Experiment("separate", "the paper: the heads share nothing but the hidden state"),
    Experiment("joint", "one transformer over the tokens of both streams agrees on what is random "
               "inside a patch", (f"{COUPLED}:JointHeads", "--flow_width=180", "--flow_heads=3")),
    Experiment("cross", "two heads that attend to each other in every block do so as well",
               (f"{COUPLED}:CrossHeads",)),
    Experiment("follow", "so does a motion head that is given the audio patch just sampled",
               (f"{FOLLOW}:FollowHeads",)),
    Experiment("lead", "and the other way round, an audio head that is given the motion patch",
               (f"{FOLLOW}:LeadHeads",)),
    Experiment("delay1", "a motion that lags by a patch knows the audio by the hidden state",
               ("--motion_delay=1",)),
    Experiment("delay3", "a longer lag adds nothing", ("--motion_delay=3",)),
    Experiment("interleaved", "a sequence of twice the length, audio first, couples through the "
               "backbone", (f"{TURNS}:InterleavedTalker",)),
    Experiment("motion_first", "and motion first", (f"{TURNS}:MotionFirstTalker",)),
    Experiment("cascade", "two talkers of half the depth, text to speech and speech to motion",
               ("--talker=lab.ablations.cascade:CascadeTalker", "--layers=2", "--motion_delay=1")),
    Experiment("dual_branch", "two diffusion transformers over the whole clip, no language model",
               ("--talker=lab.ablations.dual_branch:DualBranchTalker", "--attention_heads=6",
                "--kv_heads=6", "--width=168"), sampling=dict(steps=16)),
    Experiment("shared", "streams may share the weights of a head, as large as both",
               (f"{COUPLED}:SharedHeads", "--flow_width=180", "--flow_heads=3")),
    # At equal time: steps by the CPU seconds that each took, .30, .25 and .63.
    Experiment("half_width", "a language model of half the width and more steps is enough",
               ("--width=96", "--attention_heads=2", "--kv_heads=1", "--mlp_width=256"),
               steps=1.2),
    Experiment("double_width", "or one of twice the width and fewer steps is better",
               ("--width=384", "--attention_heads=8", "--kv_heads=4", "--mlp_width=1024"),
               steps=0.48),
    Experiment("patch2", "patches of 80 ms leave less that is random inside them",
               ("--patch=2", "--stop_hits=3")),
    Experiment("follow_patch2", "and a motion head that is given the audio gains less from it",
               (f"{FOLLOW}:FollowHeads", "--patch=2", "--stop_hits=3"), minus="patch2"),
    Experiment("patch8", "patches of 320 ms leave more", ("--patch=8", "--stop_hits=1")),
    Experiment("no_history", "the heads need the patch before", ("--drop_history=1",)),
    Experiment("history2", "and the one before that adds nothing",
               (f"{HISTORY}:LongHistoryHeads",)),
    Experiment("noisy_history", "noise on the history makes generation forgive its own errors",
               (f"{HISTORY}:NoisyHistoryHeads",)),
    Experiment("motion_weight8", "the paper's weight of the motion", ("--motion_weight=8",)),
    Experiment("speech_only.1", "a tenth of speech without video costs no sync",
               ("--speech_only=0.1",)),
    Experiment("speech_only.5", "nor does the paper's half", ("--speech_only=0.5",)),
    Experiment("no_regression", "the auxiliary regression is what teaches a small model to read",
               ("--regression_weight=0",)),
    Experiment("no_alignment", "the alignment is needed for long sentences only",
               ("--alignment_weight=0",)),
    Experiment("head_condition", "the voice must be told to the language model too, not to the "
               "audio head alone", ("--condition_backbone=False",)),
    # Guidance and temperature are chosen for each experiment; these share one choice.
    *(Experiment(f"{name}_same", "at the guidance and temperature of separate heads",
                 trained=name, chosen_for="separate")
      for name in ("joint", "cross", "follow", "lead", "delay1", "cascade")),
    Experiment("follow_patch2_same", "at those of separate heads with patches of two frames",
               trained="follow_patch2", chosen_for="patch2", minus="patch2"),
    Experiment("separate_as_follow", "and separate heads at those of follow", trained="separate",
               chosen_for="follow", minus="follow"),
    *(Experiment(f"{name}_guidance{guidance}", "guidance hides what the heads agree on",
                 trained=name, sampling=dict(guidance=float(guidance), temperature=0.3),
                 minus="separate" if name == "separate" else f"separate_guidance{guidance}")
      for guidance in (1, 2) for name in ("separate", "joint", "follow")),
    Experiment("dual_branch_true", "two branches fall behind by the length that they predict",
               trained="dual_branch", sampling=dict(steps=16, true_length=True),
               minus="dual_branch"),
    Experiment("steps4", "four Euler steps in place of eight are too few", trained="separate",
               sampling=dict(steps=4)),
    Experiment("steps16", "sixteen are no better", trained="separate", sampling=dict(steps=16)),
    Experiment("no_zero_star", "CFG-Zero* helps", trained="separate",
               sampling=dict(zero_star=False)),
    Experiment("no_sway", "sway sampling helps", trained="separate", sampling=dict(sway=0.0)),
    Experiment("motion.3", "a motion as cold as the audio is in better sync", trained="separate",
               sampling=dict(motion_temperature=0.3)),
    Experiment("follow_motion.3", "also where the motion is given the audio", trained="follow",
               sampling=dict(motion_temperature=0.3), minus="follow"),
]
