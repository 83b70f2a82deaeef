"""Do LARS and PercentDelta fail where equation 17 does, at w → 0 and at g → 0?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.papers.gao2020.figures._entries import ENTRIES, entries
from paper_checks.papers.gao2020.figures._reducers import SMALL
from paper_checks.shared import reads
from paper_checks.statistics import all_of, conclude, more, ratio, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "Weights and gradients of a large weight tensor of the network of figure 2 (entries of which "
    "neither is zero).",
    f"One entry's w, or its g, is multiplied by {SMALL:g}; then all entries' w, or g. Equation 17 "
    "fails at the entry: its rate goes to zero or to infinity.",
    "The factor by which the layer's rate changes.",
)


@reads(ENTRIES)
def measure(context: "Context") -> dict[str, Any]:
    """The factor by which each rule's rate changes, for one entry and for all, by seed."""
    by_seed = [entries(context, seed) for seed in context.profile.seeds]
    return {
        "seeds": list(context.profile.seeds),
        "samples": by_seed[0]["samples"],
        "parameter": by_seed[0]["failures"]["parameter"],
        "entries": min(each["failures"]["entries"] for each in by_seed),
        "changes": [each["failures"]["changes"] for each in by_seed],
    }


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """In which of the cases each rule fails, seed by seed."""
    changed = measurements["changes"]
    if measurements["entries"] < thresholds["entries"]:
        return too_few(1.0, f"Only {measurements['entries']} entries.")
    factors = {
        case: ratio([each[case] for each in changed], [1.0] * len(changed)) for case in changed[0]
    }
    failed = {case: more(each, thresholds["factor"]) for case, each in factors.items()}
    single = [each for case, each in failed.items() if ": one" in case]
    whole = [each for case, each in failed.items() if ": all" in case]
    reason = "The layer's rate changes by a factor: " + "; ".join(
        f"{case} → 0: {short(each.value)}" for case, each in factors.items()
    )
    # The verdict is read from all entries at once where one alone does not move the rate.
    seen = ": one" if all_of(*whole, *single).holds else ": all"
    least = min(
        (each for case, each in factors.items() if seen in case), key=lambda each: each.value
    )
    predicted = f"> {thresholds['factor']:g}"
    return conclude(all_of(*whole), single, predicted, least, f"{reason}.")
