"""A distribution on panels: its density where that is smooth, its exact mass everywhere."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.samples._beyond import Tail, beyond
from theory.samples._filon import large_moments, legendre
from theory.samples._logarithm import logarithm

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

CUT = 1e-15  # the chance of what lies beyond the last edge, on either side
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_DEGREE = 23
_TO_SERIES = legendre(_NODES, _WEIGHTS, _DEGREE)
# Up to this frequency times half the width 48 nodes resolve exp(i*t*x) to rounding; from half of
# it the recurrence of large_moments is stable.
RESOLVED = 45.0
_MOST_PANELS, _MOST_ROUNDS = 3000, 60
_TAILS = 10.0 ** -np.arange(1.0, 16.0)
_LIGHT = 20.0  # the index from which the mean has nothing left beyond CUT
_ROWS = 32  # frequencies at a time
# Gauss rules for low frequencies: the largest t*half, and the order.
_COARSE = ((0.01, 4), (0.3, 6), (2.0, 11))
_EPS = float(np.finfo(np.float64).eps)
_NOISE = 16 * _EPS  # of a difference of distribution functions next to one
Sides = tuple[Tail, Tail]


@dataclass(frozen=True)
class Panels:
    """Nodes x and chances p, one row a panel, each panel having its exact mass.

    `off` bounds how far probability was moved (times how much), between the outer edges; `cut` is
    the chance of what lies beyond them, and `sides` are the two tails, of the distance from the
    median.
    """

    edges: Array
    x: Array
    p: Array
    off: float
    cut: float
    sides: Sides

    @property
    def index(self) -> float:
        """The smaller of the two tails' index."""
        return min(side.exponent for side in self.sides)

    @property
    def tail(self) -> float:
        """The part of E|X| that lies beyond the edges."""
        ends = np.abs(self.edges[[0, -1]])
        return sum(t.chance * float(e) + t.excess for t, e in zip(self.sides, ends, strict=True))

    @property
    def tail_off(self) -> float:
        """What that may be wrong by; an edge beyond zero bounds it only."""
        ends = (-self.edges[0], self.edges[-1])
        return sum(
            t.error + 2 * t.chance * max(-float(e), 0.0)
            for t, e in zip(self.sides, ends, strict=True)
        )

    @cached_property
    def _series(self) -> Array:
        return np.asarray((self.p / _WEIGHTS) @ _TO_SERIES.T)

    @cached_property
    def _coarser(self) -> list[tuple[float, Array, Array]]:
        """The largest t*half at which it serves, nodes and chances; from few nodes to all."""
        rules = [(most, *_gauss(self.x, self.p, order)) for most, order in _COARSE]
        return [*rules, (RESOLVED, self.x, self.p)]

    def log_phi(self, t: Array, centre: float) -> Complex:
        """log E exp(i*t*(X - centre)) for ascending t > 0, keeping the digits of 1 - phi near 0."""
        out = np.empty(t.shape, dtype=np.complex128)
        half, middle = np.diff(self.edges) / 2, (self.edges[1:] + self.edges[:-1]) / 2 - centre
        for start in range(0, t.size, _ROWS):
            frequencies = t[start : start + _ROWS]
            real, imaginary, below = np.zeros(frequencies.size), np.zeros(frequencies.size), -1.0
            for most, x, p in self._coarser:
                here = (frequencies[-1] * half > below) & (frequencies[-1] * half <= most)
                below = most
                if here.any():
                    angle = np.outer(frequencies, x[here].ravel() - centre)
                    real -= 2 * (np.sin(angle / 2) ** 2 @ p[here].ravel())
                    imaginary += np.sin(angle) @ p[here].ravel()
            wide = frequencies[-1] * half > RESOLVED
            if wide.any():
                powers = large_moments(np.outer(frequencies, half[wide]), _DEGREE)
                series = np.einsum("kij,jk->ij", powers, self._series[wide])
                series *= np.exp(1j * np.outer(frequencies, middle[wide]))
                real += series.real.sum(axis=1) - self.p[wide].sum()
                imaginary += series.imag.sum(axis=1)
            out[start : start + _ROWS] = logarithm(real, imaginary)
        return out


