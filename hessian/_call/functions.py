"""A scalar function of a pytree of tensors as a model and a loss.

A function has no outputs to cut its tape at, and the cheap routes need them. So it is run once to
see which of its calls is a loss of torch's, or a reduction to one number. The model is the function
up to that call, which is broken off there; the loss is the function once more, with the model's
output in the place of what that call was given. Whatever else the function reads of its parameters
it reads in this second run, so the two together are the function, wherever the cut lies: a cut that
is badly chosen costs passes, and no digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hessian import trees

LOSSES = {
    F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.cosine_embedding_loss,
    F.cross_entropy, F.gaussian_nll_loss, F.huber_loss, F.kl_div, F.l1_loss, F.log_softmax,
    F.margin_ranking_loss, F.mse_loss, F.multi_margin_loss, F.multilabel_margin_loss,
    F.multilabel_soft_margin_loss, F.nll_loss, F.poisson_nll_loss, F.smooth_l1_loss,
    F.soft_margin_loss, torch.log_softmax, Tensor.log_softmax,
}  # fmt: skip
REDUCTIONS = {torch.mean, torch.sum, Tensor.mean, Tensor.sum}


class _Reached(BaseException):
    """The call at which a function is cut. Not an Exception, so that no user code catches it."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def _candidate(function: Any, arguments: tuple[Any, ...]) -> bool:
    if function not in LOSSES and function not in REDUCTIONS:
        return False
    first = arguments[0] if arguments else None
    return isinstance(first, Tensor) and first.dim() > 0 and first.requires_grad


class _Calls(TorchFunctionMode):
    """Counts the calls that a function may be cut at; notes, breaks off or fills in one of them."""

    internal = True

    def __init__(self, place: int | None, output: Tensor | None = None) -> None:
        super().__init__()
        self.place, self.output = place, output
        self.seen: list[tuple[bool, tuple[int, ...]]] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if _candidate(func, args):
            number = len(self.seen)
            self.seen.append((func in LOSSES, tuple(args[0].shape)))
            if number == self.place:
                if self.output is None:
                    raise _Reached(args[0])
                args = (self.output, *args[1:])
        return func(*args, **(kwargs or {}))


class Function(nn.Module):
    """A function's parameters, and the function as far as the place where it is cut."""

    def __init__(self, function: Callable[..., Tensor], parameters: Any) -> None:
        super().__init__()
        leaves, self.structure = trees.flatten_with_path(parameters)
        self.function, self.place = function, -1
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
        try:
            with _Calls(self.place):
                return self.function(self.tree(), *arguments[: self.count])
        except _Reached as reached:
            return reached.output

    count = 0  # of the arguments that are the function's own


class Rest(nn.Module):
    """The function with the model's output in its place; modules that it closes over lie inside."""

    def __init__(self, model: Function, inside: list[nn.Module]) -> None:
        super().__init__()
        self.run: Callable[..., Any] = model.function
        self.tree, self.place = model.tree, model.place
        self.inside = nn.ModuleList(inside)

    def forward(self, output: Tensor, arguments: tuple[Any, ...]) -> Any:
        """The function's value."""
        if self.place < 0:
            return output
        with _Calls(self.place, output):
            return self.run(self.tree(), *arguments)


@dataclass(frozen=True)
class Apart:
    """A function as model, loss and data; `is_flat` where its parameters are a flat mapping."""

    model: Function
    loss: Rest
    data: list[tuple[Any, Any]]
    is_flat: bool

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
) -> Apart:
    """A function, cut where that is of use.

    Raises:
        TypeError: no floating tensor among the parameters, or a value that is no scalar tensor.
    """
    model = Function(function, parameters)
    if not model._parameters:
        raise TypeError(
            f"parameters: {type(parameters).__name__} holds no floating tensor; give a mapping, "
            "list or tuple of tensors"
        )
    model.count = len(arguments)
    tensors = [leaf for leaf in trees.leaves(arguments) if isinstance(leaf, Tensor) and leaf.dim()]
    # A function of parameters alone is one sample.
    inputs = arguments if tensors else (*arguments, torch.zeros(1, device="cpu"))
    samples = len(tensors[0]) if tensors else 1
    model.place = _place(model, arguments, samples)
    rest = Rest(model, _modules(function))
    is_flat = isinstance(parameters, Mapping) and all(
        isinstance(value, Tensor) for value in parameters.values()
    )
    return Apart(model, rest, [(inputs, arguments)], is_flat)


def _place(model: Function, arguments: tuple[Any, ...], samples: int) -> int:
    """The number of the call to cut at: the first loss, else the last reduction of samples."""
    from hessian._call.state import Buffers, Randomness

    modules = _modules(model.function)
    buffers = Buffers([part for module in modules for part in module.modules()])
    devices = {p.device for p in model._parameters.values() if p is not None}
    randomness = Randomness(devices)
    with torch.enable_grad(), _Calls(None) as calls:
        value = model.function(model.tree(), *arguments)
    buffers.restore()
    randomness.restore()
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"f must return a scalar tensor, got {shape}; reduce it, e.g. with .mean()")
    losses = [i for i, (is_loss, _) in enumerate(calls.seen) if is_loss]
    if losses:
        return losses[0]
    rows = [i for i, (_, shape) in enumerate(calls.seen) if shape[0] == samples]
    return rows[-1] if rows else -1


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
