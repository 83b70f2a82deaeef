"""Ordinary networks that ended in an assertion or a bare error of torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian

from . import oracle
from .test_broadcast import Net, held

N, D, T = 6, 4, 5


def entropy_and_size(output, target):
    return F.cross_entropy(output[0], target) + 0.1 * output[1].pow(2).mean()


def entropy_and_sum(output, target):
    return F.cross_entropy(output[0], target) + 0.1 * output[1].sum()


def entropy_and_spread(output, target):
    return F.cross_entropy(output[0], target) + 0.1 * (output[1].std(0) - 1).pow(2).sum()


def entropy_alone(output, target):
    return F.cross_entropy(output[0], target)


def beside(act, below=True, features=lambda h: h):
    """Logits above a batch norm in training mode, and the features below (or above) it."""

    def call(m, x):
        h = act(m.a(x))
        n = m.n(h)
        return m.o(act(n)), features(h if below else n)

    return Net(call, a=nn.Linear(D, 3), n=nn.BatchNorm1d(3), o=nn.Linear(3, 3))


@pytest.mark.parametrize("act", [F.relu, torch.tanh, lambda h: h])
@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize(
    "loss", [entropy_and_size, entropy_and_sum, entropy_and_spread, entropy_alone]
)
@pytest.mark.parametrize("features", [lambda h: h, lambda h: h.t(), lambda h: h.unsqueeze(0)])
def test_features_beside_a_batch_norm(act, below, loss, features):
    if loss is entropy_and_spread and features(torch.zeros(2, 3)).shape[0] == 1:
        return
    torch.manual_seed(0)
    model = beside(act, below, features).double()
    x, y = torch.randn(N, D, dtype=torch.float64), torch.randint(3, (N,))
    want = oracle.diagonal(model, loss, [(x, y)])
    for method in ("auto", "affine", "chain", "preactivation"):
        for names in (None, ["o.weight", "o.bias"]):
            try:
                got = hessian.diagonal(model, loss, (x, y), method=method, names=names)
            except ValueError as error:
                if "is not proved to be exact" not in str(error) or method == "auto":
                    raise
                continue
            oracle.assert_exact(got, {k: want[k] for k in got})


def test_an_output_that_the_loss_only_adds():
    """A parameter above it alone has no second derivative; another at the same place has."""
    torch.manual_seed(0)
    model = Net(lambda m, x: (m.a(x), m.b(x)), a=nn.Linear(D, 3), b=nn.Linear(D, 3)).double()
    x, y = torch.randn(N, D, dtype=torch.float64), torch.randint(3, (N,))
    want = oracle.diagonal(model, entropy_and_sum, [(x, y)])
    for method in ("auto", "affine", "chain"):
        got = hessian.diagonal(model, entropy_and_sum, (x, y), method=method)
        oracle.assert_exact(got, want)


def deviation(output, target):
    return output.std() + output.pow(3).mean()


def contrast(output, target):
    z = F.normalize(output.reshape(len(output), -1), dim=1)
    return F.cross_entropy(z @ z.T / 0.5, torch.arange(len(z)))


OUTPUTS = {
    "transposed": lambda m, x: (m.o.weight @ torch.tanh(m.a(x)).t()).t(),
    "copied, transposed": lambda m, x: m.o(F.relu(m.a(x))).t().contiguous().t(),
    "channels last": lambda m, x: m.o(F.relu(m.a(x))).view(N, 3, 1, 1).expand(N, 3, 2, 2).to(
        memory_format=torch.channels_last),
    "expanded": lambda m, x: m.o(F.relu(m.a(x))).unsqueeze(1).expand(N, 2, 3),
    "every other": lambda m, x: torch.cat([m.o(m.a(x)), m.o(-m.a(x))], 1)[:, ::2],
    "flipped": lambda m, x: m.o(torch.tanh(m.a(x))).flip(0),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("loss", [deviation, contrast])
def test_outputs_of_any_strides_under_a_loss_that_couples(name, loss):
    torch.manual_seed(1)
    model = Net(OUTPUTS[name], a=nn.Linear(D, 4), o=nn.Linear(4, 3))
    held(model, torch.randn(N, D), torch.randint(3, (N,)), loss)


def test_a_second_derivative_of_the_loss_that_is_not_finite():
    """The parameters that it does not reach keep theirs; the others' is said to be infinite."""
    torch.manual_seed(0)
    model = Net(
        lambda m, x: torch.cat([m.a(x), m.c * x[:, :1]], 1),
        a=nn.Linear(D, 3), c=nn.Parameter(torch.ones(1)),
    ).double()  # fmt: skip
    x, y = torch.randn(N, D, dtype=torch.float64), torch.randint(3, (N,))
    x[0, 0] = 0.0  # where the root's second derivative is infinite

    def rooted(output, target):
        return F.cross_entropy(output[:, :3], target) + output[:, 3].abs().pow(1.5).sum()

    names = ["a.weight", "a.bias"]
    want = oracle.diagonal(model, rooted, [(x, y)])
    assert not bool(want["c"].isfinite().all())
    for loss in (rooted, lambda o, t: rooted(o, t) + o[:, :3].std()):
        got = hessian.diagonal(model, loss, (x, y), names=names)
        assert set(got.plan.methods().values()) == {"parameter"}
        want = oracle.diagonal(model, loss, [(x, y)])
        oracle.assert_exact(got, {k: want[k] for k in names})
        with pytest.raises(ValueError, match="not finite; check the loss at this output"):
            hessian.diagonal(model, loss, (x, y))


