"""Estimates, products and the check of a diagonal on parts of the samples: the same, or whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian import _estimate
from hessian._batch import parts as _parts
from hessian._batch import pieces as _pieces
from hessian._estimators import probe as _probe
from hessian._loss import quadratic as _quadratic

from . import oracle
from .live import Live
from .networks import LOSSES, build

NETS = ["tanh-mlp", "relu-cnn", "dropout-train"]


def _case(network, loss, n=5):
    model, inputs = build(network)
    make, targets = LOSSES[loss]
    generator = torch.Generator().manual_seed(1)
    return model, make(model), (inputs(n, generator), targets(n, generator))


def _product(model, loss, data, **options):
    h = hessian.operator(model, loss, data, **options)
    v = torch.randn(h.shape[0], generator=torch.Generator().manual_seed(2)).double().numpy()
    return torch.from_numpy(h @ v), h


@pytest.mark.parametrize("loss", ["weights-smoothing-ignore", "l2-term", "huber"])
@pytest.mark.parametrize("network", NETS)
def test_products_and_probes_sample_by_sample_are_those_of_the_whole(network, loss):
    model, criterion, data = _case(network, loss)
    weigh = [data, (data[0][:3], data[1][:3])]  # batches of two sizes

    def both(memory):
        torch.manual_seed(5)
        got, h = _product(model, criterion, weigh, memory=memory)
        torch.manual_seed(5)
        estimate = hessian.estimate(model, criterion, weigh, "hutchinson", 3, memory=memory)
        assert (estimate.parts, estimate.held) == (h.parts, h.held)
        return got, estimate, h

    want, estimate, whole = both(None)
    assert (whole.parts, whole.held) == (1, "")
    got, parted, h = both(1)
    assert (h.parts, h.held) == (5, "")
    # Sums over samples in another order, in float64.
    assert float((got - want).abs().max()) <= 1e-12 * float(want.abs().max())
    oracle.assert_exact(parted, dict(estimate))
    oracle.assert_exact(parted.standard_error, estimate.standard_error)


KINDS = ["preactivation", "gauss-newton", "gauss-newton-mc", "empirical-fisher", "becker-lecun"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["weights-smoothing-ignore", "l2-term", "huber", "linear"])
@pytest.mark.parametrize("network", NETS)
def test_every_kind_sample_by_sample_is_that_of_the_whole(network, loss, kind):
    model, criterion, data = _case(network, loss)
    weigh = [data, (data[0][:3], data[1][:3])]
    found = []
    for memory in (None, 1, 20_000):
        torch.manual_seed(5)
        found.append(hessian.estimate(model, criterion, weigh, kind, 3, memory=memory))
    assert [e.parts for e in found[:2]] == [1, 5]
    assert not any(e.held for e in found)
    for got in found[1:]:
        oracle.assert_exact(got, dict(found[0]))
        oracle.assert_exact(got.standard_error, found[0].standard_error)


def test_the_stopping_rule_sees_the_same_probes():
    model, loss, data = _case("tanh-mlp", "huber")
    args = (model, loss, data, "hutchinson", 200)
    whole = hessian.estimate(*args, relative_error=0.3)
    parted = hessian.estimate(*args, relative_error=0.3, memory=1)
    assert 1 < whole.probes == parted.probes < 200


@pytest.mark.parametrize("network", NETS)
def test_the_check_of_a_diagonal_is_taken_in_parts(network, monkeypatch):
    model, loss, data = _case(network, "l2-term")
    torch.manual_seed(5)
    h = hessian.diagonal(model, loss, data, verify=4, memory=1)
    assert h.plan.parts == 5
    assert max(h.deviation.values()) < 1e-11  # the diagonal's own bound is 1e-9
    calls = []
    right = _pieces.connected
    monkeypatch.setattr(_pieces, "connected", lambda part: calls.append(1) or right(part))
    torch.manual_seed(5)
    hessian.diagonal(model, loss, data, verify=4, memory=1)
    assert len(calls) == 5


@pytest.mark.parametrize(
    ("loss", "why"), [("coupling", "couples samples"), ("norm-term", "not a sum over entries")]
)
def test_coupled_samples_are_held_whole_and_it_is_said(loss, why):
    model, criterion, data = _case("relu-mlp", loss)
    want, _ = _product(model, criterion, data)
    got, h = _product(model, criterion, data, memory=1)
    assert torch.equal(got, want)
    assert h.parts == 1
    assert why in h.held
    estimate = hessian.estimate(model, criterion, data, "hutchinson", 2, memory=1)
    assert why in estimate.held
    oracle.assert_exact(estimate, hessian.estimate(model, criterion, data, "hutchinson", 2))
    assert (
        max(hessian.diagonal(model, criterion, data, verify=2, memory=1).deviation.values()) < 1e-9
    )


def test_a_later_part_that_shows_a_dependence_gives_up_the_sum():
    """The first two samples do not meet the last one; what was added up is dropped."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            z = torch.tanh(self.a(x))
            return self.b(torch.cat([z[:-1], z[-1:] + 0.1 * z[-2:-1].detach()]))

    torch.manual_seed(0)
    model, x, y = Net().double(), torch.randn(6, 4).double(), torch.arange(6) % 3
    x[0] = x[1] = 0
    want, _ = _product(model, F.cross_entropy, (x, y))
    got, h = _product(model, F.cross_entropy, (x, y), memory=5000)
    assert torch.equal(got, want)
    assert h.held


