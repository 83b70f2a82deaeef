"""One oracle for each public law, over the whole range people use; altered laws must fail it.

Each case draws arguments and computes the law's value by a naive route in mpmath: integration at
30 digits, an exact finite sum, a root, a linear system. The law, as an exact expression at these
very floats and compiled with `theory.numeric`, must agree to 1e-10 relatively; times 1.01 or -1 it
must not, at any argument drawn.
"""

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.stats
import sympy
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mpmath import mpf
from sympy import Matrix, Rational, S

import theory
from theory import Computed, RuleEstimate

DIGITS = 30
ALTERED = (Rational(101, 100), S(-1))

# What people use: n up to a million, deviations from 1e-8 to 1e3, means from far below the noise of
# a batch to far above a sample's.
batches = st.one_of(st.integers(1, 40), st.integers(1, 10**6)).map(float)
spreads = st.floats(-8, 3).map(lambda e: 10.0**e)
rates = st.floats(-6, 1).map(lambda e: 10.0**e)
means = st.builds(lambda e, s: s * 10.0**e, st.floats(-12, 4), st.sampled_from([-1.0, 1.0]))
momenta = st.integers(0, 99).map(lambda k: k / 128)  # exact in binary
beside = st.one_of(st.just(0.0), st.floats(-3, 1).map(lambda e: 10.0**e))
shares = st.integers(1, 127).map(lambda k: k / 128)


# --- naive mpmath ---------------------------------------------------------------------------------


def normal(v, s):
    return mpmath.exp(-((v / s) ** 2) / 2) / (s * mpmath.sqrt(2 * mpmath.pi))


def mean_of(of, mu, sd):
    """E of(X), X ~ N(mu, sd), by quadrature in deviations; `of` may bend at 0."""
    if not sd:
        return of(mu)
    cuts = {mpf(k) for k in (-16, -8, -4, -2, 0, 2, 4, 8, 16)}
    if abs(mu) < 16 * sd:
        cuts.add(-mu / sd)
    return mpmath.quad(lambda z: of(mu + sd * z) * normal(z, 1), sorted(cuts))


def rms(mu, sd):
    return mpmath.sqrt(mean_of(lambda v: v * v, mu, sd))


def root(of, low, high):
    """The root of an increasing function, between low and high: bisection in log(x), secants."""
    low, high = mpmath.log(low), mpmath.log(high)
    while high - low > mpf(1) / 50:
        middle = (low + high) / 2
        low, high = (middle, high) if of(mpmath.exp(middle)) < 0 else (low, middle)
    found = mpmath.findroot(
        lambda v: of(mpmath.exp(v)), (low, high), solver="anderson", verify=False
    )
    return mpmath.exp(found)


def draw_variance(n, sigma, population=None):
    return sigma**2 / n * (1 if population is None else (population - n) / (population - 1))


def von_bahr(log_phi, n):
    """E|g_n| as (2/pi)*Integral((1 - Re phi(t/n)^n)/t^2), in v = log(t); log_phi is of phi(t/n)."""
    # Where |phi|^n is about exp(-1/2).
    scale = mpmath.mpf(2) ** -200
    while -n * mpmath.re(log_phi(scale)) < mpf(1) / 2:
        scale *= 2

    def lost(v):
        u = mpmath.exp(v)
        value = n * log_phi(scale * u)
        decay, turn = mpmath.re(value), mpmath.im(value)
        gone = -mpmath.expm1(decay) + mpmath.exp(decay) * 2 * mpmath.sin(turn / 2) ** 2
        return gone / u

    # From the left a heavy tail comes as exp((alpha - 1)*v); on the right exp(-v) is left.
    cuts = [-900, -400, -200, -100, -50, -25, -12, -6, -3, -1, 0, 1, 2, 3, 5, 8, 14]
    whole = mpmath.quad(lost, cuts) + mpmath.exp(-cuts[-1])
    return 2 / mpmath.pi / scale * whole


def gamma_size(m):
    """E|G - m| for G ~ Gamma(m), by integration of its density."""
    wide = mpmath.sqrt(m)
    cuts = sorted({m, *(m + k * wide for k in (1, 2, 4, 8, 12, 20)), m + 100})
    log_norm = mpmath.loggamma(m)
    return 2 * mpmath.quad(
        lambda t: (t - m) * mpmath.exp((m - 1) * mpmath.log(t) - t - log_norm), cuts
    )


def chi_mean(power, size):
    """E X^power for a chi variable, by integration of its density."""
    peak = mpmath.sqrt(max(size - 1, mpf(1) / 4))
    offsets = (-16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16)
    cuts = sorted({mpf(0), *(peak + k for k in offsets if peak + k > 0)})
    log_norm = mpmath.loggamma(size / 2) + (size / 2 - 1) * mpmath.log(2)

    def density(x):
        return mpmath.exp((size - 1 + power) * mpmath.log(x) - x * x / 2 - log_norm) if x else 0

    return mpmath.quad(density, cuts)


def half_cauchy_transform(s):
    rest = mpmath.pi / 2 - mpmath.si(s)
    return 2 / mpmath.pi * (mpmath.ci(s) * mpmath.sin(s) + rest * mpmath.cos(s))


def harmonic_moment(size, power):
    """E (P/sum)^power = P^power*Integral(s^(power-1)*T(s)^P)."""
    cuts = [mpf(10) ** k / size for k in (-30, -12, -6, -3, -2, -1, 0, 1, 2, 3, 5, 8)]
    cuts += [mpf(10) ** 14 / size] if size < 9 else []
    with mpmath.extradps(20):
        value = mpmath.quad(lambda s: s ** (power - 1) * half_cauchy_transform(s) ** size, cuts)
    return size**power * value


def radius_probability(r, s_w, s_g, beta):
    """P(|w/(g + beta*w)| <= r), over w; given w, g is beyond either end."""

    def given_w(z):
        near, far = ((sign / r - beta) * s_w * z / s_g for sign in (1, -1))
        return (mpmath.ncdf(-near) + mpmath.ncdf(far)) * normal(z, 1)

    bends = [abs(s_g / (s_w * (sign / r - beta))) for sign in (1, -1) if sign / r != beta]
    cuts = {mpf(0), mpf(1), mpf(4), mpf(16)}
    cuts |= {k * b for b in bends for k in (mpf("0.1"), 1, 4, 12) if k * b < 16}
    return 2 * mpmath.quad(given_w, sorted(cuts))


def radius_density(r, s_w, s_g, beta):
    def at(z):
        w = s_w * z
        return 2 * normal(z, 1) * w / r**2 * sum(
            normal(-beta * w + sign * w / r, s_g) for sign in (-1, 1)
        )  # fmt: skip

    bends = [abs(s_g / (s_w * (sign / r - beta))) for sign in (1, -1) if sign / r != beta]
    cuts = {mpf(0), mpf(1), mpf(4), mpf(16)}
    cuts |= {k * b for b in bends for k in (mpf("0.1"), 1, 4, 12) if k * b < 16}
    return mpmath.quad(at, sorted(cuts))


def radius_quantile(q, s_w, s_g, beta):
    # Between the quantiles without decay and with the gradient's part alone.
    free = s_w / s_g * mpmath.tan(mpmath.pi * q / 2)
    low = min(free, 1 / (beta + 1 / free)) / 8
    return root(lambda r: radius_probability(r, s_w, s_g, beta) - q, low, 8 * free)


def median_size(s):
    """The median of |N(0, s)|, and the density of |N| there."""
    middle = s * mpmath.findroot(lambda z: 2 * mpmath.ncdf(z) - mpf(3) / 2, 0.67)
    return middle, 2 * normal(middle, s)


