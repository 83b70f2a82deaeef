"""Parameters that a call of the model or the loss writes to, such as a momentum encoder's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hessian._runtime.ledger import owe, settled

_ASSIGNMENTS = frozenset(
    f"__{name}__"
    for name in (
        "setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior",
        "ixor", "ilshift", "irshift",
    )
)  # fmt: skip
# Names that end like those of functions that write, but change no value.
_HARMLESS = frozenset(("requires_grad_", "detach_", "share_memory_", "rename_", "_coalesced_"))


def writes(func: Callable[..., Any]) -> bool:
    """Whether a torch function is one that writes to its first argument, by torch's own naming."""
    name = str(getattr(func, "__name__", "")).split(".")[0]
    if name.endswith("__"):
        return name in _ASSIGNMENTS
    return name.endswith("_") and name not in _HARMLESS


class Written:
    """Parameters as they were before a call first wrote to them."""

    def __init__(
        self,
        parameters: Iterable[Tensor] = (),
        attributes: Iterable[tuple[nn.Module, str, Tensor]] = (),
    ) -> None:
        """`attributes` are tensors beside parameters and buffers, as the old weight norm's are."""
        self._parameters, self._attributes = list(parameters), list(attributes)
        self._before: list[tuple[Tensor, Tensor | None]] = []
        self._owners: dict[int, list[Tensor]] | None = None
        # The parameter, what it held (by another name), and a copy of the values.
        self._notes: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._gradients: list[tuple[Tensor, Tensor | None]] = []
        self._moved: list[Tensor] = []  # parameters that were given other memory
        self._begun = False

    def begin(self) -> None:
        """Note gradients as they are, unless that was done."""
        if self._begun:
            return
        self._begun = True
        self._before = [(p, p.grad) for p in self._parameters]

    def before(self, tensors: Any) -> None:
        """Note the parameters that share their memory with tensors about to be written to."""
        if isinstance(tensors, Tensor):
            tensors = (tensors,)
        if not isinstance(tensors, tuple | list):
            return
        if self._owners is None:
            self._owners = {}
            for p in self._parameters:
                self._own(p)
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                continue
            if isinstance(tensor, nn.Parameter):
                self._note(tensor)
            for owner in self._owners.get(_memory(tensor), ()):
                self._note(owner)

    def beside(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The same for ``out=`` and ``inplace=True``."""
        self.before(kwargs.get("out"))
        if kwargs.get("inplace") is True and args:
            self.before(args[0])

    def moved(self, tensor: Tensor, data: Tensor) -> None:
        """A parameter is about to be given other memory."""
        self.before(tensor)
        if id(tensor) in self._notes and self._owners is not None:
            self._moved.append(tensor)
            self._owners.setdefault(_memory(data), []).append(tensor)

    def gradients(self) -> None:
        """Gradients are about to be added to what parameters hold in ``.grad``."""
        if self._gradients:
            return
        for p in self._parameters:
            self._gradients.append((p, p.grad))
            if p.grad is not None:
                p.grad = p.grad.clone()

    def alias(self, tensor: Tensor) -> None:
        """A parameter's values are about to be known by another name."""
        if isinstance(tensor, nn.Parameter) and self._owners is not None:
            self._own(tensor)

    def __bool__(self) -> bool:
        """Whether parameters have been written to since they were last put back."""
        return bool(self._notes)

    def restore(self) -> None:
        """Put back what was written, without marking it as modified."""
        for p, data, value in self._notes.values():
            data.copy_(value)
            if any(p is moved for moved in self._moved):
                p.data = data
        for p, gradient in self._gradients:
            p.grad = gradient
        self._notes.clear()
        self._gradients.clear()
        self._moved, self._owners = [], None

    def end(self) -> None:
        """The same at the end of all calls; and attributes hold no tensor of a tape of ours."""
        self.restore()
        for p, gradient in self._before:
            if p.grad is not gradient:
                p.grad = gradient
        for part, name, value in self._attributes:
            if vars(part).get(name) is not value:
                setattr(part, name, value)

    def _own(self, p: Tensor) -> None:
        assert self._owners is not None
        memory = _memory(p)
        if not memory:  # a stand-in of many, in a vectorised call
            return
        owners = self._owners.setdefault(memory, [])
        if not any(p is owner for owner in owners):
            owners.append(p)

    def _note(self, p: Tensor) -> None:
        if id(p) not in self._notes:
            data = p.data
            self._notes[id(p)] = (p, data, data.clone())


def _memory(tensor: Tensor) -> int:
    """The address of a tensor's memory, shared by all its views; 0 where it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def will_be_put_back(written: Written) -> None:
    """What calls write to parameters is restored when what is owed is settled."""
    written.begin()
    owe(written.end)


@contextmanager
def put_back(written: Written) -> Iterator[None]:
    """The same inside a block."""
    with settled():
        will_be_put_back(written)
        yield
