"""diag(p) - ppᵀ without a subtraction: the second derivative of a log-softmax, term by term.

With r_k = Σ_{j>=k} p_j it is Σ_k d_k (e_k - m_k)(e_k - m_k)ᵀ, where m_k is the mean of the later
e_j, weighted by p_j / r_{k+1}, and d_k = p_k r_{k+1} / r_k (its LDLᵀ factor; Tanabe & Sagae 1992,
theorem 1). Sums of positive numbers, products and quotients only: what comes from a probability of
1e-30 is as right as what comes from one of a half, in whatever order the classes come, and one of
1 - 1e-9 does not make the rest vanish in rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Values of a temporary in float64.
CHUNK = 2**20
# A probability from which on Σ p x² - (Σ p x)² loses more than a digit.
SHARP = 0.9


def order_of(spots: Tensor | None, width: int, q: int, like: Tensor) -> Tensor:
    """The entries of each of q positions, ``[q, classes]``."""
    if q == 1 or spots is None:
        return torch.arange(width, device=like.device).view(1, width)
    return spots.argsort(stable=True).view(q, -1)


def tails(p: Tensor) -> Tensor:
    """r_{k+1}, ``[..., classes - 1]``."""
    return p.flip(-1).cumsum(-1).flip(-1)[..., 1:]


def weights(p: Tensor, later: Tensor) -> Tensor:
    """d_k, ``[..., classes - 1]``; zero where nothing is left."""
    first = p[..., :-1]
    return first * torch.where(later > 0, later / (first + later), 0.0)


def complements(p: Tensor) -> Tensor:
    """1 - p for p that sum to one along the last axis."""
    rest = 1 - p
    if not p.numel() or float(p.max()) <= 0.5:
        return rest
    top, place = p.max(-1, keepdim=True)
    others = p.scatter(-1, place, 0.0).sum(-1, keepdim=True)
    return rest.scatter(-1, place, torch.where(top > 0.5, others, 1 - top))


def columns(p: Tensor, later: Tensor, dtype: torch.dtype) -> Tensor:
    """e_k - m_k for p ``[n, classes]``: ``[n, classes - 1, classes]``."""
    n, classes = p.shape
    contrasts = torch.empty((n, classes - 1, classes), dtype=dtype, device=p.device)
    classes_but_last = torch.arange(classes - 1, device=p.device)
    each = max(1, CHUNK // max(1, classes * classes))
    for start in range(0, n, each):
        part = slice(start, start + each)
        below = later[part].unsqueeze(2)
        ratio = torch.where(below > 0, p[part].unsqueeze(1) / -below, 0.0).triu_(1)
        ratio[:, classes_but_last, classes_but_last] = 1.0
        contrasts[part] = ratio
    return contrasts


def contrasts(p: Tensor, later: Tensor, rows: Tensor) -> Tensor:
    """x_k - m_k for rows ``[..., classes, d]``, the m_k of which are means of later rows."""
    weighted = rows * p.unsqueeze(-1)
    sums = weighted.flip(-2).cumsum(-2).flip(-2)[..., 1:, :]
    below = later.unsqueeze(-1)
    means = torch.where(below > 0, sums / below, 0.0)
    return rows[..., :-1, :] - means
