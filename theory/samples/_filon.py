"""Integrals of smooth functions times exp(i*t*x), at every t: Legendre series on panels.

On a panel the integral of exp(i*t*x)*P_k(x) is 2*i^k*j_k(t), j_k a spherical Bessel function
(Filon's idea, with Legendre polynomials for powers); so a panel is as exact at high frequencies as
at low ones, and its width need only suit the function.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.quadrature import Computed

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]


def legendre(nodes: Array, weights: Array, degree: int) -> Array:
    """The matrix from values at Gauss-Legendre nodes to coefficients up to a degree."""
    order = np.arange(degree + 1)
    values = np.polynomial.legendre.legvander(nodes, degree)
    return np.asarray((2 * order[:, None] + 1) / 2 * (values * weights[:, None]).T)


_RULES = [np.polynomial.legendre.leggauss(order) for order in (32, 20)]


def oscillating(f: Callable[[Array], Complex], edges: Array, a: float) -> Computed:
    """Re of the integral of exp(i*a*u)*f(u) over panels on which f is smooth, whatever a.

    The error compares 32 nodes with 20, as `theory.quadrature.integrate` does.

    >>> integral = oscillating(lambda u: np.exp(-u) + 0j, np.linspace(0.0, 40.0, 41), 1e3)
    >>> bool(abs(integral.value - 1 / (1 + 1e6)) < 1e-15)
    True
    """
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    parts, size = [], 0.0
    for nodes, weights in _RULES:
        degree = nodes.size - 1
        u = middle[:, None] + half[:, None] * nodes
        series = f(u.ravel()).reshape(u.shape) @ legendre(nodes, weights, degree).T
        order = np.arange(degree + 1)
        bessel = special.spherical_jn(order, abs(a) * half[:, None])
        if a < 0:
            bessel = bessel * (-1.0) ** order
        moments = 2 * 1j**order * bessel
        whole = half * np.exp(1j * a * middle) * (series * moments).sum(axis=1)
        parts.append(whole.real)
        size = max(size, float((half * np.abs(series[:, 0])).sum()))
    off = float(np.abs(parts[0] - parts[1]).sum())
    return Computed(float(parts[0].sum()), off + 128 * float(np.finfo(np.float64).eps) * size)


def large_moments(t: Array, degree: int) -> Complex:
    """2*i^k*j_k(t) for k = 0 ... degree, first, by the upward recurrence: for t near k or above."""
    out = np.empty((degree + 1, *t.shape), dtype=np.complex128)
    before, now = np.sin(t) / t, np.sin(t) / t**2 - np.cos(t) / t
    for k in range(degree + 1):
        out[k] = 2 * 1j**k * before
        before, now = now, (2 * k + 3) / t * now - before
    return out
