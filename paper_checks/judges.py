"""A claim as data: what is read off its measurements, by what it stands, and what is said of it.

A claim of `registry.toml` may have a table `judge`, beside its criterion in words:

```toml
[claim.judge]
reads = "points"
core = { gradient = "> factor", noise = "> factor" }
says = "Along the gradient {gradient} times the mean, along the noise {noise} times."
```

`reads` names the measurement. `core` and `controls` have conditions on what the claim's `Reading`
gives by name: an `Estimate`, or several by name, all of which must meet it. A condition is an
operator and a threshold's name:

| operator | the truth is |
|---|---|
| `>`, `<` | above, below the threshold |
| `near` | within that factor of 1 |
| `1 ±`, `0 ±` | within that of 1, of 0 |

| key | says |
|---|---|
| `most` | the threshold that tells how many of several must meet the core |
| `parts` | one part of the core is enough to hold in part |
| `shows` | the estimate that the reader sees; by default the first of the core |
| `percent` | the bound is shown as a percentage |
| `predicted` | the prediction in words, where the first condition does not say it |

Of the threshold `seeds`, or `settings`, that many values must stand behind each estimate. `says`
has names of the reading and of thresholds in braces, with `most` also `inside`, `shown` and
`outside`, how many are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from paper_checks.check import Check, Drawing, Judgement, Measurements, check_of
from paper_checks.drawing import chart
from paper_checks.numbers import short, spread
from paper_checks.quotients import most
from paper_checks.shared import Measure
from paper_checks.statements import Claim
from paper_checks.statistics import (
    Decision,
    Estimate,
    all_of,
    conclude,
    in_parts,
    less,
    more,
    too_few,
    within,
)

Thresholds = Mapping[str, float]
# What is read: an estimate, several by name, or a word or a number for the sentence.
Reading = Callable[[Measurements, Thresholds], Mapping[str, Any]]
_OPERATORS: Mapping[str, Callable[[Estimate, float], Decision]] = {
    ">": more,
    "<": less,
    "near": lambda estimate, factor: within(estimate, 1 / factor, factor),
    "1 ±": lambda estimate, width: within(estimate, 1 - width, 1 + width),
    "0 ±": lambda estimate, width: within(estimate, -width, width),
}
_KEYS = {"reads", "core", "says", "controls", "most", "parts", "shows", "percent", "predicted"}


@dataclass(frozen=True)
class Trial:
    """How a claim is tried, as `paper_checks.check.check_of` asks for it."""

    measure: Measure
    judge: Callable[..., Judgement]
    PROTOCOL: tuple[str, ...]
    draw: Callable[[Measurements], Drawing] | None = None
    RECORDED: bool = False


def text(value: Any) -> str:
    """An estimate with its interval, several by name, and all else as it is.

    >>> text({"a": Estimate(0.5, 0.0), "b": Estimate(2.0, 0.0)}), text(3)
    ('a 0.5 [0.5, 0.5], b 2 [2, 2]', '3')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text(each)}" for name, each in value.items())
    if isinstance(value, Estimate):
        return f"{short(value.value)} {spread(value.interval())}"
    return str(value)


def declared(
    claim: Claim,
    module: Any,
    measures: Mapping[str, Measure],
    protocols: Mapping[str, tuple[str, ...]],
) -> Check:
    """The check of a claim that says in its table `judge` what it reads and by what it stands.

    Of `measures` and `protocols` it takes those that it `reads`. Its `Reading` is the function of
    `module` that is called as the claim is, and what paints its picture, if one does, the one with
    `paint_` before: of claim-width `width` and `paint_width`.

    Raises `ValueError` for a table with an unknown key, operator or threshold.
    """
    table, word = claim.judge, claim.id.removeprefix("claim-").replace("-", "_")
    if unknown := set(table) - _KEYS:
        raise ValueError(f"{claim.id}: judge has no {min(unknown)}; choose of {sorted(_KEYS)}")
    for condition in (*table["core"].values(), *table.get("controls", {}).values()):
        operator, _, name = condition.rpartition(" ")
        if operator not in _OPERATORS or name not in claim.thresholds:
            raise ValueError(
                f"{claim.id}: {condition!r} is not one of {', '.join(_OPERATORS)} and then one of "
                f"its thresholds {', '.join(claim.thresholds)}"
            )
    paint = getattr(module, f"paint_{word}", None)
    return check_of(
        claim,
        "claim",
        Trial(
            measures[table["reads"]],
            partial(judge, table=table, read=getattr(module, word)),
            protocols[table["reads"]],
            None if paint is None else chart(claim.id, paint, **claim.picture),
        ),
    )


