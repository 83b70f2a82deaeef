"""Is training stuck at a very large batch?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points
from paper_checks.papers.gao2020.figures._tuned import (
    at_end,
    chosen,
    guarded,
    merit,
    read,
    series_of,
)
from paper_checks.papers.gao2020.figures.fig1 import PROTOCOL as TUNED
from paper_checks.papers.gao2020.figures.fig1 import arms, edges_told, measure
from paper_checks.statistics import Estimate, conclude, less, mean, paired, too_few

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *TUNED,
    "The training accuracy of the largest batch at its best rate and equal steps: how much of the "
    "way it goes from chance to what the best small batch reaches in as many steps. An optimizer "
    "whose parameters all sit in local minima does not leave chance.",
)
# Both data sets have ten classes.
CHANCE = 0.1


def way(measurements: Measurements, series: str) -> tuple[Estimate, tuple[bool, bool]]:
    """The share of the way, seed by seed; whether the rates of the two n are at ends of grids."""
    tuned = arms(measurements, series)
    ordered = sorted(tuned)
    small = max(ordered[: max(1, len(ordered) // 2)], key=lambda n: merit(chosen(tuned[n])))
    large = ordered[-1]
    pairs = paired(*(read(chosen(tuned[n]), "train_accuracy") for n in (large, small)))
    # Where the small batch does not leave chance either, there is no way to go.
    shares = [(one - CHANCE) / (two - CHANCE) for one, two in zip(*pairs, strict=True)
              if two > 2 * CHANCE]  # fmt: skip
    return mean(shares), (at_end(tuned[small]), at_end(tuned[large]))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The share of the way that the largest batch goes."""
    limit = thresholds["stuck"]
    predicted = f"< {100 * limit:g} %"
    if "steps" not in series_of(measurements):
        return too_few(predicted, "Equal steps were not run.")
    share, ends = way(measurements, "steps")
    if share.freedom + 1 < thresholds["seeds"]:
        return too_few(predicted, "Too few seeds to read.")
    epochs, _ = way(measurements, "epochs")
    n = max(arms(measurements, "steps"))
    reason = (
        f"n = {n} goes {100 * share.value:.0f} % {points(share.interval())} of the way from "
        f"chance to the best small batch's training accuracy in as many steps, and "
        f"{100 * epochs.value:.0f} % {points(epochs.interval())} in as many epochs."
        + edges_told(measurements)
    )
    return conclude(guarded(less(share, limit), *ends), [], predicted, share, reason)
