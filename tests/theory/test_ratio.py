"""|w/g| over a layer: the distribution by integration, the rules by simulation and coverage."""

import mpmath
import numpy as np
import pytest
import sympy
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sympy import Rational, S, oo

import theory
from theory import (
    RULES,
    lars_mean,
    numeric,
    percent_delta_centre,
    percent_delta_mean,
    percent_delta_moments,
    ratio_density,
    ratio_mean,
    ratio_probability,
    ratio_quantile,
    rule_estimate,
    rule_growth_exponent,
    rule_limit,
    rule_standard_error,
)
from theory.ratio import _landau

few = settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
positive = st.builds(Rational, st.integers(1, 60), st.integers(1, 60))
decay = st.one_of(st.just(S(0)), positive)


def mpf(value):
    return mpmath.mpf(str(S(value).evalf(38)))


def density_by_integration(r, s_w, s_g, beta):
    """The density of |w/(g + beta*w)| at r: over w, both roots g = -beta*w +- w/r."""
    s_w, s_g, r, beta = (mpf(v) for v in (s_w, s_g, r, beta))

    def normal(v, s):
        return mpmath.exp(-((v / s) ** 2) / 2) / (s * mpmath.sqrt(2 * mpmath.pi))

    def at(w):
        roots = (normal(-beta * w + sign * w / r, s_g) for sign in (-1, 1))
        return 2 * normal(w, s_w) * w / r**2 * sum(roots)

    return mpmath.quad(at, [0, *(s_w * k for k in (0.01, 0.1, 0.5, 1, 2, 4, 8, 16))])


@few
@given(r=positive, s_w=positive, s_g=positive, beta=decay)
def test_density_and_probability_by_integration(r, s_w, s_g, beta):
    with mpmath.workdps(32):
        oracle = density_by_integration(r, s_w, s_g, beta)
        law = mpf(ratio_density(r, s_w, s_g, beta))
        for factor, agrees in ((1, True), (mpmath.mpf("1.01"), False), (-1, False)):
            assert (abs(factor * law - oracle) < mpmath.mpf("1e-12") * oracle) == agrees
        k = mpf(s_g / s_w)

        def density(v):
            return sum(
                k / mpmath.pi / ((k * v) ** 2 + (1 + sign * mpf(beta) * v) ** 2) for sign in (-1, 1)
            )

        peak = min(mpf(r), 1 / mpmath.sqrt(k**2 + mpf(beta) ** 2))
        mass = mpmath.quad(density, sorted({mpmath.mpf(0), peak / 2, peak, mpf(r)}))
        found = mpf(ratio_probability(r, s_w, s_g, beta))
        assert abs(found - mass) < mpmath.mpf("1e-12")
        assert abs(found * mpmath.mpf("1.01") - mass) > mpmath.mpf("1e-12")
        back = mpf(ratio_quantile(ratio_probability(r, s_w, s_g, beta), s_w, s_g, beta))
        assert abs(back - mpf(r)) < mpmath.mpf("1e-20") * mpf(r)


def test_truncated_mean_and_symmetry():
    assert abs(float(ratio_mean(2, 3, cut=5)) - 1 / np.pi * 2 / 3 * np.log(1 + 7.5**2)) < 1e-12
    q = Rational(1, 7)
    # w and g change places: the radius becomes its inverse.
    product = ratio_quantile(q, 2, 3) * ratio_quantile(1 - q, 3, 2)
    assert sympy.simplify(product - 1).evalf(30) == pytest.approx(0, abs=1e-25)


def layers(size, count, s_w=1.5, s_g=0.5, seed=0):
    rng = np.random.default_rng(seed)
    return s_w * rng.standard_normal((count, size)), s_g * rng.standard_normal((count, size))


