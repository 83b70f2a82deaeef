"""Operations that torch cannot differentiate twice, or does so wrongly, as equal expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hessian import torch_private
from hessian._call import distant, roots
from hessian._call.roots import Watch
from hessian._call.series import extremes, matrix_exp, sinc
from hessian._runtime.ledger import owe, settled


def _there(owner: Any, *names: str) -> list[Callable[..., Any]]:
    """Functions that not every torch has."""
    return [getattr(owner, name) for name in names if hasattr(owner, name)]


def _given(function: Callable[..., Any] | None) -> list[Callable[..., Any]]:
    return [] if function is None else [function]


def _renormalised(watch: Watch, weight: Tensor, max_norm: float | None) -> None:
    """Note a weight that is about to be renormalised in place."""
    if max_norm is not None:
        watch.written.before(weight)


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
    """With dense gradients, as sparse ones have no second derivative, and with the loss's own.

    A scale by how often a row is looked up is one of the gradient, and not of the loss.
    """
    _renormalised(watch, weight, max_norm)
    return func(input, weight, padding_idx, max_norm, norm_type, False, False)


def embedding_bag(
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
    _renormalised(watch, weight, max_norm)
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
        positions = torch.arange(len(input), device=input.device)
        bag = torch.bucketize(positions, offsets[:bags], right=True) - 1
        total = rows.new_zeros((bags, rows.shape[-1])).index_add(0, bag, scaled)
        count = rows.new_zeros((bags, 1)).index_add(0, bag, share)
    return total if mode == "sum" else total / count.clamp_min(1)


def hardsigmoid(
    watch: Watch, func: Callable[..., Any], input: Tensor, inplace: bool = False
) -> Tensor:
    if inplace:
        return F.hardtanh_(input.div_(6).add_(0.5), 0.0, 1.0)
    return F.hardtanh(input / 6 + 0.5, 0.0, 1.0)


def pad(
    watch: Watch,
    func: Callable[..., Tensor],
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


def averaged(
    axes: int, watch: Watch, func: Callable[..., Tensor], input: Tensor, output_size: Any
) -> Tensor:
    """Pooling to one value as the mean that it is.

    Torch takes that too, but where channels come last it gives the mean new strides, by an
    operation that could be any view.
    """
    sizes = [output_size] * axes if isinstance(output_size, int) else list(output_size)
    strided = input.layout is torch.strided and input.dim() in (axes + 1, axes + 2)
    if sizes != [1] * axes or not strided or not input.numel():
        return func(input, output_size)
    return input.mean(tuple(range(-axes, 0)), keepdim=True)


_POOLED: dict[Callable[..., Any], int] = {
    F.adaptive_avg_pool1d: 1,
    F.adaptive_avg_pool2d: 2,
    F.adaptive_avg_pool3d: 3,
    **dict.fromkeys(_there(torch_private.FUNCTIONS, "adaptive_avg_pool2d"), 2),
    **dict.fromkeys(_there(torch_private.FUNCTIONS, "adaptive_avg_pool3d"), 3),
}


def group_norm(
    watch: Watch, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """With channels first in memory: torch's backward of its backward reads past others' end."""
    return func(input.contiguous(), *args, **kwargs)


def as_strided_scatter(
    watch: Watch,
    func: Callable[..., Tensor],
    input: Tensor,
    src: Tensor,
    size: Any,
    stride: Any,
    storage_offset: int | None = None,
) -> Tensor:
    """By flat places: torch's gradient of what is overwritten is not zero."""
    if not input.requires_grad:
        return func(input, src, size, stride, storage_offset)
    if not input.is_contiguous() or (storage_offset is None and input.storage_offset()):
        raise NotImplementedError(
            "as_strided_scatter has a wrong gradient in torch; give it a contiguous input and a "
            "storage_offset, or pass names= without the parameters below it"
        )
    flat = torch.arange(input.numel(), device=input.device)
    place = flat.as_strided(size, stride, storage_offset or 0).reshape(-1)
    return input.reshape(-1).index_put((place,), src.reshape(-1)).view(input.shape)


