"""Does MCLR work well at batches below 8192?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points
from paper_checks.papers.gao2020.figures._tuned import guarded
from paper_checks.papers.gao2020.figures.fig16 import PROTOCOL as TUNED
from paper_checks.papers.gao2020.figures.fig16 import apart, arm, ends_told, untuned
from paper_checks.papers.gao2020.measurements.training import BELOW_RUNS
from paper_checks.shared import reads
from paper_checks.statistics import Decision, Estimate, all_of, conclude, more, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    *TUNED,
    "A rule works well if it is not behind plain SGD at a global rate, tuned by as many runs, at "
    "the paper's 1024 and 4096; the control is LARS, which the paper has beside it.",
)


@reads(BELOW_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """The rules without curvature at the batch sizes below the paper's 8192."""
    from paper_checks.papers.gao2020.measurements.training import below

    return below(context)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """MCLR less SGD, and less LARS, at every n below 8192 of 50000."""
    margin, predicted = thresholds["margin"], f"> -{100 * thresholds['margin']:g} points"
    sizes = [
        n
        for n in measurements["n"]
        if all(arm(measurements, "epochs", n, rule) for rule in ("mclr", "lars", "sgd"))
    ]
    if len(sizes) < thresholds["sizes"]:
        return too_few(predicted, f"Only {len(sizes)} batch sizes below 8192 were run.")
    differences: dict[str, list[Estimate]] = {"sgd": [], "lars": []}
    decisions: dict[str, list[Decision]] = {"sgd": [], "lars": []}
    told = []
    for n in sizes:
        for rival in differences:
            each = apart(measurements, "epochs", n, ("mclr", rival))
            won, lost = (
                bool(untuned(measurements, [("epochs", n)], [rule])) for rule in ("mclr", rival)
            )
            differences[rival].append(each)
            decisions[rival].append(guarded(more(each, -margin), won, lost))
            told.append(
                f"n = {n}, less {rival.upper()} {100 * each.value:+.1f} {points(each.interval())}"
            )
    least = min(differences["sgd"], key=lambda each: each.value)
    if least.freedom + 1 < thresholds["seeds"]:
        return too_few(predicted, "Too few seeds to read.")
    edges = untuned(measurements, [("epochs", n) for n in sizes], ("mclr", "lars", "sgd"))
    reason = f"MCLR's test accuracy at the end, in points: {'; '.join(told)}." + ends_told(edges)
    controls = [all_of(*decisions["lars"])]
    return conclude(all_of(*decisions["sgd"]), controls, predicted, least, reason, margin)
