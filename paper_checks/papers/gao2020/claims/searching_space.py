"""Does a larger searching space make a better minimum more probable, at the same batch size?"""

from collections.abc import Mapping

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.claims._tuned import measure
from paper_checks.papers.gao2020.figures._tuned import Row, series_of, stages
from paper_checks.papers.gao2020.figures.fig1 import PROTOCOL as TUNED
from paper_checks.papers.gao2020.figures.fig1 import arms
from paper_checks.statistics import conclude, mean, more, rank_correlation, too_few

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *TUNED,
    "The searching space is the path that the first layer's weights travel. Control for the batch "
    "size and for the seed: within one n, one series and one seed, over the rates; runs that "
    "diverged have no path.",
)


def correlation(rows: list[Row]) -> float | None:
    """The mean over the seeds of Spearman's correlation of path and accuracy over the rates."""
    pairs: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        for (seed, _), path, accuracy in zip(
            stages(row), row["path"], row["accuracy"], strict=True
        ):
            if path is not None and accuracy is not None:
                pairs.setdefault(seed, []).append((path, accuracy))
    # Two rates have a rank correlation of one or minus one.
    correlations = [
        rank_correlation(*zip(*each, strict=True)) for each in pairs.values() if len(each) > 2
    ]
    return float(np.mean(correlations)) if correlations else None


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The mean correlation over batch sizes and series."""
    values = [
        correlation(rows)
        for series in series_of(measurements)
        for rows in arms(measurements, series).values()
    ]
    settings = [value for value in values if value is not None]
    if len(settings) < thresholds["settings"]:
        return too_few("> 0", f"Only {len(settings)} settings.")
    average = mean(settings)
    reason = (
        f"Within one batch size the rank correlation of the path with the accuracy is "
        f"{short(average.value)} on average {spread(average.interval())}, from "
        f"{short(min(settings))} to {short(max(settings))} over {len(settings)} settings: a path "
        "can be too long as well as too short."
    )
    clear = more(average, thresholds["rank"])
    return conclude(more(average, 0.0), [clear], "> 0", average, reason)
