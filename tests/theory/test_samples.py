"""Gradients that are not Gaussian: closed forms by sums and integrals; any source by quadrature."""

import mpmath
import numpy as np
import pytest
import scipy.stats
import sympy
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sympy import Rational, oo

from theory import (
    characteristic_integral,
    edgeworth_abs_gradient,
    expected_abs_gradient,
    expected_abs_mean,
    exponential_abs_gradient,
    laplace_abs_gradient,
    numeric,
    stable_abs_gradient,
    student_abs_gradient,
)
from theory.samples._atoms import of_atoms, series
from theory.samples._panels import panels_of
from theory.samples._transform import transform

few = settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
sizes = st.integers(1, 60)
positive = st.builds(Rational, st.integers(1, 60), st.integers(1, 60))


TIGHT = mpmath.mpf("1e-18")


def noticed(law, oracle, tolerance=TIGHT):
    with mpmath.workdps(40):
        value = mpmath.mpf(str(sympy.S(law).evalf(38)))
        close = [abs(f * value - oracle) <= tolerance * abs(oracle) for f in (1, 1.01, -1)]
    return close == [True, False, False]


@few
@given(n=sizes, sigma=positive)
def test_laplace_by_the_density_of_the_sum(n, sigma):
    """exp(-x) times a polynomial: the sum's density is a finite mixture of Gammas on each side."""
    with mpmath.workdps(40):
        total = mpmath.mpf(0)
        for k in range(n):  # Gamma(n - k) with the weights of a random walk's last excess
            weight = mpmath.binomial(n - 1 + k, k) * mpmath.mpf(2) ** -(n + k)
            total += 2 * weight * (n - k)
        oracle = total / n * mpmath.mpf(sigma.p) / sigma.q / mpmath.sqrt(2)
    assert noticed(laplace_abs_gradient(n, sigma), oracle)


@few
@given(n=st.integers(1, 40), sigma=positive, shape=st.integers(1, 3))
def test_exponential_by_integration(n, sigma, shape):
    with mpmath.workdps(40):
        m = n * shape

        def density(t):
            return t ** (m - 1) * mpmath.exp(-t) / mpmath.gamma(m)

        cuts = [0, m / 4, m / 2, m, 2 * m, 4 * m + 40, 8 * m + 200]
        mean = mpmath.quad(lambda t: abs(t - m) * density(t), cuts)
        oracle = mean / n * mpmath.mpf(sigma.p) / sigma.q / mpmath.sqrt(shape)
    assert noticed(exponential_abs_gradient(n, sigma, shape), oracle)


@few
@given(n=st.integers(1, 30), scale=positive, degrees=st.sampled_from([3, 5, 7, 9]))
def test_student_by_the_characteristic_function(n, scale, degrees):
    with mpmath.workdps(30):
        v = mpmath.mpf(degrees)

        def phi(t):
            y = mpmath.sqrt(v) * t / n
            return mpmath.besselk(v / 2, y) * y ** (v / 2) * 2 ** (1 - v / 2) / mpmath.gamma(v / 2)

        cuts = [mpmath.mpf(10) ** -12, 0.1, 1, 4, 16, 64, 400]
        inner = mpmath.quad(lambda t: (1 - phi(t) ** n) / t**2, cuts)
        tail = 1 / mpmath.mpf(400)
        oracle = 2 / mpmath.pi * (inner + tail) * mpmath.mpf(scale.p) / scale.q
    # The first 1e-12 of the range is left out: about as much of the whole.
    assert noticed(student_abs_gradient(n, scale, degrees), oracle, mpmath.mpf("1e-10"))


@few
@given(n=st.integers(1, 10**6), alpha=st.integers(11, 20), skew=st.integers(-9, 9))
def test_stable_by_the_characteristic_function(n, alpha, skew):
    a, b = alpha / 10, skew / 10
    turn = b * np.tan(np.pi * a / 2)
    found = expected_abs_mean(lambda t: -(t**a) * (1 - 1j * turn), n)
    law = float(stable_abs_gradient(n, 1, Rational(alpha, 10), Rational(skew, 10)).evalf())
    assert abs(found.value - law) <= found.error + 1e-12 * law
    assert found.error < 1e-6 * law
    assert abs(found.value - 1.01 * law) > found.error + 1e-12 * law


