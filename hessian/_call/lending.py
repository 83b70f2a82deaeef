"""Lending a user's model to an exact computation, and walking through the user's data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hessian._batch.analysis import METHOD_CHOICES, Batch, Problem, Start
from hessian._batch.parts import Parts, Whole
from hessian._call import data as _data
from hessian._call import precision as _precision
from hessian._call.attributes import attribute_tensors, drop_caches
from hessian._call.draws import NotInParts
from hessian._call.forward import TooLarge
from hessian._call.hooks import take_hooks_off
from hessian._call.precision import Mixed, current
from hessian._call.state import Randomness, compute_exactly, note_state
from hessian._call.thaw import freeze, may_freeze
from hessian._call.wrapped import refuse_shards, unwrap
from hessian._call.written import Written, will_be_put_back
from hessian._runtime.ledger import alone, settled
from hessian._runtime.workspace import keep_within

DEFAULT_MEMORY = 2**30
T = TypeVar("T")


@dataclass
class Item:
    """One batch of the user's data.

    `raw` is the pair as it came, `inputs` and `targets` are in the dtype of the computation;
    `a` is the batch's weight before normalisation.
    """

    index: int
    raw: _data.Batch
    inputs: Any
    targets: Any
    a: float
    start: Start
    problem: Problem
    end: Randomness | None = None

    @property
    def samples(self) -> int:
        """Number of samples in the batch."""
        return _data.size(self.inputs)

    def analysed(self, sampled: dict[str, Tensor] | None = None) -> Batch:
        """The batch with its tapes read and its plan made."""
        batch = Batch(self.problem, self.inputs, self.targets, self.index, sampled)
        self.end = batch.end
        return batch

    def uniform(self, take: Callable[[], T]) -> T:
        """What `take` gives, in a higher precision where the user's code turns out to need one."""
        while True:
            try:
                return take()
            except Mixed as mixed:
                dtype = mixed.dtype
            # Beyond this block nothing holds the tape that was begun.
            self.start.rewind()
            self.problem.hold(dtype)
            self.inputs, self.targets = (_data.convert(v, current()) for v in self.raw)
            self.end = None
            self.start.rewind()

    def planned(self, sampled: Mapping[str, Tensor] | None = None) -> Batch | Parts:
        """The same, in parts of the samples where the tape of all would exceed the memory."""
        return self.uniform(lambda: self._planned(sampled))

    def _planned(self, sampled: Mapping[str, Tensor] | None) -> Batch | Parts:
        problem, why = self.problem, ""
        given = (problem, self.inputs, self.targets, self.index, sampled)
        try:
            batch: Batch | Parts = Batch(*given, bounded=True, start=self.start)
        except TooLarge:
            why = "too large"  # beyond this block nothing holds the tape that was begun
        if why:
            self.start.rewind()
            try:
                batch = Parts(Whole(*given))
            except (NotInParts, ValueError) as error:
                why = str(error)
            else:
                why = ""
        if why:  # what is wrong with the data or the method is said here, of the whole batch
            self.start.rewind()
            batch = Batch(*given)
            batch.plan = dataclasses.replace(batch.plan, held=why)
        self.end = batch.end
        return batch

    def value(self) -> Tensor:
        """The loss, on a tape that connects it with the parameters; the same at every call."""
        self.start.rewind()
        _, value = self.problem.value(self.inputs, self.targets, self.index)
        if self.end is None:
            self.end = Randomness(self.problem.devices())
        return value


def walk(
    problem: Problem, data: Any, dtype: torch.dtype | None, weight: _data.Weight
) -> Iterator[Item]:
    """The batches of `data`, each with the random state a plain loop would meet it in."""
    for index, (inputs, targets) in enumerate(_data.batches(data)):
        if current() is None and any(map(_precision.half, _data.tensors(inputs))):
            problem.hold(torch.float32)
        x, y = (_data.convert(v, current()) for v in (inputs, targets))
        a = _data.batch_weight(weight, (inputs, targets), _data.size(x))
        item = Item(index, (inputs, targets), x, y, a, Start(problem), problem)
        yield item
        item.start.rewind(item.end)


def scale(items: list[float], weight: _data.Weight) -> float:
    """The factor that turns Σ a_b loss_b into L, given the a_b."""
    return 1.0 / sum(items) if weight is None else 1.0


