"""What does every exact second derivative cost, in gradients?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    "The network of figure 2 and its sample.",
    "One gradient is timed three times and the least is taken; the exact diagonal is timed as it "
    "is computed for figure 2, without its cross-check.",
    "The plain way, one double backward for each parameter, would cost as many gradients as there "
    "are parameters, and more.",
)


def measure(context: "Context") -> dict[str, Any]:
    """Seconds of one gradient and of the exact diagonal, for each seed."""
    snapshots = [context.snapshot(seed) for seed in context.profile.seeds]
    return {
        "seeds": [snapshot.seed for snapshot in snapshots],
        "samples": snapshots[0].samples,
        "parameters": snapshots[0].parameters,
        "gradient_seconds": [snapshot.gradient_seconds for snapshot in snapshots],
        "diagonal_seconds": [snapshot.seconds for snapshot in snapshots],
    }


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Compares the middle one of the seeds' ratios with the two thresholds."""
    parameters = measurements["parameters"]
    ratios = [
        whole / one
        for whole, one in zip(
            measurements["diagonal_seconds"], measurements["gradient_seconds"], strict=True
        )
    ]
    typical = sorted(ratios)[len(ratios) // 2]
    predicted = f"≥ {thresholds['costly']:g}"
    reason = (
        f"All {short(parameters)} second derivatives cost {short(typical)} gradients; one double "
        f"backward each would cost more than {short(parameters)}. The interval spans the seeds."
    )
    if parameters < thresholds["parameters"]:
        verdict = INCONCLUSIVE
        reason = f"{short(parameters)} parameters are no big network. {reason}"
    elif typical >= thresholds["costly"]:
        verdict = HOLDS
    elif typical <= thresholds["cheap"]:
        verdict = CONTRADICTED
    else:
        verdict = IN_PART
    return Judgement(verdict, predicted, typical, reason, (min(ratios), max(ratios)))