# ------------------------------------------------------------------------------------- memory

MEBI = 2**20
DEEP = {
    "convolutions": (lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(8, 4, 3), nn.Tanh(),
        nn.Flatten(), nn.Linear(16, 10)), (3, 8, 8), (32, 256), 2 * MEBI),
    "dropout": (lambda: nn.Sequential(
        nn.Linear(32, 32), nn.Dropout(0.3), nn.GELU(), nn.Linear(32, 10)), (32,), (64, 1024), MEBI),
}  # fmt: skip


def _estimated(kind):
    return lambda model, data, memory: hessian.estimate(
        model, F.cross_entropy, data, kind, 3, memory=memory
    )


CALLS = {
    "operator": lambda model, data, memory: _product(
        model, F.cross_entropy, data, memory=memory
    )[1],
    "verify": lambda model, data, memory: hessian.diagonal(
        model, F.cross_entropy, data, memory=memory, verify=2
    ).plan,
    **{kind: _estimated(kind) for kind in ("hutchinson", *KINDS)},
}  # fmt: skip


def _run(make, data):
    model = make().double()
    with Live() as live, torch.no_grad():
        model(data[0].double())
    return live.peak


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("network", DEEP)
def test_the_working_set_stays_below_the_bound_at_any_batch_size(network, call):
    make, dims, sizes, bound = DEEP[network]
    peaks, parts = [], []
    for n in sizes:
        torch.manual_seed(0)
        model, data = make(), (torch.randn(n, *dims), torch.randint(0, 10, (n,)))
        with Live() as live:
            done = CALLS[call](model, data, bound)
        peaks.append(live.peak)
        parts.append(done.parts)
    # The check runs the model on all samples in float64, once without a tape.
    beside = _run(make, data) if call == "verify" else 0
    assert max(peaks) < bound + beside, (peaks, parts)
    assert parts[1] > parts[0] >= 1
    with Live() as live:  # the count sees what a batch as a whole takes
        CALLS[call](model, data, None)
    assert live.peak > bound + beside


@pytest.mark.parametrize("kind", ["hutchinson", "preactivation"])
def test_probes_of_large_parameters_are_few_at_a_time(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10))
    data = torch.randn(16, 256), torch.randint(0, 10, (16,))
    with Live() as live:
        hessian.estimate(model, F.cross_entropy, data, kind, 8, memory=4 * MEBI)
    assert live.peak < 4 * MEBI


# --------------------------------------------------------------------------------- mutations


