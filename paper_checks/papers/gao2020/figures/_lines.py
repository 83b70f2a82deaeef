"""Lines with bands: what the training figures draw."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.statistics import mean

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
# Both data sets have ten classes; a network with an accuracy above the second has left chance.
CHANCE, LEFT_CHANCE = 0.1, 0.15


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


def chance(axes: "Axes", percent: bool = True) -> None:
    """A line at the accuracy of a network that has learned nothing."""
    level = 100 * CHANCE if percent else CHANCE
    axes.axhline(level, color=drawing.GREY, linestyle=":", linewidth=1, label="chance")


def banded(
    axes: "Axes",
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    number: int,
    label: str,
    geometric: bool = False,
) -> None:
    """Means of several values at each x, with bars of Student's 95 % interval if there is one.

    Geometric means, for a logarithmic axis, where `geometric`.
    """
    if geometric:
        logs = [np.log(each).tolist() for each in values]
        middle, *ends = np.exp(np.array([tuple(mean(each)) for each in logs]).T)
    else:
        middle, *ends = np.array([tuple(mean(each)) for each in values]).T
    # A single value has no interval.
    low, high = (np.where(np.isfinite(end), end, middle) for end in ends)
    axes.errorbar(
        x,
        middle,
        yerr=np.array([middle - low, high - middle]),
        marker=MARKERS[number % len(MARKERS)],
        color=PALETTE[number % len(PALETTE)],
        markersize=5,
        capsize=3,
        linewidth=1.5,
        label=label,
    )
