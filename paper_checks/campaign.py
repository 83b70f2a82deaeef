"""What the ledger holds of each sweep, what is left, how long it will take, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paper_checks.check import Check
from paper_checks.estimate import TRAINING, config_seconds, duration, work
from paper_checks.ledger import Problem, Row

if TYPE_CHECKING:
    from paper_checks.context import Context
    from paper_checks.recording import Recorder
    from paper_checks.training import Planned, Sweep
    from sim.training import TrainConfig

# What a check reads that is no sweep of its own.
_SAME = {"sharp": "long"}


@dataclass(frozen=True)
class Progress:
    """How much of a sweep is done; `seconds` is what is left, `spent` what its rows took."""

    sweep: str
    done: int
    total: int
    seconds: float
    spent: float

    @property
    def complete(self) -> bool:
        """Whether nothing is left."""
        return self.done == self.total


def sweeps_of(name: str) -> tuple[str, ...]:
    """The sweeps whose rows the check `name` reads; none where it has no place in the ledger.

    >>> sweeps_of("fig4"), sweeps_of("eq4")
    (('first-epoch',), ())
    """
    return tuple(dict.fromkeys(_SAME.get(sweep, sweep) for sweep in TRAINING.get(name, ())))


def left(recorder: "Recorder", sweep: "Sweep", context: "Context") -> "list[Planned]":
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


def total(recorder: "Recorder", sweep: "Sweep", context: "Context") -> int:
    """How many runs a sweep takes."""
    return sum(cell.runs() for cell in recorder.cells(sweep, context))


def progress(recorder: "Recorder", sweep: "Sweep", context: "Context") -> Progress:
    """What is done and what is left of a sweep; the time by its own rows, else by a timed step."""
    missing = left(recorder, sweep, context)
    count = total(recorder, sweep, context)
    rows = [row for row in recorder.ledger.rows if row.sweep == sweep.name]
    return Progress(
        sweep.name,
        count - len(missing),
        count,
        sum(seconds(rows, run.arm.config, context) for run in missing),
        sum(row.processor_seconds or row.seconds for row in rows),
    )


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
    return list(dict.fromkeys(sweep for check in checks for sweep in sweeps_of(check.id)))


def ordered(checks: Sequence[Check], context: "Context") -> list[Progress]:
    """The sweeps of the checks, the most verdicts for an hour first."""
    from paper_checks.training import SWEEPS

    recorder = _recorder(context)
    found = [progress(recorder, SWEEPS[name], context) for name in asked(checks)]
    readers = {
        each.sweep: sum(each.sweep in sweeps_of(check.id) for check in checks) for each in found
    }
    return sorted(found, key=lambda each: -readers[each.sweep] / max(each.seconds, 1.0))


def told(checks: Sequence[Check], context: "Context") -> list[str]:
    """One line a sweep, the most verdicts for an hour first, then one for each check, and a sum."""
    found = ordered(checks, context)
    by_name = {each.sweep: each for each in found}
    lines = []
    for each in found:
        readers = [check.id for check in checks if each.sweep in sweeps_of(check.id)]
        lines.append(
            f"{each.sweep:12} {each.done:3} of {each.total:3} runs done"
            f" ({duration(each.spent)}), {duration(each.seconds):>9} left: {', '.join(readers)}"
        )
    for check in checks:
        sweeps = [by_name[name] for name in sweeps_of(check.id)]
        state = "done" if all(each.complete for each in sweeps) else "left"
        lines.append(
            f"{check.id:32} {duration(sum(each.spent + each.seconds for each in sweeps)):>9}, "
            f"{duration(sum(each.seconds for each in sweeps)):>9} left, {state}"
        )
    rest = sum(each.seconds for each in found)
    lines.append(
        f"{len(checks)} checks, {sum(each.done for each in found)} of "
        f"{sum(each.total for each in found)} runs done, about {duration(rest)} left on one core"
    )
    return lines


def admissible(recorder: "Recorder", context: "Context") -> dict[str, frozenset[str]]:
    """The keys that a run of each sweep can have, whatever is chosen."""
    from paper_checks.ledger import key
    from paper_checks.training import SWEEPS

    return {
        name: frozenset(
            key(name, run.plain, recorder.numerics, sweep.version)
            for cell in recorder.cells(sweep, context)
            for run in cell.admissible()
        )
        for name, sweep in SWEEPS.items()
    }


def problems(context: "Context") -> list[Problem]:
    """Rows that are no evidence, and why: changed by hand, of no plan, of another version."""
    from paper_checks.training import SWEEPS

    recorder = _recorder(context)
    ledger = recorder.ledger
    versions = {name: (recorder.numerics, sweep.version) for name, sweep in SWEEPS.items()}
    return [*ledger.problems, *ledger.strangers(admissible(recorder, context), versions)]


def _recorder(context: "Context") -> "Recorder":
    if context.ledger is None:
        raise TypeError("context: it has no ledger; give Context one, as for the profile cifar")
    return context.ledger
