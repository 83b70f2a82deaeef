"""Losses on a model's logits, for models that return an object that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def on_logits(
    loss: Callable[[Any, Any], Tensor] = torch.nn.functional.cross_entropy, *, shift: bool = False
) -> Callable[[Any, Any], Tensor]:
    """A loss of (output, target) that takes the output's logits, as models of Hugging Face have it.

    Where such a model computes its loss itself, `plan` cannot see where samples lie in it, and
    `diagonal` takes many times as many passes.

    Args:
        loss: ``loss(logits, target)``. Logits of tokens, ``[n, T, C]`` beside targets ``[n, T]``,
            are given as ``[n·T, C]`` and ``[n·T]``; targets of -100 are those that cross-entropy
            ignores.
        shift: each token predicts the one after it, as in causal language models.

    Returns:
        ``f(output, target)``; the logits are ``output.logits``, ``output["logits"]`` or the output
        itself where it is a tensor. A target that is a mapping counts by its ``"labels"``.

    Raises:
        TypeError: `loss` is no function, or an output holds no logits.

    Example:
        >>> from types import SimpleNamespace
        >>> output = SimpleNamespace(logits=torch.zeros(1, 3, 4))
        >>> target = torch.tensor([[0, 1, 2]])
        >>> round(float(on_logits(shift=True)(output, target)), 4)  # the logarithm of 4
        1.3863
    """
    if not callable(loss):
        raise TypeError(
            f"loss must be a function of (logits, target), got {type(loss).__name__}; "
            "e.g. torch.nn.functional.cross_entropy"
        )

    def of_output(output: Any, target: Any) -> Tensor:
        logits = _logits(output)
        if isinstance(target, Mapping) and "labels" in target:
            target = target["labels"]
        if shift:
            logits, target = logits[:, :-1], target[:, 1:]
        tokens = isinstance(target, Tensor) and target.dim() > 1
        if tokens and logits.shape[:-1] == target.shape:
            logits, target = logits.flatten(0, -2), target.flatten()
        return loss(logits, target)

    return of_output


def _logits(output: Any) -> Tensor:
    logits = output.get("logits") if isinstance(output, Mapping) else output
    logits = getattr(logits, "logits", logits)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model returned {type(output).__name__} without logits; give a loss of "
            "(output, target) that takes from it what it needs"
        )
    return logits
