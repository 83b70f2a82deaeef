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
    "by hand": lambda z, y: (z.logsumexp(1) - z.gather(1, y.unsqueeze(1)).squeeze(1)).mean(),
    "by hand, weights": lambda z, y: ((1.0 + y) * (z.logsumexp(1) - z.sum(1))).sum() / 7,
    "by hand, indexed": lambda z, y: z.logsumexp(1).sum() - z[range(5), y.flatten()[:5]].mean(),
    "by hand, kept": lambda z, y: (z - z.logsumexp(1, keepdim=True))[..., :2].sum(),
    "by hand, tokens": lambda z, y: z.reshape(-1, z.shape[-1]).logsumexp(-1).sum() - z.mean(),
    "by hand, negative": lambda z, y: 3 * z.sum() - 2 * z.logsumexp(-1).mean(),
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
    if loss.startswith("by hand"):
        edge = _loss.logsumexp(tape, {n for (n, _), at in labels.items() if at != LINEAR}, node)
    else:
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
        lambda z, y: (z.logsumexp(1) - z[range(5), y]).square().mean(),  # curved above
        lambda z, y: (z.logsumexp(1) - z[range(5), y]).mean() + z.cosh().mean(),  # beside
        lambda z, y: ((3 * z).logsumexp(1) - z[range(5), y]).mean(),  # of another tensor
        lambda z, y: (z.logsumexp(1) + (-z).logsumexp(1)).mean(),  # and two of them
        lambda z, y: (z.logsumexp(1) * z[range(5), y]).mean(),  # times what it is read by
        lambda z, y: z.logsumexp((0, 1)),  # over samples, too
        lambda z, y: (z.logsumexp(1) - z.split(2, 1)[0].sum(1) + z.split(2, 1)[1].prod(1)).mean(),
        lambda z, y: (
            z.logsumexp(1).mean()
            + sum(  # the second of one operation's outputs
                part.sum() if k == 0 else part.square().sum()
                for k, part in enumerate(z.split(2, 1))
            )
        ),
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


HAND = {
    "gather": lambda z, y: (z.logsumexp(1) - z.gather(1, y[:, None])[:, 0]).mean(),
    "indexed": lambda z, y: (torch.logsumexp(z, -1) - z[range(len(y)), y]).mean(),
    "two means": lambda z, y: z.logsumexp(1).mean() - z[torch.arange(len(y)), y].mean(),
    "one-hot": lambda z, y: (z.logsumexp(1) - (z * F.one_hot(y, z.shape[1])).sum(1)).mean(),
    "log-softmax": lambda z, y: -F.log_softmax(z, 1)[range(len(y)), y].mean(),
    "nll": lambda z, y: F.nll_loss(z - z.logsumexp(1, keepdim=True), y),
    "softmax and log": lambda z, y: -z.softmax(1)[torch.arange(len(y)), y].log().mean(),
    "exp": lambda z, y: (z.exp().sum(1).log() - z[torch.arange(len(y)), y]).mean(),
}


W = torch.linspace(0.2, 2, 7, dtype=torch.float64)
WEIGHTED = {
    "logsumexp": lambda z, y: (W[y] * (z.logsumexp(1) - z[range(len(y)), y])).sum() / W[y].sum(),
    "log-softmax": lambda z, y: -(W[y] * z.log_softmax(1)[range(len(y)), y]).sum() / W[y].sum(),
    "gather": lambda z, y: -(W * z.log_softmax(1)).gather(1, y[:, None]).sum() / W[y].sum(),
    "nll": lambda z, y: F.nll_loss(z.log_softmax(1), y, weight=W),
}


@pytest.mark.parametrize(
    ("loss", "weight"),
    [
        *(pytest.param(loss, None, id=name) for name, loss in HAND.items()),
        *(pytest.param(loss, W, id=f"{name}, weighted") for name, loss in WEIGHTED.items()),
    ],
)
def test_a_cross_entropy_by_hand_takes_the_passes_of_torchs_own(loss, weight):
    """More output entries than are looked at one by one, so that all of it is a proof."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7)).double()
    x, y = draw(400, 5), torch.randint(0, 7, (400,), generator=G)
    assert _loss.LARGEST_BLOCK < 400 * 7
    want = hessian.diagonal(model, lambda z, y: F.cross_entropy(z, y, weight=weight), (x, y))
    h = hessian.diagonal(model, loss, (x, y))
    assert h.plan.methods() == want.plan.methods()
    assert h.plan.backward == want.plan.backward == 7
    oracle.assert_exact(h, dict(want))


def test_by_hand_as_many_classes_as_torchs_own():
    """In closed form: the vanishing probabilities of 400 classes are as right as the large ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 400)).double()
    with torch.no_grad():
        model[2].weight.mul_(40)
    x, y = draw(3, 4), torch.tensor([7, 399, 7])
    want = hessian.diagonal(model, F.cross_entropy, (x, y))
    h = hessian.diagonal(model, HAND["indexed"], (x, y))
    assert (h.plan.methods(), h.plan.backward) == (want.plan.methods(), want.plan.backward)
    assert float(want["2.bias"].min()) < 1e-12 * float(want["2.bias"].max())
    for name, value in want.items():
        # p = exp(z - lse) of logits of some hundreds, whose difference is rounded.
        torch.testing.assert_close(h[name], value, rtol=1e-11, atol=0)
