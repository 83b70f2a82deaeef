"""Every batch size with a grid of rates: at equal epochs (figure 1), and at equal steps."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.measurements.cells import (
    CHOICE,
    READING,
    TUNING,
    Arm,
    Cell,
    Sweep,
    rows,
)
from paper_checks.papers.gao2020.measurements.training._lab import (
    SIZES,
    STRIDE_PARAMETER,
    Lab,
    ends,
    equal_steps,
    lab,
    layer,
    provenance,
)
from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context
    from sim.training import Run

# Rates tried around the root-of-n rule, which suits both ends.
FACTORS = (0.1, 10**-0.5, 1.0, 10**0.5, 10.0)
# For the ledger: the paper's own 32 joins, where it is more than one image, and the seeds are few,
# those that choose apart from those that are read.
RECORDED_SIZES = (32, *SIZES)
RECORDED_EPOCHS = 20
RECORDED_SEEDS = ((0, 1), (2, 3, 4, 5))
# 400 steps of 49152 images take most of an hour, so one seed chooses, among few rates. Three of
# them were tried first, from 10^-0.5 to 10^0.5; where the best was an end the grid went on.
LONG_FACTORS = {
    512: (10**-0.5, 1.0, 10**0.5, 10.0, 10**1.5),
    2048: (10**-0.5, 1.0, 10**0.5, 10.0, 10**1.5),
    49152: (0.1, 10**-0.5, 1.0, 10**0.5),
}
LONG_SIZES = tuple(LONG_FACTORS)
LONG_STEPS = 400
LONG_SEEDS = ((0,), (2, 3, 4, 5))
# Images over which the largest eigenvalue of the Hessian is taken.
SHARPNESS_IMAGES = 1024
COLUMNS = (
    *("seed", "stage", "accuracy", "accuracy_late", "train_accuracy", "train_loss", "test_loss"),
    *("path", "displacement"),
)


def tuned(context: "Context") -> dict[str, Any]:
    """Every batch size with a grid of rates, at equal epochs; `series` says what is there.

    Where runs are cheap, equal steps are there too.
    """
    return context.shared("training-tuned", _tuned)


def long(context: "Context") -> dict[str, Any]:
    """What `tuned` has, with equal steps in every profile."""
    return context.shared("training-long", _long) if context.ledger else tuned(context)


def _tuned(context: "Context") -> dict[str, Any]:
    setup = lab(context)
    series = ("epochs",) if setup.recorded else ("epochs", "steps")
    return _reduced(setup, series, rows(context, setup, TUNED))


def _long(context: "Context") -> dict[str, Any]:
    setup = lab(context)
    made = tuned(context)
    long = _reduced(setup, ("epochs", "steps"), rows(context, setup, LONG))
    return long | {"rows": [*made["rows"], *long["rows"]]}


def sizes(setup: Lab) -> dict[str, list[int]]:
    """The batch sizes by series."""
    if setup.recorded:
        return {"epochs": setup.sizes(RECORDED_SIZES), "steps": setup.sizes(LONG_SIZES)}
    return dict.fromkeys(("epochs", "steps"), setup.sizes(SIZES))


def _reduced(setup: Lab, series: Sequence[str], made: list[dict[str, Any]]) -> dict[str, Any]:
    by_series = {name: sizes(setup)[name] for name in series}
    return provenance(setup) | {
        "series": list(series),
        "sizes": by_series,
        "n": by_series["epochs"],
        "epochs": RECORDED_EPOCHS if setup.recorded else setup.epochs,
        "equal_steps": LONG_STEPS if setup.recorded else equal_steps(setup),
        "rows": listed(made, ("series", "n", "rate", "lr"), COLUMNS),
    }


def listed(
    made: Sequence[Mapping[str, Any]], labels: Sequence[str], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Runs of one arm as one row: its labels, and lists by seed; `seed` and `stage` become lists.

    >>> listed([{"n": 1, "seed": 0, "x": 2.0}, {"n": 1, "seed": 1, "x": 3.0}], ["n"], ["seed", "x"])
    [{'n': 1, 'diverged': 0, 'seeds': [0, 1], 'x': [2.0, 3.0]}]
    """
    arms: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in made:
        arms.setdefault(tuple(row[name] for name in labels), []).append(row)
    names = {"seed": "seeds"}
    return [
        {
            **dict(zip(labels, values, strict=True)),
            "diverged": sum(row.get("status") == "diverged" for row in part),
            **{names.get(name, name): [row.get(name) for row in part] for name in columns},
        }
        for values, part in arms.items()
    ]


