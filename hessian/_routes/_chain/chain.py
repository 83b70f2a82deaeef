"""Chain route: per-sample curvature carried back through the tape, for all sites on the way.

For a tensor t that every sample has its own copy of, the Hessian of the loss in t, everything
above t included, is a sum over sources

    Hₜ = Σ_s Bᵀ Q B,    B = ds/dt,

one for the loss itself (Q its second derivative in the outputs) and one for every curved
operation above t (Q = Σ_i λ_i d²y_i, diagonal for an elementwise function). Going down the tape
once, the rows B are pulled through each operation, and a site's parameters take their second
derivative from Hₜ at its output. Where a source reaches the loss's lower part through a single
tensor only, it can be *collapsed* there to its d x d matrix, d the tensor's entries per sample:
rows that would grow with depth then stay as many as the stream is wide. Whether that pays is
decided by cost (`Policy`).

This is edge pushing (Gower & Mello 2012) on whole tensors and samples, with factors kept apart as
long as that is cheaper; on a chain of dense layers it is the recursion of Martens & Grosse (2015,
block-diagonal) made exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from hessian._loss.dry_run import evaluated, shape_only
from hessian._loss.local_rows import LocalRows, joined, localised
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.choose import step
from hessian._routes._chain.policy import RULES, Policy, Rule
from hessian._routes._chain.site_curvature import SiteCurvature
from hessian._routes._chain.source import Columns, Rows, Source
from hessian._routes._chain.steps.base import Step, Where
from hessian._routes._chain.steps.by_node import ByNode
from hessian._runtime.ledger import owe
from hessian._runtime.share import ALL, Share
from hessian._site.site import Site
from hessian._tape.graph import Edge, Node, Tape, shape
from hessian._tape.layouts import Label
from hessian.allocator import LARGE, HeapRetention
from hessian.devices import OWN_MEMORY, SMALL_CALLS

CACHE = 2**23
# Multiplications per sample from which on it is worth while to look for the cheapest rule.
LONG = 1e8
# Windows of a larger share of an image are not worth their while.
WHOLE = 0.5


def _unnoticed(_: list[Source]) -> None:
    """A run's sources: what they take was predicted."""


