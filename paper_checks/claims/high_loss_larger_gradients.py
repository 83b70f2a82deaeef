"""Do samples with higher losses produce larger gradients?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import t_interval
from paper_checks.numbers import short, spread
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    "The batches of figure 9: every sample's loss, and the norm of its own gradient in the second "
    "fully connected layer.",
    "Spearman's rank correlation of the two within each batch; control: with the norms shuffled.",
)


def measure(context: "Context") -> dict[str, Any]:
    """The rank correlations of each batch."""
    from paper_checks.figures import fig9

    found = fig9.measure(context)
    kept = ("case", "ranks", "ranks_shuffled")
    return {
        "seeds": found["seeds"],
        "samples": found["samples"],
        "cases": [{key: case[key] for key in kept} for case in found["cases"]],
    }


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Reads the interval of the mean rank correlation in every network."""
    predicted = f"≥ {thresholds['rank']:g}"
    found, told = [], []
    for case in measurements["cases"]:
        if len(case["ranks"]) < thresholds["batches"]:
            return Judgement(INCONCLUSIVE, predicted, None, f"Only {len(case['ranks'])} batches.")
        interval = t_interval(case["ranks"])
        found.append(interval)
        control = t_interval(case["ranks_shuffled"])
        told.append(
            f"{case['case']} {short(interval[0])} {spread(interval[1:])}, shuffled "
            f"{short(control[0])}"
        )
    strong = [low >= thresholds["rank"] for _, low, _ in found]
    positive = [low > 0 for _, low, _ in found]
    if all(strong):
        verdict = HOLDS
    elif any(positive):
        verdict = IN_PART
    else:
        verdict = CONTRADICTED
    least = min(found)
    return Judgement(
        verdict,
        predicted,
        least[0],
        "Rank correlation of a sample's loss with the norm of its gradient: "
        + "; ".join(told)
        + ".",
        least[1:],
    )
