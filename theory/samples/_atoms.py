"""E|g_n| of finitely many values with probabilities: a sample, or a distribution's quadrature."""

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.quadrature import Computed
from theory.samples._inversion import lost
from theory.samples._lattice import SHORT, on_lattice, spacing
from theory.samples._logarithm import log_phi
from theory.samples._transform import transform

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

EPS = float(np.finfo(np.float64).eps)
# Sums of half a batch that are written out, and terms of the Fourier series.
_MOST_SUMS, _MOST_TERMS = 1 << 21, 1 << 20
# Entries of the matrix of the terms that are summed one by one.
_DIRECT = 1_000_000
# Whatever has a chance below exp(-45) = 3e-20 is left out.
_CHANCE = 45.0


def of_atoms(x: Array, p: Array, n: int) -> Computed:
    """E|g_n| of n independent draws of values x with probabilities p."""
    mean, top = float(p @ x), float(np.abs(x).max())
    if n == 1:
        value = float(p @ np.abs(x))
        return Computed(value, 64 * EPS * value)
    y = x - mean
    sd, far = float(np.sqrt(p @ y**2)), float(np.abs(y).max())
    if sd <= 1e-13 * top:
        return Computed(abs(mean), sd + 64 * EPS * abs(mean))
    # Bernstein: what crosses zero when the mean is far from it, as a bound on 2*E(|Y| - |a|)+.
    room = n * mean**2 / (2 * (sd**2 + far * abs(mean) / 3))
    if room > _CHANCE:
        return Computed(abs(mean), 4 * far * float(np.exp(-room)) + 64 * EPS * abs(mean))
    half = n // 2
    if x.size ** (n - half) <= _MOST_SUMS:
        return _halves(x, p, n, half)
    if n == 2:
        return _meet(x, p, x, p, 2)
    gap = spacing(x)
    if gap is None:
        return series(x, p, n)
    return on_lattice(x, p, gap, n) if np.ptp(x) <= SHORT * gap else _on_long_lattice(x, p, gap, n)


def _on_long_lattice(x: Array, p: Array, gap: float, n: int) -> Computed:
    """By the series in steps of the grid; between whole numbers E|K - m| is linear in m."""
    start = float(x.min())
    k = np.round((x - start) / gap)
    middle = -n * start / gap
    low = float(np.floor(middle))
    value = error = 0.0
    for m, weight in ((low, 1 - (middle - low)), (low + 1, middle - low)):
        if weight > 0:
            part = series(k - m / n, p, n, whole=True)
            value, error = value + weight * part.value, error + weight * part.error
    return Computed(gap * value, gap * (error + 4 * EPS * abs(middle) / n))


def _halves(x: Array, p: Array, n: int, half: int) -> Computed:
    """The exact sum over all batches: the sums of one half meet the sorted sums of the other."""
    small, weight = np.zeros(1), np.ones(1)
    for _ in range(half):
        small, weight = np.add.outer(small, x).ravel(), np.outer(weight, p).ravel()
    if n == 2 * half:
        return _meet(small, weight, small, weight, n)
    large, more = np.add.outer(small, x).ravel(), np.outer(weight, p).ravel()
    return _meet(large, more, small, weight, n)


def _meet(a: Array, p: Array, b: Array, q: Array, n: int) -> Computed:
    """E|A + B|/n: each a meets the b above and below -a through sums over the sorted b."""
    order = np.argsort(b)
    b, q = b[order], q[order]
    mass, first = (np.concatenate([[0.0], np.cumsum(v)]) for v in (q, q * b))
    below = np.searchsorted(b, -a)
    total = (first[-1] - 2 * first[below]) + a * (mass[-1] - 2 * mass[below])
    value = float(p @ total) / n
    # Running sums of so many terms; their errors are random, the factor is generous.
    scale = (float(np.abs(a).max()) + float(np.abs(b).max())) / n
    return Computed(value, 16 * EPS * float(np.sqrt(a.size + b.size)) * scale)


