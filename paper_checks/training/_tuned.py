"""Every batch size with a grid of rates (figure 1)."""

import math
from collections.abc import Sequence
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
    from paper_checks.context import Context

# Rates tried around the root-of-n rule, which suits both ends.
FACTORS = (0.1, 10**-0.5, 1.0, 10**0.5, 10.0)


def tuned(context: "Context") -> dict[str, Any]:
    """Every batch size with a grid of rates, at equal epochs and at equal steps."""
    return context.shared("training-tuned", _tuned)


def _tuned(context: "Context") -> dict[str, Any]:
    from sim.training import Measure, grid

    found = lab(context)
    base = found.base.replace(measure=Measure(layers_every=10))
    sizes, equal = found.sizes(SIZES), equal_steps(found)
    rows = []
    for series in ("epochs", "steps"):
        for n in sizes:
            config = base.replace(batch_size=n)
            if series == "steps":
                config = config.replace(epochs=None, steps=equal)
            rates = [0.02 * math.sqrt(n / found.n(512)) * factor for factor in FACTORS]
            runs, layers = tables(
                found, grid(config, lr=rates, seed=found.seeds), "runs", "layer_epochs"
            )
            layers = layers[layers.parameter == STRIDE_PARAMETER]
            for place, lr in enumerate(rates):
                part = runs[np.isclose(runs.lr, lr)].sort_values("seed")
                strides = layers[np.isclose(layers.lr, lr)].groupby("seed").path.sum()
                rows.append(
                    {
                        "series": series,
                        "n": n,
                        "rate": place,
                        "lr": lr,
                        "diverged": int((part.status != "finished").sum()),
                        "accuracy": finite(part.best_test_accuracy.fillna(0.0)),
                        "train_accuracy": finite(part.train_accuracy.fillna(0.0)),
                        "path": finite(strides.reindex(part.seed)),
                    }
                )
    return provenance(found) | {
        "n": sizes,
        "epochs": found.epochs,
        "equal_steps": equal,
        "rows": rows,
    }


def best(rows: Sequence[dict[str, Any]], column: str = "accuracy") -> tuple[dict[str, Any], Any]:
    """The row whose rate does best on the even seeds, and its values on the odd ones.

    What is chosen is not read on the seeds that chose it, so a maximum over rates gives no bonus.

    >>> best([{"accuracy": [0.9, 0.1, 0.9, 0.2]}, {"accuracy": [0.5, 0.6, 0.5, 0.6]}])[1]
    [0.1, 0.2]
    """
    chosen = max(rows, key=lambda row: float(np.mean([v or 0.0 for v in row[column][::2]])))
    return chosen, [v or 0.0 for v in chosen[column][1::2] or chosen[column]]