def test_edgeworth_has_the_stated_order():
    """The relative error falls by four where n doubles, and only with the right coefficient."""
    for law, skewness, kurtosis in (
        (laplace_abs_gradient, 0, 3),
        (exponential_abs_gradient, 2, 6),
    ):
        off = [
            (edgeworth_abs_gradient(n, 1, skewness, kurtosis) / law(n, 1)).evalf(20) - 1
            for n in (100, 200)
        ]
        assert abs(off[0] / off[1] - 4) < 0.05
        wrong = [
            (edgeworth_abs_gradient(n, 1, skewness, kurtosis * 1.01) / law(n, 1)).evalf(20) - 1
            for n in (100, 200)
        ]
        assert abs(wrong[0] / wrong[1] - 4) > 0.05


def test_edgeworth_with_a_mean():
    source = scipy.stats.gamma(4, loc=-4 + 0.3)  # skewness 1, excess kurtosis 1.5, sigma 2
    off = []
    for n in (40, 160):
        exact = expected_abs_mean(source, n)
        law = float(edgeworth_abs_gradient(n, 2, 1, Rational(3, 2), Rational(3, 10)))
        plain = float(expected_abs_gradient(n, 2, Rational(3, 10)))
        mirrored = float(edgeworth_abs_gradient(n, 2, -1, Rational(3, 2), Rational(3, 10)))
        off.append(abs(law / exact.value - 1))
        assert off[-1] < abs(plain / exact.value - 1) / 20
        assert off[-1] < abs(mirrored / exact.value - 1) / 20
    assert off[1] < off[0] / 1.5


CASES = {
    "normal": (scipy.stats.norm(scale=2), lambda n: expected_abs_gradient(n, 2)),
    "normal with mean": (
        scipy.stats.norm(0.3, 2),
        lambda n: expected_abs_gradient(n, 2, Rational(3, 10)),
    ),
    "laplace": (scipy.stats.laplace(), lambda n: laplace_abs_gradient(n, sympy.sqrt(2))),
    "exponential": (scipy.stats.expon(-1), lambda n: exponential_abs_gradient(n, 1)),
    "student": (scipy.stats.t(5), lambda n: student_abs_gradient(n, 1, 5)),
}


@pytest.mark.parametrize("n", [1, 2, 3, 40, 60_000])
@pytest.mark.parametrize("name", CASES)
def test_a_distribution_within_the_error_returned(name, n):
    source, law = CASES[name]
    exact = float(law(n).evalf()) if name != "student" or n < 100 else None
    found = expected_abs_mean(source, n)
    if exact is None:
        exact = float(edgeworth_abs_gradient(n, np.sqrt(5 / 3), 0, 6))
    # Double precision; the expansion's next order, n^-1.5 where the tail's power is six.
    rough = n**-1.5 if name == "student" and n > 40 else 1e-15
    assert abs(found.value - exact) <= found.error + rough * exact
    # Of tails of power six what lies beyond the 1e-15 quantile is bounded, not summed.
    assert found.error < (1e-9 if name == "student" else 2e-10) * exact
    assert n > 2 or found.error < 1e-13 * exact
    assert abs(1.01 * found.value - exact) > found.error
    assert abs(-found.value - exact) > found.error


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_density_with_a_pole_or_a_heavy_tail(n):
    pole = expected_abs_mean(scipy.stats.gamma(0.5, -0.5), n)
    exact = float(exponential_abs_gradient(n, sympy.sqrt(Rational(1, 2)), Rational(1, 2)))
    assert abs(pole.value - exact) <= pole.error < 1e-10 * exact
    heavy = expected_abs_mean(scipy.stats.t(3), n)
    exact = float(student_abs_gradient(n, 1, 3))
    assert abs(heavy.value - exact) <= heavy.error < 1e-9 * exact
    if n <= 2:  # a mean that only the tail makes finite
        edge = expected_abs_mean(scipy.stats.pareto(1.2, -6), n)
        exact = 2 * scipy.stats.pareto(1.2, -6).expect(lambda x: -x, ub=0) if n == 1 else None
        assert exact is None or abs(edge.value - exact) < 1e-6 * exact
        assert edge.error < 1e-9 * edge.value


