"""One run: from a configuration to its tables and weights."""

import contextlib
import copy
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sim import _arguments
from sim import data as datasets
from sim._isolation import isolated
from sim.data import Dataset
from sim.models._build import check as check_model
from sim.optimizers import CBLR
from sim.training.config import optimizers as _optimizers
from sim.training.config.options import plain
from sim.training.config.schedules import Pass, steps_in
from sim.training.config.train_config import DTYPES, VERSION, TrainConfig
from sim.training.engine.curvature import curvature
from sim.training.engine.fast.allocator import keep_freed
from sim.training.engine.fast.units import moved
from sim.training.engine.gradient import (
    AUGMENT,
    HELD_OUT,
    ORDER,
    Batch,
    Found,
    Gradient,
    order_seed,
    predicted,
)
from sim.training.engine.network import Network
from sim.training.engine.recorder import Recorder, frames
from sim.training.engine.signals import stoppable
from sim.training.engine.world import World
from sim.training.record import run as _run
from sim.training.record import store as _store
from sim.training.record.progress import Progress, shown
from sim.training.record.run import Run
from sim.training.record.tensorboard import Board

CHECKPOINT = "checkpoint.pt"
# Samples of the test split that go through the network at a time, all lanes together, but at least
# so many of each.
TESTED = 1024
LEAST_TESTED = 32
SUBSET_SEED = 0


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


def train(
    config: TrainConfig | Mapping[str, Any],
    *,
    out: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_steps: int | None = None,
    tensorboard: str | os.PathLike[str] | None = None,
    progress: Progress | bool = False,
) -> Run:
    """Train a network as a configuration says, and measure it on the way.

    On a CPU the result depends on the configuration and the number of threads only, bit for bit,
    however often the run is killed and started again.

    Args:
        config: a `TrainConfig`, or a mapping of its fields.
        out: the run's own folder. A run that stands there goes on from its checkpoint; one that
            has come to its end is returned without training. `None` keeps everything in memory.
        root: where the data set's files are, as for `sim.data.load`.
        checkpoint_seconds: write a checkpoint so often.
        checkpoint_steps: and after every so many steps.
        tensorboard: also write the measurements there, after every epoch, for TensorBoard.
        progress: `True` for a bar on standard error (a line now and then where that is no
            terminal), or a function that is called after every step with the steps done, their
            total, and the latest known values.

    Returns:
        A `Run`. A loss that is not finite ends the run early: its status is `"diverged"`.

    Raises:
        ValueError: the folder holds a run of another configuration (the message names the
            fields), of other data or of another version; a batch larger than the data; batch norm
            in parts without `batch_norm`; a device that is not there; what `TrainConfig`,
            `load` and `build` refuse.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint.
        OSError: the disk is full; the last checkpoint is whole.
        BlockingIOError: another process trains in the same folder.
        MemoryError: the network or a batch does not fit into the memory of the device.

    >>> run = train({"model_options": {"hidden": [16]}, "samples": 256, "batch_size": 64,
    ...              "epochs": 3, "lr": 0.2})
    >>> run.status, len(run.steps), bool(run.epochs.train_accuracy.iloc[-1] > 0.5)
    ('finished', 12, True)
    """
    config = TrainConfig.read(config)
    folder, tensorboard = (
        _arguments.folder(*pair) for pair in (("out", out), ("tensorboard", tensorboard))
    )
    root = _arguments.folder("root", root, absolute=False)
    loop = Loop([config], [folder], folder, root, checkpoint_seconds, checkpoint_steps, tensorboard)
    with shown(progress, config.hash) as tell:
        return loop.run(tell)[0]


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
        world = World.found(self.config.device)
        # Before the lock: others' runs may lie where one may only read.
        finished = self._finished(world)
        if finished is not None:
            return finished
        lock: AbstractContextManager[None] = contextlib.nullcontext()
        if self.folder is not None and world.first:
            lock = _store.locked(self.folder)
        with lock:
            finished = self._finished(world)  # by a process that held the lock until now
            if finished is not None:
                return finished
            check_device(self.config.device)
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
            with contextlib.suppress(OSError), _store.locked(self.folder):
                self._tidy(world)
        return whole

    def _train(self, world: World, progress: Progress | None) -> list[Run]:
        state = State(self.configs, self.root, world)
        if self.folder is not None and (self.folder / CHECKPOINT).is_file():
            saved = _store.read_tensors(self.folder / CHECKPOINT)
            if saved.get("version") != VERSION:
                raise ValueError(
                    f"out: {str(self.folder)!r} holds a checkpoint that another version of cblr "
                    "wrote; give another folder, or remove this one to start anew"
                )
            for config, other in zip(self.configs, saved["configs"], strict=False):
                _run.check_same(self.folder, other, config)
            if saved.get("data", state.content) != state.content:
                raise ValueError(
                    f"out: {str(self.folder)!r} holds a run that began with other data of "
                    f"{self.config.dataset}; give the root that it began with, or another folder"
                )
            state.load(saved)
        if self.tensorboard is not None and world.first:
            begun = [each.first for each in state.plan if each.first <= state.done]
            state.board = Board(self.tensorboard, begun[-1])
        written = time.monotonic()
        with stoppable(self.folder is not None) as stop, contextlib.closing(state):
            for _ in state.steps():
                if progress is not None and world.first:
                    progress(state.done, state.total, state.latest())
                stopped = world.any(bool(stop), state.device)
                due = self.checkpoint_steps and state.done % self.checkpoint_steps == 0
                late = time.monotonic() - written > self.checkpoint_seconds
                if self.folder is not None and (stopped or due or late):
                    if world.first:
                        self._checkpoint(state)
                    written = time.monotonic()
                if stopped:
                    raise Interrupted(self.folder, state.done)
        runs = state.runs(self.folders)
        if world.first:
            self._keep(runs)
        self._tidy(world)
        return runs

    def _checkpoint(self, state: "State") -> None:
        assert self.folder is not None
        _store.write_tensors(self.folder / CHECKPOINT, state.save())

    def _keep(self, runs: list[Run]) -> None:
        for run in runs:
            if run.folder is not None and _run.finished(run.config, run.folder) is None:
                run.folder.mkdir(parents=True, exist_ok=True)
                run.write(run.folder)

    def _tidy(self, world: World) -> None:
        if self.folder is not None and world.first:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)


