import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sim._measurements.statistics import median, quantiles, spearman

finite = st.floats(-1e6, 1e6)
LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@given(hnp.arrays(np.float64, st.integers(1, 50), elements=finite))
def test_quantiles_are_numpys_on_finite_values(values):
    before = values.copy()
    # Both interpolate once between the same two values: a few roundings of the larger.
    np.testing.assert_allclose(
        quantiles(values, LEVELS), np.quantile(values, LEVELS), rtol=1e-12, atol=1e-9
    )
    assert np.array_equal(values, before)
    assert median(values) == pytest.approx(float(np.median(values)), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "at", "expected"),
    [
        ([1.0, math.inf], 0.0, 1.0),
        ([1.0, math.inf], 0.5, math.inf),
        ([math.inf, math.inf], 0.3, math.inf),
        ([-math.inf, 1.0], 0.5, -math.inf),
        ([-math.inf, 1.0], 1.0, 1.0),
        ([math.inf, 3.0, 1.0], 0.5, 3.0),
        ([5.0], 0.77, 5.0),
    ],
)
def test_quantiles_with_infinite_values(values, at, expected):
    assert quantiles(np.array(values), (at,)) == [expected]


def test_quantiles_of_nothing():
    assert all(math.isnan(q) for q in quantiles(np.empty(0), (0.1, 0.5)))


@given(
    st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=40).filter(
        lambda v: len({a for a, _ in v}) > 1 and len({b for _, b in v}) > 1
    )
)
def test_spearman_is_the_correlation_of_mean_ranks(pairs):
    def ranks(values):
        return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]

    x, y = zip(*pairs, strict=True)
    a, b = ranks(x), ranks(y)
    middle = (len(a) + 1) / 2
    products = sum((p - middle) * (q - middle) for p, q in zip(a, b, strict=True))
    squares = sum((p - middle) ** 2 for p in a) * sum((q - middle) ** 2 for q in b)
    value = spearman(np.array(x, dtype=float), np.array(y, dtype=float)).value
    # A few roundings of sums of at most forty terms.
    assert value == pytest.approx(products / math.sqrt(squares), abs=1e-14)


def test_the_interval_is_bonett_and_wrights():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(50)
    r, low, high = spearman(x, x + rng.standard_normal(50))
    z = 0.5 * math.log((1 + r) / (1 - r))
    half = 1.959963984540054 * math.sqrt((1 + r**2 / 2) / 47)
    for limit, end in ((low, z - half), (high, z + half)):
        assert limit == pytest.approx((math.exp(2 * end) - 1) / (math.exp(2 * end) + 1), rel=1e-12)
    assert low < r < high


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_the_interval_covers_as_often_as_it_says(rho):
    rng = np.random.default_rng(1)
    # Spearman's coefficient of a normal pair: (6/π) arcsin(ρ/2).
    truth = 6 / math.pi * math.asin(rho / 2)
    hits, draws = 0, 600
    for _ in range(draws):
        x, e = rng.standard_normal((2, 60))
        _, low, high = spearman(x, rho * x + math.sqrt(1 - rho**2) * e)
        hits += low <= truth <= high
    # Five binomial standard errors, sqrt(0.95 * 0.05 / 600) = 0.009.
    assert abs(hits / draws - 0.95) < 0.045


def test_spearman_at_its_edges():
    up = np.arange(5.0)
    assert spearman(up, up**3) == (1.0, 1.0, 1.0)
    assert spearman(up, -up) == (-1.0, -1.0, -1.0)
    assert all(map(math.isnan, spearman(up, np.ones(5))))
    assert all(map(math.isnan, spearman(up[:1], up[:1])))
    value, low, high = spearman(np.array([1.0, 2, 3]), np.array([1.0, 3, 2]))
    assert value == 0.5
    assert math.isnan(low)
    assert math.isnan(high)
    assert spearman(up, np.array([0.0, 1, math.inf, math.inf, math.inf])).value > 0.8
