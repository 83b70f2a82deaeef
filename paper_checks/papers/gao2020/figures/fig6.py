"""Figure 6: minimum, gradient, step and loss decrease, drawn from the mathematics."""

from collections.abc import Mapping
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
    "L(w) = a(w - b)² + c with a = 0.5, b = 1, c = 0.5; one step w - lr·g from w = 4.",
    "The text has no equation 7. What the sketch and equation 8 share is ΔL ≈ Δw·g = lr·g²: the "
    "leg of the right triangle under the tangent; the curve itself falls by less, by a(lr·g)².",
)
A, B, C, W, LR = 0.5, 1.0, 0.5, 4.0, 0.45


def loss(w: float) -> float:
    """The parabola that is drawn.

    >>> loss(B)
    0.5
    """
    return A * (w - B) ** 2 + C


@reads()
def measure(context: "Context") -> dict[str, Any]:
    """The points of the sketch, the slope by central difference and not by a formula."""
    w, apart = W, 1e-4
    gradient = (loss(w + apart) - loss(w - apart)) / (2 * apart)
    after = w - LR * gradient
    return {
        "seeds": [],
        "a": A,
        "b": B,
        "c": C,
        "lr": LR,
        "w": w,
        "gradient": gradient,
        "after": after,
        "loss_before": loss(w),
        "loss_after": loss(after),
    }


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """An illustration if the drawn step obeys the relations that it illustrates."""
    m = measurements
    step, fall = m["lr"] * m["gradient"], m["loss_before"] - m["loss_after"]
    exact = m["lr"] * m["gradient"] ** 2 - m["a"] * step**2
    scale = m["lr"] * m["gradient"] ** 2
    right = (
        abs(m["w"] - m["after"] - step) <= thresholds["rounding"] * abs(step)
        and abs(fall - exact) <= thresholds["rounding"] * scale
        and abs(m["after"] - m["b"]) < abs(m["w"] - m["b"])
    )
    reason = (
        f"The step lr·g = {short(step)} lowers the loss by {short(fall)}; the tangent promises "
        f"lr·g² = {short(scale)} (equation 8), and a(lr·g)² = {short(m['a'] * step**2)} is what "
        "the curve takes back."
    )
    if not right:
        reason = "The points drawn do not obey the relations that the sketch illustrates."
    return Judgement(ILLUSTRATION if right else INCONCLUSIVE, scale, fall, reason)


def draw(measurements: Measurements) -> Drawing:
    """The parabola, the tangent, the step, the promised and the true fall of the loss."""
    m = measurements
    with drawing.style("fig6"):
        chart = drawing.figure(7.6, 5.0)
        axes = chart.subplots()
        x = np.linspace(m["b"] - 2.6, m["w"] + 0.6, 200)
        axes.plot(x, m["a"] * (x - m["b"]) ** 2 + m["c"], color=drawing.BLUE, label="loss L(w)")
        w, after, before = m["w"], m["after"], m["loss_before"]
        foot = before - m["gradient"] * (w - after)
        axes.plot([w, after], [before, foot], "--", color=drawing.VERMILION, label="tangent")
        axes.plot([w, after], [before, before], color=drawing.GREY, linewidth=1)
        axes.plot([after, after], [before, foot], color=drawing.GREY, linewidth=1)
        axes.plot([w, after], [before, m["loss_after"]], "o", color=drawing.BLACK, markersize=6)
        axes.plot([m["b"]], [m["c"]], "D", color=drawing.GREEN, label="minimum b")
        axes.annotate("Δw = lr·g", ((w + after) / 2, before), (0, 6), textcoords="offset points")
        axes.annotate(
            "lr·g² (equation 8)", (after, (before + foot) / 2), (-118, 0),
            textcoords="offset points", color=drawing.VERMILION,
        )  # fmt: skip
        axes.annotate(
            "where the step lands", (after, m["loss_after"]), (8, -4), textcoords="offset points"
        )
        axes.set_xlabel("weight w")
        axes.set_ylabel("loss L")
        axes.legend(loc="upper left")
    alt = (
        f"A parabola with its minimum at {short(m['b'])}. From w = {short(w)} the step to "
        f"{short(after)} lowers the loss by {short(before - m['loss_after'])}; the tangent's "
        f"promise of {short(before - foot)} is larger."
    )
    caption = (
        "Drawn from L = a(w - b)² + c. Equation 8 takes the fall along the tangent for that of the "
        "loss; the difference is a(lr·g)², of second order in lr."
    )
    title = "Figure 6: minimum, gradient, step and loss decrease"
    return drawing.finished(chart, "fig6", title, alt, caption)
