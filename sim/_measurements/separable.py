"""Whether the gradient of a batch is the mean of the gradients of its samples.

Everything here rests on L = (1/n) Σ_i ℓ_i: the loss is the mean of the losses of the samples, each
as if it were a batch of its own. Whether that is so is tried on the first samples.
"""

import math

import torch
from torch import Tensor, nn

from sim._measurements.per_sample import Loss, scalar_loss
from sim._measurements.samples import dropouts, spread

# Samples on which it is tried whether loss and model treat every sample by itself.
LOSS_TRIED, MODEL_TRIED = 64, 4


def _batch_normalised(model: nn.Module) -> str | None:
    """The name of a layer that normalises by the batch's own statistics."""
    normalised: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (module.training or module.running_mean is None)
    ]
    return normalised[0] if normalised else None


def check_separable(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, device: torch.device
) -> None:
    """Refuse what makes the gradient of a batch another thing than the mean over its samples."""
    coupled = _batch_normalised(model)
    if coupled is not None:
        raise ValueError(
            f"model: {coupled!r} normalises over the batch, so no sample has a gradient of its "
            "own; call model.eval() first"
        )
    x, y = spread(inputs, targets, LOSS_TRIED, device)
    with torch.no_grad():
        output = model(x)
        if not isinstance(output, Tensor) or len(output) != len(y):
            raise ValueError("model: it did not return a tensor with one row for each sample")
        whole = float(scalar_loss(loss, output, y))
        single = [float(loss(o, t)) for o, t in zip(output.split(1), y.split(1), strict=True)]
        slack = math.sqrt(torch.finfo(output.dtype).eps)
        mean = math.fsum(single) / len(single)
        if abs(whole - mean) > slack * (abs(whole) + math.fsum(map(abs, single)) / len(single)):
            raise ValueError(
                f"loss: {whole:.6g} on {len(single)} samples, but {mean:.6g} as the mean of their "
                "own losses; give a plain mean over the samples (no sum, no class weights)"
            )
        if not is_random(model, x):
            x = x[:MODEL_TRIED]
            together, alone = model(x), torch.cat([model(sample) for sample in x.split(1)])
            if float((together - alone).abs().max()) > slack * float(together.abs().max()):
                raise ValueError(
                    "model: a sample's output depends on the others in its batch, so no sample "
                    "has a gradient of its own; use a model that does not couple samples"
                )


def is_random(model: nn.Module, inputs: Tensor) -> bool:
    """Whether two passes over the same inputs differ, or could."""
    if any(module.training and module.p > 0 for module in dropouts(model)):
        return True
    with torch.no_grad():
        return not torch.equal(model(inputs), model(inputs))
