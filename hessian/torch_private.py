"""The private functions of torch that this code asks for, each with what is done without it.

torch has no public name for these: they read and put back the modes of a thread after an interrupt,
tell torch's own nodes from a user's, or do for many tensors what a public function does for one. A
version that lacks one takes what stands beside it here: less is put back or proved, or it takes
longer, and no number is another. `ASKED` lists them, and the tests hide one after another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

# As they are found from `torch`, in the order they are asked for.
ASKED: list[str] = []
_MISSING = object()


def _of(path: str, otherwise: Any) -> Any:
    ASKED.append(path)
    owner: Any = torch
    for name in path.split("."):
        owner = getattr(owner, name, _MISSING)
        if owner is _MISSING:
            return otherwise
    return owner


def _together(*pairs: tuple[str, Any]) -> list[Any]:
    """All of some functions, or what stands beside each where one of them is missing."""
    there = [_of(path, _MISSING) for path, _ in pairs]
    return [otherwise for _, otherwise in pairs] if _MISSING in there else there


def _nothing(*_: Any) -> None:
    return None


def _zero() -> int:
    return 0


def _no(*_: Any) -> bool:
    return False


# ------------------------------------------------------------------------- modes of a thread

# Function modes and subclasses: without these nobody's are set aside.
DisableTorchFunction: Any = _of("_C.DisableTorchFunction", nullcontext)
function_state: Callable[[], Any] = _of("_C._get_torch_function_state", _nothing)
set_function_state: Callable[[Any], Any] = _of("_C._set_torch_function_state", _nothing)
function_depth: Callable[[], int]
function_mode: Callable[[int], Any]
pop_function_mode: Callable[[], Any]
push_function_mode: Callable[[Any], Any]
function_depth, function_mode, pop_function_mode, push_function_mode = _together(
    ("_C._len_torch_function_stack", _zero),
    ("_C._get_function_stack_at", _nothing),
    ("_C._pop_torch_function_stack", _nothing),
    ("_C._push_on_torch_function_stack", _nothing),
)

# Dispatch modes, transforms and hooks on saved tensors: what an interrupt leaves behind stays.
dispatch_depth: Callable[[], int]
pop_dispatch_mode: Callable[[Any], Any]
dispatch_depth, pop_dispatch_mode = _together(
    ("_C._len_torch_dispatch_stack", _zero), ("_C._pop_torch_dispatch_stack", _nothing)
)
transform_depth: Callable[[], int]
pop_transforms: Callable[[int], Any]
transform_depth, pop_transforms = _together(
    ("_C._functorch.get_dynamic_layer_stack_depth", _zero),
    ("_C._functorch.pop_dynamic_layer_stack_and_undo_to_depth", _nothing),
)
saved_tensor_hooks: Callable[[bool], Any]
pop_saved_tensor_hooks: Callable[[], Any]
saved_tensor_hooks, pop_saved_tensor_hooks = _together(
    ("_C._autograd._top_saved_tensors_default_hooks", _nothing),
    ("_C._autograd._pop_saved_tensors_default_hooks", _nothing),
)

# Whether a tensor is a zero without memory, as forward mode makes them.
is_zero_tensor: Callable[[torch.Tensor], bool] = _of("Tensor._is_zerotensor", _no)

# Gradient mode as a plain call, which is what function modes see of `torch.no_grad`.
set_grad_enabled: Callable[[bool], Any] = _of("_C._set_grad_enabled", torch.set_grad_enabled)
# Without it every kind of device is told so: see `devices.without_autocast`.
DisableAutocast: Any = _of("_C._DisableAutocast", None)
# Without it every kind of device is asked, which takes longer.
under_autocast: Callable[[], bool] | None = _of("_C._is_any_autocast_enabled", None)
# A user who has switched oneDNN off gets his own numbers, not those of a fresh process.
set_onednn: Callable[[bool], Any] | None = _of("_C._set_mkldnn_enabled", None)
# Sees random draws: without it a batch that draws numbers is taken whole.
if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode

    DispatchMode = TorchDispatchMode
else:
    DispatchMode = _of("utils._python_dispatch.TorchDispatchMode", nullcontext)

# ------------------------------------------------------------------------- autograd

# torch's own kinds of nodes: without the list all are taken for the user's, not proved affine.
NODES: Any = _of("_C._functions", None)
# Of a node, the shapes, dtypes and devices of its outputs: without them no layout is proved.
HAS_METADATA: bool = _of("autograd.graph.Node._input_metadata", None) is not None
# The number of the next node: without it, one is made to be asked.
sequence_number: Callable[[], int] | None = _of("_C._autograd._get_sequence_nr", None)
# Values that are put back do not count as a change of the tape that holds them: without it, no
# direction is put on parameters, and a batch is taken whole.
preserve_version: Any = _of("autograd._unsafe_preserve_version_counter", nullcontext)
KEEPS_VERSIONS = preserve_version is not nullcontext
# How deep forward mode is nested: without it, it is not entered, and a batch is taken whole.
HAS_FORWARD_LEVEL: bool = _of("autograd.forward_ad._current_level", None) is not None
_VERSION: Any = _of("Tensor._version", None)


def forward_level() -> int:
    """How deep forward mode is nested, -1 outside; without an answer it is not entered at all."""
    return int(getattr(torch.autograd.forward_ad, "_current_level", -1))


def version(tensor: torch.Tensor) -> int | None:
    """How often a tensor was written to; `None` where torch does not count."""
    return None if _VERSION is None else int(_VERSION.__get__(tensor))


# ------------------------------------------------------------------------- modules

# Where torch's functions of neural networks have other names.
FUNCTIONS: Any = _of("_C._nn", None)
# Those of weight normalisation, written anew for derivatives: without, torch's own are asked.
WEIGHT_NORM: Any = _of("_weight_norm", None)
WEIGHT_NORM_INTERFACE: Any = _of("_weight_norm_interface", None)
# Hooks for the modules of a process, which are refused: without, they are not seen.
GLOBAL_HOOKS: list[Any] = [
    _of("nn.modules.module._global_backward_hooks", {}),
    _of("nn.modules.module._global_backward_pre_hooks", {}),
]
# For `isinstance`: classes, or tuples of those that are public.
BatchNorm: Any = _of(
    "nn.modules.batchnorm._BatchNorm",
    (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm),
)
Dropout: Any = _of(
    "nn.modules.dropout._DropoutNd",
    (
        *(torch.nn.Dropout, torch.nn.Dropout1d, torch.nn.Dropout2d, torch.nn.Dropout3d),
        *(torch.nn.AlphaDropout, torch.nn.FeatureAlphaDropout),
    ),
)
# What `parametrize.cached` keeps, which is set aside: without, a call inside it is refused.
HAS_CACHE: bool = _MISSING not in (
    _of("nn.utils.parametrize._cache", _MISSING),
    _of("nn.utils.parametrize._cache_enabled", _MISSING),
)


def parametrization_cache() -> dict[str, Any]:
    """What ``parametrize.cached`` keeps, by variable; nothing where that cannot be asked."""
    if not HAS_CACHE:
        return {}
    values = vars(torch.nn.utils.parametrize)
    return {name: values[name] for name in ("_cache", "_cache_enabled")}


def set_parametrization_cache(values: dict[str, Any]) -> None:
    """Put that back, or other values in its place."""
    vars(torch.nn.utils.parametrize).update(values)


ASKED += ["_dynamo.eval_frame._stance", "_dynamo.eval_frame._set_stance"]


def eager_stance() -> tuple[Callable[[], object], Callable[[], object]] | None:
    """What lets compiled functions run as they were written, and what undoes it.

    `None` where nothing was compiled, or that is so already. Without the private names the public
    function is called, which an interrupt may leave in force.
    """
    if "torch._dynamo.eval_frame" not in sys.modules:
        return None
    frames: Any = getattr(getattr(torch, "_dynamo", None), "eval_frame", None)
    now, to = getattr(frames, "_stance", None), getattr(frames, "_set_stance", None)
    if now is not None and to is not None:
        if now.stance == "force_eager":
            return None
        return partial(to, frames.DynamoStance("force_eager")), partial(to, now)
    made: list[Any] = []

    def undo() -> None:
        while made:
            made.pop().__exit__(None, None, None)

    return lambda: made.append(torch.compiler.set_stance("force_eager")), undo


# Whether this build of torch is for Intel's GPUs.
xpu_is_built: Callable[[], bool] = _of("xpu._is_compiled", lambda: False)
# torch's containers, and those that users have registered with it: see `hessian.trees`.
PYTREE: Any = _of("utils._pytree", None)

# ------------------------------------------------------------------------- kernels

# oneDNN's product of matrices, with the arguments of a linear layer; without it, torch's.
linear_pointwise: Any = _of("ops.mkldnn._linear_pointwise", None)
# A step of SGD by one kernel; without it, by the optimizer.
fused_sgd: Any = _of("_fused_sgd_", None)


def _each(name: str, function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """A function of lists of tensors in few launches; without it, of one tensor after another."""

    def loop(tensors: Any, *others: Any, **options: Any) -> list[torch.Tensor]:
        return [
            function(
                tensor,
                *(other[i] if isinstance(other, list | tuple) else other for other in others),
                **options,
            )
            for i, tensor in enumerate(tensors)
        ]

    return _of(f"_foreach_{name}", loop)  # type: ignore[no-any-return]


foreach_abs = _each("abs", torch.abs)
foreach_add = _each("add", torch.add)
foreach_add_ = _each("add_", torch.Tensor.add_)
foreach_addcmul_ = _each("addcmul_", torch.Tensor.addcmul_)
foreach_clamp_max_ = _each("clamp_max_", torch.Tensor.clamp_max_)
foreach_clamp_min_ = _each("clamp_min_", torch.Tensor.clamp_min_)
foreach_copy_ = _each("copy_", torch.Tensor.copy_)
foreach_div = _each("div", torch.div)
foreach_div_ = _each("div_", torch.Tensor.div_)
foreach_mul = _each("mul", torch.mul)
foreach_mul_ = _each("mul_", torch.Tensor.mul_)
foreach_norm = _each("norm", torch.linalg.vector_norm)
foreach_sqrt = _each("sqrt", torch.sqrt)
foreach_sub_ = _each("sub_", torch.Tensor.sub_)
