"""What figures 11 to 14 share: the runs of the smaller first epoch and of its controls."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import points, short, spread
from paper_checks.papers.gao2020.figures._lines import LEFT_CHANCE, PALETTE, chance
from paper_checks.papers.gao2020.measurements.training import SCHEDULE_RUNS, schedules
from paper_checks.shared import reads
from paper_checks.statistics import (
    UNDECIDED,
    Decision,
    Estimate,
    conclude,
    difference,
    less,
    mean,
    more,
    paired,
    ratio,
    too_few,
)

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

BASELINE = "baseline"
OURS = "first epoch 512 / 0.005"
CONTROLS = ("only the rate", "only the batch", "as many steps more", "warm-up")
PROTOCOL = (
    "Batches of the paper's 8192 of 50000 at lr 0.05; the paper's model has 512 and 0.005 in the "
    "first epoch. SGD with momentum 0.9; seeds are paired.",
    "Controls: only the rate lowered in the first epoch; only the batch; the baseline for as many "
    "steps more as the small batches give; warm-up over five epochs.",
)
# Evaluations at the end over which every protocol's value is a mean.
LAST = 5


@reads(SCHEDULE_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """Curves and ends of the runs by protocol and seed."""
    return schedules(context)


def column(measurements: Measurements, protocol: str, name: str) -> dict[int, Any]:
    """The value of every seed whose run did not diverge."""
    return {
        row["seed"]: row[name]
        for row in measurements["rows"]
        if row["protocol"] == protocol and row[name] is not None
    }


def end(measurements: Measurements, protocol: str, name: str) -> dict[int, float]:
    """The mean over the last evaluations of a curve, for every seed that reached them."""
    means = {}
    for seed, curve in column(measurements, protocol, name).items():
        last = curve[-LAST:]
        if None not in last:
            means[seed] = sum(last) / len(last)
    return means


def moves(measurements: Measurements, protocol: str, name: str, sign: int) -> dict[int, float]:
    """The mean move against the trend (`sign`) from epoch to epoch, over the first four fifths.

    A curve that only falls has no upward moves, however steep its first epochs are.
    """
    by_seed = {}
    for seed, curve in column(measurements, protocol, name).items():
        early = curve[: max(3, 4 * len(curve) // 5)]
        if None not in early and len(early) > 1:
            by_seed[seed] = float(np.mean(np.maximum(sign * np.diff(early), 0.0)))
    return by_seed


def fluctuations(
    measurements: Measurements, name: str, sign: int
) -> tuple[dict[str, Estimate], float]:
    """How much more the others move against the trend than the paper's model, over the baseline's.

    The estimates by protocol, and the baseline's mean move.
    """
    arms = {
        protocol: moves(measurements, protocol, name, sign)
        for protocol in (BASELINE, OURS, "warm-up", "only the rate")
    }
    own = list(arms[BASELINE].values())
    scale = float(np.mean(own)) if own else 0.0
    differences = {}
    for protocol in (BASELINE, "warm-up", "only the rate"):
        other, ours = (np.array(arm) for arm in paired(arms[protocol], arms[OURS]))
        # A baseline that never moves against its trend does not stumble at all.
        differences[protocol] = mean(((other - ours) / scale if scale else 0.0 * other).tolist())
    return differences, scale


def plateau_told(measurements: Measurements) -> str:
    """A sentence on how long the baseline stays at chance, or nothing where it leaves at once.

    >>> runs = [{"protocol": BASELINE, "seed": seed, "accuracies": accuracies} for seed, accuracies
    ...         in enumerate(([0.1, 0.1, 0.14, 0.3], [0.1, 0.1, 0.16, 0.1], [0.1, 0.1, 0.1, None]))]
    >>> plateau_told({"rows": runs})[:71]
    ' The baseline stays at chance for 2 to 4 of its 4 epochs, seed by seed,'
    >>> plateau_told({"rows": [{**runs[0], "accuracies": [0.2, 0.3]}]})
    ''
    """
    accuracies = column(measurements, BASELINE, "accuracies").values()
    left = [
        next((k for k, v in enumerate(curve) if (v or 0.0) > LEFT_CHANCE), len(curve))
        for curve in accuracies
    ]
    if not left or max(left) < 2:
        return ""
    epochs = max(map(len, accuracies))
    return (
        f" The baseline stays at chance for {min(left)} to {max(left)} of its {epochs} epochs, "
        "seed by seed, and what a protocol changes is above all when it leaves it."
    )


def stumbles(
    differences: Mapping[str, Estimate], scale: float, what: str, unit: float = 1.0
) -> str:
    """A sentence on the fluctuations."""
    base, warm, rate = (
        f"{short(100 * each.value)} % {points(each.interval())}"
        if isfinite(each.error)
        else "(not run)"
        for each in differences.values()
    )
    return (
        f"Over the first four fifths of the epochs the baseline's {what} moves by "
        f"{short(unit * scale)} an epoch against its trend. Of that, the smaller first epoch moves "
        f"{base} less than the baseline, {warm} less than warm-up and {rate} less than with only "
        "the rate lowered."
    )


def improvement(
    measurements: Measurements, name: str, what: str, thresholds: Mapping[str, float]
) -> Judgement:
    """Whether the paper's model ends better than the baseline, and than every control.

    A loss, which is better where it is lower, as a ratio; or an accuracy, as a difference.
    """
    lower = name == "losses"
    predicted = "< 1" if lower else "> 0"
    ends = {protocol: end(measurements, protocol, name) for protocol in (OURS, BASELINE, *CONTROLS)}
    pairs = {other: paired(ends[OURS], ends[other]) for other in (BASELINE, *CONTROLS)}
    count = len(pairs[BASELINE][0])
    if count < thresholds["seeds"]:
        return too_few(predicted, f"Only {count} seeds finished.")

    def compare(other: str) -> Estimate:
        return ratio(*pairs[other]) if lower else difference(*pairs[other])

    def better(estimate: Estimate) -> Decision:
        if lower:
            return less(estimate, 1.0, most=thresholds["gain"])
        return more(estimate, 0.0, least=thresholds["gain"])

    def told(estimate: Estimate) -> str:
        if lower:
            return f"{short(estimate.value)} times {spread(estimate.interval())}"
        return f"{100 * estimate.value:+.2f} points {points(estimate.interval())}"

    gain = compare(BASELINE)
    # A control of which no run finished is one that was not passed.
    others = {other: compare(other) for other in CONTROLS if len(pairs[other][0])}
    controls = [better(each) for each in others.values()]
    controls += [UNDECIDED] * (len(CONTROLS) - len(others))
    absent = [other for other in CONTROLS if other not in others]
    reason = (
        f"The {what} at the end with the smaller first epoch, against the baseline's: "
        f"{told(gain)}; against the controls: "
        + "; ".join(f"{other} {told(each)}" for other, each in others.items())
        + (f" (not run: {', '.join(absent)})." if absent else ".")
        + plateau_told(measurements)
    )
    return conclude(better(gain), controls, predicted, gain, reason)


def curves(
    measurements: Mapping[str, Any], name: str, title: str, protocol: str, quantity: str, told: str
) -> Drawing:
    """Several seeds' curves of one protocol beside the other's, with the controls' means."""
    accuracy = quantity == "test_accuracy"
    label = "test accuracy (%)" if accuracy else "training loss"
    unit = 100.0 if accuracy else 1.0
    other = OURS if protocol == BASELINE else BASELINE
    with drawing.style(name):
        chart = drawing.figure(10.0, 4.8)
        left, right = chart.subplots(1, 2, sharey=True)
        for axes, which in ((left, protocol), (right, other)):
            for seed, curve in enumerate(measurements["curves"][which][quantity]):
                axes.plot(unit * _numbers(curve), color=PALETTE[seed % len(PALETTE)], linewidth=1)
            axes.set_title(which, loc="left")
            axes.set_xlabel("epoch")
        for number, control in enumerate(CONTROLS):
            if control not in measurements["curves"]:
                continue
            values = [unit * _numbers(curve) for curve in measurements["curves"][control][quantity]]
            length = min(map(len, values))
            right.plot(
                np.ma.masked_invalid([each[:length] for each in values]).mean(axis=0),
                "--",
                color=drawing.BLACK,
                alpha=0.9 - 0.2 * number,
                dashes=(2 + 2 * number, 2),
                label=f"control: {control}",
            )
        left.set_ylabel(label)
        if accuracy:
            for axes in (left, right):
                chance(axes)
        elif left.get_ylim()[1] > 10 * max(left.dataLim.ymin, 1e-12):  # less has no decade to mark
            left.set_yscale("log")
        right.legend(fontsize=8.5)
    alt = f"{label.capitalize()} by epoch of several seeds: {protocol}, beside {other}. {told}"
    caption = (
        f"{measurements['network']}, batches of {measurements['n'][1]} (first epoch of the paper's "
        f"model: {measurements['n'][0]}) of {measurements['samples']}. Coloured: single seeds; "
        "dashed: means of the controls. The verdict is read from the reason's numbers."
    )
    return drawing.finished(chart, name, title, alt, caption)


def _numbers(curve: Sequence[float | None]) -> Any:
    return np.array([np.nan if value is None else value for value in curve])
