"""When diag H equals diag GGN, and what a ReLU's kink hides from a pointwise second derivative."""

from collections.abc import Iterable
from typing import Any

from sympy import (
    Derivative,
    DiracDelta,
    Expr,
    Function,
    Integral,
    Symbol,
    diff,
    exp,
    log,
    oo,
    pi,
    sqrt,
    tanh,
)

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import finite, positive_spread, scalar
from theory.symbols import w, x


def gauss_newton_gap(loss: Any, outputs: Any, parameter: Any, symbols: Any) -> Any:
    r"""Return the diagonal entries' difference, d2L/dw2 less the Gauss-Newton's, exactly.

    `outputs` are the network's outputs f_c as expressions in `parameter`, `loss` an expression in
    `symbols`, one for each output. By the chain rule

        d2L/dw2 = sum_cd (d2l/df_c df_d)*(df_c/dw)*(df_d/dw) + sum_c (dl/df_c)*(d2f_c/dw2);

    the first sum is the Gauss-Newton entry, the second the gap. So diag H = diag GGN at w *if*
    every output is affine in each single parameter near w: chains of linear maps, ReLU and
    max-pooling away from their kinks, residual sums; not below a smooth activation or a layer norm,
    nor for weights tied in series. Equal *only if* the slopes dl/df_c are orthogonal to the
    d2f_c/dw2: so too where the residual vanishes, and in expectation over labels drawn from the
    model's own softmax, where the mean slope is zero. A theorem.

    Source: Schraudolph (2002); Martens (2020), section 8.

    Raises ValueError if the numbers of outputs and symbols differ, the parameter is no symbol, or
    the loss or an output is not a real expression.

    >>> from sympy import symbols
    >>> w, v, x, y, f = symbols("w v x y f")
    >>> gauss_newton_gap((f - y) ** 2 / 2, [v * w * x], w, [f])
    0
    >>> gauss_newton_gap((f - y) ** 2 / 2, [w**2 * x], w, [f])
    2*x*(w**2*x - y)
    """
    outputs, symbols = _expressions("outputs", outputs), _expressions("symbols", symbols)
    if len(outputs) != len(symbols):
        raise ValueError(
            f"symbols has {len(symbols)} entries for {len(outputs)} outputs; "
            "name one symbol of the loss for each output"
        )
    if not isinstance(parameter, Expr) or not parameter.is_Symbol:
        raise ValueError(f"parameter is {parameter!r}; it must be a sympy symbol")
    if not all(s.is_Symbol for s in symbols):
        raise ValueError(f"symbols is {symbols}; it must hold the symbols of the loss, one each")
    loss = scalar("loss", loss)
    point = dict(zip(symbols, outputs, strict=True))
    return sum(
        diff(loss, s).subs(point, simultaneous=True) * diff(f, parameter, 2)
        for s, f in zip(symbols, outputs, strict=True)
    )


