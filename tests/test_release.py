"""What a release says of itself: one version, and the same in every place."""

import re
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import yaml

import hessian
import paper_checks
import sim
import theory

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("package", [hessian, paper_checks, sim, theory])
def test_the_packages_have_the_version_of_the_distribution(package):
    assert package.__version__ == version("cblr")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_a_source_tree_that_is_not_installed_says_so(monkeypatch):
    from importlib import metadata as installed

    from hessian._runtime.release import release

    def absent(name):
        raise installed.PackageNotFoundError(name)

    monkeypatch.setattr(installed, "version", absent)
    assert release() == "0+unknown"


def test_the_citation_is_of_this_release():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]
    assert {"cff-version", "message", "title", "type"} <= set(citation)


def test_the_changelog_begins_with_this_release():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## \[?([^\]\s]+)", text, re.M)[1]
    assert first in ("Unreleased", PROJECT["version"])


def test_classifiers_and_addresses_are_there():
    classifiers = PROJECT["classifiers"]
    assert any(line.startswith("Operating System ::") for line in classifiers)
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {lowest}" in classifiers
    pythons = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in classifiers:
        if found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line):
            assert f"python{found[1]}" in pythons, "`make pythons` tries what is promised"
    assert PROJECT["urls"]
    assert PROJECT["authors"]
    assert metadata("cblr")["Name"] == "cblr"
