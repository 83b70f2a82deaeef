"""Is PercentDelta a special case of CBLR?"""

from typing import TYPE_CHECKING, Any

from paper_checks.claims._special_case import PROTOCOL, judge, measured

if TYPE_CHECKING:
    from paper_checks.measurements.context import Context

__all__ = ["PROTOCOL", "judge", "measure"]


def measure(context: "Context") -> dict[str, Any]:
    """The rule's rate beside the exact radii."""
    return measured(context, "percentdelta")
