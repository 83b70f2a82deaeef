"""Means that a tail decides: distributions whose far quantiles scipy cannot find."""

import mpmath
import numpy as np
import pytest
import scipy.stats
from mpmath import exp, mpf, pi, sqrt

from theory import expected_abs_mean


def of_density(f, low=-60, high=60):
    """E|X| of a density by mpmath's quadrature, in pieces."""
    cuts = [low, *(c for c in (-20, -8, -3, -1, 0, 1, 3, 8, 20) if low < c < high), high]
    return mpmath.quad(lambda x: abs(x) * f(x), cuts)


def gumbel(x):
    return exp(-x - exp(-x))


def generalised_logistic(x):
    c = mpf("0.41")
    return c * exp(-x) * (1 + exp(-x)) ** (-c - 1)


def powered_normal(x):
    c = mpf("4.45")
    return c * mpmath.npdf(x) * mpmath.ncdf(-x) ** (c - 1)


def moyal(x):
    return exp(-(x + exp(-x)) / 2) / sqrt(2 * pi)


def skewed_student(x, a=8, b=4):
    root = sqrt(a + b + x**2)
    scale = 2 ** mpf(a + b - 1) * mpmath.beta(a, b) * sqrt(a + b)
    return (1 + x / root) ** (a + mpf(1) / 2) * (1 - x / root) ** (b + mpf(1) / 2) / scale


MEANS = {
    "rice": (scipy.stats.rice(0.775),
             lambda: sqrt(pi / 2) * mpmath.hyp1f1(-0.5, 1, -mpf("0.775") ** 2 / 2)),
    "f": (scipy.stats.f(29, 18), lambda: mpf(18) / 16),
    "betaprime": (scipy.stats.betaprime(5, 6), lambda: mpf(5) / 5),
    "moyal": (scipy.stats.moyal(), lambda: of_density(moyal, -8, 150)),
    "genlogistic": (scipy.stats.genlogistic(0.41), lambda: of_density(generalised_logistic, -150)),
    "powernorm": (scipy.stats.powernorm(4.45), lambda: of_density(powered_normal, -12, 8)),
    "kappa4": (scipy.stats.kappa4(0, 0), lambda: of_density(gumbel, -6)),
    "invgauss": (scipy.stats.invgauss(0.145), lambda: mpf("0.145")),
    "wald": (scipy.stats.wald(), lambda: mpf(1)),
    "mielke": (scipy.stats.mielke(10.4, 4.6),
               lambda: mpf("10.4") / mpf("4.6")
               * mpmath.beta(mpf("11.4") / mpf("4.6"), 1 - 1 / mpf("4.6"))),
    "heavy mielke": (scipy.stats.mielke(3, 1.2),
                     lambda: mpf(3) / mpf("1.2")
                     * mpmath.beta(4 / mpf("1.2"), 1 - 1 / mpf("1.2"))),
    "burr": (scipy.stats.burr(1.1, 2), lambda: 2 * mpmath.beta(2 + 1 / mpf("1.1"), 1 / mpf(11))),
    "fisk": (scipy.stats.fisk(1.1), lambda: pi / mpf("1.1") / mpmath.sin(pi / mpf("1.1"))),
    "jf_skew_t": (scipy.stats.jf_skew_t(8, 4),
                  lambda: of_density(skewed_student, -mpmath.inf, mpmath.inf)),
    "pareto next to one": (scipy.stats.pareto(1.02), lambda: mpf(51)),
    "lognormal beyond its quantiles": (scipy.stats.lognorm(8), lambda: exp(32)),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANS)
def test_one_draw_against_the_mean(name):
    source, law = MEANS[name]
    with mpmath.workdps(25):
        exact = float(law())
    mean = expected_abs_mean(source, 1)
    # The shape parameters are floats, which moves an index of 1.02 by 1e-16 and its mean by 1e-14.
    assert abs(mean.value - exact) <= mean.error + 1e-13 * exact
    assert mean.error < 1e-10 * exact
    assert abs(1.01 * mean.value - exact) > mean.error


@pytest.mark.parametrize("n", [2, 4])
def test_draws_of_one_sign_have_one_mean(n):
    for name in ("f", "heavy mielke", "burr", "lognormal beyond its quantiles"):
        source, law = MEANS[name]
        mean = expected_abs_mean(source, n)
        assert abs(mean.value / float(law()) - 1) < 1e-12
        assert mean.error < 1e-10 * mean.value


def test_two_and_more_draws_of_either_sign():
    """Sums of two Gumbel variables by a double integral, mpmath's."""
    with mpmath.workdps(15):
        exact = mpmath.quad(
            # Of the sum s the density is exp(-s)*Integral(exp(-2*exp(-s/2)*cosh(t)), (t, -oo, oo)).
            lambda s: abs(s) / 2 * 2 * exp(-s) * mpmath.besselk(0, 2 * exp(-s / 2)),
            [-12, -6, -3, 0, 3, 8, 20, 60],
        )
    mean = expected_abs_mean(scipy.stats.kappa4(0, 0), 2)
    # The quadrature's own 15 digits, and what lies beyond its ends.
    assert abs(mean.value - float(exact)) < 1e-11
    assert mean.error < 1e-12


def test_a_tail_of_index_one_has_no_mean():
    # scipy knows no mean of it, and finds no quantile beyond 1e-16.
    assert expected_abs_mean(scipy.stats.skewcauchy(0.5), 1).value == np.inf


def test_beyond_the_resolution_the_batch_is_between_two_draws_and_the_mean():
    source = scipy.stats.lognorm(8, -1)  # half the mean lies beyond the 1 - 1e-15 quantile
    mean = expected_abs_mean(source, 3)
    assert abs(mean.value - (np.exp(32) - 1)) <= mean.error < 1e-11 * mean.value


def test_a_density_without_a_tail_is_refused():
    # scipy inverts the quantiles of this one, and its density stops falling at 1e-21.
    with pytest.raises(ValueError, match=r"^source has a chance of .* pass a sample of it"):
        expected_abs_mean(scipy.stats.tukeylambda(-0.5), 1)


class Slow(scipy.stats.rv_continuous):
    """1 - F is log(e)/(x*log(e*x)^2): an index that tends to one from above, and a finite mean."""

    def _sf(self, x):
        return 1 / (x * np.log(np.e * x) ** 2)

    def _cdf(self, x):
        return 1 - self._sf(x)

    def _pdf(self, x):
        t = np.log(np.e * x)
        return (t + 2) / (x**2 * t**3)

    def _stats(self):
        return 2.0, None, None, None


def test_an_index_that_falls_to_one_is_refused():
    with pytest.raises(ValueError, match=r"^source has a tail of index 1\.\d+ that still falls"):
        expected_abs_mean(Slow(a=1.0)(), 1)
