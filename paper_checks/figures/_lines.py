"""Lines with bands: what the training figures draw."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.figures._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = (
    drawing.BLUE,
    drawing.ORANGE,
    drawing.GREEN,
    drawing.VERMILION,
    drawing.PURPLE,
    drawing.SKY,
    drawing.GREY,
    "#8B5A00",
)
MARKERS = "osD^vP*X"


def group(rows: Sequence[Mapping[str, Any]], column: str, **where: Any) -> list[float]:
    """The column's values in the rows that fit `where`, without missing ones.

    >>> group([{"n": 1, "x": 2.0}, {"n": 2, "x": 3.0}], "x", n=2)
    [3.0]
    """
    return [
        row[column]
        for row in rows
        if all(row[key] == value for key, value in where.items()) and row[column] is not None
    ]


def by_size(measurements: Mapping[str, Any], column: str, **where: Any) -> list[list[float]]:
    """The column's values at each of the batch sizes, one list for each n.

    >>> by_size({"n": [1, 2], "rows": [{"n": 1, "x": 2.0}, {"n": 2, "x": 3.0}]}, "x")
    [[2.0], [3.0]]
    """
    return [group(measurements["rows"], column, n=n, **where) for n in measurements["n"]]


def sized(axes: "Axes", measurements: Mapping[str, Any]) -> None:
    """The horizontal axis of a first-epoch figure: the batch sizes, on a log scale."""
    sizes = measurements["n"]
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(n) for n in sizes], rotation=45)
    axes.minorticks_off()
    axes.set_xlabel(f"batch size n (of N = {measurements['samples']})")


def banded(
    axes: "Axes", x: Sequence[float], values: Sequence[Sequence[float]], number: int, label: str
) -> None:
    """Means of several values at each x, with bars of Student's 95 % interval if there is one."""
    found = [t_interval(each) for each in values]
    mean = np.array([each[0] for each in found])
    low, high = (
        np.where(np.isfinite(ends), ends, mean)
        for ends in (np.array([each[1] for each in found]), np.array([each[2] for each in found]))
    )
    axes.errorbar(
        x,
        mean,
        yerr=np.array([mean - low, high - mean]),
        marker=MARKERS[number % len(MARKERS)],
        color=PALETTE[number % len(PALETTE)],
        markersize=5,
        capsize=3,
        linewidth=1.5,
        label=label,
    )


def slope(x: Sequence[float], values: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The log-log slope of values against x with its interval over the columns (the seeds).

    >>> [round(v, 6) for v in slope([1, 4, 16], [[2.0, 4.0], [1.0, 2.0], [0.5, 1.0]])]
    [-0.5, -0.5, -0.5]
    """
    logs = np.log(np.asarray(values, dtype=float))
    found = np.polyfit(np.log(np.asarray(x, dtype=float)), logs, 1)[0]
    return t_interval(np.atleast_1d(found).tolist())
