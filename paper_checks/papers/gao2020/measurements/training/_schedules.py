"""The smaller first epoch with its controls (figures 11 to 14)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.measurements.cells import Arm, Cell, Sweep, rows
from paper_checks.papers.gao2020.measurements.training._lab import (
    Lab,
    ends,
    finite,
    lab,
    layer,
    provenance,
)
from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context
    from sim.training import Run, TrainConfig

# For the ledger: the baseline, the paper's model, and the two controls that decide.
RECORDED_PROTOCOLS = ("baseline", "first epoch 512 / 0.005", "only the batch", "warm-up")
RECORDED_EPOCHS = 60
RECORDED_SEEDS = tuple(range(8))
DRAWN = 8


def schedules(context: "Context") -> dict[str, Any]:
    """The paper's smaller first epoch, with its controls, at the paper's 8192."""
    return context.shared("training-schedules", _schedules)


def _schedules(context: "Context") -> dict[str, Any]:
    setup = lab(context)
    made = rows(context, setup, SWEEP)
    curves: dict[str, Any] = {}
    for row in made:
        curve = curves.setdefault(row["protocol"], {"train_loss": [], "test_accuracy": []})
        if len(curve["train_loss"]) < DRAWN:
            curve["train_loss"].append(row["losses"])
            curve["test_accuracy"].append(row["accuracies"])
    return provenance(setup, _seeds(setup)) | {
        "n": [setup.n(512), setup.n(8192)],
        "epochs": _epochs(setup),
        "rows": [_row(row) for row in made],
        "curves": curves,
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """One run, with the fluctuation of its curves."""
    values = {name: value for name, value in row.items() if name not in ("arm", "stage")}
    return values | {
        "loss": row["train_loss"],
        "loss_fluctuation": fluctuation_of(_numbers(row["losses"])),
        "accuracy_fluctuation": fluctuation_of(_numbers(row["accuracies"])),
    }


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]


def _seeds(setup: Lab) -> tuple[int, ...]:
    return RECORDED_SEEDS if setup.recorded else tuple(range(2 * len(setup.seeds)))


def _epochs(setup: Lab) -> int:
    if setup.recorded:
        return RECORDED_EPOCHS
    return 8 * setup.epochs if setup.vectorise else setup.epochs


def cells(context: "Context") -> Sequence[Cell]:
    """One cell for each protocol."""
    setup = lab(context)
    protocols = _protocols(setup)
    names = RECORDED_PROTOCOLS if setup.recorded else tuple(protocols)
    return [Cell([Arm({"protocol": n}, protocols[n])], _seeds(setup)) for n in names]


def _protocols(setup: Lab) -> "dict[str, TrainConfig]":
    from sim.training import Measure, Phase, Warmup

    big, small, epochs = setup.n(8192), setup.n(512), _epochs(setup)
    base = setup.base.replace(
        batch_size=big, lr=0.05, epochs=epochs, measure=Measure(layers_every=1)
    )
    return {
        "baseline": base,
        "first epoch 512 / 0.005": base.replace(
            phases=[Phase(epochs=1, batch_size=small, lr=0.005)]
        ),
        "only the rate": base.replace(phases=[Phase(epochs=1, batch_size=big, lr=0.005)]),
        "only the batch": base.replace(phases=[Phase(epochs=1, batch_size=small, lr=0.05)]),
        "as many steps more": base.replace(
            epochs=None, steps=epochs * (setup.total // big) + setup.total // small
        ),
        "warm-up": base.replace(warmup=Warmup(kind="linear", epochs=5)),
    }


def read(run: "Run", context: "Context") -> dict[str, Any]:
    """How it ended, its curves by epoch, and how far the first epoch went."""
    first = layer(run)
    first = first[first.epoch == 0]
    known = len(first) > 0  # a run that diverged in its first epoch has no strides

    def of(column: str) -> float | None:
        return float(first[column].iloc[0]) if known else None

    return {
        **ends(run),
        "losses": finite(run.epochs.train_loss),
        "accuracies": finite(run.epochs.test_accuracy),
        "first_stride": of("stride"),
        "first_path": of("path"),
        "first_displacement": of("displacement"),
        "first_steps": int(first.steps.iloc[0]) if known else 0,
    }


def fluctuation_of(values: Any) -> float | None:
    """The deviation from epoch to epoch over the first four fifths, trend taken out.

    >>> fluctuation_of(np.arange(20.0)) < 1e-12
    True
    """
    early = np.asarray(values, dtype=float)[: max(3, 4 * len(values) // 5)]
    if early.size < 6 or not np.isfinite(early).all():
        return None
    return float(np.sqrt(np.mean(np.diff(early, 2) ** 2) / 6))


SWEEP = Sweep("schedules", cells, read)
SCHEDULE_RUNS = Shared.under("training-schedules", SWEEP.name)