def rule_values(rule, w, g, beta):
    """The table of rule_limit's docstring, written out over rows."""
    whole = g + beta * w
    if rule == "lars":
        size = np.linalg.norm(w, axis=1)
        return size / (np.linalg.norm(g, axis=1) + beta * size)
    if rule == "mclr-absolute":
        size = np.median(np.abs(w), axis=1)
        return size / (np.median(np.abs(g), axis=1) + beta * size)
    if rule == "mclr-signed":
        size = np.median(w, axis=1)
        return np.abs(size / (np.median(g, axis=1) + beta * size))
    if rule == "mclr-ratio":
        return np.median(np.abs(w / whole), axis=1)
    if rule == "percentdelta":
        return 1 / np.mean(np.abs(whole / w), axis=1)
    return np.mean(np.abs(w / whole), axis=1)


@pytest.mark.parametrize("beta", [0.0, 0.4])
@pytest.mark.parametrize("rule", ["lars", "mclr-absolute", "mclr-ratio"])
def test_limit_and_standard_error_by_simulation(rule, beta):
    size, count = 1001, 3000
    w, g = layers(size, count)
    values = rule_values(rule, w, g, beta)
    limit, error = (
        float(f)
        for f in (rule_limit(rule, 1.5, 0.5, beta), rule_standard_error(rule, 1.5, 0.5, size, beta))
    )
    # The mean of 3000 layers has error/55; the bias is of order 1/P, smaller than that.
    assert abs(values.mean() - limit) < 6 * error / np.sqrt(count)
    assert (
        abs(values.mean() - 1.01 * limit) > 6 * error / np.sqrt(count) or 0.01 * limit < error / 9
    )
    # A standard deviation from 3000 values is good to 1.3 per cent.
    assert abs(values.std() / error - 1) < 0.06
    assert abs(rule_values(rule, w[:, :101], g[:, :101], beta).std() / error - 1) > 1


def test_lars_standard_error_with_kurtosis():
    rng = np.random.default_rng(4)
    w, g = rng.laplace(size=(3000, 1000)), rng.uniform(-1, 1, (3000, 1000))
    values = np.linalg.norm(w, axis=1) / np.linalg.norm(g, axis=1)
    law = float(rule_standard_error("lars", np.sqrt(2), np.sqrt(1 / 3), 1000, 0, 6, 1.8))
    assert abs(values.std() / law - 1) < 0.06
    plain = float(rule_standard_error("lars", np.sqrt(2), np.sqrt(1 / 3), 1000))
    assert abs(values.std() / plain - 1) > 0.1


def test_exact_mean_of_lars_by_simulation():
    w, g = layers(5, 400_000, 1, 1, seed=1)
    values = rule_values("lars", w, g, 0)
    error = values.std() / np.sqrt(values.size)
    law = float(lars_mean(1, 1, 5))
    assert abs(values.mean() - law) < 4 * error
    assert abs(values.mean() - 1.01 * law) > 4 * error
    assert abs(values.mean() - float(rule_limit("lars", 1, 1))) > 20 * error


@pytest.mark.parametrize("size", [4, 30])
def test_percent_delta_moments_by_simulation(size):
    w, g = layers(size, 200_000, 2, 1, seed=2)
    values = rule_values("percentdelta", w, g, 0)
    mean, square = percent_delta_moments(2, 1, size)
    for power, found in ((1, mean), (2, square)):
        error = (values**power).std() / np.sqrt(values.size)
        assert abs((values**power).mean() - found.value) < 4 * error
        assert abs((values**power).mean() - 1.02 * found.value) > 4 * error
        assert found.error < 1e-10 * found.value


def test_percent_delta_integral_by_mpmath():
    """The same integral with mpmath's own Ci and Si, at 20 digits."""
    with mpmath.workdps(20):

        def transform(s):
            return (
                2
                / mpmath.pi
                * (mpmath.ci(s) * mpmath.sin(s) + (mpmath.pi / 2 - mpmath.si(s)) * mpmath.cos(s))
            )

        for size in (10, 1000):
            cuts = [0, *(mpmath.mpf(10) ** k / size for k in (-3, -2, -1, 0, 1, 2, 3))]
            oracle = size * mpmath.quad(lambda s, p=size: transform(s) ** p, cuts)
            mean, _ = percent_delta_moments(1, 1, size)
            assert abs(mean.value - oracle) < mean.error + 1e-14
            assert abs(1.01 * mean.value - oracle) > mean.error
            law = percent_delta_mean(3, 2, size)
            assert abs(float(law) - 1.5 * float(oracle)) < 1e-13
            assert law.rewrite(sympy.Integral).has(sympy.Ci)


