"""The ledger of runs: one small row for every finished run, in files that git merges line by line.

A row names the run's whole configuration, from which its key follows, the version of the numerics,
the commit, and what was measured. Code that moves without changing a number invalidates nothing:
the key knows the configuration and the versions of numerics and reading, not the source.
"""

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from paper_checks.errors import InputError
from paper_checks.files import write_atomically
from paper_checks.result import plain

# Where results of runs that a reader cannot repeat at once are committed.
EVIDENCE = Path(__file__).parents[1] / "evidence"
SUFFIX = ".jsonl"
# The file of what is measured without training, one row each.
MEASUREMENT = "measured"
# Digits of a stored number: single precision has seven, and a judge reads three.
DIGITS = 7


def digest(value: Any) -> str:
    """The sha256 of a value as canonical JSON, as 64 hexadecimal digits.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Row:
    """One finished run: a training, or a measurement at a seed.

    `sweep` names the runs that belong together and the file; `config` is the whole configuration;
    `numerics` the version with which equal configurations give equal results, `reading` that of
    what is read off a run; `processor_seconds` are those without pauses, of a run that was made in
    one go. `key` and `sha256` follow from the others: see `sealed`.
    """

    sweep: str
    config: dict[str, Any]
    seed: int
    numerics: int
    reading: int
    measured: dict[str, Any]
    commit: str
    torch: str
    machine: str
    threads: int
    date: str
    seconds: float
    data: str
    processor_seconds: float | None = None
    key: str = ""
    sha256: str = ""

    def sealed(self) -> "Row":
        """The row with its numbers rounded as they are stored, its key, and its checksum.

        >>> row = Row("a", {"lr": 1}, 0, 3, 1, {"x": 0.123456789}, "c", "t", "m", 1, "d", 1.0, "s")
        >>> row.sealed().measured, row.sealed() == row.sealed().sealed()
        ({'x': 0.1234568}, True)
        """
        row = replace(
            self,
            config=plain(self.config),
            measured=rounded(plain(self.measured)),
            seconds=round(self.seconds, 2),
            processor_seconds=rounded(self.processor_seconds),
        )
        row = replace(row, key=key(row.sweep, row.config, row.numerics, row.reading))
        return replace(row, sha256=row.checksum())

    def checksum(self) -> str:
        """The sha256 of all but the checksum itself."""
        return digest({name: value for name, value in asdict(self).items() if name != "sha256"})

    def line(self) -> str:
        """The row as one line of a file, the key first, by which lines are sorted."""
        values = {"key": self.key, **asdict(self)}
        return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def key(sweep: str, config: Mapping[str, Any], numerics: int, reading: int) -> str:
    """What names a run: sixteen digits of the sha256 of all that its numbers depend on."""
    return digest([sweep, config, numerics, reading])[:16]


def rounded(value: Any) -> Any:
    """Numbers to as many digits as they are stored with.

    >>> rounded({"a": [0.123456789, 3]})
    {'a': [0.1234568, 3]}
    """
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return value


def normal(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as today's code writes it: fields that came later stand at their defaults.

    Raises `ValueError` or `TypeError` for one that today's code refuses.
    """
    if "measurement" in config:
        return dict(config)
    from sim.training import TrainConfig

    return dict(plain(TrainConfig.read(config).plain()))


@lru_cache(maxsize=4096)
def _normal_key(sweep: str, text: str, numerics: int, reading: int) -> str:
    return key(sweep, normal(json.loads(text)), numerics, reading)


@dataclass(frozen=True)
class Problem:
    """A row that is not taken for evidence, or that is doubted, and why, in one sentence."""

    sweep: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.sweep}{SUFFIX}, row {self.key}: {self.reason}"


