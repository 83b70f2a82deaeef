"""The curvature-based rule on a quadratic: its step, its basin, its order, its largest gamma."""

from typing import Any

import numpy as np
from sympy import Abs, Limit, Matrix, MatrixBase, Max, Rational, S, Symbol, re, sign, sqrt, sympify

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import above, finite, within
from theory.laws._floats import at_floats
from theory.symbols import gamma, h, n, x


def cblr_step(x: Any, h: Any, gamma: Any = 1) -> Any:
    r"""Return where one step of CBLR takes x on the parabola h*x^2/2: x - gamma*R*g.

    With g = h*x and R = (1 + g^2)^(3/2)/\|h\| (equations 9 to 11, the sign mended):
    x*(1 - gamma*sign(h)*(1 + h^2*x^2)^(3/2)). Near the critical point it is gamma times the step
    g/\|h\|: diagonal Newton's, with the curvature's size, which makes it saddle-free Newton's on a
    diagonal Hessian: towards a minimum, away from a maximum. The excess over that is of relative
    size (3/2)*g^2. A theorem (an identity).

    Source: equations 9 to 11 of the paper; Dauphin et al. (2014) for saddle-free Newton.

    Raises ValueError, naming the argument, for h = 0, where R is infinite, gamma <= 0 or a value
    that is not a real number.

    >>> from sympy import Rational
    >>> cblr_step(0, 2), cblr_step(Rational(3, 4), 1)
    (0, -183/256)
    """
    x, h = finite("x", x), finite("h", h)
    gamma = above("gamma", gamma, 0, "it is a rate")
    if h.is_zero:
        raise ValueError("h is 0; the radius is infinite on a line, cap it before the step")
    return at_floats(
        lambda x, h, gamma: x * (1 - gamma * sign(h) * (1 + (h * x) ** 2) ** Rational(3, 2)),
        x, h, gamma,
    )  # fmt: skip


def cblr_basin(gamma: Any, h: Any) -> Any:
    r"""Return the half-width of CBLR's basin of attraction on the parabola h*x^2/2, h > 0.

    sqrt((2/gamma)^(2/3) - 1)/h: from every nearer x the iteration converges to 0, at that distance
    it alternates for ever, from further away it diverges. In terms of the gradient,
    \|g\| < sqrt((2/gamma)^(2/3) - 1), 0.766 at gamma = 1; so the paper's "(dL/dw)^2 far less
    than 1" is a condition of convergence, not only of approximation, and it depends on the unit of
    the loss. A theorem: \|x\| decreases or increases at each step as gamma*(1 + g^2)^(3/2) is
    below or above 2.

    Source: derived here from equations 9 to 11 of the paper.

    Raises ValueError, naming the argument, for gamma outside (0, 2) (from 2 on there is no basin)
    or h <= 0.

    >>> from sympy import Rational
    >>> cblr_basin(Rational(1, 4), 1)
    sqrt(3)
    """
    gamma = within("gamma", gamma, 0, 2, "from 2 on nothing converges", "()")
    h = above("h", h, 0, "a maximum or a line has no basin")
    return at_floats(lambda gamma, h: sqrt((2 / gamma) ** Rational(2, 3) - 1) / h, gamma, h)


def cblr_convergence(gamma: Any) -> Any:
    r"""Return (order, constant) of CBLR's convergence on the parabola of curvature one.

    (1, \|1 - gamma\|): linear with that factor; at gamma = 1 (3, 3/2): the error's next value is
    3/2 of its cube (for curvature h: (3/2)*h^2). A theorem on a parabola; on a smooth loss that is
    none the order at gamma = 1 is 2, as Newton's.

    Source: derived here; the order of Newton's method for the last sentence.

    Raises ValueError for gamma outside (0, 2).

    >>> from sympy import Rational
    >>> cblr_convergence(Rational(1, 2)), cblr_convergence(1)
    ((1, 1/2), (3, 3/2))
    """
    gamma = within("gamma", gamma, 0, 2, "from 2 on nothing converges", "()")
    return (S(3), Rational(3, 2)) if (gamma - 1).is_zero else (S.One, Abs(1 - gamma))


def cblr_largest_gamma(hessian: Any) -> Any:
    r"""Return 2/lambda_max(D^(-1/2) H D^(-1/2)), D = \|diag H\|: CBLR's limit near a minimum.

    There the step is x - gamma*D^-1*H*x, stable if and only if gamma is below this. For a positive
    definite H of P parameters it lies between 2/P and 2, the latter for diagonal H alone (the
    matrix has unit diagonal, so its largest eigenvalue is from 1 to P): with coupled parameters
    gamma = 1 may diverge. A matrix of rational numbers gives an exact root, one of symbols what
    sympy can solve, an array a number in double precision.

    Assumptions: H symmetric and positive definite; gradients small. A theorem for the linearised
    iteration.

    Source: the spectral radius of the Jacobi iteration, Saad (2003), section 4.2.

    Raises ValueError for a matrix that is not square and symmetric, or not positive definite: where
    an eigenvalue is negative the iteration leaves along it at every gamma.

    >>> from sympy import Rational
    >>> cblr_largest_gamma([[1, Rational(1, 2)], [Rational(1, 2), 1]])
    4/3
    """
    if isinstance(hessian, np.ndarray) and hessian.dtype.kind not in "fiuO":
        raise ValueError(
            f"hessian is an array of {hessian.dtype}; its entries must be real numbers: convert it"
        )
    if isinstance(hessian, np.ndarray) and hessian.dtype != object:
        return _largest_gamma_of_array(hessian)
    try:
        matrix = Matrix(hessian if isinstance(hessian, MatrixBase) else [list(r) for r in hessian])
    except (TypeError, ValueError):
        raise ValueError(f"hessian is {hessian!r}; it must be a matrix, or its rows") from None
    if not matrix.rows or any(e is S.NaN or e.is_extended_real is False for e in matrix):
        raise ValueError(f"hessian is {hessian!r}; its entries must be real numbers or symbols")
    if matrix.rows != matrix.cols or matrix != matrix.T:
        raise ValueError(f"hessian is {matrix.shape}; it must be square and symmetric")
    diagonal = [sympify(entry) for entry in matrix.diagonal()]
    if any(entry.is_number and not entry > 0 for entry in diagonal):
        raise ValueError(f"hessian has diagonal {diagonal}; it must be positive near a minimum")
    size = matrix.rows
    if all(entry.is_rational for entry in matrix):
        # Of D^-1*H, which has the same eigenvalues, all real, and rational entries.
        rational = Matrix(size, size, lambda i, j: matrix[i, j] / diagonal[i])
        roots = rational.charpoly().real_roots()
        _definite(matrix, roots[0] > 0)
        return 2 / roots[-1]
    scaled = Matrix(size, size, lambda i, j: matrix[i, j] / sqrt(diagonal[i]) / sqrt(diagonal[j]))
    values = list(scaled.eigenvals())
    _definite(matrix, not any(re(value).is_negative for value in values))
    return 2 / Max(*values)


