"""Batches as all functions here take them, for code that walks through the same data itself.

| question | call |
|---|---|
| the pairs that `data` stands for | `pairs` |
| the model's output of some inputs | `call` |
| the loss of an output | `loss_of` |
| how many samples there are | `size` |
| batches that stay what they are | `lasting` |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from hessian._call import data as _data
from hessian._call.data import lasting as lasting
from hessian._call.data import size as size
from hessian._call.labelled import called, paired

__all__ = ["call", "lasting", "loss_of", "pairs", "size"]


def pairs(
    data: Any, model: nn.Module, forward: _data.Forward | None = None
) -> Iterator[tuple[Any, Any]]:
    """The ``(inputs, targets)`` pairs of `data`, as `hessian.diagonal` understands it.

    Of a batch that is one mapping the inputs are what the model is called with, and the targets
    are an object for `loss_of`.

    Raises:
        TypeError, ValueError: `data` is nothing that `hessian.diagonal` takes.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> [y.tolist() for _, y in pairs([(torch.zeros(1, 2), torch.ones(1))], model)]
        [[1.0]]
    """
    for item in _data.batches(data):
        yield paired(item, model, forward is not None)


def call(model: nn.Module, inputs: Any, forward: _data.Forward | None = None) -> Any:
    """What the model makes of the inputs: ``forward(model, inputs)``, else by their kind.

    Example:
        >>> import torch
        >>> call(nn.Identity(), {"input": torch.ones(1)})
        tensor([1.])
    """
    return _data.call(model, inputs, forward)


def loss_of(loss: _data.Loss, output: Any, targets: Any) -> Any:
    """The loss of an output, with targets as `pairs` yields them.

    Example:
        >>> import torch
        >>> loss_of(nn.functional.mse_loss, torch.zeros(1), torch.ones(1))
        tensor(1.)
    """
    return called(loss, output, targets)
