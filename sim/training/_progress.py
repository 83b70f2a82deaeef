"""A bar on standard error with the time that is left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

# Called with the steps done, their total, and the latest values by name.
Progress = Callable[[int, int, dict[str, float]], None]


@contextmanager
def shown(progress: Progress | bool, title: str) -> Iterator[Progress | None]:
    """The function to call after every step: the given one, one that moves a bar, or `None`."""
    if progress is False:
        yield None
        return
    if progress is not True:
        yield progress
        return
    made = bar()
    tasks: list[TaskID] = []

    def tell(done: int, total: int, latest: dict[str, float]) -> None:
        # Not before the first step: what is refused until then is one line, without a bar.
        if not tasks:
            made.start()
            tasks.append(made.add_task(title, total=total, completed=done - 1))
        made.update(tasks[0], completed=done, description=described(title, latest))

    try:
        yield tell
    finally:
        made.stop()


def bar(disable: bool = False) -> Bar:
    """A bar: what is done, of how much, since when, and the estimated time to the end."""
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=disable,
    )


def described(title: str, latest: dict[str, float]) -> str:
    """The title and the latest values.

    >>> described("a run", {"train_loss": 0.25, "test_accuracy": 0.5})
    'a run train_loss 0.25 test_accuracy 0.5'
    """
    return " ".join([title, *(f"{name} {value:.4g}" for name, value in latest.items())])
