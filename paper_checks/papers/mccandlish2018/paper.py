"""McCandlish et al. (2018), as the engine asks for it."""

import tomllib
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from paper_checks.check import Check
from paper_checks.ledger.rows import EVIDENCE
from paper_checks.paper import Overview, Paper
from paper_checks.papers.mccandlish2018.measurements import shared
from paper_checks.papers.mccandlish2018.measurements.context import Setup
from paper_checks.papers.mccandlish2018.measurements.profile import profile
from paper_checks.papers.mccandlish2018.statements import CLAIMS
from paper_checks.statements import parse_words

NAME = Setup.paper
EQUATION_IDS = tuple(f"eq{label}" for label in range(1, 11))


def build(name: str) -> Check:
    """The check called `name`; its packages are imported only now."""
    if name.startswith("eq"):
        from paper_checks.equations.checks import equation_check
        from paper_checks.papers.mccandlish2018.equations import EQUATIONS
        from paper_checks.papers.mccandlish2018.experiments import EXPERIMENTS

        label = name.removeprefix("eq")
        return equation_check(EQUATIONS[label], EXPERIMENTS.get(label))
    from paper_checks.papers.mccandlish2018.claims import claim_check

    return claim_check(name)


def _usual_dataset(profile: str) -> str:
    return "digits"


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


_OVERVIEW: dict[str, Any] = tomllib.loads(_text("overview.toml"))
PAPER = Paper(
    name=NAME,
    title="An audit of “An Empirical Model of Large-Batch Training”",
    lead=(
        "McCandlish, Kaplan, Amodei et al. (2018), in words of our own. Each equation is derived "
        "anew and tried on numbers; each claim is measured with the exact Hessian along gradient "
        "and noise, and judged by a criterion that was fixed before the run."
    ),
    ids=EQUATION_IDS + tuple(CLAIMS),
    build=build,
    claims=CLAIMS,
    words=MappingProxyType(parse_words(_text("words.toml"))),
    overview=Overview(
        tuple(_OVERVIEW["statements"]),
        tuple(_OVERVIEW["advice"]),
        "What it means for the choice of a batch size",
    ),
    evidence=EVIDENCE / NAME,
    context=Setup,
    profile=profile,
    usual_dataset=_usual_dataset,
    seconds=shared.seconds,
)
