"""Limits of the layer-wise rules that a tail, or a power of |x| at zero, decides: closed forms."""

import mpmath
import numpy as np
import pytest
import scipy.stats
from mpmath import exp, log, mpf, pi, sqrt

from theory import rule_limit_of

uniform, normal = scipy.stats.uniform(1, 1), scipy.stats.norm()
NORMAL = sqrt(2 / pi)  # E|Z|


def student(v):
    v = mpf(v)
    root = 2 * sqrt(v) / sqrt(pi)
    return root * mpmath.gamma((v + 1) / 2) / mpmath.gamma(v / 2) / (v - 1) * log(2)


MEANS = {
    "t(1.05)": (scipy.stats.t(1.05), uniform, lambda: student(1.05)),
    "t(1.1)": (scipy.stats.t(1.1), uniform, lambda: student(1.1)),
    "t(3)": (scipy.stats.t(3), uniform, lambda: student(3)),
    "pareto(1.05)": (scipy.stats.pareto(1.05), uniform, lambda: mpf(1.05) / mpf(0.05) * log(2)),
    "lognorm(8)": (scipy.stats.lognorm(8), uniform, lambda: exp(32) * log(2)),
    "weibull(1/10)": (scipy.stats.weibull_min(0.1), uniform, lambda: mpmath.gamma(11) * log(2)),
    "gamma(1.1)": (normal, scipy.stats.gamma(1.1), lambda: NORMAL / (mpf(1.1) - 1)),
    "gamma(1.05)": (normal, scipy.stats.gamma(1.05), lambda: NORMAL / (mpf(1.05) - 1)),
    "gamma(1.001)": (normal, scipy.stats.gamma(1.001), lambda: NORMAL / (mpf(1.001) - 1)),
    "two-sided": (normal, scipy.stats.dweibull(1.5), lambda: NORMAL * mpmath.gamma(mpf(1) / 3)),
    "lognormal inverse": (normal, scipy.stats.lognorm(8), lambda: NORMAL * exp(32)),
    "next to zero": (normal, scipy.stats.uniform(1e-9, 1),
                     lambda: NORMAL * log((1 + mpf(1e-9)) / mpf(1e-9))),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANS)
def test_the_mean_radius(name):
    w, g, law = MEANS[name]
    exact = float(law())
    value = rule_limit_of("mean", w, g)
    # 1e-8 is the promise; an index of 1.001 as a float moves its mean by 1e-13.
    assert abs(value - exact) < 1e-11 * exact
    # PercentDelta's limit is the other way round.
    assert abs(rule_limit_of("percentdelta", g, w) * exact - 1) < 1e-11


def test_means_that_are_infinite():
    assert rule_limit_of("mean", scipy.stats.cauchy(), uniform) == np.inf
    assert rule_limit_of("percentdelta", uniform, scipy.stats.cauchy()) == 0
    for g in (scipy.stats.gamma(1), scipy.stats.gamma(0.5), scipy.stats.beta(0.5, 1)):
        assert rule_limit_of("mean", normal, g) == np.inf


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
def test_gradients_without_a_second_moment():
    for law in (scipy.stats.pareto(1.5), scipy.stats.t(2), scipy.stats.f(3, 3)):
        assert rule_limit_of("lars", normal, law) == 0
        assert rule_limit_of("lars", law, normal) == np.inf


def test_a_tail_that_is_not_known_names_the_layer():
    law = scipy.stats.tukeylambda(-0.5)
    with pytest.raises(ValueError, match=r"^w has a chance of"):
        rule_limit_of("mean", law, uniform)
    with pytest.raises(ValueError, match=r"^g has a chance of"):
        rule_limit_of("percentdelta", uniform, law)
