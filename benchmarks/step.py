"""What a training step costs with each optimizer, relative to SGD: medians of ratios in one run.

    python benchmarks/step.py [--rounds 5] [--batch 128] [--width 1.0] [--threads 1]

A step is all that one batch takes: forward and backward pass and update, or for CBLR the exact
diagonal, whose gradient serves the update, and the update. The network is AlexNet for 10 classes
on images of 3x32x32, in training mode with dropout. Contestants take turns round by round, each
ratio is that to SGD in the same round. With one thread it is the processor's time that counts.
Writes a JSON record with hardware and versions.
"""

import argparse
import gc
import statistics
from collections.abc import Callable
from pathlib import Path

import record
import torch
import torch.nn.functional as F

import hessian
import sim

REUSE = 10  # steps that a curvature serves in the row "CBLR, every 10th"
Step = Callable[[], None]


def contestants(width: float, batch: int, device: str = "cpu") -> dict[str, tuple[Step, int]]:
    """Name → what to time, and how many training steps that is."""
    torch.manual_seed(0)
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    x, y = x.to(device), y.to(device)
    model = sim.models.build("alexnet", width=width, classes=10, seed=0).to(device)
    gamma = 1e-12  # the same work in every round: nothing moves to speak of

    def plain(optimizer: torch.optim.Optimizer) -> Step:
        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

        return step

    def exact(optimizer: sim.optimizers.CBLR) -> Step:
        def step() -> None:
            optimizer.zero_grad()
            optimizer.step(hessian.diagonal(model, F.cross_entropy, (x, y)))

        return step

    def reused(optimizer: sim.optimizers.CBLR) -> Step:
        first, later = exact(optimizer), plain(optimizer)

        def step() -> None:
            first()
            for _ in range(REUSE - 1):
                later()

        return step

    def cblr() -> sim.optimizers.CBLR:
        return sim.optimizers.CBLR(model.named_parameters(), gamma, momentum=0.9)

    found: dict[str, tuple[Step, int]] = {
        "SGD": (plain(torch.optim.SGD(model.parameters(), gamma, momentum=0.9)), 1),
        "CBLR": (exact(cblr()), 1),
        f"CBLR, every {REUSE}th": (reused(cblr()), REUSE),
    }
    for name in ("LARS", "MCLR", "PercentDelta", "LAMB"):
        rule = getattr(sim.optimizers, name)
        found[name] = plain(rule(model.parameters(), gamma, momentum=0.9)), 1
    return found


def measure(width: float, batch: int, rounds: int) -> list[dict[str, object]]:
    runs = contestants(width, batch)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, (run, steps) in runs.items():
            gc.collect()
            start = record.clock()
            run()
            if number:  # the first round fills caches and makes the state
                times[name].append((record.clock() - start) / steps)
    rows: list[dict[str, object]] = []
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times["SGD"], strict=True)]
        rows.append(
            {
                "optimizer": name,
                "seconds": statistics.median(seconds),
                "times SGD": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = measure(given.width, given.batch, given.rounds)
    print(f"{'optimizer':18} {'seconds':>8} {'times SGD':>10}  (least to most)")
    for row in rows:
        print(
            f"{row['optimizer']:18} {row['seconds']:8.3f} {row['times SGD']:10.2f}  "
            f"({row['least']:.2f} to {row['most']:.2f})"
        )
    settings = {"width": given.width, "batch": given.batch, "classes": 10, "rounds": given.rounds}
    record.write(given.out / "step.json", settings=settings, rows=rows)


if __name__ == "__main__":
    main()
