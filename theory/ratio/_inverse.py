"""The mean of 1/|X|, which the density next to zero decides."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import Computed, integrate
from theory.samples._beyond import beyond
from theory.samples._panels import octaves, panels_of

Array = NDArray[np.float64]


def mean_inverse(law: Any, name: str) -> Computed:
    """E 1/|X| as Integral(f(x) + f(-x), (log x, -oo, oo)); infinite where that does not end."""
    panels = panels_of(law)
    sizes = np.unique(np.abs(panels.edges))
    sizes = sizes[sizes > 0]
    low, high = (float(end) for end in law.support())

    def inverse(x: Array) -> Array:
        with np.errstate(all="ignore"):
            value = (np.asarray(law.pdf(x)) + np.asarray(law.pdf(-x))) / x
        return np.where(np.isfinite(value), value, 0.0)

    start = float(sizes[0])
    value, error = integrate(inverse, octaves(sizes))
    # What lies beyond the last edge has next to no chance, and a small inverse.
    error += panels.cut / float(sizes[-1])
    if low > 0 or high < 0:
        return Computed(value, error)

    # Of y = 1/x: a density in y next to infinity.
    def reciprocal(y: Array) -> Array:
        x = 1 / y
        return np.asarray((np.asarray(law.pdf(x)) + np.asarray(law.pdf(-x))) * x**2)

    tail = beyond(reciprocal, 1 / start)
    if tail is None:
        raise ValueError(
            f"{name} has a density at 0 that does not end in floats; use rule_estimate on a sample"
        )
    if tail.exponent <= 1 + 1e-9:
        return Computed(np.inf, 0.0)
    if np.isinf(tail.error):
        raise ValueError(
            f"{name} has a density at 0 whose power, {tail.exponent - 1:.6g}, still falls where "
            "floats end; use rule_estimate on a sample"
        )
    return Computed(value + tail.chance / start + tail.excess, error + tail.error)
