"""Single steps from one point, beside what the quadratic model says of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from paper_checks.measurements.branching.task import Task


def single_steps(
    task: Task,
    flat: Tensor,
    samples: Tensor,
    exact: Mapping[str, Any],
    batches: Sequence[int],
    multiples: Sequence[float],
    draws: int,
) -> list[dict[str, float]]:
    """The mean decrease of the loss by one step, over `draws` batches, beside the model's.

    `samples` are the gradients `[N, P]` at `flat`, `exact` the `moments` there. The steps are at
    `multiples` of the rate that the model takes for the best of each batch size; where there is
    none the batch size is left out.
    """
    generator = torch.Generator().manual_seed(2)
    slope = exact["slope"]
    before = task.whole(flat[None])
    rows = []
    for batch in batches:
        best = slope / (exact["curved"] + exact["curved_noise"] / batch)
        if best <= 0:
            continue
        index = torch.randint(len(samples), (draws, batch), generator=generator)
        moves = samples[index].mean(1)
        for multiple in multiples:
            decreases = before - task.whole(flat - multiple * best * moves)
            # Of these batches the first order is known; of it the mean over all is taken.
            luck = multiple * best * (moves @ samples.mean(0) - slope)
            predicted = 0.5 * best * slope * multiple * (2 - multiple)
            rows.append(
                {
                    "batch": batch,
                    "multiple": multiple,
                    "predicted": predicted,
                    "measured": float((decreases - luck).mean()),
                }
            )
    return rows
