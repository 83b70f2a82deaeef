"""What figures 11 to 14 share: the runs of the smaller first epoch and of its controls."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._interval import log_ratio, paired
from paper_checks.figures._lines import PALETTE
from paper_checks.numbers import points, short, spread
from paper_checks.training import schedules
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

BASELINE = "baseline"
OURS = "first epoch 512 / 0.005"
CONTROLS = ("only the rate", "only the batch", "as many steps more", "warm-up")
PROTOCOL = (
    "Batches of the paper's 8192 of 50000 at lr 0.05; the paper's model has 512 and 0.005 in the "
    "first epoch. SGD with momentum 0.9; seeds are paired.",
    "Controls: only the rate lowered in the first epoch; only the batch; the baseline for as many "
    "steps more as the small batches give; warm-up over five epochs.",
)


def measure(context: "Context") -> dict[str, Any]:
    """Curves and ends of the runs by protocol and seed."""
    return schedules(context)


def column(measurements: Measurements, protocol: str, name: str) -> list[float]:
    """The seeds' values in order; nan where a run diverged."""
    rows = sorted(
        (row for row in measurements["rows"] if row["protocol"] == protocol),
        key=lambda row: row["seed"],
    )
    return [np.nan if row[name] is None else row[name] for row in rows]


def both(measurements: Measurements, first: str, second: str, name: str) -> tuple[Any, Any]:
    """The two protocols' values of the seeds that finished in both."""
    a = np.array(column(measurements, first, name))
    b = np.array(column(measurements, second, name))
    kept = np.isfinite(a) & np.isfinite(b)
    return a[kept], b[kept]


def deviation_ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of two standard deviations with the 95 % interval of the F distribution.

    >>> [round(v, 2) for v in deviation_ratio([0.0, 2.0, 4.0, 6.0], [0.0, 1.0, 2.0, 3.0])]
    [2.0, 0.51, 7.86]
    """
    from scipy.stats import f

    ratio = float(np.var(first, ddof=1) / max(float(np.var(second, ddof=1)), 1e-300))
    ends = f.ppf((0.975, 0.025), len(first) - 1, len(second) - 1)
    low, high = (float(np.sqrt(ratio / end)) for end in ends)
    return float(np.sqrt(ratio)), low, high


def fluctuations(
    measurements: Measurements, column: str, what: str, least: float
) -> tuple[dict[str, tuple[float, float, float]], str]:
    """How many times as much the baseline fluctuates as the paper's model and two controls do.

    The ratios with their intervals, by protocol, and a sentence; no ratios where fewer than
    `least` seeds finished.
    """
    pairs = {
        protocol: both(measurements, BASELINE, protocol, column)
        for protocol in (OURS, "warm-up", "only the rate")
    }
    count = len(pairs[OURS][0])
    if count < least:
        return {}, f"Only {count} seeds finished."
    found = {protocol: log_ratio(*pair) for protocol, pair in pairs.items()}
    (mean, *ends), warm, rate = found.values()
    return found, (
        f"Over the first four fifths of the epochs the baseline's {what} fluctuates "
        f"{short(mean)} times {spread(ends)} as much as with the smaller first epoch, "
        f"{short(warm[0])} times {spread(warm[1:])} as much as with warm-up and "
        f"{short(rate[0])} times {spread(rate[1:])} as much as with only the rate lowered."
    )


def improvement(
    measurements: Measurements,
    column: str,
    what: str,
    thresholds: Mapping[str, float],
    *,
    lower: bool = False,
) -> Judgement:
    """Whether the paper's model ends better than the baseline, and than every control.

    A loss, which is better where it is lower, or an accuracy, which is told in points.
    """
    sign, predicted = (-1, "< 0") if lower else (1, "> 0")
    first, second = both(measurements, OURS, BASELINE, column)
    if len(first) < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, predicted, None, f"Only {len(first)} seeds finished.")

    def worst(interval: tuple[float, float, float]) -> float:
        """The end of the interval that speaks least for the paper's model, better above 0."""
        return min(sign * end for end in interval[1:])

    found = paired(first, second)
    others = {control: paired(*both(measurements, OURS, control, column)) for control in CONTROLS}
    better = worst(found) > 0
    if better and all(worst(interval) > 0 for interval in others.values()):
        verdict = HOLDS
    elif better:
        verdict = IN_PART
    elif max(sign * end for end in found[1:]) <= sign * thresholds["gain"]:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE

    def told(interval: tuple[float, float, float]) -> str:
        if lower:
            return f"{short(interval[0])} {spread(interval[1:])}"
        return f"{100 * interval[0]:+.2f} points {points(interval[1:])}"

    reason = (
        f"The final {what} with the smaller first epoch less the baseline's: {told(found)}; less "
        "that of the controls: "
        + "; ".join(f"{control} {told(interval)}" for control, interval in others.items())
        + "."
    )
    return Judgement(verdict, predicted, found[0], reason, found[1:])


def curves(
    measurements: Mapping[str, Any], name: str, title: str, protocol: str, quantity: str, told: str
) -> Drawing:
    """Several seeds' curves of one protocol beside the other's, with the controls' means."""
    label = {"train_loss": "training loss", "test_accuracy": "test accuracy"}[quantity]
    other = OURS if protocol == BASELINE else BASELINE
    with drawing.style(name):
        chart = drawing.figure(10.0, 4.8)
        left, right = chart.subplots(1, 2, sharey=True)
        for axes, which in ((left, protocol), (right, other)):
            for seed, curve in enumerate(measurements["curves"][which][quantity]):
                axes.plot(_numbers(curve), color=PALETTE[seed % len(PALETTE)], linewidth=1)
            axes.set_title(which, loc="left")
            axes.set_xlabel("epoch")
        for number, control in enumerate(CONTROLS):
            found = [_numbers(curve) for curve in measurements["curves"][control][quantity]]
            length = min(map(len, found))
            right.plot(
                np.ma.masked_invalid([each[:length] for each in found]).mean(axis=0),
                "--",
                color=drawing.BLACK,
                alpha=0.9 - 0.2 * number,
                dashes=(2 + 2 * number, 2),
                label=f"control: {control}",
            )
        right.legend(fontsize=8.5)
        left.set_ylabel(label)
        if quantity == "train_loss":
            left.set_yscale("log")
    alt = f"{label.capitalize()} by epoch of several seeds: {protocol}, beside {other}. {told}"
    caption = (
        f"{measurements['network']}, batches of {measurements['n'][1]} (first epoch of the paper's "
        f"model: {measurements['n'][0]}) of {measurements['samples']}. Coloured: single seeds; "
        "dashed: means of the controls."
    )
    return drawing.finished(chart, name, title, alt, caption)


def _numbers(curve: Sequence[float | None]) -> Any:
    return np.array([np.nan if value is None else value for value in curve])
