"""A site's second derivatives from rows that reach a window each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian._loss.local_rows import Axis, LocalRows
from hessian._loss.rows import Cost
from hessian._runtime.matrix_products import product
from hessian._site.site import Positions, Site

# Values written out at a time.
TILE = 2**20
# What a value that is written out and read again takes, in multiplications.
WRITTEN = 8


def serves(site: Site, rows: LocalRows) -> bool:
    """Whether the site's places are the channels and pixels of the rows' image, in their order."""
    positions = site.positions
    if positions is None or site.tokens is not None or site.transposed or positions.in_order:
        return False
    pixels = math.prod(rows.sizes)
    if positions.count != pixels or tuple(site.place.shape) != (rows.channels, pixels):
        return False
    return torch.equal(site.place.flatten(), torch.arange(rows.d, device=site.place.device))


def has_entries(site: Site) -> bool:
    """Whether `second_of_entries` knows the site, and pairs of positions would be many."""
    at = site.positions
    return at is not None and at.count > 1 and site.tokens is None and not site.transposed


def second_of_entries(site: Site, values: Tensor, part: slice, into: Tensor) -> None:
    """Add Σ_n Σ_p values[n, o, p] U[n, k, p]², for values ``[n, d]`` of the output's entries."""
    positions = site.positions
    assert positions is not None
    groups, out = positions.groups, positions.out
    columns = positions.columns(part)  # [n, g, k, p]
    squares = columns.square()
    weights = values[:, site.place].unflatten(1, (groups, out))  # [n, g, o, p]
    total = torch.stack([
        product(
            weights[:, g].transpose(0, 1).flatten(1),
            squares[:, g].transpose(1, 2).reshape(-1, squares.shape[2]),
        )
        for g in range(groups)
    ])  # fmt: skip
    positions.add(into, total.flatten(0, 1))


@dataclass
class _Grouped:
    """Along one axis, units whose windows begin alike: numbers ``[windows, units]``, or none."""

    axis: Axis
    numbers: Tensor
    known: Tensor

    @classmethod
    def of(cls, axis: Axis, device: torch.device) -> _Grouped:
        members: dict[int, list[int]] = {}
        for number, start in enumerate(axis.starts):
            members.setdefault(start, []).append(number)
        most = max(map(len, members.values()))
        numbers = [[*units, *[-1] * (most - len(units))] for units in members.values()]
        index = torch.tensor(numbers, device=device)
        return cls(Axis(tuple(members), axis.extent, axis.size), index.clamp(min=0), index >= 0)


def _windows(rows: LocalRows) -> int:
    """Number of different windows."""
    return math.prod(len(set(axis.starts)) for axis in rows.axes)


def _work(rows: LocalRows, inner: int) -> tuple[float, float]:
    """What squares and pairs take."""
    extent, channels = math.prod(rows.extents), rows.channels
    squares = rows.m * channels * inner * (extent + WRITTEN)
    pairs = extent * (extent + 1) / 2
    of_pair = channels * inner + WRITTEN * inner + WRITTEN * channels
    return float(squares), rows.m * channels * extent * (extent + WRITTEN) + _windows(
        rows
    ) * pairs * of_pair


