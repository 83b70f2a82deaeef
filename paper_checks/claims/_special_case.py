"""LARS and PercentDelta against CBLR: equal where they must be, and how far apart in a network."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    "On a separable parabola whose minimum lies at zero, all entries of the same curvature and "
    "with g² small, the rule's rate beside every exact radius: there equation 17 is exact.",
    "The same with curvatures spread over a decade, still with the minimum at zero.",
    "In the network of figure 2, by weight tensor and seed: the quartiles of the exact radii of "
    "its entries. A rule that gives one rate to a layer cannot equal CBLR where they differ.",
)


def measured(context: "Context", rule: str) -> dict[str, Any]:
    """Relative distance of the rule's rate to the exact radii in the three settings."""
    generator = np.random.default_rng(0)
    w = generator.standard_normal(10_000) * 1e-3
    even = np.full(w.size, 2.0)
    uneven = 10 ** generator.uniform(0, 1, w.size)
    found: dict[str, Any] = {}
    for name, curvature in (("even", even), ("uneven", uneven)):
        g = curvature * w
        exact = (1 + g**2) ** 1.5 / curvature
        found[name] = float(np.max(np.abs(rate(rule, w, g) / exact - 1)))
    rows = []
    for seed in context.profile.seeds:
        for row in context.snapshot(seed).rows:
            low, high = row["radius_finite_q25"], row["radius_finite_q75"]
            if row["parameter"].endswith("weight") and low and high:
                rows.append({"seed": seed, "parameter": row["parameter"], "spread": high / low})
    return {
        "seeds": list(context.profile.seeds),
        "samples": context.snapshot(context.profile.seeds[0]).samples,
        "rule": rule,
        **found,
        "rows": rows,
    }


def rate(rule: str, w: Any, g: Any) -> float:
    """Equation 23 or 24 with γ = 1.

    >>> rate("lars", np.array([3.0, 4.0]), np.array([0.0, 5.0]))
    1.0
    >>> rate("percentdelta", np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    1.0
    """
    if rule == "lars":
        return float(np.linalg.norm(w) / np.linalg.norm(g))
    return float(w.size / np.abs(g / w).sum())


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """A special case must agree where its assumptions hold; whether they do is the second part."""
    rows = measurements["rows"]
    if len(rows) < thresholds["tensors"]:
        return Judgement(INCONCLUSIVE, None, None, f"Only {len(rows)} tensors have a curvature.")
    spreads = sorted(row["spread"] for row in rows)
    agrees = measurements["even"] <= thresholds["exact"]
    alike = spreads[-1] <= thresholds["factor"]
    verdict = HOLDS if agrees and alike else IN_PART if agrees else CONTRADICTED
    reason = (
        f"Where all curvatures are equal, b = 0 and g² is small, the rate equals every radius to "
        f"{short(measurements['even'])}; with curvatures over a decade it is off by up to "
        f"{short(measurements['uneven'])}. In the network the upper quartile of a weight tensor's "
        f"radii is {short(spreads[0])} to {short(spreads[-1])} times the lower one."
    )
    return Judgement(
        verdict,
        f"≤ {thresholds['factor']:g}",
        spreads[len(spreads) // 2],
        reason,
        (spreads[0], spreads[-1]),
        thresholds["exact"],
    )
