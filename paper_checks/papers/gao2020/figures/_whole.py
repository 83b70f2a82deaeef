"""Reading the runs at one rate for all batch sizes, with their controls."""

from collections.abc import Mapping, Sequence
from typing import Any

from paper_checks.check import Measurements
from paper_checks.papers.gao2020.figures._lines import LEFT_CHANCE

Row = Mapping[str, Any]


def arm(
    measurements: Measurements, series: str, *, remainder: bool = False, rates: str = "one"
) -> list[Row]:
    """The rows of one series and control: whole batches at one rate, if not said otherwise."""
    return [
        row
        for row in measurements["rows"]
        if row["series"] == series
        and row.get("remainder", False) == remainder
        and row.get("rates", "one") == rates
    ]


def plateau_told(rows: Sequence[Row], series: str) -> str:
    """A sentence on how many runs of a series learned anything.

    >>> plateau_told([{"series": "steps", "accuracy": 0.1}, {"series": "steps", "accuracy": 0.4}],
    ...              "steps")
    'Of 2 runs at equal steps 1 end above an accuracy of 15 % (chance is 10 %).'
    """
    ends = [row["accuracy"] or 0.0 for row in rows if row["series"] == series]
    learned = sum(end > LEFT_CHANCE for end in ends)
    return (
        f"Of {len(ends)} runs at equal {series} {learned} end above an accuracy of "
        f"{100 * LEFT_CHANCE:.0f} % (chance is 10 %)."
    )


def by_seed(rows: Sequence[Row], column: str, sizes: Sequence[int]) -> list[list[float]]:
    """The column at each n, a list for each seed that has it at every n.

    >>> by_seed([{"n": 1, "seed": 0, "x": 2.0}, {"n": 4, "seed": 0, "x": 3.0}], "x", [1, 4])
    [[2.0, 3.0]]
    """
    values_at = {(row["seed"], row["n"]): row[column] for row in rows}
    seeds = sorted({seed for seed, _ in values_at})
    table: list[list[Any]] = [[values_at.get((seed, n)) for n in sizes] for seed in seeds]
    return [values for values in table if None not in values]
