"""The papers under audit: a folder of statements each, found by its name.

A paper is a folder with a module `paper` that holds a `PAPER`, a `paper_checks.paper.Paper`. What
judges papers finds them here by name and knows none of them.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paper_checks.paper import Paper

# The one that is audited where none is named.
USUAL = "gao2020"
NAMES = tuple(sorted(module.name for module in iter_modules(__path__) if module.ispkg))


@cache
def paper(name: str = USUAL) -> "Paper":
    """The paper in the folder `name`.

    >>> paper().name
    'gao2020'

    Raises `KeyError` for a name that no folder has.
    """
    if name not in NAMES:
        raise KeyError(name)
    record: Paper = import_module(f"{__name__}.{name}.paper").PAPER
    return record