def _gauss(x: Array, p: Array, order: int) -> tuple[Array, Array]:
    """Gauss's rule of an order for the measure of each row, by Stieltjes's recurrence."""
    middle, half = x.mean(axis=1), np.ptp(x, axis=1) / np.ptp(_NODES)
    z = np.broadcast_to(_NODES, x.shape)
    mass = p.sum(axis=1)
    weight = p / np.where(mass > 0, mass, 1.0)[:, None]
    weight = np.where(mass[:, None] > 0, weight, _WEIGHTS / 2)
    now, before, norm = np.ones_like(z), np.zeros_like(z), np.zeros(mass.size)
    jacobi = np.zeros((mass.size, order, order))
    for k in range(order):
        alpha = (weight * z * now**2).sum(axis=1)
        jacobi[:, k, k] = alpha
        after = (z - alpha[:, None]) * now - norm[:, None] * before
        norm = np.sqrt((weight * after**2).sum(axis=1))
        # Where all chance is at fewer nodes than the order, the recurrence ends early.
        before, now = now, after / np.where(norm > 1e-14, norm, np.inf)[:, None]
        if k + 1 < order:
            jacobi[:, k, k + 1] = jacobi[:, k + 1, k] = norm
    nodes, vectors = np.linalg.eigh(jacobi)
    return middle[:, None] + half[:, None] * nodes, mass[:, None] * vectors[:, 0, :] ** 2


def panels_of(distribution: Any, widest: float = np.inf) -> Panels:
    """Panels of a frozen continuous distribution, none wider than `widest` interquartile ranges.

    They grow by octaves from the median and from the ends of the support, and are halved where the
    density's Legendre series has not converged, at a cusp or a jump.
    """
    with np.errstate(all="ignore"):
        quartiles = np.asarray(distribution.ppf([0.25, 0.5, 0.75]), dtype=np.float64)
        scale = float(quartiles[2] - quartiles[0])
        edges = _split(_first_edges(distribution, quartiles, scale), widest * scale)
        a, b, x, p, loose = _halved(distribution, edges, scale)
        left = b <= quartiles[1]
        mass = np.where(
            left,
            distribution.cdf(b) - distribution.cdf(a),
            distribution.sf(a) - distribution.sf(b),
        )
        cut, sides = _beyond(distribution, float(a[0]), float(b[-1]))
    total = p.sum(axis=1)
    # Where the mass is lost in rounding, as that of 1 - F far out, a smooth density knows it.
    noise = (np.abs(total - mass) <= _NOISE) & (loose < 1e-9 * total)
    mass = np.where(noise, total, mass)
    near = np.abs(total - mass) <= 0.1 * mass
    factor = np.divide(mass, total, out=np.zeros_like(mass), where=near)
    p = np.where(near[:, None], p * factor[:, None], mass[:, None] / 2 * _WEIGHTS)
    # What a panel has too much or too little moves by its width at most.
    wrong = np.where(near, np.abs(total - mass) + loose + noise * _EPS * total, mass) * (b - a)
    edges = np.append(a, b[-1])
    return Panels(edges, x, p / p.sum(), float(wrong.sum()), cut, sides)


def _split(edges: Array, widest: float) -> Array:
    parts = np.clip(np.ceil(np.diff(edges) / widest), 1, 4000).astype(int)
    pieces = [
        np.linspace(a, b, count, endpoint=False)
        for (a, b), count in zip(pairwise(edges), parts, strict=True)
    ]
    return np.concatenate([*pieces, edges[-1:]])


def _first_edges(distribution: Any, quartiles: Array, scale: float) -> Array:
    """Quantiles, octaves from the median outwards, and octaves towards finite ends."""
    low, high = (float(end) for end in distribution.support())
    inner = _outermost(distribution.ppf), _outermost(distribution.isf)
    first = low if np.isfinite(low) else inner[0]
    last = high if np.isfinite(high) else inner[1]
    median = float(quartiles[1])
    pieces = [distribution.ppf(_TAILS), distribution.isf(_TAILS), quartiles, [0.0, first, last]]
    for end, near, of_support, sign in (
        (first, inner[0], low, -1.0),
        (last, inner[1], high, 1.0),
    ):
        reach = abs(end - median)
        count = np.ceil(np.log2(max(reach / scale, 1.0)))
        pieces.append(median + sign * scale * 2.0 ** np.arange(count + 1))
        if not np.isfinite(of_support):
            continue
        # A density may have a pole at the end. Below `least` floats do not tell.
        least = max(abs(near - end), 4 * _EPS * abs(end), 1e-300)
        count = np.ceil(np.log2(max(reach / least, 1.0)))
        pieces.append(end - sign * reach * 2.0 ** -np.arange(count + 1))
    edges = np.unique(np.concatenate([np.asarray(piece, dtype=np.float64) for piece in pieces]))
    return edges[(edges >= first) & (edges <= last)]


