"""Who hears how an audit goes: nobody, or a plain line per check."""

import sys
import traceback
from collections.abc import Sequence
from typing import Protocol

from paper_checks.check import Check
from paper_checks.ledger.rows import Row
from paper_checks.result import Result
from paper_checks.verdicts import mark


class Monitor(Protocol):
    """What the runner calls; `close` comes last, whatever happened."""

    def start(self, checks: Sequence[Check]) -> None:
        """The checks that will run."""

    def recorded(self, row: Row) -> None:
        """A run was made and is in the ledger; such runs come before the checks."""

    def began(self, check: Check) -> None:
        """A check starts now."""

    def failed(self, check: Check, error: Exception) -> None:
        """A check broke down with `error`; `finished` follows."""

    def finished(self, result: Result) -> None:
        """A check is done and on disk."""

    def close(self) -> None:
        """No more calls."""


class Silent:
    """Hears everything and says nothing."""

    def start(self, checks: Sequence[Check]) -> None:
        """Nothing to do."""

    def recorded(self, row: Row) -> None:
        """Nothing to do."""

    def began(self, check: Check) -> None:
        """Nothing to do."""

    def failed(self, check: Check, error: Exception) -> None:
        """Nothing to do."""

    def finished(self, result: Result) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class Lines(Silent):
    """One line per finished check, for logs and pipes; tracebacks go to standard error."""

    def start(self, checks: Sequence[Check]) -> None:
        """Say how many checks there are."""
        self._total, self._done = len(checks), 0
        print(f"{self._total} checks", flush=True)

    def recorded(self, row: Row) -> None:
        """Say which run it was, and how long it took."""
        print(run_line(row), flush=True)

    def failed(self, check: Check, error: Exception) -> None:
        """Show the traceback: a check that breaks down is a bug or a missing part."""
        print(f"{check.id} could not be completed:", file=sys.stderr)
        traceback.print_exception(error)

    def finished(self, result: Result) -> None:
        """Say what was found."""
        self._done += 1
        print(
            f"[{self._done}/{self._total}] {result.id}: {mark(result.verdict)} {result.verdict} "
            f"({result.seconds:.1f} s{', kept' if result.kept else ''})",
            flush=True,
        )


def run_line(row: Row) -> str:
    """A run of the ledger in a line."""
    if "measurement" in row.config:
        return f"{row.config['measurement']} ({row.seconds:.1f} s)"
    names = ("model", "optimizer", "batch_size", "lr", "seed")
    facts = ", ".join(f"{name} {row.config[name]}" for name in names)
    return f"{row.sweep}: {facts} ({row.seconds:.1f} s)"
