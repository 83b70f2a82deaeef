"""What a device is like: the one place of this code that asks for its kind.

The sets hold kinds of devices (`torch.device.type`) by what is true of them; where a kind is not
known, it is in none of them, and the way is taken that is right everywhere. What a device must be
asked for (its memory, its random state, float64) is asked through torch's module of its kind, such
as `torch.cuda` or `torch.xpu`, as far as that has an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from hessian import torch_private

# Calls of small operations cost little, and what leaves a cache costs much: work goes in parts that
# fit one. Elsewhere a call costs the same for few numbers as for many.
SMALL_CALLS = frozenset({"cpu"})
# The same operations add in the same order, and so give the same bits.
SAME_ORDER = frozenset({"cpu"})
# A result is there when the call returns; elsewhere to look at one is to wait for all before it.
NO_QUEUE = frozenset({"cpu"})
# Memory that NumPy reads, and that threads of this process share the work on.
OWN_MEMORY = frozenset({"cpu"})
# Where oneDNN and the measurements of this code's constants hold.
MEASURED = frozenset({"cpu"})
# Copies from page-locked memory need not be waited for.
PAGE_LOCKED = frozenset({"cuda"})
# Triton compiles kernels, and events tell their time.
TRITON = frozenset({"cuda"})
# Of `torch.distributed`: the kinds that a backend's messages reach; the first is where others go.
REACHED = {"nccl": ("cuda",), "xccl": ("xpu",), "gloo": ("cpu", "cuda"), "mpi": ("cpu",)}
BACKENDS = {"cuda": "nccl", "xpu": "xccl"}


def _built() -> tuple[str, ...]:
    """The kinds that this build of torch has, the CPU first."""
    here = {
        "cuda": torch.backends.cuda.is_built(),
        "mps": torch.backends.mps.is_built(),
        "xpu": bool(torch_private.xpu_is_built()),
    }
    return ("cpu", *(kind for kind, is_built in here.items() if is_built))


# Where a thread may be under autocast.
AUTOCAST = tuple(kind for kind in _built() if torch.amp.is_autocast_available(kind))


@contextmanager
def _autocast_off() -> Iterator[None]:
    with ExitStack() as stack:
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


# A context in which nothing is cast, whatever kind of device is under autocast.
no_autocast: Callable[[], AbstractContextManager[Any]] = (
    torch_private.DisableAutocast or _autocast_off
)


def module(device: torch.device) -> Any:
    """torch's module of a kind of device; `None` where there is none."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)


def random_state(device: torch.device) -> Callable[[], object]:
    """What puts the random state of a device back as it is now.

    >>> restore = random_state(torch.device("cpu"))
    >>> first = torch.rand((), device="cpu")
    >>> restore()
    >>> bool(first == torch.rand((), device="cpu"))
    True
    """
    if device.type == "cpu":
        return partial(torch.set_rng_state, torch.get_rng_state())
    owner = module(device)
    if not hasattr(owner, "get_rng_state"):  # it draws nothing, as `meta`
        return lambda: None
    if device.type == "mps":  # there is one, and it is not named
        return partial(owner.set_rng_state, owner.get_rng_state())
    return partial(owner.set_rng_state, owner.get_rng_state(device), device)


def seed(device: torch.device, word: int) -> None:
    """Seed a device's random state, and no other's.

    >>> before = torch.get_rng_state()
    >>> seed(torch.device("cpu"), 0)
    >>> torch.set_rng_state(before)
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(word)
        return
    owner = module(device)
    if not hasattr(owner, "manual_seed"):
        return
    with owner.device(device) if hasattr(owner, "device") else nullcontext():
        owner.manual_seed(word)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; `None` where it is the system's or nobody knows.

    What torch keeps of freed tensors for the next ones is free, too.

    >>> free_memory(torch.device("cpu")) is None
    True
    """
    owner = module(device)
    if hasattr(owner, "mem_get_info"):
        free = int(owner.mem_get_info(device)[0])
        if hasattr(owner, "memory_reserved"):
            free += int(owner.memory_reserved(device)) - int(owner.memory_allocated(device))
        return free
    if hasattr(owner, "recommended_max_memory"):  # mps
        return max(0, int(owner.recommended_max_memory()) - int(owner.current_allocated_memory()))
    return None


def synchronize(device: torch.device) -> None:
    """Wait for all that a device has been asked for."""
    owner = module(device)
    if not hasattr(owner, "synchronize"):
        return
    if device.type == "mps":
        owner.synchronize()
    else:
        owner.synchronize(device)


@lru_cache(maxsize=64)
def has_float64(device: torch.device) -> bool:
    """Whether numbers of 64 bits can be on a device: Apple's and some of Intel's have none.

    >>> has_float64(torch.device("cpu"))
    True
    """
    if device.type == "cpu":
        return True
    try:
        torch.ones((), dtype=torch.float64, device=device).square()
    except (TypeError, RuntimeError):
        return False
    return True


def check_float64(argument: str, places: Iterable[torch.device], purpose: str) -> None:
    """Refuse a device without float64 where it is needed.

    Raises:
        ValueError: one of them has none.

    >>> check_float64("model", [torch.device("cpu")], "sums are kept")
    """
    for device in places:
        if device.type != "cpu" and not has_float64(device):
            raise ValueError(
                f"{argument}: {device} has no float64, in which {purpose}; "
                "move the model and the data to the CPU, e.g. model.cpu()"
            )


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 where a device has none."""
    return torch.float64 if has_float64(device) else torch.float32


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, which is not waited for where that can be."""
    if device.type in PAGE_LOCKED:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A block in which nothing is autocast on a device, whatever is around it."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def reached(backend: str, tensor: Tensor) -> Tensor:
    """A tensor, or a copy of it where a backend's messages reach it.

    >>> reached("gloo", torch.ones(1, device="cpu")).device
    device(type='cpu')
    """
    kinds = REACHED.get(backend, (tensor.device.type,))
    return tensor if tensor.device.type in kinds else tensor.to(kinds[0])


def name(device: torch.device) -> str | None:
    """What the maker calls it; `None` for a CPU, or where nobody knows.

    >>> name(torch.device("cpu")) is None
    True
    """
    owner = module(device)
    return str(owner.get_device_name(device)) if hasattr(owner, "get_device_name") else None


def present() -> list[str]:
    """The devices of this machine, as `torch.device` takes them, the CPU first.

    >>> present()[0]
    'cpu'
    """
    names = ["cpu"]
    for kind in _built()[1:]:
        owner = getattr(torch, kind)
        if kind == "mps":
            names += ["mps"] if torch.backends.mps.is_available() else []
        else:
            names += [f"{kind}:{k}" for k in range(owner.device_count())]
    return names


def milliseconds(device: torch.device, run: Callable[[], object], times: int) -> float:
    """How long a device takes for so many runs, by its own clock; one of `TRITON`."""
    owner = module(device)
    start, end = (owner.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
