"""Sums over samples at a site: of squared gradients, and of curvature between positions."""

from __future__ import annotations

import torch
from torch import Tensor

from hessian._runtime.matrix_products import product
from hessian._runtime.workspace import scratch
from hessian._site.embedding import second_of_rows
from hessian._site.site import Site

# Values of products of positions written out at a time.
PRODUCTS = 2**20


def second(
    site: Site, curved: Tensor, part: slice, into: Tensor, memory: int, start: int = 0
) -> None:
    """Add Σ_n Σ_{p,q} U[k,p] U[k,q] · `curved` ``[n, c, p, q]`` for the samples in `part`.

    `curved` is the curvature at the site between positions of channels start, start+1, …
    """
    positions = site.positions
    assert positions is not None
    if site.tokens is not None:
        return second_of_rows(curved, site.tokens[part], into, start)
    inner = into.numel() // (positions.groups * positions.out)
    if positions.stored is not None:
        values = into.new_zeros((positions.groups * positions.out, inner))
        _second(site, curved, part, values, memory, start)
        return positions.add(into, values)
    return _second(site, curved, part, into, memory, start)


def _second(site: Site, curved: Tensor, part: slice, into: Tensor, memory: int, start: int) -> None:
    positions = site.positions
    assert positions is not None
    width, count = curved.shape[1:3]
    inner = into.numel() // (positions.groups * positions.out)
    if count == 1 and inner == 1:
        factor = positions.columns(part).flatten(1)
        if positions.out > 1:
            factor = factor.repeat_interleave(positions.out, 1)
        square = factor[:, start : start + width].square()
        into.view(-1)[start : start + width] += (curved[:, :, 0, 0] * square).sum(0)
        return None
    if inner == 1:  # a scale or shift: one channel for every entry
        factor = positions.columns(part).flatten(1, 2)
        if positions.out > 1:
            factor = factor.repeat_interleave(positions.out, 1)
        factor = factor[:, start : start + width].unsqueeze(-1)
        into.view(-1)[start : start + width] += ((curved @ factor) * factor).sum((0, 2, 3))
        return None
    stored = site.transposed and into.dim() == 2  # as [k, o]
    rows = into.T if stored else into.view(positions.groups * positions.out, inner)
    item = 3 * positions.groups * inner * count * into.element_size()
    chunk = max(1, min(part.stop - part.start, memory // max(1, item)))
    for a in range(part.start, part.stop, chunk):
        b = min(part.stop, a + chunk)
        columns = positions.columns(slice(a, b))  # [m, g, k, p]
        first = start // positions.out
        last = (start + width - 1) // positions.out
        for g in range(first, last + 1):
            low, high = max(start, g * positions.out), min(start + width, (g + 1) * positions.out)
            u = columns[:, g]  # [m, k, p]
            block = curved[a - part.start : b - part.start, low - start : high - start]
            if count == 1:
                square = torch.mul(u[..., 0], u[..., 0], out=scratch("squares", u.shape[:2], u))
                rows[low:high] += product(block[:, :, 0, 0].T, square)
                continue
            _add_products(rows[low:high], u, block)


# As many channels make it worth while to write out the products of all positions.
CHANNELS = 8


def _add_products(into: Tensor, u: Tensor, block: Tensor) -> None:
    """Add Σ_n Σ_{p,q} u[n,k,p] u[n,k,q] block[n,c,p,q] to `into` ``[c, k]``."""
    m, k, p = u.shape
    channels = block.shape[1]
    if channels < CHANNELS:
        for c in range(channels):
            into[c] += ((u @ block[:, c]) * u).sum((0, 2))
        return
    portion = max(1, PRODUCTS // (k * p * p))
    for a in range(0, m, portion):
        part = u[a : a + portion].contiguous()
        square = (part.unsqueeze(3) * part.unsqueeze(2)).flatten(2)  # [m, k, p·q]
        curved = block[a : a + portion].flatten(2)  # [m, c, p·q]
        into += (
            product(curved.transpose(0, 1).flatten(1), square.transpose(1, 2).flatten(0, 1))
            if len(part) > 1
            else product(curved[0], square[0].T)
        )


def sum_of_squares(
    uses: list[Site],
    adjoints: list[Tensor],
    weights: Tensor,
    part: slice,
    memory: int,
    into: Tensor,
) -> None:
    """Add Σ_n λ_n (Σ_uses per-sample gradient)² to `into`, for the samples n in `part`.

    Adjoints and weights are those of the part, taken a few samples at a time. Several uses are
    summed before squaring: the parameter is one.
    """
    count = weights.shape[0]
    working = max(1, into.numel()) * into.element_size() * (1 + sum(site.extra for site in uses))
    chunk = max(1, min(count, memory // working))
    for start in range(0, count, chunk):
        portion = slice(start, min(count, start + chunk))
        place = slice(part.start + portion.start, part.start + portion.stop)
        total = uses[0].gradient(adjoints[0][portion], place)
        for site, adjoint in zip(uses[1:], adjoints[1:], strict=True):
            total = total + site.gradient(adjoint[portion], place)
        flat = total.reshape(total.shape[0], -1)
        into.view(-1).addmv_(flat.square_().T, weights[portion])
