"""The recipes of CONTRIBUTING.md are followed, literally, on a copy of the packages."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"(?:^`(?P<path>[\w/.]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.S | re.M
)


def recipe(title):
    """The new files by their paths and the changes, in their order, of one section."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.S | re.M).group(1)
    files, changes = {}, []
    for block in BLOCK.finditer(section):
        if block["kind"] == "diff":
            changes.append(block["body"])
        else:
            files[block["path"]] = block["body"]
    return files, changes


def change(folder, text):
    """Apply a block: the lines that stay or go stand in the file once, one after another."""
    head, *lines = text.splitlines()
    path = folder / head.removeprefix("--- ")
    old = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
    new = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
    content = path.read_text(encoding="utf-8")
    assert content.count(old) == 1, f"{path.name} holds {content.count(old)} times:\n{old}"
    path.write_text(content.replace(old, new), encoding="utf-8")


def run(folder, *command):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def followed(tmp_path):
    """What was written where, when a section's recipe is followed in a folder with the packages."""

    def follow(title):
        for package in ("hessian", "sim"):
            shutil.copytree(
                ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, tmp_path)
        files, changes = recipe(title)
        assert len(files) == 2
        assert len(changes) == 3
        for name, body in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(body, encoding="utf-8")
        for text in changes:
            change(tmp_path, text)
        return [*files], [*files, *{text.split()[1] for text in changes}]

    return follow


@pytest.mark.parametrize("title", ["Adding an optimizer rule", "Adding a data set"])
def test_a_recipe_is_followed(title, followed, tmp_path):
    files, touched = followed(title)
    run(tmp_path, "ruff", "check", *touched)
    run(tmp_path, "ruff", "format", "--check", *touched)
    run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", *files)


def test_the_recipe_of_an_operation_is_followed(tmp_path):
    """Without the row the route is not proved; with it the network of the recipe passes."""
    for part in ("hessian", "tests/hessian"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=skipped)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    files, (row, network) = recipe("Adding an operation")
    assert not files
    change(tmp_path, network)
    tests = ("pytest", "-q", "-p", "no:cacheprovider", "tests/hessian/test_operations.py")
    with pytest.raises(AssertionError, match="is not proved to be exact"):
        run(tmp_path, *tests, "-k", "erfcx or Erfcx")
    change(tmp_path, row)
    run(tmp_path, *tests, "-k", "erfcx or Erfcx")
    touched = [text.split()[1] for text in (row, network)]
    run(tmp_path, "ruff", "check", *touched)
    run(tmp_path, "ruff", "format", "--check", *touched)


@pytest.mark.slow
def test_the_rule_of_the_recipe_passes_the_suite_of_all_rules(followed, tmp_path):
    followed("Adding an optimizer rule")
    suite = "tests/sim/optimizers/test_suite.py"
    shutil.copy(ROOT / suite, tmp_path / suite)
    run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", suite, "-k", "MeanSize")


def test_a_change_that_does_not_fit_is_seen(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    with pytest.raises(AssertionError, match="2 times"):
        change(tmp_path, "--- a.py\n-x = 1\n+x = 2\n")
    with pytest.raises(AssertionError, match="0 times"):
        change(tmp_path, "--- a.py\n x = 3\n+x = 2\n")


def test_what_it_names_is_there():
    made = {
        path for title in re.findall(r"^## (Adding .*)$", TEXT, re.M) for path in recipe(title)[0]
    }
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*)`", TEXT))
    assert {"sim/training/config", "tests/test_house.py"} <= named
    # What a command makes is not there on a fresh clone.
    absent = {name for name in named - made - {"report/index.html"} if not (ROOT / name).exists()}
    assert absent == set()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake (\w+)`|^make (\w+)$", TEXT, re.M)):
        assert re.search(rf"^{''.join(target)}:", makefile, re.M), target
