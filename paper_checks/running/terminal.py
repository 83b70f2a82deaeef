"""The audit in a terminal: progress while it runs, a table when it is done."""

import time
import traceback
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from paper_checks.check import Check
from paper_checks.ledger.rows import Row
from paper_checks.report.words import bounds, quantity
from paper_checks.result import Result
from paper_checks.running.monitor import Silent, run_line
from paper_checks.verdicts import mark, tone

_COLOUR = {"bad": "red", "warn": "yellow", "good": "green", "plain": "dim"}
_RECENT = 8


# Below this width the intervals would wrap; they are in the report.
_ROOM_FOR_INTERVALS = 110


def table(results: Sequence[Result], width: int) -> Table:
    """One row a result: id, verdict, predicted, measured (with its interval if wide), seconds."""
    grid = Table(expand=False, pad_edge=False)
    grid.add_column("id", no_wrap=True, overflow="fold")
    grid.add_column("verdict", no_wrap=True)
    grid.add_column("predicted", overflow="fold")
    grid.add_column("measured", overflow="fold")
    grid.add_column("s", justify="right", no_wrap=True)
    for result in results:
        measured = quantity(result.id, result.measured, result.paper)
        if width >= _ROOM_FOR_INTERVALS and result.interval:
            measured += f" {bounds(result.id, result.interval, result.paper)}"
        grid.add_row(
            Text(result.id),
            Text(f"{mark(result.verdict)} {result.verdict}", style=_COLOUR[tone(result.verdict)]),
            Text(quantity(result.id, result.predicted, result.paper)),
            Text(measured),
            f"{result.seconds:.1f}",
        )
    return grid


class Terminal(Silent):
    """A live view: the latest verdicts, the check at work, how many are done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._results: list[Result] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._live = Live(console=console, get_renderable=self._view, refresh_per_second=8)

    def _view(self) -> Group:
        return Group(table(self._results[-_RECENT:], self._console.width), self._progress)

    def start(self, checks: Sequence[Check]) -> None:
        """Open the live view."""
        self._began = time.perf_counter()
        self._task = self._progress.add_task("starting", total=len(checks))
        self._live.start()

    def recorded(self, row: Row) -> None:
        """Say which run it was: the live view begins after them."""
        self._console.print(run_line(row), markup=False, highlight=False)

    def began(self, check: Check) -> None:
        """Name the check at work."""
        self._progress.update(self._task, description=f"{check.id}: {check.title}"[:48])

    def failed(self, check: Check, error: Exception) -> None:
        """Print the traceback above the live view."""
        self._console.print(f"{check.id} could not be completed:", style="red")
        self._console.print(
            "".join(traceback.format_exception(error)), markup=False, highlight=False
        )

    def finished(self, result: Result) -> None:
        """Add a row and move the bar."""
        self._results.append(result)
        self._progress.advance(self._task)

    def close(self) -> None:
        """Leave the terminal as it was; the summary follows."""
        self._live.transient = True
        self._live.stop()
