"""What torch's own suite asks of its optimizers (test/optim), as far as it applies."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from .test_suite import LAYERWISE, RULES, equal, gradients, make, step, tensors, values

# Options of torch's optimizers and others', which a rule does not have.
FOREIGN = {
    "maximize": True,
    "capturable": True,
    "nesterov": True,
    "dampening": 0.5,
    "betas": (0.9, 0.99),
    "trust_coef": 1e-3,
    "always_adapt": True,
    "lr_scale": 0.1,
    "weigth_decay": 0.1,
}


@pytest.mark.parametrize("option", FOREIGN)
@pytest.mark.parametrize("rule", RULES)
def test_a_foreign_option_is_refused(rule, option):
    pairs = tensors()
    with pytest.raises(TypeError, match=option):
        make(rule, pairs, **{option: FOREIGN[option]})
    group = {"params": pairs, option: FOREIGN[option]}
    with pytest.raises(ValueError, match=rf"^{option}: no such option for a group of {rule}; its"):
        make(rule, [group])
    optimizer = make(rule, pairs[:1])
    with pytest.raises(ValueError, match=rf"^{option}: no such option") as caught:
        optimizer.add_param_group({**group, "params": pairs[1:]})
    assert "\n" not in str(caught.value)
    assert len(optimizer.param_groups) == 1


def test_a_misspelt_option():
    with pytest.raises(ValueError, match="did you mean 'weight_decay'"):
        make("LARS", [{"params": tensors(), "weigth_decay": 0.1}])


@pytest.mark.parametrize("rule", RULES)
def test_notes_of_others(rule):
    # Loggers read a group's name, schedules that go on its first rate.
    optimizer = make(rule, [{"params": tensors(), "name": "all", "initial_lr": 0.1}])
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5, last_epoch=3)
    assert optimizer.param_groups[0]["name"] == "all"


@pytest.mark.parametrize("like", ["timm", "apex"])
@pytest.mark.parametrize("rule", ["LARS", "LAMB"])
def test_like_in_a_group(rule, like):
    like = "apex-larc" if (rule, like) == ("LARS", "apex") else like
    pairs, alone = tensors(), tensors()
    gradients(pairs, 0)
    gradients(alone, 0)
    step(make(rule, [{"params": pairs, "like": like, "floor": 0.5}]))
    step(make(rule, alone, like=like, floor=0.5))
    assert equal(values(pairs), values(alone))
    # An option beside it goes first; and without a name it is refused.
    optimizer = make(rule, [{"params": tensors(), "like": like, "zero_norm": "literal"}])
    assert optimizer.param_groups[0]["zero_norm"] == "literal"
    with pytest.raises(ValueError, match=r"^like: unknown value 'nobody'; choose one of"):
        make(rule, [{"params": tensors(), "like": "nobody"}])


@pytest.mark.parametrize("rule", ["CBLR", "MCLR", "PercentDelta"])
def test_like_where_there_is_none(rule):
    with pytest.raises(ValueError, match=f"^like: no such option for a group of {rule}"):
        make(rule, [{"params": tensors(), "like": "timm"}])


@pytest.mark.parametrize("rule", RULES)
def test_one_dictionary_for_two_optimizers(rule):
    # torch writes the defaults of the first into the user's dictionary.
    pairs = tensors()
    group = {"params": pairs, "weight_decay": 0.1}
    make("LARS" if rule != "LARS" else "MCLR", [group], lr=7.0)
    assert group == {"params": pairs, "weight_decay": 0.1}
    optimizer = make(rule, [group], lr=0.25)
    assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("rule", RULES)
def test_a_rate_in_a_tensor(rule):
    results = []
    for lr in (0.25, torch.tensor(0.25), torch.tensor([0.25], dtype=torch.float64)):
        pairs = tensors()
        optimizer = make(rule, pairs, lr=lr, momentum=0.5)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for k in range(3):
            gradients(pairs, k)
            step(optimizer)
            schedule.step()
        results.append(values(pairs))
    assert equal(results[0], results[1])
    assert equal(results[0], results[2])
    # Changed in place it counts.
    rate = torch.tensor(0.25)
    pairs = tensors()
    optimizer = make(rule, pairs, lr=rate)
    rate.zero_()
    gradients(pairs, 0)
    step(optimizer)
    assert equal(values(pairs), values(tensors()))


@pytest.mark.parametrize("rule", RULES)
def test_what_is_no_rate(rule):
    for lr in (torch.ones(2), torch.tensor(True), torch.tensor(0.1, requires_grad=True)):
        with pytest.raises(ValueError, match=r"^lr: got a tensor .*; give a number, or a"):
            make(rule, tensors(), lr=lr)
    with pytest.raises(ValueError, match=r"^lr: got -1"):
        make(rule, tensors(), lr=torch.tensor(-1.0))


@pytest.mark.parametrize("rule", RULES)
def test_a_tensor_twice_in_a_group(rule):
    pairs, once = tensors(), tensors()
    gradients(pairs, 0)
    gradients(once, 0)
    with pytest.warns(UserWarning, match="a parameter group with duplicate parameters"):
        twice = make(rule, [*pairs, *pairs[:2]], momentum=0.9)
    step(twice)
    step(make(rule, once, momentum=0.9))
    assert equal(values(pairs), values(once))


@pytest.mark.parametrize("rule", RULES)
def test_a_tensor_in_two_groups(rule):
    pairs = tensors()
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        make(rule, [{"params": pairs}, {"params": [("again", pairs[0][1])]}])


@pytest.mark.parametrize("rule", RULES)
def test_params_of_the_wrong_kind(rule):
    w = nn.Parameter(torch.ones(2))
    for params, kind, message in (
        (w, TypeError, "an iterable of Tensors or dicts"),
        ([], ValueError, "empty parameter list"),
        ([{"params": {w}}], TypeError, "ordering of tensors in sets"),
        ([("w", 1.0)], TypeError, "can only optimize Tensors"),
        ([("w", w), torch.ones(1)], ValueError, "with/without names"),
        ([("w", w * 2)], ValueError, "non-leaf"),
    ):
        with pytest.raises(kind, match=message):
            make(rule, params)


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_group(rule):
    pairs, alone = tensors(), tensors()
    optimizer = make(rule, [{"params": pairs}, {"params": []}], momentum=0.9)
    optimizer.add_param_group({"params": [], "lr": 0.5})
    other = make(rule, alone, momentum=0.9)
    for each, of in ((optimizer, pairs), (other, alone)):
        gradients(of, 0)
        step(each)
    assert equal(values(pairs), values(alone))
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("rule", RULES)
def test_tensors_without_entries_alone(rule):
    # torch: test_empty_grad.
    pairs = [("w", nn.Parameter(torch.zeros(0, 4)))]
    optimizer = make(rule, pairs, momentum=0.9)
    pairs[0][1].grad = torch.zeros(0, 4)
    step(optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


@pytest.mark.parametrize("rule", RULES)
def test_groups_of_several_dtypes(rule):
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    pairs = [(f"{d}", nn.Parameter(torch.randn(3, 2).to(d))) for d in dtypes]
    alone = copy.deepcopy(pairs)
    for _, p in (*pairs, *alone):
        p.grad = torch.ones_like(p)
    step(make(rule, pairs, momentum=0.9))
    for pair in alone:
        step(make(rule, [pair], momentum=0.9))
    assert equal(values(pairs), values(alone))


@pytest.mark.parametrize("rule", RULES)
def test_pickle_and_weights_only(rule):
    pairs = tensors()
    optimizer = make(rule, pairs, momentum=0.9)
    gradients(pairs, 0)
    step(optimizer)
    twin = pickle.loads(pickle.dumps(optimizer))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = make(rule, tensors(), momentum=0.9)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for each in (optimizer, twin, loaded):
        own = list(zip("abcd", each.param_groups[0]["params"], strict=True))
        with torch.no_grad():
            for (_, p), (_, q) in zip(own, tensors(), strict=True):
                p.copy_(q)
        gradients(own, 1)
        step(each)
    for each in (twin, loaded):
        assert equal(optimizer.param_groups[0]["params"], each.param_groups[0]["params"])
    # A copy takes new groups as the first one does.
    twin.add_param_group({"params": [("more", nn.Parameter(torch.ones(2)))]})


@pytest.mark.parametrize("rule", RULES)
def test_a_copy_has_all_attributes(rule):
    # torch: test_deepcopy_copies_all_public_attrs.
    optimizer = make(rule, tensors())
    twin = copy.deepcopy(optimizer)
    public = {name for name in dir(optimizer) if not name.startswith("_")}
    assert public == {name for name in dir(twin) if not name.startswith("_")}


@pytest.mark.parametrize("rule", RULES)
def test_printed(rule):
    text = repr(make(rule, tensors()))
    assert text.startswith(f"{rule} (")
    assert "momentum: " in text


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_a_state_is_that_of_the_parameters(rule):
    # torch: test_state_dict_deterministic; two runs write the same bytes.
    written = []
    for _ in range(2):
        pairs = tensors()
        optimizer = make(rule, pairs, momentum=0.9)
        for k in range(2):
            gradients(pairs, k)
            step(optimizer)
        assert list(optimizer.state_dict()["state"]) == [0, 1, 2, 3]
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        written.append(file.getvalue())
    assert written[0] == written[1]


@pytest.mark.parametrize("rule", RULES)
def test_nothing_happens_without_gradients(rule):
    # torch: test_step_is_noop_when_params_have_no_grad.
    pairs = tensors()
    optimizer = make(rule, pairs, weight_decay=0.5, momentum=0.9)
    step(optimizer)
    assert equal(values(pairs), values(tensors()))


@pytest.mark.parametrize("rule", RULES)
def test_step_hooks_and_the_profiler(rule):
    pairs = tensors()
    optimizer = make(rule, pairs)
    gradients(pairs, 0)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    everywhere = register_optimizer_step_post_hook(lambda *_: calls.append("all"))
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step(optimizer)
    finally:
        everywhere.remove()
    assert calls == ["pre", "post", "all"]
    assert any(each.name == f"Optimizer.step#{rule}.step" for each in profile.events())


@pytest.mark.parametrize("rule", RULES)
def test_state_dict_hooks(rule):
    calls = []
    optimizer = make(rule, tensors())
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_state_dict_post_hook(lambda o, s: calls.append("post") or {**s, "more": 1})
    saved = optimizer.state_dict()
    assert calls == ["pre", "post"]
    optimizer.load_state_dict(saved)
    with pytest.raises(TypeError, match="NoneType"):
        optimizer.load_state_dict(None)


@pytest.mark.parametrize("rule", RULES)
def test_the_rate_in_a_tensor_through_a_state(rule):
    pairs = tensors()
    optimizer = make(rule, pairs, lr=torch.tensor(0.5))
    saved = copy.deepcopy(optimizer.state_dict())
    again = make(rule, tensors(), lr=0.1)
    again.load_state_dict(saved)
    assert float(again.param_groups[0]["lr"]) == 0.5


@pytest.mark.parametrize("rule", LAYERWISE)
def test_a_closure_runs_with_gradients_whatever_is_around(rule):
    # torch: no_grad around a step with a closure.
    w = nn.Parameter(torch.ones(2, 2))
    optimizer = make(rule, [w])

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure) == 4.0
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("rule", RULES)
def test_an_optimizer_goes_with_its_last_reference(rule):
    optimizer = make(rule, tensors())
    optimizer.load_state_dict(optimizer.state_dict())
    there = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert there() is None or gc.collect() >= 0
    finally:
        gc.enable()
    assert there() is None


@pytest.mark.parametrize(
    "schedule", ["OneCycleLR", "CyclicLR", "ReduceLROnPlateau", "SequentialLR"]
)
@pytest.mark.parametrize("rule", RULES)
def test_schedules(rule, schedule):
    lrs = torch.optim.lr_scheduler
    pairs = tensors()
    optimizer = make(rule, pairs, momentum=0.5)
    made = {
        "OneCycleLR": lambda: lrs.OneCycleLR(optimizer, max_lr=0.1, total_steps=6),
        "CyclicLR": lambda: lrs.CyclicLR(optimizer, 0.01, 0.1, step_size_up=2),
        "ReduceLROnPlateau": lambda: lrs.ReduceLROnPlateau(optimizer, patience=0),
        "SequentialLR": lambda: lrs.SequentialLR(
            optimizer, [lrs.ConstantLR(optimizer), lrs.ExponentialLR(optimizer, 0.9)], [2]
        ),
    }[schedule]()
    for k in range(3):
        gradients(pairs, k)
        step(optimizer)
        made.step(*([1.0] if schedule == "ReduceLROnPlateau" else []))
    # With all that schedules have written into the groups it is still a state of the rule.
    again = make(rule, tensors(), momentum=0.5)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] != 0.01


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), None, "0.1", torch.tensor(torch.nan)])
@pytest.mark.parametrize("rule", RULES)
def test_a_rate_that_is_none_any_more(rule, rate):
    # A schedule that divides by its number of steps, for instance.
    pairs = tensors()
    optimizer = make(rule, [{"params": pairs[:1]}, {"params": pairs[1:]}], momentum=0.5)
    gradients(pairs, 0)
    before = values(pairs)
    optimizer.param_groups[1]["lr"] = rate
    with pytest.raises(ValueError, match=r"^lr: got .* in group 1; set a finite number, and look"):
        step(optimizer)
    assert equal(before, values(pairs))
    assert not optimizer.state


@pytest.mark.parametrize("rule", RULES)
def test_tensors_that_are_replaced(rule):
    # As Gaussian splatting does when it adds points: the state goes over to a longer tensor.
    pairs, whole = tensors([(4, 3)]), tensors([(4, 3)])
    more = torch.full((2, 3), 0.5, dtype=torch.float64)
    optimizer = make(rule, pairs, momentum=0.9)
    gradients(pairs, 0)
    step(optimizer)
    (group,) = optimizer.param_groups
    old = group["params"][0]
    state = optimizer.state.pop(old)
    for key, value in state.items():
        if torch.is_tensor(value):
            state[key] = torch.cat([value, torch.zeros_like(more)])
    new = nn.Parameter(torch.cat([old.detach(), more]))
    group["params"][0] = new
    optimizer.state[new] = state
    new.grad = torch.cat([old.grad, torch.zeros_like(more)])
    step(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    if rule == "CBLR":  # which goes entry by entry: the old ones do not notice
        other = make(rule, whole, momentum=0.9)
        gradients(whole, 0)
        step(other)
        step(other)
        assert torch.equal(new[:4], whole[0][1])
    assert not torch.equal(new[:4], old)


@pytest.mark.parametrize("rule", LAYERWISE)
def test_steps_within_the_backward_pass(rule):
    results = []
    for inside in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        whole = make(rule, net.parameters(), momentum=0.5)
        each = {p: make(rule, [p], momentum=0.5) for p in net.parameters()}

        def go(p, each=each):
            each[p].step()
            each[p].zero_grad()

        for p in net.parameters():
            if inside:
                p.register_post_accumulate_grad_hook(go)
        x = torch.randn(5, 4)
        for _ in range(3):
            net(x).square().sum().backward()
            if not inside:
                whole.step()
                whole.zero_grad()
        results.append([p.detach().clone() for p in net.parameters()])
    assert equal(*results)
