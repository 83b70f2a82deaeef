"""Is PercentDelta a special case of CBLR?"""

from typing import TYPE_CHECKING, Any

from paper_checks.papers.gao2020.claims._special_case import PROTOCOL, judge, measured
from paper_checks.papers.gao2020.measurements.context import SNAPSHOTS
from paper_checks.shared import reads

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

__all__ = ["PROTOCOL", "RECORDED", "judge", "measure"]

# Its criterion was not locked before the runs, so the ledger's are no evidence of it.
RECORDED = False


@reads(SNAPSHOTS)
def measure(context: "Context") -> dict[str, Any]:
    """The rule's rate beside the exact radii."""
    return measured(context, "percentdelta")
