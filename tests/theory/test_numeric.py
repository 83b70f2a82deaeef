"""The compiled laws over the whole range people use, and beyond."""

import subprocess
import sys

import mpmath
import numpy as np
import pytest
import sympy
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sympy import Rational, oo

from theory import (
    Gaussian,
    expected_abs_distance,
    expected_abs_gradient,
    expected_abs_step,
    expected_loss_decrease,
    numeric,
    radius_tail_constant,
    ratio_mean,
    ratio_quantile,
    shortcut_layer_share_within,
    shortcut_ratio_quantile,
    shortcut_share_within,
    student_abs_gradient,
)

n, sigma, lr, a = sympy.symbols("n sigma lr a", positive=True)
mu, h = sympy.symbols("mu h", real=True)
N = sympy.Symbol("N", positive=True)
m = sympy.Symbol("m", nonnegative=True)

LAWS = {
    "gradient": (expected_abs_gradient(n, sigma, mu), (n, sigma, mu)),
    "finite": (expected_abs_gradient(n, sigma, mu, N), (n, sigma, mu, N)),
    "step": (expected_abs_step(lr, n, sigma, mu, momentum=m), (lr, n, sigma, mu, m)),
    "batch": (expected_loss_decrease(lr, n, sigma, mu, h), (lr, n, sigma, mu, h)),
    "population": (
        expected_loss_decrease(lr, n, sigma, mu, h, "population"),
        (lr, n, sigma, mu, h),
    ),
    "distance": (expected_abs_distance(a, n, sigma, mu), (a, n, sigma, mu)),
}
COMPILED = {name: numeric(law, *arguments) for name, (law, arguments) in LAWS.items()}

logs = st.floats(-8, 3).map(lambda e: 10.0**e)
signed = st.builds(
    lambda v, s: v * s, st.floats(-12, 4).map(lambda e: 10.0**e), st.sampled_from([-1, 1])
)
DRAWS = {
    "n": st.integers(1, 10**6).map(float),
    "sigma": logs,
    "lr": logs,
    "a": logs,
    "mu": signed,
    "h": signed,
    # Rounded: the square root of a fraction of a thousand digits defeats sympy's factoring.
    "m": st.floats(0, 0.999).map(lambda v: round(v, 9)),
}


def exact(law, point):
    """The law at exactly the floats given, at 40 digits beyond any cancellation."""
    return law.subs({s: Rational(v) for s, v in point.items()}).evalf(40, maxn=400)


