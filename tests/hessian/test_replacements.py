"""Operations whose second derivative torch gets wrong, held to second differences of the value."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import hessian

from . import by_value

Y = torch.tensor([0, 1, 1, 0, 1])


def draw(*dims):
    return torch.randn(*dims, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def old(layer, dim):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer, dim=dim)


def new(layer, dim):
    return parametrizations.weight_norm(layer, dim=dim)


LAYERS = {
    "linear": (lambda: nn.Linear(3, 2), (3,)),
    "convolution": (lambda: nn.Conv1d(3, 2, 2), (3, 3)),
    "image": (lambda: nn.Conv2d(2, 2, 2, bias=False), (2, 3, 3)),
    "transposed": (lambda: nn.ConvTranspose1d(2, 2, 2), (2, 2)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("wrap", [old, new])
def test_weight_norm(kind, dim, wrap):
    torch.manual_seed(0)
    make, dims = LAYERS[kind]
    model = nn.Sequential(wrap(make(), dim), nn.Tanh(), nn.Flatten()).double()
    width = model(draw(5, *dims)).shape[1]
    model.append(wrap(nn.Linear(width, 2), 0).double())
    x = draw(5, *dims)
    want = by_value.diagonal(model, F.cross_entropy, x, Y)
    gaps = by_value.everywhere(model, F.cross_entropy, x, Y, want)
    assert max(gaps.values()) < by_value.CLOSE, gaps
    found = hessian.diagonal(model, F.cross_entropy, (x, Y), verify=2)
    assert max(found.deviation.values()) < 1e-5
    # The output is affine in the magnitude of the last layer: a pass for each class and sample.
    last = [name for name in found if name.startswith("3") and name.endswith(("_g", "original0"))]
    cheap = hessian.diagonal(model, F.cross_entropy, (x, Y), method="affine", names=last)
    assert [cheap.plan[name].method for name in last] == ["columns"]
    assert by_value.gap(cheap, {name: want[name] for name in last}) < by_value.CLOSE


def test_the_old_weight_norm_holds_no_tape_of_ours():
    model = nn.Sequential(old(nn.Linear(3, 2), 0)).double()
    with torch.no_grad():
        model(draw(5, 3))
    weight = model[0].weight
    hessian.diagonal(model, F.cross_entropy, (draw(5, 3), Y), verify=1)
    assert model[0].weight is weight
    copy.deepcopy(model)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_weight_norm_by_its_function(dim):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.v, self.g = nn.Parameter(draw(2, 3)), nn.Parameter(torch.tensor(2.0).double())

        def forward(self, x):
            return F.linear(x, torch._weight_norm(self.v, self.g, dim)).sin()

    model, x = Net(), draw(5, 3)
    if dim >= 0:
        dims = [1, 1]
        dims[dim] = (2, 3)[dim]
        model.g = nn.Parameter(draw(*dims))
    want = by_value.diagonal(model, F.cross_entropy, x, Y)
    gaps = by_value.everywhere(model, F.cross_entropy, x, Y, want)
    assert max(gaps.values()) < by_value.CLOSE, gaps


# --------------------------------------------------------------- what norms return beside


def layer(x):
    y, mean, rstd = torch.native_layer_norm(x, [4], None, None, 1e-5)
    return y + mean.sin() + rstd.log()


def batch(x):
    y, mean, rstd = torch.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)
    return y + mean.sin() + rstd.log()


@pytest.mark.parametrize("norm", [layer, batch])
def test_means_and_deviations_have_derivatives(norm):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()

        def forward(self, x):
            return self.b(norm(self.a(x)))

    model, x = Net(), draw(5, 3)
    want = by_value.diagonal(model, F.cross_entropy, x, Y)
    gaps = by_value.everywhere(model, F.cross_entropy, x, Y, want)
    assert max(gaps.values()) < by_value.CLOSE, gaps


# ------------------------------------------------------------------ chunked cross-entropy


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this torch has none")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_chunked_linear_cross_entropy(reduction, bias):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 6, bias=bias)
            self.weight = torch.linspace(1, 2, 6).double()

        def forward(self, x):
            from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

            value = F.linear_cross_entropy(
                torch.tanh(self.body(x["x"])), self.head.weight, x["y"], linear_bias=self.head.bias,
                weight=self.weight, reduction=reduction, ignore_index=1,
                options=LinearCrossEntropyOptions(batch_chunk_size=2),
            )  # fmt: skip
            return value.sum() if reduction == "none" else value

    model = Net().double()
    data = {"x": draw(5, 4), "y": torch.tensor([0, 1, 3, 5, 2])}
    model.forward, call = (lambda **x: call(x)), model.forward

    def loss(output, target):
        return output

    want = by_value.diagonal(model, loss, data, None)
    assert max(float(h.abs().max()) for h in want.values()) > 0.01
    gaps = by_value.everywhere(model, loss, data, Y, want)
    assert max(gaps.values()) < by_value.CLOSE, gaps
