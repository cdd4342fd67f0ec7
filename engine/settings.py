"""The settings of a run: from the command line to a checked Config, and the run's folder.

    --config PRESET, then --field=value or --field value, by name and type;
    --from RUN takes the frozen parts and latents of another run, and their settings;
    --crop x,y,size.

The run's folder keeps its settings in config.json, and `open_run` refuses to go on with others.
A field that a fork adds to Config needs no change here: its type and default value say what may be
given for it.
"""
import dataclasses
import difflib
import functools
import json
import os
import re
import shutil
import sys
from pathlib import Path

import torch

from data import ALPHABETS, KINDS, SHORTEST, TIMINGS, stable_hash
from engine.checkpoints import finished, load_checkpoint, replacing
from engine.lora import add_changes
from engine.media import read_json, write_json
from engine.processes import world
from engine.shards import read_meta

try:
    import fcntl
except ImportError:
    fcntl = None                # Windows has none, see lock_folder

# Fields that may change when a run is resumed: they do not decide what is trained, but for
# encode_first, which decides with how much it begins.
ALWAYS_FREE = {
    "out_dir", "log_every", "save_every", "fsdp", "device", "recompute", "encode_first",
    "euler_steps", "guidance", "temperature", "motion_temperature", "alignment_pace",
    "stop_hits", "stop_keeps", "stop_shortest"}
# Stages whose checkpoints `--from` copies.
FROZEN_STAGES = ("speaker", "audio", "motion")
# The fields that a stage's memory depends on.
SIZES = {
    "speaker": ("sample_rate", "audio_width", "speaker_size"),
    "audio": ("sample_rate", "audio_width", "audio_layers", "audio_bands", "audio_slow",
              "audio_fast", "audio_latent", "speaker_size"),
    "motion": ("size", "motion_coarse", "motion_fine", "motion_size"),
    "talker": ("width", "layers", "attention_heads", "kv_heads", "head_dim", "mlp_width",
               "patch_layers", "flow_width", "flow_layers", "audio_latent", "speaker_size",
               "motion_size")}
DEEPEST = 1000                  # layers. Each takes time to build, even where it has no memory.
LARGEST = 10 ** 12              # of any other integer: 64 bits hold what is computed from it


# --------------------------------------------------------------------------- the command line
def read_settings(arguments: list[str], Config, presets: dict[str, dict], about: str):
    """The words of a command line -> Config.

    Args:
        Config: a dataclass whose fields are str, int, float or bool, with `config`, `out_dir` and
            `from_run` among them, and those of the talker from `patch` on.
        presets: name -> what it changes of Config's defaults. about: the text of --help.

    An unknown field, preset or value is a ValueError that says what was meant.
    """
    if {"-h", "--help"} & set(arguments):
        print(help_text(Config, presets, about))
        sys.exit(0)
    given = split_options(arguments)

    # The preset comes first, and decides what the other fields are.
    preset = given.get("config", "small")
    if preset not in presets:
        raise ValueError(f"there is no preset '{preset}'; there are: {', '.join(presets)}")
    config = Config(**{"config": preset, "out_dir": f"out/{preset}", **presets[preset]})

    # Then the fields that are given, each as its type reads it.
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    for name, text in given.items():
        if name not in types:
            near = difflib.get_close_matches(name, types, 1, 0)[0]
            raise ValueError(f"there is no field '{name}'; did you mean --{near} "
                             f"(now {getattr(config, near)!r})?")
        try:
            value = read_bool(text) if types[name] is bool else types[name](text)
        except ValueError:
            kind = "0 or 1, false or true" if types[name] is bool else types[name].__name__
            raise ValueError(f"--{name} is {kind} (now {getattr(config, name)!r}); "
                             f"'{text}' is not") from None
        setattr(config, name, value)

    # Last the frozen parts of another run. Its settings stand above the preset's.
    if config.from_run:
        adopt_frozen(config, set(given))
    return config


def help_text(Config, presets: dict[str, dict], about: str) -> str:
    lines = [about, f"Fields, with the values of small (presets: {', '.join(presets)}):"]
    for field in dataclasses.fields(Config):
        option = "from" if field.name == "from_run" else field.name
        lines.append(f"  --{option}={getattr(Config, field.name)!r}")
    return "\n".join(lines)


