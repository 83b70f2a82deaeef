"""What changed between two audits: verdicts, criteria, numbers, checks that came or went."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paper_checks.errors import InputError
from paper_checks.report.words import bounds, quantity
from paper_checks.result import Result, read_results


@dataclass(frozen=True)
class Change:
    """One check that is not as it was: `what` changed, from `old` to `new`."""

    id: str
    what: str
    old: str
    new: str


def compare(old: Sequence[Result], new: Sequence[Result]) -> list[Change]:
    """Every difference, verdicts first; a check that only one of the two has is named too.

    A measured value is reported where it left the interval that it had, or, without one, where it
    differs by more than a relative 1e-6: what rounding alone may do is no change.

    >>> compare([], [])
    []
    """
    before = {result.id: result for result in old}
    after = {result.id: result for result in new}
    changes: list[Change] = []
    for name in (*after, *(name for name in before if name not in after)):
        if name not in after:
            changes.append(Change(name, "check", before[name].verdict, "not run"))
        elif name not in before:
            changes.append(Change(name, "check", "not run", after[name].verdict))
        else:
            changes += _differences(before[name], after[name])
    return sorted(changes, key=lambda change: _ORDER.index(change.what))


_ORDER = ("verdict", "criterion", "check", "measured", "predicted")


def _differences(old: Result, new: Result) -> list[Change]:
    changes = []
    if old.verdict != new.verdict:
        changes.append(Change(new.id, "verdict", old.verdict, new.verdict))
    if old.criterion_hash != new.criterion_hash:
        changes.append(
            Change(
                new.id,
                "criterion",
                (old.criterion_hash or "unknown")[:12],
                (new.criterion_hash or "unknown")[:12],
            )
        )
    if _moved(old.predicted, new.predicted, None):
        changes.append(
            Change(new.id, "predicted", *(quantity(r.id, r.predicted, r.paper) for r in (old, new)))
        )
    if _moved(old.measured, new.measured, old.interval):
        texts = (
            f"{quantity(each.id, each.measured, each.paper)} "
            f"{bounds(each.id, each.interval, each.paper)}".strip()
            for each in (old, new)
        )
        changes.append(Change(new.id, "measured", *texts))
    return changes


def _moved(
    old: float | str | None, new: float | str | None, interval: tuple[float, float] | None
) -> bool:
    if not isinstance(old, int | float) or not isinstance(new, int | float):
        return old != new
    if interval is not None and None not in interval:
        return not min(interval) <= new <= max(interval)
    return abs(new - old) > 1e-6 * max(abs(old), abs(new))


def read_old(path: Path) -> list[Result]:
    """The results to compare with.

    Raises `InputError` for a file that is not there or is none.
    """
    try:
        return read_results(path)
    except (OSError, ValueError) as error:
        detail = error.strerror if isinstance(error, OSError) else "not a results.json"
        raise InputError("--compare", path, f"{detail}; name a results.json") from None


def lines(changes: Sequence[Change], both: int) -> list[str]:
    """The changes as text, one a line, with a first line that counts them.

    >>> lines([], 3)
    ['no change in 3 checks']
    """
    if not changes:
        return [f"no change in {both} checks"]
    head = f"{len(changes)} changes in {len({change.id for change in changes})} checks"
    width = max(len(change.id) for change in changes)
    return [
        head,
        *(f"{c.id:{width}}  {c.what}: {c.old} -> {c.new}" for c in changes),
    ]
