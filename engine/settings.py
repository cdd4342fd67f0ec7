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
import json
import os
import shutil
import sys
from pathlib import Path

from data import ALPHABETS, KINDS, SHORTEST
from engine.checkpoints import finished
from engine.media import write_json

# Fields that may change when a run is resumed: none of them decides what is trained.
ALWAYS_FREE = {
    "out_dir", "log_every", "save_every", "fsdp",
    "euler_steps", "guidance", "temperature", "motion_temperature", "alignment_pace",
    "stop_hits", "stop_keeps", "stop_shortest"}
# Stages whose checkpoints `--from` copies.
FROZEN_STAGES = ("speaker", "audio", "motion")


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
        sys.exit(help_text(Config, presets, about))
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


def parse_crop(crop: str) -> tuple[int, int, int] | None:
    """'x,y,size' -> three numbers; '' or 'centre' -> None, the centre square."""
    if crop in ("", "centre"):
        return None
    try:
        x, y, size = (int(number) for number in crop.split(","))
    except ValueError:
        raise ValueError(
            f"--crop is x,y,size in pixels, such as 60,20,240; '{crop}' is not") from None
    return x, y, size


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

    # Shares. A head that never sees a stream, or never draws a timestep, would learn nothing.
    for name in ("drop_hidden", "drop_history", "short_first"):
        value = getattr(config, name)
        if value > 1:
            raise ValueError(f"--{name} must be between 0 and 1, not {value}")
    if config.speech_only >= 1 or not config.flow_repeats:
        raise ValueError("--speech_only must be below 1 and --flow_repeats above 0, or a head "
                         "would learn nothing")

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
    for name, allowed in (("tokens", [*ALPHABETS, "qwen"]), ("sentences", KINDS)):
        value = getattr(config, name)
        if value not in allowed:
            raise ValueError(f"--{name} is one of {', '.join(allowed)}, not '{value}'")

    # Combinations.
    if config.autoencoders not in ("small", "paper"):
        raise ValueError(f"--autoencoders is small or paper, not '{config.autoencoders}'")
    if config.whisper and config.autoencoders != "paper":
        raise ValueError("--whisper goes with --autoencoders=paper; the small ones train an "
                         "encoder of their own")
    if config.fsdp and config.muon_rate:
        raise ValueError("--fsdp=1 needs --muon_rate=0: Muon works on whole matrices")
    # The shortest clip still has a patch after the jitter has cut off its start.
    if config.jitter + config.patch > SHORTEST:
        raise ValueError(f"--jitter and --patch are at most {SHORTEST} frames together, the "
                         "shortest clip's length")
    if config.alignment_weight and not config.aligned:
        raise ValueError("an alignment comes from what the small audio autoencoder reads: "
                         "--alignment_weight=0 goes with --tokens=qwen and --autoencoders=paper")


# -------------------------------------------------------------------------------- another run
def frozen_fields(Config) -> list[str]:
    """The fields that concern the frozen parts and the latents: those before `patch`, but for the
    names of the run itself and its seed, since several talkers may share frozen parts."""
    names = [field.name for field in dataclasses.fields(Config)]
    return [name for name in names[:names.index("patch")]
            if name not in ("config", "out_dir", "from_run", "seed")]


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
        if name in given and getattr(config, name) != value:
            raise ValueError(
                f"--{name}={getattr(config, name)} does not go with --from {run}, whose frozen "
                f"parts were made with --{name}={value}: leave --{name} out, or --from")
        setattr(config, name, value)


def missing_stages(config) -> list[str]:
    """The frozen parts that out_dir does not hold yet."""
    out = Path(config.out_dir)
    return [stage for stage in FROZEN_STAGES if not (out / f"{stage}.pt").exists()]


def check_frozen(config, modalities: dict) -> None:
    """Before anything is written. ValueError where `--from RUN` lacks what is missing here, or
    where the latents that the talker would learn from are not those of `modalities`, name ->
    model.Modality."""
    run = Path(config.from_run)
    out = Path(config.out_dir)
    latents = out / "latents" / "meta.json"
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
    widths = {}
    for name, modality in modalities.items():
        widths[name] = modality.latent
        widths[f"{name}_condition"] = modality.condition
    if config.aligned:
        widths["spoken"] = 1
    found = json.loads(latents.read_text())["widths"]
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
    """With `--from RUN`: copy RUN's speaker.pt, audio.pt, motion.pt and latents into out_dir. What
    is there already stays; `check_frozen` has found the rest in RUN."""
    if not config.from_run:
        return
    run = Path(config.from_run)
    out = Path(config.out_dir)
    files = [f"{stage}.pt" for stage in missing_stages(config)]
    if not (out / "latents" / "meta.json").exists():
        # meta.json is the last one: without it latents count as unfinished.
        names = {path.name for path in (run / "latents").iterdir()} - {"meta.json"}
        files += [f"latents/{name}" for name in sorted(names)]
        files.append("latents/meta.json")
        (out / "latents").mkdir(parents=True, exist_ok=True)

    # Each file is renamed into place, so that a run that is killed here copies the rest later.
    for name in files:
        shutil.copyfile(run / name, out / f"{name}.part")
        os.replace(out / f"{name}.part", out / name)


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
    found = json.loads(path.read_text())
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    unknown = sorted(found.keys() - types.keys())
    if unknown:
        raise ValueError(f"{out} was made by another version of nanoTalker, which differs in the "
                         f"settings {', '.join(unknown)}; train it again")
    # A switch may be written as 0 or 1.
    return Config(**{name: bool(value) if types[name] is bool else value
                     for name, value in found.items()})


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
        before = read_run_config(out, type(config))
        changed = [f"{name} was {getattr(before, name)!r}, is {getattr(config, name)!r}"
                   for name in names
                   if name not in free and getattr(before, name) != getattr(config, name)]
        if changed:
            raise ValueError(f"{out} holds a run with other settings ({'; '.join(changed)}): "
                             f"choose another --out_dir, or delete {out} to start anew")
    index = out / "clips" / "index.json"
    if index.exists() and json.loads(index.read_text())["key"] != clips:
        raise ValueError(f"{out} was begun on other clips than there are now: choose another "
                         f"--out_dir, or delete {out}")
    write_json(path, dataclasses.asdict(config))

    # Training repeats the steps after a checkpoint, and logs them again. A line that was cut off
    # when the run was killed goes too.
    log = out / "log.jsonl"
    if log.exists():
        kept = []
        for text in log.read_text().splitlines():
            if not text.endswith("}"):
                continue
            line = json.loads(text)
            if line["step"] <= steps[line["stage"]]:
                kept.append(text + "\n")
        log.write_text("".join(kept))
