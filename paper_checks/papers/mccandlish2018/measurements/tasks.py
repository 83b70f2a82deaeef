"""The networks by their names, each with its training set."""

from torch import nn

from paper_checks.measurements.branching.characters import characters
from paper_checks.measurements.branching.task import Task
from paper_checks.papers.mccandlish2018.measurements.context import Setup
from paper_checks.papers.mccandlish2018.measurements.profile import MLPS, MOST_CONTEXTS
from sim.models import build


def task(context: Setup, name: str) -> Task:
    """The network `name` with the first samples of its data, in double precision."""
    count = context.profile.population
    if name == "characters":
        inputs, targets, options = characters(min(count, MOST_CONTEXTS))
        options |= {"name": "transformer", "width": 0.25, "depth": 1, "heads": 2, "patch": 1}
    else:
        images = context.dataset.subset(count, seed=0)
        inputs, targets = images.inputs.double(), images.targets
        options = {"name": "mlp", "in_shape": images.shape, "classes": images.classes}
        options |= MLPS.get(name, {"name": name, "width": 1 / 16, "dropout": 0.0})

    def fresh(seed: int) -> nn.Module:
        return build(**options, seed=seed)

    return Task(fresh(0).double(), inputs, targets, fresh)