def cblr_next(x, h, gamma):
    """One step from the curvature of the curve (x, h*x^2/2), all by numerical derivatives."""

    def loss(v):
        return h * v**2 / 2

    slope, bend = mpmath.diff(loss, x), mpmath.diff(loss, x, 2)
    return x - gamma * (1 + slope**2) ** mpf("1.5") / abs(bend) * slope


# --- the cases ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A law's arguments, its oracle, what else is passed, and an argument outside the domain."""

    draw: dict[str, Any]
    oracle: Callable[..., Any]
    bad: dict[str, Any]
    tolerance: float = 1e-10
    also: Callable[[dict[str, Any]], dict[str, Any]] = lambda point: point
    check: Callable[..., None] | None = None
    examples: int = 6


CASES: dict[str, Case] = {}


def case(name: str, **parts: Any) -> None:
    CASES[name] = Case(**parts)


def near(found: Any, oracle: Any, tolerance: float) -> None:
    assert abs(found - oracle) <= mpf(tolerance) * abs(oracle), (found, oracle)


def number(expression: Any) -> Any:
    return mpf(str(S(expression).evalf(DIGITS, maxn=2000)))


@cache
def compiled(name: str, factor: Any, names: tuple[str, ...], rest: tuple[Any, ...]) -> Any:
    """The law for symbols of the arguments drawn, compiled; `rest` are not symbols."""
    signed = ("mu", "x", "b", "mean", "skew", "skewness", "minimum", "rho")
    symbols = [sympy.Symbol(k, **{"real" if k in signed else "positive": True}) for k in names]
    law = getattr(theory, name)(**dict(zip(names, symbols, strict=True)), **dict(rest))
    return theory.numeric(law * factor, *symbols)


def compare(name: str, factor: Any, point: dict[str, Any], oracle: Any, tolerance: float) -> None:
    floats = {k: v for k, v in point.items() if isinstance(v, float)}
    rest = {k: v for k, v in point.items() if not isinstance(v, float)}
    law = getattr(theory, name)
    near(number(law(**{k: Rational(v) for k, v in floats.items()}, **rest) * factor), oracle,
         tolerance)  # fmt: skip
    function = compiled(name, factor, tuple(floats), tuple(rest.items()))
    near(mpf(float(function(*floats.values()))), oracle, tolerance)


def folded(mu, variance):
    return mean_of(abs, mu, mpmath.sqrt(variance))


case(
    "expected_abs_gradient",
    # The extensions beside sigma, so that none drowns the others, or absent.
    draw={"n": batches, "sigma": spreads, "mu": means, "extra": batches, "tau": beside,
          "mask": beside, "common": beside},
    also=lambda p: {**{k: v for k, v in p.items() if k != "extra"},
                    "population": p["n"] + p["extra"],
                    **{k: p[k] * p["sigma"] for k in ("tau", "mask", "common")}},
    oracle=lambda n, sigma, mu, population, tau, mask, common: folded(
        mu, draw_variance(n, sigma, population) + tau**2 + mask**2 / n + common**2),
    bad={"n": 0, "sigma": 1},
    examples=12,
)  # fmt: skip


def stationary_velocity(m):
    """Sums of the powers of m and of their squares."""
    total, square, power = mpf(0), mpf(0), mpf(1)
    while power > mpf(10) ** -40:
        total, square, power = total + power, square + power**2, power * m
    return total, square


def step_oracle(lr, n, sigma, mu, momentum, tau):
    total, square = stationary_velocity(momentum)
    variance = draw_variance(n, sigma) * square + (tau * total) ** 2
    return lr * folded(mu * total, variance)


case(
    "expected_abs_step",
    draw={"lr": rates, "n": batches, "sigma": spreads, "mu": means, "momentum": momenta,
          "tau": spreads},
    oracle=step_oracle,
    bad={"lr": -1, "n": 1, "sigma": 1},
)  # fmt: skip


def decrease_oracle(lr, n, sigma, mu, curvature, tau):
    sd = mpmath.sqrt(draw_variance(n, sigma) + tau**2)
    return mean_of(lambda g: lr * g * g - curvature / 2 * (lr * g) ** 2, mu, sd)


case(
    "expected_loss_decrease",
    # lr*curvature at most one: at two nothing is left to alter.
    draw={"lr": rates, "n": batches, "sigma": spreads, "mu": means,
          "curvature": st.floats(0.001, 0.1), "tau": spreads},
    oracle=decrease_oracle,
    bad={"lr": 1, "n": 1, "sigma": -1},
)  # fmt: skip
case(
    "expected_abs_distance",
    draw={"a": spreads, "n": batches, "sigma": spreads, "mu": means, "tau": spreads,
          "spread_a": st.floats(0.01, 2)},
    oracle=lambda a, n, sigma, mu, tau, spread_a: mean_of(
        lambda g: abs(g / (2 * a)), mu, mpmath.sqrt(draw_variance(n, sigma) + tau**2)
    ) * mean_of(lambda z: mpmath.exp(-z), mpf(0), spread_a),
    bad={"a": 0, "n": 1, "sigma": 1},
)  # fmt: skip


def noise_oracle(sigma, mu, tau):
    """The batch at which the noise is as large as the root mean square of the means."""
    level = rms(mu, tau)
    return root(lambda n: level - sigma / mpmath.sqrt(n), mpf(10) ** -40, mpf(10) ** 40)


case(
    "gradient_noise_scale",
    draw={"sigma": spreads, "mu": means, "tau": spreads},
    oracle=noise_oracle,
    bad={"sigma": 1, "tau": -1},
)


def bend_oracle(sigma, mu, tau, population):
    level = folded(mu, tau**2)
    line = mpmath.sqrt(2 / mpmath.pi) * sigma

    def below(part):  # of n/(N - n), so that n stays inside
        n = population * part / (1 + part)
        return level - line / mpmath.sqrt(n) * mpmath.sqrt((population - n) / (population - 1))

    part = root(below, mpf(10) ** -60, mpf(10) ** 60)
    return population * part / (1 + part)


case(
    "bend_batch_size",
    draw={"sigma": spreads, "mu": means, "tau": spreads,
          "population": st.integers(2, 10**6).map(float)},
    oracle=bend_oracle,
    bad={"sigma": 1, "population": 0},
)  # fmt: skip
case(
    "lars_rate",
    draw={"n": batches, "s_w": spreads, "sigma": spreads, "mu": means, "tau": spreads,
          "beta": rates, "gamma": rates},
    oracle=lambda n, s_w, sigma, mu, tau, beta, gamma: gamma * s_w / (
        rms(mu, mpmath.sqrt(draw_variance(n, sigma) + tau**2)) + beta * s_w),
    bad={"n": 1, "s_w": 0, "sigma": 1},
)  # fmt: skip


def level_of(p):
    """The gradient's size at which LARS is at the limit of stability."""
    return p["gamma"] * p["s_w"] * p["curvature"] / (2 * (1 + p["momentum"]))


def lars_point(p):
    floor = p.pop("part") * level_of(p)
    return p | {"mu": floor / 2, "tau": floor}


def lars_batch_oracle(gamma, s_w, sigma, curvature, momentum, share, mu, tau):
    def excess(n):
        square = sigma**2 / n + mu**2 + share * tau**2
        return gamma * s_w / mpmath.sqrt(square) - 2 * (1 + momentum) / curvature

    return root(excess, mpf(10) ** -60, mpf(10) ** 60)


layer = {"gamma": rates, "s_w": spreads, "sigma": spreads, "curvature": spreads,
         "momentum": momenta, "share": shares}  # fmt: skip
case(
    "lars_largest_batch",
    draw={**layer, "part": st.floats(1e-6, 0.8)},
    also=lars_point,
    oracle=lars_batch_oracle,
    bad={"gamma": 0, "s_w": 1, "sigma": 1, "curvature": 1},
)


def mclr_point(p):
    return p | {"tau": p.pop("part") * level_of(p)}


