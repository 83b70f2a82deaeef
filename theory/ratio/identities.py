"""LARS and PercentDelta as means of |w/g|, for every network; and bounds for its median."""

from collections.abc import Sequence
from typing import Any

from sympy import Abs, Float, Rational, S, Symbol, ceiling, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import finite, within


def _pairs(w: Any, g: Any) -> list[tuple[Any, Any]]:
    columns = []
    for name, values in (("w", w), ("g", g)):
        values = getattr(values, "tolist", lambda values=values: values)()
        if isinstance(values, str | bytes | dict) or not isinstance(values, Sequence):
            raise ValueError(f"{name} is {values!r}; it must be a sequence, one value an entry")
        columns.append([finite(name, value) for value in values])
    if not columns[0] or len(columns[0]) != len(columns[1]):
        raise ValueError(
            f"w has {len(columns[0])} values and g {len(columns[1])}; pass one of each for every "
            "entry, and one entry or more"
        )
    return list(zip(*columns, strict=True))


def _sizes(w: Any, g: Any) -> list[tuple[Any, Any]]:
    """|w/g| and |g|, for entries with a gradient."""
    pairs = _pairs(w, g)
    for entry, slope in pairs:
        if slope.is_zero:
            raise ValueError(
                f"g has a zero, at the weight {entry}; |w/g| has no mean: leave it out"
            )
    return [(Abs(entry / slope), Abs(slope)) for entry, slope in pairs]


def lars_ratio_mean(w: Any, g: Any) -> Any:
    r"""Return the root mean square of \|w/g\| with weights g^2: it *is* LARS's \|w\|/\|g\|.

    sqrt(sum g^2 (w/g)^2/sum g^2). So LARS sees the entries of the largest gradients, which for a
    shortcut to the radius are those of the smallest, and none whose gradient is small.

    Assumptions: no gradient is zero (a zero one adds its w^2 to the norm). An identity, for every
    network.

    Source: equation 23 of the paper.

    Raises ValueError, naming the argument, for sequences that are empty or of different lengths, a
    zero gradient, or a value that is not a real number.

    >>> lars_ratio_mean([3, 4], [1, 2])
    sqrt(5)
    """
    sizes = _sizes(w, g)
    return sqrt(sum(g**2 * ratio**2 for ratio, g in sizes) / sum(g**2 for _, g in sizes))


def percent_delta_ratio_mean(w: Any, g: Any) -> Any:
    r"""Return the harmonic mean of \|w/g\|: it *is* PercentDelta's P/sum\|g/w\|.

    So PercentDelta sees the entries of the smallest \|w/g\|: one zero weight makes it zero.

    Assumptions: no gradient is zero. An identity, for every network.

    Source: equation 24 of the paper.

    Errors: as `lars_ratio_mean`.

    >>> percent_delta_ratio_mean([3, 4], [1, 2])
    12/5
    """
    sizes = _sizes(w, g)
    if any(ratio.is_zero for ratio, _ in sizes):
        return sizes[0][0] * 0
    return len(sizes) / sum(1 / ratio for ratio, _ in sizes)


def ratio_quantile_bounds(w: Any, g: Any, p: Any = S.Half) -> tuple[Any, Any]:
    r"""Return what LARS and PercentDelta say of the p-quantile of \|w/g\|: (low, high).

        p*PercentDelta <= quantile <= |w|_2/(the norm of the smallest (1 - p)*P gradients)

    At p = 1/2 the median of \|w/g\| is at least half of PercentDelta and at most \|w\|_2 over the
    norm of the smaller half of the gradients. Neither can be improved: p*P entries at the quantile
    and the others beyond all bounds attain the first; all weights at the smallest gradients, which
    are equal, the second. Nothing bounds the median by LARS from below or by PercentDelta
    from above.

    Assumptions: no gradient is zero; at least p*P entries are at most, and (1 - p)*P at least, the
    quantile: so it is for every median, and for quantiles that are entries. Then it holds for
    every network.

    Source: Markov's inequality for 1/\|w/g\| and for w^2.

    Raises ValueError as `lars_ratio_mean`, for p outside (0, 1), and for gradients that are
    symbols, whose order is not known.

    >>> ratio_quantile_bounds([3, 4], [1, 2])
    (6/5, 5)
    """
    p = within("p", p, 0, 1, "the quantiles at 0 and 1 are the ends", "()")
    sizes = sorted((slope for _, slope in _sizes(w, g)), key=_order)
    smallest = sum(slope**2 for slope in sizes[: _at_least(1 - p, len(sizes))])
    norm = sum(entry**2 for entry, _ in _pairs(w, g))
    return p * percent_delta_ratio_mean(w, g), sqrt(norm / smallest)


