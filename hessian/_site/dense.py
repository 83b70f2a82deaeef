"""Weights of matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from hessian._loss.output_hessian import by_sample
from hessian._site.site import Positions, Site
from hessian._tape.graph import Node, operation, shape
from hessian._tape.layouts import Layout


def dense(node: Node, layout: Layout, n: int, transposed: bool) -> Site:
    """z = alpha·U Wᵀ (parameter ``[o, k]``, met through its transpose) or alpha·U W."""
    if operation(node) == "Addmm":
        rows, alpha = node._saved_mat1, float(node._saved_alpha)
    else:
        rows, alpha = node._saved_self, 1.0
    # What a sparse input multiplies takes its gradient as if that were dense.
    rows = rows if rows.layout is torch.strided else rows.to_dense()
    u = by_sample(rows, Layout(0, layout.outer, layout.inner), n)  # [n, q, k]

    def gradient(adjoint: Tensor, part: slice) -> Tensor:
        left, right = (adjoint, u[part]) if transposed else (u[part], adjoint)
        return alpha * (left.transpose(1, 2) @ right)

    def columns(part: slice) -> Tensor:
        picked = u[part].transpose(1, 2).unsqueeze(1)
        return picked if alpha == 1.0 else alpha * picked

    single = u[:, 0] if u.shape[1] == 1 else None
    positions = Positions(
        rows=lambda adjoint: adjoint.transpose(1, 2).unsqueeze(1),
        columns=columns,
        groups=1,
        out=(shape((node, 0)) or (0, 0))[1],
        count=u.shape[1],
        inputs=columns,
        taps=torch.arange(u.shape[1], device=u.device).unsqueeze(0),
        in_order=u.shape[1] == 1,
    )
    return Site(
        (node, 0), layout, gradient, alpha, outer=single, transposed=not transposed,
        positions=positions,
    )  # fmt: skip
