"""A run gives the same bits whatever its process is set to, and whoever else computes in it."""

import contextlib
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import hessian
import sim
from sim._isolation import Drawing, Masked, mask, seeded
from sim.training import grid

CONFIGS = {
    "mlp": {"model": "mlp", "model_options": {"hidden": [24]}, "lr": 0.1},
    "dropout": {"model_options": {"hidden": [24], "dropout": 0.3}, "lr": 0.1},
    "lenet": {"model": "lenet", "model_options": {"dropout": 0.2}, "micro_batch": 20},
    "resnet": {"model": "resnet18", "model_options": {"width": 0.05}, "samples": 64},
    "transformer": {
        "model": "transformer",
        "model_options": {"dropout": 0.1, "depth": 1, "width": 0.25},
        "optimizer": "lamb",
    },
    "cblr": {
        "model_options": {"hidden": [8], "dropout": 0.3},
        "optimizer": "cblr",
        "lr": 1e-4,
        "samples": 64,
    },
    "measured": {
        "model_options": {"hidden": [8]},
        "measure": {"curvature_every": 1, "decrease_every": 1},
        "discard": {"share": 0.25, "kind": "random"},
    },
    "bfloat16": {"model_options": {"hidden": [24], "dropout": 0.3}, "precision": "bfloat16"},
}
BASE = {"samples": 128, "epochs": 1, "batch_size": 32, "seed": 1, "lr": 0.05}


def config(name, **changes):
    return sim.TrainConfig(**{**BASE, **CONFIGS[name], **changes})


def content(run):
    tables = [
        getattr(run, table).drop(columns="seconds", errors="ignore")
        for table in ("steps", "epochs", "layer_steps", "layer_epochs", "curvature")
    ]
    return run.status, run.weights, tables


def same(a, b):
    (status, weights, tables), (other, there, theirs) = a, b
    assert status == other
    assert weights.keys() == there.keys()
    for name, value in weights.items():
        assert value.dtype == there[name].dtype
        assert torch.equal(value, there[name]), name
    assert all(x.equals(y) for x, y in zip(tables, theirs, strict=True))


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return {name: content(sim.train(config(name))) for name in CONFIGS}


@contextlib.contextmanager
def switched(set_, value, back):
    set_(value)
    try:
        yield
    finally:
        set_(back)


