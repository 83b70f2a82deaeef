"""How sharp the minima are in which small and large batches end."""

from typing import TYPE_CHECKING, Any

from paper_checks.training._lab import equal_steps, lab, provenance

if TYPE_CHECKING:
    from paper_checks.context import Context


def sharp(context: "Context") -> dict[str, Any]:
    """The largest eigenvalue of the Hessian where small and large batches end."""
    return context.shared("training-sharp", _sharp)


def _sharp(context: "Context") -> dict[str, Any]:
    from torch.nn.functional import cross_entropy

    from sim import sharpness, train

    found = lab(context)
    inputs, targets = context.dataset.subset(min(1024, len(context.dataset)), 0).pair
    equal = equal_steps(found)
    rows = []
    for paper in (512, 2048, 49152):
        n = found.n(paper)
        for seed in found.seeds[:5]:
            config = found.base.replace(batch_size=n, seed=seed, lr=0.05, epochs=None, steps=equal)
            out = None if found.runs is None else found.runs / f"sharp-{n}-{seed}"
            run = train(config, out=out, root=found.root)
            model = run.model().to(context.device).eval()
            sample = inputs.to(next(model.parameters()).dtype), targets
            summary = run.summary()
            rows.append(
                {
                    "n": n,
                    "seed": seed,
                    "sharpness": sharpness(model, cross_entropy, sample, tolerance=0.05),
                    "accuracy": float(summary["test_accuracy"]),
                    "loss": float(summary["train_loss"]),
                }
            )
    return provenance(found) | {
        "seeds": list(found.seeds[:5]),
        "n": sorted({row["n"] for row in rows}),
        "equal_steps": equal,
        "rows": rows,
    }
