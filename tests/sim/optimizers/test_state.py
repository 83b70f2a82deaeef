"""A state lives beside other people's code: load hooks, wrappers, other optimizers, shards."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from sim import optimizers

from .test_suite import RULES, equal, gradients, make, step, tensors, values

SQUARES = ((3, 3), (3, 3), (3, 3))


def begun(rule, pairs, steps=2, **options):
    optimizer = make(rule, pairs, momentum=0.9, **options)
    for k in range(steps):
        gradients(pairs, k)
        step(optimizer, curvature=1.0 + k)
    return optimizer


def state_of(optimizer, key=None):
    """Name → state, whatever the order."""
    pairs = [
        pair
        for group in optimizer.param_groups
        for pair in zip(group["param_names"], group["params"], strict=True)
    ]
    return {name: dict(optimizer.state[parameter]) for name, parameter in pairs}


def same(a, b):
    assert set(a) == set(b)
    for name in a:
        assert set(a[name]) == set(b[name])
        for key, value in a[name].items():
            other = b[name][key]
            equal = torch.equal(value, other) if torch.is_tensor(value) else value == other
            assert equal, (name, key)
            assert not torch.is_tensor(value) or value.dtype == other.dtype


def by_name(optimizer, state_dict):
    """The documented way to load into parameters of another order."""
    groups = []
    numbers = {}
    for saved in state_dict["param_groups"]:
        numbers |= dict(zip(saved["param_names"], saved["params"], strict=True))
    for ours, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        names = ours["param_names"]
        groups.append({**saved, "param_names": names, "params": [numbers[n] for n in names]})
    return {"state": state_dict["state"], "param_groups": groups}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_a_hook_that_reorders_by_name(rule, dtype):
    pairs = tensors(SQUARES, dtype=dtype)
    first = begun(rule, pairs)
    second = make(rule, tensors(SQUARES, dtype=dtype)[::-1], momentum=0.9)
    second.register_load_state_dict_pre_hook(by_name)
    second.load_state_dict(first.state_dict())
    same(state_of(first), state_of(second))
    assert second.param_groups[0]["param_names"] == ["p2", "p1", "p0"]


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_a_hook_that_swaps(rule, in_place):
    def swap(optimizer, state_dict):
        state = state_dict["state"]
        swapped = {0: state[1], 1: state[0], 2: state[2]}
        if in_place:
            state_dict["state"] = swapped
            return None
        return {**state_dict, "state": swapped}

    first = begun(rule, tensors(SQUARES))
    saved = first.state_dict()
    before = copy.deepcopy(saved)
    second = make(rule, tensors(SQUARES), momentum=0.9)
    second.register_load_state_dict_pre_hook(swap)
    second.load_state_dict(saved)
    want, got = state_of(first), state_of(second)
    same({"p0": want["p1"], "p1": want["p0"], "p2": want["p2"]}, got)
    # What the user holds is as it was.
    same(
        {str(k): v for k, v in before["state"].items()},
        {str(k): v for k, v in saved["state"].items()},
    )
    assert before["param_groups"] == saved["param_groups"]


@pytest.mark.parametrize("when", ["pre", "post"])
@pytest.mark.parametrize("rule", RULES)
def test_a_hook_that_drops(rule, when):
    saved = begun(rule, tensors(SQUARES)).state_dict()
    optimizer = make(rule, tensors(SQUARES), momentum=0.9)
    if when == "pre":
        optimizer.register_load_state_dict_pre_hook(lambda _, s: {**s, "state": {0: s["state"][0]}})
    else:
        optimizer.register_load_state_dict_post_hook(
            lambda o: [o.state.pop(p) for p in o.param_groups[0]["params"][1:]] and None
        )
    optimizer.load_state_dict(saved)
    assert len(optimizer.state) == 1


@pytest.mark.parametrize("rule", RULES)
def test_a_hook_that_adds(rule):
    # One more parameter, an entry of a state that is not the rule's, and a changed tensor.
    def add(optimizer, state_dict):
        (group,) = state_dict["param_groups"]
        more = {**group, "params": [*group["params"], 3], "param_names": ["p0", "p1", "p2", "p3"]}
        state = {k: {**v, "mine": "kept"} for k, v in state_dict["state"].items()}
        return {"state": state, "param_groups": [more]}

    first = begun(rule, tensors(SQUARES))
    optimizer = make(rule, tensors([*SQUARES, (2,)]), momentum=0.9)
    optimizer.register_load_state_dict_pre_hook(add)
    optimizer.load_state_dict(first.state_dict())
    loaded = state_of(optimizer)
    assert loaded.pop("p3") == {}
    assert {each.pop("mine") for each in loaded.values()} == {"kept"}
    same(state_of(first), loaded)


@pytest.mark.parametrize("rule", RULES)
def test_hooks_come_in_order_and_once(rule):
    calls = []
    optimizer = make(rule, tensors())
    optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("first"), prepend=True)
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("post"))
    for _ in range(2):
        optimizer.load_state_dict(optimizer.state_dict())
    assert calls == 2 * ["first", "pre", "post"]
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 2


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("rule", RULES)
def test_names_of_wrappers(rule, prefix):
    plain = tensors(SQUARES)
    wrapped = [(f"{prefix}{name}", p) for name, p in tensors(SQUARES)]
    for source, target in ((plain, wrapped), (wrapped, plain)):
        first = begun(rule, source)
        second = make(rule, target, momentum=0.9)
        second.load_state_dict(first.state_dict())
        assert second.param_groups[0]["param_names"] == [name for name, _ in target]
        names = dict(zip([n for n, _ in target], [n for n, _ in source], strict=True))
        same({names[k]: v for k, v in state_of(second).items()}, state_of(first))
    # A part that only looks like a wrapper's, in another place, is another parameter.
    other = make(rule, [(f"{name}.inner", p) for name, p in tensors(SQUARES)])
    with pytest.raises(ValueError, match="state_dict: it was saved for parameters"):
        other.load_state_dict(first.state_dict())


def test_a_module_called_module():
    # Without the prefix the two would be one name.
    pairs = [("module.w", nn.Parameter(torch.ones(2))), ("w", nn.Parameter(torch.ones(2)))]
    saved = begun("LARS", pairs).state_dict()
    make("LARS", pairs).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"saved for parameters module\.w, w and these are w, m"):
        make("LARS", pairs[::-1]).load_state_dict(saved)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_curvature_of_a_wrapped_model(prefix):
    moved = []
    for ours, theirs in (("", ""), (prefix, ""), ("", prefix)):
        pairs = [(ours + name, p) for name, p in tensors(SQUARES)]
        gradients(pairs, 0)
        optimizer = optimizers.CBLR(pairs, lr=0.1)
        optimizer.step(
            {f"{theirs}p{k}": torch.full_like(p, 2.0 + k) for k, (_, p) in enumerate(pairs)}
        )
        moved.append(values(pairs))
    assert equal(moved[0], moved[1])
    assert equal(moved[0], moved[2])
    with pytest.raises(ValueError, match="'p2' is missing"):
        optimizer.step({f"{prefix}p0": torch.ones(3, 3), f"{prefix}p1": torch.ones(3, 3)})


OTHERS = [
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.LBFGS,
    *(getattr(optimizers, rule) for rule in RULES),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("other", OTHERS, ids=lambda kind: kind.__name__)
def test_the_state_of_another_optimizer(rule, other):
    pairs = tensors()
    gradients(pairs, 0)
    theirs = other([p for _, p in pairs] if other is torch.optim.LBFGS else pairs, lr=0.1)
    if other in OTHERS[:4]:
        theirs.step()
    elif other is not torch.optim.LBFGS:
        step(theirs)
    ours = make(rule, pairs)
    if type(ours) is other:
        ours.load_state_dict(theirs.state_dict())
        return
    with pytest.raises(ValueError, match=rf"^state_dict: another .* {rule} has .*; give") as caught:
        ours.load_state_dict(theirs.state_dict())
    assert "\n" not in str(caught.value)
    assert not ours.state


@pytest.mark.parametrize("rule", RULES)
def test_what_is_no_state(rule):
    pairs = tensors(SQUARES)
    optimizer = begun(rule, pairs)
    saved, before = optimizer.state_dict(), copy.deepcopy(state_of(optimizer))
    key = optimizer._keys[0]
    short = {**saved["state"], 1: {**saved["state"][1], key: torch.ones(2)}}
    wrong = [
        (None, TypeError, "^state_dict: got NoneType; give what"),
        ({}, ValueError, "^state_dict: it holds no 'state'; give what"),
        ({"state": {}}, ValueError, "holds no 'param_groups'"),
        (make(rule, pairs[:2]).state_dict(), ValueError, r"for groups of \[2\] .* are of \[3\];"),
        ({**saved, "state": short}, ValueError, rf"{key!r} of parameter 1 has shape \(2,\) where"),
        (
            {**saved, "state": {0: {"exp_inf": 1}}},
            ValueError,
            "another optimizer saved it, exp_inf",
        ),
    ]
    for state, kind, message in wrong:
        with pytest.raises(kind, match=message):
            optimizer.load_state_dict(state)
        same(before, state_of(optimizer))


@pytest.mark.parametrize("rule", RULES)
def test_a_state_without_an_option_of_today(rule):
    saved = begun(rule, tensors()).state_dict()
    for group in saved["param_groups"]:
        del group["foreach"]
    optimizer = make(rule, tensors(), foreach=False, momentum=0.9)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["foreach"] is False
    begun_again = tensors()
    gradients(begun_again, 0)
    step(optimizer)


class Net(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def trained(rule, model, optimizer, steps):
    for k in steps:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(k))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        step(optimizer, curvature=0.5 + k)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_distributed_checkpoints(rule, flat):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    straight = Net(0)
    optimizer = make(rule, straight.named_parameters(), momentum=0.9)
    trained(rule, straight, optimizer, range(3))
    saved = get_optimizer_state_dict(straight, optimizer, options=options)
    file = io.BytesIO()
    torch.save([saved, straight.state_dict()], file)
    trained(rule, straight, optimizer, range(3, 6))

    file.seek(0)
    saved, weights = torch.load(file)
    second = Net(1)
    second.load_state_dict(weights)
    before = [p.detach().clone() for p in second.parameters()]
    # The parameters in another order: their states are known by name.
    again = make(rule, list(second.named_parameters())[::-1], momentum=0.9)
    set_optimizer_state_dict(second, again, saved, options=options)
    assert equal(before, second.parameters())
    trained(rule, second, again, range(3, 6))
    assert equal(straight.parameters(), second.parameters())


def test_a_distributed_checkpoint_before_the_first_step():
    model = Net(0)
    optimizer = make("CBLR", model.named_parameters(), momentum=0.9)
    before = [p.detach().clone() for p in model.parameters()]
    saved = get_optimizer_state_dict(model, optimizer)
    assert equal(before, model.parameters())
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert optimizer.due
    again = make("CBLR", model.named_parameters(), momentum=0.9)
    set_optimizer_state_dict(model, again, saved)
    for each in (optimizer, again):
        model(torch.ones(1, 3)).sum().backward()
        with pytest.raises(ValueError, match="there is none to use again yet"):
            each.step()


def test_gamma_zero_is_not_at_rest():
    # With a gradient the momentum would move, so a curvature is needed, whatever γ is.
    model = Net(0)
    optimizer = make("CBLR", model.named_parameters(), lr=0.0)
    model(torch.ones(1, 3)).sum().backward()
    with pytest.raises(ValueError, match="there is none to use again yet"):
        optimizer.step()


@pytest.mark.parametrize("rule", RULES)
def test_a_state_that_no_parameter_would_get(rule):
    # JSON makes texts of the numbers, and torch would leave such a state lying about.
    pairs = tensors(SQUARES)
    saved = copy.deepcopy(begun(rule, pairs).state_dict())
    for state, number in (
        ({str(k): v for k, v in saved["state"].items()}, "'0'"),
        ({k + 1: v for k, v in saved["state"].items()}, "3"),
    ):
        optimizer = make(rule, tensors(SQUARES), momentum=0.9)
        with pytest.raises(ValueError, match=rf"^state_dict: .* of a parameter {number}, which is"):
            optimizer.load_state_dict({**saved, "state": state})
        assert not optimizer.state
    # What is no state of a parameter is the user's own, as in torch.
    optimizer.load_state_dict({**saved, "state": {**saved["state"], "seen": {"samples": 7}}})
    assert optimizer.state["seen"] == {"samples": 7}
    # Another reader makes tuples of lists.
    optimizer.load_state_dict({**saved, "param_groups": tuple(saved["param_groups"])})
    same(state_of(optimizer), state_of(begun(rule, tensors(SQUARES))))


@pytest.mark.parametrize(
    "make_value",
    [lambda v: None, lambda v: v.tolist(), lambda v: v.numpy(), lambda v: v.long(), lambda v: "a"],
    ids=["none", "list", "numpy", "whole numbers", "text"],
)
@pytest.mark.parametrize("rule", RULES)
def test_a_state_of_other_kinds_of_values(rule, make_value):
    saved = copy.deepcopy(begun(rule, tensors(SQUARES)).state_dict())
    key = make(rule, tensors())._keys[0]
    saved["state"][1][key] = make_value(saved["state"][1][key])
    optimizer = make(rule, tensors(SQUARES), momentum=0.9)
    with pytest.raises(
        ValueError, match=rf"^state_dict: {key!r} of parameter 1 is .*, not a float"
    ):
        optimizer.load_state_dict(saved)
    assert not optimizer.state


@pytest.mark.parametrize("count", [3, 3.0, torch.tensor(3.0), torch.tensor([3])])
def test_a_count_of_steps_in_any_form(count):
    saved = copy.deepcopy(begun("LAMB", tensors(SQUARES), steps=3).state_dict())
    pairs, others = tensors(SQUARES), tensors(SQUARES)
    first, second = make("LAMB", pairs), make("LAMB", others)
    first.load_state_dict(copy.deepcopy(saved))
    for values_of in saved["state"].values():
        values_of["step"] = count
    second.load_state_dict(saved)
    for each, of in ((first, pairs), (second, others)):
        gradients(of, 9)
        step(each)
    assert equal(values(pairs), values(others))


@pytest.mark.parametrize("rule", RULES)
def test_a_state_handed_over_is_not_shared(rule):
    # As in population-based training, where no file lies between.
    pairs = tensors(SQUARES)
    first = begun(rule, pairs)
    second = make(rule, tensors(SQUARES), momentum=0.9)
    second.load_state_dict(first.state_dict())
    before = copy.deepcopy(state_of(second))
    gradients(pairs, 5)
    step(first, curvature=3.0)
    same(before, state_of(second))
