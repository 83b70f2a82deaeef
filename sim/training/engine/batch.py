"""One batch: its samples, and what is known of them after a pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Inputs `[lanes, n, …]` and targets `[lanes, n]`.
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Batch:
    """The samples of one step, of all lanes, and where the step stands.

    Attributes:
        x, y: `[lanes, n, …]` and `[lanes, n]`, this process's share.
        n: the size of the whole batch.
        step, epoch: their numbers.
    """

    x: Tensor
    y: Tensor
    n: int
    step: int
    epoch: int


@dataclass(frozen=True)
class BatchLosses:
    """The losses of a batch from the pass that gave its gradient.

    Attributes:
        losses: `[lanes, n]`, this process's share, before the step.
        weights: what each counts for in the objective, where that is not the plain mean.
        correct: `[lanes]`, how many of the share were classified rightly, in the losses' dtype.
    """

    losses: Tensor
    weights: Tensor | None
    correct: Tensor

    def totals(self, n: int) -> Tensor:
        """Mean loss, objective Σ_i a_i ℓ_i and accuracy, this share's part, `[lanes, 3]`."""
        loss = self.losses.sum(-1)
        if self.weights is None:
            return torch.stack([loss, loss, self.correct], -1).div_(n)
        objective = (self.losses * self.weights).sum(-1)
        return torch.stack([loss / n, objective, self.correct / n], -1)


def predicted(output: Tensor) -> Tensor:
    """The first of the classes with the largest output, `[1, n]` or `[lanes, n]`.

    >>> predicted(torch.tensor([[[1.0, 0.0], [2.0, 0.0]]])), predicted(torch.eye(2))
    (tensor([[1, 0]]), tensor([[0, 1]]))
    """
    if output.dim() == 2:
        return output.argmax(1).unsqueeze(0)
    # The same, but argmax takes ten times as long over a dimension that is not the last.
    return output.max(1).indices
