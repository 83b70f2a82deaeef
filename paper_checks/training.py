"""The training runs that the figures share: each sweep is run once and reduced to what they read.

Batch sizes are the paper's as shares of its 50000 images. In the quick profile a small MLP on
scikit-learn's digits stands for AlexNet and for ResNet-18 on CIFAR-10, many seeds in one process;
in the full profile they are the paper's own networks.
"""

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from paper_checks.context import Context
    from sim.training import TrainConfig

PAPER = 50_000
# The paper's 32 is less than one image of the digits, so its place is taken by 128 where the
# training is long.
SIZES = (128, 512, 2048, 8192, 32768, 49152)
FIRST_EPOCH = (32, 128, 512, 2048, 8192, 16384, 32768, 49152)
# Rates tried around the root-of-n rule, which suits both ends.
FACTORS = (0.1, 10**-0.5, 1.0, 10**0.5, 10.0)
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

    def read(out: Path | str) -> "tuple[pd.DataFrame, ...]":
        found = {
            name: sweep(
                configs,
                out=out,
                root=lab.root,
                table=name,
                jobs=lab.jobs,
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


def whole(context: "Context") -> dict[str, Any]:
    """Training at one rate for all batch sizes: at equal epochs, and at equal steps."""
    return context.shared("training-whole", _whole)


def _whole(context: "Context") -> dict[str, Any]:
    from sim.training import Measure, grid

    found = lab(context)
    base = found.base.replace(measure=Measure(layers_every=1))
    sizes = found.sizes(SIZES)
    equal = equal_steps(found)
    rows, curves = [], {}
    for series in ("epochs", "steps"):
        for n in sizes:
            config = base.replace(batch_size=n)
            if series == "steps":
                config = config.replace(epochs=None, steps=equal)
            layers, steps, epochs = tables(
                found, grid(config, seed=found.seeds), "layer_epochs", "steps", "epochs"
            )
            layers = layers[layers.parameter == STRIDE_PARAMETER]
            curves[f"{series}-{n}"] = _curves(layers, steps, epochs, found.seeds[0])
            for seed in found.seeds:
                one = layers[layers.seed == seed]
                losses = steps[steps.seed == seed].loss.to_numpy(dtype=float)
                late = epochs[epochs.seed == seed].test_accuracy.dropna()
                rows.append(
                    {
                        "series": series,
                        "n": n,
                        "seed": seed,
                        "steps": len(losses),
                        "path": float(one.path.sum()),
                        "displacement": float(one.displacement.sum()),
                        "accuracy": float(late.iloc[-1]) if len(late) else None,
                        "loss": float(np.mean(losses[-max(1, len(losses) // 10) :])),
                        **fluctuation(losses),
                    }
                )
    return provenance(found) | {
        "lr": base.lr,
        "n": sizes,
        "epochs": found.epochs,
        "equal_steps": equal,
        "rows": rows,
        "curves": curves,
    }


def equal_steps(lab: Lab) -> int:
    """The steps of the equal-steps series: what the paper's 2048 takes in its epochs."""
    return lab.epochs * (lab.total // lab.n(2048))


def fluctuation(losses: Any) -> dict[str, float | None]:
    """The per-step deviation of the second half of a loss curve, its trend taken out.

    Second differences leave nothing of a straight trend; for independent deviations of variance v
    their variance is 6v. `relative` is over the mean loss there.

    >>> fluctuation(np.linspace(2, 1, 40))["absolute"] < 1e-12
    True
    """
    late = np.asarray(losses, dtype=float)[len(losses) // 2 :]
    if late.size < 6 or not np.isfinite(late).all():
        return {"absolute": None, "relative": None}
    absolute = float(np.sqrt(np.mean(np.diff(late, 2) ** 2) / 6))
    return {"absolute": absolute, "relative": absolute / max(float(late.mean()), 1e-12)}


def _curves(
    layers: "pd.DataFrame", steps: "pd.DataFrame", epochs: "pd.DataFrame", seed: int
) -> dict[str, Any]:
    """What is drawn: means over the seeds by epoch, and one seed's loss by step."""
    by_epoch = layers.groupby("epoch")[["stride", "path", "displacement"]].mean()
    losses = steps[steps.seed == seed][["step", "loss"]]
    every = max(1, len(losses) // 300)
    accuracy = epochs.groupby("epoch").test_accuracy.mean()
    return {
        "epoch": [int(e) for e in by_epoch.index],
        "stride": finite(by_epoch.stride),
        "path": finite(by_epoch.path),
        "displacement": finite(by_epoch.displacement),
        "accuracy": finite(accuracy),
        "step": [int(s) for s in losses.step[::every]],
        "loss": finite(losses.loss[::every]),
    }


def tuned(context: "Context") -> dict[str, Any]:
    """Every batch size with a grid of rates, at equal epochs and at equal steps."""
    return context.shared("training-tuned", _tuned)


def _tuned(context: "Context") -> dict[str, Any]:
    from sim.training import Measure, grid

    found = lab(context)
    base = found.base.replace(measure=Measure(layers_every=10))
    sizes, equal = found.sizes(SIZES), equal_steps(found)
    rows = []
    for series in ("epochs", "steps"):
        for n in sizes:
            config = base.replace(batch_size=n)
            if series == "steps":
                config = config.replace(epochs=None, steps=equal)
            rates = [0.02 * math.sqrt(n / found.n(512)) * factor for factor in FACTORS]
            runs, layers = tables(
                found, grid(config, lr=rates, seed=found.seeds), "runs", "layer_epochs"
            )
            layers = layers[layers.parameter == STRIDE_PARAMETER]
            for place, lr in enumerate(rates):
                part = runs[np.isclose(runs.lr, lr)].sort_values("seed")
                strides = layers[np.isclose(layers.lr, lr)].groupby("seed").path.sum()
                rows.append(
                    {
                        "series": series,
                        "n": n,
                        "rate": place,
                        "lr": lr,
                        "diverged": int((part.status != "finished").sum()),
                        "accuracy": finite(part.best_test_accuracy.fillna(0.0)),
                        "train_accuracy": finite(part.train_accuracy.fillna(0.0)),
                        "path": finite(strides.reindex(part.seed)),
                    }
                )
    return provenance(found) | {
        "n": sizes,
        "epochs": found.epochs,
        "equal_steps": equal,
        "rows": rows,
    }


def best(rows: Sequence[dict[str, Any]], column: str = "accuracy") -> tuple[dict[str, Any], Any]:
    """The row whose rate does best on the even seeds, and its values on the odd ones.

    What is chosen is not read on the seeds that chose it, so a maximum over rates gives no bonus.

    >>> best([{"accuracy": [0.9, 0.1, 0.9, 0.2]}, {"accuracy": [0.5, 0.6, 0.5, 0.6]}])[1]
    [0.1, 0.2]
    """
    chosen = max(rows, key=lambda row: float(np.mean([v or 0.0 for v in row[column][::2]])))
    return chosen, [v or 0.0 for v in chosen[column][1::2] or chosen[column]]


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


def _by_epoch(frame: "pd.DataFrame", column: str) -> dict[str, Any]:
    grouped = frame.groupby("epoch")[column]
    return {
        "epoch": [int(e) for e in grouped.mean().index],
        "mean": finite(grouped.mean()),
        "sd": finite(grouped.std()),
    }


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


# γ of each rule at the paper's 1024; for larger n they rise with the root of n, so that the best is
# inside the grid.
GAMMAS: dict[str, tuple[float, ...]] = {
    "sgd": (0.01, 0.03, 0.1, 0.3),
    "lars": (0.001, 0.003, 0.01, 0.03),
    "mclr": (0.0003, 0.001, 0.003, 0.01),
    "percent-delta": (0.001, 0.003, 0.01, 0.03),
    "cblr": (3e-5, 1e-4, 3e-4, 1e-3),
}
# The exact curvature is not vectorised over seeds.
EXACT_SEEDS = 6
RULE_SIZES = (1024, 8192, 32768)


def rules(context: "Context") -> dict[str, Any]:
    """CBLR with the exact curvature and its approximations, γ tuned, at equal epochs and steps."""
    return _all_rules(context, lab(context), "training-rules", tuple(GAMMAS))


# What figure 16 compares on a network whose whole exact diagonal is out of reach.
FIRST_ORDER = tuple(rule for rule in GAMMAS if rule != "cblr")


def compared(context: "Context") -> dict[str, Any]:
    """The rules on the network of figure 16.

    Below batch norm in training mode samples are coupled, and each entry's second derivative takes
    a product of its own. True CBLR is then left to `rules`, and the exact radii of random entries
    say, tensor by tensor, what MCLR's median stands for.
    """
    profile = context.profile
    if profile.compares == profile.trains:
        return rules(context)
    found = lab(context, profile.compares)
    measured = _all_rules(context, found, "training-compared", FIRST_ORDER)
    return measured | {"radii": radii(context, found, measured["rows"])}


def _all_rules(context: "Context", found: Lab, key: str, which: tuple[str, ...]) -> dict[str, Any]:
    """Each series and batch size is kept by itself: together they are the longest measurement."""
    # The exact curvature takes some ten gradients, so equal steps are fewer here.
    equal = max(1, found.epochs * (found.total // found.n(8192)))
    rows: list[dict[str, Any]] = []
    for series in ("epochs", "steps"):
        for paper in RULE_SIZES:
            make = partial(
                _rules, found=found, which=which, series=series, paper=paper, equal=equal
            )
            rows += context.shared(f"{key}-{series}-{paper}", make)["rows"]
    return provenance(found) | {
        "n": [found.n(paper) for paper in RULE_SIZES],
        "epochs": found.epochs,
        "equal_steps": equal,
        "rows": rows,
    }


def _rules(
    context: "Context", found: Lab, which: tuple[str, ...], series: str, paper: int, equal: int
) -> dict[str, Any]:
    from sim.training import grid

    n = found.n(paper)
    rows = []
    for rule in which:
        config, gammas = _tuning(found, rule, n)
        seeds = found.seeds[:EXACT_SEEDS] if rule == "cblr" else found.seeds
        if series == "steps":
            config = config.replace(epochs=None, steps=equal)
        (frame,) = tables(found, grid(config, lr=gammas, seed=seeds), "runs")
        for place, gamma in enumerate(gammas):
            part = frame[np.isclose(frame.lr, gamma)].sort_values("seed")
            rows.append(
                {
                    "series": series,
                    "n": n,
                    "rule": rule,
                    "rate": place,
                    "gamma": gamma,
                    "diverged": int((part.status != "finished").sum()),
                    "accuracy": finite(part.best_test_accuracy.fillna(0.0)),
                    "train_accuracy": finite(part.train_accuracy.fillna(0.0)),
                }
            )
    return {"rows": rows}


def _tuning(found: Lab, rule: str, n: int) -> "tuple[TrainConfig, list[float]]":
    """The configuration of a rule at n, and the γ that are tried."""
    gammas = [gamma * math.sqrt(n / found.n(RULE_SIZES[0])) for gamma in GAMMAS[rule]]
    config = found.base.replace(batch_size=n, optimizer=rule)
    if rule == "cblr":
        # A curvature serves a tenth of an epoch of small batches, one step of large.
        interval = max(1, found.total // n // 10)
        config = config.replace(
            curvature_of=min(n, SAMPLED), **{"optimizer_options.refresh_interval": interval}
        )
    return config, gammas


# Samples of a batch whose exact curvature is taken, and entries of a tensor where each takes a
# product: the median's interval then spans about 25 of 100 ranks.
SAMPLED, ENTRIES = 256, 64


def radii(context: "Context", found: Lab, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """MCLR's and LARS's rate beside the exact median radius, tensor by tensor.

    At initialisation and where MCLR ends with its best γ at the paper's 1024, in training mode.
    """
    from sim import train

    n = found.n(RULE_SIZES[0])
    tried = [row for row in rows if (row["series"], row["n"], row["rule"]) == ("epochs", n, "mclr")]
    config, gammas = _tuning(found, "mclr", n)
    config = config.replace(lr=gammas[best(tried)[0]["rate"]], seed=found.seeds[0])
    out = None if found.runs is None else found.runs / config.hash

    def measure(context: "Context") -> dict[str, Any]:
        from sim.models import build

        options: Any = config.model_options
        data = context.dataset
        fresh = build(
            config.model, in_shape=data.shape, classes=data.classes, seed=config.seed, **options
        )
        ends = {
            "at initialisation": fresh,
            "trained": train(config, out=out, root=found.root).model(),
        }
        return {"rows": [row for at, model in ends.items() for row in _radii(context, model, at)]}

    rows = context.shared("training-radii", measure)["rows"]
    return list(rows)


def _radii(context: "Context", model: Any, at: str) -> list[dict[str, Any]]:
    import torch
    from torch.nn.functional import cross_entropy

    import hessian

    model = model.to(context.device).train()
    pair = context.dataset.subset(min(SAMPLED, len(context.dataset)), 0).pair
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    drawn = hessian.sample(
        model,
        cross_entropy,
        pair,
        ENTRIES,
        torch.Generator().manual_seed(0),
        names=weights,
        progress=context.folder is not None,
    )
    # The buffers of batch norm move with this; the model is not used again.
    gradients = torch.autograd.grad(cross_entropy(model(pair[0]), pair[1]), list(weights.values()))
    rows = []
    for (name, w), g in zip(weights.items(), gradients, strict=True):
        taken = drawn[name]
        radius = hessian.radius(g.reshape(-1)[taken.index], taken.value)
        median, low, high = replace(taken, value=radius).quantile(0.5)
        rows.append(
            {
                "at": at,
                "parameter": name,
                "size": w.numel(),
                "radius": median,
                "radius_low": low,
                "radius_high": high,
                "mclr": float(w.detach().abs().median() / g.abs().median()),
                "lars": float(w.detach().norm() / g.norm()),
            }
        )
    return rows


WARM_EPOCHS = 5


def warmup(context: "Context") -> dict[str, Any]:
    """Curvature by layer along training, with warm-up and at the full rate from the start."""
    return context.shared("training-warmup", _warmup)


def _warmup(context: "Context") -> dict[str, Any]:
    from sim.training import Measure, Warmup, grid

    found = lab(context)
    n = found.n(8192)
    steps = WARM_EPOCHS * (found.total // n)
    base = found.base.replace(
        batch_size=n,
        lr=0.2,
        epochs=None,
        steps=steps + 1,
        measure=Measure(
            layers_every=0,
            curvature_every=max(1, steps // 5),
            curvature_samples=min(256, found.total),
        ),
    )
    if found.vectorise:
        base = base.replace(model_options={"hidden": [32, 32, 32, 32]})
        found = replace(found, base=base)
    rows = []
    for name, config in {
        "warm-up": base.replace(warmup=Warmup(kind="linear", steps=steps, start=0.0)),
        "full rate": base,
        "rate of the warm-up's start": base.replace(lr=0.2 / max(1, steps)),
    }.items():
        (frame,) = tables(found, grid(config, seed=found.seeds), "curvature")
        frame = frame[frame.parameter.str.endswith("weight") & (frame.curvature_abs > 0)]
        logs = np.log10(frame.curvature_abs)
        for _, part in frame.assign(log=logs).groupby(["seed", "step"]):
            rows.append(
                {
                    "protocol": name,
                    "seed": int(part.seed.iloc[0]),
                    "step": int(part.step.iloc[0]),
                    "spread": float(part.log.std(ddof=0)),
                    "layers": dict(zip(part.parameter, part.log.astype(float), strict=True)),
                }
            )
    return provenance(found) | {"n": [n], "steps": steps, "lr": base.lr, "rows": rows}


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
