"""The referee's page: every estimate, four purposes, two published sentences, three pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement
from paper_checks.files import write_atomically
from paper_checks.referee import trust
from paper_checks.referee.cells import Cell, Sizes, table
from paper_checks.referee.networks import NETWORKS
from paper_checks.referee.trust import CRITERIA, PURPOSES
from paper_checks.result import Result, plain, write_results
from paper_checks.statements import digest
from paper_checks.statistics import Estimate, at_least

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Which estimate of curvature may be trusted, and for what"
TITLES = {
    "hutchinson": "Hutchinson's estimate",
    "preactivation": "Pre-activation probes",
    "gauss-newton": "The Gauss-Newton diagonal",
    "gauss-newton-mc": "Sampled Gauss-Newton, as in Sophia",
    "empirical-fisher": "The empirical Fisher diagonal",
    "becker-lecun": "Becker and LeCun's diagonal, HesScale",
    "hutch++": "Hutch++ for the diagonal",
    "xdiag": "XDiag",
    "k-fac": "K-FAC's diagonal",
    "ek-fac": "EK-FAC's diagonal",
    "input-moment": "The inputs' second moment (OBS, GPTQ)",
    "adam": "Adam's second moment",
    "ratio": "|g/w|, equation 17 of Gao and Zhong",
    "mclr": "MCLR's median over a tensor",
    "lars": "LARS's quotient of norms",
    "percent-delta": "PercentDelta's mean",
}
Cells = Sequence[tuple[Cell, Mapping[str, Any]]]


def served(shares: Mapping[str, Mapping[str, Estimate]]) -> dict[str, list[str]]:
    """For each purpose the estimates that are shown to serve it."""
    return {
        purpose: [
            estimate for estimate, each in shares.items()
            if at_least(each[purpose], trust.MOST).holds
        ]
        for purpose in PURPOSES
    }  # fmt: skip


def lead(shares: Mapping[str, Mapping[str, Estimate]]) -> str:
    """The answer in a few sentences, made of the verdicts."""
    parts = [
        f"for {PURPOSES[purpose].title}: {', '.join(names) or 'none of them'}"
        for purpose, names in served(shares).items()
    ]
    return (
        "Every estimate beside the exact second derivatives of the same network. Which may be "
        f"trusted, by the criteria below: {'; '.join(parts)}."
    )


def write(out: Path, cells: Cells, sizes: Sizes, facts: Mapping[str, Any]) -> list[Result]:
    """`index.html`, the pictures, `results.json` and `table.parquet` in `out`."""
    from paper_checks.report.page import render

    frame = table([(cell, dict(measured)) for cell, measured in cells])
    frame.to_parquet(out / "table.parquet", index=False)
    seeds = sorted({cell.seed for cell, _ in cells})
    names = [name for name in TITLES if name in set(frame["estimate"])]
    shares = {name: trust.shares(frame, name) for name in names}
    results: list[Result] = []
    drawings: dict[str, Drawing] = {}
    code = "paper_checks/referee/trust.py"

    def add(
        name: str, title: str, statement: str, kind: str, judgement: Judgement,
        measurements: Any, picture: Drawing | None = None,
    ) -> None:  # fmt: skip
        if picture is not None:
            drawings[name] = picture
            write_atomically(out / f"{name}.svg", picture.svg)
        results.append(
            Result(
                id=name, kind="claim", verdict=judgement.verdict, statement=statement,
                criterion=CRITERIA[kind], predicted=plain(judgement.predicted),
                measured=plain(judgement.measured), interval=plain(judgement.interval),
                tolerance=judgement.tolerance, reason=judgement.reason, seeds=seeds, seconds=0.0,
                figure=f"{name}.svg" if picture else None, environment=dict(facts), title=title,
                alt=picture.alt if picture else None, caption=picture.caption if picture else None,
                criterion_hash=digest(statement, CRITERIA[kind]), code=code, p=judgement.p,
                measurements=plain(measurements),
            )
        )  # fmt: skip

    pictures = {
        names[0]: draw_errors(frame, names),
        names[-1]: draw_purposes(shares),
    }
    pictures.setdefault("preactivation", draw_cost(frame, names))
    for name in names:
        statement = f"{TITLES[name]} may stand for the exact second derivatives."
        summary = {purpose: list(each) for purpose, each in shares[name].items()}
        judgement = trust.judge_estimate(shares[name], len(seeds))
        add(
            f"referee-{name.replace('+', 'p')}", TITLES[name], statement, "estimate", judgement,
            summary, pictures.get(name),
        )  # fmt: skip
    traces = [{"seed": c.seed, **row} for c, measured in cells for row in measured["traces"]]
    blocks = [{"seed": c.seed, **measured["blocks"]} for c, measured in cells]
    add(
        "referee-traces", "A layer's trace from 5 to 10 Hutchinson probes",
        "5 to 10 Hutchinson probes suffice for a layer's trace (arXiv 2605.25674).",
        "traces", trust.judge_traces(traces), summary_of(traces),
    )  # fmt: skip
    add(
        "referee-blocks", "What the blocks of the layers leave out",
        "Block-diagonal approximations of the Hessian have errors of order one "
        "(arXiv 2602.00816).",
        "blocks", trust.judge_blocks(blocks), {"blocks": blocks},
    )  # fmt: skip
    write_results(out / "results.json", results)
    page = render(results, drawings, title=TITLE, lead=lead(shares))
    write_atomically(out / "index.html", page)
    return results


def summary_of(traces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Quantiles of the trace errors by the number of probes."""
    return {
        str(probes): np.quantile(
            [r["error"] for r in traces if r["probes"] == probes and r["way"] == "layer"]
            or [np.nan],
            (0.05, 0.25, 0.5, 0.75, 0.95),
        ).tolist()
        for probes in (5, 10)
    }


