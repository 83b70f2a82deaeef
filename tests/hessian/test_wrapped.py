"""Compiled, checkpointed and sharded models and losses: right, or one sentence."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import checkpoint as torch_checkpoint

import hessian

from . import by_value

X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
Y = torch.tensor([0, 1, 2, 2, 1, 0])
# What compiled code may leave behind says nothing about ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning",
                                        "ignore::FutureWarning")  # fmt: skip


class Net(nn.Module):
    def __init__(self, call=None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4).double(), nn.Linear(4, 3).double()
        self.call = call or (lambda net, x: net.b(torch.tanh(net.a(x))))

    def forward(self, x):
        return self.call(self, x)


WANT = by_value.diagonal(Net(), F.cross_entropy, X, Y)
PLAIN = hessian.diagonal(Net(), F.cross_entropy, (X, Y))


def like_plain(h, prefix=""):
    """Equal to the plain model bit for bit, by the same routes."""
    for name, want in PLAIN.items():
        assert torch.equal(h[prefix + name], want), name
        assert h.plan[prefix + name].method == PLAIN.plan[name].method


# ------------------------------------------------------------------------------- compiled


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("warm", [False, True])
def test_a_compiled_loss(backend, warm):
    loss = torch.compile(F.cross_entropy, backend=backend)
    if warm:
        loss(Net()(X), Y).backward()
    like_plain(hessian.diagonal(Net(), loss, (X, Y), verify=2))
    gaps = by_value.everywhere(Net(), loss, X, Y, WANT)
    assert max(gaps.values()) < by_value.CLOSE, gaps


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("warm", [False, True])
def test_a_compiled_model(backend, warm):
    wrapped, in_place, inner = torch.compile(Net(), backend=backend), Net(), Net()
    in_place.compile(backend=backend)
    inner.a = torch.compile(inner.a, backend=backend)
    tanh = torch.compile(torch.tanh, backend=backend)
    function = Net(lambda net, x: net.b(tanh(net.a(x))))
    models = {"_orig_mod.": wrapped, "": in_place, "f": function}
    for prefix, model in models.items():
        if warm:
            F.cross_entropy(model(X), Y).backward()
        like_plain(hessian.diagonal(model, F.cross_entropy, (X, Y)), prefix.removeprefix("f"))
    h = hessian.diagonal(inner, F.cross_entropy, (X, Y))
    assert torch.equal(h["a._orig_mod.weight"], PLAIN["a.weight"])
    for kind in ("hutchinson", "gauss-newton"):
        got = hessian.estimate(wrapped, F.cross_entropy, (X, Y), kind)
        want = hessian.estimate(Net(), F.cross_entropy, (X, Y), kind)
        assert all(torch.equal(got[f"_orig_mod.{n}"], want[n]) for n in want)


def test_the_stance_is_put_back():
    frames = pytest.importorskip("torch._dynamo.eval_frame")
    loss = torch.compile(F.cross_entropy, backend="eager")
    hessian.diagonal(Net(), loss, (X, Y))
    assert frames._stance.stance == "default"
    with pytest.raises(ValueError, match="loss could not"):
        hessian.diagonal(Net(), loss, (X, Y[:2]))
    assert frames._stance.stance == "default"
    torch.compiler.set_stance("eager_on_recompile")
    try:
        hessian.diagonal(Net(), loss, (X, Y))
        assert frames._stance.stance == "eager_on_recompile"
    finally:
        torch.compiler.set_stance("default")
    threads = [
        threading.Thread(target=lambda: hessian.diagonal(Net(), loss, (X, Y))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert frames._stance.stance == "default"


def test_code_that_is_compiled_by_itself_is_refused():
    """No stance reaches what was compiled ahead of time."""
    compiled = pytest.importorskip("torch._functorch.aot_autograd")
    from functorch.compile import nop

    loss = compiled.aot_function(F.mse_loss, nop)
    data = (X, torch.zeros(6, 3, dtype=torch.float64))
    for call in (
        lambda: hessian.diagonal(Net(), loss, data),
        lambda: hessian.operator(Net(), loss, data) @ torch.ones(35).numpy(),
        lambda: hessian.estimate(Net(), loss, data, "hutchinson"),
        lambda: hessian.sample(Net(), loss, data, 2),
    ):
        with pytest.raises(NotImplementedError, match="compiled function"):
            call()


def test_an_exported_model():
    model = torch.export.export(Net(), (X,)).module()
    want = {name: WANT[name] for name, _ in model.named_parameters()}
    gaps = by_value.everywhere(model, F.cross_entropy, X, Y, want)
    assert max(gaps.values()) < by_value.CLOSE, gaps


@pytest.mark.parametrize("runs", [0, 3])
def test_a_traced_model(runs):
    model = torch.jit.trace(Net(), X)
    for _ in range(runs):
        model(X)
    want = {name: WANT[name] for name, _ in model.named_parameters()}
    got = hessian.diagonal(model, F.cross_entropy, (X, Y), verify=2)
    assert by_value.gap(got, want) < by_value.CLOSE
    assert by_value.gap(by_value.operator(model, F.cross_entropy, (X, Y)), want) < by_value.CLOSE


def test_a_scripted_loss():
    @torch.jit.script
    def loss(output, target):
        return F.cross_entropy(torch.tanh(output) * 2, target)

    want = by_value.diagonal(Net(), loss, X, Y)
    gaps = by_value.everywhere(Net(), loss, X, Y, want)
    assert max(gaps.values()) < by_value.CLOSE, gaps


def test_dynamo_is_not_imported():
    code = """
        import sys, torch, hessian
        names = set(sys.modules)
        x, y = torch.randn(4, 3), torch.randn(4, 2)
        hessian.diagonal(torch.nn.Linear(3, 2), torch.nn.functional.mse_loss, (x, y))
        new = {name for name in set(sys.modules) - names if name.startswith("torch._dynamo")}
        assert not new, new
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


