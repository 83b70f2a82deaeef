"""Beyond the paper: how the layer-wise rules settle as a layer grows, against their laws."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures._entries import FIRST_ENTRIES, entries
from paper_checks.papers.gao2020.figures._reducers import RULES, SETTLE
from paper_checks.shared import reads
from paper_checks.statistics import Ratio, all_of, any_of, conclude, mean, too_few, within

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "The gradient and the weights of large weight tensors at initialisation (the network of "
    "figure 2); disjoint random groups of k entries stand for layers of size k.",
    "For each k the spread of each rule over the groups, as half the distance between the 16th "
    "and the 84th percentile of its logarithm, a standard error where it is small.",
    "Beside it the law for independent Gaussian entries, and, as a control, the same measurement "
    "on independent Gaussians, on which the law is a theorem.",
)


@reads(FIRST_ENTRIES)
def measure(context: "Context") -> dict[str, Any]:
    """The spread and the typical value of each rule by size, for layers and for Gaussians."""
    seed = context.profile.seeds[0]
    reduced = entries(context, seed)
    return {"seeds": [seed], "samples": reduced["samples"], **reduced["convergence"]}


def quotients(measurements: Measurements, layer: Mapping[str, Any], smallest: float) -> list[Ratio]:
    """Measured over predicted spread of the settling rules, at every size from `smallest`.

    Half the distance between the 16th and the 84th percentile of N groups has a relative standard
    error of 0.96 / √N where the logarithms are Gaussian.
    """
    law = measurements["law"]
    return [
        Ratio(
            layer["spread"][rule][place] / law[rule][measurements["law_size"].index(k)],
            0.96 / float(np.sqrt(layer["groups"][place])),
        )
        for rule in SETTLE
        for place, k in enumerate(layer["size"])
        if k >= smallest
    ]


def slopes(layer: Mapping[str, Any]) -> list[float]:
    """The power of the size with which each settling rule's spread changes."""
    return [
        float(np.polyfit(np.log(layer["size"]), np.log(layer["spread"][rule]), 1)[0])
        for rule in SETTLE
    ]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The control must obey the law; then real layers are held against it."""
    control, *layers = measurements["cases"]
    smallest, factor = thresholds["smallest"], thresholds["factor"]
    gaussian = quotients(measurements, control, smallest)
    off = max(abs(each.value - 1) for each in gaussian)
    if off > thresholds["control"] or not layers:
        reason = (
            f"On independent Gaussians, where the law is a theorem, the spread is off by "
            f"{100 * off:.0f} %: the measurement cannot decide."
        )
        return too_few(1.0, reason)
    multiples = [each for layer in layers for each in quotients(measurements, layer, smallest)]
    powers = [slope for layer in layers for slope in slopes(layer)]
    power, width = mean(powers), thresholds["slope"]
    near = all_of(*(within(each, 1 / factor, factor) for each in multiples))
    falls = within(power, -0.5 - width, -0.5 + width)
    worst = max(multiples, key=lambda each: abs(np.log(each.value)))
    grown = [layer["typical"]["mean"][-1] / layer["typical"]["mean"][0] for layer in layers]
    values = [each.value for each in multiples]
    reason = (
        f"Spread over the law's, LARS and both consistent readings of MCLR, sizes from "
        f"{smallest:g}: Gaussians within {100 * off:.0f} %, layers {short(min(values))} to "
        f"{short(max(values))}; it falls with the power {short(power.value)} "
        f"{spread(power.interval())} of the size (law: -0.5). From k = {layers[0]['size'][0]} to "
        f"{layers[0]['size'][-1]} the mean of |w/g| grows {short(min(grown))} to "
        f"{short(max(grown))} times, as the law has it for a mean that does not exist."
    )
    core = any_of(near, falls)
    if core.holds and not near.holds:  # in part: by the power alone
        return conclude(core, [near], -0.5, power, reason, width)
    return conclude(core, [near], 1.0, worst, reason, factor - 1)


def draw(measurements: Measurements) -> Drawing:
    """Spread against size: the Gaussians, then each layer, with the laws as lines."""
    cases = measurements["cases"]
    with drawing.style("fig-convergence"):
        chart = drawing.figure(10.0, 7.6)
        panels = chart.subplots(2, 2, sharex=True, sharey=True).ravel()
        for axes, case in zip(panels, cases, strict=False):
            for rule, (_, colour, marker) in RULES.items():
                axes.plot(
                    case["size"], case["spread"][rule], marker, color=colour, label=rule,
                    markersize=5, linestyle="none" if rule in SETTLE else ":", linewidth=1,
                )  # fmt: skip
            for rule in SETTLE:
                axes.plot(
                    measurements["law_size"], measurements["law"][rule], color=RULES[rule][1],
                    linewidth=1.2, label=f"{rule}: law",
                )  # fmt: skip
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_title(case["case"], loc="left")
        for axes in panels[len(cases) :]:
            axes.set_visible(False)
        for axes in panels[2:]:
            axes.set_xlabel("entries k of the layer")
        for axes in panels[::2]:
            axes.set_ylabel("spread of log rate")
        handles, labels = panels[0].get_legend_handles_labels()
        chart.legend(handles, labels, loc="outside upper center", ncols=5)
    alt = (
        "Log-log panels of the spread of six layer-wise rules against the layer's size, for "
        + ", ".join(case["case"] for case in cases)
        + ". LARS and two readings of MCLR fall with the root of the size along their laws; the "
        "signed median does not settle, the means of quotients hardly do."
    )
    caption = (
        "Lines: the law for independent Gaussian entries, 1/√k for LARS, 1.650/√k and 1.571/√k "
        "for the medians. The signed medians of equation 20 as printed do not settle at any size."
    )
    title = "Layer-wise rules against the layer's size"
    return drawing.finished(chart, "fig-convergence", title, alt, caption)
