"""Leaving out samples of a batch, or entries of a gradient, with the controls."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sim import _arguments

SAMPLES = ("large-loss", "random", "small-loss")
ENTRIES = ("large", "random", "small")
NORMALISERS = ("batch", "kept")
SCOPES = ("network", "tensor")


@dataclass(frozen=True, kw_only=True)
class Discard:
    """A share of each batch is left out of the gradient, by the losses of its own forward pass.

    Attributes:
        kind: `"small-loss"` leaves out the samples of the smallest loss (section 3.1); the
            controls are `"random"` and `"large-loss"`.
        share: p in [0, 1); round(p n) samples are left out, but never the last one.
        epochs: only in the first so many passes; `None` throughout.
        normaliser: what the sum over the kept is divided by: `"kept"`, their number, which alone
            enlarges the gradient; or the control `"batch"`, n, as if nothing were left out.

    >>> Discard(share=0.3, epochs=100).kind
    'small-loss'
    """

    kind: str = "small-loss"
    share: float
    epochs: int | None = None
    normaliser: str = "kept"

    def __post_init__(self) -> None:
        _arguments.choice("kind", self.kind, SAMPLES)
        _arguments.choice("normaliser", self.normaliser, NORMALISERS)
        object.__setattr__(self, "share", _arguments.number("share", self.share, 0.0, 1.0))
        if self.epochs is not None:
            object.__setattr__(self, "epochs", _arguments.integer("epochs", self.epochs, 1))

    def active(self, epoch: int) -> bool:
        """Whether anything is left out in this pass."""
        return self.share > 0 and (self.epochs is None or epoch < self.epochs)

    def weights(self, losses: Tensor, scores: Tensor | None = None) -> Tensor:
        """What each sample's loss counts for in the objective Σ_i a_i ℓ_i, shaped as `losses`.

        Args:
            losses: `[…, n]`, each row a batch.
            scores: random numbers of the same shape, for `kind="random"`.

        >>> Discard(share=0.5).weights(torch.tensor([3.0, 1.0, 2.0, 4.0]))
        tensor([0.5000, 0.0000, 0.0000, 0.5000])
        """
        n = losses.shape[-1]
        gone = min(round(self.share * n), n - 1)
        score = losses.detach()
        if self.kind == "random":
            assert scores is not None
            score = scores
        elif self.kind == "large-loss":
            score = -score
        # The rank of each sample; equal ones in their order.
        rank = score.argsort(dim=-1, stable=True).argsort(dim=-1)
        return (rank >= gone).to(losses.dtype) / (n - gone if self.normaliser == "kept" else n)


@dataclass(frozen=True, kw_only=True)
class DiscardGradients:
    """A share of the entries of every gradient is set to zero before the step (section 3).

    Attributes:
        kind: `"small"` sets those of the smallest size to zero; the controls are `"random"` and
            `"large"`.
        share: p in [0, 1); round(p P) of P entries.
        scope: `"tensor"` takes the share of each tensor, `"network"` of all entries together.
        epochs: only in the first so many passes; `None` throughout.

    The step is not rescaled: this keeps the large entries, it does not enlarge them.

    >>> DiscardGradients(share=0.5).kind
    'small'
    """

    kind: str = "small"
    share: float
    scope: str = "tensor"
    epochs: int | None = None

    def __post_init__(self) -> None:
        _arguments.choice("kind", self.kind, ENTRIES)
        _arguments.choice("scope", self.scope, SCOPES)
        object.__setattr__(self, "share", _arguments.number("share", self.share, 0.0, 1.0))
        if self.epochs is not None:
            object.__setattr__(self, "epochs", _arguments.integer("epochs", self.epochs, 1))

    def active(self, epoch: int) -> bool:
        """Whether anything is set to zero in this pass."""
        return self.share > 0 and (self.epochs is None or epoch < self.epochs)

    def apply(self, gradients: Iterable[Tensor], random: Callable[[Tensor], Tensor]) -> None:
        """Set entries to zero in place; `random(like)` gives uniform numbers.

        >>> g = torch.tensor([3.0, -1.0, 2.0, 0.5])
        >>> DiscardGradients(share=0.5).apply([g], torch.rand_like)
        >>> g
        tensor([3., 0., 2., 0.])
        """
        tensors = list(gradients)
        scores = [self._scores(g, random).reshape(-1) for g in tensors]
        if self.scope == "network":
            whole = self._mask_of(torch.cat(scores))
            masks = list(whole.split([g.numel() for g in tensors]))
        else:
            masks = [self._mask_of(score) for score in scores]
        for gradient, mask in zip(tensors, masks, strict=True):
            gradient.masked_fill_(~mask.view_as(gradient), 0)

    def _scores(self, gradient: Tensor, random: Callable[[Tensor], Tensor]) -> Tensor:
        if self.kind == "random":
            return random(gradient)
        return gradient.abs() if self.kind == "small" else -gradient.abs()

    def _mask_of(self, score: Tensor) -> Tensor:
        gone = round(self.share * score.numel())
        mask = torch.ones_like(score, dtype=torch.bool)
        if gone:
            mask[score.topk(gone, largest=False, sorted=False).indices] = False
        return mask