class Chain:
    """What the route can do on one batch's tape, and doing it.

    `roots` are the outputs' edges, `labels` where samples lie on the tape.
    """

    def __init__(
        self, tape: Tape, labels: dict[Edge, Label], roots: list[Edge], samples: int
    ) -> None:
        self.tape, self.roots, self.n = tape, roots, samples
        self.where = Where(labels, samples)
        self.outputs: dict[Node, list[int]] = {}
        for node, index in labels:
            if self.where.layout((node, index)) is not None:
                self.outputs.setdefault(node, []).append(index)
        self.steps: dict[Node, Step | str] = {}
        self.order = {node: i for i, node in enumerate(tape.order)}
        self.blocked: dict[Node, str | None] = {}
        self.ways: dict[frozenset[Edge], tuple[set[Node], list[Node], Policy]] = {}
        self.windowed: set[Edge] = (
            set()
        )  # sites that local rows alone reach, of the last prediction
        self.rule: Rule | None = None  # of merging, once the cheapest was looked for

    # ------------------------------------------------------------- proof

    def obstacle(self, site: Site) -> str | None:
        """What stands against the route between a site's output and the loss, if anything."""
        if not self.blocked:
            self._block()
        return self.blocked.get(site.edge[0])

    def _block(self) -> None:
        for node in self.tape.order:
            why = None
            for consumer, _ in self.tape.consumers[node]:
                why = self.blocked.get(consumer)
                if why is None and consumer in self.outputs:
                    step = self._step(consumer)
                    why = step if isinstance(step, str) else None
                if why is not None:
                    break
            self.blocked[node] = why

    def _step(self, node: Node) -> Step | str:
        if node not in self.steps:
            self.steps[node] = step(node, sorted(self.outputs.get(node, [0])), self.where)
        return self.steps[node]

    # ---------------------------------------------------------------- cost

    def pass_work(self) -> float:
        """Multiplications per sample of one backward pass through what the route knows."""
        known = [step.cost() for step in self.steps.values() if isinstance(step, Step)]
        return max(1.0, sum(known))

    def together(self) -> bool:
        """Whether an operation on the way takes all samples of the batch at once."""
        return any(isinstance(step, ByNode) and step.children for step in self.steps.values())

    def predict(
        self, sites: list[Site], entries: list[int], widths: list[int], loss: Quadratic | None
    ) -> tuple[Cost, list[float]]:
        """The cost of a run on these sites, and the work done when each of them is reached.

        `entries` are those of the parameters met there.

        Runs the same sweep on tensors without data. Where a run takes long and positions are
        blocks, it does so by every rule of merging, and the run will go by the cheapest.
        """
        meter, reached = self._rehearsed(sites, entries, widths, loss)
        if self.rule is not None or meter.work < LONG or not self._positions():
            return meter, reached
        best, cheapest = (meter, reached), RULES[0]
        for rule in RULES[1:]:
            self.rule = rule
            self.ways.clear()
            meter, reached = self._rehearsed(sites, entries, widths, loss)
            if meter.work < best[0].work:
                best, cheapest = (meter, reached), rule
        self.rule = cheapest
        self.ways.clear()
        return best

    def _positions(self) -> bool:
        """Whether operations act on parts of a sample one by one."""
        return any(isinstance(step, Step) and step.parts > 1 for step in self.steps.values())

    def _rehearsed(
        self, sites: list[Site], entries: list[int], widths: list[int], loss: Quadratic | None
    ) -> tuple[Cost, list[float]]:
        meter = Cost()
        ghost = shape_only()
        reached: dict[Edge, float] = {}
        by_edge: dict[Edge, list[tuple[Site, int]]] = {}
        for site, count in zip(sites, entries, strict=True):
            by_edge.setdefault(site.edge, []).append((site, count))
        self.windowed = set()

        def note(edge: Edge, curvature: SiteCurvature) -> None:
            near = [curvature.price(site, count) for site, count in by_edge[edge]]
            if all(near):
                self.windowed.add(edge)
            reached[edge] = meter.work

        def survey(sources: list[Source]) -> None:
            meter.peak = max(meter.peak, sum(s.size() for s in sources))
            meter.shared = max(meter.shared, sum(s.common() for s in sources))

        empty = None if loss is None else loss.emptied()
        self._sweep(list(by_edge), empty, widths, slice(0, 1), ghost, meter, note, survey)
        return meter, [reached.get(site.edge, meter.work) for site in sites]

    # ----------------------------------------------------------------- run

    def run(
        self,
        targets: list[tuple[Site, Tensor]],
        loss: Quadratic | None,
        widths: list[int],
        adjoints: Mapping[Edge, Tensor | None],
        like: Tensor,
        memory: int,
        meter: Cost,
        tick: Callable[[float], None],
        share: Share = ALL,
    ) -> None:
        """Add d²L/dw² of the parameters met at the sites to the tensors beside them.

        `loss` is the loss's second derivative in the outputs, those of `widths` joined together (0
        for one the loss is linear in), `adjoints` its gradient in the tensors that `curved_edges`
        names, `meter` what `predict` said.
        """
        needed = self.above([site.edge for site, _ in targets])
        for node in needed:
            step = self.steps.get(node)
            if isinstance(step, Step):
                up = adjoints.get(step.edge)
                if step.curved and up is None:
                    up = like.new_zeros(shape(step.edge) or ())
                step.prepare(None if up is None else up.detach())
        by_edge: dict[Edge, list[tuple[Site, Tensor]]] = {}
        for site, into in targets:
            by_edge.setdefault(site.edge, []).append((site, into))
        # Beside the rows of before and after, what an operation makes on the way.
        each = max(1.0, meter.peak) * like.element_size()
        room = (memory - 2 * meter.shared * like.element_size()) / 3
        # What is larger than a processor's cache is slower to fetch than to compute in parts.
        room = min(room, CACHE) if like.device.type in SMALL_CALLS else room
        chunk = max(1, min(self.n, int(room / each)))
        samples = share.of(self.n)
        if like.device.type in OWN_MEMORY and chunk * each >= LARGE:
            retention = HeapRetention()
            owe(retention.end)
            retention.begin()
        for start in range(samples.start, samples.stop, chunk):
            part = slice(start, min(samples.stop, start + chunk))

            def meet(edge: Edge, curvature: SiteCurvature, part: slice = part) -> None:
                for site, into in by_edge[edge]:
                    curvature.add(site, part, into, memory)

            with torch.no_grad():
                self._sweep(
                    list(by_edge), None if loss is None else loss.of(part), widths, part,
                    like, Cost(), meet,
                )  # fmt: skip
            tick((part.stop - part.start) / self.n)

    def curved_edges(self, sites: list[Site]) -> list[Edge]:
        """Outputs of curved operations on the way to some sites."""
        needed = self.above([site.edge for site in sites])
        nodes = {site.edge[0] for site in sites}
        return [
            step.edge for node in self.tape.order if node in needed
            if isinstance(step := self.steps.get(node), Step) and step.curved
            if node not in nodes or any(child in needed for child, _ in step.children)
        ]  # fmt: skip

    def above(self, edges: Iterable[Edge]) -> set[Node]:
        """Nodes that lie above one of the edges, or have one as output."""
        needed = {node for node, _ in edges}
        stack = list(needed)
        while stack:
            for consumer, _ in self.tape.consumers[stack.pop()]:
                if consumer not in needed:
                    needed.add(consumer)
                    stack.append(consumer)
        return needed

    def _sweep(
        self,
        edges: list[Edge],
        loss: Quadratic | None,
        widths: list[int],
        part: slice,
        like: Tensor,
        meter: Cost,
        meet: Callable[[Edge, SiteCurvature], None],
        survey: Callable[[list[Source]], None] = _unnoticed,
    ) -> None:
        sites = frozenset(edges)
        needed, nodes, policy = self._way(sites)
        sources = [] if loss is None else [self._loss(loss, widths, like, needed)]
        count = part.stop - part.start
        for number, node in enumerate(nodes):
            outputs = [(node, i) for i in self.outputs.get(node, [0])]
            alive = [e for e in outputs if any(s.reaches(e) for s in sources)]
            if len(outputs) == 1 and alive:
                sources = policy.collapse(sources, alive[0], number, count, like, meter)
            for edge in outputs:
                if edge in sites:
                    above = [s for s in sources if s.meets(edge)]
                    width = self.where.width(edge)
                    meet(edge, SiteCurvature(above, edge, count, width, like, meter))
            step = self.steps.get(node)
            if not isinstance(step, Step) or not any(c[0] in needed for c in step.children):
                step = None  # nothing below asks for rows
            for source in sources:
                for columns in source.families():
                    for edge in alive:
                        rows = columns.pop(edge, None)
                        if rows is not None and step is not None:
                            suited = _suited(step, rows, source, like, count)
                            pulled = _pulled(step, edge, suited, part, like, meter)
                            _into(columns, pulled, needed, like, count)
            sources = [s for s in sources if s.alive]
            if step is not None:
                sources += _own(step, part, needed, like, count)
            survey(sources)

    def _way(self, sites: frozenset[Edge]) -> tuple[set[Node], list[Node], Policy]:
        """The nodes above some sites, from the loss down, and when to collapse there.

        The same for the prediction and for every chunk of the run.
        """
        if sites not in self.ways:
            needed = self.above(sites)
            nodes = [node for node in self.tape.order if node in needed]
            policy = Policy(nodes, self.steps, sites, self.rule or RULES[0])
            self.ways[sites] = needed, nodes, policy
        return self.ways[sites]

    def _loss(self, loss: Quadratic, widths: list[int], like: Tensor, needed: set[Node]) -> Source:
        total = sum(widths)
        columns: Columns = {}
        start = 0
        for edge, width in zip(self.roots, widths, strict=True):
            if width == 0 or edge[0] not in needed:
                start += width
                continue
            rows = JacobianRows(total, width)
            if width != total:
                base = partial(_placed_identity, total, start, width, like)
                rows = JacobianRows(total, width, evaluated(like, (total, width), base))
            _add(columns, edge, rows, like, loss.values.shape[0])
            start += width
        return Source(loss, columns)


