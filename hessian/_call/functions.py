"""A scalar function of a pytree of tensors as a model and a loss.

A function has no outputs to cut its tape at, and the cheap routes need them. So it is run once to
see where it can be cut: at the first tensor by samples that everything it does with its parameters
and the data goes through, as the logits of a network; at a loss of torch's; at the last reduction
to one number. The model is the function up to there, where it is broken off; the loss is the
function once more, with the model's output in the place of that tensor, and from the random state
that the model began with. Whatever else the function reads of its parameters it reads in this
second run, so the two together are the function, wherever the cut lies: a cut that is badly chosen
costs passes, and no digit. That they give the function's value is seen before a cut is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hessian import trees
from hessian._call.state import Buffers, Randomness
from hessian._call.traced import Traced


class _Reached(BaseException):
    """The call at which a function is cut. Not an Exception, so that no user code catches it."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


class Cut(NamedTuple):
    """The number of a call, and whether it is cut at its result or at its first argument."""

    number: int
    at_result: bool


class _Calls(TorchFunctionMode):
    """Counts the calls of torch's functions; breaks off at one of them, or fills it in."""

    internal = True

    def __init__(self, cut: Cut | None, output: Tensor | None = None) -> None:
        super().__init__()
        self.cut, self.output = cut, output
        self.count = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        number, cut = self.count, self.cut
        self.count += 1
        if cut is None or number != cut.number:
            return func(*args, **(kwargs or {}))
        if not cut.at_result:
            return func(*self._passed(args[0]), *args[1:], **(kwargs or {}))
        # It is called all the same, for the random numbers that it may draw.
        return self._passed(func(*args, **(kwargs or {})))[0]

    def _passed(self, value: Tensor) -> tuple[Tensor]:
        if self.output is None:
            raise _Reached(value)
        return (self.output,)


class Function(nn.Module):
    """A function's parameters, and the function as far as the place where it is cut."""

    def __init__(self, function: Callable[..., Tensor], parameters: Any) -> None:
        super().__init__()
        leaves, self.structure = trees.flatten_with_path(parameters)
        self.function = function
        self.cut: Cut | None = None
        self.values: list[Any] = []
        self.names: list[str | None] = []
        for path, value in leaves:
            name = None
            if isinstance(value, Tensor) and value.is_floating_point():
                name = ".".join(map(str, path)) or "parameters"
                # Past the check of names: a path has dots.
                self._parameters[name] = nn.Parameter(value.detach())
            self.names.append(name)
            self.values.append(None if name else value)

    def tree(self) -> Any:
        """The parameters as the function takes them."""
        pairs = zip(self.names, self.values, strict=True)
        return trees.unflatten(
            [value if name is None else self._parameters[name] for name, value in pairs],
            self.structure,
        )

    def forward(self, *arguments: Any) -> Any:
        """What the loss is given: the function's value where it is not cut."""
        if self.cut is not None:
            self.randomness = Randomness({p.device for p in self.parameters()})
        try:
            with _Calls(self.cut):
                return self.function(self.tree(), *arguments[: self.count])
        except _Reached as reached:
            return reached.output

    count = 0  # of the arguments that are the function's own
    randomness: Randomness | None = None  # at the beginning of the last call


class Rest(nn.Module):
    """The function with the model's output in its place; modules that it closes over lie inside."""

    def __init__(self, model: Function, inside: list[nn.Module]) -> None:
        super().__init__()
        self.run: Callable[..., Any] = model.function
        self.tree, self.cut = model.tree, model.cut
        self.inside = nn.ModuleList(inside)
        self.begun: Callable[[], Randomness | None] = lambda: model.randomness

    def forward(self, output: Tensor, arguments: tuple[Any, ...]) -> Any:
        """The function's value."""
        if self.cut is None:
            return output
        if (randomness := self.begun()) is not None:
            randomness.restore()
        with _Calls(self.cut, output):
            return self.run(self.tree(), *arguments)


