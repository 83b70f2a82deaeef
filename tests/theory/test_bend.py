"""The bend, the noise scale, and the four laws with means spread over a layer."""

import mpmath
import numpy as np
import pytest
import sympy
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sympy import Rational, S, oo

from theory import (
    bend_batch_size,
    expected_abs_distance,
    expected_abs_gradient,
    expected_abs_step,
    expected_loss_decrease,
    gradient_noise_scale,
    numeric,
)

few = settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.generate))
positive = st.builds(Rational, st.integers(1, 400), st.integers(1, 400))
signed = st.builds(lambda v, s: v * s, positive, st.sampled_from([-1, 0, 1]))
AGREE = mpmath.mpf("1e-25")
ALTERED = (Rational(101, 100), S(-1))


def mean_over(of, mu, variance):
    """E of(X), X ~ N(mu, sqrt(variance)), by quadrature at 40 digits."""
    with mpmath.workdps(40):
        mu, sd = mpmath.mpf(mu.p) / mu.q, mpmath.sqrt(mpmath.mpf(variance.p) / variance.q)
        cuts = sorted({mu + k * sd for k in (-16, -8, -4, -2, 0, 2, 4, 8, 16)} | {mpmath.mpf(0)})
        weight = lambda v: mpmath.exp(-(((v - mu) / sd) ** 2) / 2)  # noqa: E731
        total = mpmath.quad(lambda v: of(v) * weight(v), cuts)
        return total / (sd * mpmath.sqrt(2 * mpmath.pi))


def value(expression):
    with mpmath.workdps(40):
        return mpmath.mpf(str(S(expression).evalf(38)))


def noticed(law, oracle, scale=None):
    scale = abs(oracle) if scale is None else scale
    with mpmath.workdps(40):
        off = [abs(value(law * f) - oracle) <= AGREE * scale for f in (1, *ALTERED)]
    return off == [True, False, False]


@few
@given(
    n=st.integers(1, 10_000),
    sigma=positive,
    mu=signed,
    tau=positive,
    mask=positive,
    common=positive,
)
def test_abs_gradient_with_every_spread_by_integration(n, sigma, mu, tau, mask, common):
    variance = sigma**2 / n + tau**2 + mask**2 / n + common**2
    law = expected_abs_gradient(n, sigma, mu, tau=tau, mask=mask, common=common)
    assert noticed(law, mean_over(abs, mu, variance))


@settings(few, max_examples=5)
@given(n=st.integers(1, 500), sigma=positive, mu=signed, tau=positive)
def test_the_other_laws_with_spread_means_by_integration(n, sigma, mu, tau):
    rate, m, h = Rational(1, 3), Rational(1, 2), Rational(2, 7)
    noise = sigma**2 / n
    moving = noise / (1 - m**2) + tau**2 / (1 - m) ** 2
    step = expected_abs_step(rate, n, sigma, mu, momentum=m, tau=tau)
    assert noticed(step * 3, mean_over(abs, mu / (1 - m), moving))
    distance = expected_abs_distance(h, n, sigma, mu, tau=tau)
    assert noticed(distance * 2 * h, mean_over(abs, mu, noise + tau**2))
    whole = expected_abs_distance(h, n, sigma, mu, on="population", tau=tau)
    assert noticed(whole * 2 * h, mean_over(abs, mu, tau**2))
    square = mean_over(lambda v: v * v, mu, noise + tau**2)
    means = mean_over(lambda v: v * v, mu, tau**2)
    for on, first in (("batch", square), ("population", means)):
        law = expected_loss_decrease(rate, n, sigma, mu, h, on, tau=tau)
        with mpmath.workdps(40):
            oracle = first / 3 - square / 9 / 7
        assert noticed(law, oracle)


