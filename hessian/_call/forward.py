"""A call of the user's model or loss: what is done differently inside, and what it may hold.

A few operations have no second derivative in torch (`_call.replacements`), or write to a parameter
on their way (`_call.written`). Inside an exact computation they are replaced by equal expressions
that have one, and what was written is noted, so that it can be put back. Hooks that a call puts on
gradients end with it (`_call.hooks`). The size of the tape is watched as it grows: where it would
exceed a limit the call is broken off (`TooLarge`) and the batch taken in parts instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from hessian import trees
from hessian._call.hooks import silence
from hessian._call.operators import replacement
from hessian._call.penalties import written_out
from hessian._call.precision import expected, mixed, under_autocast
from hessian._call.replacements import REPLACEMENTS
from hessian._call.roots import Roots
from hessian._call.thaw import Thaw, any_frozen, is_frozen
from hessian._call.written import Written, writes
from hessian._tape.graph import Node, is_leaf, size

Function = Callable[..., Any]


class TooLarge(BaseException):
    """The tape of a call outgrew its limit. Not an Exception, so that no user code catches it."""


class Watch(TorchFunctionMode):
    """Replaces operations, notes parameters that are written to, and counts the tape's bytes.

    `derivatives` is where the derivatives go that the call takes by itself: of what, and by what,
    ``None`` for all leaves.
    """

    internal = True

    def __init__(
        self,
        written: Written,
        limit: int | None,
        derivatives: list[tuple[Any, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.written, self.limit, self.bytes = written, limit, 0
        self.derivatives, self.roots = derivatives, Roots()
        self.seen: set[Node] = set()
        self.dtype = expected()
        self.handles: list[Any] = []  # of hooks that the call put on tensors
        self.nodes: list[Node] = []  # that the call has asked for, and may have put hooks on

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self.handles:
            handle.remove()
        silence(self.nodes)
        self.handles, self.nodes = [], []

    def __torch_function__(
        self,
        func: Function,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if under_autocast():
            mixed(self.dtype)
        try:
            rule = _RULES[func]
        except KeyError:
            rule = _rule(func)
        if not kwargs:
            result = func(*args) if rule is None else rule(self, func, *args)
        else:
            if "out" in kwargs or "inplace" in kwargs:
                self.written.beside(args, kwargs)
            result = func(*args, **kwargs) if rule is None else rule(self, func, *args, **kwargs)
        if type(result) is Tensor and result.dtype is not self.dtype:
            mixed(self.dtype, result)
        if self.limit is not None and torch.is_grad_enabled():
            self._count(result)
        return result

    def _count(self, result: Any) -> None:
        results = result if isinstance(result, tuple | list) else (result,)
        stack: list[Node] = [
            t.grad_fn for t in results if isinstance(t, Tensor) and t.grad_fn is not None
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


def _rule(func: Function) -> Function | None:
    """What to do in place of a function that is met for the first time."""
    if len(_RULES) > 10_000:  # someone makes functions as they go
        _RULES.clear()
        _RULES.update(_KNOWN)
    _RULES[func] = rule = replacement(func) or (_write if writes(func) else None)
    return rule


def _write(watch: Watch, func: Function, *args: Any, **kwargs: Any) -> Any:
    watch.written.before(args[0] if args else next(iter(kwargs.values()), None))
    return func(*args, **kwargs)


def _data(watch: Watch, func: Function, tensor: Tensor) -> Tensor:
    """The same values under another name, by which they may be written."""
    alias: Tensor = func(tensor)
    watch.written.alias(tensor)
    return alias


def _hand_out(watch: Watch, func: Function, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Memory that other libraries may write to."""
    watch.written.before(tensor)
    return func(tensor, *args, **kwargs)


def _assign(watch: Watch, func: Function, tensor: Tensor, data: Tensor) -> Any:
    watch.written.moved(tensor, data)
    return func(tensor, data)


def _hook(watch: Watch, func: Function, tensor: Tensor, hook: Function) -> Any:
    if not tensor.requires_grad and (is_frozen(tensor) or not torch.is_grad_enabled()):
        return RemovableHandle({})
    handle = func(tensor, hook)
    watch.handles.append(handle)
    return handle


def _grad(
    watch: Watch, func: Function, outputs: Any, inputs: Any, *args: Any, **kwargs: Any
) -> Any:
    """A derivative that the call takes by itself, and may differentiate."""
    if any_frozen() and any(is_frozen(leaf) for leaf in trees.leaves(inputs)):
        raise Thaw
    if watch.derivatives is not None:
        watch.derivatives.append((outputs, inputs))
    with written_out(outputs):
        return func(outputs, inputs, *args, **kwargs)


def _backward(watch: Watch, func: Function, outputs: Any, *args: Any, **kwargs: Any) -> Any:
    """The same, added to what tensors hold in ``.grad``."""
    inputs = kwargs.get("inputs")
    if any_frozen() and (inputs is None or any(is_frozen(leaf) for leaf in trees.leaves(inputs))):
        raise Thaw
    watch.written.gradients()
    if watch.derivatives is not None:
        watch.derivatives.append((outputs, inputs))
    with written_out(outputs):
        return func(outputs, *args, **kwargs)


def _requires_grad(watch: Watch, func: Function, tensor: Tensor) -> bool:
    return bool(func(tensor)) or is_frozen(tensor)


def _node(watch: Watch, func: Function, tensor: Tensor) -> Node | None:
    node = func(tensor)
    if node is not None:
        watch.nodes.append(node)
    return node


_TENSOR: Any = Tensor  # whose properties are descriptors, which typing does not know
_KNOWN: dict[Function, Function | None] = {
    **REPLACEMENTS,
    _TENSOR.data.__get__: _data,
    _TENSOR.data.__set__: _assign,
    _TENSOR.grad_fn.__get__: _node,
    _TENSOR.register_hook: _hook,
    _TENSOR.requires_grad.__get__: _requires_grad,
    torch.autograd.grad: _grad,
    **dict.fromkeys((torch.autograd.backward, _TENSOR.backward), _backward),
    **dict.fromkeys(
        (
            Tensor.numpy,
            Tensor.__array__,
            Tensor.__dlpack__,
            Tensor.data_ptr,
            Tensor.storage,
            Tensor.untyped_storage,
        ),
        _hand_out,
    ),
}
_RULES: dict[Function, Function | None] = dict(_KNOWN)
