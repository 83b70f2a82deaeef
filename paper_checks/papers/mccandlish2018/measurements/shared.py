"""What several checks read: points of training, branched runs, and two temperatures."""

from functools import partial
from typing import TYPE_CHECKING, Any

from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.papers.mccandlish2018.measurements.context import Setup

# The rate and batch size of the training on which the points lie.
RATES = {"characters": 0.3, "alexnet": 0.05}
RATE, BATCH = 0.1, 32
# Rate over batch size is 16 times higher in the first.
TEMPERATURES = {"high": 8, "low": 128}

POINTS = Shared(lambda context: tuple(f"points-{name}" for name in context.profile.networks))
BRANCHES = Shared(
    lambda context: tuple(f"branches-{_key(*each)}" for each in context.profile.settings)
)
HEAT = Shared.under("temperature")


def _key(network: str, level: float, rule: str) -> str:
    return f"{network}-{rule}-{round(100 * level)}"


def points(context: "Setup") -> dict[str, Any]:
    """The scales of every network at every level of the loss, by seed."""
    profile = context.profile
    return _facts(context) | {
        "networks": {
            name: context.shared(f"points-{name}", partial(_points, name=name))
            for name in profile.networks
        }
    }


def _points(context: "Setup", name: str) -> dict[str, Any]:
    from paper_checks.papers.mccandlish2018.measurements.scales import descend, point
    from paper_checks.papers.mccandlish2018.measurements.tasks import task

    profile, network = context.profile, task(context, name)
    lanes = descend(network, profile.seeds, profile.levels, RATES.get(name, RATE), BATCH)
    return {
        "levels": [
            {"level": level, "points": [point(network, flat) for flat in flats]}
            for level, flats in zip(sorted(profile.levels, reverse=True), lanes, strict=True)
        ]
    }


def branches(context: "Setup") -> dict[str, Any]:
    """The branched runs of every setting."""
    return _facts(context) | {
        "settings": [
            context.shared(f"branches-{_key(*each)}", partial(_branches, each=each))
            for each in context.profile.settings
        ]
    }


def _branches(context: "Setup", each: tuple[str, float, str]) -> dict[str, Any]:
    from paper_checks.papers.mccandlish2018.measurements.branches import setting
    from paper_checks.papers.mccandlish2018.measurements.scales import descend
    from paper_checks.papers.mccandlish2018.measurements.tasks import task

    name, level, rule = each
    network = task(context, name)
    (starts,) = descend(network, context.profile.seeds, (level,), RATES.get(name, RATE), BATCH)
    labels = {"network": name, "level": level, "rule": rule}
    return labels | setting(network, starts, rule, context.profile)


def heat(context: "Setup") -> dict[str, Any]:
    """B_simple by seed where each temperature first has the lowest loss."""
    return _facts(context) | context.shared("temperature", _heat)


def _heat(context: "Setup") -> dict[str, Any]:
    from paper_checks.papers.mccandlish2018.measurements.scales import descend, simple
    from paper_checks.papers.mccandlish2018.measurements.tasks import task

    name, low = context.profile.networks[0], (min(context.profile.levels),)
    network = task(context, name)
    scales: dict[str, Any] = {"network": name}
    for label, batch in TEMPERATURES.items():
        rate = RATES.get(name, RATE) / 2
        (ends,) = descend(network, context.profile.seeds, low, rate, batch)
        scales[label] = [simple(network.per_sample(flat)) for flat in ends]
    return scales


def _facts(context: "Setup") -> dict[str, Any]:
    return {"seeds": list(context.profile.seeds), "samples": context.profile.population}


def seconds(key: str, context: "Setup") -> float:
    """About how long a shared measurement takes on one core of 2.5 GHz, as it once did."""
    profile = context.profile
    size = len(profile.seeds) / 3 * (20.0 if context.name == "cifar10" else 1.0)
    if key.startswith("points-"):
        return size * len(profile.levels) * (9.0 if "characters" in key else 4.0)
    return size * (8.0 if key == "temperature" else 14.0)