def test_percent_delta_centre_is_the_median_and_falls():
    w, g = layers(2000, 4000, 1, 1, seed=3)
    values = rule_values("percentdelta", w, g, 0)
    for q in (0.1, 0.5, 0.9):
        law = float(percent_delta_centre(1, 1, 2000, _landau.quantile(1 - q)))
        share = np.mean(values < law)
        assert abs(share - q) < 4 * np.sqrt(q * (1 - q) / values.size) + 0.005
        assert abs(np.mean(values < 1.2 * law) - q) > 0.025
    centres = [float(percent_delta_centre(1, 1, 10**k)) for k in range(1, 9)]
    assert centres == sorted(centres, reverse=True)
    # Turned over, it is the mean radius's.
    radii = rule_values("mean", w, g, 0)
    depth = np.pi / 2 / float(percent_delta_centre(1, 1, 2000))
    assert abs(np.mean(radii < depth * 2 / np.pi) - 0.5) < 0.04


def test_landau_quantiles():
    # The published median and mode region: E exp(-s X) = s^s, checked by integrating the tail.
    assert abs(_landau.quantile(0.5) - 1.3557804209908) < 1e-10
    s = 0.7
    x = np.concatenate([np.linspace(-3.4, 30, 6000), np.geomspace(30.01, 1e4, 3000)])
    tail = np.array([_landau.exceedance(v) for v in x])
    # E exp(-sX) by parts, from P(X > x): exp(-s a) - s*Integral(exp(-s x)*P(X > x)).
    transform = np.exp(-s * x[0]) - s * np.trapezoid(np.exp(-s * x) * tail, x)
    assert abs(transform / s**s - 1) < 1e-3
    assert abs(transform / (1.01 * s**s) - 1) > 5e-3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_estimates_cover(rule, beta):
    """The intervals hold what they say they hold, at the rate they say."""
    size, count, level = 1500, 400, 0.9
    w, g = layers(size, count, 1, 1, seed=10)
    fresh = rule_values(rule, *layers(size, count, 1, 1, seed=11), beta)
    found = [rule_estimate(rule, a, b, beta=beta, level=level) for a, b in zip(w, g, strict=True)]
    values = rule_values(rule, w, g, beta)
    assert np.allclose([f.value for f in found], values, rtol=1e-12)
    low, high = (np.array([getattr(f, end) for f in found]) for end in ("low", "high"))
    if found[0].interval_of == "another layer":
        inside = (low <= fresh) & (fresh <= high)
    elif rule == "mclr-signed":
        # Medians exactly 0 over 0: every radius is possible; a shifted layer has a limit.
        rng = np.random.default_rng(12)
        found = [
            rule_estimate(
                rule,
                1 + rng.standard_normal(size),
                2 + rng.standard_normal(size),
                beta=beta,
                level=level,
            )
            for _ in range(count)
        ]
        inside = np.array([f.low <= 1 / (2 + beta) <= f.high for f in found])
        unbounded = [rule_estimate(rule, a, b, level=level).high for a, b in zip(w, g, strict=True)]
        assert 0.5 < np.mean(np.isinf(unbounded)) <= 1
    else:
        limit = float(rule_limit(rule, 1, 1, beta))
        inside = (low <= limit) & (limit <= high)
        mean_error = np.mean([f.standard_error for f in found])
        assert abs(mean_error / float(rule_standard_error(rule, 1, 1, size, beta)) - 1) < 0.1
        shrunk = np.abs(values - limit) < (high - low) / 4
        assert shrunk.mean() < 0.8  # half the interval would not hold what the whole does
    # 400 draws at 90 per cent: a standard error of 1.5 points; the rest is the asymptotics.
    assert abs(inside.mean() - level) < 0.06


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "mclr-signed"])
@pytest.mark.parametrize("zeros", [0.0, 0.2])
def test_estimates_cover_small_layers_with_dead_units(rule, zeros):
    """40 entries; a share of units is dead (w = g = 0), another has no gradient."""
    size, count = 40, 600
    rng = np.random.default_rng(13)

    def draw(shape):
        w, g = rng.standard_normal(shape), 2 * rng.standard_normal(shape)
        dead = rng.random(shape) < zeros
        return np.where(dead, 0.0, w), np.where(dead | (rng.random(shape) < zeros), 0.0, g)

    layers_found = [rule_estimate(rule, *draw(size)) for _ in range(count)]
    if rule == "mean" and zeros:  # a weight without gradient has an infinite radius
        assert np.mean([f.value == np.inf and np.isnan(f.low) for f in layers_found]) > 0.98
        return
    if layers_found[0].interval_of == "limit":
        goals = np.full(count, rule_estimate(rule, *draw(1_000_000)).value)
    else:
        goals = np.array([rule_estimate(rule, *draw(size)).value for _ in range(count)])
    held = [np.isnan(f.low) or f.low <= goal <= f.high
            for f, goal in zip(layers_found, goals, strict=True)]  # fmt: skip
    # 0.95 less what 1/sqrt(40) and, for the heavy two, 40^(-1/3) may cost.
    assert 0.88 < np.mean(held) <= 1
    # Half as wide, they would not.
    narrow = [abs(goal - f.value) < abs((f.high if goal > f.value else f.low) - f.value) / 3
              for f, goal in zip(layers_found, goals, strict=True)]  # fmt: skip
    assert np.mean(narrow) < 0.8


