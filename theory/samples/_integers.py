"""E|g_n| of a distribution of scipy.stats that has chances instead of a density."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import Computed
from theory.samples._atoms import EPS, of_atoms
from theory.samples._beyond import corrected

Array = NDArray[np.float64]
Open = tuple[bool, bool]

# Values held one by one: of one or two draws, which are sorted sums, and of more, which are series.
_MOST_FEW, _MOST = 1 << 21, 100_000
# Further away than so many interquartile ranges values are a tail, not a wide bulk.
_WIDE = 1000.0
_NOISE = 16 * EPS


def of_integers(distribution: Any, n: int) -> Computed:
    """Its values with their chances; of wide ones those of short stretches, of a tail bounds."""
    listed = _listed(distribution)
    if listed is not None:
        return of_atoms(*listed, n)
    mean = float(distribution.mean())
    if np.isinf(mean):
        return Computed(np.inf, 0.0)
    most = _MOST_FEW if n <= 2 else _MOST
    low, high = (float(end) for end in distribution.support())
    if high - low < most:
        x = np.arange(low, high + 1)
        p = np.asarray(distribution.pmf(x), dtype=np.float64)
        atoms = _of_chances(x, p, n)
        # The chances of scipy miss one by rounding.
        return Computed(atoms.value, atoms.error + abs(1 - float(p.sum())) * atoms.value)
    quartiles = np.asarray(distribution.ppf([0.25, 0.5, 0.75]), dtype=np.float64)
    if not np.isfinite(quartiles).all():
        raise ValueError(
            f"source has the quartiles {quartiles.tolist()}, by scipy; pass a sample of it, or a "
            "continuous distribution next to it"
        )
    middle, spread = float(quartiles[1]), max(float(quartiles[2] - quartiles[0]), 16.0)
    ends = [_end(distribution, sign, middle, spread * _WIDE, end)
            for sign, end in ((-1, low), (1, high))]  # fmt: skip
    open_ends = ends[0] > low, ends[1] < high
    if ends[1] - ends[0] >= most:
        return _of_stretches(distribution, ends, open_ends, n, most, mean)
    x = np.arange(ends[0], ends[1] + 1)
    p = np.asarray(distribution.pmf(x), dtype=np.float64)
    return _with_tails(distribution, _of_chances(x, p, n), open_ends, x, p, n, mean)


def _listed(distribution: Any) -> tuple[Array, Array] | None:
    """Values and chances of a distribution that was made of them, rv_discrete(values=...)."""
    law = getattr(distribution, "dist", distribution)
    if not hasattr(law, "xk") or not hasattr(law, "pk"):
        return None
    shift = float(distribution.support()[0]) - float(np.min(law.xk))
    return np.asarray(law.xk, dtype=np.float64) + shift, np.asarray(law.pk, dtype=np.float64)


def _of_chances(x: Array, p: Array, n: int) -> Computed:
    alive = p > 0
    return of_atoms(x[alive], p[alive] / float(p.sum()), n)


def _end(distribution: Any, sign: int, middle: float, furthest: float, end: float) -> float:
    """Where a side has next to no chance left; scipy's own search would never end."""
    of = distribution.sf if sign > 0 else distribution.cdf
    step = 16.0
    while step < furthest:
        place = middle + sign * step
        if sign * place >= sign * end:
            return end
        # Both: a gap has no chance, and the rest next to one no digits.
        if step * distribution.pmf(place) < 1e-17 and float(of(place)) < _NOISE:
            return place
        step *= 2
    return float(sign * min(sign * end, sign * middle + furthest))


def _of_stretches(
    distribution: Any, ends: list[float], open_ends: Open, n: int, most: int, mean: float
) -> Computed:
    """Values by stretches with their exact chances; half of one's length bounds what it moves."""
    width = np.ceil((ends[1] - ends[0] + 1) / most)
    first = np.arange(ends[0], ends[1] + 1, width)
    edges = np.append(first, ends[1] + 1)
    below = np.asarray(distribution.cdf(edges - 1), dtype=np.float64)
    above = np.asarray(distribution.sf(edges - 1), dtype=np.float64)
    p = np.where(below[1:] < 0.5, np.diff(below), above[:-1] - above[1:])
    p = np.maximum(p, 0.0)
    x = (edges[:-1] + edges[1:] - 1) / 2
    atoms = _of_chances(x, p, n)
    moved = Computed(atoms.value, atoms.error + (width - 1) / 2)
    return _with_tails(distribution, moved, open_ends, x, p, n, mean)


def _with_tails(
    distribution: Any, atoms: Computed, open_ends: Open, x: Array, p: Array, n: int, mean: float
) -> Computed:
    """Put back what lies beyond the values held, on either side."""
    inside = float(p.sum())
    cut, tail, off = max(1 - inside, 0.0), 0.0, 0.0
    if cut < _NOISE * np.sqrt(x.size):  # rounding: chances fall fast where these ends are
        ends = float((p[[0, -1]] * x[[0, -1]] ** 2)[list(open_ends)].sum())
        rounding = (cut + 4 * EPS) * atoms.value
        return Computed(atoms.value, atoms.error + ends + rounding)
    if sum(open_ends) == 1:
        # One tail: the mean knows its part.
        tail, off = abs(mean - float(p @ x)), 16 * EPS * float(p @ np.abs(x))
    else:
        for sign, end, of in ((-1, x[0], distribution.cdf), (1, x[-1], distribution.sf)):
            chance = float(of(end - 1 if sign < 0 else end))
            low, high = _excess(of, float(end), sign, chance)
            tail += chance * abs(float(end)) + (low + high) / 2
            off += (high - low) / 2
    return corrected(atoms, n, cut, tail, off)


def _excess(of: Any, end: float, sign: int, chance: float) -> tuple[float, float]:
    """Bounds of E(|X - end|)+ by the chances at distances that double."""
    low = high = 0.0
    distance, before = 0.0, chance
    for k in range(200):
        following = 2.0**k
        now = float(of(end + sign * following - (sign < 0)))
        low, high = low + (following - distance) * now, high + (following - distance) * before
        distance, before = following, now
        if now * following < 1e-17 * high:
            return low, high
    raise ValueError(
        f"source has a chance of {before:.3g} beyond {end + sign * distance:.3g}; its mean is not "
        "known: pass a sample of it"
    )