@pytest.mark.parametrize("name", LAWS)
@settings(max_examples=40, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(data=st.data())
def test_relative_error_over_the_range(name, data):
    law, arguments = LAWS[name]
    point = {s: data.draw(DRAWS[s.name], label=s.name) for s in arguments if s is not N}
    if N in arguments:
        point[N] = point[n] + data.draw(st.integers(0, 10**6), label="N - n")
    value = COMPILED[name](*(point[s] for s in arguments))
    reference = exact(law, point)
    # 1e-10 is the promise; float64 rounding through x^2/2 < 750 in the exponent stays within it.
    assert abs(Rational(float(value)) - reference) <= abs(reference) * Rational(1, 10**10)


def test_the_reference_notices_a_constant():
    law, arguments = LAWS["gradient"]
    point = dict(zip(arguments, (3.0, 2.0, 0.5), strict=True))
    value, reference = float(COMPILED["gradient"](3, 2, 0.5)), exact(law, point)
    assert abs(value - reference) < 1e-10 * reference
    assert abs(1.01 * value - reference) > 1e-3 * reference
    assert abs(-value - reference) > reference


def test_cancellation():
    rate = np.nextafter(2.0, 3.0)  # lr*h/2 is one rounding error above one
    law, arguments = LAWS["batch"]
    reference = exact(law, dict(zip(arguments, (rate, 1.0, 1.0, 1.0, 1.0), strict=True)))
    assert reference < 0
    assert abs(COMPILED["batch"](rate, 1, 1, 1, 1) / float(reference) - 1) < 1e-10


@pytest.mark.parametrize("spread", [0.0, 1e-300, 1e-160, 1e-9])
@pytest.mark.parametrize("mean", [0.0, 1e-300, -1e-300, 1e-9, -1e3, 1e300])
def test_extreme_arguments(spread, mean):
    value = float(COMPILED["gradient"](1, spread, mean))
    assert np.isfinite(value)
    # Between |mu| and the root mean square, which hypot forms without overflow.
    assert abs(mean) * (1 - 1e-14) <= value <= np.hypot(mean, spread) * (1 + 1e-14)


def test_equal_extremes():
    unit = float(COMPILED["gradient"](1, 1, 1))
    for scale in (1e-300, 1e-170, 1e170, 1e300):
        assert abs(COMPILED["gradient"](1, scale, scale) / (unit * scale) - 1) < 1e-13


def test_edges_of_the_population():
    law = COMPILED["finite"]
    assert law(5, 2, -3, 5) == 3
    assert law(1, 2, -3, 1) == 3
    assert law(5, 2, 0, 5) == 0
    assert law(5, 2, -3, np.inf) == COMPILED["gradient"](5, 2, -3)


def student_by_gamma(v):
    return 2 * mpmath.sqrt(3) / mpmath.pi * mpmath.exp(v) * v**-v * mpmath.gammainc(v, v)


def tail_by_bessel(v):
    y = 1 / (4 * v**2)
    part = mpmath.besselk(0, y) + (1 + 2 * v**2) * mpmath.besselk(1, y)
    return 2 * mpmath.exp(y) * part / (2 * mpmath.sqrt(2 * mpmath.pi) * v)


def half_cauchy_share(v):
    return 2 / mpmath.pi * (mpmath.atan(2 / v) - mpmath.atan(1 / (2 * v)))


# A law of one argument, its oracle, and arguments at which float64 loses it on the way.
LOST = {
    "n^-n": (student_abs_gradient(sigma, 1, 3), student_by_gamma, (148.0, 149.0, 149.5)),
    "K0 and K1": (radius_tail_constant(1, sigma), tail_by_bessel,
                  (0.5 / 695**0.5, 0.5 / 700**0.5, 0.5 / 709.5**0.5, 0.005)),
    "log next to 1": (ratio_mean(1, 1, cut=sigma),
                      lambda v: mpmath.log1p(v**2) / mpmath.pi, (1e-5, 8.5e-8, 1e-9, 1e-100)),
    "tan at its pole": (ratio_quantile(sigma, 1, 1), lambda v: mpmath.tan(mpmath.pi * v / 2),
                        (1 - 2.8e-13, 1 - 1e-14, 1 - 1e-15)),
    "sin at its zero": (ratio_quantile(sigma, 1, 1, Rational(1, 2)),
                        lambda v: mpmath.sin(mpmath.pi * v) / (mpmath.cos(mpmath.pi * v) + mpmath
                        .sqrt(1 + (mpmath.sin(mpmath.pi * v) / 2) ** 2)), (1 - 1e-14, 1 - 1e-15)),
    "erfinv next to 1": (shortcut_ratio_quantile(sigma, 1, 1, 1),
                         lambda v: 1 / (mpmath.sqrt(2) * mpmath.erfinv(1 - v)),
                         (1e-12, 1e-15, 1e-17, 1e-60, 1e-100)),
    "differences": (shortcut_layer_share_within(2, sigma, 1, 1, 1), half_cauchy_share,
                    (1e-17, 1e-60, 1e-75, 1e-200, 1e60, 1e75, 1e200)),
    "differences of erfc": (shortcut_share_within(2, sigma, 1, 1, 1),
                            lambda v: mpmath.erfc(v / mpmath.sqrt(8))
                            - mpmath.erfc(v * mpmath.sqrt(2)), (1e-17, 1e-75, 1e-200, 20.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_digits_that_float64_loses_on_the_way(name):
    law, oracle, points = LOST[name]
    values = numeric(law, sigma)(points)
    for point, value in zip(points, values, strict=True):
        with mpmath.workdps(500):
            exact = oracle(mpmath.mpf(point))
            # 1e-10 is the promise; these come from mpmath, rounded once.
            assert abs(mpmath.mpf(float(value)) / exact - 1) < 1e-14


def test_a_factor_that_underflows_beside_what_counts_is_left_alone():
    """exp(-mu^2/(2*sigma^2)) is zero there and adds nothing: no entry is worth a millisecond."""
    import time

    start = time.perf_counter()
    law = COMPILED["gradient"](np.full(20_000, 3.0), 1.0, 300.0)
    assert (law == 300).all()
    assert time.perf_counter() - start < 5  # in mpmath they would take 20 s and more


def test_broadcasting_shape_and_type():
    law = numeric(expected_abs_gradient(n, sigma), n, sigma)
    table = law(np.arange(1, 4)[:, None], [1, 2])
    assert table.shape == (3, 2)
    assert table.dtype == np.float64
    assert law(1, 1).shape == ()
    assert law([], 1).shape == (0,)
    with pytest.raises(ValueError, match="shape mismatch"):
        law([1, 2], [1, 2, 3])


def test_constants_and_default_order():
    assert numeric(sympy.Integer(3))() == 3
    assert numeric(3 * sigma, n, sigma)([1, 2], 2).tolist() == [6, 6]
    assert numeric(sigma / n)(4, 2) == 0.5  # arguments by name: n, sigma


def test_nan_stays_nan_and_a_pole_stays_infinite():
    law = numeric(expected_abs_gradient(n, sigma), n, sigma)
    assert np.isnan(law([np.nan, 1], 1)).tolist() == [True, False]
    assert numeric(sympy.log(sigma) * 0 + 1 / (sigma - 1), sigma)(1) in (np.inf, -np.inf)


def test_messages():
    with pytest.raises(ValueError, match=r"^symbols lacks sigma; pass every free symbol"):
        numeric(n * sigma, n)
    with pytest.raises(ValueError, match=r"^1 arrays were given; pass one for each of: n, sigma"):
        numeric(n * sigma, n, sigma)(1)
    with pytest.raises(ValueError, match=r"^expression is Gaussian\(0, 1\); it must be a sympy"):
        numeric(Gaussian(0, 1))


def test_the_papers_infinite_population_is_the_default():
    assert expected_abs_gradient(n, sigma, mu) == expected_abs_gradient(n, sigma, mu, oo)


def test_import_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import theory\n"
        "verdicts = [e.verdict for e in theory.EQUATIONS.values()]\n"
        "theory.numeric(theory.expected_abs_gradient(theory.symbols.n, 1, 2))(3)\n"
        "print(sorted({'torch', 'scipy.stats', 'sim', 'hessian'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
