"""The figures, the paper's and those beyond it: a registry of statements, and one module each."""

from collections.abc import Mapping
from importlib import import_module
from importlib.resources import files
from types import MappingProxyType

from paper_checks.check import Check, check_of
from paper_checks.statements import Claim, parse

__all__ = ["FIGURES", "figure_check"]

FIGURES: Mapping[str, Claim] = MappingProxyType(
    parse(
        files("paper_checks.papers.gao2020.figures")
        .joinpath("registry.toml")
        .read_text(encoding="utf-8"),
        "figure",
    )
)


def figure_check(name: str) -> Check:
    """The check of the figure called `name`; its judge reads its thresholds from the registry.

    >>> figure_check("fig9").criterion_hash == FIGURES["fig9"].hash
    True

    Raises `KeyError` for a name the registry does not have.
    """
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    return check_of(FIGURES[name], "figure", module)
