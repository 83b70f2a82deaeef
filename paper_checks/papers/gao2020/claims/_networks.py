"""What most claims measure: chosen statistics of every tensor, for several initialisations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement
from paper_checks.numbers import points
from paper_checks.statistics import at_least, conclude, mean, more, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "The network of figure 2 at initialisation, cross-entropy, dropout off, once for each seed.",
    "The gradient and the exact second derivative of every parameter on the stated sample.",
)


def networks(context: "Context", columns: Iterable[str]) -> dict[str, Any]:
    """Of every seed's network, the `columns` of every tensor's row."""
    names = ("parameter", "size", *columns)
    snapshots = [context.snapshot(seed) for seed in context.profile.seeds]
    return {
        "seeds": [snapshot.seed for snapshot in snapshots],
        "samples": snapshots[0].samples,
        "networks": [
            {
                "seed": snapshot.seed,
                "rows": [{name: row[name] for name in names} for row in snapshot.rows],
            }
            for snapshot in snapshots
        ],
    }


def rows(measurements: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of all seeds' networks, one after another."""
    return [row for network in measurements["networks"] for row in network["rows"]]


def by_network(
    measurements: Mapping[str, Any], keep: Callable[[dict[str, Any]], bool]
) -> list[list[dict[str, Any]]]:
    """The rows that can be compared, a list for each seed's network; empty ones are left out."""
    parts = [[row for row in network["rows"] if keep(row)] for network in measurements["networks"]]
    return [part for part in parts if part]


def by_share(
    shares: Sequence[float],
    tensors: int,
    thresholds: Mapping[str, float],
    predicted: str,
    what: str,
) -> Judgement:
    """The verdict of a criterion on a share of the tensors, one for each seed.

    Tensors of one network are not independent, seeds are. `most` of the tensors is what the
    sentence says, and at most `few` is its contrary.
    """
    if tensors < thresholds["tensors"]:
        return too_few(predicted, f"Only {tensors} tensors can be compared.")
    share = mean(shares, 1 / tensors)
    reason = f"{what} in {100 * share.value:.0f} % of the tensors {points(share.interval())}."
    core = more(share, thresholds["few"])
    return conclude(core, [at_least(share, thresholds["most"])], predicted, share, reason)
