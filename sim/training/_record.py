"""The measurements of a run, kept on the device until an epoch ends.

Nothing here waits for the device: numbers go into buffers there and come over in blocks.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sim.training._network import Network
from sim.training._schedules import Pass

STEP_COLUMNS = (
    "loss",
    "objective",
    "accuracy",
    "decrease_batch",
    "decrease_held_out",
)
LAYER_COLUMNS = ("gradient_abs", "stride")
EPOCH_LAYER_COLUMNS = (
    "gradient_abs",
    "gradient_mean_abs",
    "gradient_deviation",
    "stride",
    "path",
    "displacement",
)
EPOCH_COLUMNS = (
    "epoch",
    "last_step",
    "steps",
    "batch_size",
    "samples",
    "whole",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "seconds",
)
CURVATURE_COLUMNS = (
    "step",
    "parameter",
    "size",
    "gradient_abs",
    "curvature_abs",
    "radius_median",
    "radius_low",
    "radius_high",
    "zero_curvature",
    "negative_curvature",
)
TABLES = ("steps", "epochs", "layer_steps", "layer_epochs", "curvature")
# Rows that stay on the device before they come over.
CAPACITY = 256
# Norms are summed in pieces of this size: one float32 sum over 10⁷ entries is off by per cents.
PIECE = 2**14


class Recorder:
    """What is measured at every step and epoch, for all lanes."""

    def __init__(self, network: Network, layers_every: int) -> None:
        self.network = network
        self.every = layers_every
        device = network.parameters[0].device
        # Apple's devices have no float64.
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.sizes = [p.numel() // network.lanes for p in network.parameters]
        count = len(network.parameters)
        self.rows = torch.full(
            (CAPACITY, network.lanes, len(STEP_COLUMNS)), math.nan, dtype=wide, device=device
        )
        self._sizes = torch.tensor(self.sizes, dtype=wide, device=device)
        self.layer_rows = torch.empty(
            CAPACITY, network.lanes, count, len(LAYER_COLUMNS), dtype=wide, device=device
        )
        self.row_steps: list[int] = []
        self.layer_steps: list[int] = []
        self.blocks: dict[str, list[tuple[list[int], Tensor]]] = {"steps": [], "layer_steps": []}
        self.epochs: list[dict[str, Any]] = []
        self.layer_epochs: list[tuple[int, int, Tensor]] = []
        self.curvature: list[dict[str, Any]] = []
        self.diverged: dict[int, int] = {}
        # Of the epoch so far: all tensors in one, `[lanes, entries]`, so that an operation is one.
        self.flat: dict[str, Tensor] = {}
        self.sums = torch.zeros(network.lanes, count, len(LAYER_COLUMNS), dtype=wide, device=device)
        self.count = 0
        self._standing = -1

    @torch.no_grad()
    def begin_epoch(self) -> None:
        """Start the sums of an epoch anew."""
        if not self.every:
            return
        if not self.flat:
            self._allocate()
        self._flatten_weights("start")
        self.flat["mean"].zero_()
        self.flat["square"].zero_()
        self.sums.zero_()
        self.count = 0

    def _allocate(self) -> None:
        like = self.network.parameters[0].detach()
        for name in ("weight", "after", "gradient", "move", "start", "mean", "square"):
            self.flat[name] = like.new_zeros(self.network.lanes, sum(self.sizes))
        pieces = [self._pieces(self.flat[name]) for name in ("gradient", "move")]
        self._measured = [piece for each in pieces for piece in each]
        self._both_sizes = self._sizes.repeat(2)
        # Views of the weights as rows, which last, where the memory lies so.
        weights = [p.detach() for p in self.network.parameters]
        self._rows = None
        if all(w.is_contiguous() for w in weights):
            self._rows = [w.view(self.network.lanes, -1) for w in weights]

    def _flatten(self, tensors: list[Tensor], name: str) -> None:
        lanes = self.network.lanes
        torch.cat([t.detach().reshape(lanes, -1) for t in tensors], 1, out=self.flat[name])

    def _flatten_weights(self, name: str) -> None:
        if self._rows is None:
            self._flatten(self.network.parameters, name)
        else:
            torch.cat(self._rows, 1, out=self.flat[name])

    def measures(self, step: int) -> bool:
        """Whether the tensors are measured at this step."""
        return self.every > 0 and step % self.every == 0

    def before(self, step: int) -> None:
        """Between the gradient and the step: the moments of every entry's gradient."""
        if not self.measures(step):
            return
        flat, parameters = self.flat, self.network.parameters
        if self._standing != step:
            self._flatten_weights("weight")
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        self._flatten(gradients, "gradient")
        # Welford's update: no difference of large sums.
        self.count += 1
        change = torch.sub(flat["gradient"], flat["mean"], out=flat["move"])
        flat["mean"].add_(change, alpha=1 / self.count)
        flat["square"].addcmul_(change, change, value=1 - 1 / self.count)

    def after(self, step: int) -> None:
        """After the step: E|g| and E|Δw|."""
        if not self.measures(step):
            return
        flat = self.flat
        self._flatten_weights("after")
        torch.sub(flat["after"], flat["weight"], out=flat["move"])
        # The next step starts from here.
        flat["weight"], flat["after"], self._standing = flat["after"], flat["weight"], step + 1
        norms = self._norms(self._measured) / self._both_sizes
        both = norms.view(len(norms), len(LAYER_COLUMNS), -1).mT
        self.layer_rows[len(self.layer_steps)].copy_(both)
        self.sums.add_(both)
        self.layer_steps.append(step)

    def add(self, step: int, values: Tensor, at: int = 0) -> None:
        """Numbers `[lanes, k]` for the k columns of `STEP_COLUMNS` from `at` on.

        A row begins with its first columns; those that it is not given are nan.
        """
        if not self.row_steps or self.row_steps[-1] != step:
            if len(self.row_steps) == CAPACITY:
                self.flush()
            self.row_steps.append(step)
        self.rows[len(self.row_steps) - 1, :, at : at + values.shape[1]] = values

    def flush(self) -> None:
        """Bring over what lies on the device, and see which lanes are not finite any more."""
        for name, steps, rows in (
            ("steps", self.row_steps, self.rows),
            ("layer_steps", self.layer_steps, self.layer_rows),
        ):
            if steps:
                block = rows[: len(steps)].to("cpu", copy=True)
                self.blocks[name].append((list(steps), block))
                if name == "steps":
                    self._look(steps, block[:, :, 0])
                    rows.fill_(math.nan)
                steps.clear()

    def _look(self, steps: list[int], losses: Tensor) -> None:
        """Note the lanes whose losses `[steps, lanes]` are not finite."""
        finite = losses.isfinite()
        if not finite.all():
            for row, lane in (~finite).nonzero().tolist():
                self.diverged.setdefault(lane, steps[row])

    def over(self, step: int, losses: Tensor) -> bool:
        """Whether no lane is left whose loss is finite; on a CPU this step's `[lanes]` count."""
        if losses.device.type == "cpu":
            for lane, loss in enumerate(losses.tolist()):
                if not math.isfinite(loss):
                    self.diverged.setdefault(lane, step)
        return len(self.diverged) == self.network.lanes

    @torch.no_grad()
    def end_epoch(
        self, each: Pass, counts: Tensor, tested: dict[str, Tensor], seconds: float, whole: bool
    ) -> None:
        """One row per lane, and one per lane and tensor.

        Args:
            each: the pass.
            counts: `[steps]`, the size of each batch.
            tested: `[lanes]` values from the test split.
            seconds: that the pass took.
            whole: whether the pass saw all its steps, not the first ones only.
        """
        self.flush()
        rows = self._rows_since(each.first)
        weight = counts.double()
        n = float(weight.sum())
        loss, accuracy = (
            (rows[:, :, STEP_COLUMNS.index(c)].double() * weight[:, None]).sum(0) / n
            for c in ("loss", "accuracy")
        )
        for lane in range(self.network.lanes):
            self.epochs.append(
                {
                    "lane": lane,
                    "epoch": each.epoch,
                    "last_step": each.first + each.steps - 1,
                    "steps": each.steps,
                    "batch_size": each.batch_size,
                    "samples": int(n),
                    "whole": whole,
                    "train_loss": float(loss[lane]),
                    "train_accuracy": float(accuracy[lane]),
                    **{name: float(value[lane]) for name, value in tested.items()},
                    "seconds": seconds,
                }
            )
        if self.every and self.count:
            k, flat = self.count, self.flat
            deviation = (flat["square"] / (k - 1)).sqrt() if k > 1 else flat["square"] * math.nan
            self._flatten_weights("after")
            displacement = flat["after"] - flat["start"]
            gradient, path = self.sums.unbind(-1)
            of_mean, of_deviation, of_displacement = (
                self._mean_abs(each) for each in (flat["mean"], deviation, displacement)
            )
            columns = [gradient / k, of_mean, of_deviation, path / k, path, of_displacement]
            stacked = torch.stack([c.to(self.sums) for c in columns], -1)
            self.layer_epochs.append((each.epoch, k, stacked.to("cpu", copy=True)))

    def _rows_since(self, step: int) -> Tensor:
        parts = []
        for steps, block in reversed(self.blocks["steps"]):
            if steps[-1] < step:
                break
            parts.append(block[next(i for i, s in enumerate(steps) if s >= step) :])
        return torch.cat(parts[::-1])

    def _pieces(self, flat: Tensor) -> list[tuple[Tensor, ...]]:
        """Each tensor's part of a flat one, `[lanes, size]`, in pieces that are summed alone."""
        return [part.split(PIECE, 1) for part in flat.split(self.sizes, 1)]

    def _mean_abs(self, flat: Tensor) -> Tensor:
        """The average size of an entry of each tensor, `[lanes, tensors]`."""
        return self._norms(self._pieces(flat)) / self._sizes

    def _norms(self, pieces: list[tuple[Tensor, ...]]) -> Tensor:
        """Σ|·| over each tensor, `[lanes, tensors]`."""
        every = [piece for each in pieces for piece in each]
        if self.network.lanes == 1:
            norms = torch.stack(torch._foreach_norm(every, 1)).unsqueeze(0)
        else:
            norms = torch.stack([torch.linalg.vector_norm(t, 1, dim=1) for t in every], 1)
        norms = norms.to(self._sizes.dtype)
        if len(every) > len(pieces):
            split = norms.split([len(each) for each in pieces], 1)
            norms = torch.stack([each.sum(1) for each in split], 1)
        return norms

    def state(self) -> dict[str, Any]:
        """All that is needed to go on from here, after a `flush`."""
        kept = ("blocks", "epochs", "layer_epochs", "curvature", "diverged", "count", "sums")
        found = {name: getattr(self, name) for name in kept}
        flat = {name: self.flat[name] for name in ("start", "mean", "square") if self.flat}
        return {**found, "flat": flat}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name, value in state.items():
            if name == "flat":
                if value and not self.flat:
                    self._allocate()
                for key, tensor in value.items():
                    self.flat[key].copy_(tensor)
            else:
                value = value.to(self.sums.device) if isinstance(value, Tensor) else value
                setattr(self, name, value)
        self._standing = -1


