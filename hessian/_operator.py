"""The Hessian as a SciPy linear operator: v → Hv, exact and matrix-free, with its spectrum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from hessian._call import data as _data
from hessian._call.data import lasting
from hessian._call.lending import lend
from hessian._call.precision import highest
from hessian._call.state import Randomness
from hessian._hessian import Hessian
from hessian._runtime.ledger import Guard
from hessian._spectrum import arguments
from hessian._spectrum.products import KINDS
from hessian._spectrum.source import Source


def operator(
    model: nn.Module,
    loss: _data.Loss,
    data: Any,
    *,
    kind: str = "hessian",
    forward: _data.Forward | None = None,
    names: Iterable[str] | None = None,
    memory: int | None = None,
    dtype: torch.dtype | None = None,
    weight: _data.Weight = None,
    progress: bool = False,
) -> Hessian:
    """The Hessian of L as a ``scipy.sparse.linalg.LinearOperator``, with its spectrum.

    Every product is a double backward over all the data. `Hessian.top` and `Hessian.bottom` give
    extreme eigenpairs, `Hessian.trace`, `Hessian.density` and `Hessian.layers` sums over the
    spectrum; SciPy's solvers take the operator too, best inside `Hessian.kept`. With D = |diag H|
    from `diagonal`, λ_max(D^-½ H D^-½) bounds the rate of a rule that divides by the curvature.
    Dropout keeps the draw of the moment the operator was made.

    Args:
        model, loss, data, forward, memory, dtype, weight: as for `diagonal`; `.parts` and
            `.held` say what a product did to stay within the memory. Data that can be read only
            once is kept in memory.
        kind: ``"hessian"``; ``"gauss-newton"`` (or ``"ggn"``), Jᵀ C J with J the derivative of the
            outputs and C the loss's Hessian in them, and what the loss adds by itself (an L2
            term); ``"fisher"``, the variance of the score over targets that the model draws, for
            losses known to be -log p (cross-entropy, binary cross-entropy with logits, squared
            error, unweighted), where it is the Gauss-Newton matrix; ``"empirical-fisher"``,
            n Σ_i ∇L_i ∇L_iᵀ over samples where L is a mean, Σ_i ∇L_i ∇L_iᵀ with
            ``weight="sum"``.
        names: parameters, by name or by pattern (``"layer1.*"``, as `fnmatch` has them); all that
            require gradients by default.
        progress: show a bar: of the batches in a product, of the products in all else.

    Returns:
        A `Hessian` of shape ``(P, P)``, P the number of entries of the parameters, in float64
        where a parameter (or `dtype`) is, else in float32; vectors may be in either.

    Raises:
        TypeError, ValueError, NotImplementedError: as `diagonal`, at the first product where only
            running the model can tell; there too if the loss is not known to be a likelihood, or
            not known through the model's outputs, for a kind that needs it.

    Source: double backward is Pearlmutter (1994); the Gauss-Newton product is Schraudolph (2002).

    Example:
        L = (2w₀ + w₁ - 1)² has the Hessian [[8, 4], [4, 2]].

        >>> model = nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])
        >>> h = operator(model, nn.functional.mse_loss, (x, y))
        >>> (h @ np.eye(2)).tolist()
        [[8.0, 4.0], [4.0, 2.0]]
    """
    kind = "gauss-newton" if kind == "ggn" else kind
    arguments.one_of("kind", kind, KINDS)
    batches = lasting(data)
    with Guard(), lend(model, loss, "auto", forward, names, memory, dtype) as objective:
        parameters = objective.parameters
        start, firsts = Randomness(objective.devices()), objective.firsts
    widest = highest([dtype] if dtype is not None else [p.dtype for p in parameters.values()])
    source = Source(
        model, loss, batches, forward, tuple(parameters), memory, dtype, weight, progress, kind,
        start, firsts,
    )  # fmt: skip
    shapes = tuple(tuple(p.shape) for p in parameters.values())
    return Hessian(source, shapes, np.dtype(np.float64 if widest is torch.float64 else np.float32))
