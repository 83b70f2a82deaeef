"""How an operator shows itself and is stored: names, sizes, a picture, all of its entries."""

from __future__ import annotations

import os
from typing import Any, Self

import torch

from hessian._results import html, storage
from hessian._runtime.extras import extra
from hessian._spectrum.written_out import WrittenOut, written


class Display:
    """What `Hessian` shows, for which the matrix itself is never made, and what keeps all of it."""

    kind: str
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, int]
    dtype: Any
    samples: int
    _source: Any

    def density(self) -> Any:
        """The density of the eigenvalues."""
        raise NotImplementedError

    def to_frame(self) -> Any:
        """A tidy pandas frame of the parameters, at no cost; `Hessian.layers` has their curvature.

        Raises:
            ModuleNotFoundError: pandas, of the extra `display`, is not installed.
        """
        with extra("display", "Hessian.to_frame"):
            import pandas as pd
        return pd.DataFrame(self._rows())

    def plot(self, axes: Any = None) -> Any:
        """Draw the density of the eigenvalues, which takes some 320 products; returns the axes.

        Raises:
            ModuleNotFoundError: matplotlib, of the extra `display`, is not installed.
        """
        if axes is None:
            with extra("display", "Hessian.plot"):
                from matplotlib.figure import Figure
            axes = Figure(figsize=(7, 4), layout="constrained").subplots()
        return self.density().plot(axes)

    def to(self, device: torch.device | str) -> Any:
        """The matrix itself on a device, with the same methods, free of model and data.

        It takes P products, and P² entries within the operator's `memory`; `layer` has less.

        Raises:
            ValueError: the entries take more than the memory; `layer` makes a block.
        """
        torch.empty(0, device=device)  # one that there is not is refused before the products
        return storage.built(storage.mapped(lambda t: t.to(device), storage.plain(self)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the matrix itself to a file of safetensors, for `hessian.load`; no pickle.

        What is loaded has the same methods, and needs neither model nor data. It takes P products,
        and P² entries within the operator's `memory`; ``h.layer("layer1").save(path)`` writes a
        block.

        Raises:
            ValueError: the entries take more than the memory.
            ModuleNotFoundError: safetensors, of the extra `files`, is not installed.
        """
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """What `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is none that `save` of an operator wrote.
            ModuleNotFoundError: safetensors, of the extra `files`, is not installed.
        """
        return storage.load_as(cls, path, device)

    def _within(self, compute: Any) -> Any:
        """What is computed with products."""
        raise NotImplementedError

    def _fields(self) -> dict[str, Any]:
        """What makes it up in a file."""
        rows = self._source.rows if isinstance(self._source, WrittenOut) else None
        rows = self._within(written) if rows is None else rows
        return {
            "kind": self.kind, "names": self.names, "shapes": self.shapes,
            "samples": self.samples, "rows": rows,
        }  # fmt: skip

    def __reduce__(self) -> Any:
        return storage.built, (storage.plain(self),)

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        first = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            entries = torch.Size(shape).numel()
            rows.append(
                {
                    "parameter": name,
                    "layer": name.rpartition(".")[0],
                    "shape": "x".join(map(str, shape)),
                    "entries": entries,
                    "first_row": first,
                }
            )
            first += entries
        return rows

    def __repr__(self) -> str:
        size = self.shape[0]
        kind = "" if self.kind == "hessian" else f"{self.kind}, "
        return f"Hessian({kind}{size:,} x {size:,}, {len(self.names):,} parameters, {self.dtype})"

    def _repr_html_(self) -> str:
        sizes = html.bars(
            [(row["parameter"], float(row["entries"])) for row in self._rows()],
            "entries by parameter, logarithmic",
        )
        return f"<p><b>{html.escape(repr(self))}</b></p>{sizes}{html.table(self._rows())}"
