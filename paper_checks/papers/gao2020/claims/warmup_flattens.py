"""Does warm-up flatten the sharpest layer first?"""

from collections.abc import Mapping

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures.fig_spread import FULL, WARM, measure
from paper_checks.papers.gao2020.figures.fig_spread import PROTOCOL as SPREAD
from paper_checks.statistics import all_of, conclude, difference, less, mean, paired, too_few

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *SPREAD,
    "The layer of the largest mean |h| at the start, by seed: the change of its log10 |h| over the "
    "warm-up beside the mean change of the other layers.",
)


def changes(measurements: Measurements, protocol: str) -> dict[int, tuple[float, float]]:
    """By seed, the change of the sharpest layer's log10 |h| and the mean change of the others.

    Which layer is the sharpest at the start the other seeds say: of the seed's own start the
    largest value is also the luckiest, and would fall by itself.
    """
    rows = [row for row in measurements["rows"] if row["protocol"] == protocol]
    first, last = (end({row["step"] for row in rows}) for end in (min, max))
    curvatures = {(row["seed"], row["step"]): row["layers"] for row in rows}
    seeds = [seed for seed, step in curvatures if step == first and (seed, last) in curvatures]
    by_seed = {}
    for seed in seeds:
        others = [curvatures[other, first] for other in seeds if other != seed]
        if not others:
            continue
        # A layer without any curvature at one end, dead units alone, has no logarithm there.
        ends = [*others, curvatures[seed, first], curvatures[seed, last]]
        names = [name for name in others[0] if all(name in layers for layers in ends)]
        if len(names) < 2:
            continue
        top = max(names, key=lambda name: sum(layers[name] for layers in others))
        moved = {
            name: curvatures[seed, last][name] - curvatures[seed, first][name] for name in names
        }
        rest = [moved[name] for name in names if name != top]
        by_seed[seed] = moved[top], float(np.mean(rest))
    return by_seed


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The sharpest layer's change: downwards, below the others', and below the full rate's."""
    warm, full = (changes(measurements, protocol) for protocol in (WARM, FULL))
    if len(warm) < thresholds["seeds"]:
        return too_few("< 0", f"Only {len(warm)} seeds.")
    own = mean([top for top, _ in warm.values()])
    apart = mean([top - rest for top, rest in warm.values()])
    arms = ({seed: top for seed, (top, _) in change.items()} for change in (warm, full))
    against = difference(*paired(*arms))
    reason = (
        f"Over the warm-up the sharpest layer's log10 |h| changes by {short(own.value)} "
        f"{spread(own.interval())}, which is {short(apart.value)} {spread(apart.interval())} more "
        f"than the others' and {short(against.value)} {spread(against.interval())} more than at "
        "the full rate from the start."
    )
    core = all_of(less(own, 0.0), less(apart, 0.0))
    return conclude(core, [less(against, 0.0)], "< 0", own, reason)
