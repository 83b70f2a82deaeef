"""Contractions Aᵀ B of two sets of Jacobian rows of the same m values, sample by sample.

With A the rows of some values x and B those of some values y, Aᵀ B is the part of the Hessian of
Σ_i x_i y_i that comes from the product; the whole is Aᵀ B + Bᵀ A. Rows may be cut into blocks, A
and B differently: only what is not zero is computed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.rows import Cost, JacobianRows
from hessian._runtime.matrix_products import product
from hessian._runtime.workspace import scratch

# So few matrix products are taken one by one.
FEW = 8


def diagonal(a: JacobianRows, b: JacobianRows, like: Tensor, n: int, meter: Cost) -> Tensor:
    """The diagonal of Aᵀ B, ``[n, d]``."""
    finest = max(a.grain, b.grain, 1)
    meter.work += a.m * a.d / finest
    meter.peak = max(meter.peak, 2 * a.m * a.d / finest)
    return evaluated(like, (n, a.d), lambda: _diagonal(a, b, like, n))


def _diagonal(a: JacobianRows, b: JacobianRows, like: Tensor, n: int) -> Tensor:
    values = _same_block(a, b, like, n)
    for scale in (a.scale, b.scale):
        values = values if scale is None else values * scale
    return values.expand(n, a.d)


def _same_block(a: JacobianRows, b: JacobianRows, like: Tensor, n: int) -> Tensor:
    """Σ_i a_ij b_ij, ``[n, d]`` or ``[1, d]``, without scales."""
    if a.base is None and b.base is None:
        return like.new_ones((1, a.d))
    if a.base is None or b.base is None:
        rows = a if b.base is None else b
        base = rows.base
        assert base is not None
        if base.dim() == 2:
            return base.diagonal().repeat(rows.blocks).unsqueeze(0)
        return base.diagonal(dim1=1, dim2=2).reshape(n, a.d)
    left, right, blocks = _aligned(a, b, like, n)
    values = (left * right).sum(-2)
    if values.dim() == 1:
        return values.repeat(blocks).unsqueeze(0)
    return values.reshape(-1, a.d) if values.shape[0] == n * blocks else values.repeat(1, blocks)


def _aligned(a: JacobianRows, b: JacobianRows, like: Tensor, n: int) -> tuple[Tensor, Tensor, int]:
    """Both in the blocks of the finer one: of the other what lies in them."""
    coarse, fine = sorted((a.blocks, b.blocks))
    if fine % coarse:
        coarse = fine = math.gcd(fine, coarse)
    bases = []
    for rows in (a, b):
        common = math.gcd(fine, rows.blocks)
        base, ratio = rows.cut(common, like, n), fine // common
        if ratio > 1:
            if base.dim() == 2:
                base = base.expand(n * coarse, *base.shape)
            parts = base.reshape(-1, ratio, rows.m // fine, ratio, rows.d // fine)
            inside = parts.diagonal(dim1=1, dim2=3)  # [n·c, a, b, ratio]
            base = inside.permute(0, 3, 1, 2).flatten(0, 1)
        bases.append(base)
    return bases[0], bases[1], fine


def gram(a: JacobianRows, b: JacobianRows, like: Tensor, n: int, meter: Cost) -> tuple[Tensor, int]:
    """Aᵀ B as ``[n·b, d/b, d/b]`` and the number of blocks b; some rows are no identity."""
    blocks = math.gcd(a.grain, b.grain)
    d = a.d // blocks
    meter.work += gram_work(a, b)
    meter.peak = max(meter.peak, 2.0 * a.d * d + a.size() + b.size())
    return evaluated(like, (n * blocks, d, d), lambda: _gram(a, b, blocks, like, n)), blocks


def _gram(a: JacobianRows, b: JacobianRows, blocks: int, like: Tensor, n: int) -> Tensor:
    d = a.d // blocks
    if a.base is None or b.base is None:
        values = (b if a.base is None else a).cut(blocks, like, n)
        values = values.mT if b.base is None else values
    elif a.blocks % b.blocks == 0:
        values = _by_blocks(a, b, like, n)
    elif b.blocks % a.blocks == 0:
        values = _by_blocks(b, a, like, n).mT
    else:
        values = a.cut(blocks, like, n).mT @ b.cut(blocks, like, n)
    if values.dim() == 2:
        values = values.expand(n * blocks, d, d)
    if a.scale is not None:
        values = values * a.scale.reshape(n * blocks, d, 1)
    if b.scale is not None:
        values = values * b.scale.reshape(n * blocks, 1, d)
    return values


def gram_work(a: JacobianRows, b: JacobianRows) -> float:
    """Multiplications per sample of `gram`."""
    if a.base is None or b.base is None:
        return float(a.d * a.d / max(1, math.gcd(a.grain, b.grain)))
    return a.m * (a.d / a.blocks) * (b.d / b.blocks)


def _by_blocks(fine: JacobianRows, coarse: JacobianRows, like: Tensor, n: int) -> Tensor:
    """Fᵀ C in the blocks of C, each of which holds some of F's: ``[.., d/b, d/b]``."""
    ratio, right = fine.blocks // coarse.blocks, coarse.cut(coarse.blocks, like, n)
    left = fine.cut(fine.blocks, like, n)
    if ratio == 1:
        return _transposed_times(left, right)
    d = right.shape[-1]
    right = right.unflatten(-2, (ratio, -1))  # [.., ratio, m', d]
    left = left.unflatten(0, (-1, ratio)) if left.dim() == 3 else left
    values: Tensor = left.mT @ right  # [.., ratio, d', d]
    return values.reshape(*values.shape[:-3], d, d)


