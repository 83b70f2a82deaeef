"""The standard deviation of a batch mean, and the mean of a folded normal variable."""

from typing import Any

from sympy import Abs, And, Eq, Piecewise, S, erf, exp, oo, pi, sqrt


def batch_deviation(n: Any, sigma: Any, population: Any) -> Any:
    """Standard deviation of the mean of n draws, without replacement if the population is finite.

    sigma/sqrt(n) * sqrt((N - n)/(N - 1)), sigma having divisor N (Cochran, Sampling Techniques,
    theorem 2.2). A population of one leaves nothing to chance.
    """
    if population is oo:
        return sigma / sqrt(n)
    # By differences: 1.0 is never == 1, in sympy.
    if (population - 1).is_zero or (population - n).is_zero:
        return S.Zero
    return sigma / sqrt(n) * sqrt((population - n) / (population - 1))


def folded_normal_mean(mu: Any, s: Any, exact_when: Any = S.false) -> Any:
    """E|X| for X ~ N(mu, s): s*sqrt(2/pi)*exp(-mu^2/(2 s^2)) + mu*erf(mu/(s*sqrt(2))).

    Leone, Nelson & Nottingham (1961). Both terms are nonnegative, so nothing cancels. Where
    `exact_when` is true, s is zero and the mean is |mu|.
    """
    if s.is_zero:
        return Abs(mu)
    if mu.is_zero:
        return sqrt(2 / pi) * s
    mean = sqrt(2 / pi) * s * exp(-(mu**2) / (2 * s**2)) + mu * erf(mu / (sqrt(2) * s))
    return mean if exact_when == S.false else Piecewise((Abs(mu), exact_when), (mean, True))


def all_drawn(n: Any, population: Any) -> Any:
    """The condition that the batch is the whole population, false where that cannot be."""
    return S.false if population is oo else Eq(n, population)


def total_deviation(
    n: Any, sigma: Any, population: Any, tau: Any = S.Zero, mask: Any = S.Zero, common: Any = S.Zero
) -> Any:
    """Standard deviation of a batch gradient over batches, masks and the coordinates of a layer.

    Variances add: that of `batch_deviation`, mask^2/n (drawn anew for every sample, so without a
    finite-population factor), common^2 (one draw for the whole batch) and tau^2 (over coordinates).
    """
    s = batch_deviation(n, sigma, population)
    if all(part.is_zero for part in (tau, mask, common)):
        return s
    if s.is_zero and mask.is_zero and common.is_zero:
        return tau
    return sqrt(s**2 + mask**2 / n + common**2 + tau**2)


def nothing_random(n: Any, population: Any, *spreads: Any) -> Any:
    """The condition that no spread is left: the whole population, and every other spread zero."""
    return And(all_drawn(n, population), *(Eq(part, 0) for part in spreads))
