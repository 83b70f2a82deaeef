"""Training throughput: `sim.train` beside a plain loop over a DataLoader, and seeds as lanes.

    python benchmarks/training.py [--rounds 15] [--threads 1] [--only mlp lanes]
    python benchmarks/training.py --data DIR --samples 2560 --only alexnet   # CIFAR-10

The plain loop is what one would write: `for x, y in DataLoader(TensorDataset(...), shuffle=True)`,
zero_grad, cross_entropy, backward, step. Beside it stand `sim.train` with nothing measured, with
what it measures by default, and with other options. Contestants take turns round by round; what is
reported is the median over the rounds of the ratio within a round, with its quartiles, because a
busy machine moves all times together. Seconds are those of the processor, not of the clock on the
wall: with one thread and no waiting they are the same on an idle machine, and on a busy one
they leave out what others take. Only the sweeps on two cores go by the clock. Writes a JSON record
with hardware and versions, `training.json` for digits and `training-cifar10.json` for CIFAR-10.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import sim
from sim.training import TrainConfig
from sim.training.engine.state import State
from sim.training.engine.world import World

NOTHING = {"layers_every": 0, "test_every": 0}
MOMENTUM = {"momentum": 0.9}
LANES = 32
Case = tuple[dict[str, Any], int]
# Network, data and batch size, and how many passes make one timing.
CASES: dict[str, Case] = {
    "mlp-8": ({"model": "mlp", "batch_size": 8}, 1),
    "mlp-32": ({"model": "mlp", "batch_size": 32}, 4),
    "mlp-128": ({"model": "mlp", "batch_size": 128}, 8),
    "lenet-128": ({"model": "lenet", "batch_size": 128}, 2),
    "transformer-128": ({"model": "transformer", "batch_size": 128}, 1),
    "resnet18-64": (
        {"model": "resnet18", "model_options": {"width": 0.25}, "batch_size": 64},
        1,
    ),
    "alexnet-128": (
        {"model": "alexnet", "model_options": {"width": 0.5}, "batch_size": 128},
        1,
    ),
}


def plain(config: TrainConfig, root: str | None) -> Callable[[], float]:
    """The loop over a DataLoader; returns seconds for all passes."""
    data = sim.data.load(config.dataset, root)
    if config.samples is not None:
        data = data.subset(config.samples, 0)
    options: dict[str, Any] = dict(config.model_options)

    def run() -> float:
        model = sim.models.build(
            config.model, in_shape=data.shape, classes=data.classes, seed=0, **options
        )
        optimizer = torch.optim.SGD(model.parameters(), config.lr, momentum=0.9)
        loader = DataLoader(TensorDataset(*data.pair), batch_size=config.batch_size, shuffle=True)
        start = time.process_time()
        for _ in range(config.epochs or 0):
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        return time.process_time() - start

    return run


def ours(configs: list[TrainConfig], root: str | None) -> Callable[[], float]:
    """The same passes by `sim.train`'s own loop; several configurations are lanes."""

    def run() -> float:
        state = State(configs, root, World())
        start = time.process_time()
        for _ in state.steps():
            pass
        return time.process_time() - start

    return run


def one_by_one(configs: list[TrainConfig], root: str | None) -> Callable[[], float]:
    def run() -> float:
        return sum(ours([config], root)() for config in configs)

    return run


def swept(configs: list[TrainConfig], vectorise: bool, cores: int = 1) -> Callable[[], float]:
    """All of a sweep: data, networks, steps and tables; on several cores by the clock."""
    clock = time.process_time if cores == 1 else time.perf_counter

    def run() -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(cores)
        start = clock()
        sim.sweep(configs, jobs=1, vectorise=vectorise)
        took = clock() - start
        torch.set_num_threads(before)
        return took

    return run


