"""What the ledger holds of each sweep, what is left, how long it will take, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paper_checks.check import Check
from paper_checks.ledger.rows import MEASUREMENT, Ledger, Problem, Row
from paper_checks.measurements.durations import (
    config_seconds,
    duration,
    key_seconds,
    work,
)
from paper_checks.papers import paper
from paper_checks.registry import rows_read

if TYPE_CHECKING:
    from paper_checks.ledger.records import Records
    from paper_checks.measurements.cells import Planned, Sweep
    from paper_checks.measurements.context import Context
    from sim.training import TrainConfig


@dataclass(frozen=True)
class Progress:
    """How much of a sweep is done; `seconds` is what is left, `spent` what its rows took.

    A measurement that is one row counts as a sweep of one run.
    """

    sweep: str
    done: int
    total: int
    seconds: float
    spent: float

    @property
    def complete(self) -> bool:
        """Whether nothing is left."""
        return self.done == self.total


def sweeps_of(context: "Context") -> "Mapping[str, Sweep]":
    """What the campaign of a context's paper runs, by name."""
    return paper(context.paper).campaign.sweeps()


def rows_of(name: str, ledger: Ledger) -> list[Row]:
    """The rows of a sweep, or of a measurement."""
    return [
        row
        for row in ledger.rows
        if row.sweep == name or (row.sweep == MEASUREMENT and row.config["measurement"] == name)
    ]


def left(recorder: "Records", sweep: "Sweep", context: "Context") -> "list[Planned]":
    """The runs of a sweep that the ledger lacks, as far as they are known.

    What will be read at the arm that is still to be chosen stands at the first arm: as long a run.
    """
    missing: list[Planned] = []
    for cell in recorder.cells(sweep, context):
        first = cell.first()
        rows = [recorder.row(sweep, run) for run in first]
        missing += [run for run, row in zip(first, rows, strict=True) if row is None]
        measured = [row.measured for row in rows if row is not None]
        if len(measured) < len(first):
            missing += cell.second(0)
        else:
            second = cell.second(cell.choice(first, measured))
            missing += [run for run in second if recorder.row(sweep, run) is None]
    return missing


def counted(recorder: "Records", name: str, context: "Context") -> tuple[int, int]:
    """How many runs of a sweep, or of a measurement, are done, and how many there are."""
    sweeps = sweeps_of(context)
    if name not in sweeps:
        return int(recorder.once_row(context, name) is not None), 1
    total = sum(cell.runs() for cell in recorder.cells(sweeps[name], context))
    return total - len(left(recorder, sweeps[name], context)), total


def progress(recorder: "Records", name: str, context: "Context") -> Progress:
    """What is done and what is left of a sweep; the time by its own rows, else by a timed step."""
    sweeps = sweeps_of(context)
    done, total = counted(recorder, name, context)
    rows = rows_of(name, recorder.ledger)
    if name in sweeps:
        missing = left(recorder, sweeps[name], context)
        rest = sum(seconds(rows, run.arm.config, context) for run in missing)
    else:
        rest = 0.0 if done else key_seconds(name, context)
    spent = sum(row.processor_seconds or row.seconds for row in rows)
    return Progress(name, done, total, rest, spent)


def seconds(rows: "Sequence[Row]", config: "TrainConfig", context: "Context") -> float:
    """How long a run takes: as the rows of its batch size and rule did, else by a timed step."""
    images = len(context.dataset)
    wanted = {name: getattr(config, name) for name in ("model", "batch_size", "optimizer")}
    alike = [
        (row.processor_seconds or row.seconds) / work(_config(row.config), images)[1]
        for row in rows
        if all(row.config[name] == value for name, value in wanted.items())
    ]
    if alike:
        return work(config, images)[1] * sum(alike) / len(alike)
    return config_seconds(context, config)


def _config(values: dict[str, object]) -> "TrainConfig":
    from sim.training import TrainConfig

    return TrainConfig.read(values)


def asked(checks: Sequence[Check]) -> list[str]:
    """The sweeps that some checks read, each once."""
    return list(dict.fromkeys(sweep for check in checks for sweep in check.rows))


def ordered(checks: Sequence[Check], context: "Context") -> list[Progress]:
    """The sweeps of the checks, the most verdicts for an hour first."""
    recorder = _recorder(context)
    stages = [progress(recorder, name, context) for name in asked(checks)]
    readers = {stage.sweep: sum(stage.sweep in check.rows for check in checks) for stage in stages}
    return sorted(stages, key=lambda stage: -readers[stage.sweep] / max(stage.seconds, 1.0))


def lines(checks: Sequence[Check], context: "Context") -> list[str]:
    """One line a sweep, the most verdicts for an hour first, then one for each check, and a sum."""
    stages = ordered(checks, context)
    by_name = {stage.sweep: stage for stage in stages}
    text = []
    for stage in stages:
        readers = [check.id for check in checks if stage.sweep in check.rows]
        text.append(
            f"{stage.sweep:12} {stage.done:3} of {stage.total:3} runs done"
            f" ({duration(stage.spent)}), {duration(stage.seconds):>9} left: {', '.join(readers)}"
        )
    for check in checks:
        sweeps = [by_name[name] for name in check.rows]
        state = "done" if all(stage.complete for stage in sweeps) else "left"
        text.append(
            f"{check.id:32} {duration(sum(stage.spent + stage.seconds for stage in sweeps)):>9}, "
            f"{duration(sum(stage.seconds for stage in sweeps)):>9} left, {state}"
        )
    rest = sum(stage.seconds for stage in stages)
    text.append(
        f"{len(checks)} checks, {sum(stage.done for stage in stages)} of "
        f"{sum(stage.total for stage in stages)} runs done, about {duration(rest)} left on one core"
    )
    return text


def admissible(recorder: "Records", context: "Context") -> dict[str, frozenset[str]]:
    """The keys that a run of each sweep can have, whatever is chosen."""
    from paper_checks.ledger.rows import key

    sizes = {name: recorder.measurement(context, name) for name in once(context)}
    return {
        MEASUREMENT: frozenset(
            key(MEASUREMENT, config, recorder.numerics, recorder.reading(name))
            for name, config in sizes.items()
        )
    } | {
        name: frozenset(
            key(name, run.plain, recorder.numerics, sweep.version)
            for cell in recorder.cells(sweep, context)
            for run in cell.admissible()
        )
        for name, sweep in sweeps_of(context).items()
    }


def once(context: "Context") -> tuple[str, ...]:
    """The measurements that are one row each, of all checks."""
    of = context.paper
    read = dict.fromkeys(row for name in paper(of).ids for row in rows_read(name, of))
    return tuple(name for name in read if name not in sweeps_of(context))


def problems(context: "Context") -> list[Problem]:
    """Rows that are no evidence, and why: changed by hand, of no plan, of another version."""
    recorder = _recorder(context)
    ledger = recorder.ledger
    versions = {
        name: (recorder.numerics, sweep.version) for name, sweep in sweeps_of(context).items()
    }
    return [*ledger.problems, *ledger.strangers(admissible(recorder, context), versions)]


def _recorder(context: "Context") -> "Records":
    if context.ledger is None:
        raise TypeError("context: it has no ledger; give Context one, as for the profile cifar")
    return context.ledger