def price(rows: LocalRows, numel: int, meter: Cost) -> None:
    """Count what `second_of_windows` takes for a parameter of so many entries."""
    inner = max(1, numel // rows.channels)
    meter.work += WRITTEN * rows.size() if inner == 1 else min(_work(rows, inner))
    meter.peak = max(meter.peak, 3 * rows.size())


def second_of_windows(
    site: Site, rows: LocalRows, weights: Tensor, part: slice, into: Tensor
) -> None:
    """Add Σ_n Σ_i weights[n, i] (row i's per-sample gradient)² for the samples in `part`.

    Row i's gradient is Σ_p rows[i, o, p] U[n, k, p] over the p of its window.
    """
    positions = site.positions
    assert positions is not None
    inner = into.numel() // (positions.groups * positions.out)
    columns = positions.columns(part).flatten(1, 2)  # [n, g·k, p]
    n, units = part.stop - part.start, rows.units
    weights = weights.reshape(n, units, *rows.grid).movedim(1, -1)  # [n, *grid, units]
    total = into.new_zeros((rows.channels, inner))
    squares, pairs = _work(rows, inner)
    if inner == 1 or squares <= pairs:
        _by_squares(total, rows, columns, weights, positions)
    else:
        for i in range(n):
            values = rows.values[0 if rows.shared else i]
            _by_pairs(total, rows, values, columns[i : i + 1], weights[i], positions)
    positions.add(into, total)


def _by_squares(
    total: Tensor, rows: LocalRows, columns: Tensor, weights: Tensor, positions: Positions
) -> None:
    inner, units, channels = total.shape[1], rows.units, rows.channels
    extent = math.prod(rows.extents)
    values = rows.cleaned().values.reshape(-1, units, extent, channels)
    weights = weights.reshape(-1, units)
    if inner == 1 and columns.stride(-1) == 0:  # a bias: the same at every pixel
        sums = values.sum(2)
        sums = sums.repeat(len(weights) // len(sums), 1, 1) if len(sums) < len(weights) else sums
        factor = columns[:, :, 0].square().repeat_interleave(len(weights) // len(columns), 0)
        square = _spread(factor, channels).unsqueeze(1) * sums.square_()
        total[:, 0] += weights.reshape(-1) @ square.view(-1, channels)
        return
    inputs = rows.windows(columns).reshape(len(weights), extent, -1)  # [n·a, e, g·k]
    places = len(values)  # of one sample where all share the rows
    portion = max(1, TILE // (units * channels * max(inner, extent)))
    for first in range(0, len(inputs), places):
        for start in range(first, first + places, portion):
            stop = min(first + places, start + portion)
            here = values[start - first : stop - first]
            _add_squares(total, here, inputs[start:stop], weights[start:stop], positions.groups)


def _spread(values: Tensor, channels: int) -> Tensor:
    """``[.., g]`` or ``[.., channels]`` as the latter."""
    repeats = channels // values.shape[-1]
    return values if repeats == 1 else values.repeat_interleave(repeats, -1)


def _add_squares(total: Tensor, rows: Tensor, inputs: Tensor, weights: Tensor, groups: int) -> None:
    """Rows ``[a, u, e, c]``, inputs ``[a, e, g·k]``, weights ``[a, u]``: Σ w (rows·inputs)²."""
    a, units, extent, channels = rows.shape
    inner = total.shape[1]
    if inner == 1:
        sums = (rows * _spread(inputs, channels).unsqueeze(1)).sum(2)
        total[:, 0] += weights.reshape(-1) @ sums.square_().view(a * units, channels)
        return
    out = channels // groups
    for g in range(groups):
        left = rows[..., g * out : (g + 1) * out].transpose(2, 3).reshape(a, units * out, extent)
        gradients = left @ inputs[..., g * inner : (g + 1) * inner]
        squares = gradients.square_().view(a * units, out * inner)
        total[g * out : (g + 1) * out] += (weights.reshape(-1) @ squares).view(out, inner)


def _by_pairs(
    total: Tensor,
    rows: LocalRows,
    values: Tensor,
    columns: Tensor,
    weights: Tensor,
    positions: Positions,
) -> None:
    """One sample's part, window by window: rows of units in the same one meet its inputs at once.

    Σ_i w_i rows[i, o, p] rows[i, o, q] over a window's units, times U[k, p] U[k, q].
    """
    k, extent, channels = len(rows.axes), math.prod(rows.extents), rows.channels
    grouped = [_Grouped.of(axis, values.device) for axis in rows.axes]
    frame = LocalRows(
        rows.units, channels, tuple(g.axis for g in grouped), values.unsqueeze(0), rows.clean
    )
    _, inside = frame.entries(values.device)
    for number, group in enumerate(grouped):
        at, numbers = 2 * number, group.numbers
        values = values.index_select(at, numbers.flatten()).unflatten(at, numbers.shape)
        weights = weights.index_select(at, numbers.flatten()).unflatten(at, numbers.shape)
        known = group.known.view(*numbers.shape, *(1,) * (weights.dim() - at - 2))
        weights = weights * known
    # [w1, u1, w2, u2, …, units, *extents, channels] → [windows, channels, ·, units of a window]
    values = values.flatten(2 * k + 1, -2)
    order = (*range(0, 2 * k, 2), 2 * k + 2, 2 * k + 1, *range(1, 2 * k, 2), 2 * k)
    windows = math.prod(len(g.numbers) for g in grouped)
    values = values.permute(order).reshape(windows, channels, extent, -1)
    weights = weights.permute(*range(0, 2 * k, 2), *range(1, 2 * k, 2), 2 * k)
    weights = weights.reshape(windows, 1, 1, -1)
    curved = (values * weights) @ values.transpose(2, 3)  # [windows, channels, ·, ·]
    first, second = torch.triu_indices(extent, extent, device=values.device)
    factor = torch.where(first == second, 1.0, 2.0).to(curved)
    if inside is not None and not rows.clean:
        masks = inside.reshape(-1, extent)
        factor = factor * (masks[:, first] & masks[:, second]).unsqueeze(1)
    curved = curved.flatten(2).index_select(2, first * extent + second) * factor
    inputs = frame.windows(columns).view(windows, extent, -1)
    inner, out = total.shape[1], channels // positions.groups
    portion = max(1, TILE // (len(first) * inner))
    for start in range(0, windows, portion):
        for g in range(positions.groups):
            here = inputs[start : start + portion, :, g * inner : (g + 1) * inner]
            products = here.index_select(1, first).mul_(here.index_select(1, second))
            block = curved[start : start + portion, g * out : (g + 1) * out].transpose(0, 1)
            total[g * out : (g + 1) * out] += product(block.flatten(1), products.flatten(0, 1))
