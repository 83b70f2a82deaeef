"""Roots of sums of squares where they are zero: norms, distances, sizes of numbers.

There |x| has a kink, and |x|² has none: a penalty `p.norm()**2` on a bias of zeros, a kernel
`exp(-cdist(x, x)**2)` on its diagonal. Autograd takes the two derivatives one after another, and
the second one of a norm is 0/0 there, that of a size loses what it should give. So an even power
of such a root is taken of the sum of squares, and a norm of zeros has the derivatives of a
constant, as `abs` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hessian import torch_private

Call = Callable[..., Any]
_TENSOR: Any = Tensor  # whose __pow__ typing does not know for the function that it is


class Sum(NamedTuple):
    """Σ|x|² over some axes, or entry by entry where there are none."""

    x: Tensor
    axes: tuple[int, ...]
    keepdim: bool

    def value(self) -> Tensor:
        """The sum itself, which is smooth everywhere."""
        x = self.x
        squares = (x * x.conj()).real if x.is_complex() else x.square()
        return squares.sum(self.axes, keepdim=self.keepdim) if self.axes else squares


class Roots:
    """The roots of one call that are zero in some entry, and what they are roots of."""

    def __init__(self) -> None:
        # By id: the root, so that it stays, its sum, and how often each had been written to.
        self._sums: dict[int, tuple[Tensor, Sum, tuple[int, int]]] = {}

    def note(self, root: Tensor, of: Sum) -> None:
        """Remember what a root is one of."""
        self._sums[id(root)] = root, of, (root._version, of.x._version)

    def squared(self, root: Any) -> Tensor | None:
        """The square of a root that was noted, if nothing has been written over since."""
        if not self._sums or id(root) not in self._sums:
            return None
        known, of, versions = self._sums[id(root)]
        return of.value() if versions == (known._version, of.x._version) else None


class Watch(Protocol):
    """The call in which a root is taken."""

    roots: Roots


def _at_zero(result: Any) -> bool:
    """Whether it depends on a parameter and is zero in some entry."""
    return (
        isinstance(result, Tensor)
        and result.requires_grad
        and not result.is_meta
        and torch_private.transform_depth() == 0
        and not bool(result.detach().all())
    )


def _norm(watch: Watch, root: Tensor, of: Sum) -> Tensor:
    """The norm, a constant zero where it is zero."""
    kept = torch.linalg.vector_norm(of.x.detach(), 2, of.axes, keepdim=True) == 0
    apart = torch.where(kept, 1.0, of.x)
    size = torch.linalg.vector_norm(apart, 2, of.axes, keepdim=of.keepdim)
    size = torch.where(kept.reshape(root.shape), 0.0, size)
    watch.roots.note(size, of)
    return size


def _axes(dim: Any, rank: int) -> tuple[int, ...]:
    if dim is None or (isinstance(dim, Iterable) and not tuple(dim)):
        return tuple(range(rank))
    return tuple(dim) if isinstance(dim, Iterable) else (int(dim),)


class Norm(NamedTuple):
    """A function of torch's that gives norms, and the order and axes that it takes untold.

    Of order two is one of a vector, of a matrix, or of a vector where it has but one axis.
    """

    kind: str
    order: Any = 2
    dim: Any = None

    def of_order_two(self, order: Any, dim: Any, rank: int) -> bool:
        """Whether it is the root of a sum of squares."""
        if order is None or order == "fro":
            return True
        if order != 2 or self.kind == "matrix":
            return False
        return self.kind == "vector" or len(_axes(dim, rank)) == 1


def norm(of: Norm, watch: Watch, func: Call, *args: Any, **kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    if not args or kwargs.get("dtype") is not None or kwargs.get("out") is not None:
        return result
    if not _at_zero(result):
        return result
    x, *others = args
    told = {"ord": of.order, "dim": of.dim, "keepdim": False}
    told |= dict(zip(told, others, strict=False)) | kwargs
    if not of.of_order_two(told.get("p", told["ord"]), told["dim"], x.dim()):
        return result
    return _norm(watch, result, Sum(x, _axes(told["dim"], x.dim()), bool(told["keepdim"])))


def distance(watch: Watch, func: Call, input: Tensor, other: Tensor, p: Any = 2) -> Any:
    """|x - y| of two whole tensors."""
    result = func(input, other, p)
    if p != 2 or not _at_zero(result):
        return result
    gap = input - other
    return _norm(watch, result, Sum(gap, tuple(range(gap.dim())), False))


def pairwise_distance(
    watch: Watch,
    func: Call,
    x1: Tensor,
    x2: Tensor,
    p: Any = 2,
    eps: float = 1e-6,
    keepdim: bool = False,
) -> Any:
    result = func(x1, x2, p, eps, keepdim)
    if p != 2 or not _at_zero(result):
        return result
    return _norm(watch, result, Sum(x1 - x2 + eps, (-1,), keepdim))


def cdist(
    watch: Watch, func: Call, x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = ""
) -> Tensor:
    """All distances; torch has no second derivative of its own."""
    gap = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    result: Tensor = torch.linalg.vector_norm(gap, p, dim=-1)
    return _norm(watch, result, Sum(gap, (-1,), False)) if p == 2 and _at_zero(result) else result


def normalize(
    watch: Watch,
    func: Call,
    input: Tensor,
    p: Any = 2.0,
    dim: Any = 1,
    eps: float = 1e-12,
    out: Tensor | None = None,
) -> Any:
    if p != 2 or out is not None:
        return func(input, p, dim, eps, out)
    size = norm(Norm("vector"), watch, torch.linalg.vector_norm, input, 2, dim, keepdim=True)
    return input / size.clamp_min(eps).expand_as(input)


def cosine_similarity(
    watch: Watch, func: Call, x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8
) -> Any:
    """As it is where no vector is zero; else of vectors over their norms, `eps` at the least."""
    pair = torch.broadcast_tensors(x1, x2)
    if not any(_at_zero(torch.linalg.vector_norm(x, 2, dim)) for x in pair):
        return func(x1, x2, dim, eps)
    one, other = (normalize(watch, F.normalize, x, 2.0, dim, eps) for x in pair)
    return (one * other).sum(dim)


def hypot(watch: Watch, func: Call, input: Tensor, other: Tensor, **kwargs: Any) -> Any:
    result = func(input, other, **kwargs)
    if kwargs or not _at_zero(result):
        return result
    pair = torch.stack(torch.broadcast_tensors(input, other))
    return _norm(watch, result, Sum(pair, (0,), False))


def size(watch: Watch, func: Call, input: Tensor, **kwargs: Any) -> Any:
    """|x|, entry by entry."""
    result = func(input, **kwargs)
    if not kwargs and _at_zero(result):
        watch.roots.note(result, Sum(input, (), False))
    return result


def power(watch: Watch, func: Call, input: Any, exponent: Any, **kwargs: Any) -> Any:
    """A power; an even one of a root is one of the sum of squares."""
    even = isinstance(exponent, int | float) and exponent > 0 and exponent % 2 == 0
    squares = watch.roots.squared(input) if even and not kwargs else None
    if squares is None:
        return func(input, exponent, **kwargs)
    return squares if exponent == 2 else squares.pow(exponent / 2)


def square(watch: Watch, func: Call, input: Any, **kwargs: Any) -> Any:
    squares = None if kwargs else watch.roots.squared(input)
    return func(input, **kwargs) if squares is None else squares


def product(watch: Watch, func: Call, input: Any, other: Any, **kwargs: Any) -> Any:
    """A product; one of a root with itself is the sum of squares."""
    squares = watch.roots.squared(input) if input is other and not kwargs else None
    return func(input, other, **kwargs) if squares is None else squares


FUNCTIONS: dict[Call, Call] = {
    **dict.fromkeys((torch.norm, Tensor.norm), partial(norm, Norm("vector", "fro"))),
    torch.linalg.vector_norm: partial(norm, Norm("vector")),
    torch.linalg.norm: partial(norm, Norm("either", None)),
    torch.linalg.matrix_norm: partial(norm, Norm("matrix", "fro", (-2, -1))),
    **dict.fromkeys((torch.dist, Tensor.dist), distance),
    torch.pairwise_distance: pairwise_distance,
    torch.cdist: cdist,
    F.normalize: normalize,
    torch.cosine_similarity: cosine_similarity,
    **dict.fromkeys((torch.hypot, Tensor.hypot), hypot),
    **dict.fromkeys((torch.abs, torch.absolute, Tensor.abs, Tensor.absolute), size),
    **dict.fromkeys((torch.pow, Tensor.pow, _TENSOR.__pow__), power),
    **dict.fromkeys((torch.square, Tensor.square), square),
    **dict.fromkeys((torch.mul, torch.multiply, Tensor.mul, Tensor.multiply), product),
}
# The same for torch's operators.
OPERATORS: dict[str, Call] = {
    "abs": size,
    "_cdist_forward": cdist,
    "cdist": cdist,
    "cosine_similarity": cosine_similarity,
    "dist": distance,
    "hypot": hypot,
    "linalg_matrix_norm": FUNCTIONS[torch.linalg.matrix_norm],
    "linalg_norm": FUNCTIONS[torch.linalg.norm],
    "linalg_vector_norm": FUNCTIONS[torch.linalg.vector_norm],
    "mul": product,
    "norm": partial(norm, Norm("vector")),
    "pairwise_distance": pairwise_distance,
    "pow": power,
    "square": square,
}
