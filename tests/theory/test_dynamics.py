"""LARS's rate, stationary distances, CBLR on a quadratic, the largest batch, GGN and kinks."""

import mpmath
import numpy as np
import pytest
import sympy
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sympy import Rational, S, oo

from theory import (
    cblr_basin,
    cblr_convergence,
    cblr_largest_gamma,
    cblr_step,
    expected_abs_distance,
    gauss_newton_gap,
    gradient_noise_scale,
    kink_curvature,
    lars_largest_batch,
    lars_rate,
    mclr_largest_batch,
    numeric,
    radius_tail,
    radius_tail_constant,
    stationary_abs_distance,
    stationary_distance_deviation,
)

few = settings(max_examples=10, deadline=None, phases=(Phase.explicit, Phase.generate))
positive = st.builds(Rational, st.integers(1, 60), st.integers(1, 60))


@pytest.mark.parametrize("n", [4, 400])
def test_lars_rate_by_simulation(n):
    rng = np.random.default_rng(0)
    size, repeats, mu, tau, sigma = 2000, 200, 0.1, 0.3, 4.0
    w = rng.standard_normal(size)
    g = mu + tau * rng.standard_normal((repeats, size))
    g = g + sigma / np.sqrt(n) * rng.standard_normal((repeats, size))
    rates = np.linalg.norm(w) / (np.linalg.norm(g, axis=1) + 0.2 * np.linalg.norm(w))
    rms = np.sqrt(np.mean(w**2))
    law = float(lars_rate(n, rms, sigma, mu, tau, beta=0.2))
    error = rates.std() / np.sqrt(repeats) + law / size
    assert abs(rates.mean() - law) < 4 * error
    assert abs(rates.mean() - 1.01 * law) > 4 * error


def test_lars_rate_of_a_small_layer():
    rng = np.random.default_rng(1)
    inverse = 1 / np.linalg.norm(rng.standard_normal((400_000, 5)), axis=1)
    law = float(lars_rate(1, 1, 1, size=5))
    error = inverse.std() * np.sqrt(5) / np.sqrt(inverse.size)
    assert abs(inverse.mean() * np.sqrt(5) - law) < 4 * error
    assert abs(inverse.mean() * np.sqrt(5) - 1.01 * law) > 4 * error
    rates = [float(lars_rate(n, 1, 1, tau=1, population=100)) for n in range(1, 101)]
    assert rates == sorted(rates)
    bend = gradient_noise_scale(1, tau=1)
    assert lars_rate(bend, 1, 1, tau=1) == 1 / sympy.sqrt(2)


@few
@given(m=st.integers(0, 9), rate=positive, h=positive, beta=st.integers(0, 3), n=st.integers(1, 99))
def test_stationary_deviation_by_summing_the_response(m, rate, h, beta, n):
    """The variance is lr^2*s^2 times the sum of squares of the response to one unit of noise."""
    m = Rational(m, 10)
    whole = h + beta
    lr = min(rate, (1 + m) / whole)  # halfway to the limit of stability at most
    response, velocity, total = mpmath.mpf(0), mpmath.mpf(1), mpmath.mpf(0)
    with mpmath.workdps(30):
        one, many = mpmath.mpf(lr.p) / lr.q, mpmath.mpf(whole.p) / whole.q
        keep = mpmath.mpf(m.p) / m.q
        if 1 - float(one * many) / (1 - float(keep)) > 0.997:
            return  # thousands of steps
        for _ in range(9000):
            response = response - one * velocity
            total += response**2
            velocity = keep * velocity + many * response
            if abs(response) + abs(velocity) < mpmath.mpf("1e-18"):
                break
        oracle = mpmath.sqrt(total / n)
        law = stationary_distance_deviation(lr, n, 1, h, m, beta).evalf(25)
        value = mpmath.mpf(str(law))
        assert abs(value - oracle) < 1e-12 * oracle
        assert abs(1.01 * value - oracle) > 1e-3 * oracle


