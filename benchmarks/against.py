"""`hessian.diagonal` of this tree beside that of another commit, in one run.

    python benchmarks/against.py COMMIT [--only NAME ...] [--rounds 200] [--seconds 60]

The other commit is unpacked to a temporary folder, and both packages live in one process. They take
turns, call by call, and what is reported is the median of the ratios within a turn (this tree over
the other: below 1 is faster) with its quartiles, so that a machine whose speed drifts does not
matter, nor what differs from process to process. Both must give the same diagonal. The first row is
the other commit beside itself: what it differs from 1 is the noise of the run.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import cases
import torch
import torch.nn.functional as F

CASES = (
    "tanh-256",
    "tanh-512",
    "residual-128",
    "alexnet-quarter",
    "alexnet-100-classes",
    "alexnet",
)
PACKAGE = "hessian"
HERE = Path(__file__).resolve().parent.parent
# Largest relative difference of two float32 results that differ by the order of their sums.
SAME = 1e-3


def unpack(commit: str, folder: Path) -> None:
    archive = subprocess.run(
        ["git", "archive", commit], check=True, stdout=subprocess.PIPE, cwd=HERE
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


class Tree:
    """The package of one tree, beside others of the same name."""

    def __init__(self, folder: Path) -> None:
        for name in _loaded():
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        package = __import__(PACKAGE)
        sys.path.remove(str(folder))
        if not Path(package.__file__ or "").resolve().is_relative_to(folder.resolve()):
            raise SystemExit(f"{PACKAGE} was imported from {package.__file__}, not from {folder}")
        self.package, self.modules = package, _loaded()

    def diagonal(self, case: cases.Case) -> Any:
        """The result; imports that a call makes are this tree's own."""
        sys.modules.update(self.modules)
        return self.package.diagonal(case.model, F.cross_entropy, (case.x, case.y))

    def seconds(self, case: cases.Case) -> float:
        start = time.perf_counter()
        self.diagonal(case)
        return time.perf_counter() - start


def _loaded() -> dict[str, ModuleType]:
    return {name: m for name, m in sys.modules.items() if name.split(".")[0] == PACKAGE}


def difference(case: cases.Case, here: Tree, there: Tree) -> float:
    """Largest difference of two diagonals, relative to a tensor's largest entry."""
    ours, theirs = here.diagonal(case), there.diagonal(case)
    return max(
        float((ours[name] - h).abs().max() / h.abs().max().clamp_min(1e-30))
        for name, h in theirs.items()
    )


def compare(label: str, case: cases.Case, here: Tree, there: Tree, options: Any) -> None:
    gap = difference(case, here, there)
    if gap > SAME:
        raise SystemExit(f"{label}: the two trees give other diagonals (they differ by {gap:.1e})")
    rounds = int(options.seconds / (here.seconds(case) + there.seconds(case)))
    rounds = max(9, min(options.rounds, rounds))
    gc.collect()
    pairs = []
    for turn in range(rounds):
        if turn % 2:
            first = here.seconds(case)
            pairs.append((first, there.seconds(case)))
        else:
            second = there.seconds(case)
            pairs.append((here.seconds(case), second))
    low, middle, high = statistics.quantiles((a / b for a, b in pairs), n=4)
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{label:20} {ours:9.4f} s {theirs:9.4f} s {middle:6.3f}  ({low:.3f} to {high:.3f}) "
        f"{rounds:5d} rounds, difference {gap:.0e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the commit to compare with, e.g. HEAD~1")
    parser.add_argument("--only", nargs="*", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=200, help="at most so many turns a case")
    parser.add_argument("--seconds", type=float, default=60, help="at most so long a case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unpack(options.commit, Path(folder))
        here, there = Tree(HERE), Tree(Path(folder))
        print(f"{torch.get_num_threads()} threads")
        print(f"{'case':20} {'this tree':>11} {'the other':>11} {'ratio':>6}  (quartiles)")
        beside = Tree(Path(folder))
        for name in options.only:
            case = cases.named(name)
            if name == options.only[0]:
                compare("noise", case, beside, there, options)
            compare(name, case, here, there, options)


if __name__ == "__main__":
    main()
