"""Where a number came from: versions, hardware and data, never a host's name or a folder."""

import os
import platform
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
    found: dict[str, Any] = {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": cores,
    }
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return found
    return found | {"memory_gib": round(memory / 2**30, 1)}
