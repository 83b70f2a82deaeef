"""How probable it is that an eigenvalue has not shown in a Krylov space from a random start.

Small residuals say that eigenvalues are near the Ritz values, not which ones: where the start has
next to nothing of an eigenvector, others converge long before it shows. How much it can have of
one unseen follows from the space itself, and how probable so little is from chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

Array = NDArray[np.float64]
# Of the largest eigenvalue in size: so far from all Ritz values none may lie unseen; beyond the
# first one of that itself, or of so small a part of the largest.
APART, SMALL = 0.01, 1e-4
# Places that are looked at between two Ritz values.
BETWEEN = 9
# Where the sum of a Christoffel function may end, before it overflows.
LARGE = 1e200
# The ends of the spectrum at which values are wanted.
ENDS = {"largest": (1,), "smallest": (-1,), "magnitude": (1, -1)}
# Smallest first, the order in which Ritz values are wanted.
ORDERS: dict[str, Callable[[Array], Array]] = {
    "largest": lambda values: -values,
    "smallest": lambda values: values,
    "magnitude": lambda values: -np.abs(values),
}


@dataclass(frozen=True)
class Filter:
    """The polynomial q = Π (x - discarded) that a restart applied to the start, and what it left.

    `alpha` and `beta` are the tridiagonal matrix of the space until then.
    """

    alpha: Array
    beta: Array
    retained: Array
    coordinates: Array
    discarded: Array

    def logarithms(self) -> Array:
        """log |Π (θ - discarded)| for each retained θ."""
        apart = np.abs(self.retained[:, None] - self.discarded)
        with np.errstate(divide="ignore"):
            result: Array = np.log(apart).sum(1)
        return result

    def growth(self, places: Array) -> Array:
        """log of q(place)² / ‖q(M)z‖², the factor by which it raised the share at every place."""
        with np.errstate(divide="ignore"):
            at_places = 2 * np.log(np.abs(places[:, None] - self.discarded)).sum(1)
            terms = 2 * (self.logarithms() + np.log(np.abs(self.coordinates)))
        result: Array = at_places - np.logaddexp.reduce(terms)
        return result


@dataclass
class Start:
    """The random vector that a Krylov space began with, through all restarts.

    A restart that keeps Ritz vectors is one with a new start, q(M)z, where q has the discarded
    Ritz values for roots (Morgan 1996; Sorensen 1992).

    Attributes:
        coordinates: of the start of now, of length one, in the first rows of the basis.
        filters: what restarts did to it.
    """

    coordinates: Array = field(default_factory=lambda: np.ones(1))
    filters: list[Filter] = field(default_factory=list)

    def restart(self, values: Array, weights: Array, retained: int) -> None:
        """Only the first Ritz vectors are kept; their values, and weights ``[m, m]``."""
        count = len(self.coordinates)
        coordinates: Array = weights[:count].T @ self.coordinates
        space = _tridiagonal(np.diag(values), coordinates)
        last = Filter(*space, values[:retained], coordinates[:retained], values[retained:])
        self.filters.append(last)
        logarithms = last.logarithms()
        scaled = np.exp(logarithms - logarithms.max())
        signs = np.prod(np.sign(last.retained[:, None] - last.discarded), axis=1)
        self.coordinates = scaled * signs * last.coordinates
        self.coordinates /= np.linalg.norm(self.coordinates)

    def shares(self, matrix: Array, places: Array) -> Array:
        """At most so much of its squared length does the start have along unseen eigenvectors.

        `matrix` is that of the space, `places` the eigenvalues. All eigenvectors of one eigenvalue
        count as one. What the spaces before the restarts say holds too, and says more once filters
        have left nothing of the start but the first eigenvectors.
        """
        growth, least = np.zeros(len(places)), np.ones(len(places))
        for each in self.filters:
            before = _christoffel(each.alpha, each.beta, places) * _exp(-growth)
            least = np.minimum(least, before)
            growth += each.growth(places)
        alpha, beta = np.diag(matrix), np.abs(np.diag(matrix, 1))
        if self.filters:
            alpha, beta = _tridiagonal(matrix, self.coordinates)
        return np.minimum(least, _christoffel(alpha, beta, places) * _exp(-growth))

    def unseen(self, matrix: Array, order: str, count: int, size: int) -> float:
        """The probability that an eigenvalue is not shown that belongs to the first `count`.

        It lies beyond the first by more than `APART` of that, or between the others, away from all
        by more than `APART` of the largest size. `size` is that of the whole matrix.
        """
        values = np.linalg.eigvalsh(matrix).astype(np.float64)
        chances = []
        for places in _places(values, order, count):
            chances.append(chance(float(self.shares(matrix, places).max()), size))
        return math.fsum(chances)


def chance(share: float, size: int) -> float:
    """The probability that a random direction has so little of its squared length along one axis.

    Of all directions alike the share has the distribution Beta(1/2, (n - 1)/2).
    """
    return float(betainc(0.5, (size - 1) / 2, min(share, 1.0)))


def beyond(tridiagonal: Array, limit: float, closed: bool, size: int) -> float:
    """The probability that a matrix has an unseen eigenvalue λ ≥ `limit`; ∞ if one is seen.

    `tridiagonal` is that of a Lanczos run from a normal random vector, `closed` where that ended by
    itself.
    """
    if float(np.linalg.eigvalsh(tridiagonal)[-1]) >= limit:
        return math.inf
    if closed:
        return 0.0
    return chance(float(Start().shares(tridiagonal, np.array([limit]))[0]), size)


def _exp(logarithms: Array) -> Array:
    result: Array = np.exp(np.minimum(logarithms, 700.0))  # what is larger says nothing
    return result


def _places(values: Array, order: str, count: int) -> list[Array]:
    """Where, at each end, an unseen eigenvalue would be the most probable."""
    largest = float(np.abs(values).max())
    apart = APART * largest
    last = -float(np.sort(ORDERS[order](values))[min(count, len(values)) - 1])
    ends = []
    for sign in ENDS[order]:
        seen = [float(v) for v in np.sort(sign * values)[::-1] if v >= last]
        edges = [*seen, last]
        places = [edges[0] + APART * max(abs(edges[0]), SMALL * largest)]
        for upper, lower in pairwise(edges):
            if upper - lower > 2 * apart:
                places += np.linspace(lower + apart, upper - apart, BETWEEN).tolist()
        ends.append(sign * np.array(places))
    return ends


def _christoffel(alpha: Array, beta: Array, places: Array) -> Array:
    """The Christoffel function K of a Lanczos run, that no share at these places is above.

    The tridiagonal matrix of s steps has a quadrature that is exact up to degree 2s - 1. So for
    the polynomials p of degree s - 1, the share at λ is at most Σ ω_j p(θ_j)² / p(λ)², the least of
    which is K = 1 / Σ p_i(λ)² of the orthonormal polynomials p_0, …, p_(s-1) (Golub & Meurant
    2010).
    """
    before, now = np.zeros(len(places)), np.ones(len(places))
    total = np.ones(len(places))
    for i, off in enumerate(beta):
        last = beta[i - 1] if i else 0.0
        before, now = now, ((places - alpha[i]) * now - last * before) / off
        # Where the sum is large it is of fewer steps, and small enough.
        before, now = (np.where(total > LARGE, 0.0, each) for each in (before, now))
        total += now * now
    result: Array = 1 / total
    return result


def _tridiagonal(matrix: Array, start: Array) -> tuple[Array, Array]:
    """Lanczos of a small matrix from a start that has its first rows alone, reorthogonalised."""
    size = len(matrix)
    scale = float(np.abs(matrix).max())
    vector = np.zeros(size)
    vector[: len(start)] = start / np.linalg.norm(start)
    rows: list[Array] = []
    alpha: list[float] = []
    beta: list[float] = []
    while True:
        rows.append(vector)
        product = matrix @ vector
        alpha.append(float(vector @ product))
        for _ in range(2):
            product = product - np.array(rows).T @ (np.array(rows) @ product)
        length = float(np.linalg.norm(product))
        if len(rows) == size or length <= size * np.finfo(np.float64).eps * scale:
            return np.array(alpha), np.array(beta)
        beta.append(length)
        vector = product / length
