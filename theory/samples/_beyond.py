"""What the tail of a density holds: its chance, its part of the mean, and its index."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import Computed, integrate

Array = NDArray[np.float64]
# Below `_SMALLEST` a density may be the remnant of an underflow; where what an octave adds is
# below `_NOTHING` of the most that one does, the others are left to the power law.
_SMALLEST, _NOTHING = 1e-290, 1e-22
# A light tail halves many times in its first octave.
_FIRST_OCTAVE = 1 + 2.0 ** -np.arange(12.0, -1.0, -1.0)
_ROUNDING = 1e-13


class Tail(NamedTuple):
    """Chance and mean of (distance - start)+, an error of that mean, and the tail's index.

    The exponent is infinite where the density ends within floats; the error is infinite where the
    index changes so much that what lies beyond the last octave is not known.
    """

    chance: float
    excess: float
    error: float
    exponent: float


def beyond(density: Callable[[Array], Array], start: float) -> Tail | None:
    """The tail of a density of the distance, beyond `start` > 0; None where it does not fall."""
    octaves = start * 2.0 ** np.arange(0.0, np.floor(np.log2(1e300 / start)))
    with np.errstate(all="ignore"):
        f = np.asarray(density(octaves), dtype=np.float64)
    if not f[0] > 0:
        return Tail(0.0, 0.0, 0.0, np.inf) if f[0] == 0 and not (f > 0).any() else None
    usable = np.isfinite(f) & (f > _SMALLEST)
    usable[1:] &= f[1:] < f[:-1]
    count = int(np.argmin(usable)) if not usable.all() else f.size
    if count < 2 and f[1] >= f[0]:
        return None
    with np.errstate(under="ignore"):
        part = octaves[:count] ** 2 * f[:count]
    small = part < _NOTHING * part.max()
    if small.any():
        count = int(np.argmax(small)) + 1
    last = max(count - 1, 1)
    edges = np.concatenate([start * _FIRST_OCTAVE[:-1], octaves[1 : last + 1]])
    edges = np.log(np.concatenate([[start], edges]))

    def weighted(power: int) -> Callable[[Array], Array]:
        def of(v: Array) -> Array:
            y = np.exp(v)
            with np.errstate(all="ignore"):
                value = np.asarray(density(y), dtype=np.float64) * y * (y - start) ** power
            return np.where(np.isfinite(value), value, 0.0)

        return of

    chance, _ = integrate(weighted(0), edges)
    excess, error = integrate(weighted(1), edges)
    error += _ROUNDING * excess
    if count < 3:
        return Tail(chance, excess, error, np.inf)
    indices = np.array([np.log2(a / b) for a, b in pairwise(f[:count])]) - 1
    index, drift = float(indices[-1]), abs(float(indices[-1] - indices[indices.size // 2]))
    end, height = float(octaves[last]), float(f[last])
    if index <= 1 + 1e-9:
        return Tail(chance, excess, np.inf, index)
    rest = end * (end * height) / (index - 1) - start * end * height / index
    # An index that still rises leaves less; one that falls may leave any amount.
    off = rest if indices[-1] >= indices[indices.size // 2] else np.inf
    if drift < (index - 1) / 2:
        off = min(off, rest * drift / (index - 1 - drift) + _ROUNDING * rest)
    if np.isinf(off) and rest < 1e-9 * excess:
        off = 10 * rest
    return Tail(chance + end * height / index, excess + rest, error + off, index)


def corrected(inside: Computed, n: int, cut: float, tail: float, off: float) -> Computed:
    """E|g_n| from that of what lies inside; beyond it are a chance `cut` and `tail` of E|X|.

    Moving the draws from beyond inside changes E|g_n| by at most their share of E|X|. Where that is
    much, they are put back: one such draw of a batch adds its own size, to within twice that of the
    others, of which there is a chance of n*cut.
    """
    left_out = float(tail + off + cut * inside.value * np.sqrt(n))
    put_back = float(off + n * cut * (2 * inside.value + tail))
    if left_out <= put_back:
        return Computed(inside.value, inside.error + left_out)
    return Computed(inside.value + tail, inside.error + put_back)
