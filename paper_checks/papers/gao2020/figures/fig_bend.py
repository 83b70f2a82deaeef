"""Beyond the paper: the batch size where 1/√n bends, against the gradient noise scale."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.shared import Shared, reads
from paper_checks.statistics import Ratio, all_of, conclude, too_few, within

if TYPE_CHECKING:
    from torch import nn

    from paper_checks.papers.gao2020.measurements.context import Context

LAYERS = ("fc1.weight", "fc2.weight", "fc3.weight")
BEYOND = 8
REPEATS = 24
BOOTSTRAP = 400
PROTOCOL = (
    "The weights of the three layers of an MLP (64-128-128-10, ReLU) on scikit-learn's digits, at "
    "initialisation and after 20 epochs of SGD. Cross-entropy.",
    f"E|g| over random batches of n = 1 to {BEYOND} N drawn with replacement, {REPEATS} each.",
    "The bend is read from this curve alone: the n at which its slope in the log-log plane is "
    "-1/4, half way from -1/2 to 0. Its interval is a bootstrap over the batches.",
    "The gradient noise scale tr Σ/|G|² (McCandlish et al. 2018) comes from every entry's mean "
    "and variance over the training set. For means spread like N(0, τ) theory puts both at the "
    "same n.",
)


BENDS = Shared.under("fig-bend")


@reads(BENDS)
def measure(context: "Context") -> dict[str, Any]:
    """The curves, the bends with their bootstrap, the noise scales and theory's crossing."""
    return context.shared("fig-bend", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from paper_checks.papers.gao2020.figures._samples import small_data, small_networks

    seed = context.profile.seeds[0]
    pair = small_data(context)
    cases = [
        _case(f"{name}, {layer}", model, pair, layer, seed)
        for name, model in small_networks(context).items()
        for layer in LAYERS
    ]
    return {"seeds": [seed], "samples": len(pair[1]), "cases": cases}


def _case(name: str, model: "nn.Module", pair: Any, layer: str, seed: int) -> dict[str, Any]:
    from torch.nn.functional import cross_entropy

    from sim import gradient_moments, mean_abs_gradient
    from theory import bend_batch_size

    total = len(pair[1])
    sizes = [2**k for k in range(40) if 2**k <= BEYOND * total]
    moments = gradient_moments(model, cross_entropy, pair, layer)
    frame = mean_abs_gradient(
        model, cross_entropy, pair, layer, sizes, replacement=True, repeats=REPEATS, seed=seed
    )
    values = np.array(frame.attrs["repeats"])
    generator = np.random.default_rng(seed)
    drawn = [
        bend(sizes, values[generator.integers(len(values), size=len(values))].mean(0))
        for _ in range(BOOTSTRAP)
    ]
    bends = [value for value in drawn if value is not None]
    mean, std = moments.mean.double(), moments.std.double()
    crossing = bend_batch_size(float(std.mean()), mu=float(mean.abs().mean()))
    return {
        "case": name,
        "n": sizes,
        "mean": values.mean(0).tolist(),
        "bend": bend(sizes, values.mean(0)),
        "interval": np.quantile(bends, (0.025, 0.975)).tolist() if bends else None,
        "noise_scale": float((std**2).sum() / (mean**2).sum()),
        "crossing": float(crossing),
        "level": float(mean.abs().mean()),
    }


def bend(sizes: Any, mean: Any, slope: float = -0.25) -> float | None:
    """The n at which the log-log slope of `mean` reaches `slope` for good, or `None`.

    >>> n = 2.0 ** np.arange(14)
    >>> round(bend(n, np.sqrt(1 / n + 1 / 100)))
    100
    """
    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(mean, dtype=float))
    slopes = np.diff(y) / np.diff(x)
    middles = (x[1:] + x[:-1]) / 2
    steep = np.flatnonzero(slopes < slope)
    if not steep.size or steep[-1] + 1 >= slopes.size:
        return None
    last = steep[-1]
    part = (slope - slopes[last]) / (slopes[last + 1] - slopes[last])
    return float(np.exp(middles[last] + part * (middles[last + 1] - middles[last])))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The quotient of the measured bend and the noise scale, layer by layer."""
    cases = measurements["cases"]
    if any(case["bend"] is None or case["interval"] is None for case in cases):
        return too_few(1.0, "A curve does not bend within the sizes drawn.")
    quotients = [quotient(case) for case in cases]
    worst = max(quotients, key=lambda each: abs(np.log(each.value)))
    loose, tight = (
        all_of(*(within(each, 1 / factor, factor) for each in quotients))
        for factor in (thresholds["loose"], thresholds["factor"])
    )
    reason = "Measured bend (95 %), noise scale, crossing of the asymptotes: " + "; ".join(
        f"{case['case']} {short(case['bend'])} [{short(case['interval'][0])}, "
        f"{short(case['interval'][1])}], {short(case['noise_scale'])}, {short(case['crossing'])}"
        for case in cases
    )
    return conclude(loose, [tight], 1.0, worst, f"{reason}.", thresholds["factor"] - 1)


def quotient(case: Mapping[str, Any]) -> Ratio:
    """The bend over the noise scale; the bootstrap's interval is four standard errors wide."""
    low, high = np.log(case["interval"])
    return Ratio(case["bend"] / case["noise_scale"], float(high - low) / (2 * 1.96))


