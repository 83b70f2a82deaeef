"""The exact diagonal beside its peers: same work, same process, medians of ratios.

    python benchmarks/diagonal.py [--only NAME ...] [--rounds 3] [--out benchmarks/results]

Needs the extra ``benchmarks`` (BackPACK). Every row first checks that the results agree, then times
the contestants in turn, round by round, and reports medians of the ratios within a round, so that
a machine whose speed drifts does not matter. Writes a JSON record with hardware and versions.
"""

import argparse
import copy
import gc
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hessian
import sim

Result = dict[str, Tensor]


@dataclass
class Case:
    """A network, its data, the peer that can do it, and what the peer's result must equal."""

    model: nn.Module
    x: Tensor
    y: Tensor
    peer: str  # BackPACK extension
    classes: int


def sequential_alexnet(width: float, classes: int) -> nn.Sequential:
    """AlexNet as a flat Sequential, which is all that BackPACK takes; dropout off."""
    model = sim.models.build("alexnet", width=width, classes=classes, seed=0)
    layers: list[nn.Module] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            layers += [module, nn.ReLU()]
            if name in ("conv1", "conv2", "conv5"):
                layers.append(nn.MaxPool2d(2))
        elif isinstance(module, nn.Linear):
            if not any(isinstance(m, nn.Flatten) for m in layers):
                layers.append(nn.Flatten())
            layers += [module, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def tanh_mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    """Blocks x + W₂ gelu(W₁ norm(x)) of equal widths."""

    def __init__(self, width: int, hidden: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, width), nn.Linear(width, classes)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.up = nn.ModuleList(nn.Linear(width, hidden) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(hidden, width) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(F.gelu(up(norm(x))))
        return self.head(x)


def residual_case(width: int, hidden: int, blocks: int) -> Case:
    x, y = torch.randn(64, 64), torch.randint(0, 10, (64,))
    return Case(Residual(width, hidden, blocks, 10), x, y, PRODUCTS, 10)


def image_case(width: float, classes: int, n: int) -> Case:
    x, y = torch.randn(n, 3, 32, 32), torch.randint(0, classes, (n,))
    return Case(sequential_alexnet(width, classes), x, y, "DiagGGNExact", classes)


def vector_case(*sizes: int, n: int = 128) -> Case:
    x, y = torch.randn(n, sizes[0]), torch.randint(0, sizes[-1], (n,))
    return Case(tanh_mlp(*sizes), x, y, "DiagHessian", sizes[-1])


PRODUCTS = "batched Hessian-vector products"
# How many of them are timed; the time of all is taken in proportion.
TAKEN = 512

CASES: dict[str, Callable[[], Case]] = {
    "tanh-256": lambda: vector_case(784, 256, 256, 10),
    "tanh-512": lambda: vector_case(784, 512, 512, 512, 10),
    "residual-128": lambda: residual_case(128, 512, 8),
    "residual-256": lambda: residual_case(256, 256, 8),
    "alexnet-quarter": lambda: image_case(0.25, 10, 128),
    "alexnet-100-classes": lambda: image_case(1.0, 100, 24),
    "alexnet": lambda: image_case(1.0, 10, 128),
}


def ours(case: Case) -> Result:
    return hessian.diagonal(case.model, F.cross_entropy, (case.x, case.y))


def gradient(case: Case) -> Result:
    parameters = list(case.model.parameters())
    got = torch.autograd.grad(F.cross_entropy(case.model(case.x), case.y), parameters)
    return dict(zip(dict(case.model.named_parameters()), got, strict=True))


def plain_columns(case: Case) -> Result:
    """C plain backward passes with one forward: what a column method cannot avoid."""
    parameters = list(case.model.parameters())
    output = case.model(case.x)
    got: tuple[Tensor, ...] = ()
    for c in range(case.classes):
        one = torch.zeros_like(output)
        one[:, c] = 1.0
        got = torch.autograd.grad(output, parameters, one, retain_graph=True)
    return dict(zip(dict(case.model.named_parameters()), got, strict=True))


def backpack_method(case: Case) -> Result:
    from backpack import backpack, extend, extensions

    # On a copy: the hooks that BackPACK adds would stand on everybody else's tape too.
    model, criterion = extend(copy.deepcopy(case.model)), extend(nn.CrossEntropyLoss())
    extension = getattr(extensions, case.peer)()
    with backpack(extension):
        criterion(model(case.x), case.y).backward()
    result = {}
    for name, p in model.named_parameters():
        result[name] = getattr(p, extension.savefield).detach()
    return result


def some_products(case: Case) -> tuple[Result, float]:
    """d²L/dw² at random entries by batched products over the parameters, and the part done."""
    parameters = dict(case.model.named_parameters())
    loss = F.cross_entropy(case.model(case.x), case.y)
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(flat.numel(), generator=generator)[:TAKEN]
    found = []
    for part in index.split(32):
        rows = torch.zeros(len(part), flat.numel())
        rows[torch.arange(len(part)), part] = 1.0
        got = torch.autograd.grad(
            flat, list(parameters.values()), rows, retain_graph=True, is_grads_batched=True
        )
        joined = torch.cat([g.reshape(len(part), -1) for g in got], 1)
        found.append(joined[torch.arange(len(part)), part])
    return {"index": index, "value": torch.cat(found)}, TAKEN / flat.numel()


def peer_method(case: Case) -> Result:
    return some_products(case)[0] if case.peer == PRODUCTS else backpack_method(case)


CONTESTANTS: dict[str, Callable[[Case], Result]] = {
    "ours": ours,
    "gradient": gradient,
    "C backward passes": plain_columns,
    "peer": peer_method,
}


def difference(case: Case, exact: Result, peer: Result) -> float:
    if case.peer == PRODUCTS:
        mine = torch.cat([h.reshape(-1) for h in exact.values()])
        gap = (mine[peer["index"]] - peer["value"]).abs().max()
        return float(gap / mine.abs().max())
    return max(
        float((exact[k] - peer[k]).abs().max() / exact[k].abs().max().clamp_min(1e-30))
        for k in exact
    )


def seconds(run: Callable[[Case], Result], case: Case) -> float:
    gc.collect()
    start = time.perf_counter()
    run(case)
    return time.perf_counter() - start


def measure(name: str, rounds: int) -> dict[str, object]:
    torch.manual_seed(0)
    case = CASES[name]()
    exact = ours(case)
    gap = difference(case, exact, peer_method(case))
    part = 1.0
    if case.peer == PRODUCTS:
        part = TAKEN / sum(h.numel() for h in exact.values())
    times: dict[str, list[float]] = {c: [] for c in CONTESTANTS}
    for _ in range(rounds):
        for contestant, run in CONTESTANTS.items():
            # Short runs are repeated, so that one scheduling hiccup is not the result.
            first = seconds(run, case)
            more = [seconds(run, case) for _ in range(4)] if first < 0.5 else []
            times[contestant].append(statistics.median([first, *more]))
    t = times["ours"]

    def ratio(over: list[float], under: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(over, under, strict=True))

    return {
        "case": name,
        "peer": case.peer,
        "parameters": sum(p.numel() for p in case.model.parameters()),
        "batch": len(case.x),
        "classes": case.classes,
        "methods": sorted(set(exact.plan.methods().values())),
        "largest relative difference from the peer": gap,
        "seconds": statistics.median(t),
        "gradients": ratio(t, times["gradient"]),
        "C backward passes": ratio(t, times["C backward passes"]),
        "times as fast as the peer": ratio(times["peer"], t) / part,
        "part of the peer's work that was timed": part,
        "all seconds": times,
    }


def environment() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "backpack": version("backpack-for-pytorch"),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    rows = []
    print(
        f"{'case':20} {'seconds':>8} {'gradients':>10} {'C passes':>9} {'vs peer':>8}  difference"
    )
    for name in options.only:
        row = measure(name, options.rounds)
        rows.append(row)
        print(
            f"{name:20} {row['seconds']:8.3f} {row['gradients']:10.1f} "
            f"{row['C backward passes']:9.2f} {row['times as fast as the peer']:7.1f}x  "
            f"{row['largest relative difference from the peer']:.1e} from {row['peer']}"
        )
        sys.stdout.flush()
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"environment": environment(), "rows": rows}
    (options.out / "diagonal.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
