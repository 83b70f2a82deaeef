"""Hooks on gradients, which change what autograd reports and not the loss: silent in a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from hessian import torch_private
from hessian._runtime.ledger import owe
from hessian._tape.graph import Node, is_leaf

Hooks = dict[int, Any]


def take_hooks_off(parts: Iterable[nn.Module], tensors: Iterable[Tensor]) -> None:
    """Gradients of modules and of their tensors are what the loss's are, not what hooks make.

    That is so until what is owed is settled. `parts` are all modules, those inside others too.

    The dictionaries that hold the hooks are emptied and filled again, as torch's engine holds the
    same ones.

    Raises:
        ValueError: backward hooks are registered for all modules of the process.
    """
    if any(torch_private.GLOBAL_HOOKS):
        raise ValueError(
            "model: backward hooks are registered for all modules (torch.nn.modules.module."
            "register_module_full_backward_hook or register_module_full_backward_pre_hook), which "
            "may change gradients; remove them for this call"
        )
    full = [hooks for hooks in (*_of_modules(parts), *_of_tensors(tensors)) if hooks]
    for hooks in full:
        owe(partial(_refill, hooks, dict(hooks)))
        hooks.clear()


def _of_modules(parts: Iterable[nn.Module]) -> Iterator[Hooks | None]:
    for part in parts:
        yield part._backward_hooks
        yield part._backward_pre_hooks


def _of_tensors(tensors: Iterable[Tensor]) -> Iterator[Hooks | None]:
    for tensor in tensors:
        yield tensor._backward_hooks
        yield getattr(tensor, "_post_accumulate_grad_hooks", None)


def _refill(hooks: Hooks, content: Hooks) -> None:
    new = {key: hook for key, hook in hooks.items() if key not in content}  # put there meanwhile
    hooks.clear()
    hooks.update(content | new)


def silence(nodes: Iterable[Node]) -> None:
    """Take all hooks off the nodes of the tapes that lead to some nodes."""
    stack, seen = list(nodes), set()
    while stack:
        node = stack.pop()
        if node is None or node in seen or is_leaf(node):
            continue
        seen.add(node)
        for register in (node.register_hook, getattr(node, "register_prehook", None)):
            if register is None:
                continue
            hooks = register(_nothing).hooks_dict_ref()
            if hooks is not None:
                hooks.clear()
        stack += [child for child, _ in node.next_functions]


def _nothing(*gradients: Any) -> None:
    """A hook that leaves gradients as they are."""