def masked_select(
    watch: Watch, func: Callable[..., Tensor], input: Tensor, mask: Tensor, **kwargs: Any
) -> Tensor:
    """Of one shape: in lanes torch's gradient mixes them up with an axis that it broadcasts."""
    return func(*torch.broadcast_tensors(input, mask), **kwargs)


def without_cudnn(watch: Watch, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """cuDNN's recurrent layers have no second derivative; torch's own do."""
    enabled = torch.backends.cudnn.enabled
    with settled():
        owe(lambda: setattr(torch.backends.cudnn, "enabled", enabled))
        torch.backends.cudnn.enabled = False
        return func(*args, **kwargs)


def weight_norm(
    watch: Watch, func: Callable[..., Any], v: Tensor, g: Tensor, dim: int = 0
) -> Tensor:
    """g v/|v|; torch's second derivative of it leaves the norm's own derivative out."""
    axes = [axis for axis in range(v.dim()) if dim != -1 and axis != dim]
    return v * (g / _norm(v, axes))


def weight_norm_interface(
    watch: Watch, func: Callable[..., Any], v: Tensor, g: Tensor, dim: int = 0
) -> tuple[Tensor, Tensor]:
    axes = [axis for axis in range(v.dim()) if axis != dim % v.dim()]
    return v * (g / _norm(v, axes)), _norm(v, axes)


def _norm(v: Tensor, axes: list[int]) -> Tensor:
    """|v| over some axes, which stay as ones; over all of them a number."""
    size: Tensor = torch.linalg.vector_norm(v, 2, axes, keepdim=True) if axes else v.norm(2)
    return size


def layer_norm(
    watch: Watch,
    func: Callable[..., Any],
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """A bias without a weight is added: torch's backward of its backward loses it.

    In forward mode it is written out: torch's tangent takes mean and deviation for constants when
    it is differentiated.
    """
    if torch_private.forward_level() >= 0:
        axes = list(range(-len(normalized_shape), 0))
        return _scaled(input, axes, weight, bias, *args[:1], **kwargs)
    if weight is not None or bias is None:
        return func(input, normalized_shape, weight, bias, *args, **kwargs)
    return func(input, normalized_shape, None, None, *args, **kwargs) + bias


def _scaled(
    input: Tensor,
    axes: list[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float = 1e-5,
    **_: Any,
) -> Tensor:
    """(x - mean)/deviation over some axes, times the weight, plus the bias."""
    centred = input - input.mean(axes, keepdim=True)
    normal = centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def instance_norm(
    watch: Watch,
    func: Callable[..., Any],
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Written out in forward mode, as `layer_norm`."""
    others = (running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    if torch_private.forward_level() < 0 or not use_input_stats:
        return func(input, *others)
    if running_mean is not None:  # which is moved on the way
        with torch.no_grad():
            func(input.detach(), *others)
    channels = (-1, *[1] * (input.dim() - 2))
    weight, bias = (None if p is None else p.reshape(channels) for p in (weight, bias))
    return _scaled(input, list(range(2, input.dim())), weight, bias, eps)


def native_layer_norm(
    watch: Watch,
    func: Callable[..., Any],
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """With the derivatives of mean and deviation, which torch's own have none of."""
    alone = weight is None and bias is not None
    output = func(input, normalized_shape, weight, None if alone else bias, eps)
    axes = list(range(-len(normalized_shape), 0))
    return output[0] + bias if alone else output[0], *moments(input, axes, eps, output)


def native_batch_norm(
    watch: Watch,
    func: Callable[..., Any],
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    output: tuple[Tensor, Tensor, Tensor] = func(
        input, weight, bias, running_mean, running_var, training, momentum, eps
    )
    if not training:
        return output
    axes = [0, *range(2, input.dim())]
    return output[0], *moments(input, axes, eps, output)


def moments(
    x: Tensor, axes: list[int], eps: float, output: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal deviation in the shapes of a norm's own."""
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return mean.reshape(output[1].shape), (variance + eps).rsqrt().reshape(output[2].shape)


def _linear_cross_entropy(
    watch: Watch, func: Callable[..., Any], *args: Any, options: Any = None, **kwargs: Any
) -> Any:
    """Without chunks, which take their gradients in the forward pass and have no second one."""
    return func(*args, **kwargs)


def _retain_grad(watch: Watch, func: Callable[..., Any], tensor: Tensor) -> None:
    """Nothing: what the passes of many lanes leave in ``.grad`` inside is no gradient."""


def refused(watch: Watch, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A function whose result torch takes for a constant, whatever it depends on.

    Raises:
        NotImplementedError: it is asked for what depends on a parameter.
    """
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if torch.is_grad_enabled() and any(value.requires_grad for value in tensors):
        name = getattr(func, "__name__", str(func))
        raise NotImplementedError(
            f"model or loss: {name} has no derivative in torch, which takes its result for a "
            "constant; write it out by functions that have one, or detach() what it is given, "
            "if a constant is meant"
        )
    return func(*args, **kwargs)


# Reductions to places of a tensor, and whether they write to it.
_REDUCED: dict[Callable[..., Any], bool] = {
    torch.scatter_reduce: False,
    torch.index_reduce: False,
    Tensor.scatter_reduce: False,
    Tensor.index_reduce: False,
    Tensor.scatter_reduce_: True,
    Tensor.index_reduce_: True,
}
# Such functions elsewhere in torch: the ends of a grid, the next number.
CONSTANT = (torch.linspace, torch.logspace, torch.nextafter, Tensor.nextafter)
# Parts of the names of such functions in `torch.special`.
_CONSTANT = ("airy_ai", "bessel_", "_polynomial_")


def is_constant(name: str) -> bool:
    """Whether torch takes the results of a function of `torch.special` for constants."""
    return any(part in name for part in _CONSTANT)


REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    Tensor.retain_grad: _retain_grad,
    **dict.fromkeys(CONSTANT, refused),
    **dict.fromkeys(_there(torch.special, *filter(is_constant, dir(torch.special))), refused),
    **dict.fromkeys((torch.sinc, torch.special.sinc, Tensor.sinc), sinc),
    **dict.fromkeys((torch.matrix_exp, torch.linalg.matrix_exp, Tensor.matrix_exp), matrix_exp),
    **{function: partial(extremes, written) for function, written in _REDUCED.items()},
    F.embedding: _embedding,
    F.embedding_bag: embedding_bag,
    F.hardsigmoid: hardsigmoid,
    F.pad: pad,
    **dict.fromkeys((torch.masked_select, Tensor.masked_select), masked_select),
    **roots.FUNCTIONS,
    **distant.FUNCTIONS,
    torch.as_strided_scatter: as_strided_scatter,
    **{function: partial(averaged, axes) for function, axes in _POOLED.items()},
    **dict.fromkeys((F.group_norm, torch.group_norm), group_norm),
    **dict.fromkeys(_there(torch, "native_group_norm"), group_norm),
    **dict.fromkeys(_given(torch_private.WEIGHT_NORM), weight_norm),
    **dict.fromkeys(_given(torch_private.WEIGHT_NORM_INTERFACE), weight_norm_interface),
    **dict.fromkeys((F.layer_norm, torch.layer_norm), layer_norm),
    F.instance_norm: instance_norm,
    **dict.fromkeys(_there(torch, "native_layer_norm"), native_layer_norm),
    **dict.fromkeys(_there(torch, "native_batch_norm"), native_batch_norm),
    **dict.fromkeys(_there(F, "linear_cross_entropy"), _linear_cross_entropy),
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), without_cudnn),
}
