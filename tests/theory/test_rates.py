"""Every rate that a statement gives, measured: the relative error's slope on log axes."""

import numpy as np
import pytest
import scipy.stats
from sympy import Rational, pi, sqrt

import theory
from theory import DERIVATIONS

HALF = Rational(1, 2)


def number(value):
    return float(value.evalf(40, maxn=2000)) if hasattr(value, "evalf") else float(value)


def laplace(n):
    law = theory.laplace_abs_gradient(n, 1) / theory.expected_abs_gradient(n, 1)
    return law / (1 - Rational(1, 8 * n)) - 1


def exponential(n):
    law = theory.exponential_abs_gradient(n, 1) / theory.expected_abs_gradient(n, 1)
    return law / (1 - Rational(1, 12 * n)) - 1


def edgeworth(n):
    law = theory.exponential_abs_gradient(n, 1)
    return theory.edgeworth_abs_gradient(n, 1, 2, 6) / law - 1


def gaussian(n):
    """Of gradients that are not: without a mean."""
    return theory.laplace_abs_gradient(n, 1) / theory.expected_abs_gradient(n, 1) - 1


def gaussian_with_mean(n):
    """With a mean of half the batch's noise, and skewness."""
    mu = 0.5 / n**0.5
    exact = theory.expected_abs_mean(scipy.stats.gamma(1, loc=mu - 1), n).value
    return exact / number(theory.expected_abs_gradient(n, 1, mu)) - 1


def student(degrees):
    """Against the Gaussian law of the same deviation, or the stable law of the same tail."""

    def off(n):
        exact = theory.expected_abs_mean(scipy.stats.t(degrees), n).value
        if degrees < 2:
            return exact * n ** (1 - 1 / degrees) / number(stable_limit()) - 1
        return exact / number(theory.expected_abs_gradient(n, (degrees / (degrees - 2)) ** 0.5)) - 1

    return off


def power_tail(n):
    """Pareto's, centred, against the stable law of the same tail (index 3/2, all to the right)."""
    alpha = 1.5
    tail = scipy.special.gamma(1 - alpha) * np.cos(np.pi * alpha / 2) * -1
    scale = abs(tail) ** (1 / alpha)
    exact = theory.expected_abs_mean(scipy.stats.pareto(alpha, loc=-3), n).value
    return exact / number(theory.stable_abs_gradient(n, scale, alpha, 1)) - 1


def stationary(rate):
    exact = theory.stationary_distance_deviation(rate, 1, 1, 1, HALF)
    return exact / sqrt(rate / (2 * HALF)) - 1


def forgotten(steps):
    """The variance after so many steps from rest, at m = 1/2, over the stationary one."""
    m, variance = 0.5, 0.0
    for _ in range(int(steps)):
        variance = m**2 * variance + 1
    return np.sqrt(variance * (1 - m**2)) - 1


def cubic(rate):
    """The loss g*d + h*d^2/2 + d^3 at g = h = 1, of one sample, along -lr*g."""
    exact = rate - rate**2 / 2 + rate**3
    law = theory.expected_loss_decrease(rate, 1, 0, mu=1, curvature=1)
    return exact / law - 1


def newton(g):
    return (1 - theory.cblr_step(g, 1, HALF) / g) / HALF - 1


def tail(r):
    return theory.radius_tail(r, 1) / (theory.radius_tail_constant(1 / sqrt(2 * pi)) / r) - 1


def lars_error(size):
    """The square of the standard error over the exact variance of a quotient of chi variables."""
    mean = theory.lars_mean(1, 1, size)
    return theory.rule_standard_error("lars", 1, 1, size) ** 2 / (
        Rational(size, size - 2) - mean**2
    ) - 1  # fmt: skip


