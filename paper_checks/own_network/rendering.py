"""The page of a reader's own network: its curvature first, then what may stand for it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from paper_checks import drawing
from paper_checks.check import Drawing
from paper_checks.numbers import short
from paper_checks.result import Result
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE, SKIPPED, tone

Entries = Mapping[str, tuple[Any, Any, Any]]
TRUST = {
    HOLDS: "values",
    IN_PART: "order only",
    CONTRADICTED: "nothing",
    SKIPPED: "does not apply",
    INCONCLUSIVE: "cannot be told",
}
_BEST_FIRST = (HOLDS, IN_PART, CONTRADICTED, INCONCLUSIVE, SKIPPED)
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def layer_rows(entries: Entries) -> list[dict[str, Any]]:
    """The exact curvature of each parameter tensor in short."""
    rows = []
    for name, (_, g, h) in entries.items():
        with np.errstate(divide="ignore", over="ignore"):
            radius = float(np.median((1 + g**2) ** 1.5 / np.abs(h)))
        rows.append(
            {
                "parameter": name,
                "entries": int(h.size),
                "trace": float(h.sum()),
                "median": float(np.median(np.abs(h))),
                "radius": radius if math.isfinite(radius) else None,
                "zero": f"{100 * float(np.mean(h == 0)):.0f}",
                "negative": f"{100 * float(np.mean(h < 0)):.0f}",
            }
        )
    return rows


def draw_layers(entries: Entries, network: str) -> Drawing | None:
    """The sizes of the exact second derivatives of each tensor; none where all are zero."""
    sizes = {name: np.abs(h[h != 0]) for name, (_, _, h) in entries.items()}
    if not any(each.size for each in sizes.values()):
        return None
    with drawing.style("own-layers"):
        chart = drawing.figure(9.0, min(1.5 + 0.26 * len(sizes), 40.0))
        axes = chart.subplots()
        for place, each in enumerate(sizes.values()):
            if each.size:
                low, first, middle, third, high = np.quantile(each, LEVELS)
                axes.plot([low, high], [place, place], color=drawing.BLUE, linewidth=1.2)
                axes.plot([first, third], [place, place], color=drawing.BLUE, linewidth=5)
                axes.plot(middle, place, "o", color=drawing.BLACK, markersize=4)
        axes.set_xscale("log")
        axes.set_yticks(range(len(sizes)), list(sizes))
        axes.set_ylim(len(sizes) - 0.5, -0.5)
        axes.set_xlabel("|second derivative| of one parameter, those of 0 left out")
    middles = {name: float(np.median(each)) for name, each in sizes.items() if each.size}
    largest, smallest = max(middles, key=middles.__getitem__), min(middles, key=middles.__getitem__)
    alt = (
        f"Sizes of the second derivatives of {len(sizes)} tensors of {network}, log scale. Largest "
        f"median {short(middles[largest])} in {largest}, smallest {short(middles[smallest])} in "
        f"{smallest}."
    )
    caption = (
        "Each line spans 5 to 95 % of a tensor's entries, the thick part 25 to 75 %, the dot is "
        f"the median. The largest median is {short(middles[largest])}, in {largest}; the smallest "
        f"{short(middles[smallest])}, in {smallest}."
    )
    return drawing.finished(chart, "own-layers", f"Curvature of {network} by layer", alt, caption)


def render(
    groups: Sequence[tuple[str, Sequence[Result]]],
    drawings: Mapping[str, Drawing],
    entries: Entries,
    facts: Mapping[str, Any],
) -> str:
    """The whole page; `groups` are headings with their results, `facts` as for `write_page`."""
    environment = Environment(
        loader=PackageLoader("paper_checks.own_network", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"tone": tone, "short": _short}
    network = str(facts.get("network", "a network"))
    count = sum(h.size for _, _, h in entries.values())
    samples = facts.get("samples")
    on = f"{samples} samples of {facts.get('dataset')}" if samples else str(facts.get("dataset"))
    lead = (
        f"The exact second derivative of the loss by each of its {count:,} parameters, one by one, "
        f"on {on}; and which cheap substitute may be used for what in this network."
    )
    shown = ("dataset", "samples", "device", "loss")
    every = [result for _, results in groups for result in results]
    return environment.get_template("own.html.j2").render(
        network=network,
        lead=lead,
        layers=layer_rows(entries),
        layers_picture=draw_layers(entries, network),
        groups=[
            {
                "heading": heading,
                "results": sorted(results, key=lambda r: _BEST_FIRST.index(r.verdict)),
            }
            for heading, results in groups
        ],
        drawings={result.id: drawings.get(result.id) for result in every},
        trust=TRUST,
        command=facts.get("command", ""),
        facts=[(name, facts[name]) for name in shown if name in facts],
    )


def _short(value: Any) -> str:
    return "infinite" if value is None else short(value)
