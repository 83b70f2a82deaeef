"""The claims as data: quotation, criterion, thresholds, and a hash that shows a later change."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from paper_checks.check import Check, digest


@dataclass(frozen=True)
class Claim:
    """One testable sentence of the paper and what would make it stand or fall.

    `shown` is the figure in which to see it, where that is not the one of the same measurements.
    """

    id: str
    title: str
    section: str
    quotation: str
    criterion: str
    thresholds: Mapping[str, float]
    shown: str = ""

    @property
    def hash(self) -> str:
        """The sha256 of quotation and criterion, numbers included, as 64 hexadecimal digits."""
        return digest(self.quotation, self.criterion)

    def check(self, kind: str, module: Any) -> Check:
        """The check that `module` makes of it; its judge reads the thresholds from here."""
        return Check(
            id=self.id,
            kind=kind,
            title=self.title,
            section=self.section,
            statement=self.quotation,
            criterion=self.criterion,
            measure=module.measure,
            judge=partial(module.judge, thresholds=self.thresholds),
            draw=getattr(module, "draw", None),
            protocol=module.PROTOCOL,
            criterion_hash=self.hash,
            needs_data=getattr(module, "NEEDS_DATA", True),
        )


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


CLAIMS: Mapping[str, Claim] = MappingProxyType(
    parse(files("paper_checks.claims").joinpath("registry.toml").read_text(encoding="utf-8"))
)
