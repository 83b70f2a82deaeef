"""The claims as data: quotation, criterion, thresholds, and a hash that shows a later change."""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType


@dataclass(frozen=True)
class Claim:
    """One testable sentence of the paper and what would make it stand or fall."""

    id: str
    title: str
    section: str
    quotation: str
    criterion: str
    thresholds: Mapping[str, float]

    @property
    def hash(self) -> str:
        """The sha256 of quotation and criterion, numbers included, as 64 hexadecimal digits."""
        return hashlib.sha256(f"{self.quotation}\n{self.criterion}".encode()).hexdigest()


def parse(text: str) -> dict[str, Claim]:
    """The claims in a TOML text, by id; the thresholds' numbers are set into each criterion.

    Raises `ValueError` for a claim that lacks a part, has an unknown one, or names a threshold
    that its criterion does not state, so that no number can decide unseen.
    """
    claims: dict[str, Claim] = {}
    for entry in tomllib.loads(text)["claim"]:
        try:
            claim = Claim(**entry)
            stated = claim.criterion.format_map(claim.thresholds)
        except (KeyError, TypeError) as error:
            raise ValueError(f"claim {entry.get('id', '?')}: {error}") from None
        unstated = [name for name in claim.thresholds if f"{{{name}}}" not in claim.criterion]
        if unstated:
            raise ValueError(f"claim {claim.id}: its criterion does not state {unstated[0]}")
        if claim.id in claims:
            raise ValueError(f"claim {claim.id}: appears twice")
        claims[claim.id] = Claim(
            claim.id,
            claim.title,
            claim.section,
            claim.quotation,
            stated,
            MappingProxyType(dict(claim.thresholds)),
        )
    return claims


CLAIMS: Mapping[str, Claim] = MappingProxyType(
    parse(files("paper_checks.claims").joinpath("registry.toml").read_text(encoding="utf-8"))
)