def mclr_batch_oracle(gamma, s_w, sigma, curvature, momentum, share, tau):
    weight, _ = median_size(s_w)
    limit = gamma * weight * curvature / (2 * (1 + momentum))  # the median gradient at the limit

    def below(n):  # by integration of the mixture's density, in units of the limit
        total = mpf(0)
        noise = sigma / mpmath.sqrt(n)
        for part, s in ((1 - share, noise), (share, mpmath.sqrt(noise**2 + tau**2))):
            cuts = sorted({mpf(0), *(min(mpf(1), k * s / limit) for k in (1, 4, 12)), mpf(1)})
            inside = mpmath.quad(lambda v, s=s: normal(v * limit, s) * limit, cuts)
            total += 2 * part * inside
        return total - mpf(1) / 2

    start = (sigma / limit) ** 2
    return root(below, start / 4, start * 10**4)


case(
    "mclr_largest_batch",
    draw={**layer, "share": st.integers(1, 63).map(lambda k: k / 128),
          "part": st.floats(0.01, 50)},
    also=mclr_point,
    oracle=mclr_batch_oracle,
    bad={"gamma": 1, "s_w": 1, "sigma": 1, "curvature": 1, "share": 2},
    examples=4,
)  # fmt: skip


def stationary_point(p):
    """A rate below the limit of stability."""
    whole = p["curvature"] + p["weight_decay"]
    return p | {"lr": p.pop("part") * 2 * (1 + p["momentum"]) / whole}


def lyapunov(lr, n, sigma, curvature, momentum, weight_decay, of=0):
    """The deviation of w (0) or the velocity (2) from V = A*V*A' + Q for (w, velocity)."""
    whole, m = curvature + weight_decay, momentum
    # v' = m*v + whole*w + noise; w' = w - lr*v'.
    a = mpmath.matrix([[1 - lr * whole, -lr * m], [whole, m]])
    b = mpmath.matrix([-lr, 1])
    pairs = [(0, 0), (0, 1), (1, 1)]
    system, right = mpmath.zeros(3, 3), mpmath.zeros(3, 1)
    for row, (i, j) in enumerate(pairs):
        right[row] = b[i] * b[j]
        for column, (k, q) in enumerate(pairs):
            system[row, column] = mpf((i, j) == (k, q)) - a[i, k] * a[j, q]
            if k != q:
                system[row, column] -= a[i, q] * a[j, k]
    with mpmath.extradps(60):
        variance = mpmath.lu_solve(system, right)[of]
    return mpmath.sqrt(variance * draw_variance(n, sigma))


sgd = {"n": batches, "sigma": spreads, "curvature": spreads, "momentum": momenta,
       "weight_decay": rates, "part": st.floats(1e-6, 0.95)}  # fmt: skip
case(
    "stationary_distance_deviation",
    draw=sgd,
    also=stationary_point,
    oracle=lyapunov,
    bad={"lr": 3, "n": 1, "sigma": 1, "curvature": 1},
)
case(
    "stationary_abs_distance",
    draw={**sgd, "minimum": means},
    also=stationary_point,
    # At the mean the gradient and the decay cancel: h*(w - b) + decay*w = 0.
    oracle=lambda lr, n, sigma, curvature, momentum, weight_decay, minimum: folded(
        mpmath.lu_solve(mpmath.matrix([[curvature + weight_decay]]),
                        mpmath.matrix([curvature * minimum]))[0] - minimum,
        lyapunov(lr, n, sigma, curvature, momentum, weight_decay) ** 2),
    bad={"lr": 0, "n": 1, "sigma": 1, "curvature": 1},
)  # fmt: skip
case(
    "stationary_squared_step",
    draw=sgd,
    also=stationary_point,
    oracle=lambda lr, **p: (lr * lyapunov(lr, **p, of=2)) ** 2,
    bad={"lr": 4, "n": 1, "sigma": 1, "curvature": 1},
)
case(
    "stationary_abs_step",
    draw=sgd,
    also=stationary_point,
    oracle=lambda lr, **p: folded(mpf(0), (lr * lyapunov(lr, **p, of=2)) ** 2),
    bad={"lr": 0.1, "n": 1, "sigma": 1, "momentum": 1},
)


def check_layer_gradient(name, factor, point, oracle):
    sigmas, mus = point["sigmas"], point["mus"][: len(point["sigmas"])]
    mus += [0.0] * (len(sigmas) - len(mus))
    found = theory.layer_abs_gradient(point["n"], sigmas, mus) * factor
    exact = [
        folded(mpf(m), draw_variance(mpf(point["n"]), mpf(s)))
        for s, m in zip(sigmas, mus, strict=True)
    ]
    near(number(found), sum(exact) / len(exact), 1e-10)


case(
    "layer_abs_gradient",
    draw={
        "n": batches,
        "sigmas": st.lists(spreads, min_size=1, max_size=4),
        "mus": st.lists(means, max_size=4),
    },
    oracle=lambda **_: None,
    check=check_layer_gradient,
    bad={"n": 1, "sigmas": []},
)
case(
    "spread_abs_gradient",
    draw={"n": batches, "sigma": spreads, "spread": st.floats(0.01, 2)},
    # The mean of a log-normal's sizes over the root of its mean square, by integration.
    oracle=lambda n, sigma, spread: (
        folded(mpf(0), draw_variance(n, sigma))
        * mean_of(mpmath.exp, mpf(0), spread)
        / mpmath.sqrt(mean_of(mpmath.exp, mpf(0), 2 * spread))
    ),
    bad={"n": 1, "sigma": 1, "spread": -1},
)


def symmetric(seed, size=3):
    half = np.random.default_rng(seed).integers(-4, 9, (size, size))
    return half + half.T


def check_decrease(name, factor, point, oracle):
    """Over every batch of two of the samples G + v and G - v, whose covariance is known."""
    hessian, mean = symmetric(point["seed"]), np.array([1, -2, 3])
    steps = symmetric(point["seed"] + 1)
    samples = [mean + sign * v for v in steps for sign in (1, -1)]
    covariance = Matrix((steps.T @ steps).tolist()) / len(steps)
    lr = Rational(point["lr"])
    for on in ("batch", "population"):
        exact = S.Zero
        for pair in itertools.product(samples, repeat=2):
            g = (pair[0] + pair[1]) / 2
            slope = g @ g if on == "batch" else mean @ g
            exact += lr * Rational(slope) - lr**2 / 2 * Rational(g @ hessian @ g)
        exact /= len(samples) ** 2
        found = theory.matrix_loss_decrease(
            lr, 2, covariance, hessian.tolist(), mean.tolist(), on=on
        )
        assert found * factor == exact


case(
    "matrix_loss_decrease",
    draw={"lr": st.integers(1, 60).map(lambda k: k / 128), "seed": st.integers(0, 999)},
    oracle=lambda **_: None,
    check=check_decrease,
    bad={"lr": 1, "n": 1, "covariance": [[1]], "hessian": [[1, 2], [3, 1]]},
)


def check_off_diagonal(name, factor, point, oracle):
    hessian = symmetric(point["seed"]) + 20 * np.eye(3, dtype=int)
    hessian[0, 1] = hessian[1, 0] = 7
    covariance = hessian @ hessian
    pairs = {(i, j): int(hessian[i, j] * covariance[j, i]) for i in range(3) for j in range(3)}
    exact = Rational(sum(v for (i, j), v in pairs.items() if i != j), sum(pairs.values()))
    assert exact != 0
    assert theory.off_diagonal_noise(covariance.tolist(), hessian.tolist()) * factor == exact


