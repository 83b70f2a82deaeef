"""Beyond the paper: where the fitted minimum b lies, which equation 17 puts at zero."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import points, short
from paper_checks.papers.gao2020.figures._entries import ENTRIES, entries
from paper_checks.papers.gao2020.figures._reducers import BETA
from paper_checks.shared import reads
from paper_checks.statistics import any_of, at_least, conclude, deciding, mean, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "The network of figure 2 at initialisation, every parameter with w ≠ 0 and h ≠ 0, each seed.",
    "b = w - g/h, the stationary point of the parabola through w (equations 12 to 15), exact; and "
    f"with weight decay β = {BETA:g}, for which g + βw and h + β stand.",
    "b = 0 is an approximation where |b| < |w|: then zero is nearer to the minimum than w itself "
    "is far from zero. If b were placed without regard to zero, at w + d with |d| much larger "
    "than |w| and any sign, about no entry would have |b| < |w|.",
)


@reads(ENTRIES)
def measure(context: "Context") -> dict[str, Any]:
    """Quantiles of |b/w| and the share of |b| < |w|, without and with weight decay."""
    by_seed = [entries(context, seed) for seed in context.profile.seeds]
    return {
        "seeds": list(context.profile.seeds),
        "samples": by_seed[0]["samples"],
        "rows": [row for each in by_seed for row in each["b"]],
    }


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The share of tensors, seed by seed, most of whose entries have |b| < |w|."""
    rows = [row for row in measurements["rows"] if row["count"] >= thresholds["entries"]]
    predicted = f"≥ {thresholds['most']:g}"
    seeds = sorted({row["seed"] for row in rows})
    own = {seed: [row for row in rows if row["seed"] == seed] for seed in seeds}
    if min(map(len, own.values()), default=0) < thresholds["tensors"]:
        return too_few(predicted, f"Only {len(rows)} tensors can be compared.")
    plain, decayed = (
        mean(
            [
                sum(row[column] > thresholds["majority"] for row in part) / len(part)
                for part in own.values()
            ],
            1 / max(map(len, own.values())),
        )
        for column in ("share", "share_decayed")
    )
    middle, middle_decayed = (
        float(np.median([row[column][2] for row in rows]))
        for column in ("quantiles", "quantiles_decayed")
    )
    reason = (
        f"Most entries have |b| < |w| in {100 * plain.value:.0f} % of the tensors "
        f"{points(plain.interval())}, with weight decay in {100 * decayed.value:.0f} % "
        f"{points(decayed.interval())}. The typical |b/w| is {short(middle)}, with weight decay "
        f"{short(middle_decayed)}; b = 0 would have it far below 1."
    )
    with_, without = (at_least(each, thresholds["most"]) for each in (decayed, plain))
    seen = deciding((without, with_), (plain, decayed), plain)
    return conclude(any_of(with_, without), [without], predicted, seen, reason)


def draw(measurements: Measurements) -> Drawing:
    """Quantiles of |b/w| of every tensor of the first seed, without and with weight decay."""
    first = measurements["rows"][0]["seed"]
    rows = [row for row in measurements["rows"] if row["seed"] == first and row["quantiles"]]
    with drawing.style("fig-b"):
        chart = drawing.figure(9.0, 5.0)
        axes = chart.subplots()
        for label, column, colour, marker, shift in (
            ("without weight decay", "quantiles", drawing.BLUE, "o", -0.15),
            (f"with β = {BETA:g}", "quantiles_decayed", drawing.ORANGE, "s", 0.15),
        ):
            quantiles = np.array([row[column] for row in rows])
            x = np.arange(len(rows)) + shift
            axes.vlines(x, quantiles[:, 0], quantiles[:, 4], color=colour, linewidth=1)
            axes.vlines(x, quantiles[:, 1], quantiles[:, 3], color=colour, linewidth=4, alpha=0.6)
            axes.plot(x, quantiles[:, 2], marker, color=colour, label=label)
        axes.axhline(1, color=drawing.BLACK, linewidth=1, linestyle="--", label="|b| = |w|")
        axes.set_yscale("log")
        axes.set_xticks(
            range(len(rows)), [row["parameter"] for row in rows], rotation=45, ha="right"
        )
        axes.grid(False, axis="x")
        axes.set_ylabel("|b / w| (the paper has 0)")
        axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.13))
    alt = (
        "Quantiles of |b/w| of every parameter tensor, log scale. Medians without weight decay: "
        + ", ".join(f"{row['parameter']} {short(row['quantiles'][2])}" for row in rows)
        + "."
    )
    caption = (
        "Points are medians over a tensor's entries, thick lines quartiles, thin lines 5 to 95 %. "
        "Below the dashed line the minimum of the parabola is nearer to zero than the weight is."
    )
    return drawing.finished(chart, "fig-b", "The exact b against 0", alt, caption)
