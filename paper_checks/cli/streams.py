"""Standard output and error that take what a terminal cannot show, and whose reader may go away.

A character that the encoding lacks becomes a question mark. Where the reader has gone away (`| head
-1`) the work goes on, and what is left to say is dropped. Where a device is full, all that was
computed is on disk, and the command ends with status 1.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

# How the end of a reader shows.
GONE = (errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN)
# A terminal that was closed.
HUNG_UP = errno.EIO


class Stream:
    """A stream whose writes do not fail; `error` is what the first failure was.

    >>> full = Stream(io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace"))
    >>> full.write("fine"), full.error
    (4, None)
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lost(error)
            return len(text)

    def writelines(self, lines: Any) -> None:
        """Write, or drop the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or drop what was to be."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        """From now on everything goes nowhere, what the stream still holds too."""
        if isinstance(error, BlockingIOError) and wait_for_reader(self._stream):
            self.flush()  # the reader was slow, and somebody has changed the stream meanwhile
            return
        if self.error is None:
            self.error = error
        with suppress(OSError, ValueError, io.UnsupportedOperation):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    @property
    def failed(self) -> OSError | None:
        """The failure, unless it is only that nobody reads any more."""
        if self.error is None or self.error.errno in (*GONE, HUNG_UP):
            return None
        return self.error


@contextmanager
def lenient() -> Iterator[tuple[Stream, Stream]]:
    """Standard output and error as such streams, as long as this lasts."""
    before = sys.stdout, sys.stderr
    made = [Stream(_lenient(stream)) for stream in before]
    sys.stdout, sys.stderr = made
    changed = [stream for stream in made if wait_for_reader(stream)]
    try:
        yield made[0], made[1]
    finally:
        for stream in made:
            stream.flush()
        for stream in changed:
            with suppress(OSError, ValueError):
                os.set_blocking(stream.fileno(), False)
        sys.stdout, sys.stderr = before


def wait_for_reader(stream: Any) -> bool:
    """Let writes wait for a slow reader, where they did not; whether that was so.

    A program that starts this one may have set the pipe that they share so, for itself.
    """
    with suppress(OSError, ValueError, AttributeError):
        if not os.get_blocking(stream.fileno()):
            os.set_blocking(stream.fileno(), True)
            return True
    return False


def _lenient(stream: TextIO | None) -> TextIO:
    """The stream with question marks for what it cannot encode; nowhere, if it is closed."""
    if stream is None or stream.closed:
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream
