"""The plan: for each parameter which exact method is used, why it is exact there, what it costs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

from hessian._call.names import matching

# Methods whose passes all their parameters share.
SHARING = ("affine", "columns", "chain")


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


@dataclass(frozen=True)
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
    _by_name: dict[str, Entry] = field(default_factory=dict, repr=False, compare=False)

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
