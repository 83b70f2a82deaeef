"""The Hessian as a SciPy linear operator: v → Hv, exact and matrix-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from hessian._batch.pieces import Division, added
from hessian._call import data as _data
from hessian._call.batches import scale, walk
from hessian._call.lending import lend
from hessian._call.precision import highest
from hessian._call.state import Randomness
from hessian._call.thaw import again
from hessian._runtime.ledger import Guard
from hessian._runtime.progress import ticker
from hessian._tape.graph import refuse_undifferentiable


class Hessian(LinearOperator):
    """The P×P Hessian over the parameters in the model's order, flattened and concatenated.

    Attributes:
        names: parameter names in that order.
        shapes: their shapes.
        samples: number of samples in the data of the last product; 0 before the first.
        parts: the most parts of its samples that a batch was taken in, in the last product.
        held: why a batch that needs more than the memory given was held whole there, or empty.
    """

    def __init__(self, parameters: dict[str, Tensor], multiply: Any, dtype: np.dtype[Any]) -> None:
        self.names = tuple(parameters)
        self.shapes = tuple(tuple(p.shape) for p in parameters.values())
        size = sum(p.numel() for p in parameters.values())
        self._multiply = multiply
        self.samples, self.parts, self.held = 0, 1, ""
        super().__init__(dtype=dtype, shape=(size, size))

    def _matvec(self, vector: NDArray[Any]) -> NDArray[Any]:
        result, self.samples, done = self._multiply(np.asarray(vector).reshape(-1))
        self.parts, self.held = done.parts, done.held
        return result

    def _adjoint(self) -> Hessian:
        return self  # a Hessian is symmetric

    def _transpose(self) -> Hessian:
        return self


def operator(
    model: nn.Module,
    loss: _data.Loss,
    data: Any,
    *,
    forward: _data.Forward | None = None,
    names: Iterable[str] | None = None,
    memory: int | None = None,
    dtype: torch.dtype | None = None,
    weight: _data.Weight = None,
    progress: bool = False,
) -> Hessian:
    """The Hessian of L as a ``scipy.sparse.linalg.LinearOperator``.

    Every product is a double backward over all the data, so SciPy's ``eigsh`` gives extreme
    eigenvalues; with D = |diag H| from `diagonal`, λ_max(D^-½ H D^-½) bounds the rate of a rule
    that divides by the curvature. Dropout keeps the draw of the moment the operator was made.

    Args:
        model, loss, data, forward, names, memory, dtype, weight: as for `diagonal`; `.parts` and
            `.held` say what a product did to stay within the memory. Data that can be read only
            once is kept in memory.
        progress: show a bar of the batches in every product.

    Returns:
        A `Hessian` of shape ``(P, P)``, P the number of entries of the parameters, in float64
        where a parameter (or `dtype`) is, else in float32; vectors may be in either.

    Raises:
        TypeError, ValueError, NotImplementedError: as `diagonal`, at the first product where only
            running the model can tell.

    Example:
        L = (2w₀ + w₁ - 1)² has the Hessian [[8, 4], [4, 2]].

        >>> model = nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])
        >>> h = operator(model, nn.functional.mse_loss, (x, y))
        >>> (h @ np.eye(2)).tolist()
        [[8.0, 4.0], [4.0, 2.0]]
    """
    batches = list(data) if isinstance(data, Iterator) else data
    with Guard(), lend(model, loss, "auto", forward, names, memory, dtype) as objective:
        parameters = objective.parameters
        start, firsts = Randomness(objective.devices()), objective.firsts
    widest = highest([dtype] if dtype is not None else [p.dtype for p in parameters.values()])
    numpy_type = np.dtype(np.float64 if widest is torch.float64 else np.float32)

    def multiply(vector: NDArray[Any]) -> tuple[NDArray[Any], int, Division]:
        if vector.shape[0] != sum(p.numel() for p in parameters.values()):
            raise ValueError(f"the vector has {vector.shape[0]} entries, the Hessian another size")
        with (
            Guard(),
            lend(model, loss, "auto", forward, list(parameters), memory, dtype) as objective,
            ticker(progress) as bar,
        ):
            start.restore()
            objective.firsts = firsts
            wanted = list(objective.parameters.values())
            parts = [
                torch.as_tensor(piece, device=p.device, dtype=p.dtype).reshape(p.shape)
                for piece, p in zip(
                    np.split(vector, np.cumsum([p.numel() for p in wanted])[:-1]),
                    wanted,
                    strict=True,
                )
            ]
            total = [torch.zeros_like(p, requires_grad=False) for p in wanted]
            weights: list[float] = []
            samples, division = 0, Division()
            for batch in bar.over(walk(objective, batches, dtype, weight)):
                products, loss_diagonal = added(
                    batch, lambda v: list(product(v, wanted, parts)), division
                )
                for into, h in zip(total, products, strict=True):
                    if h is not None:
                        into.add_(h, alpha=batch.a)
                for into, v, name in zip(total, parts, objective.parameters, strict=True):
                    if name in loss_diagonal:
                        into.addcmul_(loss_diagonal[name], v, value=batch.a)
                weights.append(batch.a)
                samples += batch.samples
            flat = torch.cat([t.reshape(-1) for t in total]) * scale(weights, weight)
            return flat.detach().cpu().numpy().astype(numpy_type), samples, division

    return Hessian(parameters, lambda vector: again(lambda: multiply(vector)), numpy_type)


def product(
    value: Tensor, parameters: list[Tensor], vectors: list[Tensor]
) -> tuple[Tensor | None, ...]:
    """Hv for the Hessian of `value`; ``None`` where it does not depend on a parameter."""
    if not value.requires_grad:
        return (None,) * len(parameters)
    gradients = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
    refuse_undifferentiable(gradients)
    live = [
        (g, v.to(g.dtype))
        for g, v in zip(gradients, vectors, strict=True)
        if g is not None and g.requires_grad
    ]
    if not live:
        return (None,) * len(parameters)
    return torch.autograd.grad(
        [g for g, _ in live], parameters, [v for _, v in live], allow_unused=True
    )
