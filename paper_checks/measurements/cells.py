"""Runs that belong together, made in one process or, one by one, for the ledger."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.measurements.lab import Lab, trained
from paper_checks.result import plain

if TYPE_CHECKING:
    from paper_checks.measurements.context import Context
    from sim.training import Run, TrainConfig

TUNING, READING = "tuning", "reading"
# What arms are chosen by.
CHOICE = "accuracy"


@dataclass(frozen=True)
class Arm:
    """One configuration without its seed, and what its rows are labelled with."""

    labels: Mapping[str, Any]
    config: "TrainConfig"

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The configuration as plain values."""
        return dict(plain(self.config.plain()))


@dataclass(frozen=True)
class Planned:
    """A run that belongs to a cell: the place of its arm, what it is for, and its seed."""

    arm: Arm
    place: int
    stage: str
    seed: int

    @property
    def plain(self) -> dict[str, Any]:
        """Its configuration as plain values."""
        return {**self.arm.plain, "seed": self.seed}

    @property
    def config(self) -> "TrainConfig":
        """Its configuration."""
        return self.arm.config.replace(seed=self.seed)


@dataclass(frozen=True)
class Cell:
    """Arms of which the best is chosen on the seeds `tuning` and read on the seeds `reading`.

    With one arm nothing is chosen, and `tuning` is empty. `everywhere` runs all arms at all seeds:
    where they train together that costs little.
    """

    arms: Sequence[Arm]
    reading: Sequence[int]
    tuning: Sequence[int] = ()
    everywhere: bool = False

    def runs(self) -> int:
        """How many runs the cell takes."""
        return len(self.first()) + len(self.second(0))

    def first(self) -> list[Planned]:
        """The runs that are known beforehand: those that choose, or all where nothing is chosen."""
        stages = dict.fromkeys(self.tuning, TUNING)
        if self.everywhere or len(self.arms) == 1:
            stages |= dict.fromkeys(self.reading, READING)
        return [
            Planned(arm, place, stages[seed], seed)
            for place, arm in enumerate(self.arms)
            for seed in sorted(stages)
        ]

    def second(self, chosen: int) -> list[Planned]:
        """The runs of the arm that was chosen."""
        if self.everywhere or len(self.arms) == 1:
            return []
        return [Planned(self.arms[chosen], chosen, READING, seed) for seed in self.reading]

    def admissible(self) -> list[Planned]:
        """All runs that the cell can have, whatever is chosen."""
        return [
            Planned(arm, place, "", seed)
            for place, arm in enumerate(self.arms)
            for seed in (*self.tuning, *self.reading)
        ]

    def choice(self, runs: Sequence[Planned], measured: Sequence[Mapping[str, Any]]) -> int:
        """The arm that did best on the seeds that choose, the first among equals."""
        values: list[list[float]] = [[] for _ in self.arms]
        for run, each in zip(runs, measured, strict=True):
            if run.stage == TUNING:
                values[run.place].append(each[CHOICE] or 0.0)
            means = [float(np.mean(each)) if each else -math.inf for each in values]
        return means.index(max(means))


# What is read off some runs, in their order.
Measure = Callable[[Sequence[Planned]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Sweep:
    """A group of runs: `cells(context)` are the runs, `read(run, context)` what is read off one.

    `version` is raised when `read` gives other numbers of the same run than before.
    """

    name: str
    cells: Callable[[Any], Sequence[Cell]]
    read: "Callable[[Run, Any], dict[str, Any]]"
    version: int = 1


def rows(context: "Context", setup: Lab, sweep: Sweep) -> list[dict[str, Any]]:
    """One row a run: its labels, `seed`, `stage`, `status`, and what was read off it.

    Rows of a cell stand together, arm by arm in the order of the arms, seeds in their order.
    """
    if context.ledger is not None:
        ledger = context.ledger
        # Cell by cell: of what is stopped as many verdicts as can be are there.
        return [
            row
            for cell in ledger.cells(sweep, context)
            for row in _rows([cell], lambda runs: ledger.measured(context, sweep, runs))
        ]

    def measure(runs: Sequence[Planned]) -> list[dict[str, Any]]:
        return trained(setup, [run.config for run in runs], lambda run: sweep.read(run, context))

    return _rows(sweep.cells(context), measure)


def _rows(cells: Sequence[Cell], measure: Measure) -> list[dict[str, Any]]:
    """The rows of `cells`, all runs that are known asked for at once, so that all cores train."""
    first = [cell.first() for cell in cells]
    measured = _by_cell(first, measure)
    second = [
        cell.second(cell.choice(runs, values))
        for cell, runs, values in zip(cells, first, measured, strict=True)
    ]
    made: list[dict[str, Any]] = []
    for one, two, values, others in zip(
        first, second, measured, _by_cell(second, measure), strict=True
    ):
        labelled = [
            {**run.arm.labels, "arm": run.place, "seed": run.seed, "stage": run.stage, **each}
            for run, each in zip((*one, *two), (*values, *others), strict=True)
        ]
        made += sorted(labelled, key=lambda row: (row["arm"], row["seed"]))
    return made


def _by_cell(runs: Sequence[Sequence[Planned]], measure: Measure) -> list[list[dict[str, Any]]]:
    """What is read off the runs, a list for each cell."""
    measured = iter(measure([run for part in runs for run in part]))
    return [[next(measured) for _ in part] for part in runs]
