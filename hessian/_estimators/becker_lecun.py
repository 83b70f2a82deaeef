"""Diagonal back-propagation of second derivatives (Becker & LeCun 1989).

From layer to layer only the diagonal of the Hessian is carried, as if the entries of every tensor
did not interact. For z = W a and a = φ(z'),

    h_a = (W ∘ W)ᵀ h_z,    h_z' = φ'(z')² h_a + φ''(z') ∂L/∂a,    h_W = Σ h_z aᵀ²,

sums over samples and positions being taken at the weights, and where a tensor is used several
times. One backward pass; exact where nothing interacts.

Source: Becker & LeCun, Improving the convergence of back-propagation learning with second-order
methods (1989), equations 11 to 13; LeCun's "Optimal brain damage" (1990).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from hessian._batch.analysis import Analysis
from hessian._loss.factor import Factor
from hessian._loss.output_hessian import by_sample, from_samples
from hessian._routes._chain.steps.base import call
from hessian._tape.graph import Edge, Node, Tape, is_leaf, operation, shape, title
from hessian._tape.operations import known

Inputs = list[Tensor | None]


def diagonal(analysis: Analysis, factor: Factor) -> dict[str, Tensor]:
    """The diagonals of all parameters; `factor` is the loss's second derivative in the outputs.

    Raises:
        ValueError: an operation between a parameter and the outputs has no diagonal rule.
    """
    parameters = analysis.task.objective.parameters
    diagonals = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    outputs = [output.tensor for output in analysis.reading.used]
    tape = Tape.of(outputs)
    names = {id(p): name for name, p in parameters.items()}
    slopes = _slopes(analysis, outputs, tape)
    h: dict[Edge, Tensor] = {}
    for output, start in zip(outputs, _diagonals(factor, analysis), strict=True):
        edge = get_gradient_edge(output)
        _add(h, (edge.node, edge.output_nr), start)
    for node in tape.order:
        if is_leaf(node):
            if (node, 0) in h and id(node.variable) in names:
                diagonals[names[id(node.variable)]] += h[(node, 0)]
            continue
        indices = sorted(index for owner, index in h if owner == node)
        at_outputs = {i: h.pop((node, i)) for i in indices}
        if not at_outputs:
            continue
        for (child, index), value in zip(
            node.next_functions, _inputs(node, at_outputs, slopes), strict=False
        ):
            if child is not None and value is not None:
                _add(h, (child, index), value.detach())
    return diagonals


def _add(h: dict[Edge, Tensor], edge: Edge, value: Tensor) -> None:
    dims = shape(edge)
    if dims is not None and tuple(value.shape) != dims:
        value = value.sum_to_size(dims)  # an operand that was broadcast
    h[edge] = h[edge] + value if edge in h else value


def _diagonals(factor: Factor, analysis: Analysis) -> list[Tensor]:
    """diag Σ_c λ_c S_c S_cᵀ in every output."""
    n, diagonals = analysis.samples, []
    for columns, layout, output in zip(
        factor.columns, analysis.layouts, analysis.reading.used, strict=True
    ):
        total = torch.zeros_like(output.tensor, requires_grad=False)
        for c, weights in enumerate(factor.weights):
            parts = by_sample(columns[c], layout, n).square()
            parts = parts * weights.view(-1, *[1] * (parts.dim() - 1))
            total += from_samples(parts, layout, n, total.shape)
        diagonals.append(total)
    return diagonals


def _slopes(analysis: Analysis, outputs: list[Tensor], tape: Tape) -> dict[Node, Tensor]:
    """∂L/∂a behind every elementwise operation."""
    nodes = [node for node in tape.order if _rule(node) == "entry"]
    if not nodes:
        return {}
    gradients = analysis.slopes
    gradients_behind = torch.autograd.grad(
        outputs, [GradientEdge(node, 0) for node in nodes], gradients,
        retain_graph=True, allow_unused=True,
    )  # fmt: skip
    return {
        node: g.detach() for node, g in zip(nodes, gradients_behind, strict=True) if g is not None
    }


def _inputs(node: Node, at_outputs: dict[int, Tensor], slopes: dict[Node, Tensor]) -> Inputs:
    """What the inputs of an operation get of the diagonals at its outputs."""
    rule, out = _rule(node), at_outputs.get(0)
    # Entries move or are added: every coefficient is 1 or 0, and the squares are what they are.
    if rule == "move":
        parts = [call(node, i, h) for i, h in at_outputs.items()]
        return [_total(values) for values in zip(*parts, strict=True)]
    if out is None or (rule != "entry" and rule not in _RULES):
        raise _refusal(node)
    with torch.no_grad():
        if rule == "entry":
            return _entry(node, out, slopes.get(node))
        return _RULES[rule](node, out)


def _rule(node: Node) -> str:
    """The name of an operation's rule, by its row."""
    row = known(node)
    if row is not None and row.diagonal == "factor" and len(node.next_functions) == 1:
        return "entry"  # a product with a number
    return "" if row is None else row.diagonal


def _total(values: tuple[Tensor | None, ...]) -> Tensor | None:
    live = [v for v in values if v is not None]
    return sum(live[1:], live[0]) if live else None


def _refusal(node: Node) -> ValueError:
    return ValueError(
        f"kind='becker-lecun' has no diagonal rule for {title(node)}, which lies between a "
        "parameter and the output; use kind='hutchinson' or 'preactivation', or names= with the "
        "parameters above it"
    )


