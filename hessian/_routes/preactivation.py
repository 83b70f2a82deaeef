"""Pre-activation route: curvature of a weight from that of the site's output z.

A site z[n,o,p] = Σ_k W[o,k] U[n,k,p] is linear in W. Where W is used nowhere else and the loss is a
sum over samples,

    d²L/dW[o,k]² = Σ_n Σ_{p,q} U[n,k,p] U[n,k,q] · ∂²L / ∂z[n,o,p] ∂z[n,o,q],

and one Hessian-vector product at z, along the same (o, q) in every sample, gives a column of all
samples' blocks at once: d_out·positions products instead of d_out·d_in entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from hessian._loss.output_hessian import by_sample
from hessian._runtime.lanes import pulled_back
from hessian._runtime.share import ALL, Share
from hessian._site.site import Positions, Site
from hessian._site.sums import second
from hessian._tape.graph import Edge, refuse_undifferentiable, shape


def products(site: Site) -> int:
    """Hessian-vector products that the site takes."""
    assert site.positions is not None
    return site.positions.groups * site.positions.out * site.positions.count


def by_site(
    loss: Tensor,
    edge: Edge,
    targets: Sequence[tuple[Site, Tensor]],
    n: int,
    tape_bytes: int,
    memory: int,
    tick: Callable[[int], None],
    share: Share = ALL,
) -> None:
    """Add the diagonals of all parameters met at one site, `targets` being (use, into) pairs."""
    dims = shape(edge)
    assert dims is not None
    site, _ = targets[0]
    (gradient,) = torch.autograd.grad(
        loss, [GradientEdge(*edge)], create_graph=True, allow_unused=True
    )
    refuse_undifferentiable([gradient])
    channels, count = products(site) // _positions(site).count, _positions(site).count
    if gradient is None or not gradient.requires_grad:
        tick(channels * count)
        return
    place = _places(site, dims, n, gradient.device)  # [n, channels, count] → flat index in z
    each = 6 * tape_bytes + (2 * gradient.numel() + n * count) * gradient.element_size()
    rows = max(1, min(channels * count, memory // max(1, each)))
    block = max(1, min(channels, rows // count))
    for start in range(0, channels, block):
        stop = min(channels, start + block)
        part = place[:, start:stop]  # [n, c, p]
        curved = gradient.new_zeros((n, stop - start, count, count))
        jobs = share.among([(c, q) for c in range(stop - start) for q in range(count)])
        for first in range(0, len(jobs), rows):
            portion = jobs[first : first + rows]
            for (c, q), product in zip(portion, _along(gradient, edge, part, portion), strict=True):
                curved[:, c, :, q] = product[part[:, c]]
            tick(len(portion))
        with torch.no_grad():
            for use, into in targets:
                second(use, curved, slice(0, n), into, memory, start)


def _positions(site: Site) -> Positions:
    assert site.positions is not None
    return site.positions


def _places(site: Site, dims: tuple[int, ...], n: int, device: torch.device) -> Tensor:
    size = 1
    for d in dims:
        size *= d
    index = torch.arange(size, device=device).view(dims)
    rows = _positions(site).rows(by_sample(index, site.layout, n))  # [n, g, o, p]
    return rows.flatten(1, 2)


def _along(gradient: Tensor, edge: Edge, place: Tensor, jobs: Sequence[tuple[int, int]]) -> Tensor:
    """Products along (c, q) of all samples at once, ``[len(jobs), numel of z]``."""
    units = gradient.new_zeros((len(jobs), gradient.numel()))
    for row, (c, q) in enumerate(jobs):
        units[row, place[:, c, q]] = 1.0
    shaped = units.view(len(jobs), *gradient.shape)
    if len(jobs) > 1:
        try:
            (products,) = pulled_back([gradient], [GradientEdge(*edge)], [shaped])
            return units.zero_() if products is None else products.reshape(len(jobs), -1).detach()
        except (RuntimeError, NotImplementedError):
            pass  # an operation without a batching rule
    for row in range(len(jobs)):
        (products,) = torch.autograd.grad(
            gradient, [GradientEdge(*edge)], shaped[row], retain_graph=True, allow_unused=True
        )
        units[row] = 0.0 if products is None else products.reshape(-1).detach()
    return units
