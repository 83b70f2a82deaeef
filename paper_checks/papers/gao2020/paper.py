"""Gao & Zhong (2020), as the engine asks for it."""

from typing import TYPE_CHECKING, Any

from paper_checks.check import Check
from paper_checks.ledger.rows import EVIDENCE
from paper_checks.paper import Campaign, Paper, texts
from paper_checks.papers.gao2020.figures import FIGURES, figure_check
from paper_checks.papers.gao2020.measurements.profile import RECORDED, profile, usual_dataset
from paper_checks.papers.gao2020.statements import CLAIMS

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

EQUATION_IDS = tuple(f"eq{label}" for label in range(1, 29))
_PAPER = {*FIGURES, "fig2", "fig3"}
FIGURE_IDS = (
    *(name for name in (f"fig{number}" for number in range(1, 17)) if name in _PAPER),
    "fig-law",
    *(name for name in FIGURES if name.startswith("fig-")),
)


def build(name: str) -> Check:
    """The check called `name`; its packages are imported only now."""
    if name.startswith("eq"):
        import theory
        from paper_checks.equations.checks import equation_check
        from paper_checks.papers.gao2020.experiments import EXPERIMENTS

        label = name.removeprefix("eq")
        return equation_check(theory.EQUATIONS[label], EXPERIMENTS.get(label))
    if name == "fig2":
        from paper_checks.papers.gao2020.figures.fig2 import FIG2

        return FIG2
    if name == "fig3":
        from paper_checks.papers.gao2020.figures.fig3 import FIG3

        return FIG3
    if name == "fig-law":
        from paper_checks.papers.gao2020.figures.fig_law import FIG_LAW

        return FIG_LAW
    if name in FIGURES:
        return figure_check(name)
    from paper_checks.papers.gao2020.claims import claim_check

    return claim_check(name)


def context(*arguments: Any) -> "Context":
    """What the checks of a run share."""
    from paper_checks.papers.gao2020.measurements.context import Context

    return Context(*arguments)


def seconds(key: str, context: Any) -> float:
    """About how long a shared measurement takes."""
    from paper_checks.papers.gao2020.measurements.durations import key_seconds

    return key_seconds(key, context)


def _sweeps() -> Any:
    from paper_checks.papers.gao2020.measurements.training import SWEEPS

    return SWEEPS


def _record(context: Any, name: str) -> None:
    from paper_checks.papers.gao2020.measurements.training import SWEEPS, lab, rows

    rows(context, lab(context), SWEEPS[name])


# Fields of a profile that a measurement without training depends on, beside the network.
_SIZES = ("width", "sample", "population", "batches", "entries", "verify", "passes", "seeds")
PAPER = Paper(
    name="gao2020",
    ids=EQUATION_IDS + FIGURE_IDS + tuple(CLAIMS),
    build=build,
    claims=CLAIMS,
    **texts(__package__),
    # The first paper's evidence lies at the top, where its runs have always been added.
    evidence=EVIDENCE,
    context=context,
    profile=profile,
    usual_dataset=usual_dataset,
    seconds=seconds,
    campaign=Campaign(
        profiles=RECORDED,
        place="CIFAR-10",
        sweeps=_sweeps,
        record=_record,
        sizes={"network": "trains"} | {size: size for size in _SIZES},
        readings={"snapshot": 1, "entries": 1, "fig3": 1, "fig9": 2, "fig-gaussian": 1},
    ),
)
