"""E|g_n| of a frozen distribution, as scipy.stats makes them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import Computed, integrate
from theory.samples._atoms import of_atoms, series
from theory.samples._inversion import invert
from theory.samples._panels import RESOLVED, Panels, octaves, panels_of

Array = NDArray[np.float64]

_FAR_TAILS = 10.0 ** -np.arange(20.0, 301.0, 10.0)
# Frequencies, times the deviation, up to which panels resolve exp(i*t*x), one after another.
_FINEST = (20.0, 160.0, 800.0)
# Beyond so many interquartile ranges the sum's period would hold a million terms.
_LONG = 300.0
# Of a distribution on the integers: values held one by one.
_MOST_VALUES = 50_000


def of_integers(distribution: Any, n: int) -> Computed:
    """A distribution on the integers: atoms; of what lies beyond them the mean knows the part."""
    x = np.arange(_reach(distribution, -1), _reach(distribution, 1) + 1)
    p = np.asarray(distribution.pmf(x), dtype=np.float64)
    mean, inside = float(distribution.mean()), float(p.sum())
    if np.isinf(mean):
        return Computed(np.inf, 0.0)
    atoms = of_atoms(x[p > 0], p[p > 0] / inside, n)
    cut = max(1 - inside, 0.0)
    if cut < 1e-12:  # rounding
        ends = float((p[[0, -1]] * x[[0, -1]] ** 2).sum())
        return Computed(atoms.value, atoms.error + ends + 4e-16 * float(np.abs(mean)))
    # All on one side, as the support has one end or the heavier tail decides.
    return _corrected(atoms, n, cut, abs(mean - float(p @ x)), cut * float(np.abs(x).max()) / 1e3)


def _reach(distribution: Any, sign: int) -> float:
    """How far the values go that are held one by one; scipy's own search would never end."""
    end = float(distribution.support()[(sign + 1) // 2])
    middle, step = float(distribution.ppf(0.5)), 16
    while step < _MOST_VALUES and step * distribution.pmf(middle + sign * step) > 1e-17:
        step *= 2
    return sign * min(sign * end, sign * middle + step)


def of_distribution(distribution: Any, n: int) -> Computed:
    """One or two draws from the distribution function; more from panels of the density."""
    panels = panels_of(distribution)
    if panels.index <= 1 + 1e-9 or np.isinf(float(distribution.mean())):
        return Computed(np.inf, 0.0)
    if n <= 2:
        return _of_tails(distribution, n, np.unique(np.abs(panels.edges)))
    spread = float(np.subtract(*distribution.ppf([0.75, 0.25])))
    if float(np.ptp(panels.edges)) > _LONG * spread:
        return _by_inversion(distribution, panels, n)
    best = Computed(np.nan, np.inf)
    for finest in _FINEST:
        x, p = panels.x.ravel(), panels.p.ravel()
        sd = float(np.sqrt(p @ (x - p @ x) ** 2))
        panels = panels_of(distribution, RESOLVED * sd / (finest * spread))
        trial = _whole(series(panels.x.ravel(), panels.p.ravel(), n, 1e-14, finest / sd), panels, n)
        best = min(best, trial, key=lambda computed: computed.error)
        if trial.error < 1e-12 * trial.value + 2 * panels.off + 2 * panels.tail:
            break
        if finest == _FINEST[0]:  # |phi|^n falls slowly, as at a pole
            other = _by_inversion(distribution, panels, n)
            best = min(best, other, key=lambda computed: computed.error)
            if best.error < 1e-11 * best.value:
                break
    return best


def _by_inversion(distribution: Any, panels: Panels, n: int) -> Computed:
    mean = float(panels.p.ravel() @ panels.x.ravel())
    largest = float(np.abs(panels.edges - mean).max())
    ends = [end for end in distribution.support() if np.isfinite(end)]
    centre = float(ends[0]) if ends else float(distribution.ppf(0.5))
    inverted = invert(lambda t: panels.log_phi(t, mean), mean, n, largest, centre)
    return _whole(inverted, panels, n)


def _whole(inside: Computed, panels: Panels, n: int) -> Computed:
    moved = Computed(inside.value, inside.error + panels.off)
    return _corrected(moved, n, panels.cut, panels.tail, panels.tail_off)


def _corrected(inside: Computed, n: int, cut: float, tail: float, off: float) -> Computed:
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


def _of_tails(distribution: Any, n: int, sizes: Array | None = None) -> Computed:
    r"""E|g_1| and E|g_2| as integrals of the distribution function F and of S = 1 - F.

    E|X| = Integral(F(-x) + S(x), (x, 0, oo)), and of two,
    E|X + X'|/2 = Integral(F(x)*F(-x) + S(x)*S(-x), (x, 0, oo)).
    """
    edges = _radii(distribution, np.array([0.0]) if sizes is None else sizes)

    def integrand(x: Array) -> Array:
        with np.errstate(all="ignore"):
            below, above = distribution.cdf(-x), distribution.sf(x)
            if n == 2:
                below, above = below * distribution.cdf(x), above * distribution.sf(-x)
        return np.asarray(below + above, dtype=np.float64)

    value, error = integrate(integrand, edges)
    # Beyond the last edge a tail of index above 1.01 has at most a hundred times its start.
    return Computed(value, error + 100 * float(edges[-1] * integrand(edges[-1:])[0]))


def _radii(distribution: Any, sizes: Array) -> Array:
    """Panels from 0 outwards: the sizes given and far quantiles, none over more than an octave."""
    with np.errstate(all="ignore"):
        far = [*distribution.ppf(_FAR_TAILS), *distribution.isf(_FAR_TAILS)]
    sizes = np.abs(np.concatenate([[0.0], sizes, np.asarray(far), distribution.support()]))
    sizes = np.unique(sizes[np.isfinite(sizes)])
    return octaves(sizes)
