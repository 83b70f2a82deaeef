"""`hessian.diagonal` of this tree beside that of another commit, in one run.

    python benchmarks/against.py COMMIT [--only NAME ...] [--rounds 15]

The other commit is unpacked to a temporary folder and imported by a process of its own, this tree
by another. The two take turns, call by call, and what is reported is the median of the ratios
within a turn (this tree over the other: below 1 is faster) with its quartiles, so that a machine
whose speed drifts does not matter. Both must give the same diagonal.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CASES = (
    "tanh-256",
    "tanh-512",
    "residual-128",
    "alexnet-quarter",
    "alexnet-100-classes",
    "alexnet",
)
# Largest relative difference of two float32 results that differ by the order of their sums.
SAME = 1e-3


def serve() -> None:
    """Answer every line, the name of a case or a number of calls, with a line of JSON."""
    import cases
    import contestants
    import torch

    case = None
    for line in sys.stdin:
        word = line.strip()
        if not word.isdigit():
            case = cases.named(word)
            result = contestants.ours(case)[0]
            sums = {name: float(h.double().abs().sum()) for name, h in result.items()}
            largest = {name: float(h.double().abs().max()) for name, h in result.items()}
            answer: Any = {"sums": sums, "largest": largest, "threads": torch.get_num_threads()}
        else:
            assert case is not None
            start = time.perf_counter()
            for _ in range(int(word)):
                contestants.ours(case)
            answer = (time.perf_counter() - start) / int(word)
        print(json.dumps(answer), flush=True)


class Tree:
    """A process that imports one tree."""

    def __init__(self, folder: Path) -> None:
        # Cases and contestants are this tree's for both, the packages each one's own.
        paths = [str(folder), str(Path(__file__).parent)]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--serve"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip

    def ask(self, word: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.process.args} ended; see its error above")
        return json.loads(line)


def unpack(commit: str, folder: Path) -> None:
    archive = subprocess.run(["git", "archive", commit], check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def compare(name: str, here: Tree, there: Tree, rounds: int) -> dict[str, Any]:
    ours, theirs = here.ask(name), there.ask(name)
    gap = max(
        abs(ours["sums"][key] - theirs["sums"][key]) / max(abs(theirs["sums"][key]), 1e-30)
        for key in theirs["sums"]
    )
    if gap > SAME:
        raise SystemExit(f"{name}: the two trees give other diagonals (sums differ by {gap:.1e})")
    calls = max(1, min(50, int(0.2 / max(here.ask(1), 1e-4))))
    for tree in (here, there):
        tree.ask(calls)
    pairs = []
    for turn in range(rounds):
        order = (here, there) if turn % 2 == 0 else (there, here)
        seconds = {tree: tree.ask(calls) for tree in order}
        pairs.append((seconds[here], seconds[there]))
    ratios = [a / b for a, b in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    row = {
        "case": name, "ratio": middle, "quartiles": [low, high], "calls": calls, "rounds": rounds,
        "seconds": statistics.median(a for a, _ in pairs),
        "seconds of the other": statistics.median(b for _, b in pairs), "difference": gap,
    }  # fmt: skip
    print(
        f"{name:20} {row['seconds']:9.4f} s {row['seconds of the other']:9.4f} s "
        f"{middle:6.3f}  ({low:.3f} to {high:.3f})  difference {gap:.0e}",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", help="the commit to compare with")
    parser.add_argument("--only", nargs="*", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    if options.commit is None:
        parser.error("name the commit to compare with, e.g. HEAD~1")
    with tempfile.TemporaryDirectory() as folder:
        unpack(options.commit, Path(folder))
        here, there = Tree(Path(__file__).parent.parent), Tree(Path(folder))
        print(f"{'case':20} {'this tree':>11} {'the other':>11} {'ratio':>6}  (quartiles)")
        for name in options.only:
            compare(name, here, there, options.rounds)
        for tree in (here, there):
            tree.process.kill()


if __name__ == "__main__":
    main()
