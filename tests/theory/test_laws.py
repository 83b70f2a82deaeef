"""The laws against naive oracles: integration at 30 digits, enumeration, simulation.

Every comparison is also made with the law altered, to show that it would notice.
"""

import itertools

import mpmath
import numpy as np
import pytest
import sympy
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sympy import Rational, S, oo, pi, sqrt

from theory import (
    expected_abs_distance,
    expected_abs_gradient,
    expected_abs_step,
    expected_loss_decrease,
)

DIGITS = 30
# Quadrature at 40 digits, compared at 25: the last ones are its own error.
AGREE = mpmath.mpf("1e-25")
ALTERED = {"1.01": Rational(101, 100), "0.99": Rational(99, 100), "sign": S(-1)}


def gaussian_mean(of, mu, sd):
    """E of(X) for X ~ N(mu, sd), by quadrature over forty deviations; `of` may bend at 0."""
    with mpmath.workdps(40):
        mu, sd = mpmath.mpf(mu.p) / mu.q, mpmath.sqrt(mpmath.mpf(sd.p) / sd.q)
        cuts = {mu + k * sd for k in (-16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16)}
        cuts |= {mpmath.mpf(0)} if mu - 16 * sd < 0 < mu + 16 * sd else set()

        def integrand(value):
            return of(value) * mpmath.exp(-(((value - mu) / sd) ** 2) / 2)

        return mpmath.quad(integrand, sorted(cuts)) / (sd * mpmath.sqrt(2 * mpmath.pi))


def close(expression, oracle, tolerance=AGREE):
    with mpmath.workdps(40):
        value = mpmath.mpf(str(S(expression).evalf(DIGITS + 5)))
        return abs(value - oracle) <= tolerance * abs(oracle)


def mpf(value):
    with mpmath.workdps(40):
        return mpmath.mpf(value.p) / value.q


def variance(n, sigma, population=None):
    """sigma^2/n, times the finite-population factor, in exact fractions."""
    value = sigma**2 / n
    return value if population is None else value * Rational(population - n, population - 1)


rationals = st.builds(Rational, st.integers(1, 400), st.integers(1, 400))
signed = st.builds(lambda value, sign: sign * value, rationals, st.sampled_from([-1, 0, 1]))
sizes = st.integers(1, 10_000)
few = settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.generate))


def noticed(law, oracle):
    """Whether the oracle tells the law from each altered one (and the law itself passes)."""
    assert close(law, oracle), (law, oracle)
    return all(not close(law * factor, oracle) for factor in ALTERED.values())


@few
@given(n=sizes, sigma=rationals, mu=signed)
def test_abs_gradient_by_integration(n, sigma, mu):
    oracle = gaussian_mean(abs, mu, variance(n, sigma))
    assert noticed(expected_abs_gradient(n, sigma, mu), oracle)


@few
@given(n=st.integers(1, 500), extra=st.integers(1, 500), sigma=rationals, mu=signed)
def test_abs_gradient_of_a_finite_population_by_integration(n, extra, sigma, mu):
    oracle = gaussian_mean(abs, mu, variance(n, sigma, n + extra))
    assert noticed(expected_abs_gradient(n, sigma, mu, population=n + extra), oracle)


def test_the_integration_oracle_knows_a_moment():
    assert abs(gaussian_mean(lambda v: v * v, S(3), S(4)) - 13) < AGREE


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_the_finite_population_factor_by_enumeration(n):
    population = [Rational(v) for v in (-7, -2, 1, 1, 4, 11)]
    size = len(population)
    mean = sum(population) / S(size)
    sigma = sqrt(sum((v - mean) ** 2 for v in population) / size)
    batches = [sum(c) / S(n) for c in itertools.combinations(population, n)]
    exact = sum((v - mean) ** 2 for v in batches) / S(len(batches))
    law = expected_abs_gradient(n, sigma, population=size)
    assert sympy.simplify(law**2 * pi / 2 - exact) == 0
    # With divisor N - 1 for sigma, or without the factor, it would not be.
    if n < size:
        wrong = expected_abs_gradient(n, sigma * sqrt(Rational(size, size - 1)), population=size)
        assert sympy.simplify(wrong**2 * pi / 2 - exact) != 0
    if n > 1:
        assert sympy.simplify(expected_abs_gradient(n, sigma) ** 2 * pi / 2 - exact) != 0


