"""Tables and a plot of the experiments' results, for docs/ablations.md; see lab.ablate --report.

The tables take the place of what stands between the marks `<!-- results -->` and `<!-- end -->`.
"""
import itertools
from pathlib import Path

import numpy as np

from lab.ablations import CORPORA, EXPERIMENTS

PAGE = Path("docs/ablations.md")
PLOT = Path("assets/ablations.png")
COUPLING = ("sync", "control", "coupling", "captured", "lag", "closures", "LSE-D", "LSE-C",
            "offset")
QUALITY = ("phones", "x truth", "length r", "voice", "diversity", "FD audio", "FD motion")
SYNTHETIC_ALONE = ("length r", "voice")         # real clips are of one speaker and equally long
GIVEN = ("A2V sync", "A2V closures", "V2A sync", "V2A closures", "V2A phones")
DIGITS = {"sync": 4, "control": 3, "coupling": 3, "LSE-D": 3, "LSE-C": 3, "x truth": 3,
          "length r": 2, "diversity": 2, "FD audio": 2, "FD motion": 2, "A2V sync": 3,
          "V2A sync": 3}
# The paper's table: word errors, UTMOS, FVD, Sync-C and Sync-D of the systems that these
# experiments are in small. And what stands for each of these here; of UTMOS, Sync-C and LSE-C more
# is better.
BESIDE_PAPER = ("phones", "FD audio", "FD motion", "LSE-C", "LSE-D")
PAPER_COLUMNS = ("WER, % (less)", "UTMOS (more)", "FVD (less)", "Sync-C (more)", "Sync-D (less)")
PAPER = {
    "separate": (5.5, 3.46, 246, 6.33, 8.51),
    "interleaved": (5.7, 3.47, 250, 6.29, 8.55),
    "motion_first": (6.4, 3.39, 312, 4.63, 11.18),
    "delay1": (14.2, 3.15, 299, 5.78, 9.03),
    "delay3": (29.8, 3.02, 371, 5.19, 9.58),
    "dual_branch": (25.7, 2.77, 273, 4.67, 9.6)}
PAPER_NAMES = {"dual_branch": "dual_branch; LTX-2 in the paper"}
ORDER = ["truth", *(experiment.name for experiment in EXPERIMENTS)]
# Whose figures are taken off whose. Last come those whose guidance and temperature are the same:
# joint's and follow_same's on `free`, the others' on `open`.
COMPARED = [*((x.name, x.minus) for x in EXPERIMENTS if x.name != x.minus),
            ("joint", "follow_same"), ("delay1", "separate_guidance1"),
            ("interleaved", "separate_guidance1")]
# The 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


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
    """The runs of two experiments that have the same frozen parts and training seed."""
    def by_seed(wanted: str) -> dict:
        return {(row["frozen"], row["seed"]): row for row in rows if row["name"] == wanted}
    one, two = by_seed(name), by_seed(other)
    return [(one[key], two[key]) for key in sorted(one.keys() & two.keys())]


def clip_differences(found: list[tuple[dict, dict]], figure: str) -> np.ndarray:
    """Pairs of runs -> (seeds, sentences): how much higher the first one's figure is. figure: sync
    or coupling. A training seed that was run with several frozen parts counts once, as the mean of
    its pairs: they have their first weights and the order of their batches in common."""
    def of(row: dict) -> np.ndarray:
        sync = np.array(row["sync"])
        return sync if figure == "sync" else sync - np.array(row["control"])
    by_seed = {}
    for one, two in found:
        by_seed.setdefault(one["seed"], []).append(of(one) - of(two))
    return np.array([np.mean(same, 0) for same in by_seed.values()])


def interval(differences: np.ndarray, draws=10000) -> tuple[float, float]:
    """(seeds, sentences) -> the 95 % interval of the mean, by a bootstrap over both axes. Where the
    differences scatter by seeds, few seeds make it too narrow (see `student`). Where they scatter
    in each clip for itself it is up to 1.7 times too wide, since both draws count that."""
    rng = np.random.default_rng(0)
    n, m = differences.shape
    means = []
    for _ in range(draws):
        seeds = rng.integers(n, size=n)
        # Sentences are drawn once for all seeds, since these share them.
        sentences = rng.integers(m, size=m)
        means.append(differences[seeds].mean(0)[sentences].mean())
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def student(means: np.ndarray) -> float:
    """(seeds,) differences -> half of the 95 % interval of their mean, by Student's t: what other
    training seeds would do. NaN for one seed."""
    n = len(means)
    if n < 2:
        return float("nan")
    return float(STUDENT[min(n, 10) - 2] * means.std(ddof=1) / n ** 0.5)


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
def names_of(rows: list[dict]) -> list[str]:
    """The experiments that were run, in the order of EXPERIMENTS."""
    return sorted({row["name"] for row in rows}, key=ORDER.index)