def _entry(node: Node, out: Tensor, slope: Tensor | None) -> Inputs:
    ones = torch.ones_like(out)
    first = call(node, 0, ones)[0]
    if first is None:
        return [None]
    value = out * first.square()
    if slope is not None:
        with torch.enable_grad():
            live = call(node, 0, slope)[0]
            if live is not None and live.requires_grad:
                (second,) = torch.autograd.grad(
                    live, [GradientEdge(*node.next_functions[0])], ones,
                    retain_graph=True, allow_unused=True,
                )  # fmt: skip
                value = value if second is None else value + second
    return [value]


def _sum(node: Node, out: Tensor) -> Inputs:
    alpha = float(getattr(node, "_saved_alpha", 1.0)) ** 2
    return [out * alpha, out] if operation(node) == "Rsub" else [out, out * alpha]


def _factor(node: Node, out: Tensor) -> Inputs:
    others = (node._saved_other, node._saved_self)
    return [
        None if child is None or other is None else out * other.square()
        for (child, _), other in zip(node.next_functions, others, strict=False)
    ]


def _quotient(node: Node, out: Tensor) -> Inputs:
    if len(node.next_functions) > 1 and node.next_functions[1][0] is not None:
        raise _refusal(node)
    return [out / node._saved_other.square()]


def _mean(node: Node, out: Tensor) -> Inputs:
    return [None if v is None else v * _share(node) for v in call(node, 0, out)]


def _share(node: Node) -> float:
    """The coefficient of a mean, the same for all its entries."""
    input_shape, result = shape(node.next_functions[0]) or (), shape((node, 0)) or ()
    name = operation(node)
    if name == "Mean":
        return math.prod(result) / math.prod(input_shape)
    if name.startswith("Adaptive"):
        if any(a % b for a, b in zip(input_shape, result, strict=True)):
            raise _refusal(node)  # windows of different sizes
        return math.prod(result) / math.prod(input_shape)
    if node._saved_divisor_override is not None:
        return 1 / float(node._saved_divisor_override)
    padded = any(int(p) for p in node._saved_padding)
    if node._saved_ceil_mode or (padded and not node._saved_count_include_pad):
        raise _refusal(node)
    kernel = [int(k) for k in node._saved_kernel_size]
    dims = 2 if name == "AvgPool2D" else 3
    return 1 / math.prod(kernel * dims if len(kernel) == 1 else kernel)


def _product(node: Node, out: Tensor) -> Inputs:
    name = operation(node)
    if name == "Linear":
        x, w = node._saved_input, node._saved_weight
        rows = out.reshape(-1, out.shape[-1])
        into = None if w is None else out @ w.square()
        weight = None if x is None else rows.T @ x.reshape(-1, x.shape[-1]).square()
        return [into, weight, rows.sum(0)][: len(node.next_functions)]
    first, second = ("mat1", "mat2") if name == "Addmm" else ("self", "mat2")
    a, b = (
        saved if saved is None or saved.layout is torch.strided else saved.to_dense()
        for saved in (getattr(node, f"_saved_{first}"), getattr(node, f"_saved_{second}"))
    )
    alpha = float(node._saved_alpha) ** 2 if name == "Addmm" else 1.0
    left = None if b is None else alpha * (out @ b.square().transpose(-1, -2))
    right = None if a is None else alpha * (a.square().transpose(-1, -2) @ out)
    return [out * float(node._saved_beta) ** 2, left, right] if name == "Addmm" else [left, right]


def _convolution(node: Node, out: Tensor) -> Inputs:
    """Its own backward, with input and weight squared."""
    x, w = node._saved_input, node._saved_weight
    needs = [child is not None for child, _ in node.next_functions]
    needs += [False] * (3 - len(needs))

    def sizes(values: Any) -> list[int]:
        return [int(v) for v in values]

    gradients = torch.ops.aten.convolution_backward(
        out, x.square(), w.square(), [int(w.shape[0])] if needs[2] else None,
        sizes(node._saved_stride), sizes(node._saved_padding), sizes(node._saved_dilation),
        bool(node._saved_transposed), sizes(node._saved_output_padding), int(node._saved_groups),
        [needs[0], needs[1], False],
    )  # fmt: skip
    bias = out.sum([0, *range(2, out.dim())]) if needs[2] else None
    return [gradients[0] if needs[0] else None, gradients[1] if needs[1] else None, bias]


def _batch_norm(node: Node, out: Tensor) -> Inputs:
    """Running statistics: a factor and a shift for each channel."""
    if getattr(node, "_saved_training", True):
        raise _refusal(node)
    x = node._saved_input
    eps = getattr(node, "_saved_eps", None)
    eps = node._saved_epsilon if eps is None else eps
    dims = (1, -1, *[1] * (x.dim() - 2))
    scale = (node._saved_running_var + eps).rsqrt()
    normal = (x - node._saved_running_mean.view(dims)) * scale.view(dims)
    rest = [0, *range(2, x.dim())]
    gain = scale if node._saved_weight is None else scale * node._saved_weight
    values: Inputs = [
        out * gain.square().view(dims),
        (out * normal.square()).sum(rest),
        out.sum(rest),
    ]
    return values[: len(node.next_functions)]


# By the rule that an operation's row names.
_RULES: dict[str, Callable[[Node, Tensor], Inputs]] = {
    "sum": _sum,
    "factor": _factor,
    "quotient": _quotient,
    "mean": _mean,
    "product": _product,
    "convolution": _convolution,
    "batch norm": _batch_norm,
}
