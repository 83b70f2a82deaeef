"""The exact diagonal of an operator's matrix, where it is asked for or cheap."""

from __future__ import annotations

from torch import Tensor

from hessian._diagonal import diagonal, plan
from hessian._estimate import estimate
from hessian._spectrum.scaled import Scaled
from hessian._spectrum.source import Source
from hessian._spectrum.written_out import WrittenOut

# Kinds whose diagonal `estimate` gives without probes, by the name that they have there.
_DIAGONALS = {
    "gauss-newton": "gauss-newton",
    "fisher": "gauss-newton",
    "empirical-fisher": "empirical-fisher",
}


def known_diagonal(
    source: Source | WrittenOut | Scaled, method: str, products: int
) -> dict[str, Tensor] | None:
    """The diagonal with ``"exact"``; with ``"auto"`` if it takes no more than so many products."""
    if method not in ("auto", "exact"):
        return None
    if isinstance(source, Scaled):
        of_base = known_diagonal(source.base, method, products)
        return None if of_base is None else source.diagonal(of_base)
    if isinstance(source, WrittenOut):
        return source.diagonal()
    call = (source.model, source.loss, source.data)
    if source.kind == "hessian":
        with source.as_then():
            # A product is two backward passes.
            if method == "auto" and plan(*call, **source.options()).backward > 2 * products:
                return None
            return diagonal(*call, **source.options())
    source.lent(lambda vectors, _: vectors.prepare(), keep=False)  # refuses what is no Fisher
    try:
        with source.as_then():
            return estimate(*call, _DIAGONALS[source.kind], **source.options())
    except ValueError:  # samples are not proved to stay apart
        if method == "exact":
            raise
    return None
