"""The same replacements for torch's operators, which exported graphs and ``torch.ops`` call.

They take other arguments than torch's functions do, and some give more values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hessian._call import distant, replacements, roots, series

_KINDS = (type(torch.ops.aten.add), type(torch.ops.aten.add.Tensor))
# ``torch.cond``, where torch has it.
_CONDITION = getattr(torch.ops.higher_order, "cond", None)
# The modes of a bag of embeddings, as its operator numbers them.
_MODES = ("sum", "mean", "max")


def replacement(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """What takes the place of an operator, of all its overloads alike; `None` for others."""
    if function is _CONDITION:
        return _branch
    if not isinstance(function, _KINDS):
        return None
    library, name, *_ = str(function).split(".")
    if library != "aten":
        return None
    known = _REPLACEMENTS.get(name)
    is_constant = known is None and name.startswith("special_") and replacements.is_constant(name)
    return replacements.refused if is_constant else known


def _branch(
    watch: roots.Watch,
    func: Callable[..., Any],
    pred: Any,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any],
    operands: Any = (),
) -> Any:
    """The branch that is taken, as it is written: the operator has no second derivative."""
    return (true_fn if bool(pred) else false_fn)(*operands)


def _embedding(
    watch: roots.Watch,
    func: Callable[..., Any],
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """With dense gradients, and unscaled ones, as torch's function."""
    return func(weight, indices, padding_idx, False, False)


def _embedding_bag(
    watch: roots.Watch,
    func: Callable[..., Any],
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    *padding_idx: int | None,
) -> tuple[Tensor, Any, Any, Any]:
    """Rows looked up and summed, and beside them which belongs to which bag."""
    with torch.no_grad():
        _, *bags = func(
            weight, indices, offsets, scale_grad_by_freq, mode, False,
            per_sample_weights, include_last_offset, *padding_idx,
        )  # fmt: skip
    output = replacements.embedding_bag(
        watch, F.embedding_bag, indices, weight, offsets, None, 2.0, scale_grad_by_freq,
        _MODES[mode], False, per_sample_weights, include_last_offset,
        next((index for index in padding_idx if index is not None and index >= 0), None),
    )  # fmt: skip
    return output, bags[0], bags[1], bags[2]


def _batch_norm(
    watch: roots.Watch, func: Callable[..., Any], input: Tensor, *rest: Any
) -> tuple[Any, ...]:
    """Those that graphs are decomposed into; they end with training, momentum and eps."""
    output = func(input, *rest)
    training, _, eps = rest[-3:]
    if not training:
        return tuple(output)
    axes = [0, *range(2, input.dim())]
    return output[0], *replacements.moments(input, axes, eps, output), *output[3:]


def _fixed_batch_norm(
    watch: roots.Watch, func: Callable[..., Any], input: Tensor, *rest: Any
) -> tuple[Any, ...]:
    """By running statistics: the operator whose steps are known."""
    weight, bias, mean, variance, momentum, eps = rest
    return torch.native_batch_norm(input, weight, bias, mean, variance, False, momentum, eps)


def _pad_circular(watch: roots.Watch, func: Callable[..., Any], input: Tensor, pad: Any) -> Tensor:
    return replacements.pad(watch, F.pad, input, pad, "circular")


_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    **roots.OPERATORS,
    **distant.OPERATORS,
    "_embedding_bag": _embedding_bag,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_functional": _batch_norm,
    "_native_batch_norm_legit_no_training": _fixed_batch_norm,
    "_pad_circular": _pad_circular,
    "_weight_norm": replacements.weight_norm,
    "_weight_norm_interface": replacements.weight_norm_interface,
    "as_strided_scatter": replacements.as_strided_scatter,
    "embedding": _embedding,
    "embedding_bag": _embedding_bag,
    "group_norm": replacements.group_norm,
    "hardsigmoid": replacements.hardsigmoid,
    "layer_norm": replacements.layer_norm,
    "linalg_matrix_exp": series.matrix_exp,
    "masked_select": replacements.masked_select,
    "matrix_exp": series.matrix_exp,
    "native_batch_norm": replacements.native_batch_norm,
    "native_group_norm": replacements.group_norm,
    "native_layer_norm": replacements.native_layer_norm,
    "pad": replacements.pad,
    "sinc": series.sinc,
    "special_sinc": series.sinc,
    **{
        f"{kind}_reduce{ending}": partial(series.extremes, bool(ending))
        for kind in ("scatter", "index")
        for ending in ("", "_")
    },
    **{
        f"{private}adaptive_avg_pool{axes}d": partial(replacements.averaged, axes)
        for axes in (1, 2, 3)
        for private in ("", "_")
    },
    **dict.fromkeys(
        (function.__name__ for function in replacements.CONSTANT), replacements.refused
    ),
    **dict.fromkeys(("gru", "lstm", "rnn_relu", "rnn_tanh"), replacements.without_cudnn),
}
