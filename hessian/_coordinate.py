"""The minimiser of the loss along one weight: what a pointwise second derivative does not see."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from hessian._batch.whole_or_parts import planned
from hessian._call import data as _data
from hessian._call.batches import Batch, scale, walk
from hessian._call.data import lasting
from hessian._call.lending import lend, refuse_uninitialised
from hessian._call.objective import Objective
from hessian._call.thaw import whole
from hessian._descent import Found, Limits, Search
from hessian._runtime.entries import entries
from hessian._runtime.ledger import Guard, owe, settled
from hessian._runtime.progress import ticker

# How far to look, in root mean squares of the tensor.
REACH = 1000.0
# Coordinates that are moved at once, each on its own copy of the tape.
LANES = 32
# Evaluations of a search along one coordinate; where slope and value agree, fifty to a hundred do.
MOST = 500


@dataclass(frozen=True)
class CoordinateMinimum:
    """Minimisers of φ(t) = L(w + t) along single entries of one parameter, all tensors ``[k]``.

    Attributes:
        index: flat entries, int64, ascending.
        weight: w, the entries' present values; the paper's b = 0 is the displacement -w.
        displacement: t at the minimiser; ±inf where L falls as far as `reach` in that direction,
            0 where the slope is zero already.
        newton: -g/h, the minimiser of the parabola through the present point (its maximiser where
            h < 0); ±inf along the descent direction where h = 0, 0 where g = 0.
        decrease: L(w) - L(w + t) ≥ 0, to the rounding of L; at the end of the reach where t is
            infinite.
        kink: whether the slope jumps at the minimiser instead of passing through zero there.
        converged: whether the search came to its end. Where it did not (value and slope disagree,
            as behind a straight-through estimator; too many kinks on the way; a slope that is not
            finite), the displacement is that of the least value seen, no greater than L(w).
        gradient: g = dL/dw at the present point.
        curvature: h = d²L/dw² there.
        reach: how far was looked in either direction.
    """

    index: Tensor
    weight: Tensor
    displacement: Tensor
    newton: Tensor
    decrease: Tensor
    kink: Tensor
    gradient: Tensor
    curvature: Tensor
    reach: float
    converged: Tensor


class CoordinateMinima(dict[str, CoordinateMinimum]):
    """Mapping from parameter name to `CoordinateMinimum`.

    Attributes:
        loss: L at the present point.
        evaluations: how often L and its slope were computed, over all coordinates.
    """

    loss: float
    evaluations: int


@whole
def coordinate_minimum(
    model: nn.Module,
    loss: _data.Loss,
    data: Any,
    per_parameter: int = 16,
    generator: torch.Generator | None = None,
    *,
    search: str = "nearest",
    reach: float | None = None,
    points: int = 65,
    tolerance: float | None = None,
    most: int = MOST,
    forward: _data.Forward | None = None,
    names: Iterable[str] | None = None,
    memory: int | None = None,
    dtype: torch.dtype | None = None,
    weight: _data.Weight = None,
    progress: bool = False,
) -> CoordinateMinima:
    """Where the loss along one weight, all others held, has its minimum, beside what g and h say.

    A second derivative at a point knows nothing of kinks, and little of what lies far away. This
    follows the true L(w + t): ``search="nearest"`` goes downhill in steps that double where the
    line bends little, until the slope turns or the loss rises, and closes in on the minimum between
    the last two points;
    ``search="lowest"`` first looks at `points` values of t on an even grid from -reach to reach
    and closes in at the lowest. Two turns within one step can be missed in either; what is found
    is always a local minimum. A coordinate takes fifty to a hundred evaluations, each a forward
    and a backward pass over all the data; several coordinates share a pass where every operation
    has a batching rule. In float32 most losses are too rough for this: pass dtype=torch.float64.

    Args:
        model, loss, data, forward, names, memory, dtype, weight, progress: as for `diagonal`.
            The batches are kept in memory; dropout keeps one draw.
        per_parameter: coordinates of each parameter, at most all of them.
        generator: where the coordinates are drawn from (CPU); the global random state by default,
            which then advances by the draw and by nothing else.
        search: ``"nearest"`` or ``"lowest"``.
        reach: largest |t|; by default a thousand times the root mean square of the tensor (1000
            where all of it is zero).
        points: size of the grid of ``"lowest"``.
        tolerance: relative accuracy of the displacement; the square root of the machine
            precision by default (1.5e-8 in float64, 3.5e-4 in float32).
        most: evaluations of one search along a coordinate, beside the grid; ``"lowest"`` makes
            two. A coordinate that needs more ends at the least value seen, with `converged`
            false.

    Returns:
        `CoordinateMinima`: name → `CoordinateMinimum`. Parameters the loss does not depend on
        are left where they are (displacement 0).

    Raises:
        TypeError, ValueError: as `diagonal`; a number is out of range; `search` is unknown.

    Example:
        L = |2w - 1| + w²/8 at w = 1.5: the parabola of the outer branch has its minimum at w = -8,
        the loss itself at its kink, w = 0.5.

        >>> model = nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(1.5)
        >>> def loss(output, target):
        ...     return (output - target).abs().sum() + model.weight.square().sum() / 8
        >>> data = torch.tensor([[2.0]]), torch.tensor([[1.0]])
        >>> found = coordinate_minimum(model, loss, data, dtype=torch.float64)["weight"]
        >>> [round(float(v), 6) for v in (found.newton, found.displacement, found.decrease)]
        [-9.5, -1.0, 2.25]
        >>> bool(found.kink)
        True
    """
    _check(per_parameter, search, reach, points, tolerance, most)
    _data.check_generator(generator)
    every = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
    refuse_uninitialised("model", every.items())
    drawn = {
        name: entries(p.numel(), per_parameter, generator).to(p.device) for name, p in every.items()
    }
    result = CoordinateMinima()
    with (
        Guard(),
        lend(model, loss, "auto", forward, names, memory, dtype) as objective,
        ticker(progress) as bar,
    ):
        index = {name: drawn[name] for name in objective.parameters}
        bar.expect(sum(len(places) for places in index.values()), 0)
        items, g, h, lanes = _here(objective, data, dtype, weight, index)
        factor = scale([batch.a for batch in items], weight)
        line = _Line(objective, items, factor, lanes)
        result.loss = line.value()
        for name, places in index.items():
            p = objective.parameters[name].detach()
            size = float(p.double().square().mean().sqrt())
            far = reach or REACH * (size or 1.0)
            eps = torch.finfo(p.dtype).eps
            limits = Limits(
                far, size or 1.0, tolerance or eps**0.5, 16 * eps * (abs(result.loss) or 1.0), most
            )
            span = Search(
                _Lanes(line, name, places), factor * g[name], factor * h[name], result.loss, limits
            )
            end: Found = span.lowest(points) if search == "lowest" else span.nearest()
            result[name] = CoordinateMinimum(
                places, p.reshape(-1)[places].clone(), end.displacement.to(p.dtype),
                span.newton.to(p.dtype), end.decrease.to(p.dtype), end.kink,
                span.g.to(p.dtype), span.h.to(p.dtype), far, end.converged,
            )  # fmt: skip
            bar.tick(len(places))
        result.evaluations = line.evaluations
    return result


def _check(
    per_parameter: int,
    search: str,
    reach: float | None,
    points: int,
    tolerance: float | None,
    most: int,
) -> None:
    if not isinstance(most, int) or most < 1:
        raise ValueError(f"most must be an integer >= 1, got {most!r}")
    if not isinstance(per_parameter, int) or per_parameter < 1:
        raise ValueError(f"per_parameter must be an integer >= 1, got {per_parameter!r}")
    if search not in ("nearest", "lowest"):
        raise ValueError(f"search must be 'nearest' or 'lowest', got {search!r}")
    if reach is not None and not 0 < reach < float("inf"):
        raise ValueError(f"reach must be a positive number, got {reach!r}")
    if not isinstance(points, int) or points < 3:
        raise ValueError(f"points must be an integer >= 3, got {points!r}")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {tolerance!r}")


def _here(
    objective: Objective,
    data: Any,
    dtype: torch.dtype | None,
    weight: _data.Weight,
    index: dict[str, Tensor],
) -> tuple[list[Batch], dict[str, Tensor], dict[str, Tensor], int]:
    """The batches, g and h at the wanted entries, and how many lanes a pass can take."""
    items: list[Batch] = []
    lanes = LANES
    g, h = (
        {name: torch.zeros(len(places), device="cpu").double() for name, places in index.items()}
        for _ in range(2)
    )
    for batch in walk(objective, lasting(data), dtype, weight):
        analysis = planned(batch, index)
        lanes = min(lanes, objective.memory // (4 * analysis.tape_bytes + 1))
        second, first = analysis.run(lambda _: None)
        for name, places in index.items():
            for total, values in ((g, first), (h, second)):
                total[name] += batch.a * values[name].reshape(-1)[places].cpu().double()
        items.append(batch)
    return items, g, h, max(1, lanes)


class _Line:
    """L and its slope with single entries of one parameter displaced."""

    def __init__(self, objective: Objective, items: list[Batch], factor: float, lanes: int) -> None:
        self.objective, self.items, self.factor, self.lanes = objective, items, factor, lanes
        self._compared: set[str] = set()
        self.evaluations = 0

    def value(self) -> float:
        total = sum(batch.a * float(self._loss(batch).detach()) for batch in self.items)
        if self.objective.written:  # lanes would write to the same parameters
            self.lanes = 1
        return self.factor * total

    def _loss(self, batch: Batch) -> Tensor:
        batch.start.rewind()
        output = self.objective.output(batch.inputs, batch.index)
        value: Tensor = self.objective.unchecked(output, batch.targets, batch.index)
        return value.reshape(())

    def __call__(self, name: str, places: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Values and slopes at displacements t of the flat entries `places`, float64 on the CPU."""
        self.evaluations += len(places)
        if self.lanes > 1 and len(places) > 1:
            try:
                together = self._together(name, places, t)
            except (RuntimeError, NotImplementedError, ValueError, TypeError):
                self.lanes = 1  # an operation without a batching rule, or state that changes
            else:
                if name in self._compared or self._agrees(name, places, t, together):
                    return together
                self.lanes = 1  # another dropout draw, a forward that keeps its own copies
        values, slopes = zip(
            *(self._one(name, i, s) for i, s in zip(places.tolist(), t.tolist(), strict=True)),
            strict=True,
        )
        double = torch.float64
        return (
            torch.tensor(values, dtype=double, device="cpu"),
            torch.tensor(slopes, dtype=double, device="cpu"),
        )

    def _agrees(self, name: str, places: Tensor, t: Tensor, values: tuple[Tensor, Tensor]) -> bool:
        value, slope = self._one(name, int(places[0]), float(t[0]))
        exact = torch.tensor([value, slope], dtype=torch.float64, device="cpu")
        together = torch.stack([values[0][0], values[1][0]])
        loose = 1e3 * torch.finfo(self.objective.parameters[name].dtype).eps
        if torch.allclose(
            together, exact, rtol=loose, atol=loose * (1 + abs(value)), equal_nan=True
        ):
            self._compared.add(name)
        return name in self._compared

    def _one(self, name: str, entry: int, t: float) -> tuple[float, float]:
        p = self.objective.parameters[name]
        place = tuple(
            int(i) for i in torch.unravel_index(torch.tensor(entry, device="cpu"), p.shape)
        )
        self.objective.written.restore()
        value = slope = 0.0
        with settled():
            owe(partial(self._put_back, p, place, p.data[place].clone()))
            p.data[place] += t
            for batch in self.items:
                part = self._loss(batch)
                value += batch.a * float(part.detach())
                if part.requires_grad:
                    (g,) = torch.autograd.grad(part, p, allow_unused=True)
                    slope += 0.0 if g is None else batch.a * float(g[place])
        return self.factor * value, self.factor * slope

    def _put_back(self, p: Tensor, place: tuple[int, ...], value: Tensor) -> None:
        self.objective.written.restore()  # before, as it holds the displaced entry
        p.data[place] = value

    def _together(self, name: str, places: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        parameter = self.objective.parameters[name]
        p = parameter.detach()
        lanes = torch.arange(len(places), device=p.device)
        moved = p.reshape(1, -1).repeat(len(places), 1)
        moved[lanes, places] += t.to(p)
        moved = moved.view(-1, *p.shape)
        values, slopes = (torch.zeros(len(places), device="cpu").double() for _ in range(2))
        whole = _Whole(self.objective)
        with settled():
            owe(_as_now(self.objective.model, parameter))
            for batch in self.items:
                batch.start.rewind()

                def loss(q: Tensor, batch: Batch = batch) -> Tensor:
                    value: Tensor = functional_call(
                        whole, {f"model.{name}": q}, (batch.inputs, batch.targets)
                    )
                    return value

                g, v = vmap(grad_and_value(loss), randomness="same")(moved)
                values += batch.a * v.detach().cpu().double()
                slopes += (
                    batch.a * g.reshape(len(places), -1)[lanes, places].detach().cpu().double()
                )
        return self.factor * values, self.factor * slopes


def _as_now(model: nn.Module, parameter: Tensor) -> Callable[[], None]:
    """What puts a parameter back where it is now; an interrupt may leave another in its place."""
    places = [
        (module._parameters, name)
        for module in model.modules()
        for name, p in module._parameters.items()
        if p is parameter
    ]

    def back() -> None:
        for parameters, name in places:
            parameters[name] = parameter  # type: ignore[assignment]

    return back


class _Whole(nn.Module):
    """Model and loss as one module, so that both see a parameter that is swapped."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = objective.model, objective

    def forward(self, inputs: Any, targets: Any) -> Tensor:
        output = self.objective.output(inputs, 0)
        value: Tensor = self.objective.unchecked(output, targets, 0)
        return value.reshape(())


class _Lanes:
    """The line of one parameter's drawn entries, some of them at a time."""

    def __init__(self, line: _Line, name: str, places: Tensor) -> None:
        self.line, self.name, self.at = line, name, places

    def __call__(self, lanes: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        size = max(1, self.line.lanes)
        parts = [
            self.line(self.name, self.at[portion.to(self.at.device)], s)
            for portion, s in zip(lanes.split(size), t.split(size), strict=True)
        ]
        return torch.cat([v for v, _ in parts]), torch.cat([g for _, g in parts])
