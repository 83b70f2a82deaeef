"""Jacobian rows of many samples, with the structure that makes them cheap.

Rows are the identity before anything but a factor for every entry was met, and the same for all
samples before the first operation that differs between samples. Where operations act on contiguous
parts of a sample one by one (a linear layer on every position of a sequence, a norm on every
position), rows are block-diagonal: a block for every part. A block then costs what a sample of its
size would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._runtime.matrix_products import product
from hessian._runtime.workspace import scratch


@dataclass
class Cost:
    """Multiplications per sample, and the largest number of values alive at once.

    `peak` is per sample, `shared` what all samples have in common.
    """

    work: float = 0.0
    peak: float = 0.0
    shared: float = 0.0


@dataclass
class JacobianRows:
    """Jacobian rows ``[m, d]`` of every sample: `base` ∘ `scale`.

    `base` is ``None`` (the identity), ``[m, d]`` (the same for all samples) or ``[n, m, d]``;
    `scale` is ``None`` or ``[n, d]``. `fresh` says that nothing else holds `base`.

    With `blocks` b > 1 the rows are block-diagonal: part i of the rows has entries in part i of the
    columns only, rows and columns being cut into b contiguous parts of one size. `base` is then
    ``[m/b, d/b]`` (the same for all samples and parts) or ``[n·b, m/b, d/b]``.
    """

    m: int
    d: int
    base: Tensor | None = None
    scale: Tensor | None = None
    fresh: bool = False
    blocks: int = 1

    @property
    def identity(self) -> bool:
        """Whether the rows are the identity, up to `scale`."""
        return self.base is None

    @property
    def shared(self) -> bool:
        """Whether all samples have the same rows."""
        return self.scale is None and (self.base is None or self.base.dim() == 2)

    @property
    def grain(self) -> int:
        """Into how many blocks the rows are cut; 0 for the identity, which any number cuts.

        The greatest common divisor of two such numbers is the grain of what has both structures.
        """
        return 0 if self.base is None else self.blocks

    def size(self) -> int:
        """Values held per sample; rows that all share are held once, like a weight."""
        small = self.base is None or self.base.dim() == 2
        return 0 if small else self.m * self.d // self.blocks

    def of(self, part: slice) -> JacobianRows:
        """Those of some samples; the rows have one block."""
        base = self.base if self.base is None or self.base.dim() == 2 else self.base[part]
        scale = None if self.scale is None else self.scale[part]
        return replace(self, base=base, scale=scale)

    def common(self) -> int:
        """Values held once for all samples."""
        shared = self.base is not None and self.base.dim() == 2
        return self.m * self.d // self.blocks**2 if shared else 0

    def scaled(self, factor: Tensor) -> JacobianRows:
        """With entry j of the tensor multiplied by `factor` ``[n, d]``."""
        before = self.scale
        if before is not None:
            factor = evaluated(factor, factor.shape, lambda: before * factor)
        return replace(self, scale=factor)

    def shared_by(self, users: int) -> JacobianRows:
        """The same for one of several users."""
        return self if users == 1 else replace(self, fresh=False)

    def times(self, number: float, like: Tensor, n: int) -> JacobianRows:
        """Multiplied by a number."""
        if number == 1.0:
            return self
        base, d = self.base, self.d
        if base is None or not self.shared:
            return self.scaled(
                evaluated(like, (n, d), lambda: like.new_full((), number).expand(n, d))
            )
        values = evaluated(like, base.shape, partial(torch.mul, base, number))
        return replace(self, base=values, fresh=True)

    def cut(self, blocks: int, like: Tensor, n: int) -> Tensor:
        """The rows without `scale` in as few blocks, of which `grain` must be a multiple.

        ``[m/b, d/b]`` where all samples and blocks share them, else ``[n·b, m/b, d/b]``.
        """
        of_block = (self.m // blocks, self.d // blocks)
        base = self.base
        if base is None:
            return evaluated(
                like, of_block, lambda: torch.eye(of_block[0], dtype=like.dtype, device=like.device)
            )
        shape = of_block if base.dim() == 2 else (n * blocks, *of_block)
        return evaluated(like, shape, lambda: _joined(base, self.blocks // blocks, shape))

    def matrix(self, like: Tensor, n: int) -> Tensor:
        """The rows without `scale`, ``[m, d]`` or ``[n, m, d]``."""
        return self.cut(1, like, n)

    def written(self, blocks: int, like: Tensor, n: int) -> Tensor:
        """The rows written out in as few blocks: ``[n·b, m/b, d/b]``."""
        a, b = self.m // blocks, self.d // blocks

        def values() -> Tensor:
            base = self.cut(blocks, like, n)
            if self.scale is not None:
                return base * self.scale.reshape(n * blocks, 1, b)
            return base.expand(n * blocks, a, b) if base.dim() == 2 else base

        return evaluated(like, (n * blocks, a, b), values)

    def dense(self, like: Tensor, n: int) -> Tensor:
        """The rows written out, ``[n, m, d]``."""
        return self.written(1, like, n)

    def passing(self, blocks: int, like: Tensor, n: int) -> Tensor:
        """The rows written out in as few blocks, to be used before anything else is asked for."""
        if self.scale is None:
            return self.written(blocks, like, n)
        scale, (a, b) = self.scale, (self.m // blocks, self.d // blocks)
        shape = (n * blocks, a, b)

        def values() -> Tensor:
            into = scratch("rows", shape, like)
            factor = scale.reshape(n * blocks, 1, b)
            return torch.mul(self.cut(blocks, like, n), factor, out=into)

        return evaluated(like, shape, values)

    def apart(self, like: Tensor, n: int) -> JacobianRows:
        """The same rows in one block, written out, in place where nothing else holds them."""
        if self.fresh and self.blocks == 1 and self.base is not None and self.base.dim() == 3:
            base = self.base
            if self.scale is not None:
                base *= self.scale.unsqueeze(1)
            return JacobianRows(self.m, self.d, base, None, True)
        return JacobianRows(self.m, self.d, self.dense(like, n))

    def plus(self, other: JacobianRows, like: Tensor, n: int) -> JacobianRows:
        """The sum of two sets of rows."""
        blocks = math.gcd(self.grain, other.grain)
        if blocks == 0:  # two identities with factors
            factors = partial(_sum_of_factors, self, other, like, n)
            return JacobianRows(self.m, self.d, None, evaluated(like, (n, self.d), factors))
        of_block = (self.m // blocks, self.d // blocks)
        if self.shared and other.shared:
            base = evaluated(
                like, of_block, lambda: self.cut(blocks, like, n) + other.cut(blocks, like, n)
            )
        else:
            summed = partial(self._summed, other, blocks, like, n)
            base = evaluated(like, (n * blocks, *of_block), summed)
        return JacobianRows(self.m, self.d, base, None, True, blocks)

    def _summed(self, other: JacobianRows, blocks: int, like: Tensor, n: int) -> Tensor:
        """The sum written out, with as little memory taken anew as can be."""
        first, second = self, other
        if not first._writable(blocks) and second._writable(blocks):
            first, second = second, first
        if first._writable(blocks):
            total = first.cut(blocks, like, n)
        else:
            total = first.written(blocks, like, n)
            if first.scale is None:
                total = total.clone()
        added = second.cut(blocks, like, n)
        if second.scale is None:
            return total.add_(added)
        scale = second.scale.reshape(n * blocks, 1, self.d // blocks)
        return total.addcmul_(added.expand_as(total), scale)

    def _writable(self, blocks: int) -> bool:
        """Whether the rows in as few blocks are a tensor that nothing else holds."""
        whole = self.base is not None and self.base.dim() == 3 and self.blocks == blocks
        return self.fresh and whole and self.scale is None

    def left(self, matrix: Tensor) -> Tensor:
        """`matrix` ``[n, a, m]`` times the rows of one block without `scale`: ``[n, a, d]``."""
        if self.base is None:
            return matrix
        if self.base.dim() == 2:  # one large product instead of n small ones
            return product(matrix.flatten(0, 1), self.base).view(*matrix.shape[:2], self.d)
        return matrix @ self.base


def _joined(base: Tensor, each: int, shape: tuple[int, ...]) -> Tensor:
    """Blocks with `each` of them along the diagonal of a larger one, which have that shape."""
    if each == 1:
        return base
    if base.dim() == 2:
        diagonal: Tensor = torch.block_diag(*[base] * each)
        return diagonal
    count, a, b = shape
    whole = base.new_zeros((count, each, a // each, each, b // each))
    parts = base.view(count, each, a // each, b // each)
    whole.diagonal(dim1=1, dim2=3).copy_(parts.permute(0, 2, 3, 1))
    return whole.view(shape)


def _sum_of_factors(first: JacobianRows, second: JacobianRows, like: Tensor, n: int) -> Tensor:
    """What two identities multiply entries by, added up: ``[n, d]``."""
    one = like.new_ones(()).expand(n, first.d)
    factors = [one if rows.scale is None else rows.scale for rows in (first, second)]
    return factors[0] + factors[1]
