"""This tree beside another commit, in one run: exact diagonals, steps of rules, training.

    python benchmarks/against.py COMMIT [--only NAME ...] [--rounds 200] [--seconds 60]

With `--only llama gpt2`, too: transformers of some 800,000 parameters, minutes a round.

The other commit is unpacked to a temporary folder, and the packages of both live in one process.
They take turns, call by call, and what is reported is the median of the ratios within a turn (this
tree over the other: below 1 is faster) with its quartiles, so that a machine whose speed drifts
does not matter, nor what differs from process to process. Both must give the same numbers. The
first row is the other commit beside itself: what it differs from 1 is the noise of the run.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cases
import torch
from torch import Tensor

DIAGONALS = (
    "tanh-256",
    "tanh-512",
    "residual-128",
    "alexnet-quarter",
    "alexnet-100-classes",
    "alexnet",
)
RULES = ("CBLR", "LARS", "MCLR", "PercentDelta", "LAMB")
# A run of digits without measurements, one with the default ones, and seeds as lanes.
TRAINING: dict[str, dict[str, Any]] = {
    "train mlp-8": {"batch_size": 8, "epochs": 1},
    "train mlp-128": {"batch_size": 128, "epochs": 8},
    "train lenet-128": {"model": "lenet", "batch_size": 128, "epochs": 2},
    "train lars-32": {"optimizer": "lars", "batch_size": 32, "epochs": 2},
}
CASES = (*DIAGONALS, *(f"step {rule}" for rule in RULES), *TRAINING)
# Of a round that takes longer there are a few, of others nine at least.
LONG_ROUND = 5.0
PACKAGES = ("hessian", "sim")
STEPS = 50  # of a rule, for one timing
HERE = Path(__file__).resolve().parent.parent
# Largest relative difference of two float32 results that differ by the order of their sums.
SAME = 1e-3

Numbers = dict[str, Tensor]


def unpack(commit: str, folder: Path) -> None:
    archive = subprocess.run(
        ["git", "archive", commit], check=True, stdout=subprocess.PIPE, cwd=HERE
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


class Tree:
    """The packages of one tree, beside others of the same names."""

    def __init__(self, folder: Path) -> None:
        for name in _loaded():
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        self.hessian, self.sim = (__import__(name) for name in PACKAGES)
        sys.path.remove(str(folder))
        for package in (self.hessian, self.sim):
            if not Path(package.__file__ or "").resolve().is_relative_to(folder.resolve()):
                raise SystemExit(f"{package.__name__} is from {package.__file__}, not {folder}")
        self.modules = _loaded()

    def work(self, name: str) -> Callable[[], Numbers]:
        """What a case does with this tree; imports that a call makes are its own."""
        sys.modules.update(self.modules)
        if name in (*DIAGONALS, *cases.FORMS):
            return self._diagonal(name)
        return self._train(name) if name in TRAINING else self._steps(name.split()[1])

    def _diagonal(self, name: str) -> Callable[[], Numbers]:
        case = cases.named(name)

        def diagonal() -> Numbers:
            sys.modules.update(self.modules)
            numbers: Numbers = self.hessian.diagonal(case.model, case.loss, (case.x, case.y))
            return numbers

        return diagonal

    def _steps(self, rule: str) -> Callable[[], Numbers]:
        model = self.sim.models.build("alexnet", width=0.125, classes=10, seed=0)
        generator = torch.Generator().manual_seed(0)
        curvature = {}
        for name, p in model.named_parameters():
            p.grad = torch.randn(p.shape, generator=generator)
            curvature[name] = torch.rand(p.shape, generator=generator)
        named = rule == "CBLR"
        make = getattr(self.sim.optimizers, rule)
        given = model.named_parameters() if named else model.parameters()
        optimizer = make(given, 1e-12, momentum=0.9)

        def steps() -> Numbers:
            sys.modules.update(self.modules)
            for _ in range(STEPS):
                optimizer.step(curvature) if named else optimizer.step()
            return {name: p.detach() for name, p in model.named_parameters()}

        return steps

    def _train(self, name: str) -> Callable[[], Numbers]:
        fields = {"lr": 0.01, "optimizer_options": {"momentum": 0.9}} | TRAINING[name]
        config = self.sim.TrainConfig.read(fields)

        def train() -> Numbers:
            sys.modules.update(self.modules)
            run = self.sim.train(config)
            return {"loss": torch.as_tensor(run.steps["loss"].to_numpy())}

        return train


def _loaded() -> dict[str, ModuleType]:
    return {name: m for name, m in sys.modules.items() if name.split(".")[0] in PACKAGES}


def difference(ours: Numbers, theirs: Numbers) -> float:
    """Largest difference of two results, relative to a tensor's largest entry."""
    return max(
        float((ours[name] - h).abs().max() / h.abs().max().clamp_min(1e-30))
        for name, h in theirs.items()
    )


def compare(label: str, name: str, here: Tree, there: Tree, options: Any) -> None:
    ours, theirs = here.work(name), there.work(name)
    gap = difference(ours(), theirs())
    if gap > SAME:
        raise SystemExit(f"{label}: the two trees give other numbers (they differ by {gap:.1e})")

    def seconds(work: Callable[[], Numbers]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    each = seconds(ours) + seconds(theirs)
    least = 9 if each < LONG_ROUND else 3
    rounds = max(least, min(options.rounds, int(options.seconds / each)))
    gc.collect()
    pairs = []
    for turn in range(rounds):
        if turn % 2:
            first = seconds(ours)
            pairs.append((first, seconds(theirs)))
        else:
            second = seconds(theirs)
            pairs.append((seconds(ours), second))
    low, middle, high = statistics.quantiles((a / b for a, b in pairs), n=4)
    one, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{label:20} {one:9.4f} s {other:9.4f} s {middle:6.3f}  ({low:.3f} to {high:.3f}) "
        f"{rounds:5d} rounds, difference {gap:.0e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the commit to compare with, e.g. HEAD~1")
    known = (*CASES, *cases.FORMS)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=known, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=200, help="at most so many turns a case")
    parser.add_argument("--seconds", type=float, default=60, help="at most so long a case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unpack(options.commit, Path(folder))
        here, there = Tree(HERE), Tree(Path(folder))
        print(f"{torch.get_num_threads()} threads")
        print(f"{'case':20} {'this tree':>11} {'the other':>11} {'ratio':>6}  (quartiles)")
        compare("noise", options.only[0], Tree(Path(folder)), there, options)
        for name in options.only:
            compare(name, name, here, there, options)


if __name__ == "__main__":
    main()
