"""Who trains the runs of a sweep: this process, local ones, or a Dask cluster's."""

import errno
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import torch
from joblib.parallel import get_active_backend

from sim.training.config.train_config import TrainConfig
from sim.training.engine.loop import Interrupted, Loop
from sim.training.engine.tasks import checkpoint_folder
from sim.training.record.run import Run
from sim.training.record.sweep_table import Rows, rows_of

# Seconds to wait for a scheduler.
PATIENCE = 30.0
# One run at a time in a process: they share its random state and number of threads.
_ONE = threading.Lock()


@contextmanager
def workers(
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


@contextmanager
def losses_explained(scheduler: str | None) -> Iterator[None]:
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


def train_task(
    number: int, plains: list[dict[str, Any]], options: dict[str, Any], threads: int
) -> tuple[int, list[Rows]]:
    """Train one group of configurations in this process; what goes wrong is in the table."""
    configs = [TrainConfig.read(plain) for plain in plains]
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
    return number, [rows_of(config, run, options["table"]) for config, run in pairs]


def _train(configs: list[TrainConfig], options: dict[str, Any]) -> list[Run]:
    """The runs of one group, each with its folder where they are kept."""
    folders: list[Path | None] = [None] * len(configs)
    checkpoint = None
    if options["out"] is not None:
        out = Path(options["out"])
        folders = [out / config.hash for config in configs]
        checkpoint = checkpoint_folder(configs, out)
    return Loop(
        configs,
        folders,
        checkpoint,
        options["root"],
        options["checkpoint_seconds"],
        options["checkpoint_steps"],
    ).run()