@contextmanager
def lend(
    model: nn.Module,
    loss: _data.Loss,
    method: str,
    forward: _data.Forward | None,
    names: Iterable[str] | None,
    memory: int | None,
    dtype: torch.dtype | None,
) -> Iterator[Problem]:
    """Check the arguments, then lend the model to an exact computation.

    A `Guard` must stand around it, which an interrupt on the way in or out cannot pass.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not callable(loss):
        raise TypeError(
            f"loss must be a function of (output, target), got {type(loss).__name__}; "
            "e.g. torch.nn.functional.cross_entropy"
        )
    if method not in METHOD_CHOICES:
        raise ValueError(f"method must be one of {', '.join(METHOD_CHOICES)}, got {method!r}")
    if memory is not None and not (isinstance(memory, int) and memory > 0):
        raise ValueError(f"memory must be a positive number of bytes, got {memory!r}")
    if forward is not None and not callable(forward):
        raise TypeError(
            f"forward must be a function of (model, inputs), got {type(forward).__name__}"
        )
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating torch.dtype, got {dtype!r}")
    refuse_shards(model)
    if isinstance(loss, nn.Module):
        refuse_uninitialised("loss", [*loss.named_parameters(), *loss.named_buffers()])
    parameters = selected(model, names)
    memory = memory or default_memory(parameters.values())
    problem = Problem(model, loss, forward, parameters, method, memory, asked=dtype)
    modules, parts = problem.modules(), problem.parts()
    every = _each([p for part in parts for p in part._parameters.values()])
    buffers = _each([b for part in parts for b in part._buffers.values()])
    attributes = attribute_tensors(parts)
    problem.written = Written(every, attributes)
    wanted = {id(p) for p in (parameters.values() if may_freeze() else every)}
    with alone(), settled(), _twice_differentiable():
        compute_exactly()
        note_state(parts, problem.devices())
        drop_caches()
        freeze(every, wanted)
        _precision.unify(modules, every, dtype)
        will_be_put_back(problem.written)
        take_hooks_off(parts, [*every, *buffers, *(tensor for _, _, tensor in attributes)])
        unwrap(parts)
        keep_within(memory)
        yield problem


def _each(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """The tensors, each once."""
    return list({id(t): t for t in tensors if t is not None}.values())


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Say what to do where torch has no second derivative of an operation."""
    try:
        yield
    except RuntimeError as error:  # of which NotImplementedError is one
        text = str(error).strip().splitlines()[0] if str(error).strip() else ""
        missing = "derivative for" in text and "not implemented" in text
        if not missing or text.startswith("model"):
            raise
        raise NotImplementedError(
            f"model or loss: an operation has no second derivative in torch ({text}); write it "
            "with differentiable operations, or pass names= without the parameters below it"
        ) from error


def default_memory(parameters: Iterable[Tensor]) -> int:
    """Bytes of working set: 1 GiB, on a GPU half of what is free on the fullest one in use."""
    devices = {p.device for p in parameters if p.is_cuda}
    if not devices:
        return DEFAULT_MEMORY
    return max(1, min(torch.cuda.mem_get_info(device)[0] for device in devices) // 2)


def refuse_uninitialised(owner: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Parameters and buffers of lazy modules have no shape before the first call.

    Raises:
        ValueError: there is one.
    """
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise ValueError(
                f"{owner}: {name!r} belongs to a lazy module that was not called yet and has no "
                "shape; run it once, e.g. model(inputs), before"
            )


def selected(model: nn.Module, names: Iterable[str] | None) -> dict[str, Tensor]:
    every = dict(model.named_parameters())
    refuse_uninitialised("model", every.items())
    refuse_uninitialised("model", model.named_buffers())
    if not every:
        raise ValueError("model has no parameters; pass a module with at least one nn.Parameter")
    free = {name: p for name, p in every.items() if p.requires_grad}
    if names is None:
        if not free:
            raise ValueError(
                "model has no parameter that requires gradients; call requires_grad_() on some"
            )
        return _real(free)
    if isinstance(names, str):
        raise TypeError(f"names must be an iterable of parameter names, got the string {names!r}")
    if not isinstance(names, Iterable):
        raise TypeError(f"names must be an iterable of parameter names, got {type(names).__name__}")
    chosen = list(dict.fromkeys(names))
    for name in chosen:
        if name not in every:
            raise ValueError(
                f"names: {name!r} is not a parameter of the model; its parameters are "
                f"{', '.join(list(every)[:8])}{', …' if len(every) > 8 else ''}"
            )
        if name not in free:
            raise ValueError(
                f"names: {name!r} is frozen (requires_grad is False); call requires_grad_() on it"
            )
    if not chosen:
        raise ValueError("names is empty; leave it out to differentiate every parameter")
    return _real({name: every[name] for name in every if name in set(chosen)})


def _real(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, p in parameters.items():
        if p.is_inference():
            raise ValueError(
                f"parameter {name!r} was made under torch.inference_mode(), and autograd cannot "
                "use it; build the model outside, or pass copy.deepcopy(model)"
            )
        if p.is_complex():
            raise ValueError(
                f"parameter {name!r} is complex, and d²L/dw² is one number for a real w only; keep "
                "its parts as a real parameter (torch.view_as_real), or leave it out with names="
            )
    return dict(parameters)


class Ticker:
    """Progress in backward passes and entries; silent unless a bar is given."""

    def __init__(self, bar: Any = None) -> None:
        self.bar = bar
        self.task = bar.add_task("exact diagonal", total=0) if bar is not None else None
        self.total = 0

    def expect(self, units: int, index: int) -> None:
        self.total += units
        if self.bar is not None:
            self.bar.update(
                self.task, total=self.total, description=f"exact diagonal, batch {index + 1}"
            )

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, one unit each."""
        for item in items:
            self.expect(1, item.index)
            yield item
            self.tick(1)

    def tick(self, units: int) -> None:
        if self.bar is not None:
            self.bar.advance(self.task, units)


@contextmanager
def ticker(progress: bool) -> Iterator[Ticker]:
    if not progress:
        yield Ticker()
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        yield Ticker(bar)
