"""E|g_n|: the expected absolute batch gradient (equation 4)."""

from typing import Any

from sympy import oo

from theory.laws._domain import batch_size, deviation, finite, training_set
from theory.laws._folded_normal import all_drawn, batch_deviation, folded_normal_mean


def expected_abs_gradient(n: Any, sigma: Any, mu: Any = 0, population: Any = oo) -> Any:
    r"""Return E\|g_n\| for the mean g_n of n per-sample gradients, in the gradient's unit.

    Equation 4 of the paper, with its constant corrected (the paper prints 2/sqrt(pi) for
    sqrt(2/pi)) and without its assumption mu = 0.

    Assumptions: per-sample gradients are N(mu, sigma), sigma a standard deviation; they are drawn
    independently, or without replacement from `population` samples of which sigma is the standard
    deviation with divisor N. Then g_n has mean mu and standard deviation
    s = sigma/sqrt(n) * sqrt((N - n)/(N - 1)), and

        E|g_n| = s*sqrt(2/pi)*exp(-mu^2/(2 s^2)) + mu*erf(mu/(s*sqrt(2))).

    It is a theorem for independent draws; for a finite population the mean and the standard
    deviation of g_n are exact, and its normality is the central limit theorem's (Hajek 1960).
    The 1/sqrt(n) law is the case mu = 0; it bends towards \|mu\| near n = (sigma/mu)^2, which is
    McCandlish et al.'s gradient noise scale of one coordinate.
    At n = population nothing is random and the result is \|mu\|.

    Source: the folded normal distribution, Leone, Nelson & Nottingham (1961); the finite
    population factor, Cochran, Sampling Techniques, theorem 2.2.

    Raises ValueError, naming the argument, for n < 1, sigma < 0, population < n or a value that is
    not a real number.

    >>> from sympy import symbols
    >>> n, sigma = symbols("n sigma", positive=True)
    >>> expected_abs_gradient(n, sigma)
    sqrt(2)*sigma/(sqrt(pi)*sqrt(n))
    >>> expected_abs_gradient(4, 1, mu=2, population=4)
    2
    """
    n, sigma, mu = batch_size(n), deviation(sigma), finite("mu", mu)
    population = training_set(population, n)
    s = batch_deviation(n, sigma, population)
    return folded_normal_mean(mu, s, exact_when=all_drawn(n, population))
