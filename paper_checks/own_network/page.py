"""A reader's own network: which approximations of its curvature may be trusted, as a page."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement
from paper_checks.files import write_atomically
from paper_checks.numbers import short
from paper_checks.papers.gao2020.claims import CLAIMS
from paper_checks.papers.gao2020.claims.layer_statistics_usable import STATISTICS, compare
from paper_checks.papers.gao2020.figures import FIGURES, _reducers, fig_b, fig_radius
from paper_checks.papers.gao2020.figures._lines import MARKERS, PALETTE
from paper_checks.result import Result, plain, write_results
from paper_checks.statements import digest
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE, SKIPPED

if TYPE_CHECKING:
    import pandas as pd

ESTIMATORS = {
    "hutchinson": "Hutchinson's estimate",
    "preactivation": "Pre-activation probes",
    "gauss-newton": "The Gauss-Newton diagonal",
    "gauss-newton-mc": "Sampled Gauss-Newton",
    "empirical-fisher": "The empirical Fisher",
    "becker-lecun": "Becker and LeCun's back-propagated diagonal",
}
PROBES = 8
ERROR, SHARE, RANK, FACTOR = 0.1, 0.9, 0.8, 3.0
# What the statistics of a layer are called here.
RATES = {
    "ratio_median": ("own-median-ratio", "median of |w/g|"),
    "ratio_finite_mean": ("own-mean-ratio", "mean of |w/g|"),
    "eq24_nonzero": ("own-percent-delta", "PercentDelta: 1 / mean of |g/w|"),
    "eq23": ("own-lars", "LARS: ‖w‖ / ‖g‖"),
}


def estimate_rows(
    diagonal: Any, estimate: Callable[[str], Mapping[str, Any]], kinds: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Each estimator's relative error and rank correlation by tensor; a reason where it cannot."""
    rows: list[dict[str, Any]] = []
    for kind in kinds or ESTIMATORS:
        try:
            guess = estimate(kind)
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as refused:
            rows.append({"kind": kind, "reason": " ".join(str(refused).split()), "tensors": []})
            continue
        tensors = []
        for name, exact in diagonal.items():
            h = exact.detach().double().cpu().numpy().ravel()
            g = guess[name].detach().double().cpu().numpy().ravel()
            if h.any():
                error = float(np.linalg.norm(g - h) / np.linalg.norm(h))
                tensors.append({"parameter": name, "error": error, "rank": _rank(g, h)})
        rows.append({"kind": kind, "reason": "", "tensors": tensors})
    return rows


def _rank(guess: Any, exact: Any, most: int = 100_000) -> float:
    from paper_checks.statistics import rank_correlation

    if exact.size > most:
        place = np.random.default_rng(0).choice(exact.size, most, replace=False)
        guess, exact = guess[place], exact[place]
    return rank_correlation(np.abs(guess).tolist(), np.abs(exact).tolist())


