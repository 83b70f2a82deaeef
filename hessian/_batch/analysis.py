"""One batch: its tapes, what they prove, the plan that follows, and carrying the plan out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from hessian._batch import rehearsal as _rehearsal
from hessian._call import data as _data
from hessian._call import outputs as _outputs
from hessian._call.forward import TooLarge
from hessian._call.objective import AGAIN, Objective, Start
from hessian._call.state import Randomness
from hessian._loss import factor as _factor
from hessian._loss import output_hessian as _loss
from hessian._loss.columns import Quadratic
from hessian._plan import SHARING, Entry, Plan
from hessian._routes import affine as _affine
from hessian._routes import parameter as _parameter
from hessian._routes import preactivation as _preactivation
from hessian._routes._chain.chain import Chain
from hessian._routes._chain.links import Links, links
from hessian._runtime.matrix_products import prefers_onednn
from hessian._site.site import Site, sites
from hessian._tape import hidden as _hidden
from hessian._tape.certificate import (
    LINEAR,
    affinity,
    loss_labels,
    sample_labels,
    separable,
    uncoupled,
)
from hessian._tape.graph import (
    Edge,
    Node,
    Tape,
    complex_valued,
    fresh_gradient,
    is_leaf,
    refuse_undifferentiable,
    size,
)
from hessian._tape.opaque import refuse_opaque
from hessian._tape.operations import Label, Layout, Mark, candidates

CHAIN = "samples stay apart, every operation above has a known step; above it "
PREACTIVATION = "linear in it at one site, samples stay apart; above it "
# A Hessian-vector product runs the tape of a backward pass backward: two passes.
HVP = 2
# Working set in multiples of the forward tape: with adjoints, and with a double backward.
ONCE, TAPES = 3, 6
# Bytes for an entry of the loss's second derivative: itself, and its factorisation in float64.
BLOCKS = 32


@dataclass
class Curved:
    """The output leaves the loss is curved in, and its second derivative there.

    `form` holds it by sample, `matrix` as a whole where samples are coupled.
    """

    leaves: list[int]
    tensors: list[Tensor]
    layouts: list[Layout] | None = None  # None: samples are coupled
    form: Quadratic | None = None
    matrix: Tensor | None = None
    refusal: str = ""

    @cached_property
    def factor(self) -> _factor.Factor | None:
        """The second derivative as columns and weights, where a factorisation pays."""
        if self.matrix is not None and not self.refusal:
            return _factor.factor_dense(self.matrix, self.tensors)
        if self.form is None or self.layouts is None or self.refusal:
            return None
        return _factor.factored(self.form, self.tensors, self.layouts)

    @property
    def most(self) -> int | None:
        """The most columns that `factor` may have, `None` where there is none."""
        if self.form is None or self.layouts is None or self.refusal:
            return None
        width = sum(t.numel() for t in self.tensors) // len(self.form.values)
        return width - (self.form.values.shape[1] if self.form.kind == "softmax" else 0)

    @property
    def width(self) -> int:
        """Entries of a sample's blocks where these were written out, else 0."""
        if self.form is None or (self.form.kind != "full" and "factor" not in self.__dict__):
            return 0
        return sum(t.numel() for t in self.tensors) // self.form.values.shape[0]