def draw(measurements: Measurements) -> Drawing:
    """E|g| over its level against n over the noise scale; bends against noise scales."""
    cases = measurements["cases"]
    palette = (
        drawing.BLUE, drawing.ORANGE, drawing.GREEN, drawing.VERMILION, drawing.PURPLE, drawing.SKY,
    )  # fmt: skip
    with drawing.style("fig-bend"):
        chart = drawing.figure(10.0, 4.8)
        left, right = chart.subplots(1, 2)
        for case, colour, marker in zip(cases, palette, "osD^vP", strict=False):
            x = np.array(case["n"]) / case["noise_scale"]
            left.plot(
                x, np.array(case["mean"]) / case["level"], marker=marker, color=colour,
                markersize=4, linewidth=1.2, label=case["case"],
            )  # fmt: skip
            if case["bend"] and case["interval"]:
                low, high = case["interval"]
                right.errorbar(
                    [case["noise_scale"]], [case["bend"]],
                    yerr=[[max(0, case["bend"] - low)], [max(0, high - case["bend"])]],
                    fmt=marker, color=colour, capsize=3, markersize=6,
                )  # fmt: skip
        x = np.geomspace(1e-4, 1e3, 100)
        left.plot(x, np.sqrt(1 + 1 / x), "--", color=drawing.BLACK, label="√(1 + B/n)")
        left.axvline(1, color=drawing.GREY, linewidth=1, linestyle=":")
        ends = [min(c["noise_scale"] for c in cases) / 2, max(c["noise_scale"] for c in cases) * 2]
        right.plot(ends, ends, "--", color=drawing.BLACK, label="bend = noise scale")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_yscale("log")
        left.set_ylim(0.7, 300)
        left.set_xlabel("batch size n / gradient noise scale B")
        left.set_ylabel("E|g| / mean |μ|")
        right.set_xlabel("gradient noise scale tr Σ / |G|²")
        right.set_ylabel("measured bend of E|g| (batch size)")
        right.legend(loc="upper left")
        left.legend(fontsize=8)
    alt = (
        "Left: E|g| over its floor against the batch size over the noise scale, one curve a layer. "
        "Right: measured bend against the noise scale: "
        + "; ".join(
            f"{case['case']} {short(case['bend'])} and {short(case['noise_scale'])}"
            for case in cases
        )
        + "."
    )
    caption = (
        "The curves would coincide if each layer's means were spread like its deviations; the "
        "dotted line marks the noise scale. Beyond it a larger batch hardly shrinks the gradient."
    )
    title = "Where the 1/√n law bends"
    return drawing.finished(chart, "fig-bend", title, alt, caption)
