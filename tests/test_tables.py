"""The tables in the docs are those of the records in benchmarks/results."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
TABLES = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(TABLES)

PAGES = {
    "docs/optimizers.md": ("rules", "digits", "cifar10", "steps"),
    "docs/training.md": ("monitor", "throughput", "lanes"),
    "README.md": ("peers",),
    "docs/comparison.md": ("peers",),
    "benchmarks/README.md": ("diagonals", "growth"),
    "docs/estimators.md": ("estimators",),
    "docs/spectrum.md": ("spectrum",),
}


@pytest.mark.parametrize(
    ("page", "table"), [(page, table) for page, tables in PAGES.items() for table in tables]
)
def test_the_page_says_what_was_measured(page, table):
    assert TABLES.TABLES[table]() in (ROOT / page).read_text(encoding="utf-8")


def test_every_table_has_its_page():
    assert set(TABLES.TABLES) == {table for tables in PAGES.values() for table in tables}
