"""What an optional package is installed with; `hessian` is loaded only to say it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(what: str) -> Iterator[None]:
    """Around the imports that `what` needs, which `cblr[sim]` installs.

    Raises:
        ModuleNotFoundError: one is not installed; it names the extra.

    >>> with extra("the data set 'digits'"):
    ...     import no_such_package
    Traceback (most recent call last):
    ModuleNotFoundError: the data set 'digits' needs no_such_package, which is not installed; ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        from hessian._runtime.extras import missing

        raise missing(error, "sim", what) from None
