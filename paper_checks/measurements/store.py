"""Measurements kept on disk, so that a killed audit goes on and a finished one is not repeated."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paper_checks.files import write_atomically
from paper_checks.papers import USUAL
from paper_checks.result import plain

# What any measurement may depend on: the packages under audit, and what all checks share.
_PACKAGES = ("theory", "hessian", "sim")
_SHARED = ("context", "profile", "cells", "lab")


class Store:
    """A folder of measurements, each under a key that names everything it depends on.

    `facts` are the configuration: sizes, data, device, versions. A change of these, of a source
    file of `theory`, `hessian` or `sim`, or of the module that measures gives another key, so that
    nothing stale is ever read. `None` for the folder keeps nothing.
    """

    def __init__(self, folder: Path | None, facts: Mapping[str, Any], of: str = USUAL) -> None:
        self._folder = folder
        self._of = of
        self._facts = json.dumps(plain(facts), sort_keys=True)

    def path(self, name: str, make: Callable[..., Any]) -> Path | None:
        """Where the measurement `name`, made by `make`, is kept."""
        if self._folder is None:
            return None
        text = "\n".join((self._facts, common_source(self._of), source(make)))
        return self._folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"

    def get(self, name: str, make: Callable[..., Any]) -> dict[str, Any] | None:
        """What is kept under `name`, or nothing; a damaged file counts as nothing."""
        path = self.path(name, make)
        if path is None or not path.exists():
            return None
        try:
            stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return stored

    def put(self, name: str, make: Callable[..., Any], value: Mapping[str, Any]) -> None:
        """Keep `value` under `name`, whole or not at all."""
        path = self.path(name, make)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(plain(value), allow_nan=False))


def source(make: Callable[..., Any]) -> str:
    """The sha256 of the file that holds `make`."""
    path = _file(make)
    return "" if path is None else _digest((path,))


def source_path(make: Callable[..., Any]) -> str:
    """The file that holds `make`, from its package on.

    >>> source_path(source_path)
    'paper_checks/measurements/store.py'
    """
    path = _file(make)
    if path is None:
        return ""
    parts = path.parts
    start = max(
        (k for k, part in enumerate(parts) if part == "paper_checks"), default=len(parts) - 1
    )
    return "/".join(parts[start:])


def _file(make: Callable[..., Any]) -> Path | None:
    # Of a judge that is data the function is what it reads with.
    function = getattr(make, "keywords", {}).get("read", make)
    function = getattr(function, "func", function)
    path = getattr(sys.modules.get(getattr(function, "__module__", "")), "__file__", None)
    return None if path is None else Path(path)


@lru_cache(maxsize=8)
def common_source(of: str = USUAL) -> str:
    """The sha256 of every source file that any measurement of a paper may depend on."""
    return _digest(shared_files(of))


def shared_files(of: str = USUAL) -> tuple[Path, ...]:
    """The files of the packages under audit, and what several checks of a paper measure with."""
    paths: list[Path] = []
    for package in _PACKAGES:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            paths += sorted(Path(spec.origin).parent.rglob("*.py"))
    here = Path(__file__).parent
    checks = here.parent
    paths += [here / f"{name}.py" for name in _SHARED]
    paths += sorted((here / "branching").glob("*.py"))
    # Helpers that several figures or claims of a paper measure with; of that paper alone.
    paths += sorted(
        path
        for pattern in ("figures/_*.py", "claims/_*.py", "measurements/**/*.py")
        for path in (checks / "papers" / of).glob(pattern)
    )
    return tuple(paths)


@lru_cache(maxsize=256)
def _digest(paths: tuple[Path, ...]) -> str:
    sha256 = hashlib.sha256()
    for path in paths:
        sha256.update(path.name.encode() + b"\0" + path.read_bytes())
    return sha256.hexdigest()
