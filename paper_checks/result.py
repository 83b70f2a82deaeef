"""One finished check as a record, and the file that keeps all of them."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paper_checks.files import write_atomically
from paper_checks.papers import USUAL

# In place of measurements that another check of the same file has.
SAME = "same_as"


@dataclass(frozen=True)
class Result:
    """What one check found; `asdict` of it is one entry of `results.json`.

    `completed` is false where the check broke down: its verdict is then *inconclusive*, and
    `reason` says what happened. `measurements` are what `judge` read, so that the verdict can be
    formed again; `kept` says that they come from an earlier run of the same configuration, and
    `seconds` is then what that run took. `code` names the file that measured;
    `p` is the least level at which the intervals would decide; of what holds in part, `rest` says
    whether the remainder is refuted or open.
    """

    id: str
    kind: str
    verdict: str
    statement: str
    criterion: str
    predicted: float | str | None
    measured: float | str | None
    interval: tuple[float, float] | None
    tolerance: float | None
    reason: str
    seeds: list[int]
    seconds: float
    figure: str | None
    environment: dict[str, Any]
    title: str = ""
    section: str = ""
    latex: str | None = None
    protocol: list[str] = field(default_factory=list)
    alt: str | None = None
    caption: str | None = None
    criterion_hash: str | None = None
    completed: bool = True
    kept: bool = False
    code: str = ""
    p: float | None = None
    rest: str = ""
    measurements: dict[str, Any] = field(default_factory=dict)

    @property
    def paper(self) -> str:
        """The name of the paper that was audited."""
        return str((self.environment or {}).get("paper", USUAL))


def plain(value: Any) -> Any:
    """`value` in the types JSON has: NumPy numbers and arrays unpacked, non-finite ones `None`.

    >>> plain({"a": (1, float("nan")), 2: float("inf")})
    {'a': [1, None], '2': None}

    Raises `TypeError` for anything JSON has no word for.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be stored in results.json")


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write `results` as the list that `results.json` is, in one step.

    Measurements that several checks share stand once, at the first of them; the others say
    `{"same_as": id}`.
    """
    first: dict[str, str] = {}
    records = []
    for result in results:
        record = plain(asdict(result))
        measured = _text(record["measurements"])
        holder = first.setdefault(measured, result.id)
        if holder != result.id and record["measurements"]:
            record["measurements"] = {SAME: holder}
        fields = (f"{_text(name)}: {_text(value)}" for name, value in record.items())
        records.append("{\n " + ",\n ".join(fields) + "\n}")
    write_atomically(path, "[" + ",\n".join(records) + "]\n")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def read_results(path: Path) -> list[Result]:
    """The results stored in `path`, in their order, each with its measurements.

    Raises `FileNotFoundError` where there is none and `ValueError` where it is no results file.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(records, list):
            raise TypeError(f"it holds a {type(records).__name__}, no list")
        every = [(record.get("id"), record.get("measurements", {})) for record in records]
        by_check = {name: measured for name, measured in every if SAME not in measured}
        for record, (_, measured) in zip(records, every, strict=True):
            if SAME in measured:
                record["measurements"] = by_check[measured[SAME]]
            if record.get("interval"):
                record["interval"] = tuple(record["interval"])
        return [Result(**record) for record in records]
    except KeyError as error:
        raise ValueError(
            f"results: {path}: names measurements of {error}, which it does not hold"
        ) from None
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"results: {path}: not a results.json of this version ({error})") from None
