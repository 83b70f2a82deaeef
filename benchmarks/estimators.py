"""How far from the exact diagonal the substitutes are, at equal cost.

    python benchmarks/estimators.py [--only NAME ...] [--seeds 5] [--out benchmarks/results]

Trains small networks on scikit-learn's digits, computes the exact diagonal on 512 samples, and
compares the relative error of the whole vector, ‖estimate - exact‖ / ‖exact‖, of one
pre-activation probe with that of Hutchinson's estimator, which is given as many probes as fit into
the same time (measured in turn, round by round, and rounded up). Medians over seeds; a seed is
another network, another draw of samples and another probe. Writes a JSON record.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import record
import sklearn
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import hessian

SAMPLES = 512
EPOCHS = 15


class Tokens(nn.Module):
    """Eight tokens of eight pixels: attention, a layer norm and a gated layer on each of them."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(0.1 * torch.randn(8, width))
        self.block = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True, activation="gelu"
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.view(-1, 8, 8)) + self.place
        return self.head(self.block(x).mean(1))


def mlp(activation: type[nn.Module], *widths: int) -> nn.Sequential:
    sizes = (64, *widths)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))


def convolutions(activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), activation(),
        nn.Conv2d(8, 16, 3, padding=1, stride=2), activation(), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "relu 64-64-64-10": lambda: mlp(nn.ReLU, 64, 64),
    "relu 64-128-64-10": lambda: mlp(nn.ReLU, 128, 64),
    "tanh 64-64-64-10": lambda: mlp(nn.Tanh, 64, 64),
    "tanh 64-128-64-10": lambda: mlp(nn.Tanh, 128, 64),
    "convolutions, relu": lambda: convolutions(nn.ReLU),
    "convolutions, tanh": lambda: convolutions(nn.Tanh),
    "eight tokens, transformer": Tokens,
}


def trained(make: Callable[[], nn.Module], seed: int) -> tuple[nn.Module, Tensor, Tensor, float]:
    """A trained network, 512 samples, and the network's loss on them."""
    torch.manual_seed(seed)
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    model = make()
    adam = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(64):
            adam.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            adam.step()
    some = torch.randperm(len(x))[:SAMPLES]
    model.eval()
    with torch.no_grad():
        loss = float(F.cross_entropy(model(x[some]), y[some]))
    return model, x[some], y[some], loss


def distance(got: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    gap = sum(float((got[k] - h).double().square().sum()) for k, h in exact.items())
    return (gap / sum(float(h.double().square().sum()) for h in exact.values())) ** 0.5


def measure(name: str, seeds: int) -> dict[str, object]:
    rows = []
    for seed in range(seeds):
        model, x, y, loss = trained(NETWORKS[name], seed)
        exact = hessian.diagonal(model, F.cross_entropy, (x, y))

        def run(kind: str, probes: int, draw: int) -> tuple[float, float]:
            generator = torch.Generator().manual_seed(draw)
            start = time.perf_counter()
            got = hessian.estimate(model, F.cross_entropy, (x, y), kind, probes, generator)  # noqa: B023
            return time.perf_counter() - start, distance(got, exact)  # noqa: B023

        times: dict[str, list[float]] = {"hutchinson": [], "preactivation": []}
        for _ in range(5):
            for kind, found in times.items():
                found.append(run(kind, 1, 0)[0])
        cost = statistics.median(
            a / b for a, b in zip(times["preactivation"], times["hutchinson"], strict=True)
        )
        probes = max(1, math.ceil(cost))
        # Several probes a network: one probe's error is itself random.
        errors = {
            "preactivation": statistics.mean(run("preactivation", 1, d)[1] for d in range(5)),
            "hutchinson": statistics.mean(run("hutchinson", probes, d)[1] for d in range(5)),
        }
        rows.append({"seed": seed, "loss": loss, "cost": cost, "probes": probes, **errors})
    ratios = [r["hutchinson"] / r["preactivation"] for r in rows]
    return {
        "network": name,
        "loss": statistics.median(r["loss"] for r in rows),
        "probes of hutchinson": statistics.median(r["probes"] for r in rows),
        "error of hutchinson": statistics.median(r["hutchinson"] for r in rows),
        "error of preactivation": statistics.median(r["preactivation"] for r in rows),
        "times as small": statistics.median(ratios),
        "smallest and largest over seeds": [min(ratios), max(ratios)],
        "seeds": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    print(f"{'network':26} {'loss':>6} {'hutchinson':>13} {'preactivation':>14} {'ratio':>7}")
    extra = {"scikit-learn": sklearn.__version__, "samples": SAMPLES, "epochs": EPOCHS}
    rows = []
    for name in options.only:
        row = measure(name, options.seeds)
        rows.append(row)
        low, high = row["smallest and largest over seeds"]
        print(
            f"{name:26} {row['loss']:6.3f} "
            f"{row['error of hutchinson']:8.3f} of {row['probes of hutchinson']:g} "
            f"{row['error of preactivation']:14.4f} {row['times as small']:6.1f}x  "
            f"({low:.1f} to {high:.1f})",
            flush=True,
        )
        record.write(
            options.out / "estimators.json",
            environment={**record.environment(), **extra}, rows=rows,
        )  # fmt: skip


if __name__ == "__main__":
    main()
