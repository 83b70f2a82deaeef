"""E|g_n| from the logarithm of a characteristic function, by quadrature of von Bahr's integral."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import Computed
from theory.samples._filon import oscillating

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
_GONE = 1e-17
_MOST_PANELS = 1200
_WIDTH, _FIRST = 0.5, 10.0
_OCTAVE, _MOST_OCTAVES = np.linspace(1.0, 2.0, 4), 60


def of_function(log_phi: Callable[[Array], Any], n: int) -> Computed:
    def of(t: Array) -> Complex:
        return np.asarray(log_phi(t), dtype=np.complex128)

    return invert(of, 0.0, n)


def lost(log_phi: Complex, n: int) -> Array:
    """1 - Re phi^n from log(phi), without cancellation."""
    decay = n * log_phi.real
    return np.asarray(
        -np.expm1(decay) + np.exp(decay) * 2 * np.sin(n * log_phi.imag / 2) ** 2, dtype=np.float64
    )


def invert(
    log_phi: Callable[[Array], Complex],
    mean: float,
    n: int,
    largest: float = np.inf,
    centre: float | None = None,
) -> Computed:
    """E|Y + mean| of a mean of n: |mean| + (2/pi)*Integral(Re(exp(i*a*u)*(1 - phi^n))/u^2).

    `log_phi` is of one draw less the mean, and `largest` a bound on its size. About `centre`, where
    it is given, phi does not oscillate at high frequencies.
    """
    scale = _scale(log_phi, n)  # |phi(1/scale)|^n = exp(-1/2)
    a = mean * n / scale
    # A heavy tail leaves a power of u at 0, which panels shrinking towards it resolve.
    if np.isfinite(largest):
        depth = max(int(np.ceil(np.log2(_WIDTH * largest / scale))), 0) + 10
        ladder = _WIDTH * 2.0 ** -np.arange(depth, -1.0, -1.0)
    else:
        ladder = np.geomspace(1e-140, _WIDTH, 200)
    end = _FIRST if centre is not None else _end(log_phi, scale, n, _MOST_PANELS * _WIDTH)
    count = int(np.ceil(end / _WIDTH))
    edges = np.concatenate([[0.0], ladder, np.arange(2, count + 2) * _WIDTH])

    def smooth(u: Array) -> Complex:
        value = log_phi(u / scale)
        decay, turn = n * value.real, n * value.imag
        size = np.exp(decay)
        gone = -np.expm1(decay) + size * 2 * np.sin(turn / 2) ** 2
        return np.asarray((gone - 1j * size * np.sin(turn)) / u**2)

    value, error = oscillating(smooth, edges, a)
    # Beyond the end cos(a*u)/u^2 is left, and what is left of phi.
    end = float(edges[-1])
    value += _cosine_tail(a, end)
    if centre is not None:
        shift = mean - centre

        def centred(u: Array) -> Complex:
            value = log_phi(u / scale)
            turn = n * (value.imag + shift * u / scale)
            return np.asarray(np.exp(n * value.real) * np.exp(1j * turn) / u**2)

        for _ in range(_MOST_OCTAVES):
            if float(np.abs(centred(np.array([end]))[0])) * end < 1e-15:
                break
            octave = oscillating(centred, end * _OCTAVE, centre * n / scale)
            value, error, end = value - octave.value, error + octave.error, 2 * end
    u = np.linspace(0.75 * end, end, 400)
    rest = 2 * float(np.exp(n * log_phi(u / scale).real).max())
    # In units of scale/n: E|Y| of the mean, since t = n*u/scale.
    factor = 2 / np.pi * scale / n
    error = factor * (error + min(rest, 1.0) / end + 1e-16 / end)
    return Computed(abs(mean) + factor * value, error + 1e-14 * abs(mean))


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
