"""The data of a reader's own, as `package.module:object`: so many samples of them as one batch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paper_checks.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMS = (
    "name a pair (inputs, targets), a mapping with the targets inside, a DataLoader, a data set of "
    "rows, or a function without arguments (or of split) that returns one"
)


@dataclass(frozen=True)
class OwnData:
    """What the object is: batches, in any form that `hessian.diagonal` takes."""

    name: str
    batches: Any

    def shape_and_classes(self) -> tuple[tuple[int, ...], int]:
        """What a built-in network is made for.

        Raises `InputError` where inputs are no tensor or targets no labels.
        """
        import torch
        from torch import nn

        from hessian import batches

        for inputs, targets in batches.pairs(self.batches, nn.Identity()):
            labels = isinstance(targets, torch.Tensor) and not targets.is_floating_point()
            if isinstance(inputs, torch.Tensor) and labels:
                whole = [y for _, y in batches.pairs(self.batches, nn.Identity())]
                return tuple(inputs.shape[1:]), 1 + max(int(y.max()) for y in whole)
            break
        raise InputError(
            "MODEL", self.name, "a built-in network needs pairs of a tensor and labels; name yours"
        )

    def pair(
        self, model: "nn.Module", samples: int, device: "torch.device | str"
    ) -> tuple[tuple[Any, Any], int]:
        """The first so many samples, or all if they are fewer, as one batch; and how many.

        Raises `InputError` where the batches are none, or cannot be put together.
        """
        import torch

        from hessian import batches
        from sim._measurements.samples import all_samples, count, rows

        def enough() -> Iterator[tuple[Any, Any]]:
            total = 0
            for inputs, targets in batches.pairs(self.batches, model):
                yield inputs, targets
                total += batches.size(inputs)
                if total >= samples:
                    return

        try:
            inputs, targets = all_samples(enough(), model)
            total = count(inputs)
        except (TypeError, ValueError) as error:
            raise InputError("--data", repr(self.name), f"{FORMS} ({error})") from None
        first, place = slice(min(samples, total)), torch.device(device)
        pair = rows(inputs, first, total, place), rows(targets, first, total, place)
        return pair, min(samples, total)


def own_data(name: str, value: Any, samples: int) -> OwnData:
    """Data from what the reader named.

    Raises `InputError` for an object that is none, or a function that fails.
    """
    from torch.utils.data import DataLoader, IterableDataset
    from torch.utils.data import Dataset as Rows

    from sim._own import made, takes
    from sim.data import Dataset

    if callable(value) and not isinstance(value, Mapping | Dataset | Rows | DataLoader):
        arguments = {"split": "train"} if takes(value, "split") else {}
        try:
            value = made(name, value, **arguments)
        except ValueError as error:
            remedy = str(error).removeprefix(f"got {name!r}; ")
            raise InputError("--data", repr(name), f"{FORMS}; {remedy}") from None
    if isinstance(value, Mapping) and {"train", "test"} <= set(value):
        value = value["train"]
    if isinstance(value, Dataset):
        value = value.pair
    elif _has_rows(value) and not isinstance(value, IterableDataset):
        value = DataLoader(value, batch_size=max(1, min(samples, len(value))))
    elif isinstance(value, IterableDataset):
        value = DataLoader(value, batch_size=samples)
    return OwnData(name, value)


def _has_rows(value: Any) -> bool:
    """A data set of torch's kind or Hugging Face's: rows by number, and how many."""
    import torch

    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        # Rows of a table, and not batches: a number stands in each.
        return any(not hasattr(each, "shape") or each.shape == () for each in value[0].values())
    plain = isinstance(value, tuple | list | str | Mapping | torch.Tensor)
    return not plain and hasattr(value, "__getitem__") and hasattr(value, "__len__")
