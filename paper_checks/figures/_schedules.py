"""What figures 11 to 14 share: the runs of the smaller first epoch and of its controls."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Measurements
from paper_checks.figures._lines import PALETTE
from paper_checks.training import schedules

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
