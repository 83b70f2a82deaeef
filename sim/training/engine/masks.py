"""Where the random numbers of a network's passes come from: the masks of its dropout."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import nn

from hessian import devices, torch_private
from sim._isolation import mask, seeded


class Masks:
    """Sets the seed of the masks of the passes to come; nothing is done for a network without.

    They are drawn from a generator of the network's own, where they can be; on a GPU, compiled or
    for exact curvature from torch's global one, which no other run uses meanwhile. So is whatever
    a reader's own network draws beside its dropout modules (`F.dropout`, `nn.RReLU`, the dropout
    of recurrent and attention layers), which cannot be told before.

    Args:
        model: whose dropout modules draw.
        device: where.
        separate: whether a generator of the network's own is to be tried.
        own: whether the network is a reader's own; kept.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, separate: bool, own: bool = False
    ) -> None:
        self._device, self.own = device, own
        self._random = own or any(
            isinstance(m, torch_private.Dropout) and m.p > 0 for m in model.modules()
        )
        self._generator: torch.Generator | None = None
        if self._random and device.type in devices.NO_QUEUE and separate:
            generator = torch.Generator("cpu")
            self._generator = generator if mask(model, generator) else None

    def __call__(self, *seed: int) -> AbstractContextManager[None]:
        """Masks of the passes inside come from this seed."""
        if not self._random:
            return nullcontext()
        word = int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0]) >> 1
        if self._generator is not None:
            self._generator.manual_seed(word)
            if not self.own:
                return nullcontext()
        return seeded(word, self._device)
