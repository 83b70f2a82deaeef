"""What a check is: measure, judge, draw, three functions that never call one another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from paper_checks.shared import Measure, Shared
from paper_checks.statements import Claim, digest

Measurements = Mapping[str, Any]


@dataclass(frozen=True)
class Judgement:
    """A verdict and the two numbers (or short texts) it was read from.

    `interval` bounds `measured`; `tolerance` is the width of agreement the criterion grants, or
    `None` where the criterion is an inequality. `p` is the least level at which the intervals would
    decide, or `None` where no interval is read. `rest` says of what holds in part whether the
    remainder of the statement, or the control that decides what it means, is refuted or open.
    """

    verdict: str
    predicted: float | str | None
    measured: float | str | None
    reason: str
    interval: tuple[float, float] | None = None
    tolerance: float | None = None
    p: float | None = None
    rest: str = ""


@dataclass(frozen=True)
class Drawing:
    """One picture: the SVG, what a reader who cannot see it should hear, and its caption."""

    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Check:
    """One statement of the paper and the way it is tested.

    `measure(context)` returns JSON-able measurements and asks the context for no others than it
    `reads`; `judge(measurements)` is pure, so that a stored measurement can be judged again;
    `draw(measurements)` returns a `Drawing` or is `None`. `latex` holds the statement as printed
    where it is a formula. `criterion_hash` shows a criterion that was changed after a run.
    `recorded` says whether it may be judged by the ledger's rows too.
    """

    id: str
    kind: str
    title: str
    section: str
    statement: str
    criterion: str
    # Of a `Context`, which knows how checks are made and so may not be known here.
    measure: Callable[[Any], dict[str, Any]]
    judge: Callable[[Measurements], Judgement]
    draw: Callable[[Measurements], Drawing] | None = None
    latex: str | None = None
    protocol: tuple[str, ...] = field(default=())
    criterion_hash: str = ""
    needs_data: bool = True
    recorded: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.measure, Measure):
            object.__setattr__(self, "measure", Measure(self.measure, ()))
        if not self.criterion_hash:
            object.__setattr__(self, "criterion_hash", digest(self.statement, self.criterion))

    @property
    def reads(self) -> tuple[Shared, ...]:
        """The shared measurements that it reads."""
        return self.measure.reads if isinstance(self.measure, Measure) else ()

    @property
    def rows(self) -> tuple[str, ...]:
        """The sweeps and measurements whose rows it reads; none where some have no rows."""
        if not self.recorded or not all(shared.rows for shared in self.reads):
            return ()
        return tuple(dict.fromkeys(name for shared in self.reads for name in shared.rows))


def check_of(claim: Claim, kind: str, module: Any) -> Check:
    """The check that `module` makes of a statement; its judge reads the thresholds from there."""
    return Check(
        id=claim.id,
        kind=kind,
        title=claim.title,
        section=claim.section,
        statement=claim.quotation,
        criterion=claim.criterion,
        measure=module.measure,
        judge=partial(module.judge, thresholds=claim.thresholds),
        draw=getattr(module, "draw", None),
        protocol=module.PROTOCOL,
        criterion_hash=claim.hash,
        needs_data=getattr(module, "NEEDS_DATA", True),
        recorded=getattr(module, "RECORDED", True),
    )
