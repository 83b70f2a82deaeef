"""The rules on a network whose whole exact diagonal is out of reach (figure 16, ResNet-18)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from paper_checks.measurements.cells import Cell, Sweep, rows
from paper_checks.papers.gao2020.measurements.training._lab import Lab, lab
from paper_checks.papers.gao2020.measurements.training._rules import (
    GAMMAS,
    RULE_RUNS,
    RULE_SIZES,
    SAMPLED,
    all_rules,
    arms,
    read,
    recorded,
    rules,
)
from paper_checks.papers.gao2020.measurements.training._tuned import best
from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

# What figure 16 compares on a network whose whole exact diagonal is out of reach.
FIRST_ORDER = tuple(rule for rule in GAMMAS if rule != "cblr")
# Entries of a tensor where each takes a product: the median's interval then spans about 25 of 100
# ranks.
ENTRIES = 64
# For the ledger: the two that figure 16 shows and plain SGD, at the paper's 1024.
RECORDED_COMPARED = ("lars", "mclr", "sgd")
COMPARED_EPOCHS = 10
COMPARED_SEEDS = ((0, 1), (2, 3, 4, 5))


def compared(context: "Context") -> dict[str, Any]:
    """The rules on the network of figure 16.

    Below batch norm in training mode samples are coupled, and each entry's second derivative takes
    a product of its own. True CBLR is then left to `rules`, and the exact radii of random entries
    say, tensor by tensor, what MCLR's median stands for.
    """
    profile = context.profile
    if profile.compares == profile.trains:
        return rules(context)
    if context.ledger is not None:
        return context.shared("training-compared", _recorded)
    setup = lab(context, profile.compares)
    measured = all_rules(context, setup, "training-compared", FIRST_ORDER)
    return measured | {"radii": radii(context, setup, measured["rows"])}


def _recorded(context: "Context") -> dict[str, Any]:
    setup = lab(context, context.profile.compares)
    return recorded(setup, rows(context, setup, SWEEP), COMPARED_EPOCHS) | {
        "seeds": list(COMPARED_SEEDS[1])
    }


def cells(context: "Context") -> Sequence[Cell]:
    """One cell for each rule, for the ledger."""
    setup = lab(context, context.profile.compares)
    tuning, reading = COMPARED_SEEDS
    n = setup.n(RULE_SIZES[0])
    return [
        Cell(arms(setup, rule, n, "epochs", COMPARED_EPOCHS), reading, tuning)
        for rule in RECORDED_COMPARED
    ]


def radii(context: "Context", setup: Lab, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """MCLR's and LARS's rate beside the exact median radius, tensor by tensor.

    At initialisation and where MCLR ends with its best γ at the paper's 1024, in training mode.
    """
    from sim import train

    n = setup.n(RULE_SIZES[0])
    tried = [row for row in rows if (row["series"], row["n"], row["rule"]) == ("epochs", n, "mclr")]
    arm = arms(setup, "mclr", n, "epochs", setup.epochs)[best(tried)[0]["rate"]]
    config = arm.config.replace(seed=setup.seeds[0])
    out = None if setup.runs is None else setup.runs / config.hash

    def measure(context: "Context") -> dict[str, Any]:
        from sim.models import build

        options: Any = config.model_options
        data = context.dataset
        fresh = build(
            config.model, in_shape=data.shape, classes=data.classes, seed=config.seed, **options
        )
        ends = {
            "at initialisation": fresh,
            "trained": train(config, out=out, root=setup.root).model(),
        }
        return {
            "rows": [row for stage, model in ends.items() for row in _radii(context, model, stage)]
        }

    rows = context.shared("training-radii", measure)["rows"]
    return list(rows)


def _radii(context: "Context", model: Any, stage: str) -> list[dict[str, Any]]:
    import torch
    from torch.nn.functional import cross_entropy

    import hessian

    model = model.to(context.device).train()
    pair = context.dataset.subset(min(SAMPLED, len(context.dataset)), 0).pair
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    drawn = hessian.sample(
        model,
        cross_entropy,
        pair,
        ENTRIES,
        torch.Generator().manual_seed(0),
        names=weights,
        progress=context.folder is not None,
    )
    # The buffers of batch norm move with this; the model is not used again.
    gradients = torch.autograd.grad(cross_entropy(model(pair[0]), pair[1]), list(weights.values()))
    rows = []
    for (name, w), g in zip(weights.items(), gradients, strict=True):
        taken = drawn[name]
        radius = hessian.radius(g.reshape(-1)[taken.index], taken.value)
        median, low, high = replace(taken, value=radius).quantile(0.5)
        rows.append(
            {
                "at": stage,
                "parameter": name,
                "size": w.numel(),
                "radius": median,
                "radius_low": low,
                "radius_high": high,
                "mclr": float(w.detach().abs().median() / g.abs().median()),
                "lars": float(w.detach().norm() / g.norm()),
            }
        )
    return rows


SWEEP = Sweep("compared", cells, read)


def _keys(context: "Context") -> tuple[str, ...]:
    """Those of `rules` where the network is the same; the exact radii are kept apart."""
    if context.profile.compares == context.profile.trains:
        return RULE_RUNS.keys(context)
    return ("training-compared", "training-radii")


COMPARED_RUNS = Shared(_keys, (SWEEP.name,))
