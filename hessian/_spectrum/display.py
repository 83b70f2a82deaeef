"""How an operator shows itself: names and sizes at no cost, its density as a picture."""

from __future__ import annotations

from typing import Any

import torch

from hessian._call.names import fits
from hessian._results import html
from hessian._runtime.extras import extra


class Display:
    """What `Hessian` shows; the matrix itself is never made for it."""

    kind: str
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, int]
    dtype: Any

    def layer(self, pattern: str) -> Any:
        """The diagonal block of some parameters: ``"layer1"``, ``"layer1.*"``, ``"*.bias"``.

        Raises:
            ValueError: none of the names fits.
        """
        fitting = any(fits(name, pattern) for name in self.names)
        return self.restricted(pattern if fitting else f"{pattern}.*")

    def restricted(self, *patterns: str) -> Any:
        """The diagonal block of the parameters whose names match."""
        raise NotImplementedError

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
