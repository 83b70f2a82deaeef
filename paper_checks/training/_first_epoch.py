"""The first epoch: strides, gradients and loss decreases (figures 4 and 7)."""

from typing import TYPE_CHECKING, Any

from paper_checks.training._lab import STRIDE_PARAMETER, lab, provenance, tables

if TYPE_CHECKING:
    from paper_checks.context import Context

FIRST_EPOCH = (32, 128, 512, 2048, 8192, 16384, 32768, 49152)


def first_epoch(context: "Context") -> dict[str, Any]:
    """Strides, gradients and loss decreases of the first epoch, by batch size and seed."""
    return context.shared("training-first-epoch", _first_epoch)


def _first_epoch(context: "Context") -> dict[str, Any]:
    from sim.training import Measure, grid

    found = lab(context)
    held = min(360, found.total // 4)
    base = found.base.replace(
        epochs=1,
        optimizer_options={"momentum": 0.0},
        measure=Measure(
            layers_every=1, decrease_every=1, held_out=held, held_out_from="test", test_every=0
        ),
    )
    sizes = found.sizes(FIRST_EPOCH)
    rows = []
    for n in sizes:
        layers, steps = tables(
            found, grid(base.replace(batch_size=n), seed=found.seeds), "layer_epochs", "steps"
        )
        for seed in found.seeds:
            one = layers[layers.seed == seed]
            row = one[one.parameter == STRIDE_PARAMETER].iloc[0]
            part = steps[steps.seed == seed]
            rows.append(
                {
                    "n": n,
                    "seed": seed,
                    "steps": int(row.steps),
                    "gradient_abs": float(row.gradient_abs),
                    "stride": float(row.stride) / base.lr,
                    "path": float(row.path) / base.lr,
                    "displacement": float(row.displacement) / base.lr,
                    "decrease_batch": float(part.decrease_batch.mean()) / base.lr,
                    "decrease_held_out": float(part.decrease_held_out.mean()) / base.lr,
                }
            )
    return provenance(found) | {"lr": base.lr, "n": sizes, "rows": rows}
