"""What is measured at every step and epoch of a run, on the device until an epoch ends.

Nothing here waits for the device but `flush`: numbers go into buffers there and come over in
blocks.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hessian import devices
from sim.training.config.schedules import Pass
from sim.training.engine.fast.sgd import sgd_step, take
from sim.training.engine.layers import Layers
from sim.training.engine.network import Network
from sim.training.engine.rows import Rows
from sim.training.record.columns import STEP_COLUMNS
from sim.training.record.measurements import Measurements


class Recorder:
    """The measurements of a run, for all lanes.

    Args:
        network: whose.
        layers_every: see `Measure`.
        stride: what the strides are found from, see `config.optimizers.stride_of`.

    Attributes:
        measurements: what has come over from the device.
    """

    def __init__(self, network: Network, layers_every: int, stride: str = "weights") -> None:
        self._network, self._every = network, layers_every
        device = network.parameters[0].device
        dtype = devices.widest(device)
        self._rows = Rows((network.lanes, len(STEP_COLUMNS)), dtype, device)
        self._layers = Layers(network, stride, dtype) if layers_every else None
        sizes = [p.numel() // network.lanes for p in network.parameters]
        self.measurements = Measurements(network.names, sizes)

    def begin_epoch(self) -> None:
        """Start the sums of an epoch anew."""
        if self._layers is not None:
            self._layers.begin_epoch()

    def around(self, step: int, optimizer: Optimizer, update: Callable[[], bool]) -> bool:
        """Take the step, and measure E|g|, E|Δw| and the moments of every entry's gradient.

        Args:
            step: its number.
            optimizer: whose step it is.
            update: takes it, and returns whether it could be taken.
        """
        # The kernel takes every entry there is, also where there is no gradient.
        sgd = None if self._network.own else sgd_step(optimizer)
        layers = self._layers
        if layers is None or step % self._every:
            return take(self._network.flat_parameters, optimizer, sgd, update)
        if layers.rows.full:
            self.flush()
        return layers.around(step, optimizer, sgd, update)

    def add(self, step: int, values: Tensor, first: int = 0) -> None:
        """Numbers `[lanes, k]` for the k columns of `STEP_COLUMNS` from the `first` on.

        A row begins with its first columns; those that it is not given are nan.
        """
        rows = self._rows
        if not rows.steps or rows.steps[-1] != step:
            if rows.full:
                self.flush()
            rows.steps.append(step)
        rows.values[len(rows.steps) - 1, :, first : first + values.shape[1]] = values

    def flush(self) -> None:
        """Bring over what lies on the device, and see which lanes are not finite any more."""
        layers, blocks = self._layers, self.measurements.blocks
        if layers is not None:
            layers.settle()
        if self._rows.steps:
            steps, block = self._rows.bring()
            blocks["steps"].append((steps, block))
            for row, lane in (~block[:, :, 0].isfinite()).nonzero().tolist():
                self.measurements.diverge(lane, steps[row])
        if layers is not None and layers.rows.steps:
            blocks["layer_steps"].append(layers.rows.bring())

    def over(self, step: int, losses: Tensor) -> bool:
        """Whether no lane is left whose loss is finite; on a CPU this step's `[lanes]` count."""
        if losses.device.type in devices.NO_QUEUE:
            for lane, loss in enumerate(losses.tolist()):
                if not math.isfinite(loss):
                    self.measurements.diverge(lane, step)
        return len(self.measurements.diverged) == self._network.lanes

    @torch.no_grad()
    def end_epoch(
        self, ended: Pass, counts: Tensor, tested: dict[str, Tensor], seconds: float, whole: bool
    ) -> None:
        """One row per lane, and one per lane and tensor.

        Args:
            ended: the pass.
            counts: `[steps]`, the size of each batch.
            tested: `[lanes]` values from the test split.
            seconds: that the pass took.
            whole: whether the pass saw all its steps, not the first ones only.
        """
        self.flush()
        rows = self.measurements.since("steps", ended.first)
        weight = counts.double()
        n = float(weight.sum())
        loss, accuracy = (
            (rows[:, :, STEP_COLUMNS.index(c)].double() * weight[:, None]).sum(0) / n
            for c in ("loss", "accuracy")
        )
        for lane in range(self._network.lanes):
            self.measurements.epochs.append(
                {
                    "lane": lane,
                    "epoch": ended.epoch,
                    "last_step": ended.first + ended.steps - 1,
                    "steps": ended.steps,
                    "batch_size": ended.batch_size,
                    "samples": int(n),
                    "whole": whole,
                    "train_loss": float(loss[lane]),
                    "train_accuracy": float(accuracy[lane]),
                    **{name: float(value[lane]) for name, value in tested.items()},
                    "seconds": seconds,
                }
            )
        if self._layers is not None and self._layers.count:
            values = self._layers.epoch(self.measurements.since("layer_steps", ended.first))
            self.measurements.layer_epochs.append((ended.epoch, self._layers.count, values))

    def state(self) -> dict[str, Any]:
        """All that is needed to go on from here, after a `flush`."""
        layers = {"count": 0, "moments": {}} if self._layers is None else self._layers.state()
        return self.measurements.state() | layers

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.measurements.load(state)
        if self._layers is not None:
            self._layers.load(state)