def _at_least(share: Any, size: int) -> int:
    """The least whole number that is share*size; 1 - 0.7 of ten are three, as floats or not."""
    places = share * size
    nearest = round(places)
    if share.has(Float) and abs(places - nearest) < 1e-13 * size:
        return max(int(nearest), 1)
    return int(ceiling(places))


def _order(slope: Any) -> float:
    if not slope.is_number:
        raise ValueError(f"g is {slope}; its entries must be numbers: their order is needed")
    return float(slope)


def _steps() -> tuple[Step, ...]:
    a, b, x, y = (Symbol(name, positive=True) for name in ("w_1", "w_2", "g_1", "g_2"))
    tall = Symbol("M", positive=True)
    half = Rational(1, 2)
    return (
        Step(
            "g^2*(w/g)^2 is w^2: the weighted root mean square is the quotient of the norms.",
            lars_ratio_mean([a, -b], [x, y]),
            sqrt(a**2 + b**2) / sqrt(x**2 + y**2),
        ),
        Step(
            "The reciprocal of |w/g| is |g/w|: the harmonic mean is PercentDelta's quotient.",
            percent_delta_ratio_mean([a, -b], [x, y]),
            2 / (x / a + y / b),
        ),
        Step(
            "At least p*P of the |g/w| are at least 1/quantile, so that their sum is p*P/quantile "
            "or more: two entries of ratio 1 and M, lower median 1.",
            ratio_quantile_bounds([1, 10**6], [1, 1])[0],
            1,
            "<",
        ),
        Step(
            "It is attained as M grows: the harmonic mean of 1 and M tends to 2.",
            percent_delta_ratio_mean([1, tall], [1, 1]),
            2 * tall / (1 + tall),
        ),
        Step(
            "At least (1 - p)*P of the w^2 are quantile^2*g^2 or more, and their g^2 sum to no "
            "less than the smallest ones do.",
            3,
            ratio_quantile_bounds([3, 1], [1, 2])[1],
            "<",
        ),
        Step(
            "It is attained where the other weights vanish.",
            ratio_quantile_bounds([3, 0], [1, 2])[1],
            3,
        ),
        Step(
            "Neither rule is always the greater: equal weights and gradients 1 and 3 have LARS "
            "below PercentDelta,",
            lars_ratio_mean([1, 1], [1, 3]),
            percent_delta_ratio_mean([1, 1], [1, 3]),
            "<",
        ),
        Step(
            "weights of 1 and 1/9 with them above.",
            percent_delta_ratio_mean([1, Rational(1, 9)], [1, 3]),
            lars_ratio_mean([1, Rational(1, 9)], [1, 3]),
            "<",
        ),
        Step(
            "p scales the lower bound.",
            ratio_quantile_bounds([2, 1], [1, 3], half / 2)[0],
            ratio_quantile_bounds([2, 1], [1, 3], half)[0] / 2,
        ),
    )


def _formulas() -> dict[str, Any]:
    w, g = ([Symbol(f"{name}_{i}", real=True) for i in (1, 2)] for name in "wg")
    return {
        r"R_{\mathrm{LARS}}\;(P = 2)": lars_ratio_mean(w, g),
        r"R_{\mathrm{PercentDelta}}\;(P = 2)": percent_delta_ratio_mean(w, g),
    }


DERIVATION = Derivation(
    name="ratio_means",
    title="The layer-wise rules as means of |w/g|",
    laws=("lars_ratio_mean", "percent_delta_ratio_mean", "ratio_quantile_bounds"),
    statements=(
        Statement(
            "theorem",
            "LARS is the root mean square of |w/g| with weights g^2, for every network.",
        ),
        Statement("theorem", "PercentDelta is the harmonic mean of |w/g|, for every network."),
        Statement(
            "theorem",
            "The median of |w/g| is at least half of PercentDelta, and at most the norm of the "
            "weights over that of the smaller half of the gradients; both are attained.",
        ),
    ),
    source="equations 23 and 24 of the paper; Markov's inequality",
    make_formulas=_formulas,
    make_steps=_steps,
)
