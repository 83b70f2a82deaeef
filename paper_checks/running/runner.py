"""Runs checks one after another and keeps each as soon as it is finished."""

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from paper_checks.check import Check, Drawing, Judgement
from paper_checks.environment import hardware, versions
from paper_checks.errors import InputError
from paper_checks.files import FULL, no_file, writable, write_atomically
from paper_checks.measurements.context import Context
from paper_checks.measurements.store import source_path
from paper_checks.papers import USUAL
from paper_checks.papers import paper as paper_named
from paper_checks.registry import build, known, resolve, rows_read
from paper_checks.result import Result, plain, read_results, write_results
from paper_checks.running.monitor import Monitor, Silent
from paper_checks.verdicts import INCONCLUSIVE

RESULTS = "results.json"
PAGE = "index.html"
MEASUREMENTS = "measurements"


class Interrupted(KeyboardInterrupt):
    """The audit was stopped; `results` holds the checks that had finished, already on disk."""

    def __init__(self, results: list[Result], planned: int) -> None:
        super().__init__(f"interrupted after {len(results)} of {planned} checks")
        self.results = results
        self.planned = planned


def run(
    profile: str = "quick",
    only: str | Iterable[str] | None = None,
    out: str | os.PathLike[str] = "report",
    dataset: str | None = None,
    data: str | os.PathLike[str] | None = None,
    device: str | None = None,
    *,
    fresh: bool = False,
    monitor: Monitor | None = None,
    evidence: str | os.PathLike[str] | None = None,
    paper: str = USUAL,
) -> list[Result]:
    """Audit the paper and return one `Result` per check; `out` gets the report.

    `paper` is the name of its folder, `only` names the checks to run (all by default), `dataset`
    is `digits`, `cifar10` or `gaussian` (`None`: the profile's), `data` the folder that holds it,
    `device` a torch device.
    `monitor` hears how the run goes. In the profile `cifar` every training run becomes a row of
    the ledger in the folder `evidence` (`None`: this package's), and those that are there are not
    made again. `out` gets `results.json` (after every check), one SVG per figure, `index.html`, and
    a folder `measurements`, from which a killed audit goes on and a finished one is judged again
    without a new measurement; `fresh` measures everything anew.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     result, = run(only="eq9", out=folder)
    >>> result.id, result.verdict
    ('eq9', 'holds')

    Raises `InputError` (a `ValueError`) for an argument that cannot be used, before any work and
    with nothing written; errors of the data set's files as `sim.data.load` raises them; and
    `Interrupted` (a `KeyboardInterrupt`) when stopped, with every finished check on disk.
    """
    ledger = None if evidence is None else Path(evidence).expanduser()
    checks, context = _prepared(paper, profile, only, out, dataset, data, device, fresh, ledger)
    if context.ledger is not None:
        _record(checks, context, monitor or Silent())
    return execute(checks, context, Path(out).expanduser(), monitor or Silent())


def _record(checks: Sequence[Check], context: Context, monitor: Monitor) -> None:
    """Make the runs that the ledger lacks, those of the most verdicts for an hour first."""
    from paper_checks.campaign.progress import ordered, sweeps_of

    assert context.ledger is not None
    context.ledger.listener = monitor.recorded
    try:
        # What is one row is measured by its check.
        for progress in ordered(checks, context):
            if progress.sweep in sweeps_of(context):
                paper_named(context.paper).campaign.record(context, progress.sweep)
        context.ledger.taken()  # the seconds count where a check reads the runs
    except KeyboardInterrupt:
        raise Interrupted([], len(checks)) from None
    except Exception as error:
        if not _stopped(error):
            raise
        raise Interrupted([], len(checks)) from error


