"""Σ_n Σ_c λ_nc (Σ_p S[n,c,o,p] U[n,k,p])² for all entries (o, k) of a parameter at its site.

S are columns of the loss's second derivative pulled back to the site's output, λ their weights; U
is what the site reads; p are positions (pixels, tokens). Nothing here holds [samples, columns,
entries]. Two forms compute the same:

*Squares*: sample by sample, the product over p for all columns, squared and added up tile by tile
while the tile is in the cache.

*Pairs*: the square written out over pairs of positions, Σ_{p≤q} (2 - δ_pq) T[o,p,q] U[k,p] U[k,q],
with T = Σ_c λ S S summed over columns first. For a convolution U[(c,a),p] is the input x[c] at
position p shifted by the kernel's offset a: for each offset one product of T and x∘x over samples
and those pairs that the shift leaves inside the image. Work does not grow with columns.

Which one costs less goes both ways by an order of magnitude: columns against positions, and a
product's speed against that of memory. It is decided by how fast the device does what
(`_runtime.matrix_products.rates`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian._runtime.matrix_products import Rates, product, rates
from hessian._site import kernel as _kernel
from hessian._site.embedding import squares_of_rows
from hessian._site.site import Positions, Site
from hessian._site.sums import sum_of_squares
from hessian.devices import SMALL_CALLS, TRITON

# Values of one tile on the CPU, in a last-level cache. Smaller ones cost more calls than they save.
TILE = 2**20
# Samples whose pairs are taken together at the least: fewer make products too short.
LEAST = 64
# Where a column's share of a tile is smaller, one sum over columns beats a call for each.
FEW = 2**14
# Up to so many multiplications a sample, all samples' products are one call.
SMALL = 2**20
# Up to so many columns are summed one by one, by whole blocks of pairs; more by small products.
SUMMED = 32


class Contraction:
    """One parameter at one site: columns go in by parts, `finish` completes the sum in `into`.

    `rank` is the number of columns that come at a time, which the choice of form goes by; `fresh`
    says that nothing was written to `into` yet, not even zeros; only where `outer` is set.
    """

    def __init__(
        self, site: Site, into: Tensor, rank: int, memory: int, fresh: bool = False
    ) -> None:
        self.site, self.into, self.memory, self.fresh = site, into, memory, fresh
        at = site.positions
        self.at = None if at is None or at.stored is not None else at
        self.kept: list[tuple[slice, Tensor]] = []
        self.total: Tensor | None = None
        self.held: dict[str, Tensor] = {}
        self.pairs = False
        self.ways: Ways | None = None
        if self.at is not None and site.tokens is None:
            self.inner = into.numel() // (self.at.groups * self.at.out)
            if self.inner > 1 and site.outer is None and self.at.taps is not None:
                self.pairs = _pairs_pay(self.at, self.inner, rank, rates(into))
                self.pairs &= 4 * _pair_values(self.at, self.inner, rank) * into.itemsize <= memory

    def add(self, rows: Tensor, weights: Tensor, part: slice) -> None:
        """Columns ``[m, c, q, ...]`` of the samples in `part`, with their weights ``[m, c]``."""
        m, c = rows.shape[:2]
        if self.site.outer is not None:
            squared = _weighted(rows.reshape(m, c, -1).square(), weights)
            return self.kept.append((part, squared.sum(1)))
        if self.at is None or self.site.tokens is not None:
            for column, weight in zip(rows.unbind(1), weights.unbind(1), strict=True):
                if self.site.tokens is not None:
                    squares_of_rows(self.site.tokens[part], column, weight, self.into)
                else:
                    sum_of_squares([self.site], [column], weight, part, self.memory, self.into)
            return None
        s = self.at.rows(rows.flatten(0, 1))  # [m·c, g, o, p]
        s = s.reshape(m, c, *s.shape[1:])
        if self.inner == 1:
            return self._summed(s, weights, part)
        each = c * s[0, 0].numel() * 2 + self.at.groups * self.inner * self.at.count
        if self.pairs:
            each = _pair_values(self.at, self.inner, c)
        chunk = max(1, min(m, self.memory // (2 * each * self.into.itemsize)))
        if self.pairs and s.device.type in SMALL_CALLS:
            chunk = min(chunk, max(LEAST, TILE // each))
        for start in range(0, m, chunk):
            portion = slice(start, min(m, start + chunk))
            place = slice(part.start + portion.start, part.start + portion.stop)
            if self.pairs:
                self._pairs(self.at, s[portion], weights[portion], place)
            else:
                self._squares(self.at, s[portion], weights[portion], place)
        return None

    def finish(self) -> None:
        """Add what the parts left to do."""
        outer = self.site.outer
        if outer is not None and self.kept:
            s2 = torch.cat([values for _, values in self.kept])
            u2 = torch.cat([outer[part] for part, _ in self.kept]).square_()
            s2 *= self.site.scale**2
            total = product(u2.T, s2) if self.site.transposed else product(s2.T, u2)
            if self.fresh:
                self.into.data = total.contiguous()  # as it is: copying takes as long
            else:
                self.into += total
        elif self.fresh:
            self.into.zero_()
        if self.total is not None:
            self._by_group().add_(self.total.permute(1, 2, 3, 0).flatten(2))
        self.kept, self.total, self.held = [], None, {}

    def _by_group(self) -> Tensor:
        """The result as ``[g, o, k]``."""
        assert self.at is not None
        if self.site.transposed:
            return self.into.T.unsqueeze(0)
        return self.into.view(self.at.groups, self.at.out, self.inner)

    # ---------------------------------------------------------------- forms

    def _summed(self, s: Tensor, weights: Tensor, part: slice) -> None:
        """A scale or shift: one value of U for every channel and position."""
        assert self.at is not None
        factor = self.at.columns(part).unsqueeze(1)  # [m, 1, g, 1, p]
        if s.shape[-1] == 1 or factor.stride(-1) == 0:  # one number, or a bias: the same for all p
            sums = (s[..., 0] if s.shape[-1] == 1 else s.sum(-1)) * factor[..., 0]
        else:
            sums = (s * factor).sum(-1)
        squared = _weighted(sums.square_().flatten(2), weights).sum((0, 1))
        self.into.view(-1).add_(squared)

    def _squares(self, positions: Positions, s: Tensor, weights: Tensor, part: slice) -> None:
        u = positions.columns(part)  # [m, g, k, p]
        into = self._by_group()
        m, c, g, o, p = s.shape
        if into.device.type not in SMALL_CALLS:
            room = max(1, self.memory // (4 * into.itemsize))

            def portable(s: Tensor, u: Tensor, weights: Tensor, into: Tensor) -> None:
                batched_squares(s, u, weights, into, room)

            fused = into.device.type in TRITON and _kernel.available(into)
            fused = fused and _kernel.beats(s, u, weights, into, portable)
            return (_kernel.fused_squares if fused else portable)(s, u, weights, into)
        if c * o * p * self.inner <= SMALL or (g > 1 and c * g * o * self.inner <= TILE):
            return batched_squares(s, u, weights, into)
        width = max(1, TILE // (c * o))
        rows = s.transpose(1, 2).reshape(m, g, c * o, p)
        for i, group in itertools.product(range(m), range(g)):
            for k in range(0, self.inner, width):
                tile = product(rows[i, group], u[i, group, k : k + width].T).view(c, o, -1)
                _accumulate(tile, weights[i], into[group, :, k : k + width])
        return None

    def _pairs(self, positions: Positions, s: Tensor, weights: Tensor, part: slice) -> None:
        m, _, g, o, _ = s.shape
        assert positions.inputs is not None
        x = positions.inputs(part).permute(1, 2, 3, 0).contiguous()  # [g, c, r, m]
        if self.ways is None:
            self.ways = _ways(positions, x.shape[2])
        t = self._outputs_products(s, weights)  # [pair, m, g·o]
        xx = self._inputs_products(x)  # [g, c, pair, m]
        blocks = []
        for picked, place in self.ways.offsets:
            # In their own order pairs need not be copied. A place of the kernel that only ever
            # meets padding has none at all.
            left, right = t, xx
            if len(picked) != len(t):
                left = self._room("left", len(picked), m, g * o)
                torch.index_select(t, 0, picked, out=left)
            if len(place) != xx.shape[2]:
                right = self._room("right", *x.shape[:2], len(place), m)
                torch.index_select(xx, 2, place, out=right)
            left, right = left.view(-1, g, o), right.flatten(2)
            if g == 1:
                got = product(right[0], left[:, 0]).T.unsqueeze(0)
            else:
                got = (right @ left.transpose(0, 1)).transpose(1, 2)
            blocks.append(got)
        total = torch.stack(blocks)  # [a, g, o, c]
        self.total = total if self.total is None else self.total.add_(total)

    def _outputs_products(self, s: Tensor, weights: Tensor) -> Tensor:
        """Σ_c λ_c S[c,·,p] S[c,·,q] for p ≤ q, half of it for p = q: ``[pair, m, g·o]``.

        Pairs run row by row through the upper triangle.
        """
        m, c, g, o, p = s.shape
        rows = p * (p + 1) // 2
        t = self._room("t", rows, m, g * o)
        if c <= SUMMED and m * g * o * p >= FEW:
            z = self._room("z", c, p, m, g * o)
            z.copy_(s.flatten(2, 3).permute(1, 3, 0, 2))
            weighted = torch.mul(
                z, weights.t().reshape(c, 1, m, 1), out=self._room("weighted", *z.shape)
            )
            start = 0
            for i in range(p):
                row = t[start : start + p - i]
                torch.mul(z[0, i:], weighted[0, i], out=row)
                for k in range(1, c):
                    row.addcmul_(z[k, i:], weighted[k, i])
                row[0] *= 0.5  # a position with itself, which is taken twice too
                start += p - i
            return t
        z = s.permute(0, 2, 3, 1, 4).reshape(m * g * o, c, p)
        weighted = (z.view(m, g * o, c, p) * weights.view(m, 1, c, 1)).view_as(z)
        whole = torch.bmm(z.transpose(1, 2), weighted)
        whole.diagonal(dim1=1, dim2=2).mul_(0.5)
        i, j = torch.triu_indices(p, p, device=s.device)
        picked = whole.view(m * g * o, p * p).index_select(1, i * p + j)
        return t.copy_(picked.t().view_as(t))

    def _inputs_products(self, x: Tensor) -> Tensor:
        """Twice the products of inputs at two positions: ``[g, c, pair, m]``."""
        assert self.ways is not None
        g, c, r, m = x.shape
        twice = 2 * x
        if self.ways.chosen is not None:
            low, high = self.ways.chosen
            return twice.index_select(2, low).mul_(x.index_select(2, high))
        xx = self._room("xx", g, c, r * (r + 1) // 2, m)
        start = 0
        for i in range(r):  # all of them: whole blocks, without gathering
            torch.mul(twice[:, :, i:], x[:, :, i : i + 1], out=xx[:, :, start : start + r - i])
            start += r - i
        return xx

    def _room(self, name: str, *dims: int) -> Tensor:
        """A tensor to write to, kept from part to part: fresh memory costs as much as the work."""
        size = math.prod(dims)
        if name not in self.held or self.held[name].numel() < size:
            self.held[name] = self.into.new_empty(size)
        return self.held[name][:size].view(dims)


@dataclass
class Ways:
    """Which products x[i] x[j], i ≤ j, the pair form takes.

    `chosen` holds i and j, ``None`` for all of them, row by row of the upper triangle; `offsets`
    holds, for every offset of the kernel, pairs of positions by their number in the upper triangle
    and the rows of their products, in ascending order.
    """

    chosen: tuple[Tensor, Tensor] | None
    offsets: list[tuple[Tensor, Tensor]]


def _ways(positions: Positions | None, r: int) -> Ways:
    assert positions is not None
    assert positions.taps is not None
    known = (
        r,
        positions.count,
        positions.taps.device,
        tuple(positions.taps.shape),
        tuple(positions.taps.flatten().tolist()),
    )
    if known not in _KNOWN:
        if len(_KNOWN) >= 32:
            _KNOWN.clear()
        _KNOWN[known] = _find_ways(positions.taps, positions.count, r)
    return _KNOWN[known]


# The same layers come again at the next batch.
_KNOWN: dict[object, Ways] = {}


def _find_ways(every_taps: Tensor, count: int, r: int) -> Ways:
    offsets, used = [], []
    for taps in every_taps:
        inside = (taps >= 0).nonzero()[:, 0]
        i, j = torch.triu_indices(len(inside), len(inside), device=inside.device)
        left, right = inside[i], inside[j]
        low, high = torch.minimum(taps[left], taps[right]), torch.maximum(taps[left], taps[right])
        row = low * r - low * (low - 1) // 2 + high - low
        order = row.argsort()
        pair = left * count - left * (left - 1) // 2 + right - left
        offsets.append((pair[order], row[order]))
        used.append(torch.stack([row[order], low[order], high[order]]))
    every, first = _unique(torch.cat(used, 1))
    if len(every) == r * (r + 1) // 2:
        return Ways(None, offsets)
    # A stride, say, leaves most of them out.
    offsets = [(picked, torch.searchsorted(every, row)) for picked, row in offsets]
    return Ways((first[0], first[1]), offsets)


def _unique(table: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct values of the first row, ascending, and the rows below where each is met."""
    order = table[0].argsort(stable=True)
    table = table[:, order]
    fresh = torch.ones_like(table[0], dtype=torch.bool)
    fresh[1:] = table[0, 1:] != table[0, :-1]
    return table[0, fresh], table[1:, fresh]


