"""The first epoch: strides, gradients and loss decreases (figures 4 and 7)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paper_checks.measurements.cells import Arm, Cell, Sweep, rows
from paper_checks.papers.gao2020.measurements.training._lab import Lab, lab, layer, provenance
from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context
    from sim.training import Run

FIRST_EPOCH = (32, 128, 512, 2048, 8192, 16384, 32768, 49152)


def first_epoch(context: "Context") -> dict[str, Any]:
    """Strides, gradients and loss decreases of the first epoch, by batch size and seed."""
    return context.shared("training-first-epoch", _first_epoch)


def _first_epoch(context: "Context") -> dict[str, Any]:
    setup = lab(context)
    labels = ("arm", "stage", "status")
    return provenance(setup) | {
        "lr": setup.base.lr,
        "n": setup.sizes(FIRST_EPOCH),
        "rows": [
            {name: value for name, value in row.items() if name not in labels}
            for row in rows(context, setup, SWEEP)
        ],
    }


def cells(context: "Context") -> Sequence[Cell]:
    """Plain SGD at one rate, one cell for each n."""
    return [_cell(setup, n) for setup in [lab(context)] for n in setup.sizes(FIRST_EPOCH)]


def _cell(setup: Lab, n: int) -> Cell:
    from sim.training import Measure

    config = setup.base.replace(
        epochs=1,
        batch_size=n,
        optimizer_options={"momentum": 0.0},
        measure=Measure(
            layers_every=1,
            decrease_every=1,
            held_out=min(360, setup.total // 4),
            held_out_from="test",
            test_every=0,
        ),
    )
    return Cell([Arm({"n": n}, config)], setup.seeds)


def read(run: "Run", context: "Context") -> dict[str, Any]:
    """Of the first fully connected layer, in units of the rate."""
    lr = run.config.lr
    row = layer(run).iloc[0]
    return {
        "status": run.status,
        "steps": int(row.steps),
        "gradient_abs": float(row.gradient_abs),
        "stride": float(row.stride) / lr,
        "path": float(row.path) / lr,
        "displacement": float(row.displacement) / lr,
        "decrease_batch": float(run.steps.decrease_batch.mean()) / lr,
        "decrease_held_out": float(run.steps.decrease_held_out.mean()) / lr,
    }


SWEEP = Sweep("first-epoch", cells, read)
FIRST_EPOCH_RUNS = Shared.under("training-first-epoch", SWEEP.name)
