"""Which parameters the chain route serves best, and what that costs.

Compared are backward passes: those that the chain's sweep is predicted to take down to a site, and
those of the cheapest other method for every parameter that is left to one. Parameters that the
outputs are affine in share one pass for each column of the loss's second derivative among them, so
they are served by the chain all together or not at all.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hessian._loss.columns import Meter
from hessian._tape.graph import Edge

if TYPE_CHECKING:
    from hessian._batch.analysis import Analysis

# With fewer columns the affine route is near its least: not even a prediction would pay.
FEW = 16
# What the chain must save where columns would do: those are shared out among threads.
MARGIN = 2
# Multiplications of a symmetric eigenvalue problem, in cubes of its size.
SPECTRUM = 9


@dataclass(frozen=True)
class Links:
    """What the chain route is chosen for, its passes, and what a sample takes."""

    names: tuple[str, ...]
    passes: int
    meter: Meter


@dataclass(frozen=True)
class _Choice:
    """Some first parameters that nothing else serves well; all affine ones with them or not."""

    cost: float
    count: int
    affine: bool
    passes: int
    meter: Meter


class _Prediction:
    """The sweep's cost at some parameters' sites, from the loss down."""

    def __init__(self, analysis: Analysis, names: list[str]) -> None:
        assert analysis.chain is not None
        self.meter, reached = analysis.chain.predict(
            [analysis.sites[name][0] for name in names], analysis.widths(), analysis.curved.form
        )
        unit = analysis.chain.pass_work()
        self.passes = {
            name: 1 + int(work / unit) for name, work in zip(names, reached, strict=True)
        }
        like = analysis.outputs[0]
        self.bytes = int((self.meter.peak + self.meter.shared) * like.element_size())
        self.fits = self.bytes <= analysis.objective.bound


def links(analysis: Analysis) -> Links | None:
    """The parameters that the chain route serves best, ``None`` where there are none."""
    if analysis.chain is None:
        return None
    auto, refused = analysis.objective.method == "auto", analysis.affine.refusal
    able = [
        name for name in analysis.leaf_nodes
        if (name not in analysis.direct or name in analysis.separable)
    ]  # fmt: skip
    bent = [name for name in able if analysis.leaf_nodes[name] in refused]
    most = analysis.curved.most
    few = not analysis.curved.leaves or (most is not None and most <= FEW)
    if auto and not bent and few:
        return None
    able = [name for name in able if analysis.unlinked(name) is None]
    order = analysis.chain.order
    able.sort(key=lambda name: order[analysis.sites[name][0].edge[0]])
    bent = [name for name in able if analysis.leaf_nodes[name] in refused]
    if not able or (auto and not bent and few):
        return None
    whole = _Prediction(analysis, able)
    if not auto:
        if not whole.fits:
            raise ValueError(
                f"memory={analysis.objective.bound} is too little for method='chain', which needs "
                f"about {whole.bytes} bytes for a single sample; "
                "raise memory=, or use method='auto'"
            )
        return Links(tuple(able), whole.passes[able[-1]], whole.meter)
    straight = [name for name in able if name not in set(bent)]
    best = min(_choices(analysis, bent, straight, whole), key=lambda choice: choice.cost)
    served = [*bent[: best.count], *(straight if best.affine else [])]
    return Links(tuple(served), best.passes, best.meter) if served else None


def _choices(
    analysis: Analysis, bent: list[str], straight: list[str], whole: _Prediction
) -> list[_Choice]:
    """A prefix from the loss down, the part below it being left to other methods."""
    below = _below(analysis, bent)
    every = [
        name for name, node in analysis.leaf_nodes.items()
        if node in analysis.affine.reaches and node not in analysis.affine.refusal
    ]  # fmt: skip
    contractions = {name: _contraction(analysis, name) for name in (*bent, *straight)}
    columns = _columns(analysis, straight)
    several = any(contractions[name] for name in straight)
    alone = _Prediction(analysis, bent) if several and bent else whole
    contracted = [0.0, *itertools.accumulate(contractions[name] for name in bent)]
    rest = columns if every else 0.0
    found = [_Choice(below[0] + rest, 0, False, 0, alone.meter)]
    if alone.fits:
        for k in range(1, len(bent) + 1):
            top = alone.passes[bent[k - 1]]
            found.append(_Choice(top + contracted[k] + below[k] + rest, k, False, top, alone.meter))
    if straight and whole.fits:
        rest = columns if set(straight) != set(every) else 0.0
        lowest, rest_contracted = (
            whole.passes[straight[-1]],
            sum(contractions[name] for name in straight),
        )
        for k in range(len(bent) + 1):
            top = whole.passes[bent[k - 1]] if k else 0
            cost = (
                top
                + contracted[k]
                + MARGIN * (max(0, lowest - top) + rest_contracted)
                + below[k]
                + rest
            )
            found.append(_Choice(cost, k, True, max(top, lowest), whole.meter))
    return found


def _below(analysis: Analysis, names: list[str]) -> list[int]:
    """What the parameters from number k on cost by other methods, which share a site's products."""
    shared: dict[Edge, int] = {}
    total, found = 0, [0]
    for name in reversed(names):
        edge, other = analysis.sites[name][0].edge, analysis.otherwise(name)
        total += max(0, other - shared.get(edge, 0))
        shared[edge] = max(other, shared.get(edge, 0))
        found.append(total)
    return found[::-1]


def _contraction(analysis: Analysis, name: str) -> float:
    """Passes' worth of work at a site of several positions, each of which meets each."""
    at = analysis.sites[name][0].positions
    assert analysis.chain is not None
    if at is None or at.count == 1:
        return 0.0
    return at.count**2 * analysis.objective.parameters[name].numel() / analysis.chain.pass_work()


def _columns(analysis: Analysis, straight: list[str]) -> float:
    """Passes that the affine route takes; each column is contracted at every position."""
    assert analysis.chain is not None
    if not analysis.curved.leaves:
        return 0.0
    if analysis.curved.most is None:  # each entry by itself
        return 2.0 * sum(analysis.objective.parameters[name].numel() for name in straight)
    each = 0.0
    for name in straight:
        at = analysis.sites[name][0].positions
        each += 0.0 if at is None else _contraction(analysis, name) / at.count
    form = analysis.curved.form
    block = 0.0 if form is None or form.kind != "full" else float(form.values.shape[1])
    return analysis.curved.most * (1.0 + each) + SPECTRUM * block**3 / analysis.chain.pass_work()