def test_stationary_distance_by_simulation_and_equation_28():
    rng = np.random.default_rng(2)
    lr, n, sigma, h, m, beta, b = 0.3, 9, 2.0, 1.5, 0.6, 0.5, 1.0
    w, v = np.full(40_000, b), np.zeros(40_000)
    for _ in range(200):
        g = h * (w - b) + sigma / np.sqrt(n) * rng.standard_normal(w.size)
        v = m * v + g + beta * w
        w = w - lr * v
    distance = np.abs(w - b)
    law = float(stationary_abs_distance(lr, n, sigma, h, m, beta, b))
    error = distance.std() / 200
    assert abs(distance.mean() - law) < 4 * error
    assert abs(distance.mean() - 1.05 * law) > 4 * error
    assert abs(distance.mean() - float(expected_abs_distance(h / 2, n, sigma))) > 10 * error
    for momentum in (0, Rational(1, 2)):
        special = stationary_abs_distance((1 - momentum**2) / S(2), 5, 3, 2, momentum)
        assert sympy.simplify(special - expected_abs_distance(1, 5, 3)) == 0


@few
@given(gamma=st.integers(1, 199), h=positive)
def test_the_basin_by_iteration(gamma, h):
    gamma, h = Rational(gamma, 100), h
    basin = float(cblr_basin(gamma, h))

    def after(x, steps=4000):
        for _ in range(steps):
            x = x * (1 - float(gamma) * (1 + (float(h) * x) ** 2) ** 1.5)
            if abs(x) > 1e6 * basin or abs(x) < 1e-3 * basin:
                break
        return abs(x)

    assert abs(abs(float(cblr_step(basin, h, gamma))) - basin) < 1e-9 * basin
    assert (
        after(0.99 * basin) < 0.01 * basin or gamma > Rational(195, 100) or gamma < Rational(3, 100)
    )
    # A basin altered by a factor 1.01 either way is told apart.
    assert after(1.01 * basin) > basin
    assert abs(float(cblr_step(0.99 * basin, h, gamma))) < 0.99 * basin


def test_convergence_orders():
    order, constant = cblr_convergence(1)
    x = Rational(1, 1000)
    assert abs(cblr_step(x, 1) / (-constant * x**order) - 1) < 1e-5
    assert abs(cblr_step(x, 1) / (-constant * Rational(101, 100) * x**order) - 1) > 1e-3
    order, constant = cblr_convergence(Rational(1, 4))
    assert abs(cblr_step(x, 1, Rational(1, 4)) / (constant * x) - 1) < 1e-5
    assert cblr_step(x, -1) == 2 * x + x * ((1 + x**2) ** Rational(3, 2) - 1)


@few
@given(seed=st.integers(0, 10**6), size=st.integers(2, 7))
def test_the_largest_gamma_by_iteration(seed, size):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((size, size + 2))
    hessian = a @ a.T
    gamma = float(cblr_largest_gamma(hessian))
    assert 2 / size - 1e-12 < gamma <= 2
    d = np.diag(hessian)

    def grows(rate):
        return np.abs(np.linalg.eigvals(np.eye(size) - rate * hessian / d[:, None])).max() > 1

    assert grows(1.01 * gamma)
    assert not grows(gamma / 1.01)
    scale = 10.0 ** rng.uniform(-8, 3, size)  # units of the parameters do not matter
    scaled = float(cblr_largest_gamma(hessian * scale * scale[:, None]))
    assert abs(scaled / gamma - 1) < 1e-10


@few
@given(r=st.integers(1, 1000), s_h=positive)
def test_radius_tail(r, s_h):
    with mpmath.workdps(30):
        s = mpmath.mpf(s_h.p) / s_h.q
        density = lambda h: mpmath.exp(-((h / s) ** 2) / 2) / (s * mpmath.sqrt(2 * mpmath.pi))  # noqa: E731
        top = mpmath.mpf(1) / r
        oracle = 2 * mpmath.quad(density, sorted({mpmath.mpf(0), min(top, s), min(top, 40 * s)}))
        law = mpmath.mpf(str(radius_tail(r, s_h).evalf(28)))
        assert abs(law - oracle) < mpmath.mpf("1e-15") * oracle
        assert abs(law * 1.01 - oracle) > mpmath.mpf("1e-3") * oracle


