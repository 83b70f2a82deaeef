"""What is exact about batches drawn without replacement, and what dropout leaves at n = N."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb
from typing import Any

from sympy import Integer, Rational, S, Symbol, oo, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import finite, whole
from theory.laws._folded_normal import batch_deviation, total_deviation
from theory.laws.abs_gradient import expected_abs_gradient
from theory.symbols import N, g, n, sigma, w, x

MOST_BATCHES = 200_000


def finite_population_abs_mean(sample: Sequence[Any], n: int) -> Any:
    r"""Return E\|g_n\| over all batches of n from the sample, exactly: no distribution is assumed.

    `sample` holds the N per-sample gradients of one coordinate, numbers or sympy expressions. The
    average runs over all C(N, n) batches drawn without replacement. Where n > N/2 the N - n values
    left out are enumerated instead, by the reflection identity

        n*(g_n - mu) = -(N - n)*(g'_(N - n) - mu),

    g' being the mean of the rest. So at n = N it is \|mu\|, and with mu = 0 at n = N - 1 it is
    E\|g_1\|/(N - 1): near N the fall is linear in N - n, not 1/sqrt(n).

    Assumptions: none; a theorem for every sample.

    Source: Cochran, Sampling Techniques, section 2.9, for the mean of the complement.

    Raises ValueError for an empty sample, n outside 1 to N, a value that is not a finite real
    number, or more than 200000 batches to go through.

    >>> finite_population_abs_mean([-3, -1, 1, 3], 2)
    1
    >>> [finite_population_abs_mean([-3, -1, 1, 3], n) for n in (1, 3, 4)]
    [2, 2/3, 0]
    """
    if isinstance(sample, str | bytes) or not isinstance(sample, Iterable):
        raise ValueError(f"sample is {sample!r}; it must be a sequence, one gradient a sample")
    values = [finite(f"sample[{place}]", value) for place, value in enumerate(sample)]
    size = len(values)
    if not size:
        raise ValueError("sample is empty; pass one gradient for each of the N samples")
    n = whole("n", n, 1, size, "a batch is drawn from the sample without replacement")
    if comb(size, n) > MOST_BATCHES:
        raise ValueError(
            f"n = {n} of N = {size} makes {comb(size, n)} batches, more than {MOST_BATCHES}; "
            "use expected_abs_gradient(..., population=N) or another n"
        )
    total, few = sum(values, S.Zero), min(n, size - n)
    sums = (sum(batch, S.Zero) for batch in combinations(values, few))
    absolute = sum((abs(s if few == n else total - s) for s in sums), S.Zero)
    return absolute / (n * comb(size, n))


def _formulas() -> dict[str, Any]:
    mask, common = Symbol("sigma_mask", positive=True), Symbol("sigma_common", positive=True)
    law = expected_abs_gradient(n, sigma, population=N)
    return {
        r"E|\bar g_n|": law,
        r"E|\bar g_n|\;(\text{a mask for each sample})": expected_abs_gradient(
            n, sigma, population=N, mask=mask
        ),
        r"E|\bar g_n|\;(\text{one mask for the batch})": expected_abs_gradient(
            n, sigma, population=N, common=common
        ),
    }


def _steps() -> tuple[Step, ...]:
    mask, common = Symbol("sigma_mask", positive=True), Symbol("sigma_common", positive=True)
    room = ((n, (1, 40)), (N, (50, 90)))
    left_out = batch_deviation(N - n, sigma, N)
    return (
        Step(
            "Two draws without replacement have covariance -sigma^2/(N - 1), which makes the whole "
            "population's sum certain; so the mean of n has variance sigma^2/n*(N - n)/(N - 1).",
            (n * sigma**2 + n * (n - 1) * (-(sigma**2) / (N - 1))) / n**2,
            batch_deviation(n, sigma, N) ** 2,
            domain=room,
        ),
        Step(
            "What is left out deviates by n/(N - n) times as much: the reflection identity.",
            batch_deviation(n, sigma, N) / left_out,
            (N - n) / n,
            domain=room,
        ),
        Step(
            "At n = N - 1 of a centred population the law is that of a single sample over N - 1.",
            expected_abs_gradient(N - 1, sigma, population=N),
            expected_abs_gradient(1, sigma, population=N) / (N - 1),
            domain=room,
        ),
        Step(
            "Leaving one of three out gives the three pairs.",
            finite_population_abs_mean([x, w, g], 2),
            (abs(x + w) + abs(x + g) + abs(w + g)) / 6,
        ),
        Step(
            "Masks drawn anew for each sample leave mask^2/N at n = N.",
            total_deviation(Integer(7), sigma, Integer(7), mask=mask),
            mask / sqrt(7),
        ),
        Step(
            "A mask shared by the batch leaves all of its variance, at every n.",
            total_deviation(N, sigma, N, common=common),
            common,
        ),
        Step(
            "With independent draws the masks' variance only adds to the samples'.",
            total_deviation(n, sigma, oo, mask=mask),
            sqrt(sigma**2 + mask**2) / sqrt(n),
        ),
        Step(
            "Half of a population drawn without replacement has under half the variance of as many "
            "independent draws, up to 1/N.",
            batch_deviation(N / 2, sigma, N) ** 2 / batch_deviation(N / 2, sigma, oo) ** 2,
            Rational(1, 2) * N / (N - 1),
            domain=((N, (50, 90)),),
        ),
    )


DERIVATION = Derivation(
    name="finite_population",
    title="Sampling without replacement, and dropout",
    laws=("finite_population_abs_mean", "expected_abs_gradient"),
    statements=(
        Statement(
            "theorem",
            "For every sample: the mean |mu| at n = N, the standard deviation of g_n at every n, "
            "and n*E|g_n - mu| = (N - n)*E|g_(N-n) - mu|.",
        ),
        Statement(
            "theorem",
            "With masks independent of the draws, variances add: the samples' part carries the "
            "finite-population factor, the masks' part mask^2/n does not.",
        ),
        Statement(
            "asymptotic",
            "That g_n is normal is the central limit theorem for finite populations (Hajek 1960), "
            "as n and N - n both grow. At N - n of order one the deviation has the shape of the "
            "sample, not the normal's.",
            rate="1/min(n, N - n)",
        ),
    ),
    source="Cochran, Sampling Techniques, theorem 2.2; Hajek (1960); Srivastava et al. (2014)",
    make_formulas=_formulas,
    make_steps=_steps,
)
