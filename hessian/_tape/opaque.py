"""Custom functions on a tape: what autograd can know of them, and where that is not enough.

A custom function's derivative is what its author says it is, in the first and in the second
order. Two kinds are no such statement. One has a first derivative only and does not say so: code
that was compiled. The other hides parameters: it runs a part of the model off the tape and walks
through it in its own backward, as a reentrant checkpoint does; the gradient of its parameters then
appears in ``.grad``, and never in what the tape is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from hessian._runtime.ledger import owe, settled
from hessian._tape.graph import Node, Tape, is_custom, is_leaf, title
from hessian._tape.unfaithful import refuse_unfaithful

# Gradients of two walks through one tape differ by rounding at most.
SAME = 1e-3
# Custom functions that come with torch and keep what they need where autograd does not see it.
_FALSE = {"CrossMapLRN2d": "nn.CrossMapLRN2d; use nn.LocalResponseNorm"}

F = TypeVar("F", bound=type)
_TRUSTED: set[type] = set()


def trusted(function: F) -> F:
    """Marks a custom function of this package as one that hides nothing."""
    _TRUSTED.add(function)
    return function


def refuse_opaque(
    tape: Tape, tensors: Sequence[Tensor], gradients: Sequence[Tensor], parameters: Any
) -> None:
    """Raise where a tape that ends in `tensors` does not show what they depend on.

    `gradients` are those of the loss in the tensors, `parameters` a mapping from name to tensor.

    Raises:
        NotImplementedError: a custom function on it was compiled, or hides a parameter; or torch's
            second derivative of one of its own operations is wrong.
    """
    refuse_unfaithful(tape.order)
    custom = [node for node in tape.order if is_custom(type(node)) and not _harmless(node)]
    if not custom:
        return
    for node in custom:
        _refuse_known(node)
    hidden = _hidden(tape, tensors, gradients, parameters)
    if hidden:
        names = ", ".join(dict.fromkeys(title(node) for node in custom))
        raise NotImplementedError(
            f"model or loss: the gradient of parameter {hidden!r} reaches it past autograd's tape, "
            f"through a custom function that walks through a tape of its own, as a reentrant "
            f"checkpoint does ({names}); call the function it wraps directly, or pass names= "
            "without that parameter"
        )


def _harmless(node: Node) -> bool:
    """Whether it is one of this package, or does nothing, as at the end of a parallel module."""
    function = getattr(type(node), "_forward_cls", None)
    return (
        function in _TRUSTED
        or getattr(function, "__module__", "") == "torch.nn.parallel.distributed"
    )


def _refuse_known(node: Node) -> None:
    function = getattr(type(node), "_forward_cls", None)
    name, module = getattr(function, "__name__", ""), getattr(function, "__module__", "")
    if name == "CompiledFunction" and module.startswith("torch._functorch"):
        raise NotImplementedError(
            "model or loss: it holds a compiled function, for which torch has no second "
            "derivative; pass the function that was compiled"
        )
    if name in _FALSE and module.startswith("torch."):
        raise NotImplementedError(
            f"model or loss: torch's second derivative is wrong for {_FALSE[name]} instead"
        )


def _hidden(
    tape: Tape,
    tensors: Sequence[Tensor],
    gradients: Sequence[Tensor],
    parameters: Mapping[str, Tensor],
) -> str:
    """A parameter whose ``.grad`` is not the derivative that the tape gives, if there is one."""
    leaves = {id(node.variable): node.variable for node in tape.order if is_leaf(node)}
    leaves |= {id(p): p for p in parameters.values()}
    with settled():
        for leaf in leaves.values():
            owe(partial(setattr, leaf, "grad", leaf.grad))
            leaf.grad = None
        torch.autograd.backward(tensors, gradients, retain_graph=True)
        reached = {name: p.grad for name, p in parameters.items()}
        try:
            shown = torch.autograd.grad(
                tensors, list(parameters.values()), gradients, retain_graph=True, allow_unused=True
            )
        except RuntimeError as error:
            if "checkpoint" in str(error).lower():  # which refuses to be asked for this
                return next(
                    (name for name, g in reached.items() if g is not None), next(iter(reached))
                )
            raise
    for (name, g), h in zip(reached.items(), shown, strict=True):
        if g is None and h is None:
            continue
        gap = g if h is None else h if g is None else g - h
        assert gap is not None
        size = max(float(t.abs().max()) for t in (g, h) if t is not None and t.numel()) or 1.0
        if gap.numel() and not float(gap.abs().max()) <= SAME * size:
            return name
    return ""