def planned(
    profile: str = "quick",
    only: str | Iterable[str] | None = None,
    out: str | os.PathLike[str] = "report",
    dataset: str | None = None,
    data: str | os.PathLike[str] | None = None,
    device: str | None = None,
    *,
    fresh: bool = False,
    evidence: str | os.PathLike[str] | None = None,
    paper: str = USUAL,
) -> list[str]:
    """What `run` with the same arguments would do, a line a check, and about how long it takes.

    Times are estimates: one step of the network is timed here and now, and multiplied. What
    several checks share is counted at the first of them; what is kept in `out` costs nothing. In
    the profile `cifar` times are those of the ledger's rows, where there are any, and there is a
    line a sweep, with what is done and what is left; that needs no data.

    Raises what `run` raises, before any long work.
    """
    from paper_checks.measurements.durations import estimates, told

    ledger = None if evidence is None else Path(evidence).expanduser()
    arguments = (paper, profile, only, out, dataset, data, device, fresh, ledger)
    checks, context = _prepared(*arguments, trains=False)
    if context.ledger is not None:
        from paper_checks.campaign.progress import lines

        return lines(checks, context)
    return told(estimates(checks, context))


def _prepared(
    of: str,
    profile: str,
    only: str | Iterable[str] | None,
    out: str | os.PathLike[str],
    dataset: str | None,
    data: str | os.PathLike[str] | None,
    device: str | None,
    fresh: bool,
    ledger: Path | None = None,
    trains: bool = True,
) -> tuple[list[Check], Context]:
    """The checks and what they share, after everything that can be refused; nothing is written."""
    paper = paper_named(known(of))
    dataset = dataset or paper.usual_dataset(profile)
    sizes = paper.profile(profile, dataset)
    recorded = sizes.name in paper.campaign.profiles
    ids = _recorded_ids(only, of) if recorded else resolve(only, of)
    folder = writable(Path(out).expanduser())
    recorder = None
    if ledger is not None:
        _check_evidence(ledger, recorded, paper.campaign.profiles)
    if recorded:
        from paper_checks.campaign.recorder import recorder as made

        _check_recorded(device, fresh)
        recorder = made(ledger, trains=trains, of=of)
    context: Context = paper.context(sizes, dataset, data, device, folder / MEASUREMENTS, recorder)
    context.fresh = fresh
    checks = [build(name, of) for name in ids]
    if any(check.needs_data for check in checks):
        # Loading here means that a missing file ends the run before anything is written.
        context.load()
    return checks, context


def _recorded_ids(only: str | Iterable[str] | None, of: str) -> list[str]:
    """The checks asked for that have runs in the ledger; all such for `None`.

    Raises `InputError` where one asked for has none.
    """
    ids = resolve(only, of)
    others = [name for name in ids if not rows_read(name, of)]
    if only is not None and others:
        recorded = ", ".join(name for name in paper_named(of).ids if rows_read(name, of))
        raise InputError("--only", others[0], f"has no runs in the ledger; those are: {recorded}")
    return [name for name in ids if name not in others]


def _check_evidence(folder: Path, recorded: bool, profiles: Iterable[str]) -> None:
    """Refuse a folder of the ledger that nothing would be read from, or that is a file."""
    if not recorded:
        remedy = f"only --profile {' and '.join(profiles)} goes by a ledger; leave it out"
        raise InputError("--evidence", folder, remedy)
    no_file("--evidence", folder)


def _check_recorded(device: str | None, fresh: bool) -> None:
    """Refuse what rows of the ledger cannot be made with."""
    if device not in (None, "cpu"):
        raise InputError("--device", device, "the ledger's runs are made on the cpu; leave it out")
    if fresh:
        remedy = "a finished run stays in the ledger; leave it out, or give another --evidence"
        raise InputError("--fresh", "given", remedy)


