"""Do small steps make large batches unstable, and randomness small ones?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import t_interval
from paper_checks.figures._lines import group
from paper_checks.figures.fig8 import PROTOCOL as CURVES
from paper_checks.figures.fig8 import measure
from paper_checks.numbers import short, spread
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *CURVES,
    "At equal steps: the smallest n against the next one for the randomness; among the n from the "
    "paper's 8192 on, whether the one of the shortest path fluctuates most for the small steps.",
)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Both halves of the sentence, by intervals."""
    rows, sizes = measurements["rows"], measurements["n"]

    def read(n: int, column: str) -> tuple[float, float, float]:
        return t_interval(group(rows, column, series="steps", n=n))

    few = min(len(group(rows, "absolute", series="steps", n=n)) for n in sizes)
    if few < thresholds["seeds"] or len(sizes) < 4:
        return Judgement(INCONCLUSIVE, "> 1", None, "Too few seeds or batch sizes.")
    randomness = read(sizes[0], "absolute")[1] > read(sizes[1], "absolute")[2]
    large = sizes[len(sizes) // 2 :]
    shortest = min(large, key=lambda n: read(n, "path")[0])
    others = [n for n in large if n != shortest]
    small_steps = all(read(shortest, "absolute")[1] > read(n, "absolute")[2] for n in others)
    verdict = (
        HOLDS
        if randomness and small_steps
        else IN_PART
        if randomness or small_steps
        else CONTRADICTED
    )
    first = read(sizes[0], "absolute")[0] / read(sizes[1], "absolute")[0]
    rival = max(others, key=lambda n: read(n, "absolute")[0])
    last = read(shortest, "absolute")[0] / read(rival, "absolute")[0]
    reason = (
        f"n = {sizes[0]} fluctuates {short(first)} times as much as n = {sizes[1]}"
        f"{'' if randomness else ' (not apart by the intervals)'}: the randomness of small "
        f"batches. Of the large ones n = {shortest} has the shortest path "
        f"({short(read(shortest, 'path')[0])}) and fluctuates {short(last)} times as much as "
        f"n = {rival} (path {short(read(rival, 'path')[0])}), "
        f"{short(read(shortest, 'absolute')[0])} {spread(read(shortest, 'absolute')[1:])}."
    )
    return Judgement(verdict, "> 1", last, reason)