def values_of(rows: list[dict], name: str, column: str) -> list[float]:
    """A figure of each run of an experiment. Older runs lack some."""
    return [row["figures"][column] for row in rows
            if row["name"] == name and column in row["figures"]]


def figures_table(rows: list[dict], columns: tuple[str, ...]) -> str:
    """An experiment a line: means over training seeds, with their standard deviation, and with the
    number of seeds where the older of them have no such figure."""
    lines = []
    for name in names_of(rows):
        runs = sum(row["name"] == name for row in rows)
        cells = [name, str(runs) if name != "truth" else ""]
        for column in columns:
            values = values_of(rows, name, column)
            cell = number(np.mean(values), column) if values else ""
            if len(values) > 1:
                cell += f" ±{number(np.std(values, ddof=1), column)}"
            if 0 < len(values) < runs:
                cell += f" ({len(values)} seeds)"
            cells.append(cell)
        if any(cells[2:]):
            lines.append(cells)
    return markdown(["", "seeds", *columns], lines)


def paper_table(rows: list[dict]) -> str:
    """The rows of the paper's table that were run, with its figures beside these."""
    lines = []
    for name, published in PAPER.items():
        if name not in names_of(rows):
            continue
        cells = [PAPER_NAMES.get(name, name)]
        for place, column in enumerate(BESIDE_PAPER):
            cells.append(number(np.mean(values_of(rows, name, column)), column))
            cells.append(f"{published[place]:g}")
        lines.append(cells)
    header = [name for pair in zip(BESIDE_PAPER, PAPER_COLUMNS) for name in pair]
    return markdown(["", *header], lines)


def cost_table(rows: list[dict]) -> str:
    """What an experiment costs to train, and the sampling settings chosen on dev. An experiment
    that samples the talkers of another has their cost. Times are medians over training seeds, since
    single runs had a busy machine."""
    lines = []
    for name in names_of(rows):
        runs = [row for row in rows if row["name"] == name]
        if name == "truth" or "train_minutes" not in runs[0]:
            continue
        sizes = [f"{runs[0][size] / 1e6:.2f} M" for size in ("parameters", "head_parameters")]
        sampled = np.median([row["sample_seconds"] / row["speech_seconds"] for row in runs])
        lines.append([name, *sizes, str(runs[0]["steps"]), runs[0]["dtype"],
                      f"{np.median([row['train_minutes'] for row in runs]):.1f}", f"{sampled:.3f}",
                      f"{runs[0]['sampling']['guidance']:g}",
                      f"{runs[0]['sampling']['temperature']:g}"])
    return markdown(["", "parameters", "of the heads", "steps", "data type",
                     "minutes of training, one core", "real-time factor of sampling", "guidance",
                     "temperature"], lines)


def difference_table(rows: list[dict], figure: str) -> str:
    """How much higher sync or coupling are than those of another experiment, by COMPARED. The
    interval by Student's t and `p, seeds` are about other training seeds, the bootstrap about other
    seeds and sentences, and `p, sentences` about other sentences with these very talkers."""
    lines = []
    for name, other in COMPARED:
        found = pairs(rows, name, other)
        if not found:
            continue
        differences = clip_differences(found, figure)
        means = differences.mean(1)                                           # (seeds,)
        low, high = interval(differences)
        half = student(means)
        several = len(means) > 1
        lines.append([
            f"{name} - {other}", f"{means.mean():+.4f}", str(len(found)),
            f"{(means > 0).sum()} of {len(means)}",
            f"{means.mean() - half:+.4f} to {means.mean() + half:+.4f}" if several else "",
            f"{sign_flip(means):.4f}" if several else "", f"{low:+.4f} to {high:+.4f}",
            f"{sign_flip(differences.mean(0)):.4f}"])
    return markdown([figure, "mean", "pairs", "seeds above 0", "95 %, Student's t",
                     "p, seeds", "95 %, bootstrap", "p, sentences"], lines)


