"""Where float64 loses digits of an expression: cancelled sums, conditions, lost factors."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy import (
    Abs,
    Add,
    Expr,
    Mul,
    Pow,
    cos,
    erfinv,
    lambdify,
    log,
    pi,
    preorder_traversal,
    sin,
    sqrt,
    tan,
)
from sympy import exp as exponential

from theory.laws._evaluated import Evaluated

Floats = NDArray[np.float64]
# A sum this much smaller than its terms, or a function that multiplies the relative error of its
# argument by the inverse, has lost some four of float64's sixteen digits.
_CANCELLED = 1e-4
# A factor below this may have underflowed on its way; it must not matter.
_LOST, _ROUNDING = 1e-290, -17.0


def _condition(node: Any) -> Any:
    """The relative error of a function over that of its argument, where that can be great."""
    if isinstance(node, Pow):
        base, exponent = node.args
        return None if exponent.is_number or base.is_Atom else exponent
    if len(node.args) != 1 or node.args[0].is_Atom:
        return None
    u = node.args[0]
    if isinstance(node, log):
        return 1 / node
    if isinstance(node, tan):
        return u * (node + 1 / node)
    if isinstance(node, sin):
        return u * cos(u) / node
    if isinstance(node, cos):
        return u * sin(u) / node
    if isinstance(node, erfinv):
        return u * sqrt(pi) / 2 * exponential(node**2) / node
    return None


def _watched(expression: Any) -> Iterator[tuple[Any, ...]]:
    """Tuples of what is to be compared: (sum, terms), (condition,), or the factors of a product."""
    for node in set(preorder_traversal(expression)):
        if isinstance(node, Add):
            yield Abs(node), Add(*map(Abs, node.args))
        elif not isinstance(node, Expr) or node.is_number or node.has(Evaluated):
            continue
        elif isinstance(node, Mul):
            factors = [Abs(factor) for factor in node.args if not factor.is_number]
            if len(factors) > 1:
                yield ("factors", *factors)
        else:
            condition = _condition(node)
            if condition is not None:
                yield (Abs(condition),)


def doubt(expression: Any, arguments: Any, modules: Any) -> Callable[[Any, Floats], Any]:
    """A function of (arrays, values) that is true where the values are not to be trusted."""
    watched = list(_watched(expression))
    sums = [pair for pair in watched if len(pair) == 2 and pair[0] != "factors"]
    conditions = [single[0] for single in watched if len(single) == 1]
    products = [factors[1:] for factors in watched if factors[0] == "factors"]
    flat = [*(part for pair in sums for part in pair), *conditions]
    flat += [factor for factors in products for factor in factors]
    compute = lambdify(arguments, flat, modules, cse=True)

    def of(arrays: Any, values: Floats) -> Any:
        parts = iter([np.asarray(part, dtype=np.float64) for part in compute(*arrays)])
        odd: Any = np.zeros(values.shape, dtype=bool)
        for _ in sums:
            total, terms = next(parts), next(parts)
            odd = odd | (total < _CANCELLED * terms)
        for _ in conditions:
            odd = odd | ~(next(parts) < 1 / _CANCELLED)
        for factors in products:
            sizes = [next(parts) for _ in factors]
            if any((size < _LOST).any() for size in sizes):
                lost = sum((size < _LOST).astype(float) for size in sizes) > 0
                most = sum(np.log10(np.maximum(size, _LOST)) for size in sizes)
                odd = odd | (lost & (most > np.log10(np.abs(values)) + _ROUNDING))
        return odd

    return of
