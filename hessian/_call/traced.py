"""One run of a function: which of torch's functions it calls, and what all goes through."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hessian import torch_private, trees
from hessian._tape.graph import Node, Tape, is_leaf, operation, shape

LOSSES = {
    F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.cosine_embedding_loss,
    F.cross_entropy, F.gaussian_nll_loss, F.huber_loss, F.kl_div, F.l1_loss, F.log_softmax,
    F.margin_ranking_loss, F.mse_loss, F.multi_margin_loss, F.multilabel_margin_loss,
    F.multilabel_soft_margin_loss, F.nll_loss, F.poisson_nll_loss, F.smooth_l1_loss,
    F.soft_margin_loss, torch.log_softmax, Tensor.log_softmax,
}  # fmt: skip
REDUCTIONS = {torch.mean, torch.sum, Tensor.mean, Tensor.sum}
# What joins a penalty to a loss.
SUMS = {"Add", "Sub"}


class Call(NamedTuple):
    """A call that a function may be cut at.

    `argument` is the number of the call whose result it is given, `rows` that result's length.
    """

    number: int
    is_loss: bool
    argument: int | None
    rows: int


class Traced(TorchFunctionMode):
    """Numbers the calls, and notes what comes of the data."""

    internal = True

    def __init__(self, arguments: Any) -> None:
        super().__init__()
        self.count, self._depth = 0, torch_private.transform_depth()
        self.seen: list[Call] = []
        self._made: dict[int, tuple[int, Tensor]] = {}  # by id: the call, and so that it stays
        self._data = {
            id(leaf): leaf for leaf in trees.leaves(arguments) if isinstance(leaf, Tensor)
        }
        self._nodes: dict[Node, int] = {}  # the call that returned the node's only output
        self._scalars: set[Node] = set()  # of parameters alone

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        number = self.count
        self.count += 1
        if torch_private.transform_depth() > self._depth:
            # Inside ``torch.func.grad`` or vmap tensors are wrapped: nothing can be cut there.
            return func(*args, **(kwargs or {}))
        first = args[0] if args else None
        if (func in LOSSES or func in REDUCTIONS) and _is_live(first):
            made = self._made.get(id(first))
            argument = None if made is None else made[0]
            self.seen.append(Call(number, func in LOSSES, argument, len(first)))
        result = func(*args, **(kwargs or {}))
        self._note(number, func, [args, kwargs], result)
        return result

    def _note(self, number: int, func: Any, arguments: Any, result: Any) -> None:
        given = [leaf for leaf in trees.leaves(arguments) if isinstance(leaf, Tensor)]
        of_data = any(id(leaf) in self._data or self._is_strange(leaf) for leaf in given)
        name = getattr(func, "__name__", "")
        # What is changed in place goes on under its old name, but in ``z += b``.
        in_place = (name.endswith("_") and not name.startswith("__")) or name == "__setitem__"
        for leaf in trees.leaves([result, *given[: int(in_place)]]):
            if isinstance(leaf, Tensor):
                self._made[id(leaf)] = number, leaf
                if of_data:
                    self._data[id(leaf)] = leaf
        if not isinstance(result, Tensor) or result.grad_fn is None:
            return
        if not of_data and not result.dim():
            self._scalars.add(result.grad_fn)
        elif of_data and result.dim() and not in_place:
            self._nodes[result.grad_fn] = number

    def _is_strange(self, leaf: Tensor) -> bool:
        """Whether it is of a custom function, the calls of which are not seen."""
        return leaf.grad_fn is not None and id(leaf) not in self._made

    def outputs(self, value: Tensor, samples: int) -> int | None:
        """The call whose result is the first by samples that all goes through; `None` without one.

        Past it the function reads no parameter, but for penalties: sums of parameters alone that
        are added to its value.
        """
        if not value.requires_grad:
            return None
        tape = Tape.of([value])
        waiting: set[Node] = {tape.roots[0][0]}
        first = None
        for node in tape.order:
            if node not in waiting:
                continue  # of a penalty alone
            if is_leaf(node):
                break  # a parameter is read past all that follows
            number, dims = self._nodes.get(node), shape((node, 0))
            if waiting == {node} and number is not None and samples in (dims or ()):
                first = number
            waiting.discard(node)
            penalties = self._scalars if dims == () and operation(node) in SUMS else set()
            inputs = {child for child, _ in node.next_functions if child is not None}
            waiting |= inputs - penalties
        return first


def _is_live(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.dim() > 0 and value.requires_grad