# --------------------------------------------------------------------------- checkpointed


def reentrant(net, x):
    inner = lambda h: torch.tanh(net.a(h))  # noqa: E731
    return net.b(torch_checkpoint.checkpoint(inner, x.clone().requires_grad_(), use_reentrant=True))


def reentrant_below(net, x):
    """Nothing that enters requires gradients; torch itself then gives the parameters none."""
    return net.b(torch_checkpoint.checkpoint(lambda h: torch.tanh(net.a(h)), x, use_reentrant=True))


def nested(net, x):
    def outer(h):
        return torch_checkpoint.checkpoint(lambda v: torch.tanh(net.a(v)), h, use_reentrant=True)

    return net.b(torch_checkpoint.checkpoint(outer, x.clone().requires_grad_(), use_reentrant=True))


def sequence(net, x):
    parts = [net.a, torch.tanh, net.b]
    return torch_checkpoint.checkpoint_sequential(parts, 2, x.clone().requires_grad_(),
                                                  use_reentrant=True)  # fmt: skip


def not_reentrant(net, x):
    return net.b(
        torch_checkpoint.checkpoint(lambda h: torch.tanh(net.a(h)), x, use_reentrant=False)
    )


@pytest.mark.parametrize("call", [reentrant, reentrant_below, nested, sequence, not_reentrant])
def test_checkpoints(call):
    gaps = by_value.everywhere(Net(call), F.cross_entropy, X, Y, WANT)
    assert max(gaps.values()) < by_value.CLOSE, gaps
    h = hessian.diagonal(Net(call), F.cross_entropy, (X, Y), verify=3)
    assert max(h.deviation.values()) < 1e-6
    assert "apply" not in vars(torch_checkpoint.CheckpointFunction)


def test_a_checkpointed_loss():
    def loss(output, target):
        inner = lambda o: F.cross_entropy(o, target)  # noqa: E731
        return torch_checkpoint.checkpoint(inner, output, use_reentrant=True)

    gaps = by_value.everywhere(Net(), loss, X, Y, WANT)
    assert max(gaps.values()) < by_value.CLOSE, gaps


class Foreign(torch.autograd.Function):
    """A checkpoint that is not torch's."""

    @staticmethod
    def forward(ctx, function, x):
        ctx.function = function
        ctx.save_for_backward(x)
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            torch.autograd.backward(ctx.function(x), g)
        return None, x.grad


def foreign(net, x):
    return net.b(Foreign.apply(lambda h: torch.tanh(net.a(h)), x.clone().requires_grad_()))


def foreign_and_seen(net, x):
    """The parameters inside are used outside too, so that the tape does show them."""
    return net.b(Foreign.apply(lambda h: torch.tanh(net.a(h)), net.a(x)))


def foreign_loss(output, target):
    return Foreign.apply(lambda o: F.cross_entropy(o, target), output)


@pytest.mark.parametrize("call", [foreign, foreign_and_seen])
def test_parameters_behind_a_custom_function(call):
    model = Net(call)
    for function in (
        lambda: hessian.diagonal(model, F.cross_entropy, (X, Y)),
        lambda: hessian.plan(model, F.cross_entropy, (X, Y)),
        lambda: hessian.diagonal(model, F.cross_entropy, (X, Y), memory=1),
        lambda: hessian.operator(model, F.cross_entropy, (X, Y)) @ torch.ones(35).numpy(),
        lambda: hessian.sample(model, F.cross_entropy, (X, Y), 2),
        lambda: hessian.estimate(model, F.cross_entropy, (X, Y), "hutchinson"),
        lambda: hessian.estimate(model, F.cross_entropy, (X, Y), "empirical-fisher"),
        lambda: hessian.coordinate_minimum(model, F.cross_entropy, (X, Y), 2),
    ):
        with pytest.raises(
            NotImplementedError, match=r"parameter 'a\.\w+' .* checkpoint .*Foreign"
        ):
            function()
    assert all(p.grad is None for p in model.parameters())


