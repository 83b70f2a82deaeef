"""How far a run or a sweep has come, on standard error, with the time that is left.

A terminal gets a bar; a file or a pipe, which would get nothing of it before the end, a line now
and then.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

# Called with the steps done, their total, and the latest values by name.
Progress = Callable[[int, int, dict[str, float]], None]
Say = Callable[[float, int, int, dict[str, float]], None]
# Seconds between two lines, and between two looks at what the bar is to show.
PAUSE, REDRAWN = 10.0, 0.1


@contextmanager
def shown(progress: Progress | bool | None, title: str) -> Iterator[Progress | None]:
    """The function to call with what is done: the given one, one that shows it, or `None`."""
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress: got {progress!r}; give True, False or a function")
    if progress is not True:
        yield progress or None
        return
    console = Console(file=sys.stderr)
    with _bar(console, title) if console.is_interactive else _lines(title) as report:
        yield report


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Progress]:
    """What is done, of how much, since when, the estimated time to the end, the latest values."""
    made = Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        _Latest(table_column=Column(no_wrap=False)),
        console=console,
    )
    tasks: list[TaskID] = []

    def say(now: float, done: int, total: int, latest: dict[str, float]) -> None:
        # Not before the first call: what is refused until then is one line, without a bar.
        if not tasks:
            made.start()
            tasks.append(made.add_task(title, total=total, completed=max(0, done - 1)))
        made.update(tasks[0], completed=done, latest=latest)

    try:
        with _now_and_then(say, REDRAWN, at_once=True) as report:
            yield report
    finally:
        made.stop()


class _Latest(ProgressColumn):
    """The latest values, cut off where the line ends, so that all else stays readable."""

    def render(self, task: Task) -> Text:
        """One line."""
        return Text(_values(task.fields.get("latest", {})), no_wrap=True, overflow="ellipsis")


@contextmanager
def _lines(title: str) -> Iterator[Progress]:
    """A line every few seconds, and one in the end."""
    pace: list[Pace] = []

    def say(now: float, done: int, total: int, latest: dict[str, float]) -> None:
        text = [title, pace[0].text(now, done, total), _values(latest)]
        with suppress(OSError, ValueError):  # nobody reads any more, or it is closed
            print(*filter(None, text), file=sys.stderr, flush=True)

    with _now_and_then(say, PAUSE, at_once=False) as later:

        def report(done: int, total: int, latest: dict[str, float]) -> None:
            if not pace:
                pace.append(Pace(time.monotonic(), done))
            later(done, total, latest)

        yield report


@contextmanager
def _now_and_then(say: Say, pause: float, *, at_once: bool) -> Iterator[Progress]:
    """Pass on a call after a pause of so many seconds, the last one, and the first if `at_once`."""
    said: float | None = None
    left: tuple[float, int, int, dict[str, float]] | None = None

    def report(done: int, total: int, latest: dict[str, float]) -> None:
        nonlocal said, left
        now = time.monotonic()
        left = now, done, total, latest
        if said is None and not at_once:
            said = now
        if said is None or now - said >= pause:
            said = now
            say(*left)
            left = None

    try:
        yield report
    finally:
        if left is not None:
            say(*left)


class Pace:
    """How much is done, since when, and when the rest will be.

    Args:
        began: when the first call came.
        before: what was done then, and is not part of the pace.

    >>> pace = Pace(0.0, 1)
    >>> pace.text(0.0, 1, 11)
    '1/11 0:00:00 eta -:--:--'
    >>> pace.text(60.0, 3, 11)
    '3/11 0:01:00 eta 0:04:00'
    """

    def __init__(self, began: float, before: int) -> None:
        self._began, self._before = began, before

    def text(self, now: float, done: int, total: int) -> str:
        """A line's part."""
        took, made = now - self._began, done - self._before
        left = _clock(took * (total - done) / made) if made else "-:--:--"
        return f"{done}/{total} {_clock(took)} eta {left}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _values(latest: dict[str, float]) -> str:
    """The latest values.

    >>> _values({"train_loss": 0.25, "test_accuracy": 0.5})
    'train_loss 0.25 test_accuracy 0.5'
    """
    return " ".join(f"{name} {value:.4g}" for name, value in latest.items())
