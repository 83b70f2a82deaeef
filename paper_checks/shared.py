"""What a check reads: measurements that several checks share, declared where they are read."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any


@dataclass(frozen=True)
class Shared:
    """A measurement that is made once and that several checks may read.

    `keys(context)` are the names under which `context.shared` keeps it, or what they begin with
    before a dash. `rows` are its sweeps and measurements in the ledger; none where it is not
    recorded.
    """

    # Of a `Context`, which knows how checks are made and so may not be known here.
    keys: Callable[[Any], tuple[str, ...]]
    rows: tuple[str, ...] = ()

    @staticmethod
    def under(key: str, *rows: str) -> "Shared":
        """A measurement that is kept under one name in every profile.

        >>> Shared.under("training-tuned", "tuned").keys(None)
        ('training-tuned',)
        """
        return Shared(lambda context: (key,), rows)


class Measure:
    """How a check measures, and the only shared measurements that it can then read.

    Raises `LookupError` where it reads another.
    """

    def __init__(
        self, function: Callable[[Any], dict[str, Any]], reads: tuple[Shared, ...]
    ) -> None:
        self._function = function
        self.reads = reads
        update_wrapper(self, function, updated=())

    def __call__(self, context: Any) -> dict[str, Any]:
        """The measurements, as JSON has them."""
        with context.reading(self.reads):
            return self._function(context)


def reads(*shared: Shared) -> Callable[[Callable[[Any], dict[str, Any]]], Measure]:
    """Declare the shared measurements that a check's `measure` reads; none for none."""
    return lambda function: Measure(function, shared)