def test_a_network_inside_a_loss_behind_a_custom_function():
    critic = nn.Linear(3, 1).double()

    class Loss(nn.Module):
        def forward(self, output, target):
            return Foreign.apply(lambda o: critic(o).square().mean(), output)

    model = Net()
    model.critic = critic
    with pytest.raises(NotImplementedError, match=r"'critic.weight' .* checkpoint"):
        hessian.diagonal(model, Loss(), (X, Y))


def test_gradients_that_are_there_stay():
    """The look behind a custom function accumulates nothing."""
    function = torch.autograd.Function

    class Half(function):
        @staticmethod
        def forward(ctx, v):
            return v / 2

        @staticmethod
        def backward(ctx, g):
            return g / 2

    model = Net(lambda net, x: net.b(Half.apply(torch.tanh(net.a(x)))))
    F.cross_entropy(model(X), Y).backward()
    before = {name: (p.grad, p.grad.clone()) for name, p in model.named_parameters()}
    hessian.diagonal(model, F.cross_entropy, (X, Y))
    for name, p in model.named_parameters():
        assert p.grad is before[name][0]
        assert torch.equal(p.grad, before[name][1])


def test_a_straight_through_estimator_is_its_authors_word():
    """A parameter it reads and gives no gradient has none by autograd's rules too."""
    scale = nn.Parameter(torch.tensor(0.5).double())

    class Round(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            return (v / scale).round() * scale

        @staticmethod
        def backward(ctx, g):
            return g

    model = Net(lambda net, x: net.b(Round.apply(torch.tanh(net.a(x)))))
    model.scale = scale
    h = hessian.diagonal(model, F.cross_entropy, (X, Y))
    assert h.plan["scale"].method == "zero"


def test_the_old_local_normalisation_is_refused():
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.CrossMapLRN2d(3), nn.Flatten()).double()
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="LocalResponseNorm"):
        hessian.diagonal(model, F.cross_entropy, (x, torch.tensor([0, 1, 2])))


# -------------------------------------------------------------------------------- sharded


PROCESS = """
    import os, sys, torch, torch.distributed as dist, torch.nn.functional as F
    from torch import nn
    import hessian

    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))

    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    calls = (
        lambda m: hessian.diagonal(m, F.cross_entropy, (x, y)),
        lambda m: hessian.plan(m, F.cross_entropy, (x, y)),
        lambda m: hessian.sample(m, F.cross_entropy, (x, y)),
        lambda m: hessian.operator(m, F.cross_entropy, (x, y)),
        lambda m: hessian.estimate(m, F.cross_entropy, (x, y), "hutchinson"),
        lambda m: hessian.coordinate_minimum(m, F.cross_entropy, (x, y)),
    )
    want = hessian.diagonal(net(), F.cross_entropy, (x, y))

    def refused(make, words):
        for call in calls:
            try:
                call(make())
            except ValueError as error:
                assert words in str(error), error
            else:
                raise AssertionError("not refused")
"""

SHARDED = """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    cpu = torch.device("cpu")
    mesh = init_device_mesh("cpu", (1,))
    for original in (False, True):
        whole = lambda: FullyShardedDataParallel(net(), device_id=cpu, use_orig_params=original)
        refused(whole, "sharded over processes")
        refused(lambda: nn.Sequential(whole(), nn.Identity()), "sharded over processes")

    def shards():
        model = net()
        fully_shard(model[0], mesh=mesh)
        return model

    refused(shards, "sharded over processes")
"""

TENSORS = """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    mesh = init_device_mesh("cpu", (1,))
    refused(lambda: distribute_module(net(), mesh), "DTensor")
"""

REPLICATED = """
    from torch.nn.parallel import DistributedDataParallel

    def step(model):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        return [p.grad.clone() for p in model.parameters()]

    for options in ({}, {"find_unused_parameters": True}, {"static_graph": True}):
        model = DistributedDataParallel(net(), **options)
        before = step(model)
        h = hessian.diagonal(model, F.cross_entropy, (x, y), verify=2)
        for (name, got), method in zip(h.items(), want.plan, strict=True):
            assert torch.equal(got, want[name.removeprefix("module.")]), name
            assert h.plan[name].method == method.method
        assert "forward" not in vars(model) and model.require_backward_grad_sync
        after = step(model)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    h = hessian.diagonal(nn.DataParallel(net()), F.cross_entropy, (x, y))
    assert torch.equal(h["module.0.weight"], want["0.weight"])
"""


@pytest.mark.parametrize("body", [SHARDED, TENSORS, REPLICATED], ids=["fsdp", "dtensor", "ddp"])
def test_models_of_several_processes(body):
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    code = textwrap.dedent(PROCESS) + textwrap.dedent(body) + "dist.destroy_process_group()\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr[-2000:]
