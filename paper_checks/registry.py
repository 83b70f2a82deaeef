"""Every check by its id."""

from collections.abc import Iterable
from difflib import get_close_matches

from paper_checks.check import Check
from paper_checks.errors import InputError
from paper_checks.papers.gao2020.figures import FIGURES, figure_check
from paper_checks.statements import CLAIMS

EQUATION_IDS = tuple(f"eq{label}" for label in range(1, 29))
_PAPER = {*FIGURES, "fig2", "fig3"}
FIGURE_IDS = (
    *(name for name in (f"fig{number}" for number in range(1, 17)) if name in _PAPER),
    "fig-law",
    *(name for name in FIGURES if name.startswith("fig-")),
)
IDS = EQUATION_IDS + FIGURE_IDS + tuple(CLAIMS)


def resolve(only: str | Iterable[str] | None) -> list[str]:
    """The ids asked for, in the order of `IDS`, each once; all of them for `None`.

    >>> resolve(["fig2", "eq4", "fig2"])
    ['eq4', 'fig2']

    Raises `InputError` for an unknown id, with the nearest known ones, and for an empty list.
    """
    if only is None:
        return list(IDS)
    asked = [only] if isinstance(only, str) else list(only)
    if not asked:
        raise InputError("--only", "nothing", "name at least one check, or leave it out for all")
    for name in asked:
        if name not in IDS:
            raise InputError("--only", repr(name), _remedy(name))
    return [name for name in IDS if name in asked]


def _remedy(name: str) -> str:
    claims = [known for known in CLAIMS if name and name.casefold() in known]
    near = claims[:3] or get_close_matches(name.casefold(), IDS, n=3, cutoff=0.4)
    if near:
        return f"no such check; did you mean {' or '.join(near)}?"
    return "no such check; there are eq1 to eq28, fig1 to fig16, fig-… and claim-…"


def build(name: str) -> Check:
    """The check called `name`; its packages are imported only now."""
    if name.startswith("eq"):
        from paper_checks.equations.checks import equation_check

        return equation_check(name.removeprefix("eq"))
    if name == "fig2":
        from paper_checks.papers.gao2020.figures.fig2 import FIG2

        return FIG2
    if name == "fig3":
        from paper_checks.papers.gao2020.figures.fig3 import FIG3

        return FIG3
    if name == "fig-law":
        from paper_checks.papers.gao2020.figures.fig_law import FIG_LAW

        return FIG_LAW
    if name in FIGURES:
        return figure_check(name)
    from paper_checks.papers.gao2020.claims import claim_check

    return claim_check(name)


def rows_read(name: str) -> tuple[str, ...]:
    """The ledger's sweeps and measurements whose rows the check `name` reads; none without rows.

    >>> rows_read("fig4"), rows_read("fig3"), rows_read("eq4")
    (('first-epoch',), ('fig3',), ())
    """
    # Not an equation, whose check takes all of theory, nor what is said of a reader's own network.
    return build(name).rows if name in FIGURE_IDS or name in CLAIMS else ()
