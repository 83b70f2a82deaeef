"""A call of the user's model or loss: what is done differently inside, and what it may hold.

A few operations have no second derivative in torch, or write to a parameter on their way. Inside
an exact computation they are replaced by equal expressions that have one, and what was written is
noted, so that it can be put back. The size of the tape is watched as it grows: where it would
exceed a limit the call is broken off (`TooLarge`) and the batch taken in parts instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hessian._ledger import owe, settled
from hessian._tape import Node, is_leaf, size

Written = list[tuple[Tensor, Tensor]]


class TooLarge(BaseException):
    """The tape of a call outgrew its limit. Not an Exception, so that no user code catches it."""


class Watch(TorchFunctionMode):
    """Replaces operations, notes parameters that are written to, and counts the tape's bytes."""

    def __init__(self, written: Written, limit: int | None) -> None:
        super().__init__()
        self.written, self.limit, self.bytes = written, limit, 0
        self.seen: set[Node] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        rule = _RULES.get(func)
        kwargs = kwargs or {}
        result = func(*args, **kwargs) if rule is None else rule(self, func, *args, **kwargs)
        if self.limit is not None:
            self._count(result)
        return result

    def _count(self, result: Any) -> None:
        found = result if isinstance(result, tuple | list) else (result,)
        stack: list[Node] = [
            t.grad_fn for t in found if isinstance(t, Tensor) and t.grad_fn is not None
        ]
        while stack:
            node = stack.pop()
            if node is None or node in self.seen:
                continue
            self.seen.add(node)
            if not is_leaf(node):
                self.bytes += size(node)
                stack += [child for child, _ in node.next_functions]
        if self.limit is not None and self.bytes > self.limit:
            raise TooLarge

    def keep(self, weight: Tensor, max_norm: float | None) -> None:
        """Note a weight that is about to be renormalised in place."""
        if max_norm is not None and not any(weight is kept for kept, _ in self.written):
            self.written.append((weight, weight.detach().clone()))


@contextmanager
def put_back(written: Written) -> Iterator[None]:
    """Restore what calls inside wrote to parameters."""
    with settled():
        owe(lambda: _rewrite(written))
        yield


def _rewrite(written: Written) -> None:
    for tensor, value in written:
        tensor.data.copy_(value)
    written.clear()


def _embedding(
    watch: Watch,
    func: Callable[..., Any],
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """With dense gradients: sparse ones have no second derivative."""
    watch.keep(weight, max_norm)
    return func(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, False)


def _embedding_bag(
    watch: Watch,
    func: Callable[..., Any],
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Rows looked up and summed."""
    watch.keep(weight, max_norm)
    if mode == "max" or scale_grad_by_freq or input.is_floating_point():
        return func(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, False,
            per_sample_weights, include_last_offset, padding_idx,
        )  # fmt: skip
    rows = F.embedding(input, weight, None, max_norm, norm_type)
    share = torch.ones_like(rows[..., :1])
    if padding_idx is not None:
        share = share * (input != padding_idx % len(weight)).unsqueeze(-1)
    scaled = rows * (share if per_sample_weights is None else
                     share * per_sample_weights.unsqueeze(-1))  # fmt: skip
    if input.dim() == 2:
        total, count = scaled.sum(1), share.sum(1)
    else:
        assert offsets is not None
        bags = len(offsets) - int(include_last_offset)
        at = torch.arange(len(input), device=input.device)
        bag = torch.bucketize(at, offsets[:bags], right=True) - 1
        total = rows.new_zeros((bags, rows.shape[-1])).index_add(0, bag, scaled)
        count = rows.new_zeros((bags, 1)).index_add(0, bag, share)
    return total if mode == "sum" else total / count.clamp_min(1)


def _hardsigmoid(
    watch: Watch, func: Callable[..., Any], input: Tensor, inplace: bool = False
) -> Tensor:
    if inplace:
        return F.hardtanh_(input.div_(6).add_(0.5), 0.0, 1.0)
    return F.hardtanh(input / 6 + 0.5, 0.0, 1.0)


def _pad(
    watch: Watch,
    func: Callable[..., Any],
    input: Tensor,
    pad: Any,
    mode: str = "constant",
    value: float | None = None,
) -> Tensor:
    """Circular padding by joining slices; torch copies them in place, which hides what is below."""
    sizes = [int(p) for p in pad]
    if mode != "circular" or min(sizes) < 0 or len(sizes) % 2:
        return func(input, pad, mode, value)
    for i in range(0, len(sizes), 2):
        axis = input.dim() - 1 - i // 2
        size = input.shape[axis]
        if max(sizes[i : i + 2]) > size:
            return func(input, pad, mode, value)  # raises, as it would outside
        parts = [input.narrow(axis, size - sizes[i], sizes[i]), input]
        input = torch.cat([*parts, input.narrow(axis, 0, sizes[i + 1])], axis)
    return input


def _cdist(
    watch: Watch,
    func: Callable[..., Any],
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "",
) -> Tensor:
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)


def _without_cudnn(watch: Watch, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """cuDNN's recurrent layers have no second derivative; torch's own do."""
    enabled = torch.backends.cudnn.enabled
    with settled():
        owe(lambda: setattr(torch.backends.cudnn, "enabled", enabled))
        torch.backends.cudnn.enabled = False
        return func(*args, **kwargs)


_RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.embedding: _embedding,
    F.embedding_bag: _embedding_bag,
    F.hardsigmoid: _hardsigmoid,
    F.pad: _pad,
    torch.cdist: _cdist,
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), _without_cudnn),
}