def series(
    x: Array, p: Array, n: int, goal: float = 1e-10, highest: float = np.inf, *, whole: bool = False
) -> Computed:
    r"""E|g_n| by the Fourier series of the triangular wave.

    Where \|S\| < L/2, \|S\| = (2*L/pi^2)*Sum((1 - cos(2*pi*k*S/L))/k^2, k odd), and the mean of the
    cosine is Re phi(2*pi*k/L)^n. L is such that S, the sum, stays inside: certainly, or but for a
    chance of exp(-45) by Bernstein's inequality. Terms in which \|phi\|^n has died out are summed
    in closed form; where it has not, its largest size among the last terms bounds the rest. Terms
    are added until that bound is below `goal` times the deviation, up to the frequency `highest`.

    If the sums are `whole` numbers phi^n returns to one and has the period 2*pi. Then L is whole,
    a term stands for all at k + j*L, and half of a period is all there is.
    """
    mean = float(p @ x)
    y = x - mean
    sd, far = float(np.sqrt(p @ y**2)), float(np.abs(y).max())
    bent = _CHANCE * far / 3
    reach = min(n * far, bent + float(np.sqrt(bent**2 + 2 * _CHANCE * n * sd**2)))
    period = 2 * (n * abs(mean) + reach) * (1 + 1e-9)
    if whole:
        period = 4 * float(np.ceil(period / 4))
        highest = min(highest, np.pi)
    outside = 8 * float(np.exp(-_CHANCE)) * reach / _CHANCE if reach < n * far else 0.0
    factor = 2 * period / np.pi**2
    scale = sd * np.sqrt(n)
    # Gaussian decay ends at 8.6 deviations; others need more terms, eight times as many at a time.
    limit = (int(min(period * highest / (2 * np.pi), _MOST_TERMS)) - whole) | 1
    most = min(max(int(period * 8.6 / (2 * np.pi * scale)), 64) | 1, limit)
    while True:
        value, rest, off = _sum(y, p, n, mean, period, most, whole)
        if factor * rest < goal * scale or most == limit:
            break
        most = min(8 * most | 1, limit)
    value, error = factor * value / n, (factor * (rest + off) + outside) / n
    return Computed(value, error + (64 + 8 * float(np.sqrt(n))) * EPS * value)


def _sum(
    y: Array, p: Array, n: int, mean: float, period: float, most: int, whole: bool
) -> tuple[float, float, float]:
    """The series up to the odd term `most` and beyond, what it misses, and the transform's part."""
    k = np.arange(1, most + 1, 2)
    t: Array = np.asarray(2 * np.pi / period * k, dtype=np.float64)
    direct = int(np.clip(_DIRECT // y.size, 32, k.size))
    value = np.empty(k.size, dtype=np.complex128)
    value[:direct] = log_phi(t[:direct], y, p)
    weight = np.pi / period / np.sin(np.pi * k / period) if whole else 1.0 / k
    off = 0.0
    if direct < k.size:
        phi = transform(y, p, period, most)[k[direct:]]
        checked = np.linspace(0, phi.size - 1, 8).astype(int)
        exact = np.exp(log_phi(t[direct:][checked], y, p))
        deviation = 4 * float(np.abs(phi[checked] - exact).max()) + 64 * EPS
        with np.errstate(divide="ignore"):
            value[direct:] = np.log(phi)
        power = np.minimum(np.abs(phi) + deviation, 1.0) ** (n - 1)
        off = float((n * deviation * power * weight[direct:] ** 2).sum())
    size = np.exp(n * value.real)
    # The mean belongs to the n factors in equal parts.
    partial = float((lost(value + 1j * mean * t, n) * weight**2).sum())
    if whole:
        beyond = max(np.pi**2 / 8 - float((weight**2).sum()), 0.0)
    else:
        beyond = float(special.polygamma(1, most / 2 + 1)) / 4
    largest = float(size[size.size // 2 :].max())
    return partial + beyond, min(2 * largest, 1.0) * beyond, off
