"""What is measured along training: points at each level, branched runs, two temperatures."""

from typing import Any

import torch
from torch import Tensor

from paper_checks.measurements.branching.descent import descend, reach
from paper_checks.measurements.branching.moments import moments, simple
from paper_checks.measurements.branching.runs import TARGET, branch
from paper_checks.measurements.branching.scales import noise_scale
from paper_checks.measurements.branching.steps import single_steps
from paper_checks.measurements.branching.task import Task
from paper_checks.papers.mccandlish2018.measurements import profile as sizes
from paper_checks.papers.mccandlish2018.measurements.context import Setup
from paper_checks.papers.mccandlish2018.measurements.profile import BATCH, BIG, RATE, RATES, SMALL
from paper_checks.papers.mccandlish2018.measurements.tasks import task


def point(task: Task, flat: Tensor) -> dict[str, Any]:
    """The scales at one point, single steps from there, and what pairs of batches estimate."""
    exact, samples = moments(task, flat), task.per_sample(flat)
    tried = (sizes.STEP_BATCHES, sizes.MULTIPLES, sizes.STEPS)
    steps = single_steps(task, flat, samples, exact, *tried)
    return exact | {"steps": steps, "estimates": estimates(samples)}


def estimates(samples: Tensor) -> list[float]:
    """B_simple by equation 7 from pairs of batches, in several repetitions, over the exact one."""
    generator = torch.Generator().manual_seed(3)
    shape, products = (sizes.REPEATS, sizes.ESTIMATES), samples @ samples.T

    def squared(batch: int) -> Tensor:
        index = torch.randint(len(samples), (shape[0] * shape[1], batch), generator=generator)
        counts = torch.zeros(len(index), len(samples), dtype=samples.dtype)
        counts.scatter_add_(1, index, torch.ones_like(index, dtype=samples.dtype))
        norms = ((counts @ products) * counts).sum(1) / batch**2
        return norms.view(shape).mean(1)

    small, big = squared(SMALL), squared(BIG)
    slope = (BIG * big - SMALL * small) / (BIG - SMALL)
    noise = (small - big) / (1 / SMALL - 1 / BIG)
    return [float(value) for value in noise / slope / simple(samples)]


def along_training(context: Setup, each: str) -> dict[str, Any]:
    """The scales, steps and estimates of a network at every level."""
    profile, network = context.profile, task(context, each)
    lanes = descend(network, profile.seeds, profile.levels, RATES.get(each, RATE), BATCH)
    return {
        "levels": [
            {"level": level, "points": [point(network, flat) for flat in flats]}
            for level, flats in zip(sorted(profile.levels, reverse=True), lanes, strict=True)
        ]
    }


def branched(context: Setup, each: tuple[str, float, str]) -> dict[str, Any]:
    """The branched runs of one network at one point, and its noise scale at both ends of a run.

    The end is where SGD in batches of 32 first has the target, at the rate tuned for them.
    """
    (name, level, rule), profile = each, context.profile
    network = task(context, name)
    (starts,) = descend(network, profile.seeds, (level,), RATES.get(name, RATE), BATCH)
    spent = (profile.tuning, profile.reading, profile.most_steps)
    runs = branch(network, starts, rule, profile.batches, *spent)
    points = [starts]
    if rule == "sgd":
        (rate,) = (row["rate"] for row in runs["rows"] if row["batch"] == BATCH)
        points.append(reach(network, starts, TARGET, rate, BATCH))
    return {
        **{"network": name, "level": level, "rule": rule},
        **runs,
        "noise_scales": [[noise_scale(moments(network, flat)) for flat in p] for p in points],
        "loss": network.whole(starts).tolist(),
    }


def temperatures(context: Setup) -> dict[str, Any]:
    """B_simple by seed where each temperature first has the lowest loss."""
    name, low = context.profile.networks[0], (min(context.profile.levels),)
    network, rate = task(context, name), RATES.get(name, RATE) / 2
    ends = {
        label: descend(network, context.profile.seeds, low, rate, batch)[0]
        for label, batch in sizes.TEMPERATURES.items()
    }
    scales = {label: [simple(network.per_sample(p)) for p in end] for label, end in ends.items()}
    return {"network": name, **scales}
