"""How sharp the minima are in which small and large batches end."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paper_checks.measurements.cells import READING, Arm, Cell, Sweep, rows
from paper_checks.papers.gao2020.measurements.training._lab import (
    Lab,
    ends,
    equal_steps,
    lab,
    provenance,
)
from paper_checks.papers.gao2020.measurements.training._tuned import (
    LONG,
    LONG_SEEDS,
    LONG_STEPS,
    sharpness_of,
)
from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context
    from sim.training import Run

SHARP_SIZES = (512, 2048, 49152)
SHARP_RATE = 0.05
COLUMNS = ("n", "seed", "rates", "sharpness", "accuracy", "loss")


def sharp(context: "Context") -> dict[str, Any]:
    """The largest eigenvalue of the Hessian where small and large batches end.

    `rates` is `"one"`, `"grows"` (with the root of n), or `"tuned"`: in the ledger these runs are
    those at equal steps, each n at its best rate.
    """
    return context.shared("training-sharp", _sharp)


def _sharp(context: "Context") -> dict[str, Any]:
    setup = lab(context)
    seeds: tuple[int, ...]
    if setup.recorded:
        made = [
            {**row, "rates": "tuned", "loss": row["train_loss"]}
            for row in rows(context, setup, LONG)
            if row["stage"] == READING
        ]
        seeds, steps = LONG_SEEDS[1], LONG_STEPS
    else:
        made, seeds, steps = rows(context, setup, SWEEP), setup.seeds[:5], equal_steps(setup)
    return provenance(setup, seeds) | {
        "n": sorted({row["n"] for row in made}),
        "equal_steps": steps,
        "rows": [{name: row[name] for name in COLUMNS} for row in made],
    }


def cells(context: "Context") -> Sequence[Cell]:
    """One cell for each n, at one rate and at one that grows with n."""
    setup = lab(context)
    return [
        Cell([_arm(setup, paper, rates)], setup.seeds[:5])
        for rates in ("one", "grows")
        for paper in SHARP_SIZES
    ]


def _arm(setup: Lab, paper: int, rates: str) -> Arm:
    n = setup.n(paper)
    lr = SHARP_RATE * (math.sqrt(n / setup.n(SHARP_SIZES[0])) if rates == "grows" else 1)
    config = setup.base.replace(batch_size=n, lr=lr, epochs=None, steps=equal_steps(setup))
    return Arm({"n": n, "rates": rates}, config)


def read(run: "Run", context: "Context") -> dict[str, Any]:
    """λ_max, accuracy and loss at the end."""
    end = ends(run)
    return {
        "status": run.status,
        "sharpness": sharpness_of(run, context),
        "accuracy": end["accuracy"],
        "loss": end["train_loss"],
    }


SWEEP = Sweep("sharp", cells, read)
SHARP_RUNS = Shared.under("training-sharp", LONG.name)
