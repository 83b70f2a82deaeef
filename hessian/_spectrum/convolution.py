"""Convolutions whose second derivative is made of convolutions.

torch's own double backward of a convolution takes the derivative in the weight by a convolution
with a kernel of the size of the image, which is slow on processors. The same by the kernels of a
plain backward pass: with y = x ∗ w, ȳ the adjoint of y and a, b the vectors that meet the
gradients in x and w,

    in ȳ: a ∗ w + x ∗ b      in x: the gradient in the input of (ȳ, b)      in w: that of (ȳ, a)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hessian._tape.opaque import trusted

_aten: Any = torch.ops.aten


class Geometry(NamedTuple):
    """How a kernel lies on an image, one number for each axis."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def forward(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        """The convolution x ∗ w + b."""
        y: Tensor = _aten.convolution(
            x, w, b, self.stride, self.padding, self.dilation, False,
            [0] * len(self.stride), self.groups,
        )  # fmt: skip
        return y

    def backward(self, adjoint: Tensor, x: Tensor, w: Tensor, mask: list[bool]) -> list[Any]:
        """Its gradients in x, w and b, those of the mask."""
        found: list[Any] = _aten.convolution_backward(
            adjoint, x, w, [w.shape[0]], self.stride, self.padding, self.dilation, False,
            [0] * len(self.stride), self.groups, mask,
        )  # fmt: skip
        return found


@trusted
class Convolution(torch.autograd.Function):
    """x ∗ w + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = geometry
        return geometry.forward(x, w, b)

    @staticmethod
    def backward(ctx: Any, *adjoints: Any) -> Any:
        x, w = ctx.saved_tensors
        mask = list(ctx.needs_input_grad[:3])
        if not torch.is_grad_enabled():  # under `vmap` too
            return (*ctx.geometry.backward(adjoints[0], x, w, mask), None)
        return (*Gradients.apply(adjoints[0], x, w, ctx.geometry, mask), None)


@trusted
class Gradients(torch.autograd.Function):
    """The gradients of a convolution in x, w and b."""

    @staticmethod
    def forward(
        ctx: Any, adjoint: Tensor, x: Tensor, w: Tensor, geometry: Geometry, mask: list[bool]
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(adjoint, x, w)
        ctx.geometry = geometry
        return tuple(geometry.backward(adjoint, x, w, mask))

    @staticmethod
    def backward(ctx: Any, *vectors: Any) -> Any:
        adjoint, x, w = ctx.saved_tensors
        a, b, c = vectors
        geometry: Geometry = ctx.geometry
        wanted = ctx.needs_input_grad
        terms = []
        if wanted[0]:
            terms = [] if a is None else [geometry.forward(a, w)]
            terms += [] if b is None else [geometry.forward(x, b)]
            terms += [] if c is None else [c.view(-1, *[1] * (w.dim() - 2)).expand_as(adjoint)]
        in_x = in_w = None
        if b is not None and wanted[1]:
            in_x = geometry.backward(adjoint, x, b, [True, False, False])[0]
        if a is not None and wanted[2]:
            in_w = geometry.backward(adjoint, a, w, [False, True, False])[1]
        return sum(terms[1:], terms[0]) if terms else None, in_x, in_w, None, None


_AXES = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


class Convolutions(TorchFunctionMode):
    """Code inside takes its convolutions from here."""

    internal = True

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        axes = _AXES.get(func) if isinstance(func, type(torch.conv2d)) else None
        if axes is not None and (call := _arguments(axes, *args, **kwargs or {})) is not None:
            return Convolution.apply(*call)
        return func(*args, **kwargs or {})


def _arguments(
    axes: int,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> tuple[Any, ...] | None:
    """The arguments of `Convolution`; `None` for a call that is left to torch."""
    steps, rim, spread = (_numbers(value, axes) for value in (stride, padding, dilation))
    plain = type(input) is Tensor and input.dim() == axes + 2 and input.layout is torch.strided
    if not plain or not torch.is_grad_enabled() or steps is None or rim is None or spread is None:
        return None
    return input, weight, bias, Geometry(steps, rim, spread, groups)


def _numbers(value: int | Sequence[int] | str, axes: int) -> list[int] | None:
    if isinstance(value, int):
        return [value] * axes
    if isinstance(value, str) or len(value) not in (1, axes):
        return None
    return [int(v) for v in value] * (axes // len(value))
