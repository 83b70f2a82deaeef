"""Many runs: over local processes, a Dask cluster, or many seeds at once in one process."""

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import joblib
import pandas as pd

from sim import _arguments
from sim.training.config.train_config import TrainConfig
from sim.training.engine.checks import check_machine, check_pace
from sim.training.engine.fast.vectorise import split
from sim.training.engine.signals import terminable
from sim.training.engine.tasks import tasks_of
from sim.training.engine.workers import losses_explained, train_task, workers
from sim.training.engine.world import torchrun
from sim.training.record.columns import TABLES
from sim.training.record.progress import Progress, shown
from sim.training.record.sweep_table import Rows, joined, unfinished


def sweep(
    configs: Iterable[TrainConfig | Mapping[str, Any]],
    *,
    out: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    table: str = "runs",
    jobs: int | None = None,
    scheduler: str | None = None,
    vectorise: bool = False,
    threads: int | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_steps: int | None = None,
    progress: Progress | bool = False,
) -> pd.DataFrame:
    """Train many networks and return one tidy table.

    Args:
        configs: of the runs, see `grid`; the same one twice is one run.
        out: each run has the folder `out/<hash>`; what has come to its end there is not run again,
            what was cut short goes on. `None` keeps everything in memory.
        root: where the data set's files are; on a cluster, on every worker.
        table: `"runs"`, one row a run, or one of the runs' tables: `"steps"`, `"epochs"`,
            `"layer_steps"`, `"layer_epochs"`, `"curvature"`.
        jobs: local processes; `None` for one per core, 1 for this process.
        scheduler: the address of a Dask scheduler, `tcp://host:8786`: its workers train instead.
            `out` must then be a folder that they share.
        vectorise: train seeds of one configuration together in one process, which is equal to
            rounding, not bit for bit. Networks that cannot (dropout, batch norm, `cblr`, a
            curvature measurement) train one by one. Where there are fewer groups of seeds than
            `jobs` (if given) or workers of a cluster, groups are cut, so that all have work.
        threads: torch threads of each run. Results depend on it, by rounding. `None`: one, but for
            lanes that train in this process all that torch has, where they are enough work.
        checkpoint_seconds, checkpoint_steps: as for `train`.
        progress: as for `train`, but in runs.

    Returns:
        A frame. First come the fields in which the configurations differ (dotted where they are
        nested) and the seed; for `"runs"` then `hash`, `status` (`"finished"`, `"diverged"` or
        `"failed"`), `reason`, `steps_taken`, `epochs_taken`, the last
        `train_loss`, `train_accuracy`, `test_loss`, `test_accuracy`, and `best_test_accuracy`, and
        `seconds`; a failed run has no steps and no values. Rows are in the order of the
        configurations, whoever is ready first. `frame.attrs["unfinished"]` holds hash, status and
        reason of those that diverged or failed, and an `Unfinished` warning tells of them where
        the table is not `"runs"`.

    Raises:
        ValueError, TypeError: no configurations, or one that `TrainConfig` refuses; no scheduler;
            no run that could begin on this machine, for want of a device or of the data's files.
            What goes wrong later in one run is in its `reason`, and the others go on.
        OSError: `out` cannot be made; a worker process was killed, or the cluster was lost.
        Interrupted, KeyboardInterrupt: Ctrl-C or SIGTERM; the same call goes on from there.

    >>> from sim.training import grid
    >>> base = {"model_options": {"hidden": [8]}, "samples": 128, "epochs": 1}
    >>> found = sweep(grid(base, lr=[0.1, 0.2], seed=range(2)), jobs=1)
    >>> found[["lr", "seed", "status"]].values.tolist()[0], len(found)
    ([0.1, 0, 'finished'], 4)
    """
    wanted = _read(configs)
    _arguments.choice("table", table, ("runs", *TABLES))
    if threads is not None:
        _arguments.integer("threads", threads, 1)
    jobs = _jobs(jobs, scheduler)
    check_pace(checkpoint_seconds, checkpoint_steps)
    unique = list(dict.fromkeys(wanted))
    folder = _arguments.folder("out", out)
    root = _arguments.folder("root", root, absolute=False)
    options = {
        "out": None if folder is None else str(folder),
        # As an absolute path, since a cluster's workers are in other folders.
        "root": None if root is None else str(root.absolute()),
        "table": table,
        "checkpoint_seconds": checkpoint_seconds,
        "checkpoint_steps": checkpoint_steps,
    }
    if scheduler is None:
        check_machine(unique, folder, root)
    rows: dict[TrainConfig, Rows] = {}
    with terminable(), workers(jobs, scheduler) as (count, parallel):
        tasks = tasks_of(unique, vectorise, count, folder)
        train = parallel(len(tasks))
        here = train.n_jobs == 1
        calls = (
            joblib.delayed(train_task)(
                number, [c.plain() for c in task], options, threads or (split(task) if here else 1)
            )
            for number, task in enumerate(tasks)
        )
        with shown(progress, "runs") as report, losses_explained(scheduler):
            if report is not None:
                report(0, len(unique), {})
            for number, of_task in train(calls):
                rows.update(zip(tasks[number], of_task, strict=True))
                if report is not None:
                    report(len(rows), len(unique), {})
    frame = joined(wanted, rows)
    left = unfinished(rows[config][0] for config in unique)
    frame.attrs["unfinished"] = left
    if left and table != "runs":
        warnings.warn(_warning(left, len(unique), table), Unfinished, stacklevel=2)
    return frame


class Unfinished(UserWarning):
    """A table of a sweep lacks runs that failed, or what followed where one diverged."""


def _read(configs: Iterable[TrainConfig | Mapping[str, Any]]) -> list[TrainConfig]:
    """The configurations of a sweep, refused where they are no list of any."""
    if isinstance(configs, TrainConfig | Mapping):
        raise TypeError("configs: got one configuration; give a list of them, or use train")
    if isinstance(configs, str) or not isinstance(configs, Iterable):
        raise TypeError(f"configs: got {configs!r}; give a list of configurations, see grid")
    wanted = [TrainConfig.read(config) for config in configs]
    if not wanted:
        raise ValueError("configs: got none; give at least one")
    return wanted


def _jobs(jobs: int | None, scheduler: str | None) -> int | None:
    """How many local processes train: one under torchrun, whose processes share every run."""
    if jobs is not None:
        _arguments.integer("jobs", jobs, 1)
    if not torchrun():
        return jobs
    # What its processes started would wait for each other.
    if scheduler is not None or (jobs or 1) > 1:
        which = f"jobs: got {jobs}" if scheduler is None else f"scheduler: got {scheduler!r}"
        raise ValueError(f"{which}, but torchrun's processes share each run; leave it out")
    return 1


def _warning(left: list[dict[str, str]], total: int, table: str) -> str:
    """What a table other than that of the runs does not say of those that did not finish."""
    listed = "; ".join(f"{row['hash']} {row['status']} ({row['reason']})" for row in left[:3])
    more = f"; and {len(left) - 3} more" if len(left) > 3 else ""
    return (
        f"{len(left)} of {total} runs did not finish, and {table!r} does not say so: "
        f"{listed}{more}; see attrs['unfinished'], or table='runs'"
    )