SEQUENCES = {
    "sums": lambda m, h: m.o(torch.tanh(m.a(h)).cumsum(0)).sum(0),
    "sums, ReLU": lambda m, h: m.o(F.relu(m.a(h)).cumsum(0))[-1],
    "sums of sums": lambda m, h: m.o(torch.tanh(m.a(h).cumsum(0)).cumsum(0)).mean(0),
    "turned": lambda m, h: m.o(torch.tanh(m.a(h)).flip(0).cumsum(0)).sum(0),
    "centred": lambda m, h: m.o(torch.tanh(m.a(h) - m.a(h).mean(0, keepdim=True))).sum(0),
    "rolled": lambda m, h: m.o(torch.tanh(m.a(h)).roll(1, 0))[0],
    "softmax in time": lambda m, h: (m.o(torch.tanh(m.a(h))).softmax(0) * h.mean(2, True)).sum(0),
    "norm": lambda m, h: m.o(F.layer_norm(m.a(h), (4,)).softmax(-1)).mean(0),
    "joined": lambda m, h: m.o(torch.cat([g := torch.tanh(m.a(h)), g.mean(0, True)])).sum(0),
    "apart": lambda m, h: m.o(sum(torch.tanh(g) for g in m.a(h).unbind(0))),
    "last": lambda m, h: m.o(torch.tanh(m.a(h))[-1]),
    "gathered": lambda m, h: m.o(torch.tanh(m.a(h))[torch.tensor([0, 2, 2])].prod(0)),
    "differences": lambda m, h: m.o(torch.tanh(m.a(h)).diff(dim=0)).pow(2).sum(0),
    "batch first again": lambda m, h: m.o(torch.tanh(m.a(h)).transpose(0, 1).cumsum(1)).sum(1),
    "channels in the middle": lambda m, h: m.o(
        F.max_pool1d(m.a(h).permute(1, 2, 0), 2).sum(2)),
    "norm of groups": lambda m, h: m.o(F.group_norm(m.a(h).permute(1, 2, 0), 2).sum(2)),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("sliced", [False, True])
def test_sequences_before_samples(name, sliced):
    torch.manual_seed(0)

    def call(m, x):
        h = x.view(N, T, 2).transpose(0, 1)
        return SEQUENCES[name](m, h[1:] if sliced else h)

    model = Net(call, a=nn.Linear(2, 4), o=nn.Linear(4, 3)).double()
    x, y = torch.randn(N, 2 * T, dtype=torch.float64), torch.randint(3, (N,))
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    for method in ("auto", "affine", "chain", "preactivation"):
        try:
            got = hessian.diagonal(model, F.cross_entropy, (x, y), method=method)
        except ValueError as error:
            if "is not proved to be exact" not in str(error) or method == "auto":
                raise
            continue
        oracle.assert_exact(got, want)
