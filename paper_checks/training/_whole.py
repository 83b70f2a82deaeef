"""Training at one rate for all batch sizes (figures 5 and 8)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.training._lab import (
    SIZES,
    STRIDE_PARAMETER,
    equal_steps,
    finite,
    lab,
    provenance,
    tables,
)

if TYPE_CHECKING:
    import pandas as pd

    from paper_checks.context import Context


def whole(context: "Context") -> dict[str, Any]:
    """Training at one rate for all batch sizes: at equal epochs, and at equal steps."""
    return context.shared("training-whole", _whole)


def _whole(context: "Context") -> dict[str, Any]:
    from sim.training import Measure, grid

    found = lab(context)
    base = found.base.replace(measure=Measure(layers_every=1))
    sizes = found.sizes(SIZES)
    equal = equal_steps(found)
    rows, curves = [], {}
    for series in ("epochs", "steps"):
        for n in sizes:
            config = base.replace(batch_size=n)
            if series == "steps":
                config = config.replace(epochs=None, steps=equal)
            layers, steps, epochs = tables(
                found, grid(config, seed=found.seeds), "layer_epochs", "steps", "epochs"
            )
            layers = layers[layers.parameter == STRIDE_PARAMETER]
            curves[f"{series}-{n}"] = _curves(layers, steps, epochs, found.seeds[0])
            for seed in found.seeds:
                one = layers[layers.seed == seed]
                losses = steps[steps.seed == seed].loss.to_numpy(dtype=float)
                late = epochs[epochs.seed == seed].test_accuracy.dropna()
                rows.append(
                    {
                        "series": series,
                        "n": n,
                        "seed": seed,
                        "steps": len(losses),
                        "path": float(one.path.sum()),
                        "displacement": float(one.displacement.sum()),
                        "accuracy": float(late.iloc[-1]) if len(late) else None,
                        "loss": float(np.mean(losses[-max(1, len(losses) // 10) :])),
                        **fluctuation(losses),
                    }
                )
    return provenance(found) | {
        "lr": base.lr,
        "n": sizes,
        "epochs": found.epochs,
        "equal_steps": equal,
        "rows": rows,
        "curves": curves,
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


def _curves(
    layers: "pd.DataFrame", steps: "pd.DataFrame", epochs: "pd.DataFrame", seed: int
) -> dict[str, Any]:
    """What is drawn: means over the seeds by epoch, and one seed's loss by step."""
    by_epoch = layers.groupby("epoch")[["stride", "path", "displacement"]].mean()
    losses = steps[steps.seed == seed][["step", "loss"]]
    every = max(1, len(losses) // 300)
    accuracy = epochs.groupby("epoch").test_accuracy.mean()
    return {
        "epoch": [int(e) for e in by_epoch.index],
        "stride": finite(by_epoch.stride),
        "path": finite(by_epoch.path),
        "displacement": finite(by_epoch.displacement),
        "accuracy": finite(accuracy),
        "step": [int(s) for s in losses.step[::every]],
        "loss": finite(losses.loss[::every]),
    }
