"""What the loss does to the model's outputs: its value, its slopes, how it treats samples.

The loss is called on outputs that are cut off the network's tape. Its own tape then shows what it
does to them, and whether it reads parameters by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from hessian import trees
from hessian._call import data as _data
from hessian._call import outputs as _outputs
from hessian._call.forward import TooLarge
from hessian._call.objective import Objective, Start
from hessian._call.state import Randomness
from hessian._loss import output_hessian as _loss
from hessian._runtime.checkpoint import Checkpoint, FinishedEntries
from hessian._tape import hidden as _hidden
from hessian._tape.certificate import LINEAR, loss_labels, separable
from hessian._tape.graph import Edge, Node, Tape, refuse_undifferentiable, size
from hessian._tape.layouts import Layout
from hessian._tape.opaque import refuse_opaque

# Working set in multiples of the forward tape where there are only adjoints beside it.
ONCE = 3


@dataclass(frozen=True)
class Task:
    """What is asked for of a batch.

    `sampled` are flat entries that are wanted of each parameter, all of them where it is empty;
    `start` is what random state and buffers are before the call. With `bounded`, `TooLarge` is
    raised where the working set would exceed the memory. A `checkpoint` knows finished entries.
    """

    objective: Objective
    inputs: Any
    targets: Any
    index: int
    start: Start
    sampled: Mapping[str, Tensor] = field(default_factory=dict)
    bounded: bool = False
    checkpoint: Checkpoint | None = None

    @property
    def where(self) -> str:
        """What tells the parts of a batch apart; this is all of it."""
        return ""

    def finished(self, where: str) -> FinishedEntries:
        """The wanted entries that are known already, of the batch or of a part of it."""
        if self.checkpoint is None:
            return FinishedEntries({}, {}, None)
        return self.checkpoint.entries(f"batch {self.index}{where}", self.sampled)

    @cached_property
    def samples(self) -> int:
        """Number of samples in the batch."""
        return _data.size(self.inputs)

    def check(self, each: float) -> None:
        """Raise `TooLarge` where the samples, at so many bytes each, exceed the memory."""
        if self.bounded and self.samples > 1 and each * self.samples > self.objective.memory:
            raise TooLarge

    def output(self) -> Any:
        """What the model makes of the inputs, on its tape."""
        limit = self.objective.memory // ONCE if self.bounded and self.samples > 1 else None
        return self.objective.output(self.inputs, self.index, limit)

    def value(self, output: Any) -> Tensor:
        """The loss of such an output, on a tape that connects it with the parameters."""
        return self.objective.scalar(output, self.inputs, self.targets, self.index)

    def repeats(self, value: Tensor, reading: Reading) -> bool:
        """Whether the loss of a second call is that of the first."""
        return _hidden.equal(value, reading.loss)


@dataclass
class Output:
    """A tensor among the leaves of what the model returns, and what the loss does to it.

    `tensor` is on the network's tape, `cut` holds the same values off it; `gradient` is dL/d(cut)
    on the loss's tape, `None` where the loss does not read it. `label` says how samples lie in the
    gradient: a layout, `LINEAR` where the gradient does not depend on the outputs, or a mark.
    """

    place: int
    tensor: Tensor
    cut: Tensor
    values: Tensor
    gradient: Tensor | None = None
    label: Any = LINEAR
    entrywise: bool = False  # the loss is a sum of functions of one entry each, and of the rest

    @classmethod
    def of(cls, place: int, tensor: Tensor) -> Output:
        """One that the loss was not read on yet."""
        return cls(place, tensor, tensor.detach().requires_grad_(), tensor.detach())

    @property
    def slope(self) -> Tensor:
        """dL/d(cut) of an output that the loss reads."""
        if self.gradient is None:
            raise AssertionError("the loss does not read this output")
        return self.gradient


class LogSoftmax(NamedTuple):
    """The log-softmax or log-sum-exp of the only output that the loss is affine in; its slope."""

    edge: Edge
    adjoint: Tensor


@dataclass
class Reading:
    """The outputs, and the loss as a function of them.

    `again` are leaves that are another one once more. `direct` is dL/dw of parameters that the loss
    reads by itself, `separable` those in whose entries it is a sum. `hidden` names a way into the
    network beside the outputs.
    """

    structure: Any
    outputs: list[Output]
    again: dict[int, int]
    loss: Tensor
    end: Randomness
    direct: dict[str, Tensor | None] = field(default_factory=dict)
    separable: frozenset[str] = frozenset()
    softmax: LogSoftmax | None = None
    hidden: str = ""
    hidden_bytes: int = 0
    writes: bool = False  # whether the loss writes to the outputs that it is given

    @property
    def used(self) -> list[Output]:
        """The outputs that the loss reads."""
        return [output for output in self.outputs if output.gradient is not None]

    @property
    def places(self) -> list[int]:
        """Where the outputs lie among the leaves."""
        return [output.place for output in self.outputs]

    def used_of(self, output: Any) -> list[Tensor]:
        """The leaves that the loss reads, of another output of the model."""
        leaves = _outputs.opened(output)[0]
        return [leaves[each.place] for each in self.used]

    def untouched(self, output: Any) -> Any:
        """The output to call the loss with: a copy on the same tape, where it writes to it."""
        if not self.writes or not self.outputs:
            return output
        leaves, structure = _outputs.opened(output)
        copies = list(leaves)
        for each in self.outputs:
            copies[each.place] = leaves[each.place].clone()
        for place, first in self.again.items():
            copies[place] = copies[first]
        return structure.rebuilt(copies)

    def separable_terms(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Diagonal of the loss's own term in parameters whose entries it keeps apart: H·1."""
        slopes = {
            name: g
            for name in self.direct
            if name in self.separable
            and (g := self.direct.get(name)) is not None
            and g.requires_grad
        }
        if not slopes:
            return {}
        terms = torch.autograd.grad(
            list(slopes.values()), [parameters[name] for name in slopes],
            [torch.ones_like(g) for g in slopes.values()], retain_graph=True, allow_unused=True,
        )  # fmt: skip
        return {name: h.detach() for name, h in zip(slopes, terms, strict=True) if h is not None}

    def release(self) -> None:
        """Let go of the tapes; where the outputs lie and what they were stays known."""
        for each in self.outputs:
            each.tensor = each.cut = each.values
            each.gradient = None if each.gradient is None else each.gradient.detach()
        self.direct = {}


