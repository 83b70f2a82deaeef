"""What an optional package is installed with, said where it is missed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

OURS = ("hessian", "paper_checks", "sim", "theory")


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Around the imports that `what` needs, which the extra `name` of `cblr` installs.

    Raises:
        ModuleNotFoundError: one is not installed; it names the extra.

    >>> with extra("display", "Density.plot"):
    ...     import no_such_package
    Traceback (most recent call last):
    ModuleNotFoundError: Density.plot needs no_such_package, which is not installed; ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing(error, name, what) from None


def missing(error: ModuleNotFoundError, name: str, what: str) -> ModuleNotFoundError:
    """The error to raise for one that an import raised; of a module of ours, that one itself."""
    package = (error.name or "").partition(".")[0]
    # Of an import inside another, what is said first is the nearest.
    if not package or package in OURS or "pip install" in str(error):
        return error
    return ModuleNotFoundError(
        f"{what} needs {package}, which is not installed; pip install 'cblr[{name}]'",
        name=error.name,
    )