def frames(
    recorder: Recorder, lane: int, plan: list[Pass], rates: list[float], samples: list[int]
) -> dict[str, pd.DataFrame]:
    """The tables of one lane; what follows a loss that is not finite is left out.

    Args:
        recorder: after its last `flush`.
        lane: which.
        plan, rates: of the run.
        samples: the size of every step's batch.
    """
    last = recorder.diverged.get(lane, math.inf)
    epoch_of = np.repeat([each.epoch for each in plan], [each.steps for each in plan])
    return {
        "steps": _steps(recorder, lane, last, epoch_of, np.array(rates), np.array(samples)),
        "epochs": _rows(recorder.epochs, EPOCH_COLUMNS, lane, "last_step", last - 1),
        "layer_steps": _layer_steps(recorder, lane, last, epoch_of),
        "layer_epochs": _layer_epochs(recorder, lane, last, plan),
        "curvature": _rows(recorder.curvature, CURVATURE_COLUMNS, lane, "step", last),
    }


def _rows(
    rows: list[dict[str, Any]], columns: tuple[str, ...], lane: int, key: str, last: float
) -> pd.DataFrame:
    kept = [row for row in rows if row["lane"] == lane and row[key] <= last]
    return pd.DataFrame(kept, columns=list(columns))


def _steps(
    recorder: Recorder,
    lane: int,
    last: float,
    epoch_of: np.ndarray,
    rates: np.ndarray,
    samples: np.ndarray,
) -> pd.DataFrame:
    step, values = _lane(recorder.blocks["steps"], lane, last, (len(STEP_COLUMNS),))
    known = {
        "step": step,
        "epoch": epoch_of[step],
        "batch_size": samples[step],
        "lr": rates[step],
    }
    return pd.DataFrame({**known, **dict(zip(STEP_COLUMNS, values.T, strict=True))})