def median_error(size):
    """The same of the median of an odd number of half-Cauchy radii, a Beta variable's quantile."""
    k = (size + 1) // 2
    x, weights = np.polynomial.legendre.leggauss(400)
    u = (x + 1) / 2
    density = scipy.stats.beta(k, size - k + 1).pdf(u) * weights / 2
    value = np.tan(np.pi * u / 2)
    variance = density @ value**2 - (density @ value) ** 2
    return number(theory.rule_standard_error("mclr-ratio", 1, 1, size)) ** 2 / variance - 1


def harmonic(size):
    """PercentDelta's median times log(P), which tends to pi/2."""
    return number(theory.percent_delta_centre(1, 1, size)) * np.log(float(size)) * 2 / np.pi - 1


def without_replacement(n):
    """Half of a population of 4n values, as many +1 as -1: a hypergeometric sum."""
    drawn = scipy.stats.hypergeom(2 * n, n, n)
    k = np.arange(n + 1)
    exact = drawn.pmf(k) @ np.abs(2 * k - n) / n
    return exact / number(theory.expected_abs_gradient(n, 1, population=2 * n)) - 1


SLOPES = {
    # name: the derivation, the error, two arguments, and the slope that the rate claims
    "laplace": ("laplace", laplace, (100, 200), -2),
    "exponential": ("exponential", exponential, (100, 200), -2),
    "edgeworth": ("edgeworth", edgeworth, (100, 200), -2),
    "gaussian": ("abs_gradient", gaussian, (100, 400), -1),
    "gaussian with mean": ("abs_gradient", gaussian_with_mean, (400, 1600), -0.5),
    "student 3": ("student", student(3), (4000, 16000), -0.5),
    "student 5": ("student", student(5), (4000, 16000), -1),
    "student 1.5": ("student", student(1.5), (2000, 8000), -1 / 3),
    "stable": ("stable", power_tail, (10**4, 10**5), -1 / 3),
    "stationary": ("stationary_distance", stationary, (Rational(1, 100), Rational(1, 200)), 1),
    "loss": ("loss_decrease", cubic, (Rational(1, 100), Rational(1, 200)), 2),
    "cblr": ("cblr", newton, (Rational(1, 100), Rational(1, 200)), 2),
    "tail": ("radius_tail", tail, (10, 20), -2),
    "lars": ("rules", lars_error, (100, 200), -1),
    "median": ("rules", median_error, (101, 203), -1),
    "harmonic": ("rules", harmonic, (1e60, 1e120), "log"),
    "without replacement": ("finite_population", without_replacement, (400, 1600), -1),
}  # fmt: skip


def stable_limit():
    """E|g| of the stable law that Student's tail of 1.5 degrees leads to, at n = 1."""
    v = 1.5
    # P(|T| > t) ~ c*t^-v; 1 - phi ~ c*Gamma(1 - v)*cos(pi*v/2)*t^v.
    c = 2 * scipy.special.gamma((v + 1) / 2) * v ** (v / 2 - 1) / (
        scipy.special.gamma(v / 2) * np.sqrt(np.pi))  # fmt: skip
    scale = (c * scipy.special.gamma(1 - v) * np.cos(np.pi * v / 2)) ** (1 / v)
    return theory.stable_abs_gradient(1, scale, v)


@pytest.mark.parametrize("name", SLOPES)
def test_the_rate_is_the_one_stated(name):
    derivation, error, places, slope = SLOPES[name]
    assert any(s.rate for s in DERIVATIONS[derivation].statements)
    found = [abs(number(error(place))) for place in places]
    assert found[0] > 1e-13
    if slope == "log":
        steps = np.log(np.log(places[1]) / np.log(places[0]))
        slope = -1
    else:
        steps = np.log(float(places[1]) / float(places[0]))
    assert np.log(found[1] / found[0]) / steps == pytest.approx(slope, abs=0.12)


def test_the_velocity_forgets_at_the_stated_rate():
    """By m^2, a quarter, with each step."""
    assert forgotten(11) / forgotten(10) == pytest.approx(1 / 4, rel=1e-3)
