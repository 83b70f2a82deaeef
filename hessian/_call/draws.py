"""Random draws of a whole batch, made again for some of its samples.

A batch that is taken in parts must meet the random numbers that it would meet as a whole: dropout
is one draw. While the model runs on the whole batch the shapes of its draws are noted; while it
runs on a part, every draw is made in the whole's shape, from the same random state, and cut to the
part's samples. Only one draw at a time is held.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hessian import torch_private


class NotInParts(Exception):
    """The batch cannot be taken in parts; the message says why."""


# Name, shape and strides: numbers are drawn in the order of memory.
Draw = tuple[str, tuple[int, ...], tuple[int, ...]]
_LIKE = ("rand_like", "randn_like")
_SIZED = ("rand", "randn")
_IN_PLACE = (
    "bernoulli_",
    "uniform_",
    "normal_",
    "exponential_",
    "random_",
    "cauchy_",
    "geometric_",
)


class Draws(torch_private.DispatchMode):
    """Notes random draws, or repeats noted ones for the samples in `part` of `n`."""

    def __init__(
        self, noted: list[Draw] | None = None, part: slice | None = None, n: int = 0
    ) -> None:
        super().__init__()
        self.noted: list[Draw] = [] if noted is None else noted
        self.part, self.n, self.count = part, n, 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if self.part is None:
            result = func(*args, **kwargs)
            first = _first(result)
            self.noted.append((name, tuple(first.shape), first.stride()))
            return result
        if self.count >= len(self.noted) or self.noted[self.count][0] != name:
            raise NotInParts("a part draws other random numbers than the whole")
        _, whole, strides = self.noted[self.count]
        self.count += 1
        return self._again(func, name, whole, strides, args, kwargs)

    def _again(
        self,
        func: Any,
        name: str,
        whole: tuple[int, ...],
        strides: tuple[int, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if name in _SIZED:
            drawn = func(list(whole), *args[1:], **kwargs)
            return self._cut(drawn, tuple(args[0]))
        source = args[0] if args and isinstance(args[0], Tensor) else None
        if source is not None and tuple(source.shape) == whole:
            return func(*args, **kwargs)  # no sample has a share of its own
        if source is not None and name in _LIKE:
            drawn = func(source.new_empty_strided(whole, strides), *args[1:], **kwargs)
            return self._cut(drawn, tuple(source.shape))
        if source is not None and name in _IN_PLACE and not any(
            isinstance(a, Tensor) for a in (*args[1:], *kwargs.values())
        ):  # fmt: skip
            drawn = func(source.new_empty_strided(whole, strides), *args[1:], **kwargs)
            return source.copy_(self._cut(drawn, tuple(source.shape)))
        if source is not None and name == "native_dropout":
            _, mask = func(source.new_empty_strided(whole, strides).fill_(1.0), *args[1:], **kwargs)
            mask = self._cut(mask, tuple(source.shape))
            return source * mask / (1.0 - float(args[1])), mask
        raise NotInParts(f"random numbers drawn by {name} cannot be made again for a part")

    def _cut(self, drawn: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The part's rows along the one axis that differs; the outputs tell whether it is right."""
        assert self.part is not None
        whole, count = tuple(drawn.shape), self.part.stop - self.part.start
        if whole == shape:
            return drawn
        if len(whole) == len(shape):
            axes = [a for a, (w, s) in enumerate(zip(whole, shape, strict=True)) if w != s]
            if len(axes) == 1 and whole[axes[0]] * count == shape[axes[0]] * self.n:
                each = whole[axes[0]] // self.n
                return drawn.narrow(axes[0], self.part.start * each, count * each).clone()
        raise NotInParts(f"random numbers of shape {whole} hold no rows of single samples")


def _first(result: Any) -> Tensor:
    first = result[0] if isinstance(result, tuple | list) else result
    assert isinstance(first, Tensor)
    return first