def split_options(arguments: list[str]) -> dict[str, str]:
    """['--seed', '3', '--data=x'] -> {'seed': '3', 'data': 'x'}. `--from` is --from_run, since
    Python keeps `from` for itself."""
    given = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"'{word}' is not an option; write --field=value or --field value")
        name, separator, value = word[2:].partition("=")
        if not separator:
            if not rest:
                raise ValueError(f"--{name} needs a value: --{name}=...")
            value = rest.pop(0)
        given["from_run" if name == "from" else name] = value
    return given


def read_bool(text: str) -> bool:
    """'1' or 'true' -> True, '0' or 'false' -> False, in any case; else a ValueError."""
    if text.lower() in ("1", "true"):
        return True
    if text.lower() in ("0", "false"):
        return False
    raise ValueError(text)


def parse_crop(crop: str) -> tuple | None:
    """'x,y,size' -> three numbers; 'x,y,size,720x576', for files of that size alone, -> the same
    and the rest as it stands; '' or 'centre' -> None, the centre square."""
    if crop in ("", "centre"):
        return None
    found = re.fullmatch(r"(\d+),(\d+),(\d+)(?:,(\d+x\d+|unknown))?", crop.replace(" ", ""))
    if not found or int(found[3]) < 2:
        raise ValueError(f"--crop is x,y,size in pixels, such as 60,20,240; '{crop}' is not")
    numbers = tuple(int(number) for number in found.groups()[:3])
    return numbers + ((found[4],) if found[4] else ())


# ------------------------------------------------------------------------------------- checks
def check_settings(config) -> None:
    """Raise ValueError for impossible settings, and say which are possible."""
    # Numbers count or measure something, so none is negative. An integer is at least 1, unless its
    # default value is 0: then 0 has a meaning.
    for field in dataclasses.fields(config):
        if field.type not in (int, float):
            continue
        lowest = 1 if field.type is int and field.default != 0 else 0
        value = getattr(config, field.name)
        if not value >= lowest:               # NaN is not, either
            raise ValueError(f"--{field.name} must be at least {lowest}, not {value}")
        highest = DEEPEST if field.name.endswith("layers") else LARGEST
        if field.type is int and value > highest:
            raise ValueError(f"--{field.name} must be at most {highest}, not {value}")

    # The first Euler step does not move (heads.py).
    if config.euler_steps < 2:
        raise ValueError(f"--euler_steps must be at least 2, not {config.euler_steps}: the first "
                         "does not move")

    # Shares. A head that never sees a stream, or never draws a timestep, would learn nothing.
    for name in ("drop_hidden", "drop_history", "short_first", "speech_share"):
        value = getattr(config, name)
        if value > 1:
            raise ValueError(f"--{name} must be between 0 and 1, not {value}")
    if config.speech_only >= 1 or not config.flow_repeats:
        raise ValueError("--speech_only must be below 1 and --flow_repeats above 0, or a head "
                         "would learn nothing")

    of_speech = round(config.speech_share * config.talker_batch)
    if config.speech and not 0 < of_speech < config.talker_batch:
        raise ValueError(f"--speech needs a --speech_share of which some of the --talker_batch "
                         f"({config.talker_batch}) come, and not all; {config.speech_share} are "
                         f"{of_speech}")

    # Divisibility. Rotary positions turn pairs of channels, so every attention head has
    # an even number of channels.
    divisors = {
        "attention_heads": config.kv_heads,
        "head_dim": 2,
        "width": 2 * config.patch_heads,
        "flow_width": 2 * config.flow_heads,
        "size": 16,
        "sample_rate": 100}
    for name, divisor in divisors.items():
        value = getattr(config, name)
        if value % divisor:
            raise ValueError(f"--{name} ({value}) must be a multiple of {divisor} here")

    # Names.
    for name, allowed in (("tokens", [*ALPHABETS, "qwen"]), ("sentences", KINDS),
                          ("timing", TIMINGS), ("latent_dtype", ("float32", "float16"))):
        value = getattr(config, name)
        if value not in allowed:
            raise ValueError(f"--{name} is one of {', '.join(allowed)}, not '{value}'")

    # Combinations.
    if config.autoencoders not in ("small", "paper"):
        raise ValueError(f"--autoencoders is small or paper, not '{config.autoencoders}'")
    if config.whisper and config.autoencoders != "paper":
        raise ValueError("--whisper goes with --autoencoders=paper; the small ones train an "
                         "encoder of their own")
    if config.frozen and (config.autoencoders != "paper" or config.whisper):
        raise ValueError("--frozen goes with --autoencoders=paper, and brings its own Whisper")
    if config.lora and not config.start:
        raise ValueError("--lora trains small changes of given weights: say with --start which")
    if config.lora and config.fsdp:
        raise ValueError("--lora goes without --fsdp=1: what it trains is small")
    if config.wavlm and not config.frozen:
        raise ValueError("--wavlm goes with --frozen, the other released models")
    if config.fsdp and config.muon_rate:
        raise ValueError("--fsdp=1 needs --muon_rate=0: Muon works on whole matrices")
    # The shortest clip still has a patch after the jitter has cut off its start.
    if config.jitter + config.patch > SHORTEST:
        raise ValueError(f"--jitter and --patch are at most {SHORTEST} frames together, the "
                         "shortest clip's length")
    if config.alignment_weight and not config.aligned:
        raise ValueError("an alignment comes from what the small audio autoencoder reads: "
                         "--alignment_weight=0 goes with --tokens=qwen and --autoencoders=paper")


