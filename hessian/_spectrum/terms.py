"""One loss on one tape, as a symmetric matrix over the parameters: its products with vectors.

The Hessian is a double backward. The Gauss-Newton matrix Jᵀ C J, with J the derivative of the
outputs and C a symmetric matrix over the outputs, is J as the derivative of Jᵀu in u (a double
backward that meets no curvature of the network), C, and Jᵀ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hessian._runtime.lanes import pulled_back
from hessian._tape.graph import Tape, refuse_undifferentiable

# One vector: a tensor of each parameter's shape.
Vector = Sequence[Tensor]
Sum = list[Tensor | None]
# Where the tensors of a tape have fewer bytes than this on average, calls cost more than their
# arithmetic, and several vectors go through it at once: then 1.3 to 1.7 times as fast.
SMALL, SEVERAL = 2**14, 4


class Term:
    """Products of one matrix with vectors; `bytes` is the size of the tapes that it holds.

    `is_small` says whether the arithmetic of a product is less than the cost of its calls.
    """

    bytes: int
    is_small: bool

    def product(self, vector: Vector, retain: bool) -> Sum:
        """The matrix times a vector; `None` stands for zeros. Without `retain`, the last one."""
        raise NotImplementedError

    def several(self, vectors: Sequence[Vector]) -> list[Sum]:
        """The same for several vectors in one pass."""
        raise NotImplementedError

    def products(self, vectors: Sequence[Vector], retain: bool) -> list[Sum]:
        """Several vectors, at once where that is cheaper."""
        if len(vectors) >= SEVERAL and self.is_small:
            try:
                return self.several(vectors)
            except (RuntimeError, NotImplementedError):  # an operation without a batching rule
                self.is_small = False
        last = len(vectors) - 1
        return [self.product(v, retain or i < last) for i, v in enumerate(vectors)]


class HessianTerm(Term):
    """The Hessian of a scalar."""

    def __init__(self, value: Tensor, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        gradients: Sequence[Tensor | None] = []
        if value.requires_grad:
            gradients = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
            refuse_undifferentiable(gradients)
        self.live = [(i, g) for i, g in enumerate(gradients) if g is not None and g.requires_grad]
        tape = Tape.of([g for _, g in self.live]) if self.live else Tape([])
        self.bytes = tape.bytes()
        self.is_small = self.bytes < SMALL * len(tape.order)

    def product(self, vector: Vector, retain: bool) -> Sum:
        """A double backward."""
        if not self.live:
            return [None] * len(self.parameters)
        return list(
            torch.autograd.grad(
                [g for _, g in self.live],
                self.parameters,
                [vector[i].to(g.dtype) for i, g in self.live],
                retain_graph=retain,
                allow_unused=True,
            )
        )

    def several(self, vectors: Sequence[Vector]) -> list[Sum]:
        """The same under `vmap`."""
        if not self.live:
            return [[None] * len(self.parameters) for _ in vectors]
        rows = pulled_back(
            [g for _, g in self.live],
            self.parameters,
            [torch.stack([v[i].to(g.dtype) for v in vectors]) for i, g in self.live],
        )
        return [[None if h is None else h[row] for h in rows] for row in range(len(vectors))]


Curvature = Callable[[list[Tensor]], list[Tensor]]


class GaussNewtonTerm(Term):
    """Jᵀ C J + diag(d), J the derivative of the outputs in the parameters.

    `curvature` multiplies with C, `diagonal` holds d by number of the parameter.
    """

    def __init__(
        self,
        outputs: Sequence[Tensor],
        parameters: Sequence[Tensor],
        curvature: Curvature,
        diagonal: dict[int, Tensor],
    ) -> None:
        self.outputs, self.parameters = list(outputs), list(parameters)
        self.curvature, self.diagonal = curvature, diagonal
        self.weights = [torch.zeros_like(o, requires_grad=True) for o in self.outputs]
        pulled: Sequence[Tensor | None] = []
        if self.outputs:
            pulled = torch.autograd.grad(
                self.outputs, self.parameters, self.weights, create_graph=True, allow_unused=True
            )
            refuse_undifferentiable(pulled)
        self.live = [(i, g) for i, g in enumerate(pulled) if g is not None and g.requires_grad]
        tape = Tape.of([g for _, g in self.live]) if self.live else Tape([])
        self.bytes = tape.bytes()
        self.is_small = False  # C is given for one vector at a time

    def product(self, vector: Vector, retain: bool) -> Sum:
        """Jᵀ C J v + d ⊙ v."""
        total: Sum = [None] * len(self.parameters)
        if self.live:
            forward = torch.autograd.grad(
                [g for _, g in self.live],
                self.weights,
                [vector[i].to(g.dtype) for i, g in self.live],
                retain_graph=True,
                allow_unused=True,
            )
            tangents = [
                torch.zeros_like(o) if t is None else t.detach()
                for t, o in zip(forward, self.outputs, strict=True)
            ]
            total = list(
                torch.autograd.grad(
                    self.outputs,
                    self.parameters,
                    self.curvature(tangents),
                    retain_graph=retain,
                    allow_unused=True,
                )
            )
        for i, d in self.diagonal.items():
            term, old = d * vector[i].to(d.dtype), total[i]
            total[i] = term if old is None else old + term
        return total
