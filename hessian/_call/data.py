"""Batches of data: what a user may pass, how the model is called on it, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hessian import trees
from hessian._call.precision import Precision, current

Batch = tuple[Any, Any]
Item = Batch | Mapping[str, Any]  # of data: a pair, or a mapping with the targets inside
Forward = Callable[[nn.Module, Any], Any]
Loss = Callable[[Any, Any], Tensor]
Weight = str | Callable[[Any], float] | None


def batches(data: Any) -> Iterator[Item]:
    """One batch, or an iterable of batches, as an iterator of these: pairs and mappings.

    A pair ``(inputs, targets)`` is a two-element tuple or list whose first element is a tensor or a
    mapping, or a tuple or list of several inputs beside targets that are none. Where both are
    tuples they are read as two batches; ``[((x1, x2), (y1, y2))]`` is one. A mapping alone holds
    its targets inside (`_call.labelled`), and a list of two with the same keys is two batches.

    Raises:
        TypeError, ValueError: `data` is none of these, or holds nothing.
    """
    if is_batch(data):
        yield data if isinstance(data, Mapping) else (data[0], data[1])
        return
    if isinstance(data, Tensor) or not isinstance(data, Iterable):
        raise TypeError(
            f"data must be an (inputs, targets) pair, a mapping or an iterable of such batches, "
            f"got {type(data).__name__}; pass (inputs, targets) or a DataLoader"
        )
    count = 0
    for item in data:
        if hasattr(item, "__array_interface__"):
            raise TypeError(
                f"data: got {type(item).__name__} where a tensor is expected; make tensors of "
                "inputs and targets, e.g. torch.from_numpy(x)"
            )
        is_mapping = isinstance(item, Mapping)
        if not (is_mapping or (isinstance(item, tuple | list) and len(item) == 2)):
            raise TypeError(
                f"data: item {count} of the iterable must be an (inputs, targets) pair or a "
                f"mapping, got {_describe(item)}; let the loader yield two-element tuples, and put "
                "a pair whose inputs are a tuple into a list: [((x1, x2), targets)]"
            )
        count += 1
        yield item if is_mapping else (item[0], item[1])
    if count == 0:
        raise ValueError("data is empty: no batch was yielded; pass at least one (inputs, targets)")


def is_batch(data: Any) -> bool:
    """Whether it is one batch, and no iterable of several."""
    if isinstance(data, Mapping):
        return True
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    inputs, targets = data
    if isinstance(inputs, Mapping) and isinstance(targets, Mapping) and isinstance(data, list):
        return set(inputs) != set(targets)  # a list of batches has the same keys in each
    if isinstance(inputs, Tensor | Mapping):
        return True
    # ((x, edges), y): a tensor is no batch, so these are not two.
    several = isinstance(inputs, tuple | list) and not isinstance(targets, tuple | list)
    return several and any(isinstance(leaf, Tensor) for leaf in trees.leaves(_plain(inputs)))


def _describe(item: Any) -> str:
    if isinstance(item, Tensor):
        return f"a tensor of shape {tuple(item.shape)}"
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of length {len(item)}"
    return type(item).__name__


def check_generator(generator: Any) -> None:
    """Random draws are made on the CPU, the same on every machine.

    Raises:
        TypeError, ValueError: it is no generator, or one of another device.
    """
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {type(generator).__name__}; "
            "e.g. torch.Generator().manual_seed(0)"
        )
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator must be on the CPU, got one on {generator.device}; "
            "use torch.Generator().manual_seed(...)"
        )


def size(inputs: Any) -> int:
    """Number of samples in a batch: the leading dimension of its first tensor.

    Raises:
        ValueError: no tensor with a leading dimension, or an empty batch.
        NotImplementedError: a nested tensor, whose samples are no rows.
    """
    leaves = trees.leaves(_plain(inputs))
    if any(isinstance(leaf, Tensor) and leaf.is_nested for leaf in leaves):
        raise NotImplementedError(
            "data: inputs hold a nested tensor, whose samples differ in size; pass it padded, with "
            "a mask for the model and the loss (torch.nested.to_padded_tensor), or one batch for "
            "each size"
        )
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.dim() > 0:
            if leaf.shape[0] == 0:
                raise ValueError(
                    f"data: the batch is empty (inputs of shape {tuple(leaf.shape)}); "
                    "pass at least one sample"
                )
            return int(leaf.shape[0])
    raise ValueError(
        f"data: inputs of type {type(inputs).__name__} hold no tensor with a leading sample "
        "dimension; pass a tensor, a tuple of tensors or a mapping of tensors"
    )


def _plain(inputs: Any) -> Any:
    # Mappings that are no registered containers (e.g. a tokenizer's batch) count as their items.
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def tensors(values: Any) -> list[Tensor]:
    """The tensors in a nest of containers."""
    if isinstance(values, Tensor):
        return [values]
    return [leaf for leaf in trees.leaves(_plain(values)) if isinstance(leaf, Tensor)]


def convert(values: Any, dtype: torch.dtype | Precision | None) -> Any:
    """Floating tensors of a nest of containers in `dtype`; everything else as it is."""
    if dtype is None and not any(t.is_inference() for t in tensors(values)):
        return values
    dtype = dtype.dtype if isinstance(dtype, Precision) else dtype

    def to(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_inference():  # which autograd cannot use
            leaf = leaf.clone()
        return leaf.to(dtype) if leaf.is_floating_point() else leaf

    return trees.mapped(to, _plain(values))


def call(model: nn.Module, inputs: Any, forward: Forward | None) -> Any:
    """``forward(model, inputs)``, by default model(x), model(*x) or model(**x)."""
    if forward is not None:
        return forward(model, inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


@contextmanager
def named(what: str, values: Any, index: int) -> Iterator[None]:
    """Name the batch in an error that the user's own model or loss raises on it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
    ) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "required positional argument" in first:
            first += " (a pair whose inputs are a tuple goes into a list: [((x1, x2), targets)])"
        leaves = trees.leaves(_plain(values))
        dims = [str(tuple(v.shape)) if isinstance(v, Tensor) else type(v).__name__ for v in leaves]
        raise ValueError(
            f"{what} of shape {', '.join(dims) or 'nothing'} in batch {index}: {first}; "
            f"check that data, model and loss fit together{_held()}"
        ) from error


