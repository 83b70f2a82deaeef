"""The shared statistics against SciPy's own tests, and against the truth in simulations."""

import numpy as np
import pytest
from scipy import stats

from paper_checks import statistics as S

rng = np.random.default_rng(0)
A, B = rng.normal(1.0, 2.0, 9), rng.normal(0.5, 1.0, 9)


@pytest.mark.parametrize(
    ("found", "test"),
    [
        (S.mean(A), stats.ttest_1samp(A, 0.0)),
        (S.difference(A, B), stats.ttest_rel(A, B)),
        (S.unpaired(A, B), stats.ttest_ind(A, B, equal_var=False)),
        (S.unpaired(A, B[:4]), stats.ttest_ind(A, B[:4], equal_var=False)),
    ],
)
def test_intervals_and_p_are_those_of_scipy(found, test):
    interval = test.confidence_interval(0.95)
    assert found.interval() == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert min(found.above(0.0), found.below(0.0)) == pytest.approx(test.pvalue, rel=1e-9)


def test_welchs_interval_is_his_formula():
    """Independent of SciPy, which computes it: Welch (1947) with Satterthwaite's freedom."""
    first, second = [1.0, 2.0, 4.0, 9.0], [0.5, 0.0, 1.0]
    found = S.unpaired(first, second)
    parts = []
    for values in (first, second):
        middle = sum(values) / len(values)
        square = sum((v - middle) ** 2 for v in values) / (len(values) - 1)
        parts.append((middle, square / len(values), len(values) - 1))
    error = (parts[0][1] + parts[1][1]) ** 0.5
    freedom = error**4 / sum(square**2 / free for _, square, free in parts)
    assert found.value == pytest.approx(parts[0][0] - parts[1][0], rel=1e-12)
    assert (found.error, found.freedom) == pytest.approx((error, freedom), rel=1e-12)
    # Two values alike in each arm have no spread, and so no width.
    assert tuple(S.unpaired([2.0, 2.0], [1.0, 1.0])) == (1.0, 1.0, 1.0)


def test_a_ratio_is_a_difference_of_logarithms():
    found = S.ratio(np.exp(A), np.exp(B))
    assert np.log(list(found)) == pytest.approx(list(S.difference(A, B)), rel=1e-9)
    assert found.above(2.0) == pytest.approx(S.difference(A, B).above(np.log(2.0)))


@pytest.mark.parametrize("successes", [0, 3, 10])
def test_a_proportion_is_wilsons(successes):
    interval = stats.binomtest(successes, 10).proportion_ci(method="wilson")
    assert S.proportion(successes, 10).interval() == pytest.approx((interval.low, interval.high))


ESTIMATES = [
    S.mean(A),
    S.ratio(np.exp(A), np.exp(B)),
    S.unpaired(A, B),
    S.proportion(7, 12),
    S.deviation_ratio(A, B),
    S.slope([1, 2, 4], np.array([A, A + B, A + 3 * B])),
]


@pytest.mark.parametrize("found", ESTIMATES)
def test_p_is_five_per_cent_at_the_end_of_the_interval(found):
    low, high = found.interval()
    assert found.above(low) == pytest.approx(0.05, rel=1e-6)
    assert found.below(high) == pytest.approx(0.05, rel=1e-6)


def coverage(draw, truth, count=400):
    """In how many of `count` simulations the interval holds the truth."""
    generator = np.random.default_rng(1)
    found = [draw(generator) for _ in range(count)]
    return sum(each.low <= truth <= each.high for each in found) / count


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda r: S.difference(r.normal(1, 1, 5), r.normal(0, 3, 5)), 1.0),
        (lambda r: S.log_slope([1, 4, 16], np.exp(r.normal(0, 1, (3, 5)))), 0.0),
        (lambda r: S.proportion(r.binomial(30, 0.3), 30), 0.3),
        (lambda r: S.deviation_ratio(r.normal(0, 2, 12), r.normal(0, 1, 12)), 2.0),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(draw, truth):
    # Three standard errors of 400 simulations.
    assert coverage(draw, truth) >= 0.95 - 0.033