@few
@given(n=sizes, sigma=rationals, mu=signed, lr=rationals, curvature=signed)
def test_loss_decrease_by_integration(n, sigma, mu, lr, curvature):
    rate, h, mean, sd2 = mpf(lr), mpf(curvature), mpf(mu), variance(n, sigma)
    # The oracle evaluates a parabola before and after the step; it knows no second moment.
    batch = gaussian_mean(lambda g: -(g * (-rate * g) + h / 2 * (rate * g) ** 2), mu, sd2)
    whole = gaussian_mean(lambda g: -(mean * (-rate * g) + h / 2 * (rate * g) ** 2), mu, sd2)
    scale = gaussian_mean(lambda g: rate * g * g * (1 + abs(h) * rate), mu, sd2)
    for on, oracle in (("batch", batch), ("population", whole)):
        law = expected_loss_decrease(lr, n, sigma, mu, curvature, on)
        with mpmath.workdps(40):
            assert abs(mpmath.mpf(str(law.evalf(35))) - oracle) <= AGREE * scale
        # Where lr*h is near 2, or the mean near 0, the decrease itself vanishes: nothing to alter.
        if abs(oracle) > AGREE**0.5 * scale:
            assert all(not close(law * factor, oracle) for factor in ALTERED.values())


def test_loss_decrease_on_batch_and_population_differ_by_the_variance():
    lr, n, sigma, mu, h = sympy.symbols("lr n sigma mu h", positive=True)
    batch = expected_loss_decrease(lr, n, sigma, mu, h)
    population = expected_loss_decrease(lr, n, sigma, mu, h, "population")
    assert sympy.expand(batch - population - lr * sigma**2 / n) == 0


@few
@given(a=rationals, n=sizes, sigma=rationals, mu=signed)
def test_abs_distance_by_integration(a, n, sigma, mu):
    curvature = mpf(a)
    oracle = gaussian_mean(lambda g: abs(g / (2 * curvature)), mu, variance(n, sigma))
    assert noticed(expected_abs_distance(a, n, sigma, mu), oracle)
    assert expected_abs_distance(-a, n, sigma, mu) == expected_abs_distance(a, n, sigma, mu)
    whole = expected_abs_distance(a, n, sigma, mu, on="population")
    assert whole == abs(mu) / (2 * a)


def velocity(momentum, mean, sd, terms=2000):
    """Mean and variance of the stationary heavy-ball velocity, by adding up its terms."""
    with mpmath.workdps(40):
        m = mpf(momentum)
        total, square, power = mpmath.mpf(0), mpmath.mpf(0), mpmath.mpf(1)
        for _ in range(terms):
            total, square, power = total + power, square + power**2, power * m
        return total * mpf(mean), square * sd


@few
@given(
    lr=rationals,
    n=sizes,
    sigma=rationals,
    mu=signed,
    momentum=st.builds(Rational, st.integers(0, 9), st.just(10)),
)
def test_abs_step_by_integration(lr, n, sigma, mu, momentum):
    with mpmath.workdps(40):
        mean, sd2 = velocity(momentum, mu, mpf(variance(n, sigma)))
        exact_mean = Rational(sympy.nsimplify(mu / (1 - momentum)))
        exact_sd2 = variance(n, sigma) / (1 - momentum**2)
        # The sums themselves are the oracle for the two closed forms that the quadrature takes.
        assert abs(mpf(exact_mean) - mean) <= AGREE * (abs(mean) + 1)
        assert abs(mpf(exact_sd2) - sd2) <= AGREE * sd2
        oracle = mpf(lr) * gaussian_mean(abs, exact_mean, exact_sd2)
    assert noticed(expected_abs_step(lr, n, sigma, mu, momentum=momentum), oracle)


