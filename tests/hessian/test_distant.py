"""Functions whose second derivative torch loses far out, near zero, or where a slope is zero.

Held to second differences of values: SciPy's, which are no torch, and the loss's own.
"""

import numpy as np
import pytest
import scipy.special as special
import torch
import torch.nn.functional as F
from torch import nn

import hessian.functional

from . import by_value

OPS = torch.ops.aten
ZERO = torch.zeros(1)


def mish(x):
    return x * np.tanh(np.logaddexp(0.0, x))


# The function, once more by values, and where.
FUNCTIONS = {
    "mish": (F.mish, mish, (-100.0, -2.0, 0.3, 20.0, 90.0, 800.0)),
    "mish in place": (lambda a: F.mish(1 * a, inplace=True), mish, (-2.0, 90.0, 800.0)),
    "mish, operator": (OPS.mish, mish, (0.3, 800.0)),
    "logaddexp": (
        lambda a: torch.logaddexp(a, ZERO.to(a)), lambda x: np.logaddexp(x, 0.0),
        (-800.0, -95.0, -1.0, 2.0, 95.0, 800.0),
    ),
    "logaddexp, operator": (
        lambda a: OPS.logaddexp(a, ZERO.to(a)), lambda x: np.logaddexp(x, 0.0), (-800.0, 2.0),
    ),
    "logaddexp2": (
        lambda a: torch.logaddexp2(a, ZERO.to(a)), lambda x: np.logaddexp2(x, 0.0),
        (-2000.0, -200.0, 1.0, 200.0),
    ),
    "log_ndtr": (torch.special.log_ndtr, special.log_ndtr, (-500.0, -50.0, -16.0, -3.0, 2.0)),
    "erfcx": (torch.special.erfcx, special.erfcx, (-1.0, 0.5, 5.0, 20.0, 50.0, 104.0)),
    "i1": (torch.special.i1, special.i1, (-0.5, 1e-6, 1e-3, 0.1, 0.9, 1.1, 4.0)),
    "i1e": (torch.special.i1e, special.i1e, (-0.5, -1e-2, 1e-2, 0.1, 0.9, 1.1, 4.0)),
}  # fmt: skip
# Of differences, for points of size one: i1e has a kink in its third derivative at zero.
STEPS = {"i1e": 2e-3}
TAILS = ("erfcx", "log_ndtr")  # powers far out, which take steps as long
# Of the result, or of one. Single precision loses a digit or two in functions such as these.
CLOSE = {torch.float64: 1e-6, torch.float32: 3e-4}


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_entry_by_values(name, dtype):
    function, values, points = FUNCTIONS[name]
    a = torch.tensor(points, dtype=dtype)
    x = a.double().numpy()
    step = STEPS.get(name, 1e-2) * np.maximum(1.0, np.abs(x) if name in TAILS else 0.0)
    p, q, r, s, t = (values(x + k * step) for k in (-2, -1, 0, 1, 2))
    want = torch.from_numpy((-p + 16 * q - 30 * r + 16 * s - t) / (12 * step**2))
    for method in ("auto", "parameter"):
        h = hessian.functional.diagonal(lambda p: function(p["a"]).sum(), method=method)({"a": a})
        size = want.abs() if name == "erfcx" else want.abs() + 1e-3
        assert ((h["a"].double() - want).abs() <= CLOSE[dtype] * size).all(), (h["a"], want)


DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(6, 4, dtype=torch.float64, generator=DRAWN), torch.arange(6) % 3
EVENTS = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
LOSSES = {
    "of some samples": lambda o, t: (o[:, 0].logcumsumexp(0) * EVENTS).square().sum(),
    "of some classes": lambda o, t: (torch.logcumsumexp(o, 1) * EVENTS[:3]).square().sum(),
    "at its minimum": lambda o, t: (s := o.logcumsumexp(-1)).sub(s.detach()).square().sum(),
    "a partial likelihood": lambda o, t: ((o[:, 1].logcumsumexp(0) - o[:, 1]) * EVENTS).sum(),
    "operator": lambda o, t: (OPS.logcumsumexp(o, 0) * EVENTS[:, None]).square().sum(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_running_sums_of_exponentials_where_their_slope_is_zero(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    loss = LOSSES[name]
    if name == "at its minimum":
        known = model(X).logcumsumexp(-1).detach()
        want = by_value.diagonal(
            model, lambda o, t: (o.logcumsumexp(-1) - known).square().sum(), X, Y
        )
    else:
        want = by_value.diagonal(model, loss, X, Y)
    gaps = by_value.everywhere(model, loss, X, Y, want)
    assert all(gap < by_value.CLOSE for gap in gaps.values()), gaps


def test_complex_numbers_of_size_zero():
    """Of |r exp(iθ) - 1|² the second derivative in r is 2, and the slope -2 cos θ at r = 0."""
    angle = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)

    def function(p):
        far = torch.polar(p["size"], p["angle"]) - 1
        return (far.real.square() + far.imag.square()).sum()

    sizes = torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64)
    h = hessian.functional.diagonal(function)({"size": sizes, "angle": angle})
    torch.testing.assert_close(h["size"], torch.full_like(sizes, 2.0), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(h.gradient["size"], 2 * sizes - 2 * angle.cos())
    torch.testing.assert_close(h["angle"], 2 * sizes * angle.cos(), rtol=1e-12, atol=1e-12)
