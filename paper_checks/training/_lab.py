"""The network, the data and the sizes of a profile's training, and how its runs are made."""

import math
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from paper_checks.context import Context
    from sim.training import TrainConfig

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


@dataclass(frozen=True)
class Lab:
    """The network, the data and the sizes that a context's profile trains with."""

    base: "TrainConfig"
    total: int
    seeds: tuple[int, ...]
    epochs: int
    root: Path | None
    runs: Path | None
    vectorise: bool
    jobs: int | None

    def n(self, paper: int) -> int:
        """The batch size that is the same share of the training set as the paper's."""
        return max(1, min(self.total, round(paper * self.total / PAPER)))

    def sizes(self, paper: Iterable[int]) -> list[int]:
        """Such batch sizes, each once."""
        return sorted({self.n(size) for size in paper})


def lab(context: "Context", network: str | None = None) -> Lab:
    """What `context` trains: the profile's `trains`, or another network."""
    from sim.training import Measure, TrainConfig

    profile = context.profile
    network = network or profile.trains
    whole = len(context.dataset)
    total = whole if profile.images is None else min(whole, profile.images)
    # Runs of a big network resume one by one; small ones are over before that pays.
    small = network == "mlp"
    options: Any = {"hidden": [32, 32]} if small else {"width": profile.width}
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
    return Lab(base, total, seeds, profile.epochs, context.root, runs, small, jobs)


def tables(lab: Lab, configs: "Sequence[TrainConfig]", *names: str) -> "tuple[pd.DataFrame, ...]":
    """Train `configs` and return the tables called `names`.

    Raises `RuntimeError` where a run failed: that is a fault, where to diverge is a finding.
    """
    from sim import sweep
    from sim.training import Unfinished

    def read(out: Path | str) -> "tuple[pd.DataFrame, ...]":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Unfinished)
            found = {
                name: sweep(
                    configs,
                    out=out,
                    root=lab.root,
                    table=name,
                    jobs=lab.jobs,
                    threads=1,
                    vectorise=lab.vectorise,
                    progress=lab.runs is not None,
                )
                for name in dict.fromkeys(("runs", *names))
            }
        failed = found["runs"][found["runs"].status == "failed"]
        if len(failed):
            raise RuntimeError(
                f"{len(failed)} of {len(configs)} runs failed, the first: {failed.iloc[0].reason}"
            )
        return tuple(found[name] for name in names)

    if lab.runs is not None:
        lab.runs.mkdir(parents=True, exist_ok=True)
        return read(lab.runs)
    with tempfile.TemporaryDirectory() as folder:
        return read(folder)


def provenance(lab: Lab) -> dict[str, Any]:
    """What every training figure says about its runs."""
    options = ", ".join(f"{key} {value}" for key, value in lab.base.model_options.items())
    return {
        "seeds": list(lab.seeds),
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