def _transposed_times(left: Tensor, right: Tensor) -> Tensor:
    """Lᵀ R of matrices or batches of them; few and large ones by the faster library."""
    if left.dim() == 2 and right.dim() == 2:
        return product(left.T, right)
    if left.dim() == right.dim() == 3 and len(left) <= FEW:
        return torch.stack([product(a.T, b) for a, b in zip(left, right, strict=True)])
    return left.mT @ right


def blocks(
    a: JacobianRows, b: JacobianRows, place: Tensor, like: Tensor, n: int, meter: Cost
) -> Tensor:
    """Aᵀ B between entries `place` ``[c, p]`` of the same c: ``[n, c, p, p]``."""
    c, p = place.shape
    aligned = _by_position(place, a.d)
    meter.work += _blocks_work(a, b, c, p, aligned)
    meter.peak = max(meter.peak, 2.0 * a.m * c * p + 2.0 * c * p * p)
    return evaluated(like, (n, c, p, p), lambda: _blocks(a, b, place, aligned, like, n))


def _blocks(
    a: JacobianRows, b: JacobianRows, place: Tensor, aligned: bool, like: Tensor, n: int
) -> Tensor:
    c, p = place.shape
    if aligned and p in (a.grain, b.grain):
        values = _between_positions(a, b, like, n, p, c)
    elif a.base is None or b.base is None:
        rows = (b if a.base is None else a).matrix(like, n)
        values = rows[..., place.unsqueeze(2), place.unsqueeze(1)]
        values = (values if a.base is None else values.mT).expand(n, c, p, p)
    else:
        left, right = (
            _picked(factor.matrix(like, n), place, aligned, name)
            for factor, name in ((a, "picked"), (b, "picked others"))
        )
        values = (left @ right.mT).expand(n, c, p, p)
    if a.scale is not None:
        values = values * a.scale[:, place].unsqueeze(3)
    if b.scale is not None:
        values = values * b.scale[:, place].unsqueeze(2)
    return values


def _picked(base: Tensor, place: Tensor, aligned: bool, name: str) -> Tensor:
    """Columns `place` ``[c, p]`` of rows ``[.., m, d]``, as ``[.., c, p, m]``."""
    turned = scratch(name, base.mT.shape, base)
    # One at a time: torch turns single matrices tile by tile, batches of them entry by entry.
    matrices = base.reshape(-1, *base.shape[-2:])
    for into, matrix in zip(turned.view(-1, *turned.shape[-2:]), matrices, strict=True):
        into.copy_(matrix.T)
    if aligned:
        columns: Tensor = turned.unflatten(-2, place.T.shape)
        return columns.transpose(-3, -2)
    return turned[..., place, :]


def _blocks_work(a: JacobianRows, b: JacobianRows, c: int, p: int, aligned: bool) -> float:
    if a.base is None or b.base is None:
        return float(c * p * p)
    local = aligned and p in (a.blocks, b.blocks)
    return a.m * c * p * (1.0 if local else p)


def _by_position(place: Tensor, d: int) -> bool:
    """Whether channel c's entry at position i is number i·C + c of a sample's entries."""
    channels, count = place.shape
    return channels * count == d and torch.equal(
        place.T.flatten(), torch.arange(d, device=place.device)
    )


def _between_positions(
    a: JacobianRows, b: JacobianRows, like: Tensor, n: int, p: int, c: int
) -> Tensor:
    """The same where one set's blocks are positions and their columns channels."""
    if a.grain != p:
        return _between_positions(b, a, like, n, p, c).mT
    left = a.cut(p, like, n)  # [n·p, m', c] or [m', c]
    left = left.view(n, p, *left.shape[1:]) if left.dim() == 3 else left.expand(n, p, *left.shape)
    if b.grain == 0 or b.grain % p == 0:  # only the same position meets itself
        right = b.cut(p, like, n)
        right = right.view(n, p, *right.shape[1:]) if right.dim() == 3 else right
        return torch.diag_embed((left * right).sum(-2).transpose(1, 2))
    right = b.matrix(like, n)
    right = right.reshape(-1, p, a.m // p, p, c)  # [n, i, m', j, c]
    values = (left.unsqueeze(3) * right).sum(2)  # [n, i, j, c]
    return values.permute(0, 3, 1, 2)
