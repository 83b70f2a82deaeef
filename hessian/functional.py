"""The same for functions: of a mapping or pytree of tensors, in the manner of ``torch.func``.

| question | call |
|---|---|
| d²f/dw² of every entry, exactly | `diagonal(f)(parameters, *arguments)` |
| which exact method applies, why, at what cost | `plan(f)(parameters, *arguments)` |
| exact values at random entries | `sample(f)(parameters, *arguments)` |
| cheap substitutes with their standard errors | `estimate(f, kind)(parameters, *arguments)` |
| v → Hv, eigenpairs, traces, densities | `operator(f)(parameters, *arguments)` |

``f(parameters, *arguments)`` returns the scalar to differentiate. `parameters` are nested mappings,
lists and tuples of tensors; what is no floating tensor among them stays as it is. Results are
mappings by name: the key of a mapping, of nested ones the path, ``"layers.0.weight"``; of anything
but a flat mapping ``.tree`` holds the same in the structure of `parameters`.

Samples lie along the first axis of the first tensor of `arguments`. The function is taken apart
into a model and a loss: at one of torch's losses where it ends in one, else at the first tensor by
samples that everything goes through, as logits do, or at its last mean or sum over samples. Routes,
certificates and plans are those of such a module, and what is exact is the same wherever the cut
lies. Where f cannot be taken apart, all is proved, or not, of f as a whole: slower at times, and as
exact. What is Gauss-Newton's is of that model and that loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hessian import _diagonal, _estimate, _operator, _sample
from hessian._batch.plan import Plan
from hessian._call.functions import Apart, taken_apart
from hessian._diagonal import Diagonal
from hessian._estimate import Estimate
from hessian._hessian import Hessian
from hessian._sample import Samples

__all__ = ["diagonal", "estimate", "operator", "plan", "sample"]

Function = Callable[..., Tensor]
# Methods that take no Hessian-vector products.
QUICK = {"affine", "chain", "separable", "zero"}
R = TypeVar("R", Diagonal, Estimate, Samples)


def diagonal(f: Function, **options: Any) -> Callable[..., Diagonal]:
    """A function to the exact second derivative of f by every entry of its parameters.

    Args:
        f: ``f(parameters, *arguments)`` → scalar tensor.
        options: of `hessian.diagonal`: `method`, `verify`, `names`, `memory`, `dtype`, ….

    Returns:
        ``g(parameters, *arguments)`` → `hessian.Diagonal`, with ``.plan``, ``.gradient``,
        ``.loss`` and the rest; ``.tree`` where `parameters` are no flat mapping.

    Raises:
        TypeError: f is no function, or an option is not one of `hessian.diagonal`.
        TypeError, ValueError: at a call: no floating tensor among `parameters`; as
            `hessian.diagonal`.

    Example:
        >>> def f(w, x, y):
        ...     return torch.nn.functional.mse_loss(x @ w["a"].T, y)
        >>> w = {"a": torch.tensor([[1.0, 1.0]])}
        >>> h = diagonal(f)(w, torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]]))
        >>> h["a"], h.plan["a"].method
        (tensor([[8., 2.]]), 'affine')
        >>> nested = [{"b": torch.tensor(3.0)}, torch.tensor(2.0)]
        >>> diagonal(lambda v: v[0]["b"] ** 2 * v[1])(nested).tree
        [{'b': tensor(4.)}, tensor(0.)]
    """

    def compute(every: list[Apart]) -> Diagonal:
        parts = _cheapest(every, options)
        h = _diagonal.diagonal(parts.model, parts.loss, parts.data, **options)
        return _with_tree(h, parts)

    return _of(f, compute, _diagonal.diagonal, options)


def plan(f: Function, **options: Any) -> Callable[..., Plan]:
    """A function to the plan of `diagonal`; arguments and errors are the same.

    Example:
        >>> w = {"a": torch.ones(1, 2)}
        >>> print(repr(plan(lambda w, x: (x @ w["a"].T).tanh().mean())(w, torch.ones(3, 2))))
        Plan(1 parameters: 1 affine; 1 forward and 2 backward passes for 3 samples)
    """

    def compute(every: list[Apart]) -> Plan:
        parts = _cheapest(every, options)
        return _diagonal.plan(parts.model, parts.loss, parts.data, **options)

    return _of(f, compute, _diagonal.plan, options)


def sample(
    f: Function,
    per_parameter: int = 256,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Callable[..., Samples]:
    """A function to exact second derivatives at random entries, as `hessian.sample`.

    Example:
        >>> w = {"a": torch.tensor([1.0, 2.0])}
        >>> sample(lambda w: (w["a"] ** 3).sum())(w)["a"].value
        tensor([ 6., 12.])
    """

    def compute(every: list[Apart]) -> Samples:
        parts = _cheapest(every, options)
        arguments = (parts.model, parts.loss, parts.data, per_parameter, generator)
        return _with_tree(_sample.sample(*arguments, **options), parts)

    return _of(f, compute, _sample.sample, options)


def estimate(
    f: Function,
    kind: str,
    probes: int = 1,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Callable[..., Estimate]:
    """A function to an estimate of the diagonal, as `hessian.estimate`.

    Example:
        >>> w = {"a": torch.tensor([1.0, 2.0])}
        >>> estimate(lambda w: (w["a"] ** 3).sum(), "hutchinson")(w)["a"]  # H is diagonal
        tensor([ 6., 12.])
    """

    def compute(every: list[Apart]) -> Estimate:
        parts = every[0]
        arguments = (parts.model, parts.loss, parts.data, kind, probes, generator)
        return _with_tree(_estimate.estimate(*arguments, **options), parts)

    return _of(f, compute, _estimate.estimate, options)


def operator(f: Function, **options: Any) -> Callable[..., Hessian]:
    """A function to the Hessian as a linear operator, as `hessian.operator`.

    The operator keeps the tensors themselves: what is written to them later it sees.

    Example:
        >>> import numpy as np
        >>> w = {"a": torch.tensor([1.0, 2.0])}
        >>> h = operator(lambda w: w["a"].prod() ** 2)(w)
        >>> (h @ np.eye(2)).tolist()
        [[8.0, 8.0], [8.0, 2.0]]
    """

    def compute(every: list[Apart]) -> Hessian:
        parts = every[0]
        return _operator.operator(parts.model, parts.loss, parts.data, **options)

    return _of(f, compute, _operator.operator, options)


def _of(
    f: Function, compute: Callable[[list[Apart]], Any], function: Any, options: dict[str, Any]
) -> Callable[..., Any]:
    import inspect

    if not callable(f):
        raise TypeError(
            f"f must be a function of (parameters, *arguments), got {type(f).__name__}; "
            "for a module use hessian.diagonal and its like"
        )
    known = inspect.signature(function).parameters
    taken = ("model", "loss", "data", "forward", "weight", "group", "split")
    for name in options:
        if name not in known or name in taken:
            usable = ", ".join(each for each in known if each not in taken)
            raise TypeError(f"{name} is no option here; options are {usable}")

    def of_parameters(parameters: Any, *arguments: Any) -> Any:
        """The result for these parameters and arguments."""
        try:
            parts = taken_apart(f, parameters, arguments)
        except TypeError as error:
            if not isinstance(f, nn.Module):
                raise
            raise TypeError(
                f"f: got a module, which is called as f(parameters, *arguments) here ({error}); "
                "for the module itself use hessian.diagonal(model, loss, data) and its like"
            ) from error
        return compute(parts)

    return of_parameters


def _cheapest(every: list[Apart], options: dict[str, Any]) -> Apart:
    """The first cut whose plan takes no products, else the one of the fewest passes."""
    import inspect

    if len(every) == 1:
        return every[0]
    known = inspect.signature(_diagonal.plan).parameters
    wanted = {name: value for name, value in options.items() if name in known}
    passes: list[float] = []
    for parts in every:
        try:
            found = _diagonal.plan(parts.model, parts.loss, parts.data, **wanted)
        except ValueError:  # a `method` that is not proved for this cut
            passes.append(math.inf)
            continue
        if set(found.methods().values()) <= QUICK:
            return parts
        passes.append(found.backward)
    return every[passes.index(min(passes))]


def _with_tree(result: R, parts: Apart) -> R:
    if not parts.is_flat:
        vars(result)["tree"] = parts.tree(result)
    return result
