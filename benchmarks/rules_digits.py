"""SGD, LARS, MCLR and true CBLR on scikit-learn's digits, each with its tuned γ.

    python benchmarks/rules_digits.py [--seeds 10] [--out benchmarks/results]

A multilayer perceptron (128, 128) on the first 1150 training images, momentum 0.9, γ falling
linearly to 0. At equal steps both batch sizes make 200 updates, at equal epochs both see the data
20 times. γ is tuned for each rule, batch size and budget: on a half-decade grid that grows until
the best is inside it, by the mean loss on the other 287 training images over three seeds of their
own. The test set (360 images, by other writers) is then seen once, with new seeds. Intervals are
Student's, 95%, over seeds; the same seeds serve all rules, so differences are paired.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import torch
import torch.nn.functional as F

import hessian
import sim

TRAIN = 1150
BATCHES = (32, 256)
STEPS, EPOCHS = 200, 20
TUNING = (1000, 1001, 1002)
RULES: dict[str, tuple[Callable[..., torch.optim.Optimizer], float]] = {
    # How to build it, and where to start the search for γ.
    "SGD": (lambda named, lr: torch.optim.SGD([p for _, p in named], lr, momentum=0.9), 1e-1),
    "LARS": (lambda named, lr: sim.optimizers.LARS(named, lr, momentum=0.9), 1e-2),
    "MCLR": (lambda named, lr: sim.optimizers.MCLR(named, lr, momentum=0.9), 1e-2),
    "CBLR": (
        lambda named, lr: sim.optimizers.CBLR(named, lr, momentum=0.9, max_radius=1e3),
        1e-3,
    ),
}
Pair = tuple[torch.Tensor, torch.Tensor]


def parts() -> tuple[sim.data.Dataset, Pair, Pair]:
    """What is trained on, what γ is tuned on, and the test set."""
    data = sim.data.load("digits")
    held = data.inputs[TRAIN:], data.targets[TRAIN:]
    data = sim.data.Dataset(
        data.inputs[:TRAIN], data.targets[:TRAIN], data.name, data.classes, data.split
    )
    return data, held, sim.data.load("digits", split="test").pair


def score(model: torch.nn.Module, pair: Pair) -> tuple[float, float]:
    """Loss and accuracy."""
    with torch.no_grad():
        output = model(pair[0])
    hits = (output.argmax(1) == pair[1]).double().mean().item()
    return F.cross_entropy(output, pair[1]).item(), hits


def train(
    rule: str, gamma: float, batch: int, steps: int, seed: int, data: sim.data.Dataset
) -> torch.nn.Module | None:
    """The trained network, None where it diverged."""
    model = sim.models.build("mlp", in_shape=data.shape, classes=data.classes, seed=seed)
    optimizer = RULES[rule][0](list(model.named_parameters()), gamma)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)
    done = epoch = 0
    while done < steps:
        for x, y in data.batches(batch, drop_last=True, seed=1000 * seed + epoch):
            optimizer.zero_grad()
            if isinstance(optimizer, sim.optimizers.CBLR):
                try:
                    optimizer.step(hessian.diagonal(model, F.cross_entropy, (x, y)))
                except ValueError:  # a loss or curvature that is not finite
                    return None
            else:
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            falling.step()
            done += 1
            if done == steps:
                break
        epoch += 1
    return model


def validation(rule: str, gamma: float, batch: int, steps: int, data: Any, held: Pair) -> float:
    """Mean loss over the tuning seeds; infinite where one diverged."""
    losses = []
    for seed in TUNING:
        model = train(rule, gamma, batch, steps, seed, data)
        loss = math.inf if model is None else score(model, held)[0]
        losses.append(loss if math.isfinite(loss) else math.inf)
    return statistics.fmean(losses)


def tune(rule: str, batch: int, steps: int, data: Any, held: Pair) -> tuple[float, dict[str, Any]]:
    """The best γ of a half-decade grid around the rule's start, both neighbours being worse."""
    start = round(2 * math.log10(RULES[rule][1]))
    tried: dict[int, float] = {}

    def at(k: int) -> float:
        if k not in tried:
            tried[k] = validation(rule, 10 ** (k / 2), batch, steps, data, held)
        return tried[k]

    for k in (start - 1, start, start + 1):
        at(k)
    while True:
        best = min(tried, key=at)
        if best - 1 in tried and best + 1 in tried:
            return 10 ** (best / 2), {f"{10 ** (k / 2):.3g}": tried[k] for k in sorted(tried)}
        at(best - 1)
        at(best + 1)


def measure(
    rule: str, batch: int, budget: str, seeds: int, everything: tuple[Any, Pair, Pair]
) -> dict[str, Any]:
    data, held, test = everything
    steps = STEPS if budget == "steps" else EPOCHS * (len(data) // batch)
    gamma, grid = tune(rule, batch, steps, data, held)
    losses, accuracies, diverged = [], [], 0
    start = time.perf_counter()
    for seed in range(seeds):
        model = train(rule, gamma, batch, steps, seed, data)
        if model is None:
            diverged += 1
            losses.append(math.nan)
            accuracies.append(1 / data.classes)  # counted as chance, not left out
            continue
        losses.append(score(model, data.pair)[0])
        accuracies.append(score(model, test)[1])
    mean, width = record.interval(accuracies)
    loss, loss_width = record.interval(losses)
    return {
        "rule": rule,
        "batch": batch,
        "equal": budget,
        "steps": steps,
        "gamma": gamma,
        "validation loss by gamma": grid,
        "diverged": diverged,
        "test accuracy": mean,
        "test accuracy ±": width,
        "training loss": loss,
        "training loss ±": loss_width,
        "test accuracies": accuracies,
        "seconds per step": (time.perf_counter() - start) / (seeds * steps),
    }


def differences(rows: list[dict[str, Any]], over: str = "LARS") -> list[dict[str, Any]]:
    """Paired differences of test accuracy, seed by seed."""
    found = []
    for row in rows:
        same = [r for r in rows if (r["batch"], r["equal"]) == (row["batch"], row["equal"])]
        base = next(r for r in same if r["rule"] == over)
        if row is base:
            continue
        pairs = zip(row["test accuracies"], base["test accuracies"], strict=True)
        mean, width = record.interval([a - b for a, b in pairs])
        key = {k: row[k] for k in ("rule", "batch", "equal")}
        found.append({**key, "over": over, "test accuracy": mean, "±": width})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    everything = parts()
    rows = []
    for budget in ("steps", "epochs"):
        for batch in BATCHES:
            for rule in RULES:
                row = measure(rule, batch, budget, given.seeds, everything)
                rows.append(row)
                print(
                    f"equal {budget:6} batch {batch:4} {rule:5} γ = {row['gamma']:.3g} "
                    f"steps {row['steps']:4} test {row['test accuracy']:.3f} "
                    f"± {row['test accuracy ±']:.3f} training loss {row['training loss']:.2g} "
                    f"± {row['training loss ±']:.1g} diverged {row['diverged']}",
                    flush=True,
                )
    settings = {"seeds": given.seeds, "tuning seeds": TUNING, "momentum": 0.9, "max_radius": 1e3}
    record.write(
        given.out / "rules-digits.json", settings=settings, rows=rows, differences=differences(rows)
    )


if __name__ == "__main__":
    main()
