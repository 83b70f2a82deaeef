"""Which part of the work is this process's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """One of `size` shares of a sum that is taken over processes in the end.

    >>> Share(1, 3).of(10), Share(1, 3).among("abcdefg")
    (slice(3, 6, None), 'be')
    """

    rank: int = 0
    size: int = 1

    def of(self, n: int) -> slice:
        """Which of n neighbours are taken here; shares differ by at most one."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def among(self, items: Sequence[Item]) -> Sequence[Item]:
        """Which of some items are taken here, dealt out in turn."""
        return items[self.rank :: self.size]


ALL = Share()
