"""Where a run stands, and how it goes on: step by step, epoch by epoch."""

import copy
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hessian.allocator import keep_freed
from sim._own import sources
from sim.training.config import optimizers
from sim.training.config.options import plain
from sim.training.config.schedules import Pass, steps_in
from sim.training.config.train_config import TrainConfig
from sim.training.engine.batch import Batch
from sim.training.engine.checks import check_inputs, check_parts, check_single_samples
from sim.training.engine.evaluation import Evaluation
from sim.training.engine.gradient import Gradient
from sim.training.engine.network import Network
from sim.training.engine.recorder import Recorder
from sim.training.engine.samples import Samples
from sim.training.engine.schedule import Schedule
from sim.training.engine.update import Update
from sim.training.engine.world import World
from sim.training.record import run as _run
from sim.training.record.run import Run
from sim.training.record.tables import frames
from sim.training.record.tensorboard import Board


@dataclass
class Position:
    """How far a run has come.

    Attributes:
        done: steps.
        seconds: that they took.
        epoch_seconds: that those of this epoch took.
    """

    done: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0

    def spend(self, seconds: float) -> None:
        """Count time that a step took."""
        self.epoch_seconds += seconds
        self.seconds += seconds


class State:
    """Where a run stands: network, optimizer, measurements, and the steps done.

    Args:
        configs: of the lanes, which differ in their seeds only.
        root: where the data's files are.
        world: the processes that share the run.
    """

    def __init__(
        self, configs: list[TrainConfig], root: str | os.PathLike[str] | None, world: World
    ) -> None:
        self.configs, self.world = configs, world
        config = configs[0]
        keep_freed()
        self.samples = Samples(configs, root)
        training = self.samples.training
        self.schedule = Schedule.of(config, len(training))
        check_inputs(config, training)
        self.network = Network(configs, training)
        self.samples.channels_last = self.network.channels_last
        check_parts(config, self.network.model, self.schedule.counts, world)
        check_single_samples(config, self.network, training, self.schedule.counts, world)
        self.gradient = Gradient(configs, self.network, world)
        optimizer = self.network.optimizer(config)
        self.update = Update(config, self.network, self.gradient, optimizer)
        self.evaluation = Evaluation(config, self.network, self.gradient, self.samples, world)
        stride = optimizers.stride_of(config.optimizer, config.optimizer_options)
        if self.network.own:
            stride = "weights"  # a parameter may have neither gradient nor momentum
        self.recorder = Recorder(self.network, config.measure.layers_every, stride)
        self.position = Position()
        self.board: Board | None = None

    @property
    def config(self) -> TrainConfig:
        """Of the first lane."""
        return self.configs[0]

    def close(self) -> None:
        """Close what is open."""
        if self.board is not None:
            self.board.close()

    def steps(self) -> Iterator[None]:
        """Take all steps that are left, and yield after each, when everything is in order."""
        position = self.position
        for epoch in self.schedule.passes:
            end = epoch.first + epoch.steps
            if end <= position.done:
                continue
            if epoch.first == position.done:
                self.recorder.begin_epoch()
                position.epoch_seconds = 0.0
            order = self.samples.order(epoch.epoch)
            while position.done < end:
                began = time.perf_counter()
                step = position.done
                start = (step - epoch.first) * epoch.batch_size
                stop = start + self.schedule.counts[step]
                going = self._step(epoch, step, order, start, stop)
                position.done += 1
                if position.done == end or not going:
                    self.recorder.flush()  # which waits for the device, so that its time counts
                position.spend(time.perf_counter() - began)
                if not going:
                    return
                if position.done == end:
                    self._end_epoch(epoch)
                yield

    def _step(self, epoch: Pass, step: int, order: Tensor, start: int, stop: int) -> bool:
        """One step; whether another can follow, as far as can be told without waiting."""
        measure, recorder, update = self.config.measure, self.recorder, self.update
        n, share = stop - start, self.world.share(stop - start)
        index = order[:, start + share.start : start + share.stop]
        batch = Batch(*self.samples.batch(index, n, share, step), n, step, epoch.epoch)
        if measure.curvature_every and step % measure.curvature_every == 0:
            recorder.measurements.curvature += self.evaluation.curvature(step)
        looks = measure.decrease_every > 0 and step % measure.decrease_every == 0
        held_out = self.samples.held_out(order, start, stop, step) if looks else None
        if held_out is not None:
            held_out_loss = self.evaluation.mean_loss(held_out, step)
        losses = self.gradient(batch)
        totals = losses.totals(n)
        self.world.sum([totals])
        recorder.add(step, totals)
        if recorder.over(step, totals[:, 0]):
            return False
        self.network.join_gradients()
        for group in update.optimizer.param_groups:
            group["lr"] = self.schedule.rates[step]
        going = recorder.around(step, update.optimizer, lambda: update(batch, losses))
        if not going:
            recorder.measurements.diverge(0, step)
        if looks:
            decrease = totals[:, 1] - self.evaluation.objective(batch, losses)
            recorder.add(step, decrease.unsqueeze(-1), 3)
        if held_out is not None:
            decrease = held_out_loss - self.evaluation.mean_loss(held_out, step)
            recorder.add(step, decrease.unsqueeze(-1), 4)
        return going

    def _average_buffers(self) -> None:
        """Running statistics of ghost batch norm are each process's own until the epoch ends."""
        buffers = [b for b in self.network.model.buffers() if b.is_floating_point()]
        self.world.sum(buffers)
        if self.world.size > 1:
            for buffer in buffers:
                buffer /= self.world.size

    def _end_epoch(self, epoch: Pass) -> None:
        self._average_buffers()
        every = self.config.measure.test_every
        last = epoch is self.schedule.passes[-1]
        due = every and (last or (epoch.epoch + 1) % every == 0)
        tested = self.evaluation.test() if due else {}
        sizes = self.schedule.counts[epoch.first : epoch.first + epoch.steps]
        counts = torch.tensor(sizes, device="cpu")
        samples = len(self.samples.training)
        whole = epoch.steps == steps_in(samples, epoch.batch_size, self.config.drop_last)
        self.recorder.end_epoch(epoch, counts, tested, self.position.epoch_seconds, whole)
        if self.board is not None:
            self.board.epoch(self.recorder.measurements, epoch.first, self.schedule.rates)

    def latest(self) -> dict[str, float]:
        """The last known values, of the last lane, for somebody who watches."""
        epochs = self.recorder.measurements.epochs
        names = ("train_loss", "train_accuracy", "test_accuracy")
        return {name: epochs[-1][name] for name in names if epochs and name in epochs[-1]}

    def save(self) -> dict[str, Any]:
        """All that is needed to go on from here."""
        self.recorder.flush()
        return {
            "version": self.config.version,
            "configs": [config.plain() for config in self.configs],
            "data": self.samples.content,
            "done": self.position.done,
            "network": self.network.state(),
            "optimizer": self.update.optimizer.state_dict(),
            "recorder": self.recorder.state(),
            "seconds": self.position.seconds,
            "epoch_seconds": self.position.epoch_seconds,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from what `save` returned."""
        self.network.load(saved["network"])
        self.update.optimizer.load_state_dict(saved["optimizer"])
        self.recorder.load(saved["recorder"])
        self.position = Position(saved["done"], saved["seconds"], saved["epoch_seconds"])

    def runs(self, folders: Sequence[Path | None]) -> list[Run]:
        """What came of each lane."""
        training, schedule = self.samples.training, self.schedule
        environment = _run.environment(self.config.device, self.world.size)
        config = self.config
        names = (config.dataset, config.model, config.loss, config.optimizer)
        if own := sources(names):
            environment["sources"] = dict(own)
        data = plain(training.provenance)
        measurements = self.recorder.measurements
        runs = []
        for lane, (config, folder) in enumerate(zip(self.configs, folders, strict=True)):
            weights = self.network.weights(lane)
            reason = self._divergence(lane, weights)
            runs.append(
                Run(
                    config=config,
                    status="diverged" if reason else "finished",
                    reason=reason,
                    **frames(measurements, lane, schedule.passes, schedule.rates, schedule.counts),
                    weights=weights,
                    data=copy.deepcopy(data),
                    shape=training.shape,
                    classes=training.classes,
                    seconds=self.position.seconds / len(self.configs),
                    environment=dict(environment),
                    folder=folder,
                )
            )
        return runs

    def _divergence(self, lane: int, weights: dict[str, Tensor]) -> str:
        """What of a lane is not finite, and since when; empty where all is."""
        diverged = self.recorder.measurements.diverged
        if lane in diverged:
            what = "the curvature" if self.update.failed else "the loss"
            return f"{what} was not finite at step {diverged[lane]}"
        if not all(bool(weight.isfinite().all()) for weight in weights.values()):
            return f"the weights were not finite after step {self.position.done - 1}"
        return ""