def test_estimate_sees_correlation():
    rng = np.random.default_rng(5)
    g = rng.standard_normal(4000)
    w = g + 0.1 * rng.standard_normal(4000)
    alone = rng.permutation(g)
    for rule in ("lars", "mclr-absolute"):
        assert rule_estimate(rule, w, g).standard_error < 0.5 * (
            rule_estimate(rule, w, alone).standard_error
        )


def test_estimate_on_odd_layers():
    w, g = np.array([1.0, 2.0, 0.0]), np.array([2.0, 0.0, 0.0])
    for rule in RULES:
        found = rule_estimate(rule, w, g)
        assert np.isnan(found.low)
        assert np.isnan(found.standard_error)
    assert rule_estimate("mean", w, g).value == np.inf
    assert rule_estimate("mean", w, g).size == 2
    assert rule_estimate("mclr-ratio", np.zeros(30), np.zeros(30)).size == 0
    assert rule_estimate("lars", np.zeros(30), np.ones(30)).value == 0
    assert rule_estimate("lars", np.ones(30), np.zeros(30)).value == np.inf
    huge = rule_estimate("lars", np.arange(1, 40) * 1e200, np.arange(1, 40) * 1e-200)
    assert huge.value == np.inf or huge.value == pytest.approx(np.inf)
    scaled = rule_estimate("lars", np.arange(1, 40) * 1e-200, np.arange(2, 41) * 1e-200)
    plain = rule_estimate("lars", np.arange(1, 40), np.arange(2, 41))
    assert scaled.value == pytest.approx(plain.value, rel=1e-12)


def test_growth_exponents_by_simulation():
    """Norms of Pareto tails: the slope of log(median rate) over log(P)."""
    rng = np.random.default_rng(6)
    sizes = (100, 10_000)
    for tail_w, tail_g in ((oo, S(1)), (Rational(3, 2), oo)):
        medians = []
        for size in sizes:
            w, g = rng.standard_normal((2, 400, size))
            if tail_w is not oo:
                w = rng.random((400, size)) ** -float(1 / tail_w) - 1
            if tail_g is not oo:
                g = rng.random((400, size)) ** -float(1 / tail_g) - 1
            medians.append(np.median(rule_values("lars", w, g, 0)))
        slope = np.log(medians[1] / medians[0]) / np.log(sizes[1] / sizes[0])
        assert abs(slope - float(rule_growth_exponent("lars", tail_w, tail_g))) < 0.05
    assert rule_growth_exponent("percentdelta", tail_g=Rational(1, 2)) == -1
    assert rule_growth_exponent("mean", tail_w=Rational(1, 2)) == 1
    assert rule_growth_exponent("mclr-absolute", 1, 1) == 0


