"""The tables in the docs are those of the records."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("table", ["rules", "digits", "cifar10", "steps"])
def test_the_docs_say_what_was_measured(table):
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.TABLES[table]() in (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("table", "page"),
    [
        ("diagonals", "benchmarks/README.md"),
        ("growth", "benchmarks/README.md"),
        ("estimators", "docs/estimators.md"),
    ],
)
def test_the_pages_of_the_diagonal_say_what_was_measured(table, page):
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.TABLES[table]() in (ROOT / page).read_text(encoding="utf-8")