def judge(
    measurements: Measurements, thresholds: Thresholds, table: Mapping[str, Any], read: Reading
) -> Judgement:
    """The verdict of a table `judge` on what was read.

    >>> table = {"core": {"apart": "> factor"}, "says": "They are {apart} apart."}
    >>> read = lambda measurements, thresholds: {"apart": Estimate(3.0, 0.1, measurements - 1)}
    >>> judge(4, {"factor": 2.0, "seeds": 3}, table, read).verdict
    'holds'
    >>> judge(2, {"factor": 2.0, "seeds": 3}, table, read).reason
    'There are 2 values, and 3 are needed.'
    """
    values, core = read(measurements, thresholds), table["core"]
    first, condition = next(iter(core.items()))
    operator, bound = _condition(condition, thresholds)
    predicted = _predicted(table, operator, thresholds, bound)
    least = thresholds.get("seeds", thresholds.get("settings", 0.0))
    count = min(_count(values[name], thresholds) for name in core)
    if count < least:
        return too_few(predicted, f"There are {count} values, and {least:g} are needed.")
    said: dict[str, Any] = {**thresholds, **{name: text(value) for name, value in values.items()}}
    parts = [_met(values[name], each, thresholds, table.get("most")) for name, each in core.items()]
    if "most" in table:
        said |= _told(values[first], condition, thresholds)
    controls = [
        _met(values[name], each, thresholds) for name, each in table.get("controls", {}).items()
    ]
    whole = all_of(*parts)
    if table.get("parts"):
        whole, controls = in_parts(*parts), [whole, *controls]
    shown: Estimate = values[table.get("shows", first)]
    tolerance = None if operator in "<>" else bound
    return conclude(whole, controls, predicted, shown, table["says"].format(**said), tolerance)


def _condition(condition: str, thresholds: Thresholds) -> tuple[str, float]:
    operator, _, name = condition.rpartition(" ")
    return operator, thresholds[name]


def _predicted(
    table: Mapping[str, Any], operator: str, thresholds: Thresholds, bound: float
) -> str | float:
    if "predicted" in table:
        return str(table["predicted"].format(**thresholds))
    if operator not in "<>":
        return float(operator[0] != "0")
    return f"{operator} {100 * bound:g} %" if table.get("percent") else f"{operator} {bound:g}"


def _several(value: Any) -> list[Estimate]:
    return list(value.values()) if isinstance(value, Mapping) else [value]


def _count(value: Any, thresholds: Thresholds) -> int:
    """How many values stand behind an estimate, or behind the least of several."""
    if isinstance(value, Mapping) and "seeds" not in thresholds:
        return len(value)
    return min((int(each.freedom) + 1 for each in _several(value)), default=0)


def _decisions(value: Any, condition: str, thresholds: Thresholds) -> list[Decision]:
    operator, bound = _condition(condition, thresholds)
    return [_OPERATORS[operator](each, bound) for each in _several(value)]


def _met(
    value: Any, condition: str, thresholds: Thresholds, at_least: str | None = None
) -> Decision:
    """That all of what was read meets the condition, or at least so many of it."""
    decisions = _decisions(value, condition, thresholds)
    return most(decisions, int(thresholds[at_least])) if at_least else all_of(*decisions)


def _told(value: Any, condition: str, thresholds: Thresholds) -> dict[str, int]:
    """How many of several meet the condition by their value, and by their interval, or miss it."""
    decisions = _decisions(value, condition, thresholds)
    exact = {k: Estimate(each.value, 0.0) for k, each in enumerate(_several(value))}
    return {
        "inside": sum(each.holds for each in _decisions(exact, condition, thresholds)),
        "shown": sum(each.holds for each in decisions),
        "outside": sum(each.fails for each in decisions),
    }
