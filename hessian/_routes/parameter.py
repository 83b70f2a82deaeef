"""Parameter route: e'He along every single entry e, by double backward. Exact for anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hessian._runtime.lanes import pulled_back
from hessian._runtime.share import ALL, Share
from hessian._tape.graph import refuse_undifferentiable


def by_entries(
    loss: Tensor,
    parameters: Sequence[Tensor],
    into: Sequence[Tensor],
    tape_bytes: int,
    memory: int,
    tick: Callable[[int], None],
    index: Sequence[Tensor | None] | None = None,
    share: Share = ALL,
    keep: Callable[[int, Tensor, Tensor], None] = lambda number, entries, values: None,
) -> None:
    """Write d²L/dw² at flat entries `index` (all by default) of each parameter to `into`.

    With a `share` only some of them are written, the others set to zero. `keep` is told what is
    finished: number of the parameter, flat entries, values.

    One Hessian-vector product per entry, several at a time where memory allows and every
    operation has a batching rule, one by one otherwise.

    Raises:
        NotImplementedError: an operation on the tape has no second derivative.
    """
    try:
        gradients = torch.autograd.grad(
            loss, list(parameters), create_graph=True, allow_unused=True
        )
        refuse_undifferentiable(gradients)
        for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            target = into[i].view(-1)
            entries = None if index is None else index[i]
            if entries is None:
                entries = torch.arange(parameter.numel(), device=parameter.device)
            if gradient is None or not gradient.requires_grad:
                target.zero_()
                keep(i, entries, target)
                tick(len(entries))
                continue
            numbers = share.of(len(entries))
            target[: numbers.start].zero_()
            target[numbers.stop :].zero_()
            wanted_entries, place = entries[numbers], target[numbers]
            for part in _entries(gradient, parameter, wanted_entries, place, tape_bytes, memory):
                keep(i, wanted_entries[part], place[part])
                tick(part.stop - part.start)
    except NotImplementedError:
        raise
    except RuntimeError as error:
        if "not implemented" in str(error) or "does not support" in str(error):
            raise NotImplementedError(
                f"model: an operation has no second derivative in torch ({_first_line(error)}); "
                "write it with differentiable operations, or pass names= without the parameters "
                "below it"
            ) from error
        raise


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _entries(
    gradient: Tensor,
    parameter: Tensor,
    entries: Tensor,
    target: Tensor,
    tape_bytes: int,
    memory: int,
) -> Iterator[slice]:
    """Write the diagonal at some entries to `target`; which of them are done, as they are."""
    # A product keeps adjoints of the forward and the backward tape, and one row of H.
    each = 4 * tape_bytes + 2 * parameter.numel() * parameter.element_size()
    chunk = max(1, min(len(entries), memory // max(1, each)))
    batched = chunk > 1
    for start in range(0, len(entries), chunk):
        part = entries[start : start + chunk]
        if batched:
            try:
                target[start : start + len(part)] = _batched(gradient, parameter, part)
                yield slice(start, start + len(part))
                continue
            except (RuntimeError, NotImplementedError):
                batched = False  # no batching rule, or data-dependent code in a custom backward
        for offset, entry in enumerate(part.tolist()):
            target[start + offset] = single(gradient, parameter, entry)
            yield slice(start + offset, start + offset + 1)


def _batched(gradient: Tensor, parameter: Tensor, entries: Tensor) -> Tensor:
    rows = torch.arange(len(entries), device=parameter.device)
    units = gradient.new_zeros((len(entries), gradient.numel()))
    units[rows, entries] = 1.0
    (products,) = pulled_back([gradient], [parameter], [units.view(len(entries), *gradient.shape)])
    if products is None:
        return gradient.new_zeros(len(entries))
    return products.reshape(len(entries), -1)[rows, entries].detach()


def single(gradient: Tensor, parameter: Tensor, entry: int) -> Tensor:
    """d²L/dw² at one flat entry, from the gradient with its graph."""
    unit = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
    unit.view(-1)[entry] = 1.0
    (product,) = torch.autograd.grad(
        gradient, parameter, unit, retain_graph=True, allow_unused=True
    )
    return gradient.new_zeros(()) if product is None else product.reshape(-1)[entry].detach()