def check_memory(build, stages: list[str], config, there: float) -> None:
    """Before anything is trained: every stage can be built, and its parameters fit into memory.

    Args:
        build: build(stage, config) -> the model of a stage. ValueError for impossible sizes.
        there: bytes of memory on the device of the training.

    A parameter takes its weight, gradient and two moments of AdamW, 16 bytes in float32. What a
    batch takes comes on top and is not counted. ValueError if that alone is too much."""
    for stage in stages:
        # The fields to change are those that are larger than in small, if there are any.
        fields = SIZES.get(stage, ())
        large = [name for name in fields if getattr(config, name) > getattr(type(config), name)]
        fields = " ".join(f"--{name}={getattr(config, name)}" for name in large or fields)
        # On the meta device tensors have shapes and no memory.
        try:
            with torch.device("meta"):
                model = build(stage, config)
        except RuntimeError as error:
            # PyTorch counts bytes in 64 bits, and says so if that is not enough.
            raise ValueError(f"the model of the stage {stage} can't be built ({fields}): "
                             f"{str(error).splitlines()[0]}") from error
        if stage == "talker" and config.lora:
            add_changes(model, config.lora)
        # With --from the frozen parts are there, and are not trained.
        if config.from_run and stage in FROZEN_STAGES:
            continue
        needed = sum(p.numel() * (16 if p.requires_grad else 4) for p in model.parameters())
        if config.fsdp and stage == "talker":
            needed /= world()
        if needed > there:
            raise ValueError(
                f"the stage {stage} needs {needed / 1e9:,.1f} GB for weights, gradients and the "
                f"optimizer's state, and there are {there / 1e9:,.1f} GB of memory: make it "
                f"smaller (it has {fields})")


# -------------------------------------------------------------------------------- another run
def frozen_fields(Config) -> list[str]:
    """The fields that concern the frozen parts and the latents: those before `patch`, but for the
    names of the run itself and its seed, since several talkers may share frozen parts."""
    names = [field.name for field in dataclasses.fields(Config)]
    return [name for name in names[:names.index("patch")]
            if name not in ("config", "out_dir", "from_run", "seed")]


def same_setting(name: str, one, other) -> bool:
    """Whether two values of a setting are the same. A crop may have the size that it is for."""
    if name == "crop":
        one, other = parse_crop(one), parse_crop(other)
        if one and other and {len(one), len(other)} == {3, 4}:
            return one[:3] == other[:3]
    return one == other


def changed_settings(before, config, free=ALWAYS_FREE) -> list[str]:
    """What differs between the settings that a run was begun with and others, but for the fields
    `free`: a few words for each."""
    names = [field.name for field in dataclasses.fields(config)]
    return [f"{name} was {getattr(before, name)!r}, is {getattr(config, name)!r}"
            for name in names
            if name not in free
            and not same_setting(name, getattr(before, name), getattr(config, name))]