class State:
    """Where a run stands: network, optimizer, measurements, and the steps done."""

    def __init__(
        self, configs: list[TrainConfig], root: str | os.PathLike[str] | None, world: World
    ) -> None:
        self.configs, self.config, self.world = configs, configs[0], world
        config = self.config
        self.device = torch.device(config.device)
        keep_freed()
        self.training, self.held = _load(config, root)
        self.content = self.training.provenance["sha256"]
        self.plan, self.rates = config.plan(len(self.training))
        self.total = len(self.rates)
        self.counts = [
            min(each.batch_size, len(self.training) - k * each.batch_size)
            for each in self.plan
            for k in range(each.steps)
        ]
        if config.augment is not None:
            config.augment.check(self.training.shape, config.dataset)
        try:
            check_model(config.model, self.training.shape, config.model_options)
        except ValueError as error:
            raise ValueError(
                f"model: {config.model!r} cannot take the inputs of {config.dataset}; {error}"
            ) from None
        self.network = Network(configs, self.training)
        _check_parts(config, self.network.model, self.counts, world)
        _check_alone(config, self.network, self.training, self.counts, world)
        self.gradient = Gradient(configs, self.network, world)
        self.optimizer = self.network.optimizer(config)
        stride = _optimizers.stride_of(config.optimizer, config.optimizer_options)
        self.recorder = Recorder(self.network, config.measure.layers_every, stride)
        self.done = 0
        self.seconds = 0.0
        self.epoch_seconds = 0.0
        self.board: Board | None = None
        self._stopped_by = ""

    def close(self) -> None:
        """Close what is open."""
        if self.board is not None:
            self.board.close()

    def steps(self) -> Iterator[None]:
        """Take all steps that are left, and yield after each, when everything is in order."""
        for each in self.plan:
            end = each.first + each.steps
            if end <= self.done:
                continue
            if each.first == self.done:
                self.recorder.begin_epoch()
                self.epoch_seconds = 0.0
            order = self._order(each.epoch)
            while self.done < end:
                began = time.perf_counter()
                step = self.done
                start = (step - each.first) * each.batch_size
                going = self._step(each, step, order, start, start + self.counts[step])
                self.done += 1
                if self.done == end or not going:
                    self.recorder.flush()  # which waits for the device, so that its time counts
                took = time.perf_counter() - began
                self.epoch_seconds += took
                self.seconds += took
                if not going:
                    return
                if self.done == end:
                    self._end_epoch(each)
                yield

    def _step(self, each: Pass, step: int, order: Tensor, start: int, stop: int) -> bool:
        """One step; whether another can follow, as far as can be told without waiting."""
        config, recorder = self.config, self.recorder
        measure = config.measure
        share = self.world.share(stop - start)
        index = order[:, start + share.start : start + share.stop]
        drawn = self._drawn(stop - start, share, step)
        batch = Batch(*self._take(self.training, index, drawn), stop - start, step, each.epoch)
        if measure.curvature_every and step % measure.curvature_every == 0:
            self._curvature(step)
        looks = measure.decrease_every > 0 and step % measure.decrease_every == 0
        held = self._held_out(order, start, stop, step) if looks else None
        held_before = self._held_loss(held, step)
        found = self.gradient(batch)
        totals = found.totals(batch.n)
        self.world.sum([totals])
        recorder.add(step, totals)
        if recorder.over(step, totals[:, 0]):
            return False
        self.network.join_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates[step]
        going = recorder.around(step, self.optimizer, lambda: self._update(batch, found))
        if looks:
            after = self._objective(batch, found.weights)
            recorder.add(step, (totals[:, 1] - after).unsqueeze(-1), 3)
        if held_before is not None:
            held_after = self._held_loss(held, step)
            recorder.add(step, (held_before - held_after).unsqueeze(-1), 4)
        return going

    def _update(self, batch: Batch, found: Found) -> bool:
        if not isinstance(self.optimizer, CBLR):
            self.network.lend_gradients()
            self.optimizer.step()
            return True
        every_step = self.config.optimizer_options.get("refresh_interval") is None
        fresh = None
        if every_step or self.optimizer.due:
            try:
                fresh = self.gradient.curvature(batch, found.weights)
                finite = all(bool(h.isfinite().all()) for h in fresh.values())
            except ValueError:
                # It is refused where the network's output is not finite, and not only there.
                known = [found.losses, *self.network.parameters]
                if all(bool(values.isfinite().all()) for values in known):
                    raise
                finite = False
            if not finite:
                self.recorder.diverged.setdefault(0, batch.step)
                self._stopped_by = "the curvature"
                return False
        self.optimizer.step(fresh)
        return True

    def _drawn(self, n: int, share: slice, step: int) -> Tensor | None:
        """How this process's samples are to be augmented, `[lanes · n, 3]`."""
        augment = self.config.augment
        if augment is None:
            return None
        seeds = ([order_seed(config), AUGMENT, step] for config in self.configs)
        drawn = torch.from_numpy(np.concatenate([augment.draw(s, n)[share] for s in seeds]))
        return moved(drawn, self.device)

    def _take(
        self, data: Dataset, index: Tensor, drawn: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples `[lanes, n, …]`, augmented as drawn, and targets `[lanes, n]`."""
        flat = index.reshape(-1)
        x = data.inputs.index_select(0, flat)
        if drawn is not None and self.config.augment is not None:
            x = self.config.augment.apply(x, drawn)
        if self.network.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        y = data.targets.index_select(0, flat)
        return x.view(*index.shape, *x.shape[1:]), y.view(index.shape)

    def _order(self, epoch: int) -> Tensor:
        """The order of the samples in a pass, `[lanes, N]`."""
        n = len(self.training)
        drawn = [
            np.random.default_rng([order_seed(config), ORDER, epoch]).permutation(n)
            for config in self.configs
        ]
        return torch.from_numpy(np.stack(drawn)).to(self.device)

    def _held_out(
        self, order: Tensor, start: int, stop: int, step: int
    ) -> tuple[Tensor, Tensor] | None:
        """Samples that have no part in the step."""
        measure = self.config.measure
        from_train = measure.held_out_from == "train"
        data = self.training if from_train else self.held
        left = len(data) - (stop - start if from_train else 0)
        n = min(measure.held_out, left)
        if n == 0:
            return None
        rows = []
        for lane, config in enumerate(self.configs):
            drawn = np.random.default_rng([order_seed(config), HELD_OUT, step])
            index = torch.from_numpy(drawn.choice(left, n, replace=False)).to(self.device)
            if from_train:
                index = order[lane, index + (stop - start) * (index >= start)]
            rows.append(index)
        return self._take(data, torch.stack(rows))

    @torch.no_grad()
    def _held_loss(self, pair: tuple[Tensor, Tensor] | None, step: int) -> Any:
        """The mean loss, in training mode, with the same masks before and after the step."""
        if pair is None:
            return None
        x, y = pair
        return self.gradient.all_losses(Batch(x, y, y.shape[1], step, 0)).mean(-1)

    @torch.no_grad()
    def _objective(self, batch: Batch, weights: Tensor | None) -> Tensor:
        value = self.gradient.objective(batch, self.gradient.all_losses(batch), weights)
        self.world.sum([value])
        return value

    def _curvature(self, step: int) -> None:
        n = min(self.config.measure.curvature_samples, len(self.training))
        pair = self.training.subset(n, SUBSET_SEED).pair
        loss = self.gradient.per_sample
        try:
            self.recorder.curvature += curvature(self.network, loss, pair, step)
        except ValueError:
            # Of a network whose loss is not finite there is none; the loss itself ends the run.
            if all(bool(p.isfinite().all()) for p in self.network.parameters):
                raise

    def _average_buffers(self) -> None:
        """Running statistics of ghost batch norm are each process's own until the epoch ends."""
        buffers = [b for b in self.network.model.buffers() if b.is_floating_point()]
        self.world.sum(buffers)
        if self.world.size > 1:
            for buffer in buffers:
                buffer /= self.world.size

    def _end_epoch(self, each: Pass) -> None:
        self._average_buffers()
        every = self.config.measure.test_every
        last = each is self.plan[-1]
        tested = self._test() if every and (last or (each.epoch + 1) % every == 0) else {}
        counts = torch.tensor(self.counts[each.first : each.first + each.steps])
        whole = each.steps == steps_in(len(self.training), each.batch_size, self.config.drop_last)
        self.recorder.end_epoch(each, counts, tested, self.epoch_seconds, whole)
        if self.board is not None:
            self.board.epoch(self.recorder, each.first, self.rates)

    @torch.no_grad()
    def _test(self) -> dict[str, Tensor]:
        """Loss and accuracy on the test split, in evaluation mode, `[lanes]` each."""
        sums = torch.zeros(2, self.network.lanes, device=self.device, dtype=torch.float64)
        share = self.world.share(len(self.held))
        with self.network.evaluating():
            size = max(LEAST_TESTED, TESTED // self.network.lanes)
            for start in range(share.start, share.stop, size):
                rows = torch.arange(start, min(share.stop, start + size), device=self.device)
                x, y = self._take(self.held, rows.repeat(self.network.lanes, 1))
                losses, output = self.gradient.losses(x, y)
                sums[0] += losses.sum(-1)
                sums[1] += (predicted(output) == y).sum(-1)
        self.world.sum([sums])
        loss, accuracy = sums / len(self.held)
        return {"test_loss": loss, "test_accuracy": accuracy}

    def latest(self) -> dict[str, float]:
        """The last known values, of the last lane, for somebody who watches."""
        epochs = self.recorder.epochs
        names = ("train_loss", "train_accuracy", "test_accuracy")
        return {name: epochs[-1][name] for name in names if epochs and name in epochs[-1]}

    def save(self) -> dict[str, Any]:
        """All that is needed to go on from here."""
        self.recorder.flush()
        return {
            "version": VERSION,
            "configs": [config.plain() for config in self.configs],
            "data": self.content,
            "done": self.done,
            "network": self.network.state(),
            "optimizer": self.optimizer.state_dict(),
            "recorder": self.recorder.state(),
            "seconds": self.seconds,
            "epoch_seconds": self.epoch_seconds,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from what `save` returned."""
        self.network.load(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.recorder.load(saved["recorder"])
        self.done, self.seconds = saved["done"], saved["seconds"]
        self.epoch_seconds = saved["epoch_seconds"]

    def runs(self, folders: Sequence[Path | None]) -> list[Run]:
        """What came of each lane."""
        environment = _run.environment(self.config.device, self.world.size)
        data = plain(self.training.provenance)
        found = []
        for lane, (config, folder) in enumerate(zip(self.configs, folders, strict=True)):
            weights = self.network.weights(lane)
            reason = ""
            if lane in self.recorder.diverged:
                what = self._stopped_by or "the loss"
                reason = f"{what} was not finite at step {self.recorder.diverged[lane]}"
            elif not all(bool(w.isfinite().all()) for w in weights.values()):
                reason = f"the weights were not finite after step {self.done - 1}"
            found.append(
                Run(
                    config=config,
                    status="diverged" if reason else "finished",
                    reason=reason,
                    **frames(self.recorder, lane, self.plan, self.rates, self.counts),
                    weights=weights,
                    data=copy.deepcopy(data),
                    shape=self.training.shape,
                    classes=self.training.classes,
                    seconds=self.seconds / len(self.configs),
                    environment=dict(environment),
                    folder=folder,
                )
            )
        return found


def _load(config: TrainConfig, root: str | os.PathLike[str] | None) -> tuple[Dataset, Dataset]:
    """Training and test split, on the device, in the dtype."""
    options: dict[str, Any] = dict(config.dataset_options)
    found = []
    for split in ("train", "test"):
        data = datasets.load(config.dataset, root, split, **options)
        if split == "train" and config.samples is not None:
            if config.samples > len(data):
                raise ValueError(
                    f"samples: got {config.samples}, but {config.dataset} has {len(data)} "
                    f"training samples; give at most {len(data)}"
                )
            data = data.subset(config.samples, SUBSET_SEED)
        data = replace(data, inputs=data.inputs.to(DTYPES[config.dtype]))
        found.append(data.to(config.device))
    return found[0], found[1]


def check_pace(seconds: float, steps: int | None) -> None:
    """Refuse what is no pace of checkpoints."""
    _arguments.number("checkpoint_seconds", seconds, 0.0)
    if steps is not None:
        _arguments.integer("checkpoint_steps", steps, 1)


def check_device(name: str) -> None:
    """Put a number on the device.

    Raises:
        ValueError: it is not there.
    """
    try:
        torch.zeros(1, device=torch.device(name)).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        count = torch.cuda.device_count()
        known = "cpu" + "".join(f", cuda:{k}" for k in range(count))
        why = str(error).splitlines()[0].split(". ")[0]  # some go on for pages
        raise ValueError(
            f"device: {name!r} cannot be used here ({why}); this machine has: {known}"
        ) from None


def _check_parts(config: TrainConfig, model: nn.Module, counts: list[int], world: World) -> None:
    """Refuse what a batch in parts cannot be."""
    smallest, largest = min(counts), max(counts)
    if smallest < world.size:
        raise ValueError(
            f"batch_size: a batch of {smallest} cannot be shared by {world.size} processes; "
            "give a larger batch size, or drop_last for the remainder of a pass"
        )
    norms = _norms(model)
    parts = world.size > 1 or (config.micro_batch is not None and config.micro_batch < largest)
    if norms and parts and config.batch_norm is None:
        raise ValueError(
            f"batch_norm: batches of {largest} go through {norms[0]!r} in parts (micro_batch or "
            "several processes), so that what it computes has to be chosen: give 'ghost' to "
            "normalise each part by itself, or 'synchronised' for the whole batch"
        )
    if norms and parts and config.batch_norm == "synchronised" and config.optimizer == "cblr":
        raise ValueError(
            "batch_norm: cblr cannot take the curvature of a batch in parts through synchronised "
            "batch norm; leave micro_batch out, use one process, or give 'ghost'"
        )


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


def _norms(model: nn.Module) -> list[str]:
    """The names of the batch norms."""
    kind = nn.modules.batchnorm._BatchNorm
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


def _check_alone(
    config: TrainConfig, network: Network, data: Dataset, counts: list[int], world: World
) -> None:
    """Refuse a sample that goes alone through a batch norm which is left with one number of it."""
    shares = {each for n in set(counts) for each in (n // world.size, -(-n // world.size))}
    size = config.micro_batch or max(shares)
    if config.batch_norm == "synchronised":
        shares, size = set(counts), max(counts)
    if not _norms(network.model) or not {1} & {n for s in shares for n in (s % size, min(s, size))}:
        return
    try:
        with torch.no_grad(), network.buffers_kept(), network.masks(0):
            network.model(data.inputs[:1])
    except ValueError:
        raise ValueError(
            "batch_size: a batch, or a part of one, is a single sample, and batch norm has one "
            "number of it to normalise; give drop_last=True, or another batch_size or micro_batch"
        ) from None
