"""Laws at floats that cancel, quantiles at either end, and arguments of the wrong kind."""

import mpmath
import numpy as np
import pytest
import sympy
from mpmath import mpf
from sympy import Rational, oo

from theory import (
    cblr_basin,
    cblr_largest_gamma,
    cblr_step,
    expected_abs_mean,
    ratio_mean,
    ratio_quantile_bounds,
    rule_estimate,
    rule_growth_exponent,
    shortcut_entries_quantile,
    shortcut_largest_share,
    shortcut_layer_share_within,
    shortcut_ratio_quantile,
    shortcut_share_within,
)


def basin(v):
    return mpmath.sqrt((2 / v) ** (mpf(2) / 3) - 1)


def layer_share(v):
    return 2 / mpmath.pi * (mpmath.atan(2 / v) - mpmath.atan(1 / (2 * v)))


def share(v):
    return mpmath.erfc(v / mpmath.sqrt(8)) - mpmath.erfc(v * mpmath.sqrt(2))


def largest_share(f):
    k = 2 * f * mpmath.sqrt(mpmath.log(f) / (f**4 - 1))
    return mpmath.erfc(k / (mpmath.sqrt(2) * f)) - mpmath.erfc(k * f / mpmath.sqrt(2))


def step(v):
    return v * (1 - (1 + v**2) ** mpf(1.5))


FLOATS = {
    "ratio_mean": (lambda v: ratio_mean(1.0, 1.0, cut=v),
                   lambda v: mpmath.log1p(v**2) / mpmath.pi, (3.0, 1e-7, 1e-9, 1e-100)),
    "cblr_step": (lambda v: cblr_step(v, 1.0, 1.0), step, (0.5, 1e-5, 1e-9, 1e-60)),
    "cblr_basin": (lambda v: cblr_basin(v, 1.0), basin, (0.25, 2 - 1e-9, 2 - 4.4e-16, 1e-300)),
    "layer share": (lambda v: shortcut_layer_share_within(2, v, 1, 1, 1), layer_share,
                    (0.7, 1e-15, 1e-17, 1e-100, 1e30)),
    "share": (lambda v: shortcut_share_within(2, v, 1, 1, 1), share, (0.7, 1e-15, 1e-17, 1e-100)),
    "largest share": (shortcut_largest_share, largest_share, (2.5, 1 + 1e-9, 1 + 1e-13)),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOATS)
def test_a_law_at_floats(name):
    law, oracle, points = FLOATS[name]
    for point in points:
        with mpmath.workdps(400):
            exact = float(oracle(mpf(point)))
        # 15 digits of sympy's.
        assert abs(float(law(point)) / exact - 1) < 1e-14


def test_one_symbol_leaves_the_formula():
    cut = sympy.Symbol("cut", positive=True)
    assert ratio_mean(1, 1, cut=cut) == sympy.log(1 + cut**2) / sympy.pi
    assert ratio_mean(1, 1, cut=1) == sympy.log(2) / sympy.pi


@pytest.mark.parametrize("p", [0.3, 1e-8, 1e-15, 1e-16, 1e-17, 1e-60, 1e-300, 1 - 1e-12])
def test_the_quantile_of_one_parameter(p):
    """z with P(|Z| > z) = p, in mpmath at as many digits as 1 - p needs; then with a mean."""
    with mpmath.workdps(340):
        z = mpmath.sqrt(2) * mpmath.erfinv(1 - mpf(p))
        exact = float(1 / z)
    # The root's 15 digits.
    assert abs(float(shortcut_ratio_quantile(p, 1, 1, 1)) / exact - 1) < 3e-15
    with mpmath.workdps(40):
        t = 1 / mpf(str(shortcut_ratio_quantile(p, 1, 1, 1, mu=2).evalf(30)))
        held = mpmath.ncdf(2 - t) + mpmath.ncdf(-2 - t)
        # P changes t^2 times as much as t does, at 1e-300 by 1,400, of 30 digits; near p = 1
        # it is 1 - p that has them.
        assert abs(held / mpf(p) - 1) < 1e-24
        assert p < 0.9 or abs((1 - held) / (1 - mpf(p)) - 1) < 1e-14


@pytest.mark.parametrize("e", [0.08, 0.05, 0.03, 0.015, 1e-3, 1e-8, 1e-10, 1e-12, 1e-15])
@pytest.mark.parametrize("mu", [0.0, 0.5, 4.0])
def test_the_quantile_over_entries_next_to_one(e, mu):
    p = 1 - e
    value = shortcut_entries_quantile(p, [1.0, 3.0], [1.0, 1.0], 1, mu=mu)
    with mpmath.workdps(40):
        inside = [
            mpmath.ncdf(size / mpf(value) - mu) - mpmath.ncdf(-size / mpf(value) - mu)
            for size in (1, 3)
        ]
        # What is above the quantile is proportional to its inverse: "to 1e-12" of either.
        assert abs(mpmath.fsum(inside) / 2 / (1 - mpf(p)) - 1) < 1e-12


def test_bounds_at_floats_count_as_fractions_do():
    w, g = [1] * 3 + [Rational(1, 2)] * 7, [1] * 3 + [2] * 7
    assert ratio_quantile_bounds(w, g, 0.7)[1] == ratio_quantile_bounds(w, g, Rational(7, 10))[1]
    # |w/g| is 1/4 seven times and 1 three times: the upper 0.7-quantile is 1.
    assert ratio_quantile_bounds(w, g, 0.7)[1] > 1
    for size in (3, 7, 10, 40):
        ones = [1] * size
        for k in range(1, size):
            high = ratio_quantile_bounds(ones, ones, k / size)[1]
            assert high == sympy.sqrt(Rational(size, size - k))


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-162, 1.0, 1e200, 5e307])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_sample_of_any_scale(scale, n):
    import itertools

    sample = np.array([1.0, -1.0, 3.0])
    exact = np.mean([abs(sum(batch)) / n for batch in itertools.product(sample, repeat=n)])
    mean = expected_abs_mean(scale * sample, n)
    assert abs(mean.value / scale - exact) < 1e-14 * exact
    assert mean.error < 1e-12 * mean.value


def test_a_sample_of_many_scales():
    mean = expected_abs_mean([1e200, -1e200, 3.0], 3)
    # Of 27 batches: six sums of size 3, twelve of size 2... in units of 1e200, three cancels.
    signs = [(a + b + c) for a in (1, -1, 0) for b in (1, -1, 0) for c in (1, -1, 0)]
    assert abs(mean.value / 1e200 - np.mean(np.abs(signs)) / 3) < 1e-14


def test_infinity_is_the_limit():
    assert ratio_mean(1, 1, cut=float("inf")) == oo
    assert rule_growth_exponent("lars", tail_w=float("inf"), tail_g=1) == Rational(-1, 2)


COMPLEX = np.array([1 + 1j, 2.0, 3.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rule_estimate("lars", COMPLEX, [1, 2, 3]), r"^w is complex; its values must be"),
        (lambda: rule_estimate("lars", [1, 2, 3], COMPLEX), r"^g is complex; its values must be"),
        (lambda: expected_abs_mean(COMPLEX, 2), r"^source is complex; its values must be real"),
        (lambda: shortcut_entries_quantile(0.5, COMPLEX, 1.0, 1), r"^w is complex"),
        (lambda: cblr_largest_gamma(np.eye(2) * 1j), r"^hessian is an array of complex128; its"),
        (lambda: cblr_largest_gamma(np.eye(2) > 0), r"^hessian is an array of bool; its entries"),
    ],
)
def test_kinds_that_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
