"""The stationary distance to the minimum under SGD with momentum and weight decay."""

from typing import Any

from sympy import Matrix, Symbol, oo, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import above, at_least, batch_size, deviation, finite, training_set, within
from theory.laws._folded_normal import batch_deviation, folded_normal_mean
from theory.laws.abs_distance import expected_abs_distance
from theory.symbols import n, sigma


def _stationary(
    lr: Any, n: Any, sigma: Any, h: Any, m: Any, beta: Any, b: Any, population: Any
) -> tuple[Any, Any]:
    """Mean and standard deviation of w - b in the long run, arguments checked."""
    lr = above("lr", lr, 0, "without steps nothing becomes stationary")
    n, sigma = batch_size(n), deviation(sigma)
    h = above("curvature", h, 0, "a distance from a minimum needs one")
    m = within("momentum", m, 0, 1, "from 1 on the velocity has no stationary distribution", "[)")
    beta = at_least("weight_decay", beta, 0, "weight decay pulls towards zero")
    b, population = finite("minimum", b), training_set(population, n)
    whole = h + beta
    if (lr * whole).is_number and m.is_number and not lr * whole < 2 * (1 + m):
        raise ValueError(
            f"lr*(curvature + weight_decay) is {lr * whole}; it must be below "
            f"2*(1 + momentum) = {2 * (1 + m)}, or the iteration diverges: lower lr"
        )
    s = batch_deviation(n, sigma, population)
    sd = s * sqrt(lr * (1 + m) / ((1 - m) * whole * (2 * (1 + m) - lr * whole)))
    return -beta * b / whole, sd


def stationary_distance_deviation(
    lr: Any,
    n: Any,
    sigma: Any,
    curvature: Any,
    momentum: Any = 0,
    weight_decay: Any = 0,
    population: Any = oo,
) -> Any:
    r"""Return the standard deviation of w in the long run of SGD on a parabola.

    With H = curvature + weight_decay, m = momentum and s = sigma/sqrt(n) (times the
    finite-population factor): s*sqrt(lr*(1 + m)/((1 - m)*H*(2*(1 + m) - lr*H))). For small lr that
    is s*sqrt(lr/(2*H*(1 - m))), the Ornstein-Uhlenbeck limit, with relative error of order lr*H.

    Assumptions: the loss is curvature/2*(w - b)^2; each step sees its gradient plus independent
    noise of deviation s, which does not depend on w; v <- m*v + g + weight_decay*w, w <- w - lr*v,
    as in PyTorch. Then it is a theorem for every noise; lr*H < 2*(1 + m) is necessary and
    sufficient.

    Source: the variance of a second-order autoregression, Box & Jenkins, section 3.2.4; Mandt,
    Hoffman & Blei (2017) for small lr.

    Raises ValueError, naming the argument, for lr <= 0, n < 1, sigma < 0, curvature <= 0, momentum
    outside [0, 1), weight_decay < 0, population < n, or a rate past the limit of stability.

    >>> stationary_distance_deviation(1, 4, 1, 1)
    1/2
    """
    return _stationary(lr, n, sigma, curvature, momentum, weight_decay, 0, population)[1]


def stationary_abs_distance(
    lr: Any,
    n: Any,
    sigma: Any,
    curvature: Any,
    momentum: Any = 0,
    weight_decay: Any = 0,
    minimum: Any = 0,
    population: Any = oo,
) -> Any:
    r"""Return E\|w - b\|, the long-run distance from the population's minimum b under SGD.

    The folded normal mean with deviation `stationary_distance_deviation` and mean
    -weight_decay*b/(curvature + weight_decay): weight decay leaves a distance that no batch
    removes. What equation 28 should have been.

    Equation 28, corrected, is s*sqrt(2/pi)/curvature. It comes out, with weight_decay = 0, exactly
    where lr*curvature = 1 - momentum^2; without momentum, where each step is Newton's and takes w
    to the batch's own minimum. A smaller rate leaves w nearer: in proportion to sqrt(lr/n), so
    that it is lr/n, not n alone, that sets the distance.

    Assumptions: those of `stationary_distance_deviation`, and normal noise; `minimum` is b.

    Source and errors: as there.

    >>> from sympy import symbols
    >>> n, sigma, h = symbols("n sigma h", positive=True)
    >>> from theory import expected_abs_distance
    >>> stationary_abs_distance(1 / h, n, sigma, h) == expected_abs_distance(h / 2, n, sigma)
    True
    """
    mean, sd = _stationary(lr, n, sigma, curvature, momentum, weight_decay, minimum, population)
    return folded_normal_mean(mean, sd)