def _accumulate(tile: Tensor, weights: Tensor, target: Tensor) -> None:
    """Add Σ_c λ_c tile[c]² to `target`; may overwrite `tile`."""
    if target.numel() < FEW:
        target += (weights @ tile.square_().flatten(1)).view_as(target)
        return
    for column, weight in zip(tile, weights.tolist(), strict=True):
        if weight:
            target.addcmul_(column, column, value=weight)


def batched_squares(s: Tensor, u: Tensor, weights: Tensor, into: Tensor, room: int = TILE) -> None:
    """Squares of many samples and columns at a time: S ``[m, c, g, o, p]``, U ``[m, g, k, p]``.

    Adds to `into` ``[g, o, k]``; `room` bounds the number of products held at once.
    """
    m, c, g, o, _ = s.shape
    k = u.shape[2]
    columns = max(1, min(c, room // (g * o * k)))
    chunk = max(1, min(m, room // (columns * g * o * k)))
    for start in range(0, m, chunk):
        part = slice(start, min(m, start + chunk))
        left = u[part]
        for first in range(0, c, columns):
            portion = slice(first, min(c, first + columns))
            rows = s[part, portion].transpose(1, 2)  # [m, g, c, o, p]
            wanted = rows.shape[:4]
            rows, scale = rows.flatten(2, 3), weights[part, portion]
            if k < rows.shape[2]:  # many rows and few columns come out slower
                tile = torch.matmul(left, rows.transpose(2, 3)).square_()
                tile = tile.view(len(left), g, k, *wanted[2:]).mul_(scale[:, None, None, :, None])
                into.add_(tile.sum((0, 3)).transpose(1, 2))
            else:
                tile = torch.matmul(rows, left.transpose(2, 3)).square_().view(*wanted, k)
                into.add_(tile.mul_(scale[:, None, :, None, None]).sum((0, 2)))


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Values ``[m, c, x]`` times weights ``[m, c]``, in place."""
    return values.mul_(weights.unsqueeze(-1))


def _inside(positions: Positions) -> list[int]:
    """For each kernel offset, the pairs of positions that stay inside the input."""
    assert positions.taps is not None
    counts = (positions.taps >= 0).sum(1).tolist()
    return [n * (n + 1) // 2 for n in counts]


def _pair_values(positions: Positions, inner: int, rank: int) -> int:
    """Values per sample that the pair form holds."""
    channels = inner // len(_inside(positions))
    p, most = positions.count, max(_inside(positions))
    outputs = 2 * rank * p + p * (p + 1) // 2 + most + (p * p if rank > SUMMED else 0)
    return positions.groups * (outputs * positions.out + (4 * p + 2 * most + p * p // 2) * channels)


def _pairs_pay(positions: Positions, inner: int, rank: int, speed: Rates) -> bool:
    """Whether pairs cost less than squares, in seconds per sample and group."""
    o, p, pairs = positions.out, positions.count, sum(_inside(positions))
    channels = inner // len(_inside(positions))
    squares = rank * p * o * inner / speed.product + rank * o * inner / speed.square
    squares += p * inner / speed.move
    product_ = pairs * o * channels / speed.product
    gather = (pairs * (o + 3 * channels) + 2 * p * p * o) / speed.move
    return product_ + gather + p * p * rank * o / speed.small < squares
