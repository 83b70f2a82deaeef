"""What is exact at one point of training: slope, noise, and the curvature along both."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import hessian
from paper_checks.measurements.branching.task import Task


def moments(task: Task, flat: Tensor) -> dict[str, Any]:
    """|G|², GᵀHG, tr Σ, tr(HΣ) and tr H at one point, the training set as the whole population.

    `layers` have the tr Σ/|G|² of each tensor of weights. tr(HΣ) is the mean of g_iᵀHg_i less GᵀHG,
    from one Hessian-vector product a sample; tr H is the sum of the exact diagonal.
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


def simple(samples: Tensor) -> float:
    """tr Σ/|G|² of the gradients of single samples, `[N, P]`.

    >>> simple(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    1.0
    """
    return float(samples.var(0, correction=0).sum() / samples.mean(0).square().sum())