def _whole(frame: "pd.DataFrame") -> "pd.DataFrame":
    return frame[frame["parameter"] == "*"]


def draw_errors(frame: "pd.DataFrame", names: Sequence[str]) -> Drawing:
    """The relative error of every estimate on every network, in both states: medians over seeds."""
    whole = _whole(frame)
    columns = list(dict.fromkeys(zip(whole["network"], whole["state"], strict=True)))
    middle = whole.groupby(["estimate", "network", "state"])["relative_error"].median()
    image = np.array(
        [[middle.get((name, *column), np.nan) for column in columns] for name in names]
    )
    with drawing.style("referee-errors"):
        chart = drawing.figure(11.0, 6.5)
        axes = chart.subplots()
        colours = axes.imshow(
            np.log10(np.clip(image, 1e-4, 1e2)), cmap="cividis_r", aspect="auto", vmin=-3, vmax=1
        )
        for y, row in enumerate(image):
            for x, value in enumerate(row):
                if np.isfinite(value):
                    dark = np.log10(max(value, 1e-4)) > -1
                    text = "0" if value < 1e-5 else f"{value:.2g}" if value < 100 else ">99"
                    axes.text(x, y, text, ha="center", va="center", fontsize=7,
                              color="white" if dark else "black")  # fmt: skip
        axes.grid(visible=False)
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(
            range(len(columns)), [f"{a}, {b}" for a, b in columns], rotation=60, ha="right"
        )
        chart.colorbar(colours, ax=axes, label="log10 of the relative error")
    best = whole.groupby("estimate")["relative_error"].median().sort_values()
    alt = (
        f"Relative error of {len(names)} estimates on {len(columns)} networks and states. "
        f"Middle over all: {', '.join(f'{k} {v:.2g}' for k, v in best.items())}."
    )
    caption = (
        "Norm of the error over the norm of the exact diagonal, all tensors that the estimate "
        "serves together, 8 probes or products where it takes any; medians over seeds. An empty "
        "place is a network that the estimate does not serve."
    )
    return drawing.finished(chart, "referee-errors", "Errors of all estimates", alt, caption)


def draw_cost(frame: "pd.DataFrame", names: Sequence[str]) -> Drawing:
    """Error against cost, a point per network and state."""
    whole = _whole(frame)
    groups = whole.groupby(["estimate", "network", "state"])[["relative_error", "gradients"]]
    middle = groups.median().reset_index()
    palette = (
        drawing.BLUE, drawing.ORANGE, drawing.GREEN, drawing.VERMILION, drawing.PURPLE,
        drawing.SKY, drawing.BLACK, drawing.GREY,
    )  # fmt: skip
    with drawing.style("referee-cost"):
        chart = drawing.figure(9.0, 6.0)
        axes = chart.subplots()
        for number, name in enumerate(names):
            part = middle[middle["estimate"] == name]
            axes.plot(
                part["gradients"], part["relative_error"].clip(lower=1e-5),
                "osD^v"[number // len(palette)], color=palette[number % len(palette)],
                markersize=5, alpha=0.8, label=name,
            )  # fmt: skip
        axes.axhline(0.1, color=drawing.BLACK, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("cost of one draw (gradients of the same data, processor time)")
        axes.set_ylabel("relative error of the diagonal")
        chart.legend(loc="outside right upper")
    costs = middle.groupby("estimate")["gradients"].median().sort_values()
    alt = (
        "Error against cost of every estimate on every network, both logarithmic. Middle cost in "
        f"gradients: {', '.join(f'{k} {v:.2g}' for k, v in costs.items())}."
    )
    caption = "Below the dashed line an estimate is off by less than a tenth. Errors below 1e-5 "
    caption += "stand at 1e-5."
    return drawing.finished(chart, "referee-cost", "Error against cost", alt, caption)


def draw_purposes(shares: Mapping[str, Mapping[str, Estimate]]) -> Drawing:
    """For each purpose the share of networks that each estimate serves, with its interval."""
    names = list(shares)
    with drawing.style("referee-purposes"):
        chart = drawing.figure(11.0, 5.5)
        panels = chart.subplots(1, len(PURPOSES), sharey=True)
        for axes, purpose in zip(panels, PURPOSES, strict=True):
            values = [shares[name][purpose] for name in names]
            low, high = (
                [float(np.clip(each.interval()[k], 0, 1)) for each in values] for k in (0, 1)
            )
            axes.hlines(range(len(names)), low, high, color=drawing.GREY, linewidth=2)
            axes.plot([each.value for each in values], range(len(names)), "o", color=drawing.BLUE)
            axes.axvline(trust.MOST, color=drawing.VERMILION, linestyle="--", linewidth=1)
            axes.set_xlim(-0.03, 1.03)
            axes.set_title(purpose)
            axes.set_xlabel("share of networks")
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
    services = "; ".join(
        f"{purpose}: {', '.join(each) or 'none'}" for purpose, each in served(shares).items()
    )
    alt = f"Share of networks in which each estimate would do, by purpose. Served: {services}."
    caption = (
        "Points are means over seeds, bars 95 % intervals; right of the dashed line the estimate "
        "may be trusted for that purpose."
    )
    return drawing.finished(chart, "referee-purposes", "What each may be used for", alt, caption)


def network_title(name: str) -> str:
    """A network as a reader says it.

    >>> network_title("gpt2")
    'GPT-2, next letter'
    """
    return NETWORKS[name].title if name in NETWORKS else name