def _layer_steps(recorder: Recorder, lane: int, last: float, epoch_of: np.ndarray) -> pd.DataFrame:
    names = recorder.network.names
    shape = (len(names), len(LAYER_COLUMNS))
    step, values = _lane(recorder.blocks["layer_steps"], lane, last, shape)
    known = {
        "step": np.repeat(step, len(names)),
        "epoch": np.repeat(epoch_of[step], len(names)),
        "parameter": np.tile(np.array(names, dtype=object), len(step)),
    }
    flat = values.reshape(-1, len(LAYER_COLUMNS)).T
    return pd.DataFrame({**known, **dict(zip(LAYER_COLUMNS, flat, strict=True))})


def _lane(
    blocks: list[tuple[list[int], Tensor]], lane: int, last: float, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The steps up to the last one, and their values in this lane."""
    if not blocks:
        return np.empty(0, dtype=int), np.empty((0, *shape))
    step = np.concatenate([np.array(steps) for steps, _ in blocks])
    values = np.concatenate([block[:, lane].numpy() for _, block in blocks])
    return step[step <= last], values[step <= last]


def _layer_epochs(recorder: Recorder, lane: int, last: float, plan: list[Pass]) -> pd.DataFrame:
    ends = {each.epoch: each.first + each.steps - 1 for each in plan}
    rows = []
    for epoch, count, block in recorder.layer_epochs:
        if ends[epoch] < last:
            for name, size, values in zip(
                recorder.network.names, recorder.sizes, block[lane].tolist(), strict=True
            ):
                rows.append([epoch, name, size, count, *values])
    return pd.DataFrame(rows, columns=["epoch", "parameter", "size", "steps", *EPOCH_LAYER_COLUMNS])
