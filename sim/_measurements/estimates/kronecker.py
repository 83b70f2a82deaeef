"""Diagonals of the Kronecker-factored family: K-FAC, EK-FAC, and the input second moment."""

import torch
from torch import Tensor

from sim._measurements.estimates.layers import Layer

# Bytes of per-sample matrices that EK-FAC holds at a time.
CHUNK = 64 * 2**20


def _with_bias(layer: Layer) -> Tensor:
    """The inputs with a row of ones for the bias, where the layer has one that is trained."""
    bias = getattr(layer.module, "bias", None)
    if bias is None or not bias.requires_grad:
        return layer.inputs
    return torch.cat([layer.inputs, torch.ones_like(layer.inputs[:, :1])], 1)


def kfac(layer: Layer) -> dict[str, Tensor]:
    """diag(A ⊗ B): Σ_(n,p) u_k² · Σ_(n,p,c) δ_o² / (N P), positions taken as samples.

    A is the mean of u uᵀ over samples and positions, B the sum of δ δᵀ over samples, positions and
    columns of the loss. Exact where inputs and slopes do not vary together.

    Source: Martens & Grosse (2015); for convolutions Grosse & Martens (2016).
    """
    inputs = _with_bias(layer)
    count = inputs.shape[0] * inputs.shape[2]
    sizes = inputs.square().sum((0, 2)) / count
    slopes = torch.stack([d.square().sum((0, 2)) for d in layer.slopes]).sum(0)
    return layer.shaped(torch.outer(slopes, sizes))


def ekfac(layer: Layer) -> dict[str, Tensor]:
    """(Q_B²) Λ (Q_A²)ᵀ: K-FAC's eigenvectors with the exact second moments Λ along them.

    Λ_ij = Σ_(n,c) (Q_Bᵀ G_nc Q_A)_ij² with G_nc = Σ_p δ uᵀ the gradient of a column in a sample.

    Source: George et al. (2018).
    """
    inputs = _with_bias(layer)
    a = torch.einsum("nkp,nlp->kl", inputs, inputs)
    b = torch.stack([torch.einsum("nop,nqp->oq", d, d) for d in layer.slopes]).sum(0)
    # In float64: with repeated eigenvalues, of dead units, float32 does not converge.
    left, right = (torch.linalg.eigh(factor.double())[1].to(factor) for factor in (b, a))
    rotated = torch.einsum("nkp,kl->nlp", inputs, right)
    moments = inputs.new_zeros(left.shape[0], right.shape[0])
    step = max(1, CHUNK // (moments.numel() * moments.element_size()))
    for slope in layer.slopes:
        turned = torch.einsum("nop,oq->nqp", slope, left)
        for start in range(0, len(turned), step):
            part = slice(start, start + step)
            moments += (turned[part] @ rotated[part].mT).square().sum(0)
    return layer.shaped(left.square() @ moments @ right.square().T)


def input_moment(layer: Layer) -> dict[str, Tensor]:
    """2 Σ_p u_k² averaged over samples, the same for every output: the diagonal of 2 X Xᵀ / N.

    What layer-wise pruning and quantisation take for the Hessian: that of ‖(W - Ŵ) X‖², the
    layer's own squared error, which knows nothing of the loss above.

    Source: Hassibi & Stork (1993) for OBS; Frantar & Alistarh (2022), GPTQ, for the layer's form.
    """
    sizes = 2 * layer.inputs.square().sum((0, 2)) / len(layer.inputs)
    return layer.shaped(sizes.expand(layer.output.shape[_axis(layer)], -1))


def _axis(layer: Layer) -> int:
    return 1 if isinstance(layer.module, torch.nn.Conv2d) else -1
