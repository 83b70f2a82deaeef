"""Roots of sums of squares where they are zero: norms, distances, sizes of numbers.

There |x| has a kink, and |x|² has none: a penalty `p.norm()**2` on a bias of zeros, a kernel
`exp(-cdist(x, x)**2)` on its diagonal. Autograd takes the two derivatives one after another, and
the second one of a norm is 0/0 there, that of a size loses what it should give. So an even power
of such a root is taken of the sum of squares. What is zero whatever the weights, and a norm that a
least size takes the place of, have the derivatives of a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from hessian import torch_private
from hessian._call.written import Written

Call = Callable[..., Any]
_TENSOR: Any = Tensor  # whose __pow__ typing does not know for the function that it is


class Roots:
    """The roots of one call that are zero in some entry, or of others that are."""

    def __init__(self) -> None:
        # By id: the square, the root and what they are made of, and how often each was written to.
        self._squares: dict[int, tuple[Call, list[Tensor], list[int]]] = {}

    def note(self, root: Tensor, square: Call, *sources: Tensor) -> Tensor:
        """Remember the square of a root, which its sources give; the root."""
        tensors = [root, *sources]
        self._squares[id(root)] = square, tensors, [t._version for t in tensors]
        return root

    def squared(self, root: Any) -> Tensor | None:
        """The square of a root that was noted, if nothing has been written over since."""
        if not self._squares or id(root) not in self._squares:
            return None
        square, tensors, versions = self._squares[id(root)]
        return square() if [t._version for t in tensors] == versions else None

    def any_of(self, values: list[Any]) -> bool:
        """Whether one of them was noted."""
        return bool(self._squares) and any(id(value) in self._squares for value in values)

    def square(self, value: Any) -> Any:
        """The square of a number, a tensor or a root."""
        squares = self.squared(value)
        return value * value if squares is None else squares


def _sum(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    """Σ|x|² over some axes, which is smooth everywhere; entry by entry where there are none."""
    squares = (x * x.conj()).real if x.is_complex() else x.square()
    return squares.sum(axes, keepdim=keepdim) if axes else squares


class Watch(Protocol):
    """The call in which an operation is replaced: it notes what is written to, and roots."""

    written: Written
    roots: Roots


def is_live(value: Any) -> bool:
    """Whether it depends on a parameter, and its values may be looked at."""
    return (
        isinstance(value, Tensor)
        and value.requires_grad
        and not value.is_meta
        and torch_private.transform_depth() == 0
    )


def _at_zero(result: Any) -> bool:
    """Whether it depends on a parameter and is zero in some entry."""
    return is_live(result) and not bool(result.detach().all())


def _noted(
    watch: Watch, root: Tensor, x: Tensor, axes: tuple[int, ...], keepdim: bool = False
) -> Tensor:
    return watch.roots.note(root, lambda: _sum(x, axes, keepdim), x)


def _apart(x: Tensor, axes: tuple[int, ...], is_constant: Tensor) -> Tensor:
    """The norm over some axes, which stay as ones; a constant zero where it is said to be."""
    size = torch.linalg.vector_norm(torch.where(is_constant, 1.0, x), 2, axes, keepdim=True)
    return torch.where(is_constant, 0.0, size)


def _axes(dim: Any, rank: int) -> tuple[int, ...]:
    if dim is None or (isinstance(dim, Iterable) and not tuple(dim)):
        return tuple(range(rank))
    return tuple(dim) if isinstance(dim, Iterable) else (int(dim),)


class Norm(NamedTuple):
    """A function of torch's that gives norms, and the order and axes that it has by default.

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
    if not args or kwargs.get("dtype") is not None or kwargs.get("out") is not None:
        return func(*args, **kwargs)
    x, *others = args
    arguments = {"ord": of.order, "dim": of.dim, "keepdim": False}
    arguments |= dict(zip(arguments, others, strict=False)) | kwargs
    order, dim = arguments.get("p", arguments["ord"]), arguments["dim"]
    keepdim = bool(arguments["keepdim"])
    if not isinstance(x, Tensor) or not of.of_order_two(order, dim, x.dim()):
        return func(*args, **kwargs)
    axes, squares = _axes(dim, x.dim()), watch.roots.squared(x)
    if squares is not None:  # a norm of norms is one of all
        squares = squares.sum(axes, keepdim=keepdim) if axes else squares
        return watch.roots.note(squares.sqrt(), lambda: squares)
    result = func(*args, **kwargs)
    return _noted(watch, result, x, axes, keepdim) if _at_zero(result) else result


def moved(watch: Watch, func: Call, *args: Any, **kwargs: Any) -> Any:
    """Entries of a root, or of several, in other places."""
    result = func(*args, **kwargs)
    several = bool(args) and isinstance(args[0], list | tuple)
    values = list(args[0]) if several else list(args[:1])
    if not isinstance(result, Tensor) or not watch.roots.any_of(values):
        return result
    squares = [watch.roots.square(value) for value in values]
    square = func(squares if several else squares[0], *args[1:], **kwargs)
    return watch.roots.note(result, lambda: square, *values)


