"""E|g| and E|Δw| of every parameter tensor, and the moments of every entry over an epoch.

Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hessian import devices
from sim.training.engine.fast.flat_parameters import PIECE, FlatParameter
from sim.training.engine.fast.sgd import SGDKernel
from sim.training.engine.network import Network
from sim.training.engine.rows import Rows
from sim.training.engine.sums import MOMENTS, PendingSums, Piece, cut
from sim.training.record.columns import LAYER_COLUMNS


class Layers:
    """What is measured of parameter tensors, for all lanes.

    Args:
        network: whose.
        stride: what the strides are found from, see `config.optimizers.stride_of`.
        dtype: of what is kept.

    Attributes:
        rows: of steps, `[lanes, tensors, columns]` each.
        count: the steps of this epoch that were measured.
        moments: of every entry's gradient since the epoch began, a tensor for each flat parameter.
    """

    def __init__(self, network: Network, stride: str, dtype: torch.dtype) -> None:
        self._network, self._stride_source = network, stride
        parameters = network.parameters
        device = parameters[0].device
        shape = network.lanes, len(parameters), len(LAYER_COLUMNS)
        self.rows = Rows(shape, dtype, device)
        sizes = [p.numel() // network.lanes for p in parameters]
        self._sizes = torch.tensor(sizes, dtype=dtype, device=device)
        self.count = 0
        weights = [flat.weight for flat in network.flat_parameters]
        in_pieces = device.type in devices.SMALL_CALLS
        whole = max(map(len, weights))
        self._piece_size = PIECE * torch.get_num_threads() if in_pieces else whole
        # Written to, not only asked for, or the first steps would wait for the memory.
        self.moments = {k: [torch.full_like(w, 0) for w in weights] for k in MOMENTS}
        before = [torch.full_like(w, 0) if stride == "weights" else w for w in weights]
        self._pieces = cut(network.flat_parameters, self.moments, self._piece_size, before)
        self._pending = PendingSums(self._pieces)

    @torch.no_grad()
    def begin_epoch(self) -> None:
        """Start the sums of an epoch anew."""
        self.count = 0
        for piece in self._all_pieces():
            piece.start.copy_(piece.weight)

    def around(
        self, step: int, optimizer: Optimizer, sgd: SGDKernel | None, update: Callable[[], bool]
    ) -> bool:
        """Take the step and measure it; there is room for another row.

        Args:
            step: its number.
            optimizer: whose step it is.
            sgd: takes it for a part of a weight, where that can be.
            update: takes it otherwise, and returns whether it could be taken.
        """
        rate = optimizer.param_groups[0]["lr"]
        self.count += 1
        self._measure_gradients(optimizer, sgd)
        if sgd is None:
            if not update():
                return False
            self._measure_strides(optimizer)
        self._pending.add(rate)
        self.rows.steps.append(step)
        if self._pending.full:
            self.settle()
        return True

    def _measure_gradients(self, optimizer: Optimizer, sgd: SGDKernel | None) -> None:
        """What concerns the gradients; of SGD the step too, while each piece is in the cache."""
        k = self.count
        of_gradient, of_stride = self._pending.outputs(0), self._pending.outputs(1)
        for flat, pieces in zip(self._network.flat_parameters, self._pieces, strict=True):
            buffers: Sequence[Tensor | None] = [None] * len(pieces)
            if sgd is not None and "momentum_buffer" in optimizer.state[flat.leaf]:
                buffers = self._momentum(flat, optimizer)
            gradients = flat.gradient(self._piece_size)
            for piece, g, momentum in zip(pieces, gradients, buffers, strict=True):
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
                if self._stride_source == "weights":
                    piece.before.copy_(piece.weight)
                if sgd is not None:
                    sgd(piece.weight, g, momentum)
                    self._measure_stride(piece, momentum, next(of_stride))

    def _measure_strides(self, optimizer: Optimizer) -> None:
        sums = self._pending.outputs(1)
        for flat, pieces in zip(self._network.flat_parameters, self._pieces, strict=True):
            buffers: Sequence[Tensor | None] = [None] * len(pieces)
            if self._stride_source == "momentum":
                buffers = self._momentum(flat, optimizer)
            for piece, momentum in zip(pieces, buffers, strict=True):
                self._measure_stride(piece, momentum, next(sums))

    def _momentum(self, flat: FlatParameter, optimizer: Optimizer) -> Sequence[Tensor]:
        buffer = flat.dense(optimizer.state[flat.leaf]["momentum_buffer"])
        if len(buffer) <= self._piece_size:
            return [buffer]
        return torch.split(buffer, self._piece_size)

    def _measure_stride(self, piece: Piece, momentum: Tensor | None, out: Tensor) -> None:
        """The sums of |Δw| of a piece, or of what it is the rate times of."""
        if self._stride_source == "gradient":
            return
        if self._stride_source == "momentum":
            assert momentum is not None  # after SGD's first step there is a buffer
            torch.abs(momentum, out=piece.work)
        else:
            torch.sub(piece.weight, piece.before, out=piece.work).abs_()
        torch.sum(piece.padded, 1, out=out)

    def _all_pieces(self) -> Iterator[Piece]:
        return (piece for pieces in self._pieces for piece in pieces)

    def settle(self) -> None:
        """Put together the sums of the steps that wait; the device is not waited for."""
        pending, last = self._pending, len(self.rows.steps)
        count = pending.count
        if count:
            means = self._means(pending.values[:count])
            if self._stride_source != "weights":
                # The step is the rate times the gradient or the momentum.
                rates = torch.tensor(pending.rates[:count], dtype=self._sizes.dtype, device="cpu")
                source = 0 if self._stride_source == "gradient" else 1
                means[:, 1] = means[:, source] * devices.moved(rates, means.device)[:, None, None]
            self.rows.values[last - count : last] = means.permute(0, 2, 3, 1)
        pending.count = 0

    def _means(self, rows: Tensor) -> Tensor:
        """E|·| over each tensor, `[…, lanes, tensors]`, of sums over rows `[…, rows]`."""
        sums: dict[int, Tensor] = {}
        flat_parameters, lanes = self._network.flat_parameters, self._network.lanes
        shares = torch.split(rows, [lanes * sum(flat.rows) for flat in flat_parameters], -1)
        for flat, share in zip(flat_parameters, shares, strict=True):
            tensors = torch.split(share, [lanes * count for count in flat.rows], -1)
            for number, tensor in zip(flat.members, tensors, strict=True):
                by_lane = tensor.view(*tensor.shape[:-1], lanes, -1)
                sums[number] = by_lane.sum(-1, dtype=self._sizes.dtype)
        return torch.stack([sums[k] for k in sorted(sums)], -1) / self._sizes

    def epoch(self, steps: Tensor) -> Tensor:
        """The columns of an epoch `[lanes, tensors, columns]` from its `[steps, …, columns]`."""
        k = self.count
        gradient, path = steps.sum(0).unbind(-1)
        values = self._pending.values
        sums = values.new_empty(3, values.shape[2])
        for piece in self._all_pieces():
            mean, deviation, displacement = (row[piece.rows] for row in sums)
            torch.abs(piece.mean, out=piece.work)
            torch.sum(piece.padded, 1, out=mean)
            torch.div(piece.square, k - 1 if k > 1 else math.nan, out=piece.work).sqrt_()
            torch.sum(piece.padded, 1, out=deviation)
            torch.sub(piece.weight, piece.start, out=piece.work).abs_()
            torch.sum(piece.padded, 1, out=displacement)
        of_mean, of_deviation, of_displacement = self._means(sums).cpu()
        columns = [gradient / k, of_mean, of_deviation, path / k, path, of_displacement]
        return torch.stack(columns, -1)

    def state(self) -> dict[str, Any]:
        """All that a checkpoint keeps of it."""
        return {"count": self.count, "moments": self.moments}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.count = state["count"]
        for name, tensors in state["moments"].items():
            for moment, saved in zip(self.moments[name], tensors, strict=True):
                moment.copy_(saved)
