"""Second differences of the loss's value in float64: an oracle that knows nothing of autograd."""

import numpy as np
import torch

import hessian

from .oracle import run

# h² f''''/90 h² of the five-point formula is 1e-12 f(6); rounding adds 1e-16·|L|·5/h² = 5e-10·|L|.
STEP = 1e-3
# Networks here are of size one: rounding of the formula, ten times over.
CLOSE = 1e-7


def diagonal(model, loss, x, y, names=None):
    """d²L/dw² of every parameter, frozen ones left out; each value from a call of its own."""
    found = {}
    for name, p in list(model.named_parameters()):
        if not p.requires_grad or (names is not None and name not in names):
            continue
        h = torch.zeros(p.numel(), dtype=torch.float64)
        for i in range(p.numel()):
            place = np.unravel_index(i, p.shape) if p.dim() else ()
            before, values = p.data[place].clone(), []
            for steps in (-2, -1, 0, 1, 2):
                p.data[place] = before + steps * STEP
                values.append(float(loss(run(model, x), y).detach()))
            p.data[place] = before
            a, b, c, d, e = values
            h[i] = (-a + 16 * b - 30 * c + 16 * d - e) / (12 * STEP**2)
        found[name] = h.reshape(p.shape)
    return found


def gap(got, want):
    """max|got - want| over all tensors, by the largest entry (or one)."""
    top = max(1.0, *(float(h.abs().max()) for h in want.values()))
    return (
        max(float((got[n].detach().double() - h.double()).abs().max()) for n, h in want.items())
        / top
    )


def operator(model, loss, data, **options):
    """The diagonal of `hessian.operator`, by name."""
    matrix = hessian.operator(model, loss, data, **options)
    flat = torch.as_tensor(np.diag(matrix @ np.eye(matrix.shape[0])).copy())
    names = options.get("names")
    found, start = {}, 0
    for name, p in model.named_parameters():
        if p.requires_grad and (names is None or name in names):
            found[name] = flat[start : start + p.numel()].reshape(p.shape)
            start += p.numel()
    return found


def everywhere(model, loss, x, y, want, **options):
    """The gap of every function of the package that gives exact second derivatives."""
    data = (x, y)
    every = max(p.numel() for p in model.parameters())
    gaps = {
        "auto": gap(hessian.diagonal(model, loss, data, **options), want),
        "parameter": gap(hessian.diagonal(model, loss, data, method="parameter", **options), want),
        "parts": gap(hessian.diagonal(model, loss, data, memory=1, **options), want),
        "operator": gap(operator(model, loss, data, **options), want),
    }
    drawn = hessian.sample(model, loss, data, every, **options)
    gaps["sample"] = gap({n: s.value.reshape(want[n].shape) for n, s in drawn.items()}, want)
    return gaps