case(
    "off_diagonal_noise",
    draw={"seed": st.integers(0, 999)},
    oracle=lambda **_: None,
    check=check_off_diagonal,
    bad={"covariance": [[1]], "hessian": [[1, 0]]},
)
case(
    "cblr_step",
    # The gradient h*x stays moderate: the step grows as its cube.
    draw={"slope": st.floats(0.01, 30), "h": spreads, "gamma": st.floats(0.01, 0.9)},
    also=lambda p: {"x": p["slope"] / p["h"], "h": p["h"], "gamma": 1.0 + p["gamma"]},
    oracle=cblr_next,
    bad={"x": 1, "h": 0},
)
case(
    "cblr_basin",
    draw={"gamma": st.floats(1e-6, 1.99), "h": spreads},
    oracle=lambda gamma, h: root(
        lambda x: -cblr_next(x, h, gamma) - x, mpf(10) ** -6 / h, mpf(10) ** 4 / h),
    bad={"gamma": 2, "h": 1},
)  # fmt: skip


def check_convergence(name, factor, point, oracle):
    order, constant = (
        value * factor for value in theory.cblr_convergence(Rational(point["gamma"]))
    )
    x = mpf(10) ** -8
    assert order == (3 if point["gamma"] == 1 else 1)
    near(number(constant), abs(cblr_next(x, mpf(1), mpf(point["gamma"]))) / x ** int(order), 1e-10)


case(
    "cblr_convergence",
    draw={"gamma": st.one_of(st.just(1.0), st.floats(0.01, 0.99), st.floats(1.01, 1.99))},
    oracle=lambda gamma: None,
    check=check_convergence,
    bad={"gamma": 0},
)


def check_largest_gamma(name, factor, point, oracle):
    rng = np.random.default_rng(point["seed"])
    a = rng.integers(-9, 9, (3, 5))
    h = (a @ a.T + np.eye(3, dtype=int)) * np.outer([1, 100, 1], [1, 100, 1])
    with mpmath.workdps(30):  # H*v = lambda*D*v by the characteristic polynomial
        m = mpmath.matrix(h.tolist())
        for i in range(3):
            for j in range(3):
                m[i, j] /= mpf(int(h[i, i]))
        largest = max(mpmath.eig(m, left=False, right=False), key=abs)
        for hessian in (h.astype(float), sympy.Matrix(h.tolist())):
            found = number(sympy.re(theory.cblr_largest_gamma(hessian).evalf(30)) * factor)
            near(found, 2 / mpmath.re(largest), 1e-10)


case(
    "cblr_largest_gamma",
    draw={"seed": st.integers(0, 10**6)},
    oracle=lambda seed: None,
    check=check_largest_gamma,
    bad={"hessian": [[1, 2], [3, 1]]},
    examples=3,
)
case(
    "radius_tail",
    draw={"r": spreads, "s_h": spreads},
    oracle=lambda r, s_h: 2 * mpmath.quad(
        lambda h: normal(h, s_h),
        sorted({mpf(0), *(min(1 / r, k * s_h) for k in (1, 2, 4, 8, 16))})),
    bad={"r": 0, "s_h": 1},
)  # fmt: skip
case(
    "radius_tail_constant",
    draw={"density": spreads, "s_g": spreads},
    oracle=lambda density, s_g: 2 * density * mean_of(
        lambda g: (1 + g**2) ** mpf("1.5"), mpf(0), s_g) if s_g < 1 else 4 * density * mpmath.quad(
        lambda z: (1 + (s_g * z) ** 2) ** mpf("1.5") * normal(z, 1),
        [0, 1 / s_g / 4, 1 / s_g, 4 / s_g, *(k for k in (1, 4, 8, 16) if k > 4 / s_g)]),
    bad={"density": 0},
)  # fmt: skip
case(
    "kink_curvature",
    draw={"w": spreads, "at": st.floats(-3, 3).filter(lambda a: abs(a) > 0.05), "s_x": spreads,
          "middle": st.floats(-1, 1), "slope": rates},
    also=lambda p: {"w": p["w"], "b": -p["at"] * p["w"] * p["s_x"], "s_x": p["s_x"],
                    "mean": p["middle"] * p["s_x"], "slope": p["slope"]},
    oracle=lambda w, b, s_x, mean, slope: _kink(w, b, s_x, mean, slope),
    bad={"w": 0, "b": 1, "s_x": 1},
)  # fmt: skip


def _kink(w, b, s_x, mean, slope):
    """A second difference of E relu(w*x + b), x = mean + s_x*z, in units of w."""
    with mpmath.workdps(80):

        def expected(v):
            centre, sd = v * mean + b, v * s_x
            return sd * mpmath.npdf(centre / sd) + centre * mpmath.ncdf(centre / sd)

        step = w * mpf("1e-15")
        return slope * (expected(w + step) - 2 * expected(w) + expected(w - step)) / step**2


def check_gap(name, factor, point, oracle):
    w, v, u, x, y, f1, f2 = sympy.symbols("w v u x y f1 f2")
    at = {k: Rational(point[str(k)]) for k in (w, v, u, x, y)}
    loss, net = (f1 - y) ** 2 + sympy.cosh(f2) / 3, [v * sympy.tanh(w * x), u * w**2]
    found = theory.gauss_newton_gap(loss, net, w, [f1, f2]).subs(at) * factor
    with mpmath.workdps(60):
        v, u, x, y = (mpf(point[k]) for k in "vuxy")

        def outputs(w):
            return v * mpmath.tanh(w * x), u * w * w

        def of(w):
            a, b = outputs(w)
            return (a - y) ** 2 + mpmath.cosh(b) / 3

        w = mpf(point["w"])
        slopes = [mpmath.diff(lambda t, k=k: outputs(t)[k], w) for k in (0, 1)]
        gauss_newton = 2 * slopes[0] ** 2 + mpmath.cosh(outputs(w)[1]) / 3 * slopes[1] ** 2
        near(number(found), mpmath.diff(of, w, 2) - gauss_newton, 1e-10)


case(
    "gauss_newton_gap",
    draw={k: st.floats(0.2, 2) for k in "wvuxy"},
    oracle=lambda **_: None,
    check=check_gap,
    bad={"loss": 1, "outputs": [1], "parameter": sympy.Symbol("w"), "symbols": []},
)


# --- |w/g| ----------------------------------------------------------------------------------------

ratio = {"s_w": spreads, "s_g": spreads}


def near_centre(p):
    """A radius from far below the layer's typical one to far above, and a decay that matters."""
    k = p["s_g"] / p["s_w"]
    return p | {"r": p["r"] / k, "beta": p["beta"] * k}


around = {"r": st.floats(-3, 3).map(lambda e: 10.0**e), "beta": st.floats(0.001, 10)}
case(
    "ratio_density",
    draw={**ratio, **around},
    also=near_centre,
    oracle=radius_density,
    bad={"r": -1, "s_w": 1, "s_g": 1},
)
case(
    "ratio_probability",
    draw={**ratio, **around},
    also=near_centre,
    oracle=radius_probability,
    bad={"r": 1, "s_w": 0, "s_g": 1},
    examples=4,
)


def check_quantile(name, factor, point, oracle):
    """The probability of what is below it, by integration."""
    exact = {k: mpf(v) for k, v in point.items() if k != "q"}
    found = (
        number(theory.ratio_quantile(**{k: Rational(v) for k, v in point.items()}) * factor),
        mpf(float(compiled(name, factor, tuple(point), ())(*point.values()))),
    )
    for quantile in found:
        assert quantile > 0
        near(radius_probability(quantile, **exact), mpf(point["q"]), 1e-10)


case(
    "ratio_quantile",
    draw={**ratio, "q": st.floats(0.001, 0.999), "beta": st.floats(0.001, 3)},
    also=lambda p: p | {"beta": p["beta"] * p["s_g"] / p["s_w"]},
    oracle=lambda **_: None,
    check=check_quantile,
    bad={"q": 1, "s_w": 1, "s_g": 1},
    examples=3,
)


