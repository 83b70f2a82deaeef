"""The version of what is installed, which pyproject.toml alone states."""

from __future__ import annotations


def release() -> str:
    """The version of the distribution `cblr`; of a source tree that is not installed, 0+unknown.

    >>> release()[0]
    '0'
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("cblr")
    except PackageNotFoundError:
        return "0+unknown"
