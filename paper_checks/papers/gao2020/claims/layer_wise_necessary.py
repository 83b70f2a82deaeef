"""Is a layer-wise rate necessary at large batches?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points
from paper_checks.papers.gao2020.figures._tuned import at_end, chosen, guarded, merit, series_of
from paper_checks.papers.gao2020.figures.fig16 import PROTOCOL as TUNED
from paper_checks.papers.gao2020.figures.fig16 import apart, arm, ends_told, untuned
from paper_checks.papers.gao2020.figures.fig_cblr import NAMES, SUBSTITUTES
from paper_checks.papers.gao2020.measurements.training import RULE_RUNS, rules
from paper_checks.shared import reads
from paper_checks.statistics import UNDECIDED, Decision, Estimate, conclude, more, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

# The ledger has the rules at the paper's 1024 alone, which is no large batch.
RECORDED = False
PROTOCOL = (
    *TUNED,
    "At the largest n, the best layer-wise rule (MCLR, LARS, PercentDelta; chosen on the seeds "
    "that tune) against plain SGD at one global rate, which has as many tuning runs.",
)


@reads(RULE_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """The runs of figure 16, on the network of the other training figures."""
    return rules(context)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The best layer-wise rule less SGD at the largest n, at equal epochs and at equal steps."""
    n, margin = measurements["n"][-1], thresholds["margin"]
    predicted = f"> {100 * margin:g} points"
    if n < thresholds["share"] * measurements["samples"]:
        return too_few(predicted, f"n = {n} is no large batch.")
    gains: dict[str, Estimate] = {}
    decisions: dict[str, Decision] = {}
    told, edges = [], []
    for series in series_of(measurements):
        names = [rule for rule in SUBSTITUTES if arm(measurements, series, n, rule)]
        rule = max(names, key=lambda name: merit(chosen(arm(measurements, series, n, name))))
        gain = apart(measurements, series, n, (rule, "sgd"))
        ends = [at_end(arm(measurements, series, n, name)) for name in (rule, "sgd")]
        decisions[series] = guarded(more(gain, margin), *ends)
        gains[series] = gain
        edges += untuned(measurements, [(series, n)], (rule, "sgd"))
        told.append(
            f"at equal {series} {NAMES[rule]} {100 * gain.value:+.1f} points "
            f"{points(gain.interval())}"
        )
    epochs = gains["epochs"]
    if epochs.freedom + 1 < thresholds["seeds"]:
        return too_few(predicted, "Too few seeds to read.")
    reason = f"Less plain SGD at n = {n}: {'; '.join(told)}." + ends_told(edges)
    controls = [decisions.get("steps", UNDECIDED)]
    return conclude(decisions["epochs"], controls, predicted, epochs, reason, margin)
