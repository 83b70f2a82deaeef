"""Jacobian rows of images that reach a window of a tensor each.

A pixel of an output listens to its receptive field only. Its rows are then held as a window of the
tensor that moves with the pixel, and cost what the window holds instead of what the image does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.rows import JacobianRows


@dataclass(frozen=True)
class Axis:
    """Along one axis of an image: where every unit's window begins, its extent, the image's size.

    Windows may reach beyond the image, where there is nothing.
    """

    starts: tuple[int, ...]
    extent: int
    size: int

    @classmethod
    def single(cls, size: int) -> Axis:
        """A unit for every entry, with itself for its window."""
        return cls(tuple(range(size)), 1, size)


@lru_cache(maxsize=256)
def _places(axis: Axis, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        starts = torch.tensor(axis.starts, device=device).unsqueeze(1)
        index = starts + torch.arange(axis.extent, device=device)
        return index.clamp(0, axis.size - 1), (index >= 0) & (index < axis.size)


@lru_cache(maxsize=256)
def _entries(axes: tuple[Axis, ...], device: torch.device) -> tuple[Tensor, Tensor | None]:
    k = len(axes)
    with torch.inference_mode(False):
        index = torch.zeros((1,) * (2 * k), dtype=torch.long, device=device)
        inside = torch.ones((1,) * (2 * k), dtype=torch.bool, device=device)
        for number, axis in enumerate(axes):
            places, known = _places(axis, device)
            view = [1] * (2 * k)
            view[number], view[k + number] = places.shape
            index = index * axis.size + places.view(view)
            inside = inside & known.view(view)
        return index, None if bool(inside.all()) else inside


@dataclass
class LocalRows:
    """Rows of units that lie on a grid, `units` of them at every place of it.

    `values` ``[n, *grid, units, *extents, channels]``, n being 1 where all samples share them
    (`shared`): the row of a unit in its window of an image ``[channels, *sizes]``. Rows are
    numbered by unit first, then by place, as entries of an image are. Beyond the image there is
    nothing where `clean`, and anything else.
    """

    units: int
    channels: int
    axes: tuple[Axis, ...]
    values: Tensor
    clean: bool = True
    shared: bool = True

    @classmethod
    def identity(cls, dims: tuple[int, ...], like: Tensor) -> LocalRows:
        """Those of an image ``[channels, *sizes]`` in itself."""
        channels, axes = dims[0], tuple(Axis.single(size) for size in dims[1:])
        ones = (1,) * len(axes)
        shape = (1, *dims[1:], channels, *ones, channels)

        def values() -> Tensor:
            eye = torch.eye(channels, dtype=like.dtype, device=like.device)
            return eye.view(1, *ones, channels, *ones, channels).expand(shape)

        return cls(channels, channels, axes, evaluated(like, shape, values))

    @property
    def grid(self) -> tuple[int, ...]:
        """Places of units."""
        return tuple(len(axis.starts) for axis in self.axes)

    @property
    def extents(self) -> tuple[int, ...]:
        """Sizes of a window."""
        return tuple(axis.extent for axis in self.axes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the image."""
        return tuple(axis.size for axis in self.axes)

    @property
    def m(self) -> int:
        """Number of rows."""
        return self.units * math.prod(self.grid)

    @property
    def d(self) -> int:
        """Entries of the image, in all its channels."""
        return self.channels * math.prod(self.sizes)

    @property
    def share(self) -> float:
        """A window's share of the image."""
        return math.prod(self.extents) / max(1, math.prod(self.sizes))

    def size(self) -> int:
        """Values held per sample."""
        return self.m * self.channels * math.prod(self.extents)

    def common(self) -> int:
        """Values held once for all samples."""
        return 0

    def with_values(self, values: Tensor, clean: bool = True) -> LocalRows:
        """Other values in the same windows."""
        return replace(self, values=values, clean=clean)

    def windows(self, tensor: Tensor) -> Tensor:
        """Of entries ``[n, d]`` every window's: ``[n, *grid, *extents, channels]``, else 0."""
        n = tensor.shape[0]
        entries, known = self.entries(tensor.device)
        pixels = tensor.reshape(n, -1, math.prod(self.sizes)).transpose(1, 2).contiguous()
        values = pixels.index_select(1, entries.flatten()).view(n, *entries.shape, -1)
        return values if known is None else values.mul_(known.unsqueeze(-1))

    def entries(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Numbers ``[*grid, *extents]`` of the pixels in the windows, and which are in the image.

        ``None`` where all are.
        """
        return _entries(self.axes, device)

    def scaled(self, factor: Tensor) -> LocalRows:
        """With entry j of the tensor multiplied by `factor` ``[n, d]``."""
        before, k = self.values, len(self.axes)
        shape = (factor.shape[0], *before.shape[1:])
        values = evaluated(factor, shape, lambda: before * self.windows(factor).unsqueeze(1 + k))
        return replace(self, values=values, clean=True, shared=False)

    def of_channels(self, channels: slice) -> LocalRows:
        """Their entries in some channels of the image."""
        count, before = channels.stop - channels.start, self.values
        values = evaluated(before, (*before.shape[:-1], count), lambda: before[..., channels])
        return replace(self, channels=count, values=values)

    def times(self, number: float) -> LocalRows:
        """Multiplied by a number."""
        if number == 1.0:
            return self
        before = self.values
        return self.with_values(
            evaluated(before, before.shape, lambda: before * number), self.clean
        )

    def cleaned(self) -> LocalRows:
        """With nothing beyond the image."""
        if self.clean:
            return self
        return self.with_values(evaluated(self.values, self.values.shape, self._inside))

    def _inside(self) -> Tensor:
        """The values, zero beyond the image."""
        _, known = self.entries(self.values.device)
        if known is None:
            return self.values
        return self.values * known.view(*self.grid, 1, *self.extents, 1)

    def reframed(self, axes: tuple[Axis, ...]) -> LocalRows:
        """The same rows in windows that hold the present ones."""
        if axes == self.axes:
            return self
        lead = self.values.shape[: 2 + len(axes)]
        shape = (*lead, *(axis.extent for axis in axes), self.channels)
        values = evaluated(self.values, shape, lambda: self._laid_in(axes))
        return replace(self, axes=axes, values=values)

    def _laid_in(self, axes: tuple[Axis, ...]) -> Tensor:
        """The values at their places in those windows."""
        values, k = self.values, len(axes)
        for number, (now, then) in enumerate(zip(self.axes, axes, strict=True)):
            if now == then:
                continue
            begins = [a - b for a, b in zip(now.starts, then.starts, strict=True)]
            begin = torch.tensor(begins, device=values.device).unsqueeze(1)
            index = torch.arange(then.extent, device=values.device) - begin
            known = (index >= 0) & (index < now.extent)
            at = 2 + k + number
            view = [len(begins) if a == 1 + number else 1 for a in range(values.dim())]
            view[at] = then.extent
            size = [then.extent if a == at else s for a, s in enumerate(values.shape)]
            picked = values.gather(at, index.clamp(0, now.extent - 1).view(view).expand(size))
            values = picked * known.view(view)
        return values

    def plus(self, other: LocalRows) -> LocalRows:
        """The sum of two sets of rows of the same units in the same image."""
        axes = []
        for a, b in zip(self.axes, other.axes, strict=True):
            starts = tuple(map(min, a.starts, b.starts))
            stops = [
                max(x + a.extent, y + b.extent) for x, y in zip(a.starts, b.starts, strict=True)
            ]
            extent = max(stop - start for start, stop in zip(starts, stops, strict=True))
            axes.append(Axis(starts, extent, a.size))
        first, second = (rows.cleaned().reframed(tuple(axes)) for rows in (self, other))
        one, two = first.values, second.values
        shape = (max(one.shape[0], two.shape[0]), *one.shape[1:])
        values = evaluated(one, shape, lambda: one + two)
        return replace(first, values=values, shared=first.shared and second.shared)

    def dense(self, like: Tensor, n: int) -> Tensor:
        """The rows written out, ``[n, m, d]``."""
        return evaluated(like, (n, self.m, self.d), lambda: self._scattered(n))

    def _scattered(self, n: int) -> Tensor:
        rows = self.cleaned()
        k, count, pixels = len(rows.axes), rows.values.shape[0], math.prod(rows.sizes)
        values = rows.values.movedim((1 + k, -1), (1, 2 + k))  # [n, units, *grid, channels, ·]
        values = values.flatten(3 + k)
        index, _ = rows.entries(values.device)
        index = index.reshape(1, 1, *rows.grid, 1, values.shape[-1])
        whole = values.new_zeros((*values.shape[:-1], pixels))
        whole.scatter_add_(-1, index.expand_as(values), values)
        return whole.view(count, rows.m, rows.d).expand(n, rows.m, rows.d)

    def written_out(self, like: Tensor, n: int) -> JacobianRows:
        """The same as rows of the whole image."""
        if not self.shared:
            return JacobianRows(self.m, self.d, self.dense(like, n))
        of_each = (self.m, self.d)
        return JacobianRows(*of_each, evaluated(like, of_each, lambda: self.dense(like, 1)[0]))


def joined(
    first: JacobianRows | LocalRows, second: JacobianRows | LocalRows, like: Tensor, n: int
) -> JacobianRows | LocalRows:
    """The sum of two sets of rows, local where both are or can be."""
    local = first if isinstance(first, LocalRows) else second
    if not isinstance(local, LocalRows):
        assert isinstance(first, JacobianRows)
        assert isinstance(second, JacobianRows)
        return first.plus(second, like, n)
    both = [localised(rows, (local.channels, *local.sizes), like) for rows in (first, second)]
    if all(isinstance(rows, LocalRows) for rows in both):
        a, b = both
        assert isinstance(a, LocalRows)
        assert isinstance(b, LocalRows)
        return a.plus(b)
    a, b = (written_out(rows, like, n) for rows in (first, second))
    return a.plus(b, like, n)


def localised(
    rows: JacobianRows | LocalRows, dims: tuple[int, ...], like: Tensor
) -> JacobianRows | LocalRows:
    """The identity in an image ``[channels, *sizes]`` as local rows, all others as they are."""
    if isinstance(rows, LocalRows) or not rows.identity or rows.d != math.prod(dims):
        return rows
    identity = LocalRows.identity(dims, like)
    return identity if rows.scale is None else identity.scaled(rows.scale)


def written_out(rows: JacobianRows | LocalRows, like: Tensor, n: int) -> JacobianRows:
    """Rows of the whole tensor."""
    return rows.written_out(like, n) if isinstance(rows, LocalRows) else rows
