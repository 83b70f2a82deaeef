"""The smaller first epoch with its controls (figures 11 to 14)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.training._lab import STRIDE_PARAMETER, finite, lab, provenance, tables

if TYPE_CHECKING:
    from paper_checks.context import Context


def schedules(context: "Context") -> dict[str, Any]:
    """The paper's smaller first epoch, with its controls, at the paper's 8192."""
    return context.shared("training-schedules", _schedules)


def _schedules(context: "Context") -> dict[str, Any]:
    from sim.training import Measure, Phase, Warmup, grid

    found = lab(context)
    big, small = found.n(8192), found.n(512)
    epochs = 8 * found.epochs if found.vectorise else found.epochs
    seeds = tuple(range(2 * len(found.seeds)))
    base = found.base.replace(
        batch_size=big, lr=0.05, epochs=epochs, measure=Measure(layers_every=1)
    )
    protocols = {
        "baseline": base,
        "first epoch 512 / 0.005": base.replace(
            phases=[Phase(epochs=1, batch_size=small, lr=0.005)]
        ),
        "only the rate": base.replace(phases=[Phase(epochs=1, batch_size=big, lr=0.005)]),
        "only the batch": base.replace(phases=[Phase(epochs=1, batch_size=small, lr=0.05)]),
        "as many steps more": base.replace(
            epochs=None, steps=epochs * (found.total // big) + found.total // small
        ),
        "warm-up": base.replace(warmup=Warmup(kind="linear", epochs=5)),
    }
    rows, curves = [], {}
    for name, config in protocols.items():
        frame, layers = tables(found, grid(config, seed=seeds), "epochs", "layer_epochs")
        layers = layers[(layers.parameter == STRIDE_PARAMETER) & (layers.epoch == 0)]
        strides = layers.set_index("seed")
        for seed in seeds:
            one = frame[frame.seed == seed].sort_values("epoch")
            losses = one.train_loss.to_numpy(dtype=float)
            rows.append(
                {
                    "protocol": name,
                    "seed": seed,
                    "accuracy": finite(one.test_accuracy)[-1],
                    "loss": finite(one.train_loss)[-1],
                    "losses": finite(one.train_loss),
                    "accuracies": finite(one.test_accuracy),
                    "loss_fluctuation": fluctuation_of(losses),
                    "accuracy_fluctuation": fluctuation_of(one.test_accuracy.to_numpy(dtype=float)),
                    "first_stride": float(strides.stride[seed]),
                    "first_path": float(strides.path[seed]),
                    "first_displacement": float(strides.displacement[seed]),
                    "first_steps": int(strides.steps[seed]),
                }
            )
        few = frame[frame.seed.isin(seeds[:8])]
        curves[name] = {
            column: [finite(one[column]) for _, one in few.groupby("seed")]
            for column in ("train_loss", "test_accuracy")
        }
    return provenance(found) | {
        "seeds": list(seeds),
        "n": [small, big],
        "epochs": epochs,
        "rows": rows,
        "curves": curves,
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
