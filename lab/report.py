"""Tables and a plot of the experiments' results, for docs/ablations.md; see lab.ablate --report.

The tables take the place of what stands between the marks `<!-- results -->` and `<!-- end -->`.
"""
import itertools
from pathlib import Path

import numpy as np

from lab.ablations import EXPERIMENTS

PAGE = Path("docs/ablations.md")
PLOT = Path("assets/ablations.png")
COLUMNS = ("sync", "control", "coupling", "lag", "closures", "LSE-D", "LSE-C", "offset", "phones",
           "x truth", "length r", "voice", "FD audio", "FD motion")
DIGITS = {"sync": 4, "control": 3, "coupling": 3, "LSE-D": 3, "LSE-C": 3, "x truth": 3,
          "length r": 2, "FD audio": 2, "FD motion": 2}
ORDER = [experiment.name for experiment in EXPERIMENTS]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Names at the left, numbers at the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]], *rows]:
        cells = [row[0].ljust(widths[0])] + [x.rjust(w) for x, w in zip(row[1:], widths[1:])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float, column: str) -> str:
    return f"{value:.{DIGITS.get(column, 1)}f}"


def known_table(rows: dict[str, dict]) -> str:
    columns = list(next(iter(rows.values())))
    return markdown(["", *columns], [[name, *(number(row[c], c) for c in columns)]
                                     for name, row in rows.items()])


# ------------------------------------------------------------------------------------ statistics
def pairs(rows: list[dict], name: str, other: str) -> list[tuple[dict, dict]]:
    """The runs of two experiments that have the same training seed and frozen parts."""
    def by_seed(wanted: str) -> dict:
        return {(row["seed"], row["frozen"]): row for row in rows if row["name"] == wanted}
    one, two = by_seed(name), by_seed(other)
    return [(one[key], two[key]) for key in sorted(one.keys() & two.keys())]


def clip_differences(found: list[tuple[dict, dict]], figure: str) -> np.ndarray:
    """Pairs of runs -> (pairs, sentences): how much higher the first one's figure is. figure: sync
    or coupling."""
    def of(row: dict) -> np.ndarray:
        sync = np.array(row["sync"])
        return sync if figure == "sync" else sync - np.array(row["control"])
    return np.array([of(one) - of(two) for one, two in found])


