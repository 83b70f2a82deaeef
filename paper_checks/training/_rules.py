"""The layer-wise rules and true CBLR, γ tuned (figure 16 and `fig-cblr`)."""

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.training._lab import Lab, finite, lab, provenance, tables

if TYPE_CHECKING:
    from paper_checks.context import Context
    from sim.training import TrainConfig

# γ of each rule at the paper's 1024; for larger n they rise with the root of n, so that the best is
# inside the grid.
GAMMAS: dict[str, tuple[float, ...]] = {
    "sgd": (0.01, 0.03, 0.1, 0.3),
    "lars": (0.001, 0.003, 0.01, 0.03),
    "mclr": (0.0003, 0.001, 0.003, 0.01),
    "percent-delta": (0.001, 0.003, 0.01, 0.03),
    "cblr": (3e-5, 1e-4, 3e-4, 1e-3),
}
# Figure 16 decides by these two at the smallest n and equal epochs. With twice the seeds, where
# they cost little, the end of its interval is not so near to the margin that rounding decides.
DECISIVE = ("lars", "mclr")
# The exact curvature is not vectorised over seeds.
EXACT_SEEDS = 6
RULE_SIZES = (1024, 8192, 32768)
# Samples of a batch whose exact curvature is taken.
SAMPLED = 256


def rules(context: "Context") -> dict[str, Any]:
    """CBLR with the exact curvature and its approximations, γ tuned, at equal epochs and steps."""
    return all_rules(context, lab(context), "training-rules", tuple(GAMMAS))


def all_rules(context: "Context", found: Lab, key: str, which: tuple[str, ...]) -> dict[str, Any]:
    """Each series and batch size is kept by itself: together they are the longest measurement."""
    # The exact curvature takes some ten gradients, so equal steps are fewer here.
    equal = max(1, found.epochs * (found.total // found.n(8192)))
    rows: list[dict[str, Any]] = []
    for series in ("epochs", "steps"):
        for paper in RULE_SIZES:
            make = partial(
                _rules, found=found, which=which, series=series, paper=paper, equal=equal
            )
            rows += context.shared(f"{key}-{series}-{paper}", make)["rows"]
    return provenance(found) | {
        "n": [found.n(paper) for paper in RULE_SIZES],
        "epochs": found.epochs,
        "equal_steps": equal,
        "rows": rows,
    }


def _rules(
    context: "Context", found: Lab, which: tuple[str, ...], series: str, paper: int, equal: int
) -> dict[str, Any]:
    from sim.training import grid

    n = found.n(paper)
    rows = []
    for rule in which:
        config, gammas = tuning(found, rule, n)
        seeds = _seeds(found, rule, decisive=(series, paper) == ("epochs", RULE_SIZES[0]))
        if series == "steps":
            config = config.replace(epochs=None, steps=equal)
        (frame,) = tables(found, grid(config, lr=gammas, seed=seeds), "runs")
        for place, gamma in enumerate(gammas):
            part = frame[np.isclose(frame.lr, gamma)].sort_values("seed")
            rows.append(
                {
                    "series": series,
                    "n": n,
                    "rule": rule,
                    "rate": place,
                    "gamma": gamma,
                    "diverged": int((part.status != "finished").sum()),
                    "accuracy": finite(part.best_test_accuracy.fillna(0.0)),
                    "train_accuracy": finite(part.train_accuracy.fillna(0.0)),
                }
            )
    return {"rows": rows}


def _seeds(found: Lab, rule: str, decisive: bool) -> tuple[int, ...]:
    if rule == "cblr":
        return found.seeds[:EXACT_SEEDS]
    if decisive and rule in DECISIVE and found.vectorise:
        return tuple(range(2 * len(found.seeds)))
    return found.seeds


def tuning(found: Lab, rule: str, n: int) -> "tuple[TrainConfig, list[float]]":
    """The configuration of a rule at n, and the γ that are tried."""
    gammas = [gamma * math.sqrt(n / found.n(RULE_SIZES[0])) for gamma in GAMMAS[rule]]
    config = found.base.replace(batch_size=n, optimizer=rule)
    if rule == "cblr":
        # A curvature serves a tenth of an epoch of small batches, one step of large.
        interval = max(1, found.total // n // 10)
        config = config.replace(
            curvature_of=min(n, SAMPLED), **{"optimizer_options.refresh_interval": interval}
        )
    return config, gammas
