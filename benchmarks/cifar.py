"""Exact curvature over CIFAR-10 itself, made for a GPU.

    python benchmarks/cifar.py --data DIR --device cuda [--samples 50000] [--only NAME ...]

`alexnet`: the whole diagonal over all images, relative to C plain backward passes over them.
`resnet18`: the same in evaluation mode, relative to one pass of gradients. `resnet18-train`:
train-mode batch norm couples the samples of a batch, so exact values at random entries
(`hessian.sample`) of one batch, relative to its gradient. Each is checked first against the CPU on
a few images. DIR holds the standard binary layout, as for ``sim.data.load``.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import write
from torch import Tensor, nn

import hessian
import sim

Pairs = list[tuple[Tensor, Tensor]]
FEW = 4


def batches(x: Tensor, y: Tensor, size: int, device: str) -> Pairs:
    return [(a.to(device), b.to(device)) for a, b in zip(x.split(size), y.split(size), strict=True)]


def passes(model: nn.Module, data: Pairs, columns: int | None) -> None:
    """One gradient a batch, or a backward pass for each of some output columns."""
    parameters = list(model.parameters())
    for x, y in data:
        output = model(x)
        if columns is None:
            torch.autograd.grad(F.cross_entropy(output, y), parameters)
            continue
        for c in range(columns):
            one = torch.zeros_like(output)
            one[:, c] = 1.0
            torch.autograd.grad(output, parameters, one, retain_graph=True)


def seconds(run: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def agreement(model: nn.Module, x: Tensor, y: Tensor, device: str) -> float:
    """max|Δ| / max|h| per tensor between this device in float32 and the CPU in float64."""
    pair = x[:FEW], y[:FEW]
    got = hessian.diagonal(model, F.cross_entropy, tuple(t.to(device) for t in pair))
    cpu = hessian.diagonal(model.cpu(), F.cross_entropy, pair, dtype=torch.float64)
    model.to(device)
    return max(
        float((got[k].cpu() - h).abs().max() / h.abs().max().clamp_min(1e-30))
        for k, h in cpu.items()
    )


def measured(name: str, options: argparse.Namespace, data: Any) -> Iterator[tuple[str, Any]]:
    x, y = data
    device, size = options.device, options.batch
    yield "case", name
    yield "samples", len(x)
    model = sim.models.build(name.removesuffix("-train"), classes=10, seed=0).to(device).eval()
    yield "difference from float64 on the CPU", agreement(model, x, y, device)
    if name == "resnet18-train":
        pair = [(x[:size].to(device), y[:size].to(device))]
        model.train()
        values = seconds(lambda: hessian.sample(model, F.cross_entropy, pair[0]), device)
        yield "seconds", values
        yield "gradients", values / seconds(lambda: passes(model, pair, None), device)
        return
    pairs = batches(x, y, size, device)
    passes(model, pairs[:1], None)
    hessian.diagonal(model, F.cross_entropy, pairs[:1])
    taken = seconds(lambda: hessian.diagonal(model, F.cross_entropy, pairs), device)
    yield "seconds", taken
    yield "gradients", taken / seconds(lambda: passes(model, pairs, None), device)
    yield "C backward passes", taken / seconds(lambda: passes(model, pairs, 10), device)


def main() -> None:
    names = ["alexnet", "resnet18", "resnet18-train"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    found = sim.data.load("cifar10", root=options.data)
    data = found.inputs[: options.samples].float(), found.targets[: options.samples]
    rows = []
    for name in options.only:
        rows.append(dict(measured(name, options, data)))
        print(rows[-1], flush=True)
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    write(options.out / f"cifar-{options.device}.json", device=device, rows=rows)


if __name__ == "__main__":
    main()
