"""Beyond the paper: the loss's own minimum along one weight against the step that g and h give."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.claims._networks import wilson
from paper_checks.numbers import short
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PER_TENSOR = 12
PROTOCOL = (
    "An MLP (64-128-128-10, ReLU) on a sample of scikit-learn's digits, in float64, at "
    "initialisation and after 20 epochs of SGD; random entries of every tensor.",
    "The true loss is followed along one weight, all others held, downhill to its nearest "
    "minimum, kinks and all. The displacement to it stands beside -g/h, the minimum of the "
    "parabola, which a step of equation 11 with γ = 1 reaches where g² is small; and beside -w, "
    "which b = 0 implies.",
)


def measure(context: "Context") -> dict[str, Any]:
    """For random entries, the true displacement, the parabola's and the paper's."""
    return context.shared("fig-minimum", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    import torch
    from torch.nn.functional import cross_entropy

    import hessian
    from paper_checks.figures._samples import small_data, small_networks

    seed = context.profile.seeds[0]
    inputs, targets = small_data(context)
    count = min(context.profile.sample, 64)
    index = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))[:count]
    pair = inputs[index], targets[index]
    points = []
    for name, model in small_networks(context).items():
        found = hessian.coordinate_minimum(
            model,
            cross_entropy,
            pair,
            per_parameter=PER_TENSOR,
            generator=torch.Generator().manual_seed(seed),
        )
        for parameter, minimum in found.items():
            for place in range(len(minimum.index)):
                points.append(
                    {
                        "network": name,
                        "parameter": parameter,
                        "weight": float(minimum.weight[place]),
                        "true": float(minimum.displacement[place]),
                        "newton": float(minimum.newton[place]),
                        "gradient": float(minimum.gradient[place]),
                        "kink": bool(minimum.kink[place]),
                    }
                )
    return {"seeds": [seed], "samples": count, "points": points}


def usable(measurements: Measurements) -> list[Mapping[str, Any]]:
    """Entries with a slope, whose two displacements are both finite and not zero."""
    return [
        point
        for point in measurements["points"]
        if point["gradient"] and point["true"] and point["newton"]
    ]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The share of entries whose true minimum lies near that of the parabola."""
    points = usable(measurements)
    sloped = [point for point in measurements["points"] if point["gradient"]]
    predicted = f"≥ {thresholds['most']:g}"
    if len(points) < thresholds["entries"]:
        return Judgement(INCONCLUSIVE, predicted, None, f"Only {len(points)} entries to compare.")
    factor = np.log(thresholds["factor"])
    near = [abs(np.log(abs(p["newton"] / p["true"]))) <= factor for p in points]
    share = sum(near) / len(near)
    at_zero = [p["weight"] and abs(np.log(abs(p["weight"] / p["true"]))) <= factor for p in points]
    if share >= thresholds["most"]:
        verdict = HOLDS
    elif share >= thresholds["few"]:
        verdict = IN_PART
    else:
        verdict = CONTRADICTED
    apart = sorted(abs(p["newton"] / p["true"]) for p in points)
    kinks = sum(p["kink"] for p in sloped) / len(sloped)
    reason = (
        f"-g/h is within a factor {thresholds['factor']:g} of the way to the true minimum in "
        f"{100 * share:.0f} % of {len(points)} entries, -w (b = 0) in "
        f"{100 * sum(map(bool, at_zero)) / len(points):.0f} %. The quotient's quartiles are "
        f"{short(float(np.quantile(apart, 0.25)))} and {short(float(np.quantile(apart, 0.75)))}; "
        f"{100 * kinks:.0f} % of the minima are kinks, which no second derivative sees; "
        f"{len(sloped) - len(points)} of {len(sloped)} sloped entries have no curvature or no "
        "minimum within reach."
    )
    return Judgement(verdict, predicted, share, reason, wilson(sum(near), len(near)))


def draw(measurements: Measurements) -> Drawing:
    """The true displacement against the parabola's and against |w|, entry by entry."""
    points = usable(measurements)
    networks = list(dict.fromkeys(point["network"] for point in points))
    with drawing.style("fig-minimum"):
        chart = drawing.figure(4.8 * max(1, len(networks)), 4.9)
        panels = chart.subplots(1, max(1, len(networks)), squeeze=False, sharey=True)[0]
        for axes, network in zip(panels, networks, strict=False):
            found = [point for point in points if point["network"] == network]
            true = np.array([abs(point["true"]) for point in found])
            for label, column, colour, marker in (
                ("-g/h (CBLR, γ = 1)", "newton", drawing.BLUE, "o"),
                ("-w (b = 0)", "weight", drawing.ORANGE, "s"),
            ):
                values = np.array([abs(point[column]) for point in found])
                axes.plot(true, values, marker, color=colour, markersize=4, alpha=0.7, label=label)
            ends = np.array([true.min(), true.max()])
            axes.plot(ends, ends, "--", color=drawing.BLACK, label="equal")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_title(network, loc="left")
            axes.set_xlabel("|displacement| to the loss's own minimum")
        panels[0].set_ylabel("|displacement| predicted")
        handles, labels = panels[0].get_legend_handles_labels()
        chart.legend(handles, labels, loc="outside upper center", ncols=3)
    near = [abs(np.log(abs(p["newton"] / p["true"]))) <= np.log(2) for p in points]
    alt = (
        f"Log-log scatter of {len(points)} entries: the displacement that the second derivative "
        "predicts, and the weight itself, against the true displacement to the minimum along that "
        f"weight. {100 * sum(near) / max(1, len(near)):.0f} per cent of the former are within a "
        "factor two."
    )
    caption = (
        "Each point is one weight, all others held. Points on the dashed line step exactly to the "
        "minimum. Kinks of ReLU units end most lines before the parabola does."
    )
    title = "The loss's own minimum against the paper's step"
    return drawing.finished(chart, "fig-minimum", title, alt, caption)
