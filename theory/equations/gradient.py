"""Equations 1 to 4: the batch gradient of one parameter and its mean absolute value."""

from sympy import Abs, Derivative, Eq, Integer, Integral, Sum, Tuple, erf, exp, oo, pi, sqrt

from theory._objects import Distributed, Gaussian
from theory.equation import Equation, Repair, Step
from theory.laws import expected_abs_gradient
from theory.laws._folded_normal import batch_deviation
from theory.symbols import G, g, i, k, mu, n, sigma

_as_printed = Sum(G(k), (k, 0, n)) / n
_as_meant = Sum(G(k), (k, 1, n)) / n
_batch_mean = Distributed(g, Gaussian(0, sigma / sqrt(n)))

_printed_density = sqrt(n) / (sigma * sqrt(2 * pi)) * exp(-((g / (sigma * sqrt(n))) ** 2) / 2)
_density = sqrt(n) / (sigma * sqrt(2 * pi)) * exp(-((g / (sigma / sqrt(n))) ** 2) / 2)
_printed_mean = 2 * sigma / sqrt(pi) / sqrt(n)
_gauss = "per-sample gradients are independent and N(0, sigma), sigma a standard deviation"

GRADIENT = (
    Equation(
        label="1",
        section="2.1",
        kind="assumption",
        title="Per-sample gradients are Gaussian",
        subject="",
        printed=Distributed(G(k), Gaussian(mu, sigma)),
        derived=None,
        note=(
            "An assumption, with mu = 0 added in the next sentence: per-sample gradients of a "
            "layer are normal with mean mu and standard deviation sigma. That sigma is a standard "
            "deviation, not a variance, is fixed by the sigma/sqrt(n) of equation 2."
        ),
        steps=(
            Step(
                "N(mu, sigma) with sigma a standard deviation has second central moment sigma^2.",
                Integral(
                    (g - mu) ** 2 * exp(-((g - mu) ** 2) / (2 * sigma**2)) / (sigma * sqrt(2 * pi)),
                    (g, -oo, oo),
                ),
                sigma**2,
            ),
        ),
    ),
    Equation(
        label="2",
        section="2.1",
        kind="result",
        title="The batch gradient is the mean over the batch",
        subject="",
        printed=Tuple(Eq(g, _as_printed), _batch_mean),
        derived=Tuple(Eq(g, _as_meant), _batch_mean),
        repair=Repair(
            "The sum runs from k = 1, so that it has n terms.",
            Sum(G(k), (k, 0, n)),
            Sum(G(k), (k, 1, n)),
        ),
        assumptions=(_gauss,),
        note=(
            "The sum is printed from k = 0 to n, which is n + 1 terms divided by n; from k = 1 it "
            "is the mean of n samples and its distribution N(0, sigma/sqrt(n)) is right. As "
            "printed, the standard deviation would be sigma*sqrt(n + 1)/n."
        ),
        steps=(
            Step("The printed sum has n + 1 terms.", Sum(1, (k, 0, n)), n + 1),
            Step("The mean of a batch needs n.", Sum(1, (k, 1, n)), n),
            Step(
                "Variances of independent terms add; n terms over n give sigma^2/n.",
                Sum(sigma**2, (k, 1, n)) / n**2,
                (sigma / sqrt(n)) ** 2,
            ),
            Step(
                "As printed, the variance would be larger than sigma^2/n.",
                sigma**2 / n,
                Sum(sigma**2, (k, 0, n)) / n**2,
                "<",
            ),
        ),
    ),
    Equation(
        label="3",
        section="2.1",
        kind="result",
        title="The density of the batch gradient",
        subject=r"f\left(g_i\right)",
        printed=_printed_density,
        derived=_density,
        repair=Repair(
            "In the exponent sigma*sqrt(n) becomes sigma/sqrt(n), the standard deviation.",
            exp(-(g**2) / (2 * n * sigma**2)),
            exp(-n * g**2 / (2 * sigma**2)),
        ),
        assumptions=(_gauss,),
        note=(
            "The exponent divides g by sigma*sqrt(n) where the standard deviation is "
            "sigma/sqrt(n), so the printed density integrates to n instead of one. With the "
            "division restored it is the density of equation 2."
        ),
        steps=(
            Step(
                "The printed function integrates to n.", Integral(_printed_density, (g, -oo, oo)), n
            ),
            Step("The density of N(0, sigma/sqrt(n)) to one.", Integral(_density, (g, -oo, oo)), 1),
            Step(
                "Its second moment is that of equation 2.",
                Integral(g**2 * _density, (g, -oo, oo)),
                sigma**2 / n,
            ),
            Step(
                "With the printed exponent even the normalised spread would grow with n.",
                Integral(g**2 * _printed_density / n, (g, -oo, oo)),
                n * sigma**2,
            ),
        ),
    ),
    Equation(
        label="4",
        section="2.1",
        kind="result",
        title="The mean absolute batch gradient",
        subject=r"E\left(\left|g_i\right|\right)",
        printed=_printed_mean,
        derived=expected_abs_gradient(n, sigma),
        assumptions=(_gauss,),
        note=(
            "The mean absolute value of N(0, s) is sqrt(2/pi)*s, so the constant is sqrt(2/pi) = "
            "0.798, not 2/sqrt(pi) = 1.128; the 1/sqrt(n) is right. The printed value exceeds the "
            "root mean square sigma/sqrt(n), which no distribution allows, so equations 4 and 8 "
            "cannot both be true."
        ),
        steps=(
            Step(
                "By symmetry the integral is twice that over the positive half-line.",
                Integral(Abs(g) * _density, (g, -oo, oo)),
                2 * Integral(g * _density, (g, 0, oo)),
            ),
            Step(
                "It comes to sqrt(2/pi) times the standard deviation.",
                2 * Integral(g * _density, (g, 0, oo)),
                expected_abs_gradient(n, sigma),
            ),
            Step(
                "The printed density of equation 3 does not give the printed constant either.",
                Integral(Abs(g) * _printed_density, (g, -oo, oo)),
                _printed_mean,
                "!=",
            ),
            Step(
                "For every distribution E|g| is at most the root mean square; so here.",
                expected_abs_gradient(n, sigma) ** 2,
                Integral(g**2 * _density, (g, -oo, oo)),
                "<=",
            ),
            Step(
                "The printed value is above it: its square is 4/pi times the E(g^2) of equation 8.",
                _printed_mean**2 / Integral(g**2 * _density, (g, -oo, oo)),
                4 / pi,
            ),
            Step("And 4/pi is more than one.", 1, 4 / pi, "<"),
            Step(
                "The printed constant is that of E|X - Y| for two such gradients X and Y, whose "
                "difference has "
                "standard deviation sqrt(2)*sigma/sqrt(n).",
                2 * Integral(g * _density.subs(sigma, sqrt(2) * sigma), (g, 0, oo)),
                _printed_mean,
            ),
            Step(
                "With a mean the law is the folded normal's; even the printed value, too large "
                "at mu = 0, is too small for a mean of two standard deviations.",
                _printed_mean,
                expected_abs_gradient(n, sigma, mu=2 * sigma / sqrt(n)),
                "<",
            ),
            Step(
                "That law is fixed by its value at mu = 0, above, and by its slope in mu, which is "
                "P(g > 0) - P(g < 0).",
                Derivative(expected_abs_gradient(n, sigma, mu), mu),
                erf(mu * sqrt(n) / (sqrt(2) * sigma)),
            ),
            Step(
                "Drawn without replacement from N = 4 samples -3, -1, 1, 3 (sigma = sqrt(5)), the "
                "variance of the "
                "mean over the 6 batches of n = 2 is the finite-population law's.",
                Sum(((2 * i - 5) + (2 * k - 5)) ** 2 / 4, (i, 1, k - 1), (k, 1, 4)) / 6,
                batch_deviation(Integer(2), sqrt(5), Integer(4)) ** 2,
            ),
        ),
    ),
)
