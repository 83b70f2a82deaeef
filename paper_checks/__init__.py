"""Confronts theory with simulation: verdicts, figures, the report.

| question | call |
|---|---|
| Does the paper hold? | `run()`, or `cblr audit` in a shell |
| Do stored measurements still give their verdicts? | `rejudge("report/results.json")` |
| Which checks are there? | `IDS` |
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paper_checks.errors import InputError as InputError
    from paper_checks.registry import IDS as IDS
    from paper_checks.result import Result as Result
    from paper_checks.running.runner import Interrupted as Interrupted
    from paper_checks.running.runner import rejudge as rejudge
    from paper_checks.running.runner import run as run

    __version__: str

__all__ = ["IDS", "InputError", "Interrupted", "Result", "rejudge", "run"]

# Imported when first asked for: the command `cblr` sees to Ctrl-C before anything that takes time.
_PLACES = {
    "IDS": "registry",
    "InputError": "errors",
    "Interrupted": "running.runner",
    "Result": "result",
    "rejudge": "running.runner",
    "run": "running.runner",
}


def __getattr__(name: str) -> Any:
    """A public name, from the module that has it."""
    if name not in _PLACES and name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        from hessian._runtime.release import release

        return release()
    from paper_checks.extras import absence

    if name in ("run", "rejudge") and (sentence := absence(f"{__name__}.{name}")):
        raise ModuleNotFoundError(sentence)
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted({*globals(), *__all__})