@pytest.mark.parametrize("s_g", [0.05, 0.7, 20.0])
def test_radius_tail_constant_with_gradients(s_g):
    with mpmath.workdps(30):
        weight = lambda z: mpmath.exp(-(z**2) / 2) / mpmath.sqrt(2 * mpmath.pi)  # noqa: E731
        oracle = 4 * mpmath.quad(
            lambda z: (1 + (s_g * z) ** 2) ** 1.5 * weight(z), [0, 0.01, 0.1, 1, 4, 16]
        )
    law = float(radius_tail_constant(1, s_g).evalf(20))
    assert abs(law / oracle - 1) < 1e-12
    assert abs(1.01 * law / oracle - 1) > 1e-3
    g = sympy.Symbol("s_g", positive=True)
    assert abs(float(numeric(radius_tail_constant(1, g), g)(s_g)) / oracle - 1) < 1e-10
    # The limit of no gradient, where exp(y) alone would overflow.
    assert abs(float(numeric(radius_tail_constant(1, g), g)(1e-6)) / 2 - 1) < 1e-10


def test_largest_batches_by_bisection():
    """The n at which a simulated layer's rate passes 2*(1 + m)/h."""
    rng = np.random.default_rng(4)
    size, h, gamma, sigma, momentum = 200_001, 4.0, 0.5, 3.0, 0.5
    limit = 2 * (1 + momentum) / h
    w, noise = rng.standard_normal((2, size))
    for tau, share in ((0.0, 1.0), (0.5, 1.0), (1e9, 0.3), (0.4, 0.3), (0.5, 0.7), (2.0, 0.8)):
        means = tau * rng.standard_normal(size) * (rng.random(size) < share)

        def rate(n, rule, means=means):
            g = means + sigma / np.sqrt(n) * noise
            if rule == "lars":
                return gamma * np.linalg.norm(w) / np.linalg.norm(g)
            return gamma * np.median(np.abs(w)) / np.median(np.abs(g))

        for rule, law in (
            ("lars", lars_largest_batch(gamma, 1, sigma, h, 0, tau, share, momentum)),
            (
                "mclr",
                mclr_largest_batch(gamma, 1, sigma, h, oo if tau > 1e8 else tau, share, momentum),
            ),
        ):
            if law == oo:
                assert rate(1e12, rule) < limit
                continue
            n = float(law)
            assert rate(0.95 * n, rule) < limit < rate(1.05 * n, rule)
    assert lars_largest_batch(0.5, 1, 3, 4, tau=1e9, share=0.3) == oo


def test_gauss_newton_gap_against_a_network():
    """Finite differences of the loss, less the Gauss-Newton entry from finite differences of f."""
    w, y, f1, f2 = sympy.symbols("w y f1 f2")
    outputs = [sympy.tanh(2 * w) * 3 + w**2, sympy.sin(w)]
    loss = sympy.log(sympy.exp(f1) + sympy.exp(f2)) - f1 + (f2 - y) ** 2
    gap = gauss_newton_gap(loss, outputs, w, [f1, f2])
    at = {w: Rational(3, 10), y: Rational(1, 5)}
    total = loss.subs({f1: outputs[0], f2: outputs[1]}).diff(w, 2).subs(at).evalf(30)
    hessian = sympy.hessian(loss, [f1, f2]).subs({f1: outputs[0], f2: outputs[1]})
    slope = sympy.Matrix(outputs).diff(w)
    ggn = (slope.T * hessian * slope)[0].subs(at).evalf(30)
    value = gap.subs(at).evalf(30)
    assert abs(total - ggn - value) < 1e-25
    assert abs(total - ggn - value * Rational(101, 100)) > 1e-3
    assert abs(total - ggn + value) > 1e-3


@few
@given(w=positive, b=st.integers(-3, 3), s_x=positive)
def test_kink_curvature_by_finite_differences(w, b, s_x):
    if abs(b / w / s_x) > 5:
        return
    with mpmath.workdps(50):
        s = mpmath.mpf(s_x.p) / s_x.q

        def mean_relu(slope):
            # E relu(slope*x + b) = sd*phi(a) + b*Phi(a), a = b/sd: only erf and exp, no derivative.
            sd = slope * s
            a = b / sd
            return sd * mpmath.npdf(a) + b * mpmath.ncdf(a)

        at, step = mpmath.mpf(w.p) / w.q, mpmath.mpf("1e-12")
        values = [mean_relu(at * (1 + k * step)) for k in (-1, 0, 1)]
        second = (values[0] - 2 * values[1] + values[2]) / (at * step) ** 2
        law = mpmath.mpf(str(kink_curvature(w, b, s_x).evalf(30)))
        assert abs(law - second) <= mpmath.mpf("1e-12") * abs(law) + mpmath.mpf("1e-20")
        assert b == 0 or abs(1.01 * law - second) > 1e-3 * abs(law)


