"""What every paper's sizes of an audit have in common, and how one of them is asked for."""

from collections.abc import Mapping
from typing import Protocol, TypeVar

from paper_checks.errors import InputError

DATASETS = ("digits", "cifar10", "gaussian")


class Sizes(Protocol):
    """The sizes of one audit; each paper adds its own, as the fields of a dataclass."""

    @property
    def name(self) -> str:
        """The profile's name."""

    @property
    def draws(self) -> int:
        """How many random numbers back each equation's experiment."""


Found = TypeVar("Found", bound=Sizes)


def select(profiles: Mapping[tuple[str, str], Found], name: str, dataset: str) -> Found:
    """The sizes of the profile `name` on `dataset`.

    Raises `InputError` for a name that is neither.
    """
    names = tuple(dict.fromkeys(one for one, _ in profiles))
    if name not in names:
        raise InputError("--profile", repr(name), f"choose one of {', '.join(names)}")
    if dataset not in DATASETS:
        raise InputError("--dataset", repr(dataset), f"choose one of {', '.join(DATASETS)}")
    if (name, dataset) not in profiles:
        known = " or ".join(data for one, data in profiles if one == name)
        raise InputError("--dataset", repr(dataset), f"the profile {name} is on {known}")
    return profiles[name, dataset]
