"""Memory for what is written and read at once, kept from call to call.

A fresh tensor of a megabyte costs the kernel a page at a time; writing to it takes several times as
long as the arithmetic. What is handed out here holds until the next request under the same name, so
it must be used up before: nothing may keep it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

from torch import Tensor

from hessian._runtime.ledger import owe
from hessian.devices import OWN_MEMORY

# Bytes of the largest piece that is kept; a few names exist for each thread.
MOST = 2**22
# The same as a share of the working set that the user allows.
SHARE = 64


class _Kept(threading.local):
    def __init__(self) -> None:
        self.held: dict[tuple[object, ...], Tensor] = {}


_KEPT = _Kept()
_limit = MOST


def keep_within(memory: int) -> None:
    """Keep little where little memory is allowed, until what is owed is settled."""
    global _limit
    before = _limit
    owe(lambda: _allow(before))
    _limit = min(MOST, memory // SHARE)
    for key, buffer in list(_KEPT.held.items()):
        if buffer.numel() * buffer.element_size() > _limit:
            del _KEPT.held[key]


def _allow(limit: int) -> None:
    global _limit
    _limit = limit


def scratch(name: str, dims: Sequence[int], like: Tensor) -> Tensor:
    """An uninitialised tensor in the dtype and on the device of `like`."""
    size = math.prod(dims)
    if like.device.type not in OWN_MEMORY or size * like.element_size() > _limit:
        return like.new_empty(tuple(dims))
    key = (name, like.dtype)
    buffer = _KEPT.held.get(key)
    if buffer is None or buffer.numel() < size:
        buffer = _KEPT.held[key] = like.new_empty(size)
    return buffer[:size].view(*dims)
