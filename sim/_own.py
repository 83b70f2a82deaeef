"""Objects of the reader's own, named as `package.module:object`."""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sim import _arguments


def is_own(name: object) -> bool:
    """Whether a name is one of these.

    >>> is_own("mine:network"), is_own("mlp")
    (True, False)
    """
    return isinstance(name, str) and ":" in name


def named(path: str) -> Any:
    """What `package.module:object` names; the current folder is importable.

    Raises:
        ValueError: it is not written like that, the module cannot be imported, or has no such
            object.

    >>> named("math:pi")
    3.141592653589793
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"got {path!r}; write it as package.module:name")
    here = os.getcwd()
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        # Whatever a reader's module raises on import, the remedy is the reader's.
        raise ValueError(f"got {path!r}; {module} cannot be imported ({told(error)})") from None
    finally:
        os.chdir(here)  # where the files go, whatever the module does when it is imported
        if added and here in sys.path:
            # From now on behind all else: a file of the reader's may be called as one of Python's.
            sys.path.remove(here)
            sys.path.append(here)
    value: Any = imported
    for part in name.split("."):
        if not hasattr(value, part):
            raise ValueError(f"got {path!r}; {module} has no {name!r}")
        value = getattr(value, part)
    return value


def told(error: BaseException) -> str:
    """What went wrong in a reader's code, on one line that is not too long.

    >>> told(KeyError("weight")), told(SystemExit(3))
    ("KeyError: 'weight'", 'SystemExit: 3')
    """
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= 300 else f"{text[:300]}…"


def made(path: str, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What a reader's function returns, or a refusal in which it is named.

    Raises:
        ValueError: it raised something.
    """
    try:
        return function(*arguments, **keywords)
    except (Exception, SystemExit) as error:
        raise ValueError(f"got {path!r}; it ended in {told(error)}") from error


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function may be called with such a keyword.

    >>> takes(lambda a, *, b: 0, "b"), takes(lambda a: 0, "b"), takes(lambda **k: 0, "b")
    (True, False, True)
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # built in
        return True
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named_ones = (p for p in parameters.values() if p.kind is not p.POSITIONAL_ONLY)
    return any_name or name in {p.name for p in named_ones}


def check_options(owner: str, function: Callable[..., Any], names: Iterable[str]) -> None:
    """Refuse a keyword that a reader's function does not have."""
    for name in names:
        if not takes(function, name):
            possible = list(inspect.signature(function).parameters)
            raise ValueError(
                f"{name}: no such option for {owner}; its arguments are: "
                f"{', '.join(possible) or 'none'}{_arguments.did_you_mean(name, possible)}"
            )


def sources(names: Iterable[str]) -> Mapping[str, str]:
    """Own names → the SHA-256 of the file of their module, for a run's provenance."""
    digests = {}
    for name in names:
        if is_own(name):
            module = importlib.import_module(name.partition(":")[0])
            file = getattr(module, "__file__", None)
            content = Path(file).read_bytes() if file else b""
            digests[name] = hashlib.sha256(content).hexdigest()
    return digests
