"""Results as plain values: for files, for ``torch.save`` and ``torch.load``, for other devices.

A result is taken apart into dictionaries, lists, numbers, texts and tensors, and put together again
from them by the names of the classes that are registered here. So a file holds no program, and
torch's safe loading (``weights_only=True``) takes what ``torch.save`` wrote.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hessian._runtime.extras import extra

C = TypeVar("C", bound=type)
R = TypeVar("R")

FORMAT = "hessian result 1"
_CLASSES: dict[str, Any] = {}
_CLASS, _TUPLE, _TENSOR = "class", "tuple", "tensor"


def storable(cls: C) -> C:
    """Register a class: a dataclass, or a dictionary or tuple of plain values with attributes.

    Of any other kind, one with `_fields`, which its `_of_fields` takes.
    """
    _CLASSES[cls.__name__] = cls
    return cls


def plain(value: Any) -> Any:
    """A result as nested dictionaries and lists of tensors, numbers and texts.

    Raises:
        TypeError: it holds something that is none of these.
    """
    kind = type(value).__name__
    if _CLASSES.get(kind) is type(value):
        apart: dict[str, Any] = {_CLASS: kind}
        if hasattr(value, "_of_fields"):
            apart["fields"] = {k: plain(v) for k, v in value._fields().items()}
            return apart
        if dataclasses.is_dataclass(value):
            fields = dataclasses.fields(value)
            apart["fields"] = {f.name: plain(getattr(value, f.name)) for f in fields if f.init}
            return apart
        if isinstance(value, dict):
            apart["items"] = [[plain(k), plain(v)] for k, v in value.items()]
        else:
            apart["items"] = [plain(v) for v in value]
        apart["attributes"] = {k: plain(v) for k, v in vars(value).items()}
        return apart
    if isinstance(value, Mapping):
        return {_CLASS: "dict", "items": [[plain(k), plain(v)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [plain(v) for v in value]}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if value is None or isinstance(value, Tensor | bool | int | float | str):
        return value.detach() if isinstance(value, Tensor) else value
    raise TypeError(f"a result holds {type(value).__name__}, which is not stored")


def built(value: Any) -> Any:
    """The inverse of `plain`.

    Raises:
        ValueError: of a class that is no result.
    """
    if isinstance(value, list):
        return [built(v) for v in value]
    if not isinstance(value, dict):
        return value
    if _TUPLE in value:
        return tuple(built(v) for v in value[_TUPLE])
    if value[_CLASS] == "dict":
        return {built(k): built(v) for k, v in value["items"]}
    if value[_CLASS] not in _CLASSES:
        raise ValueError(f"{value[_CLASS]!r} is no result of this version of hessian")
    cls = _CLASSES[value[_CLASS]]
    if "fields" in value:
        return getattr(cls, "_of_fields", cls)(**{k: built(v) for k, v in value["fields"].items()})
    result: Any
    if issubclass(cls, dict):
        result = cls((built(k), built(v)) for k, v in value["items"])
    else:
        result = cls(built(v) for v in value["items"])
    vars(result).update({k: built(v) for k, v in value["attributes"].items()})
    return result


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Plain values with a function of every tensor in its place."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list):
        return [mapped(function, v) for v in value]
    if isinstance(value, dict):
        return {k: mapped(function, v) for k, v in value.items()}
    return value


# What is called when a result is unpickled, or copied; torch's safe loading knows it alone.
torch.serialization.add_safe_globals([built])


def save(result: Any, path: str | os.PathLike[str]) -> None:
    """Write a result to a file of safetensors, whose header holds all but the tensors as JSON.

    Raises:
        ModuleNotFoundError: safetensors, of the extra `files`, is not installed.
    """
    with extra("files", "save"):
        from safetensors.torch import save as encoded
    tensors: dict[str, Tensor] = {}

    def named(tensor: Tensor) -> Any:
        name = f"{len(tensors)}"
        tensors[name] = tensor.detach().cpu().contiguous().clone()
        return {_TENSOR: name}

    text = json.dumps(mapped(named, plain(result)))
    content = encoded(tensors, metadata={"format": FORMAT, "result": text})
    target = Path(path)
    beside = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Any:
    """A `Diagonal`, `Samples`, `Estimate`, `Plan` or `Hessian` from a file that its `save` wrote.

    No program is in such a file, so that it can come from anywhere.

    Args:
        path: of the file.
        device: for the tensors.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no such file.
        ModuleNotFoundError: safetensors, of the extra `files`, is not installed.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from hessian import diagonal
        >>> data = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])
        >>> h = diagonal(nn.Linear(2, 1, bias=False), nn.functional.mse_loss, data)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     h.save(f"{folder}/h.safetensors")
        ...     again = load(f"{folder}/h.safetensors")
        >>> again["weight"], again.plan["weight"].method
        (tensor([[8., 2.]]), 'affine')
    """
    with extra("files", "load"):
        from safetensors import SafetensorError, safe_open
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: there is no file {os.fspath(path)!r}")
    try:
        # On the CPU first: it knows a list of devices, torch knows more.
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name).to(device) for name in names}
    except SafetensorError as error:
        raise ValueError(f"path: {os.fspath(path)!r} is no file of a result ({error})") from None
    if header.get("format") != FORMAT:
        raise ValueError(
            f"path: {os.fspath(path)!r} holds tensors, but no result that its save() wrote"
        )

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(v) for v in value]
        if isinstance(value, dict):
            if set(value) == {_TENSOR}:
                return tensors[value[_TENSOR]]
            return {k: filled(v) for k, v in value.items()}
        return value

    return built(filled(json.loads(header["result"])))


def load_as(cls: type[R], path: str | os.PathLike[str], device: torch.device | str) -> R:
    """What `load` returns, where it is of this class.

    Raises:
        ValueError: it is of another one.
    """
    result = load(path, device)
    if not isinstance(result, cls):
        raise ValueError(
            f"path: {os.fspath(path)!r} holds {type(result).__name__}, not {cls.__name__}; "
            "use hessian.load"
        )
    return result
