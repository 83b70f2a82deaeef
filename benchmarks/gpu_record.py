"""The hour on a GPU: stages in order of value, each resumed and recorded task by task.

    make gpu-record                                     # all stages, cifar10 under $CBLR_DATA
    python benchmarks/gpu_record.py --only agreement    # one of them
    python benchmarks/gpu_record.py --dry-run           # all of them in small on the CPU

A stage is a list of tasks (`gpu_stages.py`). What a task returns is written to
`results/gpu/STAGE.json` at once, with the environment it was made in, and is not made again there:
the same command goes on where the last one stopped. A stage takes at most `--minutes` (8); what is
left of it is for the next call, and so is what `--total` minutes are too short for. A task that
fails, or that does not end within a whole stage, is recorded with the reason, and tried again by
`--again`; one that takes the process with it is tried twice. `results/gpu/README.md` says in one
table what is there.

The exit status is 0 where all is recorded, 1 where something is left or failed, 2 without a GPU, 3
where the GPU has to be taken up anew by another process: the same command goes on.
"""

import argparse
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

import gpu_stages  # noqa: E402
import gpu_summary  # noqa: E402
import record  # noqa: E402

from hessian import devices  # noqa: E402


class Late(BaseException):
    """The stage's time is over. Not an Exception, so that no task takes it for one of its own."""


class Lost(Exception):
    """This process cannot use the device any more: after a fault in a kernel all calls fail."""


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware: what is recorded in another one is not taken for this one's."""
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = None
    facts = {**record.environment(), "device": device.type, "gpu": devices.name(device)}
    return {**facts, "triton": version, "cuda": torch.version.cuda}


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `Late` in this thread after so many seconds."""

    def ring(number: int, frame: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def clean(device: torch.device) -> None:
    """Give back what the last task has left in memory.

    Raises:
        Lost: the device does not answer.
    """
    gc.collect()
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        raise Lost(
            f"the GPU failed ({str(error).splitlines()[0]}); run the command again"
        ) from None


class Stage:
    """The record of a stage: a file that is whole after every task."""

    def __init__(
        self,
        name: str,
        folder: Path,
        facts: dict[str, Any],
        between: Callable[[], object] = lambda: None,
    ) -> None:
        self.path = folder / f"{name}.json"
        self.facts, self.between = facts, between
        self.tasks: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            written = json.loads(self.path.read_text(encoding="utf-8"))
            if written["environment"] == facts:
                self.tasks = written["tasks"]

    def note(self, task: str, **entry: Any) -> None:
        self.tasks[task] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        content = {"environment": self.facts, "tasks": self.tasks}
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, self.path)

    def open(self, task: str, again: bool) -> bool:
        """Whether a task is still to be done."""
        entry = self.tasks.get(task)
        if entry is None or "result" in entry:
            return entry is None
        return again or entry.get("interrupted", 2) < 2  # once may have been the stage before it

    def run(self, tasks: dict[str, Any], seconds: float, again: bool) -> bool:
        """Do what is open within the time; whether all is recorded and well."""
        end = time.monotonic() + seconds
        for name, task in tasks.items():
            if not self.open(name, again):
                continue
            start = time.monotonic()
            if start >= end:
                print("  the stage's time is over; the same command goes on")
                return False
            print(f"  {name} …", end=" ", flush=True)
            # Noted before, for the case that the process does not come back from it.
            count = self.tasks.get(name, {}).get("interrupted", 0) + 1
            self.note(name, interrupted=count, error="it did not end within the stage")
            try:
                with alarm(end - start):
                    result = task()
                self.note(name, result=result, seconds=time.monotonic() - start)
                print(json.dumps(result)[:120])
            except Late:
                print("not done in time")
                return False
            except Exception as error:
                last = traceback.format_exc().splitlines()[-3:]
                self.note(name, error=f"{type(error).__name__}: {error}", where=last)
                print(f"failed: {error}"[:200])
            self.between()
        return all("result" in self.tasks.get(name, {}) for name in tasks)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=gpu_stages.STAGES, metavar="STAGE")
    parser.add_argument("--dry-run", action="store_true", help="in small, on the CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="for each stage")
    parser.add_argument("--total", type=float, default=float("inf"), help="minutes for all of them")
    parser.add_argument("--again", action="store_true", help="what failed, too")
    parser.add_argument("--data", type=Path, help="the folder of CIFAR-10; $CBLR_DATA")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu")
    given = parser.parse_args(arguments)
    if not given.dry_run and not torch.cuda.is_available():
        print(
            "gpu-record: torch sees no GPU here; run it where there is one, or give --dry-run to "
            "try every stage in small on the CPU",
            file=sys.stderr,
        )
        return 2
    if given.dry_run and given.out == parser.get_default("out"):
        parser.error("argument --out: give a folder for a dry run, whose numbers mean nothing")
    device = torch.device("cpu" if given.dry_run else "cuda")
    data = given.data or os.environ.get("CBLR_DATA")
    setting = gpu_stages.Setting(device, given.dry_run, data and Path(data), given.out)
    facts = {**environment(device), "dry run": given.dry_run}
    well, end = True, time.monotonic() + 60 * given.total
    try:
        for number, (name, tasks_of) in enumerate(gpu_stages.STAGES.items(), 1):
            if given.only and name not in given.only:
                continue
            print(f"({number}) {name}")
            stage = Stage(name, given.out, facts, partial(clean, device))
            seconds = min(60 * given.minutes, end - time.monotonic())
            well = stage.run(tasks_of(setting), seconds, given.again) and well
    except Lost as error:
        print(f"gpu-record: {error}", file=sys.stderr)
        return 3
    finally:
        gpu_summary.write(given.out, list(gpu_stages.STAGES))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
