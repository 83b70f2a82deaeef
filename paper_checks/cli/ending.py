"""How a command ends: the status, one line on standard error, and what Ctrl-C and SIGTERM do."""

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

from paper_checks.errors import InputError

INTERRUPTED = 130
# Errors of the system that a wrong path has; with all others a run could not be completed.
BAD_PATH = {
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT),
    *(errno.ENOTDIR, errno.EPERM, errno.EROFS, None),
}


@contextmanager
def terminable() -> Iterator[None]:
    """Ctrl-C and SIGTERM as KeyboardInterrupt: a batch system's end of time loses nothing."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        numbers.append(signal.SIGHUP)  # the terminal is closed; nohup has it ignored
    handlers: dict[int, Any] = dict.fromkeys(numbers, stop)
    if callable(signal.getsignal(signal.SIGINT)):
        # Not where a shell's background job has it ignored.
        handlers[signal.SIGINT] = signal.default_int_handler
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible(again: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM as one line and status 130, from the first import on."""
    try:
        with terminable():
            yield
    except KeyboardInterrupt as stop:
        typer.echo(f"cblr: {str(stop) or f'interrupted; {again}'}", err=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def expected(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the errors that bad input raises into one line on standard error and status 2."""
    try:
        yield
    except kinds as error:
        typer.echo(f"cblr: {one_line(error)}", err=True)
        raise typer.Exit(2) from None


@contextmanager
def complete() -> Iterator[None]:
    """A full disk or memory is no bad input: the run could not be completed, which is status 1."""
    try:
        yield
    except (OSError, MemoryError) as error:
        typer.echo(f"cblr: {one_line(error)}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def refusing() -> Iterator[None]:
    """Bad input, a wrong path among it, as one line and status 2."""
    with wrong_paths(), expected(ValueError, TypeError):
        try:
            yield
        except RecursionError:
            raise InputError("file", "its fields", "are nested too deeply") from None


@contextmanager
def wrong_paths() -> Iterator[None]:
    """An error of the system that a wrong path has is bad input; all others pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in BAD_PATH:
            raise
        with expected(OSError):
            raise


def one_line(error: BaseException) -> str:
    """The message without line breaks; an error of the system with its file's name.

    >>> one_line(ValueError("a\\n  b"))
    'a b'
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    # What `sim.data.load` calls root is --data here.
    return f"--data{text.removeprefix('root')}" if text.startswith("root: ") else text