def throughput(
    name: str, root: str | None, samples: int | None = None
) -> dict[str, Callable[[], float]]:
    fields, epochs = CASES[name]
    base = TrainConfig.read(
        {"dataset": "cifar10" if root else "digits", "epochs": epochs, "lr": 0.01}
        | {"optimizer_options": MOMENTUM, "measure": NOTHING, "samples": samples}
        | fields
    )
    found = {
        "DataLoader": plain(base, root),
        "sim.train, nothing measured": ours([base], root),
        "sim.train, layers every 10th": ours(
            [base.replace(measure={"layers_every": 10, "test_every": 0})], root
        ),
        "sim.train, layers every step": ours(
            [base.replace(measure={"layers_every": 1, "test_every": 0})], root
        ),
    }
    if fields["model"] in ("alexnet", "resnet18"):
        last = base.replace(channels_last=True)
        found["sim.train, channels last"] = ours([last], root)
    return found


def lanes(
    batch_size: int,
    measured: bool = True,
    whole: int = 0,
    hidden: tuple[int, ...] = (128, 128),
    rule: str = "sgd",
) -> dict[str, Callable[[], float]]:
    """Seeds as lanes and one after another: their steps, or all of a sweep on `whole` cores."""
    base = TrainConfig.read(
        {"epochs": 2, "batch_size": batch_size, "lr": 0.05, "optimizer_options": MOMENTUM}
        | {"model_options": {"hidden": hidden}, "optimizer": rule}
        | ({} if measured else {"measure": NOTHING})
    )
    configs = [base.replace(seed=seed) for seed in range(LANES)]
    if whole:
        return {
            "one after another": swept(configs, False, whole),
            "lanes": swept(configs, True, whole),
        }
    return {"one after another": one_by_one(configs, None), "lanes": ours(configs, None)}


def compare(contestants: dict[str, Callable[[], float]], rounds: int) -> list[dict[str, object]]:
    """Each against the first one: how many times as fast, round by round."""
    first = next(iter(contestants))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        gc.collect()
        for name, run in contestants.items():
            seconds = run()
            if number:  # the first round fills caches
                times[name].append(seconds)
    rows: list[dict[str, object]] = []
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(times[first], seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rows.append(
            {
                "contestant": name,
                "seconds": statistics.median(seconds),
                "least seconds": min(seconds),
                "times as fast": middle,
                "quartiles": [low, high],
            }
        )
    return rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(title)
    for row in rows:
        low, high = row["quartiles"]
        print(
            f"  {row['contestant']:30} {row['seconds']:8.3f} s {row['times as fast']:6.2f} times "
            f"as fast ({low:.2f} to {high:.2f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="beginnings of names: mlp, lanes, resnet18, …")
    parser.add_argument("--data", help="the folder of CIFAR-10; digits otherwise")
    parser.add_argument("--samples", type=int, help="so many of the samples; all otherwise")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    settings = {"rounds": given.rounds, "lanes": LANES, "threads": given.threads}
    settings |= {"data": "cifar10" if given.data else "digits", "samples": given.samples}
    path = given.out / ("training-cifar10.json" if given.data else "training.json")
    found: dict[str, Any] = {}
    todo: dict[str, Callable[[], dict[str, Callable[[], float]]]] = {
        name: (lambda name=name: throughput(name, given.data, given.samples)) for name in CASES
    }
    for size in (16, 32, 128):
        for measured in (False, True):
            title = f"lanes-{size}{', measured' if measured else ''}"
            todo[title] = lambda size=size, measured=measured: lanes(size, measured)
        todo[f"lanes-{size}, hidden 32"] = lambda size=size: lanes(size, True, hidden=(32,))
        for cores in (1, 2):
            title = f"lanes-{size}, whole sweep{', two cores' if cores > 1 else ''}"
            todo[title] = lambda size=size, cores=cores: lanes(size, whole=cores)
    todo["lanes-32, lars"] = lambda: lanes(32, rule="lars")
    for name, make in todo.items():
        if given.only and not any(name.startswith(each) for each in given.only):
            continue
        found[name] = compare(make(), given.rounds)
        show(name, found[name])
        # After every case, so that a run cut short is not lost.
        record.write(path, settings=settings, cases=found)


if __name__ == "__main__":
    main()
