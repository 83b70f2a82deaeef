"""Carrying a plan out: the diagonal and the gradient of one batch's loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from hessian._batch.chain_choice import ChainChoice
from hessian._batch.comparison import repeats
from hessian._batch.plan import SHARING, Entry, Plan
from hessian._batch.prices import HVP, Prices
from hessian._batch.proof import Proof, located, nodes_of
from hessian._batch.reading import Reading, Task
from hessian._call.objective import AGAIN
from hessian._loss import factor as _factor
from hessian._loss import output_hessian as _loss
from hessian._routes import affine as _affine
from hessian._routes import parameter as _parameter
from hessian._routes import preactivation as _preactivation
from hessian._runtime.checkpoint import FinishedEntries
from hessian._runtime.matrix_products import prefers_onednn
from hessian._site.site import Site
from hessian._tape.graph import Edge, Tape, fresh_gradient
from hessian.devices import MEASURED

Tick = Callable[[int], None]


class Caller(Protocol):
    """Calls the user's model and loss once more, on all samples of a batch or on a part of them."""

    @property
    def where(self) -> str:
        """What tells the parts of a batch apart."""

    def output(self) -> Any:
        """What the model makes of the inputs, on its tape."""

    def value(self, output: Any) -> Tensor:
        """The loss of such an output, connected with the parameters."""

    def repeats(self, value: Tensor, reading: Reading) -> bool:
        """Whether this loss is the one that was read."""


def repeated(task: Task, caller: Caller, reading: Reading) -> tuple[Any, Tensor]:
    """Output and loss of another call, on a tape that connects them with the parameters.

    Raises:
        ValueError: they are not those of the first call.
    """
    task.start.rewind()
    output = caller.output()
    for new, old in zip(reading.used_of(output), reading.used, strict=True):
        if not repeats(new.detach(), old.values):
            raise ValueError(AGAIN.format("model: its outputs on", task.index))
    value = caller.value(reading.untouched(output))
    if not caller.repeats(value, reading):
        raise ValueError(AGAIN.format("loss: its value on", task.index))
    return output, value


