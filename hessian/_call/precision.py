"""One precision for all of a computation, whatever the user's code asks for on its way.

A network in half precision, or in several (a float32 adapter on a bfloat16 base, logits turned to
float32, autocast inside ``forward``), stands for a function of real numbers that its arithmetic
rounds. That function is differentiated, in the highest precision that occurs and in float32 at
least: the tensors of the modules hold converted values meanwhile, and what the user's code makes
or converts in another floating dtype comes out in that one. Nothing on the tape changes its dtype
then, and nothing is rounded on the way but by that precision.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hessian import devices, torch_private
from hessian._runtime.ledger import Among, owe, set_aside, settled

Call = Callable[..., Any]

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
_REAL = {torch.complex32: torch.float16, torch.complex64: torch.float32,
         torch.complex128: torch.float64}  # fmt: skip
_PROPERTIES = frozenset({"__get__", "__set__", "__delete__"})
_REAL_TYPES = frozenset({"half", "bfloat16", "float", "double"})
_COMPLEX_TYPES = frozenset({"chalf", "cfloat", "cdouble"})
_IN_PLACE = frozenset({"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__",
                       "__idiv__", "__ifloordiv__", "__imod__", "__ipow__"})  # fmt: skip
# Their numbers depend on the dtype they are drawn in.
_DRAWN = frozenset({"normal_", "uniform_", "exponential_", "cauchy_", "log_normal_", "geometric_"})
_DRAWN_LIKE = frozenset({"rand_like", "randn_like"})
_DRAWN_NEW = frozenset({"rand", "randn"})


class Mixed(BaseException):
    """The tape would hold several precisions. Not an Exception, so that no user code catches it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(f"the model or the loss computes in several precisions, up to {dtype}")
        self.dtype = dtype


