"""Numbers as a reader wants them: few digits, thousands apart, powers of ten as such."""

from collections.abc import Sequence
from math import isfinite


def short(value: float | str | None, digits: int = 3) -> str:
    """`value` in at most `digits` significant digits; texts pass through, `None` is a dash.

    >>> [short(x) for x in (0.79788, 23272266, 1.2e-9, "1 / √n", None, 0.0)]
    ['0.798', '23,272,266', '1.2e-9', '1 / √n', '–', '0']
    >>> [short(x) for x in (float("inf"), float("-inf"), float("nan"))]
    ['∞', '-∞', 'nan']
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if not isfinite(value):
        return str(float(value)).replace("inf", "∞")
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}" if abs(value) < 1e9 else f"{value:.{digits - 1}e}"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def spread(interval: Sequence[float | None] | None) -> str:
    """The interval as text, or nothing.

    >>> spread((0.79, 0.81)), spread(None)
    ('[0.79, 0.81]', '')
    """
    return "" if interval is None else f"[{short(interval[0])}, {short(interval[1])}]"


def points(interval: Sequence[float]) -> str:
    """The ends of an interval of shares as percentage points.

    >>> points((0.01, 0.025))
    '[1, 2.5]'
    """
    return spread([100 * end for end in interval])
