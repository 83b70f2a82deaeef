"""All columns of a few samples, pulled back together from the outputs to every site.

One walk down the tape carries rows ``[m, r, d]`` (m samples, r columns, d entries of a sample's
tensor) through the steps that the chain route knows (`_step`): columns fold into the batch axis, no
gradient of a weight is formed on the way, and the parts are small enough to stay in the cache. How
many samples and columns come at a time follows from the memory allowed, not from the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from hessian._chain import Chain
from hessian._columns import Columns, Meter
from hessian._share import ALL, Share
from hessian._step import ByNode, Step
from hessian._tape import Edge, Node

# What is larger than a processor's last cache is slower to fetch than to compute in parts.
CACHE = 2**25

# (edge, rows, samples, columns)
Meet = Callable[[Edge, Tensor, slice, slice], None]
Close = Callable[[slice, slice], None]


class Sweep:
    """The walk from `tops`, columns ``[n, r, d]`` at the outputs, to the `edges` of sites."""

    def __init__(
        self,
        chain: Chain,
        edges: list[Edge],
        tops: Mapping[Edge, Tensor],
        memory: int,
        share: Share = ALL,
    ) -> None:
        self.chain, self.tops, self.sites = chain, tops, set(edges)
        self.needed = chain._needed(list(self.sites))
        self.nodes: list[tuple[Node, Step | None]] = []
        for node in chain.tape.order:
            if node in self.needed:
                found = chain.steps.get(node)
                live = isinstance(found, Step) and any(c[0] in self.needed for c in found.children)
                self.nodes.append((node, found if live and isinstance(found, Step) else None))
        top = next(iter(tops.values()))
        self.n, self.rank = top.shape[:2]
        each = self._alive() * top.element_size()  # of one row
        room = memory if top.is_cuda else min(memory, CACHE)
        # Where an operation is read off autograd's node, that knows all samples only.
        whole = any(isinstance(step, ByNode) for _, step in self.nodes)
        least = self.n if whole else 1
        self.columns = max(1, min(self.rank, memory // max(1, least * each)))
        room //= max(1, self.columns * each)
        self.samples = self.n if whole else max(1, min(self.n, room))
        # Each process takes some samples, or where they cannot be told apart some columns.
        by_columns = whole or self.n < share.size
        self.mine = slice(0, self.n) if by_columns else share.of(self.n)
        self.some = share.of(self.rank) if by_columns else slice(0, self.rank)

    def _alive(self) -> int:
        """Values per sample and column alive at once: rows, and what a step makes of them."""
        where, peak = self.chain.where, 1
        alive: dict[Edge, int] = {edge: top.shape[2] for edge, top in self.tops.items()}
        for node, step in self.nodes:
            mine = [(node, i) for i in self.chain.outputs.get(node, [0])]
            children = [] if step is None else [c for c in step.children if c[0] in self.needed]
            for child in children:
                alive[child] = where.width(child)
            # Twice: rows with a factor for each entry are written out first.
            peak = max(peak, sum(alive.values()) + sum(alive.get(e, 0) for e in mine))
            for edge in mine:
                alive.pop(edge, None)
        return peak

    def run(self, meet: Meet, close: Close, tick: Callable[[int], None]) -> None:
        """Walk part by part: `meet` at every site, `close` at the end of a part."""
        for _, step in self.nodes:
            if step is not None:
                step.prepare(None)
        total, done = self.n * self.rank, 0
        for start in range(self.mine.start, self.mine.stop, self.samples):
            part = slice(start, min(self.mine.stop, start + self.samples))
            for first in range(self.some.start, self.some.stop, self.columns):
                some = slice(first, min(self.some.stop, first + self.columns))
                self._walk(part, some, meet)
                close(part, some)
                before = done * self.rank // total
                done += (part.stop - part.start) * (some.stop - some.start)
                tick(done * self.rank // total - before)

    def _walk(self, part: slice, some: slice, meet: Meet) -> None:
        meter = Meter()
        count = part.stop - part.start
        like = next(iter(self.tops.values()))
        alive: dict[Edge, Columns] = {}
        for edge, top in self.tops.items():
            _add(alive, edge, Columns(some.stop - some.start, top.shape[2], top[part, some]), count)
        for node, step in self.nodes:
            for index in self.chain.outputs.get(node, [0]):
                edge = (node, index)
                rows = alive.pop(edge, None)
                if rows is None:
                    continue
                if edge in self.sites:
                    dense = rows.dense(like, count)
                    rows = Columns(rows.m, rows.d, dense)
                    meet(edge, dense, part, some)
                if step is None:
                    continue
                for child, got in step.pull(edge, rows, part, like, meter):
                    if child[0] in self.needed:
                        _add(alive, child, got, count)


def _add(alive: dict[Edge, Columns], edge: Edge, rows: Columns, count: int) -> None:
    have = alive.get(edge)
    if have is None:
        alive[edge] = rows
        return
    assert have.base is not None
    alive[edge] = have.plus(rows, have.base, count)
