"""What is differentiated: model and loss as the user calls them, and the state they begin in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hessian._call import data as _data
from hessian._call import precision as _precision
from hessian._call.attributes import Attributes
from hessian._call.forward import Watch
from hessian._call.labelled import called
from hessian._call.state import Buffers, Randomness
from hessian._call.written import Written
from hessian._runtime.share import ALL, Share
from hessian._tape.hidden import Firsts

METHOD_CHOICES = ("auto", "affine", "chain", "preactivation", "parameter")
AGAIN = (
    "{} batch {} differ from one call to the next; keep no state outside of buffers and attributes "
    "of modules (in a global, a closure, an object of another kind), or reset it in forward"
)


@dataclass
class Objective:
    """What to differentiate: a model, a loss, how to call the model, which parameters."""

    model: nn.Module
    loss: _data.Loss
    forward: _data.Forward | None
    parameters: dict[str, Tensor]
    method: str
    bound: int  # bytes of working set
    read: bool = False  # whether a tape of model and loss was looked at for what it hides
    firsts: Firsts = field(default_factory=Firsts)  # losses of a first pass
    share: Share = ALL  # of the work: what `run` gives is summed over processes
    written: Written = field(default_factory=Written)  # parameters that a call wrote to
    asked: torch.dtype | None = None  # the dtype that the user wants the results in
    # Where the derivatives go that the loss takes by itself, while somebody looks at them.
    derivatives: list[tuple[Any, Any]] | None = None

    def __post_init__(self) -> None:
        self.dtypes = {name: self.asked or p.dtype for name, p in self.parameters.items()}

    def hold(self, dtype: torch.dtype) -> None:
        """Compute in a precision of at least this one from here on."""
        _precision.convert(self.modules(), dtype, self.asked)

    def returned(self, values: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
        """Results by parameter in the dtype they are wanted in."""
        return {
            name: _precision.fit(v, self.dtypes[name], name, what) for name, v in values.items()
        }

    @property
    def memory(self) -> int:
        """Half of the bound: the other half is for what all samples of a batch hold together."""
        return max(1, self.bound // 2)

    def modules(self) -> list[nn.Module]:
        """The modules whose buffers a forward pass may change."""
        return [m for m in (self.model, self.loss) if isinstance(m, nn.Module)]

    def parts(self) -> list[nn.Module]:
        """These modules and all that are inside them, each once."""
        return list(dict.fromkeys(part for module in self.modules() for part in module.modules()))

    def devices(self) -> set[torch.device]:
        """Devices of the parameters."""
        return {p.device for p in self.parameters.values()}

    def value(self, inputs: Any, targets: Any, index: int) -> tuple[Any, Tensor]:
        """Output and loss on one batch, connected on one tape."""
        output = self.output(inputs, index)
        return output, self.scalar(output, inputs, targets, index)

    def output(self, inputs: Any, index: int, limit: int | None = None) -> Any:
        """What the model makes of the inputs.

        Raises:
            TooLarge: the tape takes more than `limit` bytes.
        """
        with (
            _data.named("model could not be called on inputs", inputs, index),
            Watch(self.written, limit),
            _precision.held(),
        ):
            return _data.call(self.model, inputs, self.forward)

    def scalar(self, output: Any, inputs: Any, targets: Any, index: int) -> Tensor:
        """What the loss makes of an output."""
        value = self.unchecked(output, targets, index)
        return _data.check_loss(value, index, inputs, self.parameters)

    def unchecked(self, output: Any, targets: Any, index: int) -> Any:
        """The same, whatever it is."""
        with (
            _data.named("loss could not be computed with targets", targets, index),
            Watch(self.written, None, self.derivatives),
            _precision.held(),
        ):
            return called(self.loss, output, targets)


class Start:
    """Random state, buffers and attributes at the start of a batch: every pass sees the same."""

    def __init__(self, objective: Objective) -> None:
        parts = objective.parts()
        self._randomness = Randomness(objective.devices())
        self._buffers = Buffers(parts)
        self._attributes = Attributes(parts)
        self._written = objective.written

    def rewind(self, randomness: Randomness | None = None) -> None:
        """Back to the start: the same running statistics and, unless others are given, masks."""
        self._attributes.restore()
        self._buffers.restore()
        self._written.restore()
        (randomness or self._randomness).restore()
