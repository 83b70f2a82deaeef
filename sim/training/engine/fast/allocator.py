"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch

# The largest block from whose size glibc learns; it keeps twice as much of what is freed.
BLOCK = 2**25 - 2**16
# glibc's names of two settings (malloc.h), and what they are set to here: 1 and 2 GB.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST, _KEPT = 2**30, 2**31 - 1


@lru_cache(maxsize=1)
def keep_freed() -> None:
    """Let the C library keep freed memory for the next tensors, up to 2 GB.

    Otherwise glibc gives it back whenever some of it lies at the end of the heap, and takes what
    is larger than 32 MB from the system every time anew: the same pages are found and cleared
    again and again. That is up to a fifth of the time of training a small network, and a third for
    ResNet-18 of an eighth of its width on batches of 1,024 images. An older glibc has the limit of
    32 MB built in; it learns from the largest block that it has seen freed, so one is shown to it,
    which nothing is written to and which takes no memory. Another C library does what it did.
    """
    torch.empty(BLOCK, dtype=torch.uint8, device="cpu")
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    set_option(_MMAP_THRESHOLD, _LARGEST)
    set_option(_TRIM_THRESHOLD, _KEPT)
