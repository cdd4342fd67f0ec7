"""Training curves: logs in, one picture out.

    python -m lab.plot out/small/log.jsonl [more logs] --out curve.png

A log has a JSON dict per line with at least stage, step and loss. Any other number but the
bookkeeping (lr, seconds, ...) is drawn as a part of the loss. NAME_by_time is a list, a flow head's
loss in equal bins of the timestep (0 data, 1 noise).

The picture has one panel per stage, loss and parts against steps (logarithmic where all are
positive), and, where logged, one of the loss by timestep at the end of training. With several logs
each curve is named after its log's folder. Needs matplotlib.
"""
import argparse
import json
from pathlib import Path

import numpy as np

BOOKKEEPING = {"stage", "step", "lr", "samples_per_s", "seconds", "gradient"}
BY_TIME = "_by_time"


def read_log(path: Path | str) -> list[dict]:
    """The lines of a log. ValueError, with the line's number, for what is no log; OSError if it
    can't be read."""
    if not Path(path).is_file():
        raise ValueError(
            f"{path}: there is no such log; train.py writes log.jsonl into its output folder")
    lines = []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            raise ValueError(f"{path}, line {number} is not JSON: {line[:50]!r}; delete it if a "
                             "killed run left it") from None
        missing = [key for key in ("stage", "step", "loss")
                   if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(f"{path}, line {number} has no {' and no '.join(missing)}, so this "
                             "is no training log")
        lines.append(entry)
    if not lines:
        raise ValueError(
            f"{path}: the log is empty; train.py writes its first line after a few steps")
    return lines


def is_number(value) -> bool:
    return isinstance(value, (int, float))


def draw_stage(panel, lines: list[dict], stage: str, prefix: str) -> None:
    """The loss of a stage and its parts against steps."""
    entries = [entry for entry in lines if str(entry["stage"]) == stage]
    # Names in the order in which they first appear. A part need not be in every line.
    names = dict.fromkeys(name for entry in entries for name, value in entry.items()
                          if name not in BOOKKEEPING and is_number(value))
    for name in names:
        given = [entry for entry in entries if is_number(entry.get(name))]
        steps = [entry["step"] for entry in given]
        values = [entry[name] for entry in given]
        panel.plot(steps, values, label=prefix + name, linewidth=2 if name == "loss" else 1)


def draw_by_time(panel, lines: list[dict], prefix: str) -> None:
    """The loss by timestep at the end of training: of each head, the last line that has it."""
    last = {}
    for entry in lines:
        last |= {name: values for name, values in entry.items() if name.endswith(BY_TIME)}
    for name, values in last.items():
        centres = (np.arange(len(values)) + 0.5) / len(values)
        panel.plot(centres, np.array(values, float), marker="o",
                   label=prefix + name.removesuffix(BY_TIME))


def plot(logs: dict[str, list[dict]], out: Path | str) -> None:
    """Draw logs, name -> lines as from read_log, into `out`, in the format that its ending names.

    RuntimeError if matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise RuntimeError("plotting needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")                                   # no screen needed
    from matplotlib import pyplot

    # A panel per stage, in the order of training, and one for the loss by timestep.
    entries = [entry for lines in logs.values() for entry in lines]
    stages = list(dict.fromkeys(str(entry["stage"]) for entry in entries))
    by_time = any(name.endswith(BY_TIME) for entry in entries for name in entry)
    columns = len(stages) + by_time
    figure, panels = pyplot.subplots(1, columns, figsize=(5 * columns, 4), squeeze=False)
    panels = panels[0]

    for name, lines in logs.items():
        prefix = f"{name}: " if len(logs) > 1 else ""
        for stage, panel in zip(stages, panels):
            draw_stage(panel, lines, stage, prefix)
        if by_time:
            draw_by_time(panels[-1], lines, prefix)

    # Titles, scales, legends.
    for stage, panel in zip(stages, panels):
        panel.set(title=stage, xlabel="step", ylabel="loss")
    if by_time:
        panels[-1].set(title="at the end of training", xlabel="timestep (0 data, 1 noise)",
                       ylabel="loss")
    for panel in panels:
        drawn = [np.asarray(line.get_ydata(), float) for line in panel.lines]
        values = np.concatenate(drawn or [np.zeros(0)])
        if (values[np.isfinite(values)] > 0).all():
            panel.set_yscale("log")
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.plot", description="Draw training curves from logs.")
    parser.add_argument("logs", nargs="+", type=Path, metavar="log.jsonl")
    parser.add_argument("--out", default="curve.png", type=Path,
                        help="picture to write (default curve.png)")
    options = parser.parse_args()
    try:
        logs = {}
        for path in options.logs:
            name = str(path.parent if path.parent.name else path)
            logs[name] = read_log(path)
        plot(logs, options.out)
    except (ValueError, RuntimeError, OSError) as error:
        parser.error(str(error))
    print(f"{options.out} shows {', '.join(map(str, options.logs))}")


if __name__ == "__main__":
    main()
