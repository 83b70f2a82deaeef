"""Derivatives that a forward pass or a loss takes by itself: penalties on gradients, forces.

A second derivative of such a loss is a third derivative of the operations. torch's fused norms
have a wrong one: their double backward takes mean and deviation for constants. Where a call takes
gradients, the backward pass of these norms is written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge

from hessian import trees
from hessian._tape.graph import Node, operation
from hessian._tape.operations import BATCH_NORMS

Gradients = tuple[Tensor | None, ...]


@contextmanager
def written_out(outputs: Any) -> Iterator[None]:
    """Backward passes from `outputs` inside may be differentiated twice again.

    Raises:
        NotImplementedError: they lead through what TorchScript has put together.
    """
    handles = [node.register_hook(rule(node)) for node, rule in _fused(outputs)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fused(outputs: Any) -> Iterator[tuple[Node, Callable[[Node], Callable[..., Gradients]]]]:
    seen: set[Node] = set()
    stack: list[Node] = []
    for leaf in trees.leaves(outputs):
        if isinstance(leaf, GradientEdge):
            stack.append(leaf.node)
        elif isinstance(leaf, Tensor) and leaf.grad_fn is not None:
            stack.append(leaf.grad_fn)
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "DifferentiableGraph" in node.name():
            raise NotImplementedError(
                "model or loss: it takes a gradient through an optimised TorchScript, whose "
                "operations do not show, and torch's third derivative of norms is wrong; pass the "
                "module that was scripted"
            )
        rule = _RULES.get(operation(node))
        if rule is not None and getattr(node, "_saved_training", True):
            yield node, rule
        stack += [child for child, _ in node.next_functions]


def _layer_norm(node: Node) -> Callable[..., Gradients]:
    axes = list(range(-len(node._saved_normalized_shape), 0))
    rstd = node._saved_result2

    def hook(gradients: Gradients, out: Gradients) -> Gradients:
        x, w = node._saved_input, node._saved_weight
        return _centred(gradients, out[0], x, w, axes, list(range(x.dim() - len(axes))), rstd)

    return hook


def _batch_norm(node: Node) -> Callable[..., Gradients]:
    def hook(gradients: Gradients, out: Gradients) -> Gradients:
        x, w = node._saved_input, node._saved_weight
        axes = [0, *range(2, x.dim())]
        channels = (1, -1, *[1] * (x.dim() - 2))
        w = None if w is None else w.view(channels)
        rstd = node._saved_result2.view(channels)
        return _centred(gradients, out[0], x, w, axes, axes, rstd)

    return hook


def _centred(
    gradients: Gradients,
    g: Tensor | None,
    x: Tensor,
    w: Tensor | None,
    axes: list[int],
    samples: list[int],
    rstd: Tensor,
) -> Gradients:
    """Gradients of w (x - mean)/deviation + b in x, w and b; those that are wanted are not None."""
    if g is None:
        return gradients
    kind, x, g = x.dtype, x.to(rstd.dtype), g.to(rstd.dtype)
    centred = x - x.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    # What was added to the variance, to the last digit.
    eps = rstd.detach().pow(-2) - variance.detach()
    scale = (variance + eps).rsqrt()
    normal = centred * scale
    results: list[Tensor | None] = [None] * len(gradients)
    if gradients[0] is not None:
        u = g if w is None else g * w
        mean, along = u.mean(axes, keepdim=True), (u * normal).mean(axes, keepdim=True)
        results[0] = (scale * (u - mean - normal * along)).to(kind)
    for i, values in ((1, g * normal), (2, g)):
        if i < len(gradients) and (gradient := gradients[i]) is not None:
            results[i] = values.sum(samples).reshape(gradient.shape).to(gradient.dtype)
    return tuple(results)


_RULES: dict[str, Callable[[Node], Callable[..., Gradients]]] = {
    "NativeLayerNorm": _layer_norm,
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
}
