"""Hooks change gradients and not the loss: d²L/dw² is the loss's, and the hooks are left."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as all_modules

import hessian

from . import by_value

X = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(35))
Y = torch.tensor([0, 1, 2, 2, 1, 0])


def network(forward=None, smooth=nn.Tanh):
    torch.manual_seed(0)

    class Net(nn.Sequential):
        pass

    if forward is not None:
        Net.forward = forward
    return Net(nn.Linear(5, 4), smooth(), nn.Linear(4, 3)).double()


def half(gradient):
    return None if gradient is None else 0.5 * gradient


def halves(*gradients):
    return tuple(half(g) for g in gradients)


WANT = by_value.diagonal(network(), F.cross_entropy, X, Y)
# No unit of the ReLU is near its kink.
assert float(network()[0](X).detach().abs().min()) > 10 * by_value.STEP
WANT_RELU = by_value.diagonal(network(smooth=nn.ReLU), F.cross_entropy, X, Y)


def on_a_parameter(model):
    model[0].weight.register_hook(half)
    model[2].bias.register_hook(half)


def on_a_parameter_after(model):
    def accumulated(p):
        p.data.zero_()

    model[0].weight.register_post_accumulate_grad_hook(accumulated)


def on_a_module(model):
    model[1].register_full_backward_hook(lambda m, given, out: halves(*given))


def on_a_module_before(model):
    model[2].register_full_backward_pre_hook(lambda m, out: halves(*out))


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
def on_a_module_the_old_way(model):
    model[1].register_backward_hook(lambda m, given, out: halves(*given))


REGISTERED = [
    on_a_parameter,
    on_a_parameter_after,
    on_a_module,
    on_a_module_before,
    on_a_module_the_old_way,
]


def hooks(model):
    """Everything that is registered, as it is."""
    found = []
    for module in model.modules():
        found += [list(module._backward_hooks.items()), list(module._backward_pre_hooks.items())]
    for p in model.parameters():
        found.append(list((p._backward_hooks or {}).items()))
        found.append(list((getattr(p, "_post_accumulate_grad_hooks", None) or {}).items()))
    return found


@pytest.mark.parametrize("register", REGISTERED)
@pytest.mark.parametrize("smooth", [nn.Tanh, nn.ReLU])
def test_hooks_are_silent_and_left(register, smooth):
    model, want = network(smooth=smooth), WANT if smooth is nn.Tanh else WANT_RELU
    plain = hessian.diagonal(model, F.cross_entropy, (X, Y)).plan.methods()
    register(model)
    before = hooks(model)
    gaps = by_value.everywhere(model, F.cross_entropy, X, Y, want)
    assert max(gaps.values()) < by_value.CLOSE, gaps
    found = hessian.diagonal(model, F.cross_entropy, (X, Y), verify=3)
    assert found.plan.methods() == plain  # and no route is lost
    assert max(found.deviation.values()) < 1e-6
    assert hooks(model) == before
    with pytest.raises(ValueError, match="loss could not"):
        hessian.diagonal(model, F.cross_entropy, (X, Y[:3]))
    assert hooks(model) == before


def test_gradients_are_the_losss():
    model = network()
    want = hessian.diagonal(model, F.cross_entropy, (X, Y)).gradient
    on_a_parameter(model)
    got = hessian.diagonal(model, F.cross_entropy, (X, Y)).gradient
    assert all(torch.equal(got[name], g) for name, g in want.items())


def test_coordinate_minimum_and_estimates():
    model, same = network(), network()
    on_a_parameter(model)
    on_a_module(model)
    data = (X, Y)
    a, b = (
        hessian.coordinate_minimum(m, F.cross_entropy, data, 3, torch.Generator().manual_seed(0))
        for m in (model, same)
    )
    assert all(torch.equal(a[n].displacement, b[n].displacement) for n in b)
    for kind in ("hutchinson", "preactivation", "gauss-newton", "empirical-fisher", "becker-lecun"):
        got, want = (hessian.estimate(m, F.cross_entropy, data, kind) for m in (model, same))
        assert all(torch.equal(got[n], want[n]) for n in want), kind


# ------------------------------------------------------------- put there by the call itself


def tensor_hook(self, x):
    h = torch.tanh(self[0](x))
    h.register_hook(half)
    return self[2](h)


def node_hook(self, x):
    h = torch.tanh(self[0](x))
    h.grad_fn.register_hook(lambda given, out: halves(*given))
    h.grad_fn.next_functions[0][0].register_prehook(lambda out: halves(*out))
    return self[2](h)


def edge_hook(self, x):
    h = torch.tanh(self[0](x))
    edge = torch.autograd.graph.get_gradient_edge(h)
    edge.node.register_prehook(lambda out: halves(*out))
    return self[2](h)


def many_hooks(self, x):
    h = torch.tanh(self[0](x))
    torch.autograd.graph.register_multi_grad_hook([h], lambda gradients: None)
    h.retain_grad()
    return self[2](h)


def module_hook(self, x):
    handle = self[1].register_full_backward_hook(lambda m, given, out: halves(*given))
    out = self[2](self[1](self[0](x)))
    handle.remove()
    return out


@pytest.mark.parametrize("forward", [tensor_hook, node_hook, edge_hook, many_hooks, module_hook])
def test_hooks_of_a_forward_pass(forward):
    model = network(forward)
    gaps = by_value.everywhere(model, F.cross_entropy, X, Y, WANT)
    assert max(gaps.values()) < by_value.CLOSE, gaps


def test_hooks_of_a_loss():
    def loss(output, target):
        log = output.log_softmax(-1)
        log.register_hook(half)
        value = F.nll_loss(log, target)
        value.grad_fn.register_prehook(lambda out: halves(*out))
        return value

    gaps = by_value.everywhere(network(), loss, X, Y, WANT)
    assert max(gaps.values()) < by_value.CLOSE, gaps


def test_a_hook_that_the_forward_pass_needs():
    """A gradient that a hook hands over inside the call is part of the function."""

    def attributed(self, x):
        seen = []
        h = torch.tanh(self[0](x))
        h.register_hook(seen.append)
        out = self[2](h)
        torch.autograd.grad(out.square().sum(), h, create_graph=True)
        return out + self[2](h * seen[0])

    def written(self, x):
        h = torch.tanh(self[0](x))
        out = self[2](h)
        (seen,) = torch.autograd.grad(out.square().sum(), h, create_graph=True)
        return out + self[2](h * seen)

    model = network(attributed)
    want = by_value.diagonal(network(written), F.cross_entropy, X, Y)
    assert by_value.gap(hessian.diagonal(model, F.cross_entropy, (X, Y)), want) < by_value.CLOSE


def test_hooks_for_all_modules_are_refused():
    handle = all_modules.register_module_full_backward_hook(lambda m, given, out: halves(*given))
    try:
        with pytest.raises(ValueError, match="hooks are registered for all modules"):
            hessian.diagonal(network(), F.cross_entropy, (X, Y))
    finally:
        handle.remove()
    hessian.diagonal(network(), F.cross_entropy, (X, Y))


def test_two_threads_share_a_model():
    """The hooks come back when the last of two calls ends, and not before."""
    model = network()
    on_a_parameter(model)
    before = hooks(model)
    inside, go = threading.Event(), threading.Event()

    def waits(output, target):
        inside.set()
        go.wait(10)
        return F.cross_entropy(output, target)

    results = []
    first = threading.Thread(target=lambda: results.append(hessian.diagonal(model, waits, (X, Y))))
    second = threading.Thread(
        target=lambda: results.append(hessian.diagonal(model, F.cross_entropy, (X, Y)))
    )
    first.start()
    inside.wait(10)
    second.start()
    second.join(0.2)
    go.set()
    first.join()
    second.join()
    assert len(results) == 2
    assert all(by_value.gap(h, WANT) < by_value.CLOSE for h in results)
    assert hooks(model) == before
