"""Training with a part of each batch discarded (figure 10)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.measurements.cells import Arm, Cell, Sweep, rows
from paper_checks.papers.gao2020.measurements.training._lab import (
    Lab,
    ends,
    finite,
    lab,
    provenance,
)
from paper_checks.papers.gao2020.measurements.training._tuned import listed
from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context
    from sim.training import Run

DISCARDED = {
    "baseline": None,
    "small losses": ("small-loss", "kept"),
    "random": ("random", "kept"),
    "small losses, fixed 1/n": ("small-loss", "batch"),
    "large losses": ("large-loss", "kept"),
}
SHARE = 0.3
DISCARD_SIZES = (2000, 8000, 16384)
# For the ledger: the paper's two batch sizes, and the controls that decide.
RECORDED_DISCARD_SIZES = (2000, 8000)
RECORDED_PROTOCOLS = ("baseline", "small losses", "random", "small losses, fixed 1/n")
RECORDED_EPOCHS = 40
RECORDED_SEEDS = tuple(range(8))
COLUMNS = ("seed", "accuracy", "accuracy_late", "train_accuracy", "train_loss", "test_loss")


def discarding(context: "Context") -> dict[str, Any]:
    """Training with 30 % of each batch discarded in the first half of the epochs."""
    return context.shared("training-discarding", _discarding)


def _discarding(context: "Context") -> dict[str, Any]:
    setup = lab(context)
    made = rows(context, setup, SWEEP)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in made:
        groups.setdefault(f"{row['protocol']}-{row['n']}", []).append(row)
    return provenance(setup, _seeds(setup)) | {
        "n": _sizes(setup),
        "epochs": _epochs(setup),
        "share": SHARE,
        "lr": made[0]["lr"],
        "rows": listed(made, ("n", "protocol"), COLUMNS),
        "curves": {name: _by_epoch(part) for name, part in groups.items()},
    }


def _sizes(setup: Lab) -> list[int]:
    papers = RECORDED_DISCARD_SIZES if setup.recorded else DISCARD_SIZES
    return [setup.n(paper) for paper in papers]


def _seeds(setup: Lab) -> tuple[int, ...]:
    return RECORDED_SEEDS if setup.recorded else tuple(range(2 * len(setup.seeds)))


def _epochs(setup: Lab) -> int:
    return RECORDED_EPOCHS if setup.recorded else 4 * setup.epochs


def cells(context: "Context") -> Sequence[Cell]:
    """One cell for each n and protocol."""
    setup = lab(context)
    names = RECORDED_PROTOCOLS if setup.recorded else tuple(DISCARDED)
    return [Cell([_arm(setup, n, name)], _seeds(setup)) for n in _sizes(setup) for name in names]


def _arm(setup: Lab, n: int, name: str) -> Arm:
    from sim.training import Discard

    epochs, kind = _epochs(setup), DISCARDED[name]
    config = setup.base.replace(epochs=epochs, lr=0.05, batch_size=n)
    if kind is not None:
        config = config.replace(
            discard=Discard(kind=kind[0], share=SHARE, epochs=epochs // 2, normaliser=kind[1])
        )
    return Arm({"n": n, "protocol": name, "lr": config.lr}, config)


def read(run: "Run", context: "Context") -> dict[str, Any]:
    """How it ended, and the accuracy after every epoch."""
    return {**ends(run), "accuracies": finite(run.epochs.test_accuracy)}


def _by_epoch(part: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and deviations over the seeds; of runs that diverged the epochs before."""
    longest = max(len(row["accuracies"]) for row in part)
    columns = [
        [row["accuracies"][k] for row in part if _has(row["accuracies"], k)] for k in range(longest)
    ]
    return {
        "epoch": list(range(longest)),
        "mean": [float(np.mean(v)) if v else None for v in columns],
        "sd": [float(np.std(v, ddof=1)) if len(v) > 1 else None for v in columns],
    }


def _has(values: Sequence[float | None], place: int) -> bool:
    return place < len(values) and values[place] is not None


SWEEP = Sweep("discarding", cells, read)
DISCARDING_RUNS = Shared.under("training-discarding", SWEEP.name)
