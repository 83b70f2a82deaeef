"""The network, the data and the sizes of a profile's training, and how its runs are made."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paper_checks.measurements import lab as lab_of_runs

if TYPE_CHECKING:
    from torch import nn

    from paper_checks.papers.gao2020.measurements.context import Context
    from sim.training import Run

PAPER = 50_000
# The paper's 32 is less than one image of the digits, so its place is taken by 128 where the
# training is long.
SIZES = (128, 512, 2048, 8192, 32768, 49152)
RATE = 0.02
MOMENTUM: Any = {"momentum": 0.9}
STRIDE_PARAMETER = "fc1.weight"
# ResNet-18 on 32768 images at once would need hundreds of GiB. In parts of 1024 each part is
# normalised by itself, as on several GPUs, and nothing differs at the paper's 1024.
PART = 1024
# Evaluations at the end over which an accuracy is a mean, the same number of them in every arm.
LATE = 5


@dataclass(frozen=True)
class Lab(lab_of_runs.Lab):
    """What a context's profile trains with, and the paper's batch sizes as shares of its data."""

    def n(self, paper: int) -> int:
        """The batch size that is the same share of the training set as the paper's."""
        return max(1, min(self.total, round(paper * self.total / PAPER)))

    def sizes(self, paper: Iterable[int]) -> list[int]:
        """Such batch sizes, each once."""
        return sorted({self.n(size) for size in paper})


def lab(context: "Context", network: str | None = None, images: int | None = None) -> Lab:
    """What `context` trains: the profile's `trains` on its `images`, or others."""
    from sim.training import Measure, TrainConfig

    profile = context.profile
    network = network or profile.trains
    whole = len(context.dataset)
    limits = [size for size in (whole, profile.images, images) if size is not None]
    total = min(limits)
    # Runs of a big network resume one by one; small ones are over before that pays.
    small = network == "mlp"
    options: Any = {"hidden": [32, 32]} if small else {"width": profile.width}
    recorded = context.ledger is not None
    if recorded and network == "alexnet":
        options["dropout"] = 0.5  # the paper's class has it; stated, so that no default decides
    # Training carries a rounding error on to whole images; in double precision it stays so small
    # that another machine's arithmetic gives the same accuracies.
    dtype = "float64" if small else "float32"
    parts: Any = {"micro_batch": PART, "batch_norm": "ghost"} if network == "resnet18" else {}
    base = TrainConfig(
        dataset=context.name,
        samples=None if total == whole else total,
        model=network,
        model_options=options,
        lr=RATE,
        optimizer_options=MOMENTUM,
        drop_last=True,
        epochs=profile.epochs,
        device=context.device,
        dtype=dtype,
        measure=Measure(layers_every=0),
        **parts,
    )
    runs = None if small or context.folder is None else context.folder / "runs"
    # Starting workers takes longer than a handful of small runs, and one GPU serves one process.
    jobs = None if context.device == "cpu" and profile.runs >= 8 else 1
    seeds = tuple(range(profile.runs))
    return Lab(base, total, seeds, profile.epochs, context.root, runs, small, jobs, recorded)


# The network that a check looks at after training: at one rate, as the paper's smaller batches.
USUAL_BATCH = 512
USUAL_EPOCHS = 20


def trained_network(context: "Context", seed: int = 0) -> "nn.Module":
    """The profile's network after 20 epochs of SGD with momentum, in evaluation mode."""
    from sim import train

    setup = lab(context)
    config = setup.base.replace(batch_size=setup.n(USUAL_BATCH), epochs=USUAL_EPOCHS, seed=seed)
    out = None if context.folder is None else context.folder / "runs" / config.hash
    return train(config, out=out, root=setup.root).model().to(context.device)


def ends(run: "Run") -> dict[str, Any]:
    """How a run ended: at the last evaluation, never at the best of several.

    `accuracy_late` is the mean over the last few evaluations. A run that diverged has no values.
    """
    if run.status != "finished":
        nothing = ("accuracy", "accuracy_late", "test_loss", "train_accuracy", "train_loss")
        return {"status": run.status, **dict.fromkeys(nothing)}
    tested = run.epochs[run.epochs.test_accuracy.notna()]
    last = run.epochs.iloc[-1]
    accuracy, late, loss = None, None, None
    if len(tested):
        accuracy, loss = (float(tested[name].iloc[-1]) for name in ("test_accuracy", "test_loss"))
        late = float(tested.test_accuracy.iloc[-LATE:].mean())
    return {
        "status": run.status,
        "accuracy": accuracy,
        "accuracy_late": late,
        "test_loss": loss,
        "train_accuracy": float(last.train_accuracy),
        "train_loss": float(last.train_loss),
    }


def layer(run: "Run", parameter: str = STRIDE_PARAMETER) -> Any:
    """The rows by epoch of one tensor, in the order of the epochs."""
    return run.layer_epochs[run.layer_epochs.parameter == parameter].sort_values("epoch")


def provenance(lab: Lab, seeds: Sequence[int] | None = None) -> dict[str, Any]:
    """What every training figure says about its runs."""
    options = ", ".join(f"{key} {value}" for key, value in lab.base.model_options.items())
    return {
        "seeds": list(lab.seeds if seeds is None else seeds),
        "samples": lab.total,
        "network": f"{lab.base.model} ({options})",
    }


def finite(values: Iterable[Any]) -> list[float | None]:
    """Numbers as JSON holds them.

    >>> finite([1, float("nan")])
    [1.0, None]
    """
    return [float(v) if v is not None and math.isfinite(v) else None for v in values]


def equal_steps(lab: Lab) -> int:
    """The steps of the equal-steps series: what the paper's 2048 takes in its epochs."""
    return lab.epochs * (lab.total // lab.n(2048))