def groups_of(results: list[dict]) -> dict[str, dict[str, list[dict]]]:
    """A title -> the digest of frozen parts -> the rows that may be compared as they are: of one
    corpus and test set, and with the same settings beside those of their experiments. Below one
    title differences may be compared. ValueError for a row of no experiment of today."""
    own = {x.name: list(x.settings) for x in EXPERIMENTS}
    truth = {}
    found = {}
    for row in results:
        where = row["corpus"], row["sentences"], row["frozen"]
        if row["name"] == "truth":
            truth[where] = row
            continue
        today = own.get(row["name"])
        if today is None or row["settings"][:len(today)] != today:
            raise ValueError(
                f"a result of {row['name']}, settings {row['settings']}, is of no experiment of "
                "lab/ablations: delete its line, or give the experiment its name and settings back")
        further = " ".join(row["settings"][len(today):])
        sets = found.setdefault((row["corpus"], row["sentences"], further), {})
        sets.setdefault(row["frozen"], []).append(row)
    groups = {}
    for (corpus, sentences, further), sets in sorted(found.items()):
        title = f"`{corpus}`"
        if sum(other[0] == corpus for other in found) > 1:
            title += f", {sentences} sentences"
        if further:
            title += f", {further}"
        groups[title] = {}
        for frozen, rows in sets.items():
            where = corpus, sentences, frozen
            groups[title][frozen] = [truth[where], *rows] if where in truth else rows
    return groups


def tables(results: list[dict]) -> str:
    parts = []
    for title, sets in groups_of(results).items():
        parts.append(f"### The corpus {title}")
        runs = sum(sets.values(), [])
        if any(pairs(runs, *names) for names in COMPARED):
            parts += ["Differences, of runs with the same frozen parts and training seed:",
                      *(difference_table(runs, figure) for figure in ("sync", "coupling"))]
        quality = [name for name in QUALITY
                   if not (CORPORA[runs[0]["corpus"]].real and name in SYNTHETIC_ALONE)]
        for frozen, rows in sets.items():
            if len(sets) > 1:
                parts.append(f"#### {title}, frozen parts {frozen[:6]}")
            parts += ["How well sound and motion go together:", figures_table(rows, COUPLING),
                      "What is said, and how:", figures_table(rows, quality),
                      "Where one stream is given, the ground truth's (A2V: audio, V2A: motion):",
                      figures_table(rows, GIVEN), "What they are, and cost:", cost_table(rows)]
            if len(PAPER.keys() & {row["name"] for row in rows}) > 1:
                parts += ["The rows of the paper's table, with its figures at the right of ours "
                          "(in brackets which way is better), of other scales:", paper_table(rows)]
    return "\n\n".join(parts)


# ------------------------------------------------------------------------------------------ plot
def plot(results: list[dict], path: Path) -> None:
    """Every training seed as a dot: the sync of each experiment, where both streams are generated,
    and where the audio is given. Each set of frozen parts has a mark of its own. Talkers of others
    that are sampled with other options are left to the tables."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = groups_of(results)
    left_out = [x.name for x in EXPERIMENTS if x.trained and x.sampling]
    runs = {title: sum(sets.values(), []) for title, sets in groups.items()}
    names = {title: [name for name in names_of(rows)[::-1] if name not in left_out]
             for title, rows in runs.items()}
    heights = [0.8 + 0.25 * len(names[title]) for title in groups]
    figure, axes = plt.subplots(len(groups), 2, figsize=(10, sum(heights)), squeeze=False,
                                sharey="row", height_ratios=heights)
    for line, (title, sets) in zip(axes, groups.items()):
        for axis, column in zip(line, ("sync", "A2V sync")):
            for place, name in enumerate(names[title]):
                for mark, rows in zip(itertools.cycle("o^sDv"), sets.values()):
                    values = values_of(rows, name, column)
                    axis.plot(values, [place] * len(values), mark, alpha=0.6, markersize=6,
                              color=f"C{ORDER.index(name) % 10}")
                values = values_of(runs[title], name, column)
                if values:
                    axis.plot([np.mean(values)], [place], "k|", markersize=12)
            axis.set_yticks(range(len(names[title])), names[title])
            axis.set_ylim(-0.6, len(names[title]) - 0.4)
            axis.set_xlabel(f"{column}, corpus {title.replace('`', '')}")
            axis.locator_params(axis="x", nbins=6)
            axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


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