class Analysis:
    """The computation on one batch up to its plan; `run` carries the plan out."""

    # Where the loss is affine in a log-softmax of the output: that, and dL/d(log p).
    softmax: Edge | None = None
    adjoint: Tensor | None = None
    # Outputs of which the loss is a sum of functions of one entry each, and the rest.
    entrywise: frozenset[int] = frozenset()
    curved: Curved

    # Whether the loss writes to the outputs that it is given.
    writes = False

    def __init__(
        self,
        objective: Objective,
        inputs: Any,
        targets: Any,
        index: int,
        sampled: Mapping[str, Tensor] | None = None,
        bounded: bool = False,
        start: Start | None = None,
    ) -> None:
        """With `bounded`, raises TooLarge where the working set would exceed the memory.

        `start` is what random state and buffers are now, if that is known.
        """
        self.objective, self.index, self.bounded = objective, index, bounded
        # Flat entries that are wanted of each parameter; all of them where there are none.
        self.sampled = sampled or {}
        self.inputs, self.targets = inputs, targets
        self.samples = _data.size(inputs)
        self.start = start or Start(objective)
        leaves, self.structure = _outputs.opened(self._output())
        self.places, self.again = _outputs.distinct(leaves)
        self.outputs: list[Tensor] = [leaves[i] for i in self.places]
        at = self._read(leaves)
        self.seen = [self.outputs[i].detach() for i in self.used]
        self._affinity()
        factored = objective.method in ("auto", "affine", "chain") and bool(self.leaf_nodes)
        self.curved = self._curvature(at) if factored else Curved([], [], refusal="not needed")
        self._samples(at)
        self.plan = self._plan()
        self._check(self.need())

    def _check(self, each: float) -> None:
        if self.bounded and self.samples > 1 and each * self.samples > self.objective.memory:
            raise TooLarge

    def on_tape(self) -> float:
        """Bytes that each sample adds to the tape."""
        labels = {} if self.chain is None else self.chain.where.labels
        tape = sum(
            size(node) for node in self.tape.order
            if not is_leaf(node) and labels.get((node, 0)) is not Mark.SHARED
        )  # fmt: skip
        return (tape + self.hidden_bytes) / self.samples

    def need(self) -> float:
        """Bytes that each sample adds to what is held at once."""
        item = self.outputs[0].element_size() if self.outputs else 0
        methods = {e.method for e in self.plan}
        twice = methods & {"preactivation", "parameter"}
        need = (TAPES if twice else ONCE) * self.on_tape()
        pairs = [
            at.count**2 for name, found in self.sites.items() for site in found
            if (at := site.positions) is not None
            and (site.tokens is not None or self.plan[name].method == "preactivation")
        ]  # fmt: skip
        need += 2 * item * max(pairs, default=0)
        need += BLOCKS * self.curved.width**2
        if self.links is not None and self.chain is not None and self.chain.together():
            need += item * self.links.meter.peak
        return need

    def _output(self) -> Any:
        """What the model makes of the inputs, on its tape."""
        limit = self.objective.memory // ONCE if self.bounded and self.samples > 1 else None
        return self.objective.output(self.inputs, self.index, limit)

    def _value(self, output: Any) -> Tensor:
        """The loss of such an output, on a tape that connects it with the parameters."""
        return self.objective.scalar(output, self.inputs, self.targets, self.index)

    # ------------------------------------------------------------ analysis

    def _read(self, leaves: list[Any]) -> Mapping[int, Any]:
        """Read the loss's own tape; where samples lie in the outputs it is given."""
        # It is read on detached outputs: its own tape shows what it does to them, and whether it
        # reads parameters by itself.
        self.detached = [t.detach().requires_grad_() for t in self.outputs]
        tape = self._cut(leaves) or self._joined()
        names = self.objective.parameters
        self.gradient_out: list[Tensor | None] = [None] * len(self.detached)
        self.direct: dict[str, Tensor | None] = {}
        labels: dict[Edge, Any] = {}
        loss_leaves: dict[int, Node] = {}
        if self.loss.requires_grad:
            loss_leaves = tape.leaves()
            labels = loss_labels(tape, self.samples)
            refuse_opaque(tape, [self.loss], [torch.ones_like(self.loss)], names)
            read = [name for name, p in names.items() if id(p) in loss_leaves]
            self.softmax = self._log_softmax(tape, labels, loss_leaves)
            if self.softmax is None:
                self.entrywise = frozenset(
                    i for i, base in enumerate(self.detached)
                    if id(base) in loss_leaves and separable(tape, labels, loss_leaves[id(base)])
                )  # fmt: skip
            closed = [] if self.softmax is None else [GradientEdge(*self.softmax)]
            wanted: list[Any] = [*self.detached, *(names[name] for name in read), *closed]
            got = list(torch.autograd.grad(self.loss, wanted, create_graph=True, allow_unused=True))
            if closed:
                self.adjoint = got.pop()
            refuse_undifferentiable(got)
            self.gradient_out = list(got[: len(self.detached)])
            self.direct = dict(zip(read, got[len(self.detached) :], strict=True))
            self.separable = {
                name for name in read if separable(tape, labels, loss_leaves[id(names[name])])
            }
        else:
            self.separable = set()
        self.used = [i for i, g in enumerate(self.gradient_out) if g is not None]
        return {i: labels.get((loss_leaves[id(self.detached[i])], 0), LINEAR) for i in self.used}

    def _handed(self, leaves: list[Any]) -> list[Any]:
        """The leaves that the loss is called with: its outputs are cut off the tape."""
        handed = list(leaves)
        for i, base in zip(self.places, self.detached, strict=True):
            handed[i] = base.clone()  # a loss may change its argument in place
            handed[i].__dict__.update(leaves[i].__dict__)
        for i, first in self.again.items():
            handed[i] = handed[first]
        return handed

    def _look_behind(self, tape: Tape, begin: int) -> None:
        """Note what the tape of the loss, begun at node `begin`, holds of the network."""
        nodes = _hidden.older(tape, begin, self.objective.parameters.values(), self.outputs)
        self.hidden = nodes[0].name() if nodes else ""
        self.hidden_bytes = sum(size(node) for node in nodes)

    def _cut(self, leaves: list[Any]) -> Tape | None:
        """The loss's tape on outputs that are cut off; `None` where that is another loss."""
        begin = _hidden.now()
        handed = self._handed(leaves)
        try:
            self.loss = self._value(self.structure.rebuilt(handed))
        except ValueError:
            if not self.structure.objects:
                raise
            return None  # a copy of an object is not as good as the object
        self.end = Randomness(self.objective.devices())
        tape = Tape.of([self.loss]) if self.loss.requires_grad else Tape([])
        self._look_behind(tape, begin)
        self.writes = any(handed[i]._version > 0 for i in self.places)
        if self.writes and _shared(self.outputs):
            return None  # what is written to one of them shows in the others
        if (self.hidden or self.structure.objects) and not self._alike():
            return None
        return tape

    def _alike(self) -> bool:
        """Whether the loss of the outputs as they are is that of the cut ones put in their place.

        Without a tape, and on another call of the model: a loss may write to what it is given.
        """
        self.start.rewind()
        try:
            with torch.no_grad():
                value = self._value(self._output())
        except ValueError:  # a loss that takes derivatives
            return False
        return _hidden.equal(value, self.loss)

    def _joined(self) -> Tape:
        """The tape of the loss as one scalar of the parameters, without outputs between them."""
        self.places, self.again, self.outputs, self.detached = [], {}, [], []
        self.start.rewind()
        self.loss = self._value(self._output())
        self.end = Randomness(self.objective.devices())
        tape = Tape.of([self.loss]) if self.loss.requires_grad else Tape([])
        self._look_behind(tape, _hidden.now())
        return tape

    def _log_softmax(
        self, tape: Tape, labels: Mapping[Edge, Any], leaves: Mapping[int, Node]
    ) -> Edge | None:
        """The log-softmax of the only output, where the loss's curvature is its alone."""
        if len(self.detached) != 1 or id(self.detached[0]) not in leaves:
            return None
        leaf = leaves[id(self.detached[0])]
        if not isinstance(labels.get((leaf, 0)), Layout):
            return None
        return _loss.log_softmax(tape, lambda edge: labels.get(edge) == LINEAR, leaf)

    def _affinity(self) -> None:
        ends = [self.outputs[i] for i in self.used]
        self.tape = Tape.of(ends) if ends else Tape([])
        slopes = [g.detach() for i in self.used if (g := self.gradient_out[i]) is not None]
        refuse_opaque(self.tape, ends, slopes, self.objective.parameters)
        found = self.tape.leaves()
        self.leaf_nodes = {
            name: found[id(p)] for name, p in self.objective.parameters.items()
            if id(p) in found and p.numel()
        }  # fmt: skip
        self.affine = affinity(self.tape, list(self.leaf_nodes.values()))
        self.tape_bytes = self.tape.bytes()

    def _curvature(self, at: Mapping[int, Any]) -> Curved:
        curved = [i for i in self.used if at[i] != LINEAR]
        leaves = [self.detached[i] for i in curved]
        if not curved:
            return Curved([], [], refusal="the loss is linear in the outputs")
        found = self._layouts(curved, leaves, at)
        if found.layouts is None:
            return found
        entries, n = sum(leaf.numel() for leaf in leaves), self.samples
        width = entries // n
        large = (
            f"each sample has {width} output entries, more than {_loss.LARGEST_BLOCK}"
            if width > _loss.LARGEST_BLOCK
            else ""
        )
        form = self._short(found)
        if form is None:
            if large and n * width * width * leaves[0].element_size() > self.objective.memory:
                return dataclasses.replace(found, refusal=large)
            self._check(BLOCKS * width**2)
            form = Quadratic("full", self._blocks(found))
        if not bool(torch.isfinite(form.values).all()):
            return dataclasses.replace(found, refusal=f"the loss: {_factor.NOT_FINITE}")
        return dataclasses.replace(found, form=form, refusal=large)

    def _layouts(self, curved: list[int], leaves: list[Tensor], at: Mapping[int, Any]) -> Curved:
        """Where samples lie in the outputs the loss is curved in, if it keeps them apart."""
        gradients = [g for i in curved if (g := self.gradient_out[i]) is not None]
        entries = sum(leaf.numel() for leaf in leaves)
        n = self.samples
        layouts = [at[i] for i in curved]
        if n == 1:  # nothing to keep apart: any layout will do
            layouts = [next(iter(candidates(tuple(leaf.shape), 1)), None) for leaf in leaves]
        proved = all(isinstance(lay, Layout) for lay in layouts)
        if not proved and entries <= _loss.LARGEST_BLOCK:
            guess = self._apart(gradients, leaves)
            if guess is None:
                return self._coupled(curved, leaves, gradients)
            layouts, proved = guess, True
        if not proved:
            return Curved(
                curved, leaves,
                refusal=f"the loss is not proved to keep samples apart and has {entries} output "
                f"entries, more than {_loss.LARGEST_BLOCK}",
            )  # fmt: skip
        return Curved(curved, leaves, layouts)

    def _short(self, found: Curved) -> Quadratic | None:
        """The loss's second derivative in the outputs where that takes no block, by sample."""
        if self.softmax is not None:
            return self._softmax_form(found)
        if not self.entrywise.issuperset(found.leaves) or found.layouts is None:
            return None
        multiply = _loss.Products(self._slopes(found), found.tensors)
        got = multiply([torch.ones_like(leaf) for leaf in found.tensors])
        n = self.samples
        return Quadratic("diagonal", torch.cat([
            _loss.by_sample(h.detach(), layout, n).reshape(n, -1)
            for h, layout in zip(got, found.layouts, strict=True)
        ], 1))  # fmt: skip

    def _slopes(self, found: Curved) -> list[Tensor]:
        return [g for i in found.leaves if (g := self.gradient_out[i]) is not None]

    def _softmax_form(self, found: Curved) -> Quadratic:
        assert found.layouts is not None
        assert self.softmax is not None
        assert self.adjoint is not None
        return _loss.softmax_form(
            self.softmax[0], self.adjoint.detach(), found.tensors[0], found.layouts[0], self.samples
        )

    def _blocks(self, found: Curved) -> Tensor:
        """The same written out, ``[n, w, w]``."""
        assert found.layouts is not None
        got = _loss.blocks_by_sample(
            self._slopes(found), found.tensors, found.layouts, self.samples
        )
        return got.detach()

    def _bent(self) -> bool:
        """Whether a parameter is reached through a curved operation."""
        return any(node in self.affine.refusal for node in self.leaf_nodes.values())

    def _coupled(self, curved: list[int], leaves: list[Tensor], gradients: list[Tensor]) -> Curved:
        """The loss's second derivative in all outputs at once."""
        self._check(BLOCKS * sum(leaf.numel() for leaf in leaves) ** 2 / self.samples)
        matrix = _loss.dense(gradients, leaves)
        finite = bool(torch.isfinite(matrix).all())
        why = "" if finite else f"the loss: {_factor.NOT_FINITE}"
        return Curved(curved, leaves, matrix=matrix, refusal=why)

    def _apart(self, gradients: list[Tensor], leaves: list[Tensor]) -> list[Layout] | None:
        """Layouts under which H, looked at row by row, has only exact zeros between samples."""
        n = self.samples
        layouts, owners = [], []
        for leaf in leaves:
            options = candidates(tuple(leaf.shape), n)
            if not options:
                return None
            layouts.append(options[0])
            index = torch.arange(leaf.numel(), device=leaf.device).view(leaf.shape)
            parts = _loss.by_sample(index, options[0], n).reshape(n, -1)
            owner = torch.empty(leaf.numel(), dtype=torch.long, device=leaf.device)
            owner[parts.reshape(-1)] = torch.arange(n, device=leaf.device).repeat_interleave(
                parts.shape[1]
            )
            owners.append(owner)
        owner = torch.cat(owners)
        for row, of in zip(_loss.rows(gradients, leaves), owner, strict=True):
            if bool((row.bool() & (owner != of)).any()):
                return None
        return layouts

    def _samples(self, at: Mapping[int, Any]) -> None:
        """Which parameters can take all samples in one pass, and where they meet the data."""
        self.sites: dict[str, list[Site]] = {}
        self.obstacle: dict[str, str] = {}
        self.layouts: list[Layout] = []
        self.chain: Chain | None = None
        known = dict(zip(self.curved.leaves, self.curved.layouts or (), strict=False))
        for i in self.used:
            layout = known.get(i, at[i])
            if layout == LINEAR:
                options = candidates(tuple(self.outputs[i].shape), self.samples)
                layout = options[0] if options else None
            if not isinstance(layout, Layout):
                self.layouts = []
                return
            self.layouts.append(layout)
        outputs = [self.outputs[i] for i in self.used]
        self.sites, self.obstacle, labels = self._locate(outputs)
        edges = [get_gradient_edge(t) for t in outputs]
        roots = [(e.node, e.output_nr) for e in edges]
        self.chain = Chain(self.tape, labels, roots, self.samples)

    def _locate(
        self, outputs: list[Tensor]
    ) -> tuple[dict[str, list[Site]], dict[str, str], dict[Edge, Label]]:
        """Sites of the parameters whose samples stay apart, and what stands against the others."""
        edges = [get_gradient_edge(t) for t in outputs]
        roots = {(e.node, e.output_nr): lay for e, lay in zip(edges, self.layouts, strict=True)}
        tape = Tape.of(outputs)
        labels = sample_labels(tape, roots, self.samples)
        leaves = tape.leaves()
        nodes = {
            name: leaves[id(p)] for name, p in self.objective.parameters.items()
            if id(p) in leaves and p.numel()
        }  # fmt: skip
        apart = uncoupled(tape, labels, list(nodes.values()))
        self.mixed = [name for name, node in nodes.items() if node not in apart]
        places: dict[str, list[Site]] = {}
        obstacle: dict[str, str] = {}
        with torch.no_grad():
            for name, node in nodes.items():
                if node not in apart:
                    obstacle[name] = "samples are not proved to stay apart above it"
                    continue
                found = sites(tape, labels, node, self.samples)
                if found is None or any(complex_valued(site.edge) for site in found):
                    obstacle[name] = "it is used in a way without a per-sample gradient here"
                else:
                    places[name] = found
        return places, obstacle, labels

    def relocated(self, output: Any) -> dict[str, list[Site]]:
        """The sites on the tape of another, equal output."""
        return self._locate(self.used_of(output))[0]

    def used_of(self, output: Any) -> list[Tensor]:
        """The leaves that the loss reads, of such an output."""
        leaves = _outputs.opened(output)[0]
        return [leaves[self.places[i]] for i in self.used]

    # ---------------------------------------------------------------- plan

    def _plan(self) -> Plan:
        method = self.objective.method
        self.links = chosen = links(self) if method in ("auto", "chain") else None
        chained = set(chosen.names) if chosen is not None else set()
        entries = {
            name: self._link(name, p, chosen)
            if chosen is not None and name in chained
            else self._entry(name, p)
            for name, p in self.objective.parameters.items()
        }
        columns = [e for e in entries.values() if e.method == "columns"]
        # One pass per column and sample serves them all; it must pay against their own products.
        if self.objective.method == "auto" and columns:
            price = columns[0].backward
            own = {e.name: HVP * e.numel for e in columns}
            if sum(own.values()) < price:
                for e in columns:
                    entries[e.name] = dataclasses.replace(
                        e, method="parameter", forward=1, backward=own[e.name],
                        reason=f"{e.reason}; {price} columns cost more than its entries",
                    )  # fmt: skip
        self._choose_sites(entries)
        self._choose_entries(entries)
        factored = any(e.method in ("affine", "columns") for e in entries.values())
        factor = self.curved.factor if factored else None
        return Plan(tuple(entries.values()), self.samples, None if factor is None else factor.rank)

    def _choose_sites(self, entries: dict[str, Entry]) -> None:
        """Share a site's products among its parameters, unless their own entries are fewer."""
        at: dict[Edge, list[str]] = {}
        for name, e in entries.items():
            if e.method == "preactivation":
                at.setdefault(self.sites[name][0].edge, []).append(name)
        for number, names in enumerate(at.values()):
            dear = sum(entries[name].numel for name in names) <= (entries[names[0]].backward // HVP)
            for name in names:
                e = entries[name]
                if dear and self.objective.method == "auto":
                    why = e.reason.removeprefix(PREACTIVATION)
                    entries[name] = dataclasses.replace(
                        e, method="parameter", reason=why, backward=HVP * e.numel
                    )
                else:
                    entries[name] = dataclasses.replace(e, site=number)

    def _choose_entries(self, entries: dict[str, Entry]) -> None:
        """Take the products of the wanted entries alone where that is cheaper than all."""
        for name, index in self.sampled.items():
            e = entries[name]
            own = HVP * len(index)
            if e.method in ("columns", "preactivation", "parameter") and own <= e.backward:
                entries[name] = dataclasses.replace(
                    e, method="parameter", backward=own, site=None,
                    reason=f"{len(index)} of {e.numel} entries, one product each; {e.reason}",
                )  # fmt: skip

    def _entry(self, name: str, parameter: Tensor) -> Entry:
        dims, count = tuple(parameter.shape), parameter.numel()
        node = self.leaf_nodes.get(name)
        reaches = node is not None and node in self.affine.reaches
        read = name in self.direct
        extra = "; the loss's own term in it is a sum over its entries" if read else ""

        def by_parameter(why: str) -> Entry:
            if self.objective.method in ("affine", "chain", "preactivation"):
                raise ValueError(
                    f"method={self.objective.method!r} is not proved to be exact for parameter "
                    f"{name!r}: {why}; "
                    "use method='auto', or leave the parameter out with names="
                )
            return Entry(name, dims, "parameter", why, 1, HVP * count)

        if not count:
            return Entry(name, dims, "zero", "it has no entries", 0, 0)
        if not reaches and not read:
            return Entry(name, dims, "zero", "the loss does not depend on it", 0, 0)
        if self.objective.method == "parameter":
            return by_parameter("chosen with method='parameter'; exact for anything")
        if read and name not in self.separable:
            return by_parameter("the loss reads it in a way that is not a sum over its entries")
        if not reaches:
            return Entry(name, dims, "separable", "the loss's term is a sum over its entries", 1, 2)
        assert node is not None
        refusal = self.affine.refusal.get(node)
        if self.objective.method == "chain":
            return by_parameter(self.unlinked(name) or "it takes no part in the chain")
        found = self.sites.get(name, [])
        wanted = (refusal is not None and self.objective.method == "auto") or (
            self.objective.method == "preactivation"
        )
        if wanted and len(found) == 1 and found[0].positions is not None:
            why = refusal or "chosen with method='preactivation'"
            return Entry(
                name, dims, "preactivation", f"{PREACTIVATION}{why}", 1,
                HVP * _preactivation.products(found[0]),
            )  # fmt: skip
        if refusal is not None or self.objective.method == "preactivation":
            return by_parameter(refusal or self.obstacle.get(name, "it is not used at one site"))
        curved = self.curved
        if curved.most is not None and "factor" not in curved.__dict__:
            self._check(BLOCKS * (sum(t.numel() for t in curved.tensors) // self.samples) ** 2)
        rank = 0 if curved.factor is None else curved.factor.rank
        affine = "the output is affine in each entry"
        if curved.factor is None:
            if curved.leaves:
                return by_parameter(curved.refusal)
            return Entry(name, dims, "affine", f"{affine} and {curved.refusal}{extra}", 1, 0)
        if name in self.sites and curved.layouts is not None:
            return Entry(name, dims, "affine", f"{affine}, samples stay apart{extra}", 1, rank)
        n = self.samples if curved.layouts is not None else 1
        why = self.obstacle.get(name, "" if self.samples == 1 else "the loss couples samples")
        return Entry(
            name, dims, "columns", f"{affine}{'; ' + why if why else ''}{extra}", 1, rank * n
        )

    # --------------------------------------------------------------- chain

    def unlinked(self, name: str) -> str | None:
        """Why the chain route does not serve a parameter, ``None`` where it does."""
        found = self.sites.get(name)
        if self.chain is None or (self.curved.leaves and self.curved.layouts is None):
            return "the loss is not proved to keep samples apart"
        if found is None:
            return self.obstacle.get(name, "samples are not proved to stay apart above it")
        if len(found) != 1 or found[0].positions is None:
            return "it is not used at one site of a known kind"
        if self.curved.leaves and self.curved.form is None:
            return self.curved.refusal
        return self.chain.obstacle(found[0])

    def otherwise(self, name: str) -> int:
        """Backward passes that the cheapest other exact method takes for a parameter."""
        entry = self._entry(name, self.objective.parameters[name])
        own = HVP * len(self.sampled[name]) if name in self.sampled else entry.backward
        return min(own, entry.backward, HVP * entry.numel)

    def _link(self, name: str, parameter: Tensor, chosen: Links) -> Entry:
        why = self.affine.refusal.get(self.leaf_nodes[name])
        return Entry(
            name, tuple(parameter.shape), "chain",
            CHAIN + (why or "nothing is curved"), 1, chosen.passes,
        )  # fmt: skip

    def widths(self) -> list[int]:
        """Entries per sample of each used output that the loss is curved in, else 0."""
        return [
            self.detached[i].numel() // self.samples if i in self.curved.leaves else 0
            for i in self.used
        ]

    def _chained(
        self,
        names: list[str],
        into: Mapping[str, Tensor],
        adjoints: Mapping[Edge, Tensor | None],
        tick: Callable[[int], None],
    ) -> None:
        if not names or self.chain is None or self.links is None:
            return
        passes, told = self.links.passes, 0.0

        def progress(share: float) -> None:
            nonlocal told
            before, told = round(told * passes), told + share
            tick(round(told * passes) - before)

        self.chain.run(
            [(self.sites[name][0], into[name]) for name in names],
            self.curved.form, self.widths(), adjoints,
            self.outputs[0].detach(), self.objective.memory, self.links.meter, progress,
            self.objective.share,
        )  # fmt: skip

    # ----------------------------------------------------------------- run

    def ticks(self) -> int:
        """Units of progress that `run` will report."""
        groups = {e.method: e.backward for e in self.plan if e.method in SHARING}
        at = {e.site: e.backward // HVP for e in self.plan if e.method == "preactivation"}
        own = sum(e.backward // HVP for e in self.plan if e.method == "parameter")
        return sum(groups.values()) + sum(at.values()) + own

    def run(self, tick: Callable[[int], None]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The diagonal and the gradient of this batch's loss."""
        parameters = self.objective.parameters
        factor = self.curved.factor if any(e.method == "affine" for e in self.plan) else None
        # Zeros of a large weight take as long to write as the result: these are written once.
        fresh = {
            e.name for e in self.plan
            if e.method == "affine" and e.backward and factor is not None and factor.rank
            and _affine.postponed(self.sites[e.name]) and e.name not in self.separable
        }  # fmt: skip
        into = {
            name: (torch.empty_like if name in fresh else torch.zeros_like)(
                p, memory_format=torch.contiguous_format, requires_grad=False
            )
            for name, p in parameters.items()
        }
        bent = self._bent_edges()
        gradient, adjoints = self._gradient(bent)
        by_method: dict[str, list[str]] = {}
        for entry in self.plan:
            by_method.setdefault(entry.method, []).append(entry.name)
        for name, own in self.separable_terms().items():
            if self.plan[name].method != "parameter" and self.objective.share.rank == 0:
                into[name] += own
        with torch.no_grad():
            self._affine(by_method, into, fresh, tick)
        self._chained(
            by_method.get("chain", []), into, dict(zip(bent, adjoints, strict=True)), tick
        )
        endless = _factor.NOT_FINITE in self.curved.refusal
        self._release()
        self._along(by_method, into, tick)
        if endless and not all(bool(h.isfinite().all()) for h in into.values()):
            raise ValueError(f"loss: {_factor.NOT_FINITE}; {_factor.CHECK}")
        return into, gradient

    def _along(
        self,
        by_method: Mapping[str, list[str]],
        into: Mapping[str, Tensor],
        tick: Callable[[int], None],
    ) -> None:
        """Hessian-vector products, on a tape that connects the loss with the parameters."""
        at_sites, entries = by_method.get("preactivation", []), by_method.get("parameter", [])
        if not at_sites and not entries:
            return
        objective, parameters = self.objective, self.objective.parameters
        output, value = self.repeated()
        places = self.relocated(output) if at_sites else {}
        if not value.requires_grad:
            return
        size, memory = Tape.of([value]).bytes(), objective.memory
        shared: dict[Edge, list[tuple[Site, Tensor]]] = {}
        for name in at_sites:
            site = places[name][0]
            shared.setdefault(site.edge, []).append((site, into[name]))
        for edge, targets in shared.items():
            _preactivation.by_site(
                value, edge, targets, self.samples, size, memory, tick, objective.share
            )
        if entries:
            index = [self.sampled[name] for name in entries] if self.sampled else None
            found = [
                into[name].new_zeros(len(self.sampled[name])) if self.sampled else into[name]
                for name in entries
            ]
            wanted = [parameters[name] for name in entries]
            _parameter.by_entries(value, wanted, found, size, memory, tick, index, objective.share)
            if index is not None:
                for name, at, values in zip(entries, index, found, strict=True):
                    into[name].view(-1)[at] = values

    def repeated(self) -> tuple[Any, Tensor]:
        """Output and loss of another call, on a tape that connects them with the parameters.

        Raises:
            ValueError: they are not those of the first call.
        """
        self.start.rewind()
        output = self._output()
        for new, old in zip(self.used_of(output), self.seen, strict=True):
            if not _rehearsal.repeats(new.detach(), old):
                raise ValueError(AGAIN.format("model: its outputs on", self.index))
        value = self._value(self._untouched(output))
        if not self._repeats(value):
            raise ValueError(AGAIN.format("loss: its value on", self.index))
        return output, value

    def _untouched(self, output: Any) -> Any:
        """The output to call the loss with: a copy on the same tape, where it writes to it."""
        if not self.writes or not self.places:
            return output
        leaves, structure = _outputs.opened(output)
        handed = list(leaves)
        for i in self.places:
            handed[i] = leaves[i].clone()
        for i, first in self.again.items():
            handed[i] = handed[first]
        return structure.rebuilt(handed)

    def _repeats(self, value: Tensor) -> bool:
        return _hidden.equal(value, self.loss)

    def _bent_edges(self) -> list[Edge]:
        """Where the chain route needs adjoints."""
        if self.chain is None or self.links is None:
            return []
        return self.chain.bent([self.sites[name][0] for name in self.links.names])

    def _gradient(self, edges: list[Edge]) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        """dL/dw, and dL/dt for other tensors of the tape."""
        parameters = self.objective.parameters
        total: dict[str, Tensor] = {}
        names = [name for name in parameters if name in self.leaf_nodes]
        adjoints: list[Tensor | None] = []
        if names:
            plain = {name: site for name in names if (site := self._dense(name)) is not None}
            wanted: list[Any] = [
                GradientEdge(*plain[name].edge) if name in plain else parameters[name]
                for name in names
            ]
            wanted += [GradientEdge(*e) for e in edges]
            cotangents = [g.detach() for i in self.used if (g := self.gradient_out[i]) is not None]
            got = torch.autograd.grad(
                [self.outputs[i] for i in self.used], wanted,
                cotangents, retain_graph=True, allow_unused=True,
            )  # fmt: skip
            for name, g in zip(names, got, strict=False):
                if g is not None and name in plain:
                    total[name] = plain[name].summed(g.detach())
                elif g is not None:
                    own_tensor = fresh_gradient(self.tape, self.leaf_nodes[name])
                    total[name] = g.contiguous() if own_tensor else g.clone().contiguous()
            adjoints = list(got[len(names) :])
        total = {
            name: total.get(name, torch.zeros((), dtype=p.dtype, device=p.device))
            .expand_as(p).contiguous()
            for name, p in parameters.items()
        }  # fmt: skip
        for name, own in self.direct.items():
            if own is not None:
                total[name] += own.detach()
        return total, adjoints

    def _dense(self, name: str) -> Site | None:
        """The site of a weight whose gradient is one product, where autograd's library is slow."""
        found, p = self.sites.get(name, ()), self.objective.parameters[name]
        if len(found) != 1 or found[0].outer is None or p.dtype != torch.float32 or p.is_cuda:
            return None
        return found[0] if prefers_onednn() else None

    def separable_terms(self) -> dict[str, Tensor]:
        """Diagonal of the loss's own term in parameters whose entries it keeps apart: H·1."""
        live = {
            name: g
            for name in self.separable
            if (g := self.direct.get(name)) is not None and g.requires_grad
        }
        if not live:
            return {}
        got = torch.autograd.grad(
            list(live.values()), [self.objective.parameters[name] for name in live],
            [torch.ones_like(g) for g in live.values()], retain_graph=True, allow_unused=True,
        )  # fmt: skip
        return {name: h.detach() for name, h in zip(live, got, strict=True) if h is not None}

    def _affine(
        self,
        by_method: Mapping[str, list[str]],
        into: Mapping[str, Tensor],
        fresh: set[str],
        tick: Callable[[int], None],
    ) -> None:
        if not by_method.get("affine") and not by_method.get("columns"):
            return
        factor, parameters = self.curved.factor, self.objective.parameters
        if factor is None:
            return
        outputs = [self.outputs[i] for i in self.curved.leaves]
        fast = [n for n in by_method.get("affine", []) if self.plan[n].backward]
        _affine.by_sites(
            outputs, factor,
            [
                _affine.Target(parameters[name], self.sites[name], into[name], name in fresh)
                for name in fast
            ],
            self.chain, self.objective.memory, tick, self.objective.share,
        )  # fmt: skip
        rest = by_method.get("columns", [])
        if not rest or not factor.rank:
            return
        layouts = self.curved.layouts
        split = None
        if layouts is not None:
            n = self.samples

            def split(column: Tensor, leaf: int, sample: int) -> Tensor:
                mask = column.new_zeros((n, 1))
                mask[sample] = 1.0
                parts = _loss.by_sample(column, layouts[leaf], n).reshape(n, -1) * mask
                kept = _loss.by_sample(column, layouts[leaf], n).shape
                return _loss.from_samples(parts.reshape(kept), layouts[leaf], n, column.shape)

        _affine.by_columns(
            outputs, factor, [parameters[name] for name in rest], [into[name] for name in rest],
            self.tape_bytes, self.objective.memory, tick, split, self.objective.share,
        )  # fmt: skip

    def _release(self) -> None:
        """Let go of the tapes before another one is built."""
        self.outputs, self.detached, self.gradient_out = [], [], []
        self.tape, self.leaf_nodes, self.sites = Tape([]), {}, {}
        self.direct = {}
        self.curved, self.chain = Curved([], []), None


def _shared(outputs: list[Tensor]) -> bool:
    """Whether two of the outputs lie in the same memory."""
    try:
        places = [t.untyped_storage().data_ptr() for t in outputs]
    except (RuntimeError, NotImplementedError):  # a sparse tensor, which has no storage
        return True
    return len(set(places)) < len(places)