class Nothing(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


SETTINGS = {
    "float64": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: switched(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast off": lambda: torch.autocast("cpu", enabled=False),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "medium": lambda: switched(torch.set_float32_matmul_precision, "medium", "highest"),
    "no oneDNN": lambda: switched(torch._C._set_mkldnn_enabled, False, True),
    "default device": lambda: switched(torch.set_default_device, "meta", None),
    "device": lambda: torch.device("meta"),
    "mode": Nothing,
    "errstate": lambda: np.errstate(all="raise"),
    "seeds": lambda: switched(torch.manual_seed, 123, 0),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", CONFIGS)
def test_settings_of_the_caller(alone, name, setting):
    with SETTINGS[setting]():
        run = sim.train(config(name))
    same(content(run), alone[name])


@pytest.mark.parametrize(
    "setting", ["float64", "medium", "anomaly", "no_grad", "device", "autocast"]
)
def test_settings_are_the_callers_afterwards(setting):
    def now():
        return (
            torch.get_default_dtype(),
            torch.backends.mkldnn.matmul.fp32_precision,
            torch.backends.mkldnn.enabled,
            torch.is_anomaly_enabled(),
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_device(),
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
        )

    with SETTINGS[setting]():
        before = now()
        sim.train(config("dropout"))
        assert now() == before
        with pytest.raises(ValueError, match="batch_size"):
            sim.train(config("dropout", batch_size=1000))
        assert now() == before


def test_a_run_that_diverges_under_anomaly_mode():
    # Anomaly mode would raise where a nan appears; the run says how it ended.
    with torch.autograd.set_detect_anomaly(True):
        run = sim.train(config("mlp", lr=1e30))
    assert run.status == "diverged"


@pytest.mark.parametrize("name", ["mlp", "dropout", "cblr", "measured"])
def test_threads_that_train_at_once(alone, name):
    torch.set_num_threads(1)
    configs = [config(name), *(config(name, seed=k) for k in (2, 3))]
    want = [alone[name], *(content(sim.train(each)) for each in configs[1:])]
    got, errors = [None] * 3, []

    def go(k):
        try:
            got[k] = content(sim.train(configs[k]))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=go, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for a, b in zip(got, want, strict=True):
        same(a, b)


@contextlib.contextmanager
def beside(work):
    """Somebody else's thread, as long as this lasts."""
    over = threading.Event()

    def go():
        while not over.is_set():
            work()

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def reseed():
    torch.manual_seed(5)
    torch.rand(7)
    np.random.seed(3)


def other_dtype():
    torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("work", [reseed, other_dtype])
@pytest.mark.parametrize("name", ["dropout", "transformer"])
def test_a_thread_of_somebody_else(alone, name, work):
    with beside(work):
        for _ in range(3):
            same(content(sim.train(config(name))), alone[name])


def test_the_draws_of_another_thread_go_on():
    # A run that put the global state back at its end would give others their numbers twice.
    torch.manual_seed(0)
    want = torch.rand(40)
    torch.manual_seed(0)
    drawn = []

    def draw(done, total, latest):
        drawn.append(torch.rand(1))

    for _ in range(10):
        sim.train(config("dropout"), progress=draw)
    assert torch.equal(torch.cat(drawn), want)


@pytest.mark.parametrize("setting", ["float64", "no_grad", "autocast", "device", "medium"])
def test_sweeps(setting):
    configs = grid({**BASE, "model_options": {"hidden": [8]}}, seed=range(3))
    for vectorise in (False, True):
        want = sim.sweep(configs, jobs=1, vectorise=vectorise).drop(columns="seconds")
        with SETTINGS[setting]():
            got = sim.sweep(configs, jobs=1, vectorise=vectorise).drop(columns="seconds")
        assert got.equals(want)


def net():
    with seeded(0):
        return nn.Sequential(
            nn.Linear(4, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 3, bias=False)
        )


def data(count=3):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(16, 4, generator=generator, dtype=torch.float32),
            torch.randint(3, (16,), generator=generator),
        )
        for _ in range(count)
    ]


def found_gamma(model, batches):
    return sim.stable_gamma(
        model, nn.functional.cross_entropy, batches, max_radius=[7.3], refresh_interval=[1, 2]
    )


def radii(model, batches):
    return sim.compare_radii(model.eval(), nn.functional.cross_entropy, batches)


def moments(model, batches):
    loss = nn.functional.cross_entropy
    found = sim.gradient_moments(model, loss, batches, "0.weight", passes=2)
    frame = sim.mean_abs_gradient(model, loss, batches, "0.weight", [4, 8], repeats=2)
    return found.mean, found.std, found.mask_std, frame


def equal(a, b):
    if isinstance(a, tuple):
        return all(equal(x, y) for x, y in zip(a, b, strict=True))
    if torch.is_tensor(a):
        return torch.equal(a, b)
    return a.equals(b) if hasattr(a, "equals") else a == b


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("compute", [found_gamma, radii, moments])
def test_measurements(compute, setting):
    if setting == "device" or setting == "default device":
        pytest.skip("a user's loss may rely on his default device")
    batches = data()
    model = net()
    want = compute(model, batches)
    with SETTINGS[setting]():
        got = compute(model, batches)
    assert equal(want, got)
    assert model[0].weight.grad is None
    assert not model[0].weight.is_inference()


@pytest.mark.parametrize("compute", [found_gamma, moments])
def test_measurements_in_threads(compute):
    want = compute(net(), data())
    got = [None] * 3

    def go(k):
        got[k] = compute(net(), data())

    threads = [threading.Thread(target=go, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(equal(want, each) for each in got)


@pytest.mark.parametrize("name", sim.models.MODELS)
def test_networks_from_a_generator_of_their_own(name):
    shape = (3, 8, 8)
    options = {} if name == "mlp" else {"width": 0.1 if name != "transformer" else 0.5}
    torch.manual_seed(7)
    want = sim.models.build(name, in_shape=shape, **options).state_dict()
    state = torch.get_rng_state()
    with SETTINGS["float64"](), torch.inference_mode():
        got = sim.models.build(name, in_shape=shape, seed=7, **options).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    for key, value in want.items():
        assert value.dtype == got[key].dtype
        assert torch.equal(value, got[key])
        assert not got[key].is_inference()


@pytest.mark.parametrize("initialise", ["xavier_normal_", "orthogonal_", "trunc_normal_"])
def test_drawing(initialise):
    function = getattr(nn.init, initialise)
    with seeded(3):
        want = function(torch.empty(4, 5))
    with Drawing(torch.Generator().manual_seed(3)):
        got = function(torch.empty(4, 5))
    assert torch.equal(want, got)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_are_those_of_torch(dtype):
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    results = []
    for own in (False, True):
        leaf = x.clone().requires_grad_()
        model = nn.Sequential(nn.Dropout(0.3), nn.Dropout(0.0), nn.Dropout(0.5))
        if own:
            assert mask(model, torch.Generator().manual_seed(4))
            assert type(model[0]) is Masked
            output = model(leaf)
        else:
            with seeded(4):
                output = model(leaf)
        output.square().sum().backward()
        results.append((output.detach(), leaf.grad))
        assert torch.equal(model.eval()(x), x)
    assert equal(*results)


def test_other_dropout_is_left_alone():
    model = nn.Sequential(nn.Dropout(0.3), nn.AlphaDropout(0.2))
    assert not mask(model, torch.Generator())
    assert type(model[0]) is nn.Dropout


def test_a_loss_that_reads_the_weights():
    # A trial on a copy would leave the weights in the penalty where they were.
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    batches = data(4)

    def loss(output, target):
        penalty = sum(p.square().sum() for p in model.parameters())
        return nn.functional.cross_entropy(output, target) + penalty

    before = [p.detach().clone() for p in model.parameters()]
    versions = [p._version for p in model.parameters()]
    found = sim.stable_gamma(model, loss, batches, max_radius=[10.0], refresh_interval=[1])
    assert [p._version for p in model.parameters()] == versions
    assert equal(tuple(before), tuple(p.detach() for p in model.parameters()))
    # The same by hand.
    optimizer = sim.optimizers.CBLR(model.named_parameters(), found.gamma, max_radius=10.0)
    losses = []
    for batch in batches:
        h = hessian.diagonal(model, loss, batch)
        losses.append(h.loss)
        optimizer.step(h)
    np.testing.assert_allclose(found.trials[-1].losses, losses, rtol=1e-5)


def test_a_module_that_cannot_be_copied():
    model = nn.Linear(4, 3)
    model.lock = threading.Lock()
    loss = nn.functional.cross_entropy
    found = sim.stable_gamma(model, loss, data(), max_radius=[10.0], refresh_interval=[1])
    assert found.gamma > 0


class Broken(nn.Module):
    """Its forward pass fails on the third batch that it sees."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.layer(x))


X, Y = data(1)[0]
BAD = {
    "a single sample": ((X[:1], Y[:1]), "Expected more than 1 value per channel"),
    "a label": ((X, torch.where(torch.arange(16) == 3, 7, Y)), "Target 7 is out of bounds"),
    "lengths": ((X, Y[:9]), "input batch_size .16. to match target batch_size .9."),
    "empty": ((X[:0], Y[:0]), "the batch is empty"),
    "nan": (
        (X * torch.where(torch.arange(16) == 3, torch.nan, 1.0)[:, None], Y),
        "NaN or infinite",
    ),
    "features": ((X[:, :2], Y), "mat1 and mat2 shapes"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("at", [0, 2])
def test_bad_data_is_no_instability(monkeypatch, kind, at):
    def never(*args, **kwargs):
        raise AssertionError("something was measured")

    monkeypatch.setattr(hessian, "diagonal", never)
    batch, message = BAD[kind]
    batches = data()
    batches[at] = batch
    model = Broken()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"^data: batch {at} of 3: .*{message}") as caught:
        sim.stable_gamma(model, nn.functional.cross_entropy, batches, max_radius=[1.0])
    assert "\n" not in str(caught.value)
    assert "batch 0" not in str(caught.value) or at == 0
    assert equal(tuple(before.values()), tuple(model.state_dict().values()))


def test_instability_is_no_bad_data():
    # Good data on which no γ is stable: the loss is not finite a step away from the start.
    class Wall(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3, 4))

        def forward(self, x):
            at_start = bool((self.w == 1).all())
            return x @ self.w.T if at_start else x @ (self.w * torch.inf).T

    with pytest.raises(RuntimeError, match="no stable gamma"):
        sim.stable_gamma(Wall(), nn.functional.cross_entropy, data(), max_radius=[1.0])
