"""Exact second derivatives at random entries, for networks whose full diagonal is out of reach."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hessian._batch.plan import Plan
from hessian._batch.whole_or_parts import planned
from hessian._call import data as _data
from hessian._call.batches import scale, walk
from hessian._call.lending import lend, refuse_uninitialised
from hessian._call.objective import Objective
from hessian._call.thaw import whole
from hessian._results.mapping import ByName, tensor_row
from hessian._results.storage import storable
from hessian._runtime.checkpoint import Checkpoint, digest
from hessian._runtime.entries import entries
from hessian._runtime.ledger import Guard
from hessian._runtime.progress import ticker
from hessian._spectrum.trace import Trace


class Quantile(NamedTuple):
    """A sample quantile and a distribution-free confidence interval for the tensor's own."""

    value: float
    low: float
    high: float


@storable
@dataclass(frozen=True)
class Sample:
    """Exact values at random entries of one parameter.

    Attributes:
        index: flat entries, int64 ``[k]``, drawn without replacement, ascending.
        value: d²L/dw² there, ``[k]``.
        numel: number of entries of the parameter.
    """

    index: Tensor
    value: Tensor
    numel: int

    def quantile(self, q: float, confidence: float = 0.95) -> Quantile:
        """The q-quantile of the sampled values with its interval.

        The interval lies between two order statistics whose ranks a binomial count of values
        below the true quantile falls between with at least the given probability; it holds for
        any distribution, and is conservative where the sample is a good part of the tensor. It
        is infinite on a side where the sample is too small to bound it, and a point where the
        sample is the whole tensor.

        Raises:
            ValueError: `q` is not in [0, 1] or `confidence` not in (0, 1).

        Source: Conover, Practical Nonparametric Statistics (1999), section 3.2.

        Example:
            >>> whole = Sample(torch.arange(5), torch.arange(5.0), 5)
            >>> whole.quantile(0.5)
            Quantile(value=2.0, low=2.0, high=2.0)
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must be in [0, 1], got {q}")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be in (0, 1), got {confidence}")
        from scipy.stats import binom

        ordered = self.value.detach().double().cpu().sort().values
        k = len(ordered)
        value = float(torch.quantile(ordered, q))
        if k == self.numel:
            return Quantile(value, value, value)
        tail = (1 - confidence) / 2
        # value[low-1] <= quantile <= value[high-1] in ranks from 1
        low = int(binom.ppf(tail, k, q))
        high = int(binom.ppf(1 - tail, k, q)) + 1
        return Quantile(
            value,
            float(ordered[low - 1]) if low >= 1 else -float("inf"),
            float(ordered[high - 1]) if high <= k else float("inf"),
        )


@storable
class Samples(ByName[Sample]):
    """Mapping from parameter name to `Sample`.

    Tables, pictures, files and devices as for `Diagonal`.

    Attributes:
        plan: the `Plan` that was carried out (of the first batch).
    """

    plan: Plan

    def trace(self) -> Trace:
        """The trace of the Hessian, estimated from the sampled entries.

        Σ N_l mean_l over parameters of N_l entries, with the standard error of sampling without
        replacement; NaN where a single entry of several was drawn.

        >>> whole = Samples(w=Sample(torch.arange(2), torch.tensor([1.0, 2.5]), 2))
        >>> whole.trace().value, whole.trace().standard_error
        (3.5, 0.0)
        """
        total = variance = 0.0
        for one in self.values():
            values, k = one.value.double(), len(one.value)
            total += one.numel * float(values.mean()) if k else 0.0
            if k < one.numel:
                spread = float(values.var()) if k > 1 else math.nan
                variance += one.numel * (one.numel - k) * spread / k
        return Trace(total, math.sqrt(variance), sum(len(s.value) for s in self.values()), "sample")

    def _sizes(self) -> dict[str, Tensor]:
        return {name: one.value for name, one in self.items()}

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for name, one in self.items():
            row = tensor_row(name, one.value, shape=(one.numel,))
            row["entries"], row["sampled"] = one.numel, len(one.value)
            middle = one.quantile(0.5)
            rows.append({**row, "median_low": middle.low, "median_high": middle.high})
        return rows


@contextmanager
def opened(
    path: str | os.PathLike[str] | None, objective: Objective, asked: Mapping[str, Any]
) -> Iterator[Checkpoint | None]:
    """The checkpoint at a path, where one is given, written at the end of the block."""
    if path is None:
        yield None
        return
    state = [t for module in objective.modules() for t in module.state_dict().values()]
    model = digest(t for t in state if isinstance(t, Tensor))
    question = {"names": list(objective.parameters), **asked, "model": model}
    file = Checkpoint(path, question)
    with file.writing():
        yield file


@whole
def sample(
    model: nn.Module,
    loss: _data.Loss,
    data: Any,
    per_parameter: int = 256,
    generator: torch.Generator | None = None,
    *,
    forward: _data.Forward | None = None,
    names: Iterable[str] | None = None,
    memory: int | None = None,
    dtype: torch.dtype | None = None,
    weight: _data.Weight = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Samples:
    """Exact d²L/dw² at random entries of every parameter.

    Where all entries of a parameter cost no more than the wanted ones (the affine route), all are
    computed and the wanted ones kept; elsewhere each takes one Hessian-vector product.

    Args:
        model, loss, data, forward, names, memory, dtype, weight, progress: as for `diagonal`.
        per_parameter: entries of each parameter, at most all of them.
        generator: where the entries are drawn from (CPU); the global random state by default,
            which then advances by the draw and by nothing else.
        checkpoint: a file where finished entries are written, at least every half minute, at the
            end and at an interrupt. Where it is there already, the same call goes on from it, on
            another machine too, with the entries that were drawn when it was begun.

    Returns:
        `Samples`: name → `Sample` with ``.index`` (flat, int64), ``.value`` and ``.quantile(q)``.

    Raises:
        TypeError, ValueError: as `diagonal`; `per_parameter` is not a positive integer; the
            checkpoint was begun with another model, other data or another loss, or is none.
        FileNotFoundError: the checkpoint's folder is not there.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])
        >>> found = sample(model, nn.functional.mse_loss, (x, y), per_parameter=2)
        >>> found["weight"].index, found["weight"].value
        (tensor([0, 1]), tensor([8., 2.]))
    """
    if not isinstance(per_parameter, int) or per_parameter < 1:
        raise ValueError(f"per_parameter must be an integer >= 1, got {per_parameter!r}")
    _data.check_generator(generator)
    every = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
    refuse_uninitialised("model", every.items())
    drawn = {
        name: entries(p.numel(), per_parameter, generator).to(p.device) for name, p in every.items()
    }
    asked = {"per_parameter": per_parameter, "dtype": str(dtype)}
    total: dict[str, Tensor] = {}
    weights: list[float] = []
    plan: Plan | None = None
    with Guard(), lend(model, loss, "auto", forward, names, memory, dtype) as objective:
        index = {name: drawn[name] for name in objective.parameters}
        with ticker(progress) as bar, opened(checkpoint, objective, asked) as file:
            index = index if file is None else file.drawn(index)
            for batch in walk(objective, data, dtype, weight):
                analysis = planned(batch, index, file)
                plan = plan or analysis.plan
                if file is not None:
                    data_digest = digest(_data.tensors(batch.raw))
                    file.recognise(batch.index, data_digest, float(analysis.loss.detach()))
                bar.expect(analysis.ticks(), batch.index)
                h, _ = analysis.run(bar.tick)
                for name, places in index.items():
                    part = batch.a * h[name].reshape(-1)[places]
                    total[name] = total[name] + part if name in total else part
                weights.append(batch.a)
        result = Samples()
        for name, places in index.items():
            values = total[name] * scale(weights, weight)
            values = objective.returned({name: values}, "second derivative")[name]
            result[name] = Sample(places, values, objective.parameters[name].numel())
    assert plan is not None
    result.plan = plan
    return result
