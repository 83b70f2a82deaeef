"""The claims of this paper as data."""

from importlib.resources import files

from paper_checks.statements import parse, parse_protocols

_TEXT = files(__package__).joinpath("claims", "registry.toml").read_text(encoding="utf-8")
CLAIMS, PROTOCOLS = parse(_TEXT), parse_protocols(_TEXT)
