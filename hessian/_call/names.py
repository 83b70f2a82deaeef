"""Names of parameters, which wrappers lengthen."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

# Parts of a name that wrappers put in: DistributedDataParallel, torch.compile, checkpoint, FSDP.
PREFIXES = {"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}


def bare(name: str) -> str:
    """A parameter's name without what wrappers put in.

    >>> bare("module._orig_mod.0.weight")
    '0.weight'
    """
    parts = name.split(".")
    return ".".join([part for part in parts[:-1] if part not in PREFIXES] + parts[-1:])


def matching(name: object, names: Iterable[str]) -> str | None:
    """The one of the names that is this one but for wrappers; ``None`` for none or several.

    >>> matching("module.0.weight", ["_orig_mod.0.weight", "_orig_mod.0.bias"])
    '_orig_mod.0.weight'
    """
    if not isinstance(name, str):
        return None
    alike = [each for each in names if bare(each) == bare(name)]
    return alike[0] if len(alike) == 1 else None


def fits(name: str, pattern: str) -> bool:
    """Whether a parameter's name fits a pattern, as `fnmatch` has them, with or without wrappers.

    >>> fits("module.layer1.0.weight", "layer1.*"), fits("module.layer1.0.weight", "module.*")
    (True, True)
    """
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(bare(name), pattern)
