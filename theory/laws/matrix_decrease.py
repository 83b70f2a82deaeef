"""The decrease of the loss by a step of all parameters: the whole Hessian, not its diagonal."""

from typing import Any

from sympy import Matrix, MatrixBase, Rational, S, Symbol, SympifyError, oo, sympify

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import batch_size, choice, finite, rate, training_set
from theory.laws._folded_normal import batch_deviation
from theory.laws.loss_decrease import expected_loss_decrease
from theory.symbols import lr, n


def _matrix(name: str, value: Any) -> Any:
    """A symmetric sympy matrix of finite real entries."""
    try:
        matrix = value if isinstance(value, MatrixBase) else Matrix(sympify(value))
    except (SympifyError, TypeError, ValueError, AttributeError):
        matrix = None
    if matrix is None or isinstance(value, str | bytes) or not matrix.rows == matrix.cols > 0:
        raise ValueError(f"{name} is {value!r}; it must be a square matrix")
    matrix = matrix.applyfunc(lambda entry: finite(name, entry))
    if any((matrix[i, j] - matrix[j, i]).is_zero is False
           for i in range(matrix.rows) for j in range(i)):  # fmt: skip
        raise ValueError(f"{name} is {value!r}; it must be symmetric")
    return matrix


def _vector(name: str, value: Any, size: int) -> Any:
    if value is None:
        return Matrix([0] * size)
    try:
        vector = Matrix(sympify(value)) if not isinstance(value, MatrixBase) else value
    except (SympifyError, TypeError, ValueError, AttributeError):
        vector = None
    if vector is None or isinstance(value, str | bytes) or vector.shape != (size, 1):
        raise ValueError(f"{name} is {value!r}; it must be a vector of {size} entries")
    return vector.applyfunc(lambda entry: finite(name, entry))


def _sized(covariance: Any, hessian: Any) -> tuple[Any, Any]:
    covariance, hessian = _matrix("covariance", covariance), _matrix("hessian", hessian)
    if covariance.shape != hessian.shape:
        raise ValueError(
            f"hessian has shape {hessian.shape} and covariance {covariance.shape}; they must be "
            "of one size, a row for each parameter"
        )
    return covariance, hessian


def matrix_loss_decrease(
    lr: Any,
    n: Any,
    covariance: Any,
    hessian: Any,
    gradient: Any = None,
    on: str = "batch",
    population: Any = oo,
) -> Any:
    r"""Return the expected decrease of the loss by one SGD step of all parameters.

    With G = `gradient` (zero where left out), Sigma = `covariance` of one sample's gradient
    (divisor N), H = `hessian`, and S = Sigma/n (times the finite-population factor):

        on="batch"       lr*(G'G + tr S) - lr^2/2*(G'HG + tr(H S))   the batch that gave g_n
        on="population"  lr*G'G          - lr^2/2*(G'HG + tr(H S))   all data

    `expected_loss_decrease` in one coordinate, summed over coordinates, has diag H for H:
    tr(H Sigma) counts every pair of parameters whose gradients vary together, and where Sigma is
    near H it is near the sum of *all* squared entries of H, of which the diagonal's are few
    (`off_diagonal_noise`).

    Assumptions: the loss is quadratic, of one Hessian for all batches; no normality. For a smooth
    loss it is the expansion in lr to second order; the error is of order lr^3.

    Source: McCandlish et al. (2018), section 2.2, equation 2.5.

    Raises ValueError, naming the argument, for lr < 0, n < 1, population < n, an unknown `on`,
    matrices that are not square, symmetric and of one size, or a value that is not a real number.

    >>> matrix_loss_decrease(1, 2, [[2, 1], [1, 2]], [[1, 1], [1, 1]], on="population")
    -3/2
    """
    lr, n, on = rate(lr), batch_size(n), choice("on", on, ("batch", "population"))
    covariance, hessian = _sized(covariance, hessian)
    gradient = _vector("gradient", gradient, hessian.rows)
    share = batch_deviation(n, S.One, training_set(population, n)) ** 2
    square = (gradient.T * gradient)[0, 0]
    along = (gradient.T * hessian * gradient)[0, 0]
    noise = share * covariance.trace()
    bent = along + share * (hessian * covariance).trace()
    return lr * (square + (noise if on == "batch" else 0)) - lr**2 / 2 * bent


