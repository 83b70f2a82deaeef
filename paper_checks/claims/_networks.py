"""What most claims measure: chosen statistics of every tensor, for several initialisations."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    "The network of figure 2 at initialisation, cross-entropy, dropout off, once for each seed.",
    "The gradient and the exact second derivative of every parameter on the stated sample.",
)


def networks(context: "Context", columns: Iterable[str]) -> dict[str, Any]:
    """Of every seed's network, the `columns` of every tensor's row."""
    kept = ("parameter", "size", *columns)
    snapshots = [context.snapshot(seed) for seed in context.profile.seeds]
    return {
        "seeds": [snapshot.seed for snapshot in snapshots],
        "samples": snapshots[0].samples,
        "networks": [
            {
                "seed": snapshot.seed,
                "rows": [{name: row[name] for name in kept} for row in snapshot.rows],
            }
            for snapshot in snapshots
        ],
    }


def rows(measurements: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of all seeds' networks, one after another."""
    return [row for network in measurements["networks"] for row in network["rows"]]


def by_share(
    good: int, total: int, thresholds: Mapping[str, float], predicted: str, what: str
) -> Judgement:
    """The verdict of a criterion on a share of the tensors: `most` and `few` decide."""
    if total < thresholds["tensors"]:
        return Judgement(INCONCLUSIVE, predicted, None, f"Only {total} tensors can be compared.")
    share = good / total
    if share >= thresholds["most"]:
        verdict = HOLDS
    elif share <= thresholds["few"]:
        verdict = CONTRADICTED
    else:
        verdict = IN_PART
    return Judgement(
        verdict, predicted, share, f"{what} in {good} of {total} tensors.", wilson(good, total)
    )


def wilson(good: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval for a share.

    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    share, weight = good / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * (share * (1 - share) / total + weight / (4 * total)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
