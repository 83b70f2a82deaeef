"""What the methods of a plan take in seconds: a fit to what `regret.py` recorded.

    python benchmarks/prices.py

A plan's seconds are taken as a fixed part, the chain's multiplications at one speed, and those of
every Hessian-vector product at another, with a part for each lane and one for each call, which
serves all products of a parameter or a site. Residuals are in logarithms, and the loss is robust: a
network with an odd plan does not move the others. The planner's constants (`SPEED`, `LANE` and
`CALL` in `hessian._batch.prices`) are of this fit's size; where networks disagree they were chosen
so that the cheaper of two plans comes out cheaper.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

RESULTS = Path(__file__).parent / "results" / "regret.json"
PRODUCTS = ("preactivation", "parameter")


def samples() -> list[tuple[float, float, float, float]]:
    """Of every plan: multiplications of chain and products, lanes of products, calls, seconds."""
    rows = json.loads(RESULTS.read_text("utf-8"))["networks"]
    points = []
    for row in rows:
        if not row["work"]:
            continue
        for plan, taken in row["seconds"].items():
            passes, calls = row["passes"][plan], row["calls"][plan]
            if set(passes) <= {"chain", *PRODUCTS}:
                lanes = sum(passes.get(method, 0) for method in PRODUCTS)
                points.append((row["work"] * passes.get("chain", 0), row["work"] * lanes,
                               lanes, calls, taken))  # fmt: skip
    return points


def fit() -> tuple[dict[str, float], np.ndarray]:
    """Seconds of each part, and residuals in logarithms."""
    table = np.array(samples())
    features = np.column_stack([np.ones(len(table)), table[:, :4]])
    scale = np.array([1e-3, 1e-10, 1e-11, 1e-5, 1e-3])

    def residuals(x: np.ndarray) -> np.ndarray:
        return np.log(features @ (scale * np.exp(x))) - np.log(table[:, 4])

    best = least_squares(residuals, np.zeros(5), loss="soft_l1", f_scale=0.3)
    names = ("fixed", "chain", "products", "lane", "call")
    return dict(zip(names, scale * np.exp(best.x), strict=True)), residuals(best.x)


def main() -> None:
    parts, gaps = fit()
    print(f"fixed                      {1e3 * parts['fixed']:.1f} ms")
    print(f"the chain's multiplications {1e-9 / parts['chain']:.1f} in a nanosecond")
    print(f"SPEED  {parts['products'] / parts['chain']:.2f}")
    print(f"LANE   {parts['lane'] / parts['products']:.2e} multiplications of a product")
    print(f"CALL   {parts['call'] / parts['chain']:.2e} multiplications of the chain")
    print(f"residual {math.sqrt(float(np.mean(gaps**2))):.2f} in logarithms, {len(gaps)} plans")


if __name__ == "__main__":
    main()
