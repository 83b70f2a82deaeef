"""What `sim.monitor` costs, in training steps: medians of ratios in one run.

    python benchmarks/monitor.py [--rounds 5] [--every 50] [--threads 1]

Each network trains by SGD with momentum on batches of 128. In every round a training step is timed
(the median of several), and then each measurement on its own, on fewer samples than a batch; the
first round, which has no eigenvector to begin with, is left out. With one thread it is the
processor's time that counts. Writes a JSON record with hardware and versions.
"""

import argparse
import gc
import statistics
from collections.abc import Callable
from pathlib import Path

import record
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sim

BATCH = 128
MEASURES = ("noise_scale", "critical_rate", "trace", "sharpness")
MEMORY = 2**33  # so that no batch is taken in parts
STEPS = 5  # timed in a round; their median counts
Case = tuple[nn.Module, Tensor, Tensor]


def digits(name: str, **options: object) -> Case:
    data = sim.data.load("digits")
    model = sim.models.build(name, in_shape=data.shape, classes=10, seed=0, **options)
    return model, data.inputs[:BATCH], data.targets[:BATCH]


def images(width: float) -> Case:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 3, 32, 32, generator=generator)
    y = torch.randint(0, 10, (BATCH,), generator=generator)
    return sim.models.build("alexnet", width=width, classes=10, seed=0), x, y


# Name → the network with a batch, and the samples that are measured.
CASES: dict[str, tuple[Callable[[], Case], int]] = {
    "MLP 64-128-128-10": (lambda: digits("mlp", hidden=(128, 128)), 32),
    "LeNet": (lambda: digits("lenet"), 32),
    "AlexNet, a quarter of its width": (lambda: images(0.25), 16),
    "AlexNet": (lambda: images(1.0), 16),
}


def measure(name: str, rounds: int, every: int) -> list[dict[str, object]]:
    make, samples = CASES[name]
    model, x, y = make()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> float:
        start = record.clock()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        return record.clock() - start

    monitors = {
        measurement: sim.monitor(
            model,
            F.cross_entropy,
            (x[:samples], y[:samples]),
            optimizer,
            measure=[measurement],
            memory=MEMORY,
        )
        for measurement in MEASURES
    }
    ratios: dict[str, list[float]] = {measurement: [] for measurement in MEASURES}
    for number in range(rounds + 1):
        gc.collect()
        seconds = statistics.median(step() for _ in range(STEPS))
        for measurement, monitor in monitors.items():
            start = record.clock()
            monitor.measure()
            if number:
                ratios[measurement].append((record.clock() - start) / seconds)
    return [
        {
            "network": name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "samples": samples,
            "measure": measurement,
            "steps": statistics.median(values),
            "least": min(values),
            "most": max(values),
            "share": statistics.median(values) / every,
        }
        for measurement, values in ratios.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=CASES, metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(f"{'network':32} {'measure':14} {'steps':>6}  (least to most)   every {options.every}th")
    for name in options.only:
        for row in measure(name, options.rounds, options.every):
            rows.append(row)
            print(
                f"{name:32} {row['measure']:14} {row['steps']:6.2f}  "
                f"({row['least']:.2f} to {row['most']:.2f}) {row['share']:8.1%}",
                flush=True,
            )
    settings = {"batch": BATCH, "rounds": options.rounds, "every": options.every}
    record.write(options.out / "monitor.json", settings=settings, rows=rows)


if __name__ == "__main__":
    main()