def _steps() -> tuple[Step, ...]:
    h, lr = Symbol("h_0", positive=True), Symbol("lr_0", positive=True)
    m, beta = Symbol("m_0", positive=True), Symbol("beta_0", positive=True)
    b = Symbol("b", real=True)
    stable = ((m, (0, 1)), (lr, (0, 1)), (h, (0, 1)), (beta, (0, 1)))
    whole, s = h + beta, sigma / sqrt(n)
    sd = stationary_distance_deviation(lr, n, sigma, h, m, beta)
    # State (w - mean, previous): x' = A x + noise; the covariance of the pair solves V = AVA' + Q.
    a = Matrix([[1 + m - lr * whole, -m], [1, 0]])
    cross = sd**2 * (1 + m - lr * whole) / (1 + m)
    v = Matrix([[sd**2, cross], [cross, sd**2]])
    gap = a * v * a.T + Matrix([[(lr * s) ** 2, 0], [0, 0]]) - v
    newton = (1 - m**2) / h
    return (
        Step(
            "The covariance of two successive w solves the stationary (Lyapunov) equation: first "
            "entry,",
            gap[0, 0] / sigma**2,
            0,
            domain=stable,
        ),
        Step("and the mixed one.", gap[0, 1] / sigma**2, 0, domain=stable),
        Step(
            "At the mean the gradient and the decay cancel.",
            h * (_stationary(lr, n, sigma, h, m, beta, b, oo)[0])
            + beta * (b + _stationary(lr, n, sigma, h, m, beta, b, oo)[0]),
            0,
            domain=stable,
        ),
        Step(
            "Both roots of z^2 - (1 + m - lr*H)*z + m lie inside the unit circle where the "
            "polynomial is positive at -1,",
            2 * (1 + m) - lr * whole,
            (1 + (1 + m - lr * whole) + m),
            domain=stable,
        ),
        Step("and at 1.", 0, 1 - (1 + m - lr * whole) + m, "<", domain=stable),
        Step(
            "At lr*h = 1 - m^2 the deviation is s/h, equation 27's.",
            stationary_distance_deviation(newton, n, sigma, h, m),
            s / h,
            domain=((m, (0, 1)),),
        ),
        Step(
            "Without momentum that is Newton's step, and equation 28, corrected.",
            stationary_abs_distance(1 / h, n, sigma, h),
            expected_abs_distance(h / 2, n, sigma),
        ),
        Step(
            "For a smaller rate the distance is smaller.",
            stationary_abs_distance(1 / (2 * h), n, sigma, h),
            expected_abs_distance(h / 2, n, sigma),
            "<",
        ),
    )


DERIVATION = Derivation(
    name="stationary_distance",
    title="The stationary distance from the minimum",
    laws=("stationary_abs_distance", "stationary_distance_deviation"),
    statements=(
        Statement(
            "theorem",
            "On a parabola with independent noise the deviation is exact, and the iteration stable "
            "if and only if lr*H < 2*(1 + m).",
        ),
        Statement(
            "under assumptions",
            "E|w - b| takes the noise of a batch to be normal and the same at every w.",
        ),
        Statement("asymptotic", "The Ornstein-Uhlenbeck form holds for small rates.", rate="lr*H"),
    ),
    source="Box & Jenkins, section 3.2.4; Mandt, Hoffman & Blei (2017)",
    make_formulas=lambda: {
        r"\mathrm{sd}(w)": stationary_distance_deviation(
            Symbol("eta", positive=True),
            n,
            sigma,
            Symbol("h", positive=True),
            Symbol("m", nonnegative=True),
            Symbol("beta", nonnegative=True),
        )
    },
    make_steps=_steps,
)