def execute(checks: Sequence[Check], context: Context, out: Path, monitor: Monitor) -> list[Result]:
    """Run `checks` in their order and write the report into `out`.

    A check that breaks down is kept as an uncompleted result and the others still run. Raises
    `Interrupted` when stopped.
    """
    from paper_checks.report.page import render

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("--out", out, f"cannot be made ({error.strerror})") from None
    results: list[Result] = []
    drawings: dict[str, Drawing] = {}

    def finish() -> None:
        write_results(out / RESULTS, results)
        write_atomically(out / PAGE, render(results, drawings))

    monitor.start(checks)
    try:
        for check in checks:
            monitor.began(check)
            result, drawing = perform(check, context, monitor)
            if drawing is not None:
                write_atomically(out / str(result.figure), drawing.svg)
                drawings[check.id] = drawing
            results.append(result)
            write_results(out / RESULTS, results)
            monitor.finished(result)
        finish()
    except KeyboardInterrupt:
        finish()
        raise Interrupted(results, len(checks)) from None
    finally:
        monitor.close()
    return results


def perform(check: Check, context: Context, monitor: Monitor) -> tuple[Result, Drawing | None]:
    """One check from measurement to result; an exception becomes an uncompleted result.

    Raises `KeyboardInterrupt` where it was stopped, in a training run too, and `OSError` where
    the disk is full.
    """
    began = time.perf_counter()
    measurements: dict[str, Any] = {}
    drawing: Drawing | None = None
    completed = True
    context.kept_seconds = 0.0
    try:
        # Judged and drawn as stored, so that what is on disk gives the same verdict again.
        measurements = plain(check.measure(context))
        judgement = check.judge(measurements)
        drawing = check.draw(measurements) if check.draw else None
    except Exception as error:
        if _stopped(error):
            raise KeyboardInterrupt from error
        if isinstance(error, OSError) and error.errno in FULL:
            raise  # nothing that follows could be kept
        # One broken check must not cost the reader the others; the monitor shows the traceback.
        monitor.failed(check, error)
        completed = False
        detail = " ".join(str(error).split())
        judgement = Judgement(
            INCONCLUSIVE, None, None, f"could not be completed: {type(error).__name__}: {detail}"
        )
    result = Result(
        id=check.id,
        kind=check.kind,
        verdict=judgement.verdict,
        statement=check.statement,
        criterion=check.criterion,
        predicted=plain(judgement.predicted),
        measured=plain(judgement.measured),
        interval=judgement.interval,
        tolerance=judgement.tolerance,
        reason=judgement.reason,
        seeds=measurements.get("seeds", []),
        seconds=round(time.perf_counter() - began + context.kept_seconds, 3),
        figure=f"{check.id}.svg" if drawing else None,
        environment=_environment(check, context, measurements),
        title=check.title,
        section=check.section,
        latex=check.latex,
        protocol=list(check.protocol),
        alt=drawing.alt if drawing else None,
        caption=drawing.caption if drawing else None,
        criterion_hash=check.criterion_hash,
        completed=completed,
        kept=context.kept_seconds > 0,
        code=source_path(check.judge),
        p=plain(judgement.p),
        rest=judgement.rest,
        measurements=measurements,
    )
    return result, drawing


def _stopped(error: Exception) -> bool:
    """Whether a training run was stopped by a signal, which it takes to write its checkpoint."""
    from sim.training import Interrupted as Stopped

    return isinstance(error, Stopped)


def _environment(check: Check, context: Context, measurements: dict[str, Any]) -> dict[str, Any]:
    environment = {"versions": versions(), "hardware": hardware(), **context.description()}
    if check.needs_data:
        environment |= {"data": context.provenance(), "samples": measurements.get("samples")}
    return environment


def rejudge(path: str | os.PathLike[str]) -> list[tuple[Result, Judgement]]:
    """Each completed result stored in `path` with the judgement its measurements give today.

    A verdict that differs means that the judging changed since; a criterion that changed shows
    in `criterion_hash`. Raises `FileNotFoundError` or `ValueError` for a file that is none.
    """
    return [
        (result, build(result.id, result.paper).judge(result.measurements))
        for result in read_results(Path(path))
        if result.completed
    ]