def _outermost(quantile: Any) -> float:
    """The quantile at CUT, or the nearest one that scipy finds."""
    for chance in _TAILS[::-1]:
        edge = float(quantile(chance))
        if np.isfinite(edge):
            return edge
    raise ValueError("source has no finite quantiles; pass a frozen distribution that has")


def _halved(distribution: Any, edges: Array, scale: float) -> tuple[Array, ...]:
    """Panels as columns: ends, nodes, weighted densities, and the mass that may be misplaced."""
    a, b = edges[:-1], edges[1:]
    good, count = [], 0
    for _ in range(_MOST_ROUNDS):
        half, middle = (b - a)[:, None] / 2, (a + b)[:, None] / 2
        x = middle + half * _NODES
        f = np.asarray(distribution.pdf(x), dtype=np.float64)
        f = np.where(np.isfinite(f), f, 0.0)  # infinite at a pole
        loose = 2 * half[:, 0] * np.abs(f @ _TO_SERIES[-3:].T).max(axis=1)
        bad = (loose * (b - a) > 1e-16 * scale) & (b - a > 1e-13 * np.maximum(abs(a), abs(b)))
        if count + a.size > _MOST_PANELS:
            bad[:] = False
        count += a.size
        columns = (a, b, x, half * f * _WEIGHTS, loose)
        good.append(tuple(column[~bad] for column in columns))
        if not bad.any():
            break
        a, b, middle = a[bad], b[bad], middle[bad, 0]
        a, b = np.concatenate([a, middle]), np.concatenate([middle, b])
    merged = [np.concatenate(columns) for columns in zip(*good, strict=True)]
    order = np.argsort(merged[0])
    return tuple(column[order] for column in merged)


def _beyond(distribution: Any, first: float, last: float) -> tuple[float, Sides]:
    """Of both tails: the chance beyond the edges, and what they hold, lower and upper."""
    middle = float(distribution.ppf(0.5))
    low, high = (float(end) for end in distribution.support())
    sides = (
        _side(distribution.cdf, lambda y: distribution.pdf(middle - y), first, middle, low),
        _side(distribution.sf, lambda y: distribution.pdf(middle + y), last, middle, high),
    )
    return sides[0].chance + sides[1].chance, sides


def _side(of: Any, density: Any, edge: float, middle: float, end: float) -> Tail:
    """One tail by its density: a distribution function of 1 - F has few digits there."""
    start = abs(edge - middle)
    if edge == end or not start > 0:
        return Tail(0.0, 0.0, 0.0, np.inf)
    chance = float(of(edge))
    tail = beyond(density, start)
    if tail is None and chance <= _NOISE:
        # No density outside a support that scipy does not state.
        return Tail(max(chance, 0.0), 0.0, 2 * _NOISE * start, np.inf)
    doubt = max(chance, 0.0) / 2 + 2 * _NOISE
    if tail is None or (tail.exponent < _LIGHT and abs(tail.chance - chance) > doubt):
        raise ValueError(
            f"source has a chance of {chance:.3g} beyond {edge:.6g} by its distribution function "
            f"and {'none' if tail is None else format(tail.chance, '.3g')} that falls by its "
            "density; so its tail, and the mean, are not known: pass a sample of it, or the "
            "logarithm of its characteristic function"
        )
    if np.isinf(tail.error) and tail.exponent > 1 + 1e-9:
        raise ValueError(
            f"source has a tail of index {tail.exponent:.6g} that still falls where floats end, so "
            "its mean is not known; pass a sample of it"
        )
    return tail


def octaves(sizes: Array) -> Array:
    """Ascending sizes, with more between those that are over a factor of two apart."""
    pieces = [sizes[:1]]
    for a, b in pairwise(sizes):
        if a > 0 and b > 2 * a:
            pieces.append(np.geomspace(a, b, int(np.ceil(np.log2(b / a))) + 1)[1:])
        else:
            pieces.append(np.array([b]))
    return np.unique(np.concatenate(pieces))
