"""E|g_n| for any distribution of per-sample gradients, from the characteristic function."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy import Dummy, Integral, Limit, Rational, Symbol, cos, exp, oo, pi, re, sin, sqrt, sympify

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import batch_size
from theory.laws.abs_gradient import expected_abs_gradient
from theory.quadrature import Computed, integrate, nodes
from theory.samples.laplace import laplace_abs_gradient
from theory.symbols import n, sigma, x

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
_BLOCK = 2_000_000  # entries of one block of the matrix exp(i*t*x)
_GONE = 1e-17
_MOST_PANELS = 1200  # where phi is a function
_MOST_PANELS_OF_ATOMS = 120


def characteristic_integral(phi: Callable[[Any], Any], n: Any) -> Any:
    r"""Return E\|g_n\| as (2/pi)*Integral((1 - Re phi(t/n)^n)/t^2, (t, 0, oo)), a sympy integral.

    `phi` maps a sympy expression t to the characteristic function E exp(i*t*g) of one per-sample
    gradient. A theorem for every distribution with a finite mean. Not evaluated: `.doit()` where
    sympy can; `expected_abs_mean` computes it for data and for scipy's distributions.

    Source: von Bahr (1965), lemma 2.

    Raises ValueError for n < 1.

    >>> from sympy import exp
    >>> characteristic_integral(lambda t: exp(-t**2 / 2), 1).doit()
    sqrt(2)/sqrt(pi)
    """
    n, t = batch_size(n), Dummy("t", positive=True)
    power = sympify(phi(t / n)) ** n
    value = power if power.is_real else re(power)
    return 2 / pi * Integral((1 - value) / t**2, (t, 0, oo))


def expected_abs_mean(source: Any, n: int) -> Computed:
    r"""Return E\|g_n\| and a bound on its numerical error, for any per-sample distribution.

    `source` is one of

        an array          the per-sample gradients of one coordinate, drawn with replacement
        a distribution    frozen, as scipy.stats makes them: `.pdf`, `.ppf`, `.isf` are used, or
                          `.pmf` and `.support` if it lives on the integers
        a function        log E exp(i*t*g) for arrays of t > 0 (the logarithm keeps its digits
                          near t = 0, where heavy tails are decided)

    E|g_n| is the integral of `characteristic_integral`, by composite quadrature; where |phi|^n has
    not died out at the end of the range the rest enters the error. n = 1 and n = 2 of an array are
    exact sums. Heavy tails of a distribution beyond its 1e-15 quantiles are bounded, not summed;
    for them a function is better.

    Assumptions: independent draws with a finite mean; no normality. The error is estimated from two
    quadrature orders, generously; it is a bound wherever the density is smooth between its
    quantiles.

    Source: von Bahr (1965), lemma 2.

    Raises ValueError for an array that is empty or not finite, an n that is not a whole number
    from 1, or a source that is none of the three.

    >>> import numpy as np
    >>> value, error = expected_abs_mean(lambda t: -(t**2) / 2, 100)
    >>> abs(value - np.sqrt(2 / np.pi) / 10) < error < 1e-12
    True
    >>> round(expected_abs_mean([-1.0, 1.0], 2).value, 12)
    0.5
    """
    if isinstance(n, bool) or n != int(n) or n < 1:
        raise ValueError(f"n is {n!r}; it must be a whole number from 1: a batch holds samples")
    n = int(n)
    if hasattr(source, "pmf"):
        return _of_atoms(*_integers(source), n)
    if hasattr(source, "pdf") and hasattr(source, "ppf"):
        return _of_distribution(source, n)
    if callable(source):
        return _of_function(source, n)
    try:
        values = np.asarray(source, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        raise ValueError(
            f"source is {source!r}; it must be an array, a frozen distribution or the logarithm of "
            "a characteristic function"
        ) from None
    if not values.size or not np.isfinite(values).all():
        raise ValueError("source has no values, or some that are not finite; leave those out")
    return _of_atoms(values, np.full(values.size, 1 / values.size), n)


def _of_atoms(x: Array, p: Array, n: int) -> Computed:
    """Atoms x of probability p: an array, or a distribution on the integers."""
    mean = float(p @ x)
    top = float(np.abs(x).max())
    eps = 1e-14
    if n == 1:
        value = float(p @ np.abs(x))
        return Computed(value, eps * value)
    if n == 2:
        value = _pairs(x, p)
        return Computed(value, eps * top)
    y = x - mean
    sd = float(np.sqrt(p @ y**2))
    if sd <= 1e-13 * top:
        return Computed(abs(mean), sd + eps * abs(mean))
    far = float(np.abs(y).max())
    # Bernstein: what crosses zero when the mean is far from it, as a bound on 2*E(|Y| - |a|)+.
    room = n * mean**2 / (2 * (sd**2 + far * abs(mean) / 3))
    if room > 45:
        return Computed(abs(mean), 4 * far * float(np.exp(-room)) + eps * abs(mean))
    step = _lattice(x)
    if step is not None:
        return _on_lattice(x, p, step, n)
    return _integral(lambda t: _log_atoms(t, y, p), mean, n, sd)


def _pairs(x: Array, p: Array) -> float:
    """E|X + X'|/2 by sorting: each x meets the -x' below and above it."""
    order = np.argsort(x)
    x, p = x[order], p[order]
    mass, first = (np.concatenate([[0.0], np.cumsum(a)]) for a in (p, p * x))
    below = np.searchsorted(x, -x)
    positive = (first[-1] - first[below]) + x * (mass[-1] - mass[below])
    negative = -first[below] - x * mass[below]
    return float(p @ (positive + negative) / 2)


def _lattice(x: Array) -> float | None:
    """The spacing, if all values lie on a grid of at most 2000 points."""
    values = np.unique(x)
    if values.size < 2:
        return None
    gap = float(np.diff(values).min())
    places = (values - values[0]) / gap
    if places[-1] > 2000 or np.abs(places - np.round(places)).max() > 1e-9:
        return None
    return gap


def _on_lattice(x: Array, p: Array, gap: float, n: int) -> Computed:
    """On a grid |phi| returns to one; its period folds the integral onto (0, pi).

    E|K - m| = Integral((1 - Re(phi_K(t)*exp(-i*m*t)))/sin(t/2)^2, (t, 0, pi))/(2*pi) for whole K
    and m; between whole numbers E|K - m| is linear in m.
    """
    start = float(x.min())
    k = np.round((x - start) / gap)
    middle = -n * start / gap
    low = float(np.floor(middle))
    total, error = 0.0, 0.0
    for m, weight in ((low, 1 - (middle - low)), (low + 1, middle - low)):
        if weight == 0:
            continue
        shift = m / n  # exp(-i*m*t) belongs to the n factors in equal parts
        width = 0.5 / np.sqrt(n * float(p @ (k - shift) ** 2) + 1)
        count = int(min(max(np.ceil(np.pi / width), 8), _MOST_PANELS))
        edges = np.linspace(0.0, min(np.pi, count * width), count + 1)

        def integrand(t: Array, shift: float = shift) -> Array:
            return _lost(_log_atoms(t, k - shift, p), n) / np.sin(t / 2) ** 2

        value, off = integrate(integrand, edges)
        if edges[-1] < np.pi:
            value += 2 / np.tan(edges[-1] / 2)
            t = np.linspace(edges[-1], np.pi, 2001)
            rest = np.abs(1 - _lost(_log_atoms(t, k - shift, p), n)).max()
            off += 2 * float(rest) * 2 / np.tan(edges[-1] / 2)
        total += weight * value / (2 * np.pi)
        error += weight * off / (2 * np.pi)
    scale = gap / n
    return Computed(scale * total, scale * (error + 1e-10 * abs(middle) * 1e-5))


def _integers(distribution: Any) -> tuple[Array, Array]:
    ends = distribution.support()
    low = max(float(distribution.ppf(1e-15)), float(ends[0]))
    high = min(float(distribution.isf(1e-15)), float(ends[1]))
    x = np.arange(low, high + 1)
    p = np.asarray(distribution.pmf(x), dtype=np.float64)
    return x[p > 0], p[p > 0] / p.sum()


def _of_distribution(distribution: Any, n: int) -> Computed:
    """Atoms by quadrature between quantiles, twice, to see what the rule leaves out."""
    edges = _quantile_edges(distribution)
    coarse_rule = np.polynomial.legendre.leggauss(14)
    fine_rule = np.polynomial.legendre.leggauss(20)
    found = []
    for rule in (fine_rule, coarse_rule):
        x, weight = (a.ravel() for a in nodes(edges, rule))
        p = weight * np.asarray(distribution.pdf(x), dtype=np.float64)
        keep = p > 0
        x, p = x[keep], p[keep]
        mass = float(p.sum())
        p = p / mass
        mean = float(p @ x)
        lost = abs(1 - mass) * float(np.abs(x) @ p) + 1e-14 * float(
            max(abs(edges[0]), abs(edges[-1]))
        )
        if n == 1:
            size = float(p @ np.abs(x))
            found.append(Computed(size, lost + 1e-14 * size))
        else:
            y = x - mean
            value, error = _integral(partial(_log_atoms, y=y, p=p), mean, n, _spread(y, p))
            found.append(Computed(value, error + lost))
    fine, coarse = found
    return Computed(fine.value, fine.error + abs(fine.value - coarse.value))


def _spread(y: Array, p: Array) -> float:
    return float(np.sqrt(p @ y**2))


def _quantile_edges(distribution: Any) -> Array:
    tails = 10.0 ** -np.arange(1.0, 16.0)
    middle = np.asarray(distribution.ppf([0.25, 0.5, 0.75]), dtype=np.float64)
    edges = np.concatenate(
        [distribution.ppf(tails), middle, distribution.isf(tails), distribution.support(), [0.0]]
    )
    low, high = distribution.support()
    edges = np.unique(edges[np.isfinite(edges) & (edges >= low) & (edges <= high)])
    width = (middle[2] - middle[0]) / 3
    parts = np.clip(np.ceil(np.diff(edges) / width), 1, 12).astype(int)
    pieces = [
        np.linspace(a, b, count, endpoint=False)
        for a, b, count in zip(edges[:-1], edges[1:], parts, strict=True)
    ]
    return np.concatenate([*pieces, edges[-1:]])


def _of_function(log_phi: Callable[[Array], Any], n: int) -> Computed:
    def of(t: Array) -> Complex:
        return np.asarray(log_phi(t), dtype=np.complex128)

    return _integral(of, 0.0, n, np.inf)


def _log_atoms(t: Array, y: Array, p: Array) -> Complex:
    """log E exp(i*t*Y) for atoms, keeping the digits of 1 - phi near t = 0."""
    out = np.empty(t.shape, dtype=np.complex128)
    rows = max(1, _BLOCK // y.size)
    for start in range(0, t.size, rows):
        part = slice(start, start + rows)
        angle = np.outer(t[part], y)
        real = -2 * (np.sin(angle / 2) ** 2 @ p)
        imaginary = np.sin(angle) @ p
        with np.errstate(divide="ignore"):
            size = np.log1p(2 * real + real**2 + imaginary**2) / 2
        out[part] = size + 1j * np.arctan2(imaginary, 1 + real)
    return out


def _lost(log_phi: Complex, n: int) -> Array:
    """1 - Re phi^n from log(phi), without cancellation."""
    decay = n * log_phi.real
    return np.asarray(
        -np.expm1(decay) + np.exp(decay) * 2 * np.sin(n * log_phi.imag / 2) ** 2, dtype=np.float64
    )


def _integral(log_phi: Callable[[Array], Complex], mean: float, n: int, sd: float) -> Computed:
    """E|Y + mean| of a mean of n: |mean| + (2/pi)*Integral((cos(a*t) - Re(...))/t^2)."""
    scale = _scale(log_phi, n)  # |phi(1/scale)|^n = exp(-1/2)
    a = mean * n / scale if mean else 0.0
    if abs(a) > 200:
        # Chebyshev: E(|Y| - |mean|)+ is at most var/(4*|mean|), on either side.
        bound = (
            min(sd**2 / n, (scale / n) ** 2 * 10) / (2 * abs(mean)) if np.isfinite(sd) else np.inf
        )
        return Computed(abs(mean), bound + 1e-14 * abs(mean))

    def integrand(u: Array) -> Array:
        value = log_phi(u / scale)
        if not mean:
            return _lost(value, n) / u**2
        decay, turn = n * value.real, n * value.imag
        size = np.exp(decay)
        # cos(au) - e^d cos(au + turn), with the small parts apart.
        lost = -np.expm1(decay) + size * 2 * np.sin(turn / 2) ** 2
        return (lost * np.cos(a * u) + size * np.sin(turn) * np.sin(a * u)) / u**2

    width = 0.5 / (1 + abs(a) / 10)
    # A heavy tail leaves a power of u at 0, which panels shrinking towards it resolve; atoms are
    # bounded, and a few panels do.
    atoms = np.isfinite(sd)
    ladder = [0.0, *(np.geomspace(1e-5, width, 9) if atoms else np.geomspace(1e-140, width, 200))]
    end = _end(log_phi, scale, n, (_MOST_PANELS_OF_ATOMS if atoms else _MOST_PANELS) * width)
    edges = np.concatenate([ladder, np.arange(1, int(np.ceil(end / width)) + 1) * width + width])
    value, error = integrate(integrand, edges)
    # Beyond the end: 1/u^2 is left of the centred integral, and cos(a*u)/u^2 of the other.
    end = float(edges[-1])
    u = np.linspace(0.75 * end, end, 400)
    rest = 2 * float(np.exp(n * log_phi(u / scale).real).max())
    tail = 1 / end if not mean else _cosine_tail(a, end)
    factor = 2 / np.pi * scale / n
    # In units of scale/n: E|Y| of the mean, since t = n*u/scale.
    total = factor * (value + tail)
    error = factor * (error + min(rest, 1.0) / end + 1e-16 / end)
    return (
        Computed(abs(mean) + total, error + 1e-14 * abs(mean)) if mean else Computed(total, error)
    )


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
        raise ValueError("source does not vary: |E exp(i*t*g)| stays near one at every t")
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


def _formulas() -> dict[str, Any]:
    from sympy import Function

    phi = Function(r"\varphi")
    return {r"E|\bar g_n|": characteristic_integral(phi, n)}


def _steps() -> tuple[Step, ...]:
    t = Symbol("t_0", positive=True)
    a = Symbol("a_0", positive=True)
    gaussian = characteristic_integral(lambda v: exp(-(sigma**2) * v**2 / 2), n)
    laplace = characteristic_integral(lambda v: 1 / (1 + v**2 / 2), 2)
    return (
        Step(
            "|x| is a superposition of cosines: (2/pi)*Integral((1 - cos(a*t))/t^2) = a.",
            2 / pi * Integral(sin(a * t) * a / t, (t, 0, oo)),
            a,
        ),
        Step(
            "(by parts: the boundary term vanishes at 0,",
            Limit((1 - cos(a * t)) / t, t, 0),
            0,
        ),
        Step(
            "and the derivative of 1 - cos(a*t) is what was integrated.)",
            (1 - cos(a * t)).diff(t),
            a * sin(a * t),
        ),
        Step(
            "Its mean over a Gaussian g_n gives equation 4, corrected.",
            gaussian,
            expected_abs_gradient(n, sigma),
        ),
        Step(
            "For two Laplace gradients it gives their closed form.",
            laplace,
            laplace_abs_gradient(2, 1),
        ),
        Step(
            "On the integers the integrand has period 2*pi, and the sum of 1/(t + 2*pi*k)^2 is "
            "1/(2*sin(t/2))^2; what is folded is then smooth, for K = 1 constant.",
            (1 - cos(x)) / (2 * sin(x / 2)) ** 2,
            Rational(1, 2),
        ),
        Step(
            "E|g_n| is at most the root mean square.",
            expected_abs_gradient(n, sigma),
            sqrt(sigma**2 / n) * Rational(1),
            "<",
        ),
    )


DERIVATION = Derivation(
    name="characteristic",
    title="Any distribution, by the characteristic function",
    laws=("characteristic_integral", "expected_abs_mean"),
    statements=(
        Statement("theorem", "The integral is exact for every distribution with a finite mean."),
        Statement(
            "under assumptions",
            "The numerical error returned is a bound where the density is smooth between its "
            "quantiles and |phi|^n has died out within the range scanned.",
        ),
    ),
    source="von Bahr (1965), On the convergence of moments in the central limit theorem, lemma 2",
    make_formulas=_formulas,
    make_steps=_steps,
)