def test_the_jackknife_needs_no_gaussians():
    """On a skewed quantity it holds the truth in 90 % of cases, the F distribution in 77 %."""

    def by_f(r):
        a, b = r.exponential(2, 12), r.exponential(1, 12)
        quotient = a.var(ddof=1) / b.var(ddof=1)
        low, high = np.sqrt(quotient / stats.f.ppf((0.975, 0.025), 11, 11))
        return S.Ratio(float(np.sqrt(quotient)), np.log(high / low) / 2 / stats.norm.ppf(0.975))

    jackknife = coverage(
        lambda r: S.deviation_ratio(r.exponential(2, 12), r.exponential(1, 12)), 2.0
    )
    assert jackknife >= coverage(by_f, 2.0) + 0.05
    assert jackknife >= 0.90 - 0.045


def test_paired_luck_cancels():
    luck = rng.normal(0, 10, 8)
    first, second = luck + 1 + 0.1 * rng.normal(size=8), luck + 0.1 * rng.normal(size=8)
    assert S.more(S.difference(first, second), 0.0).holds
    assert not S.more(S.unpaired(first, second), 0.0).holds


def test_one_value_decides_nothing():
    for found in (S.mean([3.0]), S.mean([]), S.ratio([2.0], [1.0]), S.unpaired([1.0], A)):
        assert found.above(-1e9 if not isinstance(found, S.Ratio) else 1e-9) == 1.0
        assert not S.more(found, 1e-9).fails
    assert not S.more(S.deviation_ratio(A[:3], B[:3]), 0.01).holds


def test_values_that_are_equal_are_a_point():
    exact = S.mean([0.1] * 5)
    assert exact.interval() == (pytest.approx(0.1), pytest.approx(0.1))
    assert S.more(exact, 0.05).holds
    assert S.less(exact, 0.05).fails
    assert not S.more(exact, exact.value).holds


def test_equivalence_needs_a_narrow_interval_and_not_a_large_p():
    wide, narrow = S.Estimate(0.0, 1.0), S.Estimate(0.0, 0.1)
    assert not S.within(wide, -0.5, 0.5).holds
    assert not S.within(wide, -0.5, 0.5).fails
    assert S.within(narrow, -0.5, 0.5).holds
    assert S.within(S.Estimate(2.0, 0.1), -0.5, 0.5).fails


def test_between_shown_and_excluded_all_is_open():
    """An interval of [0.29, 1.55] around a bound of 1 says nothing, whichever way one asks."""
    found = S.Estimate(0.92, (1.55 - 0.29) / 2 / 1.96)
    assert found.interval() == pytest.approx((0.29, 1.55), abs=1e-3)
    for part in (S.more(found, 1.0), S.less(found, 1.0), S.within(found, 0.9, 1.1)):
        assert S.conclude(part, [], 1.0, found, "").verdict == "inconclusive"


def test_several_chances_are_counted():
    lucky, plain = S.Decision(0.03, 1.0), S.Decision(0.6, 0.6)
    assert not S.any_of(lucky, plain).holds
    assert S.any_of(lucky).holds
    assert not S.all_of(S.opposite(lucky), plain).fails
    # Both halves shown: no correction, since both had to be.
    assert S.in_parts(lucky, lucky).holds


def test_the_correction_is_for_the_number_of_verdicts():
    alone = S.adjusted({"a": 0.01})
    many = S.adjusted({"a": 0.01} | {str(k): 0.5 for k in range(50)})
    assert alone == {"a": 0.01}
    assert many["a"] > 0.5
    assert S.adjusted({}) == {}
    # Never below what it was, and in the same order.
    found = S.adjusted({str(p): p for p in (0.001, 0.01, 0.2)})
    assert all(found[name] >= float(name) for name in found)
    assert list(found.values()) == sorted(found.values())
