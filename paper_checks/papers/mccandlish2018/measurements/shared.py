"""What several checks read: points of training, branched runs, and two temperatures."""

from typing import Any

from paper_checks.papers.mccandlish2018.measurements.context import Setup
from paper_checks.shared import Shared, reads


def points(context: Setup) -> dict[str, Any]:
    """The scales of every network at every level of the loss, by seed."""
    from paper_checks.papers.mccandlish2018.measurements.runs import along_training

    names = context.profile.networks
    made = context.each(POINTS, along_training, names)
    return _facts(context) | {"networks": dict(zip(names, made, strict=True))}


def branches(context: Setup) -> dict[str, Any]:
    """The branched runs of every setting."""
    from paper_checks.papers.mccandlish2018.measurements.runs import branched

    made = context.each(BRANCHES, branched, context.profile.settings)
    return _facts(context) | {"settings": made}


def heat(context: Setup) -> dict[str, Any]:
    """B_simple by seed where each temperature first has the lowest loss."""
    from paper_checks.papers.mccandlish2018.measurements.runs import temperatures

    return _facts(context) | context.shared("temperature", temperatures)


def _facts(context: Setup) -> dict[str, Any]:
    return {"seeds": list(context.profile.seeds), "samples": context.profile.population}


POINTS = Shared(lambda context: tuple(f"points-{name}" for name in context.profile.networks))
BRANCHES = Shared(
    lambda context: tuple(
        f"branches-{network}-{rule}-{round(100 * level)}"
        for network, level, rule in context.profile.settings
    )
)
HEAT = Shared.under("temperature")
MEASURES = {
    "points": reads(POINTS)(points),
    "branches": reads(BRANCHES)(branches),
    "heat": reads(HEAT)(heat),
}


def seconds(key: str, context: Setup) -> float:
    """About how long a shared measurement takes on one core of 2.5 GHz, as it once did."""
    profile = context.profile
    size = len(profile.seeds) / 3 * (20.0 if context.name == "cifar10" else 1.0)
    if key.startswith("points-"):
        return size * len(profile.levels) * (9.0 if "characters" in key else 4.0)
    return size * (8.0 if key == "temperature" else 14.0)
