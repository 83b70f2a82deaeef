"""Is the step length what batch-size scheduling works by?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points, short, spread
from paper_checks.papers.gao2020.figures._schedules import BASELINE, OURS, column, end, measure
from paper_checks.papers.gao2020.figures._schedules import PROTOCOL as RUNS
from paper_checks.statistics import (
    UNDECIDED,
    any_of,
    conclude,
    difference,
    less,
    mean,
    more,
    paired,
    rank_correlation,
    too_few,
)

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *RUNS,
    "If the step length of the first epoch is what a schedule works by, the protocols' accuracies "
    "must be ordered as their strides, seed by seed, and the smaller batch must do more than as "
    "many steps more at the end.",
)
PROTOCOLS = (BASELINE, OURS, "only the rate", "only the batch", "warm-up")
STEPS = "as many steps more"


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The rank correlation over the protocols of first stride and accuracy at the end."""
    ran = {row["protocol"] for row in measurements["rows"]}
    arms = [name for name in PROTOCOLS if name in ran]
    ends = {name: end(measurements, name, "accuracies") for name in (*arms, STEPS) if name in ran}
    strides = {name: column(measurements, name, "first_stride") for name in arms}
    seeds = sorted(set.intersection(*(set(ends[name]) for name in arms)))
    if len(seeds) < thresholds["seeds"] or len(arms) < thresholds["arms"]:
        return too_few("> 0", "Too few seeds or protocols.")
    ranks = mean(
        [
            rank_correlation(
                [strides[name][seed] for name in arms], [ends[name][seed] for name in arms]
            )
            for seed in seeds
        ]
    )
    gains = {name: difference(*paired(ends[name], ends[BASELINE])) for name in arms[1:]}
    differs = any_of(*(part for g in gains.values() for part in (more(g, 0.0), less(g, 0.0))))
    controls = [differs]
    told = "; ".join(
        f"{name} {100 * gain.value:+.2f} {points(gain.interval())}" for name, gain in gains.items()
    )
    reason = (
        f"Rank correlation of first-epoch stride and accuracy at the end over {len(arms)} "
        f"protocols, mean over the seeds: {short(ranks.value)} {spread(ranks.interval())}. "
        f"Accuracy less the baseline's, in points: {told}."
    )
    if STEPS in ends:
        steps = difference(*paired(ends[OURS], ends[STEPS]))
        controls.append(more(steps, 0.0))
        reason += (
            f" Less that of as many steps more: {100 * steps.value:+.2f} "
            f"{points(steps.interval())}."
        )
    else:
        controls.append(UNDECIDED)
        reason += " As many steps more were not run."
    return conclude(more(ranks, 0.0), controls, "> 0", ranks, reason)
