"""torch's own operations whose second derivative is wrong, where they stand on a tape as they are.

What a model calls from Python is replaced by equal expressions while it runs
(`hessian._call.replacements`, `hessian._call.operators`). TorchScript calls past Python, where
nothing can be replaced: its operations are known by their nodes alone, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from hessian import torch_private
from hessian._tape.graph import Node, bare, metadata, operation


def refuse_unfaithful(nodes: Iterable[Node]) -> None:
    """Raise where torch's second derivative of a node is known to be wrong.

    Raises:
        NotImplementedError: there is such a node.
    """
    for node in nodes:
        # Without torch's list of its nodes every one is taken for a user's.
        known = torch_private.NODES is not None
        reason = _REASONS.get(operation(node) if known else bare(type(node)))
        if reason is not None and reason[0](node):
            raise NotImplementedError(
                f"model or loss: {reason[1]}, and TorchScript calls it past Python, where nothing "
                f"can take its place; {reason[2]}, or pass names= without the parameters below it"
            )


def _always(node: Node) -> bool:
    return True


def _overwrites(node: Node) -> bool:
    """Whether what is overwritten has a gradient, which is not set to zero."""
    return node.next_functions[0][0] is not None


def _not_contiguous(node: Node) -> bool:
    """Whether a group norm reads its input with the channels last."""
    images = getattr(node, "_saved_input", None)
    return isinstance(images, Tensor) and not images.is_contiguous()


def _reduced(node: Node) -> bool:
    """Whether values are rounded to fewer bits than float32 has."""
    return any(
        output.dtype.is_floating_point and torch.finfo(output.dtype).bits < 32
        for output in metadata(node)
    )


# By the node's operation: whether this one is, what is wrong, and what to do instead.
_REASONS: dict[str, tuple[Callable[[Node], bool], str, str]] = {
    "WeightNormInterface": (
        _always,
        "torch's second derivative of weight normalisation leaves out the norm's own derivative",
        "pass the module that was scripted",
    ),
    "AsStridedScatter": (
        _overwrites,
        "torch's gradient of as_strided_scatter is wrong for what is overwritten",
        "use slice_scatter or index_put",
    ),
    "NativeGroupNorm": (
        _not_contiguous,
        "torch's second derivative of a group norm is wrong where the channels come last",
        "give it a contiguous input",
    ),
    "ToCopy": (
        _reduced,
        "values are rounded to half precision",
        "pass the module that was scripted, or compute in float32",
    ),
}
