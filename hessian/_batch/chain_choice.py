"""Which parameters the chain route serves best, and what that costs.

Compared are backward passes: those that the chain's sweep is predicted to take down to a site, and
those of the cheapest other method for every parameter that is left to one. Parameters that the
outputs are affine in share one pass for each column of the loss's second derivative among them, so
they are served by the chain all together or not at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hessian._batch.prices import HVP, Prices
from hessian._loss.rows import Cost
from hessian._tape.graph import Edge

# With fewer columns the affine route is near its least: not even a prediction would pay.
FEW = 16
# What the chain must save where columns would do: those are shared out among threads.
MARGIN = 2
# Multiplications of a symmetric eigenvalue problem, in cubes of its size.
SPECTRUM = 9


@dataclass(frozen=True)
class ChainChoice:
    """What the chain route is chosen for, its passes, and what a sample takes.

    `looked_up` are the flat entries of tied embeddings that take a product each beside it.
    """

    names: tuple[str, ...]
    passes: int
    meter: Cost
    looked_up: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Choice:
    """Some first parameters that nothing else serves well; all affine ones with them or not."""

    cost: float
    count: int
    affine: bool
    passes: int
    meter: Cost


class _Prediction:
    """The sweep's cost at some parameters' sites, from the loss down."""

    def __init__(self, prices: Prices, names: list[str]) -> None:
        assert prices.proof.chain is not None
        self.meter, reached = prices.proof.chain.predict(
            [prices.proof.sites[name][0] for name in names],
            [prices.task.objective.parameters[name].numel() for name in names],
            prices.widths(),
            prices.proof.curvature.form,
        )
        unit = prices.proof.chain.pass_work()
        self.passes = {
            name: 1 + int(work / unit) for name, work in zip(names, reached, strict=True)
        }
        like = prices.reading.outputs[0].tensor
        self.bytes = int((self.meter.peak + self.meter.shared) * like.element_size())
        self.fits = self.bytes <= prices.task.objective.bound


def choose_chain(prices: Prices) -> ChainChoice | None:
    """The parameters that the chain route serves best, ``None`` where there are none."""
    if prices.proof.chain is None:
        return None
    auto, refused = prices.task.objective.method == "auto", prices.proof.affine.refusal
    able = [
        name for name in prices.proof.leaf_nodes
        if (name not in prices.reading.direct or name in prices.reading.separable)
    ]  # fmt: skip
    curved = [name for name in able if prices.proof.leaf_nodes[name] in refused]
    most = prices.proof.curvature.most
    few = not prices.proof.curvature.outputs or (most is not None and most <= FEW)
    if auto and not curved and few:
        return None
    able = [name for name in able if prices.unlinked(name) is None]
    order = prices.proof.chain.order
    able.sort(key=lambda name: order[prices.proof.sites[name][0].edge[0]])
    curved = [name for name in able if prices.proof.leaf_nodes[name] in refused]
    if not able or (auto and not curved and few):
        return None
    whole = _Prediction(prices, able)
    if not auto:
        if not whole.fits:
            raise ValueError(
                f"memory={prices.task.objective.bound} is too little for method='chain', which "
                f"needs about {whole.bytes} bytes for a single sample; "
                "raise memory=, or use method='auto'"
            )
        return _chosen(prices, able, whole.passes[able[-1]], whole.meter)
    straight = [name for name in able if name not in set(curved)]
    best = min(_choices(prices, curved, straight, whole), key=lambda choice: choice.cost)
    served = [*curved[: best.count], *(straight if best.affine else [])]
    return _chosen(prices, served, best.passes, best.meter) if served else None


def _chosen(prices: Prices, names: list[str], passes: int, meter: Cost) -> ChainChoice:
    looked_up = {name: entries for name in names if (entries := prices.looked_up(name)) is not None}
    return ChainChoice(tuple(names), passes, meter, looked_up)


def _choices(
    prices: Prices, curved: list[str], straight: list[str], whole: _Prediction
) -> list[_Choice]:
    """A prefix from the loss down, the part below it being left to other methods."""
    below = _below(prices, curved)
    every = [
        name for name, node in prices.proof.leaf_nodes.items()
        if node in prices.proof.affine.reaches and node not in prices.proof.affine.refusal
    ]  # fmt: skip
    contractions = {
        name: _contraction(prices, name) + _products(prices, name) for name in (*curved, *straight)
    }
    columns = _columns(prices, straight)
    several = any(contractions[name] for name in straight)
    alone = _Prediction(prices, curved) if several and curved else whole
    contracted = [0.0, *itertools.accumulate(contractions[name] for name in curved)]
    rest = columns if every else 0.0
    choices = [_Choice(below[0] + rest, 0, False, 0, alone.meter)]
    if alone.fits:
        for k in range(1, len(curved) + 1):
            top = alone.passes[curved[k - 1]]
            choices.append(
                _Choice(top + contracted[k] + below[k] + rest, k, False, top, alone.meter)
            )
    if straight and whole.fits:
        rest = columns if set(straight) != set(every) else 0.0
        lowest, rest_contracted = (
            whole.passes[straight[-1]],
            sum(contractions[name] for name in straight),
        )
        for k in range(len(curved) + 1):
            top = whole.passes[curved[k - 1]] if k else 0
            cost = (
                top
                + contracted[k]
                + MARGIN * (max(0, lowest - top) + rest_contracted)
                + below[k]
                + rest
            )
            choices.append(_Choice(cost, k, True, max(top, lowest), whole.meter))
    return choices


def _below(prices: Prices, names: list[str]) -> list[float]:
    """What the parameters from number k on cost by other methods, which share a site's products."""
    shared: dict[Edge, float] = {}
    total, costs = 0.0, [0.0]
    for name in reversed(names):
        edge, other = prices.proof.sites[name][0].edge, prices.otherwise(name)
        total += max(0.0, other - shared.get(edge, 0.0))
        shared[edge] = max(other, shared.get(edge, 0.0))
        costs.append(total)
    return costs[::-1]


def _products(prices: Prices, name: str) -> float:
    """What the entries that take a product each beside the chain take."""
    entries = prices.looked_up(name)
    return 0.0 if entries is None else prices.products(HVP * len(entries))


def _contraction(prices: Prices, name: str) -> float:
    """Passes' worth of work at a site of several positions, each of which meets each."""
    positions = prices.proof.sites[name][0].positions
    assert prices.proof.chain is not None
    if positions is None or positions.count == 1:
        return 0.0
    if prices.proof.sites[name][0].edge in prices.proof.chain.windowed:
        return 0.0  # the prediction has it already
    return (
        positions.count**2
        * prices.task.objective.parameters[name].numel()
        / prices.proof.chain.pass_work()
    )


def _columns(prices: Prices, straight: list[str]) -> float:
    """Passes that the affine route takes; each column is contracted at every position."""
    assert prices.proof.chain is not None
    if not prices.proof.curvature.outputs:
        return 0.0
    if prices.proof.curvature.most is None:  # each entry by itself
        return 2.0 * sum(prices.task.objective.parameters[name].numel() for name in straight)
    each = 0.0
    for name in straight:
        positions = prices.proof.sites[name][0].positions
        each += 0.0 if positions is None else _contraction(prices, name) / positions.count
    form = prices.proof.curvature.form
    block = 0.0 if form is None or form.kind != "full" else float(form.values.shape[1])
    return (
        prices.proof.curvature.most * (1.0 + each)
        + SPECTRUM * block**3 / prices.proof.chain.pass_work()
    )
