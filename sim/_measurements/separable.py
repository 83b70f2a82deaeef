"""Whether the gradient of a batch is the mean of the gradients of its samples.

Everything here rests on L = (1/n) Σ_i ℓ_i: the loss is the mean of the losses of the samples, each
as if it were a batch of its own. Whether that is so is tried on the first samples.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from hessian import devices, torch_private, trees
from sim._measurements.per_sample import Objective
from sim._measurements.samples import count, dropouts, rows, singles, varied

# Samples on which it is tried whether loss and model treat every sample by itself; the loss on
# some of every label too.
LOSS_TRIED, MODEL_TRIED = 64, 4


def _batch_normalised(model: nn.Module) -> str | None:
    """The name of a layer that normalises by the batch's own statistics."""
    normalised: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch_private.BatchNorm)
        and (module.training or module.running_mean is None)
    ]
    return normalised[0] if normalised else None


def check_separable(objective: Objective, inputs: Any, targets: Any, device: torch.device) -> None:
    """Refuse what makes the gradient of a batch another thing than the mean over its samples."""
    devices.check_float64("model", {device}, "gradients of samples are summed")
    coupled = _batch_normalised(objective.model)
    if coupled is not None:
        raise ValueError(
            f"model: {coupled!r} normalises over the batch, so no sample has a gradient of its "
            "own; call model.eval() first"
        )
    x, y = varied(inputs, targets, LOSS_TRIED, device)
    with torch.no_grad():
        output = objective.output(x)
        random = is_random(objective, x)
        tensors = _tensors(output)
        by_rows = all(t.dim() > 0 and len(t) == count(x) for t in tensors)
        a_number = any(t.dim() == 0 for t in tensors)
        if not tensors or (not by_rows and (random or not a_number)):
            raise ValueError(
                "model: it did not return a tensor with one row for each sample; let forward= "
                "return one, or switch its dropout off"
            )
        whole = float(objective.of_output(output, y))
        if by_rows:
            single = [float(objective.of_output(o, t)) for o, t in singles(output, y)]
        else:  # it holds a number, such as the model's own loss
            single = [float(objective.scalar(*sample)) for sample in singles(x, y)]
        slack = math.sqrt(torch.finfo(tensors[0].dtype).eps)
        mean = math.fsum(single) / len(single)
        if abs(whole - mean) > slack * (abs(whole) + math.fsum(map(abs, single)) / len(single)):
            raise ValueError(
                f"loss: {whole:.6g} on {len(single)} samples, but {mean:.6g} as the mean of their "
                "own losses; give a plain mean over the samples (no sum, no class weights)"
            )
        if not random and by_rows:
            _refuse_coupled(objective, rows(x, slice(MODEL_TRIED), count(x)), slack)


def _refuse_coupled(objective: Objective, inputs: Any, slack: float) -> None:
    """Each output must be that of the sample alone."""
    together = _tensors(objective.output(inputs))
    alone = [_tensors(objective.output(x)) for x, _ in singles(inputs, inputs)]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        if float((whole - torch.cat(parts)).abs().max()) > slack * float(whole.abs().max()):
            raise ValueError(
                "model: a sample's output depends on the others in its batch, so no sample "
                "has a gradient of its own; use a model that does not couple samples"
            )


def _tensors(output: Any) -> list[Tensor]:
    """The floating tensors of what a model returned."""
    leaves = [leaf for leaf in trees.leaves(output) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.is_floating_point()]


def is_random(objective: Objective, inputs: Any) -> bool:
    """Whether two passes over the same inputs differ, or could."""
    if any(module.training and module.p > 0 for module in dropouts(objective.model)):
        return True
    with torch.no_grad():
        passes = [_tensors(objective.output(inputs)) for _ in range(2)]
    return not all(torch.equal(a, b) for a, b in zip(*passes, strict=True))