class Ledger:
    """The rows under a folder; `problems` are those that are not taken for evidence.

    Rows of one run that two machines made count once: the earlier is taken.

    Raises `InputError` where the folder is none.
    """

    def __init__(self, folder: Path = EVIDENCE) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self._rows: dict[str, Row] = {}
        self.read()

    def read(self) -> None:
        """Read all files anew: another process may have added rows."""
        self.problems, self._rows = [], {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if line.strip():
                    self._take(path.stem, number, line)

    def _take(self, sweep: str, number: int, line: str) -> None:
        row, reason = checked(sweep, line)
        if row is None or reason:
            name = f"{number}" if row is None else row.key
            self.problems.append(Problem(sweep, name, reason))
            return
        try:
            text = json.dumps(row.config, sort_keys=True)
            name = _normal_key(row.sweep, text, row.numerics, row.reading)
        except (TypeError, ValueError) as error:
            reason = f"its configuration is refused: {' '.join(str(error).split())}"
            self.problems.append(Problem(sweep, row.key, reason))
            return
        other = self._rows.get(name)
        if other is not None and apart(other.measured, row.measured):
            reason = f"made on {other.date} and {row.date} with other numbers; the earlier counts"
            self.problems.append(Problem(sweep, row.key, reason))
        if other is None or (row.date, row.sha256) < (other.date, other.sha256):
            self._rows[name] = row

    @property
    def rows(self) -> list[Row]:
        """The rows that are evidence."""
        return list(self._rows.values())

    def strangers(
        self, admissible: Mapping[str, Collection[str]], versions: Mapping[str, tuple[int, int]]
    ) -> list[Problem]:
        """Rows whose configuration no plan holds; `admissible` has the keys of each sweep.

        `versions` are those of numerics and reading that each sweep's rows have today.
        """
        return [
            Problem(row.sweep, row.key, _strangeness(row, versions.get(row.sweep)))
            for name, row in self._rows.items()
            if name not in admissible.get(row.sweep, ())
        ]

    def find(
        self, sweep: str, config: Mapping[str, Any], numerics: int, reading: int
    ) -> Row | None:
        """The row of a run, if it was made."""
        return self._rows.get(key(sweep, plain(config), numerics, reading))

    def append(self, row: Row) -> Row:
        """Add a finished run to its file, whole or not at all, unless it is there already.

        Raises `InputError` where the folder cannot be written to.
        """
        row = row.sealed()
        with self.locked():
            path = self.folder / f"{row.sweep}{SUFFIX}"
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            known = [checked(row.sweep, line) for line in lines if line.strip()]
            if not any(old and not why and old.key == row.key for old, why in known):
                # Sorted: rows of two machines fall between one another, and git merges them.
                text = "\n".join(sorted({*filter(str.strip, lines), row.line()}))
                write_atomically(path, f"{text}\n")
        self._rows.setdefault(row.key, row)
        return row

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder for this process alone, while a file is written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise InputError(
                "--evidence", self.folder, f"cannot be written to ({error.strerror}); name another"
            ) from None
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def _strangeness(row: Row, versions: tuple[int, int] | None) -> str:
    if versions is not None and (row.numerics, row.reading) != versions:
        return (
            f"made with version {row.numerics} of the numerics and {row.reading} of the reading, "
            f"where today's are {versions[0]} and {versions[1]}; no judge reads it"
        )
    return "its configuration is not in the plan; no judge reads it"


def checked(sweep: str, line: str) -> tuple[Row | None, str]:
    """The row of a line, and what speaks against it: an empty text for nothing."""
    try:
        values = json.loads(line)
        row = Row(**values)
        row.checksum()
    except (TypeError, ValueError):
        return None, "is no row of this version; take it out or put it back as it was"
    missing = {field.name for field in fields(Row)} - set(values)
    if missing or row.sha256 != row.checksum():
        return row, "was changed after it was written: its checksum is another; run it again"
    if row.key != key(row.sweep, row.config, row.numerics, row.reading):
        return row, "its key is not that of its configuration; run it again"
    if row.sweep != sweep:
        return row, f"belongs to {row.sweep}{SUFFIX}"
    return row, ""


def apart(first: Any, second: Any, share: float = 0.05) -> bool:
    """Whether two measurements differ by more than another machine's rounding can do.

    Training carries rounding on to whole images, so a twentieth is allowed on every number.

    >>> apart({"a": 1.0}, {"a": 1.001}), apart({"a": 1.0}, {"a": 2.0}), apart([1.0], [1.0, 1.0])
    (False, True, True)
    """
    if isinstance(first, dict) and isinstance(second, dict):
        return set(first) != set(second) or any(apart(first[k], second[k]) for k in first)
    if isinstance(first, list) and isinstance(second, list):
        pairs = zip(first, second, strict=False)
        return len(first) != len(second) or any(apart(a, b) for a, b in pairs)
    numbers = [isinstance(v, int | float) and not isinstance(v, bool) for v in (first, second)]
    if all(numbers):
        return bool(abs(first - second) > share * max(abs(first), abs(second), 1e-6))
    return bool(first != second)
