"""True CBLR on AlexNet: γ, cap and interval from λ_max, then training, and what fails without.

    python benchmarks/cblr_alexnet.py digits                   # width 1/16, minutes a seed
    python benchmarks/cblr_alexnet.py cifar10 --data DIR       # the full network, 50 steps

`sim.stable_gamma` finds γ, cap and interval; then the network trains from the same start on other
batches, with the exact diagonal of the batch at every step, and again with one thing changed at a
time. Dropout is off, momentum 0.9. Digits start from PyTorch's initialisation; the full network,
whose loss was still 2.30 after some twenty steps from there, from He's (He et al. 2015, biases 0).
Writes a JSON record with the trial runs and every loss.
"""

import argparse
import copy
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import record
import torch
import torch.nn.functional as F
from torch import nn

import hessian
import sim

Pair = tuple[torch.Tensor, torch.Tensor]
MARGIN = 0.5
MOMENTUM = 0.9
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "width": 1 / 16,
        "seeds": 3,
        "steps": 100,
        "trial": 60,
        "every": 2,
        "caps": (3e3, 1e5),
        "intervals": (1, 2, 5, 10),
        "init": "pytorch",
    },
    "cifar10": {
        "width": 1.0,
        "seeds": 1,
        "steps": 50,
        "trial": 20,
        "every": 5,
        "caps": (1e3,),
        "intervals": (1,),
        "init": "he",
        # The full network takes seconds a step: what decides, and no more.
        "variants": (0, 7, 8, 3),
    },
}
BATCH = 128


def draw(data: sim.data.Dataset, steps: int, seed: int) -> Iterator[Pair]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(data), (BATCH,), generator=generator)
        yield data.inputs[rows], data.targets[rows]


def build(data: sim.data.Dataset, seed: int, width: float, init: str) -> nn.Module:
    """AlexNet without dropout, from PyTorch's or from He's initialisation."""
    model = sim.models.build(
        "alexnet", in_shape=data.shape, classes=data.classes, width=width, dropout=0.0, seed=seed
    )
    if init == "he":
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
            else:
                nn.init.zeros_(parameter)
    return model


def score(model: nn.Module, data: sim.data.Dataset) -> dict[str, float]:
    """Loss and accuracy on a whole set."""
    loss = hits = 0.0
    with torch.no_grad():
        for x, y in data.batches(500):
            output = model(x)
            loss += F.cross_entropy(output, y, reduction="sum").item()
            hits += (output.argmax(1) == y).sum().item()
    return {"loss": loss / len(data), "accuracy": hits / len(data)}


def train(model: nn.Module, batches: Iterator[Pair], **options: Any) -> list[float]:
    """The loss of every batch before its step; it ends where that is not finite."""
    optimizer = sim.optimizers.CBLR(model.named_parameters(), **options)
    losses: list[float] = []
    for x, y in batches:
        optimizer.zero_grad()
        value = F.cross_entropy(model(x), y)
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            break
        if optimizer.due:
            optimizer.step(hessian.diagonal(model, F.cross_entropy, (x, y)))
        else:
            value.backward()
            optimizer.step()
    return losses


def variants(found: sim.Stability) -> dict[str, dict[str, Any]]:
    fresh = {**found.options, "refresh_interval": 1}  # the exact curvature of every batch
    longer = 10 * found.refresh_interval
    return {
        "as found, curvature in every step": fresh,
        "as found, with its interval": found.options,
        "γ at the bound": fresh | {"lr": found.gamma / MARGIN},
        "γ 4 times": fresh | {"lr": 4 * found.gamma},
        "γ 10 times": fresh | {"lr": 10 * found.gamma},
        "γ = 1, right in one dimension": fresh | {"lr": 1.0},
        "cap 100 times": fresh | {"max_radius": 100 * found.max_radius},
        "no cap": fresh | {"max_radius": 1e30},
        f"interval {longer}": fresh | {"refresh_interval": longer},
    }


def chosen(found: sim.Stability, places: Sequence[int] | None) -> dict[str, dict[str, Any]]:
    """The variants of a setting, all where it names none."""
    pairs = list(variants(found).items())
    return dict(pairs if places is None else [pairs[i] for i in places])


def one(
    data: sim.data.Dataset, held: sim.data.Dataset, seed: int, given: Any
) -> Iterator[dict[str, Any]]:
    """All that is measured from one start, again with every variant that is done."""
    model = build(data, seed, given.width, given.init)
    start = time.perf_counter()
    found = sim.stable_gamma(
        model,
        F.cross_entropy,
        draw(data, given.trial, 100 + seed),
        max_radius=given.caps,
        refresh_interval=given.intervals,
        momentum=MOMENTUM,
        margin=MARGIN,
        every=given.every,
    )
    seconds = time.perf_counter() - start
    print(f"seed {seed}: {found.options}, found in {seconds:.0f} s", flush=True)
    for trial in found.trials:
        print(
            f"  trial R_max {trial.max_radius:.0e} every {trial.refresh_interval}: "
            f"γ = {trial.gamma:.2e}, {len(trial.losses)} steps, λ_max {trial.sharpness[0]:.3g} "
            f"to {max(trial.sharpness):.3g}, loss {trial.losses[-1]:.3f}",
            flush=True,
        )
    run = {
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "found": found.options,
        "seconds to find": seconds,
        "before": score(model, held),
        "trials": [dataclasses.asdict(trial) for trial in found.trials],
    }
    rows: list[dict[str, Any]] = []
    for name, options in chosen(found, getattr(given, "variants", None)).items():
        trained = copy.deepcopy(model)
        start = time.perf_counter()
        losses = train(trained, draw(data, given.steps, 200 + seed), **options)
        took = time.perf_counter() - start
        after = score(trained, held)
        finite = math.isfinite(losses[-1]) and math.isfinite(after["loss"])
        rows.append(
            {
                "variant": name,
                **options,
                **(after if finite else {"loss": None, "accuracy": None}),
                "seconds": took,
                "losses": [value for value in losses if math.isfinite(value)],
            }
        )
        print(
            f"  {name:30} γ = {options['lr']:.2g}, R_max = {options['max_radius']:.0e}, every "
            f"{options['refresh_interval']}: loss {after['loss']:.3f}, accuracy "
            f"{after['accuracy']:.3f}, {took:.0f} s",
            flush=True,
        )
        yield {**run, "after": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=list(SETTINGS))
    parser.add_argument("--data", help="the folder of CIFAR-10; CBLR_DATA otherwise")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--width", type=float, help="of the network, instead of the setting's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    settings = dict(SETTINGS[given.dataset])
    settings["seeds"] = given.seeds or settings["seeds"]
    settings["width"] = given.width or settings["width"]
    torch.set_num_threads(given.threads)
    data = sim.data.load(given.dataset, given.data)
    held = data.subset(min(2000, len(data)), seed=1)
    seeds = settings["seeds"]
    settings |= {"batch": BATCH, "momentum": MOMENTUM, "margin": MARGIN, "scored on": len(held)}
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        for run in one(data, held, seed, argparse.Namespace(**settings)):
            record.write(  # after every variant, so that what was measured is not lost
                given.out / f"cblr-{given.dataset}.json",
                data=dict(data.provenance),
                settings=settings,
                runs=[*runs, run],
            )
        runs.append(run)


if __name__ == "__main__":
    main()
