"""The claims of this paper as data."""

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

from paper_checks.statements import Claim, parse

CLAIMS: Mapping[str, Claim] = MappingProxyType(
    parse(files(__package__).joinpath("claims", "registry.toml").read_text(encoding="utf-8"))
)
