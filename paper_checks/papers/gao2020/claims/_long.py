"""The runs of figure 1 with equal steps beside equal epochs, in every profile."""

from typing import TYPE_CHECKING, Any

from paper_checks.papers.gao2020.measurements.training import LONG_RUNS
from paper_checks.shared import reads

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context


@reads(LONG_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """Accuracies at the end by series, n, rate and seed."""
    from paper_checks.papers.gao2020.measurements.training import long

    return long(context)
