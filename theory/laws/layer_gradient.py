"""The mean absolute gradient over a layer whose entries differ in noise and mean."""

from collections.abc import Sequence
from typing import Any

from sympy import Abs, Rational, Symbol, exp, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import batch_size, deviation, finite, spread, training_set
from theory.laws._folded_normal import all_drawn, batch_deviation, folded_normal_mean
from theory.laws.abs_gradient import expected_abs_gradient
from theory.symbols import n, sigma


def _sequence(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes | dict) or not isinstance(values, Sequence):
        values = getattr(values, "tolist", lambda: values)()
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{name} is {values!r}; it must be a sequence with one value or more")
    return list(values)


def layer_abs_gradient(n: Any, sigmas: Any, mus: Any = None, population: Any = oo) -> Any:
    r"""Return the mean over a layer's entries of E\|g_n,i\|, each with its own noise and mean.

    Without means sqrt(2/pi)/sqrt(n) times the *mean* of the sigma_i: not their root mean square,
    which is what a norm, or one sigma fitted to the squares of a layer's gradients, would give and
    which is greater wherever they differ. `sigmas` is a sequence; `mus` one of the same length, all
    zero where it is left out.

    Assumptions: those of `expected_abs_gradient` in each entry; entries need not be independent. A
    theorem.

    Source: as there; linearity of the mean.

    Raises ValueError, naming the argument, for n < 1, population < n, an empty sequence, sequences
    of different lengths, a negative deviation or a value that is not a real number.

    >>> layer_abs_gradient(4, [1, 3])
    sqrt(2)/sqrt(pi)
    """
    n = batch_size(n)
    deviations = [deviation(value) for value in _sequence("sigmas", sigmas)]
    centres = [0] * len(deviations) if mus is None else _sequence("mus", mus)
    if len(centres) != len(deviations):
        raise ValueError(
            f"mus has {len(centres)} values and sigmas {len(deviations)}; pass one for each entry"
        )
    population = training_set(population, n)
    means = (
        folded_normal_mean(
            finite("mus", mu), batch_deviation(n, s, population), all_drawn(n, population)
        )
        for s, mu in zip(deviations, centres, strict=True)
    )
    return sum(means) / len(deviations)


def spread_abs_gradient(n: Any, sigma: Any, spread: Any, population: Any = oo) -> Any:
    r"""Return the mean of E\|g_n\| over a layer of root mean square noise sigma, spread out.

    The noise is log-normal over the layer, `spread` the standard deviation of its logarithm:
    sqrt(2/pi)*sigma/sqrt(n)*exp(-spread^2/2). What equation 4, corrected, gives with the root mean
    square in it is too large by exp(spread^2/2): at a spread of 1, usual in layers, by 1.65.

    Assumptions: those of `layer_abs_gradient`, no means, log-normal sigma_i. A theorem.

    Source: moments of the log-normal distribution.

    Raises ValueError, naming the argument, for n < 1, sigma < 0, spread < 0, population < n.

    >>> from sympy import symbols
    >>> n, sigma = symbols("n sigma", positive=True)
    >>> spread_abs_gradient(n, sigma, 0) == expected_abs_gradient(n, sigma)
    True
    """
    n, sigma = batch_size(n), deviation(sigma)
    width = _spread("spread", spread)
    s = batch_deviation(n, sigma, training_set(population, n))
    return sqrt(2 / pi) * s * exp(-(width**2) / 2)


_spread = spread


def _steps() -> tuple[Step, ...]:
    a, b, t = (Symbol(name, positive=True) for name in ("sigma_1", "sigma_2", "t_0"))
    mean = layer_abs_gradient(n, [a, b])
    return (
        Step(
            "The mean over a layer is linear: one deviation, the mean of all, would do,",
            mean,
            expected_abs_gradient(n, (a + b) / 2),
        ),
        Step(
            "and the root mean square is too much.",
            mean,
            expected_abs_gradient(n, sqrt((a**2 + b**2) / 2)),
            "<=",
        ),
        Step(
            "Equal entries give the law of one.",
            layer_abs_gradient(n, [sigma, sigma], [a, -a]),
            expected_abs_gradient(n, sigma, a),
        ),
        Step(
            "A log-normal of spread t has E x = exp(t^2/2) and E x^2 = exp(2*t^2) around a median "
            "of one: E x over the root of E x^2,",
            exp(t**2 / 2) / sqrt(exp(2 * t**2)),
            exp(-(t**2) / 2),
        ),
        Step(
            "which is the factor.",
            spread_abs_gradient(n, sigma, t) / expected_abs_gradient(n, sigma),
            exp(-(t**2) / 2),
        ),
        Step(
            "Where nothing is random the mean of |mu_i| is left.",
            layer_abs_gradient(n, [0, 0], [a, -b]),
            (Abs(a) + Abs(b)) * Rational(1, 2),
        ),
    )


DERIVATION = Derivation(
    name="layer_gradient",
    title="The mean absolute gradient of a layer whose entries differ",
    laws=("layer_abs_gradient", "spread_abs_gradient"),
    statements=(
        Statement(
            "theorem", "For normal noise it is the mean of the entries' laws, dependent or not."
        ),
        Statement(
            "theorem",
            "Without means it takes the mean of the sigma_i, which is at most their root mean "
            "square, and is exp(-spread^2/2) of it for a log-normal sigma.",
        ),
    ),
    source="Leone, Nelson & Nottingham (1961); moments of the log-normal distribution",
    make_formulas=lambda: {
        r"\overline{E|g_n|}": layer_abs_gradient(
            n, [Symbol(rf"\sigma_{i}", positive=True) for i in (1, 2, 3)]
        ),
        r"\overline{E|g_n|}\;(\text{log-normal})": spread_abs_gradient(
            n, sigma, Symbol("s", positive=True)
        ),
    },
    make_steps=_steps,
)
