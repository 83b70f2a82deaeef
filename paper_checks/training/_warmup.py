"""Curvature by layer along training, with warm-up and without (`fig-spread`)."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.training._lab import lab, provenance, tables

if TYPE_CHECKING:
    from paper_checks.context import Context

WARM_EPOCHS = 5


def warmup(context: "Context") -> dict[str, Any]:
    """Curvature by layer along training, with warm-up and at the full rate from the start."""
    return context.shared("training-warmup", _warmup)


def _warmup(context: "Context") -> dict[str, Any]:
    from sim.training import Measure, Warmup, grid

    found = lab(context)
    n = found.n(8192)
    steps = WARM_EPOCHS * (found.total // n)
    base = found.base.replace(
        batch_size=n,
        lr=0.2,
        epochs=None,
        steps=steps + 1,
        measure=Measure(
            layers_every=0,
            curvature_every=max(1, steps // 5),
            curvature_samples=min(256, found.total),
        ),
    )
    if found.vectorise:
        base = base.replace(model_options={"hidden": [32, 32, 32, 32]})
        found = replace(found, base=base)
    rows = []
    for name, config in {
        "warm-up": base.replace(warmup=Warmup(kind="linear", steps=steps, start=0.0)),
        "full rate": base,
        "rate of the warm-up's start": base.replace(lr=0.2 / max(1, steps)),
    }.items():
        (frame,) = tables(found, grid(config, seed=found.seeds), "curvature")
        frame = frame[frame.parameter.str.endswith("weight") & (frame.curvature_abs > 0)]
        logs = np.log10(frame.curvature_abs)
        for _, part in frame.assign(log=logs).groupby(["seed", "step"]):
            rows.append(
                {
                    "protocol": name,
                    "seed": int(part.seed.iloc[0]),
                    "step": int(part.step.iloc[0]),
                    "spread": float(part.log.std(ddof=0)),
                    "layers": dict(zip(part.parameter, part.log.astype(float), strict=True)),
                }
            )
    return provenance(found) | {"n": [n], "steps": steps, "lr": base.lr, "rows": rows}
