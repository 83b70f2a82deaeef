"""Beyond the paper: the loss's own minimum along one weight against the step that g and h give."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import points as hundreds
from paper_checks.numbers import short
from paper_checks.shared import Shared, reads
from paper_checks.statistics import Proportion, conclude, more, proportion, too_few

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paper_checks.papers.gao2020.measurements.context import Context

PER_TENSOR = 3
# Beside the largest sample a small one: what a share says must not hang on how many are taken.
FEW = 64
PROTOCOL = (
    "An MLP (64-128-128-10, ReLU) on scikit-learn's digits, in float64, at initialisation and "
    "after 20 epochs of SGD, three seeds; random entries of every tensor. The loss is over a few "
    "samples and over many: a share near a minimum must not hang on how many are taken.",
    "The true loss is followed along one weight, all others held, downhill to its nearest "
    "minimum, kinks and all. The displacement to it stands beside -g/h, the minimum of the "
    "parabola, which a step of equation 11 with γ = 1 reaches where g² is small; and beside -w, "
    "which b = 0 implies.",
)


MINIMA = Shared.under("fig-minimum")


@reads(MINIMA)
def measure(context: "Context") -> dict[str, Any]:
    """For random entries, the true displacement, the parabola's and the paper's."""
    return context.shared("fig-minimum", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from paper_checks.papers.gao2020.figures._samples import repeats, small_data, small_networks

    inputs, targets = small_data(context)
    seeds = repeats(context)
    counts = sorted({min(FEW, len(targets)), min(context.profile.sample, len(targets))})
    points = [
        {"seed": seed, "samples": count, "network": name} | point
        for seed in seeds
        for name, model in small_networks(context, seed).items()
        for count in counts
        for point in _points(model, inputs, targets, count, seed)
    ]
    return {"seeds": list(seeds), "samples": counts[-1], "points": points}


def _points(
    model: "nn.Module", inputs: "Tensor", targets: "Tensor", count: int, seed: int
) -> list[dict[str, Any]]:
    """Random entries of one network, the loss over `count` samples."""
    import torch
    from torch.nn.functional import cross_entropy

    import hessian

    index = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))[:count]
    minima = hessian.coordinate_minimum(
        model,
        cross_entropy,
        (inputs[index], targets[index]),
        per_parameter=PER_TENSOR,
        generator=torch.Generator().manual_seed(seed),
    )
    return [
        {
            "parameter": parameter,
            "weight": float(minimum.weight[place]),
            "true": float(minimum.displacement[place]),
            "newton": float(minimum.newton[place]),
            "gradient": float(minimum.gradient[place]),
            "kink": bool(minimum.kink[place]),
        }
        for parameter, minimum in minima.items()
        for place in range(len(minimum.index))
    ]


def usable(measurements: Measurements, samples: int | None = None) -> list[Mapping[str, Any]]:
    """Entries with a slope, whose two displacements are both finite and not zero."""
    return [
        point
        for point in of_samples(measurements, samples)
        if point["gradient"] and point["true"] and point["newton"]
    ]


def counts_of(measurements: Measurements) -> list[int]:
    """The sample sizes over which the loss was taken, the largest last."""
    return sorted({point["samples"] for point in measurements["points"]})


def of_samples(measurements: Measurements, samples: int | None = None) -> list[Mapping[str, Any]]:
    """The points of one sample size, the largest if not said otherwise."""
    samples = samples or measurements["samples"]
    return [point for point in measurements["points"] if point["samples"] == samples]


def right(points: Sequence[Mapping[str, Any]], factor: float) -> Proportion:
    """The share of the points whose parabola points at the minimum within the factor."""
    hits = sum(abs(np.log(abs(p["newton"] / p["true"]))) <= np.log(factor) for p in points)
    return proportion(int(hits), len(points))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The share of entries whose true minimum lies near that of the parabola."""
    points = usable(measurements)
    sloped = [point for point in of_samples(measurements) if point["gradient"]]
    predicted, factor = f"≥ {thresholds['most']:g}", thresholds["factor"]
    if len(points) < thresholds["entries"]:
        return too_few(predicted, f"Only {len(points)} entries to compare.")
    shares = {
        count: right(usable(measurements, count), factor) for count in counts_of(measurements)
    }
    near = shares[measurements["samples"]]
    at_zero = [
        p for p in points
        if p["weight"] and abs(np.log(abs(p["weight"] / p["true"]))) <= np.log(factor)
    ]  # fmt: skip
    apart = sorted(abs(p["newton"] / p["true"]) for p in points)
    kinks = sum(p["kink"] for p in sloped) / len(sloped)
    told = ", ".join(
        f"{100 * each.value:.0f} % {hundreds(each.interval())} with {count} samples"
        for count, each in shares.items()
    )
    reason = (
        f"-g/h is within a factor {factor:g} of the way to the true minimum in {told}; -w (b = 0) "
        f"in {100 * len(at_zero) / len(points):.0f} %. The quotient's quartiles are "
        f"{short(float(np.quantile(apart, 0.25)))} and {short(float(np.quantile(apart, 0.75)))}; "
        f"{100 * kinks:.0f} % of the minima are kinks, which no second derivative sees; "
        f"{len(sloped) - len(points)} of {len(sloped)} sloped entries have no curvature or no "
        "minimum within reach."
    )
    controls = [more(each, thresholds["most"]) for each in shares.values()]
    return conclude(more(near, thresholds["few"]), controls, predicted, near, reason)


def draw(measurements: Measurements) -> Drawing:
    """The true displacement against the parabola's and against |w|, entry by entry."""
    points = usable(measurements)
    networks = list(dict.fromkeys(point["network"] for point in points))
    with drawing.style("fig-minimum"):
        chart = drawing.figure(4.8 * max(1, len(networks)), 4.9)
        panels = chart.subplots(1, max(1, len(networks)), squeeze=False, sharey=True)[0]
        for axes, network in zip(panels, networks, strict=False):
            shown = [point for point in points if point["network"] == network]
            true = np.array([abs(point["true"]) for point in shown])
            for label, column, colour, marker in (
                ("-g/h (CBLR, γ = 1)", "newton", drawing.BLUE, "o"),
                ("-w (b = 0)", "weight", drawing.ORANGE, "s"),
            ):
                values = np.array([abs(point[column]) for point in shown])
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
