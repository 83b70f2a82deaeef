"""A source of curvature that follows a training loop: the exact diagonal on the batch at hand."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import hessian


class BatchCurvature:
    """The exact diagonal of the Hessian on the last batch, for `CBLR(…, curvature=…)`.

    The batch is what `batch` is set to, by the loop before its step; or, with `watch=True`, what
    the model was last called with in training: keyword arguments with the targets among them, as
    Hugging Face's Trainer and accelerate's loops call it. Of several micro-batches whose gradients
    are accumulated it is the last.

    Where `torch.distributed` runs several processes, they compute the diagonal over the batches of
    all of them, so that their weights stay the same.

    Args:
        model: the network, wrapped or not.
        loss: `loss(output, target)`, as for `hessian.diagonal`; for models of Hugging Face
            `hessian.on_logits()`.
        watch: take the batch from the calls of the model.
        options: of `hessian.diagonal`: `forward`, `memory`, `names`, …

    Attributes:
        batch: the batch, in any form that `hessian.diagonal` takes; `None` before the first.

    Raises:
        TypeError: `model` is no module or `loss` no function.
        ValueError: at a call: there is no batch yet.

    Example:
        L = (2w - 1)² at w = 0 has g = -4 and h = 8, so R = 17^{3/2}/8, and w ← 4 R/100.

        >>> from sim.optimizers import CBLR
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> source = BatchCurvature(model, nn.functional.mse_loss)
        >>> optimizer = CBLR(model.named_parameters(), lr=0.01, curvature=source)
        >>> source.batch = torch.tensor([[2.0]]), torch.tensor([[1.0]])
        >>> nn.functional.mse_loss(model(source.batch[0]), source.batch[1]).backward()
        >>> optimizer.step()
        >>> round(model.weight.item(), 4)
        0.3505
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        *,
        watch: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: got {type(model).__name__}; give a torch.nn.Module")
        if not callable(loss):
            raise TypeError(f"loss: got {type(loss).__name__}; give a function of (output, target)")
        self.model, self.loss, self.options = model, loss, options
        self.batch: Any = None
        self._computing = False
        if watch:
            model.register_forward_pre_hook(self._note, with_kwargs=True)

    def __call__(self) -> hessian.Diagonal:
        """The diagonal at the model's present weights."""
        if self.batch is None:
            raise ValueError(
                "batch: there is none yet; set it before the step, or give watch=True and call "
                "the model in training mode with keyword arguments, targets among them"
            )
        options = dict(self.options)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            options = {"group": dist.group.WORLD, "split": "data", **options}
        self._computing = True
        try:
            return hessian.diagonal(self.model, self.loss, self.batch, **options)
        finally:
            self._computing = False

    def _note(self, module: nn.Module, _: Any, keywords: dict[str, Any]) -> None:
        if keywords and module.training and torch.is_grad_enabled() and not self._computing:
            self.batch = dict(keywords)
