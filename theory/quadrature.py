"""Composite Gauss-Legendre quadrature that returns its error beside its value."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Computed(NamedTuple):
    """A number and a bound on its error, absolute.

    >>> Computed(2.0, 1e-12).value
    2.0
    """

    value: float
    error: float


_FINE = np.polynomial.legendre.leggauss(32)
_COARSE = np.polynomial.legendre.leggauss(20)
# A sum of terms each a few roundings off; the factor covers the integrand's own.
_ROUNDING = 64 * np.finfo(np.float64).eps


def nodes(edges: NDArray[np.float64], rule: Any = _FINE) -> tuple[Any, Any]:
    """Abscissas and weights of the composite rule, one row a panel."""
    middle, half = (edges[1:] + edges[:-1])[:, None] / 2, np.diff(edges)[:, None] / 2
    return middle + half * rule[0], half * rule[1]


def integrate(
    f: Callable[[NDArray[np.float64]], NDArray[np.float64]], edges: NDArray[np.float64]
) -> Computed:
    """Integrate f over the panels between `edges`; the error compares 32 nodes with 20.

    The finer rule is far nearer the truth than the difference of the two says, wherever f is
    smooth inside the panels, so the difference serves as a bound.

    >>> import numpy as np
    >>> integral = integrate(np.exp, np.linspace(0.0, 1.0, 3))
    >>> abs(integral.value - (np.e - 1)) < integral.error < 1e-13
    True
    """
    x, weights = nodes(edges)
    fine = weights * f(x.ravel()).reshape(x.shape)
    x, weights = nodes(edges, _COARSE)
    coarse = weights * f(x.ravel()).reshape(x.shape)
    off = np.abs(fine.sum(axis=1) - coarse.sum(axis=1)).sum()
    return Computed(float(fine.sum()), float(off + _ROUNDING * np.abs(fine).sum()))
