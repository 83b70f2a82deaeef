"""The statements as data: quotation, criterion, thresholds, a hash that shows a later change."""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any


def digest(statement: str, criterion: str) -> str:
    """The sha256 of what a check tries and by what it decides, as 64 hexadecimal digits.

    >>> digest("E|g| falls", "by half") != digest("E|g| falls", "by a third")
    True
    """
    return hashlib.sha256(f"{statement}\n{criterion}".encode()).hexdigest()


@dataclass(frozen=True)
class Claim:
    """One testable sentence of the paper and what would make it stand or fall.

    `shown` is the figure in which to see it, where that is not the one of the same measurements.
    `judge` is its criterion as `paper_checks.judges` reads it, where no function is its judge, and
    `picture` what `paper_checks.drawing.chart` takes.
    """

    id: str
    title: str
    section: str
    quotation: str
    criterion: str
    thresholds: Mapping[str, float]
    shown: str = ""
    judge: Mapping[str, Any] = field(default_factory=dict)
    picture: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """The sha256 of quotation and criterion, numbers included, as 64 hexadecimal digits."""
        return digest(self.quotation, self.criterion)


def parse(text: str, table: str = "claim") -> dict[str, Claim]:
    """The entries `[[table]]` of a TOML text, by id, thresholds' numbers set into each criterion.

    Raises `ValueError` for a claim that lacks a part, has an unknown one, or names a threshold
    that its criterion does not state, so that no number can decide unseen.
    """
    claims: dict[str, Claim] = {}
    for entry in tomllib.loads(text)[table]:
        try:
            claim = Claim(**entry)
            stated = claim.criterion.format_map(claim.thresholds)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{table} {entry.get('id', '?')}: {error}") from None
        unstated = [name for name in claim.thresholds if f"{{{name}}}" not in claim.criterion]
        if unstated:
            raise ValueError(f"{table} {claim.id}: its criterion does not state {unstated[0]}")
        if claim.id in claims:
            raise ValueError(f"{table} {claim.id}: appears twice")
        claims[claim.id] = replace(
            claim, criterion=stated, thresholds=MappingProxyType(dict(claim.thresholds))
        )
    return claims


@dataclass(frozen=True)
class Words:
    """One check for a reader: a sentence, the equations it tests, and the unit of its numbers.

    `no_row` says why the ledger has no row of it, where that is not plain.
    """

    sentence: str
    equations: tuple[str, ...] = ()
    unit: str = ""
    no_row: str = ""


def parse_words(text: str) -> dict[str, Words]:
    """The words of a TOML text, a table for each check, by its id.

    >>> parse_words('[eq1]\\nsentence = "It falls."')["eq1"].sentence
    'It falls.'
    """
    return {
        name: Words(**{**entry, "equations": tuple(entry.get("equations", ()))})
        for name, entry in tomllib.loads(text).items()
    }


def parse_protocols(text: str) -> dict[str, tuple[str, ...]]:
    """The sentences on how each shared measurement is made, from the table `protocol` of a TOML.

    >>> parse_protocols('[protocol]\\nruns = ["Four seeds."]')
    {'runs': ('Four seeds.',)}
    """
    return {name: tuple(entry) for name, entry in tomllib.loads(text)["protocol"].items()}