@dataclass(frozen=True)
class Apart:
    """A function as model, loss and data; `is_flat` where its parameters are a flat mapping."""

    model: Function
    loss: Rest
    data: list[tuple[Any, Any]]
    is_flat: bool

    def value(self) -> Any:
        """The loss of the model's output, `None` where one of the two cannot be called."""
        ((inputs, arguments),) = self.data
        try:
            return self.loss(self.model(*inputs), arguments)
        except Exception:  # whatever a function raises that is broken off where it should not be
            return None

    def tree(self, values: Mapping[str, Any]) -> Any:
        """Values by name in the structure of the parameters."""
        model = self.model
        pairs = zip(model.names, model.values, strict=True)
        return trees.unflatten(
            [value if name is None else values.get(name) for name, value in pairs],
            model.structure,
        )


def taken_apart(
    function: Callable[..., Tensor], parameters: Any, arguments: tuple[Any, ...]
) -> list[Apart]:
    """A function, cut where that is of use: at a loss of torch's first, if it ends in one.

    Raises:
        TypeError: no floating tensor among the parameters, or a value that is no scalar tensor.
    """
    tensors = [leaf for leaf in trees.leaves(arguments) if isinstance(leaf, Tensor) and leaf.dim()]
    # A function of parameters alone is one sample.
    inputs = arguments if tensors else (*arguments, torch.zeros(1, device="cpu"))
    samples = len(tensors[0]) if tensors else 1
    is_flat = isinstance(parameters, Mapping) and all(
        isinstance(value, Tensor) for value in parameters.values()
    )

    def apart(cut: Cut | None) -> Apart:
        model = Function(function, parameters)
        if not model._parameters:
            raise TypeError(
                f"parameters: {type(parameters).__name__} holds no floating tensor; give a "
                "mapping, list or tuple of tensors"
            )
        model.count, model.cut = len(arguments), cut
        return Apart(model, Rest(model, _modules(function)), [(inputs, arguments)], is_flat)

    whole = apart(None)
    modules = _modules(function)
    buffers = Buffers([part for module in modules for part in module.modules()])
    randomness = Randomness({p.device for p in whole.model.parameters()})

    def run(call: Callable[[], Any]) -> Any:
        """What the function or its two halves give, without a trace."""
        try:
            with torch.enable_grad():
                return call()
        finally:
            buffers.restore()
            randomness.restore()

    calls = Traced(arguments)

    def traced() -> Any:
        with calls:
            return function(whole.model.tree(), *arguments)

    value = run(traced)
    every = [apart(cut) for cut in _cuts(calls, value, samples) if cut is not None]
    return [parts for parts in every if _same(run(parts.value), value)] or [whole]


def _same(value: Any, of_function: Tensor) -> bool:
    """Whether the halves give the function's value, but for rounding."""
    if not isinstance(value, Tensor) or value.shape != of_function.shape:
        return False
    eps = torch.finfo(of_function.dtype).eps
    return torch.allclose(value, of_function, rtol=eps**0.5, atol=eps, equal_nan=True)


def _cuts(calls: Traced, value: Any, samples: int) -> list[Cut | None]:
    """Where to cut, the likeliest first: at a loss, at the outputs, at a reduction of samples."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"f must return a scalar tensor, got {shape}; reduce it, e.g. with .mean()")
    outputs = calls.outputs(value, samples)
    cuts: list[Cut | None] = [] if outputs is None else [Cut(outputs, True)]
    losses = [one for one in calls.seen if one.is_loss]
    if losses:
        first = losses[0]
        # At the outputs themselves, which the function may read elsewhere too.
        if outputs is not None and first.argument == outputs:
            return cuts
        return [Cut(first.number, False), *cuts]
    rows = [one for one in calls.seen if one.rows == samples]
    if rows and (outputs is None or rows[-1].argument != outputs):
        cuts.append(Cut(rows[-1].number, False))
    return cuts or [None]


def _modules(function: Any) -> list[nn.Module]:
    """The modules that a function is, is bound to or closes over."""
    values = [function, getattr(function, "__self__", None), getattr(function, "func", None)]
    values += list(getattr(function, "args", ()) or ())
    inner = getattr(function, "func", function)
    for cell in getattr(inner, "__closure__", None) or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    code, names = getattr(inner, "__code__", None), getattr(inner, "__globals__", {})
    values += [names.get(name) for name in getattr(code, "co_names", ())]
    return list({id(v): v for v in values if isinstance(v, nn.Module)}.values())
