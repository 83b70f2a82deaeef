"""Claims about runs that branch off: the hyperbola, the critical batch size, width and rules.

Each function reads one claim's estimates off the measurements, and is called as the claim is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import exp, log
from typing import Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Measurements
from paper_checks.judges import Thresholds
from paper_checks.quotients import geometric, log_power, typical
from paper_checks.statistics import Ratio, mean, ratio

Setting = Mapping[str, Any]
# What is read off a seed of a setting; nothing or 0 where there is none.
Reading = Callable[[Setting, int], float | None]
# Share of examples more than the fewest, and the batch size by the hyperbola, of B_crit.
OVERHEAD = 1.2
SHARE = OVERHEAD - 1
RIVALS = ("adam", "lars", "lamb")


def settings(measurements: Measurements, rule: str = "sgd") -> list[Setting]:
    """The settings of a rule."""
    return [each for each in measurements["settings"] if each["rule"] == rule]


def place(setting: Setting) -> tuple[str, float]:
    """Where its runs branch off: the network and the level of the loss."""
    return setting["network"], setting["level"]


def seeds(setting: Setting) -> range:
    """The places of its seeds."""
    return range(len(setting["loss"]))


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

    def offsets(bend: float) -> Any:
        return logs - np.log1p(exp(bend) / b)

    bounds = (log(b.min()) - 5, log(b.max()) + 5)
    best = minimize_scalar(
        lambda bend: float(np.var(offsets(bend))),
        bounds=bounds,
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
    last = max(number for number, each in enumerate(examples) if each <= limit)
    if last + 1 == len(examples):
        return None
    low, high = log(examples[last]), log(examples[last + 1])
    share = (log(limit) - low) / (high - low)
    return float(batches[last] * (batches[last + 1] / batches[last]) ** share)


def fifth(setting: Setting, seed: int) -> float | None:
    """The batch size of a fifth more examples."""
    return overhead(*curve(setting, seed))


def critical(setting: Setting, seed: int) -> float:
    """B_crit."""
    return fit(*curve(setting, seed))[1]


def at_start(setting: Setting, seed: int) -> float:
    """B_noise where the runs branch off."""
    return float(setting["noise_scales"][0][seed] or 0.0)


def along(setting: Setting, seed: int) -> float:
    """The geometric mean of B_noise at both ends of a run."""
    ends = [scales[seed] for scales in setting["noise_scales"]]
    return typical(ends) if all(ends) else 0.0


def _over(
    measurements: Measurements, _: Thresholds, first: Reading, second: Reading
) -> dict[str, Any]:
    """One ratio a setting of SGD, over its seeds; of the settings where all seeds have both."""
    quotients: dict[str, Ratio] = {}
    for each in settings(measurements):
        pairs = [(first(each, seed), second(each, seed)) for seed in seeds(each)]
        if all(a and b for a, b in pairs):
            quotients[str(place(each))] = ratio(*zip(*pairs, strict=True))
    whole = geometric([each.value for each in quotients.values()])
    return {"quotients": quotients, "whole": whole, "count": len(quotients)}


# The last two by the measured batch size of a fifth more examples.
critical_is_noise = partial(_over, first=critical, second=along)
overhead_predicted = partial(_over, first=fifth, second=lambda each, k: SHARE * at_start(each, k))
overhead_literal = partial(_over, first=fifth, second=at_start)


def hyperbola(measurements: Measurements, _: Thresholds) -> dict[str, Any]:
    """The misfit of the hyperbola in log S."""
    by_setting = [
        [fit(*curve(each, seed))[2] for seed in seeds(each)] for each in settings(measurements)
    ]
    misfits = [float(np.mean(each)) for each in zip(*by_setting, strict=True)]
    return {"misfits": mean(misfits), "count": len(by_setting)}


def width(measurements: Measurements, _: Thresholds) -> dict[str, Any]:
    """B_crit of the widest network over that of the narrowest at the same levels."""
    bends = {
        place(each): [critical(each, seed) for seed in seeds(each)]
        for each in settings(measurements)
    }
    both = [level for name, level in bends if name == "mlp16" and ("mlp64", level) in bends]
    wide, narrow = (
        [typical(each) for each in zip(*(bends[name, level] for level in both), strict=True)]
        for name in ("mlp64", "mlp16")
    )
    return {"quotient": ratio(wide, narrow), "count": len(both)}


def adaptive(measurements: Measurements, _: Thresholds) -> dict[str, Any]:
    """B_crit of each adaptive rule over that of SGD from the same points."""
    plain = {place(each): each for each in settings(measurements)}
    quotients = {
        rule: ratio(*([critical(s, k) for k in seeds(s)] for s in (each, plain[place(each)])))
        for rule in RIVALS
        for each in settings(measurements, rule)
        if place(each) in plain
    }
    furthest = max(quotients.values(), key=lambda each: abs(log(each.value)), default=None)
    # All of them, or none.
    return {"rules": quotients if len(quotients) == len(RIVALS) else {}, "furthest": furthest}


def doubling(measurements: Measurements, _: Thresholds) -> dict[str, Any]:
    """The power of the tuned rate in the batch size, below and above the noise scale."""

    def power(rows: Iterable[Mapping[str, Any]]) -> float | None:
        pairs = [(row["batch"], row["rate"]) for row in rows]
        return log_power(*zip(*pairs, strict=True)) if len(pairs) > 1 else None

    sides: dict[str, list[float]] = {"below": [], "above": []}
    for each in settings(measurements):
        if all(scales := each["noise_scales"][0]):
            middle, rows = typical(scales), each["rows"]
            below = power(row for row in rows if row["batch"] <= middle / 2)
            above = power(row for row in rows if row["batch"] >= middle)
            if below is not None and above is not None:
                sides["below"].append(below)
                sides["above"].append(above)
    return {name: mean(side) for name, side in sides.items()} | {"count": len(sides["below"])}


def paint_hyperbola(axes: Any, measurements: Measurements) -> None:
    """Steps against examples, each in units of the fitted least."""
    for each in settings(measurements):
        x, y = [], []
        for seed in seeds(each):
            batches, steps = curve(each, seed)
            least, bend, _ = fit(batches, steps)
            x += [b * s / (least * bend) for b, s in zip(batches, steps, strict=True)]
            y += [s / least for s in steps]
        axes.plot(x, y, ".", label=f"{each['network']}, {each['level']:g}")
    line = np.geomspace(1.01, 50, 200)
    axes.plot(line, 1 + 1 / (line - 1), color=drawing.BLACK, label="the law")


def paint_overhead_predicted(axes: Any, measurements: Measurements) -> None:
    """The measured batch size of a fifth more examples against the noise scale."""
    for each in settings(measurements):
        pairs = [(at_start(each, k), fifth(each, k)) for k in seeds(each)]
        if known := [(a, b) for a, b in pairs if a and b]:
            label = f"{each['network']}, {each['level']:g}"
            axes.plot(*zip(*known, strict=True), "o", label=label)
    line = np.array(axes.get_xlim()).clip(1.0)
    axes.plot(line, SHARE * line, color=drawing.BLACK, label="a fifth")
    axes.plot(line, line, "--", color=drawing.GREY, label="equal")
