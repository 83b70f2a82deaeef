"""E[L(w) - L(w - lr g_n)]: the expected decrease of the loss by one step (equation 8)."""

from typing import Any

from sympy import Derivative, Integral, Symbol, exp, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import batch_size, choice, deviation, finite, rate, spread, training_set
from theory.laws._folded_normal import batch_deviation
from theory.symbols import g, h, lr, mu, n, sigma


def expected_loss_decrease(
    lr: Any,
    n: Any,
    sigma: Any,
    mu: Any = 0,
    curvature: Any = 0,
    on: str = "batch",
    population: Any = oo,
    tau: Any = 0,
) -> Any:
    r"""Return the expected decrease of the loss by one SGD step in one coordinate.

    Equation 8 of the paper, with means, with the curvature it leaves out, and with the question
    it does not ask: the decrease of *which* loss. Positive where the loss falls.

    Assumptions: g_n has mean mu and standard deviation s, that of `expected_abs_gradient`; the
    loss is a parabola of second derivative h = `curvature` in the coordinate, h not varying from
    batch to batch. No normality is needed. With E[g_n^2] = mu^2 + s^2,

        on="batch"       lr*E[g_n^2] - lr^2*h/2*E[g_n^2]   the loss of the batch that gave g_n
        on="population"  lr*mu^2     - lr^2*h/2*E[g_n^2]   the loss on all data, of gradient mu

    For a smooth loss that is no parabola both are the expansion in lr to second order; the error
    is of order lr^3. Equation 8 is on="batch" with mu = 0 and h = 0. On the population the same
    step, with mu = 0, decreases nothing: for h > 0 the loss *rises* by lr^2*h*s^2/2.
    With means spread over a layer, mu_i ~ N(mu, tau), mu^2 becomes mu^2 + tau^2, and the result is
    the average over the layer's coordinates.

    Source: the second-order expansion of McCandlish et al. (2018), section 2.2, in one coordinate.

    Raises ValueError, naming the argument, for lr < 0, n < 1, sigma < 0, population < n, an
    unknown `on` or a value that is not a real number.

    >>> from sympy import symbols
    >>> lr, n, sigma, h = symbols("lr n sigma h", positive=True)
    >>> expected_loss_decrease(lr, n, sigma)
    lr*sigma**2/n
    >>> expected_loss_decrease(lr, n, sigma, curvature=h, on="population")
    -h*lr**2*sigma**2/(2*n)
    """
    lr, n, sigma, mu = rate(lr), batch_size(n), deviation(sigma), finite("mu", mu)
    h, population = finite("curvature", curvature), training_set(population, n)
    on = choice("on", on, ("batch", "population"))
    mean_square = mu**2 + spread("tau", tau) ** 2
    square = mean_square + batch_deviation(n, sigma, population) ** 2
    if on == "batch":
        # As a product: near lr*h = 2 the difference of the two terms would lose digits.
        return lr * square * (1 - lr * h / 2)
    return lr * mean_square - lr**2 * h / 2 * square


def _steps() -> tuple[Step, ...]:
    s = sigma / sqrt(n)
    density = exp(-((g - mu) ** 2) / (2 * s**2)) / (s * sqrt(2 * pi))

    def over(value: Any) -> Any:
        return Integral(value * density, (g, -oo, oo))

    def law(on: str, mean: Any = mu, curvature: Any = h) -> Any:
        return expected_loss_decrease(lr, n, sigma, mean, curvature, on)

    tau = Symbol("tau_0", positive=True)
    return (
        Step(
            "Along its own step -lr*g the loss of the batch, of slope g and curvature h, falls by "
            "this much on average.",
            over(lr * g**2 - h / 2 * (lr * g) ** 2),
            law("batch"),
        ),
        Step(
            "The loss on all data has the slope mu, not g.",
            over(mu * lr * g - h / 2 * (lr * g) ** 2),
            law("population"),
        ),
        Step(
            "The batch sees more than the population, by lr*s^2: what it has fitted of its noise.",
            law("batch") - law("population"),
            lr * s**2,
        ),
        Step("Equation 8 is the first of them at mu = 0 and h = 0.", law("batch", 0, 0),
             lr * sigma**2 / n),
        Step("There the population's loss does not fall at all.", law("population", 0, 0), 0),
        Step(
            "The population's loss falls most at the rate mu^2/(h*(mu^2 + s^2)).",
            Derivative(law("population"), lr).doit().subs(lr, mu**2 / (h * (mu**2 + s**2))),
            0,
        ),
        Step(
            "Means spread over a layer add tau^2 to mu^2.",
            expected_loss_decrease(lr, n, sigma, 0, h, "population", tau=tau),
            lr * tau**2 - lr**2 * h / 2 * (tau**2 + s**2),
        ),
    )  # fmt: skip


DERIVATION = Derivation(
    name="loss_decrease",
    title="The expected decrease of the loss, and of which loss",
    laws=("expected_loss_decrease",),
    statements=(
        Statement(
            "under assumptions",
            "The loss is a parabola in the coordinate, of one curvature for all batches: then it "
            "is exact, for every distribution of the gradients.",
        ),
        Statement("asymptotic", "For every smooth loss, as the rate goes to zero.", rate="lr^2"),
    ),
    source="McCandlish et al. (2018), section 2.2",
    make_formulas=lambda: {
        r"E\,\Delta L\;(\text{batch})": expected_loss_decrease(lr, n, sigma, mu, h),
        r"E\,\Delta L\;(\text{population})": expected_loss_decrease(
            lr, n, sigma, mu, h, "population"
        ),
    },
    make_steps=_steps,
)
