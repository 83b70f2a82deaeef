"""Torch's own operator database against values of the loss: every entry with a second derivative.

Each operation becomes a module whose parameters are a sample's floating tensors, the loss a smooth
function of its outputs with fixed weights. Torch's own wrappers make an input symmetric or
triangular where an operation takes it for that. What differs for a reason is `LISTED`; a name that
no longer differs fails too.
"""

import importlib.util
import sys
import types
import unittest
import warnings

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

import hessian
from hessian.testing import assert_exact, differences

SAMPLES = 2  # of an operation
LARGEST = 1000  # entries of a sample's tensors, where there is a smaller one
ENTRIES = 5  # that are compared

LISTED = {
    "bfloat16": "rounding to fewer bits is computed without (docs, precision)",
    "half": "likewise",
    "chalf": "likewise",
    "normal": "torch gives random draws no gradient",
    "normal.number_mean": "likewise",
    "nn.functional.max_unpool1d": "several entries are written to one place",
    "nn.functional.max_unpool2d": "likewise",
    "nn.functional.max_unpool3d": "likewise",
    "_native_batch_norm_legit": "saved statistics have no gradient in torch; internal",
    "_batch_norm_with_update": "likewise",
    "nn.functional.ctc_loss": "torch has no second derivative of it, and it is refused",
    "__rpow__": "the samples' loss is not a number",
    "sparse.sampled_addmm": "a sparse output",
}
# No entry can be compared: a staircase as fine as the steps; a norm at zero.
KINKED = {"round.decimals_3", "linalg.norm.subgradients_at_zero"}


class Operation(nn.Module):
    """An operation on a sample; its floating tensors are the parameters."""

    def __init__(self, op, sample):
        super().__init__()
        self.op, self.sample = op, sample
        self.tensors = nn.ParameterList()
        self.place = {}
        for leaf in tree_leaves(self._given()):
            real = isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64
            if real and leaf.requires_grad and id(leaf) not in self.place:
                self.place[id(leaf)] = len(self.tensors)
                self.tensors.append(nn.Parameter(leaf.detach().clone()))

    def _given(self):
        return self.sample.input, self.sample.args, self.sample.kwargs

    def forward(self, x):
        def put(leaf):
            if isinstance(leaf, torch.Tensor):
                if id(leaf) in self.place:  # in its own layout; not a leaf, so written to freely
                    return self.tensors[self.place[id(leaf)]] * 1.0
                return leaf.detach().clone()
            return leaf

        first, args, kwargs = tree_map(put, self._given())
        output = self.op.gradcheck_wrapper(self.op.op, first, *args, **kwargs)
        return self.sample.output_process_fn_grad(output)


def smooth(output, target):
    """Σ (u·y + v·y²/2 + y/(1 + y²)) over all real numbers in the output, u and v fixed."""
    total = target.sum() * 0
    for leaf in tree_leaves(output):
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad | leaf.is_floating_point():
            y = torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
            if not y.is_floating_point():
                continue
            place = torch.arange(y.numel(), dtype=torch.float64).view(y.shape)
            u, v = torch.cos(3 * place + 1), 0.5 + torch.sin(5 * place + 2) / 3
            total = total + (u * y + v * y.square() / 2 + y / (1 + y.square())).sum()
    return total


def operations():
    if importlib.util.find_spec("expecttest") is None:
        # Torch's test helpers import it for snapshots of text, of which the database has none.
        stand_in = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase
        stand_in.assert_expected_inline = None
        sys.modules["expecttest"] = stand_in
    from torch.testing._internal.common_methods_invocations import op_db

    # The import forbids to set torch's flags outside of a block, as every computation here does.
    switch = torch.backends.disable_global_flags.__globals__
    switch["__allow_nonbracketed_mutation_flag"] = True
    return [op for op in op_db if op.supports_gradgrad and torch.float64 in op.dtypes]


def named(op):
    return op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")