def _definite(hessian: Any, positive: bool) -> None:
    if not positive:
        raise ValueError(
            f"hessian is {hessian}; it must be positive definite: at a saddle no gamma is stable"
        )


def _largest_gamma_of_array(hessian: Any) -> Any:
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1]:
        raise ValueError(f"hessian has shape {hessian.shape}; it must be square and symmetric")
    scale = np.abs(hessian).max()
    if not np.isfinite(scale) or np.abs(hessian - hessian.T).max() > 1e-10 * scale:
        raise ValueError("hessian is an array that is not finite or not symmetric; symmetrise it")
    diagonal = np.diag(hessian)
    if not (diagonal > 0).all():
        raise ValueError(f"hessian has diagonal {diagonal}; it must be positive near a minimum")
    root = np.sqrt(diagonal)
    values = np.linalg.eigvalsh(hessian / root / root[:, None])
    # A semidefinite Hessian's zeros come out of either sign.
    _definite(f"an array of shape {hessian.shape}", values[0] > -1e-10 * values[-1])
    return sympify(float(2 / values[-1]))


def _steps() -> tuple[Step, ...]:
    k = Symbol("h_0", positive=True)
    c = Symbol("gamma_0", positive=True)
    r = Symbol("rho", positive=True)
    step = cblr_step(x, k, c)
    basin = cblr_basin(c, k)
    inside = ((c, (0, 2)),)
    equal = Matrix(3, 3, lambda i, j: 1 if i == j else r)
    ones = Matrix([1, 1, 1])
    return (
        Step(
            "Near the minimum the step is gamma times Newton's.",
            Limit((x - step) / x, x, 0),
            c,
        ),
        Step(
            "The excess over it is (3/2)*g^2 of it.",
            Limit(((x - step) / (c * x) - 1) / (k * x) ** 2, x, 0),
            Rational(3, 2),
        ),
        Step(
            "At the edge of the basin the step lands on the other side, as far away.",
            cblr_step(basin, k, c),
            -basin,
            domain=inside,
        ),
        Step(
            "Half as far from the minimum, |x| shrinks.",
            Abs(cblr_step(basin / 2, k, c)),
            basin / 2,
            "<",
            domain=inside,
        ),
        Step(
            "Twice as far, it grows.",
            2 * basin,
            Abs(cblr_step(2 * basin, k, c)),
            "<",
            domain=inside,
        ),
        Step(
            "At gamma = 1 the order is three, with constant (3/2)*h^2.",
            Limit(cblr_step(x, k) / x**3, x, 0),
            -cblr_convergence(1)[1] * k**2,
        ),
        Step(
            "On a maximum the step leads away from it.",
            x,
            cblr_step(x, -k, c),
            "<",
        ),
        Step(
            "Three parameters, all correlations r: the vector of ones has eigenvalue 1 + 2r, so "
            "the largest gamma is 2/(1 + 2r).",
            (equal * ones)[0] * cblr_largest_gamma(Matrix([[1, 2 * r], [2 * r, 1]])),
            S(2),
        ),
        Step(
            "A diagonal Hessian allows gamma up to 2, whatever its scales.",
            cblr_largest_gamma(Matrix([[k, 0], [0, n]])),
            S(2),
        ),
    )


DERIVATION = Derivation(
    name="cblr",
    title="The curvature-based rule on a quadratic",
    laws=("cblr_step", "cblr_basin", "cblr_convergence", "cblr_largest_gamma"),
    statements=(
        Statement("theorem", "On h*x^2/2, h > 0, the basin is exact; at its edge x alternates."),
        Statement(
            "theorem",
            "The order is one with factor |1 - gamma|, and three at gamma = 1 on a parabola.",
        ),
        Statement(
            "asymptotic",
            "Near a minimum in many dimensions stability is that of the linearised step; the "
            "nonlinear terms are small beside it.",
            rate="g^2",
        ),
    ),
    source="Dauphin et al. (2014); Saad (2003), section 4.2",
    make_formulas=lambda: {
        "x'": cblr_step(x, h, gamma),
        r"|x|_{\max}": cblr_basin(gamma, Symbol("h", positive=True)),
        r"\gamma_{\max}\;(P = 2)": cblr_largest_gamma(
            Matrix([[1, Symbol("r", positive=True)], [Symbol("r", positive=True), 1]])
        ),
    },
    make_steps=_steps,
)
