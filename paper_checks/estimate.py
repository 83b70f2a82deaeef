"""How long the checks will take, said beforehand."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from paper_checks.check import Check

if TYPE_CHECKING:
    from paper_checks.context import Context

# Seconds of what does not depend on the profile's network, measured on two cores of 2.5 GHz.
_FIXED = {
    "fig-bend": 20.0,
    "fig-law": 20.0,
    "fig-gaussian": 4.0,
    "fig-minimum": 25.0,
    "fig-mclr-batch": 10.0,
}
_SMALL = ("claim-other-enlargers",)
_EQUATION = 0.4
# The exact diagonal with its statistics, in gradients of its sample.
_DIAGONAL = 40.0
# Weight tensors of ResNet-18.
_WEIGHT_TENSORS = 21
# Seconds that one timing of a step may go on, and what was timed in each context.
_TIMING = 0.3
_TIMINGS: "WeakKeyDictionary[Context, dict[str, float]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Estimate:
    """A check, and the seconds that it will add to what comes before it."""

    id: str
    seconds: float


def estimates(checks: Sequence[Check], context: "Context") -> list[Estimate]:
    """The seconds each check adds; a measurement that several share counts at the first."""
    costs: dict[str, float] = {}
    found = []
    for check in checks:
        seconds = _EQUATION if check.kind == "equation" else 0.1
        for key in needs(check.id, context):
            if key not in costs:
                costs[key] = _seconds(key, context)
                seconds += costs[key]
        found.append(Estimate(check.id, seconds))
    return found


def told(found: Sequence[Estimate]) -> list[str]:
    """One line a check, and the sum.

    >>> told([Estimate("eq1", 0.4), Estimate("fig1", 119.6)])
    ['eq1   0.4 s', 'fig1  2.0 min', '2 checks, about 2.0 min']
    """
    width = max((len(each.id) for each in found), default=0)
    total = sum(each.seconds for each in found)
    return [
        *(f"{each.id:{width}}  {_time(each.seconds)}" for each in found),
        f"{len(found)} checks, about {_time(total)}",
    ]


def _time(seconds: float) -> str:
    for limit, unit, name in ((100, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86_400:.1f} d"


_TRAINING = {
    "fig1": ("tuned",),
    "fig4": ("first-epoch",),
    "fig5": ("whole",),
    "fig7": ("first-epoch",),
    "fig8": ("whole",),
    "fig10": ("discarding",),
    **{f"fig{number}": ("schedules",) for number in range(11, 15)},
    "fig16": ("compared",),
    "fig-cblr": ("rules",),
    "fig-spread": ("warmup",),
    "claim-large-batch-doomed": ("tuned",),
    "claim-training-stuck": ("tuned",),
    "claim-two-instabilities": ("whole",),
    "claim-gap-worsens": ("tuned",),
    "claim-warmup-flattens": ("warmup",),
    "claim-searching-space": ("tuned",),
    "claim-global-rate-small-batch": ("tuned",),
    "claim-mclr-falls-behind": ("compared",),
    "claim-discarding-fades": ("discarding",),
    "claim-first-epoch-amplifies": ("schedules",),
    "claim-schedule-is-step-length": ("schedules",),
    "claim-training-longer": ("tuned",),
    "claim-sharp-minima": ("sharp",),
    "claim-layer-wise-necessary": ("rules",),
}
_OWN = ("fig3", "fig9", "fig-law", "fig-gaussian", "fig-minimum", "fig-bend", "fig-mclr-batch")
_BORROWED = {
    "claim-gradients-fall-to-zero": ("fig3",),
    "claim-gaussian-initially": ("fig-gaussian",),
    "claim-sigma-constant": ("fig-gaussian",),
    "claim-high-loss-larger-gradients": ("fig9",),
    "claim-centre-on-minimum": ("fig-minimum",),
    "claim-morse-validated": ("fig-minimum",),
    "claim-mclr-because-gradients-shrink": ("fig-mclr-batch",),
}


def needs(name: str, context: "Context") -> tuple[str, ...]:
    """The shared measurements that the check `name` reads."""
    if name in _TRAINING:
        same = context.profile.compares == context.profile.trains
        sweeps = ("rules" if sweep == "compared" and same else sweep for sweep in _TRAINING[name])
        return tuple(f"training-{sweep}" for sweep in sweeps)
    if name in _BORROWED:
        return _BORROWED[name]
    if name in _OWN:
        return (name,)
    if name.startswith("eq") or name in ("fig6", "fig15", *_SMALL):
        return ()
    seeds = context.profile.seeds
    one = name in ("fig2", "fig-convergence", "claim-same-failure-conditions")
    # Where single entries are reduced, the statistics of the tensors come with them.
    return tuple(f"snapshot-{seed}" for seed in (seeds[:1] if one else seeds))


def _seconds(key: str, context: "Context") -> float:
    if context.has(key):
        return 0.0
    if key in _FIXED:
        return _FIXED[key]
    if key.startswith("training-"):
        return _training_seconds(key.removeprefix("training-"), context)
    width: dict[str, Any] = {"width": context.profile.width}
    per_sample = _step_seconds(context, context.network, width, 64) / 64
    profile = context.profile
    sample = min(profile.sample, len(context.dataset))
    if key.startswith("snapshot-"):
        return _DIAGONAL * sample * per_sample
    # Figure 3: moments by passes, and every random batch up to all of the data, both ways.
    passes = 2 * profile.passes + 4 * profile.batches if key == "fig3" else profile.batches
    return passes * len(context.population) * per_sample


def _training_seconds(sweep: str, context: "Context") -> float:
    """Every step of the sweep, at what one step takes here: an overhead and a time per image."""
    from paper_checks.training import lab

    found = lab(context, context.profile.compares if sweep == "compared" else None)
    model, options = found.base.model, found.base.model_options
    dtype = found.base.dtype
    large, small = (_step_seconds(context, model, options, n, dtype) for n in (256, 8))
    per_image = max(0.0, (large - small) / 248)
    overhead = max(small - 8 * per_image, 0.0)
    if found.vectorise:
        # Lanes share the overhead of a step, which is larger for all the measuring.
        lanes = len(found.seeds)
        overhead = 8 * overhead / lanes
    return sum(count * (overhead + n * per_image) for n, count in _steps(sweep, found))


def _steps(sweep: str, lab: Any) -> list[tuple[int, int]]:
    """Batch sizes with the number of steps taken at each, over all runs of the sweep."""
    from paper_checks import training

    seeds, epochs = len(lab.seeds), lab.epochs

    def epoch(n: int) -> int:
        return max(1, int(lab.total) // n)

    both = [
        (n, seeds * (epochs * epoch(n) + training.equal_steps(lab)))
        for n in lab.sizes(training.SIZES)
    ]
    big, small = lab.n(8192), lab.n(512)

    def by_rule(rules: int) -> list[tuple[int, int]]:
        """Equal epochs, and the steps of 8192 for every n."""
        return [
            (n, rules * len(training.GAMMAS["sgd"]) * seeds * epochs * (epoch(n) + epoch(big)))
            for n in (lab.n(paper) for paper in training.RULE_SIZES)
        ]

    table: dict[str, Callable[[], list[tuple[int, int]]]] = {
        # Each step's loss is taken again on its batch and on held-out images.
        "first-epoch": lambda: [(3 * n, seeds * epoch(n)) for n in lab.sizes(training.FIRST_EPOCH)],
        "whole": lambda: both,
        "tuned": lambda: [(n, len(training.FACTORS) * count) for n, count in both],
        "discarding": lambda: [
            (lab.n(n), 2 * seeds * 4 * epochs * epoch(lab.n(n)) * len(training.DISCARDED))
            for n in (2000, 8000, 16384)
        ],
        "schedules": lambda: [
            (big, 6 * 2 * seeds * (8 if lab.vectorise else 1) * epochs * epoch(big)),
            (small, 2 * 2 * seeds * epoch(small)),
        ],
        # The exact curvature counts as twenty gradients of 256 samples, every tenth of an epoch.
        "rules": lambda: [
            *by_rule(4),
            (20 * 256, 2 * 4 * 3 * min(seeds, training.EXACT_SEEDS) * epochs * 10),
        ],
        # An entry's exact value counts as six gradients of 256 samples, at both ends of training.
        "compared": lambda: [*by_rule(4), (6 * 256, 2 * training.ENTRIES * _WEIGHT_TENSORS)],
        "warmup": lambda: [(big, 3 * seeds * 5 * epoch(big)), (20 * 256, 3 * seeds * 6)],
        "sharp": lambda: [(lab.n(2048), 3 * 5 * training.equal_steps(lab)), (1024, 3 * 5 * 60)],
    }
    return table[sweep]()


def _step_seconds(
    context: "Context", name: str, options: Mapping[str, Any], n: int, dtype: str = "float32"
) -> float:
    """The least of several timings of a gradient of n images; the least is the least disturbed."""
    key = f"{name} {sorted(options.items())} {n} {dtype}"
    timings = _TIMINGS.setdefault(context, {})
    if key not in timings:
        timings[key] = _time_step(context, name, options, n, dtype)
    return timings[key]


def _time_step(
    context: "Context", name: str, options: Mapping[str, Any], n: int, dtype: str
) -> float:
    import torch
    from torch.nn.functional import cross_entropy

    from sim.models import build

    data = context.dataset
    model = build(name, in_shape=data.shape, classes=data.classes, seed=0, **options)
    precision = getattr(torch, dtype)
    model.to(context.device, precision)
    index = torch.arange(n) % len(data)
    inputs, targets = data.inputs[index].to(precision), data.targets[index]
    parameters = list(model.parameters())
    times: list[float] = []
    while len(times) < 3 or (sum(times) < _TIMING and len(times) < 200):
        began = time.perf_counter()
        torch.autograd.grad(cross_entropy(model(inputs), targets), parameters)
        if inputs.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)