def distance(watch: Watch, func: Call, input: Tensor, other: Tensor, p: Any = 2) -> Any:
    """|x - y| of two whole tensors."""
    result = func(input, other, p)
    if p != 2 or not _at_zero(result):
        return result
    gap = input - other
    return _noted(watch, result, gap, tuple(range(gap.dim())))


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
    return _noted(watch, result, x1 - x2 + eps, (-1,), keepdim)


def cdist(
    watch: Watch, func: Call, x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = ""
) -> Tensor:
    """All distances, each of a row from itself a constant; torch has no second derivative of it."""
    gap = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    if p != 2:
        return cast(Tensor, torch.linalg.vector_norm(gap, p, dim=-1))
    if x1 is x2:
        diagonal = torch.eye(gap.shape[-2], dtype=torch.bool, device=gap.device).unsqueeze(-1)
        result = _apart(gap, (-1,), diagonal).squeeze(-1)
    else:
        result = torch.linalg.vector_norm(gap, 2, dim=-1)
    return _noted(watch, result, gap, (-1,)) if _at_zero(result) else result


def normalize(
    watch: Watch,
    func: Call,
    input: Tensor,
    p: Any = 2.0,
    dim: Any = 1,
    eps: float = 1e-12,
    out: Tensor | None = None,
) -> Any:
    """x / max(|x|, eps): of a norm of zero the least size takes the place."""
    if p != 2 or out is not None or not eps > 0:
        return func(input, p, dim, eps, out)
    axes = _axes(dim, input.dim())
    size = torch.linalg.vector_norm(input, 2, axes, keepdim=True)
    if _at_zero(size):
        size = _apart(input, axes, size == 0)
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
    return _noted(watch, result, pair, (0,))


def deviation(watch: Watch, func: Call, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A standard deviation, the root of the variance."""
    result = func(input, *args, **kwargs)
    if kwargs.get("out") is not None or not _at_zero(result):
        return result
    return watch.roots.note(result, lambda: torch.var(input, *args, **kwargs), input)


def size(watch: Watch, func: Call, input: Tensor, **kwargs: Any) -> Any:
    """|x|, entry by entry."""
    result = func(input, **kwargs)
    return _noted(watch, result, input, ()) if not kwargs and _at_zero(result) else result


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
    return scaled(watch, func, input, other, **kwargs) if squares is None else squares


def scaled(watch: Watch, func: Call, input: Any, other: Any, **kwargs: Any) -> Any:
    """A product or quotient of a root with something else."""
    result = func(input, other, **kwargs)
    if kwargs or not watch.roots.any_of([input, other]):
        return result
    square = func(watch.roots.square(input), watch.roots.square(other))
    tensors = [value for value in (input, other) if isinstance(value, Tensor)]
    return watch.roots.note(result, lambda: square, *tensors)


_MULTIPLIED = (torch.mul, torch.multiply, Tensor.mul, Tensor.multiply)
_DIVIDED = (torch.div, torch.divide, torch.true_divide, Tensor.div, Tensor.divide)
_PLACED = (
    "flatten", "movedim", "permute", "reshape", "select", "squeeze", "swapaxes", "t", "transpose",
    "unflatten", "unsqueeze",
)  # fmt: skip

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
    **dict.fromkeys((torch.std, Tensor.std), deviation),
    **dict.fromkeys((torch.abs, torch.absolute, Tensor.abs, Tensor.absolute), size),
    **dict.fromkeys((torch.pow, Tensor.pow, _TENSOR.__pow__), power),
    **dict.fromkeys((torch.square, Tensor.square), square),
    **dict.fromkeys(_MULTIPLIED, product),
    **dict.fromkeys(_DIVIDED, scaled),
    **dict.fromkeys((torch.stack, torch.cat, Tensor.view, Tensor.__getitem__), moved),
    **{getattr(owner, name): moved for owner in (torch, Tensor) for name in _PLACED},
}
# The same for torch's operators.
OPERATORS: dict[str, Call] = {
    "abs": size,
    "_cdist_forward": cdist,
    "cdist": cdist,
    "cosine_similarity": cosine_similarity,
    "dist": distance,
    "div": scaled,
    "hypot": hypot,
    "linalg_matrix_norm": FUNCTIONS[torch.linalg.matrix_norm],
    "linalg_norm": FUNCTIONS[torch.linalg.norm],
    "linalg_vector_norm": FUNCTIONS[torch.linalg.vector_norm],
    "mul": product,
    "norm": partial(norm, Norm("vector")),
    "pairwise_distance": pairwise_distance,
    "pow": power,
    "square": square,
    "std": deviation,
    **dict.fromkeys(("cat", "select", "stack", "t", "transpose", "unsqueeze", "view"), moved),
}
