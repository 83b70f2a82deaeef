"""Curvature by layer along training, with warm-up and without (`fig-spread`)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.measurements.cells import Arm, Cell, Sweep, rows
from paper_checks.papers.gao2020.measurements.training._lab import Lab, lab, provenance
from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context
    from sim.training import Run, TrainConfig

WARM_EPOCHS = 5


def warmup(context: "Context") -> dict[str, Any]:
    """Curvature by layer along training, with warm-up and at the full rate from the start."""
    return context.shared("training-warmup", _warmup)


def _warmup(context: "Context") -> dict[str, Any]:
    setup = _lab(context)
    n = setup.n(8192)
    made = [
        {"protocol": row["protocol"], "seed": row["seed"], **point}
        for row in rows(context, setup, SWEEP)
        for point in row["points"]
    ]
    return provenance(setup) | {
        "n": [n],
        "steps": WARM_EPOCHS * (setup.total // n),
        "lr": setup.base.lr,
        "rows": made,
    }


def _lab(context: "Context") -> Lab:
    """Of a multilayer perceptron four hidden layers, so that layers can differ."""
    from sim.training import Measure

    setup = lab(context)
    n = setup.n(8192)
    steps = WARM_EPOCHS * (setup.total // n)
    base = setup.base.replace(
        batch_size=n,
        lr=0.2,
        epochs=None,
        steps=steps + 1,
        measure=Measure(
            layers_every=0,
            curvature_every=max(1, steps // 5),
            curvature_samples=min(256, setup.total),
        ),
    )
    if setup.vectorise:
        base = base.replace(model_options={"hidden": [32, 32, 32, 32]})
    return replace(setup, base=base)


def cells(context: "Context") -> Sequence[Cell]:
    """One cell for each protocol."""
    setup = _lab(context)
    return [
        Cell([Arm({"protocol": name}, config)], setup.seeds)
        for name, config in _protocols(setup).items()
    ]


def _protocols(setup: Lab) -> "dict[str, TrainConfig]":
    from sim.training import Warmup

    base = setup.base
    steps = WARM_EPOCHS * (setup.total // base.batch_size)
    return {
        "warm-up": base.replace(warmup=Warmup(kind="linear", steps=steps, start=0.0)),
        "full rate": base,
        "rate of the warm-up's start": base.replace(lr=base.lr / max(1, steps)),
    }


def read(run: "Run", context: "Context") -> dict[str, Any]:
    """The mean |h| of every weight tensor in powers of ten, and its spread, at some steps."""
    frame = run.curvature
    frame = frame[frame.parameter.str.endswith("weight") & (frame.curvature_abs > 0)]
    logs = np.log10(frame.curvature_abs)
    return {
        "status": run.status,
        "points": [
            {
                "step": int(part.step.iloc[0]),
                "spread": float(part.log.std(ddof=0)),
                "layers": dict(zip(part.parameter, part.log.astype(float), strict=True)),
            }
            for _, part in frame.assign(log=logs).groupby("step")
        ],
    }


SWEEP = Sweep("warmup", cells, read)
WARMUP_RUNS = Shared.under("training-warmup", SWEEP.name)
