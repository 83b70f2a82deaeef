"""Is the step length amplified by a smaller batch and rate in the first epoch?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures._schedules import BASELINE, OURS, PROTOCOL, column, measure
from paper_checks.statistics import (
    Ratio,
    all_of,
    any_of,
    conclude,
    deciding,
    in_parts,
    more,
    paired,
    ratio,
    too_few,
)

__all__ = ["PROTOCOL", "judge", "measure"]

READINGS = {"first_stride": "per step", "first_path": "path", "first_displacement": "displacement"}


def amplified(measurements: Measurements, protocol: str, name: str) -> Ratio:
    """The protocol's value in the first epoch over the baseline's, seed by seed."""
    arms = (column(measurements, arm, name) for arm in (protocol, BASELINE))
    return ratio(*paired(*arms))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The first epoch's stride, and its path or displacement, over the baseline's."""
    if (
        len(paired(*(column(measurements, arm, "first_stride") for arm in (OURS, BASELINE)))[0])
        < (thresholds["seeds"])
    ):
        return too_few("> 1", "Too few seeds.")
    factors = {name: amplified(measurements, OURS, name) for name in READINGS}
    longer, *broader = (more(each, 1.0) for each in factors.values())
    space = any_of(*broader)
    reason = "The first epoch's update over the baseline's: " + "; ".join(
        f"{label} {short(factors[name].value)} {spread(factors[name].interval())}"
        for name, label in READINGS.items()
    )
    only = amplified(measurements, "only the batch", "first_stride")
    reason += (
        f". With only the batch smaller, at the same rate, the stride per step is "
        f"{short(only.value)} {spread(only.interval())} times as long."
    )
    stride, *others = factors.values()
    seen = deciding((longer, space), (stride, deciding(broader, others, others[0])), stride)
    return conclude(in_parts(longer, space), [all_of(longer, space)], "> 1", seen, reason)
