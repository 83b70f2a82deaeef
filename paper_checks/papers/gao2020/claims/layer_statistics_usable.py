"""Can a layer's statistic of equation 17 replace its exact median radius?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import points, short, spread
from paper_checks.papers.gao2020.claims._networks import PROTOCOL as NETWORKS
from paper_checks.papers.gao2020.claims._networks import networks
from paper_checks.papers.gao2020.measurements.context import SNAPSHOTS
from paper_checks.papers.gao2020.statements import CLAIMS
from paper_checks.shared import reads
from paper_checks.statistics import any_of, at_least, conclude, mean, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    *NETWORKS,
    "Each statistic over the exact median radius of the same tensor, in decades; the median over "
    "the tensors is subtracted, since one common factor belongs to γ.",
    "Four statistics are tried, so one of them has four chances to pass.",
)
NAME = "claim-layer-statistics-usable"
BAND = CLAIMS[NAME].thresholds["factor"]
STATISTICS = {
    "median |w/g|": "ratio_median",
    "mean |w/g| (equation 17 averaged)": "ratio_finite_mean",
    "harmonic mean (equation 24)": "eq24_nonzero",
    "ratio of norms (equation 23)": "eq23",
}


@reads(SNAPSHOTS)
def measure(context: "Context") -> dict[str, Any]:
    """The exact median radius and the four statistics of every tensor."""
    measurements = networks(
        context,
        (
            "error_count",
            "radius_finite_q50",
            "ratio_finite",
            "ratio_finite_mean",
            "eq24_nonzero",
            "eq23",
        ),
    )
    for network in measurements["networks"]:
        for row in network["rows"]:
            ratio = row.pop("ratio_finite")
            row["ratio_median"] = ratio[1] if ratio else None
    return measurements


def compare(rows: list[Mapping[str, Any]], column: str, factor: float) -> tuple[float, float]:
    """The share of tensors within `factor` after one common factor, and the rank correlation."""
    from scipy.stats import rankdata

    exact = np.log10([row["radius_finite_q50"] for row in rows])
    statistic = np.log10([row[column] for row in rows])
    misfit = statistic - exact
    within = np.abs(misfit - np.median(misfit)) <= np.log10(factor)
    if np.ptp(statistic) == 0 or np.ptp(exact) == 0:
        return float(within.mean()), 0.0
    correlation = np.corrcoef(rankdata(statistic), rankdata(exact))[0, 1]
    return float(within.mean()), float(correlation)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Each of the four statistics has its chance: shares of tensors and ranks, seed by seed."""
    predicted, tensors = f"≥ {thresholds['most']:g}", 1
    agreements: dict[str, list[tuple[float, float]]] = {title: [] for title in STATISTICS}
    for network in measurements["networks"]:
        usable = [
            row
            for row in network["rows"]
            if row["error_count"] >= thresholds["entries"]
            and all(row[column] for column in ("radius_finite_q50", *STATISTICS.values()))
        ]
        if len(usable) < thresholds["tensors"]:
            return too_few(predicted, f"Only {len(usable)} tensors can be compared.")
        tensors = len(usable)
        for title, column in STATISTICS.items():
            agreements[title].append(compare(usable, column, thresholds["factor"]))
    shares = {
        title: mean([share for share, _ in each], 1 / tensors) for title, each in agreements.items()
    }
    ranks = {title: mean([rank for _, rank in each]) for title, each in agreements.items()}
    reason = "Share of tensors within the factor, and rank correlation: "
    reason += "; ".join(
        f"{title} {100 * shares[title].value:.0f} % {points(shares[title].interval())}, "
        f"{short(ranks[title].value, 2)} {spread(ranks[title].interval())}"
        for title in STATISTICS
    )
    near = {title: at_least(each, thresholds["most"]) for title, each in shares.items()}
    ordered = {title: at_least(each, thresholds["rank"]) for title, each in ranks.items()}
    # What is near in most tensors need not be ordered where they differ by less than the factor.
    core = any_of(*near.values(), *ordered.values())
    best = max(shares.values(), key=lambda each: each.value)
    return conclude(core, [any_of(*near.values())], predicted, best, f"{reason}.")


def draw(measurements: Measurements) -> Drawing:
    """The first seed's tensors: each statistic, its common factor divided out, against exact R."""
    rows = [
        row
        for row in measurements["networks"][0]["rows"]
        if all(row[column] for column in ("radius_finite_q50", *STATISTICS.values()))
    ]
    exact = np.array([row["radius_finite_q50"] for row in rows])
    colours = (drawing.BLUE, drawing.GREEN, drawing.ORANGE, drawing.VERMILION)
    with drawing.style(NAME):
        chart = drawing.figure(8.0, 6.0)
        axes = chart.subplots()
        ends = np.array([exact.min() / 5, exact.max() * 5]) if rows else np.array([1.0, 10.0])
        axes.fill_between(ends, ends / BAND, ends * BAND, color="#EEEEEE", linewidth=0)
        axes.plot(
            ends, ends, color=drawing.BLACK, linewidth=1, label=f"equal; grey: within ×{BAND:g}"
        )
        for (title, column), colour, marker in zip(
            STATISTICS.items(), colours, "osD^", strict=True
        ):
            statistic = np.array([row[column] for row in rows])
            # The factor that γ absorbs.
            statistic = (
                statistic / np.exp(np.median(np.log(statistic / exact))) if rows else statistic
            )
            axes.plot(exact, statistic, marker, color=colour, markersize=6, alpha=0.85, label=title)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("median of the exact radius R of a tensor (weight units)")
        axes.set_ylabel("layer statistic × common factor (weight units)")
        chart.legend(loc="outside upper center", ncols=2)
    alt = (
        f"Log-log scatter of four layer statistics of |w/g| against the exact median radius of "
        f"{len(rows)} tensors. They rise with it, but more slowly: small radii are overestimated "
        "and large ones underestimated once a common factor is divided out."
    )
    if not _compressed(rows, exact):
        alt = alt.split(" They rise")[0]
    caption = (
        "Each point is a weight or bias tensor at initialisation. A statistic that could set a "
        "layer's learning rate would lie in the grey band, up to one common factor, which has "
        "been divided out."
    )
    title = "Layer statistics against the exact radius"
    return Drawing(drawing.to_svg(chart, NAME, title, alt), alt, caption)


def _compressed(rows: list[Mapping[str, Any]], exact: Any) -> bool:
    """Whether every statistic rises with the exact radius by a power between zero and one."""
    if len(rows) < 3 or np.ptp(exact) == 0:
        return False
    slopes = [
        np.polyfit(np.log(exact), np.log([row[column] for row in rows]), 1)[0]
        for column in STATISTICS.values()
    ]
    return all(0 < slope < 1 for slope in slopes)
