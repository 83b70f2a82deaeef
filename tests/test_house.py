"""The directions of imports between the packages, read from the source without running it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"theory", "hessian", "sim", "paper_checks"}
# A prediction and its measurement must not share a formula, so `sim` never sees `theory`.
MAY_IMPORT = {
    "theory": set(),
    "hessian": set(),
    "sim": {"hessian"},
    "paper_checks": {"theory", "hessian", "sim"},
}
FOREIGN = {"theory": {"torch", "scipy.stats"}}


def imported(path: Path) -> set[str]:
    """Every absolute module name a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def offences(package: str, names: set[str]) -> set[str]:
    roots = {name.split(".")[0] for name in names}
    ours = (roots & OURS) - MAY_IMPORT[package] - {package}
    foreign = {
        name
        for name in names
        for banned in FOREIGN.get(package, set())
        if name == banned or name.startswith(banned + ".")
    }
    return ours | foreign


@pytest.mark.parametrize("package", sorted(OURS))
def test_import_directions(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {str(f.relative_to(ROOT)): offences(package, imported(f)) for f in files}
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_the_check_sees_an_offence(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from theory import EQUATIONS\n    import torch.nn\n")
    assert offences("sim", imported(bad)) == {"theory"}
    assert offences("theory", imported(bad)) == {"torch.nn"}