def _expressions(name: str, value: Any) -> list[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ValueError(f"{name} is {value!r}; it must be a list, with an entry for each output")
    return [scalar(f"{name}[{place}]", entry) for place, entry in enumerate(value)]


def kink_curvature(w: Any, b: Any, s_x: Any, mean: Any = 0, slope: Any = 1) -> Any:
    r"""Return the part of d2/dw2 of E[slope*relu(w*x + b)] that lies on the ReLU's kink.

    slope*x0^2*f(x0)/\|w\| at x0 = -b/w, f the density of x ~ N(mean, s_x). For each sample the
    second derivative of relu(w*x + b) is zero but on the kink, so that the exact Hessian of any
    finite batch, and its Gauss-Newton matrix, miss this; the population's loss does have it. For
    `slope` put the mean slope of the loss in the unit's output among samples at the kink; the
    remaining curvature is what the pointwise derivative shows. With b = 0 it vanishes: then the
    kink does not move with w. (For the bias the same without x0^2.)

    Assumptions: Gaussian x; a theorem then, and with the density in place of f for any x that has
    a continuous one. A batch of n sees it only as jumps of the gradient: about n*f(x0)*\|x0/w\|*dw
    samples cross the kink as w moves by dw.

    Source: differentiation of an expectation across a moving boundary (Leibniz).

    Raises ValueError for w = 0, s_x <= 0 or a value that is not a real number.

    >>> kink_curvature(1, 0, 1)
    0
    >>> kink_curvature(1, -1, 1)
    sqrt(2)*exp(-1/2)/(2*sqrt(pi))
    """
    w, b, mean = finite("w", w), finite("b", b), finite("mean", mean)
    slope, s_x = finite("slope", slope), positive_spread("s_x", s_x)
    if w.is_zero:
        raise ValueError("w is 0; the unit does not see x there, and has no kink in it")
    kink = -b / w
    density = exp(-(((kink - mean) / s_x) ** 2) / 2) / (s_x * sqrt(2 * pi))
    return slope * kink**2 * density / abs(w)


def _steps() -> tuple[Step, ...]:
    f, g = Symbol("f_1", real=True), Symbol("f_2", real=True)
    v, u, y = Symbol("v", real=True), Symbol("u", real=True), Symbol("y", real=True)
    p, q = Symbol("w_0", positive=True), Symbol("b_0", positive=True)
    s = Symbol("s_x", positive=True)
    entropy = log(exp(f) + exp(g)) - f
    net = {f: v * w * x, g: u * w * x}
    hessian = entropy.subs(net).diff(w, 2)
    pieces = [entropy.diff(a, c).subs(net) * net[a].diff(w) * net[c].diff(w)
              for a in (f, g) for c in (f, g)]  # fmt: skip
    density = exp(-(x**2) / (2 * s**2)) / (s * sqrt(2 * pi))
    # x > q/p is where p*x - q is positive.
    mean = Integral((p * x - q) * density, (x, q / p, oo))
    share = exp(f) / (exp(f) + exp(g))
    return (
        Step(
            "Cross-entropy of two outputs v*w*x and u*w*x, affine in w: the Hessian's entry is the "
            "Gauss-Newton's.",
            hessian,
            sum(pieces),
        ),
        Step(
            "Below a tanh it is not; the difference is the second sum of the chain rule.",
            ((v * tanh(w * x) - y) ** 2 / 2).diff(w, 2) - (v * tanh(w * x)).diff(w) ** 2,
            gauss_newton_gap((f - y) ** 2 / 2, [v * tanh(w * x)], w, [f]),
        ),
        Step(
            "A weight used twice in series is not affine either.",
            ((w**2 * x - y) ** 2 / 2).diff(w, 2) - (2 * w * x) ** 2,
            gauss_newton_gap((f - y) ** 2 / 2, [w**2 * x], w, [f]),
        ),
        Step(
            "With labels drawn from the model's softmax the mean slope in an output is zero.",
            -share * entropy.diff(f),
            (1 - share) * (log(exp(f) + exp(g)) - g).diff(f),
        ),
        Step(
            "The population's mean of relu(w*x - b) has a second derivative in w, though no sample "
            "has one.",
            Derivative(mean, (p, 2)),
            kink_curvature(p, -q, s),
        ),
        Step(
            "It is the mean of x^2 at the kink, where relu'' is a delta function.",
            Integral(x**2 * DiracDelta(x - q / p) / p, (x, 0, oo)) * density.subs(x, q / p),
            kink_curvature(p, -q, s),
        ),
    )


DERIVATION = Derivation(
    name="gauss_newton",
    title="diag H against diag GGN, and the kink of a ReLU",
    laws=("gauss_newton_gap", "kink_curvature"),
    statements=(
        Statement(
            "theorem",
            "diag H = diag GGN wherever every output is affine in each single parameter; exactly "
            "where the loss's slopes are orthogonal to the outputs' second derivatives.",
        ),
        Statement(
            "theorem",
            "The second derivative of an expected ReLU has a term on the kink that the pointwise "
            "derivative of every batch lacks.",
        ),
    ),
    source="Schraudolph (2002); Martens (2020), section 8",
    make_formulas=lambda: {
        r"h - h_{\mathrm{GGN}}": gauss_newton_gap(
            (Symbol("f") - Symbol("y")) ** 2 / 2, [Function("f")(w)], w, [Symbol("f")]
        ),
        r"h_{\mathrm{kink}}": kink_curvature(
            Symbol("w", positive=True), Symbol("b", real=True), Symbol("s_x", positive=True)
        ),
    },
    make_steps=_steps,
)
