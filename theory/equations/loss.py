"""Equations 7 and 8: how much one step lowers the loss."""

from sympy import Derivative, Integral, Subs, exp, oo, pi, sqrt

from theory.equation import Equation, Small, Step
from theory.laws import expected_loss_decrease
from theory.symbols import EPSILON, a, b, c, d, g, h, lr, n, sigma, w

_density = sqrt(n) / (sigma * sqrt(2 * pi)) * exp(-n * g**2 / (2 * sigma**2))
_loss = a * (w - b) ** 2 + c
_slope = 2 * a * (w - b)

LOSS = (
    Equation(
        label="7",
        section="2.3",
        kind="absent",
        title="The loss decrease of one step (missing from the text)",
        subject=r"\Delta L_i",
        printed=None,
        derived=lr * g**2,
        assumptions=("the sketch of figure 6: a right triangle of slope g over the step lr*g",),
        note=(
            "The text has no equation 7. Reconstruction, not the paper's words: equation 8 takes "
            "the mean of lr*g^2, so 7 must be Delta L = g*Delta w = lr*g^2, the tangent of the "
            "sketch, which leaves out the curvature."
        ),
        steps=(
            Step(
                "Its mean is the first form of equation 8.",
                Integral(lr * g**2 * _density, (g, -oo, oo)),
                lr * Integral(g**2 * _density, (g, -oo, oo)),
            ),
            Step(
                "On a parabola the decrease has a second term, lr^2*g^2*a.",
                _loss - Subs(_loss, w, w - lr * _slope),
                lr * _slope**2 - lr**2 * _slope**2 * a,
            ),
        ),
    ),
    Equation(
        label="8",
        section="2.3",
        kind="result",
        title="The mean loss decrease of one step",
        subject=r"E\left(\Delta L_i\right)",
        printed=sigma**2 * lr / n,
        derived=expected_loss_decrease(lr, n, sigma, curvature=h),
        small=Small("lr*h, the rate times the curvature", lr * h, ((h, EPSILON * h),)),
        assumptions=(
            "per-sample gradients are independent, of mean 0 and standard deviation sigma",
            "the loss is a parabola of second derivative h in the coordinate",
            "the loss is that of the batch which gave the gradient (the text: 'across the batch')",
        ),
        note=(
            "To first order in lr*h, and for the loss of the very batch that gave the gradient, "
            "E(Delta L) = lr*sigma^2/n holds; the exact factor on a parabola is 1 - lr*h/2. On the "
            "population the same step decreases nothing: with mu = 0 its loss changes by "
            "+lr^2*h*sigma^2/(2n), a rise."
        ),
        steps=(
            Step(
                "The mean of g^2 is the variance, whatever the distribution.",
                Integral(g**2 * _density, (g, -oo, oo)),
                sigma**2 / n,
            ),
            Step(
                "On the batch's own parabola, g*d + h*d^2/2 around w, the step d = -lr*g lowers "
                "the loss by "
                "lr*g^2*(1 - lr*h/2).",
                -Subs(g * d + h / 2 * d**2, d, -lr * g),
                lr * g**2 * (1 - lr * h / 2),
            ),
            Step(
                "Its mean is the derived form.",
                Integral(lr * g**2 * (1 - lr * h / 2) * _density, (g, -oo, oo)),
                expected_loss_decrease(lr, n, sigma, curvature=h),
            ),
            Step(
                "On the population, whose gradient is 0, only the curvature's term is left.",
                -Integral(Subs(h / 2 * d**2, d, -lr * g) * _density, (g, -oo, oo)),
                expected_loss_decrease(lr, n, sigma, curvature=h, on="population"),
            ),
            Step(
                "With h > 0 that is a rise of the loss.",
                expected_loss_decrease(lr, n, sigma, curvature=2 * a, on="population"),
                0,
                "<",
            ),
            Step(
                "Differentiated by lr at 0 the derived form gives the printed rate of decrease.",
                Subs(Derivative(expected_loss_decrease(lr, n, sigma, curvature=h), lr), lr, 0),
                sigma**2 / n,
            ),
        ),
    ),
)
