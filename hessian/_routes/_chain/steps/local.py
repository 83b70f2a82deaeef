"""Local rows pulled through convolutions: window by window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.local_rows import Axis, LocalRows
from hessian._loss.rows import Cost
from hessian._runtime.matrix_products import product
from hessian._tape.graph import Node

# One matrix product between whole windows beats a sum over a kernel's entries up to here, in
# multiplications.
DENSE = 8


@dataclass(frozen=True)
class Taps:
    """Along one axis, entries of windows that the same entries of a kernel take.

    They are entries `first`, `first` + `step`, … of a window, `count` of them; entry κ of the
    kernel takes them to entries `targets[κ]`, `targets[κ]` + `along`, … of the window below.
    """

    first: int
    step: int
    count: int
    along: int
    targets: dict[int, int]

    @property
    def above(self) -> slice:
        """The entries of the window above."""
        return slice(self.first, self.first + self.step * (self.count - 1) + 1, self.step)

    def below(self, tap: int) -> slice:
        """The entries of the window below that an entry of the kernel takes them to."""
        start = self.targets[tap]
        return slice(start, start + self.along * (self.count - 1) + 1, self.along)


@dataclass(frozen=True)
class Frame:
    """Along one axis: the windows below, and units (all: ``None``) with the taps they take."""

    axis: Axis
    ways: list[tuple[list[int] | None, list[Taps]]]


def through_convolution(
    node: Node, weight: Tensor, sizes: tuple[int, ...], rows: LocalRows, meter: Cost
) -> LocalRows:
    """Rows at the output of a convolution, or a transposed one, at its input of those sizes."""
    groups, turned = int(node._saved_groups), bool(node._saved_transposed)
    frames = list(_frames(node, weight, sizes, rows))
    axes = tuple(frame.axis for frame in frames)
    inward = weight.shape[1] if not turned else weight.shape[0] // groups
    channels = inward * groups
    ways = [sum(len(t.targets) * t.count for t in frame.ways[0][1]) for frame in frames]
    after = rows.m * channels * math.prod(_extents(axes))
    meter.work += rows.m * math.prod(ways) * rows.channels * inward
    meter.peak = max(meter.peak, rows.size() + 3 * after)
    shape = (rows.values.shape[0], *rows.grid, rows.units, *_extents(axes), channels)

    def values() -> Tensor:
        return _convolved(rows.cleaned(), frames, weight, groups, turned, shape)

    values_below = evaluated(rows.values, shape, values)
    return LocalRows(rows.units, channels, axes, values_below, False, rows.shared)


def _convolved(
    rows: LocalRows,
    frames: list[Frame],
    weight: Tensor,
    groups: int,
    turned: bool,
    shape: tuple[int, ...],
) -> Tensor:
    """The values of that shape in the windows below."""
    above, k = rows.values, len(frames)
    axes = tuple(frame.axis for frame in frames)
    values = above.new_zeros(shape)
    # As [Co, *kernel, Ci] of every group.
    kernel = weight.unflatten(0, (groups, -1))
    kernel = kernel.movedim(1, -1) if turned else kernel.movedim(2, -1)
    for ways_here in itertools.product(*(frame.ways for frame in frames)):
        numbers = [units for units, _ in ways_here]
        part, into = above, values
        split = any(units is not None for units in numbers)
        for axis, units in enumerate(numbers):
            if units is not None:
                part = part.index_select(1 + axis, torch.tensor(units, device=part.device))
        taps = [taps for _, taps in ways_here]
        sparse = math.prod(sum(len(t.targets) * t.count for t in of_axis) for of_axis in taps)
        below = math.prod(_extents(axes))
        if math.prod(rows.extents) * below * groups <= DENSE * sparse:
            whole = _written_out(kernel, taps, rows.extents, axes, groups)
            pulled = product(part.reshape(-1, whole.shape[0]), whole)
            into = pulled.view(*part.shape[: 2 + k], *shape[2 + k :])
            if not split:
                return into
        else:
            if split:
                into = part.new_zeros((*part.shape[: 2 + k], *shape[2 + k :]))
            for taps_here in itertools.product(*taps):
                _add(part, kernel, taps_here, into, groups)
        if split:
            values[_mesh(numbers, rows.grid, values.device)] = into
    return values


def _extents(axes: tuple[Axis, ...]) -> tuple[int, ...]:
    return tuple(axis.extent for axis in axes)


def _written_out(
    kernel: Tensor,
    taps: list[list[Taps]],
    extents: tuple[int, ...],
    axes: tuple[Axis, ...],
    groups: int,
) -> Tensor:
    """A convolution between two windows as a matrix ``[entries above, entries below]``."""
    outward, inward = kernel.shape[1], kernel.shape[-1]
    below = tuple(axis.extent for axis in axes)
    whole = kernel.new_zeros((*extents, groups * outward, *below, groups * inward))
    moves = [
        [
            (t.first + i * t.step, target + i * t.along, tap)
            for t in of_axis for tap, target in t.targets.items() for i in range(t.count)
        ]
        for of_axis in taps
    ]  # fmt: skip
    for places in itertools.product(*moves):
        above, into, tap = ([place[i] for place in places] for i in range(3))
        for g in range(groups):
            rows, columns = (slice(g * c, (g + 1) * c) for c in (outward, inward))
            here: list[int | slice] = [*above, rows, *into, columns]
            whole[tuple(here)] = kernel[g].movedim(0, -2)[tuple(tap)]
    return whole.view(math.prod(extents) * groups * outward, -1)


def _add(part: Tensor, kernel: Tensor, taps: tuple[Taps, ...], into: Tensor, groups: int) -> None:
    """What some entries of every window give through those entries of the kernel that take them."""
    lead = (slice(None),) * (part.dim() - len(taps) - 1)
    entries = part[(*lead, *(t.above for t in taps))]
    outward, inward = kernel.shape[1], kernel.shape[-1]
    chosen = list(itertools.product(*(t.targets for t in taps)))
    for g in range(groups):
        own = entries[..., g * outward : (g + 1) * outward]
        weights = torch.stack([kernel[g].movedim(0, -2)[tap] for tap in chosen], 1)
        pulled = product(own.reshape(-1, outward), weights.reshape(outward, -1))
        pulled = pulled.view(*own.shape[:-1], len(chosen), inward)
        for number, tap in enumerate(chosen):
            below = (t.below(entry) for t, entry in zip(taps, tap, strict=True))
            target = into[(*lead, *below)]
            target[..., g * inward : (g + 1) * inward] += pulled[..., number, :]


def _mesh(
    numbers: list[list[int] | None], grid: tuple[int, ...], device: torch.device
) -> tuple[slice | Tensor, ...]:
    k = len(grid)
    index = [
        torch.tensor(list(range(size)) if units is None else units, device=device)
        for units, size in zip(numbers, grid, strict=True)
    ]
    return (slice(None), *(
        units.view(*(-1 if a == b else 1 for b in range(k))) for a, units in enumerate(index)
    ))  # fmt: skip


def _frames(node: Node, weight: Tensor, sizes: tuple[int, ...], rows: LocalRows) -> Iterator[Frame]:
    k = len(sizes)
    stride, padding, dilation = (
        [int(v) for v in values] * (k if len(values) == 1 else 1)
        for values in (node._saved_stride, node._saved_padding, node._saved_dilation)
    )
    make = _reduced if bool(node._saved_transposed) else _widened
    for number, axis in enumerate(rows.axes):
        kernel = int(weight.shape[2 + number])
        yield make(axis, sizes[number], stride[number], padding[number], dilation[number], kernel)


def _widened(axis: Axis, size: int, stride: int, padding: int, dilation: int, kernel: int) -> Frame:
    """What the windows of a convolution's output see of its input."""
    starts = tuple(stride * start - padding for start in axis.starts)
    extent = stride * (axis.extent - 1) + dilation * (kernel - 1) + 1
    taps = Taps(0, 1, axis.extent, stride, {tap: dilation * tap for tap in range(kernel)})
    return Frame(Axis(starts, extent, size), [(None, [taps])])


