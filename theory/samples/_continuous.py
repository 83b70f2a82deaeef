"""E|g_n| of a frozen distribution, as scipy.stats makes them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import Computed, integrate
from theory.samples._atoms import series
from theory.samples._beyond import corrected
from theory.samples._inversion import invert
from theory.samples._panels import RESOLVED, Panels, octaves, panels_of

Array = NDArray[np.float64]

# Frequencies, times the deviation, up to which panels resolve exp(i*t*x), one after another.
_FINEST = (20.0, 160.0, 800.0)
# Beyond so many interquartile ranges the sum's period would hold a million terms.
_LONG = 300.0


def of_distribution(distribution: Any, n: int) -> Computed:
    """One or two draws from the distribution function; more from panels of the density."""
    panels = panels_of(distribution)
    if panels.index <= 1 + 1e-9 or np.isinf(float(distribution.mean())):
        return Computed(np.inf, 0.0)
    low, high = distribution.support()
    if n == 1 or low >= 0 or high <= 0:  # |g_n| of one sign is the mean of all sizes
        return _one_or_two(distribution, panels, 1)
    two = _one_or_two(distribution, panels, 2)
    if n == 2:
        return two
    low, high = _bracket(panels, two)
    if high - low < 1e-11 * high:
        return Computed((low + high) / 2, (high - low) / 2)
    computed = _of_more(distribution, panels, n)
    if low - computed.error <= computed.value <= high + computed.error:
        return Computed(float(np.clip(computed.value, low, high)), computed.error)
    return Computed((low + high) / 2, (high - low) / 2)


def _one_or_two(distribution: Any, panels: Panels, n: int) -> Computed:
    best = _of_tails(distribution, panels, n)
    if best.error > 1e-12 * best.value:
        other = _by_density(distribution, panels, n)
        best = min(best, other, key=lambda computed: computed.error)
    return best


def _bracket(panels: Panels, two: Computed) -> tuple[float, float]:
    """E|g_n| falls with n, from that of two draws to the size of the mean."""
    ends = panels.edges[[0, -1]]
    outer = [side.chance * e + sign * side.excess
             for side, e, sign in zip(panels.sides, ends, (-1, 1), strict=True)]  # fmt: skip
    mean = float((1 - panels.cut) * (panels.p.ravel() @ panels.x.ravel()) + sum(outer))
    loose = two.error + panels.off + panels.tail_off + 1e-13 * two.value
    return abs(mean) - loose, two.value + loose


def _of_more(distribution: Any, panels: Panels, n: int) -> Computed:
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
        if trial.error < 1e-12 * trial.value + 2 * panels.off + 2 * panels.tail_off:
            break
        if finest == _FINEST[0]:  # |phi|^n falls slowly, as at a pole
            other = _by_inversion(distribution, panels, n)
            best = min(best, other, key=lambda computed: computed.error)
            if best.error < 1e-11 * best.value:
                break
    return best


def _by_density(distribution: Any, panels: Panels, n: int) -> Computed:
    """The panels' own sum, where a distribution function of 1 - F has no digits."""
    if n > 1:
        return _by_inversion(distribution, panels, n)
    value = float(panels.p.ravel() @ np.abs(panels.x.ravel()))
    inside = Computed(value, 1e-13 * value + panels.off)
    return corrected(inside, n, panels.cut, panels.tail, panels.tail_off)


def _by_inversion(distribution: Any, panels: Panels, n: int) -> Computed:
    mean = float(panels.p.ravel() @ panels.x.ravel())
    largest = float(np.abs(panels.edges - mean).max())
    ends = [end for end in distribution.support() if np.isfinite(end)]
    centre = float(ends[0]) if ends else float(distribution.ppf(0.5))
    inverted = invert(lambda t: panels.log_phi(t, mean), mean, n, largest, centre)
    return _whole(inverted, panels, n)


def _whole(inside: Computed, panels: Panels, n: int) -> Computed:
    moved = Computed(inside.value, inside.error + panels.off)
    return corrected(moved, n, panels.cut, panels.tail, panels.tail_off)


def _of_tails(distribution: Any, panels: Panels, n: int) -> Computed:
    r"""E|g_1| and E|g_2| as integrals of the distribution function F and of S = 1 - F.

    E|X| = Integral(F(-x) + S(x), (x, 0, oo)), and of two,
    E|X + X'|/2 = Integral(F(x)*F(-x) + S(x)*S(-x), (x, 0, oo)). Beyond the panels, where either is
    next to one, what is left is the mean of the excess.
    """
    value, error = 0.0, panels.tail_off
    sizes = np.unique(np.abs(panels.edges))
    for of, other, edge, side in (
        (lambda x: distribution.cdf(-x), distribution.cdf, -panels.edges[0], panels.sides[0]),
        (distribution.sf, lambda x: distribution.sf(-x), panels.edges[-1], panels.sides[1]),
    ):
        if edge <= 0:
            # All lies beyond zero but for the tail.
            error += side.excess
            continue
        edges = np.unique(np.concatenate([[0.0], sizes[sizes < edge], [edge]]))

        def integrand(x: Array, of: Any = of, other: Any = other) -> Array:
            with np.errstate(all="ignore"):
                part = of(x) * other(x) if n == 2 else of(x)
            return np.asarray(part, dtype=np.float64)

        inner = integrate(integrand, octaves(edges))
        # A distribution function next to one leaves roundings of one beside a small S.
        lost = abs(float(of(np.array(edge))) - side.chance)
        noise = 4 * lost * float(edge) if lost > 1e-6 * side.chance else 0.0
        value += inner.value + side.excess
        error += inner.error + noise
    return Computed(value, error)
