"""The layer-wise rules and true CBLR, γ tuned (figure 16 and `fig-cblr`)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from paper_checks.measurements.cells import Arm, Cell, Sweep, rows
from paper_checks.papers.gao2020.measurements.training._lab import Lab, ends, lab, provenance
from paper_checks.papers.gao2020.measurements.training._tuned import listed
from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context
    from sim.training import Run

# γ of each rule at the paper's 1024; for larger n they rise with the root of n, so that the best is
# inside the grid. CBLR's are over its cap R_max: γ R_max is the rate of an entry without curvature.
GAMMAS: dict[str, tuple[float, ...]] = {
    "sgd": (0.01, 0.03, 0.1, 0.3),
    "lars": (0.001, 0.003, 0.01, 0.03),
    "mclr": (0.0003, 0.001, 0.003, 0.01),
    "percent-delta": (0.001, 0.003, 0.01, 0.03),
    "cblr": (0.1, 0.3, 1.0, 3.0),
}
CAPS = (10.0, 100.0, 1000.0)
# Figure 16 decides by these two at the smallest n and equal epochs. With more seeds, where
# they cost little, the end of its interval is not so near to the margin that rounding decides.
DECISIVE = ("lars", "mclr")
# All rules choose by as many runs: CBLR has three times as many settings, so a third of the seeds.
TUNING_SEEDS = 6
# The exact curvature is not vectorised over seeds.
EXACT_SEEDS = 4
RULE_SIZES = (1024, 8192, 32768)
# "Works well for batch size less than 8192": another n below, for the rules without curvature.
BELOW = 4096
BELOW_RULES = ("sgd", "lars", "mclr")
# Samples of a batch whose exact curvature is taken.
SAMPLED = 256
# For the ledger: the paper's 1024, half as many seeds to tune, four to read.
RECORDED_RULES = ("sgd", "lars", "mclr", "cblr")
RECORDED_EPOCHS = 20
RECORDED_TUNING = 3
RECORDED_READING = (100, 101, 102, 103)
LABELS = ("series", "n", "rule", "rate", "gamma", "cap")
COLUMNS = (
    *("seed", "stage", "accuracy", "accuracy_late", "train_accuracy", "train_loss", "test_loss"),
)


def rules(context: "Context") -> dict[str, Any]:
    """CBLR with the exact curvature and its approximations, γ tuned, at equal epochs and steps."""
    setup = lab(context)
    if setup.recorded:
        return context.shared("training-rules", _recorded)
    return all_rules(context, setup, "training-rules", tuple(GAMMAS))


def _recorded(context: "Context") -> dict[str, Any]:
    """The paper's 1024 at equal epochs; what is below 8192 stands in `below` when it was run."""
    setup = lab(context)
    return recorded(setup, rows(context, setup, SWEEP), RECORDED_EPOCHS)


def recorded(setup: Lab, made: list[dict[str, Any]], epochs: int) -> dict[str, Any]:
    """The measurement of runs from the ledger."""
    return provenance(setup, RECORDED_READING) | {
        "series": ["epochs"],
        "n": [setup.n(RULE_SIZES[0])],
        "epochs": epochs,
        "equal_steps": None,
        "rows": listed(made, LABELS, COLUMNS),
    }


def below(context: "Context") -> dict[str, Any]:
    """The rules without curvature at the paper's 1024 and 4096, at equal epochs."""
    first = rules(context)
    n = lab(context).n(BELOW)
    more = context.shared("training-below", _below)
    first_rows = [
        row
        for row in first["rows"]
        if row["series"] == "epochs" and row["n"] == first["n"][0] and row["rule"] in BELOW_RULES
    ]
    return first | {
        "n": [first["n"][0], n],
        "series": ["epochs"],
        "rows": first_rows + more["rows"],
    }


def _below(context: "Context") -> dict[str, Any]:
    return {"rows": listed(rows(context, lab(context), BELOW_SWEEP), LABELS, COLUMNS)}


def all_rules(context: "Context", setup: Lab, key: str, which: tuple[str, ...]) -> dict[str, Any]:
    """Each series and batch size is kept by itself: together they are the longest measurement."""
    made: list[dict[str, Any]] = []
    for series in ("epochs", "steps"):
        for paper in RULE_SIZES:
            make = partial(_rules, setup=setup, which=which, series=series, paper=paper)
            made += context.shared(f"{key}-{series}-{paper}", make)["rows"]
    return provenance(setup) | {
        "series": ["epochs", "steps"],
        "n": [setup.n(paper) for paper in RULE_SIZES],
        "epochs": setup.epochs,
        "equal_steps": _equal(setup),
        "rows": made,
    }