def off_diagonal_noise(covariance: Any, hessian: Any) -> Any:
    r"""Return the share of tr(H Sigma) that a sum over coordinates leaves out.

    1 - sum_i H_ii*Sigma_ii/tr(H Sigma). With Sigma = H it is 1 - sum_i H_ii^2/\|H\|_F^2, which is
    above 1 - P*max_i(H_ii)^2/\|H\|_F^2 and goes to one where a few directions hold the curvature.
    Not a number (zoo or nan) where tr(H Sigma) is zero.

    Assumptions: none; the shares of a trace.

    Source and errors: as `matrix_loss_decrease`.

    >>> off_diagonal_noise([[1, 1], [1, 1]], [[1, 1], [1, 1]])
    1/2
    """
    covariance, hessian = _sized(covariance, hessian)
    diagonal = sum(hessian[i, i] * covariance[i, i] for i in range(hessian.rows))
    return 1 - diagonal / (hessian * covariance).trace()


def _steps() -> tuple[Step, ...]:
    h, k, b, c = (Symbol(name, real=True) for name in ("h_1", "h_2", "h_12", "s_12"))
    s, t = (Symbol(name, positive=True) for name in ("s_1", "s_2"))
    x, y = Symbol("g_1", real=True), Symbol("g_2", real=True)
    hessian, covariance = Matrix([[h, b], [b, k]]), Matrix([[s**2, c], [c, t**2]])
    mean = Matrix([x, y])
    law = matrix_loss_decrease(lr, n, covariance, hessian, mean, "population")
    # Two batches, G + v and G - v, have the covariance v v'.
    v = Matrix([s, t])
    pair = [mean + v, mean - v]
    exact = sum(
        lr * (mean.T * g)[0, 0] - lr**2 / 2 * (g.T * hessian * g)[0, 0] for g in pair
    ) / 2  # fmt: skip
    return (
        Step(
            "Over two batches of gradients G + v and G - v, whose covariance is v*v', the loss on "
            "all data falls by this much on average.",
            exact,
            matrix_loss_decrease(lr, 1, v * v.T, hessian, mean, "population"),
        ),
        Step(
            "The loss of the batch itself falls by its own squared gradient instead.",
            sum(lr * (g.T * g)[0, 0] - lr**2 / 2 * (g.T * hessian * g)[0, 0] for g in pair) / 2,
            matrix_loss_decrease(lr, 1, v * v.T, hessian, mean, "batch"),
        ),
        Step(
            "Coordinate by coordinate only the diagonal is counted: what is missing is "
            "lr^2*(G_1*G_2 + Sigma_12/n)*H_12.",
            law
            - expected_loss_decrease(lr, n, s, x, h, "population")
            - expected_loss_decrease(lr, n, t, y, k, "population"),
            -(lr**2) * (x * y + c / n) * b,
        ),
        Step(
            "With Sigma = H the noise's part is the sum of all squared entries of H.",
            matrix_loss_decrease(lr, n, hessian, hessian, None, "population"),
            -(lr**2) / (2 * n) * (h**2 + k**2 + 2 * b**2),
        ),
        Step(
            "Where H has one direction, (1, ..., 1), the diagonal holds 1/P of it.",
            off_diagonal_noise([[1] * 3] * 3, [[1] * 3] * 3),
            Rational(2, 3),
        ),
    )


def _formulas() -> dict[str, Any]:
    covariance, hessian = (
        Matrix([[Symbol(f"{name}_{{{k}}}") for k in row] for row in ((11, 12), (12, 22))])
        for name in (r"\Sigma", "H")
    )
    return {
        r"E\,\Delta L\;(P = 2)": matrix_loss_decrease(lr, n, covariance, hessian, on="population"),
        r"1 - \sum_i H_{ii}\Sigma_{ii}/\mathrm{tr}(H\Sigma)": off_diagonal_noise(
            covariance, hessian
        ),
    }


DERIVATION = Derivation(
    name="matrix_decrease",
    title="The decrease of the loss with the whole Hessian",
    laws=("matrix_loss_decrease", "off_diagonal_noise"),
    statements=(
        Statement(
            "under assumptions",
            "The loss is quadratic, of one Hessian for all batches: then it is exact, for every "
            "distribution of the gradients.",
        ),
        Statement("asymptotic", "For every smooth loss, as the rate goes to zero.", rate="lr^2"),
        Statement(
            "theorem",
            "A sum over coordinates leaves out the pairs: with Sigma = H all squares of H off its "
            "diagonal.",
        ),
    ),
    source="McCandlish et al. (2018), section 2.2",
    make_formulas=_formulas,
    make_steps=_steps,
)
