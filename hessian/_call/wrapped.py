"""What a model is wrapped in: compiled, checkpointed, spread over processes.

A compiled function has no second derivative, so compiled models and losses run as they were
written, which torch calls the eager stance. A reentrant checkpoint hides what lies inside it from
the tape: its function is called plainly. Parameters that hold a shard of their values only are
refused.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn

from hessian import torch_private
from hessian._runtime.ledger import owe


def unwrap(parts: Iterable[nn.Module]) -> None:
    """All that is called runs eagerly, with all of its tape, until what is owed is settled.

    `parts` are all modules, those inside others too.
    """
    _eagerly()
    _without_checkpoints()
    _alone(parts)


def _eagerly() -> None:
    ways = torch_private.eager_stance()
    if ways is not None:
        begin, undo = ways
        owe(undo)
        begin()


# ------------------------------------------------------------------------- checkpoints


def _without_checkpoints() -> None:
    module: Any = sys.modules.get("torch.utils.checkpoint")
    function = getattr(module, "CheckpointFunction", None)
    if function is None or isinstance(vars(function).get("apply"), _Apply):
        return
    owe(partial(_inherit, function))
    function.apply = _Apply(function.apply)


def _inherit(function: Any) -> None:
    if "apply" in vars(function):
        del function.apply


class _Apply:
    """``CheckpointFunction.apply``, which in this thread calls the function and no more."""

    def __init__(self, original: Any) -> None:
        self.original, self.thread = original, threading.get_ident()

    def __call__(self, function: Any, preserve_random_state: bool, *args: Any) -> Any:
        if threading.get_ident() == self.thread:
            return function(*args)
        return self.original(function, preserve_random_state, *args)


# --------------------------------------------------------------------------- processes


def _alone(parts: Iterable[nn.Module]) -> None:
    """Nothing is averaged over processes, and the next training step finds nothing begun."""
    parallel: Any = sys.modules.get("torch.nn.parallel.distributed")
    kind = getattr(parallel, "DistributedDataParallel", None)
    if kind is None:
        return
    for part in parts:
        if not isinstance(part, kind):
            continue
        owe(partial(setattr, part, "require_backward_grad_sync", part.require_backward_grad_sync))
        part.require_backward_grad_sync = False
        if not part.device_ids and "forward" not in vars(part):
            owe(partial(vars(part).pop, "forward", None))
            vars(part)["forward"] = part.module.__call__


def refuse_shards(model: nn.Module) -> None:
    """Raise where parameters hold only a part of their values, or are views of another's.

    Raises:
        ValueError: the model is sharded.
    """
    kinds = tuple(
        kind
        for name in ("FullyShardedDataParallel", "FSDPModule")
        if (kind := getattr(sys.modules.get("torch.distributed.fsdp"), name, None)) is not None
    )
    if any(isinstance(part, kinds) for part in (model.modules() if kinds else ())):
        raise ValueError(
            "model: it is sharded over processes (FullyShardedDataParallel or fully_shard), and "
            "autograd's tape does not show its parameters; pass the unsharded model with full "
            "parameters, and group= to compute with several processes"
        )
    distributed = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    if distributed is None:
        return
    for name, p in model.named_parameters():
        if isinstance(p, distributed):
            raise ValueError(
                f"model: parameter {name!r} is a DTensor, spread over processes; pass a model with "
                "full parameters (DTensor.full_tensor), and group= to compute with several"
            )
