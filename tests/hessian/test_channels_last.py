"""Images whose channels come last in memory: as exact, and as cheap, as with channels first."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian

from . import oracle

C, S = 3, 6


def network(act, *layers, out=4):
    return nn.Sequential(
        nn.Conv2d(2, C, 3, padding=1), act(), *layers, nn.Flatten(), nn.LazyLinear(out)
    )


POOLS = {
    "average": lambda: [nn.AdaptiveAvgPool2d(1)],
    "a pair": lambda: [nn.AdaptiveAvgPool2d((1, 1))],
    "rows": lambda: [nn.AdaptiveAvgPool2d((1, None))],
    "maximum": lambda: [nn.AdaptiveMaxPool2d(1)],
    "windows": lambda: [nn.MaxPool2d(2), nn.Conv2d(C, 2, 2), nn.AvgPool2d(2)],
    "running norm": lambda: [nn.BatchNorm2d(C).eval(), nn.MaxPool2d(3)],
    "upsampled": lambda: [nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1)],
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("part", ["model", "inputs", "both"])
def test_as_exact_and_as_cheap(pool, act, part):
    torch.manual_seed(0)
    model = network(act, *POOLS[pool]()).double()
    x, y = torch.randn(3, 2, S, S, dtype=torch.float64), torch.randint(4, (3,))
    model(x)
    passes = hessian.plan(model, F.cross_entropy, (x, y)).backward
    if part != "inputs":
        model = model.to(memory_format=torch.channels_last)
    if part != "model":
        x = x.to(memory_format=torch.channels_last)
    got = hessian.diagonal(model, F.cross_entropy, (x, y))
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))
    assert got.plan.backward <= 2 * passes


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("method", ["auto", "preactivation", "parameter"])
def test_a_group_norm(groups, method):
    """Torch's own double backward of it reads other memory: held to that of channels first."""
    torch.manual_seed(0)
    model = network(nn.Tanh, nn.GroupNorm(groups, C), nn.AdaptiveAvgPool2d(1)).double()
    x, y = torch.randn(3, 2, S, S, dtype=torch.float64), torch.randint(4, (3,))
    model(x)
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    model = model.to(memory_format=torch.channels_last)
    for _ in range(3):
        got = hessian.diagonal(
            model, F.cross_entropy, (x.to(memory_format=torch.channels_last), y), method=method
        )
        oracle.assert_exact(got, want)


class Turned(nn.Module):
    """Tokens whose channels come last, pooled over their number."""

    def __init__(self, pool):
        super().__init__()
        self.up, self.pool, self.out = nn.Linear(3, 4), pool, nn.Linear(4, 3)

    def forward(self, x):
        h = torch.relu(self.up(x)).transpose(1, 2)
        return self.out(self.pool(h).flatten(1))


@pytest.mark.parametrize(
    "pool", [nn.AdaptiveAvgPool1d(1), lambda h: torch.adaptive_avg_pool1d(h, [1]),
             lambda h: F.adaptive_avg_pool2d(h.unsqueeze(2), 1),
             lambda h: F.adaptive_avg_pool3d(h[..., None, None], (1, 1, 1)),
             lambda h: torch.ops.aten.adaptive_avg_pool1d(h, [1])],
)  # fmt: skip
def test_pooled_tokens(pool):
    torch.manual_seed(0)
    model = Turned(pool).double()
    x, y = torch.randn(3, 5, 3, dtype=torch.float64), torch.randint(3, (3,))
    got = hessian.diagonal(model, F.cross_entropy, (x, y))
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))
    if "aten" not in str(pool.__code__.co_names if hasattr(pool, "__code__") else ""):
        assert set(got.plan.methods().values()) == {"affine"}


def test_volumes():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(1, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 3)
    ).double()
    x, y = torch.randn(3, 1, 4, 4, 4, dtype=torch.float64), torch.randint(3, (3,))
    passes = hessian.plan(model, F.cross_entropy, (x, y)).backward
    model = model.to(memory_format=torch.channels_last_3d)
    x = x.to(memory_format=torch.channels_last_3d)
    got = hessian.diagonal(model, F.cross_entropy, (x, y))
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))
    assert got.plan.backward <= 2 * passes


def test_a_view_of_any_strides_proves_nothing():
    """`as_strided` may overlap or mix samples: exact, by a product for each entry."""

    class Strided(nn.Module):
        def __init__(self, size, stride):
            super().__init__()
            self.a, self.o = nn.Linear(3, 4), nn.Linear(size[1], 3)
            self.size, self.stride = size, stride

        def forward(self, x):
            return self.o(torch.relu(self.a(x)).as_strided(self.size, self.stride))

    for size, stride in (((5, 4), (4, 1)), ((5, 4), (1, 4)), ((5, 3), (2, 3)), ((5, 4), (0, 1))):
        torch.manual_seed(0)
        model = Strided(size, stride).double()
        x, y = torch.randn(5, 3, dtype=torch.float64), torch.randint(3, (5,))
        got = hessian.diagonal(model, F.cross_entropy, (x, y))
        oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))
        assert got.plan["a.weight"].method == "parameter"
