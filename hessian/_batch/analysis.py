"""One batch: read, proved, planned, and the plan carried out; each step a function of those before.

reading   what the loss does to the model's outputs, off the loss's own tape
proof     what the network's tape proves of every parameter
plan      the cheapest exact method that is proved to apply
run       the diagonal
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hessian._batch.curvature import BLOCKS, output_curvature
from hessian._batch.execute import Caller, Execution
from hessian._batch.planner import choose
from hessian._batch.proof import Proof, prove
from hessian._batch.reading import ONCE, Reading, Task, read_loss
from hessian._call.objective import Objective, Start
from hessian._runtime.checkpoint import Checkpoint
from hessian._tape.graph import is_leaf, size
from hessian._tape.layouts import Layout, Mark

# Working set in multiples of the forward tape under a double backward; see also `ONCE`.
TAPES = 6


class Analysis(Execution):
    """What is known of a batch, up to its plan, for all that ask; `run` carries the plan out."""

    @property
    def loss(self) -> Tensor:
        """The loss, on its own tape."""
        return self.reading.loss

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.task.samples

    @property
    def tape_bytes(self) -> int:
        """Bytes of the network's tape."""
        return self.proof.tape_bytes

    @property
    def slopes(self) -> list[Tensor]:
        """dL/d(output) at the outputs that the loss reads."""
        return [output.slope.detach() for output in self.reading.used]

    @property
    def layouts(self) -> list[Layout]:
        """Where samples lie in these; none where that is not known."""
        return self.proof.layouts

    def on_tape(self) -> float:
        """Bytes that each sample adds to the tape."""
        chain = self.proof.chain
        labels = {} if chain is None else chain.where.labels
        tape = sum(
            size(node) for node in self.proof.tape.order
            if not is_leaf(node) and labels.get((node, 0)) is not Mark.SHARED
        )  # fmt: skip
        return (tape + self.reading.hidden_bytes) / self.samples

    def need(self) -> float:
        """Bytes that each sample adds to what is held at once."""
        outputs, chain = self.reading.outputs, self.proof.chain
        item = outputs[0].tensor.element_size() if outputs else 0
        methods = {e.method for e in self.plan}
        twice = methods & {"preactivation", "parameter"}
        need = (TAPES if twice else ONCE) * self.on_tape()
        pairs = [
            positions.count**2 for name, uses in self.proof.sites.items() for site in uses
            if (positions := site.positions) is not None
            and (site.tokens is not None or self.plan[name].method == "preactivation")
        ]  # fmt: skip
        need += 2 * item * max(pairs, default=0)
        need += BLOCKS * self.proof.curvature.width**2
        if self.chain_choice is not None and chain is not None and chain.together():
            need += item * self.chain_choice.meter.peak
        return need

    def separable_terms(self) -> dict[str, Tensor]:
        """Diagonal of the loss's own term in parameters whose entries it keeps apart."""
        return self.reading.separable_terms(self.task.objective.parameters)


def analysed(
    objective: Objective,
    inputs: Any,
    targets: Any,
    index: int,
    sampled: Mapping[str, Tensor] | None = None,
    bounded: bool = False,
    start: Start | None = None,
    checkpoint: Checkpoint | None = None,
) -> Analysis:
    """The analysis of a whole batch; the arguments are those of a `Task`.

    Raises:
        TooLarge: with `bounded`, where the working set would exceed the memory.
        ValueError: the method asked for is not proved to apply, or the loss is not differentiable.
    """
    start = start or Start(objective)
    task = Task(objective, inputs, targets, index, start, sampled or {}, bounded, checkpoint)
    reading = read_loss(task)
    proof = prove(task, reading, lambda: output_curvature(task, reading))
    return planned(task, task, reading, proof)


def planned(task: Task, caller: Caller, reading: Reading, proof: Proof) -> Analysis:
    """The analysis with its plan."""
    plan, choose_chain = choose(task, reading, proof)
    analysis = Analysis(task, caller, reading, proof, plan, choose_chain)
    task.check(analysis.need())
    return analysis
