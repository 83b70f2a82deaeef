"""Many runs: over local processes, a Dask cluster, or many seeds at once in one process."""

import errno
import os
import threading
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch
from joblib.parallel import get_active_backend

from sim import _arguments
from sim.data._load import check_files
from sim.training.config.options import plain
from sim.training.config.train_config import VERSION, TrainConfig
from sim.training.engine.checks import check_device, check_pace
from sim.training.engine.fast.vectorise import groups, split
from sim.training.engine.loop import CHECKPOINT, Interrupted, Loop
from sim.training.engine.signals import terminable
from sim.training.engine.world import torchrun
from sim.training.record import store as _store
from sim.training.record.columns import TABLES, columns
from sim.training.record.progress import Progress, shown
from sim.training.record.run import Run

# Seconds to wait for a scheduler.
PATIENCE = 30.0
# What the folders of lanes that train together begin with.
LANES = "lanes-"
# A run's row in the table of runs, and its part of the table that is wanted, if that is another.
Rows = tuple[dict[str, Any], pd.DataFrame | None]
# One run at a time in a process: they share its random state and number of threads.
_ONE = threading.Lock()


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
    if isinstance(configs, TrainConfig | Mapping):
        raise TypeError("configs: got one configuration; give a list of them, or use train")
    if isinstance(configs, str) or not isinstance(configs, Iterable):
        raise TypeError(f"configs: got {configs!r}; give a list of configurations, see grid")
    every = [TrainConfig.read(config) for config in configs]
    if not every:
        raise ValueError("configs: got none; give at least one")
    _arguments.choice("table", table, ("runs", *TABLES))
    if threads is not None:
        _arguments.integer("threads", threads, 1)
    if jobs is not None:
        _arguments.integer("jobs", jobs, 1)
    if torchrun():
        # Its processes train every run together; what they start would wait for each other.
        if scheduler is not None or (jobs or 1) > 1:
            which = f"jobs: got {jobs}" if scheduler is None else f"scheduler: got {scheduler!r}"
            raise ValueError(f"{which}, but torchrun's processes share each run; leave it out")
        jobs = 1
    check_pace(checkpoint_seconds, checkpoint_steps)
    unique = list(dict.fromkeys(every))
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
        _check_machine(unique, folder, root)
    found: dict[TrainConfig, Rows] = {}
    with terminable(), _backend(jobs, scheduler) as (workers, parallel):
        tasks = _tasks(unique, vectorise, workers, folder)
        train = parallel(len(tasks))
        here = train.n_jobs == 1
        calls = (
            joblib.delayed(_task)(
                number, [c.plain() for c in task], options, threads or (split(task) if here else 1)
            )
            for number, task in enumerate(tasks)
        )
        with shown(progress, "runs") as tell, _losses_told(scheduler):
            if tell is not None:
                tell(0, len(unique), {})
            for number, rows in train(calls):
                found.update(zip(tasks[number], rows, strict=True))
                if tell is not None:
                    tell(len(found), len(unique), {})
    frame = _joined(every, found)
    left = unfinished(found[config][0] for config in unique)
    frame.attrs["unfinished"] = left
    if left and table != "runs":
        told = "; ".join(f"{row['hash']} {row['status']} ({row['reason']})" for row in left[:3])
        more = f"; and {len(left) - 3} more" if len(left) > 3 else ""
        warnings.warn(
            f"{len(left)} of {len(unique)} runs did not finish, and {table!r} does not say so: "
            f"{told}{more}; see attrs['unfinished'], or table='runs'",
            Unfinished,
            stacklevel=2,
        )
    return frame


class Unfinished(UserWarning):
    """A table of a sweep lacks runs that failed, or what followed where one diverged."""


