"""The command `cblr`: audit the paper, measure a network's curvature, train, look at data.

Bad input ends with status 2 and one line; a check that could not be completed with status 1; an
audit that contradicts the paper with status 0; what Ctrl-C or SIGTERM stopped with status 130.

Nothing else is imported here before Ctrl-C is seen to.
"""

import os
import signal
import sys
import threading
from types import FrameType


def main() -> None:
    """Run the command line; the console script `cblr` is this."""
    # A shell has background jobs ignore Ctrl-C, and other threads than the first cannot set it.
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _stop)
    from paper_checks.extras import absence

    if sentence := absence("the command cblr"):
        sys.exit(sentence)
    from paper_checks.cli.commands import app
    from paper_checks.cli.streams import lenient

    with lenient() as (output, _):
        try:
            app()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        output.flush()
        if output.failed is not None:
            why = output.failed.strerror
            print(f"cblr: standard output: {why}; what was computed is kept", file=sys.stderr)
            status = status or 1
    # Where a KeyboardInterrupt has come through text that Python executed, as when it makes a
    # dataclass, `python -m` ends by SIGINT and not with the status, until text is executed again.
    exec("")
    sys.exit(status)


def _stop(number: int, frame: FrameType | None) -> None:
    """End at once: what runs has its own way to end, and before and after it nothing is lost."""
    os.write(2, b"cblr: interrupted\n")
    os._exit(130)
