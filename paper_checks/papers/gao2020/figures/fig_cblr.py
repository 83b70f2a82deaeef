"""Beyond the paper: true CBLR against all its approximations, small and large batch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import points, short
from paper_checks.papers.gao2020.figures._tuned import at_end, chosen, guarded, merit, series_of
from paper_checks.papers.gao2020.figures.fig16 import PROTOCOL as TUNED
from paper_checks.papers.gao2020.figures.fig16 import (
    apart,
    arm,
    draw_rules,
    ends_told,
    trained,
    untuned,
    values,
)
from paper_checks.papers.gao2020.measurements.training import RULE_RUNS, rules
from paper_checks.shared import reads
from paper_checks.statistics import UNDECIDED, all_of, conclude, deciding, in_parts, more, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

NAMES = {
    "cblr": "CBLR, exact",
    "mclr": "MCLR",
    "lars": "LARS",
    "percent-delta": "PercentDelta",
    "sgd": "SGD",
}
SERIES = ("epochs", "steps")
SUBSTITUTES = ("mclr", "lars", "percent-delta")
PROTOCOL = (
    *TUNED,
    "PercentDelta and plain SGD join. What is asked is whether the exact radius trains better than "
    "what stands for it. SGD is the control: with a small cap all radii are the cap, and CBLR is "
    "SGD.",
)


@reads(RULE_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """The runs of figure 16."""
    return rules(context)


def settings(measurements: Measurements) -> list[tuple[str, int]]:
    """Where CBLR was run: each series at the smallest and at the largest n."""
    ends = dict.fromkeys((measurements["n"][0], measurements["n"][-1]))
    return [
        (series, n)
        for series in series_of(measurements)
        for n in ends
        if arm(measurements, series, n, "cblr")
    ]


def missing(measurements: Measurements) -> list[str]:
    """What the criterion asks for and was not run."""
    lacking = [f"equal {name}" for name in SERIES if name not in series_of(measurements)]
    if len(set(measurements["n"])) < 2:
        lacking.append("another batch size")
    return lacking + [NAMES[rule] for rule in SUBSTITUTES if rule not in trained(measurements)]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """CBLR less the best of its approximations and less SGD, at the smallest and largest batch."""
    places = settings(measurements)
    seeds = min((len(values(measurements, *place, "cblr")) for place in places), default=0)
    if seeds < thresholds["seeds"]:
        return too_few("> 0", f"Only {seeds} seeds to read.")
    parts, controls, leads, told, edges = [], [], [], [], []
    for series, n in places:
        rivals = [rule for rule in SUBSTITUTES if arm(measurements, series, n, rule)]
        rival = max(rivals, key=lambda rule: merit(chosen(arm(measurements, series, n, rule))))
        lost, won = (at_end(arm(measurements, series, n, rule)) for rule in (rival, "cblr"))
        ahead = apart(measurements, series, n, ("cblr", rival))
        plain = apart(measurements, series, n, ("cblr", "sgd"))
        parts.append(guarded(more(ahead, 0.0, least=thresholds["margin"]), won, lost))
        controls.append(more(plain, 0.0))
        leads.append(ahead)
        edges += untuned(measurements, [(series, n)], ("cblr", rival))
        cap = chosen(arm(measurements, series, n, "cblr")).get("cap")
        told.append(
            f"n = {n}, equal {series}: {100 * ahead.value:+.1f} points {points(ahead.interval())} "
            f"against {NAMES[rival]}, {100 * plain.value:+.1f} {points(plain.interval())} against "
            f"SGD ("
            + ", ".join(
                f"{NAMES[rule]} {100 * float(np.mean(list(reached.values()))):.1f} %"
                for rule in NAMES
                if rule in trained(measurements)
                for reached in [values(measurements, series, n, rule)]
            )
            + (f"; cap {short(cap)})" if cap else ")")
        )
    least = min(leads, key=lambda each: each.value)
    reason = "True CBLR less the best of its approximations: " + "; ".join(told) + "."
    reason += ends_told(edges)
    whole = [all_of(*parts), *controls]
    if lacking := missing(measurements):
        whole.append(UNDECIDED)
        reason += f" Not run: {', '.join(lacking)}."
    seen = deciding(parts, leads, least)
    return conclude(in_parts(*parts), whole, "> 0", seen, reason, thresholds["margin"])


def draw(measurements: Measurements) -> Drawing:
    """Test accuracy against n for all five rules."""
    title = "True CBLR against its approximations"
    return draw_rules(measurements, "fig-cblr", title, NAMES, "")
