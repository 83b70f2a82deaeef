"""What is refused before a run begins: a pace, a device, or batches that a network cannot take."""

import os
from pathlib import Path

import torch
from torch import nn

from hessian import devices, torch_private
from sim import _arguments
from sim.data import Dataset
from sim.data._load import check_files
from sim.models._build import check as check_model
from sim.training.config.train_config import TrainConfig
from sim.training.engine.network import Network
from sim.training.engine.world import World
from sim.training.record import store


def check_pace(seconds: float, steps: int | None) -> None:
    """Refuse what is no pace of checkpoints."""
    _arguments.number("checkpoint_seconds", seconds, 0.0)
    if steps is not None:
        _arguments.integer("checkpoint_steps", steps, 1)


def check_device(name: str) -> None:
    """Put a number on the device.

    Raises:
        ValueError: it is not there.
    """
    try:
        torch.zeros(1, device=torch.device(name)).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        known = ", ".join(devices.present())
        why = str(error).splitlines()[0].split(". ")[0]  # some go on for pages
        raise ValueError(
            f"device: {name!r} cannot be used here ({why}); this machine has: {known}"
        ) from None


def check_numbers(config: TrainConfig) -> None:
    """Refuse numbers that the device, which is there, does not have.

    Raises:
        ValueError: no float64, or no autocast to bfloat16.
    """
    device = torch.device(config.device)
    if config.dtype == "float64" and not devices.has_float64(device):
        raise ValueError(
            f"dtype: got 'float64', which {config.device!r} does not have; give dtype='float32' or "
            "device='cpu'"
        )
    if config.precision != "full" and not torch.amp.is_autocast_available(device.type):
        raise ValueError(
            f"precision: got {config.precision!r}, but torch has no autocast for "
            f"{config.device!r}; give precision='full'"
        )


def check_machine(
    configs: list[TrainConfig], out: Path | None, root: str | os.PathLike[str] | None
) -> None:
    """Refuse what no run could begin with; what some cannot do will be in their rows."""
    if out is not None:
        configs = [c for c in configs if not (out / c.hash / "run.json").is_file()]
        store.make(out)
    errors = []
    for device, dataset in dict.fromkeys((config.device, config.dataset) for config in configs):
        try:
            check_device(device)
            check_files(dataset, root)
        except (ValueError, OSError) as error:
            errors.append(error)
        else:
            return
    if errors:
        raise errors[0]


def check_inputs(config: TrainConfig, data: Dataset) -> None:
    """Refuse inputs that cannot be augmented as the configuration says, or that the model lacks.

    Raises:
        ValueError: of this shape.
    """
    if config.augment is not None:
        config.augment.check(data.shape, config.dataset)
    try:
        check_model(config.model, data.shape, config.model_options)
    except ValueError as error:
        raise ValueError(
            f"model: {config.model!r} cannot take the inputs of {config.dataset}; {error}"
        ) from None


def check_parts(config: TrainConfig, model: nn.Module, counts: list[int], world: World) -> None:
    """Refuse what a batch in parts cannot be."""
    smallest, largest = min(counts), max(counts)
    if smallest < world.size:
        raise ValueError(
            f"batch_size: a batch of {smallest} cannot be shared by {world.size} processes; "
            "give a larger batch size, or drop_last for the remainder of a pass"
        )
    norms = _norms(model)
    parts = world.size > 1 or (config.micro_batch is not None and config.micro_batch < largest)
    if norms and parts and config.batch_norm is None:
        raise ValueError(
            f"batch_norm: batches of {largest} go through {norms[0]!r} in parts (micro_batch or "
            "several processes), so that what it computes has to be chosen: give 'ghost' to "
            "normalise each part by itself, or 'synchronised' for the whole batch"
        )
    if norms and parts and config.batch_norm == "synchronised" and config.optimizer == "cblr":
        raise ValueError(
            "batch_norm: cblr cannot take the curvature of a batch in parts through synchronised "
            "batch norm; leave micro_batch out, use one process, or give 'ghost'"
        )


def _norms(model: nn.Module) -> list[str]:
    """The names of the batch norms."""
    kind = torch_private.BatchNorm
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


def check_single_samples(
    config: TrainConfig, network: Network, data: Dataset, counts: list[int], world: World
) -> None:
    """Refuse a sample that goes alone through a batch norm which is left with one number of it."""
    shares = {share for n in set(counts) for share in (n // world.size, -(-n // world.size))}
    size = config.micro_batch or max(shares)
    if config.batch_norm == "synchronised":
        shares, size = set(counts), max(counts)
    if not _norms(network.model) or not {1} & {n for s in shares for n in (s % size, min(s, size))}:
        return
    try:
        with torch.no_grad(), network.buffers_kept(), network.masks(0):
            network.model(data.inputs[:1])
    except ValueError:
        raise ValueError(
            "batch_size: a batch, or a part of one, is a single sample, and batch norm has one "
            "number of it to normalise; give drop_last=True, or another batch_size or micro_batch"
        ) from None
