"""Parameters laid out so that work on every entry of a network takes few operations.

Small tensors lie in one piece of memory and are one flat parameter; a large one is one by itself,
for joining its gradient to the others' would be a pass over memory. An optimizer that works entry
by entry takes the flat ones for its parameters, and the measurements go through them piece by
piece.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hessian import torch_private

# Tensors that are joined begin at multiples of this, and sums over so many entries are rounded as
# the entries are, everything beyond in float64.
ROW = 256
# Entries from which on a tensor stays alone.
LARGE = 2**15
# Entries that stay in a core's cache from one operation to the next.
PIECE = 2**16


class FlatParameter:
    """Some parameters as one.

    Attributes:
        members: their numbers.
        leaf: what an optimizer takes: `[entries]`, member by member, or the large parameter itself.
        rows: how many rows of `ROW` entries each lane of each member fills, the last in part.
        gradients: of the members where they are joined, in the members' shapes, not copies.
    """

    def __init__(
        self, members: list[int], parameters: Sequence[Tensor], lanes: int, join: bool = True
    ) -> None:
        self.members, self.lanes = members, lanes
        self._parameters = [parameters[k] for k in members]
        sizes = [p.numel() // lanes for p in self._parameters]
        self.rows = [-(-size // ROW) for size in sizes]
        first = self._parameters[0]
        self.joined = join and (lanes > 1 or first.numel() < LARGE)
        if not self.joined:
            self.leaf = first
            # The axes in the order in which the entries lie in memory.
            self._axes = sorted(range(first.dim()), key=first.stride, reverse=True)
            if not _is_dense(first, self._axes):
                first.data = first.detach().clone(memory_format=torch.contiguous_format)
                self._axes = list(range(first.dim()))
            return
        self._axes = [0]
        flat = first.detach().new_zeros(lanes * ROW * sum(self.rows))
        gradient = torch.zeros_like(flat)
        self.gradients: list[Tensor] = []
        start = 0
        for parameter, size, rows in zip(self._parameters, sizes, self.rows, strict=True):
            part = slice(start, start + lanes * ROW * rows)
            # All lanes of one tensor lie together: as whole rows, most of them without a gap.
            place, gradients = (
                _shaped(whole[part].view(lanes, -1)[:, :size], parameter, lanes)
                for whole in (flat, gradient)
            )
            place.copy_(parameter.detach())
            parameter.data = place
            self.gradients.append(gradients)
            start = part.stop
        self.leaf = nn.Parameter(flat)
        self.leaf.grad = gradient
        # The pieces of this gradient, which stays where it is.
        self._cut_of: Tensor | None = None
        self._cut: Sequence[Tensor] = ()

    def join(self) -> None:
        """Bring the members' gradients together in the leaf's."""
        if self.joined:
            apart = [
                (place, torch.zeros_like(p) if p.grad is None else p.grad)
                for place, p in zip(self.gradients, self._parameters, strict=True)
                if p.grad is not place
            ]
            if apart:
                places, gradients = zip(*apart, strict=True)
                torch_private.foreach_copy_(places, gradients)

    def dense(self, tensor: Tensor) -> Tensor:
        """All entries of a tensor like the leaf, in the leaf's order in memory, `[entries]`."""
        return tensor.permute(self._axes).reshape(-1)

    @property
    def weight(self) -> Tensor:
        """The weights, `[entries]`, not a copy."""
        return self.dense(self.leaf.detach())

    def gradient(self, size: int) -> Sequence[Tensor]:
        """The gradients after `join`, `[entries]`, in pieces of a size."""
        gradient = self.leaf.grad
        if not self.joined:
            whole = torch.zeros_like(self.weight) if gradient is None else self.dense(gradient)
            return torch.split(whole, size)
        if gradient is not self._cut_of:
            assert gradient is not None
            self._cut_of, self._cut = gradient, torch.split(self.dense(gradient), size)
        return self._cut


def flat_parameters(
    parameters: Sequence[Tensor], lanes: int, *, join: bool = True
) -> list[FlatParameter]:
    """All parameters as flat ones; their memory is moved where they are joined.

    Without `join` each is one by itself, and stays where it is: an optimizer can leave out those
    that have no gradient, and other tensors may share their memory.

    >>> small, large = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(256, 256))
    >>> [flat.members for flat in flat_parameters([small, large, nn.Parameter(torch.ones(2))], 1)]
    [[0, 2], [1]]
    """
    small = [k for k, p in enumerate(parameters) if join and (lanes > 1 or p.numel() < LARGE)]
    large = [k for k in range(len(parameters)) if k not in small]
    groups = ([small] if small else []) + [[k] for k in large]
    return [FlatParameter(members, parameters, lanes, join) for members in groups]


def _is_dense(tensor: Tensor, axes: Sequence[int]) -> bool:
    """Whether a tensor's entries lie side by side in memory, its axes being taken in that order."""
    return tensor.permute(list(axes)).is_contiguous()


def _shaped(flat: Tensor, like: Tensor, lanes: int) -> Tensor:
    """`[lanes, size]` in the shape and the memory format of a parameter."""
    if lanes > 1:
        return flat.view(lanes, *like.shape[1:])
    if like.dim() == 4 and not like.is_contiguous():
        n, c, h, w = like.shape
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)
    return flat.view(like.shape)
