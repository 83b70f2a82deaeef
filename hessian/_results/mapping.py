"""What the results by parameter share: names, tables, pictures, files, devices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from hessian._call.names import fits, matching
from hessian._results import html, storage
from hessian._runtime.extras import extra

V = TypeVar("V")


class ByName(dict[str, V]):
    """A mapping from parameter name to values, with what a result needs beside them.

    ``result["0.weight"]`` finds the name through the prefixes of wrappers (``module.``,
    ``_orig_mod.``), too.
    """

    def __missing__(self, name: str) -> V:
        known = matching(name, self)
        if known is None:
            raise KeyError(name)
        return self[known]

    def _rows(self) -> list[dict[str, Any]]:
        """A row for each parameter."""
        raise NotImplementedError

    def _sizes(self) -> Mapping[str, Tensor]:
        """The values of each parameter whose sizes a picture shows, flat."""
        raise NotImplementedError

    def _facts(self) -> list[str]:
        """What a short text says beside the numbers of parameters and entries."""
        return []

    _what = "|h|"

    def __repr__(self) -> str:
        entries = sum(values.numel() for values in self._sizes().values())
        what = "sampled entries" if type(self).__name__ == "Samples" else "entries"
        facts = [f"{len(self):,} parameters", f"{entries:,} {what}", *self._facts()]
        return f"{type(self).__name__}({', '.join(facts)})"

    def _repr_html_(self) -> str:
        sizes = [
            (name, float(v.double().abs().mean())) for name, v in self._sizes().items() if v.numel()
        ]
        picture = html.bars(sizes, f"mean {self._what} by parameter, logarithmic")
        return f"<p><b>{html.escape(repr(self))}</b></p>{picture}{html.table(self._rows())}"

    def to_frame(self) -> Any:
        """A tidy pandas frame, one row per parameter tensor.

        Raises:
            ModuleNotFoundError: pandas, of the extra `display`, is not installed.
        """
        with extra("display", f"{type(self).__name__}.to_frame"):
            import pandas as pd
        return pd.DataFrame(self._rows())

    def plot(self, axes: Any = None) -> Any:
        """Draw sizes by parameter: quantiles 5 to 95 % as a line, 25 to 75 % thick, the median.

        On a logarithmic scale, so of the entries that are not zero; the share of zeros stands
        beside them. Filled marks are for parameters most of whose entries are positive.

        Args:
            axes: of matplotlib; new ones by default.

        Returns:
            The axes; ``.figure.savefig(path)`` writes them.

        Raises:
            ModuleNotFoundError: matplotlib, of the extra `display`, is not installed.
        """
        sizes = self._sizes()
        if axes is None:
            with extra("display", f"{type(self).__name__}.plot"):
                from matplotlib.figure import Figure
            height = min(1.4 + 0.2 * len(sizes), 40.0)
            axes = Figure(figsize=(7, height), layout="constrained").subplots()
        levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64, device="cpu")
        for place, values in enumerate(sizes.values()):
            values = values.detach().double().cpu().flatten()
            inside = values[values != 0].abs()
            if len(inside):
                q = _quantiles(inside, levels)
                axes.plot(q[[0, 4]], [place, place], color="C0", linewidth=1)
                axes.plot(q[[1, 3]], [place, place], color="C0", linewidth=4)
                full = "white" if float((values > 0).double().mean()) < 0.5 else "black"
                axes.plot(q[2], place, "o", color="black", markerfacecolor=full, markersize=4)
            zeros = 1 - len(inside) / max(1, len(values))
            if zeros:
                axes.annotate(
                    f"{100 * zeros:.0f} % are 0", (1, place), xycoords=("axes fraction", "data"),
                    ha="right", va="center", fontsize=7,
                )  # fmt: skip
        axes.set_yticks(range(len(sizes)), list(sizes), fontsize=7)
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel=self._what)
        return axes

    def layer(self, pattern: str) -> Self:
        """The same for some parameters alone: ``"layer1"``, ``"layer1.*"``, ``"*.bias"``.

        Raises:
            ValueError: none of the names fits.
        """
        names = {n for n in self if fits(n, pattern) or fits(n, f"{pattern}.*")}
        if not names:
            raise ValueError(
                f"pattern: {pattern!r} fits none of the parameters "
                f"{', '.join(list(self)[:8])}{', …' if len(self) > 8 else ''}"
            )
        part = type(self)((name, value) for name, value in self.items() if name in names)
        for key, value in vars(self).items():
            if isinstance(value, dict) and set(value) <= set(self):
                value = type(value)((k, v) for k, v in value.items() if k in names)
            elif hasattr(value, "of_names"):
                value = value.of_names(names)
            setattr(part, key, value)
        return part

    def to(self, device: torch.device | str) -> Self:
        """A copy with all tensors on a device."""
        moved: Self = storage.built(storage.mapped(lambda t: t.to(device), storage.plain(self)))
        return moved

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file of safetensors, for `hessian.load`; no pickle.

        Raises:
            ModuleNotFoundError: safetensors, of the extra `files`, is not installed.
        """
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """What `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is none that `save` of this class wrote.
            ModuleNotFoundError: safetensors, of the extra `files`, is not installed.
        """
        return storage.load_as(cls, path, device)

    def __reduce__(self) -> Any:
        return storage.built, (storage.plain(self),)


def tensor_row(name: str, values: Tensor, shape: Any = None) -> dict[str, Any]:
    """Statistics of one parameter's values: what the tables of all results begin with."""
    flat = values.detach().double().cpu().flatten()
    entries = flat if len(flat) else torch.full((1,), torch.nan, dtype=torch.float64, device="cpu")
    return {
        "parameter": name,
        "layer": name.rpartition(".")[0],
        "shape": "x".join(map(str, values.shape if shape is None else shape)),
        "entries": len(flat),
        "mean": float(entries.mean()),
        "median": float(entries.median()),
        "min": float(entries.min()),
        "max": float(entries.max()),
        "share_zero": float((entries == 0).double().mean()),
        "share_negative": float((entries < 0).double().mean()),
    }


def _quantiles(values: Tensor, levels: Tensor) -> Any:
    """Of any number of entries: `torch.quantile` refuses more than 2²⁴."""
    ordered = values.sort().values
    places = (levels * (len(ordered) - 1)).round().long()
    return ordered[places].numpy()
