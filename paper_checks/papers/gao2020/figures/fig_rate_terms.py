"""Beyond the paper: what lies between each layer-wise rule's rate and CBLR's, factor by factor."""

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.shared import Shared, reads
from paper_checks.verdicts import ILLUSTRATION, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

RULES = ("mclr", "lars", "percent-delta")
# In the unit of the weights; far above a step that anybody takes.
CAP, BATCH = 100.0, 32
PROTOCOL = (
    "sim.rate_terms on every tensor of an MLP (64-128-128-10, ReLU) on scikit-learn's digits at "
    "initialisation and after 20 epochs of SGD, and of AlexNet on 256 images at initialisation: "
    "a batch of n = 32, exact curvature of all samples, CBLR's cap at 100.",
    "The terms multiply to the measured quotient by their definition; that their product is what "
    "was measured tests the measurement, and the terms themselves are shown, not judged.",
)


TERMS = Shared.under("rate-terms")


@reads(TERMS)
def measure(context: "Context") -> dict[str, Any]:
    """The twelve terms by network, tensor and rule, with the quotient measured."""
    return context.shared("rate-terms", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from torch.nn.functional import cross_entropy

    from paper_checks.papers.gao2020.figures._samples import small_data, small_networks
    from sim import rate_terms
    from sim._measurements.rate_terms import TERMS as NAMES

    seed = context.profile.seeds[0]
    cases = {name: (model, small_data(context)) for name, model in small_networks(context).items()}
    if context.network == "alexnet":
        sample = context.dataset.subset(min(256, len(context.dataset)), seed=0)
        cases["AlexNet at initialisation"] = (context.model(seed).eval(), sample.pair)
    rows = []
    for network, (model, pair) in cases.items():
        frame = rate_terms(model, cross_entropy, pair, batch_size=BATCH, cap=CAP, seed=seed)
        frame = frame[frame["rule"].isin(RULES)]
        columns = ["parameter", "size", "rule", "whole", *NAMES]
        rows += [{"network": network, **row} for row in frame[columns].to_dict("records")]
    return {"seeds": [seed], "samples": BATCH, "terms": list(NAMES), "rows": rows}


def usable(measurements: Measurements, rule: str, network: str) -> list[Mapping[str, Any]]:
    """The rows of weight tensors whose terms are all positive and finite."""
    names = ["whole", *measurements["terms"]]
    return [
        row
        for row in measurements["rows"]
        if (row["rule"], row["network"]) == (rule, network)
        and row["parameter"].endswith("weight")
        and all(row[name] and np.isfinite(row[name]) for name in names)
    ]


def middle(rows: "list[Mapping[str, Any]]", name: str) -> float:
    """The geometric mean of a term over tensors, as a power of ten."""
    return float(np.mean([np.log10(row[name]) for row in rows]))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """An illustration if the terms multiply to the quotient that was measured."""
    networks = list(dict.fromkeys(row["network"] for row in measurements["rows"]))
    apart, readings = [], []
    for network in networks:
        for rule in RULES:
            rows = usable(measurements, rule, network)
            if not rows:
                return Judgement(INCONCLUSIVE, 1.0, None, f"{network} has no tensor for {rule}.")
            apart += [prod(row[n] for n in measurements["terms"]) / row["whole"] for row in rows]
            sizes = {name: middle(rows, name) for name in measurements["terms"]}
            largest = sorted(sizes, key=lambda name: -abs(sizes[name]))[:3]
            parts = ", ".join(f"{name} {short(10 ** sizes[name], 2)}" for name in largest)
            readings.append(f"{network}, {rule}: {short(10 ** middle(rows, 'whole'), 2)} ({parts})")
    worst = max(apart, key=lambda each: abs(each - 1))
    verdict = ILLUSTRATION if abs(worst - 1) <= thresholds["tolerance"] else INCONCLUSIVE
    reason = (
        "Rate over CBLR's median radius, geometric mean over the weight tensors, with the three "
        f"largest of its twelve factors: {'; '.join(readings)}. Their product is the whole within "
        f"{short(abs(worst - 1), 2)}."
    )
    return Judgement(verdict, 1.0, worst, reason, None, thresholds["tolerance"])


def draw(measurements: Measurements) -> Drawing:
    """Each term as a power of ten, for each network and rule."""
    networks = list(dict.fromkeys(row["network"] for row in measurements["rows"]))
    terms = [*measurements["terms"], "whole"]
    colours = (drawing.BLUE, drawing.ORANGE, drawing.GREEN)
    readings = []
    with drawing.style("fig-rate-terms"):
        chart = drawing.figure(11.0, 4.8)
        panels = chart.subplots(1, len(networks), sharey=True, squeeze=False)[0]
        for axes, network in zip(panels, networks, strict=True):
            for number, (colour, rule) in enumerate(zip(colours, RULES, strict=True)):
                rows = usable(measurements, rule, network)
                values = [middle(rows, name) for name in terms]
                places = np.arange(len(terms)) + 0.27 * (number - 1)
                axes.barh(places, values, 0.25, color=colour, label=rule)
                readings.append(f"{network}, {rule}: whole 10^{values[-1]:.2g}")
            axes.axvline(0, color=drawing.BLACK, linewidth=0.8)
            axes.set_title(network, loc="left")
            axes.set_xlabel("power of ten")
        panels[0].set_yticks(range(len(terms)), [name.replace("_", " ") for name in terms])
        panels[0].invert_yaxis()
        panels[0].legend()
    alt = (
        "Bars of the twelve factors between a rule's rate and CBLR's. " + "; ".join(readings) + "."
    )
    caption = (
        "Geometric means over the weight tensors: the bars of a colour add up to the last. "
        "Compression is what is lost since |w/g| follows the root of R; weight is |w|, batch √n."
    )
    title = "From the exact radius to each rule's rate"
    return drawing.finished(chart, "fig-rate-terms", title, alt, caption)
