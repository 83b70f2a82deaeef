"""What stops a run: Ctrl-C, SIGTERM (the end of a batch job's time), a terminal that is closed."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM)
# The terminal was closed.
HANGUP = getattr(signal, "SIGHUP", None)
Handler = Callable[[int, FrameType | None], None]


@contextmanager
def stoppable(wanted: bool) -> Iterator[list[int]]:
    """A list that is not empty any more once one of them has come; the second one counts."""
    caught: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    with _handled(NUMBERS if wanted else (), handle):
        yield caught


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM as Ctrl-C, so that the processes that work for this one are ended with it."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(NUMBERS[1:], handle):
        yield


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Handler) -> Iterator[None]:
    """The handler in their place; nothing outside the main thread, where Python allows none."""
    if threading.current_thread() is not threading.main_thread():
        numbers = ()
    elif numbers and HANGUP is not None and signal.getsignal(HANGUP) is signal.SIG_DFL:
        # Not where nohup, or the user's own program, has seen to it.
        numbers = (*numbers, HANGUP)
    # Nor what is ignored, as Ctrl-C is by a shell's background jobs; nor, where another program
    # runs Python inside it, that program's own handler, which Python could not put back.
    numbers = tuple(n for n in numbers if signal.getsignal(n) not in (None, signal.SIG_IGN))
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, handle in zip(numbers, before, strict=True):
            signal.signal(number, handle)
