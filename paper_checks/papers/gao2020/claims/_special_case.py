"""LARS and PercentDelta against CBLR: what they are exactly, and whether they follow its radius."""

from collections.abc import Mapping
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points, short, spread
from paper_checks.papers.gao2020.claims._networks import by_network
from paper_checks.papers.gao2020.figures._reducers import rate
from paper_checks.statistics import (
    at_least,
    conclude,
    less,
    mean,
    more,
    rank_correlation,
    ratio,
    too_few,
)

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "What is true by algebra: LARS's rate is the g²-weighted root mean square of |w/g| over the "
    "layer, and PercentDelta's its harmonic mean. That is checked on random entries, and decides "
    "nothing: equation 17 would still have to be the radius.",
    "In the network of figure 2, by weight tensor and seed: the rule's rate beside the median of "
    "the exact radii, the rate of a CBLR that has one for each layer. It must rise with it; and "
    "the scatter over the layers of the logarithm of their quotient (one common factor belongs to "
    "γ) must be smaller than that of the radii themselves, which is the scatter of one rate for "
    "all layers, plain SGD's.",
)
COLUMNS = {"lars": "eq23", "percentdelta": "eq24_nonzero"}


def measured(context: "Context", rule: str) -> dict[str, Any]:
    """The rule's rate and the exact median radius of every tensor; how exact the identity is."""
    from paper_checks.papers.gao2020.claims._networks import networks

    w, g = np.random.default_rng(0).standard_normal((2, 10_000))
    column = COLUMNS[rule]
    measurements = networks(context, (column, "radius_finite_q50"))
    for network in measurements["networks"]:
        for row in network["rows"]:
            row["rate"] = row.pop(column)
    error = abs(rate(rule, w, g) / mean_of(rule, w, g) - 1)
    return {"rule": rule, "identity": float(error), **measurements}


def mean_of(rule: str, w: Any, g: Any) -> float:
    """Which mean of |w/g| it is.

    >>> round(mean_of("lars", np.array([3.0, 4.0]), np.array([1.0, 2.0])) ** 2, 9)
    5.0
    """
    radius = np.abs(w / g)
    if rule == "lars":
        return float(np.sqrt((g**2 * radius**2).sum() / (g**2).sum()))
    return float(1 / np.mean(1 / radius))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether the rule's rates rise with the radii, and are nearer to them than a single rate."""
    networks = by_network(
        measurements,
        lambda row: (
            row["parameter"].endswith("weight") and row["rate"] and row["radius_finite_q50"]
        ),
    )
    if min(map(len, networks), default=0) < thresholds["tensors"]:
        return too_few("> 0", "Too few weight tensors.")
    if measurements["identity"] > thresholds["exact"]:
        return too_few("> 0", "The rule computed is not the mean of |w/g| that it must be.")
    own, one, shares, ranks = [], [], [], []
    for rows in networks:
        misfit = np.log([row["rate"] / row["radius_finite_q50"] for row in rows])
        own.append(float(misfit.std()))
        one.append(float(np.log([row["radius_finite_q50"] for row in rows]).std()))
        near = np.abs(misfit - np.median(misfit)) <= log(thresholds["factor"])
        shares.append(float(near.mean()))
        ranks.append(
            rank_correlation(
                [row["rate"] for row in rows], [row["radius_finite_q50"] for row in rows]
            )
        )
    scatter, share, rank = ratio(own, one), mean(shares, 1 / len(networks[0])), mean(ranks)
    reason = (
        f"Over the layers the rank correlation of the rate with the radius is {short(rank.value)} "
        f"{spread(rank.interval())}. The rates scatter over the layers' radii "
        f"{short(scatter.value)} times {spread(scatter.interval())} as much as one rate for all "
        "layers does; within a factor "
        f"{thresholds['factor']:g} of the radius, a common factor apart, are "
        f"{100 * share.value:.0f} % {points(share.interval())} of the weight tensors. The rule is "
        f"its mean of |w/g| to {short(measurements['identity'])}."
    )
    controls = [less(scatter, 1.0), at_least(share, thresholds["most"])]
    return conclude(more(rank, 0.0), controls, "> 0", rank, reason)
