"""The half page on top of the report, in plain words, chosen by the verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paper_checks.papers import USUAL, paper
from paper_checks.report.beside import Beside
from paper_checks.report.words import words
from paper_checks.result import Result
from paper_checks.verdicts import (
    CONTRADICTED,
    EQUATIONS_OPEN,
    EQUATIONS_RIGHT,
    EQUATIONS_WRONG,
    HOLDS,
    IN_PART,
)

# Of the paper that is audited where none is named.
STATEMENTS: Sequence[str] = paper().overview.statements
ADVICE: Sequence[Mapping[str, str]] = paper().overview.advice
MEANING = paper().overview.meaning
# The heading under which a statement of that verdict stands; all others are not decided.
_HEADINGS = {HOLDS: "What stands", IN_PART: "What stands in part", CONTRADICTED: "What does not"}
_UNDECIDED = "What is not decided"
_PHRASES = {HOLDS: "holds", IN_PART: "part", CONTRADICTED: "contradicted"}


@dataclass(frozen=True)
class Line:
    """A sentence, the checks that it rests on, and what the ledger says where that is otherwise."""

    text: str
    checks: tuple[str, ...]
    elsewhere: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and its sentences."""

    heading: str
    lines: list[Line] = field(default_factory=list)


def overview(results: Sequence[Result], ledger: Beside) -> list[Section]:
    """The sections that `results` give rise to; none where none of their checks is a part of it.

    >>> overview([], Beside())
    []
    """
    by_id = {result.id: result for result in results}
    of = results[0].paper if results else USUAL
    top = paper(of).overview
    headings = [*_HEADINGS.values(), _UNDECIDED, top.meaning]
    sections = {heading: Section(heading) for heading in headings}
    for verdict, line in _equations(results):
        sections[_HEADINGS.get(verdict, _UNDECIDED)].lines.append(line)
    for name in top.statements:
        if result := by_id.get(name):
            elsewhere = _other(result, ledger)
            note = f"{elsewhere} on {ledger.place}" if elsewhere else ""
            heading = _HEADINGS.get(result.verdict, _UNDECIDED)
            sections[heading].lines.append(Line(words(name, of).sentence, (name,), note))
    for each in top.advice:
        if result := by_id.get(each["check"]):
            elsewhere = _other(result, ledger)
            note = f"On {ledger.place}: {advice(each, elsewhere)}" if elsewhere else ""
            sections[top.meaning].lines.append(
                Line(advice(each, result.verdict), (result.id,), note)
            )
    return [section for section in sections.values() if section.lines]


def advice(each: Mapping[str, str], verdict: str) -> str:
    """The sentence of one advice for a verdict.

    >>> advice({"holds": "Do.", "open": "Who knows."}, "inconclusive")
    'Who knows.'
    """
    return each[_PHRASES.get(verdict, "open")]


def _other(result: Result, ledger: Beside) -> str:
    """The ledger's verdict where it was judged and is another, or nothing."""
    entry: Any = ledger.entries.get(result.id)
    return entry.verdict if entry and entry.ran and entry.verdict != result.verdict else ""


def _equations(results: Sequence[Result]) -> list[tuple[str, Line]]:
    """A sentence for those equations that hold, for those that do not, and for the open ones."""
    groups = (
        (HOLDS, EQUATIONS_RIGHT, "as printed, or as the approximation that they are said to be"),
        (CONTRADICTED, EQUATIONS_WRONG, "with a wrong constant, sign, index or more"),
        ("", EQUATIONS_OPEN, "that can be read in several ways, or that were not decided"),
    )
    equations = [result for result in results if result.kind == "equation"]
    lines = []
    for verdict, among, what in groups:
        names = tuple(result.id for result in equations if result.verdict in among)
        if names:
            count = f"{len(names)} of the {len(equations)} equations, {what}."
            lines.append((verdict, Line(count, names)))
    return lines
