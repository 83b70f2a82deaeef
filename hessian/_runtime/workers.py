"""Parts of a sum on threads of their own, each with its share of the processor.

Where every operation is small (a few samples of a convolution), two threads that each take half of
the samples finish sooner than two threads that share every operation: nothing waits for the slower
one in between, and what is called from Python overlaps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from hessian._runtime.ledger import owe, settled
from hessian.devices import OWN_MEMORY

# More would fight for Python's interpreter lock.
MOST = 8

# The number of threads is one setting for the process: one caller at a time changes it.
_LOCK: Any = threading.RLock()

Check = Callable[[], None]
Job = Callable[[Check], None]


class Stopped(BaseException):
    """Another job failed. Not an Exception, so that nothing on the way takes it for one."""


def count(like: torch.Tensor) -> int:
    """How many workers pay for tensors on the device of `like`."""
    return min(MOST, torch.get_num_threads()) if like.device.type in OWN_MEMORY else 1


def run(jobs: Sequence[Job]) -> None:
    """Run the jobs at once, the first on the calling thread, and wait for all of them.

    Each gets a function to call now and then: it ends the job where another one has failed. The
    first failure is raised here, an interrupt too.
    """
    with settled():
        owe(_release)
        if len(jobs) == 1 or _LOCK._is_owned() or not _LOCK.acquire(blocking=False):
            for job in jobs:
                job(lambda: None)
            return
        failed: list[BaseException] = []
        owe(partial(torch.set_num_threads, torch.get_num_threads()))
        _at_once(jobs, failed)
    if failed:
        raise failed[0]


def _release() -> None:
    if _LOCK._is_owned():
        _LOCK.release()


def _at_once(jobs: Sequence[Job], failed: list[BaseException]) -> None:
    each = max(1, torch.get_num_threads() // len(jobs))

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
    owe(partial(_end, others, failed))
    try:
        for thread in others:
            thread.start()
        carry(jobs[0])
    except BaseException as error:  # an interrupt between the lines
        failed.append(error)
    _join(others, failed)


def _end(threads: Sequence[threading.Thread], failed: list[BaseException]) -> None:
    """Stop what still runs after an interrupt."""
    if any(thread.is_alive() for thread in threads):
        failed.append(Stopped())
        _join(threads, failed)


def _join(threads: Sequence[threading.Thread], failed: list[BaseException]) -> None:
    """Wait for all; an interrupt meanwhile stops them, and they are waited for all the same."""
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:
                failed.append(error)
