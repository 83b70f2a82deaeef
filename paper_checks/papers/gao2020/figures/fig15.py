"""Figure 15: the local geometry as a parabola, drawn from the mathematics, with what it loses."""

from collections.abc import Mapping
from math import cos, sin
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.shared import reads
from paper_checks.verdicts import ILLUSTRATION, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

NEEDS_DATA = False
PROTOCOL = (
    "L(w) = 1 - cos(w) + 0.15 sin(2w) and the parabola of equal value, slope and second derivative "
    "at its minimum; the error is read at distances δ, δ/2, … from it.",
    "Morse's lemma says that a change of coordinates makes the curve a parabola exactly; it keeps "
    "the minimum and its kind, not the second derivative or the radius, which depend on the "
    "coordinates. Taylor's theorem gives the parabola in w itself, with an error of third order.",
)


def loss(w: float) -> float:
    """A smooth curve that is no parabola.

    >>> loss(0.0)
    0.0
    """
    return 1 - cos(w) + 0.15 * sin(2 * w)


@reads()
def measure(context: "Context") -> dict[str, Any]:
    """The minimum by search, the second derivative by differences, the parabola's error by δ."""
    from scipy.optimize import minimize_scalar

    b = float(
        minimize_scalar(loss, bounds=(-1.5, 1.0), method="bounded", options={"xatol": 1e-10}).x
    )
    apart = 1e-3
    second = (loss(b + apart) - 2 * loss(b) + loss(b - apart)) / apart**2
    distances = [0.8 / 2**k for k in range(6)]
    errors = [abs(loss(b + d) - (loss(b) + second / 2 * d**2)) for d in distances]
    x = np.linspace(-2.2, 1.6, 200)
    return {
        "seeds": [],
        "a": second / 2,
        "b": b,
        "c": loss(b),
        "distance": distances,
        "error": errors,
        "w": x.tolist(),
        "loss": [loss(float(value)) for value in x],
    }  # fmt: skip


def order(measurements: Measurements) -> float:
    """The power of the distance with which the parabola's error falls."""
    line = np.polyfit(np.log(measurements["distance"]), np.log(measurements["error"]), 1)
    return float(line[0])


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """An illustration if the parabola drawn touches the curve to second order."""
    power = order(measurements)
    right = power >= thresholds["order"] and measurements["a"] > 0
    reason = (
        f"The parabola a(w - b)² + c with a = {short(measurements['a'])}, b = "
        f"{short(measurements['b'])} misses the curve by a power {short(power)} of the distance: "
        "only near the minimum do its slope, curvature and radius stand for the curve's."
    )
    if not right:
        reason = f"The parabola drawn is not the curve's own: its error falls by {short(power)}."
    return Judgement(ILLUSTRATION if right else INCONCLUSIVE, 3.0, power, reason)


def draw(measurements: Measurements) -> Drawing:
    """The curve with its parabola, and the error between them against the distance."""
    m = measurements
    with drawing.style("fig15"):
        chart = drawing.figure(9.0, 4.4)
        left, right = chart.subplots(1, 2)
        x = np.array(m["w"])
        left.plot(x, m["loss"], color=drawing.BLUE, label="loss L(w)")
        near = np.abs(x - m["b"]) < 1.6
        parabola = m["a"] * (x - m["b"]) ** 2 + m["c"]
        left.plot(x[near], parabola[near], "--", color=drawing.VERMILION, label="a(w - b)² + c")
        left.plot([m["b"]], [m["c"]], "D", color=drawing.GREEN, label="minimum b")
        left.set_xlabel("weight w")
        left.set_ylabel("loss L")
        left.legend()
        right.plot(m["distance"], m["error"], "o-", color=drawing.BLACK, label="parabola's error")
        reference = m["error"][0] * (np.array(m["distance"]) / m["distance"][0]) ** 3
        right.plot(m["distance"], reference, ":", color=drawing.GREY, label="third order")
        right.set_xscale("log")
        right.set_yscale("log")
        right.set_xticks(m["distance"], [f"{d:g}" for d in m["distance"]])
        right.minorticks_off()
        right.set_xlabel("distance from the minimum")
        right.set_ylabel("|loss - parabola|")
        right.legend()
    alt = (
        "Left: a smooth loss curve and the parabola at its minimum, which part away from it. "
        f"Right: their difference falls with the power {short(order(m))} of the distance."
    )
    caption = (
        "The parabola shares the value, the slope and the second derivative of the curve at the "
        "minimum, and nothing else."
    )
    title = "Figure 15: the local geometry as a parabola"
    return drawing.finished(chart, "fig15", title, alt, caption)