def test_numeric_over_the_range():
    r, s_w, s_g, b = sympy.symbols("r s_w s_g beta", positive=True)
    laws = [
        ratio_density(r, s_w, s_g),
        ratio_density(r, s_w, s_g, b),
        ratio_probability(r, s_w, s_g),
        ratio_probability(r, s_w, s_g, b),
        ratio_quantile(r / (1 + r), s_w, s_g, b),
        rule_limit("mclr-ratio", s_w, s_g, b),
        rule_standard_error("mclr-absolute", s_w, s_g, 10**6, b),
    ]
    rng = np.random.default_rng(7)
    points = 10.0 ** rng.uniform(-8, 3, (15, 4))
    for law in laws:
        found = numeric(law, r, s_w, s_g, b)(*points.T)
        for row, got in zip(points, found, strict=True):
            exact = law.subs(dict(zip((r, s_w, s_g, b), map(Rational, row), strict=True)))
            assert abs(Rational(got) / exact.evalf(30, maxn=400) - 1) < 1e-10
    size = sympy.Symbol("P", positive=True)
    compiled = numeric(lars_mean(1, 1, size), size)
    for count in (2, 100, 299, 301, 10**6):
        exact = lars_mean(1, 1, count).evalf(30)
        assert abs(Rational(float(compiled(count))) / exact - 1) < 1e-10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ratio_density(-1, 1, 1), r"^r is -1; it must be at least 0"),
        (lambda: ratio_density(1, 0, 1), r"^s_w is 0; it must be greater than 0"),
        (lambda: ratio_density(1, 1, 0), r"^s_g is 0; it must be greater than 0"),
        (lambda: ratio_probability(1, 1, 1, -1), r"^beta is -1; it must be at least 0"),
        (lambda: ratio_quantile(1, 1, 1), r"^q is 1; it must be in \(0, 1\)"),
        (lambda: ratio_mean(1, 1, 1, cut=2), r"^cut is 2 with beta = 1; a finite cut needs"),
        (lambda: rule_limit("sgd", 1, 1), r"^rule is 'sgd'; it must be 'lars' or"),
        (lambda: rule_standard_error("lars", 1, 1, 0), r"^size is 0; it must be at least 1"),
        (
            lambda: rule_standard_error("lars", 1, 1, 9, kurtosis_g=0.5),
            r"^kurtosis_g is 0\.5; it must be at least 1",
        ),
        (lambda: rule_growth_exponent("lars", 0), r"^tail_w is 0; it must be greater than 0"),
        (lambda: lars_mean(1, 1, 1), r"^size is 1; it must be greater than 1: on one entry"),
        (lambda: percent_delta_mean(1, 1, 1), r"^size is 1; it must be greater than 1"),
        (lambda: percent_delta_moments(1, 1, 3), r"^size is 3; it must be at least 4"),
        (lambda: percent_delta_centre(1, 1, 1), r"^size is 1; it must be at least 2"),
        (lambda: rule_estimate("sgd", [1], [1]), r"^rule is 'sgd'; it must be one of lars"),
        (lambda: rule_estimate("lars", [1], [1, 2]), r"^w has shape \(1,\) and g \(2,\)"),
        (lambda: rule_estimate("lars", [], []), r"^w and g are empty"),
        (lambda: rule_estimate("lars", [np.nan], [1]), r"^w or g has entries that are not finite"),
        (lambda: rule_estimate("lars", [1], [1], beta=-1), r"^beta is -1; it must be at least 0"),
        (lambda: rule_estimate("lars", [1], [1], level=1), r"^level is 1; it must be in \(0, 1\)"),
    ],
)
def test_domain(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_exported():
    assert theory.RULES is RULES
