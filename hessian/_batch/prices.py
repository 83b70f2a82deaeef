"""What each exact method costs for a parameter, and why it is proved to apply there, or is not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hessian._batch.curvature import BLOCKS
from hessian._batch.plan import Entry
from hessian._batch.proof import APART, Proof
from hessian._batch.reading import Reading, Task
from hessian._routes import preactivation as _preactivation
from hessian._site.site import Site

PREACTIVATION = "linear in it at one site, samples stay apart; above it "
AFFINE = "the output is affine in each entry"
# A Hessian-vector product runs the tape of a backward pass backward: two passes.
HVP = 2
# What Hessian-vector products take against the chain's sweep, which writes rows and merges forms
# between its own: time of a multiplication, and in multiplications of the sweep what a lane takes
# besides, and the call for all lanes of a parameter or site. Of the size that
# `benchmarks/prices.py` fits to the record of `benchmarks/regret.py`.
SPEED, LANE, CALL = 0.25, 1.25e6, 1.5e7


def is_tied(uses: list[Site]) -> bool:
    """Whether a parameter is met by one operation, and else looked up: a tied embedding.

    Entries of rows that no lookup reads are then those of a weight with one site.
    """
    return len(uses) > 1 and [site.tokens is None for site in uses].count(True) == 1


@dataclass(frozen=True)
class Prices:
    """Methods and their passes, from what was read and proved of a batch."""

    task: Task
    reading: Reading
    proof: Proof

    def entry(self, name: str, parameter: Tensor) -> Entry:
        """The cheapest exact method for a parameter by itself, the chain aside."""
        method, dims, proof = self.task.objective.method, tuple(parameter.shape), self.proof
        node = proof.leaf_nodes.get(name)
        reaches = node is not None and node in proof.affine.reaches
        read = name in self.reading.direct
        if not parameter.numel():
            return Entry(name, dims, "zero", "it has no entries", 0, 0)
        if not reaches and not read:
            return Entry(name, dims, "zero", "the loss does not depend on it", 0, 0)
        if method == "parameter":
            why = "chosen with method='parameter'; exact for anything"
            return self._by_parameter(name, parameter, why)
        if read and name not in self.reading.separable:
            why = "the loss reads it in a way that is not a sum over its entries"
            return self._by_parameter(name, parameter, why)
        if node is None or not reaches:
            return Entry(name, dims, "separable", "the loss's term is a sum over its entries", 1, 2)
        refusal = proof.affine.refusal.get(node)
        if method == "chain":
            why = self.unlinked(name) or "it takes no part in the chain"
            return self._by_parameter(name, parameter, why)
        uses = proof.sites.get(name, [])
        wanted = method == "preactivation" or (refusal is not None and method == "auto")
        if wanted and len(uses) == 1 and uses[0].positions is not None:
            why = refusal or "chosen with method='preactivation'"
            return Entry(
                name, dims, "preactivation", f"{PREACTIVATION}{why}", 1,
                HVP * _preactivation.products(uses[0]),
            )  # fmt: skip
        if refusal is not None or method == "preactivation":
            why = refusal or proof.obstacle.get(name, "it is not used at one site")
            return self._by_parameter(name, parameter, why)
        return self._affine(name, parameter)

    def _by_parameter(self, name: str, parameter: Tensor, why: str) -> Entry:
        method = self.task.objective.method
        if method in ("affine", "chain", "preactivation"):
            raise ValueError(
                f"method={method!r} is not proved to be exact for parameter {name!r}: {why}; "
                "use method='auto', or leave the parameter out with names="
            )
        return Entry(name, tuple(parameter.shape), "parameter", why, 1, HVP * parameter.numel())

    def _affine(self, name: str, parameter: Tensor) -> Entry:
        """By columns of the loss's second derivative, where the output is affine in it."""
        curvature, dims = self.proof.curvature, tuple(parameter.shape)
        own_term = name in self.reading.direct
        extra = "; the loss's own term in it is a sum over its entries" if own_term else ""
        if curvature.most is not None and not curvature.is_factored:
            self.task.check(BLOCKS * (curvature.entries // self.task.samples) ** 2)
        if curvature.factor is None:
            if curvature.outputs:
                return self._by_parameter(name, parameter, curvature.refusal)
            return Entry(name, dims, "affine", f"{AFFINE} and {curvature.refusal}{extra}", 1, 0)
        rank = curvature.factor.rank
        if name in self.proof.sites and curvature.layouts is not None:
            return Entry(name, dims, "affine", f"{AFFINE}, samples stay apart{extra}", 1, rank)
        n = self.task.samples if curvature.layouts is not None else 1
        coupled = "" if self.task.samples == 1 else "the loss couples samples"
        why = self.proof.obstacle.get(name, coupled)
        reason = f"{AFFINE}{'; ' + why if why else ''}{extra}"
        return Entry(name, dims, "columns", reason, 1, rank * n)

    @cached_property
    def unit(self) -> float:
        """Multiplications of a backward pass over the batch, where the chain's steps know them."""
        chain = self.proof.chain
        return 0.0 if chain is None else chain.pass_work() * self.task.samples

    def time(self, entry: Entry) -> float:
        """What an entry's passes take, in passes of the chain."""
        if entry.method in ("preactivation", "parameter"):
            return self.products(entry.backward)
        return float(entry.backward)

    def products(self, passes: int) -> float:
        """What so many passes of Hessian-vector products take, in passes of the chain."""
        if not passes or not self.unit:
            return float(passes)
        return SPEED * passes * (1.0 + LANE / self.unit) + CALL / self.unit

    def unlinked(self, name: str) -> str | None:
        """Why the chain route does not serve a parameter, ``None`` where it does."""
        proof, curvature = self.proof, self.proof.curvature
        uses = proof.sites.get(name)
        if proof.chain is None or (curvature.outputs and curvature.layouts is None):
            return "the loss is not proved to keep samples apart"
        if uses is None:
            return proof.obstacle.get(name, APART)
        if uses[0].positions is None or (len(uses) > 1 and not is_tied(uses)):
            return "it is not used at one site of a known kind"
        if curvature.outputs and curvature.form is None:
            return curvature.refusal
        return proof.chain.obstacle(uses[0])

    def looked_up(self, name: str) -> Tensor | None:
        """The flat entries of a tied parameter that are met by lookups, too.

        Of them the wanted ones, where not all are wanted.
        """
        uses = self.proof.sites.get(name, [])
        if not is_tied(uses):
            return None
        tokens = torch.cat([site.tokens.flatten() for site in uses[1:] if site.tokens is not None])
        rows, width = tokens[tokens >= 0].unique(), self.task.objective.parameters[name].shape[1]
        entries = (rows.unsqueeze(1) * width + torch.arange(width, device=rows.device)).flatten()
        wanted = self.task.sampled.get(name)
        return entries if wanted is None else wanted[torch.isin(wanted, entries)]

    def otherwise(self, name: str) -> float:
        """What the cheapest other exact method takes for a parameter, in passes of the chain."""
        entry = self.entry(name, self.task.objective.parameters[name])
        wanted = self.task.sampled.get(name)
        count = entry.numel if wanted is None else len(wanted)
        return min(self.time(entry), self.products(HVP * count))

    def widths(self) -> list[int]:
        """Entries per sample of each used output that the loss is curved in, else 0."""
        curved = set(map(id, self.proof.curvature.outputs))
        return [
            output.cut.numel() // self.task.samples if id(output) in curved else 0
            for output in self.reading.used
        ]
