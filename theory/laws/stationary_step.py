"""The stationary size of a step under SGD with momentum on a parabola."""

from typing import Any

from sympy import Limit, Matrix, Rational, Symbol, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import at_least, batch_size, deviation, rate, training_set, within
from theory.laws._folded_normal import batch_deviation
from theory.laws.abs_step import expected_abs_step
from theory.laws.stationary_distance import stationary_distance_deviation
from theory.symbols import lr, n, sigma


def stationary_squared_step(
    lr: Any,
    n: Any,
    sigma: Any,
    curvature: Any = 0,
    momentum: Any = 0,
    weight_decay: Any = 0,
    population: Any = oo,
) -> Any:
    r"""Return E dw^2 of a step in the long run of SGD on a parabola.

    With H = curvature + weight_decay, m = momentum and s = sigma/sqrt(n) (times the
    finite-population factor):

        2*lr^2*s^2/((1 - m)*(2*(1 + m) - lr*H))

    At H = 0 that is lr^2*s^2/(1 - m^2), the square of what `expected_abs_step` has for gradients
    that do not depend on w. Curvature makes steps *longer*, by 1/(1 - lr*H/(2*(1 + m))), since each
    also corrects what the last ones did by chance; at the limit of stability without bound.

    Assumptions: those of `stationary_distance_deviation`. A theorem for every noise.

    Source: the variance of the difference of a second-order autoregression, Box & Jenkins,
    section 3.2.4.

    Raises ValueError, naming the argument, for lr < 0, n < 1, sigma < 0, curvature < 0, momentum
    outside [0, 1), weight_decay < 0, population < n, or a rate past the limit of stability.

    >>> stationary_squared_step(1, 1, 1, curvature=1)
    2
    """
    lr, n, sigma = rate(lr), batch_size(n), deviation(sigma)
    h = at_least("curvature", curvature, 0, "nothing is stationary on a maximum")
    m = within(
        "momentum", momentum, 0, 1, "from 1 on the velocity has no stationary distribution", "[)"
    )
    whole = h + at_least("weight_decay", weight_decay, 0, "weight decay pulls towards zero")
    room = 2 * (1 + m) - lr * whole
    if room.is_number and not room > 0:
        raise ValueError(
            f"lr*(curvature + weight_decay) is {lr * whole}; it must be below "
            f"2*(1 + momentum) = {2 * (1 + m)}, or the iteration diverges: lower lr"
        )
    s = batch_deviation(n, sigma, training_set(population, n))
    return 2 * (lr * s) ** 2 / ((1 - m) * room)


def stationary_abs_step(
    lr: Any,
    n: Any,
    sigma: Any,
    curvature: Any = 0,
    momentum: Any = 0,
    weight_decay: Any = 0,
    population: Any = oo,
) -> Any:
    r"""Return E\|dw\| of a step in the long run: sqrt(2/pi) times the root mean square.

    Equation 6 in the long run, where the mean gradient is zero on average and each gradient
    depends on the steps before.

    Assumptions: those of `stationary_squared_step`, and normal noise.

    Source and errors: as there.

    >>> stationary_abs_step(1, 4, 1) == expected_abs_step(1, 4, 1)
    True
    """
    square = stationary_squared_step(lr, n, sigma, curvature, momentum, weight_decay, population)
    return sqrt(2 * square / pi)


def _steps() -> tuple[Step, ...]:
    h, lr, m, beta = (Symbol(name, positive=True) for name in ("h_0", "lr_0", "m_0", "beta_0"))
    stable = ((m, (0, 1)), (lr, (0, 1)), (h, (0, 1)), (beta, (0, 1)))
    whole, s = h + beta, sigma / sqrt(n)
    variance = stationary_distance_deviation(lr, n, sigma, h, m, beta) ** 2
    cross = variance * (1 + m - lr * whole) / (1 + m)
    square = stationary_squared_step(lr, n, sigma, h, m, beta)
    a = Matrix([[1 + m - lr * whole, -m]])
    pair = Matrix([[variance, cross], [cross, variance]])
    return (
        Step(
            "Two successive distances from the mean have the stationary variance, and this "
            "covariance, which one step leaves as it is.",
            (a * pair)[0, 0],
            cross,
            domain=stable,
        ),
        Step(
            "The step is their difference.",
            2 * (variance - cross),
            square,
            domain=stable,
        ),
        Step(
            "Without curvature it is the square of the velocity's deviation times the rate.",
            Limit(square.subs(beta, h), h, 0).doit(),
            (lr * s) ** 2 / (1 - m**2),
            domain=stable,
        ),
        Step(
            "So the mean step there is that of independent gradients,",
            stationary_abs_step(lr, n, sigma, momentum=m),
            expected_abs_step(lr, n, sigma, momentum=m),
            domain=stable,
        ),
        Step("and with curvature longer.", stationary_squared_step(lr, n, sigma, 0, m), square, "<",
             domain=stable),
        Step(
            "Without momentum, at Newton's rate, it is twice the variance of the batches' minima: "
            "from one to the next.",
            stationary_squared_step(1 / h, n, sigma, h),
            2 * (s / h) ** 2,
        ),
        Step(
            "At lr*H = 1/2 and no momentum it is 4/3 of the independent one.",
            stationary_squared_step(Rational(1, 2), n, sigma, 1)
            / stationary_squared_step(Rational(1, 2), n, sigma),
            Rational(4, 3),
        ),
    )  # fmt: skip


DERIVATION = Derivation(
    name="stationary_step",
    title="The stationary step, with momentum and curvature",
    laws=("stationary_squared_step", "stationary_abs_step"),
    statements=(
        Statement(
            "theorem",
            "On a parabola with independent noise E dw^2 is exact, for every distribution of it.",
        ),
        Statement("under assumptions", "E|dw| takes the noise of a batch to be normal."),
        Statement(
            "asymptotic", "Gradients may be taken as independent at small rates.", rate="lr*H"
        ),
    ),
    source="Box & Jenkins, section 3.2.4",
    make_formulas=lambda: {
        r"E\,\Delta w^2": stationary_squared_step(
            lr, n, sigma, Symbol("h", positive=True), Symbol("m", nonnegative=True)
        )
    },
    make_steps=_steps,
)
