"""Claims about runs that branch off: the hyperbola, the critical batch size, width and rules."""

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.mccandlish2018.claims.trial import (
    PILOT,
    Trial,
    geometric,
    log_power,
    most,
    typical,
)
from paper_checks.papers.mccandlish2018.measurements import shared
from paper_checks.shared import reads
from paper_checks.statistics import (
    Ratio,
    all_of,
    conclude,
    in_parts,
    less,
    mean,
    more,
    ratio,
    too_few,
    within,
)

Thresholds = Mapping[str, float]
Setting = Mapping[str, Any]
PROTOCOL = (
    PILOT,
    "From each point runs branch off to 0.8 of its loss, at eight batch sizes from 2 to 256, drawn "
    "with replacement. The rate of each batch size is the best of a grid in steps of √2 that goes "
    "on where its best is at an end, on runs that are not read.",
    "The steps of a seed are those at which the mean loss of its runs is first at the target.",
)
# Share of examples more than the fewest, and the batch size by the hyperbola, of B_crit.
OVERHEAD = 1.2
SHARE = OVERHEAD - 1


def settings(measurements: Measurements, rule: str = "sgd") -> list[Setting]:
    """The settings of a rule."""
    return [each for each in measurements["settings"] if each["rule"] == rule]


def curve(setting: Setting, seed: int) -> tuple[list[float], list[float]]:
    """The batch sizes at which a seed came to the target, and in how many steps."""
    pairs = [(row["batch"], row["steps"][seed]) for row in setting["rows"] if row["steps"][seed]]
    return [batch for batch, _ in pairs], [steps for _, steps in pairs]


def fit(batches: Sequence[float], steps: Sequence[float]) -> tuple[float, float, float]:
    """S_min, B_crit and the root mean square misfit of log S = log S_min + log(1 + B_crit/B).

    >>> [round(x, 3) for x in fit([1, 4, 16, 64], [27.0, 12.0, 8.25, 7.3125])]
    [7.0, 2.857, 0.0]
    """
    from scipy.optimize import minimize_scalar

    b, logs = np.asarray(batches, dtype=np.float64), np.log(steps)

    def offsets(place: float) -> Any:
        return logs - np.log1p(exp(place) / b)

    best = minimize_scalar(
        lambda place: float(np.var(offsets(place))),
        bounds=(log(b.min()) - 5, log(b.max()) + 5),
        method="bounded",
        options={"xatol": 1e-9},
    )
    left = offsets(best.x)
    return exp(float(left.mean())), exp(float(best.x)), float(left.std())


def overhead(batches: Sequence[float], steps: Sequence[float]) -> float | None:
    """The largest batch size that takes at most 1.2 times the fewest examples, between those tried.

    Nothing where the largest that was tried still does.

    >>> overhead([1, 2, 4], [8.0, 4.0, 3.0])
    2.731...
    """
    examples = [batch * count for batch, count in zip(batches, steps, strict=True)]
    limit = OVERHEAD * min(examples)
    last = max(place for place, each in enumerate(examples) if each <= limit)
    if last + 1 == len(examples):
        return None
    low, high = log(examples[last]), log(examples[last + 1])
    share = (log(limit) - low) / (high - low)
    return float(batches[last] * (batches[last + 1] / batches[last]) ** share)


def critical(setting: Setting) -> list[float]:
    """B_crit by seed."""
    return [fit(*curve(setting, seed))[1] for seed in range(len(setting["loss"]))]


def _agreement(
    quotients: Sequence[Ratio], thresholds: Thresholds, what: str, predicted: float
) -> Judgement:
    """Whether most settings agree within the factor."""
    factor, count = thresholds["factor"], int(thresholds["settings"])
    if len(quotients) < count:
        return too_few(predicted, f"Only {len(quotients)} settings could be measured.")
    decisions = [within(each, 1 / factor, factor) for each in quotients]
    near = sum(1 / factor <= each.value <= factor for each in quotients)
    whole = geometric([each.value for each in quotients])
    reason = (
        f"{what} is {short(whole.value)} {spread(whole.interval())} times the prediction, "
        f"geometric mean over {len(quotients)} settings; {near} lie within a factor {factor:g}, "
        f"{sum(d.holds for d in decisions)} by their interval, and "
        f"{sum(d.fails for d in decisions)} outside by theirs."
    )
    return conclude(most(decisions, int(thresholds["agree"])), [], 1.0, whole, reason, factor)


