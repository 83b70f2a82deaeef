"""Progress of an exact computation, in backward passes and entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from hessian._runtime.extras import extra


class Numbered(Protocol):
    """What has a place in the order of the data."""

    index: int


N = TypeVar("N", bound=Numbered)


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

    with Progress(transient=True) as bar:
        yield Ticker(bar)
