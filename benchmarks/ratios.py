"""Pairs of networks whose exact diagonals should take about as long, and diagonals by gradients.

    OMP_NUM_THREADS=1 python benchmarks/ratios.py [--rounds 15] [--only NAME ...] [--out FOLDER]

Both of a pair take turns, call by call, with their plans; told is the median of the ratios within a
turn with its quartiles. The record, ratios.json, holds them beside what each may be at most.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import record
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Problem

import hessian


class Ratio(NamedTuple):
    """One thing over another, and what that may be at most."""

    first: Callable[[], Any]
    second: Callable[[], Any]
    most: float


def diagonal(problem: Problem) -> Callable[[], Any]:
    return lambda: hessian.diagonal(problem.model, problem.loss, problem.data)


def gradient(problem: Problem) -> Callable[[], Any]:
    model, (x, y) = problem.model, problem.data
    return lambda: torch.autograd.grad(problem.loss(model(x), y), list(model.parameters()))


class Applied(nn.Module):
    """A function of tensors as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def normed(norm: Callable[[int], nn.Module]) -> Problem:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(64, 64), norm(64), nn.GELU()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    return Problem(model, F.cross_entropy, (torch.randn(64, 64), torch.arange(64) % 10))


def moved(function: Callable[[Tensor], Tensor] | None) -> Problem:
    torch.manual_seed(0)
    middle = [] if function is None else [Applied(function)]
    model = nn.Sequential(
        nn.Linear(64, 64), nn.Tanh(), *middle, nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
    )
    return Problem(model, F.cross_entropy, (torch.randn(64, 64), torch.arange(64) % 10))


def convolutions(bias: bool = True, last: bool = False) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=bias), nn.Tanh(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=bias), nn.Tanh(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    x = torch.randn(16, 3, 16, 16)
    if last:
        model, x = (
            model.to(memory_format=torch.channels_last),
            x.contiguous(memory_format=torch.channels_last),
        )
    return Problem(model, F.cross_entropy, (x, torch.arange(16) % 10))


def classes(count: int) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, count))
    return Problem(model, F.cross_entropy, (torch.randn(16, 64), torch.randint(count, (16,))))


def autoencoder(act: Callable[[], nn.Module], latent: int | None, n: int = 8) -> Problem:
    """Of images of 3 x 32 x 32, through a vector of so many entries where `latent`."""
    torch.manual_seed(0)
    waist: list[nn.Module] = []
    if latent is not None:
        waist = [
            nn.Conv2d(32, 32, 3, 2, 1), act(), nn.Flatten(), nn.Linear(512, latent), act(),
            nn.Linear(latent, 512), act(), nn.Unflatten(1, (32, 4, 4)),
            nn.ConvTranspose2d(32, 32, 4, 2, 1), act(),
        ]  # fmt: skip
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), act(), nn.Conv2d(16, 32, 3, 2, 1), act(), *waist,
        nn.ConvTranspose2d(32, 16, 4, 2, 1), act(), nn.ConvTranspose2d(16, 3, 4, 2, 1),
    )  # fmt: skip
    x = torch.rand(n, 3, 32, 32)
    return Problem(model, F.mse_loss, (x, x))


def pair(first: Problem, second: Problem, most: float) -> Ratio:
    return Ratio(diagonal(first), diagonal(second), most)


def in_gradients(problem: Problem) -> Ratio:
    return Ratio(diagonal(problem), gradient(problem), 30.0)


RATIOS: dict[str, Callable[[], Ratio]] = {
    "RMS norm over layer norm": lambda: pair(normed(nn.RMSNorm), normed(nn.LayerNorm), 1.5),
    "flip": lambda: pair(moved(lambda x: x.flip(1)), moved(None), 1.5),
    "roll": lambda: pair(moved(lambda x: x.roll(3, 1)), moved(None), 1.5),
    "index": lambda: pair(moved(lambda x: x[:, torch.arange(63, -1, -1)]), moved(None), 1.5),
    "tril": lambda: pair(moved(torch.tril), moved(None), 1.5),
    "convolutions with biases over those without": lambda: pair(
        convolutions(), convolutions(bias=False), 1.5
    ),
    "channels last over contiguous": lambda: pair(convolutions(last=True), convolutions(), 1.3),
    "3,000 classes over 300": lambda: pair(classes(3000), classes(300), 5.0),
    "autoencoder, relu, in gradients": lambda: in_gradients(autoencoder(nn.ReLU, None)),
    "autoencoder, relu, 32 in the middle, in gradients": lambda: in_gradients(
        autoencoder(nn.ReLU, 32)
    ),
    "autoencoder, tanh, in gradients": lambda: in_gradients(autoencoder(nn.Tanh, None)),
    "autoencoder, tanh, 32 in the middle, in gradients": lambda: in_gradients(
        autoencoder(nn.Tanh, 32)
    ),
}


def timed(call: Callable[[], Any]) -> float:
    start = record.clock()
    call()
    return record.clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=list(RATIOS), choices=list(RATIOS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    rows = {}
    for name in arguments.only:
        ratio = RATIOS[name]()
        turns = []
        for number in range(arguments.rounds + 1):
            seconds = timed(ratio.first), timed(ratio.second)
            if number:  # the first warms up
                turns.append(seconds)
        ratios = [first / second for first, second in turns]
        low, median, high = statistics.quantiles(ratios, n=4)
        medians = [1e3 * statistics.median(column) for column in zip(*turns, strict=True)]
        rows[name] = {
            "ratio": median,
            "quartiles": [low, high],
            "most": ratio.most,
            "milliseconds": medians,
        }
        print(f"{name:52} {median:8.2f}  [{low:.2f}, {high:.2f}]  at most {ratio.most}", flush=True)
    record.write(
        arguments.out / "ratios.json", date=time.strftime("%Y-%m-%d"),
        rounds=arguments.rounds, ratios=rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