def mean_oracle(s_w, s_g, cut):
    """E[|w/g|; |w/g| <= cut] over w, the integral over g being an exponential integral."""

    def given_w(z):
        start = (z * s_w / (cut * s_g)) ** 2 / 2
        return 2 * normal(z, 1) * z * s_w * mpmath.e1(start) / (s_g * mpmath.sqrt(2 * mpmath.pi))

    bend = cut * s_g / s_w
    cuts = {mpf(0), mpf(1), mpf(4), mpf(16), *(k * bend for k in (mpf("0.1"), 1, 4, 16))}
    return mpmath.quad(given_w, sorted(c for c in cuts if c <= 16))


case(
    "ratio_mean",
    draw={**ratio, "r": around["r"]},
    also=lambda p: {"s_w": p["s_w"], "s_g": p["s_g"], "cut": p["r"] * p["s_w"] / p["s_g"]},
    oracle=mean_oracle,
    bad={"s_w": 1, "s_g": 1, "cut": -1},
)

CONVERGENT = ("lars", "mclr-absolute", "mclr-ratio")


def limit_oracle(rule, s_w, s_g, beta):
    if rule == "lars":
        return rms(mpf(0), s_w) / (rms(mpf(0), s_g) + beta * rms(mpf(0), s_w))
    if rule == "mclr-absolute":
        return median_size(s_w)[0] / (median_size(s_g)[0] + beta * median_size(s_w)[0])
    return radius_quantile(mpf(1) / 2, s_w, s_g, beta)


rules = {"rule": st.sampled_from(CONVERGENT), **ratio, "beta": st.floats(0.001, 3)}


def decayed(p):
    return p | {"beta": p["beta"] * p["s_g"] / p["s_w"]}


case(
    "rule_limit",
    draw=rules,
    also=decayed,
    oracle=limit_oracle,
    bad={"rule": "sgd", "s_w": 1, "s_g": 1},
)


def error_oracle(rule, s_w, s_g, size, beta):
    """The delta method by numerical derivatives of the rule in what it is made of."""
    if rule == "mclr-ratio":
        middle = radius_quantile(mpf(1) / 2, s_w, s_g, beta)
        return 1 / (2 * radius_density(middle, s_w, s_g, beta) * mpmath.sqrt(size))
    if rule == "lars":
        parts = [(s**2, mean_of(lambda v: v**4, mpf(0), s) - s**4) for s in (s_w, s_g)]

        def radius(a, b):
            return mpmath.sqrt(a) / (mpmath.sqrt(b) + beta * mpmath.sqrt(a))

    else:
        parts = [(m, 1 / (4 * f**2)) for m, f in map(median_size, (s_w, s_g))]

        def radius(a, b):
            return a / (b + beta * a)

    (a, of_a), (b, of_b) = parts
    slopes = (
        mpmath.diff(lambda v: radius(a * v, b), 1) / a,
        mpmath.diff(lambda v: radius(a, b * v), 1) / b,
    )
    return mpmath.sqrt((slopes[0] ** 2 * of_a + slopes[1] ** 2 * of_b) / size)


case(
    "rule_standard_error",
    draw={**rules, "size": batches},
    also=decayed,
    oracle=error_oracle,
    bad={"rule": "lars", "s_w": 1, "s_g": 1, "size": 0},
    examples=4,
)


def growth_oracle(rule, tail_w, tail_g):
    """The slope in log(P) of sums of P terms, the largest of order P^(1/index), at a huge P."""
    p = mpf(10) ** 10**6

    def slope(index, power):
        return mpmath.log(p + p ** (power / mpf(index))) / mpmath.log(p) / power

    if rule == "lars":
        return slope(tail_w, 2) - slope(tail_g, 2)
    return 1 - slope(tail_g, 1) if rule == "percentdelta" else slope(tail_w, 1) - 1


def check_growth(name, factor, point, oracle):
    found = theory.rule_growth_exponent(**point) * factor
    near(number(found), growth_oracle(**point), 1e-5)


case(
    "rule_growth_exponent",
    draw={"rule": st.sampled_from(["lars", "percentdelta", "mean"]),
          "tail_w": st.integers(1, 49).map(lambda k: Rational(k, 50)),
          "tail_g": st.integers(1, 49).map(lambda k: Rational(k, 101))},
    oracle=lambda **_: None,
    check=check_growth,
    bad={"rule": "lars", "tail_w": 0},
)  # fmt: skip


def check_estimate(name, factor, point, oracle):
    rng = np.random.default_rng(point["seed"])
    w, g = point["scale"] * rng.standard_normal(999), rng.standard_normal(999)
    beta, rule, f = point["beta"], point["rule"], float(factor)
    whole = g + beta * w
    med = np.median
    value = {
        "lars": np.sqrt(w @ w) / (np.sqrt(g @ g) + beta * np.sqrt(w @ w)),
        "mclr-signed": abs(med(w) / (med(g) + beta * med(w))),
        "mclr-absolute": med(abs(w)) / (med(abs(g)) + beta * med(abs(w))),
        "mclr-ratio": med(abs(w / whole)),
        "percentdelta": 1 / np.mean(abs(whole / w)),
        "mean": np.mean(abs(w / whole)),
    }[rule]
    found = theory.rule_estimate(rule, w, g, beta=beta)
    assert isinstance(found, RuleEstimate)
    near(mpf(f * found.value), mpf(value), 1e-10)
    assert found.low <= value <= found.high or found.interval_of == "another layer"


case(
    "rule_estimate",
    draw={"rule": st.sampled_from(theory.RULES), "seed": st.integers(0, 99), "scale": spreads,
          "beta": st.floats(0, 2)},
    oracle=lambda **_: None,
    check=check_estimate,
    bad={"rule": "lars", "w": [1.0], "g": [1.0, 2.0]},
)  # fmt: skip
case(
    "lars_mean",
    draw={**ratio, "size": st.one_of(st.integers(2, 40), st.integers(2, 10**6)).map(float)},
    oracle=lambda s_w, s_g, size: s_w / s_g * chi_mean(1, size) * chi_mean(-1, size),
    bad={"s_w": 1, "s_g": 1, "size": 1},
)
case(
    "percent_delta_mean",
    draw={**ratio, "size": st.one_of(st.integers(3, 40), st.integers(3, 10**6)).map(float)},
    oracle=lambda s_w, s_g, size: s_w / s_g * harmonic_moment(size, 1),
    bad={"s_w": 1, "s_g": 1, "size": 1},
    examples=2,
)


def check_moments(name, factor, point, oracle):
    found = theory.percent_delta_moments(point["s_w"], point["s_g"], point["size"])
    for power, (value, error) in enumerate(found, start=1):
        exact = (mpf(point["s_w"]) / mpf(point["s_g"])) ** power
        exact *= harmonic_moment(mpf(point["size"]), power)
        near(mpf(value) * mpf(float(factor)), exact, 1e-10)
        assert abs(value * float(factor) - exact) <= error + 1e-14 * exact


case(
    "percent_delta_moments",
    draw={**ratio, "size": st.one_of(st.integers(4, 40), st.integers(4, 10**6))},
    oracle=lambda **_: None,
    check=check_moments,
    bad={"s_w": 1, "s_g": 1, "size": 3},
    examples=2,
)


def centre_oracle(s_w, s_g, size, landau):
    """The constants from the transform itself near 0, where log T is -(2/pi)*s*(c - log(s))."""
    with mpmath.workdps(80):
        s = mpf(10) ** -40
        c = -mpmath.log(half_cauchy_transform(s)) / s * mpmath.pi / 2 + mpmath.log(s)
    two = 2 / mpmath.pi
    return s_w / s_g / (two * (mpmath.log(size) + c + landau + mpmath.log(two)))


case(
    "percent_delta_centre",
    draw={**ratio, "size": st.integers(2, 10**6).map(float), "landau": st.floats(0, 50)},
    oracle=centre_oracle,
    bad={"s_w": 1, "s_g": 1, "size": 1},
)


