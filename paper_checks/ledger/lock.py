"""Criteria that were written down before a run, and where the evidence deviates from that."""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from paper_checks.check import Check
from paper_checks.environment import commit, now
from paper_checks.errors import InputError
from paper_checks.files import write_atomically
from paper_checks.ledger.rows import EVIDENCE, Row
from paper_checks.statements import digest

CRITERIA = "criteria.lock"
# Deviations that a person stated.
STATED = "deviations.toml"


@dataclass(frozen=True)
class Locked:
    """A check's criterion as it stood at a date: with its hash, its words and the commit."""

    date: str
    id: str
    hash: str
    commit: str
    statement: str
    criterion: str

    @property
    def sound(self) -> bool:
        """Whether the hash is that of the words."""
        return self.hash == digest(self.statement, self.criterion)


@dataclass(frozen=True)
class Deviation:
    """Where the evidence of a check deviates from its locked criterion, and since when."""

    id: str
    date: str
    what: str


def read(folder: Path = EVIDENCE) -> dict[str, list[Locked]]:
    """The locked criteria by check, the oldest first.

    Raises `ValueError` for a file that is none.
    """
    path = folder / CRITERIA
    locked: dict[str, list[Locked]] = {}
    if not path.exists():
        return locked
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = Locked(**json.loads(line))
        except (TypeError, ValueError):
            raise ValueError(
                f"{CRITERIA}: line {number}: is no locked criterion; put the file back as it was"
            ) from None
        locked.setdefault(entry.id, []).append(entry)
    return {name: sorted(entries, key=lambda e: e.date) for name, entries in locked.items()}


def lock(checks: Sequence[Check], folder: Path = EVIDENCE) -> list[str]:
    """Write down the criteria of `checks` that are not locked as they stand; a line for each.

    Raises `InputError` where the code was changed since its commit, or nothing can be written.
    """
    place = commit()
    if place.endswith("+"):
        raise InputError("--lock", place, "code was changed since this commit; commit it first")
    known = read(folder)
    date = now()
    fresh = [
        Locked(date, check.id, check.criterion_hash, place, check.statement, check.criterion)
        for check in checks
        if not (old := known.get(check.id)) or old[-1].hash != check.criterion_hash
    ]
    entries = [entry for old in known.values() for entry in old] + fresh
    lines = sorted(
        json.dumps(asdict(entry), ensure_ascii=False, separators=(",", ":")) for entry in entries
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CRITERIA, "".join(f"{line}\n" for line in lines))
    text = [f"{e.id}: locked {e.hash[:16]} ({e.date}, commit {e.commit})" for e in fresh]
    return [*text, f"{len(fresh)} criteria locked, {len(checks) - len(fresh)} stood already"]


def deviations(
    checks: Iterable[Check],
    rows: Mapping[str, Sequence[Row]],
    locked: Mapping[str, Sequence[Locked]],
) -> list[Deviation]:
    """Every deviation of the evidence, by date; `rows` are those that each check reads."""
    deviating = [
        deviation
        for check in checks
        if rows.get(check.id)
        for deviation in _deviations(check, rows[check.id], locked.get(check.id, ()))
    ]
    return sorted(deviating, key=lambda deviation: (deviation.date, deviation.id))


def stated(ids: Iterable[str], folder: Path = EVIDENCE) -> list[Deviation]:
    """The deviations of some checks that no hash shows and the folder's file states.

    >>> [deviation.date[:10] for deviation in stated(["fig16"])]
    ['2026-11-29']

    Raises `ValueError` for a file that is none.
    """
    path = folder / STATED
    if not path.exists():
        return []
    wanted = set(ids)
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["deviation"]
        every = [
            Deviation(name, entry["date"], entry["what"])
            for entry in entries
            for name in entry["ids"]
        ]
    except (KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{STATED}: {error}; each deviation has ids, date and what") from None
    return [deviation for deviation in every if deviation.id in wanted]


def _deviations(check: Check, rows: Sequence[Row], locked: Sequence[Locked]) -> Iterable[Deviation]:
    dates = sorted(row.date for row in rows)
    first = dates[0]
    if not locked:
        yield Deviation(check.id, first, "its runs began, but its criterion was never locked")
        return
    for entry in locked:
        if not entry.sound:
            yield Deviation(check.id, entry.date, "the words of its lock do not have their hash")
    early = sum(date < locked[0].date for date in dates)
    if early:
        yield Deviation(
            check.id,
            locked[0].date,
            f"{early} of {len(dates)} runs were made before its criterion was locked, the first "
            f"on {first}",
        )
    for before, after in pairwise(locked):
        done = sum(date < after.date for date in dates)
        if done:
            yield Deviation(
                check.id,
                after.date,
                f"its criterion was changed after {done} of {len(dates)} runs; locked on "
                f"{before.date} it read: {before.criterion}",
            )
    last = locked[-1]
    if check.criterion_hash != last.hash:
        yield Deviation(
            check.id,
            last.date,
            "its criterion is another than the one locked on this date, and is not locked anew; "
            f"that read: {last.criterion}",
        )
