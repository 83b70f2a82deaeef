"""What the C library does with memory that is freed."""

from __future__ import annotations

from functools import lru_cache

import torch

# The largest block from whose size glibc learns; it keeps twice as much of what is freed.
BLOCK = 2**25 - 2**16


@lru_cache(maxsize=1)
def keep_freed() -> None:
    """Let the C library keep up to 64 MB of freed memory for the next tensors.

    Otherwise glibc gives it back whenever some of it lies at the end of the heap, and the system
    has to find and clear the same pages again: up to a fifth of the time of training a small
    network. It learns from the largest block that it has seen freed, so one is shown to it, which
    nothing is written to and which takes no memory. Another C library does what it did before.
    """
    torch.empty(BLOCK, dtype=torch.uint8, device="cpu")
