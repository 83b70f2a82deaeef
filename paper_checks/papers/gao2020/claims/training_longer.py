"""Do more steps enlarge the searching space of a large batch, and find a better minimum?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points, short, spread
from paper_checks.papers.gao2020.figures._tuned import at_end, chosen, guarded, read, series_of
from paper_checks.papers.gao2020.figures.fig1 import PROTOCOL, arms, edges_told, measure
from paper_checks.statistics import conclude, difference, more, paired, ratio, too_few

__all__ = ["PROTOCOL", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The largest batch with more steps against itself with few: accuracy and path."""
    if "steps" not in series_of(measurements):
        return too_few("> 0", "Equal steps were not run.")
    tuned = {series: arms(measurements, series) for series in ("steps", "epochs")}
    n = max(set(tuned["steps"]) & set(tuned["epochs"]))
    rows = [chosen(tuned[series][n]) for series in ("steps", "epochs")]
    gain = difference(*paired(*(read(row) for row in rows)))
    if gain.freedom + 1 < thresholds["seeds"]:
        return too_few("> 0", "Too few seeds to read.")
    # A run that diverged has no path.
    paths = ({k: v for k, v in read(row, "path").items() if v > 0} for row in rows)
    farther = ratio(*paired(*paths))
    ends = (at_end(tuned[series][n]) for series in ("steps", "epochs"))
    reason = (
        f"At n = {n}, {measurements['equal_steps']} steps instead of {measurements['epochs']} "
        f"epochs change the accuracy by {100 * gain.value:+.1f} points {points(gain.interval())} "
        f"and the path by a factor {short(farther.value)} {spread(farther.interval())}."
        + edges_told(measurements)
    )
    core = guarded(more(gain, 0.0, least=thresholds["gap"]), *ends)
    return conclude(core, [more(farther, 1.0)], "> 0", gain, reason, thresholds["gap"])
