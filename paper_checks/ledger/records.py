"""What a context asks of the ledger, declared apart from both."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from paper_checks.ledger.rows import Ledger, Row


class Records(Protocol):
    """Runs and measurements as rows, which `paper_checks.campaign.recorder.Recorder` makes.

    A context, a sweep, its cells and its runs are `Any` here, or each would have to know the other.
    """

    ledger: Ledger
    trains: bool
    listener: Callable[[Row], None] | None

    @property
    def numerics(self) -> int:
        """The version with which equal configurations give equal numbers."""

    def taken(self) -> float:
        """The seconds of the runs that were read since this was last asked."""

    def row(self, sweep: Any, run: Any) -> Row | None:
        """The row of a run, if it was made."""

    def cells(self, sweep: Any, context: Any) -> Sequence[Any]:
        """The cells of a sweep."""

    def absent(self, name: str) -> Any:
        """What is known of a data set that is not at hand."""

    def measured(self, context: Any, sweep: Any, runs: Sequence[Any]) -> list[dict[str, Any]]:
        """What was read off each run."""

    def once(
        self, context: Any, name: str, make: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        """A measurement without training, which is one row."""

    def once_row(self, context: Any, name: str) -> Row | None:
        """The row of a measurement without training, if it was made."""

    def reading(self, name: str) -> int:
        """The version of what a measurement without training reads."""

    def measurement(self, context: Any, name: str) -> dict[str, Any]:
        """The whole configuration of a measurement without training."""
