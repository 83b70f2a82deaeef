"""Descents to a level of the loss, where points of training lie and runs branch off."""

import torch
from torch import Tensor

from paper_checks.measurements.branching.task import Task

# Steps between two looks at the loss, and the most of them.
LOOK, MOST_STEPS = 3, 4000


def descend(
    task: Task, seeds: tuple[int, ...], levels: tuple[float, ...], lr: float, batch: int
) -> list[Tensor]:
    """The parameters `[seeds, P]` where SGD first has each share of the loss it began with."""
    points = [torch.stack([task.start(seed) for seed in seeds])]
    reached: list[tuple[float, Tensor]] = []
    for level in sorted(levels, reverse=True):
        share = level / (reached[-1][0] if reached else 1.0)
        points.append(reach(task, points[-1], share, lr, batch))
        reached.append((level, points[-1]))
    return [point for _, point in reached]


def reach(task: Task, starts: Tensor, share: float, lr: float, batch: int) -> Tensor:
    """The parameters `[seeds, P]` where SGD first has a share of the loss of each start.

    Raises `RuntimeError` where it never has.
    """
    lanes, reached, target = starts.clone(), starts.clone(), share * task.whole(starts)
    left = torch.full((len(starts),), share < 1.0)
    generator = torch.Generator().manual_seed(1)
    for step in range(1, MOST_STEPS + 1):
        if not left.any():
            return reached
        index = torch.randint(len(task.targets), (len(lanes), batch), generator=generator)
        lanes = lanes - lr * task.gradients(lanes, index)
        if step % LOOK == 0:
            now = left & (task.whole(lanes) <= target)
            reached[now] = lanes[now]
            left &= ~now
    raise RuntimeError(f"share: {share} of the loss was not reached in {MOST_STEPS} steps")
