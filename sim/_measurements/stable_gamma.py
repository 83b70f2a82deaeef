"""CBLR's γ, cap and interval from the largest eigenvalue of the scaled Hessian."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import hessian
from sim import _arguments
from sim._isolation import isolated, seeded
from sim._measurements.sharpness import sharpness
from sim.optimizers import CBLR

HALVINGS = 20
# Of CBLR, that a trial takes as they are.
OPTIONS = ("min_curvature", "damping", "negative", "weight_decay", "decay", "foreach")
# Of λ_max: the margin leaves room for more.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Trial:
    """One trial run of CBLR.

    Attributes:
        max_radius: the cap.
        refresh_interval: the steps that each curvature served.
        gamma: γ.
        losses: the loss of every batch, before its step; the run ends early where it is unstable.
        sharpness: λ_max(ρ^½ H ρ^½) at every measured step, with the ρ of that step.
        capped: the share of entries at the cap, at every measured step.
        stable: whether γ λ_max kept within the margin of 2(1 + m) at all of them.
    """

    max_radius: float
    refresh_interval: int
    gamma: float
    losses: tuple[float, ...]
    sharpness: tuple[float, ...]
    capped: tuple[float, ...]
    stable: bool

    @property
    def final(self) -> float:
        """The mean loss over the last quarter of the run, infinite where it is unstable."""
        last = self.losses[-max(1, len(self.losses) // 4) :]
        return sum(last) / len(last) if self.stable else math.inf


@dataclass(frozen=True)
class Stability:
    """What `stable_gamma` found; `options` goes into `CBLR`.

    Attributes:
        gamma: γ.
        max_radius: R_max.
        refresh_interval: the most steps that a curvature may serve.
        momentum: m, for which it was found.
        trials: all trial runs, in their order.
    """

    gamma: float
    max_radius: float
    refresh_interval: int
    momentum: float
    trials: tuple[Trial, ...]

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `CBLR`."""
        return {
            "lr": self.gamma,
            "max_radius": self.max_radius,
            "refresh_interval": self.refresh_interval,
            "momentum": self.momentum,
        }


