"""Backward passes for many adjoints at once, a lane for each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

# What `vmap` says of an operation that it takes lane by lane.
SLOW = ".*performance drop because we have not yet implemented the batching rule"


def pulled_back(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor] | Sequence[GradientEdge],
    adjoints: Sequence[Tensor],
) -> list[Tensor | None]:
    """The gradients of `inputs` for each lane of the adjoints ``[lanes, *shape of the output]``.

    ``[lanes, *shape of the input]``, ``None`` for an input that no output depends on; the tape
    stays. By `torch.func.vmap`, which knows how to batch convolutions, norms and activations.
    Where it refuses (custom functions), autograd's own batching serves, which knows less and takes
    what it does not know lane by lane.

    Raises:
        RuntimeError, NotImplementedError: an operation can be batched by neither.
    """
    try:
        return _by_vmap(outputs, inputs, adjoints)
    except (RuntimeError, NotImplementedError):
        gradients = torch.autograd.grad(
            list(outputs), inputs, list(adjoints),
            retain_graph=True, allow_unused=True, is_grads_batched=True,
        )  # fmt: skip
        return list(gradients)


def _by_vmap(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor] | Sequence[GradientEdge],
    adjoints: Sequence[Tensor],
) -> list[Tensor | None]:
    used: list[bool] = []

    def single(*adjoint: Tensor) -> tuple[Tensor, ...]:
        gradients = torch.autograd.grad(
            list(outputs), inputs, list(adjoint), retain_graph=True, allow_unused=True
        )
        used[:] = [g is not None for g in gradients]
        # A mapped function returns tensors: the first adjoint where there is nothing else.
        return tuple(g for g in gradients if g is not None) or (adjoint[0],)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=SLOW)
        rows = iter(torch.func.vmap(single)(*adjoints))
    return [next(rows) if live else None for live in used]
