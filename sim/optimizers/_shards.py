"""Parameters that are spread over processes (`DTensor`, as `fully_shard` makes them).

A rule works on each process's own part. What is a sum over the entries is summed over the processes
in one message; a median needs all entries, and takes them from everywhere.
"""

import sys
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Tensors that no process shares, told at once: every step asks of every parameter.
PLAIN = {nn.Parameter, Tensor}


def spread_out(tensors: Iterable[Tensor]) -> bool:
    """Whether any of them is a `DTensor`.

    >>> spread_out(nn.Linear(1, 1).parameters())
    False
    """
    kinds = list(tensors)
    return not PLAIN.issuperset(map(type, kinds)) and any(map(sharded, kinds))


def sharded(tensor: Tensor) -> bool:
    """Whether it is a `DTensor`, told without an import that takes a second.

    >>> sharded(nn.Linear(1, 1).weight)
    False
    """
    module: Any = sys.modules.get("torch.distributed.tensor")  # is there where such a tensor is
    return type(tensor) not in PLAIN and module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Any) -> Tensor:
    """This process's part, the same memory; of another tensor the tensor itself."""
    if not sharded(tensor):
        return tensor  # type: ignore[no-any-return]
    with torch.no_grad():
        return tensor.to_local()  # type: ignore[no-any-return]


def like(value: Any, parameter: Any) -> Tensor:
    """This process's part of a value that belongs to a parameter, cut as the parameter is."""
    if not sharded(parameter):
        whole: Tensor = value.full_tensor() if sharded(value) else value
        return whole
    if not sharded(value):
        value = spread(value, parameter)
    elif value.placements != parameter.placements or value.device_mesh != parameter.device_mesh:
        value = value.redistribute(parameter.device_mesh, parameter.placements)
    return local(value)


def spread(value: Tensor, parameter: Any) -> Any:
    """A value that every process holds whole, cut as the parameter is."""
    from torch.distributed.tensor import Replicate

    mesh = parameter.device_mesh
    whole = wrapped(value, parameter, [Replicate()] * mesh.ndim)
    return whole.redistribute(mesh, parameter.placements)


def wrapped(part: Tensor, parameter: Any, placements: Any = None) -> Any:
    """A `DTensor` of this process's part, cut as the parameter is; without one, the part."""
    if not sharded(parameter):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part,
        parameter.device_mesh,
        placements or parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def whole(part: Tensor, parameter: Any) -> Tensor:
    """All entries, of which this process has its part."""
    entries: Tensor = wrapped(part, parameter).full_tensor() if sharded(parameter) else part
    return entries


def reduced(values: Tensor, parameters: list[Tensor]) -> Tensor:
    """One number for each parameter, summed over the processes that have parts of it.

    Every process must call it with the same parameters, whatever part of them it has.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, parameter in enumerate(parameters):
        if sharded(parameter):
            spread_over: Any = parameter
            placements = enumerate(spread_over.placements)
            cut = tuple(axis for axis, placement in placements if placement.is_shard())
            groups.setdefault((spread_over.device_mesh, cut), []).append(index)
    values = values.clone() if groups else values
    for (mesh, cut), indices in groups.items():
        part = values[indices]
        for axis in cut:
            dist.all_reduce(part, group=mesh.get_group(axis))
        values[indices] = part
    return values
