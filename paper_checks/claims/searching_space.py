"""Does a larger searching space make a better minimum more probable, at the same batch size?"""

from collections.abc import Mapping

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import rank_correlation, t_interval
from paper_checks.figures.fig1 import PROTOCOL as TUNED
from paper_checks.figures.fig1 import measure
from paper_checks.numbers import short, spread
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *TUNED,
    "The searching space is the path that the first layer's weights travel. Control for the batch "
    "size: within one n and one series, over the rates that did not diverge.",
)


def correlations(measurements: Measurements) -> list[float]:
    """For each series and n, Spearman's correlation of path and accuracy over rates and seeds."""
    found = []
    for series in ("epochs", "steps"):
        for n in measurements["n"]:
            pairs = [
                (path, accuracy)
                for row in measurements["rows"]
                if (row["series"], row["n"]) == (series, n) and not row["diverged"]
                for path, accuracy in zip(row["path"], row["accuracy"], strict=True)
                if path is not None and accuracy is not None
            ]
            if len(pairs) >= 6:
                found.append(rank_correlation(*zip(*pairs, strict=True)))
    return found


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The mean correlation over batch sizes and series."""
    found = correlations(measurements)
    predicted = f"≥ {thresholds['rank']:g}"
    if len(found) < thresholds["settings"]:
        return Judgement(INCONCLUSIVE, predicted, None, f"Only {len(found)} settings.")
    mean, low, high = t_interval(found)
    if low >= thresholds["rank"]:
        verdict = HOLDS
    elif low > 0:
        verdict = IN_PART
    elif high < thresholds["rank"]:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    reason = (
        f"Within one batch size the rank correlation of the path with the accuracy is "
        f"{short(mean)} on average {spread((low, high))}, from {short(min(found))} to "
        f"{short(float(np.max(found)))} over {len(found)} settings: a path can be too long as "
        "well as too short."
    )
    return Judgement(verdict, predicted, mean, reason, (low, high))
