"""How each claim of this paper is tried: what it reads, and a pure judge."""

from paper_checks.check import Check, check_of
from paper_checks.papers.mccandlish2018.claims import branches, points
from paper_checks.papers.mccandlish2018.statements import CLAIMS

TRIALS = points.TRIALS | branches.TRIALS


def claim_check(name: str) -> Check:
    """The check of the claim called `name`.

    >>> claim_check("claim-width").criterion_hash == CLAIMS["claim-width"].hash
    True

    Raises `KeyError` for a name the registry does not have.
    """
    return check_of(CLAIMS[name], "claim", TRIALS[name])
