"""Batches without replacement: enumeration, the reflection identity, and dropout's masks."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Rational, S, Symbol

from theory import expected_abs_gradient, finite_population_abs_mean

samples = st.lists(st.integers(-50, 50), min_size=1, max_size=7)


def enumerated(sample, n):
    batches = list(itertools.combinations(sample, n))
    return sum(abs(Fraction(sum(b), n)) for b in batches) / len(batches)


@settings(max_examples=40, deadline=None)
@given(sample=samples, data=st.data())
def test_against_enumeration_and_reflection(sample, data):
    n = data.draw(st.integers(1, len(sample)))
    oracle = enumerated(sample, n)
    law = finite_population_abs_mean(sample, n)
    assert law == Rational(oracle)
    if oracle:
        assert law * Rational(101, 100) != Rational(oracle)
        assert -law != Rational(oracle)
    size = len(sample)
    centred = [S(v) - Rational(sum(sample), size) for v in sample]
    if n < size:
        here, there = (finite_population_abs_mean(centred, k) for k in (n, size - n))
        assert n * here == (size - n) * there


@settings(max_examples=20, deadline=None)
@given(sample=st.lists(st.integers(-50, 50), min_size=2, max_size=7))
def test_never_rises_with_n(sample):
    values = [finite_population_abs_mean(sample, n) for n in range(1, len(sample) + 1)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == abs(Rational(sum(sample), len(sample)))


def test_the_normal_law_and_the_exact_one_near_the_whole():
    rng = np.random.default_rng(1)
    data = rng.laplace(size=200)
    data -= data.mean()
    exact = float(finite_population_abs_mean(data, 199))
    assert abs(exact - np.abs(data).mean() / 199) < 1e-12
    normal = float(expected_abs_gradient(199, data.std(), population=200))
    # The deviation there has the sample's own shape: Laplace's E|x| is 0.886 of the normal's.
    assert 0.8 < exact / normal < 0.95


def test_dropout_by_simulation():
    """Per-sample gradients times a mask of each sample's own, over the whole set and half of it."""
    rng = np.random.default_rng(2)
    size, keep, repeats = 40, 0.5, 40_000
    base = rng.standard_normal(size)
    base -= base.mean()
    mask_sd = np.sqrt(np.mean(base**2) * (1 - keep) / keep)
    for n in (20, 40):
        order = rng.random((repeats, size)).argsort(axis=1)[:, :n]
        masks = (rng.random((repeats, n)) < keep) / keep
        means = (base[order] * masks).mean(axis=1)
        second = (means**2).mean()
        error = (means**2).std() / np.sqrt(repeats)
        law = float(expected_abs_gradient(n, base.std(), population=size, mask=mask_sd))
        square = law**2 * np.pi / 2
        assert abs(second - square) < 4 * error
        without = float(expected_abs_gradient(n, base.std(), population=size)) ** 2 * np.pi / 2
        assert abs(second - without) > 20 * error


def test_a_common_mask_does_not_shrink():
    n = Symbol("n", positive=True)
    law = expected_abs_gradient(n, 0, common=3)
    assert law == expected_abs_gradient(1, 3)


@pytest.mark.parametrize(
    ("sample", "n", "message"),
    [
        ([], 1, r"^sample is empty; pass one gradient for each"),
        ([1, 2], 0, r"^n is 0; it must be a whole number from 1 to 2: a batch is drawn"),
        ([1, 2], 3, r"^n is 3; it must be a whole number from 1 to 2: a batch is drawn"),
        ([1, 2], 1.5, r"^n is 1\.5; it must be a whole number"),
        ([1, 2], True, r"^n is True; it must be a whole number"),
        ([1, float("nan")], 1, r"^sample\[1\] is nan; it must be a real number"),
        ([1] * 60, 30, r"^n = 30 of N = 60 makes 118264581564861424 batches, more than 200000"),
    ],
)
def test_domain(sample, n, message):
    with pytest.raises(ValueError, match=message):
        finite_population_abs_mean(sample, n)
