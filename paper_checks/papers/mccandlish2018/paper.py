"""McCandlish et al. (2018), as the engine asks for it."""

from paper_checks.check import Check
from paper_checks.ledger.rows import EVIDENCE
from paper_checks.paper import Paper, texts
from paper_checks.papers.mccandlish2018.measurements import shared
from paper_checks.papers.mccandlish2018.measurements.context import Setup
from paper_checks.papers.mccandlish2018.measurements.profile import profile
from paper_checks.papers.mccandlish2018.statements import CLAIMS, PROTOCOLS

NAME = Setup.paper
EQUATION_IDS = tuple(f"eq{label}" for label in range(1, 11))


def build(name: str) -> Check:
    """The check called `name`; its packages are imported only now.

    >>> build("claim-width").criterion_hash == CLAIMS["claim-width"].hash
    True

    Raises `KeyError` for a name that is none.
    """
    if name.startswith("eq"):
        from paper_checks.equations.checks import equation_check
        from paper_checks.papers.mccandlish2018.equations import EQUATIONS
        from paper_checks.papers.mccandlish2018.experiments import EXPERIMENTS

        label = name.removeprefix("eq")
        return equation_check(EQUATIONS[label], EXPERIMENTS.get(label))
    from paper_checks.judges import declared
    from paper_checks.papers.mccandlish2018.claims import branches, points

    claim = CLAIMS[name]
    module = branches if claim.judge["reads"] == "branches" else points
    return declared(claim, module, shared.MEASURES, PROTOCOLS)


PAPER = Paper(
    name=NAME,
    ids=EQUATION_IDS + tuple(CLAIMS),
    build=build,
    claims=CLAIMS,
    **texts(__package__),
    evidence=EVIDENCE / NAME,
    context=Setup,
    profile=profile,
    usual_dataset=lambda profile: "digits",
    seconds=shared.seconds,
)