def _cut(cuts, right=_pieces.divided):
    def wrong(*args):
        slices, need = right(*args)
        return cuts(slices), need

    return wrong


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (_pieces, "divided", _cut(lambda parts: parts[:-1])),  # a part forgotten
        (_pieces, "divided", _cut(lambda parts: [*parts, parts[0]])),  # one twice
        (_parts.Whole, "own", lambda self: ({}, {})),  # the loss's own term forgotten
        (  # a part weighs as if it were the batch
            _pieces, "connected",
            lambda part, right=_pieces.connected: (
                right(part) * part.caller.whole.samples / part.samples
            ),
        ),
    ],
)  # fmt: skip
def test_wrong_sums_are_seen(owner, name, wrong, monkeypatch):
    model, loss, data = _case("tanh-mlp", "l2-term")
    want, _ = _product(model, loss, data)
    estimate = hessian.estimate(model, loss, data, "hutchinson", 2)
    monkeypatch.setattr(owner, name, wrong)
    got, _ = _product(model, loss, data, memory=1)
    assert float((got - want).abs().max()) > 1e-3 * float(want.abs().max())
    with pytest.raises(AssertionError):
        oracle.assert_exact(
            hessian.estimate(model, loss, data, "hutchinson", 2, memory=1), dict(estimate)
        )
    h = hessian.diagonal(model, loss, data, verify=6, memory=1)
    if owner is _parts.Whole:  # both forget the term, and values of the loss tell
        assert min(h.deviation.values()) > 1e-3
    else:  # the diagonal is right, and the double backward that is wrong does not say otherwise
        assert max(h.deviation.values()) < 1e-7
        assert all(abs(v.double - v.h) > 1e-3 * abs(v.h) for v in h.verification)


def _restarted(self, place, n, width, like, right=_probe.Noise.draw):
    self.rewind()
    return right(self, place, n, width, like)


@pytest.mark.parametrize(
    ("owner", "name", "wrong", "kinds"),
    [
        (_probe.Noise, "draw", _restarted, ["preactivation", "gauss-newton-mc"]),
        (  # the first samples' second derivative of the loss
            _quadratic.Quadratic, "of",
            lambda self, part, right=_quadratic.Quadratic.of: right(
                self, slice(0, part.stop - part.start)),
            ["preactivation", "gauss-newton", "gauss-newton-mc", "becker-lecun"],
        ),
        (_parts.Whole, "own", lambda self: ({}, {}), [k for k in KINDS if "fisher" not in k]),
        (  # a part's own number of samples
            _estimate, "of_all", lambda batch: batch.samples, ["empirical-fisher"]
        ),
    ],
)  # fmt: skip
def test_wrong_kinds_are_seen(owner, name, wrong, kinds, monkeypatch):
    model, loss, data = _case("tanh-mlp", "l2-term")
    _seen(model, loss, data, owner, name, wrong, kinds, monkeypatch)


def test_wrong_blocks_are_seen(monkeypatch):
    """The first samples' second derivative of a loss that mixes a sample's outputs."""

    def wrong(self, part, right=_parts.Whole.blocks):
        return right(self, slice(0, part.stop - part.start))

    def loss(output, target):
        return F.cosine_embedding_loss(output, output.detach().cos(), torch.ones(len(output)))

    model, _, data = _case("tanh-mlp", "l2-term")
    kinds = ["preactivation", "gauss-newton", "gauss-newton-mc", "becker-lecun"]
    _seen(model, loss, data, _parts.Whole, "blocks", wrong, kinds, monkeypatch)


def _seen(model, loss, data, owner, name, wrong, kinds, monkeypatch):
    want = {kind: hessian.estimate(model, loss, data, kind, 2) for kind in kinds}
    monkeypatch.setattr(owner, name, wrong)
    for kind in kinds:
        got = hessian.estimate(model, loss, data, kind, 2, memory=1)
        with pytest.raises(AssertionError):
            oracle.assert_exact(got, dict(want[kind]))
