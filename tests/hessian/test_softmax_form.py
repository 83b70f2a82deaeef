"""Cross-entropy's curvature as a diagonal and a vector per position, against the written form."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._loss import output_hessian as _loss
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._tape.certificate import LINEAR, loss_labels
from hessian._tape.graph import Tape
from hessian._tape.layouts import Layout

from . import oracle

G = torch.Generator().manual_seed(3)


def draw(*dims):
    return torch.randn(*dims, dtype=torch.float64, generator=G)


def form(n, q, classes, shuffled=False):
    """q softmaxes a sample; `shuffled` lays their entries out in no particular order."""
    shares = draw(n, q, classes).softmax(2).reshape(n, -1)
    spots = torch.arange(q).repeat_interleave(classes)
    if shuffled:
        order = torch.randperm(q * classes, generator=G)
        shares, spots = shares[:, order], spots[order]
    return Quadratic("softmax", draw(n, q), shares, None if q == 1 else spots)


def written(quadratic):
    """The matrix entry by entry, by its definition."""
    n, m = quadratic.shares.shape
    spots = [0] * m if quadratic.spots is None else quadratic.spots.tolist()
    full = torch.zeros(n, m, m, dtype=torch.float64)
    for k in range(n):
        for i in range(m):
            for j in range(m):
                if spots[i] == spots[j]:
                    p = quadratic.shares[k]
                    full[k, i, j] = quadratic.values[k, spots[i]] * (p[i] * p[j] - (i == j) * p[i])
    return full


@pytest.mark.parametrize("rows", ["identity", "shared", "own", "scaled", "scaled-identity"])
@pytest.mark.parametrize(("q", "shuffled"), [(1, False), (3, False), (3, True)])
def test_all_that_is_asked_of_the_form(q, shuffled, rows):
    n, classes, d = 4, 3, 6
    quadratic = form(n, q, classes, shuffled)
    m = q * classes
    base = {"shared": draw(m, d), "own": draw(n, m, d), "scaled": draw(m, d)}.get(rows)
    d = m if base is None else d
    scale = draw(n, d) if rows.startswith("scaled") else None
    columns = JacobianRows(m, d, base, scale)
    full = written(quadratic)
    assert torch.allclose(quadratic.matrix(), full, rtol=1e-13, atol=1e-15)
    b = columns.dense(full, n)
    want = b.transpose(1, 2) @ full @ b
    close = {"rtol": 1e-12, "atol": 1e-13}
    assert torch.allclose(quadratic.gram(columns, Cost()), want, **close)
    diagonal = want.diagonal(dim1=1, dim2=2)
    assert torch.allclose(quadratic.diagonal(columns, Cost()), diagonal, **close)
    place = torch.randperm(d, generator=G)[: d // 3 * 3].view(-1, 3)
    blocks = want[:, place.unsqueeze(2), place.unsqueeze(1)]
    assert torch.allclose(quadratic.blocks(columns, place, Cost()), blocks, **close)
    part = quadratic.of(slice(1, 3)).matrix()
    assert torch.equal(part, quadratic.matrix()[1:3])


LOSSES = {
    "mean": lambda z, y: F.cross_entropy(z, y),
    "sum": lambda z, y: 3 * F.cross_entropy(z, y, reduction="sum"),
    "weights, ignored, smooth": lambda z, y: F.cross_entropy(
        z, y, weight=torch.arange(1.0, z.shape[1] + 1, dtype=z.dtype), ignore_index=1,
        label_smoothing=0.2,
    ),
    "soft": lambda z, y: F.cross_entropy(z, torch.linspace(0, 2, z.numel()).view(z.shape).to(z)),
    "each": lambda z, y: (F.cross_entropy(z, y, reduction="none") * (1.0 + y)).mean(),
    "tokens": lambda z, y: F.cross_entropy(z.reshape(-1, z.shape[-1]),
                                           torch.arange(z[..., 0].numel()) % z.shape[-1]),
    "moved": lambda z, y: F.cross_entropy(z.transpose(0, 1).reshape(-1, z.shape[0]),
                                          torch.arange(z[0].numel()) % z.shape[0]),
    "last axis": lambda z, y: -(z.log_softmax(-1)[..., 0]).sum(),
}  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dims", [(4,), (4, 3), (4, 2, 3)])
def test_it_is_the_losss_second_derivative(loss, dims):
    n = 5
    leaf = draw(n, *dims).requires_grad_()
    y = torch.randint(0, 4, (n, *dims[1:]), generator=G)
    value = LOSSES[loss](leaf.clone(), y)
    tape = Tape.of([value])
    labels = loss_labels(tape, n)
    node = tape.leaves()[id(leaf)]
    edge = _loss.log_softmax(tape, lambda e: labels.get(e) == LINEAR, node)
    assert (edge is None) == (loss == "moved")
    if edge is None:
        return
    g, adjoint = torch.autograd.grad(
        value, [leaf, torch.autograd.graph.GradientEdge(*edge)], create_graph=True
    )
    got = _loss.softmax_form(edge[0], adjoint.detach(), leaf, Layout(0), n)
    want = _loss.blocks_by_sample([g], [leaf], [Layout(0)], n)
    assert torch.allclose(got.matrix(), want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.cross_entropy(z, y) ** 2,  # curved above the softmax
        lambda z, y: F.cross_entropy(z, y) + 0.1 * z.square().mean(),  # and beside it
        lambda z, y: F.nll_loss((2 * z).log_softmax(1), y),  # and not the output's own
    ],
)
def test_other_losses_are_taken_as_they_are(loss):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    x, y = draw(5, 3), torch.tensor([0, 1, 2, 3, 0])
    oracle.assert_exact(
        hessian.diagonal(model, loss, (x, y)), oracle.diagonal(model, loss, [(x, y)])
    )


def test_thousands_of_classes_through_a_curved_network():
    """No C x C block: more classes than are ever written out (`LARGEST_BLOCK`)."""
    classes = _loss.LARGEST_BLOCK + 52
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(),
                          nn.Linear(5, classes)).double()  # fmt: skip
    x, y = draw(3, 4), torch.tensor([7, classes - 1, 7])
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=2**24)
    assert set(got.plan.methods().values()) == {"chain"}
    parameters = dict(model.named_parameters())
    value = F.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(value, list(parameters.values()), create_graph=True)
    for (name, p), g in zip(parameters.items(), gradients, strict=True):
        for entry in torch.randint(p.numel(), (4,), generator=G).tolist():
            (row,) = torch.autograd.grad(g.reshape(-1)[entry], p, retain_graph=True)
            want = float(row.reshape(-1)[entry])
            largest = float(got[name].abs().max())
            assert abs(float(got[name].reshape(-1)[entry]) - want) <= 1e-9 * largest
