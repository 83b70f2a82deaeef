"""Losses of [n, 4] outputs, with the targets that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Any, Any], Tensor]
Targets = Callable[[int, torch.Generator], Tensor]


def classes(n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 4, (n,), generator=generator, device="cpu")


def ignored(n: int, generator: torch.Generator) -> Tensor:
    y = classes(n, generator)
    y[0] = -100
    return y


def values(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 4, generator=generator, dtype=torch.float64, device="cpu")


def bits(n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (n, 4), generator=generator, device="cpu").double()


WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64, device="cpu")


def l2(model: nn.Module) -> Loss:
    """Cross-entropy plus an L2 term read from the live parameters."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        penalty = sum(p.pow(2).sum() for p in model.parameters())
        return F.cross_entropy(output, target) + 0.05 * penalty

    return loss


def norm(model: nn.Module) -> Loss:
    """An unsquared norm: the loss's own term couples the entries of the parameter."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        size: Tensor = next(iter(model.parameters())).norm()
        return F.cross_entropy(output, target) + 0.1 * size

    return loss


def coupling(output: Tensor, target: Tensor) -> Tensor:
    """A loss that couples samples: squared mean output and a batch-wise softmax."""
    return output.mean(0).pow(2).sum() + F.log_softmax(output, 0).pow(2).mean()


# name: (loss or maker of one that needs the model, target maker)
LOSSES: dict[str, tuple[Callable[[nn.Module], Loss], Targets]] = {
    "cross-entropy": (lambda _: F.cross_entropy, classes),
    "class-weights": (lambda _: nn.CrossEntropyLoss(weight=WEIGHTS), classes),
    "ignore-index": (lambda _: F.cross_entropy, ignored),
    "label-smoothing": (lambda _: nn.CrossEntropyLoss(label_smoothing=0.2), classes),
    "weights-smoothing-ignore": (
        lambda _: nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.2),
        ignored,
    ),
    "sum": (lambda _: nn.CrossEntropyLoss(reduction="sum"), classes),
    "mse": (lambda _: F.mse_loss, values),
    "bce-with-logits": (lambda _: F.binary_cross_entropy_with_logits, bits),
    "huber": (lambda _: F.huber_loss, values),
    "smooth-l1": (lambda _: F.smooth_l1_loss, values),
    "cosine": (lambda _: lambda o, t: (1 - F.cosine_similarity(o, t, dim=1)).mean(), values),
    "three-times": (lambda _: lambda o, t: 3 * F.cross_entropy(o, t), classes),
    "l2-term": (l2, classes),
    "norm-term": (norm, classes),
    "coupling": (lambda _: coupling, values),
    "root": (lambda _: lambda o, t: F.mse_loss(o, t).sqrt(), values),
    "concave": (lambda _: lambda o, t: -(o - t).pow(2).mean() + 0.1 * o.pow(3).mean(), values),
    "focal": (
        lambda _: (
            lambda o, t: (
                (1 - (-F.cross_entropy(o, t, reduction="none")).exp()).pow(2)
                * F.cross_entropy(o, t, reduction="none")
            ).mean()
        ),
        classes,
    ),
    "linear": (lambda _: lambda o, t: (o * t).mean(), values),
    "nll-of-softmax": (lambda _: lambda o, t: F.nll_loss(F.log_softmax(o, 1), t), classes),
    "inplace": (lambda _: lambda o, t: o.mul_(2).sub_(t).square_().mean(), values),
}