class LossCall(NamedTuple):
    """One call of the loss and its tape.

    `hidden` and `hidden_bytes` are what that tape holds of the network, beside the outputs.
    """

    loss: Tensor
    tape: Tape
    end: Randomness
    hidden: str
    hidden_bytes: int
    writes: bool = False


def read_loss(task: Task) -> Reading:
    """Call the model and the loss, and read the loss's tape."""
    leaves, structure = _outputs.opened(task.output())
    places, again = _outputs.distinct(leaves)
    outputs = [Output.of(place, leaves[place]) for place in places]
    call = _cut(task, leaves, structure, outputs, again)
    if call is None:
        outputs, again = [], {}
        call = _joined(task)
    return differentiated(task, call, structure, outputs, again)


def differentiated(
    task: Task, call: LossCall, structure: Any, outputs: list[Output], again: dict[int, int]
) -> Reading:
    """The loss's slopes at the outputs and at parameters it reads, and what its tape proves."""
    reading = Reading(
        structure, outputs, again, call.loss, call.end,
        hidden=call.hidden, hidden_bytes=call.hidden_bytes, writes=call.writes,
    )  # fmt: skip
    if not call.loss.requires_grad:
        return reading
    parameters = task.objective.parameters
    tape, loss = call.tape, call.loss
    leaves = tape.leaves()
    labels = loss_labels(tape, task.samples)
    refuse_opaque(tape, [loss], [torch.ones_like(loss)], parameters)
    read = [name for name, p in parameters.items() if id(p) in leaves]
    edge = _log_softmax(tape, labels, leaves, outputs)
    if edge is None:
        for output in outputs:
            leaf = leaves.get(id(output.cut))
            output.entrywise = leaf is not None and separable(tape, labels, leaf)
    closed = [] if edge is None else [GradientEdge(*edge)]
    wanted: list[Any] = [
        *(output.cut for output in outputs), *(parameters[name] for name in read), *closed
    ]  # fmt: skip
    slopes = list(torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True))
    if edge is not None:
        reading.softmax = LogSoftmax(edge, slopes.pop())
    refuse_undifferentiable(slopes)
    for output, slope in zip(outputs, slopes, strict=False):
        output.gradient = slope
        if slope is not None:
            output.label = labels.get((leaves[id(output.cut)], 0), LINEAR)
    reading.direct = dict(zip(read, slopes[len(outputs) :], strict=True))
    reading.separable = frozenset(
        name for name in read if separable(tape, labels, leaves[id(parameters[name])])
    )
    return reading