@few
@given(sigma=positive, mu=positive, tau=positive, extra=st.integers(2, 10**6))
def test_the_bend_is_where_the_asymptotes_cross(sigma, mu, tau, extra):
    for means in ({"mu": mu}, {"tau": tau}, {"mu": mu, "tau": tau}):
        level = (
            mean_over(abs, means.get("mu", S(0)), means.get("tau", S(0)) ** 2)
            if ("tau" in means)
            else mpmath.mpf(mu.p) / mu.q
        )
        bend = value(bend_batch_size(sigma, **means))
        with mpmath.workdps(40):
            line = mpmath.sqrt(2 / mpmath.pi) * value(sigma)
            for factor, agrees in ((1, True), (mpmath.mpf("1.01"), False)):
                crossing = line / mpmath.sqrt(bend * factor)
                assert (abs(crossing - level) < mpmath.mpf("1e-14") * level) == agrees
            finite = value(bend_batch_size(sigma, **means, population=extra))
            factor = mpmath.sqrt((extra - finite) / (extra - 1))
            assert abs(line / mpmath.sqrt(finite) * factor - level) < mpmath.mpf("1e-14") * level
        assert 2 / np.pi * float(gradient_noise_scale(sigma, **means)) <= float(bend) * (1 + 1e-12)


def test_noise_scale_on_data():
    """tr(Sigma)/|G|^2 of a matrix of per-sample gradients, as McCandlish et al. define it."""
    rng = np.random.default_rng(3)
    gradients = 2 * rng.standard_normal((50, 400)) + 0.3
    means = gradients.mean(axis=0)
    trace = gradients.var(axis=0).sum()
    law = float(
        gradient_noise_scale(gradients.var(axis=0).mean() ** 0.5, means.mean(), means.std())
    )
    assert abs(law - trace / (means**2).sum()) < 1e-12 * law
    assert abs(1.01 * law - trace / (means**2).sum()) > 1e-3 * law


def test_edges():
    assert bend_batch_size(1) == gradient_noise_scale(1) == oo
    assert bend_batch_size(1, population=10) == 10
    assert gradient_noise_scale(3, mu=-3) == 1
    n, sigma, N = sympy.symbols("n sigma N", positive=True)
    # Without the extensions: the corrected form itself, the same object.
    assert expected_abs_gradient(n, sigma, tau=0, mask=0, common=0) == expected_abs_gradient(
        n, sigma
    )
    assert expected_abs_step(1, n, sigma, tau=0) == expected_abs_step(1, n, sigma)
    tau = sympy.Symbol("tau", nonnegative=True)
    law = expected_abs_gradient(n, sigma, 2, population=N, tau=tau)
    assert law.subs(tau, 0).subs({n: 5, N: 5, sigma: 3}) == 2
    assert expected_abs_gradient(5, 3, 0, population=5, tau=2) == 2 * sympy.sqrt(2 / sympy.pi)
    assert expected_abs_step(1, 5, 3, 0, 5, 0, tau=2) == 2 * sympy.sqrt(2 / sympy.pi)


def test_numeric_over_the_range():
    sigma, mu, tau = sympy.symbols("sigma mu tau", positive=True)
    laws = {
        "bend": bend_batch_size(sigma, mu),
        "both": bend_batch_size(sigma, mu, tau),
        "noise": gradient_noise_scale(sigma, mu, tau),
    }
    rng = np.random.default_rng(5)
    points = 10.0 ** rng.uniform(-8, 3, (20, 3))
    for law in laws.values():
        found = numeric(law, sigma, mu, tau)(*points.T)
        for row, got in zip(points, found, strict=True):
            exact = law.subs(dict(zip((sigma, mu, tau), map(Rational, row), strict=True)))
            assert abs(Rational(got) / exact.evalf(30) - 1) < 1e-10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bend_batch_size(-1), r"^sigma is -1; it must be at least 0"),
        (lambda: bend_batch_size(1, tau=-1), r"^tau is -1; it must be at least 0"),
        (lambda: bend_batch_size(1, population=0), r"^population is 0; it must be at least 1"),
        (lambda: gradient_noise_scale(1, mu=oo), r"^mu is oo; it must be finite"),
        (lambda: expected_abs_gradient(1, 1, mask=-2), r"^mask is -2; it must be at least 0"),
        (lambda: expected_abs_gradient(1, 1, common=1j), r"^common is 1j; it must be a real"),
        (lambda: expected_abs_step(1, 1, 1, tau=-2), r"^tau is -2"),
        (lambda: expected_abs_distance(1, 1, 1, tau=-2), r"^tau is -2"),
        (lambda: expected_loss_decrease(1, 1, 1, tau=-2), r"^tau is -2"),
    ],
)
def test_domain(call, message):
    with pytest.raises(ValueError, match=message):
        call()
