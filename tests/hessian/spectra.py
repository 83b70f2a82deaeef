"""Matrices over all parameters from first differences alone, and models of known spectra."""

import itertools

import numpy as np
import torch
from torch import nn

STEP = 1e-4  # central: an error of its square times a third derivative, some 1e-8


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def differences(parameters, function):
    """Central differences of a flat tensor by every parameter entry, ``[entries, P]``."""
    columns = []
    for p in parameters:
        for i in range(p.numel()):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    p.view(-1)[i] += sign * STEP
                ends.append(function().clone())
                with torch.no_grad():
                    p.view(-1)[i] -= sign * STEP
            columns.append((ends[0] - ends[1]) / (2 * STEP))
    return torch.stack(columns, 1).numpy()


def hessian_matrix(model, loss, x, y):
    """Differences of gradients."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrix = differences(
        parameters, lambda: flat(torch.autograd.grad(loss(model(x), y), parameters))
    )
    return (matrix + matrix.T) / 2


def jacobian(model, x):
    """Differences of outputs: ``[n, outputs, P]``."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        shape = model(x).shape
    matrix = differences(parameters, lambda: flat([model(x)]))
    return matrix.reshape(shape[0], -1, matrix.shape[1])


def tanh_net(*widths):
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


class Copies(nn.Module):
    """Networks with the same weights side by side: every eigenvalue is there once for each."""

    def __init__(self, count, make):
        super().__init__()
        self.each = nn.ModuleList()
        for _ in range(count):
            torch.manual_seed(0)
            self.each.append(make())

    def forward(self, x):
        return torch.cat([one(x) for one in self.each], 1)


class Quadratic(nn.Module):
    """½ wᵀMw, whose Hessian is M."""

    def __init__(self, matrix):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(matrix), dtype=matrix.dtype))
        self.register_buffer("matrix", matrix)

    def forward(self, x):
        return 0.5 * (self.w @ (self.matrix @ self.w)) * x.mean()


def first(output, target):
    return output


def quadratic(matrix):
    """Arguments of `operator` for a given symmetric matrix."""
    matrix = torch.as_tensor(np.asarray(matrix))
    return Quadratic(matrix), first, (torch.ones(1, 1, dtype=matrix.dtype), torch.zeros(1))


def noise(size, seed=0):
    """A symmetric matrix of independent normal entries, whose eigenvalues fill [-2, 2]."""
    a = np.random.default_rng(seed).standard_normal((size, size))
    return (a + a.T) / np.sqrt(2 * size)


def turned(values, seed=0):
    """A symmetric matrix of given eigenvalues in a random basis, and the basis."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    return (q * values) @ q.T, q
