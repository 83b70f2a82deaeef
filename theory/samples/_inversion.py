"""E|g_n| from the logarithm of a characteristic function, by quadrature of von Bahr's integral."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import Computed, integrate

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
_GONE = 1e-17
_MOST_PANELS = 1200  # where phi is a function
_MOST_PANELS_OF_ATOMS = 120


def of_function(log_phi: Callable[[Array], Any], n: int) -> Computed:
    def of(t: Array) -> Complex:
        return np.asarray(log_phi(t), dtype=np.complex128)

    return invert(of, 0.0, n, np.inf)


def lost(log_phi: Complex, n: int) -> Array:
    """1 - Re phi^n from log(phi), without cancellation."""
    decay = n * log_phi.real
    return np.asarray(
        -np.expm1(decay) + np.exp(decay) * 2 * np.sin(n * log_phi.imag / 2) ** 2, dtype=np.float64
    )


def invert(log_phi: Callable[[Array], Complex], mean: float, n: int, sd: float) -> Computed:
    """E|Y + mean| of a mean of n: |mean| + (2/pi)*Integral((cos(a*t) - Re(...))/t^2)."""
    scale = _scale(log_phi, n)  # |phi(1/scale)|^n = exp(-1/2)
    a = mean * n / scale if mean else 0.0
    if abs(a) > 200:
        # Chebyshev: E(|Y| - |mean|)+ is at most var/(4*|mean|), on either side.
        bound = (
            min(sd**2 / n, (scale / n) ** 2 * 10) / (2 * abs(mean)) if np.isfinite(sd) else np.inf
        )
        return Computed(abs(mean), bound + 1e-14 * abs(mean))

    def integrand(u: Array) -> Array:
        value = log_phi(u / scale)
        if not mean:
            return lost(value, n) / u**2
        decay, turn = n * value.real, n * value.imag
        size = np.exp(decay)
        # cos(au) - e^d cos(au + turn), with the small parts apart.
        gone = -np.expm1(decay) + size * 2 * np.sin(turn / 2) ** 2
        return (gone * np.cos(a * u) + size * np.sin(turn) * np.sin(a * u)) / u**2

    width = 0.5 / (1 + abs(a) / 10)
    # A heavy tail leaves a power of u at 0, which panels shrinking towards it resolve; atoms are
    # bounded, and a few panels do.
    atoms = np.isfinite(sd)
    ladder = [0.0, *(np.geomspace(1e-5, width, 9) if atoms else np.geomspace(1e-140, width, 200))]
    end = _end(log_phi, scale, n, (_MOST_PANELS_OF_ATOMS if atoms else _MOST_PANELS) * width)
    edges = np.concatenate([ladder, np.arange(1, int(np.ceil(end / width)) + 1) * width + width])
    value, error = integrate(integrand, edges)
    # Beyond the end: 1/u^2 is left of the centred integral, and cos(a*u)/u^2 of the other.
    end = float(edges[-1])
    u = np.linspace(0.75 * end, end, 400)
    rest = 2 * float(np.exp(n * log_phi(u / scale).real).max())
    tail = 1 / end if not mean else _cosine_tail(a, end)
    factor = 2 / np.pi * scale / n
    # In units of scale/n: E|Y| of the mean, since t = n*u/scale.
    total = factor * (value + tail)
    error = factor * (error + min(rest, 1.0) / end + 1e-16 / end)
    return (
        Computed(abs(mean) + total, error + 1e-14 * abs(mean)) if mean else Computed(total, error)
    )


def _cosine_tail(a: float, end: float) -> float:
    """Integral(cos(a*u)/u^2, (u, end, oo))."""
    from scipy.special import sici

    a = abs(a)
    return float(np.cos(a * end) / end - a * (np.pi / 2 - sici(a * end)[0]))


def _scale(log_phi: Callable[[Array], Complex], n: int) -> float:
    """1/t at the first t where |phi(t)|^n = exp(-1/2), by a scan and bisection."""
    grid = np.geomspace(1e-14, 1e14, 281) if n >= 1 else np.array([])
    decay = n * log_phi(grid).real
    place = int(np.argmax(decay < -0.5))
    if not decay[place] < -0.5:
        raise ValueError(
            "source does not vary: |E exp(i*t*g)| stays near one at every t; pass the logarithm "
            "of a characteristic function, whose real part falls"
        )
    low, high = grid[max(place - 1, 0)], grid[place]
    for _ in range(30):
        middle = float(np.sqrt(low * high))
        if n * log_phi(np.array([middle])).real[0] < -0.5:
            high = middle
        else:
            low = middle
    return 1 / float(high)


def _end(log_phi: Callable[[Array], Complex], scale: float, n: int, last: float) -> float:
    """Where |phi|^n has died out for good, as far as a scan sees, or the most panels reach."""
    end = 10.0
    while end < last:
        u = np.linspace(end, min(2 * end, last), 200)
        if np.exp(n * log_phi(u / scale).real).max() < _GONE:
            break
        end *= 1.5
    return min(end, last)