@dataclass
class Execution:
    """A batch that was read, proved and planned: what its plan is carried out on.

    `caller` calls the user's model and loss again: the task itself, or a part of a batch.
    """

    task: Task
    caller: Caller
    reading: Reading
    proof: Proof
    plan: Plan
    chain_choice: ChainChoice | None

    @cached_property
    def finished(self) -> FinishedEntries:
        """What a checkpoint knows of this batch."""
        return self.task.finished(self.caller.where)

    def ticks(self) -> int:
        """Units of progress that `run` will report."""
        pending = [entry for entry in self.plan if self._pending(entry)]
        groups = {e.method: e.backward for e in pending if e.method in SHARING}
        sites = {e.site: e.backward // HVP for e in pending if e.method == "preactivation"}
        products = sum(
            e.backward // HVP if (flat := self._single(e.name)) is None else len(flat)
            for e in pending
            if e.method == "parameter" or e.products
        )
        return sum(groups.values()) + sum(sites.values()) + products

    def run(self, tick: Tick) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The diagonal and the gradient of this batch's loss; once, for the tapes end with it.

        With a checkpoint, its finished entries and those of the same steps are what is right.
        """
        parameters, curvature = self.task.objective.parameters, self.proof.curvature
        fresh = self._written_once()
        into = {
            name: (torch.empty_like if name in fresh else torch.zeros_like)(
                p, memory_format=torch.contiguous_format, requires_grad=False
            )
            for name, p in parameters.items()
        }
        curved_edges = self._curved_edges()
        gradient, adjoints = self._gradient(curved_edges)
        if self.task.objective.share.rank == 0:
            for name, term in self.reading.separable_terms(parameters).items():
                if self.plan[name].method != "parameter":
                    into[name] += term
        with torch.no_grad():
            self._by_columns(into, fresh, tick)
        self._chained(into, dict(zip(curved_edges, adjoints, strict=True)), tick)
        endless = _factor.NOT_FINITE in curvature.refusal
        del curvature
        # The tapes go before another one is built.
        self.release()
        self._by_products(into, tick)
        self.finished.restore(into)
        if endless and not all(bool(h.isfinite().all()) for h in into.values()):
            raise ValueError(f"loss: {_factor.NOT_FINITE}; {_factor.CHECK}")
        return into, gradient

    def repeated(self) -> tuple[Any, Tensor]:
        """Output and loss of another call, on a tape that connects them with the parameters."""
        return repeated(self.task, self.caller, self.reading)

    def relocated(self, output: Any) -> dict[str, list[Site]]:
        """The sites on the tape of another, equal output."""
        tape = Tape.of(self.reading.used_of(output))
        nodes = nodes_of(tape, self.task.objective.parameters)
        return located(tape, nodes, self.proof.layouts, self.task.samples).sites

    def release(self) -> None:
        """Let go of the tapes."""
        self.reading.release()
        self.proof.release()

    def _names(self, method: str) -> list[str]:
        return [e.name for e in self.plan if e.method == method and self._pending(e)]

    def _pending(self, entry: Entry) -> bool:
        """Whether a parameter's own step has to be taken; its products aside."""
        return self.finished.pending(entry.name, self._looked_up(entry.name))

    def _keep(self, names: list[str], into: Mapping[str, Tensor]) -> None:
        for name in names:
            self.finished.keep_all(name, into[name], self._looked_up(name))

    def _written_once(self) -> set[str]:
        """Weights whose diagonal is written as a whole, so that no zeros need be written before.

        Zeros of a large weight take as long to write as the result.
        """
        planned = any(entry.method == "affine" for entry in self.plan)
        factor = self.proof.curvature.factor if planned else None
        if factor is None or not factor.rank:
            return set()
        return {
            e.name for e in self.plan
            if e.method == "affine" and e.backward and self._pending(e)
            and _affine.postponed(self.proof.sites[e.name])
            and e.name not in self.reading.separable
        }  # fmt: skip

    # ---------------------------------------------------------------- gradient

    def _curved_edges(self) -> list[Edge]:
        """Where the chain route needs adjoints."""
        if self.proof.chain is None or self.chain_choice is None:
            return []
        return self.proof.chain.curved_edges(
            [self.proof.sites[name][0] for name in self.chain_choice.names]
        )

    def _gradient(self, edges: list[Edge]) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        """dL/dw, and dL/dt for other tensors of the tape."""
        parameters, proof, used = self.task.objective.parameters, self.proof, self.reading.used
        total: dict[str, Tensor] = {}
        names = [name for name in parameters if name in proof.leaf_nodes]
        adjoints: list[Tensor | None] = []
        if names:
            dense = {name: site for name in names if (site := self._dense(name)) is not None}
            wanted: list[Any] = [
                GradientEdge(*dense[name].edge) if name in dense else parameters[name]
                for name in names
            ]
            wanted += [GradientEdge(*e) for e in edges]
            slopes = torch.autograd.grad(
                [output.tensor for output in used], wanted,
                [output.slope.detach() for output in used],
                retain_graph=True, allow_unused=True,
            )  # fmt: skip
            for name, g in zip(names, slopes, strict=False):
                if g is not None and name in dense:
                    total[name] = dense[name].summed(g.detach())
                elif g is not None:
                    no_other_holds_it = fresh_gradient(proof.tape, proof.leaf_nodes[name])
                    total[name] = g.contiguous() if no_other_holds_it else g.clone().contiguous()
            adjoints = list(slopes[len(names) :])
        total = {
            name: total.get(name, torch.zeros((), dtype=p.dtype, device=p.device))
            .expand_as(p).contiguous()
            for name, p in parameters.items()
        }  # fmt: skip
        for name, term in self.reading.direct.items():
            if term is not None:
                total[name] += term.detach()
        return total, adjoints

    def _dense(self, name: str) -> Site | None:
        """The site of a weight whose gradient is one product, where autograd's library is slow."""
        uses, p = self.proof.sites.get(name, ()), self.task.objective.parameters[name]
        if len(uses) != 1 or uses[0].outer is None or p.dtype != torch.float32:
            return None
        if p.device.type not in MEASURED:
            return None
        return uses[0] if prefers_onednn() else None

    # ------------------------------------------------------------------ routes

    def _by_columns(self, into: Mapping[str, Tensor], fresh: set[str], tick: Tick) -> None:
        """The affine route, and columns that serve parameters without a site."""
        at_sites, rest = self._names("affine"), self._names("columns")
        if not at_sites and not rest:
            return
        proof, objective = self.proof, self.task.objective
        factor = proof.curvature.factor
        if factor is None:
            return
        outputs = [output.tensor for output in proof.curvature.outputs]
        targets = [
            _affine.Target(objective.parameters[name], proof.sites[name], into[name], name in fresh)
            for name in at_sites
            if self.plan[name].backward
        ]
        if targets:
            _affine.by_sites(
                outputs, factor, targets, proof.chain, objective.memory, tick, objective.share
            )
        self._keep(at_sites, into)
        if not rest or not factor.rank:
            return
        _affine.by_columns(
            outputs, factor, [objective.parameters[name] for name in rest],
            [into[name] for name in rest], proof.tape_bytes, objective.memory, tick,
            self._of_sample(), objective.share,
        )  # fmt: skip
        self._keep(rest, into)

    def _of_sample(self) -> Callable[[Tensor, int, int], Tensor] | None:
        """A column's part in one sample, where samples stay apart."""
        layouts, n = self.proof.curvature.layouts, self.task.samples
        if layouts is None:
            return None

        def split(column: Tensor, leaf: int, sample: int) -> Tensor:
            mask = column.new_zeros((n, 1))
            mask[sample] = 1.0
            rows = _loss.by_sample(column, layouts[leaf], n)
            masked = (rows.reshape(n, -1) * mask).reshape(rows.shape)
            return _loss.from_samples(masked, layouts[leaf], n, column.shape)

        return split

    def _chained(
        self, into: Mapping[str, Tensor], adjoints: Mapping[Edge, Tensor | None], tick: Tick
    ) -> None:
        names, chain, proof = self._names("chain"), self.proof.chain, self.proof
        if not names or chain is None or self.chain_choice is None:
            return
        passes, share_done = self.chain_choice.passes, 0.0

        def progress(share: float) -> None:
            nonlocal share_done
            before, share_done = round(share_done * passes), share_done + share
            tick(round(share_done * passes) - before)

        objective = self.task.objective
        chain.run(
            [(proof.sites[name][0], into[name]) for name in names],
            proof.curvature.form, Prices(self.task, self.reading, proof).widths(), adjoints,
            self.reading.outputs[0].values, objective.memory, self.chain_choice.meter, progress,
            objective.share,
        )  # fmt: skip
        self._keep(names, into)

    def _by_products(self, into: Mapping[str, Tensor], tick: Tick) -> None:
        """Hessian-vector products, on a tape that connects the loss with the parameters."""
        at_sites = self._names("preactivation")
        singles = {
            e.name: self._single(e.name)
            for e in self.plan if e.method == "parameter" or e.products
        }  # fmt: skip
        entries = [name for name, flat in singles.items() if flat is None or len(flat)]
        if not at_sites and not entries:
            return
        task, objective = self.task, self.task.objective
        parameters, memory = objective.parameters, objective.memory
        output, value = self.repeated()
        sites = self.relocated(output) if at_sites else {}
        if not value.requires_grad:
            return
        size = Tape.of([value]).bytes()
        shared: dict[Edge, list[str]] = {}
        for name in at_sites:
            shared.setdefault(sites[name][0].edge, []).append(name)
        for edge, names in shared.items():
            targets = [(sites[name][0], into[name]) for name in names]
            _preactivation.by_site(
                value, edge, targets, task.samples, size, memory, tick, objective.share
            )
            self._keep(names, into)
        if not entries:
            return
        index = [singles[name] for name in entries]
        results = [
            into[name] if flat is None else into[name].new_zeros(len(flat))
            for name, flat in zip(entries, index, strict=True)
        ]
        wanted = [parameters[name] for name in entries]

        def keep(number: int, flat: Tensor, values: Tensor) -> None:
            self.finished.keep(entries[number], flat, values)

        _parameter.by_entries(
            value, wanted, results, size, memory, tick, index, objective.share, keep
        )
        for name, flat, values in zip(entries, index, results, strict=True):
            if flat is not None:
                into[name].view(-1)[flat] = values

    def _single(self, name: str) -> Tensor | None:
        """The entries of a parameter that take a product each; ``None`` for all."""
        flat = self._looked_up(name)
        if flat is None:
            flat = self.task.sampled.get(name)
        return self.finished.remaining(name, flat)

    def _looked_up(self, name: str) -> Tensor | None:
        """The entries that take a product each beside their parameter's own step."""
        return None if self.chain_choice is None else self.chain_choice.looked_up.get(name)
