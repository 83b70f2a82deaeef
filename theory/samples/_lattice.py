"""E|g_n| of gradients that lie on a grid, where |phi| returns to one and never dies out."""

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import Computed, integrate
from theory.samples._inversion import lost
from theory.samples._logarithm import log_phi

Array = NDArray[np.float64]
_MOST_PANELS = 1200
_EPS = float(np.finfo(np.float64).eps)
# Steps of a grid up to which the integral is folded; a longer one is for the series.
SHORT, _LONGEST = 2000, 1e7


def spacing(x: Array) -> float | None:
    """The spacing, if all values lie on a grid of at most ten million points."""
    values = np.unique(x)
    if values.size < 2:
        return None
    steps = values - values[0]
    gap = float(np.diff(values).min())
    places = np.round(steps / gap)
    if places[-1] > _LONGEST:
        return None
    gap = float(steps[-1] / places[-1])  # the difference of two neighbours has few digits
    off = np.abs(steps / gap - places).max()
    return gap if off <= max(1e-9, 4 * _EPS * float(np.abs(values).max()) / gap) else None


def on_lattice(x: Array, p: Array, gap: float, n: int) -> Computed:
    """On a grid |phi| returns to one; its period folds the integral onto (0, pi).

    E|K - m| = Integral((1 - Re(phi_K(t)*exp(-i*m*t)))/sin(t/2)^2, (t, 0, pi))/(2*pi) for whole K
    and m; between whole numbers E|K - m| is linear in m.
    """
    start = float(x.min())
    k = np.round((x - start) / gap)
    middle = -n * start / gap
    low = float(np.floor(middle))
    total, error = 0.0, 0.0
    for m, weight in ((low, 1 - (middle - low)), (low + 1, middle - low)):
        if weight == 0:
            continue
        shift = m / n  # exp(-i*m*t) belongs to the n factors in equal parts
        width = 0.5 / np.sqrt(n * float(p @ (k - shift) ** 2) + 1)
        count = int(min(max(np.ceil(np.pi / width), 8), _MOST_PANELS))
        edges = np.linspace(0.0, min(np.pi, count * width), count + 1)

        def integrand(t: Array, shift: float = shift) -> Array:
            share: Array = lost(log_phi(t, k - shift, p), n) / np.sin(t / 2) ** 2
            return share

        value, off = integrate(integrand, edges)
        if edges[-1] < np.pi:
            value += 2 / np.tan(edges[-1] / 2)
            t = np.linspace(edges[-1], np.pi, 2001)
            rest = np.abs(1 - lost(log_phi(t, k - shift, p), n)).max()
            off += 2 * float(rest) * 2 / np.tan(edges[-1] / 2)
        total += weight * value / (2 * np.pi)
        error += weight * off / (2 * np.pi)
    scale = gap / n
    return Computed(scale * total, scale * (error + 1e-10 * abs(middle) * 1e-5))
