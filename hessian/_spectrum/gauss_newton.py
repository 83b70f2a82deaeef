"""The Gauss-Newton matrix of a batch or a part of one, and what is made like it.

`gauss-newton`       Jᵀ C J, C the loss's second derivative in the outputs (Schraudolph 2002)
`fisher`             E[∇ℓ ∇ℓᵀ] over targets that the model draws: equal to it where the loss is the
                     negative log-likelihood of an exponential family in its natural parameters
`empirical-fisher`   the same over the targets of the data
"""

from __future__ import annotations

import torch
from torch import Tensor

from hessian._batch.analysis import Analysis
from hessian._batch.parts import part_of
from hessian._batch.pieces import of_all
from hessian._call.data import Weight
from hessian._loss.output_hessian import Products, by_sample, from_samples, scaled_softmax
from hessian._spectrum.terms import Curvature, GaussNewtonTerm
from hessian._tape.certificate import LINEAR, loss_labels
from hessian._tape.graph import Node, Tape, operation
from hessian._tape.operations import keeps_flat_order

# Losses that are -log p of an exponential family in its natural parameters, on the tape; with what
# they must not weigh by.
_LIKELIHOODS = {
    "NllLoss": ("_saved_weight",),
    "NllLoss2D": ("_saved_weight",),
    "NllLossNd": ("_saved_weight",),
    "BinaryCrossEntropyWithLogits": ("_saved_weight", "_saved_pos_weight"),
    "MseLoss": (),
}
_UNKNOWN = (
    'kind="fisher" is the variance of -d log p over targets that the model draws, and {}; it knows '
    "cross_entropy, binary_cross_entropy_with_logits and mse_loss, unweighted. Use "
    'kind="gauss-newton", which is the same for any likelihood of an exponential family in its '
    "natural parameters"
)


def gauss_newton(analysis: Analysis, kind: str, weight: Weight) -> GaussNewtonTerm:
    """The matrix of a batch or part; what the loss adds by itself in a whole batch included.

    Raises:
        ValueError: the loss is not known through the model's outputs, or is no likelihood.
    """
    objective, reading = analysis.task.objective, analysis.reading
    if reading.hidden:
        raise ValueError(
            f"kind={kind!r} knows the loss through the model's outputs, but it reads more of the "
            f"network than these ({reading.hidden} is older than the call of the loss); return "
            'what the loss reads as a tensor of the output, or use kind="hessian"'
        )
    coupled = [name for name in reading.direct if name not in reading.separable]
    if coupled and kind == "gauss-newton":
        raise ValueError(
            f"kind={kind!r} knows the loss through the model's outputs, but it reads parameter "
            f"{coupled[0]!r} in a way that is not a sum over its entries; "
            'use kind="hessian", or leave the parameter out with names='
        )
    if reading.direct and kind == "fisher":
        name = next(iter(reading.direct))
        raise ValueError(_UNKNOWN.format(f"the loss reads parameter {name!r} by itself"))
    if kind == "fisher":
        _refuse_unknown(analysis)
    order = {name: i for i, name in enumerate(objective.parameters)}
    terms = analysis.separable_terms() if kind == "gauss-newton" else {}
    outputs = [output.tensor for output in reading.used]
    curvature = _empirical(analysis, weight) if kind == "empirical-fisher" else _second(analysis)
    parameters = list(objective.parameters.values())
    diagonal = {order[name]: h for name, h in terms.items()}
    return GaussNewtonTerm(outputs, parameters, curvature, diagonal)


def _second(analysis: Analysis) -> Curvature:
    """The product with the loss's second derivative in the outputs, those of others held."""
    used = analysis.reading.used
    part = part_of(analysis)
    if part is None:
        return Products([output.slope for output in used], [output.cut for output in used])
    whole, samples, n = part.whole, part.samples, part.whole.samples
    of_whole = whole.reading.used
    multiply = Products([o.slope for o in of_whole], [o.cut for o in of_whole])
    layouts = [whole.known[output.place] for output in of_whole]

    def product(tangents: list[Tensor]) -> list[Tensor]:
        vectors = []
        for output, layout, tangent in zip(of_whole, layouts, tangents, strict=True):
            rows = by_sample(tangent, layout, samples.stop - samples.start)
            full = rows.new_zeros((n, *rows.shape[1:]))
            full[samples] = rows
            vectors.append(from_samples(full, layout, n, output.cut.shape))
        return [
            from_samples(
                by_sample(h, layout, n)[samples], layout, samples.stop - samples.start, t.shape
            )
            for h, layout, t in zip(multiply(vectors), layouts, tangents, strict=True)
        ]

    return product


def _empirical(analysis: Analysis, weight: Weight) -> Curvature:
    """n Σ_i s_i s_iᵀ, s_i the loss's slope in the outputs of sample i."""
    used, layouts, n = analysis.reading.used, analysis.layouts, analysis.samples
    if used and len(layouts) != len(used):
        raise ValueError(
            'kind="empirical-fisher" takes the gradient of every sample, and the loss is not '
            'proved to keep samples apart; use kind="hessian" or kind="gauss-newton"'
        )
    count = 1.0 if weight == "sum" else float(of_all(analysis))
    slopes = [
        by_sample(slope, layout, n) for slope, layout in zip(analysis.slopes, layouts, strict=True)
    ]

    def product(tangents: list[Tensor]) -> list[Tensor]:
        dots = torch.zeros((n,), dtype=tangents[0].dtype, device=tangents[0].device)
        for slope, layout, tangent in zip(slopes, layouts, tangents, strict=True):
            dots += (slope * by_sample(tangent, layout, n)).flatten(1).sum(1)
        return [
            from_samples(
                count * slope * dots.view(-1, *[1] * (slope.dim() - 1)), layout, n, tangent.shape
            )
            for slope, layout, tangent in zip(slopes, layouts, tangents, strict=True)
        ]

    return product


def _refuse_unknown(analysis: Analysis) -> None:
    """Raise unless the loss is -log p of the data, or its mean, for each output that it reads."""
    part = part_of(analysis)
    reading = analysis.reading if part is None else part.whole.reading
    n = analysis.samples if part is None else part.whole.samples
    if not reading.loss.requires_grad:
        return
    tape = Tape.of([reading.loss])
    leaves, labels = tape.leaves(), loss_labels(tape, n)
    for output in reading.used:
        leaf = leaves.get(id(output.cut))
        node = None if leaf is None else _along(tape, leaf)
        if node is None or labels.get((node, 0)) != LINEAR:
            raise ValueError(_UNKNOWN.format("the loss is not known to be one"))
        for name in _LIKELIHOODS[operation(node)]:
            if getattr(node, name, None) is not None:
                raise ValueError(_UNKNOWN.format("the loss weighs samples by their targets"))
    if reading.softmax is not None:
        edge, adjoint = reading.softmax
        _, total = scaled_softmax(edge[0], adjoint.detach())
        total = total[total != 0]
        if total.numel() and float(total.max() - total.min()) > 1e-3 * float(total.abs().max()):
            raise ValueError(_UNKNOWN.format("the loss weighs samples differently"))


def _along(tape: Tape, leaf: Node) -> Node | None:
    """The likelihood that a leaf leads to, by views and the log-softmax that belongs to it."""
    node, is_softmax = leaf, False
    while len(tape.consumers[node]) == 1:
        node = tape.consumers[node][0][0]
        name = operation(node)
        if name in _LIKELIHOODS:
            return node if is_softmax == name.startswith("Nll") else None
        if name == "LogSoftmax" and not is_softmax:
            is_softmax = True
        elif name != "Clone" and not keeps_flat_order(node):
            return None
    return None
