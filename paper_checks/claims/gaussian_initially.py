"""Are per-sample gradients nearer to a Gaussian at initialisation than later?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    "The measurement of fig-gaussian: an MLP at initialisation and trained, each layer's entries.",
    "The excess kurtosis of the median entry, and its quartiles.",
)


def measure(context: "Context") -> dict[str, Any]:
    """The rows of fig-gaussian."""
    from paper_checks.figures import fig_gaussian

    return fig_gaussian.measure(context)


def pairs(measurements: Measurements) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each layer of the MLP at initialisation with itself trained."""
    rows = {(row["network"], row["parameter"]): row for row in measurements["rows"]}
    return [
        (row, rows["MLP trained", parameter])
        for (network, parameter), row in rows.items()
        if network == "MLP at initialisation" and ("MLP trained", parameter) in rows
    ]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Compares the excess kurtosis before and after training, layer by layer."""
    found = pairs(measurements)
    if len(found) < thresholds["layers"]:
        return Judgement(INCONCLUSIVE, None, None, f"Only {len(found)} layers to compare.")
    ratios = [abs(after["excess"][2]) / abs(before["excess"][2]) for before, after in found]
    apart = [after["excess"][1] > before["excess"][3] for before, after in found]
    if all(ratio >= thresholds["ratio"] for ratio in ratios) and all(apart):
        verdict = HOLDS
    elif any(ratio >= thresholds["ratio"] for ratio in ratios):
        verdict = IN_PART
    else:
        verdict = CONTRADICTED
    reason = "Median excess kurtosis at initialisation and trained: " + "; ".join(
        f"{before['parameter']} {short(before['excess'][2])} and {short(after['excess'][2])}"
        for before, after in found
    )
    return Judgement(
        verdict,
        f"≥ {thresholds['ratio']:g}",
        min(ratios),
        reason + ".",
        (min(ratios), max(ratios)),
    )
