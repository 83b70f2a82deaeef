"""What a backward pass of each method costs in seconds, against one of the chain: a fit.

    python benchmarks/prices.py

Reads `results/regret.json`, in which every network was differentiated by several plans. A plan's
seconds are taken as s·(o + Σ_m rate_m·passes_m) with a scale s for each network, one overhead o
and one rate for each method; rates are relative to the chain's. Residuals are in logarithms, and
the loss is robust: a network with an odd plan does not move the others. The planner's constants
(`hessian._batch.prices.RATES`) are these rates, rounded; a test holds them together.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

RESULTS = Path(__file__).parent / "results" / "regret.json"
METHODS = ("chain", "affine", "columns", "preactivation", "parameter", "of convolutions")


def samples() -> list[tuple[str, dict[str, int], float]]:
    """(network, passes by method, seconds) of all plans that were run to their end."""
    rows = json.loads(RESULTS.read_text("utf-8"))["networks"]
    return [
        (row["network"], row["passes"][plan], seconds)
        for row in rows
        if len(row["seconds"]) > 1
        for plan, seconds in row["seconds"].items()
    ]


def fit() -> tuple[dict[str, float], float, np.ndarray]:
    """Rates relative to the chain's, the overhead in passes of the chain, and residuals."""
    points = samples()
    names = sorted({name for name, _, _ in points})
    which = np.array([names.index(name) for name, _, _ in points])
    counts = np.array([[passes.get(m, 0) for m in METHODS] for _, passes, _ in points], float)
    logs = np.log([seconds for _, _, seconds in points])

    def residuals(x: np.ndarray) -> np.ndarray:
        rates = np.concatenate([[1.0], np.exp(x[1:])])
        predicted = np.log(np.exp(x[0]) + counts @ rates)
        gap = logs - predicted
        scale = np.bincount(which, gap) / np.bincount(which)  # a network's own
        return gap - scale[which]

    best = least_squares(residuals, np.zeros(len(METHODS)), loss="soft_l1", f_scale=0.3)
    rates = {"chain": 1.0} | {
        method: float(math.exp(v)) for method, v in zip(METHODS[1:], best.x[1:], strict=True)
    }
    return rates, float(math.exp(best.x[0])), residuals(best.x)


def main() -> None:
    rates, overhead, gaps = fit()
    for method, rate in rates.items():
        print(f"{method:14s} {rate:.2f}")
    print(f"{'overhead':14s} {overhead:.1f} passes of the chain")
    print(f"root mean square residual {math.sqrt(float(np.mean(gaps**2))):.2f} in logarithms")


if __name__ == "__main__":
    main()