def stable_gamma(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    data: Iterable[tuple[Any, Any]],
    *,
    max_radius: Sequence[float] = (1e3, 1e4, 1e5),
    refresh_interval: Sequence[int] = (1, 2, 5, 10),
    momentum: float = 0.0,
    margin: float = 0.5,
    every: int = 1,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    **options: Any,
) -> Stability:
    """γ, cap and refresh interval with which CBLR is stable on a trial run over the given batches.

    Where ρ = min(R, R_max) is held, a step of CBLR with momentum m shrinks the error of a
    quadratic in every direction if and only if γ λ_max(ρ^½ H ρ^½) < 2(1 + m) (`sharpness`). Here
    it must stay below `margin` times that, along a run and not at one point only, since λ_max can
    grow a hundredfold when the loss starts to fall:

    1. For each cap, γ starts as margin·2(1 + m)/λ_max of the first batch, and a run over the
       batches is made with it, with a fresh curvature in every step. Where γ λ_max exceeds
       margin·2(1 + m), the run is broken off, γ is halved, and it starts again.
    2. The cap whose run ends with the lowest loss is taken.
    3. For that γ and cap, runs with longer and longer intervals, λ_max with the old ρ and the new
       H, under the same condition. The longest before one breaks it is taken.

    A γ that follows λ_max up and down within one run is no substitute: on the plateau of an
    initialisation λ_max allows steps that end in places where it is hundreds of times as large.

    What it leaves out: that ρ itself changes with w (R moves with g and with third derivatives),
    the noise between batches, and all that comes after the trial; hence the margin. Stable also
    says nothing of fast: λ_max is between 1 and the number of parameters.

    The trials run in the model's mode; model and random state are left as found. A step costs an
    exact diagonal and, where measured, some 10 to 30 Hessian-vector products.

    Args:
        model, loss, forward: as for `hessian.diagonal`.
        data: batches; each is one step of a trial, so at least as many as it takes to leave the
            plateau of an initialisation.
        max_radius: the caps to try.
        refresh_interval: the intervals to try.
        momentum: m in [0, 1).
        margin: in (0, 1).
        every: measure λ_max at every so many steps; a larger interval costs less and sees less.
        options: `min_curvature`, `damping` and `negative` of `CBLR`.

    Returns:
        A `Stability`.

    Raises:
        ValueError: an argument is out of its range; no batches; one that no step can be made on
            (a single sample before batch norm, a wrong label, nan), which the message numbers.
        RuntimeError: no stable γ was found.

    Source: the bound is that of gradient descent and of Polyak's (1964) heavy ball on a quadratic,
    preconditioned; that the curvature rises up to it in training, Cohen et al. (2021).

    Example:
        One parameter, L = (w - 1)²/2: ρ^½ H ρ^½ is (1 + g²)^{3/2}, at first 2^{3/2}.

        >>> class Scalar(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.w = nn.Parameter(torch.zeros(()))
        ...     def forward(self, x):
        ...         return self.w * x
        >>> half = lambda output, target: ((output - target) ** 2).mean() / 2
        >>> batches = 3 * [(torch.ones(1), torch.ones(1))]
        >>> found = stable_gamma(Scalar(), half, batches, max_radius=[10.0], margin=0.5)
        >>> round(found.gamma, 4), found.max_radius, found.refresh_interval
        (0.3536, 10.0, 10)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; give a torch.nn.Module")
    for argument, values in (
        ("data", data), ("max_radius", max_radius), ("refresh_interval", refresh_interval)
    ):  # fmt: skip
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"{argument}: got {values!r}; give a list, of one perhaps")
    for name in options:
        if name not in OPTIONS:
            raise TypeError(
                f"{name}: no such option of a trial; its options are: {', '.join(OPTIONS)}"
                f"{_arguments.did_you_mean(name, OPTIONS)}"
            )
    caps = [_arguments.number("max_radius", cap, 0.0, open_=True) for cap in max_radius]
    intervals = sorted(_arguments.integer("refresh_interval", k, 1) for k in refresh_interval)
    _arguments.number("momentum", momentum, 0.0, 1.0)
    _arguments.number("margin", margin, 0.0, 1.0, open_=True)
    _arguments.integer("every", every, 1)
    batches = list(hessian.batches.lasting(data))
    for argument, values in (("data", batches), ("max_radius", caps)):
        if not values:
            raise ValueError(f"{argument}: got none; give at least one")
    with isolated():
        _check(model, loss, batches, forward)
        return _search(
            _Runs(model, loss, batches, momentum, margin, every, forward, options), caps, intervals
        )


def _search(run: "_Runs", caps: list[float], intervals: list[int]) -> Stability:
    """The three steps."""
    trials: list[Trial] = []
    for cap in caps:
        gamma: float | None = None
        for _ in range(HALVINGS):
            trials.append(run(cap, gamma))
            if trials[-1].stable:
                break
            gamma = trials[-1].gamma / 2
    best = min(trials, key=lambda trial: trial.final)
    if not best.stable:
        raise RuntimeError(
            f"no stable gamma: not with max_radius {caps}; give smaller caps or fewer batches"
        )
    longest = 1
    for interval in intervals:
        if interval == 1:
            continue
        trials.append(run(best.max_radius, best.gamma, interval))
        if not trials[-1].stable:
            break
        longest = interval
    return Stability(best.gamma, best.max_radius, longest, run.momentum, tuple(trials))


@dataclass
class _Runs:
    """Trial runs from one start, over the same batches."""

    model: nn.Module
    loss: Callable[[Any, Any], Tensor]
    batches: list[tuple[Any, Any]]
    momentum: float
    margin: float
    every: int
    forward: Callable[[nn.Module, Any], Any] | None
    options: dict[str, Any]

    @property
    def limit(self) -> float:
        """What γ λ_max must not exceed."""
        return self.margin * 2 * (1 + self.momentum)

    def _first(self, top: float) -> float:
        if top <= 0:
            raise ValueError(
                "data: the loss has no positive curvature on the first batch, so nothing bounds "
                "gamma there; give batches on which it has"
            )
        return self.limit / top * (1 - 1e-12)  # a rounding must not break the limit at once

    def __call__(self, cap: float, gamma: float | None = None, interval: int = 1) -> Trial:
        """A run with γ, or with the largest that the first batch allows; the weights are put back.

        The model itself is run, not a copy: its loss may read its weights, and not every module
        can be copied.
        """
        start = [(p, p.detach().clone()) for p in self.model.parameters()]
        self._failure: tuple[int, Exception] | None = None
        try:
            trial = self._trial(cap, gamma, interval)
        finally:
            for parameter, value in start:
                parameter.data.copy_(value)
        if self._failure is not None:
            number, error = self._failure
            # What fails at the first weights too has another reason than the weights.
            if not _works(self.model, self.loss, self.batches[number], number, self.forward):
                raise _numbered(error, number, len(self.batches)) from None
        return trial

    def _trial(self, cap: float, gamma: float | None, interval: int) -> Trial:
        """One run of CBLR over the batches, in the model's memory; it ends where it is unstable."""
        model = self.model
        # The same memory; but the model's own tensors keep their gradients and versions.
        parameters = {
            name: nn.Parameter(parameter.data, parameter.requires_grad)
            for name, parameter in model.named_parameters()
        }
        optimizer = CBLR(
            parameters.items(),
            gamma or 0.0,
            momentum=self.momentum,
            max_radius=cap,
            refresh_interval=interval,
            **self.options,
        )
        losses: list[float] = []
        tops: list[float] = []
        capped: list[float] = []
        stable = True
        for number, batch in enumerate(self.batches):
            with _seeded(model, number):
                try:
                    h = hessian.diagonal(model, self.loss, batch, forward=self.forward)
                except ValueError as error:
                    if number == 0:
                        raise
                    stable = False  # the loss is not finite any more
                    if error.__cause__ is not None:  # the model's, or the loss's
                        self._failure = number, error
                    break
                losses.append(h.loss)
                for name, gradient in h.gradient.items():
                    parameters[name].grad = gradient
                fresh = h if optimizer.due else None
                if number % self.every == 0:
                    radius = optimizer.radius(fresh)
                    top = sharpness(
                        model, self.loss, batch, radius, tolerance=TOLERANCE, forward=self.forward
                    )
                    tops.append(top)
                    capped.append(_share(radius, cap))
                    if gamma is None:
                        gamma = self._first(top)
                    if gamma * top > self.limit:
                        stable = False
                        break
            for group in optimizer.param_groups:
                group["lr"] = gamma
            optimizer.step(fresh)
        assert gamma is not None
        return Trial(cap, interval, gamma, tuple(losses), tuple(tops), tuple(capped), stable)


