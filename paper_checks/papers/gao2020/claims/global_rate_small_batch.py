"""Is a small batch content with any global rate, and a large one highly sensitive to it?"""

from collections.abc import Mapping

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points
from paper_checks.papers.gao2020.claims._tuned import measure
from paper_checks.papers.gao2020.figures._tuned import series_of, sizes, stages
from paper_checks.papers.gao2020.figures.fig1 import PROTOCOL as TUNED
from paper_checks.papers.gao2020.figures.fig1 import arms
from paper_checks.statistics import UNDECIDED, conclude, difference, more, paired, too_few

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *TUNED,
    "The sensitivity: by how much the accuracy at the best rate exceeds the mean over all rates, "
    "seed by seed; the best rate is that of the other seeds that ran at every rate.",
)


def sensitivity(measurements: Measurements, series: str, n: int) -> dict[int, float]:
    """By seed, the accuracy at the others' best rate less the mean over the rates."""
    tables = [
        {seed: value or 0.0 for (seed, _), value in zip(stages(row), row["accuracy"], strict=True)}
        for row in arms(measurements, series)[n]
    ]
    seeds = sorted(set.intersection(*(set(table) for table in tables)))
    table = np.array([[each[seed] for seed in seeds] for each in tables])
    losses = {}
    for place, seed in enumerate(seeds):
        others = np.delete(table, place, axis=1)
        if others.size:
            best = int(others.mean(1).argmax())
            losses[seed] = float(table[best, place] - table[:, place].mean())
    return losses


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The largest batch's sensitivity less the smallest one's."""
    limit = thresholds["gap"]
    predicted = f"> {100 * limit:g} points"
    differences = {}
    for series in series_of(measurements):
        tried = sizes(measurements, series)
        large, small = (sensitivity(measurements, series, n) for n in (tried[-1], tried[0]))
        differences[series] = difference(*paired(large, small))
    epochs = differences["epochs"]
    if epochs.freedom + 1 < thresholds["seeds"]:
        return too_few(predicted, "Too few seeds ran at every rate.")
    told = "; ".join(
        f"at equal {series} {100 * each.value:+.1f} {points(each.interval())}"
        for series, each in differences.items()
    )
    reason = (
        f"A rate taken blindly costs the largest batch more than the smallest, in points: {told}."
    )
    control = more(differences["steps"], limit) if "steps" in differences else UNDECIDED
    return conclude(more(epochs, limit), [control], predicted, epochs, reason, limit)
