"""Claims about single points of training: one step, both noise scales, layers, temperature."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.mccandlish2018.claims.trial import (
    PILOT,
    Trial,
    by_seed,
    geometric,
    log_power,
    typical,
)
from paper_checks.papers.mccandlish2018.measurements import shared
from paper_checks.shared import reads
from paper_checks.statistics import (
    all_of,
    conclude,
    in_parts,
    less,
    mean,
    more,
    rank_correlation,
    too_few,
    within,
)

Thresholds = Mapping[str, float]
PROTOCOL = (
    PILOT,
    "The training set (256 digits, 64 contexts of characters) is the whole population; G, Σ and H "
    "are exact on it, tr(HΣ) by one Hessian-vector product a sample.",
    "Points are where SGD in batches of 32 first has each level of the loss.",
)
SMALL_STEP, FITTED = 0.25, (0.25, 0.5, 1.0, 1.5)


def groups(measurements: Measurements) -> Iterator[tuple[str, float, list[dict[str, Any]]]]:
    """Network, level and the points of the seeds."""
    for name, network in measurements["networks"].items():
        for each in network["levels"]:
            yield name, each["level"], each["points"]


def simple(point: Mapping[str, Any]) -> float:
    """B_simple."""
    return float(point["noise"] / point["slope"])


def noise(point: Mapping[str, Any]) -> float | None:
    """B_noise, or nothing where there is none."""
    curved = min(point["curved"], point["curved_noise"])
    return float(point["curved_noise"] / point["curved"]) if curved > 0 else None


def without(measurements: Measurements) -> str:
    """A sentence on the points that have no noise scale."""
    every = [point for _, _, points in groups(measurements) for point in points]
    count = sum(noise(point) is None for point in every)
    return f" {count} of {len(every)} points have no B_noise: GᵀHG or tr(HΣ) is not positive."


def judge_step(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """Measured over predicted decreases, at a quarter of the best rate and at the best."""
    tolerance, seeds = thresholds["tolerance"], len(measurements["seeds"])
    quotients: dict[tuple[str, float, float], dict[float, list[float]]] = {}
    for name, level, points in groups(measurements):
        for point in points:
            for row in point["steps"]:
                if row["multiple"] in (SMALL_STEP, 1.0):
                    group = quotients.setdefault((name, level, row["batch"]), {})
                    value = row["measured"] / row["predicted"]
                    group.setdefault(row["multiple"], []).append(value)
    whole = [
        group for group in quotients.values() if len(group[1.0]) == seeds >= thresholds["seeds"]
    ]
    if not whole:
        return too_few("1", "No point has a best rate at every seed.")
    core, control = (
        all_of(*(within(mean(group[m]), 1 - tolerance, 1 + tolerance) for group in whole))
        for m in (SMALL_STEP, 1.0)
    )
    averages = {m: [float(np.mean(group[m])) for group in whole] for m in (SMALL_STEP, 1.0)}
    reason = (
        f"Measured over predicted: from {short(min(averages[SMALL_STEP]))} to "
        f"{short(max(averages[SMALL_STEP]))} at a quarter of the best rate, from "
        f"{short(min(averages[1.0]))} to {short(max(averages[1.0]))} at the best, over "
        f"{len(whole)} points and batch sizes.{without(measurements)}"
    )
    every = mean([float(np.mean([g[SMALL_STEP][k] for g in whole])) for k in range(seeds)])
    return conclude(core, [control], 1.0, every, reason, tolerance)


def _vertex(rows: list[dict[str, float]]) -> float | None:
    """Where a parabola through the decreases, without a constant, is largest."""
    multiples = np.array([row["multiple"] for row in rows])
    table = np.stack([multiples, -(multiples**2)], 1)
    a, b = np.linalg.lstsq(table, np.array([row["measured"] for row in rows]), rcond=None)[0]
    return float(a / (2 * b)) if a > 0 and b > 0 else None


def judge_rate(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """The best multiple of the predicted best rate, and how it goes with the batch size."""
    centres, powers = [], []
    for seed in range(len(measurements["seeds"])):
        by_batch: dict[float, list[float]] = {}
        for _, _, points in groups(measurements):
            rows = [row for row in points[seed]["steps"] if row["multiple"] in FITTED]
            for batch in sorted({row["batch"] for row in rows}):
                if vertex := _vertex([row for row in rows if row["batch"] == batch]):
                    by_batch.setdefault(batch, []).append(vertex)
        if len(by_batch) > 1:
            middles = [typical(values) for values in by_batch.values()]
            centres.append(typical(middles))
            powers.append(log_power(list(by_batch), middles))
    if len(centres) < thresholds["seeds"]:
        return too_few(1.0, f"Only {len(centres)} seeds have best rates.")
    centre, power, factor = geometric(centres), mean(powers), thresholds["factor"]
    reason = (
        f"The best rate is {short(centre.value)} {spread(centre.interval())} times the predicted "
        f"one, and goes with the batch size by a power of {short(power.value)} "
        f"{spread(power.interval())} more.{without(measurements)}"
    )
    control = within(power, -thresholds["power"], thresholds["power"])
    return conclude(within(centre, 1 / factor, factor), [control], 1.0, centre, reason, factor)


def judge_simple(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """B_noise over B_simple, network by network."""
    factor, seeds = thresholds["factor"], len(measurements["seeds"])
    quotients = {}
    for name in measurements["networks"]:
        every = [points for each, _, points in groups(measurements) if each == name]
        quotients[name] = by_seed(
            [b / simple(p[k]) for p in every if (b := noise(p[k]))] for k in range(seeds)
        )
    if min(map(len, quotients.values())) < thresholds["seeds"]:
        return too_few(1.0, f"A network has too few seeds with a B_noise.{without(measurements)}")
    estimates = {name: geometric(values) for name, values in quotients.items()}
    texts = (f"{name} {short(e.value)} {spread(e.interval())}" for name, e in estimates.items())
    reason = f"B_noise over B_simple: {', '.join(texts)}.{without(measurements)}"
    core = all_of(*(within(each, 1 / factor, factor) for each in estimates.values()))
    whole = geometric([typical(values) for values in zip(*quotients.values(), strict=True)])
    return conclude(core, [], 1.0, whole, reason, factor)


def judge_together(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """The rank correlation of both scales along training."""
    values = []
    for seed in range(len(measurements["seeds"])):
        of_networks = []
        for name in measurements["networks"]:
            points = [p[seed] for each, _, p in groups(measurements) if each == name]
            pairs = [(simple(point), b) for point in points if (b := noise(point))]
            if len(pairs) >= thresholds["points"]:
                of_networks.append(rank_correlation(*zip(*pairs, strict=True)))
        if of_networks:
            values.append(float(np.mean(of_networks)))
    bound = thresholds["correlation"]
    if len(values) < thresholds["seeds"]:
        return too_few(f"> {bound:g}", "Too few points have both noise scales.")
    correlation = mean(values, resolution=0.2)
    reason = (
        f"The rank correlation along training is {short(correlation.value)} "
        f"{spread(correlation.interval())}, mean over networks.{without(measurements)}"
    )
    return conclude(more(correlation, bound), [], f"> {bound:g}", correlation, reason)


def judge_anisotropy(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """The curvature along gradient and noise, over the mean of all directions."""
    trained = [points for _, level, points in groups(measurements) if level < 1]

    def excess(k: int, along: str, length: str) -> list[float]:
        quotients = [
            p[k][along] / p[k][length] * p[k]["parameters"] / p[k]["trace"] for p in trained
        ]
        return [value for value in quotients if value > 0]

    seeds, factor = len(measurements["seeds"]), thresholds["factor"]
    sides = [
        by_seed(excess(k, *names) for k in range(seeds))
        for names in (("curved", "slope"), ("curved_noise", "noise"))
    ]
    if min(map(len, sides)) < thresholds["seeds"]:
        return too_few(f"> {factor:g}", "Too few seeds have points in training.")
    gradient, sampled = map(geometric, sides)
    reason = (
        f"The curvature along the gradient is {short(gradient.value)} "
        f"{spread(gradient.interval())} times the mean over all directions, that along the noise "
        f"{short(sampled.value)} {spread(sampled.interval())} times."
    )
    core = all_of(more(gradient, factor), more(sampled, factor))
    return conclude(
        core, [], f"> {factor:g}", min(gradient, sampled, key=lambda e: e.value), reason
    )


def judge_growth(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """Either noise scale at the lowest loss over that at the highest."""
    grown: dict[str, list[list[float]]] = {"B_noise": [], "B_simple": []}
    for name in measurements["networks"]:
        levels = [points for each, _, points in groups(measurements) if each == name]
        usable = [points for points in levels if all(noise(point) for point in points)]
        if len(usable) > 1:
            for label, scale in (("B_noise", noise), ("B_simple", simple)):
                first, last = ([scale(point) or 1.0 for point in usable[k]] for k in (0, -1))
                grown[label].append([b / a for a, b in zip(first, last, strict=True)])
    growth = thresholds["growth"]
    if not grown["B_noise"] or len(measurements["seeds"]) < thresholds["seeds"]:
        return too_few(f"> {growth:g}", f"Too few points have a B_noise.{without(measurements)}")
    true, cheap = (
        geometric([typical(each) for each in zip(*rows, strict=True)]) for rows in grown.values()
    )
    reason = (
        f"From the highest level of the loss to the lowest B_noise grows {short(true.value)} "
        f"{spread(true.interval())} times and B_simple {short(cheap.value)} "
        f"{spread(cheap.interval())} times, geometric means over {len(grown['B_noise'])} networks."
        f"{without(measurements)}"
    )
    parts = (more(true, growth), more(cheap, growth))
    return conclude(in_parts(*parts), [all_of(*parts)], f"> {growth:g}", true, reason)


def judge_layers(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """The largest over the smallest B_simple of a layer."""
    factor = thresholds["factor"]

    def apart(k: int) -> list[float]:
        layers = [p[k]["layers"].values() for _, _, p in groups(measurements)]
        return [max(each) / min(each) for each in layers if len(each) > 1]

    values = by_seed(apart(k) for k in range(len(measurements["seeds"])))
    if len(values) < thresholds["seeds"]:
        return too_few(f"> {factor:g}", "Too few seeds.")
    quotient = geometric(values)
    reason = (
        f"The largest B_simple of a layer is {short(quotient.value)} "
        f"{spread(quotient.interval())} times the smallest, geometric mean over the points."
    )
    return conclude(more(quotient, factor), [], f"> {factor:g}", quotient, reason)


def judge_temperature(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """B_simple at the higher temperature over that at the lower."""
    values = [h / c for h, c in zip(measurements["high"], measurements["low"], strict=True)]
    bound = thresholds["ratio"]
    if len(values) < thresholds["seeds"]:
        return too_few(f"< {bound:g}", f"Only {len(values)} seeds.")
    quotient = geometric(values)
    reason = (
        f"At the same loss B_simple at 16 times the rate over batch size is "
        f"{short(quotient.value)} {spread(quotient.interval())} times that at the lower."
    )
    return conclude(less(quotient, bound), [], f"< {bound:g}", quotient, reason)


def judge_two_batches(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """The relative error of 100 pairs."""
    errors = []
    for seed in range(len(measurements["seeds"])):
        values = [np.array(p[seed]["estimates"]) - 1 for _, _, p in groups(measurements)]
        errors.append(float(np.sqrt(np.mean(np.concatenate(values) ** 2))))
    bound = thresholds["error"]
    if len(errors) < thresholds["seeds"]:
        return too_few(f"< {100 * bound:g} %", f"Only {len(errors)} seeds.")
    error = mean(errors)
    bias = float(np.mean([np.mean(q["estimates"]) for _, _, p in groups(measurements) for q in p]))
    reason = (
        f"The relative error of 100 pairs is {100 * error.value:.0f} %; on average they give "
        f"{short(bias)} times B_simple."
    )
    return conclude(less(error, bound), [], f"< {100 * bound:g} %", error, reason)


def draw_scales(measurements: Measurements) -> Drawing:
    """Both noise scales along training."""
    name, title = "claim-scale-grows", "Noise scales along training"
    with drawing.style(name):
        chart = drawing.figure()
        axes = chart.add_subplot()
        colours = (drawing.BLUE, drawing.VERMILION, drawing.GREEN, drawing.PURPLE)
        for colour, network in zip(colours, measurements["networks"], strict=False):
            for scale, style in ((noise, "o-"), (simple, "s--")):
                points = [p for each, _, p in groups(measurements) if each == network]
                usable = [each for each in points if all(scale(p) for p in each)]
                x = [float(np.mean([p["loss"] for p in each])) for each in usable]
                y = [typical(scale(p) or 1.0 for p in each) for each in usable]
                label = f"{network}, {'B_noise' if scale is noise else 'B_simple'}"
                axes.plot(x, y, style, color=colour, label=label)
        axes.set(xscale="log", yscale="log", xlabel="training loss", ylabel="batch size")
        axes.invert_xaxis()
        axes.legend()
        alt = "Lines of both noise scales against the falling loss, one pair for each network."
        caption = "Geometric means over seeds; training goes from left to right."
        return drawing.finished(chart, name, title, alt, caption)


def draw_steps(measurements: Measurements) -> Drawing:
    """Measured over predicted best decrease against the step."""
    name, title = "claim-one-step", "One step against the quadratic model"
    with drawing.style(name):
        chart = drawing.figure()
        axes = chart.add_subplot()
        colours = (drawing.BLUE, drawing.VERMILION, drawing.GREEN)
        rows = [r for _, _, points in groups(measurements) for p in points for r in p["steps"]]
        for colour, batch in zip(colours, sorted({row["batch"] for row in rows}), strict=False):
            multiples = sorted({row["multiple"] for row in rows if row["multiple"] < 2})
            middles = [
                float(
                    np.median(
                        [
                            r["measured"] / r["predicted"]
                            for r in rows
                            if r["batch"] == batch and r["multiple"] == m
                        ]
                    )
                )
                for m in multiples
            ]
            axes.plot(multiples, middles, "o-", color=colour, label=f"batch size {batch}")
        axes.axhline(1.0, color=drawing.GREY)
        axes.set(xlabel="rate over the best one", ylabel="decrease, measured over predicted")
        axes.legend()
        alt = "The measured decrease over the predicted one against the step, by batch size."
        caption = "Medians over networks, points and seeds; 1 is the quadratic model."
        return drawing.finished(chart, name, title, alt, caption)


_READ = reads(shared.POINTS)(shared.points)
TRIALS = {
    "claim-one-step": Trial(_READ, judge_step, PROTOCOL, draw_steps),
    "claim-best-rate": Trial(_READ, judge_rate, PROTOCOL),
    "claim-simple-for-noise": Trial(_READ, judge_simple, PROTOCOL),
    "claim-move-together": Trial(_READ, judge_together, PROTOCOL),
    "claim-anisotropy": Trial(_READ, judge_anisotropy, PROTOCOL),
    "claim-scale-grows": Trial(_READ, judge_growth, PROTOCOL, draw_scales),
    "claim-layers-differ": Trial(_READ, judge_layers, PROTOCOL),
    "claim-two-batches": Trial(_READ, judge_two_batches, PROTOCOL),
    "claim-temperature": Trial(reads(shared.HEAT)(shared.heat), judge_temperature, (PILOT,)),
}