def unfinished(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Hash, status and reason of the runs that did not finish.

    >>> unfinished([{"hash": "a", "status": "finished"},
    ...             {"hash": "b", "status": "failed", "reason": "it is there"}])
    [{'hash': 'b', 'status': 'failed', 'reason': 'it is there'}]
    """
    kept = ("hash", "status", "reason")
    return [{key: row[key] for key in kept} for row in rows if row["status"] != "finished"]


@contextmanager
def _losses_told(scheduler: str | None) -> Iterator[None]:
    """Say of processes that are lost what to do: no run has failed, and what is done is kept."""
    again = "what is done is kept in out; start the same sweep again to go on"
    try:
        yield
    except BrokenProcessPool:
        raise ChildProcessError(
            errno.ECHILD,
            f"jobs: a worker process was killed, perhaps for want of memory; {again}, with fewer",
        ) from None
    except Exception as error:
        if scheduler is None or not type(error).__module__.startswith("distributed."):
            raise
        raise ConnectionAbortedError(
            errno.ECONNABORTED,
            f"scheduler: {scheduler!r} or its workers were lost ({type(error).__name__}); {again}",
        ) from None


def _check_machine(
    configs: list[TrainConfig], out: Path | None, root: str | os.PathLike[str] | None
) -> None:
    """Refuse what no run could begin with; what some cannot do will be in their rows."""
    if out is not None:
        configs = [c for c in configs if not (out / c.hash / "run.json").is_file()]
        _store.make(out)
    errors = []
    for device, dataset in dict.fromkeys((config.device, config.dataset) for config in configs):
        try:
            check_device(device)
            check_files(dataset, root)
        except (ValueError, OSError) as error:
            errors.append(error)
        else:
            return
    if errors:
        raise errors[0]


def _tasks(
    configs: list[TrainConfig], vectorise: bool, workers: int, out: Path | None
) -> list[list[TrainConfig]]:
    """What is trained together: one run each, or lanes.

    Lanes that have begun stay together, whatever is asked for beside them, or they would begin
    anew; and no run that has come to its end is a lane again.
    """
    if not vectorise:
        return [[config] for config in configs]
    tasks, left = [], dict.fromkeys(configs)
    if out is not None:
        tasks += _begun(out, left)
        for group in tasks:
            for config in group:
                del left[config]
        finished = [config for config in left if (out / config.hash / "run.json").is_file()]
        tasks += [[config] for config in finished]
        for config in finished:
            del left[config]
    return tasks + groups(list(left), workers)


def _begun(out: Path, among: Container[TrainConfig]) -> list[list[TrainConfig]]:
    """The groups of lanes that stand in a checkpoint, and are all among those wanted."""
    found: list[list[TrainConfig]] = []
    for path in sorted(out.glob(f"{LANES}*/{CHECKPOINT}")):
        try:
            saved = _store.read_tensors(path)
            group = [TrainConfig.read(config) for config in saved["configs"]]
        except Exception:  # whoever trains in this folder says what is wrong with it
            continue
        taken = [config for other in found for config in other]
        if saved.get("version") == VERSION and all(c in among and c not in taken for c in group):
            found.append(group)
    return found


@contextmanager
def _backend(
    jobs: int | None, scheduler: str | None
) -> Iterator[tuple[int, Callable[[int], joblib.Parallel]]]:
    """For how many workers lanes are to be cut, and what runs so many tasks, as they come."""
    kind = "generator_unordered"
    if scheduler is None:

        def local(tasks: int) -> joblib.Parallel:
            count = min(tasks, jobs or joblib.cpu_count())
            # A `joblib.parallel_config` of the caller's counts where it can do this at all.
            able = get_active_backend()[0].supports_return_generator
            return joblib.Parallel(
                n_jobs=count,
                backend=None if able else "loky",
                return_as=kind,
                batch_size=1,
                pre_dispatch=2 * count,
            )

        with warnings.catch_warnings():
            # joblib starts a worker anew whose memory has grown; between runs nothing is lost.
            warnings.filterwarnings("ignore", "A worker stopped while", UserWarning)
            # Unasked lanes are not cut: to start a process may take longer than all of them.
            yield jobs or 1, local
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError(
            f"scheduler: {scheduler!r} is for Dask, which is not installed; "
            "pip install 'cblr[dask]', or leave it out for local processes"
        ) from None
    try:
        client = Client(scheduler, timeout=PATIENCE)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"scheduler: there is none at {scheduler!r} ({type(error).__name__}); "
            "give the address that dask scheduler prints, as in tcp://host:8786"
        ) from None
    with client, joblib.parallel_config("dask"):
        everywhere = joblib.Parallel(n_jobs=-1, return_as=kind, batch_size=1, pre_dispatch="all")
        yield max(1, len(client.nthreads())), lambda tasks: everywhere


def _task(
    number: int, plains: list[dict[str, Any]], options: dict[str, Any], threads: int
) -> tuple[int, list[Rows]]:
    """Train one group of configurations in this process; what goes wrong is in the table."""
    configs = [TrainConfig.read(each) for each in plains]
    with _ONE:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            runs: Sequence[Run | BaseException] = _train(configs, options)
        except Interrupted:
            raise
        except Exception as error:
            runs = [error] * len(configs)
        finally:
            torch.set_num_threads(before)
    pairs = zip(configs, runs, strict=True)
    return number, [_rows(config, run, options["table"]) for config, run in pairs]


def _train(configs: list[TrainConfig], options: dict[str, Any]) -> list[Run]:
    folders: list[Path | None] = [None] * len(configs)
    shared = None
    if options["out"] is not None:
        out = Path(options["out"])
        folders = [out / config.hash for config in configs]
        shared = folders[0]
        if len(configs) > 1:
            # The group as a whole goes on, or the lanes would be others and round otherwise.
            shared = out / f"{LANES}{_arguments.digest([c.hash for c in configs])}"
    return Loop(
        configs,
        folders,
        shared,
        options["root"],
        options["checkpoint_seconds"],
        options["checkpoint_steps"],
    ).run()


def _rows(config: TrainConfig, run: Run | BaseException, table: str) -> Rows:
    """A row of the table of runs, and a table of the run."""
    if isinstance(run, Run):
        frame = None if table == "runs" else getattr(run, table).assign(hash=config.hash)
        return run.summary(), frame
    empty = None
    if table != "runs":
        empty = pd.DataFrame([], columns=[*columns(table), "hash"])
    return Run.failure(config, run), empty


def _joined(configs: list[TrainConfig], found: dict[TrainConfig, Rows]) -> pd.DataFrame:
    """All tables under one another, each with the fields in which the configurations differ."""
    flat = [_flat(plain(config)) for config in configs]
    names = dict.fromkeys(name for each in flat for name in each)
    differing = [n for n in names if len({repr(each.get(n)) for each in flat}) > 1]
    if "seed" not in differing:
        differing.append("seed")
    each = [found[config] for config in configs]
    frames = [frame for _, frame in each if frame is not None]
    if frames:
        kept = [frame for frame in frames if len(frame)] or frames[:1]
        whole = pd.concat(kept, ignore_index=True)
    else:
        whole = pd.DataFrame([row for row, _ in each])
    lengths = [1 if frame is None else len(frame) for _, frame in each]
    for position, name in enumerate(differing):
        values = [v for one, k in zip(flat, lengths, strict=True) for v in [one.get(name)] * k]
        column = pd.Series(values, dtype=object).infer_objects()
        whole.insert(position, f"config.{name}" if name in whole.columns else name, column)
    return whole


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dictionary with dotted names; lists stay whole, as text where they hold more."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{name}.")
        elif isinstance(value, list | dict):
            found[name] = str(value)
        else:
            found[name] = value
    return found
