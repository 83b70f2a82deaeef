"""Runs as rows of the ledger: those that are there are read, the others are made, one at a time."""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_checks.environment import commit, machine, now
from paper_checks.errors import InputError
from paper_checks.ledger.rows import MEASUREMENT, Ledger, Row
from paper_checks.paper import Campaign
from paper_checks.papers import USUAL, paper
from paper_checks.result import plain

if TYPE_CHECKING:
    from paper_checks.measurements.cells import Cell, Planned, Sweep
    from paper_checks.measurements.context import Context
    from sim.training import TrainConfig

# Seconds between two looks at a run that another process makes.
PATIENCE = 5.0
# Results depend on the number of threads, by rounding.
THREADS = 1


class Unmeasured(Exception):
    """A measurement lacks runs that the ledger does not have."""

    def __init__(self, sweep: str, missing: int) -> None:
        super().__init__(f"{missing} runs of {sweep} are not in the ledger")
        self.sweep = sweep
        self.missing = missing


@dataclass(frozen=True)
class Absent:
    """What is known of a data set that is not at hand: all that a plan or a judge needs."""

    total: int
    shape: tuple[int, ...]
    classes: int
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return self.total


class Recorder:
    """The ledger, and whether runs that it lacks are made.

    `listener` hears of every run that was made. `campaign` is the paper's, by default that of the
    paper that is audited where none is named.
    """

    def __init__(
        self,
        ledger: Ledger | None = None,
        *,
        trains: bool = False,
        listener: Callable[[Row], None] | None = None,
        campaign: Campaign | None = None,
    ) -> None:
        self.ledger = ledger or Ledger()
        self._campaign = campaign or paper().campaign
        self.trains = trains
        self.listener = listener
        self._taken = 0.0
        self._cells: dict[str, Sequence[Cell]] = {}

    @property
    def numerics(self) -> int:
        """The version with which equal configurations give equal numbers."""
        from sim.training.config.train_config import VERSION

        return VERSION

    def taken(self) -> float:
        """The seconds of the runs that were read since this was last asked."""
        seconds, self._taken = self._taken, 0.0
        return seconds

    def row(self, sweep: "Sweep", run: "Planned") -> Row | None:
        """The row of a run, if it was made."""
        return self.ledger.find(sweep.name, run.plain, self.numerics, sweep.version)

    def cells(self, sweep: "Sweep", context: "Context") -> "Sequence[Cell]":
        """The cells of a sweep, made once: a configuration is checked when it is made."""
        if sweep.name not in self._cells:
            self._cells[sweep.name] = sweep.cells(context)
        return self._cells[sweep.name]

    def absent(self, name: str) -> Absent:
        """A data set by what is known of it, with the sha256 that the rows name."""
        from sim.data import _cifar10

        known = sorted({row.data for row in self.ledger.rows if row.data})
        total = _cifar10.RECORDS * len(_cifar10.FILES["train"])
        provenance = {"name": name, "sha256": ", ".join(known)}
        return Absent(total, _cifar10.SHAPE, _cifar10.CLASSES, provenance)

    def measured(
        self,
        context: "Context",
        sweep: "Sweep",
        runs: "Sequence[Planned]",
    ) -> list[dict[str, Any]]:
        """What was read off each run; those that are missing are made, if this trains.

        Raises `Unmeasured` where runs are missing and none are to be made.
        """
        there = [row for run in runs if (row := self.row(sweep, run)) is not None]
        # What is made now takes its time now.
        self._taken += sum(row.seconds for row in there)
        left = [run for run in runs if self.row(sweep, run) is None]
        if left and not self.trains:
            raise Unmeasured(sweep.name, len(left))
        if left:
            self._same_data(str(context.dataset.provenance["sha256"]))
        while left:
            busy = [run for run in left if not self._make(context, sweep, run.config)]
            if len(busy) == len(left):
                time.sleep(PATIENCE)
            # Another process may have made them meanwhile.
            self.ledger.read()
            left = [run for run in busy if self.row(sweep, run) is None]
        rows = [self.row(sweep, run) for run in runs]
        return [dict(row.measured) for row in rows if row is not None]

    def once(
        self, context: "Context", name: str, make: "Callable[[Context], dict[str, Any]]"
    ) -> dict[str, Any]:
        """A measurement without training, which is one row; made if it is missing and this trains.

        Raises `Unmeasured` where it is missing and nothing is to be made.
        """
        row = self.once_row(context, name)
        if row is None and not self.trains:
            raise Unmeasured(name, 1)
        self._taken += 0.0 if row is None else row.seconds
        while row is None:
            self._same_data(str(context.dataset.provenance["sha256"]))
            if not self._measure(context, name, make):
                time.sleep(PATIENCE)
            self.ledger.read()
            row = self.once_row(context, name)
        return dict(row.measured)

    def once_row(self, context: "Context", name: str) -> Row | None:
        """The row of a measurement without training, if it was made."""
        config = self.measurement(context, name)
        return self.ledger.find(MEASUREMENT, config, self.numerics, self.reading(name))

    def reading(self, name: str) -> int:
        """The version of what a measurement without training reads."""
        return self._campaign.readings.get(name.rstrip("0123456789").rstrip("-"), 1)

    def measurement(self, context: "Context", name: str) -> dict[str, Any]:
        """The whole configuration of a measurement without training."""
        profile = context.profile
        sizes = {size: getattr(profile, place) for size, place in self._campaign.sizes.items()}
        return dict(plain({"measurement": name, "dataset": context.name, **sizes}))

    def _measure(
        self, context: "Context", name: str, make: "Callable[[Context], dict[str, Any]]"
    ) -> bool:
        """Measure and write the row; false where another process is at it."""
        with _alone(context.folder, name) as ours:
            if not ours:
                return False
            threads = torch_threads(THREADS)
            wall, processor = time.perf_counter(), time.process_time()
            try:
                measured = plain(make(context))
            finally:
                torch_threads(threads)
            self._add(
                context,
                sweep=MEASUREMENT,
                config=self.measurement(context, name),
                seed=int(name.rsplit("-", 1)[-1]) if name[-1].isdigit() and "-" in name else 0,
                reading=self.reading(name),
                measured=measured,
                seconds=time.perf_counter() - wall,
                processor_seconds=time.process_time() - processor,
            )
        return True

    def _add(self, context: "Context", **values: Any) -> None:
        """Write a row, with where it comes from."""
        import torch

        row = Row(
            numerics=self.numerics,
            commit=commit(),
            torch=str(torch.__version__),
            machine=machine(),
            threads=THREADS,
            date=now(),
            data=str(context.dataset.provenance["sha256"]),
            **values,
        )
        self.ledger.append(row)
        if self.listener is not None:
            self.listener(row.sealed())

    def _make(self, context: "Context", sweep: "Sweep", config: "TrainConfig") -> bool:
        """Train, read, and write the row; false where another process is at it."""
        from sim.training import train

        folder = None if context.folder is None else context.folder / "runs" / config.hash
        threads = torch_threads(THREADS)
        fresh = folder is None or not folder.exists()
        wall, processor = time.perf_counter(), time.process_time()
        try:
            run = train(config, out=folder, root=context.root)
            measured = sweep.read(run, context)
        except BlockingIOError:
            return False
        finally:
            torch_threads(threads)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        self._add(
            context,
            sweep=sweep.name,
            config=config.plain(),
            seed=config.seed,
            reading=sweep.version,
            measured=measured,
            # A run that went on from a checkpoint was longer than what is left of it.
            seconds=wall if fresh else max(wall, run.seconds),
            processor_seconds=processor if fresh else None,
        )
        return True

    def _same_data(self, sha256: str) -> None:
        """Refuse to mix runs on other images with those that are there."""
        others = {row.data for row in self.ledger.rows} - {sha256}
        if others:
            raise InputError(
                "--data",
                f"sha256 {sha256[:16]}…",
                f"the ledger's runs were made on images of sha256 {min(others)[:16]}…; give "
                "those, or another folder as --evidence",
            )


def torch_threads(count: int) -> int:
    """Set the number of torch's threads, and return what it was."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    return before


@contextmanager
def _alone(folder: Path | None, name: str) -> Iterator[bool]:
    """Whether no other process measures the same; the lock goes with the process."""
    if folder is None:
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{name}.lock", "a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def recorder(folder: Path | None, *, trains: bool, of: str = USUAL) -> Recorder:
    """The ledger in `folder`, by default the one of the paper."""
    ledger = Ledger(folder or paper(of).evidence)
    return Recorder(ledger, trains=trains, campaign=paper(of).campaign)
