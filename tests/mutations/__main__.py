"""Run the deliberate errors: ``python -m tests.mutations [WORD ...]``.

Each is made in a copy of the tree, and the tests are run on the copy until one fails. A survivor
is an error that no test sees: the status is then 1. With words, only mutations that contain one of
them in their description or file are run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutations.catalogue import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]


def broken(mutation: Mutation, folder: Path) -> None:
    """Make the error in the copy."""
    file = folder / "hessian" / mutation.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutation.before) != 1:
        raise SystemExit(
            f"{mutation.file} holds {mutation.before!r} {text.count(mutation.before)} times"
        )
    file.write_text(text.replace(mutation.before, mutation.after), encoding="utf-8")


def failing(folder: Path, tests: list[str]) -> str:
    """The first test that fails on the copy, empty where all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no",
               "-o", "addopts=", "-m", "not slow and not gpu and not browser",
               "--import-mode=importlib", *tests]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0] if lines else f"pytest ended with {done.returncode}"


def main() -> int:
    words = sys.argv[1:]
    chosen = [m for m in MUTATIONS if not words or any(w in m.what + m.file for w in words)]
    survivors = []
    for number, mutation in enumerate(chosen, 1):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "tree"
            skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "report")
            shutil.copytree(ROOT, folder, ignore=skipped)
            broken(mutation, folder)
            near = [f"tests/hessian/{file}" for file in mutation.tests.split()]
            seen = failing(folder, near) or failing(folder, ["tests/hessian"])
        if not seen:
            survivors.append(mutation)
        took = f"{time.perf_counter() - start:.0f} s"
        print(
            f"{number:3}/{len(chosen)} {took:>6} {mutation.what}: {seen or 'SURVIVES'}", flush=True
        )
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} deliberate errors were seen")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
