"""The plan of a batch: for every parameter the cheapest exact method that is proved to apply."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from hessian._batch.chain_choice import ChainChoice, choose_chain
from hessian._batch.plan import Entry, Plan
from hessian._batch.prices import HVP, PREACTIVATION, Prices
from hessian._batch.proof import Proof
from hessian._batch.reading import Reading, Task
from hessian._tape.graph import Edge

LOSS_INSIDE = (
    "The loss is a number that the model returns itself, so that its samples cannot be told apart "
    "and cheaper methods are closed. Let the loss take the model's outputs, e.g. loss=lambda "
    "output, target: cross_entropy(output.logits, target), or loss=hessian.on_logits(cross_entropy)"
    ": the same derivatives, mostly at far fewer passes."
)
CHAIN = "samples stay apart, every operation above has a known step; above it "


def choose(task: Task, reading: Reading, proof: Proof) -> tuple[Plan, ChainChoice | None]:
    """The plan, and what the chain route is chosen for.

    Raises:
        ValueError: the method that the user asked for is not proved for a parameter.
        TooLarge: see `Task`.
    """
    prices, method = Prices(task, reading, proof), task.objective.method
    chained = choose_chain(prices) if method in ("auto", "chain") else None
    entries = {
        name: _link(prices, name, p, chained)
        if chained is not None and name in chained.names
        else prices.entry(name, p)
        for name, p in task.objective.parameters.items()
    }
    if method == "auto":
        _weigh_columns(entries, prices)
    _share_sites(entries, prices)
    _take_entries(entries, prices)
    factored = any(e.method in ("affine", "columns") for e in entries.values())
    factor = proof.curvature.factor if factored else None
    rank = None if factor is None else factor.rank
    return Plan(tuple(entries.values()), task.samples, rank, advice=_advice(task, reading)), chained


def _advice(task: Task, reading: Reading) -> str:
    """What the user could do to make it cheaper."""
    if task.samples > 1 and any(output.tensor.dim() == 0 for output in reading.used):
        return LOSS_INSIDE
    return ""


def _link(prices: Prices, name: str, parameter: Tensor, chained: ChainChoice) -> Entry:
    why = prices.proof.affine.refusal.get(prices.proof.leaf_nodes[name])
    reason = CHAIN + (why or "nothing is curved")
    entries, dims = chained.looked_up.get(name), tuple(parameter.shape)
    if entries is None:
        return Entry(name, dims, "chain", reason, 1, chained.passes)
    reason += f"; {len(entries)} entries of rows that are looked up, too, by a product each"
    return Entry(name, dims, "chain", reason, 1, chained.passes, products=len(entries))


def _weigh_columns(entries: dict[str, Entry], prices: Prices) -> None:
    """One pass per column and sample serves all; it must pay against their own products."""
    columns = [e for e in entries.values() if e.method == "columns"]
    if not columns:
        return
    if sum(prices.products(HVP * e.numel) for e in columns) < prices.time(columns[0]):
        for e in columns:
            entries[e.name] = dataclasses.replace(
                e, method="parameter", forward=1, backward=HVP * e.numel,
                reason=f"{e.reason}; {e.backward} columns cost more than its entries",
            )  # fmt: skip


def _share_sites(entries: dict[str, Entry], prices: Prices) -> None:
    """Share a site's products among its parameters, unless their own entries are fewer."""
    sharers: dict[Edge, list[str]] = {}
    for name, e in entries.items():
        if e.method == "preactivation":
            sharers.setdefault(prices.proof.sites[name][0].edge, []).append(name)
    for number, names in enumerate(sharers.values()):
        single = sum(prices.products(HVP * entries[name].numel) for name in names)
        dear = single <= prices.time(entries[names[0]])
        for name in names:
            e = entries[name]
            if dear and prices.task.objective.method == "auto":
                why = e.reason.removeprefix(PREACTIVATION)
                entries[name] = dataclasses.replace(
                    e, method="parameter", reason=why, backward=HVP * e.numel
                )
            else:
                entries[name] = dataclasses.replace(e, site=number)


def _take_entries(entries: dict[str, Entry], prices: Prices) -> None:
    """Take the products of the wanted entries alone where that is cheaper than all."""
    for name, index in prices.task.sampled.items():
        e, cheap = entries[name], prices.products(HVP * len(index))
        if e.method in ("columns", "preactivation", "parameter") and cheap <= prices.time(e):
            entries[name] = dataclasses.replace(
                e, method="parameter", backward=HVP * len(index), site=None,
                reason=f"{len(index)} of {e.numel} entries, one product each; {e.reason}",
            )  # fmt: skip
