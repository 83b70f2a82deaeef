"""Reading runs of which one setting is chosen: on the seeds that choose, never on those read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from paper_checks.check import Measurements
from paper_checks.papers.gao2020.measurements.training import best
from paper_checks.statistics import Decision

Row = Mapping[str, Any]


def tried(measurements: Measurements, **where: Any) -> list[Row]:
    """The rows that fit: all settings that were tried in one place.

    >>> tried({"rows": [{"n": 1}, {"n": 2}]}, n=2)
    [{'n': 2}]
    """
    return [
        row
        for row in measurements["rows"]
        if all(row.get(name) == value for name, value in where.items())
    ]


def stages(row: Row) -> list[tuple[int, str]]:
    """Seed and stage of every value of a row; without them the even places choose."""
    count = len(row["accuracy"])
    seeds = row.get("seeds") or range(count)
    names = row.get("stage") or [("tuning", "reading")[k % 2] for k in range(count)]
    return list(zip(seeds, names, strict=True))


def of_stage(row: Row, column: str, stage: str) -> dict[int, float]:
    """The values by seed; a run that diverged has none right, however long its path was.

    >>> of_stage({"accuracy": [0.5, None], "seeds": [3, 4], "stage": ["reading"] * 2},
    ...          "accuracy", "reading")
    {3: 0.5, 4: 0.0}
    """
    return {
        seed: value or 0.0
        for (seed, each), value in zip(stages(row), row[column], strict=True)
        if each == stage
    }


def chosen(rows: Iterable[Row]) -> Row:
    """The setting that did best on the seeds that choose."""
    row: Row = best([dict(row) for row in rows])[0]
    return row


def merit(row: Row) -> float:
    """How well a setting did on the seeds that choose."""
    values = list(of_stage(row, "accuracy", "tuning").values())
    return float(np.mean(values)) if values else 0.0


def read(row: Row, column: str = "accuracy") -> dict[int, float]:
    """The values of a setting on the seeds that are read."""
    return of_stage(row, column, "reading")


def at_end(rows: Sequence[Row]) -> bool:
    """Whether the best setting is the smallest or the largest that was tried: it is not tuned.

    Of a rule with a cap, whether γ or the cap is.

    >>> rows = [{"rate": k, "accuracy": [v, v]} for k, v in enumerate((0.1, 0.2, 0.3))]
    >>> at_end(rows), at_end(rows[::-1] + [{"rate": 3, "accuracy": [0.0, 0.0]}])
    (True, False)
    """
    row = chosen(rows)
    for name in ("rate", "cap"):
        values = {each[name] for each in rows if each.get(name) is not None}
        if len(values) > 1 and row[name] in (min(values), max(values)):
            return True
    return len(rows) < 2


def guarded(decision: Decision, winner: bool, loser: bool) -> Decision:
    """A comparison of tuned arms in which what is not tuned cannot have lost.

    `loser`: the arm that the statement sees behind is not tuned, so nothing is shown; `winner`: the
    arm that it sees in front is not, so nothing is excluded.

    >>> guarded(Decision(0.01, 1.0), winner=True, loser=False)
    Decision(shown=0.01, excluded=1.0)
    """
    return Decision(1.0 if loser else decision.shown, 1.0 if winner else decision.excluded)


def sizes(measurements: Measurements, series: str) -> list[int]:
    """The batch sizes of one series, in order."""
    return sorted({row["n"] for row in tried(measurements, series=series)})


def series_of(measurements: Measurements) -> list[str]:
    """The series that were run: equal epochs, equal steps."""
    return list(dict.fromkeys(row["series"] for row in measurements["rows"]))