def _held() -> str:
    precision = current()
    if precision is None:
        return ""
    return f" (everything is computed in {precision.dtype} here, whatever dtype the code asks for)"


def batch_weight(weight: Weight, batch: Item, n: int) -> float:
    """The factor a_b of a batch before normalisation.

    Raises:
        ValueError: `weight` is a string other than "sum", or does not give a finite number.
    """
    if weight is None:
        return float(n)
    if weight == "sum":
        return 1.0
    if isinstance(weight, str):
        raise ValueError(
            f'weight must be None, "sum" or a function of the batch, got {weight!r}; '
            'use "sum" for a loss that sums over samples'
        )
    if not callable(weight):
        raise TypeError(
            f'weight must be None, "sum" or a function of the batch, got {type(weight).__name__}'
        )
    try:
        value = float(weight(batch))
    except (TypeError, ValueError) as error:
        raise ValueError(f"weight(batch) must return a number: {error}") from error
    if not abs(value) < float("inf"):
        raise ValueError(f"weight(batch) returned {value}; it must be a finite number")
    return value


def check_loss(value: Any, index: int, inputs: Any, parameters: Mapping[str, Tensor]) -> Tensor:
    """The loss as a finite real scalar.

    Raises:
        TypeError, ValueError: it is not one; the message says where the trouble starts.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"loss must return a scalar torch.Tensor, got {type(value).__name__}; "
            "return the tensor itself, not .item() of it"
        )
    if value.dim() != 0 and value.numel() != 1:
        raise ValueError(
            f"loss must return a scalar, got a tensor of shape {tuple(value.shape)}; "
            "reduce it, e.g. with .mean() or .sum()"
        )
    if not value.is_floating_point():
        raise TypeError(f"loss must return a real floating tensor, got {value.dtype}")
    scalar: Tensor = value.reshape(())
    if not bool(torch.isfinite(scalar.detach())):
        raise ValueError(
            f"loss is {scalar.item()} on batch {index}: {_culprit(inputs, parameters)}"
        )
    return scalar


def _culprit(inputs: Any, parameters: Mapping[str, Tensor]) -> str:
    for leaf in trees.leaves(_plain(inputs)):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            bad = int((~torch.isfinite(leaf)).sum())
            if bad:
                return (
                    f"the inputs hold {bad} values that are NaN or infinite; clean the data first"
                )
    for name, p in parameters.items():
        if not bool(torch.isfinite(p.detach()).all()):
            return f"parameter {name!r} holds values that are NaN or infinite; check the training"
    return "inputs and parameters are finite, so the forward pass or the loss overflows here"


def lasting(data: Any) -> Any:
    """The same batches in memory of their own, to be kept or gone through again.

    A loader may fill the tensors that it has yielded with the next batch. Of an iterator a list of
    copies is made, of another iterable one that yields copies; a batch, a list and a tuple are
    returned as they are. Tensors that require a gradient are not copied.

    Example:
        >>> import torch
        >>> row = torch.zeros(1)
        >>> def loader():
        ...     for k in range(2):
        ...         yield row.fill_(k), row
        >>> [x.tolist() for x, _ in list(loader())], [x.tolist() for x, _ in lasting(loader())]
        ([[1.0], [1.0]], [[0.0], [1.0]])
    """
    if is_batch(data) or isinstance(data, Tensor | list | tuple):
        return data
    if isinstance(data, Iterator):
        return [_copied(item) for item in data]
    return _Copies(data) if isinstance(data, Iterable) else data


class _Copies:
    """Batches of an iterable, each copied as it comes."""

    def __init__(self, data: Iterable[Any]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return map(_copied, self.data)


def _copied(item: Any) -> Any:
    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value if value.requires_grad else value.clone()
        # A mapping that is not opened, such as a tokenizer's batch.
        return copy.deepcopy(value) if isinstance(value, Mapping) else value

    return trees.mapped(leaf, item)
