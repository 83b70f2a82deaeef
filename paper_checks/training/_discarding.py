"""Training with a part of each batch discarded (figure 10)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paper_checks.training._lab import finite, lab, provenance, tables

if TYPE_CHECKING:
    import pandas as pd

    from paper_checks.context import Context

DISCARDED = {
    "baseline": None,
    "small losses": ("small-loss", "kept"),
    "random": ("random", "kept"),
    "small losses, fixed 1/n": ("small-loss", "batch"),
    "large losses": ("large-loss", "kept"),
}
SHARE = 0.3


def discarding(context: "Context") -> dict[str, Any]:
    """Training with 30 % of each batch discarded in the first half of the epochs."""
    return context.shared("training-discarding", _discarding)


def _discarding(context: "Context") -> dict[str, Any]:
    from sim.training import Discard, grid

    found = lab(context)
    epochs = 4 * found.epochs
    seeds = tuple(range(2 * len(found.seeds)))
    base = found.base.replace(epochs=epochs, lr=0.05)
    sizes = [found.n(paper) for paper in (2000, 8000, 16384)]
    rows, curves = [], {}
    for n in sizes:
        for name, kind in DISCARDED.items():
            config = base.replace(batch_size=n)
            if kind is not None:
                config = config.replace(
                    discard=Discard(
                        kind=kind[0], share=SHARE, epochs=epochs // 2, normaliser=kind[1]
                    )
                )
            (frame,) = tables(found, grid(config, seed=seeds), "epochs")
            rows.append(
                {
                    "n": n,
                    "protocol": name,
                    "accuracy": finite(_last(frame, "test_accuracy", seeds)),
                    "accuracy_late": finite(_late(frame, "test_accuracy", seeds)),
                    "train_accuracy": finite(_last(frame, "train_accuracy", seeds)),
                }
            )
            curves[f"{name}-{n}"] = _by_epoch(frame, "test_accuracy")
    return provenance(found) | {
        "seeds": list(seeds),
        "n": sizes,
        "epochs": epochs,
        "share": SHARE,
        "lr": base.lr,
        "rows": rows,
        "curves": curves,
    }


def _last(frame: "pd.DataFrame", column: str, seeds: Sequence[int]) -> list[float]:
    """The last epoch's value of every seed; nan where a run diverged before it."""
    last = frame.sort_values("epoch").groupby("seed")[column].last()
    return [float(v) for v in last.reindex(list(seeds))]


def _late(frame: "pd.DataFrame", column: str, seeds: Sequence[int]) -> list[float]:
    """The mean over the last five epochs of every seed; nan where a run diverged before them."""
    ordered = frame.sort_values("epoch")
    late = ordered[ordered.epoch > ordered.epoch.max() - 5].groupby("seed")[column]
    return [float(v) for v in late.mean().reindex(list(seeds))]


def _by_epoch(frame: "pd.DataFrame", column: str) -> dict[str, Any]:
    grouped = frame.groupby("epoch")[column]
    return {
        "epoch": [int(e) for e in grouped.mean().index],
        "mean": finite(grouped.mean()),
        "sd": finite(grouped.std()),
    }