def _reduced(axis: Axis, size: int, stride: int, padding: int, dilation: int, kernel: int) -> Frame:
    """What the windows of a transposed convolution's output see of its input.

    Output y takes input q by entry κ of the kernel where y = stride q - padding + dilation κ. Which
    entries of a window go where depends on where it begins within the stride.
    """
    reach = dilation * (kernel - 1)
    starts, stops = [], []
    members: dict[int, list[int]] = {}
    for number, start in enumerate(axis.starts):
        first = -((reach - start - padding) // stride)  # rounded up
        starts.append(first)
        stops.append((start + axis.extent - 1 + padding) // stride + 1)
        members.setdefault(start + padding - stride * first, []).append(number)
    extent = max(1, *(stop - first for stop, first in zip(stops, starts, strict=True)))
    ways: list[tuple[list[int] | None, list[Taps]]] = []
    for ahead, units in members.items():
        taps = []
        for first in range(min(stride, axis.extent)):
            count = len(range(first, axis.extent, stride))
            targets = {
                tap: (first + ahead - dilation * tap) // stride
                for tap in range(kernel)
                if (first + ahead - dilation * tap) % stride == 0
            }
            if targets:
                taps.append(Taps(first, stride, count, 1, targets))
        ways.append((None if len(members) == 1 else units, taps))
    return Frame(Axis(tuple(starts), extent, size), ways)
