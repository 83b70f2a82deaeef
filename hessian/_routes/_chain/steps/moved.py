"""The step of an operation that moves entries: each entry of an input goes to at most one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.local_rows import LocalRows
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.steps.base import Pulled, PulledLocal, Step, Where, call, summed_to
from hessian._runtime.matrix_products import TRAFFIC
from hessian._tape.graph import Edge, Node, metadata

# From here on the numbers of entries times a weight are no longer told apart in float32.
LARGEST = 2**21
# Shorter pieces are copied entry by entry; torch takes single ones at a tenth of that speed.
SHORT = 8


@dataclass
class Places:
    """Where a sample's entries of an input go: ``[w]`` numbers of entries of the output.

    `weight` ``[w]`` is what each is multiplied by on the way, 0 where it goes nowhere; ``None``
    where all are 1. Contiguous parts of a sample, `parts` of them, are moved alike and apart.
    """

    index: Tensor
    weight: Tensor | None
    parts: int
    pieces: dict[int, int] = field(default_factory=dict)

    def channels(self, pixels: int) -> slice | None:
        """Where they are whole channels of an image of so many pixels, and nothing else."""
        width, first = len(self.index), int(self.index[0])
        if self.weight is not None or width % pixels or first % pixels:
            return None
        in_order = torch.arange(first, first + width, device=self.index.device)
        if not torch.equal(self.index, in_order):
            return None
        return slice(first // pixels, (first + width) // pixels)

    def pick(self, base: Tensor, width: int) -> Tensor:
        """The first `width` places' entries of `base` ``[.., d]``, as long pieces as there are."""
        index, d = self.index[:width], base.shape[-1]
        piece = self.pieces.get(width)
        if piece is None:
            goes = None if self.weight is None else self.weight[:width] != 0
            piece = self.pieces[width] = _piece(index, goes, d)
        if piece < SHORT:
            entries = base.flatten(0, -2).index_select(-1, index)
            return entries.view(*base.shape[:-1], width)
        pieces: Tensor = base.unflatten(-1, (-1, piece))
        return pieces.index_select(-2, index[::piece] // piece).flatten(-2)

    def factor(self, scale: Tensor | None, n: int) -> Tensor:
        """What every place's entries are multiplied by, ``[n, w]``; before it was `scale`."""
        weight = None if self.weight is None else self.weight.expand(n, -1)
        if scale is None:
            assert weight is not None
            return weight
        picked = scale.index_select(-1, self.index)
        return picked if weight is None else picked * weight


class Moved(Step):
    """Slices, transposes, concatenations, sums, means: rows at the output are picked from."""

    def __init__(
        self,
        node: Node,
        edge: Edge,
        data: list[int],
        where: Where,
        places: dict[int, list[Places]],
    ) -> None:
        super().__init__(node, edge, data, where)
        self.places = places
        self.parts = math.gcd(*(p.parts for each in places.values() for p in each))

    def cost(self) -> float:
        return float(TRAFFIC * sum(self.widths))

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        return [
            (child, self._picked(rows, places, width, part, like, meter))
            for child, places, width in zip(
                self.children, self.places[edge[1]], self.widths, strict=True
            )
        ]

    def takes(self, rows: LocalRows) -> bool:
        pixels = math.prod(rows.sizes)
        return len(self.places) == 1 and all(
            places.channels(pixels) is not None for places in self.places[self.edge[1]]
        )

    def pull_local(self, rows: LocalRows, part: slice, meter: Cost) -> PulledLocal:
        pixels, pulled = math.prod(rows.sizes), []
        for child, places in zip(self.children, self.places[self.edge[1]], strict=True):
            channels = places.channels(pixels)
            assert channels is not None
            pulled.append((child, rows.of_channels(channels)))
        meter.peak = max(meter.peak, rows.size() + sum(part.size() for _, part in pulled))
        return pulled

    def _picked(
        self, rows: JacobianRows, places: Places, width: int, part: slice, like: Tensor, meter: Cost
    ) -> JacobianRows:
        count, m = part.stop - part.start, rows.m
        blocks = math.gcd(rows.grain, places.parts)
        a, b = m // blocks, width // blocks
        shared = rows.shared
        if not shared:
            meter.work += TRAFFIC * m * b
            meter.peak = max(meter.peak, 2 * m * b)
        factored = rows.scale is not None or (places.weight is not None and not shared)
        alike = rows.base is None or rows.base.dim() == 2
        weight = None if places.weight is None or factored else places.weight[:b]

        def values() -> Tensor:
            picked = places.pick(rows.cut(blocks, like, count), b)
            return picked if weight is None else picked.mul_(weight)

        base = evaluated(like, (a, b) if alike else (count * blocks, a, b), values)
        scale = None
        if factored:
            scale = evaluated(like, (count, width), lambda: places.factor(rows.scale, count))
        return JacobianRows(m, width, base, scale, True, blocks)


def moved(node: Node, indices: list[int], slots: list[int], where: Where) -> Moved | None:
    """The step, where the operation's own derivative shows that it moves entries.

    Asked for the derivative of the sum of its outputs, of their numbers and of drawn numbers, it
    must multiply and pick, the same in every sample.
    """
    places: dict[int, list[Places]] = {}
    for index in indices:
        d = where.width((node, index))
        if not 0 < d < LARGEST:
            return None
        meta = metadata(node)[index]
        numbers = torch.arange(1, d + 1, dtype=meta.dtype, device=meta.device)
        probes = torch.stack([torch.ones_like(numbers), numbers, *_drawn(d).to(numbers)])
        adjoints = _adjoints(node, index, slots, where, probes)
        if adjoints is None:
            return None
        each = [_places(probes, values) for values in adjoints]
        known = [place for place in each if place is not None]
        if len(known) < len(each):
            return None
        places[index] = known
    return Moved(node, (node, indices[0]), slots, where, places)


def _drawn(d: int) -> Tensor:
    """Numbers without structure, twice: no sum of some is a multiple of another one.

    Any regular numbers would do for some operation: a reflection adds entries at the same distance
    from a third.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    drawn = torch.rand((2, d), generator=generator, dtype=torch.float64, device="cpu")
    return 1 + drawn


def _adjoints(
    node: Node, index: int, slots: list[int], where: Where, rows: Tensor
) -> list[Tensor] | None:
    """The node's adjoints ``[rows, w]`` at each input, of rows that all samples share.

    ``None`` where samples differ in them.
    """
    edge, n = (node, index), where.n
    adjoints: list[list[Tensor]] = [[] for _ in slots]
    for row in rows:
        with torch.no_grad():
            gradients = call(node, index, where.restored(row.expand(n, -1), edge))
        for values, slot in zip(adjoints, slots, strict=True):
            gradient, child = gradients[slot], node.next_functions[slot]
            if gradient is None:
                values.append(rows.new_zeros(where.width(child)))
                continue
            if gradient.layout is not torch.strided or gradient.dtype != rows.dtype:
                return None
            flat = where.flat(summed_to(gradient, child), child)
            if not torch.equal(flat, flat[:1].expand_as(flat)):
                return None
            values.append(flat[0].clone())
    return [torch.stack(values) for values in adjoints]


def _places(probes: Tensor, adjoints: Tensor) -> Places | None:
    """Where entries go, from what `probes` ``[4, d]`` become at an input, ``[4, w]``."""
    weight, numbers = adjoints[:2]
    goes = weight != 0
    index = torch.where(goes, numbers / torch.where(goes, weight, 1.0), 1.0).round().long() - 1
    if not index.numel() or int(index.min()) < 0 or int(index.max()) >= probes.shape[1]:
        return None
    expected = torch.where(goes, weight * probes[2:, index], 0.0)
    # A sum over a mean's entries is rounded a few times; two different entries differ by more.
    slack = 8 * torch.finfo(probes.dtype).eps
    if not torch.allclose(adjoints[2:], expected, rtol=slack, atol=0.0):
        return None
    plain = bool((weight == 1).all())
    return Places(index, None if plain else weight, _parts(index, weight, probes.shape[1]))


def _piece(index: Tensor, goes: Tensor | None, d: int) -> int:
    """How long pieces of consecutive entries are that move together, or nowhere."""
    breaks = index.diff() != 1
    if goes is not None:
        breaks = (breaks & goes[1:]) | (goes[1:] != goes[:-1])
    starts = torch.cat([index.new_zeros(1), breaks.nonzero().flatten() + 1])
    targets = index[starts] if goes is None else index[starts[goes[starts]]]
    numbers = torch.cat([starts, targets]).cpu().numpy()
    return math.gcd(len(index), d, int(np.gcd.reduce(numbers)))


def _parts(index: Tensor, weight: Tensor, d: int) -> int:
    """Into how many contiguous parts input and output can be cut that are moved alike."""
    width = len(index)
    common = math.gcd(d, width)
    divisors = [k for k in range(1, common + 1) if common % k == 0] if common < 2**16 else [1]
    for parts in reversed(divisors):
        starts = torch.arange(parts, device=index.device).unsqueeze(1) * (d // parts)
        weights = weight.view(parts, -1)
        local = torch.where(weights != 0, index.view(parts, -1) - starts, 0)
        same = torch.equal(local, local[:1].expand_as(local))
        if (
            same
            and torch.equal(weights, weights[:1].expand_as(weights))
            and int(local.min()) >= 0
            and int(local.max()) < d // parts
        ):
            return parts
    return 1
