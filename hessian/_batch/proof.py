"""What the tapes prove of every parameter: affine or not, samples apart or not, and where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hessian._batch.curvature import OutputCurvature
from hessian._batch.reading import Reading, Task
from hessian._routes._chain.chain import Chain
from hessian._site.locate import sites
from hessian._site.site import Site
from hessian._tape.certificate import LINEAR, Affinity, affinity, sample_labels, uncoupled
from hessian._tape.graph import Edge, Node, Tape, complex_valued
from hessian._tape.layouts import Label, Layout, candidates
from hessian._tape.opaque import refuse_opaque

APART = "samples are not proved to stay apart above it"


class Places(NamedTuple):
    """Where parameters meet the data, of those above which samples stay apart.

    `obstacle` says of the others what stands against it; `mixed` are those above which samples are
    not proved to stay apart. `labels` say of every edge of the tape where samples lie in it.
    """

    sites: dict[str, list[Site]]
    obstacle: dict[str, str]
    mixed: list[str]
    labels: dict[Edge, Label]


@dataclass
class Proof:
    """The network's tape and what follows from it.

    `leaf_nodes` are the parameters' nodes on the tape, `layouts` where samples lie in the outputs
    that the loss reads: none where that is not known, and then there are no sites and no chain.
    """

    tape: Tape
    tape_bytes: int
    leaf_nodes: dict[str, Node]
    affine: Affinity
    curvature: OutputCurvature
    layouts: list[Layout]
    places: Places
    chain: Chain | None

    @property
    def sites(self) -> dict[str, list[Site]]:
        """Where each parameter meets the data."""
        return self.places.sites

    @property
    def obstacle(self) -> dict[str, str]:
        """What stands against a site, by parameter."""
        return self.places.obstacle

    def release(self) -> None:
        """Let go of the tape and what holds it."""
        self.tape, self.leaf_nodes, self.chain = Tape([]), {}, None
        self.curvature = OutputCurvature()
        self.places = Places({}, {}, self.places.mixed, {})


def prove(
    task: Task,
    reading: Reading,
    curvature: Callable[[], OutputCurvature],
    layouts: list[Layout] | None = None,
) -> Proof:
    """Read the proof off the network's tape.

    `curvature` gives the loss's in the outputs, where a method may want it; `layouts` say where
    samples lie in the outputs, if that is known already.
    """
    objective = task.objective
    ends = [output.tensor for output in reading.used]
    tape = Tape.of(ends) if ends else Tape([])
    slopes = [output.slope.detach() for output in reading.used]
    refuse_opaque(tape, ends, slopes, objective.parameters)
    leaf_nodes = nodes_of(tape, objective.parameters)
    affine = affinity(tape, list(leaf_nodes.values()))
    factored = objective.method in ("auto", "affine", "chain") and bool(leaf_nodes)
    curved = curvature() if factored else OutputCurvature(refusal="not needed")
    if layouts is None:
        layouts = _layouts(task, reading, curved)
    places, chain = Places({}, {}, [], {}), None
    if len(layouts) == len(ends):
        places = located(tape, leaf_nodes, layouts, task.samples)
        chain = Chain(tape, places.labels, tape.roots, task.samples)
    return Proof(tape, tape.bytes(), leaf_nodes, affine, curved, layouts, places, chain)


def located(tape: Tape, nodes: Mapping[str, Node], layouts: Sequence[Layout], n: int) -> Places:
    """Sites of the parameters whose samples stay apart, and what stands against the others.

    `nodes` are the parameters' on the tape, `layouts` where samples lie in its roots.
    """
    labels = sample_labels(tape, dict(zip(tape.roots, layouts, strict=True)), n)
    apart = uncoupled(tape, labels, list(nodes.values()))
    places = Places({}, {}, [name for name, node in nodes.items() if node not in apart], labels)
    with torch.no_grad():
        for name, node in nodes.items():
            if node not in apart:
                places.obstacle[name] = APART
                continue
            uses = sites(tape, labels, node, n)
            if uses is None or any(complex_valued(site.edge) for site in uses):
                places.obstacle[name] = "it is used in a way without a per-sample gradient here"
            else:
                # A weight that is looked up, too, is met by its product first.
                places.sites[name] = sorted(uses, key=lambda site: site.tokens is not None)
    return places


def nodes_of(tape: Tape, parameters: Mapping[str, Tensor]) -> dict[str, Node]:
    """The nodes of the parameters that are on the tape."""
    leaves = tape.leaves()
    return {name: leaves[id(p)] for name, p in parameters.items() if id(p) in leaves and p.numel()}


def _layouts(task: Task, reading: Reading, curved: OutputCurvature) -> list[Layout]:
    """Where samples lie in the outputs that the loss reads; none where one is not known."""
    known = dict(zip(map(id, curved.outputs), curved.layouts or (), strict=False))
    layouts = []
    for output in reading.used:
        layout = known.get(id(output), output.label)
        if layout == LINEAR:
            options = candidates(tuple(output.tensor.shape), task.samples)
            layout = options[0] if options else None
        if not isinstance(layout, Layout):
            return []
        layouts.append(layout)
    return layouts
