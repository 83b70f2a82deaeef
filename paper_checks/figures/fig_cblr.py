"""Beyond the paper: true CBLR against all its approximations, small and large batch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._interval import welch
from paper_checks.figures.fig16 import PROTOCOL as TUNED
from paper_checks.figures.fig16 import draw_rules, read, untuned
from paper_checks.numbers import points
from paper_checks.training import rules
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

NAMES = {
    "cblr": "CBLR, exact",
    "mclr": "MCLR",
    "lars": "LARS",
    "percent-delta": "PercentDelta",
    "sgd": "SGD",
}
SUBSTITUTES = ("mclr", "lars", "percent-delta")
PROTOCOL = (*TUNED, "PercentDelta and plain SGD join. What is asked is whether the exact radius "
            "trains better than what stands for it.")  # fmt: skip


def measure(context: "Context") -> dict[str, Any]:
    """The runs of figure 16."""
    return rules(context)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """CBLR less the best of its approximations, at the smallest and the largest batch."""
    sizes = (measurements["n"][0], measurements["n"][-1])
    seeds = len(read(measurements, "epochs", sizes[0], "cblr"))
    if seeds < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, "> 0", None, f"Only {seeds} seeds to read.")
    found, told, edges = [], [], []
    for series in ("epochs", "steps"):
        for n in sizes:
            accuracy = {rule: float(np.mean(read(measurements, series, n, rule))) for rule in NAMES}
            rival = max(SUBSTITUTES, key=lambda rule: accuracy[rule])
            interval = welch(
                read(measurements, series, n, "cblr"), read(measurements, series, n, rival)
            )
            found.append(interval)
            edges += untuned(measurements, [(series, n)], ("cblr", rival))
            told.append(
                f"n = {n}, equal {series}: {100 * interval[0]:+.1f} points "
                f"{points(interval[1:])} against {NAMES[rival]} ("
                + ", ".join(f"{NAMES[rule]} {100 * accuracy[rule]:.1f} %" for rule in NAMES)
                + ")"
            )
    better, worse = [low > 0 for _, low, _ in found], [high < 0 for _, _, high in found]
    if edges:
        verdict = INCONCLUSIVE
    elif all(better):
        verdict = HOLDS
    elif any(better):
        verdict = IN_PART
    elif all(worse) or (any(worse) and not any(better)):
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    least = min(found)
    reason = "True CBLR less the best of its approximations: " + "; ".join(told) + "."
    if edges:
        reason += f" The best γ is at an end of its grid for {', '.join(edges)}."
    return Judgement(verdict, "> 0", least[0], reason, least[1:])


def draw(measurements: Measurements) -> Drawing:
    """Test accuracy against n for all five rules."""
    title = "True CBLR against its approximations"
    return draw_rules(measurements, "fig-cblr", title, NAMES, "")