@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_abs_step_by_simulation(mu):
    """Heavy-ball steps as PyTorch makes them, on batches of four Gaussian gradients."""
    lr, n, sigma, momentum, chains = 0.5, 4, 1.5, 0.8, 40_000
    rng = np.random.default_rng(6)
    v = np.zeros(chains)
    for _ in range(80):  # 0.8^80 = 2e-8: stationary
        v = momentum * v + (mu + sigma * rng.standard_normal((n, chains))).mean(axis=0)
    steps = np.abs(-lr * v)
    error = steps.std() / np.sqrt(chains)
    law = float(expected_abs_step(lr, n, sigma, mu, momentum=momentum))
    assert abs(steps.mean() - law) < 4 * error
    # The standard error is about 0.4 per cent here; the plain law is off by 40.
    assert abs(steps.mean() - float(expected_abs_step(lr, n, sigma, mu))) > 20 * error
    assert abs(steps.mean() + law) > 20 * error


def test_abs_gradient_by_simulation_without_replacement():
    rng = np.random.default_rng(7)
    data = rng.standard_normal(400) * 2 + 0.1
    n, repeats = 300, 20_000
    order = rng.random((repeats, 400)).argsort(axis=1)[:, :n]
    means = np.abs(data[order].mean(axis=1))
    error = means.std() / np.sqrt(repeats)
    mu, sigma = data.mean(), data.std()
    law = float(expected_abs_gradient(n, sigma, mu, population=400))
    # Normality of the mean of 300 out of 400 costs far less than the standard error.
    assert abs(means.mean() - law) < 4 * error
    assert abs(means.mean() - float(expected_abs_gradient(n, sigma, mu))) > 20 * error


def test_reductions_to_the_papers_corrected_forms():
    lr, n, sigma, a, N = sympy.symbols("lr n sigma a N", positive=True)
    plain = sqrt(2 / pi) * sigma / sqrt(n)
    assert expected_abs_gradient(n, sigma) == plain
    assert expected_abs_step(lr, n, sigma) == lr * plain
    assert expected_abs_distance(a, n, sigma) == plain / (2 * a)
    assert expected_loss_decrease(lr, n, sigma) == lr * sigma**2 / n
    finite = expected_abs_gradient(n, sigma, population=N)
    assert sympy.limit(finite / plain, N, oo) == 1
    mu = sympy.Symbol("mu", real=True)
    assert expected_abs_gradient(n, sigma, mu).subs(mu, 0) == plain


def test_plain_symbols_are_accepted():
    n, sigma, mu = sympy.symbols("n sigma mu")
    law = expected_abs_gradient(n, sigma, mu)
    assert law.free_symbols == {n, sigma, mu}
    assert law.subs({mu: 0, n: 4, sigma: 1}) == 1 / sqrt(2 * pi)


@pytest.mark.parametrize("n", [1, 2, 50])
@pytest.mark.parametrize("mu", [0, -3, Rational(1, 7)])
def test_the_whole_population_leaves_nothing_to_chance(n, mu):
    assert expected_abs_gradient(n, 5, mu, population=n) == abs(mu)
    assert expected_abs_step(2, n, 5, mu, population=n) == 2 * abs(mu)
    assert expected_abs_distance(1, n, 5, mu, population=n) == abs(S(mu)) / 2
    assert expected_loss_decrease(2, n, 5, mu, population=n) == 2 * mu**2


def test_the_whole_population_as_a_symbol():
    n, N, sigma = sympy.symbols("n N sigma", positive=True)
    law = expected_abs_gradient(n, sigma, -2, population=N)
    assert law.subs({n: 7, N: 7}) == 2
    assert close(law.subs({n: 2, N: 7, sigma: 3}), gaussian_mean(abs, S(-2), variance(2, S(3), 7)))


