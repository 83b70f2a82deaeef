"""One run from its start, or from its checkpoint, to its end."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from sim._isolation import isolated
from sim.training.config.train_config import TrainConfig
from sim.training.engine.checks import check_device, check_numbers, check_pace
from sim.training.engine.signals import stoppable
from sim.training.engine.state import State
from sim.training.engine.world import World
from sim.training.record import run as _run
from sim.training.record import store
from sim.training.record.progress import Progress
from sim.training.record.run import Run
from sim.training.record.tensorboard import Board

CHECKPOINT = "checkpoint.pt"


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the run stands in its checkpoint, if it has a folder.

    Attributes:
        folder: where, or `None`.
        step: how many steps are done.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        super().__init__(folder, step)
        self.folder = folder
        self.step = step

    def __str__(self) -> str:
        where = "nothing was kept; give out to be able to go on"
        if self.folder is not None:
            where = f"start it again with the same folder to go on: {self.folder}"
        return f"interrupted after {self.step} steps; {where}"


class Loop:
    """One run, or several lanes that run as one.

    Args:
        configs: of the lanes; they differ in their seeds only.
        folders: where each lane's results go, or `None` for each.
        folder: where the checkpoint lies.
        root, checkpoint_seconds, checkpoint_steps, tensorboard: as for `train`.
    """

    def __init__(
        self,
        configs: list[TrainConfig],
        folders: Sequence[Path | None],
        folder: Path | None,
        root: str | os.PathLike[str] | None = None,
        checkpoint_seconds: float = 60.0,
        checkpoint_steps: int | None = None,
        tensorboard: str | os.PathLike[str] | None = None,
    ) -> None:
        self.tensorboard = tensorboard
        check_pace(checkpoint_seconds, checkpoint_steps)
        self.checkpoint_seconds, self.checkpoint_steps = checkpoint_seconds, checkpoint_steps
        self.configs, self.folders, self.folder, self.root = configs, folders, folder, root
        self.config = configs[0]

    def run(self, progress: Progress | None = None) -> list[Run]:
        """Train from the start, or from where the folder stands, to the end."""
        world = World.current(self.config.device)
        # Before the lock: others' runs may lie where one may only read.
        finished = self._finished(world)
        if finished is not None:
            return finished
        lock: AbstractContextManager[None] = contextlib.nullcontext()
        if self.folder is not None and world.first:
            lock = store.locked(self.folder)
        with lock:
            finished = self._finished(world)  # by a process that held the lock until now
            if finished is not None:
                return finished
            check_device(self.config.device)
            check_numbers(self.config)
            with isolated(torch.device(self.config.device).type), _memory(self.config):
                return self._train(world, progress)

    def _finished(self, world: World) -> list[Run] | None:
        """All runs, if all have come to their end."""
        pairs = zip(self.configs, self.folders, strict=True)
        runs = [_run.finished(config, folder) for config, folder in pairs]
        whole = [run for run in runs if run is not None]
        if len(whole) < len(runs):
            return None
        if self.folder is not None and (self.folder / CHECKPOINT).exists():
            # Left by a process that was killed before it could; if it may be removed at all.
            with contextlib.suppress(OSError), store.locked(self.folder):
                self._tidy(world)
        return whole

    def _train(self, world: World, progress: Progress | None) -> list[Run]:
        """Take the steps that are left, with checkpoints on the way, and write the runs."""
        state = State(self.configs, self.root, world)
        if self.folder is not None and (self.folder / CHECKPOINT).is_file():
            saved = store.read_tensors(self.folder / CHECKPOINT)
            if saved.get("version") != self.config.version:
                raise ValueError(
                    f"out: {str(self.folder)!r} holds a checkpoint that another version of cblr "
                    "wrote; give another folder, or remove this one to start anew"
                )
            for config, other in zip(self.configs, saved["configs"], strict=False):
                _run.check_same(self.folder, other, config)
            if saved.get("data", state.samples.content) != state.samples.content:
                raise ValueError(
                    f"out: {str(self.folder)!r} holds a run that began with other data of "
                    f"{self.config.dataset}; give the root that it began with, or another folder"
                )
            state.load(saved)
        if self.tensorboard is not None and world.first:
            begun = [
                pass_.first for pass_ in state.schedule.passes if pass_.first <= state.position.done
            ]
            state.board = Board(self.tensorboard, begun[-1])
        written = time.monotonic()
        with stoppable(self.folder is not None) as stop, contextlib.closing(state):
            for _ in state.steps():
                if progress is not None and world.first:
                    progress(state.position.done, len(state.schedule.rates), state.latest())
                stopped = world.any(bool(stop), torch.device(self.config.device))
                due = self.checkpoint_steps and state.position.done % self.checkpoint_steps == 0
                late = time.monotonic() - written > self.checkpoint_seconds
                if self.folder is not None and (stopped or due or late):
                    if world.first:
                        store.write_tensors(self.folder / CHECKPOINT, state.save())
                    written = time.monotonic()
                if stopped:
                    raise Interrupted(self.folder, state.position.done)
        runs = state.runs(self.folders)
        if world.first:
            self._keep(runs)
        self._tidy(world)
        return runs

    def _keep(self, runs: list[Run]) -> None:
        for run in runs:
            if run.folder is not None and _run.finished(run.config, run.folder) is None:
                run.folder.mkdir(parents=True, exist_ok=True)
                run.write(run.folder)

    def _tidy(self, world: World) -> None:
        if self.folder is not None and world.first:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)


@contextmanager
def _memory(config: TrainConfig) -> Iterator[None]:
    """Say what to do where there is not enough memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "allocate memory" not in str(error):
            raise
        why = ". ".join(str(error).splitlines()[0].split(". ")[:2])
        raise MemoryError(
            f"out of memory on {config.device} ({why}): "
            f"batches of {config.batch_size} samples go through {config.model} "
            f"{config.micro_batch or 'all'} at a time; give a smaller micro_batch, or a smaller "
            "model or data set"
        ) from None
