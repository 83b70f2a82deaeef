"""Every check of a paper by its id."""

from collections.abc import Iterable
from difflib import get_close_matches

from paper_checks.check import Check
from paper_checks.errors import InputError
from paper_checks.papers import NAMES, USUAL, paper

IDS = paper().ids
EQUATION_IDS = tuple(name for name in IDS if name.startswith("eq"))
FIGURE_IDS = tuple(name for name in IDS if name.startswith("fig"))


def known(name: str) -> str:
    """The name of a paper.

    >>> known(USUAL) == USUAL
    True

    Raises `InputError` for a name that no paper has.
    """
    if name not in NAMES:
        raise InputError("--paper", repr(name), f"choose one of {', '.join(NAMES)}")
    return name


def resolve(only: str | Iterable[str] | None, of: str = USUAL) -> list[str]:
    """The ids asked for of a paper, in its order, each once; all of them for `None`.

    >>> resolve(["fig2", "eq4", "fig2"])
    ['eq4', 'fig2']

    Raises `InputError` for an unknown id, with the nearest known ones, and for an empty list.
    """
    ids = paper(of).ids
    if only is None:
        return list(ids)
    asked = [only] if isinstance(only, str) else list(only)
    if not asked:
        raise InputError("--only", "nothing", "name at least one check, or leave it out for all")
    for name in asked:
        if name not in ids:
            raise InputError("--only", repr(name), _remedy(name, of))
    return [name for name in ids if name in asked]


def _remedy(name: str, of: str) -> str:
    claims = [known for known in paper(of).claims if name and name.casefold() in known]
    near = claims[:3] or get_close_matches(name.casefold(), paper(of).ids, n=3, cutoff=0.4)
    if near:
        return f"no such check; did you mean {' or '.join(near)}?"
    return f"no such check; there are {paper(of).range_of_ids}"


def build(name: str, of: str = USUAL) -> Check:
    """The check called `name` of a paper; its packages are imported only now."""
    return paper(of).build(name)


def rows_read(name: str, of: str = USUAL) -> tuple[str, ...]:
    """The ledger's sweeps and measurements whose rows the check `name` reads; none without rows.

    >>> rows_read("fig4"), rows_read("fig3"), rows_read("eq4")
    (('first-epoch',), ('fig3',), ())
    """
    # Not an equation, whose check takes all of theory, nor what is said of a reader's own network.
    return build(name, of).rows if name in paper(of).ids and not name.startswith("eq") else ()
