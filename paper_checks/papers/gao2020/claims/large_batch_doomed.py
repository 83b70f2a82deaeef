"""Is a very large batch doomed, or only trained for fewer steps?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points
from paper_checks.papers.gao2020.figures._tuned import series_of
from paper_checks.papers.gao2020.figures.fig1 import PROTOCOL, edges_told, gap, measure
from paper_checks.statistics import conclude, too_few

__all__ = ["PROTOCOL", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The largest batch against the best small one at equal steps, rates tuned."""
    limit = thresholds["gap"]
    predicted = f"> {100 * limit:g} points"
    if "steps" not in series_of(measurements):
        return too_few(predicted, "Equal steps were not run.")
    steps, epochs = (gap(measurements, series, limit) for series in ("steps", "epochs"))
    if steps.estimate.freedom + 1 < thresholds["seeds"]:
        return too_few(predicted, "Too few seeds to read.")
    reason = (
        f"Trained for as many steps and at its own rate, n = {steps.large} is "
        f"{100 * steps.estimate.value:.1f} points behind n = {steps.small} "
        f"{points(steps.estimate.interval())}; at equal epochs, where it takes fewer steps, "
        f"{100 * epochs.estimate.value:.1f} points {points(epochs.estimate.interval())}."
        + edges_told(measurements)
    )
    return conclude(steps.decision, [], predicted, steps.estimate, reason, limit)
