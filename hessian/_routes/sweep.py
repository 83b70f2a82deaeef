"""All columns of a few samples, pulled back together from the outputs to every site.

One walk down the tape carries rows ``[m, r, d]`` (m samples, r columns, d entries of a sample's
tensor) through the steps that the chain route knows (`_routes._chain.steps`): columns fold into the
batch axis and no gradient of a weight is formed on the way. How many samples and columns come at a
time follows from the memory allowed, not from the batch. Where what is alive outgrows the cache the
samples are split, and each part goes on down by itself: near the loss, where weights are large and
rows short, all samples share one reading of a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.chain import Chain
from hessian._routes._chain.steps.base import Step
from hessian._routes._chain.steps.by_node import ByNode
from hessian._runtime.share import ALL, Share
from hessian._tape.graph import Edge, Node
from hessian.devices import SMALL_CALLS

# What is larger than a processor's last cache is slower to fetch than to compute in parts.
CACHE = 2**25

# (edge, rows, samples, columns); (samples, columns)
Meet = Callable[[Edge, Tensor, slice, slice], None]
Close = Callable[[slice, slice], None] | None
Ended = Callable[[slice, slice], None]


@dataclass(frozen=True)
class Tiling:
    """How much of the batch is taken at a time, so that it fits into memory and cache."""

    lanes: int  # walks side by side
    columns: int  # of a factor, at a time
    samples: int  # at a time
    most: list[int]  # samples in a part that each node takes at a time


class Sweep:
    """The walk from `tops`, columns ``[n, r, d]`` at the outputs, to the `edges` of sites.

    Up to `lanes` walks share the memory and the samples; `tiling` says how many there are.
    """

    def __init__(
        self,
        chain: Chain,
        edges: list[Edge],
        tops: Mapping[Edge, Tensor],
        memory: int,
        share: Share = ALL,
        lanes: int = 1,
    ) -> None:
        self.chain, self.tops, self.sites = chain, tops, set(edges)
        self.needed = chain.above(list(self.sites))
        self.nodes: list[tuple[Node, Step | None]] = []
        for node in chain.tape.order:
            if node in self.needed:
                step = chain.steps.get(node)
                live = isinstance(step, Step) and any(c[0] in self.needed for c in step.children)
                self.nodes.append((node, step if live and isinstance(step, Step) else None))
        top = next(iter(tops.values()))
        self.n, self.rank = top.shape[:2]
        # Where an operation is read off autograd's node, that knows all samples only.
        whole = any(isinstance(step, ByNode) for _, step in self.nodes)
        lanes = 1 if whole else max(1, min(lanes, self.n // share.size))
        self.tiling = self._tiling(top, memory // lanes, lanes, whole)
        # Each process takes some samples, or where they cannot be told apart some columns.
        by_columns = whole or self.n < share.size
        self.mine = slice(0, self.n) if by_columns else share.of(self.n)
        self.some = share.of(self.rank) if by_columns else slice(0, self.rank)

    def _tiling(self, top: Tensor, memory: int, lanes: int, whole: bool) -> Tiling:
        """Samples and columns at a time, where a lane has so much memory."""
        item = top.element_size()
        alive = [item * values for values in self._alive()]  # bytes of a row, by node
        largest = max(alive, default=item)
        # Two levels of splitting are alive at once.
        undivided = whole or top.device.type not in SMALL_CALLS
        room = max(1, memory if undivided else memory // 2)
        columns = max(1, min(self.rank, room // max(1, (self.n if whole else 1) * largest)))
        samples = self.n if whole else max(1, min(self.n, room // (columns * largest)))
        # A weight is read once for every part, so that a part is worth as much as it.
        most = [
            samples if undivided
            else max(1, max(CACHE // lanes, item * (0 if step is None else step.loads())) // (
                columns * size))
            for (_, step), size in zip(self.nodes, alive, strict=True)
        ]  # fmt: skip
        return Tiling(lanes, columns, samples, most)

    def _alive(self) -> list[int]:
        """Values per sample and column alive at each node: rows, and what a step makes of them."""
        where, values = self.chain.where, []
        alive: dict[Edge, int] = {edge: top.shape[2] for edge, top in self.tops.items()}
        for node, step in self.nodes:
            outputs = [(node, i) for i in self.chain.outputs.get(node, [0])]
            children = [] if step is None else [c for c in step.children if c[0] in self.needed]
            for child in children:
                alive[child] = where.width(child)
            # Twice: rows with a factor for each entry are written out first.
            values.append(sum(alive.values()) + sum(alive.get(e, 0) for e in outputs))
            for edge in outputs:
                alive.pop(edge, None)
        return [max(1, size) for size in values]

    def prepare(self) -> None:
        """Read what the steps need off the tape."""
        for _, step in self.nodes:
            if step is not None:
                step.prepare(None)

    def run(self, lane: int, meet: Meet, close: Close, ended: Ended) -> None:
        """Walk one lane part by part: `meet` at every site, `ended` where a part is at its end.

        With a `close`, which is called where a part has met all sites, all meet the same parts.
        """
        tiling = self.tiling
        most = tiling.samples if close is None else min(tiling.samples, *tiling.most)
        within = Share(lane, tiling.lanes).of(self.mine.stop - self.mine.start)
        stop = self.mine.start + within.stop
        for start in range(self.mine.start + within.start, stop, most):
            part = slice(start, min(stop, start + most))
            for first in range(self.some.start, self.some.stop, tiling.columns):
                columns = slice(first, min(self.some.stop, first + tiling.columns))
                m = columns.stop - columns.start
                rows = {
                    edge: JacobianRows(m, top.shape[2], top[part, columns])
                    for edge, top in self.tops.items()
                }
                self._walk(rows, 0, part, columns, meet, ended, close is not None)
                if close is not None:
                    close(part, columns)

    def _walk(
        self,
        rows: dict[Edge, JacobianRows],
        at: int,
        part: slice,
        columns: slice,
        meet: Meet,
        ended: Ended,
        retained: bool,
    ) -> None:
        """Go down from node number `at` on; `rows` is used up.

        `retained` says that `meet` may hold on to what it is given.
        """
        meter, like = Cost(), next(iter(self.tops.values()))
        count = part.stop - part.start
        for number in range(at, len(self.nodes)):
            if count > self.tiling.most[number]:
                pieces = -(-count // self.tiling.most[number])
                for i in range(pieces):
                    a, b = count * i // pieces, count * (i + 1) // pieces
                    portion = {edge: jacobian.of(slice(a, b)) for edge, jacobian in rows.items()}
                    within = slice(part.start + a, part.start + b)
                    self._walk(portion, number, within, columns, meet, ended, retained)
                return
            node, step = self.nodes[number]
            for index in self.chain.outputs.get(node, [0]):
                edge = (node, index)
                jacobian = rows.pop(edge, None)
                if jacobian is None:
                    continue
                if edge in self.sites:
                    jacobian = jacobian.apart(like, count)
                    assert jacobian.base is not None
                    meet(edge, jacobian.base, part, columns)
                    jacobian = jacobian.shared_by(2 if retained else 1)
                if step is None:
                    continue
                for child, pulled in step.pull(edge, jacobian, part, like, meter):
                    if child[0] in self.needed:
                        _add(rows, child, pulled, count)
        ended(part, columns)


def _add(alive: dict[Edge, JacobianRows], edge: Edge, rows: JacobianRows, count: int) -> None:
    have = alive.get(edge)
    if have is None:
        alive[edge] = rows
        return
    assert have.base is not None
    alive[edge] = have.plus(rows, have.base, count)