# --- gradients that are not Gaussian --------------------------------------------------------------

case(
    "laplace_abs_gradient",
    draw={"n": batches, "sigma": spreads},
    oracle=lambda n, sigma: von_bahr(lambda t: -mpmath.log1p((sigma * t / n) ** 2 / 2), n),
    bad={"n": 0, "sigma": 1},
)
case(
    "exponential_abs_gradient",
    draw={"n": batches, "sigma": spreads, "shape": st.integers(1, 8).map(lambda k: k / 4)},
    oracle=lambda n, sigma, shape: sigma / mpmath.sqrt(shape) / n * gamma_size(n * shape),
    bad={"n": 1, "sigma": 1, "shape": 0},
)


def student_phi(t, degrees):
    y = mpmath.sqrt(degrees) * t
    return mpmath.log1p(y) - y if degrees == 3 else mpmath.log1p(y + y**2 / 3) - y


case(
    "student_abs_gradient",
    draw={"n": st.one_of(st.integers(1, 60), st.integers(1, 10**6)), "scale": spreads,
          "degrees": st.sampled_from([3, 5])},
    # Five degrees have a closed form for whole n up to 200.
    also=lambda p: p | ({"n": float(p["n"])} if p["degrees"] == 3 else {"n": p["n"] % 100 + 1}),
    oracle=lambda n, scale, degrees: von_bahr(lambda t: student_phi(scale * t / n, degrees), n),
    bad={"n": 1, "scale": 1, "degrees": 0},
)  # fmt: skip
case(
    "stable_abs_gradient",
    draw={"n": batches, "scale": spreads, "alpha": st.integers(7, 63).map(lambda k: 1 + k / 64),
          "skew": st.floats(-1, 1)},
    oracle=lambda n, scale, alpha, skew: von_bahr(
        lambda t: -((scale * t / n) ** alpha) * (1 - 1j * skew * mpmath.tan(mpmath.pi * alpha / 2)),
        n),
    bad={"n": 1, "scale": 1, "alpha": 1},
)  # fmt: skip


def edgeworth_oracle(n, sigma, skewness, kurtosis, mu):
    """|z + a| over the expansion's own density."""
    s = sigma / mpmath.sqrt(n)
    a = mu / s

    def size(z):
        he3, he4 = z**3 - 3 * z, z**4 - 6 * z**2 + 3
        he6 = z**6 - 15 * z**4 + 45 * z**2 - 15
        density = 1 + skewness * he3 / (6 * mpmath.sqrt(n)) + kurtosis * he4 / (24 * n)
        return abs(z + a) * (density + skewness**2 * he6 / (72 * n))

    cuts = sorted({mpf(k) for k in (-24, -12, -6, -3, 0, 3, 6, 12, 24)} | ({-a} & {-a} if abs(a) < 24 else set()))  # fmt: skip # noqa: E501
    return s * mpmath.quad(lambda z: size(z) * normal(z, 1), cuts)


case(
    "edgeworth_abs_gradient",
    draw={"n": batches, "sigma": spreads, "skewness": st.floats(-1, 1),
          "kurtosis": st.floats(0, 3), "away": st.floats(-5, 5)},
    also=lambda p: {**{k: v for k, v in p.items() if k != "away"},
                    "mu": p["away"] * p["sigma"] / p["n"] ** 0.5 + 1e-9 * p["sigma"]},
    oracle=edgeworth_oracle,
    bad={"n": 1, "sigma": 1, "skewness": 3, "kurtosis": 1},
)  # fmt: skip


@cache
def gaussian_integral():
    n, sigma = sympy.symbols("n sigma", positive=True)
    return theory.characteristic_integral(lambda t: sympy.exp(-((sigma * t) ** 2) / 2), n).doit()


def check_integral(name, factor, point, oracle):
    law = gaussian_integral() * factor
    value = law.subs({s: Rational(point[s.name]) for s in law.free_symbols})
    near(number(value), folded(mpf(0), draw_variance(mpf(point["n"]), mpf(point["sigma"]))), 1e-10)


case(
    "characteristic_integral",
    draw={"n": batches, "sigma": spreads},
    oracle=lambda **_: None,
    check=check_integral,
    bad={"phi": lambda t: t, "n": 0},
    examples=3,
)


def enumerated(sample, n, draws):
    sums = [abs(sum(batch)) for batch in draws(sample, n)]
    return sum(sums, Fraction(0)) / len(sums) / n


def check_population(name, factor, point, oracle):
    sample = [Fraction(v) for v in point["sample"]]
    n = point["place"] % len(sample) + 1
    exact = Rational(enumerated(sample, n, itertools.combinations))
    assert theory.finite_population_abs_mean(list(map(Rational, sample)), n) * factor == exact


case(
    "finite_population_abs_mean",
    # All positive: nothing cancels to zero, which no factor would alter.
    draw={"sample": st.lists(st.one_of(st.integers(1, 90), st.integers(-9, -1)), min_size=1,
                             max_size=7).filter(lambda v: sum(v) != 0),
          "place": st.integers(0, 6)},
    oracle=lambda **_: None,
    check=check_population,
    bad={"sample": [1, 2], "n": 3},
)  # fmt: skip


def check_mean(name, factor, point, oracle):
    """A sample against all its batches, a distribution and a function against the integral."""
    f, n, scale = float(factor), point["n"], point["scale"]
    sample = np.array([scale * v for v in point["sample"]])
    few = n % 4 + 1
    exact = enumerated([Fraction(v) for v in sample], few, lambda v, k: itertools.product(v, repeat=k))  # fmt: skip # noqa: E501
    gaussian = mean_of(abs, mpf(0), mpf(scale) / mpmath.sqrt(n))
    for source, size, value in (
        (sample, few, mpf(exact.numerator) / exact.denominator),
        (scipy.stats.norm(scale=scale), n, gaussian),
        (lambda t: -((scale * t) ** 2) / 2, n, gaussian),
    ):
        found = theory.expected_abs_mean(source, size)
        assert isinstance(found, Computed)
        assert abs(f * found.value - value) <= found.error + 1e-15 * value
        near(mpf(f * found.value), value, 1e-10)


case(
    "expected_abs_mean",
    draw={"n": batches.map(int), "scale": spreads,
          "sample": st.lists(st.integers(-60, 99), min_size=2, max_size=5).filter(
              lambda v: len(set(v)) > 1)},
    oracle=lambda **_: None,
    check=check_mean,
    bad={"source": [1.0], "n": 0},
)  # fmt: skip


# --- how far |w/g| is from the radius -------------------------------------------------------------


def batch_noise(p):
    """A mean from far below the batch's noise to far above, and a finite population."""
    p = p | {"population": p["n"] + p.pop("extra")}
    s = p["sigma"] / p["n"] ** 0.5 * (1 - (p["n"] - 1) / (p["population"] - 1)) ** 0.5
    return p | {"mu": p.pop("away") * s}


entry = {"w": spreads, "h": spreads, "n": batches, "sigma": spreads, "extra": batches,
         "away": st.floats(-8, 8).filter(lambda a: abs(a) > 1e-9)}  # fmt: skip


def beyond(edge, mu, s):
    """P(|N(mu, s)| >= edge), by integration of the density."""
    total = mpf(0)
    for sign in (1, -1):
        start = (edge - sign * mu) / s
        cuts = sorted({start, *(c for c in map(mpf, (-16, -8, -4, -1, 0, 1, 4, 8)) if c > start)})
        cuts.append(max(cuts[-1], mpf(0)) + 1 + 16 / (1 + max(start, mpf(0))))
        if cuts[0] < -20:
            cuts[0] = mpf(-20)
        total += mpmath.quad(lambda z: normal(z, 1), cuts)
    return total


