"""Columns s with Σ s sᵀ the loss's second derivative in the outputs, row by row."""

import torch
from torch import Tensor

# As many outputs of a sample, and each has its column; beyond, random signs of all.
MOST_EXACT = 12


def class_axis(output: Tensor, targets: object) -> int | None:
    """The axis over which a loss couples the outputs; none where it takes them one by one.

    >>> class_axis(torch.zeros(8, 3, 5, 5), torch.zeros(8, 5, 5, dtype=torch.long))
    1
    >>> class_axis(torch.zeros(8, 4, 7), torch.zeros(8, 4, dtype=torch.long))
    2
    """
    if isinstance(targets, Tensor) and not targets.is_floating_point():
        for axis in range(1, output.dim()):
            rest = output.shape[:axis] + output.shape[axis + 1 :]
            if rest == targets.shape:
                return axis
    if isinstance(targets, Tensor) and targets.shape == output.shape:
        return None
    return output.dim() - 1


def loss_columns(
    value: Tensor, output: Tensor, axis: int | None, probes: int, generator: torch.Generator
) -> list[Tensor]:
    """Tensors of the output's shape whose outer products, within each sample, sum to ∇²L.

    `value` is the loss of `output`, which is a leaf. A row is what the loss takes together: a
    sample's classes, or those of one of its positions. Up to `MOST_EXACT` outputs of a sample a
    column is a scaled eigenvector of one row of each; beyond, `probes` random combinations of all,
    right on average. Negative curvature of the loss is left out, as in a Gauss-Newton matrix.

    Raises:
        ValueError: the loss couples rows.
    """
    (slope,) = torch.autograd.grad(value, output, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        if not slope.requires_grad:
            return torch.zeros_like(output)
        (image,) = torch.autograd.grad(
            slope, output, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return image

    width = 1 if axis is None else output.shape[axis]
    rows = output.detach().unsqueeze(-1) if axis is None else output.detach().movedim(axis, -1)
    shape = rows.shape

    def spread(blocks: Tensor) -> Tensor:
        """`[rows, width]` in the output's shape."""
        tall = blocks.reshape(shape)
        return tall.squeeze(-1) if axis is None else tall.movedim(-1, axis)

    def gathered(tensor: Tensor) -> Tensor:
        tall = tensor.unsqueeze(-1) if axis is None else tensor.movedim(axis, -1)
        return tall.reshape(-1, width)

    unit = torch.eye(width, dtype=output.dtype, device=output.device)
    count = rows.numel() // width
    blocks = torch.stack([gathered(product(spread(e.expand(count, -1)))) for e in unit], -1)
    trial = torch.randn(output.shape, generator=generator, dtype=output.dtype, device="cpu")
    trial = trial.to(output.device)
    image = product(trial)
    image_by_blocks = spread((blocks @ gathered(trial).unsqueeze(-1)).squeeze(-1))
    if float((image - image_by_blocks).norm()) > 1e-3 * float(image.norm()):
        raise ValueError(
            "loss: it couples the rows of the outputs, so that a layer has no factors; "
            "leave out the estimates of the K-FAC family with kinds="
        )
    values, vectors = torch.linalg.eigh((blocks + blocks.mT) / 2)
    scaled = vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
    columns = []
    in_sample = count // len(output)
    if in_sample * width <= MOST_EXACT:
        by_sample = scaled.reshape(len(output), in_sample, width, width)
        for row in range(in_sample):
            for c in range(width):
                column = torch.zeros_like(by_sample[..., c])
                column[:, row] = by_sample[:, row, :, c]
                if bool(column.any()):
                    columns.append(spread(column))
        return columns
    for _ in range(probes):
        bits = torch.randint(0, 2, (count, width, 1), generator=generator, device="cpu")
        signs = (2 * bits - 1).to(scaled)
        columns.append(spread((scaled @ signs).squeeze(-1)) / probes**0.5)
    return columns
