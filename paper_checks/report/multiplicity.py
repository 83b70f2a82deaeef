"""How many verdicts a report has, and which of them stand corrected for their number."""

from collections.abc import Sequence
from dataclasses import dataclass

from paper_checks.report.beside import Entry
from paper_checks.result import Result
from paper_checks.statistics import LEVEL, adjusted
from paper_checks.verdicts import INCONCLUSIVE


@dataclass(frozen=True)
class Multiplicity:
    """The verdicts that were read from intervals.

    `corrected` holds the p of each, corrected for their number, `decided` those that are not
    *inconclusive*, and `fragile` those of the decided whose corrected p is above the level.
    """

    corrected: dict[str, float]
    decided: list[str]
    fragile: list[str]
    level: float = LEVEL

    @property
    def by_chance(self) -> float:
        """How many of them an interval of 95 % would decide if nothing were true."""
        return self.level * len(self.corrected)


def multiplicity(results: Sequence[Result | Entry]) -> Multiplicity:
    """What the number of verdicts means for each of `results`; equations have no intervals.

    >>> multiplicity([]).by_chance
    0.0
    """
    read = [
        result
        for result in results
        if getattr(result, "kind", "") != "equation" and result.p is not None
    ]
    corrected = adjusted({result.id: float(result.p or 0.0) for result in read})
    decided = [result.id for result in read if result.verdict != INCONCLUSIVE]
    fragile = [name for name in decided if corrected[name] > LEVEL]
    return Multiplicity(corrected, decided, fragile)
