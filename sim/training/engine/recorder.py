"""The measurements of a run, kept on the device until an epoch ends.

Nothing here waits for the device: numbers go into buffers there and come over in blocks.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim import Optimizer

from sim.training.config import optimizers as _optimizers
from sim.training.config.schedules import Pass
from sim.training.engine.fast.units import PIECE, ROW, Unit, moved
from sim.training.engine.network import Network

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
# What is kept of every entry over an epoch.
MOMENTS = ("mean", "square", "start")
# Sums over rows of entries that are kept until they are put together.
KEPT = 2**20


@dataclass
class Piece:
    """A part of a unit that stays in the cache while all is done with it.

    Attributes:
        weight, mean, square, start, before: its part of the weights, of the moments of their
            gradients, of the weights at the epoch's beginning, and of those before the step.
        work: room for as many entries.
        padded: the same as whole rows, `[rows, ROW]`; what was added is zero.
        rows: where its sums go, from one to another.
    """

    weight: Tensor
    mean: Tensor
    square: Tensor
    start: Tensor
    before: Tensor
    work: Tensor
    padded: Tensor
    rows: slice


class Recorder:
    """What is measured at every step and epoch, for all lanes.

    Args:
        network: whose.
        layers_every: see `Measure`.
        stride: what the strides are found from, see `_optimizers.stride_of`.
    """

    def __init__(self, network: Network, layers_every: int, stride: str = "weights") -> None:
        self.network = network
        self.every = layers_every
        self.stride = stride
        device = network.parameters[0].device
        # Apple's devices have no float64.
        self.wide = torch.float32 if device.type == "mps" else torch.float64
        self.sizes = [p.numel() // network.lanes for p in network.parameters]
        count = len(network.parameters)
        self.rows = torch.full(
            (CAPACITY, network.lanes, len(STEP_COLUMNS)), math.nan, dtype=self.wide, device=device
        )
        self._sizes = torch.tensor(self.sizes, dtype=self.wide, device=device)
        self.layer_rows = torch.empty(
            CAPACITY, network.lanes, count, len(LAYER_COLUMNS), dtype=self.wide, device=device
        )
        self.row_steps: list[int] = []
        self.layer_steps: list[int] = []
        self.blocks: dict[str, list[tuple[list[int], Tensor]]] = {"steps": [], "layer_steps": []}
        self.epochs: list[dict[str, Any]] = []
        self.layer_epochs: list[tuple[int, int, Tensor]] = []
        self.curvature: list[dict[str, Any]] = []
        self.diverged: dict[int, int] = {}
        self.count = 0
        self.moments: dict[str, list[Tensor]] = {}
        self.pieces: list[list[Piece]] = []
        self._settled = 0
        if layers_every:
            self._allocate()

    def _allocate(self) -> None:
        """Room for moments and sums, and views of it, so that a step makes none."""
        weights = [unit.weight for unit in self.network.units]
        whole = weights[0].device.type != "cpu"
        self._piece = max(map(len, weights)) if whole else PIECE * torch.get_num_threads()
        # Written to, not only asked for, or the first steps would wait for the memory.
        self.moments = {k: [torch.full_like(w, 0) for w in weights] for k in MOMENTS}
        before = [torch.full_like(w, 0) if self.stride == "weights" else w for w in weights]
        room: dict[int, Tensor] = {}
        first = 0
        for k, weight in enumerate(weights):
            parts = []
            beside = [self.moments[name][k] for name in MOMENTS]
            cut = [t.split(self._piece) for t in (weight, *beside, before[k])]
            for w, mean, square, start, old in zip(*cut, strict=True):
                n = len(w)
                padded = room.setdefault(n, weight.new_zeros(-(-n // ROW) * ROW))
                rows = slice(first, first + len(padded) // ROW)
                work = padded[:n], padded.view(-1, ROW)
                parts.append(Piece(w, mean, square, start, old, *work, rows))
                first = rows.stop
            self.pieces.append(parts)
        keep = min(
            CAPACITY, KEPT // (len(LAYER_COLUMNS) * first), 256 // sum(map(len, self.pieces))
        )
        keep = max(1, keep)
        self._kept = weights[0].new_zeros(keep, len(LAYER_COLUMNS), first)
        self._rates = [1.0] * keep
        self._places: dict[tuple[int, int], list[Tensor]] = {}

    def _place(self, column: int) -> list[Tensor]:
        """Where the sums of this step go, piece by piece."""
        row = len(self.layer_steps) - self._settled
        found = self._places.get((row, column))
        if found is None:
            found = [self._kept[row, column, p.rows] for p in self._every_piece()]
            self._places[row, column] = found
        return found

    @torch.no_grad()
    def begin_epoch(self) -> None:
        """Start the sums of an epoch anew."""
        self.count = 0
        for each in self.pieces:
            for piece in each:
                piece.start.copy_(piece.weight)

    def measures(self, step: int) -> bool:
        """Whether the tensors are measured at this step."""
        return self.every > 0 and step % self.every == 0

    def around(self, step: int, optimizer: Optimizer, update: Callable[[], bool]) -> bool:
        """Take the step, and measure E|g|, E|Δw| and the moments of every entry's gradient.

        Args:
            step: its number.
            optimizer: whose step it is.
            update: takes it, and returns whether it could be taken.
        """
        rate = optimizer.param_groups[0]["lr"]
        sgd = _optimizers.sgd_step(optimizer)
        measured = self.measures(step)
        if not measured:
            if sgd is None:
                return update()
            for unit in self.network.units:
                if unit.leaf.grad is not None:
                    buffer = optimizer.state[unit.leaf].get("momentum_buffer")
                    sgd(unit.leaf.detach(), unit.leaf.grad, buffer)
            return True
        if len(self.layer_steps) == CAPACITY:
            self.flush()
        self.count += 1
        self._gradients(optimizer, sgd)
        if sgd is None:
            if not update():
                return False
            self._strides(optimizer)
        self._rates[len(self.layer_steps) - self._settled] = rate
        self.layer_steps.append(step)
        if len(self.layer_steps) - self._settled == len(self._kept):
            self._settle()
        return True

    def _gradients(self, optimizer: Optimizer, sgd: Callable[..., None] | None) -> None:
        """What concerns the gradients; of SGD the step too, while each piece is in the cache."""
        k = self.count
        of_gradient, of_stride = iter(self._place(0)), iter(self._place(1))
        for unit, pieces in zip(self.network.units, self.pieces, strict=True):
            buffers: Sequence[Tensor | None] = [None] * len(pieces)
            if sgd is not None and "momentum_buffer" in optimizer.state[unit.leaf]:
                buffers = self._momentum(unit, optimizer)
            for piece, g, m in zip(pieces, unit.gradient(self._piece), buffers, strict=True):
                work = piece.work
                # Welford's update: no difference of large sums.
                if k == 1:
                    piece.mean.copy_(g)
                    piece.square.zero_()
                else:
                    torch.sub(g, piece.mean, out=work)
                    piece.mean.add_(work, alpha=1 / k)
                    piece.square.addcmul_(work, work, value=1 - 1 / k)
                torch.abs(g, out=work)
                torch.sum(piece.padded, 1, out=next(of_gradient))
                if self.stride == "weights":
                    piece.before.copy_(piece.weight)
                if sgd is not None:
                    sgd(piece.weight, g, m)
                    self._stride(piece, m, next(of_stride))

    def _strides(self, optimizer: Optimizer) -> None:
        sums = iter(self._place(1))
        for unit, pieces in zip(self.network.units, self.pieces, strict=True):
            buffers: Sequence[Tensor | None] = [None] * len(pieces)
            if self.stride == "momentum":
                buffers = self._momentum(unit, optimizer)
            for piece, m in zip(pieces, buffers, strict=True):
                self._stride(piece, m, next(sums))

    def _momentum(self, unit: Unit, optimizer: Optimizer) -> Sequence[Tensor]:
        buffer = unit.dense(optimizer.state[unit.leaf]["momentum_buffer"])
        return [buffer] if len(buffer) <= self._piece else buffer.split(self._piece)

    def _stride(self, piece: Piece, momentum: Tensor | None, out: Tensor) -> None:
        if self.stride == "gradient":
            return
        if self.stride == "momentum":
            assert momentum is not None
            torch.abs(momentum, out=piece.work)
        else:
            torch.sub(piece.weight, piece.before, out=piece.work).abs_()
        torch.sum(piece.padded, 1, out=out)

    def _every_piece(self) -> Iterator[Piece]:
        return (piece for each in self.pieces for piece in each)

    def _settle(self) -> None:
        """Put together the sums of the steps that are kept; the device is not waited for."""
        done = len(self.layer_steps)
        count = done - self._settled
        if count:
            means = self._means(self._kept[:count])
            if self.stride != "weights":
                # The step is the rate times the gradient or the momentum.
                rates = torch.tensor(self._rates[:count], dtype=self.wide)
                source = 0 if self.stride == "gradient" else 1
                means[:, 1] = means[:, source] * moved(rates, means.device)[:, None, None]
            self.layer_rows[self._settled : done] = means.permute(0, 2, 3, 1)
        self._settled = done

    def _means(self, rows: Tensor) -> Tensor:
        """E|·| over each tensor, `[…, lanes, tensors]`, of sums over rows `[…, rows]`."""
        found: dict[int, Tensor] = {}
        units, lanes = self.network.units, self.network.lanes
        for unit, part in zip(
            units, rows.split([lanes * sum(unit.rows) for unit in units], -1), strict=True
        ):
            split = part.split([lanes * count for count in unit.rows], -1)
            for number, each in zip(unit.members, split, strict=True):
                found[number] = each.unflatten(-1, (lanes, -1)).sum(-1, dtype=self.wide)
        return torch.stack([found[k] for k in sorted(found)], -1) / self._sizes

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
        if self.layer_steps:
            self._settle()
        self._settled = 0
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
        rows = self._rows_since("steps", each.first)
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
        if self.count:
            self._end_layers(each)

    def _end_layers(self, each: Pass) -> None:
        k = self.count
        steps = self._rows_since("layer_steps", each.first).sum(0)
        gradient, path = steps.unbind(-1)
        sums = self._kept.new_empty(3, self._kept.shape[2])
        for piece in self._every_piece():
            mean, deviation, displacement = (row[piece.rows] for row in sums)
            torch.abs(piece.mean, out=piece.work)
            torch.sum(piece.padded, 1, out=mean)
            torch.div(piece.square, k - 1 if k > 1 else math.nan, out=piece.work).sqrt_()
            torch.sum(piece.padded, 1, out=deviation)
            torch.sub(piece.weight, piece.start, out=piece.work).abs_()
            torch.sum(piece.padded, 1, out=displacement)
        of_mean, of_deviation, of_displacement = self._means(sums).cpu()
        columns = [gradient / k, of_mean, of_deviation, path / k, path, of_displacement]
        self.layer_epochs.append((each.epoch, k, torch.stack(columns, -1)))

    def _rows_since(self, name: str, step: int) -> Tensor:
        parts = []
        for steps, block in reversed(self.blocks[name]):
            if steps[-1] < step:
                break
            parts.append(block[next(i for i, s in enumerate(steps) if s >= step) :])
        return torch.cat(parts[::-1])

    def state(self) -> dict[str, Any]:
        """All that is needed to go on from here, after a `flush`."""
        kept = ("blocks", "epochs", "layer_epochs", "curvature", "diverged", "count", "moments")
        return {name: getattr(self, name) for name in kept}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name, value in state.items():
            if name == "moments":
                for key, tensors in value.items():
                    for mine, saved in zip(self.moments[key], tensors, strict=True):
                        mine.copy_(saved)
            else:
                setattr(self, name, value)


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
    return pd.DataFrame(kept, columns=list(columns)) if kept else _empty(columns).copy()


def columns(table: str) -> tuple[str, ...]:
    """The columns of a run's table.

    >>> columns("layer_steps")
    ('step', 'epoch', 'parameter', 'gradient_abs', 'stride')
    """
    return {
        "steps": ("step", "epoch", "batch_size", "lr", *STEP_COLUMNS),
        "epochs": EPOCH_COLUMNS,
        "layer_steps": ("step", "epoch", "parameter", *LAYER_COLUMNS),
        "layer_epochs": ("epoch", "parameter", "size", "steps", *EPOCH_LAYER_COLUMNS),
        "curvature": CURVATURE_COLUMNS,
    }[table]


@lru_cache
def _empty(columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame([], columns=list(columns))


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
    kept = [row for row in recorder.layer_epochs if ends[row[0]] < last]
    names = recorder.network.names
    known = {
        "epoch": np.repeat(np.array([epoch for epoch, _, _ in kept], dtype=int), len(names)),
        "parameter": np.tile(np.array(names, dtype=object), len(kept)),
        "size": np.tile(recorder.sizes, len(kept)),
        "steps": np.repeat(np.array([count for _, count, _ in kept], dtype=int), len(names)),
    }
    values = [block[lane].numpy() for _, _, block in kept]
    columns = np.concatenate([np.empty((0, len(EPOCH_LAYER_COLUMNS))), *values]).T
    return pd.DataFrame({**known, **dict(zip(EPOCH_LAYER_COLUMNS, columns, strict=True))})