class Precision:
    """The dtype of a computation, and the one that random numbers are drawn in."""

    def __init__(self, dtype: torch.dtype, drawn: torch.dtype, asked: bool) -> None:
        self.dtype, self.drawn, self.asked = dtype, drawn, asked
        self.everywhere = False  # whether code is held to it outside of `held` too
        self.complex = _COMPLEX[dtype]
        # Stand-ins of tensors in another dtype that must stay one and the same, by id.
        self.twins: dict[int, tuple[Tensor, Tensor]] = {}

    def call(self, func: Call, run: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What `run` makes of the arguments of `func`, both in this precision."""
        name = getattr(func, "__name__", "")
        if name in _PROPERTIES:
            if self.twins or (name == "__set__" and self._foreign(args[-1])):
                args = tuple(self._twin(a) if isinstance(a, Tensor) else a for a in args[:1]) + (
                    tuple(self.cast(a) for a in args[1:])
                )
            return run(*args, **kwargs)
        if name in _REAL_TYPES or name in _COMPLEX_TYPES:
            value = self.cast(args[0])
            wide = [torch.float64] if name.endswith("double") else []
            if self._wider(wide) and value.requires_grad:
                raise Mixed(torch.float64)
            return value.to(self.dtype if name in _REAL_TYPES else self.complex, **kwargs)
        if name == "type" and _is_real_type(args):
            return self.cast(args[0]).to(self.dtype)
        if name == "view" and len(args) == 2 and isinstance(args[1], torch.dtype):
            return self._reinterpreted(args[0], args[1])
        if name == "to" and (eighth := _eighth((*args[1:], *kwargs.values()))):
            value = self.cast(args[0])
            return value + (value.detach().to(eighth).to(self.dtype) - value.detach())
        if self.drawn != self.dtype and self._random(name, args, kwargs):
            return self._draw(name, run, args, kwargs)
        if (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE:
            args = (self._written(args[0]), *args[1:])
        if kwargs.get("out") is not None:
            kwargs = {**kwargs, "out": self._written(kwargs["out"])}
        wider = self._wider((*args, *kwargs.values()))
        result = run(*map(self.cast, args), **{k: self.cast(v) for k, v in kwargs.items()})
        if wider and isinstance(result, Tensor) and result.requires_grad:
            raise Mixed(torch.float64)
        return self._result(result)

    def cast(self, value: Any) -> Any:
        """Tensors and dtypes of a nest of lists in this precision; all else as it is."""
        if isinstance(value, Tensor):
            if not self._foreign(value):
                return value
            if id(value) in self.twins:
                return self.twins[id(value)][1]
            if value.requires_grad:
                return self._twin(value)
            return value.to(self._of(value.dtype))
        if isinstance(value, torch.dtype):
            return self._of(value)
        if isinstance(value, list | tuple) and value:
            cast = [self.cast(v) for v in value]
            if all(a is b for a, b in zip(cast, value, strict=True)):
                return value
            return type(value)(cast) if type(value) in (list, tuple) else tuple(cast)
        if isinstance(value, dict) and value:
            return {k: self.cast(v) for k, v in value.items()}
        return value

    def _of(self, dtype: torch.dtype) -> torch.dtype:
        if dtype.is_floating_point:
            return self.dtype
        return self.complex if dtype.is_complex else dtype

    def _foreign(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dtype is not self._of(value.dtype)

    def _wider(self, values: Iterable[Any]) -> bool:
        """Whether more precision is asked for than there is."""
        return (
            not self.asked
            and self.dtype is not torch.float64
            and any(v is torch.float64 or v is torch.complex128 for v in values)
        )

    def _twin(self, value: Tensor) -> Tensor:
        """The tensor's stand-in, the same at every use."""
        if not self._foreign(value):
            return value
        if id(value) not in self.twins:
            self.twins[id(value)] = value, value.to(self._of(value.dtype))
        return self.twins[id(value)][1]

    def _written(self, value: Any) -> Any:
        """What is written to: a stand-in keeps it, and the tensor itself stays as it was."""
        if isinstance(value, list | tuple):
            return type(value)(self._written(v) for v in value)
        return self._twin(value) if isinstance(value, Tensor) else value

    def _result(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(self._of(value.dtype)) if self._foreign(value) else value
        if isinstance(value, list | tuple) and any(map(self._foreign, value)):
            parts = [self._result(v) for v in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return value

    def _reinterpreted(self, value: Any, dtype: torch.dtype) -> Any:
        if self._foreign(value) or not (value.is_floating_point() or value.is_complex()):
            return self._result(value.view(dtype))  # from outside, in its own dtype
        raise ValueError(
            f"model or loss: view({dtype}) reads the bits of a tensor that is computed in "
            f"{self.dtype} here; compute without reinterpreting bits, or pass names= without the "
            "parameters below it"
        )

    def _random(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if name in _DRAWN:
            return isinstance(args[0], Tensor) and args[0].dtype is self.dtype
        if name == "bernoulli":
            return isinstance(args[0], Tensor)
        return name in _DRAWN_LIKE or (name in _DRAWN_NEW and kwargs.get("dtype") is not None)

    def _draw(self, name: str, run: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Random numbers as they are drawn in the user's own dtype."""
        if name in _DRAWN:
            target = args[0]
            drawn = run(torch.empty_like(target, dtype=self.drawn), *args[1:], **kwargs)
            return target.copy_(drawn)
        if name == "bernoulli":
            return self._result(run(self.cast(args[0]).to(self.drawn), *args[1:], **kwargs))
        dtype = kwargs.get("dtype") or (args[0].dtype if name in _DRAWN_LIKE else self.dtype)
        dtype = self.drawn if dtype is self.dtype else dtype  # that of a tensor held to it
        return self._result(run(*args, **{**kwargs, "dtype": dtype}))


def _is_real_type(args: tuple[Any, ...]) -> bool:
    """Whether ``tensor.type(kind)`` asks for one of the old kinds of real tensors."""
    if len(args) != 2 or isinstance(args[1], torch.dtype):
        return False
    kind = args[1] if isinstance(args[1], str) else getattr(args[1], "__name__", "")
    return kind.endswith(("HalfTensor", "BFloat16Tensor", "FloatTensor", "DoubleTensor"))


def _eighth(values: Iterable[Any]) -> torch.dtype | None:
    """A floating dtype of eight bits: whoever converts to it means the rounding."""
    for value in values:
        dtype = value.dtype if isinstance(value, Tensor) else value
        if isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize < 2:
            return dtype
    return None


class _Now(threading.local):
    precision: Precision | None = None
    expected: torch.dtype | None = None
    modes: list[Any]  # of the caller

    def __init__(self) -> None:
        self.modes = []


_NOW = _Now()


def current() -> Precision | None:
    """The precision that the user's code is held to, if it is."""
    return _NOW.precision


def expected() -> torch.dtype | None:
    """The dtype that all of a tape is in, unless it is mixed; `None` where code is held to one."""
    return None if _NOW.precision is not None else _NOW.expected


def mixed(expected: torch.dtype | None, result: Tensor | None = None) -> None:
    """Break off a call under autocast, or one whose result is in another precision.

    Raises:
        Mixed: it is so.
    """
    if expected is None:
        return
    if result is None:
        raise Mixed(expected)
    dtype = real(result.dtype)
    if dtype is expected or not dtype.is_floating_point:
        return
    if result.requires_grad or dtype.itemsize < 4:
        raise Mixed(highest([expected, dtype]))


def unify(
    modules: list[nn.Module], parameters: Sequence[Tensor], dtype: torch.dtype | None
) -> None:
    """Compute in one precision until what is owed is settled.

    It is `dtype` where that is given, else as the parameters need it.
    """
    before = _NOW.expected, _NOW.precision, _NOW.modes
    owe(lambda: _set(*before))
    modes = [mode for mode in set_aside() if not getattr(mode, "internal", False)]
    # A buffer that enters the tape shows there (`mixed`).
    dtypes = {p.dtype for p in parameters if p.is_floating_point()}
    wanted = shared(dtypes if dtype is None else {*dtypes, highest([dtype])})
    _set(next(iter(dtypes)) if wanted is None else None, None, modes)
    if wanted is not None:
        convert(modules, wanted, dtype)


def _set(expected: torch.dtype | None, precision: Precision | None, modes: list[Any]) -> None:
    _NOW.expected, _NOW.precision, _NOW.modes = expected, precision, modes


def held() -> AbstractContextManager[Any]:
    """A call of the user's code, held to the precision of the computation."""
    precision = _NOW.precision
    inner: AbstractContextManager[Any] = (
        nullcontext() if precision is None or precision.everywhere else _Promote(precision)
    )
    return Among(_NOW.modes, inner) if _NOW.modes else inner


def half(value: Tensor) -> bool:
    """Whether a tensor holds floating numbers of less than 32 bits."""
    return value.dtype.itemsize < 4 and value.is_floating_point()


def fit(value: Tensor, dtype: torch.dtype, name: str, what: str) -> Tensor:
    """A result in the dtype it is wanted in.

    Raises:
        ValueError: it is too large for it.
    """
    if value.dtype == dtype:
        return value
    result = value.to(dtype)
    if bool((result.isinf() & value.isfinite()).any()):
        size = float(value.abs().nan_to_num(posinf=0.0).max())
        raise ValueError(
            f"the {what} of parameter {name!r} reaches {size:.3g}, more than {dtype} holds; "
            "pass dtype=torch.float32"
        )
    return result


def _any_autocast() -> bool:
    return any(torch.is_autocast_enabled(kind) for kind in devices.AUTOCAST)


# Whether the code that runs is under autocast.
under_autocast: Callable[[], bool] = torch_private.under_autocast or _any_autocast


def real(dtype: torch.dtype) -> torch.dtype:
    """The floating dtype of a number's parts."""
    return _REAL.get(dtype, dtype)


def shared(dtypes: Iterable[torch.dtype]) -> torch.dtype | None:
    """The precision to compute in; `None` where all is of one that serves already."""
    several = set(dtypes)
    if len(several) < 2 and several <= {torch.float32, torch.float64}:
        return None
    return highest(several)


def highest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The widest of some dtypes, float32 at least."""
    return torch.float64 if torch.float64 in set(dtypes) else torch.float32


def tensors(modules: Iterable[nn.Module]) -> list[Tensor]:
    """The floating parameters and buffers of modules, each once."""
    every = (t for m in modules for t in (*m.parameters(), *m.buffers()))
    return [t for t in {id(t): t for t in every}.values() if t.is_floating_point()]


def _compressed(module: nn.Module) -> list[tuple[dict[str, Tensor | None], str, Tensor]]:
    """Floating buffers in compressed sparse layouts, which torch cannot give other data."""
    return [
        (owner._buffers, name, buffer)
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None and buffer.is_floating_point()
        and buffer.layout not in (torch.strided, torch.sparse_coo)
    ]  # fmt: skip


def convert(
    modules: Iterable[nn.Module], dtype: torch.dtype, asked: torch.dtype | None = None
) -> None:
    """Let the live parameters and buffers hold converted values until what is owed is settled.

    The tensors themselves stay the same objects, so whatever else reads them (a loss with an L2
    term) sees the conversion too.
    """
    dtype = highest([dtype if asked is None else asked])
    replaced: list[tuple[Tensor, Tensor]] = []
    compressed: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    every, before = tensors(modules), _NOW.precision

    def back() -> None:
        _NOW.precision = before
        for tensor, data in replaced:
            tensor.data = data
        for owner, name, tensor in compressed:
            owner[name] = tensor

    owe(back)
    for module in modules:
        for owner, name, tensor in _compressed(module):
            if tensor.dtype != dtype:
                compressed.append((owner, name, tensor))
                owner[name] = tensor.to(dtype)
    for tensor in every:
        if tensor.dtype != dtype and tensor.layout in (torch.strided, torch.sparse_coo):
            replaced.append((tensor, tensor.data))
            tensor.data = tensor.data.to(dtype)
    sizes: dict[torch.dtype, int] = {}
    for tensor, data in replaced:
        sizes[data.dtype] = sizes.get(data.dtype, 0) + tensor.numel()
    common = max(sizes, key=lambda d: sizes[d]) if sizes else dtype
    drawn = common if before is None else before.drawn
    _NOW.precision = Precision(dtype, drawn, asked is not None)


class _Promote(TorchFunctionMode):
    """Holds all code inside to a precision."""

    internal = True

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self.precision = precision

    def __torch_function__(
        self,
        func: Call,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if (hooks := torch_private.saved_tensor_hooks(True)) is not None:
            self._follow(hooks)
        if under_autocast():
            with devices.no_autocast():
                return self.precision.call(func, func, args, kwargs or {})
        return self.precision.call(func, func, args, kwargs or {})

    def _follow(self, hooks: Any) -> None:
        """Hold what a checkpoint computes again, inside a backward pass, to the precision too."""
        for cell in getattr(hooks[1], "__closure__", None) or ():
            frame = cell.cell_contents
            again = getattr(frame, "recompute_fn", None)
            if again is not None and not isinstance(again, _Again):
                frame.recompute_fn = _Again(again, self.precision)


class _Again:
    """A checkpoint's second computation, held to a precision."""

    def __init__(self, function: Call, precision: Precision) -> None:
        self.function, self.precision = function, precision

    def __call__(self, *args: Any) -> None:
        with _Promote(self.precision):
            self.function(*args)


@contextmanager
def cast(modules: list[nn.Module], dtype: torch.dtype | None) -> Iterator[None]:
    """Compute in `dtype`: modules hold converted values, and what code inside makes is in it."""
    if dtype is None:
        yield
        return
    with settled():
        convert(modules, dtype, dtype)
        precision = current()
        assert precision is not None
        precision.everywhere = True
        with _Promote(precision):
            yield