def _share(radius: dict[str, Tensor], cap: float) -> float:
    """The share of entries at the cap."""
    at_cap = sum(int((value == value.new_tensor(cap)).sum()) for value in radius.values())
    return at_cap / sum(value.numel() for value in radius.values())


@contextmanager
def _seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """The same random draws (dropout) for the diagonal and the products of one step."""
    with seeded(seed, *{p.device for p in model.parameters()}):
        yield


def _check(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    batches: Sequence[Any],
    forward: Callable[[nn.Module, Any], Any] | None,
) -> None:
    """Refuse a batch that no step could be made on, before any trial is made.

    Raises:
        ValueError, TypeError: its number, and what is wrong with it.
    """
    for number, batch in enumerate(batches):
        if _works(model, loss, batch, number, forward):
            continue
        try:
            with _seeded(model, number):
                hessian.plan(model, loss, batch, forward=forward)
        except (ValueError, TypeError) as error:
            raise _numbered(error, number, len(batches)) from None


def _numbered(error: Exception, number: int, count: int) -> Exception:
    """The same refusal with the batch's own number."""
    text = str(error).replace(" in batch 0", "").replace(" on batch 0", "")
    return type(error)(f"data: batch {number} of {count}: {text}")


def _works(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    batch: Any,
    number: int,
    forward: Callable[[nn.Module, Any], Any] | None,
) -> bool:
    """Whether the loss on a batch can be computed and is finite, at the weights as they are."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.no_grad(), _seeded(model, number):
            x, y = next(hessian.batches.pairs([batch], model, forward))
            output = hessian.batches.call(model, x, forward)
            finite = torch.isfinite(hessian.batches.loss_of(loss, output, y)).all()
            return bool(finite) and hessian.batches.size(x) > 0
    except Exception:
        return False
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)