def test_no_spread():
    assert expected_abs_gradient(3, 0, -2) == 2
    assert expected_abs_gradient(3, 0) == 0
    n = sympy.Symbol("n", positive=True)
    assert expected_abs_gradient(n, 0, -2, population=100) == 2


@few
@given(sigma=rationals, mu=signed, scale=rationals, n=st.integers(1, 99))
def test_symmetries(sigma, mu, scale, n):
    law = expected_abs_gradient(n, sigma, mu, population=100)
    assert law.equals(expected_abs_gradient(n, sigma, -mu, population=100))
    scaled = expected_abs_gradient(n, scale * sigma, scale * mu, population=100)
    assert abs((scaled - scale * law).evalf(30)) < Rational(1, 10**25) * scale * law
    # Bounds: |mu| below (Jensen), the root mean square above; and no rise with n.
    rms = sqrt(mu**2 + variance(n, sigma, 100))
    slack = 1 + Rational(1, 10**25)
    assert abs(mu) <= law.evalf(30) * slack <= rms.evalf(30) * slack**2
    larger = expected_abs_gradient(n + 1, sigma, mu, population=100)
    assert larger.evalf(30) <= law.evalf(30) * slack


LAWS = {
    "gradient": lambda **k: expected_abs_gradient(**{"n": 2, "sigma": 1, **k}),
    "step": lambda **k: expected_abs_step(**{"lr": 1, "n": 2, "sigma": 1, **k}),
    "decrease": lambda **k: expected_loss_decrease(**{"lr": 1, "n": 2, "sigma": 1, **k}),
    "distance": lambda **k: expected_abs_distance(**{"a": 1, "n": 2, "sigma": 1, **k}),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("n", 0, r"^n is 0; it must be at least 1: a batch holds one sample or more"),
        ("n", 0.5, r"^n is 0\.5; it must be at least 1"),
        ("n", oo, r"^n is oo; it must be finite"),
        ("n", "many", r"^n is 'many'; it must be a number or a sympy expression"),
        ("n", np.ones(2), r"^n is array.*compile the result with theory\.numeric"),
        ("n", True, r"^n is True; it must be a number"),
        ("sigma", -1, r"^sigma is -1; it must be at least 0: .*did you mean mu"),
        ("sigma", 1j, r"^sigma is 1j; it must be a real number"),
        ("sigma", float("nan"), r"^sigma is nan; it must be a real number"),
        ("mu", float("inf"), r"^mu is inf; it must be finite"),
        ("population", 1, r"^population is 1, smaller than n = 2; .*leave population out"),
        ("population", 0, r"^population is 0; it must be at least 1"),
    ],
)
def test_domain(law, argument, value, message):
    with pytest.raises(ValueError, match=message):
        law(**{argument: value})


@pytest.mark.parametrize(
    ("law", "argument", "value", "message"),
    [
        ("step", "lr", -1, r"^lr is -1; it must be at least 0: .*sign is already in it"),
        ("decrease", "lr", -1, r"^lr is -1; it must be at least 0"),
        ("step", "momentum", 1, r"^momentum is 1; it must be in \[0, 1\)"),
        ("step", "momentum", -0.1, r"^momentum is -0\.1; it must be in"),
        ("decrease", "on", "all", r"^on is 'all'; it must be 'batch' or 'population'"),
        ("distance", "on", None, r"^on is None; it must be 'batch' or 'population'"),
        ("distance", "a", 0, r"^a is 0; a parabola of zero curvature has no minimum"),
        ("decrease", "curvature", oo, r"^curvature is oo; it must be finite"),
    ],
)
def test_domain_of_one_law(law, argument, value, message):
    with pytest.raises(ValueError, match=message):
        LAWS[law](**{argument: value})


def test_numpy_scalars_keep_their_value():
    assert expected_abs_gradient(np.int64(4), np.float32(0.5), np.float64(0)) == (
        expected_abs_gradient(4, 0.5)
    )
    third = np.float32(1 / 3)
    assert float(expected_abs_gradient(1, 0, third)) == float(third)
