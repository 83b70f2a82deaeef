"""The built wheel, installed apart from the source tree, works by itself."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command, cwd, **environment):
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that holds the installed wheel and nothing else of ours."""
    dist, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    # Without isolation: the back end is already here, and nothing is downloaded.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", dist, ROOT, cwd=dist)
    (wheel,) = dist.glob("cblr-*.whl")
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(sys.executable, *install, "--target", site, wheel, cwd=dist)
    return wheel, site


def test_it_holds_every_source_and_data_file(site):
    wheel, _ = site
    held = set(zipfile.ZipFile(wheel).namelist())
    for package in ("theory", "hessian", "sim", "paper_checks"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(ROOT)) in held
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in held)


def test_it_runs_an_audit_away_from_the_source(site, tmp_path):
    _, folder = site
    where = "import theory, hessian, sim, paper_checks as p; print(p.__file__)"
    assert str(folder) in run(
        sys.executable, "-P", "-c", where, cwd=tmp_path, PYTHONPATH=str(folder)
    )
    cblr = "from paper_checks.cli import main; main()"
    out = run(
        sys.executable, "-P", "-c", cblr, "audit", "--only", "eq4", "--out", tmp_path / "r",
        cwd=tmp_path, PYTHONPATH=str(folder),
    )  # fmt: skip
    assert "wrong constant" in out
    assert (tmp_path / "r" / "index.html").is_file()
