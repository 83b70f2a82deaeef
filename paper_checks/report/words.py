"""What every check says in plain words, which equations it tests, and in what unit it is read."""

from collections.abc import Mapping, Sequence

from paper_checks.numbers import short, spread
from paper_checks.papers import USUAL, paper
from paper_checks.statements import Words

# How many of a unit are one.
UNITS = {"points": 100.0, "%": 100.0}


# Of the paper that is audited where none is named.
WORDS: Mapping[str, Words] = paper().words
_NONE = Words("")


def words(name: str, of: str = USUAL) -> Words:
    """The words of a check; of one that is not the audit's own, none.

    >>> words("fig1").unit, words("a check of yours").sentence
    ('points', '')
    """
    return paper(of).words.get(name, _NONE)


def checks_of(equation: str, of: str = USUAL) -> tuple[str, ...]:
    """The figures and claims that test an equation, in the order of the checks.

    >>> checks_of("eq12")
    ('fig15', 'fig-minimum', 'claim-morse-validated')
    """
    return tuple(name for name, each in paper(of).words.items() if equation in each.equations)


def quantity(name: str, value: float | str | None, of: str = USUAL) -> str:
    """A number of the check `name` in its unit; a text that lacks the unit gets it.

    >>> quantity("fig1", 0.397), quantity("fig10", "> 0"), quantity("fig4", -0.5)
    ('39.7 points', '> 0 points', '-0.5')
    """
    unit = words(name, of).unit
    if not unit or value is None:
        return short(value)
    text = value if isinstance(value, str) else short(UNITS[unit] * value)
    return text if unit in text else f"{text} {unit}"


def bounds(name: str, interval: Sequence[float | None] | None, of: str = USUAL) -> str:
    """An interval of the check `name` in its unit, or nothing; an end that is unknown is a dash.

    >>> bounds("fig1", (0.33, 0.46)), bounds("fig4", None)
    ('[33, 46]', '')
    """
    scale = UNITS.get(words(name, of).unit, 1.0)
    if interval is None:
        return ""
    return spread([None if end is None else scale * end for end in interval])