class Mixture(scipy.stats.rv_continuous):
    """A narrow normal off the centre and a wide one; scipy inverts its distribution function."""

    parts = ((0.7, scipy.stats.norm(-0.5, 0.1)), (0.3, scipy.stats.norm(0.9, 2)))

    def _pdf(self, x):
        return sum(w * d.pdf(x) for w, d in self.parts)

    def _cdf(self, x):
        return sum(w * d.cdf(x) for w, d in self.parts)

    def _sf(self, x):
        return sum(w * d.sf(x) for w, d in self.parts)

    def _stats(self):
        return sum(w * d.mean() for w, d in self.parts), None, None, None

    def exact(self, n):
        """Over how many of the n are of the first part: normal then, and |mean| is folded."""
        (share, a), (_, b) = self.parts
        total = 0.0
        for k in range(n + 1):
            mu = (k * a.mean() + (n - k) * b.mean()) / n
            variance = (k * a.var() + (n - k) * b.var()) / n**2
            law = expected_abs_gradient(1, Rational(variance**0.5), Rational(mu))
            total += scipy.stats.binom(n, share).pmf(k) * float(law.evalf())
        return total


def gamma_law(n):
    return float(exponential_abs_gradient(n, sympy.sqrt(Rational(1, 10)), Rational(1, 10)).evalf())


HARD = {
    # A density that is infinite at its end, where 2 % of the chance are within 1e-17 of it.
    "pole": (scipy.stats.gamma(0.1, loc=-0.1), gamma_law, 1e-11),
    "all positive": (scipy.stats.lognorm(2), lambda n: float(np.exp(2)), 1e-10),
    "no variance": (scipy.stats.pareto(1.5), lambda n: 3.0, 1e-9),
    "hardly a mean": (scipy.stats.pareto(1.1), lambda n: 11.0, 1e-7),
    "a tail on either side": (scipy.stats.t(1.5),
                              lambda n: float(student_abs_gradient(n, 1, 1.5).evalf()), 1e-8),
    "mixture": (Mixture()(), Mixture().exact, 1e-11),
}  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3, 80])
@pytest.mark.parametrize("name", HARD)
def test_a_hard_distribution_within_the_error_returned(name, n):
    source, law, accuracy = HARD[name]
    found, exact = expected_abs_mean(source, n), law(n)
    assert abs(found.value - exact) <= found.error + 2e-12 * exact
    assert found.error < accuracy * exact
    assert abs(1.01 * found.value - exact) > found.error
    assert abs(-found.value - exact) > found.error


def test_without_a_mean_it_is_infinite():
    for source in (scipy.stats.cauchy(), scipy.stats.pareto(1), scipy.stats.levy(),
                   scipy.stats.zipf(1.5)):  # fmt: skip
        for n in (1, 3):
            assert expected_abs_mean(source, n).value == np.inf


def test_a_heavy_tail_on_the_integers():
    source = scipy.stats.zipf(2.5)
    for n in (1, 100):
        found = expected_abs_mean(source, n)
        assert abs(found.value - source.mean()) <= found.error < 1e-3
        assert abs(1.01 * found.value - source.mean()) > found.error


def test_the_panels_know_the_distribution():
    """Masses exact, a pole and a cusp resolved, phi right at frequencies no node resolves."""
    for source, phi in (
        (scipy.stats.gamma(0.1), lambda t: (1 - 1j * t) ** -0.1),
        (scipy.stats.laplace(), lambda t: 1 / (1 + t**2)),
        (scipy.stats.expon(-1), lambda t: np.exp(-1j * t) / (1 - 1j * t)),
    ):
        panels = panels_of(source)
        assert panels.p.sum() == pytest.approx(1, abs=1e-14)
        assert panels.off < 1e-12
        for t in (1e-9, 1e-3, 1.0, 40.0, 1e3, 1e6):
            t = np.array([t, 2 * t])
            found, exact = np.exp(panels.log_phi(t, 0.0)), phi(t)
            assert np.abs(found - exact).max() < 1e-13
            # Near zero it is what is lost that counts.
            lost = -np.expm1(panels.log_phi(t, 0.0).real)
            assert t[0] > 1e-3 or np.allclose(lost, source.std() ** 2 * t**2 / 2, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 17, 400])