def _equal(setup: Lab) -> int:
    """The exact curvature takes some ten gradients, so equal steps are fewer here."""
    return max(1, setup.epochs * (setup.total // setup.n(8192)))


def _rules(
    context: "Context", setup: Lab, which: tuple[str, ...], series: str, paper: int
) -> dict[str, Any]:
    sweep = Sweep("rules", lambda _: local_cells(setup, which, series, paper), read)
    return {"rows": listed(rows(context, setup, sweep), LABELS, COLUMNS)}


def local_cells(setup: Lab, which: Sequence[str], series: str, paper: int) -> list[Cell]:
    """One cell for each rule, at one n."""
    decisive = (series, paper) == ("epochs", RULE_SIZES[0])
    cells = []
    for rule in which:
        tuning, reading = seeds_of(setup, rule, decisive)
        cells.append(_cell(setup, rule, series, paper, tuning, reading, setup.epochs))
    return cells


def seeds_of(setup: Lab, rule: str, decisive: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The seeds that choose γ, and those that are read."""
    count = min(TUNING_SEEDS, max(1, len(setup.seeds) // 2))
    many = len(setup.seeds)
    if rule == "cblr":
        return setup.seeds[: max(1, count // len(CAPS))], tuple(
            range(count, min(many, count + EXACT_SEEDS))
        )
    if decisive and rule in DECISIVE and setup.vectorise:
        many += count
    return setup.seeds[:count], tuple(range(count, many))


def recorded_cells(context: "Context") -> Sequence[Cell]:
    """All rules of the ledger at the paper's 1024."""
    setup = lab(context)
    return [_recorded_cell(setup, rule, RULE_SIZES[0]) for rule in RECORDED_RULES]


def below_cells(context: "Context") -> Sequence[Cell]:
    """The rules without curvature at one n more below the paper's 8192."""
    setup = lab(context)
    if setup.recorded:
        return [_recorded_cell(setup, rule, BELOW) for rule in BELOW_RULES]
    return local_cells(setup, BELOW_RULES, "epochs", BELOW)


def _recorded_cell(setup: Lab, rule: str, paper: int) -> Cell:
    count = RECORDED_TUNING // (len(CAPS) if rule == "cblr" else 1)
    tuning = tuple(range(max(1, count)))
    return _cell(setup, rule, "epochs", paper, tuning, RECORDED_READING, RECORDED_EPOCHS)


def _cell(
    setup: Lab,
    rule: str,
    series: str,
    paper: int,
    tuning: Sequence[int],
    reading: Sequence[int],
    epochs: int,
) -> Cell:
    return Cell(arms(setup, rule, setup.n(paper), series, epochs), reading, tuning)


def arms(setup: Lab, rule: str, n: int, series: str, epochs: int) -> list[Arm]:
    """The settings of a rule that are tried at n: γ, and CBLR's cap."""
    config = setup.base.replace(batch_size=n, optimizer=rule, epochs=epochs)
    if rule == "cblr":
        # A curvature serves a tenth of an epoch of small batches, one step of large.
        interval = max(1, setup.total // n // 10)
        config = config.replace(
            curvature_of=min(n, SAMPLED), **{"optimizer_options.refresh_interval": interval}
        )
    if series == "steps":
        config = config.replace(epochs=None, steps=_equal(setup))
    rise = math.sqrt(n / setup.n(RULE_SIZES[0]))
    made = []
    for cap in CAPS if rule == "cblr" else (None,):
        for place, base in enumerate(GAMMAS[rule]):
            gamma = base * rise / (cap or 1.0)
            capped = {} if cap is None else {"optimizer_options.max_radius": cap}
            labels = {"series": series, "n": n, "rule": rule, "rate": place, "gamma": gamma}
            made.append(Arm({**labels, "cap": cap}, config.replace(lr=gamma, **capped)))
    return made


def read(run: "Run", context: "Context") -> dict[str, Any]:
    """How it ended."""
    return ends(run)


SWEEP = Sweep("rules", recorded_cells, read)
BELOW_SWEEP = Sweep("below", below_cells, read)
RULE_RUNS = Shared.under("training-rules", SWEEP.name)
BELOW_RUNS = Shared(
    lambda context: ("training-rules", "training-below"), (SWEEP.name, BELOW_SWEEP.name)
)
