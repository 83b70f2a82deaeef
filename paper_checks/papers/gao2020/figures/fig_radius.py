"""Beyond the paper: the exact radius against |w/g|, parameter by parameter."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures._entries import ENTRIES, entries
from paper_checks.papers.gao2020.figures._reducers import RANKED
from paper_checks.shared import reads
from paper_checks.statistics import at_least, conclude, less, mean, more, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "The network of figure 2 at initialisation, cross-entropy, dropout off: R from the exact "
    "second derivative of every parameter, |w/g| of equation 17, for each seed.",
    f"Spearman's rank correlation within each weight tensor, over at most {RANKED} entries where "
    "both are finite and not zero, with its 95 % interval.",
    "Controls: the same with the weights shuffled within the tensor, so that only 1/|g| is left "
    "of the quotient; and 1/|g| alone.",
)


@reads(ENTRIES)
def measure(context: "Context") -> dict[str, Any]:
    """Rank correlations with their controls for every seed; a two-way histogram of the first."""
    by_seed = [entries(context, seed) for seed in context.profile.seeds]
    return {
        "seeds": list(context.profile.seeds),
        "samples": by_seed[0]["samples"],
        "network": context.network,
        "rows": [row for each in by_seed for row in each["radius"]],
        "density": by_seed[0]["density"],
    }


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The weight tensors' rank correlations and middle errors, seed by seed."""
    rows = [row for row in measurements["rows"] if row["count"] >= thresholds["entries"]]
    predicted = f"≥ {thresholds['rank']:g}"
    own = [
        [row for row in rows if row["seed"] == seed] for seed in sorted({r["seed"] for r in rows})
    ]
    if min(map(len, own), default=0) < thresholds["tensors"]:
        return too_few(predicted, f"Only {len(rows)} tensors can be ranked.")
    worst = mean([min(row["rank"] for row in part) for part in own])
    error = mean([max(abs(row["log10_error"]) for row in part) for part in own])
    ranked = mean(
        [sum(row["low"] > 0 for row in part) / len(part) for part in own], 1 / len(own[0])
    )
    middle = mean([float(np.median([row["rank"] for row in part])) for part in own])
    shuffled, alone = (
        float(np.median([row[name] for row in rows])) for name in ("rank_shuffled", "rank_gradient")
    )
    errors = sorted(row["log10_error"] for row in rows)
    reason = (
        f"Rank correlation of |w/g| with the exact R inside a weight tensor: middle "
        f"{short(middle.value)} {spread(middle.interval())}, least {short(worst.value)} "
        f"{spread(worst.interval())}; with the weights shuffled middle {short(shuffled)}, with "
        f"1/|g| alone {short(alone)}. The typical |w/g| is {short(10 ** errors[0])} to "
        f"{short(10 ** errors[-1])} times R."
    )
    controls = [
        more(worst, thresholds["rank"]),
        less(error, float(np.log10(thresholds["factor"]))),
    ]
    core = at_least(ranked, thresholds["most"])
    return conclude(core, controls, predicted, middle, reason)


def draw(measurements: Measurements) -> Drawing:
    """The density of all parameters in the plane of the two radii; the rank correlations."""
    plane, rows = measurements["density"], measurements["rows"]
    with drawing.style("fig-radius"):
        chart = drawing.figure(10.0, 5.0)
        left, right = chart.subplots(1, 2)
        counts = np.array(plane["counts"], dtype=float).T
        image = left.pcolormesh(
            plane["exact"],
            plane["ratio"],
            np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan),
            cmap="cividis_r",
            rasterized=True,
        )
        ends = [plane["exact"][0], plane["exact"][-1]]
        left.plot(ends, ends, "--", color=drawing.VERMILION, label="|w/g| = R")
        left.set_xlim(*ends)
        left.set_ylim(plane["ratio"][0], plane["ratio"][-1])
        left.set_xlabel("log10 of the exact radius R")
        left.set_ylabel("log10 |w/g|")
        left.set_title("All parameters", loc="left")
        left.legend(loc="upper left")
        chart.colorbar(image, ax=left, label="log10 of the number of parameters")
        names = list(dict.fromkeys(row["parameter"] for row in rows))
        for label, column, colour, marker in (
            ("|w/g|", "rank", drawing.BLUE, "o"),
            ("w shuffled", "rank_shuffled", drawing.ORANGE, "s"),
            ("1/|g| alone", "rank_gradient", drawing.GREEN, "^"),
        ):
            pairs = [(names.index(row["parameter"]), row[column]) for row in rows if column in row]
            x, y = zip(*pairs, strict=True)
            right.plot(x, y, marker, color=colour, markersize=5, alpha=0.8, label=label)
        right.axhline(0, color=drawing.BLACK, linewidth=0.8)
        right.set_ylim(-1, 1)
        right.set_xticks(range(len(names)), names, rotation=45, ha="right")
        right.set_ylabel("rank correlation with R")
        right.set_title("Within each weight tensor, every seed", loc="left")
        right.legend(loc="lower left")
    ranked = [row["rank"] for row in rows]
    alt = (
        f"Left: density of {short(plane['entries'])} parameters in the plane of the exact radius "
        "and |w/g|, both logarithmic, with the line on which they are equal. Right: rank "
        f"correlations within weight tensors, {short(min(ranked))} to {short(max(ranked))}, beside "
        "those with shuffled weights and of 1/|g| alone."
    )
    caption = (
        f"{short(plane['left_out'])} parameters with a zero weight, gradient or curvature have "
        "no place in the left panel. If shuffling the weights changes nothing, the weight in w/g "
        "says nothing about the radius."
    )
    title = "The exact radius against |w/g|"
    return drawing.finished(chart, "fig-radius", title, alt, caption)
