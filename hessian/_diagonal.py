"""The exact diagonal of the Hessian: d²L/dw² for every entry of every parameter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hessian._batch.plan import Plan
from hessian._batch.whole_or_parts import planned
from hessian._call import data as _data
from hessian._call.batches import scale, walk
from hessian._call.lending import lend
from hessian._call.thaw import whole
from hessian._radius import radius
from hessian._results.mapping import ByName, tensor_row
from hessian._results.storage import storable
from hessian._runtime.distributed import Totals, joined, size_of
from hessian._runtime.ledger import Guard
from hessian._runtime.progress import ticker
from hessian._spectrum.trace import Trace
from hessian._standard_error import Spread
from hessian._verification.verify import Check, Deviation, Verification


@storable
class Diagonal(ByName[Tensor]):
    """Mapping from parameter name to d²L/dw² in the parameter's shape.

    In a notebook it is a table and a picture; ``to_frame()``, ``plot()``, ``trace()``,
    ``layer("layer1")``, ``to(device)``, ``save(path)`` and `hessian.load` do what they say, and
    ``torch.save`` and ``torch.load`` keep all of it.

    Attributes:
        plan: the `Plan` that was carried out (of the first batch).
        gradient: mapping from name to dL/dw of the same L.
        loss: L itself.
        samples: number of samples in the data.
        deviation: with ``verify=k``, for each parameter that was looked at max|Δ| / max|h| over
            its entries among k random ones of the network (|Δ| itself where all of h is zero);
            NaN for every other name.
        verification: the same entry by entry: second differences of the loss's value with their
            error, a double backward, and a word; ``print`` shows a table.
        standard_error: with ``standard_error=True``, name → the standard error of every entry as
            an estimate of the population's second derivative; else empty.
    """

    plan: Plan
    gradient: dict[str, Tensor]
    loss: float
    samples: int
    deviation: Deviation
    verification: Verification
    standard_error: dict[str, Tensor]

    def trace(self) -> Trace:
        """The sum of all entries: the trace of the Hessian, exactly.

        >>> h = Diagonal(w=torch.tensor([1.0, 2.5]))
        >>> print(h.trace())
        3.5 (exact)
        """
        return Trace(sum(float(h.sum(dtype=torch.float64)) for h in self.values()), 0.0, 0, "exact")

    def _sizes(self) -> dict[str, Tensor]:
        return dict(self)

    def _facts(self) -> list[str]:
        known = vars(self)
        facts = [f"loss {known['loss']:.6g}"] if "loss" in known else []
        facts += [f"{known['samples']:,} samples"] if "samples" in known else []
        return [*facts, f"trace {self.trace().value:.6g}"]

    def _rows(self) -> list[dict[str, Any]]:
        known = vars(self)
        methods = known["plan"].methods() if "plan" in known else {}
        rows = []
        for name, h in self.items():
            row = tensor_row(name, h)
            row["trace"] = float(h.sum(dtype=torch.float64))
            if name in methods:
                row["method"] = methods[name]
            if name in known.get("gradient", ()):
                g = known["gradient"][name]
                radii = radius(g, h).flatten().double().cpu()
                row["median_radius"] = float(radii.median()) if len(radii) else math.nan
            if name in known.get("standard_error", ()):
                error = known["standard_error"][name].double()
                row["rms_standard_error"] = float(error.square().mean().sqrt())
            if known.get("verification"):
                row["deviation"] = known["deviation"][name]
            rows.append(row)
        return rows


@whole
def diagonal(
    model: nn.Module,
    loss: _data.Loss,
    data: Any,
    *,
    method: str = "auto",
    verify: int = 0,
    standard_error: bool = False,
    forward: _data.Forward | None = None,
    names: Iterable[str] | None = None,
    memory: int | None = None,
    dtype: torch.dtype | None = None,
    weight: _data.Weight = None,
    progress: bool = False,
    group: Any = None,
    split: str = "work",
) -> Diagonal:
    """Exact second derivative of the loss with respect to every single parameter entry.

    L = Σ_b a_b·loss(model(x_b), y_b) over the batches of `data`, with a_b = n_b/Σn unless
    `weight` says otherwise; a single pair is one batch. What is differentiated is the scalar that
    `loss` returns, terms that it reads from the model's live parameters included. No Hessian is
    formed: parameters that the output is proved to be affine in, entry by entry, take about one
    backward pass per class altogether; weights of linear and convolution layers below a curved
    operation a Hessian-vector product per output of their layer; all others one per entry (see
    `plan`).

    At a kink (a ReLU at exactly zero, a tie in a max) the pointwise derivative is that of
    autograd's own choice of branch. In training mode dropout is one draw, the one that a plain
    loop over the batches would make from the current random state; batch norm normalises by each
    batch. Parameters, buffers, ``.grad`` and the random state are left as found.

    Args:
        model: any ``nn.Module``, in the mode it is meant to be differentiated in.
        loss: ``loss(output, target)`` → scalar tensor.
        data: one ``(inputs, targets)`` pair (a tuple or list of two whose first element is a
            tensor or a mapping, or several inputs beside a tensor of targets) or an iterable of
            pairs, such as a DataLoader. Inputs are passed
            as ``model(x)``, ``model(*x)`` for a tuple, ``model(**x)`` for a mapping. A batch may be
            one mapping with its targets inside, as Hugging Face's collators yield them: the model
            is called with it (without labels that it has no argument for), and the loss is given
            its labels (``labels``, ``label``, ``label_ids``, ``targets`` or ``target``), or the
            mapping where it has none of these or the loss asks for entries by name.
        method: ``"auto"``; ``"affine"`` or ``"preactivation"`` to refuse whatever that method is
            not proved for; ``"parameter"`` for Hessian-vector products along every entry.
        verify: number of random entries of the whole network, spread over its tensors in turn, to
            compare with second differences of the loss's value in float64, which know no autograd,
            and with a double backward. Each takes some 10 to 30 forward passes of all data and a
            Hessian-vector product, all of them together one gradient; see ``.verification``.
        standard_error: also take every sample alone, for the spread of its second derivative over
            samples. The data are then a draw from a population, L = Σ α_i ℓ_i is a weighted mean
            (or sum) of the losses of single samples, and ``.standard_error`` holds
            √(n/(n-1) Σ α_i² (h_i - h)²), for a plain mean s/√n. Weights come from the loss
            itself (class weights, ignored targets). Costs a diagonal of one sample for every
            sample, and three tensors of each parameter's size.
        forward: ``forward(model, inputs)``, to call the model in another way.
        names: parameters to differentiate, by name or by pattern (``"layer1.*"``, as `fnmatch` has
            them); all that require gradients by default.
        memory: bytes of working set (1 GiB; on a GPU half of what is free), results included,
            beside the data and what one run of the model without gradients takes. A batch that
            needs more is taken in parts of its samples, with the same result, where samples are
            proved to stay apart; where they are not, its tape is held whole and `plan.held` says
            why.
        dtype: compute in this dtype instead of the parameters' own (float32 at least), and give
            results in it. Without it a network of half types or of several precisions is computed
            in the highest that occurs, float32 at least, and every result rounded once to its
            parameter's dtype.
        weight: ``None``, ``"sum"`` (a_b = 1), or a function of the batch that returns a_b.
        progress: show a progress bar.
        group: a ``torch.distributed`` process group whose processes compute one result together:
            each calls this function with the same model and gets the same `Diagonal`. ``None``:
            this process alone, whatever is initialised.
        split: with a `group`, ``"work"`` where all processes hold the same data and share out the
            work on every batch (its samples, else its columns or directions), or ``"data"`` where
            each holds its own batches and L is taken over all of them.

    Returns:
        A `Diagonal`: name → tensor of the parameter's shape, dtype and device. Frozen parameters
        are left out; those the loss does not depend on hold zeros. Tied parameters appear once.

    Raises:
        TypeError, ValueError: an argument is wrong (the message names it, its value and the
            remedy); the loss is not a finite scalar; `method` is not proved to apply;
            `standard_error` where samples are coupled, or for fewer than two of them, or with a
            `group`; the processes of a `group` hold different parameters or, unless
            ``split="data"``, different data.
        RuntimeError: another process of the `group` failed or ended.
        NotImplementedError: an operation has no second derivative in torch.

    Source: the second derivative in Gao & Zhong (2020), equation 9. The affine route is the
    generalised Gauss-Newton diagonal (Schraudolph 2002; BackPACK's DiagGGNExact) restricted to
    where it equals the Hessian's; double backward is Pearlmutter (1994).

    Example:
        L = (2w₀ + w₁ - 1)² has d²L/dw² = (8, 2).

        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])
        >>> h = diagonal(model, torch.nn.functional.mse_loss, (x, y), verify=2)
        >>> h["weight"]
        tensor([[8., 2.]])
        >>> h.deviation["weight"] < 1e-6
        True

        Two samples, with d²L/dw² = 2 and 8, have a mean of 5 and a standard error of 3:

        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)
        >>> h = diagonal(model, torch.nn.functional.mse_loss, (x, y), standard_error=True)
        >>> h["weight"], h.standard_error["weight"]
        (tensor([[5.]]), tensor([[3.]]))
    """
    with (
        Guard(),
        joined(group, split) as team,
        lend(model, loss, method, forward, names, memory, dtype) as objective,
    ):
        if not isinstance(verify, int) or verify < 0:
            raise ValueError(f"verify must be a number of entries >= 0, got {verify!r}")
        if standard_error and group is not None:
            raise ValueError(
                "standard_error=True is not available with a group; leave one of them out"
            )
        objective.share = team.share
        objective.bound = team.least(objective.bound)
        result = Diagonal()
        weights: list[float] = []
        samples = 0
        value = 0.0
        h: dict[str, Tensor] = {}
        g: dict[str, Tensor] = {}
        check = Check(objective, verify)
        spread = Spread() if standard_error else None
        plan: Plan | None = None
        with ticker(progress) as bar:
            for batch in walk(objective, data, dtype, weight):
                analysis = planned(batch)
                plan = plan or analysis.plan
                bar.expect(max(1, analysis.ticks() // team.share.size), batch.index)
                if spread is not None:
                    spread.add(batch, analysis)
                h_b, g_b = analysis.run(bar.tick)
                check.add(batch, h_b)
                value += batch.a * float(analysis.loss.detach())
                weights.append(batch.a)
                # In units of the first batch's weight: a single batch is not passed over again.
                unit = weights[0] or 1.0
                for total, new in ((h, h_b), (g, g_b)):
                    for name, tensor in new.items():
                        if name in total:
                            total[name].add_(tensor, alpha=batch.a / unit)
                        else:
                            total[name] = tensor if batch.a == unit else tensor.mul_(batch.a / unit)
                samples += analysis.samples
        facts = Totals(
            sum(weights), value, samples, size_of(objective.parameters) if group else 0.0
        )
        every = team.meet(facts)
        factor = scale([every.weight], weight)
        alone = len(weights) == 1 and every.weight == facts.weight
        whole = 1.0 if weight is None and alone else factor * (weights[0] or 1.0)
        for total in (h, g):
            for tensor in total.values():
                if whole != 1.0:
                    tensor.mul_(whole)
        team.sum(h.values())
        if team.splits_data:
            team.sum([*g.values(), *check.sums.values()])
        else:
            team.same(g.values())
    assert plan is not None
    result.update(objective.returned(h, "second derivative"))
    result.plan, result.gradient = plan, objective.returned(g, "gradient")
    result.loss, result.samples = every.value * factor, every.samples
    result.deviation, result.verification = check.result(h, factor)
    errors = {} if spread is None else spread.standard_error(h, factor)
    result.standard_error = objective.returned(errors, "standard error")
    return result


@whole
def plan(
    model: nn.Module,
    loss: _data.Loss,
    data: Any,
    *,
    method: str = "auto",
    forward: _data.Forward | None = None,
    names: Iterable[str] | None = None,
    memory: int | None = None,
    dtype: torch.dtype | None = None,
    weight: _data.Weight = None,
    progress: bool = False,
) -> Plan:
    """Which exact method `diagonal` will use for each parameter, why, and what it will cost.

    Runs the model and the loss once, on the first batch of `data` (an iterator loses that batch),
    and reads the proof off the autograd tape. Arguments and errors are those of `diagonal`; a
    batch's weight changes nothing here, and there is no progress to show.

    Returns:
        A `Plan`; ``print(plan)`` is a table, iterating yields an `Entry` per parameter.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        >>> x, y = torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 1])
        >>> found = plan(model, nn.functional.cross_entropy, (x, y))
        >>> found["0.weight"].method, found["2.weight"].method
        ('chain', 'chain')
    """
    with Guard(), lend(model, loss, method, forward, names, memory, dtype) as objective:
        for batch in walk(objective, data, dtype, weight):
            return planned(batch).plan
    raise AssertionError("walk() yields or raises")
