"""Measurements on the way of any training loop, which leave no trace in it."""

import inspect
import math
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

import hessian
from sim import _arguments
from sim._isolation import isolated
from sim._measurements.monitored.measures import MEASUREMENTS, Probe, unknown
from sim._measurements.monitored.state import as_found
from sim._measurements.per_sample import Loss, Objective
from sim._measurements.samples import Forward, all_samples, count, rows
from sim._measurements.separable import check_separable

MEASURES = ("critical_rate", "noise_scale", "radius", "sharpness", "trace")
COLUMNS = {"step": "int64", "measure": "object", "layer": "object", "value": "float64"}
# Backward passes beyond which an exact trace is not for measuring along training.
PASSES = 10_000


class Monitor:
    """Measures every so many steps of a training loop: what `monitor` returns.

    It is stepped by `step` in the loop, by a call of it as a callback (its arguments are ignored),
    or, as a context, by the optimizer's own steps.

    Attributes:
        every: steps from one measurement to the next.
        measures: what is measured.
        steps: steps so far.
        seconds: measure → seconds spent on it so far.
    """

    def __init__(self, probe: Probe, every: int, measures: tuple[str, ...]) -> None:
        self.every = every
        self.measures = measures
        self.steps = 0
        self.seconds = dict.fromkeys(("loss", *measures), 0.0)
        self._probe = probe
        self._rows: list[tuple[int, str, str | None, float]] = []
        # What one measurement leaves for the next one to begin with.
        self._last: dict[str, Any] = {}
        self._hook: Any = None

    def step(self) -> bool:
        """Count a step of training, and measure if its turn has come; whether it had."""
        self.steps += 1
        turn = self.steps % self.every == 0
        if turn:
            self.measure()
        return turn

    def __call__(self, *_: Any, **__: Any) -> None:
        """As `step`, for loops that take callbacks."""
        self.step()

    def __enter__(self) -> "Monitor":
        """Let every step of the optimizer count."""
        if self._hook is None:
            self._hook = self._probe.optimizer.register_step_post_hook(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def table(self) -> pd.DataFrame:
        """What was measured so far: a row for each step, measure and layer.

        Columns: `step`, `measure`, `layer` (`None` for the whole network, `""` for parameters of
        the model itself) and `value`. `frame.attrs` holds `samples` and `every`.
        """
        values = zip(*self._rows, strict=True) if self._rows else ([] for _ in COLUMNS)
        columns = zip(COLUMNS.items(), values, strict=True)
        frame = pd.DataFrame({name: pd.Series(v, dtype=kind) for (name, kind), v in columns})
        frame.attrs = {"samples": count(self._probe.pair[0]), "every": self.every}
        return frame

    def measure(self) -> None:
        """Measure now, whatever the step; model, optimizer and random state are left as found.

        Where the loss is not finite (training has diverged) every value is nan.

        Raises:
            Exception: what `hessian.diagonal` and `hessian.operator` raise.
        """
        probe = self._probe
        table: list[tuple[int, str, str | None, float]] = []
        with isolated(), as_found(probe.owners, probe.devices) as restore:
            for name in self.seconds:
                start = time.perf_counter()
                if probe.evaluation:
                    probe.objective.model.eval()
                finite = not table or math.isfinite(table[0][-1])
                values = MEASUREMENTS[name](probe, self._last) if finite else unknown(name)
                table += [(self.steps, *row) for row in values]
                restore()
                self.seconds[name] += time.perf_counter() - start
            self._last.pop("diagonal", None)
        self._rows += table


def monitor(
    model: nn.Module,
    loss: Loss,
    data: Any,
    optimizer: Optimizer,
    *,
    every: int = 50,
    measure: Iterable[str] = ("noise_scale", "trace", "sharpness", "critical_rate"),
    micro_batches: int = 4,
    tolerance: float = 0.05,
    evaluation: bool = False,
    memory: int | None = None,
    forward: Forward | None = None,
) -> Monitor:
    """Measure gradient noise, curvature and the critical rate along any training loop.

    All of it is taken on the same samples, `data`, and leaves no trace: parameters, gradients,
    buffers, modes and attributes of modules, all state of the optimizer and the random state of
    torch, Python and NumPy are bit for bit as before. Training with a monitor is training without.

    - `"noise_scale"`, for each layer and the whole network: `noise_scale` = tr Σ / |G|², with its
      parts `gradient_covariance` = tr Σ and `gradient_squared` = |G|², both unbiased. Σ is the
      covariance of one sample's gradient and G the mean gradient, so that it is the batch size at
      which noise and gradient weigh the same; nan where |G|² is not told apart from 0 (McCandlish
      et al. average both parts over steps before they divide). It costs a gradient of the data.
    - `"trace"`, for each layer and the whole network: the trace of the exact Hessian. It costs
      what `hessian.diagonal` does: 4 to 8 gradients for ten classes and ReLU.
    - `"radius"`, for each layer and the whole network: the median of the curvature radius
      R = (1 + g²)^{3/2}/|h| over all entries (of the middle two the lower), infinite where at
      least half of them have h = 0. With `"trace"` it costs nothing more.
    - `"sharpness"`: λ_max of the Hessian, by Lanczos from the last eigenvector. It costs 4 to 12
      Hessian-vector products, each some 3 gradients.
    - `"critical_rate"`: the rate at which L after the next step equals L before it, by doubling and
      bisection, with the optimizer's own rule and state (momentum, moments), the gradient as it is
      (no clipping) and the same random numbers; 0 where the direction descends at no rate, infinite
      where no rate is too large, nan where the loss falls by no more than its own rounding. On a
      quadratic it is 2 gᵀd / dᵀHd for a direction d: along the top eigenvector 2/λ_max, in others
      larger. Of groups with several rates it is the largest. It costs a gradient, and 4 to 9
      forward passes, steps of the optimizer and copies of its state; hooks and schedules of the
      optimizer see nothing of it.

    A row `loss` comes with them. `every`, and fewer samples than a batch, keep the costs within
    some percents of training.

    Args:
        model: any module that is called with the inputs. Of `DistributedDataParallel` and of a
            compiled one the network inside is measured, by each process on the data it is given.
        loss: `loss(output, target)`, the scalar that is minimised; for `"noise_scale"` a mean over
            samples.
        data: as for `hessian.diagonal`, mappings with the targets inside included, or a
            `sim.data.Dataset`: the samples on which all is measured. They are kept.
        optimizer: any whose step needs no closure.
        every: steps of training from one measurement to the next.
        measure: names from the table.
        micro_batches: the parts of the data whose gradients are compared, at least 2.
        tolerance: relative, in (0, 1), of `sharpness` (its residual) and `critical_rate`.
        evaluation: measure in evaluation mode; else in the mode that the model is in. Batch norm
            in training mode has no per-sample gradients, and its noise scale is refused.
        memory: as for `hessian.diagonal`. Where the data fit into it whole, a Hessian-vector
            product takes half as long as in parts.
        forward: ``forward(model, inputs)``, to call the model in another way.

    Returns:
        A `Monitor`; call its `step()` after every step of the optimizer.

    Raises:
        TypeError: an argument is of another kind; the optimizer needs a closure.
        ValueError: an argument is out of its range; parameters are sharded; the optimizer has none
            of them; the loss is not one finite number; samples are coupled, or too few; the trace
            takes more than 10,000 backward passes; what `hessian.plan` refuses.

    Source: McCandlish et al. (2018), "An empirical model of large-batch training"; the edge of
    stability, Cohen et al. (2021).

    Example:
        L = (2w₀ + w₁ - 1)² has the Hessian [[8, 4], [4, 2]]: its trace and its only eigenvalue
        that is not 0 are 10, and gradient descent goes along that direction.

        >>> model = nn.Linear(2, 1, bias=False)
        >>> pair = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])
        >>> descent = torch.optim.SGD(model.parameters(), lr=0.05)
        >>> names = ("trace", "sharpness", "critical_rate")
        >>> watch = monitor(
        ...     model, nn.functional.mse_loss, pair, descent, every=2, measure=names, tolerance=1e-4
        ... )
        >>> for _ in range(2):
        ...     descent.zero_grad()
        ...     nn.functional.mse_loss(model(pair[0]), pair[1]).backward()
        ...     descent.step()
        ...     _ = watch.step()
        >>> table = watch.table()
        >>> whole = table[table.layer.isna()].set_index("measure").value
        >>> whole[list(names)].round(3).tolist()
        [10.0, 10.0, 0.2]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; give a torch.nn.Module")
    if not callable(loss):
        raise TypeError(f"loss: got {type(loss).__name__}; give a function of (output, target)")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: got {type(optimizer).__name__}; give a torch.optim.Optimizer")
    every = _arguments.integer("every", every, 1)
    measures = _measures(measure)
    model = _unwrapped(model)
    _arguments.number("tolerance", tolerance, 0.0, 1.0, open_=True)
    evaluation = _arguments.flag("evaluation", evaluation)
    if memory is not None:
        memory = _arguments.integer("memory", memory, 1)
    parameters = set(model.parameters())
    if not parameters.intersection(p for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "optimizer: it holds none of the model's parameters; make it of model.parameters()"
        )
    if "critical_rate" in measures:
        _refuse_closures(optimizer)
    device = next(iter(parameters)).device
    owners = [owner for owner in (model, loss) if isinstance(owner, nn.Module)]
    with isolated(), as_found(owners, {p.device for p in parameters}):
        x, y = all_samples(data, model, forward)
        samples = count(x)
        micro_batches = _arguments.integer("micro_batches", micro_batches, 2)
        if "noise_scale" in measures and micro_batches > samples:
            raise ValueError(
                f"micro_batches: got {micro_batches} for {samples} samples; give at most as many"
            )
        pair = (rows(x, slice(None), samples, device), rows(y, slice(None), samples, device))
        settings = (micro_batches, tolerance, evaluation, memory)
        probe = Probe(Objective(model, loss, forward), pair, optimizer, *settings)
        _try(probe, measures)
    return Monitor(probe, every, measures)


def _measures(measure: Iterable[str]) -> tuple[str, ...]:
    """The names, each once, in their order."""
    if isinstance(measure, str) or not isinstance(measure, Iterable):
        raise TypeError(f"measure: got {measure!r}; give a list, of one perhaps")
    names = tuple(_arguments.choice("measure", name, MEASURES) for name in measure)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"measure: got {names!r}; give some of {', '.join(MEASURES)}, each once")
    return names


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, which can be differentiated without the exchange between processes.

    A pass through `DistributedDataParallel` that no `backward()` follows would break the next one,
    and a compiled network would be compiled anew for every size of micro-batch.
    """
    while isinstance(model, DistributedDataParallel | nn.DataParallel):
        model = model.module
    model = getattr(model, "_orig_mod", model)
    if any(hasattr(p, "placements") for p in model.parameters()):
        raise ValueError(
            "model: its parameters are spread over processes; give a network that is whole on this "
            "one"
        )
    return model


def _refuse_closures(optimizer: Optimizer) -> None:
    parameters = inspect.signature(type(optimizer).step).parameters.values()
    for parameter in list(parameters)[1:]:
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY)
        if named and parameter.default is parameter.empty:
            raise TypeError(
                f"optimizer: a step of {type(optimizer).__name__} needs a {parameter.name}, so it "
                "has no critical rate; leave 'critical_rate' out of measure"
            )


def _try(probe: Probe, measures: tuple[str, ...]) -> None:
    """Refuse what could not be measured, by one pass of each kind."""
    if probe.evaluation:
        probe.objective.model.eval()
    x, y = probe.pair
    with torch.no_grad():
        probe.objective.scalar(x, y)
    if "noise_scale" in measures:
        check_separable(probe.objective, x, y, next(iter(probe.devices)))
    if {"trace", "radius", "sharpness"} & set(measures):
        plan = probe.of_hessian(hessian.plan)
        exact = [name for name in ("trace", "radius") if name in measures]
        if exact and plan.backward > PASSES:
            dearest = max(plan, key=lambda entry: entry.backward)
            raise ValueError(
                f"measure: {exact[0]!r} takes {plan.backward:,} backward passes every time, most "
                f"of them for {dearest.name!r} ({dearest.reason}); set evaluation=True if batch "
                "norm is the reason, else leave it out"
            )