def _placed_identity(total: int, start: int, width: int, like: Tensor) -> Tensor:
    """Rows ``[total, width]``: the identity from a row on, and zero."""
    rows = like.new_zeros((total, width))
    rows[start : start + width].fill_diagonal_(1.0)
    return rows


def _suited(step: Step, rows: Rows, source: Source, like: Tensor, n: int) -> Rows:
    """Rows as an operation takes them: local where it begins with such, whole where it must."""
    if isinstance(rows, LocalRows):
        fits = rows.share <= WHOLE and step.takes(rows)
        return rows if fits else rows.written_out(like, n)
    if source.form is None or source.form.kind != "diagonal" or not rows.identity:
        return rows
    dims = step.begins()
    return localised(rows, dims, like) if dims else rows


def _pulled(
    step: Step, edge: Edge, rows: Rows, part: slice, like: Tensor, meter: Cost
) -> Sequence[tuple[Edge, Rows]]:
    if isinstance(rows, LocalRows):
        return step.pull_local(rows, part, meter)
    return step.pull(edge, rows, part, like, meter)


def _into(
    columns: Columns,
    pulled: Sequence[tuple[Edge, Rows]],
    needed: set[Node],
    like: Tensor,
    n: int,
) -> None:
    """Add rows at the inputs of an operation to a source's, where they are needed."""
    for child, rows in pulled:
        if child[0] in needed:
            _add(columns, child, rows, like, n)


def _own(step: Step, part: slice, needed: set[Node], like: Tensor, n: int) -> list[Source]:
    """The sources that an operation's own curvature gives."""
    sources = []
    for form, rows, other_rows in step.sources(part, like):
        source = Source(form, {}, None if other_rows is None else {})
        for columns, pulled in zip(source.families(), (rows, other_rows), strict=False):
            _into(columns, pulled or [], needed, like, n)
        if source.alive:
            sources.append(source)
    return sources


def _add(columns: Columns, edge: Edge, rows: Rows, like: Tensor, n: int) -> None:
    have = columns.get(edge)
    columns[edge] = rows if have is None else joined(have, rows, like, n)
