"""The paper's claims: a registry of what they say, and one module each for how they are tried."""

from importlib import import_module

from paper_checks.check import Check, check_of
from paper_checks.papers.gao2020.statements import CLAIMS
from paper_checks.statements import Claim

__all__ = ["CLAIMS", "Claim", "claim_check"]


def claim_check(name: str) -> Check:
    """The check of the claim called `name`; its judge reads its thresholds from the registry.

    >>> claim_check("claim-minimum-at-zero").criterion_hash == CLAIMS["claim-minimum-at-zero"].hash
    True

    Raises `KeyError` for a name the registry does not have.
    """
    claim = CLAIMS[name]
    # The module of a claim is called as the claim is.
    module = import_module(f"{__name__}.{name.removeprefix('claim-').replace('-', '_')}")
    return check_of(claim, "claim", module)
