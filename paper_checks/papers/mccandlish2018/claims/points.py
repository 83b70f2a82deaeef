"""Claims about single points of training: one step, both noise scales, layers, temperature.

Each function reads one claim's estimates off the measurements, and is called as the claim is.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Measurements
from paper_checks.judges import Thresholds
from paper_checks.measurements.branching.scales import noise_scale, simple_scale
from paper_checks.numbers import short
from paper_checks.quotients import by_seed, geometric, log_power, typical
from paper_checks.statistics import mean, rank_correlation

SMALL_STEP, FITTED = 0.25, (0.25, 0.5, 1.0, 1.5)
Points = list[list[dict[str, Any]]]


def groups(measurements: Measurements) -> Iterator[tuple[str, float, list[dict[str, Any]]]]:
    """Network, level and the points of the seeds."""
    for name, network in measurements["networks"].items():
        for each in network["levels"]:
            yield name, each["level"], each["points"]


def by_network(measurements: Measurements) -> dict[str, Points]:
    """The points of each network, level by level, by seed."""
    return {
        name: [each["points"] for each in network["levels"]]
        for name, network in measurements["networks"].items()
    }


def seeds(measurements: Measurements) -> range:
    """The places of the seeds."""
    return range(len(measurements["seeds"]))


def without(measurements: Measurements) -> str:
    """A sentence on the points that have no noise scale."""
    every = [point for _, _, points in groups(measurements) for point in points]
    count = sum(noise_scale(point) is None for point in every)
    return f" {count} of {len(every)} points have no B_noise: GᵀHG or tr(HΣ) is not positive."


def one_step(measurements: Measurements, thresholds: Thresholds) -> dict[str, Any]:
    """Measured over predicted decreases, at a quarter of the best rate and at the best."""
    quotients: dict[str, dict[float, list[float]]] = {}
    for name, level, points in groups(measurements):
        for row in (row for point in points for row in point["steps"]):
            group = quotients.setdefault(f"{name}, {level:g}, {row['batch']}", {})
            if row["multiple"] in (SMALL_STEP, 1.0):
                group.setdefault(row["multiple"], []).append(row["measured"] / row["predicted"])
    count = len(measurements["seeds"])
    whole = {name: group for name, group in quotients.items() if len(group[1.0]) == count}
    read: dict[str, Any] = {"count": len(whole), "without": without(measurements)}
    for name, multiple in (("small", SMALL_STEP), ("best", 1.0)):
        read[name] = {key: mean(group[multiple]) for key, group in whole.items()}
        ends = sorted(each.value for each in read[name].values()) or [0.0]
        read[f"{name}_range"] = f"{short(ends[0])} to {short(ends[-1])}"
    small = [group[SMALL_STEP] for group in whole.values()]
    read["every"] = mean([float(np.mean(each)) for each in zip(*small, strict=True)])
    return read


def _vertex(rows: Sequence[Mapping[str, float]]) -> float | None:
    """Where a parabola through the decreases, without a constant, is largest."""
    multiples = np.array([row["multiple"] for row in rows])
    table = np.stack([multiples, -(multiples**2)], 1)
    a, b = np.linalg.lstsq(table, np.array([row["measured"] for row in rows]), rcond=None)[0]
    return float(a / (2 * b)) if a > 0 and b > 0 else None


def best_rate(measurements: Measurements, _: Thresholds) -> dict[str, Any]:
    """The best multiple of the predicted best rate, and how it goes with the batch size."""
    centres, powers = [], []
    for seed in seeds(measurements):
        by_batch: dict[float, list[float]] = {}
        for _name, _level, points in groups(measurements):
            rows = [row for row in points[seed]["steps"] if row["multiple"] in FITTED]
            for batch in sorted({row["batch"] for row in rows}):
                if vertex := _vertex([row for row in rows if row["batch"] == batch]):
                    by_batch.setdefault(batch, []).append(vertex)
        if len(by_batch) > 1:
            middles = [typical(values) for values in by_batch.values()]
            centres.append(typical(middles))
            powers.append(log_power(list(by_batch), middles))
    centre, exponent = geometric(centres), mean(powers)
    return {"centre": centre, "exponent": exponent, "without": without(measurements)}


def simple_for_noise(measurements: Measurements, _: Thresholds) -> dict[str, Any]:
    """B_noise over B_simple by network, of the points that have both."""
    quotients = {
        name: by_seed(
            [b / simple_scale(p[k]) for p in levels if (b := noise_scale(p[k]))]
            for k in seeds(measurements)
        )
        for name, levels in by_network(measurements).items()
    }
    return {
        "networks": {name: geometric(values) for name, values in quotients.items()},
        "whole": geometric([typical(each) for each in zip(*quotients.values(), strict=False)]),
        "without": without(measurements),
    }


def move_together(measurements: Measurements, thresholds: Thresholds) -> dict[str, Any]:
    """The rank correlation of both scales along training, mean over the networks."""
    values = []
    for k in seeds(measurements):
        correlations = []
        for levels in by_network(measurements).values():
            pairs = [(simple_scale(p[k]), b) for p in levels if (b := noise_scale(p[k]))]
            if len(pairs) >= thresholds["points"]:
                correlations.append(rank_correlation(*zip(*pairs, strict=True)))
        if correlations:
            values.append(float(np.mean(correlations)))
    return {"along": mean(values, resolution=0.2), "without": without(measurements)}


def anisotropy(measurements: Measurements, _: Thresholds) -> dict[str, Any]:
    """The curvature along gradient and noise, over the mean of all directions, in training."""
    trained = [points for _, level, points in groups(measurements) if level < 1]
    sides, dropped = {}, 0
    for name, along, length in (
        ("gradient", "curved", "slope"),
        ("noise", "curved_noise", "noise"),
    ):
        by_k = [
            [p[k][along] / p[k][length] * p[k]["parameters"] / p[k]["trace"] for p in trained]
            for k in seeds(measurements)
        ]
        dropped += sum(value <= 0 for values in by_k for value in values)
        # A seed with one that is not positive has no geometric mean.
        sides[name] = geometric(by_seed(v if min(v, default=0) > 0 else [] for v in by_k))
    least = min(sides.values(), key=lambda each: each.value)
    whole = 2 * len(trained) * len(seeds(measurements))
    return {**sides, "least": least, "dropped": dropped, "whole": whole}


def scale_grows(measurements: Measurements, _: Thresholds) -> dict[str, Any]:
    """Either noise scale at the lowest loss over that at the highest."""
    grown = []
    for levels in by_network(measurements).values():
        usable = [points for points in levels if all(noise_scale(point) for point in points)]
        if len(usable) > 1:
            ends = list(zip(usable[0], usable[-1], strict=True))
            grown.append([
                [(scale(last) or 1.0) / (scale(first) or 1.0) for first, last in ends]
                for scale in (noise_scale, simple_scale)
            ])  # fmt: skip
    true, cheap = (
        geometric([typical(each) for each in zip(*rows, strict=True)])
        for rows in (zip(*grown, strict=True) if grown else ((), ()))
    )
    counted = {"count": len(grown), "without": without(measurements)}
    return {"true": true, "cheap": cheap, **counted}


def layers_differ(measurements: Measurements, _: Thresholds) -> dict[str, Any]:
    """The largest over the smallest B_simple of a layer."""
    points = [p for _, _, p in groups(measurements)]
    layers = ([p[k]["layers"].values() for p in points] for k in seeds(measurements))
    apart = by_seed([max(each) / min(each) for each in rows if len(each) > 1] for rows in layers)
    return {"apart": geometric(apart)}


def temperature(measurements: Measurements, _: Thresholds) -> dict[str, Any]:
    """B_simple at the higher temperature over that at the lower."""
    pairs = zip(measurements["high"], measurements["low"], strict=True)
    return {"quotient": geometric([high / low for high, low in pairs])}


def two_batches(measurements: Measurements, _: Thresholds) -> dict[str, Any]:
    """The relative error of 100 pairs, and their mean."""
    points = [p for _, _, p in groups(measurements)]
    by_k = (np.concatenate([p[k]["estimates"] for p in points]) for k in seeds(measurements))
    errors = mean([float(np.sqrt(np.mean((each - 1) ** 2))) for each in by_k])
    bias = float(np.mean([np.mean(q["estimates"]) for p in points for q in p]))
    return {"errors": errors, "percent": f"{100 * errors.value:.0f}", "bias": short(bias)}


def paint_scale_grows(axes: Any, measurements: Measurements) -> None:
    """Both noise scales along training."""
    colours = (drawing.BLUE, drawing.VERMILION, drawing.GREEN, drawing.PURPLE)
    styles = {"B_noise": (noise_scale, "o-"), "B_simple": (simple_scale, "s--")}
    for colour, (name, levels) in zip(colours, by_network(measurements).items(), strict=False):
        for label, (scale, style) in styles.items():
            usable = [each for each in levels if all(scale(p) for p in each)]
            x = [float(np.mean([p["loss"] for p in each])) for each in usable]
            y = [typical(scale(p) or 1.0 for p in each) for each in usable]
            axes.plot(x, y, style, color=colour, label=f"{name}, {label}")
    axes.invert_xaxis()


def paint_one_step(axes: Any, measurements: Measurements) -> None:
    """Measured over predicted best decrease against the step."""
    colours = (drawing.BLUE, drawing.VERMILION, drawing.GREEN)
    quotients: dict[int, dict[float, list[float]]] = {}
    for row in (r for _, _, points in groups(measurements) for p in points for r in p["steps"]):
        if row["multiple"] < 2:
            by_multiple = quotients.setdefault(row["batch"], {})
            value = row["measured"] / row["predicted"]
            by_multiple.setdefault(row["multiple"], []).append(value)
    for colour, (batch, lines) in zip(colours, sorted(quotients.items()), strict=False):
        middles = [float(np.median(lines[m])) for m in sorted(lines)]
        axes.plot(sorted(lines), middles, "o-", color=colour, label=f"batch size {batch}")
    axes.axhline(1.0, color=drawing.GREY)
