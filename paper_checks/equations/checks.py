"""Equations: theory's verdict, its derivation checked, and an experiment beside it."""

from collections.abc import Callable
from functools import partial
from math import isclose
from typing import TYPE_CHECKING, Any

from paper_checks.check import Check, Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.verdicts import HOLDS, INCONCLUSIVE

if TYPE_CHECKING:
    import numpy as np

    from paper_checks.equations.evidence import Evidence
    from paper_checks.measurements.context import Context
    from theory import Equation

# Measures an equation's left-hand side with so many random numbers.
Experiment = Callable[[int, "np.random.Generator"], "Evidence"]

CRITERION = (
    "The verdict is theory's, computed from what is printed and what follows from the stated "
    "assumptions. It stands if every step of the derivation checks at 30 digits and if the "
    "experiment's interval holds what is derived and, where the verdict says so, leaves out what "
    "is printed; otherwise inconclusive."
)
# Verdicts by which the printed value must miss the measurement.
_MISSES = ("wrong constant", "sign", "typo", "fails")


def equation_check(equation: "Equation", experiment: Experiment | None = None) -> Check:
    """The check of an equation, with an experiment that measures its left-hand side, if any does.

    >>> from theory import EQUATIONS
    >>> equation_check(EQUATIONS["14"]).title
    'The second derivative of the parabola'
    """
    printed = None if equation.printed is None else equation.latex("printed")
    return Check(
        id=f"eq{equation.label}",
        kind="equation",
        title=equation.title,
        section=equation.section,
        statement=printed or "The text has no such equation.",
        criterion=CRITERION,
        measure=partial(measure, equation=equation, experiment=experiment),
        judge=judge,
        latex=printed,
        needs_data=False,
    )


def measure(
    context: "Context", equation: "Equation", experiment: Experiment | None = None
) -> dict[str, Any]:
    """Theory's verdict and checked steps, and the experiment's numbers beside both forms."""
    factor = equation.factor
    constant = factor is not None and factor.is_number
    return {
        "seeds": [] if experiment is None else [0],
        "verdict": equation.verdict.value,
        "note": equation.note,
        "factor": float(factor) if constant else None,
        "derivation": {
            "assumptions": list(equation.assumptions),
            "steps": [
                {"sentence": step.sentence, "latex": step.latex(), "checked": bool(step.check())}
                for step in equation.steps
            ],
            "latex": None if equation.derived is None else equation.latex("derived"),
            "readings": [
                {
                    "name": reading.name,
                    "meaning": reading.meaning,
                    "verdict": equation.reading_verdicts[reading.name].value,
                }
                for reading in equation.readings
            ],
        },
        "numbers": _numbers(equation, experiment, context.profile.draws),
    }


def _numbers(
    equation: "Equation", experiment: Experiment | None, draws: int
) -> dict[str, Any] | None:
    import numpy as np

    if experiment is None:
        return None
    evidence = experiment(draws, np.random.default_rng([0, int(equation.label)]))
    printed, derived = (
        None if evidence.limit is not None else _value(side, evidence)
        for side in (equation.printed, equation.derived)
    )
    return {
        "quantity": evidence.quantity,
        "printed": printed,
        "derived": derived if evidence.limit is None else evidence.limit,
        "measured": evidence.measured,
        "interval": [evidence.measured - evidence.half, evidence.measured + evidence.half],
        "others": [{"quantity": text, "measured": value} for text, value in evidence.others],
    }


def _value(side: Any, evidence: Any) -> float | None:
    """A printed or derived object as a number at the experiment's point, if it has one there."""
    if side is None:
        return None
    expression = side if evidence.read is None else evidence.read(side)
    point = {
        symbol: evidence.point[symbol.name]
        for symbol in expression.free_symbols
        if symbol.name in evidence.point
    }
    value = expression.subs(point).evalf()
    return float(value) if value.is_number and value.is_real else None


def judge(measurements: Measurements) -> Judgement:
    """Theory's verdict, unless a step failed or the experiment speaks against it."""
    verdict, numbers = measurements["verdict"], measurements["numbers"]
    steps = measurements["derivation"]["steps"]
    passed = sum(step["checked"] for step in steps)
    plural = "step" if len(steps) == 1 else "steps"
    count = f"{passed} of {len(steps)} {plural} checked"
    if numbers is None:
        if passed < len(steps):
            verdict = INCONCLUSIVE
        return Judgement(verdict, f"{len(steps)} {plural}", count, measurements["note"])
    low, high = numbers["interval"]
    trouble = None if passed == len(steps) else f"Of the derivation only {count}."
    trouble = trouble or _trouble(measurements)
    told = f"{numbers['quantity']}: measured {short(numbers['measured'], 4)}"
    if numbers["derived"] is not None:
        told += f", derived {short(numbers['derived'], 4)}"
    if numbers["printed"] is not None:
        told += f", printed {short(numbers['printed'], 4)}"
    for other in numbers["others"]:
        told += f"; {other['quantity']}: {short(other['measured'], 4)}"
    reason = f"{trouble or measurements['note']} Experiment: {told}."
    return Judgement(
        INCONCLUSIVE if trouble else verdict,
        numbers["derived"],
        numbers["measured"],
        reason,
        (low, high),
        (high - low) / 2,
    )


def _trouble(measurements: Measurements) -> str | None:
    """What in the numbers does not fit the verdict, or nothing."""
    verdict, numbers = measurements["verdict"], measurements["numbers"]
    printed, derived = numbers["printed"], numbers["derived"]
    low, high = numbers["interval"]
    if derived is not None and not low <= derived <= high:
        return "The experiment contradicts our own derivation."
    if printed is None:
        return None
    if verdict == HOLDS and not low <= printed <= high:
        return "The experiment contradicts the printed form, which was found to hold."
    if verdict in _MISSES and low <= printed <= high:
        return "The experiment cannot tell the printed form, found wrong, from the derived one."
    factor = measurements["factor"]
    if verdict == "wrong constant" and not isclose(derived, factor * printed, rel_tol=1e-9):
        return "The numbers do not show the constant factor that was found."
    return None