def ratio_below(r, w, h, n, sigma, mu, population=None):
    """P(|w/g|*h <= r)."""
    return beyond(w * h / r, mu, mpmath.sqrt(draw_variance(n, sigma, population)))


def check_shortcut(name, factor, point, oracle):
    exact = {k: mpf(v) for k, v in point.items()}
    p = exact.pop("p")
    rationals = {k: Rational(v) for k, v in point.items()}
    found = [number(theory.shortcut_ratio_quantile(**rationals) * factor)]
    found.append(mpf(float(compiled(name, factor, tuple(point), ())(*point.values()))))
    for quantile in found:
        assert quantile > 0
        near(ratio_below(quantile, **exact), p, 1e-9)
        near(1 - ratio_below(quantile, **exact), 1 - p, 1e-9)
    # Without a mean, and with sigma^2 = h: the printed form, by a root of the normal's integral.
    free = {k: exact[k] for k in ("w", "h", "n")}
    z = mpmath.findroot(lambda t: mpmath.ncdf(t) - (1 - p / 2), 1 / mpf(2) + (p < 0.1) * 2)
    closed = theory.shortcut_ratio_quantile(*(rationals[k] for k in ("p", "w", "h", "n")))
    near(number(closed * factor), free["w"] * mpmath.sqrt(free["h"] * free["n"]) / z, 1e-10)


case(
    "shortcut_ratio_quantile",
    draw={"p": st.floats(0.001, 0.999), **entry},
    also=batch_noise,
    oracle=lambda **_: None,
    check=check_shortcut,
    bad={"p": 1, "w": 1, "h": 1, "n": 1},
)


def near_ratio(p):
    """A ratio near what one batch gives: |w/g|*h with |g| of some deviations about the mean."""
    p = batch_noise(p)
    s = p["sigma"] / p["n"] ** 0.5 * (1 - (p["n"] - 1) / (p["population"] - 1)) ** 0.5
    size = p.pop("size") * s + abs(p["mu"])
    return {"r": p["w"] * p["h"] / size} | p


case(
    "shortcut_ratio_probability",
    draw={"size": st.floats(0.01, 6), **entry},
    also=near_ratio,
    oracle=ratio_below,
    bad={"r": 0, "w": 1, "h": 1, "n": 1},
)


def share_point(p):
    """k = |w|*h/s from 0.1 to 6, so that something is within the factor."""
    size, p = p.pop("size"), batch_noise(p)
    s = p["sigma"] / p["n"] ** 0.5 * (1 - (p["n"] - 1) / (p["population"] - 1)) ** 0.5
    return p | {"w": size * s / p["h"] + abs(p["mu"]) / p["h"]}


case(
    "shortcut_share_within",
    draw={
        "factor": st.floats(1.1, 9),
        "size": st.floats(0.1, 3),
        **{k: v for k, v in entry.items() if k != "w"},
    },
    also=share_point,
    oracle=lambda factor, **p: ratio_below(factor, **p) - ratio_below(1 / factor, **p),
    bad={"factor": 1, "w": 1, "h": 1, "n": 1},
)


def best_share(factor):
    """The maximum over k by golden-section search of the integral."""

    def share(k):
        return 2 * mpmath.quad(lambda z: normal(z, 1), [k / factor, k * factor])

    low, high = mpf(0), mpf(4)
    golden = (mpmath.sqrt(5) - 1) / 2
    for _ in range(36):  # the maximum is flat: its value has twice the digits of its place
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if share(left) > share(right) else (left, high)
    return share((low + high) / 2)


case(
    "shortcut_largest_share",
    draw={"factor": st.floats(1.1, 9)},
    oracle=best_share,
    bad={"factor": 0.5},
    examples=2,
)

whole_layer = {"s_w": spreads, "h": spreads, "n": batches, "sigma": spreads, "part": rates}


def layer_means(p):
    return p | {"tau": p.pop("part") * p["sigma"] / p["n"] ** 0.5}


def layer_noise(n, sigma, tau):
    return mpmath.sqrt(draw_variance(n, sigma) + tau**2)


def check_layer_quantile(name, factor, point, oracle):
    """The probability below it is p, by integration over the weights."""
    found = getattr(theory, name)(**{k: Rational(v) for k, v in point.items()}) * factor
    p = mpf(point.get("p", 0.5))
    s_w, h, n, sigma, tau = (mpf(point[k]) for k in ("s_w", "h", "n", "sigma", "tau"))
    assert found > 0
    near(radius_probability(number(found), s_w * h, layer_noise(n, sigma, tau), mpf(0)), p, 1e-10)
    near(mpf(float(compiled(name, factor, tuple(point), ())(*point.values()))), number(found),
         1e-10)  # fmt: skip


case(
    "shortcut_layer_median",
    draw=whole_layer,
    also=layer_means,
    oracle=lambda **_: None,
    check=check_layer_quantile,
    bad={"s_w": 0, "h": 1, "n": 1},
    examples=3,
)
case(
    "shortcut_layer_quantile",
    draw={"p": st.floats(0.01, 0.99), **whole_layer},
    also=layer_means,
    oracle=lambda **_: None,
    check=check_layer_quantile,
    bad={"p": 0, "s_w": 1, "h": 1, "n": 1},
    examples=3,
)


def layer_share_point(p):
    """The median from 0.1 to 10."""
    p = layer_means(p)
    s = (p["sigma"] ** 2 / p["n"] + p["tau"] ** 2) ** 0.5
    return p | {"h": p.pop("middle") * s / p["s_w"]}


case(
    "shortcut_layer_share_within",
    draw={
        "factor": st.floats(1.1, 9),
        "middle": st.floats(0.1, 10),
        **{k: v for k, v in whole_layer.items() if k != "h"},
    },
    also=layer_share_point,
    oracle=lambda factor, s_w, h, n, sigma, tau: (
        radius_probability(factor, s_w * h, layer_noise(n, sigma, tau), mpf(0))
        - radius_probability(1 / factor, s_w * h, layer_noise(n, sigma, tau), mpf(0))
    ),
    bad={"factor": 2, "s_w": 1, "h": 0, "n": 1},
    examples=3,
)


def logarithms(exponent, s_h, s_lw, rho):
    """Variances and covariance of log|w/g| and log R, over atoms of log h and log|w|."""
    atoms = []
    for u, v in itertools.product((-1, 1), repeat=2):
        log_h = s_h * u
        log_w = s_lw * (rho * u + mpmath.sqrt(1 - rho**2) * v)
        atoms.append((log_w - exponent * log_h / 2, -log_h))
    cuts = [mpf(k) for k in (-120, -40, -12, -4, -1, 0, 1, 2, 4)]  # of log|z|

    def moment(power):
        return mpmath.quad(lambda t: t**power * 2 * normal(mpmath.exp(t), 1) * mpmath.exp(t), cuts)

    chance = moment(2) - moment(1) ** 2
    ratio_variance = sum(a * a for a, _ in atoms) / 4 + chance
    return ratio_variance, sum(b * b for _, b in atoms) / 4, sum(a * b for a, b in atoms) / 4


decades = {"exponent": st.floats(0.1, 2), "s_h": st.floats(0.1, 6), "s_lw": st.floats(0.1, 3),
           "rho": st.floats(-0.95, -0.01)}  # fmt: skip


def slope_oracle(**p):
    _, variance, both = logarithms(**p)
    return both / variance


def correlation_oracle(**p):
    first, second, both = logarithms(**p)
    return both / mpmath.sqrt(first * second)


case(
    "shortcut_radius_slope",
    draw=decades,
    oracle=slope_oracle,
    bad={"exponent": 1, "s_h": 0},
)
case(
    "shortcut_radius_correlation",
    draw=decades,
    oracle=correlation_oracle,
    bad={"exponent": 1, "s_h": 1, "rho": 2},
)


