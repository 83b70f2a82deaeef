"""The naive oracle: double backward, one entry at a time, on the live parameters.

It differentiates the scalar a plain training loop would compute, so a loss that reads the model's
parameters is seen as it is. Slow on purpose, shares no code with the package. Operations whose
double backward is wrong in torch are written out (`HONEST`).
"""

from collections.abc import Mapping

import torch
from torch.overrides import TorchFunctionMode

import hessian
from hessian.testing import differences


def weight_norm(v, g, dim=0):
    others = [axis for axis in range(v.dim()) if dim == -1 or axis != dim]
    return v * g / v.square().sum(others, keepdim=True).sqrt()


HONEST = {torch._weight_norm: weight_norm}


class Honest(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return HONEST.get(func, func)(*args, **(kwargs or {}))


def run(model, inputs):
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)


def leading(inputs):
    first = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
    first = first[0] if isinstance(first, tuple) else first
    return len(first)


def diagonal(model, loss, pairs):
    """d²L/dw² for L = Σ n_b loss_b / Σ n_b over a list of (inputs, targets)."""
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    pairs = list(pairs)  # a loader draws its seed here, as it does in a plain loop
    n = sum(leading(x) for x, _ in pairs)
    with Honest():
        total = sum(leading(x) / n * loss(run(model, x), y) for x, y in pairs)
    result = {}
    for name, p in parameters.items():
        h = torch.zeros(p.numel(), dtype=p.dtype)
        (g,) = torch.autograd.grad(total, p, create_graph=True, allow_unused=True)
        if g is not None and g.requires_grad:
            for i, entry in enumerate(g.reshape(-1)):
                (row,) = torch.autograd.grad(entry, p, retain_graph=True, allow_unused=True)
                if row is not None:
                    h[i] = row.reshape(-1)[i]
        result[name] = h.reshape(p.shape)
    return result


def gap(got, want, every=None):
    """max|Δ| / max|H| per tensor, H at least 1e-6 of the largest entry of all tensors.

    The floor is for derivatives that vanish by a symmetry (a key's bias under softmax): there
    both sides hold rounding errors of terms that cancel.
    """
    assert list(got) == list(want)
    gaps = {}
    floor = 1e-6 * max(float(h.abs().max()) for h in (every or want).values() if h.numel())
    for name, h in want.items():
        assert got[name].shape == h.shape
        size = float(h.abs().max()) if h.numel() else 0.0
        difference = float((got[name] - h).abs().max()) if h.numel() else 0.0
        gaps[name] = difference / max(size, floor) if max(size, floor) > 0 else difference
    return gaps


def assert_exact(got, want, tolerance=1e-9):
    """float64 carries 1e-16; sums over some hundred terms and a factorisation stay below 1e-9."""
    wrong = {name: g for name, g in gap(got, want).items() if not g <= tolerance}
    assert not wrong, wrong


def assert_values(got, model, loss, data, entries, names=None, seed=0):
    """The diagonal against second differences of the loss's value, which know no autograd.

    They are asked for an error of 1e-7 of max|H| of their tensor, so that 1e-6 beside the error
    they report leaves no room for a wrong factor. Returns how many entries were compared.
    """
    names = list(got) if names is None else list(names)
    top = max(float(h.abs().max()) for h in got.values() if h.numel())
    size = {n: max(float(got[n].abs().max()), 1e-6 * top) for n in names if got[n].numel()}
    enough = {n: 1e-7 * s for n, s in size.items()}
    compared, doubted, wrong = 0, {}, []
    for r in differences(model, loss, data, entries=entries, seed=seed, enough=enough, names=names):
        if r.word == "kink":
            continue
        value = float(got[r.name].reshape(-1)[r.index])
        if not abs(value - r.value) <= 1e-6 * size[r.name] + r.error:
            doubted.setdefault(r.name, []).append(r.index)
        compared += r.error <= 1e-3 * (size[r.name] or 1)
    if doubted:  # numbers that are detached are constants for autograd
        for r in differences(model, loss, data, entries=doubted, enough=enough, detached="held",
                             names=names):  # fmt: skip
            value = float(got[r.name].reshape(-1)[r.index])
            if r.word != "kink" and not abs(value - r.value) <= 1e-6 * size[r.name] + r.error:
                wrong.append((r, value))
    assert not wrong, wrong
    return compared


def proved(model, loss, data, method):
    """The parameters that a method is not refused for."""
    names = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            try:
                hessian.plan(model, loss, data, method=method, names=[name])
            except ValueError:
                continue
            names.append(name)
    return names
