"""Is (dL/dw)² far less than one, so that equation 9 may drop it?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.claims._networks import PROTOCOL as NETWORKS
from paper_checks.claims._networks import networks, rows
from paper_checks.numbers import short
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    *NETWORKS,
    "The gradient of a mean loss; a loss c times as large has g² c² times as large.",
)


def measure(context: "Context") -> dict[str, Any]:
    """The largest g² and its 0.99 quantile in every tensor."""
    return networks(context, ("gradient_squared_max", "gradient_squared_q99"))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Holds for all entries, for all but a hundredth, or not."""
    found = rows(measurements)
    largest = max(row["gradient_squared_max"] for row in found)
    quantile = max(row["gradient_squared_q99"] for row in found)
    limit = thresholds["largest"]
    verdict = HOLDS if largest <= limit else IN_PART if quantile <= limit else CONTRADICTED
    where = max(found, key=lambda row: row["gradient_squared_max"])["parameter"]
    reason = (
        f"The largest g² is {short(largest)} (in {where}); the largest 0.99 quantile of a tensor "
        f"is {short(quantile)}. Dropping g² changes R by at most "
        f"{short(100 * ((1 + largest) ** 1.5 - 1))} %."
    )
    return Judgement(verdict, f"≤ {limit:g}", largest, reason)
