"""Networks and losses of the reader's own train as a loop that is written out, or are refused."""

import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F

import sim

MINE = """
    import torch
    import torch.nn.functional as F
    from torch import nn

    def data(*, split):
        generator = torch.Generator().manual_seed({"train": 1, "test": 2}[split])
        x = torch.randn(24, 1, 8, 8, generator=generator)
        return x, torch.arange(24) % 3

    class Base(nn.Module):
        def __init__(self, in_shape, classes):
            super().__init__()
            self.below, self.above = nn.Linear(64, 6), nn.Linear(6, classes)

        def forward(self, x):
            return self.above(self.between(torch.tanh(self.below(x.flatten(1)))))

        def between(self, x):
            return x

    class Frozen(Base):
        def __init__(self, in_shape, classes):
            super().__init__(in_shape, classes)
            self.below.requires_grad_(False)

    class Unused(Base):
        def __init__(self, in_shape, classes):
            super().__init__(in_shape, classes)
            self.extra = nn.Linear(3, 3)

    class Sometimes(Unused):
        def __init__(self, in_shape, classes):
            super().__init__(in_shape, classes)
            self.extra, self.passes = nn.Linear(6, 6), 0

        def between(self, x):
            self.passes += self.training
            return torch.tanh(self.extra(x)) if self.passes % 2 else x

    class Turned(nn.Module):
        # More than 2**15 entries, neither contiguous nor with the channels last.
        def __init__(self, in_shape, classes):
            super().__init__()
            drawn = torch.randn(64, 8, 8, 10)
            self.w = nn.Parameter(0.05 * drawn.permute(3, 0, 1, 2).transpose(2, 3))

        def forward(self, x):
            return torch.einsum("nhw,kchw->nk", x[:, 0], self.w)

    class Transposed(nn.Module):
        def __init__(self, in_shape, classes):
            super().__init__()
            self.w, self.v = nn.Parameter(0.05 * torch.randn(64, 600).t()), nn.Linear(600, classes)

        def forward(self, x):
            return self.v(torch.relu(x.flatten(1) @ self.w.t()))

    class Alias(Base):
        # Another tensor that shares the weights' memory.
        def __init__(self, in_shape, classes):
            super().__init__(in_shape, classes)
            self.shared = self.below.weight.data

        def forward(self, x):
            return super().forward(x) * (1 + self.shared.norm())

    class Function(Base):
        def between(self, x):
            return F.dropout(x, 0.5, self.training)

    class Both(Base):
        def __init__(self, in_shape, classes):
            super().__init__(in_shape, classes)
            self.dropout = nn.Dropout(0.5)

        def between(self, x):
            return F.dropout(self.dropout(x), 0.5, self.training)

    class Randomised(Base):
        def __init__(self, in_shape, classes):
            super().__init__(in_shape, classes)
            self.rectify = nn.RReLU(0.1, 0.9)

        def between(self, x):
            return self.rectify(x)

    class Recurrent(nn.Module):
        def __init__(self, in_shape, classes):
            super().__init__()
            self.lstm = nn.LSTM(8, 5, num_layers=2, dropout=0.5, batch_first=True)
            self.last = nn.Linear(5, classes)

        def forward(self, x):
            return self.last(self.lstm(x[:, 0])[0][:, -1])

    class Attentive(nn.Module):
        def __init__(self, in_shape, classes):
            super().__init__()
            self.mix = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
            self.last = nn.Linear(8, classes)

        def forward(self, x):
            return self.last(self.mix(x[:, 0], x[:, 0], x[:, 0])[0].mean(1))

    WEIGHTS = torch.tensor([10.0, 1.0, 0.1])

    def weighted(output, target):
        return F.cross_entropy(output, target, weight=WEIGHTS.to(output))

    class Weighted(nn.Module):
        def forward(self, output, target):
            return weighted(output, target)

    def summed(output, target):
        return F.cross_entropy(output, target, reduction="sum")

    def summed_by_default(output, target, reduction="sum"):
        return F.cross_entropy(output, target, reduction=reduction)

    def together(output, target):
        return F.cross_entropy(output, target) + output.mean(0).square().sum()

    def centred(output, target):
        return F.cross_entropy(output - output.mean(0), target)

    def plain(output, target):
        return F.cross_entropy(output, target)
"""
FIELDS = {"dataset": "mine_networks:data", "batch_size": 24, "dtype": "float64",
          "measure": {"layers_every": 1, "test_every": 0}}  # fmt: skip
