"""Progress of an exact computation, in backward passes and entries."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from hessian._runtime.extras import extra


class Numbered(Protocol):
    """What has a place in the order of the data."""

    index: int


N = TypeVar("N", bound=Numbered)
MINUTE = 60.0  # seconds


class Lines:
    """Progress as lines of text, at most one a minute, where no terminal draws a bar.

    It does what `rich.progress.Progress` is asked for here, for a single task.
    """

    def __init__(self, write: Callable[[str], object], now: Callable[[], float]) -> None:
        self.write, self.now = write, now
        self.description, self.total, self.done = "", 0, 0
        self.start = self.said = now()

    def add_task(self, description: str, total: int = 0) -> int:
        """Begin, with so many units to do."""
        self.description, self.total = description, total
        return 0

    def update(self, task: int, total: int, description: str) -> None:
        """Another number of units, or another name."""
        self.description, self.total = description, total

    def advance(self, task: int, units: int) -> None:
        """So many units are done."""
        self.done += units
        now = self.now()
        if now - self.said < MINUTE or not self.done:
            return
        self.said = now
        left = (now - self.start) * max(0, self.total - self.done) / self.done
        self.write(
            f"{self.description}: {self.done:,} of {self.total:,} products and passes, about "
            f"{timedelta(seconds=round(left))} left"
        )


class Ticker:
    """Progress in backward passes and entries; silent unless a bar is given."""

    def __init__(self, bar: Any = None) -> None:
        self.bar = bar
        self.task = bar.add_task("exact diagonal", total=0) if bar is not None else None
        self.total = 0

    def expect(self, units: int, index: int) -> None:
        self.total += units
        if self.bar is not None:
            self.bar.update(
                self.task, total=self.total, description=f"exact diagonal, batch {index + 1}"
            )

    def begin(self, what: str, units: int) -> None:
        """Count units of something else than an exact diagonal."""
        self.total += units
        if self.bar is not None:
            self.bar.update(self.task, total=self.total, description=what)

    def over(self, items: Iterable[N]) -> Iterator[N]:
        """The items, one unit each."""
        for item in items:
            self.expect(1, item.index)
            yield item
            self.tick(1)

    def tick(self, units: int) -> None:
        if self.bar is not None:
            self.bar.advance(self.task, units)


@contextmanager
def ticker(progress: bool) -> Iterator[Ticker]:
    if not progress:
        yield Ticker()
        return
    with extra("display", "progress=True"):
        from rich.progress import Progress

    bar = Progress(transient=True)
    if not bar.console.is_terminal and not bar.console.is_jupyter:
        yield Ticker(Lines(lambda line: print(line, file=sys.stderr, flush=True), time.monotonic))
        return
    with bar:
        yield Ticker(bar)
