"""What was measured in a run so far, of all lanes, as it lies on the CPU and in a checkpoint."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# Numbers of single steps: which steps, and their values `[steps, lanes, …]`.
Block = tuple[list[int], Tensor]


@dataclass
class Measurements:
    """The numbers behind a run's tables.

    Attributes:
        names: of the parameters.
        sizes: their entries, of one lane.
        blocks: of `"steps"` `[steps, lanes, columns]`, of `"layer_steps"`
            `[steps, lanes, tensors, columns]`.
        epochs: a row for each epoch and lane.
        layer_epochs: for each epoch its number, how many steps were measured, and values
            `[lanes, tensors, columns]`.
        curvature: a row for each measurement and parameter tensor.
        diverged: lane → the first step at which something of it was not finite.
    """

    names: list[str]
    sizes: list[int]
    blocks: dict[str, list[Block]] = field(default_factory=lambda: {"steps": [], "layer_steps": []})
    epochs: list[dict[str, Any]] = field(default_factory=list)
    layer_epochs: list[tuple[int, int, Tensor]] = field(default_factory=list)
    curvature: list[dict[str, Any]] = field(default_factory=list)
    diverged: dict[int, int] = field(default_factory=dict)

    def diverge(self, lane: int, step: int) -> None:
        """Note that a lane is not finite at a step; the first one counts."""
        self.diverged.setdefault(lane, step)

    def since(self, table: str, step: int) -> Tensor:
        """The values of a table's blocks from a step on, one after another."""
        parts = []
        for steps, block in reversed(self.blocks[table]):
            if steps[-1] < step:
                break
            parts.append(block[next(i for i, s in enumerate(steps) if s >= step) :])
        return torch.cat(parts[::-1])

    def state(self) -> dict[str, Any]:
        """All that a checkpoint keeps of it."""
        saved = ("blocks", "epochs", "layer_epochs", "curvature", "diverged")
        return {name: getattr(self, name) for name in saved}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name in self.state():
            setattr(self, name, state[name])