def _quotients(measurements: Measurements, first: Any, second: Any) -> list[Ratio]:
    """One ratio a setting of SGD, over its seeds; of the settings where all seeds have both."""
    quotients = []
    for each in settings(measurements):
        seeds = range(len(each["loss"]))
        pairs = [(first(each, seed), second(each, seed)) for seed in seeds]
        if all(a and b for a, b in pairs):
            quotients.append(ratio(*zip(*pairs, strict=True)))
    return quotients


def _start(setting: Setting, seed: int) -> float | None:
    scale: float | None = setting["noise_scales"][0][seed]
    return scale


def _along(setting: Setting, seed: int) -> float | None:
    ends = [scales[seed] for scales in setting["noise_scales"]]
    return typical(ends) if all(ends) else None


def judge_predicted(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """The measured batch size of a fifth more examples over B_noise/5."""
    quotients = _quotients(
        measurements,
        lambda s, k: overhead(*curve(s, k)),
        lambda s, k: SHARE * (_start(s, k) or 0.0),
    )
    return _agreement(quotients, thresholds, "The batch size of a fifth more examples", 1.0)


def judge_literal(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """The measured batch size of a fifth more examples over B_noise."""
    quotients = _quotients(measurements, lambda s, k: overhead(*curve(s, k)), _start)
    return _agreement(quotients, thresholds, "The batch size of a fifth more examples", 1.0)


def judge_critical(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """B_crit over the noise scale of the run."""
    quotients = _quotients(measurements, lambda s, k: fit(*curve(s, k))[1], _along)
    return _agreement(quotients, thresholds, "B_crit", 1.0)


def judge_hyperbola(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """The misfit of the hyperbola in log S."""
    bound, seeds = thresholds["misfit"], len(measurements["seeds"])
    every = settings(measurements)
    if not every or seeds < thresholds["seeds"]:
        return too_few(f"< {bound:g}", f"{len(every)} settings and {seeds} seeds are too few.")
    misfits = [
        float(np.mean([fit(*curve(each, seed))[2] for each in every])) for seed in range(seeds)
    ]
    misfit = mean(misfits)
    reason = (
        f"Root mean square misfit in log S {short(misfit.value)} {spread(misfit.interval())}, mean "
        f"over {len(every)} settings."
    )
    return conclude(less(misfit, bound), [], f"< {bound:g}", misfit, reason)


def judge_width(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """B_crit of the widest network over that of the narrowest at the same levels."""
    factor, bends = thresholds["factor"], {}
    for each in settings(measurements):
        bends[each["network"], each["level"]] = critical(each)
    levels = [level for name, level in bends if name == "mlp16" and ("mlp64", level) in bends]
    if not levels or len(measurements["seeds"]) < thresholds["seeds"]:
        return too_few(1.0, "There are no two widths at one level.")
    wide, narrow = (
        [typical(each) for each in zip(*(bends[name, level] for level in levels), strict=True)]
        for name in ("mlp64", "mlp16")
    )
    quotient = ratio(wide, narrow)
    reason = (
        f"B_crit at width 64 is {short(quotient.value)} {spread(quotient.interval())} times that "
        f"at width 16, geometric mean over {len(levels)} levels of the loss."
    )
    return conclude(within(quotient, 1 / factor, factor), [], 1.0, quotient, reason, factor)


def judge_adaptive(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """B_crit of each adaptive rule over that of SGD from the same points."""
    factor, quotients = thresholds["factor"], {}
    plain = {(each["network"], each["level"]): each for each in settings(measurements)}
    for each in measurements["settings"]:
        place = (each["network"], each["level"])
        if each["rule"] != "sgd" and place in plain:
            quotients[each["rule"]] = ratio(critical(each), critical(plain[place]))
    if len(quotients) < 3 or len(measurements["seeds"]) < thresholds["seeds"]:
        return too_few(1.0, f"Only {len(quotients)} rules were run.")
    texts = (f"{name} {short(e.value)} {spread(e.interval())}" for name, e in quotients.items())
    reason = f"B_crit over that of SGD: {', '.join(texts)}."
    core = all_of(*(within(each, 1 / factor, factor) for each in quotients.values()))
    worst = max(quotients.values(), key=lambda each: abs(log(each.value)))
    return conclude(core, [], 1.0, worst, reason, factor)


def judge_doubling(measurements: Measurements, thresholds: Thresholds) -> Judgement:
    """The power of the tuned rate in the batch size, below and above the noise scale."""
    below, above = [], []
    for each in settings(measurements):
        scales = each["noise_scales"][0]
        if not all(scales):
            continue
        middle = typical(scales)
        powers = []
        sides = [[row for row in each["rows"] if row["batch"] <= middle / 2]]
        sides.append([row for row in each["rows"] if row["batch"] >= middle])
        for rows in sides:
            if len(rows) > 1:
                powers.append(log_power([r["batch"] for r in rows], [r["rate"] for r in rows]))
        if len(powers) == 2:
            below.append(powers[0])
            above.append(powers[1])
    bound = thresholds["power"]
    if len(below) < thresholds["settings"]:
        return too_few(f"> {bound:g}, then less", f"Only {len(below)} settings have both sides.")
    first, second = mean(below), mean(above)
    reason = (
        f"The tuned rate goes with the batch size by a power of {short(first.value)} "
        f"{spread(first.interval())} below B_noise and {short(second.value)} "
        f"{spread(second.interval())} above it, over {len(below)} settings."
    )
    parts = (more(first, bound), less(second, bound))
    return conclude(in_parts(*parts), [all_of(*parts)], f"> {bound:g}, then less", first, reason)


def draw_hyperbola(measurements: Measurements) -> Drawing:
    """Steps against examples, each in units of the fitted least."""
    name, title = "claim-hyperbola", "Steps against examples"
    with drawing.style(name):
        chart = drawing.figure()
        axes = chart.add_subplot()
        for each in settings(measurements):
            x, y = [], []
            for seed in range(len(each["loss"])):
                batches, steps = curve(each, seed)
                least, bend, _ = fit(batches, steps)
                x += [b * s / (least * bend) for b, s in zip(batches, steps, strict=True)]
                y += [s / least for s in steps]
            axes.plot(x, y, ".", label=f"{each['network']}, {each['level']:g}")
        line = np.geomspace(1.01, 50, 200)
        axes.plot(line, 1 + 1 / (line - 1), color=drawing.BLACK, label="the law")
        axes.set(xscale="log", yscale="log", xlabel="E/E_min", ylabel="S/S_min")
        axes.legend(ncols=2)
        alt = "Points of all settings about the hyperbola of steps and examples."
        caption = "Each batch size and seed; S_min and E_min are fitted for each setting and seed."
        return drawing.finished(chart, name, title, alt, caption)


def draw_overhead(measurements: Measurements) -> Drawing:
    """The measured batch size of a fifth more examples against the noise scale."""
    name, title = "claim-overhead-predicted", "A fifth more examples, and the noise scale"
    with drawing.style(name):
        chart = drawing.figure()
        axes = chart.add_subplot()
        for each in settings(measurements):
            seeds = range(len(each["loss"]))
            pairs = [(_start(each, k), overhead(*curve(each, k))) for k in seeds]
            known = [(a, b) for a, b in pairs if a and b]
            if known:
                axes.plot(
                    *zip(*known, strict=True), "o", label=f"{each['network']}, {each['level']:g}"
                )
        line = np.array(axes.get_xlim()).clip(1.0)
        axes.plot(line, SHARE * line, color=drawing.BLACK, label="a fifth")
        axes.plot(line, line, "--", color=drawing.GREY, label="equal")
        axes.set(xscale="log", yscale="log", xlabel="B_noise", ylabel="batch size at E = 1.2 E_min")
        axes.legend(ncols=2)
        alt = "Points of all settings and seeds beside the lines of a fifth and of equality."
        caption = "One point a setting and seed; the lines are the two readings of the law."
        return drawing.finished(chart, name, title, alt, caption)


_READ = reads(shared.BRANCHES)(shared.branches)
TRIALS = {
    "claim-hyperbola": Trial(_READ, judge_hyperbola, PROTOCOL, draw_hyperbola),
    "claim-critical-is-noise": Trial(_READ, judge_critical, PROTOCOL),
    "claim-overhead-predicted": Trial(_READ, judge_predicted, PROTOCOL, draw_overhead),
    "claim-overhead-literal": Trial(_READ, judge_literal, PROTOCOL),
    "claim-width": Trial(_READ, judge_width, PROTOCOL),
    "claim-adaptive": Trial(_READ, judge_adaptive, PROTOCOL),
    "claim-doubling": Trial(_READ, judge_doubling, PROTOCOL),
}
