"""Where a number came from: versions, hardware and data, never a host's name or a folder."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("cblr", "torch", "numpy", "scipy", "sympy", "pandas", "matplotlib", "scikit-learn")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The version of Python and of every package whose numbers are in the report."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


@lru_cache(maxsize=1)
def hardware() -> dict[str, Any]:
    """The processor, its cores that this process may use, and the memory in GiB."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    machine: dict[str, Any] = {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": cores,
    }
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return machine
    return machine | {"memory_gib": round(memory / 2**30, 1)}


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit of this checkout, with a `+` where its code was changed since; else `unknown`.

    >>> len(commit()) in (7, 12, 13)
    True
    """
    here = Path(__file__).resolve().parent
    top = _git(here, "rev-parse", "--show-toplevel")
    if top is None or Path(top) != here.parent:
        return "unknown"
    name = _git(here, "rev-parse", "HEAD") or "unknown"
    packages = ("theory", "hessian", "sim", "paper_checks")
    changed = _git(Path(top), "status", "--porcelain", "--", *(f"{p}/*.py" for p in packages))
    return name[:12] + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    """What git answers there, or nothing where it has none."""
    try:
        done = subprocess.run(
            ("git", "-C", str(folder), *words), capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine() -> str:
    """The kind of processor, without a host's name."""
    return f"{platform.machine()}, {_processor()}"


def now() -> str:
    """The time in UTC, to the second.

    >>> now()[-1]
    'Z'
    """
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