def test_numeric_over_the_range():
    n, s_w, sigma, h = sympy.symbols("n s_w sigma h", positive=True)
    laws = [
        lars_rate(n, s_w, sigma, tau=h),
        lars_largest_batch(s_w, 1, sigma, h),
        kink_curvature(s_w, s_w / 3, 1),
        cblr_basin(Rational(1, 3), h),
        radius_tail(n, h),
        stationary_distance_deviation(1 / h, n, sigma, h, Rational(9, 10)),
    ]
    rng = np.random.default_rng(7)
    points = 10.0 ** rng.uniform(-8, 3, (12, 4))
    points[:, 0] = np.ceil(10.0 ** rng.uniform(0, 6, 12))
    for law in laws:
        found = numeric(law, n, s_w, sigma, h)(*points.T)
        for row, got in zip(points, found, strict=True):
            exact = law.subs(dict(zip((n, s_w, sigma, h), map(Rational, row), strict=True)))
            assert abs(Rational(got) / exact.evalf(30, maxn=400) - 1) < 1e-10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lars_rate(0, 1, 1), r"^n is 0; it must be at least 1"),
        (lambda: lars_rate(1, 0, 1), r"^s_w is 0; it must be greater than 0"),
        (lambda: lars_rate(1, 1, 1, size=1), r"^size is 1; it must be greater than 1"),
        (lambda: lars_rate(1, 1, 1, mu=1, size=9), r"^size is given with mu or beta"),
        (lambda: stationary_abs_distance(0, 1, 1, 1), r"^lr is 0; it must be greater than 0"),
        (lambda: stationary_abs_distance(2, 1, 1, 1), r"^lr\*\(curvature \+ weight_decay\) is 2;"),
        (lambda: stationary_abs_distance(1, 1, 1, 0), r"^curvature is 0; it must be greater"),
        (lambda: stationary_abs_distance(1, 1, 1, 1, 1), r"^momentum is 1; it must be in \[0, 1\)"),
        (lambda: cblr_step(1, 0), r"^h is 0; the radius is infinite on a line"),
        (lambda: cblr_basin(2, 1), r"^gamma is 2; it must be in \(0, 2\): from 2 on"),
        (lambda: cblr_basin(1, -1), r"^h is -1; it must be greater than 0: a maximum"),
        (lambda: cblr_convergence(0), r"^gamma is 0; it must be in \(0, 2\)"),
        (lambda: cblr_largest_gamma([[1, 2], [3, 1]]), r"^hessian is .*square and symmetric"),
        (lambda: cblr_largest_gamma([[0, 0], [0, 1]]), r"^hessian has diagonal"),
        (lambda: cblr_largest_gamma(np.ones((1, 2))), r"^hessian has shape \(1, 2\)"),
        (lambda: cblr_largest_gamma(np.array([[1.0, 2], [0, 1]])), r"^hessian is an array that is"),
        (lambda: cblr_largest_gamma(-np.eye(2)), r"^hessian has diagonal"),
        (lambda: radius_tail(0, 1), r"^r is 0; it must be greater than 0"),
        (lambda: radius_tail_constant(0), r"^density is 0; it must be greater than 0"),
        (lambda: lars_largest_batch(0, 1, 1, 1), r"^gamma is 0; it must be greater than 0"),
        (lambda: mclr_largest_batch(0, 1, 1, 1), r"^gamma is 0; it must be greater than 0"),
        (lambda: mclr_largest_batch(1, 1, 1, 1, -2), r"^tau is -2; it must be at least 0"),
        (lambda: mclr_largest_batch(1, 1, 1, 1, 2, 1.5), r"^share is 1\.5; it must be in \[0, 1\]"),
        (lambda: gauss_newton_gap(1, [1], sympy.Symbol("w"), []), r"^symbols has 0 entries for 1"),
        (lambda: gauss_newton_gap(1, [], 3, []), r"^parameter is 3; it must be a sympy symbol"),
        (lambda: kink_curvature(0, 1, 1), r"^w is 0; the unit does not see x there"),
    ],
)
def test_domain(call, message):
    with pytest.raises(ValueError, match=message):
        call()
