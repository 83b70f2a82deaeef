"""The evidence of the ledger beside a report's own results: verdicts, gaps, deviations."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paper_checks.campaign.progress import counted, problems, rows_of
from paper_checks.campaign.recorder import Recorder, Unmeasured
from paper_checks.check import Check
from paper_checks.ledger import lock
from paper_checks.ledger.rows import Ledger, Problem, Row
from paper_checks.measurements.context import Context
from paper_checks.papers import USUAL, paper
from paper_checks.registry import build, rows_read
from paper_checks.result import Result, plain
from paper_checks.verdicts import INCONCLUSIVE, NOT_RUN, UNFINISHED, rank, worded

# Images that are not the published ones, by the sha256 of the training files.
IMAGES = {
    "f610fc4876bfd36dd8657e78e582320b86ec1d3fb17a4021cfb874e3fb4c1daf": (
        "CIFAR-10 re-encoded as JPEG of quality 75, in another order within the splits"
    ),
}


@dataclass(frozen=True)
class Entry:
    """What the ledger says about one check."""

    id: str
    verdict: str
    reason: str
    measured: float | str | None = None
    interval: tuple[float, float] | None = None
    done: int = 0
    total: int = 0
    seeds: tuple[int, ...] = ()
    network: str = ""
    dates: tuple[str, str] | None = None
    p: float | None = None
    rest: str = ""

    @property
    def ran(self) -> bool:
        """Whether all of its runs are there."""
        return self.done == self.total


@dataclass(frozen=True)
class Beside:
    """The ledger's entries by check, the rows that are no evidence, and the deviations."""

    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    deviations: list[lock.Deviation] = field(default_factory=list)
    rows: int = 0
    seconds: float = 0.0
    images: tuple[str, ...] = ()
    place: str = paper().campaign.place

    def word(self, result: Result) -> str:
        """How the ledger's verdict stands to a report's own, in a word or two.

        >>> Beside().word(Result("fig4", *[None] * 13))
        ''
        """
        entry = self.entries.get(result.id)
        if entry is None or not entry.ran:
            return ""
        if entry.verdict == result.verdict:
            return "the same"
        here, there = (worded(each.verdict, each.rest) for each in (result, entry))
        return f"differs: {here} here, {there} on {self.place}"

    def lines(self) -> list[str]:
        """The whole in a few lines, for a terminal; none where nothing was asked.

        >>> Beside().lines()
        []
        """
        if not self.entries:
            return []
        counts = Counter(entry.verdict for entry in self.entries.values())
        words = ", ".join(f"{n} {word}" for word, n in sorted(counts.items(), key=_place))
        text = [f"On {self.place} ({self.rows} runs in the ledger): {words}"]
        text += [f"Images of these runs: {images}" for images in self.images]
        text += [f"Not evidence: {problem}" for problem in self.problems]
        text += [f"Deviation, {d.id}, {d.date}: {d.what}" for d in self.deviations]
        return text


def beside(ids: Iterable[str] | None = None, folder: Path | None = None, of: str = USUAL) -> Beside:
    """What the ledger in `folder` says on some checks of a paper, judged today.

    By default its own ledger, and all of its checks. No data are needed, and nothing is trained.

    >>> beside(["eq4"])
    Beside(entries={}, problems=[], deviations=[], rows=0, seconds=0.0, images=(), place='CIFAR-10')
    """
    audited = paper(of)
    every = list(audited.ids if ids is None else ids)
    wanted = [name for name in every if rows_read(name, of)]
    if not wanted or not audited.campaign.profiles:
        return Beside()
    folder = folder or audited.evidence
    ledger = Ledger(folder)
    recorder = Recorder(ledger, campaign=audited.campaign)
    profile = audited.campaign.profiles[0]
    dataset = audited.usual_dataset(profile)
    context: Context = audited.context(
        audited.profile(profile, dataset), dataset, None, None, None, recorder
    )
    checks = [build(check, of) for check in wanted]
    read = {check.id: _rows(ledger, check) for check in checks}
    deviations = lock.deviations(checks, read, lock.read(folder)) + lock.stated(every, folder)
    return Beside(
        {check.id: _entry(check, context, read[check.id]) for check in checks},
        problems(context),
        sorted(deviations, key=lambda deviation: (deviation.date, deviation.id)),
        len(ledger.rows),
        sum(row.processor_seconds or row.seconds for row in ledger.rows),
        tuple(sorted({_images(row.data) for row in ledger.rows})),
        audited.campaign.place,
    )


def _images(sha256: str) -> str:
    """What the images are, as far as their sha256 tells."""
    return f"{IMAGES.get(sha256, 'images')} (sha256 {sha256[:16]}…)"


def _place(pair: tuple[str, int]) -> int:
    return rank(pair[0])


def _rows(ledger: Ledger, check: Check) -> list[Row]:
    return [row for name in check.rows for row in rows_of(name, ledger)]


def _entry(check: Check, context: Context, rows: Sequence[Row]) -> Entry:
    """Judged where all runs are there; else how many are."""
    recorder = context.ledger
    assert recorder is not None
    counts = [counted(recorder, name, context) for name in check.rows]
    done, runs = (sum(count) for count in zip(*counts, strict=True))
    facts: dict[str, Any] = {"done": done, "total": runs}
    if not done:
        return Entry(check.id, NOT_RUN, f"None of its {runs} runs were made.", **facts)
    facts["dates"] = (min(row.date for row in rows)[:10], max(row.date for row in rows)[:10])
    if done < runs:
        reason = f"{done} of {runs} runs were made; it is judged when all are."
        return Entry(check.id, UNFINISHED, reason, **facts)
    try:
        measurements = plain(check.measure(context))
        judgement = check.judge(measurements)
    except Unmeasured as error:
        return Entry(check.id, INCONCLUSIVE, f"{error}.", **facts)
    except Exception as error:
        # As in an audit: one broken check must not cost the reader the others.
        reason = f"could not be judged: {type(error).__name__}: {' '.join(str(error).split())}"
        return Entry(check.id, INCONCLUSIVE, reason, **facts)
    return Entry(
        check.id,
        judgement.verdict,
        judgement.reason,
        plain(judgement.measured),
        judgement.interval,
        seeds=tuple(measurements.get("seeds", ())),
        network=measurements.get("network", ""),
        p=plain(judgement.p),
        rest=judgement.rest,
        **facts,
    )
