"""What every check says in plain words, which equations it tests, and in what unit it is read."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

from paper_checks.numbers import short, spread

# How many of a unit are one.
UNITS = {"points": 100.0, "%": 100.0}


@dataclass(frozen=True)
class Words:
    """One check for a reader: a sentence, the equations it tests, and the unit of its numbers.

    `no_row` says why the ledger has no row of it, where that is not plain.
    """

    sentence: str
    equations: tuple[str, ...] = ()
    unit: str = ""
    no_row: str = ""


WORDS: Mapping[str, Words] = MappingProxyType(
    {
        name: Words(**{**entry, "equations": tuple(entry.get("equations", ()))})
        for name, entry in tomllib.loads(
            files("paper_checks.papers.gao2020").joinpath("words.toml").read_text(encoding="utf-8")
        ).items()
    }
)
_NONE = Words("")


def words(name: str) -> Words:
    """The words of a check; of one that is not the audit's own, none.

    >>> words("fig1").unit, words("a check of yours").sentence
    ('points', '')
    """
    return WORDS.get(name, _NONE)


def checks_of(equation: str) -> tuple[str, ...]:
    """The figures and claims that test an equation, in the order of the checks.

    >>> checks_of("eq12")
    ('fig15', 'fig-minimum', 'claim-morse-validated')
    """
    return tuple(name for name, each in WORDS.items() if equation in each.equations)


def quantity(name: str, value: float | str | None) -> str:
    """A number of the check `name` in its unit; a text that lacks the unit gets it.

    >>> quantity("fig1", 0.397), quantity("fig10", "> 0"), quantity("fig4", -0.5)
    ('39.7 points', '> 0 points', '-0.5')
    """
    unit = words(name).unit
    if not unit or value is None:
        return short(value)
    text = value if isinstance(value, str) else short(UNITS[unit] * value)
    return text if unit in text else f"{text} {unit}"


def bounds(name: str, interval: Sequence[float | None] | None) -> str:
    """An interval of the check `name` in its unit, or nothing; an end that is unknown is a dash.

    >>> bounds("fig1", (0.33, 0.46)), bounds("fig4", None)
    ('[33, 46]', '')
    """
    scale = UNITS.get(words(name).unit, 1.0)
    if interval is None:
        return ""
    return spread([None if end is None else scale * end for end in interval])
