"""Equations 25 to 28: the distance of a parameter from a minimum."""

from sympy import Derivative, Integral, Limit, Subs, Symbol, exp, oo, pi, sqrt

from theory._objects import Distributed, Gaussian
from theory.equation import Equation, Reading, Step
from theory.laws import expected_abs_distance
from theory.symbols import a, b, c, d, g, n, sigma, w

_sd = sigma / (2 * a * sqrt(n))
_d_batch = Symbol("d_batch", real=True)
_d_population = Symbol("d_population", real=True)
_mu = Symbol("mu_0", positive=True)
_loss = a * (w - b) ** 2 + c
_gradient_density = sqrt(n) / (sigma * sqrt(2 * pi)) * exp(-n * g**2 / (2 * sigma**2))
_density = exp(-(d**2) / (2 * _sd**2)) / (_sd * sqrt(2 * pi))
_gauss = "per-sample gradients are independent and N(0, sigma), sigma a standard deviation"
_parabola = "the loss of every batch is a parabola with the same coefficient a"

DISTANCE = (
    Equation(
        label="25",
        section="5.1",
        kind="definition",
        title="The distance from the minimum",
        subject="d_i",
        printed=w - b,
        derived=None,
        note=(
            "A definition, of a signed distance. It does not say of which loss b is the minimum, "
            "the batch's or that of all data, and everything that follows depends on it."
        ),
        steps=(
            Step(
                "On a parabola it is the step that Newton's method would take, g/h.",
                Derivative(_loss, w) / Derivative(_loss, w, 2),
                w - b,
            ),
        ),
    ),
    Equation(
        label="26",
        section="5.1",
        kind="result",
        title="The distance as slope over curvature",
        subject="d_i",
        printed=g / (2 * a),
        derived=((w - b).subs(w, b + g / (2 * a))),
        assumptions=("the loss is the parabola of equation 12",),
        note=(
            "Equation 13 solved for w - b. It holds for the g and the b of one and the same loss: "
            "a batch's gradient gives the distance to that batch's minimum."
        ),
        steps=(
            Step(
                "At w = b + d the parabola's slope over 2a is d.",
                Subs(Derivative(_loss, w), w, b + d) / (2 * a),
                d,
            ),
            Step(
                "A batch whose parabola has slope g at the population's minimum b has its own "
                "minimum at b - g/(2a).",
                Subs(Derivative(_loss + g * (w - b), w), w, b - g / (2 * a)),
                0,
            ),
        ),
    ),
    Equation(
        label="27",
        section="5.1",
        kind="result",
        title="The distribution of the distance",
        subject="",
        printed=Distributed(d, Gaussian(0, _sd)),
        derived=Distributed(d, Gaussian(0, _sd)),
        readings=(
            Reading(
                "distance to the batch's minimum",
                "b is the minimum of the loss of the batch that gave g; random, as the batch is",
                ((d, _d_batch),),
                derived=Distributed(_d_batch, Gaussian(0, _sd)),
            ),
            Reading(
                "distance to the population's minimum",
                "b is the minimum of the loss on all data; it does not depend on any batch, and "
                "with mu = 0 it is where w is",
                ((d, _d_population),),
                derived=Distributed(_d_population, Gaussian(0, 0)),
            ),
        ),
        assumptions=(_gauss, _parabola),
        note=(
            "Equations 2 and 26 give this distribution for the distance to the minimum of the "
            "batch's own loss. For the minimum of the loss on all data the same assumptions give "
            "mu/(2a) = 0 at every n: what shrinks with n is the scatter of the batches' minima, "
            "not the distance from the true one."
        ),
        steps=(
            Step(
                "Dividing the batch gradient of equation 2 by 2a gives the variance sigma^2/(4 a^2"
                " n).",
                Integral((g / (2 * a)) ** 2 * _gradient_density, (g, -oo, oo)),
                _sd**2,
            ),
            Step("The density integrates to one.", Integral(_density, (d, -oo, oo)), 1),
            Step(
                "Its variance is sigma^2/(4 a^2 n).",
                Integral(d**2 * _density, (d, -oo, oo)),
                sigma**2 / (4 * a**2 * n),
            ),
            Step(
                "With a mean mu_0 > 0 the distance to the batch's minimum does not go to 0 as n "
                "grows but to mu_0/(2a), the distance to the population's.",
                Limit(expected_abs_distance(a, n, sigma, mu=_mu), n, oo),
                expected_abs_distance(a, n, sigma, mu=_mu, on="population"),
            ),
        ),
    ),
    Equation(
        label="28",
        section="5.1",
        kind="result",
        title="The mean absolute distance",
        subject=r"E\left(\left|d_i\right|\right)",
        printed=sigma / (a * sqrt(pi)) / sqrt(n),
        derived=expected_abs_distance(a, n, sigma),
        assumptions=(_gauss, _parabola, "d is the distance to the batch's own minimum"),
        note=(
            "The mean absolute value of equation 27 has the constant 1/sqrt(2 pi), not 1/sqrt(pi): "
            "the printed value repeats equation 4's. It goes to 0 with n for the distance to the "
            "batch's own minimum; the distance to the minimum of the loss is |mu|/(2a) at every n, "
            "so parameters do not centre on it because the batch is large."
        ),
        steps=(
            Step(
                "Integrate |d| over equation 27, twice the positive half-line.",
                2 * Integral(d * _density, (d, 0, oo)),
                expected_abs_distance(a, n, sigma),
            ),
            Step(
                "The printed value is larger by sqrt(2), the factor by which equation 4 is: one "
                "slip, not two.",
                sigma / (a * sqrt(pi)) / sqrt(n) / (2 * Integral(d * _density, (d, 0, oo))),
                sqrt(2),
            ),
            Step(
                "The printed mean exceeds the standard deviation of equation 27 itself, which no "
                "distribution allows.",
                _sd,
                sigma / (a * sqrt(pi)) / sqrt(n),
                "<",
            ),
        ),
    ),
)
