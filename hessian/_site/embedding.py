"""Rows of an embedding, and sums that touch only those that were read."""

from __future__ import annotations

import torch
from torch import Tensor

from hessian._loss.output_hessian import by_sample
from hessian._site.site import Positions, Site
from hessian._tape.graph import Edge, Node, metadata, shape
from hessian._tape.layouts import Layout


def embedding(
    node: Node, layout: Layout, weight: tuple[int, ...], n: int, met: Edge | None = None
) -> Site | None:
    """A lookup; where all samples share its rows, `met` is the sum that adds them to each."""
    if node._saved_scale_grad_by_freq or node._saved_sparse:
        return None
    indices = node._saved_indices
    if met is not None:
        out = shape(met)
        if out is None or out[-1] != weight[1] or layout.axis == len(out) - 1:
            return None
        indices = indices.expand(out[:-1])
    indices = by_sample(indices, layout, n).reshape(n, -1)  # [n, T]
    padding = int(node._saved_padding_idx)
    padding = padding - 2**64 if padding >= 2**63 else padding

    def gradient(adjoint: Tensor, part: slice) -> Tensor:
        values = adjoint.reshape(adjoint.shape[0], -1, weight[1])
        if padding >= 0:
            values = values * (indices[part] != padding).unsqueeze(2)
        full = values.new_zeros((values.shape[0], *weight))
        return full.scatter_add_(1, indices[part].unsqueeze(2).expand_as(values), values)

    count = indices.shape[1]
    tokens = torch.where(indices == padding, -1, indices) if padding >= 0 else indices

    def one_hot(part: slice) -> Tensor:  # [m, 1, k, p]
        hot = tokens[part].unsqueeze(1) == torch.arange(weight[0], device=tokens.device).view(-1, 1)
        return hot.to(metadata(node)[0].dtype).unsqueeze(1)

    positions = Positions(
        rows=lambda values: values.reshape(values.shape[0], 1, count, weight[1]).transpose(2, 3),
        columns=one_hot,
        groups=1,
        out=weight[1],
        count=count,
    )
    edge = (node, 0) if met is None else met
    return Site(edge, layout, gradient, transposed=True, positions=positions, tokens=tokens)


def second_of_rows(curved: Tensor, tokens: Tensor, into: Tensor, start: int) -> None:
    """The same for an embedding, whose U is one-hot: only the rows that were read are touched."""
    same = (tokens.unsqueeze(2) == tokens.unsqueeze(1)) & (tokens >= 0).unsqueeze(2)
    sums = (curved * same.unsqueeze(1)).sum(3)  # [n, c, p]
    flat = tokens.clamp_min(0).reshape(-1)
    into[:, start : start + curved.shape[1]].index_add_(
        0, flat, sums.transpose(1, 2).reshape(-1, curved.shape[1])
    )


def squares_of_rows(tokens: Tensor, adjoint: Tensor, weights: Tensor, into: Tensor) -> None:
    """The same for an embedding, touching only the rows that were read."""
    n, width = tokens.shape[0], into.shape[1]
    values = adjoint.reshape(n, -1, width)
    same = (tokens.unsqueeze(2) == tokens.unsqueeze(1)) & (tokens >= 0).unsqueeze(2)
    product = (same.to(values.dtype) @ values).mul_(values).mul_(weights.view(n, 1, 1))
    into.index_add_(0, tokens.clamp_min(0).reshape(-1), product.reshape(-1, width))
