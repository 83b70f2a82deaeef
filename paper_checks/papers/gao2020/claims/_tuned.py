"""The runs of figure 1 with a grid of rates, for what is asked of every rate."""

from typing import TYPE_CHECKING, Any

from paper_checks.papers.gao2020.measurements.training import TUNED_RUNS
from paper_checks.shared import reads

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context


@reads(TUNED_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """Accuracies at the end by series, n, rate and seed."""
    from paper_checks.papers.gao2020.measurements.training import tuned

    return tuned(context)