def interval(differences: np.ndarray, draws=10000) -> tuple[float, float]:
    """(pairs, sentences) -> the 95 % interval of the mean, by a bootstrap over both axes."""
    rng = np.random.default_rng(0)
    n, m = differences.shape
    means = []
    for _ in range(draws // 100):
        seeds = rng.integers(n, size=(100, n))
        sentences = rng.integers(m, size=(100, m))
        # Sentences are drawn once for all seeds, since these share them.
        means.extend(differences[s].mean(0)[t].mean() for s, t in zip(seeds, sentences))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def sign_flip(differences: np.ndarray, draws=10000) -> float:
    """(n,) differences of mean 0 under the hypothesis -> two-sided p, by flipping signs: all
    combinations where there are few, else random ones."""
    found = abs(differences.mean())
    if len(differences) <= 12:
        signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
        return float(np.mean(abs((signs * differences).mean(1)) >= found - 1e-12))
    rng = np.random.default_rng(0)
    flipped = [abs((rng.choice((-1, 1), len(differences)) * differences).mean())
               for _ in range(draws)]
    return float((1 + np.sum(np.array(flipped) >= found)) / (draws + 1))


# ---------------------------------------------------------------------------------------- tables
def figures_table(rows: list[dict]) -> str:
    """An experiment a line: means over training seeds, with their standard deviation."""
    lines = []
    for name in [name for name in ORDER if any(row["name"] == name for row in rows)]:
        runs = [row for row in rows if row["name"] == name]
        cells = [name, str(len(runs))]
        for column in COLUMNS:
            values = [row["figures"][column] for row in runs]
            cell = number(np.mean(values), column)
            if len(values) > 1:
                cell += f" ±{number(np.std(values, ddof=1), column)}"
            cells.append(cell)
        lines.append(cells)
    return markdown(["", "seeds", *COLUMNS], lines)


def cost_table(rows: list[dict]) -> str:
    """What an experiment's heads cost, and the sampling settings chosen on dev."""
    lines = []
    for name in [name for name in ORDER if any(row["name"] == name for row in rows)]:
        runs = [row for row in rows if row["name"] == name]
        factors = [row["sample_seconds"] / row["speech_seconds"] for row in runs]
        sizes = [f"{runs[0][size] / 1e6:.2f} M" for size in ("parameters", "head_parameters")]
        lines.append([name, *sizes,
                      f"{np.mean([row['train_minutes'] for row in runs]):.1f}",
                      f"{np.mean(factors):.3f}", f"{np.mean([row['loss'] for row in runs]):.3f}",
                      f"{runs[0]['sampling']['guidance']:g}",
                      f"{runs[0]['sampling']['temperature']:g}"])
    return markdown(["", "parameters", "of the heads", "minutes of training, one core",
                     "sampling, s per s of speech", "loss", "guidance", "temperature"], lines)


def difference_table(rows: list[dict], other="separate") -> str:
    """How much higher sync and coupling are than those of separate heads."""
    lines = []
    for name in ORDER:
        found = pairs(rows, name, other)
        if name == other or not found:
            continue
        cells = [name, str(len(found))]
        for figure in ("sync", "coupling"):
            differences = clip_differences(found, figure)
            low, high = interval(differences)
            agree = int((differences.mean(1) > 0).sum())
            cells += [f"{differences.mean():+.4f}", f"{low:+.4f} to {high:+.4f}",
                      f"{sign_flip(differences.mean(0)):.4f}", f"{agree} of {len(found)}"]
        lines.append(cells)
    names = ["95 % interval", "p, sentences", "seeds above"]
    return markdown(["less separate", "pairs", "sync", *names, "coupling", *names], lines)


def tables(results: list[dict]) -> str:
    parts = []
    for corpus in dict.fromkeys(row["corpus"] for row in results):
        rows = [row for row in results if row["corpus"] == corpus]
        parts += [f"### The corpus `{corpus}`", figures_table(rows), cost_table(rows)]
        if any(pairs(rows, name, "separate") for name in ORDER if name != "separate"):
            parts.append(difference_table(rows))
    return "\n\n".join(parts)


# ------------------------------------------------------------------------------------------ plot
def plot(results: list[dict], path: Path) -> None:
    """Every training seed as a dot: sync and coupling of each experiment."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    corpora = list(dict.fromkeys(row["corpus"] for row in results))
    figure, axes = plt.subplots(len(corpora), 2, figsize=(10, 0.8 + 2.6 * len(corpora)),
                                squeeze=False, sharey="row")
    for line, corpus in zip(axes, corpora):
        rows = [row for row in results if row["corpus"] == corpus]
        names = [name for name in ORDER if any(row["name"] == name for row in rows)][::-1]
        for axis, column in zip(line, ("sync", "coupling")):
            for place, name in enumerate(names):
                values = [row["figures"][column] for row in rows if row["name"] == name]
                axis.plot(values, [place] * len(values), "o", alpha=0.6, markersize=6)
                axis.plot([np.mean(values)], [place], "k|", markersize=16)
            axis.set_yticks(range(len(names)), names)
            axis.set_xlabel(f"{column}, corpus {corpus}")
            axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def write_report(results: list[dict]) -> None:
    """Put the tables into PAGE, and draw PLOT."""
    if not results:
        raise ValueError("there are no results yet: run experiments first")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- results -->")
    _, _, after = rest.partition("<!-- end -->")
    text = f"{before}<!-- results -->\n\n{tables(results)}\n\n<!-- end -->{after}"
    PAGE.write_text(text, encoding="utf-8")
    plot(results, PLOT)
    print(f"tables: {PAGE}, plot: {PLOT}")