def entries_of(point):
    rng = np.random.default_rng(point["seed"])
    layer = {"w": rng.normal(size=3), "h": 10.0 ** rng.uniform(-4, 1, 3),
             "sigma": 10.0 ** rng.uniform(-2, 1, 3), "mu": rng.normal(size=3) / 9}  # fmt: skip
    exact = [
        {k: abs(mpf(v[i])) if k == "w" else mpf(v[i]) for k, v in layer.items()} for i in range(3)
    ]
    return layer, exact


def entries_below(r, exact, n, population):
    return sum(ratio_below(r, n=n, population=population, **e) for e in exact) / 3


def check_entries(name, factor, point, oracle):
    layer, exact = entries_of(point)
    n, population, f = mpf(point["n"]), mpf(2 * point["n"] + 1), float(factor)
    # From a tenth to ten times the layer's typical ratio.
    r = point["r"] * float(np.median(np.abs(layer["w"]) * layer["h"] / layer["sigma"]))
    r *= point["n"] ** 0.5
    found = theory.shortcut_entries_probability(
        r, n=point["n"], population=float(population), **layer
    )
    near(mpf(f * found), entries_below(mpf(r), exact, n, population), 1e-10)


def check_entries_quantile(name, factor, point, oracle):
    layer, exact = entries_of(point)
    n, population, f = mpf(point["n"]), mpf(2 * point["n"] + 1), float(factor)
    found = f * theory.shortcut_entries_quantile(
        point["p"], n=point["n"], population=float(population), **layer
    )
    assert found > 0
    near(entries_below(mpf(found), exact, n, population), mpf(point["p"]), 1e-9)


case(
    "shortcut_entries_probability",
    draw={"seed": st.integers(0, 999), "n": batches, "r": st.floats(0.1, 10)},
    oracle=lambda **_: None,
    check=check_entries,
    bad={"r": 1, "w": [1.0, 2.0], "h": [1.0, 2.0, 3.0], "n": 1},
)
case(
    "shortcut_entries_quantile",
    draw={"seed": st.integers(0, 999), "n": batches, "p": st.floats(0.05, 0.95)},
    oracle=lambda **_: None,
    check=check_entries_quantile,
    bad={"p": 0.5, "w": [1.0], "h": [-1.0], "n": 1},
)


def check_identity(name, factor, point, oracle):
    w, g = (np.array(point[k], dtype=float) for k in "wg")
    exact = {"lars_ratio_mean": np.linalg.norm(w) / np.linalg.norm(g),
             "percent_delta_ratio_mean": w.size / np.abs(g / w).sum()}[name]  # fmt: skip
    near(number(getattr(theory, name)(w, g) * factor), mpf(exact), 1e-10)


signed = st.integers(-99, 99).filter(bool)
pairs = {k: st.lists(signed, min_size=4, max_size=4) for k in "wg"}
for identity in ("lars_ratio_mean", "percent_delta_ratio_mean"):
    case(identity, draw=pairs, oracle=lambda **_: None, check=check_identity,
         bad={"w": [1], "g": [0]})  # fmt: skip


def check_bounds(name, factor, point, oracle):
    """Attained by the layer that each bound is about, and never passed by the median."""
    w, g = (np.array(point[k], dtype=float) for k in "wg")
    low, high = (float(v * factor) for v in theory.ratio_quantile_bounds(w, g))
    assert 0 < low <= np.median(np.abs(w / g)) <= high
    r = float(np.abs(w / g).max())
    # Half of the ratios are r, the others as large as they like.
    low = theory.ratio_quantile_bounds([r, r, r * 10**12, r * 10**12], [1, 1, 1, 1])[0] * factor
    near(mpf(float(low)), mpf(r), 1e-10)
    # The smaller half of the gradients is equal and has all the weights.
    tight = theory.ratio_quantile_bounds([r, -r, 0, 0], [1, 1, 2, 3])[1] * factor
    near(mpf(float(tight)), mpf(r), 1e-10)


case(
    "ratio_quantile_bounds",
    draw=pairs,
    oracle=lambda **_: None,
    check=check_bounds,
    bad={"w": [1.0], "g": [sympy.Symbol("g")]},
)


def laplace_ratio_below(r, s_w, b, beta):
    """P(|w/(g + beta*w)| <= r), w normal and g Laplace, over w."""

    def given_w(z):
        w = s_w * z
        edge = w / r
        low, high = -edge - beta * w, edge - beta * w
        below = mpmath.exp(low / b) / 2
        above = mpmath.exp(-high / b) / 2 if high > 0 else 1 - mpmath.exp(high / b) / 2
        return (below + above) * 2 * normal(z, 1)

    cuts = {mpf(0), mpf(1), mpf(4), mpf(16)}
    cuts |= {
        k * b / (s_w * abs(1 / r - beta))
        for k in (mpf("0.1"), 1, 4)
        if k * b < 16 * s_w * abs(1 / r - beta)
    }
    return mpmath.quad(given_w, sorted(cuts))


def check_limit_of(name, factor, point, oracle):
    s_w, b, rule, f = point["s_w"], point["b"], point["rule"], float(factor)
    beta = point["beta"] * b / s_w
    found = f * theory.rule_limit_of(
        rule, scipy.stats.norm(scale=s_w), scipy.stats.laplace(scale=b), beta
    )
    assert found > 0
    s_w, b, beta = map(mpf, (s_w, b, beta))
    if rule == "mclr-ratio":
        near(laplace_ratio_below(mpf(found), s_w, b, beta), mpf(1) / 2, 1e-8)
    elif rule == "lars":
        square = mpmath.quad(lambda t: t**2 * mpmath.exp(-t), [0, 1, 4, 16, 80]) * b**2
        near(mpf(found), s_w / (mpmath.sqrt(square) + beta * s_w), 1e-10)
    else:
        middle = b * mpmath.log(2)
        near(mpf(found), median_size(s_w)[0] / (middle + beta * median_size(s_w)[0]), 1e-10)


case(
    "rule_limit_of",
    draw={
        "rule": st.sampled_from(CONVERGENT),
        "s_w": spreads,
        "b": spreads,
        "beta": st.floats(0.001, 3),
    },
    oracle=lambda **_: None,
    check=check_limit_of,
    bad={"rule": "lars", "w": scipy.stats.norm(), "g": scipy.stats.norm(), "beta": -1},
)


# --- the tests ------------------------------------------------------------------------------------

NOT_LAWS = {"judge", "numeric"}
LAWS = {
    name
    for name in theory.__all__
    if inspect.isfunction(getattr(theory, name)) and name not in NOT_LAWS
}


def test_every_public_law_has_a_case():
    assert set(CASES) == LAWS


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_law_agrees_and_altered_it_does_not(name):
    entry = CASES[name]

    @settings(max_examples=entry.examples, deadline=None, phases=(Phase.explicit, Phase.generate))
    @given(point=st.fixed_dictionaries(entry.draw))
    def agrees(point):
        point = entry.also(dict(point))
        with mpmath.workdps(DIGITS + 5):
            if entry.check is None:
                exact = {k: mpf(v) if isinstance(v, float | int) else v for k, v in point.items()}
                oracle = entry.oracle(**exact)

                def check(factor):
                    compare(name, factor, point, oracle, entry.tolerance)

            else:

                def check(factor):
                    entry.check(name, factor, point, None)

            check(S.One)
            for factor in ALTERED:
                with pytest.raises(AssertionError):
                    check(factor)

    agrees()


@pytest.mark.parametrize("name", sorted(CASES))
def test_outside_the_domain_is_an_error_that_says_what_to_do(name):
    """The argument, its value, and after a semicolon or colon what it must be."""
    bad = CASES[name].bad
    with pytest.raises(ValueError, match=r"^[^;]+; .{10,}") as found:
        getattr(theory, name)(**bad)
    named = str(found.value).split()[0]
    assert any(named.startswith(argument) or argument in named for argument in bad)
