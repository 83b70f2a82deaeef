"""The private functions of torch that this code asks for, each with what is done without it.

torch has no public name for these: they read and put back the modes of a thread after an interrupt,
or tell torch's own nodes from a user's. A version that lacks one takes what stands beside it here:
less is put back or proved, and no number is another.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.autograd import forward_ad


def _of(owner: Any, name: str, otherwise: Any) -> Any:
    return getattr(owner, name, otherwise)


def _nothing(*_: Any) -> None:
    return None


def _zero() -> int:
    return 0


_C: Any = torch._C
_AUTOGRAD, _FUNCTORCH = getattr(_C, "_autograd", None), getattr(_C, "_functorch", None)

# Function modes and subclasses: without these nobody's are set aside.
DisableTorchFunction: Any = _of(_C, "DisableTorchFunction", nullcontext)
function_state: Callable[[], Any] = _of(_C, "_get_torch_function_state", _nothing)
set_function_state: Callable[[Any], Any] = _of(_C, "_set_torch_function_state", _nothing)
_HAS_STACK = all(
    hasattr(_C, name)
    for name in (
        *("_len_torch_function_stack", "_get_function_stack_at"),
        *("_pop_torch_function_stack", "_push_on_torch_function_stack"),
    )
)
_STACK: Any = _C if _HAS_STACK else None
function_depth: Callable[[], int] = _of(_STACK, "_len_torch_function_stack", _zero)
function_mode: Callable[[int], Any] = _of(_STACK, "_get_function_stack_at", _nothing)
pop_function_mode: Callable[[], Any] = _of(_STACK, "_pop_torch_function_stack", _nothing)
push_function_mode: Callable[[Any], Any] = _of(_STACK, "_push_on_torch_function_stack", _nothing)

# Dispatch modes, transforms and hooks on saved tensors: what an interrupt leaves behind stays.
_HAS_DISPATCH = hasattr(_C, "_len_torch_dispatch_stack") and hasattr(
    _C, "_pop_torch_dispatch_stack"
)
_DISPATCH: Any = _C if _HAS_DISPATCH else None
dispatch_depth: Callable[[], int] = _of(_DISPATCH, "_len_torch_dispatch_stack", _zero)
pop_dispatch_mode: Callable[[Any], Any] = _of(_DISPATCH, "_pop_torch_dispatch_stack", _nothing)
_UNDO = "pop_dynamic_layer_stack_and_undo_to_depth"
_TRANSFORMS: Any = _FUNCTORCH if hasattr(_FUNCTORCH, _UNDO) else None
transform_depth: Callable[[], int] = _of(_TRANSFORMS, "get_dynamic_layer_stack_depth", _zero)
pop_transforms: Callable[[int], Any] = _of(_TRANSFORMS, _UNDO, _nothing)
_POP_HOOKS = "_pop_saved_tensors_default_hooks"
_HOOKS: Any = _AUTOGRAD if hasattr(_AUTOGRAD, _POP_HOOKS) else None
saved_tensor_hooks: Callable[[bool], Any] = _of(
    _HOOKS, "_top_saved_tensors_default_hooks", _nothing
)
pop_saved_tensor_hooks: Callable[[], Any] = _of(_HOOKS, _POP_HOOKS, _nothing)

# Gradient mode as a plain call, which is what function modes see of `torch.no_grad`.
set_grad_enabled: Callable[[bool], Any] = _of(_C, "_set_grad_enabled", torch.set_grad_enabled)
DisableAutocast: Any = _of(_C, "_DisableAutocast", nullcontext)


def _any_autocast() -> bool:
    from hessian.devices import AUTOCAST

    return any(torch.is_autocast_enabled(kind) for kind in AUTOCAST)


under_autocast: Callable[[], bool] = _of(_C, "_is_any_autocast_enabled", _any_autocast)

# torch's own kinds of nodes: without the list all are taken for the user's, not proved affine.
NODES: Any = _of(_C, "_functions", None)
# The number of the next node: without it, one is made to be asked.
sequence_number: Callable[[], int] | None = _of(_AUTOGRAD, "_get_sequence_nr", None)
# Where torch's functions of neural networks have other names.
FUNCTIONS: Any = _of(_C, "_nn", None)
# Values that are put back do not count as a change of the tape that holds them.
preserve_version: Any = _of(torch.autograd, "_unsafe_preserve_version_counter", nullcontext)


HAS_FORWARD_LEVEL = hasattr(forward_ad, "_current_level")


def forward_level() -> int:
    """How deep forward mode is nested, -1 outside; without an answer it is not entered at all."""
    return int(getattr(forward_ad, "_current_level", -1))
