"""E|g_n| of a frozen distribution, as scipy.stats makes them."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import Computed, integrate, nodes
from theory.samples._atoms import of_atoms, series
from theory.samples._inversion import invert
from theory.samples._logarithm import log_phi

Array = NDArray[np.float64]

_TAILS = 10.0 ** -np.arange(1.0, 16.0)
_FAR_TAILS = 10.0 ** -np.arange(20.0, 301.0, 10.0)
# Frequencies, times the deviation, up to which panels resolve exp(i*t*x), one after another.
_FINEST = (20.0, 160.0, 800.0)
_MOST_PARTS = 4000
# Beyond so many interquartile ranges a tail is heavy; panels then.
_LONG, _FINEST_OF_HEAVY, _PARTS_OF_HEAVY = 300.0, 18.0, 12
_FINE, _COARSE = (np.polynomial.legendre.leggauss(order) for order in (20, 14))


def of_integers(distribution: Any, n: int) -> Computed:
    """A distribution on the integers: atoms, between its 1e-15 quantiles."""
    ends = distribution.support()
    low = max(float(distribution.ppf(1e-15)), float(ends[0]))
    high = min(float(distribution.isf(1e-15)), float(ends[1]))
    x = np.arange(low, high + 1)
    p = np.asarray(distribution.pmf(x), dtype=np.float64)
    return of_atoms(x[p > 0], p[p > 0] / p.sum(), n)


def of_distribution(distribution: Any, n: int) -> Computed:
    """One or two draws from the distribution function; more from quadrature atoms of the density.

    Two rules of different order show what the atoms leave out; panels are halved until |phi|^n has
    died out at the frequencies they resolve.
    """
    if n <= 2:
        return _of_tails(distribution, n)
    best = Computed(np.nan, np.inf)
    for finest in _FINEST:
        edges = _quantile_edges(distribution, finest)
        # So long a tail that the sums' period would hold a million terms.
        heavy = float(np.ptp(edges)) > _LONG * float(np.subtract(*distribution.ppf([0.75, 0.25])))
        if heavy:
            edges = _quantile_edges(distribution, _FINEST_OF_HEAVY, _PARTS_OF_HEAVY)
        fine, left_out = _of_nodes(distribution, edges, _FINE, n, None if heavy else finest)
        coarse, _ = _of_nodes(distribution, edges, _COARSE, n, None if heavy else finest)
        error = fine.error + abs(fine.value - coarse.value) + left_out
        if error < best.error:
            best = Computed(fine.value, error)
        if heavy or error < 1e-12 * fine.value + 2 * left_out:
            break
    return best


def _of_tails(distribution: Any, n: int) -> Computed:
    r"""E|g_1| and E|g_2| as integrals of the distribution function F and of S = 1 - F.

    E|X| = Integral(F(-x) + S(x), (x, 0, oo)), and of two,
    E|X + X'|/2 = Integral(F(x)*F(-x) + S(x)*S(-x), (x, 0, oo)).
    """
    edges = _radii(distribution)

    def integrand(x: Array) -> Array:
        below, above = distribution.cdf(-x), distribution.sf(x)
        if n == 2:
            below, above = below * distribution.cdf(x), above * distribution.sf(-x)
        return np.asarray(below + above, dtype=np.float64)

    value, error = integrate(integrand, edges)
    # Beyond the last edge a tail of index above 1.01 has at most a hundred times its start.
    return Computed(value, error + 100 * float(edges[-1] * integrand(edges[-1:])[0]))


def _radii(distribution: Any) -> Array:
    """Panels from 0 outwards: the sizes of the quantiles, no panel over more than an octave."""
    low, high = distribution.support()
    ends = [*distribution.ppf(_FAR_TAILS), *distribution.isf(_FAR_TAILS), low, high]
    sizes = np.abs(np.concatenate([_quantile_edges(distribution, 4.0), np.asarray(ends)]))
    sizes = np.unique(sizes[np.isfinite(sizes)])
    pieces = [np.zeros(1)]
    for a, b in pairwise(sizes):
        if a > 0 and b > 2 * a:
            pieces.append(np.geomspace(a, b, int(np.ceil(np.log2(b / a))) + 1)[1:])
        else:
            pieces.append(np.array([b]))
    return np.unique(np.concatenate(pieces))


def _quantile_edges(distribution: Any, finest: float, most: int = _MOST_PARTS) -> Array:
    """Panels between quantiles, narrow enough for frequencies up to `finest` over the spread."""
    middle = np.asarray(distribution.ppf([0.25, 0.5, 0.75]), dtype=np.float64)
    edges = np.concatenate(
        [distribution.ppf(_TAILS), middle, distribution.isf(_TAILS), distribution.support(), [0.0]]
    )
    low, high = distribution.support()
    edges = np.unique(edges[np.isfinite(edges) & (edges >= low) & (edges <= high)])
    width = 6 * (middle[2] - middle[0]) / finest
    parts = np.clip(np.ceil(np.diff(edges) / width), 1, most).astype(int)
    pieces = [
        np.linspace(a, b, count, endpoint=False)
        for a, b, count in zip(edges[:-1], edges[1:], parts, strict=True)
    ]
    return np.concatenate([*pieces, edges[-1:]])


def _of_nodes(
    distribution: Any, edges: Array, rule: Any, n: int, finest: float | None
) -> tuple[Computed, float]:
    """E|g_n| of the density at quadrature nodes, and what lies beyond the last edges."""
    x, weight = (a.ravel() for a in nodes(edges, rule))
    p = weight * np.asarray(distribution.pdf(x), dtype=np.float64)
    # At the end of its support a density may be infinite.
    keep = (p > 0) & np.isfinite(p)
    x, p = x[keep], p[keep]
    mass = float(p.sum())
    p = p / mass
    sd = float(np.sqrt(p @ (x - p @ x) ** 2))
    left_out = abs(1 - mass) * float(np.abs(x) @ p)
    left_out += 1e-14 * float(max(abs(edges[0]), abs(edges[-1])))
    if finest is None:
        y = x - p @ x
        return invert(lambda t: log_phi(t, y, p), float(p @ x), n, sd), left_out
    return series(x, p, n, 1e-14, finest / sd), left_out
