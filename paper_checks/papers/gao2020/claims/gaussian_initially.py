"""Are per-sample gradients nearer to a Gaussian at initialisation than later?"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures.fig_gaussian import LAYER_GRADIENTS, layers
from paper_checks.shared import reads
from paper_checks.statistics import (
    Ratio,
    conclude,
    deciding,
    in_parts,
    more,
    paired,
    ratio,
    too_few,
)

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "The measurement of fig-gaussian: an MLP at initialisation and trained, each layer's entries.",
    "The excess kurtosis of the median entry, and its quartiles.",
)


@reads(LAYER_GRADIENTS)
def measure(context: "Context") -> dict[str, Any]:
    """The rows of fig-gaussian."""
    from paper_checks.papers.gao2020.figures import fig_gaussian

    return fig_gaussian.measure(context)


def changes(measurements: Measurements, value: Callable[[Any], float]) -> dict[str, Ratio]:
    """Of each layer, a value trained over that at initialisation, seed by seed."""
    # The network that is there trained: the MLP, or AlexNet where the evidence is of images.
    name = next(
        (row["network"].split()[0] for row in measurements["rows"] if "trained" in row["network"]),
        "MLP",
    )
    before, after = (
        layers(measurements, f"{name} {when}") for when in ("at initialisation", "trained")
    )
    ratios = {}
    for layer in before:
        arms = (
            {seed: value(row) for seed, row in rows.items()}
            for rows in (after.get(layer, {}), before[layer])
        )
        ratios[layer] = ratio(*paired(*arms))
    return ratios


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Compares the excess kurtosis before and after training, layer by layer."""
    limit = thresholds["ratio"]
    ratios = changes(measurements, lambda row: abs(row["excess"][2]))
    if len(ratios) < thresholds["layers"]:
        return too_few(f"> {limit:g}", f"Only {len(ratios)} layers to compare.")
    grows = [more(each, 1.0) for each in ratios.values()]
    much = [more(each, limit) for each in ratios.values()]
    reason = (
        "The median entry's excess kurtosis, trained over initial: "
        + "; ".join(
            f"{layer} {short(each.value)} {spread(each.interval())}"
            for layer, each in ratios.items()
        )
        + "."
    )
    least = min(ratios.values(), key=lambda each: each.value)
    seen = deciding(grows, list(ratios.values()), least)
    return conclude(in_parts(*grows), much, f"> {limit:g}", seen, reason)
