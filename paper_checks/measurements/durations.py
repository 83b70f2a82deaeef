"""How long the checks will take, said beforehand."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from paper_checks.check import Check
from paper_checks.papers import paper

if TYPE_CHECKING:
    from paper_checks.measurements.context import Context
    from sim.training import TrainConfig

_EQUATION = 0.4
# An exact diagonal with its curvature, of a step of CBLR, in gradients of its sample.
_EXACT = 20.0
# Three forward passes more beside the forward and backward pass of a step.
_DECREASE = 2.0
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
    durations = []
    for check in checks:
        seconds = _EQUATION if check.kind == "equation" else 0.1
        for key in needs(check, context):
            if key not in costs:
                costs[key] = key_seconds(key, context)
                seconds += costs[key]
            # Where single entries are reduced, the statistics of the tensors come with them.
            costs.setdefault(key.replace("entries", "snapshot"), 0.0)
        durations.append(Estimate(check.id, seconds))
    return durations


def told(durations: Sequence[Estimate]) -> list[str]:
    """One line a check, and the sum.

    >>> told([Estimate("eq1", 0.4), Estimate("fig1", 119.6)])
    ['eq1   0.4 s', 'fig1  2.0 min', '2 checks, about 2.0 min']
    """
    width = max((len(each.id) for each in durations), default=0)
    total = sum(each.seconds for each in durations)
    return [
        *(f"{each.id:{width}}  {duration(each.seconds)}" for each in durations),
        f"{len(durations)} checks, about {duration(total)}",
    ]


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them.

    >>> duration(7200.0)
    '2.0 h'
    """
    for limit, unit, name in ((100, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86_400:.1f} d"


def needs(check: Check, context: "Context") -> tuple[str, ...]:
    """What the shared measurements that a check reads are kept under.

    >>> from paper_checks.measurements.context import Context
    >>> from paper_checks.papers.gao2020.measurements.profile import profile
    >>> from paper_checks.registry import build
    >>> needs(build("claim-works-below-8192"), Context(profile("quick", "digits")))
    ('training-rules', 'training-below')
    """
    return tuple(dict.fromkeys(key for shared in check.reads for key in shared.keys(context)))


def key_seconds(key: str, context: "Context") -> float:
    """The seconds of a shared measurement, none where it is kept."""
    return 0.0 if context.has(key) else paper(context.paper).seconds(key, context)


def config_seconds(context: "Context", config: "TrainConfig") -> float:
    """One run: its steps at what a step takes here, and what is measured beside."""
    per_image, overhead = speed(context, config.model, config.model_options, config.dtype)
    steps, images = work(config, len(context.dataset))
    return steps * overhead + images * per_image


def work(config: "TrainConfig", total: int) -> tuple[int, float]:
    """The steps of a run, and for how many images a gradient is taken, all measuring included.

    >>> from sim.training import TrainConfig
    >>> work(TrainConfig(epochs=2, batch_size=64, measure={"test_every": 0}), 128)
    (4, 256.0)
    """
    plan, rates = config.plan(min(total, config.samples or total))
    images = float(sum(each.steps * each.batch_size for each in plan))
    if config.optimizer == "cblr":
        interval = dict(config.optimizer_options).get("refresh_interval") or 1
        images += _EXACT * (config.curvature_of or config.batch_size) * len(rates) / interval
    if config.measure.decrease_every:
        images *= 1 + _DECREASE / config.measure.decrease_every
    if config.measure.curvature_every:
        count = len(rates) // config.measure.curvature_every + 1
        images += _EXACT * config.measure.curvature_samples * count
    if config.measure.test_every:
        # A fifth as many images are tested as there are to train on, forwards only.
        images += total / 5 / 3 * (len(plan) // config.measure.test_every)
    return len(rates), images


def speed(
    context: "Context", model: str, options: Mapping[str, Any], dtype: str
) -> tuple[float, float]:
    """Seconds for one more image, and for a step without any."""
    large, small = (step_seconds(context, model, options, n, dtype) for n in (256, 8))
    per_image = max(0.0, (large - small) / 248)
    return per_image, max(small - 8 * per_image, 0.0)


def step_seconds(
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
    images = getattr(data, "inputs", None)
    model = build(name, in_shape=data.shape, classes=data.classes, seed=0, **options)
    precision = getattr(torch, dtype)
    model.to(context.device, precision)
    targets = torch.arange(n, device=context.device) % data.classes
    # A step takes as long whatever is in the images; there may be none at hand.
    inputs = torch.randn(n, *data.shape) if images is None else images[torch.arange(n) % len(data)]
    inputs = inputs.to(context.device, precision)
    if name in ("alexnet", "resnet18") and context.device == "cpu" and inputs.dim() == 4:
        # As training has them there.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    times: list[float] = []
    while len(times) < 3 or (sum(times) < _TIMING and len(times) < 200):
        began = time.perf_counter()
        torch.autograd.grad(cross_entropy(model(inputs), targets), parameters)
        if inputs.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)
