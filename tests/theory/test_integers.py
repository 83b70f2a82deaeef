"""Distributions on the integers: exact sums, for gaps, wide supports and ends of either kind."""

import itertools

import numpy as np
import pytest
import scipy.stats

from theory import expected_abs_mean

GAPS = {
    "two sides that cancel": ([-1000, 0, 1000], [0.0005, 0.999, 0.0005]),
    "a far value": ([-200, 0, 100], [0.2, 0.4, 0.4]),
    "two pairs": ([-500, -499, 499, 500], [0.25] * 4),
    "a billion apart": ([-(10**9), 1, 10**9], [0.3, 0.3, 0.4]),
    "not whole": ([-0.5, 0.25, 3.0], [0.5, 0.25, 0.25]),
}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", GAPS)
def test_values_with_gaps_against_all_batches(name, n):
    values, chances = GAPS[name]
    exact = sum(
        float(np.prod([chances[i] for i in batch])) * abs(sum(values[i] for i in batch)) / n
        for batch in itertools.product(range(len(values)), repeat=n)
    )
    source = scipy.stats.rv_discrete(values=(values, chances))
    for shift in (0, 7) if name == "two pairs" else (0,):
        mean = expected_abs_mean(source if shift == 0 else source(loc=shift), n)
        if shift:
            exact = sum(
                float(np.prod([chances[i] for i in batch]))
                * abs(sum(values[i] for i in batch) / n + shift)
                for batch in itertools.product(range(len(values)), repeat=n)
            )
        assert abs(mean.value - exact) <= mean.error + 1e-15 * exact
        # Sums of at most 27 terms: rounding, and the bound's generous factor.
        assert mean.error < 1e-9 * max(values)
        assert mean.error < 1e-6 * exact


@pytest.mark.parametrize("top", [70_000, 500_000, 5_000_000])
def test_a_wide_uniform_against_its_closed_form(top):
    """E|X| is M*(M + 1)/(2*M + 1); over two, the triangular sum has (4*M*(M + 1))/(3*(2*M + 1))."""
    source = scipy.stats.randint(-top, top + 1)
    one, two = (expected_abs_mean(source, n) for n in (1, 2))
    count = 2 * top + 1
    exact = top * (top + 1) / count
    assert abs(one.value - exact) <= one.error < 1e-6 * exact
    # Of the sum s the chance is (2*M + 1 - |s|)/(2*M + 1)^2; the mean of |s| over it, halved.
    size = (count - 1) * (count + 1) / (3 * count) / 2
    assert abs(two.value - size) <= two.error < 1e-5 * size
    if top == 500_000:
        three = expected_abs_mean(source, 3)
        # Three uniform ones on (-1, 1) have the mean size 13/48 of theirs; whole ones, to 1/M.
        assert abs(three.value / top - 13 / 48) < 1e-6 + three.error / top
        assert three.error < 1e-4 * three.value


def of_sums(total, middle, n, most):
    k = np.arange(most)
    return float(total.pmf(k) @ np.abs(k - middle)) / n


@pytest.mark.parametrize("n", [1, 2, 5])
def test_an_end_of_the_support_adds_no_error(n):
    mean = expected_abs_mean(scipy.stats.binom(10, 0.3, loc=-3), n)
    exact = of_sums(scipy.stats.binom(10 * n, 0.3), 3 * n, n, 10 * n + 1)
    assert abs(mean.value - exact) <= mean.error + 1e-15 < 1e-11
    mean = expected_abs_mean(scipy.stats.geom(0.001, loc=-1000), n)
    # Sums of n are negative binomial, from n on.
    exact = of_sums(scipy.stats.nbinom(n, 0.001), 999 * n, n, 300_000)
    assert abs(mean.value - exact) <= mean.error + 1e-11 < 1e-6 * exact


@pytest.mark.parametrize("n", [3, 40])
def test_a_long_grid_whose_transform_returns_to_one(n):
    """A sample with three decimals, of more points than are folded; by powers of the polynomial."""
    rng = np.random.default_rng(3)
    sample = np.round(rng.standard_exponential(400) - 1 + 1 / 3000, 3)
    place = np.round(1000 * sample).astype(int)
    start = place.min()
    chances = np.bincount(place - start) / 400
    size = 1 << 19
    total = np.fft.irfft(np.fft.rfft(chances, size) ** n, size)  # sums are below size
    k = np.arange(size) + n * start
    exact = float(total @ np.abs(k)) / n / 1000
    mean = expected_abs_mean(sample, n)
    # The transform's rounding is some 1e-16 of one at each of half a million places.
    assert abs(mean.value - exact) <= mean.error + 1e-11
    assert mean.error < 1e-9 * exact
    assert n == 3 or abs(1.0000001 * mean.value - exact) > mean.error


def test_a_wide_bulk_and_a_far_tail_by_the_mean():
    wide = expected_abs_mean(scipy.stats.geom(1e-7), 1)
    assert abs(wide.value - 1e7) <= wide.error < 1e-4 * wide.value
    for n in (1, 3):
        heavy = expected_abs_mean(scipy.stats.yulesimon(3.5), n)
        assert abs(heavy.value - 1.4) <= heavy.error < 1e-2


def test_quartiles_that_scipy_does_not_find():
    with pytest.raises(ValueError, match=r"^source has the quartiles \[nan, nan, 674490.0\]"):
        expected_abs_mean(scipy.stats.poisson(1e12, loc=-(10**12)), 1)