def adopt_frozen(config, given: set[str]) -> None:
    """With `--from RUN`: set the fields of the frozen parts to the values of RUN.

    given: names of the fields that the command line sets. One of another value than RUN's is a
    ValueError, and so is RUN's own folder as out_dir.
    """
    run = Path(config.from_run).resolve()
    out = Path(config.out_dir)
    if run == out.resolve():
        raise ValueError(f"--from {run} needs another --out_dir than {config.out_dir}: the run "
                         "that it takes the frozen parts from stays as it is")
    # The same folder is the same run, however it is spelt.
    config.from_run = str(run)
    theirs = None
    if (out / "config.json").exists():
        theirs = read_run_config(out, type(config))
    if theirs is None or theirs.from_run != config.from_run:
        # A run that has begun knows these settings itself, and RUN may be gone.
        theirs = read_run_config(run, type(config))
    for name in frozen_fields(config):
        value = getattr(theirs, name)
        if name in given and not same_setting(name, getattr(config, name), value):
            raise ValueError(
                f"--{name}={getattr(config, name)} does not go with --from {run}, whose frozen "
                f"parts were made with --{name}={value}: leave --{name} out, or --from")
        setattr(config, name, value)


def missing_stages(config) -> list[str]:
    """The frozen parts that out_dir does not hold yet."""
    out = Path(config.out_dir)
    return [stage for stage in FROZEN_STAGES if not (out / f"{stage}.pt").exists()]


def widths_of(config, modalities: dict) -> dict[str, int]:
    """The widths of all arrays of the latents, by name. modalities: name -> model.Modality."""
    widths = {}
    for name, modality in modalities.items():
        widths[name] = modality.latent
        widths[f"{name}_condition"] = modality.condition
    if config.aligned:
        widths["spoken"] = 1
    return widths


@functools.lru_cache
def frozen_digest(out: Path) -> str:
    """What tells the frozen parts of one run from those of another."""
    states = [load_checkpoint(out, stage) for stage in FROZEN_STAGES]
    sums = [round(float(x.double().sum()), 6) for state in states for x in state["model"].values()]
    released = [state["released"]["files"] for state in states if "released" in state]
    return stable_hash(sums + released)


def check_frozen(config, modalities: dict) -> None:
    """Before anything is written. ValueError where `--from RUN` lacks what is missing here, or
    where the latents that the talker would learn from are not those of `modalities`, name ->
    model.Modality."""
    run = Path(config.from_run)
    out = Path(config.out_dir)
    latents = out / "latents" / "meta.json"
    if config.from_run and config.speech:
        if not any((folder / "speech" / "meta.json").exists() for folder in (run, out)):
            raise ValueError(f"{run} holds no finished latents of its --speech (no "
                             f"speech/meta.json); `python train.py --out_dir {run} ...` makes them")
    if config.from_run:
        for stage in missing_stages(config):
            if not finished(run, stage):
                raise ValueError(f"{run} holds no finished {stage}.pt; `python train.py --out_dir "
                                 f"{run} ...` makes it")
        if not latents.exists():
            latents = run / "latents" / "meta.json"
            if not latents.exists():
                raise ValueError(f"{run} holds no finished latents (no latents/meta.json); "
                                 f"`python train.py --out_dir {run} ...` makes them")

    # Latents are made once. A modality that was added or removed since then needs new ones.
    if not latents.exists():
        return
    widths = widths_of(config, modalities)
    found = read_meta(latents.parent)["widths"]
    if widths.keys() - found.keys() == {"spoken"}:
        raise ValueError(
            f"{latents.parent} holds latents without the alignment that comes with them now: begin "
            "another run")
    if found != widths:
        raise ValueError(
            f"{latents.parent} holds latents of other modalities (widths {found}) than train.py "
            f"has now ({widths}): delete that folder to encode the clips anew, or begin another "
            "run")


def copy_frozen(config) -> None:
    """With `--from RUN`: put RUN's speaker.pt, audio.pt, motion.pt and latents into out_dir. What
    is there already stays; `check_frozen` has found the rest in RUN."""
    if not config.from_run:
        return
    run = Path(config.from_run)
    out = Path(config.out_dir)
    for stage in missing_stages(config):
        share(run / f"{stage}.pt", out / f"{stage}.pt")
    for folder in ("latents", "speech") if config.speech else ("latents",):
        if (out / folder / "meta.json").exists():
            continue
        meta = read_meta(run / folder)
        (out / folder).mkdir(parents=True, exist_ok=True)
        for name in meta["shards"]:
            share(run / folder / name, out / folder / name)
        # meta.json is the last one: without it latents count as unfinished. That of RUN may have
        # more shards by now.
        write_json(out / folder / "meta.json", meta)
        if config.encode_first:
            print(f"{folder}: of the first {meta['n']} clips, which is what {run} has encoded")