@pytest.mark.parametrize("p", [0.5, 0.3])
def test_a_lattice_against_the_binomial_sum(n, p):
    k = np.arange(n + 1)
    weights = scipy.stats.binom(n, p).pmf(k)
    for low, high in ((0.0, 1.0), (-0.3, 0.7), (-1.0, 0.0)):
        exact = float(weights @ np.abs(low * (n - k) + high * k)) / n
        found = expected_abs_mean([high] * round(10 * p) + [low] * round(10 - 10 * p), n)
        assert abs(found.value - exact) <= found.error + 1e-13
        assert found.error < 1e-9
        assert abs(1.01 * found.value - exact) > found.error or exact == 0


def test_integer_distributions():
    for n in (1, 2, 50):
        total = scipy.stats.poisson(2 * n)
        k = np.arange(2000)
        exact = float(total.pmf(k) @ np.abs(k - 3.0 * n)) / n
        found = expected_abs_mean(scipy.stats.poisson(2, loc=-3), n)
        assert abs(found.value - exact) <= found.error + 1e-12


@settings(max_examples=8, deadline=None)
@given(sample=st.lists(st.floats(-5, 5), min_size=1, max_size=6), n=st.integers(1, 4))
def test_a_sample_against_all_batches(sample, n):
    import itertools

    batches = np.array(list(itertools.product(sample, repeat=n)))
    exact = float(np.abs(batches.mean(axis=1)).mean())
    found = expected_abs_mean(sample, n)
    assert abs(found.value - exact) <= found.error + 1e-13


@pytest.mark.parametrize("n", [3, 6])
def test_the_series_against_the_exact_sum(n):
    rng = np.random.default_rng(9)
    x = rng.standard_t(3, 30) + 0.2
    p = rng.random(30)
    p /= p.sum()
    exact, found = of_atoms(x, p, n), series(x, p, n)
    assert abs(found.value - exact.value) <= found.error + exact.error
    assert exact.error < 1e-10 * exact.value
    assert abs(1.01 * found.value - exact.value) > found.error + exact.error
    # So few atoms that |phi| comes back: the bound says so, and is not idle.
    assert found.error < 1e-5 * found.value


@pytest.mark.parametrize("n", [3, 30, 10**4, 10**6])
def test_a_large_sample(n):
    """Drawn from a normal: E|g_n| of the sample by a Gram-Charlier check where n is large."""
    rng = np.random.default_rng(10)
    sample = rng.standard_t(4, 20_000)
    sample -= sample.mean()
    found = expected_abs_mean(sample, n)
    assert found.error < 2e-10 * found.value
    if n == 3:
        first = rng.choice(sample, 200_000)
        # Given the sum of two, the third is averaged exactly.
        second = first + rng.choice(sample, first.size)
        values = [float(np.abs(sample + v).mean()) / 3 for v in second[:4000]]
        error = np.std(values) / np.sqrt(len(values))
        assert abs(np.mean(values) - found.value) < 4 * error
        assert abs(np.mean(values) - 1.05 * found.value) > 4 * error
        return
    skewness = float((sample**3).mean() / (sample**2).mean() ** 1.5)
    kurtosis = float((sample**4).mean() / (sample**2).mean() ** 2) - 3
    law = float(edgeworth_abs_gradient(n, sample.std(), skewness, kurtosis))
    # The next order: a sixth moment over n^2.
    sixth = float((sample**6).mean() / (sample**2).mean() ** 3)
    assert abs(found.value / law - 1) < 1e-11 + (sixth + kurtosis**2) / n**2
    assert n < 10**4 or abs(1.01 * found.value / law - 1) > 5e-3


def test_the_transform_against_its_sum():
    rng = np.random.default_rng(11)
    x, p = rng.standard_t(2, 300), rng.random(300) / 300
    for most in (1, 50, 3000):
        found = transform(x, p, 40.0, most)
        exact = np.exp(2j * np.pi / 40 * np.outer(np.arange(most + 1), x)) @ p
        assert np.abs(found - exact).max() < 1e-12


