"""Tables and small pictures for notebooks, in HTML that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape as escape
from typing import Any

# Rows of a table, and bars of a picture; what is beyond is counted.
ROWS, BARS = 40, 40
_WIDTH, _HEIGHT, _LABEL = 560, 14, 220


def cell(value: Any) -> str:
    """A value as text: four digits of a number, and nothing for nan."""
    if isinstance(value, bool) or not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return "" if math.isnan(value) else f"{value:.4g}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as an HTML table."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(key.replace('_', ' '))}</th>" for key in rows[0])
    lines = []
    for row in rows[:ROWS]:
        cells = (f"<td>{escape(cell(value))}</td>" for value in row.values())
        lines.append(f"<tr>{''.join(cells)}</tr>")
    if len(rows) > ROWS:
        more = f"… and {len(rows) - ROWS:,} more"
        lines.append(f'<tr><td colspan="{len(rows[0])}">{more}</td></tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def bars(sizes: Iterable[tuple[str, float]], caption: str) -> str:
    """Sizes by name as horizontal bars on a logarithmic scale, an inline SVG; none for zeros."""
    every = [(name, size) for name, size in sizes if math.isfinite(size)]
    positive = [size for _, size in every if size > 0]
    if not positive:
        return ""
    top = math.log10(max(positive))
    bottom = min(max(math.log10(min(positive)), top - 12), top - 1)
    shown = every[:BARS]
    lines = []
    for place, (name, size) in enumerate(shown):
        y = place * _HEIGHT
        share = 0.0 if size <= 0 else (math.log10(size) - bottom) / (top - bottom)
        length = (0.03 + 0.97 * max(0.0, share)) * (_WIDTH - _LABEL - 70) if size > 0 else 0.0
        label = escape(name if len(name) <= 34 else f"…{name[-33:]}")
        lines.append(
            f'<text x="{_LABEL - 6}" y="{y + 11}" text-anchor="end">{label}</text>'
            f'<rect x="{_LABEL}" y="{y + 2}" width="{length:.1f}" height="10" fill="#4c78a8"/>'
            f'<text x="{_LABEL + length + 4:.1f}" y="{y + 11}">{size:.2g}</text>'
        )
    height = len(shown) * _HEIGHT + 4
    return (
        f'<figure style="margin:0"><svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" '
        f'height="{height}" font-size="10" font-family="sans-serif" fill="currentColor" '
        f'role="img" aria-label="{escape(caption)}">{"".join(lines)}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
