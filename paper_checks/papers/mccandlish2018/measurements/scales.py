"""The exact scales of a network at one point: |G|², GᵀHG, tr Σ, tr(HΣ), tr H, by layer too."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import hessian
from paper_checks.papers.mccandlish2018.measurements.tasks import Task

# Steps between two looks at the loss while training to a level of it, and the most of them.
LOOK, MOST_STEPS = 3, 4000
# As they are common with several devices: what one of them sees, and all of them together.
SMALL, BIG, ESTIMATES = 32, 256, 100
REPEATS = 20
# Batches over which the decrease by one step is a mean, and the steps in units of the best one.
STEPS, MULTIPLES = 24, (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
STEP_BATCHES = (4, 32, 256)


def descend(
    task: Task, seeds: tuple[int, ...], levels: tuple[float, ...], lr: float, batch: int
) -> list[Tensor]:
    """The parameters `[seeds, P]` where SGD first has each share of the loss it began with."""
    points = [torch.stack([task.start(seed) for seed in seeds])]
    reached: list[tuple[float, Tensor]] = []
    for level in sorted(levels, reverse=True):
        share = level / (reached[-1][0] if reached else 1.0)
        points.append(reach(task, points[-1], share, lr, batch))
        reached.append((level, points[-1]))
    return [point for _, point in reached]


def reach(task: Task, starts: Tensor, share: float, lr: float, batch: int) -> Tensor:
    """The parameters `[seeds, P]` where SGD first has a share of the loss of each start.

    Raises `RuntimeError` where it never has.
    """
    lanes, reached, target = starts.clone(), starts.clone(), share * task.whole(starts)
    left = torch.full((len(starts),), share < 1.0)
    generator = torch.Generator().manual_seed(1)
    for step in range(1, MOST_STEPS + 1):
        if not left.any():
            return reached
        index = torch.randint(len(task.targets), (len(lanes), batch), generator=generator)
        lanes = lanes - lr * task.gradients(lanes, index)
        if step % LOOK == 0:
            now = left & (task.whole(lanes) <= target)
            reached[now] = lanes[now]
            left &= ~now
    raise RuntimeError(f"share: {share} of the loss was not reached in {MOST_STEPS} steps")


def scales(task: Task, flat: Tensor) -> dict[str, Any]:
    """The scales at one point, with the training set as the whole population.

    tr(HΣ) is the mean of g_iᵀHg_i less GᵀHG, from one Hessian-vector product a sample; tr H is the
    sum of the exact diagonal.
    """
    samples = task.per_sample(flat)
    mean = samples.mean(0)
    with torch.no_grad():
        for name, parameter in task.model.named_parameters():
            parameter.copy_(task.parts(flat)[name])
    pair = (task.inputs, task.targets)
    operator = hessian.operator(task.model, cross_entropy, pair)
    vectors = torch.cat([samples, mean[None]])
    curved = torch.from_numpy(operator @ vectors.T.numpy()).T
    along = (vectors * curved).sum(1)
    diagonal = hessian.diagonal(task.model, cross_entropy, pair)
    squares = {name: part.square().sum() for name, part in task.parts(mean).items()}
    spread = task.parts(samples.var(0, correction=0))
    return {
        "loss": float(task.whole(flat[None])),
        "slope": float(mean.square().sum()),
        "curved": float(along[-1]),
        "noise": float(samples.var(0, correction=0).sum()),
        "curved_noise": float(along[:-1].mean() - along[-1]),
        "trace": float(sum(part.sum() for part in diagonal.values())),
        "parameters": flat.numel(),
        "layers": {
            name: float(spread[name].sum() / squares[name])
            for name in squares
            if name.endswith("weight") and squares[name] > 0
        },
    }


def point(task: Task, flat: Tensor) -> dict[str, Any]:
    """The scales at one point, single steps from there, and what pairs of batches estimate."""
    exact, samples = scales(task, flat), task.per_sample(flat)
    return exact | {"steps": steps(task, flat, samples, exact), "estimates": estimates(samples)}


def steps(
    task: Task, flat: Tensor, samples: Tensor, exact: Mapping[str, Any]
) -> list[dict[str, float]]:
    """The mean decrease of the loss by one step, over random batches, beside equation 3's."""
    generator = torch.Generator().manual_seed(2)
    slope = exact["slope"]
    before = task.whole(flat[None])
    rows = []
    for batch in STEP_BATCHES:
        best = slope / (exact["curved"] + exact["curved_noise"] / batch)
        if best <= 0:
            continue
        index = torch.randint(len(samples), (STEPS, batch), generator=generator)
        moves = samples[index].mean(1)
        for multiple in MULTIPLES:
            decreases = before - task.whole(flat - multiple * best * moves)
            # Of these batches the first order is known; of it the mean over all is taken.
            luck = multiple * best * (moves @ samples.mean(0) - slope)
            predicted = 0.5 * best * slope * multiple * (2 - multiple)
            rows.append(
                {
                    "batch": batch,
                    "multiple": multiple,
                    "predicted": predicted,
                    "measured": float((decreases - luck).mean()),
                }
            )
    return rows


def estimates(samples: Tensor) -> list[float]:
    """B_simple by equation 7 from pairs of batches, in several repetitions, over the exact one."""
    generator = torch.Generator().manual_seed(3)
    products = samples @ samples.T

    def squared(batch: int) -> Tensor:
        index = torch.randint(len(samples), (REPEATS * ESTIMATES, batch), generator=generator)
        counts = torch.zeros(len(index), len(samples), dtype=samples.dtype)
        counts.scatter_add_(1, index, torch.ones_like(index, dtype=samples.dtype))
        norms = ((counts @ products) * counts).sum(1) / batch**2
        return norms.view(REPEATS, ESTIMATES).mean(1)

    small, big = squared(SMALL), squared(BIG)
    slope = (BIG * big - SMALL * small) / (BIG - SMALL)
    noise = (small - big) / (1 / SMALL - 1 / BIG)
    return [float(value) for value in noise / slope / simple(samples)]


def simple(samples: Tensor) -> float:
    """B_simple of the gradients of single samples, `[N, P]`.

    >>> simple(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    1.0
    """
    return float(samples.var(0, correction=0).sum() / samples.mean(0).square().sum())


def noise_scale(point: Mapping[str, Any]) -> float | None:
    """B_noise = tr(HΣ)/GᵀHG, or nothing where one of the two is not positive.

    >>> noise_scale({"curved_noise": 8.0, "curved": 2.0})
    4.0
    """
    if min(point["curved_noise"], point["curved"]) <= 0:
        return None
    return float(point["curved_noise"] / point["curved"])


def simple_scale(point: Mapping[str, Any]) -> float:
    """B_simple = tr Σ/|G|².

    >>> simple_scale({"noise": 8.0, "slope": 4.0})
    2.0
    """
    return float(point["noise"] / point["slope"])
