"""Training curves: logs in, one picture out.

    python -m lab.plot out/small/log.jsonl [more logs] --out curve.png

A log has a JSON dict a line with at least stage, step and loss. Any other number but the bookkeeping (lr, seconds, ...) is drawn
as a part of the loss; NAME_by_time is a list, the head's loss in equal bins of flow time (0 clean, 1 noise). The picture has one
panel a stage, loss and parts against steps (log scale where all are positive), and, where logged, one of the loss by flow time at
the end of training. With several logs each curve is named after its log's folder. Needs matplotlib.
"""
import argparse
import json
from pathlib import Path

import numpy as np

BOOKKEEPING = {"stage", "step", "lr", "samples_per_s", "seconds", "gradient"}


def read_log(path):
    """Path -> list of dicts, one a line. ValueError, with the line's number, for what is no log; OSError if it can't be read."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such log; train.py writes log.jsonl into its output folder")
    lines = []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            raise ValueError(f"{path}, line {number} is not JSON: {line[:50]!r}; delete it if a killed run left it") from None
        missing = [key for key in ("stage", "step", "loss") if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(f"{path}, line {number} has no {' and no '.join(missing)}, so this is no training log")
        lines.append(entry)
    if not lines:
        raise ValueError(f"{path}: the log is empty; train.py writes its first line after a few steps")
    return lines


def plot(logs, out):
    """logs: dict name -> list of dicts as from read_log. Writes the picture to `out`, in the format its ending names.

    RuntimeError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise RuntimeError("plotting needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")                                   # no screen needed
    from matplotlib import pyplot

    stages = list(dict.fromkeys(str(entry["stage"]) for lines in logs.values() for entry in lines))
    by_time = any(key.endswith("_by_time") for lines in logs.values() for entry in lines for key in entry)
    figure, panels = pyplot.subplots(1, len(stages) + by_time, figsize=(5 * (len(stages) + by_time), 4), squeeze=False)
    for name, lines in logs.items():
        prefix = f"{name}: " if len(logs) > 1 else ""
        for stage, panel in zip(stages, panels[0]):
            entries = [entry for entry in lines if str(entry["stage"]) == stage]
            numbers = dict.fromkeys(key for entry in entries for key, value in entry.items()
                                    if key not in BOOKKEEPING and isinstance(value, (int, float)))
            for key in numbers:
                given = [entry for entry in entries if isinstance(entry.get(key), (int, float))]
                panel.plot([entry["step"] for entry in given], [entry[key] for entry in given], label=prefix + key,
                           linewidth=2 if key == "loss" else 1)
        last = {key: value for entry in lines for key, value in entry.items() if key.endswith("_by_time")}     # later lines win
        for key, values in last.items():
            centres = (np.arange(len(values)) + .5) / len(values)
            panels[0, -1].plot(centres, np.array(values, float), marker="o", label=prefix + key.removesuffix("_by_time"))
    for stage, panel in zip(stages, panels[0]):
        panel.set(title=stage, xlabel="step", ylabel="loss")
    if by_time:
        panels[0, -1].set(title="at the end of training", xlabel="flow time (0 clean, 1 noise)", ylabel="loss")
    for panel in panels[0]:
        drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in panel.lines] or [np.zeros(0)])
        if (drawn[np.isfinite(drawn)] > 0).all():
            panel.set_yscale("log")
        panel.grid(alpha=.3)
        if panel.lines:
            panel.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(prog="python -m lab.plot", description="Draw training curves from logs.")
    parser.add_argument("logs", nargs="+", type=Path, metavar="log.jsonl")
    parser.add_argument("--out", default="curve.png", type=Path, help="picture to write (default curve.png)")
    options = parser.parse_args()
    try:
        plot({str(path.parent if path.parent.name else path): read_log(path) for path in options.logs}, options.out)
    except (ValueError, RuntimeError, OSError) as error:
        parser.error(str(error))
    print(f"{options.out} shows {', '.join(map(str, options.logs))}")


if __name__ == "__main__":
    main()