def test_a_sample_by_simulation():
    rng = np.random.default_rng(8)
    sample = rng.standard_t(3, 500) + 0.05
    means = np.abs(sample[rng.integers(0, 500, (40_000, 30))].mean(axis=1))
    found = expected_abs_mean(sample, 30)
    error = means.std() / 200
    assert abs(means.mean() - found.value) < 4 * error
    assert abs(means.mean() - 1.05 * found.value) > 4 * error
    assert found.error < 1e-6
    # Scale and sign.
    for factor in (-1, 1e-8, 1e3):
        scaled = expected_abs_mean(factor * sample, 30)
        assert abs(scaled.value / abs(factor) - found.value) < 1e-9 * found.value
    values = [expected_abs_mean(sample, n).value for n in (1, 2, 5, 30, 1000, 10**6)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(abs(sample.mean()), rel=1e-6)


def test_symbolic_integral():
    n = sympy.Symbol("n", positive=True)
    law = characteristic_integral(lambda t: sympy.exp(-(t**2) / 2), n).doit()
    assert sympy.simplify(law - expected_abs_gradient(n, 1)) == 0
    complex_one = characteristic_integral(lambda t: sympy.exp(sympy.I * t), 1)
    assert complex_one.has(sympy.re) or complex_one.has(sympy.cos)


@settings(few, max_examples=4)
@given(n=st.integers(1, 10**6), e=st.integers(-8, 3))
def test_numeric_over_the_range(n, e):
    symbol, sigma = sympy.symbols("n sigma", positive=True)
    scale = Rational(10) ** e
    with mpmath.workdps(40):
        m = mpmath.mpf(n)
        oracles = {
            laplace_abs_gradient: mpmath.sqrt(2 / mpmath.pi)
            * mpmath.exp(mpmath.loggamma(m + 0.5) - mpmath.loggamma(m + 1)),
            exponential_abs_gradient: 2
            * mpmath.exp(m * mpmath.log(m) - m - mpmath.loggamma(m + 1)),
            student_abs_gradient: 2 * mpmath.sqrt(3) / mpmath.pi * mpmath.exp(m) * m**-m
            * mpmath.gammainc(m, m),
        }  # fmt: skip
        for law, oracle in oracles.items():
            value = mpmath.mpf(float(numeric(law(symbol, sigma), symbol, sigma)(n, float(scale))))
            assert abs(value / (oracle * mpmath.mpf(float(scale))) - 1) < 1e-10
            exact = law(n, scale).evalf(25) if n > 1 else law(1, scale).evalf(25)
            assert abs(exact / scale - Rational(mpmath.nstr(oracle, 30))) < 1e-15


def test_never_rises_with_n():
    for law in (laplace_abs_gradient, exponential_abs_gradient, student_abs_gradient):
        values = [law(n, 1).evalf(20) for n in (1, 2, 3, 10, 100, 1000)]
        assert values == sorted(values, reverse=True)
    assert student_abs_gradient(1, 1, 1) == oo


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: laplace_abs_gradient(0, 1), r"^n is 0; it must be at least 1"),
        (lambda: exponential_abs_gradient(1, 1, 0), r"^shape is 0; it must be greater than 0"),
        (lambda: student_abs_gradient(1, 1, 0), r"^degrees is 0; it must be greater than 0"),
        (lambda: stable_abs_gradient(1, 1, 1), r"^alpha is 1; it must be in \(1, 2\]"),
        (lambda: stable_abs_gradient(1, 1, 1.5, 2), r"^skew is 2; it must be in \[-1, 1\]"),
        (lambda: edgeworth_abs_gradient(1, 1, 3, 1), r"^kurtosis is 1; .*skewness\^2 - 2 = 7"),
        (lambda: expected_abs_mean([1], 0), r"^n is 0; it must be a whole number from 1"),
        (lambda: expected_abs_mean([], 1), r"^source has no values"),
        (lambda: expected_abs_mean([np.inf], 1), r"^source has no values, or some that are not"),
        (lambda: expected_abs_mean("many", 1), r"^source is 'many'; it must be an array, a frozen"),
        (lambda: expected_abs_mean(lambda t: 0 * t, 1), r"^source does not vary"),
    ],
)
def test_domain(call, message):
    with pytest.raises(ValueError, match=message):
        call()
