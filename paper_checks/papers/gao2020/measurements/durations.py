"""How long the checks will take, said beforehand."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from paper_checks.check import Check

if TYPE_CHECKING:
    from paper_checks.measurements.context import Context
    from sim.training import TrainConfig

# Seconds of what does not depend on the profile's network, measured on two cores of 2.5 GHz.
_FIXED = {
    "fig-bend": 20.0,
    "fig-law": 20.0,
    "fig-gaussian": 4.0,
    "fig-minimum": 25.0,
    "fig-mclr-batch": 10.0,
    "claim-weight-decay": 1.0,
    "claim-sigma-and-curvature": 0.5,
    "claim-eliminating-sharp-minima": 8.0,
    "claim-other-enlargers": 0.2,
}
_EQUATION = 0.4
# The exact diagonal with its statistics, in gradients of its sample.
_DIAGONAL = 40.0
# The same with its curvature, of a step of CBLR, and of an entry's exact value on ResNet-18.
_EXACT = 20.0
_ENTRY = 6.0
_WEIGHT_TENSORS = 21
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
    >>> from paper_checks.measurements.profile import profile
    >>> from paper_checks.registry import build
    >>> needs(build("claim-works-below-8192"), Context(profile("quick", "digits")))
    ('training-rules', 'training-below')
    """
    return tuple(dict.fromkeys(key for shared in check.reads for key in shared.keys(context)))


def key_seconds(key: str, context: "Context") -> float:
    """The seconds of a shared measurement that is not kept."""
    if context.has(key):
        return 0.0
    if key in _FIXED:
        return _FIXED[key]
    if key == "training-radii":
        return _radii_seconds(context)
    if key.startswith("training-"):
        return _training_seconds(key.removeprefix("training-"), context)
    width: dict[str, Any] = {"width": context.profile.width}
    per_sample = _step_seconds(context, context.network, width, 64) / 64
    profile = context.profile
    sample = min(profile.sample, len(context.dataset))
    if key.startswith(("snapshot-", "entries-")):
        return _DIAGONAL * sample * per_sample
    # Figure 3: moments by passes, and every random batch up to all of the data, both ways.
    passes = 2 * profile.passes + 4 * profile.batches if key == "fig3" else profile.batches
    return passes * len(context.population) * per_sample


def _training_seconds(sweep: str, context: "Context") -> float:
    """Every step of the sweep, at what one step takes here: an overhead and a time per image."""
    return sum(
        config_seconds(context, config) / (8 if lanes else 1)
        for config, lanes in _configs(sweep, context)
    ) + (_sharpness_seconds(context) if sweep == "sharp" else 0.0)


def config_seconds(context: "Context", config: "TrainConfig") -> float:
    """One run: its steps at what a step takes here, and what is measured beside."""
    per_image, overhead = _speed(context, config.model, config.model_options, config.dtype)
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


def _configs(sweep: str, context: "Context") -> "Iterator[tuple[TrainConfig, bool]]":
    """Every run of a sweep, and whether it trains as one of several lanes."""
    from paper_checks.papers.gao2020.measurements import training
    from paper_checks.papers.gao2020.measurements.training import _compared, _rules, _sharp

    if sweep == "sharp":
        cells = list(_sharp.cells(context))
    elif sweep in ("rules", "compared"):
        network = context.profile.compares if sweep == "compared" else None
        setup = training.lab(context, network)
        which = _compared.FIRST_ORDER if sweep == "compared" else tuple(training.GAMMAS)
        cells = [
            cell
            for series in ("epochs", "steps")
            for paper in training.RULE_SIZES
            for cell in _rules.local_cells(setup, which, series, paper)
        ]
    else:
        cells = list(training.SWEEPS[sweep].cells(context))
    lanes = training.lab(context).vectorise
    for cell in cells:
        for run in (*cell.first(), *cell.second(0)):
            config = run.arm.config
            yield config, lanes and config.model == "mlp" and config.optimizer != "cblr"


def _sharpness_seconds(context: "Context") -> float:
    """The largest eigenvalues after the runs."""
    from paper_checks.papers.gao2020.measurements.training import _sharp

    runs = sum(cell.runs() for cell in _sharp.cells(context))
    return 60 * 1024 * _trained_seconds(context) * runs


def _radii_seconds(context: "Context") -> float:
    """The exact radii of some entries of each tensor, at both ends of a run."""
    from paper_checks.papers.gao2020.measurements.training import ENTRIES

    entries = 2 * ENTRIES * _WEIGHT_TENSORS
    return _ENTRY * 256 * entries * _trained_seconds(context, context.profile.compares)


def _trained_seconds(context: "Context", network: str | None = None) -> float:
    """Seconds for an image more, of the network that is trained."""
    from paper_checks.papers.gao2020.measurements.training import lab

    base = lab(context, network).base
    return _speed(context, base.model, base.model_options, base.dtype)[0]


def _speed(
    context: "Context", model: str, options: Mapping[str, Any], dtype: str
) -> tuple[float, float]:
    """Seconds for one more image, and for a step without any."""
    large, small = (_step_seconds(context, model, options, n, dtype) for n in (256, 8))
    per_image = max(0.0, (large - small) / 248)
    return per_image, max(small - 8 * per_image, 0.0)


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
