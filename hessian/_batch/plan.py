"""The plan: for each parameter which exact method is used, why it is exact there, what it costs."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Self

import torch

from hessian._call.names import fits, matching
from hessian._results import html, storage
from hessian._results.storage import storable
from hessian._runtime.extras import extra

# Methods whose passes all their parameters share.
SHARING = ("affine", "columns", "chain")


@storable
@dataclass(frozen=True)
class Entry:
    """The plan of one parameter.

    Attributes:
        name: the parameter's name in the model.
        shape: its shape.
        method: ``"affine"`` (pulled-back columns, all samples at once), ``"columns"`` (the same,
            one pass per column and sample), ``"chain"`` (per-sample curvature carried down the
            network), ``"preactivation"`` (a Hessian-vector product per
            output and position of its site), ``"parameter"`` (one per entry),
            ``"separable"`` (only the loss reads it, entry by entry) or ``"zero"`` (nothing does).
        reason: why that method is exact here, or why no cheaper one is.
        forward: forward passes per batch; shared by all parameters of the same method.
        backward: backward passes per batch, likewise; a Hessian-vector product counts as two.
        site: number of the site, for ``"preactivation"``; parameters of one site share its passes.
        products: entries that take a Hessian-vector product each beside these passes.
    """

    name: str
    shape: tuple[int, ...]
    method: str
    reason: str
    forward: int
    backward: int
    site: int | None = None
    products: int = 0

    @property
    def numel(self) -> int:
        """Number of entries of the parameter."""
        count = 1
        for s in self.shape:
            count *= s
        return count


@storable
@dataclass(frozen=True, repr=False)
class Plan:
    """What `hessian.diagonal` does for each parameter; ``print(plan)`` is a table.

    Iterating yields one `Entry` per parameter; ``plan["name"]`` is one of them.

    Attributes:
        entries: the plans of the parameters, in the model's order.
        samples: number of samples in the batch that was looked at.
        parts: in how many parts of its samples the batch is taken; all counts of passes are for
            one part.
        held: why the batch is not taken in parts, where it needs more than the memory.
        advice: what would make it cheaper, or empty.
        columns: rank r of the loss's second derivative in the outputs (per sample where samples
            are not coupled), ``None`` where it was not needed.
    """

    entries: tuple[Entry, ...]
    samples: int
    columns: int | None = None
    parts: int = 1
    held: str = ""
    advice: str = ""
    _by_name: dict[str, Entry] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        self._by_name.update({entry.name: entry for entry in self.entries})

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Entry:
        return self._by_name[
            name if name in self._by_name else matching(name, self._by_name) or name
        ]

    def methods(self) -> dict[str, str]:
        """Method by parameter name."""
        return {entry.name: entry.method for entry in self.entries}

    def of_names(self, names: Container[str]) -> Self:
        """The plan of some of the parameters."""
        return replace(self, entries=tuple(entry for entry in self if entry.name in names))

    def layer(self, pattern: str) -> Self:
        """The plan of some parameters: ``"layer1"``, ``"layer1.*"``, ``"*.bias"``.

        Raises:
            ValueError: none of the names fits.
        """
        names = [e.name for e in self if fits(e.name, pattern) or fits(e.name, f"{pattern}.*")]
        if not names:
            raise ValueError(f"pattern: {pattern!r} fits none of {', '.join(self._by_name)}")
        return self.of_names(names)

    def to_frame(self) -> Any:
        """A tidy pandas frame, one row per parameter tensor.

        Raises:
            ModuleNotFoundError: pandas, of the extra `display`, is not installed.
        """
        with extra("display", "Plan.to_frame"):
            import pandas as pd
        return pd.DataFrame(self._rows())

    def plot(self, axes: Any = None) -> Any:
        """Draw the backward passes of each parameter as bars; returns matplotlib's axes.

        Raises:
            ModuleNotFoundError: matplotlib, of the extra `display`, is not installed.
        """
        if axes is None:
            with extra("display", "Plan.plot"):
                from matplotlib.figure import Figure
            height = min(1.4 + 0.2 * len(self), 40.0)
            axes = Figure(figsize=(7, height), layout="constrained").subplots()
        bars = axes.barh(range(len(self)), [entry.backward for entry in self], color="C0")
        axes.bar_label(bars, [entry.method for entry in self], fontsize=7, padding=2)
        axes.set_yticks(range(len(self)), [entry.name for entry in self], fontsize=7)
        axes.invert_yaxis()
        axes.set(xscale="symlog", xlabel="backward passes per batch (shared within a method)")
        return axes

    def to(self, device: torch.device | str) -> Self:
        """The plan itself: it holds no tensors. For code that moves any result."""
        torch.device(device)  # refuses what is none
        return self

    def trace(self) -> NoReturn:
        """A plan holds no second derivatives; `Diagonal.trace` is their sum.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a plan holds no second derivatives, so it has no trace; "
            "take hessian.diagonal(model, loss, data).trace()"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, for `hessian.load`; no pickle.

        Raises:
            ModuleNotFoundError: safetensors, of the extra `files`, is not installed.
        """
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """What `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is none that `save` of a plan wrote.
            ModuleNotFoundError: safetensors, of the extra `files`, is not installed.
        """
        return storage.load_as(cls, path, device)

    def __reduce__(self) -> Any:
        return storage.built, (storage.plain(self),)

    def __repr__(self) -> str:
        counts = Counter(entry.method for entry in self)
        methods = ", ".join(f"{count} {method}" for method, count in counts.most_common())
        return (
            f"Plan({len(self):,} parameters: {methods}; {self.forward:,} forward and "
            f"{self.backward:,} backward passes for {self.samples:,} samples)"
        )

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in (self.held, self.advice) if note)
        passes = html.bars(
            [(entry.name, float(entry.backward)) for entry in self],
            "backward passes by parameter, shared within a method, logarithmic",
        )
        head = f"<p><b>{html.escape(repr(self))}</b></p>"
        return f"{head}{notes}{passes}{html.table(self._rows())}"

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "parameter": entry.name,
                "shape": "x".join(map(str, entry.shape)),
                "entries": entry.numel,
                "method": entry.method,
                "backward": entry.backward,
                "forward": entry.forward,
                "why": entry.reason,
            }
            for entry in self
        ]

    @property
    def forward(self) -> int:
        """Forward passes per batch in total.

        In parts, each part's own, one of the whole batch for its outputs and one of two samples
        for the proof; and at weights nearby, one of the whole batch and one of each part.
        """
        each = 1 + any(
            entry.method in ("parameter", "preactivation") or entry.products
            for entry in self.entries
        )
        return each if self.parts == 1 else self.parts * (each + 1) + 3

    @property
    def backward(self) -> int:
        """Backward passes per batch in total, those for gradients included.

        One gradient comes with the result; products need one of their own, with its tape, at every
        site and once for all single entries.
        """
        shared = {
            e.method: e.backward for e in self.entries if e.method in ("affine", "columns", "chain")
        }
        by_entries = sum(e.backward for e in self.entries if e.method == "parameter")
        by_entries += 2 * sum(e.products for e in self.entries)
        separable = any(e.method == "separable" for e in self.entries)
        by_site = {e.site: e.backward for e in self.entries if e.method == "preactivation"}
        gradients = 1 + len(by_site) + (by_entries > 0)
        each = gradients + sum(shared.values()) + sum(by_site.values()) + by_entries
        return self.parts * each + 2 * separable

    def __str__(self) -> str:
        head = ("parameter", "shape", "method", "backward", "why")
        notes = {why: str(i + 1) for i, why in enumerate(dict.fromkeys(e.reason for e in self))}
        rows = [
            (e.name, "x".join(map(str, e.shape)) or "scalar", e.method, f"{e.backward:,}",
             f"({notes[e.reason]})") for e in self.entries
        ]  # fmt: skip
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(5)]

        def line(row: tuple[str, ...]) -> str:
            cells = [row[i].ljust(widths[i]) for i in range(3)] + [row[3].rjust(widths[3])]
            return "  ".join((*cells, row[4])).rstrip()

        def wrapped(text: str, mark: str = "") -> str:
            indent = " " * len(mark)
            return textwrap.fill(text, 80, initial_indent=mark, subsequent_indent=indent)

        foot = (
            f"{sum(e.numel for e in self.entries):,} entries; per batch of {self.samples}: "
            f"{self.forward:,} forward and {self.backward:,} backward passes (rows of one method "
            "share theirs; 'preactivation' those of one layer, 'parameter' none)."
        )
        if self.parts > 1:
            foot += (
                f" The samples are taken in {self.parts:,} parts, to keep within the memory; the "
                "rows count the passes of one part."
            )
        if self.held:
            foot += (
                " The batch needs more than the memory given, but cannot be taken in parts: "
                f"{self.held}."
            )
        why = [wrapped(reason, f"({mark}) ") for reason, mark in notes.items()]
        if self.advice:
            foot += f" {self.advice}"
        return "\n".join((line(head), *map(line, rows), *why, wrapped(foot)))
