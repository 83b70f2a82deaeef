"""Do samples with higher losses produce larger gradients?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures.fig9 import DISCARDED_BATCHES
from paper_checks.shared import reads
from paper_checks.statistics import (
    all_of,
    conclude,
    deciding,
    difference,
    in_parts,
    mean,
    more,
    too_few,
)

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "The batches of figure 9: every sample's loss, and the norm of its own gradient in the second "
    "fully connected layer.",
    "Spearman's rank correlation of the two within each batch; control: with the norms shuffled.",
)


@reads(DISCARDED_BATCHES)
def measure(context: "Context") -> dict[str, Any]:
    """The rank correlations of each batch."""
    from paper_checks.papers.gao2020.figures import fig9

    figure = fig9.measure(context)
    columns = ("case", "ranks", "ranks_shuffled")
    return {
        "seeds": figure["seeds"],
        "samples": figure["samples"],
        "cases": [{key: case[key] for key in columns} for case in figure["cases"]],
    }


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Reads the interval of the mean rank correlation in every network."""
    cases = measurements["cases"]
    if min(len(case["ranks"]) for case in cases) < thresholds["batches"]:
        return too_few("> 0", "Too few batches.")
    correlations = [mean(case["ranks"]) for case in cases]
    controls = [difference(case["ranks"], case["ranks_shuffled"]) for case in cases]
    told = "; ".join(
        f"{case['case']} {short(each.value)} {spread(each.interval())}, shuffled "
        f"{short(mean(case['ranks_shuffled']).value)}"
        for case, each in zip(cases, correlations, strict=True)
    )
    positive = [
        all_of(more(each, 0.0), more(control, 0.0))
        for each, control in zip(correlations, controls, strict=True)
    ]
    strong = [more(each, thresholds["rank"]) for each in correlations]
    least = min(correlations, key=lambda each: each.value)
    reason = f"Rank correlation of a sample's loss with the norm of its gradient: {told}."
    seen = deciding(positive, correlations, least)
    return conclude(in_parts(*positive), [all_of(*positive), *strong], "> 0", seen, reason)
