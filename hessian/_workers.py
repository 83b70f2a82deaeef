"""Parts of a sum on threads of their own, each with its share of the processor.

Where every operation is small (a few samples of a convolution), two threads that each take half of
the samples finish sooner than two threads that share every operation: nothing waits for the slower
one in between, and what is called from Python overlaps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch

# More would fight for Python's interpreter lock.
MOST = 8

# The number of threads is one setting for the process: one caller at a time changes it.
_LOCK = threading.Lock()

Check = Callable[[], None]
Job = Callable[[Check], None]


class Stopped(BaseException):
    """Another job failed. Not an Exception, so that nothing on the way takes it for one."""


def count(like: torch.Tensor) -> int:
    """How many workers pay for tensors on the device of `like`."""
    return min(MOST, torch.get_num_threads()) if like.device.type == "cpu" else 1


def run(jobs: Sequence[Job]) -> None:
    """Run the jobs at once, the first on the calling thread, and wait for all of them.

    Each gets a function to call now and then: it ends the job where another one has failed. The
    first failure is raised here, an interrupt too.
    """
    if len(jobs) == 1 or not _LOCK.acquire(blocking=False):
        for job in jobs:
            job(lambda: None)
        return
    failed: list[BaseException] = []
    total = torch.get_num_threads()
    each = max(1, total // len(jobs))

    def check() -> None:
        if failed:
            raise Stopped

    def carry(job: Job) -> None:
        try:
            # OpenMP's number of threads is kept by thread.
            torch.set_num_threads(each)
            with torch.no_grad():
                job(check)
        except Stopped:
            pass
        except BaseException as error:
            failed.append(error)

    others = [threading.Thread(target=carry, args=(job,), daemon=True) for job in jobs[1:]]
    try:
        try:
            for thread in others:
                thread.start()
            carry(jobs[0])
        except BaseException as error:  # an interrupt between the lines
            failed.append(error)
        _join(others, failed)
    finally:
        torch.set_num_threads(total)
        _LOCK.release()
    if failed:
        raise failed[0]


def _join(threads: Sequence[threading.Thread], failed: list[BaseException]) -> None:
    """Wait for all; an interrupt meanwhile stops them, and they are waited for all the same."""
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:
                failed.append(error)
