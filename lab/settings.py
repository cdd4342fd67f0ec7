"""Command line -> a dataclass of settings: --config PRESET, then --field=value or --field value, checked by name and type; --crop.
And what keeps a run's folder true to its settings. A first reading can skip this file."""
import dataclasses
import difflib
import json
import math
import sys
from pathlib import Path

from data import SHORTEST, write_json


def read_settings(arguments: list[str], Config, presets: dict[str, dict], about: str):
    """arguments: words of the command line; presets: name -> what it changes of Config's defaults; about: the text of --help.

    An unknown field, preset or value is a ValueError that says what was meant."""
    if {"-h", "--help"} & set(arguments):
        fields = "\n".join(f"  --{f.name}={getattr(Config, f.name)!r}" for f in dataclasses.fields(Config))
        sys.exit(f"{about}\nFields, with the values of small (presets: {', '.join(presets)}):\n{fields}")
    given, rest = {}, list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"'{word}' is not an option; write --field=value or --field value")
        name, separator, value = word[2:].partition("=")
        if not separator and not rest:
            raise ValueError(f"--{name} needs a value: --{name}=...")
        given[name] = value if separator else rest.pop(0)
    types = {f.name: f.type for f in dataclasses.fields(Config)}
    preset = given.get("config", "small")
    if preset not in presets:
        raise ValueError(f"there is no preset '{preset}'; there are: {', '.join(presets)}")
    config = Config(**{"config": preset, "out_dir": f"out/{preset}", **presets[preset]})
    for name, value in given.items():
        if name not in types:
            near = difflib.get_close_matches(name, types, 1, 0)[0]
            raise ValueError(f"there is no field '{name}'; did you mean --{near} (now {getattr(config, near)!r})?")
        try:
            setattr(config, name, types[name](value))
        except ValueError:
            raise ValueError(f"--{name} is {types[name].__name__} (now {getattr(config, name)!r}); '{value}' is not") from None
    return config


def check_settings(config) -> None:
    """Values that can't be are a ValueError that says what can."""
    switches = ("timbre", "introduce", "stop_keeps", "fsdp")
    zero = ("seed", "jitter", "motion_delay", "stop_shortest", *switches)
    for field in dataclasses.fields(config):
        lowest = 0 if field.type is float or field.name in zero else 1
        highest = 1 if field.name in switches else math.inf
        if field.type is not str and not lowest <= getattr(config, field.name) <= highest:
            raise ValueError(f"--{field.name} must be {'0 or 1' if highest == 1 else f'at least {lowest}'}, not {getattr(config, field.name)}")
    parts = dict(heads=config.kv_heads, size=16, sample_rate=100, head_dim=2, width=2 * config.patch_heads,
                 head_width=2 * config.head_heads)      # rotary positions turn pairs of channels: every head has an even number
    for name, part in parts.items():
        if getattr(config, name) % part:
            raise ValueError(f"--{name} ({getattr(config, name)}) must be a multiple of {part} here")
    if config.autoencoders not in ("small", "paper"):
        raise ValueError(f"--autoencoders is small or paper, not '{config.autoencoders}'")
    if config.whisper and config.autoencoders != "paper":
        raise ValueError("--whisper goes with --autoencoders=paper; the small ones train an encoder of their own")
    if config.fsdp and config.muon_rate:
        raise ValueError("--fsdp=1 needs --muon_rate=0: Muon works on whole matrices")
    if config.jitter + config.patch > SHORTEST:
        raise ValueError(f"--jitter and --patch are at most {SHORTEST} frames together, the shortest clip's length")
    if config.speech_only >= 1 or not config.repeats:
        raise ValueError("--speech_only must be below 1 and --repeats above 0, or a head would learn nothing")


def parse_crop(crop):
    """'x,y,size' -> three numbers; '' or 'centre' -> None, the centre square."""
    if crop in ("", "centre"):
        return None
    try:
        x, y, size = (int(v) for v in crop.split(","))
    except ValueError:
        raise ValueError(f"--crop is x,y,size in pixels, such as 60,20,240; '{crop}' is not") from None
    return x, y, size


def open_run(config, clips: str, steps: dict[str, int]) -> None:
    """Make or reopen the run's folder. Other settings or clips are a ValueError; log lines after the checkpoints are dropped.

    clips: what tells the corpus from others (its `key`); steps: where each stage's checkpoint stands."""
    out, wanted = Path(config.out_dir), dataclasses.asdict(config)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "config.json"
    free = {"out_dir", "log_every", "save_every", "fsdp", "steps", "guidance", "temperature", "stop_hits", "stop_keeps", "stop_shortest"}
    if (out / "latents" / "meta.json").exists() and not (out / "talker.pt").exists():    # another talker on the same latents
        free |= {"vocabulary", "start", *list(wanted)[list(wanted).index("patch"):]}
    if path.exists():
        was = json.loads(path.read_text())
        changed = [f"{k} was {was.get(k)!r}, is {v!r}" for k, v in wanted.items() if k not in free and was.get(k) != v]
        if changed:
            raise ValueError(f"{out} holds a run with other settings ({'; '.join(changed)}): "
                             f"choose another --out_dir, or delete {out} to start anew")
    index = out / "clips" / "index.json"
    if index.exists() and json.loads(index.read_text())["key"] != clips:
        raise ValueError(f"{out} was begun on other clips than there are now: choose another --out_dir, or delete {out}")
    write_json(path, wanted)
    log = out / "log.jsonl"
    if log.exists():
        lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
        log.write_text("".join(line + "\n" for line in lines if (x := json.loads(line))["step"] <= steps[x["stage"]]))