def modules(op):
    """A few small samples of an operation; of those that have none the smallest."""
    torch.manual_seed(0)
    small, smallest = [], None
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        model = Operation(op, sample)
        model.numel = sum(p.numel() for p in model.tensors)
        if 0 < model.numel <= LARGEST:
            small.append(model)
        elif model.numel and (smallest is None or model.numel < smallest.numel):
            smallest = model
        if len(small) == SAMPLES:
            break
    return small or [smallest]


def compare(model, method):
    """How many entries agree; raises where one does not."""
    data = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    torch.manual_seed(1)
    if model.numel > LARGEST:
        draw = torch.Generator().manual_seed(2)
        some = hessian.sample(model, smooth, data, ENTRIES, draw)
        entries = {n: s.index.tolist() for n, s in some.items()}
        got = {n: dict(zip(entries[n], s.value, strict=True)) for n, s in some.items()}
        largest = {n: float(s.value.abs().max()) for n, s in some.items()}
    else:
        h = hessian.diagonal(model, smooth, data, method=method)
        entries, got = ENTRIES, {n: t.reshape(-1) for n, t in h.items()}
        largest = {n: float(t.abs().max()) if t.numel() else 0.0 for n, t in h.items()}
    size = {n: max(s, 1e-6 * max(largest.values())) for n, s in largest.items()}
    enough = {n: 1e-7 * s for n, s in size.items()}
    torch.manual_seed(1)
    agreed = 0
    for r in differences(model, smooth, data, entries=entries, enough=enough):
        value = float(got[r.name][r.index])
        rough = r.error > 1e-3 * (max(size[r.name], abs(r.value)) or 1e-6)
        if r.word == "kink" or (rough and abs(value - r.value) <= r.error):
            continue
        assert abs(value - r.value) <= 1e-6 * size[r.name] + r.error, (r, value)
        agreed += 1
    return agreed


def judged(op):
    """How many entries of an operation agree, and what is wrong with it."""
    agreed, wrong = 0, ""
    for model in modules(op):
        for method in ("auto", "parameter"):
            try:
                agreed += compare(model, method)
            except (AssertionError, RuntimeError, ValueError) as error:
                wrong = wrong or f"{method}: {type(error).__name__} {str(error)[:300]}"
    return agreed, wrong


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_operation_with_a_second_derivative():
    wrong, agreed, kinked, entries = {}, [], set(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = operations()
        for op in every:
            count, what = judged(op)
            entries += count
            if what:
                wrong[named(op)] = what
            elif count:
                agreed.append(named(op))
            else:
                kinked.add(named(op))
    print(
        f"{len(every)} operations, {len(agreed)} agree at {entries} entries, {len(LISTED)} listed"
    )
    unlisted = {name: what for name, what in wrong.items() if name not in LISTED}
    assert not unlisted, "\n".join(f"{name}: {what}" for name, what in unlisted.items())
    assert not [name for name in agreed if name in LISTED], "take these off the list"
    assert kinked == KINKED
    assert len(agreed) > 500


@pytest.mark.parametrize(
    "norm",
    [
        lambda x, b: nn.functional.layer_norm(x, (3,), None, b),
        lambda x, b: torch.layer_norm(x, (3,), bias=b),
        lambda x, b: torch.native_layer_norm(x, (3,), None, b, 1e-5)[0],
    ],
)
def test_a_bias_without_a_weight(norm):
    """Torch's double backward of a layer norm loses it, and so did every route."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Parameter(torch.randn(3))

        def forward(self, x):
            return norm(self.a(x), self.b)

    torch.manual_seed(0)
    data = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    report = assert_exact(Net().double(), lambda o, t: (o - t).pow(4).sum(), data)
    assert report.entries == 15


def test_what_a_scatter_overwrites_has_no_derivative():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.v = (nn.Parameter(torch.randn(s).double()) for s in ((2, 3), (2,)))

        def forward(self, x):
            return torch.as_strided_scatter(self.w * x, self.v * 1.0, (2,), (2,), 1)

    torch.manual_seed(0)
    data = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    h = hessian.diagonal(Net(), lambda o, t: (o + t).pow(3).sum(), data, verify=8)
    assert {v.word for v in h.verification} == {"agrees"}
    assert int((h["w"] == 0).sum()) == 2