def handed(leaves: list[Any], outputs: Sequence[Output], again: Mapping[int, int]) -> list[Any]:
    """The leaves that the loss is called with: its outputs are cut off the tape."""
    copies = list(leaves)
    for output in outputs:
        copies[output.place] = output.cut.clone()  # a loss may change its argument in place
        copies[output.place].__dict__.update(leaves[output.place].__dict__)
    for place, first in again.items():
        copies[place] = copies[first]
    return copies


def looked_behind(task: Task, loss: Tensor, begin: int, outputs: Sequence[Tensor]) -> LossCall:
    """The call of the loss that began at node `begin`, and what its tape holds of the network."""
    end = Randomness(task.objective.devices())
    tape = Tape.of([loss]) if loss.requires_grad else Tape([])
    nodes = _hidden.older(tape, begin, task.objective.parameters.values(), outputs)
    name = nodes[0].name() if nodes else ""
    return LossCall(loss, tape, end, name, sum(size(node) for node in nodes))


def _cut(
    task: Task,
    leaves: list[Any],
    structure: Any,
    outputs: Sequence[Output],
    again: Mapping[int, int],
) -> LossCall | None:
    """The loss's tape on outputs that are cut off; `None` where that is another loss."""
    begin = _hidden.now()
    copies = handed(leaves, outputs, again)
    derivatives: list[tuple[Any, Any]] = []
    task.objective.derivatives = derivatives
    try:
        loss = task.value(structure.rebuilt(copies))
    except ValueError:
        if not structure.objects and not derivatives:
            raise
        return None  # a copy of an object is not as good as the object
    finally:
        task.objective.derivatives = None
    tensors = [output.tensor for output in outputs]
    if any(_leads_behind(*pair, outputs) for pair in derivatives):
        return None
    call = looked_behind(task, loss, begin, tensors)
    call = call._replace(writes=any(copies[output.place]._version > 0 for output in outputs))
    if call.writes and _share_memory(tensors):
        return None  # what is written to one of them shows in the others
    if (call.hidden or structure.objects) and not _alike(task, loss):
        return None
    return call


def _leads_behind(values: Any, by: Any, outputs: Sequence[Output]) -> bool:
    """Whether a derivative that the loss took of `values` leads through the model's outputs.

    On outputs that are cut off it ends there: it is zero, or missing.
    """
    cuts = {id(output.cut) for output in outputs}
    of = [leaf for leaf in trees.leaves(values) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not cuts & set(Tape.of(of).leaves()):
        return False
    if by is None:
        return True
    network = Tape.of([output.tensor for output in outputs if output.tensor.requires_grad])
    leaves, nodes = network.leaves(), set(network.order)
    return any(
        not isinstance(leaf, Tensor) or id(leaf) in leaves or leaf.grad_fn in nodes
        for leaf in trees.leaves(by)
    )


def _alike(task: Task, loss: Tensor) -> bool:
    """Whether the loss of the outputs as they are is that of the cut ones put in their place.

    Without a tape, and on another call of the model: a loss may write to what it is given.
    """
    task.start.rewind()
    try:
        with torch.no_grad():
            value = task.value(task.output())
    except ValueError:  # a loss that takes derivatives
        return False
    return _hidden.equal(value, loss)


def _joined(task: Task) -> LossCall:
    """The tape of the loss as one scalar of the parameters, without outputs between them."""
    task.start.rewind()
    loss = task.value(task.output())
    return looked_behind(task, loss, _hidden.now(), [])


def _log_softmax(
    tape: Tape, labels: Mapping[Edge, Any], leaves: Mapping[int, Node], outputs: Sequence[Output]
) -> Edge | None:
    """The log-softmax or log-sum-exp of the only output, if the loss is curved in no other."""
    if len(outputs) != 1 or id(outputs[0].cut) not in leaves:
        return None
    leaf = leaves[id(outputs[0].cut)]
    if not isinstance(labels.get((leaf, 0)), Layout):
        return None
    softmax = _loss.log_softmax(tape, lambda edge: labels.get(edge) == LINEAR, leaf)
    if softmax is not None:
        return softmax
    curved = {node for (node, _), label in labels.items() if label != LINEAR}
    return _loss.logsumexp(tape, curved, leaf)


def _share_memory(outputs: Sequence[Tensor]) -> bool:
    """Whether two of the outputs lie in the same memory."""
    try:
        places = [t.untyped_storage().data_ptr() for t in outputs]
    except (RuntimeError, NotImplementedError):  # a sparse tensor, which has no storage
        return True
    return len(set(places)) < len(places)