RULES = {
    "sgd": (torch.optim.SGD, {"weight_decay": 0.1, "momentum": 0.5}, 0.1),
    "adam": (torch.optim.Adam, {}, 0.01),
    "adamw": (torch.optim.AdamW, {"weight_decay": 1.0}, 0.01),
    "lars": (sim.optimizers.LARS, {"weight_decay": 0.1, "momentum": 0.5}, 0.01),
}
NETWORKS = ("Frozen", "Unused", "Sometimes", "Turned", "Transposed", "Alias")
RANDOM = ("Function", "Both", "Randomised", "Recurrent", "Attentive")


@pytest.fixture(scope="module", autouse=True)
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    (folder / "mine_networks.py").write_text(textwrap.dedent(MINE), encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield __import__("mine_networks")
    sys.path.remove(str(folder))
    del sys.modules["mine_networks"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_is_that_of_the_optimizer_on_parameters_with_a_gradient(network, rule, mine):
    kind, options, lr = RULES[rule]
    name = f"mine_networks:{network}"
    run = sim.train({**FIELDS, "model": name, "optimizer": rule, "lr": lr,
                     "optimizer_options": options, "steps": 4})  # fmt: skip
    model = sim.models.build(name, in_shape=(1, 8, 8), classes=3, seed=0).double()
    optimizer = kind(model.parameters(), lr=lr, **options)
    x, y = mine.data(split="train")
    strides = []
    for _ in range(4):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        F.cross_entropy(model(x.double()), y).backward()
        optimizer.step()
        strides += [float((p.detach() - b).abs().mean())
                    for p, b in zip(model.parameters(), before, strict=True)]  # fmt: skip
    # All samples in every batch: their order changes roundings alone. Adam divides by what
    # gradients next to zero leave, so that roundings of 1e-17 come to 1e-12.
    for key, value in model.state_dict().items():
        torch.testing.assert_close(run.weights[key], value, rtol=1e-9, atol=1e-10)
    assert list(run.layer_steps.stride) == pytest.approx(strides, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("network", RANDOM)
def test_whatever_is_drawn_comes_from_the_runs_seed(network, tmp_path):
    fields = {**FIELDS, "model": f"mine_networks:{network}", "batch_size": 12, "epochs": 2,
              "lr": 0.05, "measure": {"test_every": 0}}  # fmt: skip
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sim.train(fields)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert sim.train(fields).steps.equals(first.steps)
    assert not sim.train({**fields, "seed": 1}).steps.equals(first.steps)
    # The same samples with the same draws, after a step too small to be felt.
    still = {**fields, "lr": 1e-12, "measure": {"decrease_every": 1, "test_every": 0}}
    assert sim.train(still).steps.decrease_batch.abs().max() < 1e-9


LOSSES = ("weighted", "Weighted", "summed", "together", "centred")


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_that_is_no_mean_over_samples_is_refused(loss):
    fields = {**FIELDS, "model": "mine_networks:Base", "steps": 2}
    with pytest.raises(ValueError, match=r"loss: .* the mean of its samples' own losses is"):
        sim.train({**fields, "loss": f"mine_networks:{loss}"})


def test_a_loss_whose_reduction_is_a_sum_is_refused():
    fields = {**FIELDS, "model": "mine_networks:Base", "steps": 2}
    with pytest.raises(ValueError, match=r"loss: .*its reduction is 'sum'"):
        sim.train({**fields, "loss": "mine_networks:summed_by_default"})


def test_a_plain_mean_is_the_built_in_loss():
    fields = {**FIELDS, "model": "mine_networks:Base", "steps": 3}
    runs = [
        sim.train({**fields, "loss": name}) for name in ("mine_networks:plain", "cross_entropy")
    ]
    assert list(runs[0].steps.loss) == pytest.approx(list(runs[1].steps.loss), rel=1e-12)


def test_an_optimizer_that_needs_a_closure_is_refused():
    with pytest.raises(ValueError, match=r"optimizer: .*LBFGS.*needs a closure"):
        sim.train({**FIELDS, "model": "mine_networks:Base", "optimizer": "torch.optim:LBFGS",
                   "steps": 2})  # fmt: skip
