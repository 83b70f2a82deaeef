"""Equations 5 and 6: the step of a parameter."""

from sympy import Abs, Derivative, Integral, Subs, exp, oo, pi, sqrt

from theory.equation import Equation, Step
from theory.laws import expected_abs_step
from theory.symbols import a, b, c, g, lr, n, sigma, w

_loss = a * (w - b) ** 2 + c
_slope = 2 * a * (w - b)
_density = sqrt(n) / (sigma * sqrt(2 * pi)) * exp(-n * g**2 / (2 * sigma**2))

PARAMETER = (
    Equation(
        label="5",
        section="2.2",
        kind="result",
        title="The step of gradient descent",
        subject=r"\Delta w_i",
        printed=lr * g,
        derived=-lr * g,
        assumptions=(
            "Delta w is the new value less the old",
            "the rule is gradient descent: the step lowers the loss to first order",
        ),
        note=(
            "Gradient descent subtracts: the change of the parameter is -lr*g, and the printed "
            "sign would climb. Read as a length without direction, |lr*g|, it is right, and "
            "equation 6 needs no more."
        ),
        steps=(
            Step("On a parabola the gradient is 2a(w - b).", Derivative(_loss, w), 2 * a * (w - b)),
            Step(
                "The printed step changes the loss by this much.",
                Subs(_loss, w, w + lr * _slope) - _loss,
                lr * _slope**2 * (1 + a * lr),
            ),
            Step("That is a rise.", 0, lr * _slope**2 * (1 + a * lr), "<"),
            Step(
                "The derived step changes it by this much, a fall for every lr below 1/a.",
                Subs(_loss, w, w - lr * _slope) - _loss,
                -lr * _slope**2 * (1 - a * lr),
            ),
            Step(
                "A fall, at rates up to a tenth of that.",
                (-lr * _slope**2 * (1 - a * lr)).subs(lr, lr / (10 * a)),
                0,
                "<",
                domain=((lr, (0, 1)),),
            ),
        ),
    ),
    Equation(
        label="6",
        section="2.2",
        kind="result",
        title="The mean absolute step",
        subject=r"E\left(\left|\Delta w_i\right|\right)",
        printed=2 * sigma / sqrt(pi) * lr / sqrt(n),
        derived=expected_abs_step(lr, n, sigma),
        assumptions=(
            "per-sample gradients are independent and N(0, sigma), sigma a standard deviation",
            "plain gradient descent without momentum",
        ),
        note=(
            "It is lr times equation 4 and inherits its constant: sqrt(2/pi), not 2/sqrt(pi). With "
            "momentum m and mu = 0 the step is longer by 1/sqrt(1 - m^2)."
        ),
        steps=(
            Step(
                "The rate is a positive constant and leaves the integral.",
                Integral(Abs(lr * g) * _density, (g, -oo, oo)),
                lr * Integral(Abs(g) * _density, (g, -oo, oo)),
            ),
            Step(
                "The integral is equation 4's.",
                lr * Integral(Abs(g) * _density, (g, -oo, oo)),
                expected_abs_step(lr, n, sigma),
            ),
            Step(
                "Replacing lr by lr*sqrt(n) removes the dependence on n, the square-root rule.",
                Subs(expected_abs_step(lr, n, sigma), lr, lr * sqrt(n)),
                Subs(expected_abs_step(lr, n, sigma), n, 1),
            ),
        ),
    ),
)