def tuned_cells(context: "Context") -> Sequence[Cell]:
    """One cell for each n, of as many arms as rates; equal steps too where runs are cheap."""
    setup = lab(context)
    if setup.recorded:
        tuning, reading = RECORDED_SEEDS
        return [_cell(setup, "epochs", n, FACTORS, tuning, reading) for n in sizes(setup)["epochs"]]
    even, odd = setup.seeds[::2], setup.seeds[1::2]
    return [
        _cell(setup, series, n, FACTORS, even, odd)
        for series in ("epochs", "steps")
        for n in sizes(setup)[series]
    ]


def long_cells(context: "Context") -> Sequence[Cell]:
    """The same at equal steps, for the ledger."""
    setup = lab(context)
    tuning, reading = LONG_SEEDS
    factors = {setup.n(paper): tried for paper, tried in LONG_FACTORS.items()}
    return [_cell(setup, "steps", n, factors[n], tuning, reading) for n in sizes(setup)["steps"]]


def _cell(
    setup: Lab,
    series: str,
    n: int,
    factors: Sequence[float],
    tuning: Sequence[int],
    reading: Sequence[int],
) -> Cell:
    from sim.training import Measure

    measure = Measure(layers_every=10)
    base = setup.base.replace(batch_size=n, measure=measure)
    if series == "steps":
        base = base.replace(epochs=None, steps=equal_steps(setup))
    if setup.recorded:
        base = base.replace(epochs=RECORDED_EPOCHS, steps=None)
        if series == "steps":
            # An evaluation for every tenth of a run, whatever its batches.
            every = max(1, LONG_STEPS * n // setup.total // 10)
            measure = Measure(layers_every=10, test_every=every)
            base = base.replace(epochs=None, steps=LONG_STEPS, measure=measure)
    arms = [
        Arm(
            {"series": series, "n": n, "rate": place, "lr": lr},
            base.replace(lr=lr),
        )
        for place, lr in enumerate(0.02 * math.sqrt(n / setup.n(512)) * each for each in factors)
    ]
    return Cell(arms, reading, tuning, everywhere=not setup.recorded)


def read(run: "Run", context: "Context") -> dict[str, Any]:
    """How it ended, and how far the first fully connected layer went."""
    of_layer = layer(run, STRIDE_PARAMETER)
    return {
        **ends(run),
        "path": float(of_layer.path.sum()),
        "displacement": float(of_layer.displacement.sum()),
    }


def read_long(run: "Run", context: "Context") -> dict[str, Any]:
    """The same, and how sharp the minimum is in which it ended."""
    return read(run, context) | {"sharpness": sharpness_of(run, context)}


def sharpness_of(run: "Run", context: "Context") -> float | None:
    """λ_max of the Hessian over some training images, where the run ended."""
    from torch.nn.functional import cross_entropy

    from sim import sharpness

    if run.status != "finished":
        return None
    inputs, targets = context.dataset.subset(min(SHARPNESS_IMAGES, len(context.dataset)), 0).pair
    model = run.model().to(context.device).eval()
    sample = inputs.to(next(model.parameters()).dtype), targets
    return float(sharpness(model, cross_entropy, sample, tolerance=0.05))


def best(
    rows: Sequence[dict[str, Any]], column: str = "accuracy"
) -> tuple[dict[str, Any], list[float]]:
    """The row of the best accuracy on the seeds that choose, and its values on those that are read.

    What is chosen is not read on the seeds that chose it, so a maximum over rates gives no bonus.
    `stage` says which seeds choose; without it the even ones do.

    >>> best([{"accuracy": [0.9, 0.1, 0.9, 0.2]}, {"accuracy": [0.5, 0.6, 0.5, 0.6]}])[1]
    [0.1, 0.2]
    >>> best([{"accuracy": [0.9, 0.1, 0.2], "stage": ["tuning", "reading", "reading"]},
    ...       {"accuracy": [0.5], "stage": ["tuning"]}])[1]
    [0.1, 0.2]
    """

    def of(row: Mapping[str, Any], stage: str, column: str) -> list[float]:
        values = [v or 0.0 for v in row[column]]
        stages = row.get("stage") or [(TUNING, READING)[k % 2] for k in range(len(values))]
        return [value for value, each in zip(values, stages, strict=True) if each == stage]

    by = CHOICE if all(CHOICE in row for row in rows) else column
    chosen = max(rows, key=lambda row: float(np.mean(of(row, TUNING, by) or [-math.inf])))
    return chosen, of(chosen, READING, column) or [v or 0.0 for v in chosen[column]]


TUNED = Sweep("tuned", tuned_cells, read)
LONG = Sweep("long", long_cells, read_long)
TUNED_RUNS = Shared.under("training-tuned", TUNED.name)
# Where runs are not kept one by one, equal steps are among those of `tuned`.
LONG_RUNS = Shared(
    lambda context: ("training-long" if context.ledger else "training-tuned",),
    (TUNED.name, LONG.name),
)