def share(source: Path, path: Path) -> None:
    """Let path be the same file as source, or, where the file system can't do that, a copy of it.
    A run that is killed meanwhile does the rest later."""
    path.unlink(missing_ok=True)
    try:
        # None of these files is ever written to: a new version of it is another file.
        os.link(source.resolve(), path)
    except OSError:
        with open(source, "rb") as original, replacing(path) as copy:
            shutil.copyfileobj(original, copy)


# --------------------------------------------------------------------------- the run's folder
def read_run_config(out: Path, Config):
    """The settings of a run, from <out>/config.json.

    A setting that did not exist when the run was made has its default value. One that is unknown
    now is a ValueError: the run was made by code that did something else.
    """
    path = Path(out) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{out} holds no trained model (no config.json); `python train.py "
                                f"--out_dir {out}` makes one")
    found = read_json(path)
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    unknown = sorted(found.keys() - types.keys())
    if unknown:
        raise ValueError(f"{out} was made by another version of nanoTalker, which differs in the "
                         f"settings {', '.join(unknown)}; train it again")
    for name, value in found.items():
        found[name] = setting(path, name, types[name], value)
    return Config(**found)


def setting(path: Path, name: str, kind: type, value):
    """A value of config.json as one of its field's type: a switch may be written as 0 or 1, and a
    number without a fraction. Anything else is a ValueError."""
    allowed = {bool: (bool, int), float: (float, int)}.get(kind, (kind,))
    if not isinstance(value, allowed) or isinstance(value, bool) and kind is not bool:
        raise ValueError(f"{path}: {name} is {value!r}, and should be of the type {kind.__name__}; "
                         "correct it, or train the run again")
    return bool(value) if kind is bool else value


def lock_folder(out: Path) -> None:
    """Make the run's folder, and keep other runs out of it for as long as this process lives. The
    system lifts the lock when the process ends, in whatever way. ValueError if another run has it.

    The processes that this one starts do not ask for it, nor do those of torchrun but for the
    first. On Windows, where there is no such lock, two runs in a folder are not noticed."""
    out.mkdir(parents=True, exist_ok=True)
    if not fcntl:
        return
    # Nothing closes this number, so the file stays open until the process ends.
    lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ValueError(f"another run is at work in {out}: wait until it is finished, or choose "
                         "another --out_dir") from None
    except OSError as error:
        print(f"{out} can't be locked ({error.strerror}): see that no other run works in it")


def open_run(config, clips: str, steps: dict[str, int]) -> None:
    """Make the run's folder, or reopen it. Other settings or clips than it was begun with are a
    ValueError. Lines of the log that are later than the checkpoints are dropped.

    Args:
        clips: the `key` of the corpus, which tells it from others.
        steps: stage -> where its checkpoint stands.
    """
    out = Path(config.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "config.json"

    # Without talker.pt, another talker may be trained on the same latents: its fields are free.
    # Latents that are there already stay, so it is too late to take those of another run.
    names = [field.name for field in dataclasses.fields(config)]
    free = set(ALWAYS_FREE)
    if (out / "latents" / "meta.json").exists() and not (out / "talker.pt").exists():
        free.update(names[names.index("patch"):])
        if not config.from_run:
            free.add("from_run")

    # Compare with the settings that the run was begun with.
    if path.exists():
        changed = changed_settings(read_run_config(out, type(config)), config, free)
        if changed:
            raise ValueError(f"{out} holds a run with other settings ({'; '.join(changed)}): "
                             f"choose another --out_dir, if need be with --from {out}, which takes "
                             f"its frozen parts; or delete {out} to start anew")
    index = out / "clips" / "index.json"
    if index.exists() and read_json(index).get("key") != clips:
        raise ValueError(f"{out} was begun on other clips than there are now: choose another "
                         f"--out_dir, or delete {out}")
    write_json(path, dataclasses.asdict(config))

    # Training repeats the steps after a checkpoint, and logs them again. A line that was cut off
    # when the run was killed goes too.
    log = out / "log.jsonl"
    if log.exists():
        kept = []
        for text in log.read_text(encoding="utf-8").splitlines():
            if not text.endswith("}"):
                continue
            line = json.loads(text)
            if line["step"] <= steps[line["stage"]]:
                kept.append(text + "\n")
        with replacing(log) as file:
            file.write("".join(kept).encode())
