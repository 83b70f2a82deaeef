"""When sources of curvature are merged into one form in the entries of a single tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from hessian._loss import pairs
from hessian._loss.dry_run import evaluated
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.source import Source, carrying
from hessian._routes._chain.steps.base import Step
from hessian._tape.graph import Edge, Node

# So many rows that reach a window each, for an entry of the tensor, are written out to be merged.
MANY = 4


class Rule(NamedTuple):
    """How a policy decides.

    `most`: sources are merged where they have more rows than this many times the tensor's entries,
    ``None`` where that is judged by the futures' costs. `carry`: a merged form's product with the
    rows is carried down beside them, instead of being computed where it is asked for.
    """

    most: float | None = None
    carry: bool = False


# The first is tried by itself; where a sweep takes long, the cheapest of all is.
RULES = (Rule(), Rule(carry=True), Rule(0.75, True), Rule(0.75), Rule(1.0, True))


class Policy:
    """When to collapse sources to one matrix at a tensor that all their effects go through.

    Compared are two futures: pulling the rows that there are, and those that later operations will
    add, all the way down; or collapsing here and at every chance from here on.
    """

    def __init__(
        self,
        nodes: list[Node],
        steps: Mapping[Node, Step | str],
        sites: Iterable[Edge],
        rule: Rule = RULES[0],
    ) -> None:
        self.rule = rule
        known_steps = [s if isinstance(s := steps.get(node), Step) else None for node in nodes]
        costs = [0.0 if s is None else s.cost() for s in known_steps]
        self.costs = [
            (cost, 0 if s is None else s.parts) for cost, s in zip(costs, known_steps, strict=True)
        ]
        self.structured = any(parts > 1 for _, parts in self.costs)
        # The last site's own operation is not pulled through.
        site_nodes = {node for node, _ in sites}
        last = max((i for i, node in enumerate(nodes) if node in site_nodes), default=len(nodes))
        size = len(nodes)
        self.below, self.apart, self.joint, self.squares = ([0.0] * (size + 1) for _ in range(4))
        # Where the first and the second operation from here on is that writes rows out.
        self.hop, self.second = [size] * (size + 1), [size] * (size + 1)
        dense = False
        for i in range(size - 1, -1, -1):
            s, cost = known_steps[i], costs[i] if i < last else 0.0
            live = s is not None and i < last
            self.below[i] = self.below[i + 1] + cost
            self.hop[i], self.second[i] = self.hop[i + 1], self.second[i + 1]
            if live and s is not None and not s.lazy:
                self.hop[i], self.second[i] = i, self.hop[i + 1]
            rows = s.rows() if live and s is not None else 0
            self.apart[i] = self.apart[i + 1] + rows * self.below[self.second[i + 1]]
            joint = squares = 0.0
            if live and s is not None:
                joint = cost * s.d
                if s.dense:
                    joint += cost * sum(s.widths) if dense else 0.0
                    squares = float(sum(s.widths))
                    dense = True
            self.joint[i] = self.joint[i + 1] + joint
            self.squares[i] = self.squares[i + 1] + squares

    def collapse(
        self, sources: list[Source], edge: Edge, number: int, n: int, like: Tensor, meter: Cost
    ) -> list[Source]:
        """The sources, those that may and should be merged at a tensor being one."""
        here: list[Source] = []
        rest: list[Source] = []
        for s in sources:
            rows = s.local(edge)
            if not s.only(edge) or (rows is not None and rows.m < MANY * rows.d):
                rest.append(s)
            else:
                here.append(s if rows is None else s.written_out(edge, like, n))
        if not here:
            return sources
        plain: list[Source] = []
        written: list[Source] = []
        for s in here:
            (plain if s.plain(edge) else written).append(s)
        if written and self._pays(here, edge, number):
            return [*rest, self._merged(here, edge, n, like, meter)]
        if len(plain) > 1 or (plain and plain[0].rows(edge).scale is not None):
            return [*rest, *written, self._merged(plain, edge, n, like, meter)]
        return sources

    def _pays(self, here: list[Source], edge: Edge, number: int) -> bool:
        families = [
            rows for s in here
            for rows in (s.both(edge) if s.others is not None else (s.rows(edge),))
        ]  # fmt: skip
        written = [rows for rows in families if not rows.identity]
        if self.rule.most is not None:
            return sum(rows.m for rows in written) > self.rule.most * families[0].d
        now = apart = 0.0
        for s in here:
            form, rows = s.form, s.rows(edge)
            full = form is not None and form.kind == "full"
            if s.others is not None:
                now += pairs.gram_work(*s.both(edge))
            elif not rows.identity:
                now += rows.m * rows.d * (rows.d + (rows.m if full else 0)) / rows.blocks**2
            apart += rows.m * rows.m * self.squares[number] if full else 0
        for rows in families:
            shared = rows.base is not None and rows.base.dim() == 2
            start = self.second if rows.identity else self.hop if shared else None
            apart += rows.m * self._below(number if start is None else start[number], rows.grain)
        return now + self.joint[number] < apart + self.apart[number]

    def _below(self, number: int, grain: int) -> float:
        """What a row costs from an operation on, in blocks as long as operations leave them."""
        if not self.structured:
            return self.below[number]
        total = 0.0
        for cost, parts in self.costs[number:]:
            grain = math.gcd(grain, parts)
            total += cost / max(1, grain)
        return total

    def _merged(self, here: list[Source], edge: Edge, n: int, like: Tensor, meter: Cost) -> Source:
        forms = [s.gram(edge, like, n, meter) for s in here]
        form = _sum(forms, n, like)
        if self.rule.carry and form.kind == "full":
            return carrying(form, edge, like, n)
        d = here[0].columns[edge].d
        return Source(form, {edge: JacobianRows(d, d)})


def _sum(forms: list[Quadratic], n: int, like: Tensor) -> Quadratic:
    """The sum of forms that are diagonal or full."""
    full = sorted((f for f in forms if f.kind == "full"), key=lambda f: f.parts)
    flat = [f.values for f in forms if f.kind != "full"]
    if not full:
        return Quadratic("diagonal", evaluated(like, flat[0].shape, lambda: sum(flat[1:], flat[0])))
    parts = math.gcd(*(f.parts for f in full))
    first = full[0].cut(parts, n).values

    def total() -> Tensor:
        values = first.clone() if len(forms) > 1 else first
        for form in full[1:]:
            _add_blocks(values, form.values, form.parts // parts)
        for diagonal in flat:
            values.diagonal(dim1=1, dim2=2).add_(diagonal.reshape(values.shape[:2]))
        return values

    return Quadratic("full", evaluated(like, first.shape, total), parts=parts)


def _add_blocks(into: Tensor, blocks: Tensor, each: int) -> None:
    """Add `each` blocks along the diagonal of every matrix."""
    if each == 1:
        into += blocks
        return
    width = blocks.shape[1]
    inside = into.view(len(into), each, width, each, width).diagonal(dim1=1, dim2=3)
    inside += blocks.view(len(into), each, width, width).permute(0, 2, 3, 1)
