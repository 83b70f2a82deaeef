"""A module with a deliberate error, for tests that must see it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def mutant(
    source: Path, right: str, wrong: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """The module in `source` with its one `right` replaced by `wrong`."""
    text = source.read_text(encoding="utf-8")
    assert text.count(right) == 1
    path = folder / "mutant.py"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mutant", path)
    assert spec is not None
    assert spec.loader is not None
    changed = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutant", changed)
    spec.loader.exec_module(changed)
    return changed