def judge_estimate(row: Mapping[str, Any]) -> Judgement:
    """Whether an estimator's values, or at least their order, are the exact ones'."""
    tensors = row["tensors"]
    if row["reason"]:
        return Judgement(SKIPPED, None, None, f"Does not apply: {row['reason']}")
    if not tensors:
        return Judgement(INCONCLUSIVE, None, None, "The network has no curvature.")
    near = sum(each["error"] <= ERROR for each in tensors) / len(tensors)
    ranked = sum(each["rank"] >= RANK for each in tensors) / len(tensors)
    errors = sorted(each["error"] for each in tensors)
    verdict = HOLDS if near >= SHARE else IN_PART if ranked >= SHARE else CONTRADICTED
    reason = (
        f"Relative error by tensor {short(errors[0])} to {short(errors[-1])}, middle "
        f"{short(errors[len(errors) // 2])}; at most {ERROR:g} in {100 * near:.0f} % of the "
        f"tensors; the order of the entries is right (rank correlation at least {RANK:g}) in "
        f"{100 * ranked:.0f} %."
    )
    return Judgement(
        verdict, f"≤ {ERROR:g}", errors[len(errors) // 2], reason, (errors[0], errors[-1]), ERROR
    )


def judge_statistic(rows: Sequence[Mapping[str, Any]], column: str) -> Judgement:
    """Whether a layer's statistic of |w/g| stands for the median of its exact radii."""
    usable = [
        row
        for row in rows
        if all(row[key] and math.isfinite(row[key]) for key in ("radius_finite_q50", column))
    ]
    if len(usable) < 4:
        return Judgement(INCONCLUSIVE, None, None, f"Only {len(usable)} tensors can be compared.")
    share, rank = compare(usable, column, FACTOR)
    verdict = HOLDS if share >= SHARE else IN_PART if rank >= RANK else CONTRADICTED
    quotients = sorted(row[column] / row["radius_finite_q50"] for row in usable)
    reason = (
        f"Up to one common factor, {100 * share:.0f} % of the tensors are within a factor "
        f"{FACTOR:g} of the exact median radius; rank correlation over the tensors {short(rank)}. "
        f"Without that factor it is {short(quotients[0])} to {short(quotients[-1])} times the "
        "median."
    )
    return Judgement(verdict, f"≥ {SHARE:g}", share, reason)


def judge_square(rows: Sequence[Mapping[str, Any]]) -> Judgement:
    """Whether g² may be dropped against 1."""
    limit = CLAIMS["claim-squared-gradient-negligible"].thresholds["largest"]
    largest = max(row["gradient_squared_max"] for row in rows)
    typical = max(row["gradient_squared_q99"] for row in rows)
    verdict = HOLDS if largest <= limit else IN_PART if typical <= limit else CONTRADICTED
    reason = (
        f"The largest g² is {short(largest)}, the largest 0.99 quantile of a tensor "
        f"{short(typical)}; dropping it changes a radius by up to "
        f"{short(100 * ((1 + largest) ** 1.5 - 1))} %."
    )
    return Judgement(verdict, f"≤ {limit:g}", largest, reason)


def write_page(
    out: Path,
    frame: "pd.DataFrame",
    entries: Mapping[str, tuple[Any, Any, Any]],
    estimates: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> list[Result]:
    """Judge every approximation, write `index.html` and `results.json` into `out`.

    `frame` is `sim.compare_radii`'s, `entries` maps a name to flat w, g, h, `estimates` are
    `estimate_rows`; `facts` go into each result's environment (with the `command`).
    """
    from paper_checks.own_network.rendering import render

    # Of tensors without entries, which some networks have, there is nothing to say.
    rows = [row for row in plain(frame.to_dict("records")) if row["size"]]
    entries = {name: parts for name, parts in entries.items() if parts[0].size}
    for row in rows:
        w, g, _ = entries[row["parameter"]]
        alive = g != 0
        ratio = np.abs(w[alive] / g[alive])
        row["ratio_median"] = float(np.median(ratio)) if ratio.size else None
        row["ratio_finite_mean"] = float(ratio.mean()) if ratio.size else None
    results: list[Result] = []
    drawings: dict[str, Drawing] = {}

    def add(
        name: str,
        title: str,
        statement: str,
        criterion: str,
        judgement: Judgement,
        measurements: Mapping[str, Any],
        picture: Drawing | None = None,
    ) -> None:
        if picture is not None:
            drawings[name] = picture
            write_atomically(out / f"{name}.svg", picture.svg)
        results.append(
            Result(
                id=name,
                kind="claim",
                verdict=judgement.verdict,
                statement=statement,
                criterion=criterion,
                predicted=plain(judgement.predicted),
                measured=plain(judgement.measured),
                interval=plain(judgement.interval),
                tolerance=judgement.tolerance,
                reason=judgement.reason,
                seeds=[],
                seconds=0.0,
                figure=f"{name}.svg" if picture else None,
                environment=dict(facts),
                title=title,
                alt=picture.alt if picture else None,
                caption=picture.caption if picture else None,
                criterion_hash=digest(statement, criterion),
                code="paper_checks/own_network/page.py",
                measurements=plain(measurements),
            )
        )

    out.mkdir(parents=True, exist_ok=True)
    tensors = [
        {"seed": 0, "parameter": name} | _reducers.ranks(*parts)
        for name, parts in entries.items()
        if name.endswith("weight") or parts[0].size >= 100
    ]
    ranked = [row for row in tensors if "rank_shuffled" in row]
    # A network without curvature, or one of a few entries, has nothing to show there.
    density = _reducers.density(list(entries.values())) if ranked else None
    radius = {"rows": tensors, "density": density}
    figure = FIGURES["fig-radius"]
    add(
        "own-radius",
        "|w/g| of the parameter",
        "|w/g| may stand for the exact radius of each parameter.",
        figure.criterion,
        fig_radius.judge({**radius, "rows": ranked}, figure.thresholds),
        radius,
        fig_radius.draw(radius) if ranked else None,
    )
    places = {
        "rows": [
            {"seed": 0, "parameter": name} | _reducers.place(*parts)
            for name, parts in entries.items()
        ]
    }
    figure = FIGURES["fig-b"]
    add(
        "own-b",
        "Zero, for the minimum of the parabola through a parameter",
        "The parabola through a parameter may be taken to have its minimum at zero.",
        figure.criterion,
        fig_b.judge(places, figure.thresholds),
        places,
    )
    add(
        "own-square",
        "1/|h|, with g² dropped against 1",
        "The squared gradient may be dropped in the radius (1 + g²)^{3/2}/|h|.",
        CLAIMS["claim-squared-gradient-negligible"].criterion,
        judge_square(rows),
        {"rows": [{k: r[k] for k in ("parameter", "gradient_squared_max")} for r in rows]},
    )
    for column in STATISTICS.values():
        name, title = RATES[column]
        add(
            name,
            title,
            f"The {title} may set a layer's learning rate as its median radius would.",
            f"Holds if, up to one common factor, it is within a factor {FACTOR:g} of the exact "
            f"median radius in at least {SHARE:g} of the tensors; in part if only its rank "
            f"correlation over the tensors is at least {RANK:g}; contradicted otherwise.",
            judge_statistic(rows, column),
            {"rows": [{k: r[k] for k in ("parameter", "radius_finite_q50", column)} for r in rows]},
        )
    for number, row in enumerate(estimates):
        add(
            f"own-{row['kind']}",
            ESTIMATORS[row["kind"]],
            f"{ESTIMATORS[row['kind']]} ({PROBES} probes where it takes any) may stand for the "
            "exact second derivatives.",
            f"Holds if in at least {SHARE:g} of the tensors the relative error (of norms) is at "
            f"most {ERROR:g}; in part if in as many the rank correlation of the sizes of its "
            f"entries is at least {RANK:g}; contradicted otherwise.",
            judge_estimate(row),
            {"rows": row["tensors"]},
            draw_estimates(estimates) if number == 0 else None,
        )
    write_results(out / "results.json", results)
    rates = {name for name, _ in RATES.values()}
    single = [r for r in results if r.id in ("own-radius", "own-b", "own-square")]
    groups = [
        ("Which estimate of the second derivatives to trust, for what", results[-len(estimates) :]),
        ("What may set the learning rate of a layer", [r for r in results if r.id in rates]),
        ("What may stand for the radius of a single parameter", single),
    ]
    write_atomically(out / "index.html", render(groups, drawings, entries, facts))
    return results


def draw_estimates(estimates: Sequence[Mapping[str, Any]]) -> Drawing:
    """The relative error of every estimator, tensor by tensor."""
    usable = [row for row in estimates if row["tensors"]]
    names = [each["parameter"] for each in usable[0]["tensors"]] if usable else []
    with drawing.style("own-estimates"):
        chart = drawing.figure(9.0, 4.8)
        axes = chart.subplots()
        for number, row in enumerate(usable):
            axes.plot(
                range(len(names)),
                [max(each["error"], 1e-9) for each in row["tensors"]],
                marker=MARKERS[number % len(MARKERS)],
                color=PALETTE[number % len(PALETTE)],
                linestyle="none",
                label=row["kind"],
            )
        axes.axhline(ERROR, color=drawing.BLACK, linestyle="--", linewidth=1)
        axes.set_yscale("log")
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_ylabel("relative error of the diagonal")
        if usable:
            chart.legend(loc="outside upper center", ncols=3)
    told = ", ".join(
        f"{row['kind']} {short(float(np.median([each['error'] for each in row['tensors']])))}"
        for row in usable
    )
    alt = f"Relative error of {len(usable)} estimators by tensor, log scale. Medians: {told}."
    caption = (
        f"Norm of the error over the norm of the exact diagonal. Below the dashed line, {ERROR:g}, "
        "an estimate may stand for the exact value."
    )
    return drawing.finished(chart, "own-estimates", "Estimators by tensor", alt, caption)
