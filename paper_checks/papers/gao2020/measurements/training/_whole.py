"""Training of all batch sizes at the same rate, or at one that grows with n (figures 5 and 8)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.measurements.cells import Arm, Cell, Sweep, rows
from paper_checks.papers.gao2020.measurements.training._lab import (
    SIZES,
    Lab,
    ends,
    equal_steps,
    finite,
    lab,
    layer,
    provenance,
)
from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context
    from sim.training import Run

# The paper has 0.005 with its 512 and 0.05 with its 8192: a power of n.
PAIR = ((512, 0.005), (8192, 0.05))
# For the ledger: a quarter of the images, with batches of the same shares.
RECORDED_IMAGES = 12_500
RECORDED_EPOCHS = 20
RECORDED_STEPS = 240
RECORDED_SEEDS = (0, 1, 2, 3, 4)
# Points of a loss curve that are drawn.
POINTS = 150


def whole(context: "Context") -> dict[str, Any]:
    """Training of all batch sizes, at equal epochs and at equal steps, with two controls.

    `remainder` says whether an epoch ends with the smaller batch that is left; `rates` is `"one"`
    or `"grows"`.
    """
    return context.shared("training-whole", _whole)


def _whole(context: "Context") -> dict[str, Any]:
    setup = _lab(context)
    made = rows(context, setup, SWEEP)
    drawn = ("curve", "by_epoch")
    return provenance(setup, _seeds(setup)) | {
        "lr": setup.base.lr,
        "n": setup.sizes(SIZES),
        "epochs": RECORDED_EPOCHS if setup.recorded else setup.epochs,
        "equal_steps": _equal(setup),
        "rows": [
            {
                name: value
                for name, value in row.items()
                if name not in (*drawn, "arm", "stage", "status")
            }
            for row in made
        ],
        "curves": _curves(made),
    }


def _lab(context: "Context") -> Lab:
    return lab(context, images=RECORDED_IMAGES if context.ledger is not None else None)


def _seeds(setup: Lab) -> tuple[int, ...]:
    return RECORDED_SEEDS if setup.recorded else setup.seeds


def _equal(setup: Lab) -> int:
    return RECORDED_STEPS if setup.recorded else equal_steps(setup)


def growing(n: int, setup: Lab) -> float:
    """The rate of the paper's pair at n."""
    (small, low), (large, high) = PAIR
    power = math.log(high / low) / math.log(large / small)
    return float(low * (n / setup.n(small)) ** power)


def cells(context: "Context") -> Sequence[Cell]:
    """Each series, control and n.

    Where no row is kept, the remainder's batch is a control at equal steps alone, as figure 8 is
    read. The ledger has it at equal epochs too.
    """
    setup = _lab(context)
    left_out = {("steps", True, "grows")}
    if not setup.recorded:
        left_out |= {("epochs", True, "one"), ("epochs", True, "grows")}
    return [
        Cell([_arm(setup, series, n, remainder, rates)], _seeds(setup))
        for series in ("epochs", "steps")
        for remainder in (False, True)
        for rates in ("one", "grows")
        if (series, remainder, rates) not in left_out
        for n in setup.sizes(SIZES)
    ]


def _arm(setup: Lab, series: str, n: int, remainder: bool, rates: str) -> Arm:
    from sim.training import Measure

    config = setup.base.replace(
        batch_size=n,
        drop_last=not remainder,
        lr=setup.base.lr if rates == "one" else growing(n, setup),
        measure=Measure(layers_every=1),
    )
    if setup.recorded:
        config = config.replace(epochs=RECORDED_EPOCHS)
    if series == "steps":
        config = config.replace(epochs=None, steps=_equal(setup))
    return Arm({"series": series, "n": n, "remainder": remainder, "rates": rates}, config)


def read(run: "Run", context: "Context") -> dict[str, Any]:
    """How it ended, how far it went, how its loss fluctuated, and what is drawn of it."""
    of_layer = layer(run)
    losses = run.steps.loss.to_numpy(dtype=float)
    every = max(1, len(losses) // POINTS)
    return {
        **ends(run),
        "steps": len(losses),
        "path": float(of_layer.path.sum()),
        "displacement": float(of_layer.displacement.sum()),
        "loss": float(np.mean(losses[-max(1, len(losses) // 10) :])),
        **fluctuation(losses),
        "by_epoch": {
            "epoch": [int(e) for e in of_layer.epoch],
            "stride": finite(of_layer.stride),
            "path": finite(of_layer.path),
            "displacement": finite(of_layer.displacement),
            "accuracy": finite(run.epochs.test_accuracy),
        },
        # Of the first seed alone: one curve is drawn.
        "curve": {
            "step": [int(s) for s in run.steps.step[::every]],
            "loss": finite(losses[::every]),
        }
        if run.config.seed == 0
        else None,
    }


def fluctuation(losses: Any) -> dict[str, float | None]:
    """The per-step deviation of the second half of a loss curve, its trend taken out.

    Second differences leave nothing of a straight trend; for independent deviations of variance v
    their variance is 6v. `relative` is over the mean loss there.

    >>> fluctuation(np.linspace(2, 1, 40))["absolute"] < 1e-12
    True
    """
    late = np.asarray(losses, dtype=float)[len(losses) // 2 :]
    if late.size < 6 or not np.isfinite(late).all():
        return {"absolute": None, "relative": None}
    absolute = float(np.sqrt(np.mean(np.diff(late, 2) ** 2) / 6))
    return {"absolute": absolute, "relative": absolute / max(float(late.mean()), 1e-12)}


def _curves(made: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is drawn of the runs at one rate without remainder: means over the seeds by epoch."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in made:
        if not row["remainder"] and row["rates"] == "one":
            groups.setdefault(f"{row['series']}-{row['n']}", []).append(row)
    return {name: _curve(part) for name, part in groups.items()}


def _curve(part: Sequence[dict[str, Any]]) -> dict[str, Any]:
    parts = [row["by_epoch"] for row in part]
    longest = max(parts, key=lambda each: len(each["epoch"]))

    def mean(column: str) -> list[float | None]:
        return [
            float(np.mean(values)) if values else None
            for k in range(len(longest["epoch"]))
            for values in [[e[column][k] for e in parts if _has(e[column], k)]]
        ]

    columns = ("stride", "path", "displacement", "accuracy")
    nothing: dict[str, list[float]] = {"step": [], "loss": []}
    curve = next((row["curve"] for row in part if row["curve"]), nothing)
    return {"epoch": longest["epoch"], **{name: mean(name) for name in columns}, **curve}


def _has(values: Sequence[float | None], place: int) -> bool:
    return place < len(values) and values[place] is not None


SWEEP = Sweep("whole", cells, read)
WHOLE_RUNS = Shared.under("training-whole", SWEEP.name)
