"""Models, data, losses and optimizers of the reader's own, as package.module:object."""

import hashlib
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sim

MINE = """
    import torch
    from torch import nn

    def data(*, split, samples=96, shift=0.0):
        generator = torch.Generator().manual_seed({"train": 1, "test": 2}[split])
        x = torch.randn(samples, 5, generator=generator) + shift
        return x, (x[:, 0] > shift).long()

    TABLE = {split: data(split=split) for split in ("train", "test")}

    def network(in_shape, classes, hidden=7):
        return nn.Sequential(nn.Linear(in_shape[0], hidden), nn.Tanh(), nn.Linear(hidden, classes))

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(5, 2)

        def forward(self, x):
            return self.last(x)

    def loss(output, target):
        return nn.functional.cross_entropy(output, target, reduction="none") ** 2

    def mean_loss(output, target):
        return (nn.functional.cross_entropy(output, target, reduction="none") ** 2).mean()

    def scaled(factor=1.0):
        return lambda output, target: factor * nn.functional.cross_entropy(output, target)

    class Descent(torch.optim.SGD):
        pass

    def files(split, root, samples=96):
        return torch.load(f"{root}/{split}.pt")

    def usual(split, root="no/such/folder"): return files(split, root)

    VALID = {"train": TABLE["train"], "valid": TABLE["test"]}
    def count(): return 3
    def broken(): raise KeyError("weights")
    def unlabelled(*, split): return torch.randn(4, 5), torch.randn(4)
    number = 3
    ready = nn.Linear(5, 2)
"""


@pytest.fixture(scope="module", autouse=True)
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine_own.py").write_text(textwrap.dedent(MINE))
    sys.path.insert(0, str(folder))
    yield sys.modules.get("mine_own") or __import__("mine_own")
    sys.path.remove(str(folder))
    del sys.modules["mine_own"]


FIELDS = {
    "dataset": "mine_own:data", "model": "mine_own:network", "loss": "mine_own:loss",
    "optimizer": "mine_own:Descent", "lr": 0.1, "batch_size": 32, "epochs": 2,
    "measure": {"layers_every": 0},
}  # fmt: skip


def test_it_trains_as_a_loop_written_out(mine):
    fields = {**FIELDS, "batch_size": 96, "optimizer_options": {"momentum": 0.5}}
    run = sim.train({**fields, "epochs": 3})
    assert run.status == "finished"
    torch.manual_seed(0)
    model = sim.models.build("mine_own:network", in_shape=(5,), classes=2, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.5)
    (x, y), (test_x, test_y) = (mine.data(split=s) for s in ("train", "test"))
    for _ in range(3):
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y, reduction="none") ** 2).mean().backward()
        optimizer.step()
    # One batch of all samples, so their order changes roundings alone.
    for name, value in model.state_dict().items():
        torch.testing.assert_close(run.weights[name], value, rtol=1e-4, atol=1e-6)
    loss = (F.cross_entropy(model(test_x), test_y, reduction="none") ** 2).mean().item()
    assert run.epochs.test_loss.iloc[-1] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("model", ["mine_own:network", "mlp"])
@pytest.mark.parametrize("name", ["mine_own:files", "mine_own:usual"])
def test_data_that_need_a_folder_are_trained_on(mine, model, name, tmp_path):
    """No configuration knows the folder: what only the data tell is checked when they are there."""
    for split, pair in mine.TABLE.items():
        torch.save(pair, tmp_path / f"{split}.pt")
    fields = {**FIELDS, "model": model, "loss": "cross_entropy"}
    run = sim.train({**fields, "dataset": name}, root=tmp_path)
    want = sim.train({**fields, "dataset": "mine_own:data"})
    for key, value in want.weights.items():
        assert torch.equal(run.weights[key], value)
    configs = sim.training.grid({**fields, "dataset": name}, seed=[0, 1])
    frame = sim.sweep(configs, root=tmp_path, jobs=1)
    assert frame.status.tolist() == ["finished", "finished"]
    assert frame.train_loss[0] == want.epochs.train_loss.iloc[-1]


def test_names_are_in_the_hash_and_sources_in_the_environment(mine, tmp_path):
    config = sim.TrainConfig.read(FIELDS)
    for change in ({"loss": "mine_own:mean_loss"}, {"model": "mine_own:Bare"},
                   {"optimizer": "sgd"}, {"dataset": "mine_own:TABLE"}):  # fmt: skip
        assert config.replace(**change).hash != config.hash
    assert sim.TrainConfig.read(config.plain()) == config
    run = sim.train(config, out=tmp_path / "run")
    with open(mine.__file__, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    assert run.environment["sources"] == dict.fromkeys(
        ("mine_own:data", "mine_own:network", "mine_own:loss", "mine_own:Descent"), digest
    )
    assert run.data["module_sha256"] == digest
    assert run.data["sizes"] == {"train": 96, "test": 96}
    again = sim.train(config, out=tmp_path / "run")  # read, not trained again
    assert again.epochs.equals(run.epochs)


def test_it_resumes_bit_for_bit(tmp_path):
    whole = sim.train(FIELDS)

    class Stop(BaseException):
        pass

    config = sim.TrainConfig.read(FIELDS)
    steps = []

    def stop(*_, **__):
        steps.append(1)
        if len(steps) == 4:
            raise Stop

    original = sys.modules["mine_own"].Descent.step

    def stepping(self, *arguments, **keywords):
        stop()
        return original(self, *arguments, **keywords)

    sys.modules["mine_own"].Descent.step = stepping
    try:
        with pytest.raises(Stop):
            sim.train(config, out=tmp_path / "run", checkpoint_steps=1)
    finally:
        sys.modules["mine_own"].Descent.step = original
    run = sim.train(config, out=tmp_path / "run")
    for name, value in whole.weights.items():
        assert torch.equal(run.weights[name], value)


@pytest.mark.parametrize("change", [
    {"loss": "mine_own:mean_loss"}, {"loss": "torch.nn:CrossEntropyLoss"},
    {"loss": "torch.nn.functional:cross_entropy"},
    {"loss": "mine_own:scaled", "loss_options": {"factor": 1.0}},
    {"model": "mine_own:Bare"}, {"dataset": "mine_own:TABLE"},
    {"model": "mlp", "model_options": {"hidden": [4]}}, {"optimizer": "lars", "lr": 0.01},
    {"optimizer": "cblr", "lr": 1e-3}, {"dataset": "gaussian", "model": "mine_own:network"},
    {"dataset_options": {"samples": 40, "shift": 1.0}, "model_options": {"hidden": 3}},
])  # fmt: skip
def test_own_and_built_in_parts_go_together(change):
    run = sim.train({**FIELDS, "epochs": 1, **change})
    assert run.status == "finished", run.reason
    assert run.epochs.train_loss.notna().all()


def test_a_mean_is_taken_sample_by_sample():
    from sim.training.config.losses import per_sample

    output, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    want = F.cross_entropy(output, target, reduction="none")
    for name, options in (
        ("torch.nn.functional:cross_entropy", {}), ("torch.nn:CrossEntropyLoss", {}),
        ("mine_own:scaled", {"factor": 1.0}),
    ):  # fmt: skip
        torch.testing.assert_close(per_sample(name, options)(output, target), want)
    squares = per_sample("mine_own:mean_loss", {})(output, target)
    torch.testing.assert_close(squares, want**2)


REFUSED = {
    "model": {
        "mine_own:": r"write it as package\.module:name",
        "no_such_module:f": r"no_such_module cannot be imported",
        "mine_own:missing": r"mine_own has no 'missing'",
        "mine_own:ready": r"it is a module; name a function that returns a new module",
        "mine_own:number": r"it is int; name a function",
    },
    "dataset": {
        "mine_own:count": r"name a function of split",
        "mine_own:VALID": r"it holds train, valid; name a function of split",
        "mine_own:unlabelled": r"give floating inputs \[N, …\] and integer labels",
    },
    "loss": {"mine_own:number": r"^loss: .*it is int; name a function of \(output, target\)"},
    "optimizer": {
        "mine_own:count": r"^optimizer: got 'mine_own:count'; it ended in TypeError",
        "mine_own:network": r"^optimizer: ",
    },
}


@pytest.mark.parametrize(("field", "name"), [(f, n) for f, names in REFUSED.items() for n in names])
def test_what_is_refused_before_a_run(field, name):
    with pytest.raises(ValueError, match=REFUSED[field][name]) as refusal:
        sim.TrainConfig.read({**FIELDS, field: name})
    assert "\n" not in str(refusal.value)


def test_options_are_those_of_the_object():
    with pytest.raises(ValueError, match=r"model_options\.hiden: .* did you mean 'hidden'"):
        sim.TrainConfig.read({**FIELDS, "model_options": {"hiden": 3}})
    with pytest.raises(ValueError, match=r"dataset_options\.noise: no such option for the data"):
        sim.TrainConfig.read({**FIELDS, "dataset_options": {"noise": 3}})
    with pytest.raises(ValueError, match=r"optimizer_options\.momentun: .* 'momentum'"):
        sim.TrainConfig.read({**FIELDS, "optimizer_options": {"momentun": 3}})


def test_what_a_model_raises_is_told():
    with pytest.raises(ValueError, match=r"mine_own:broken'; it ended in KeyError: 'weights'"):
        sim.models.build("mine_own:broken")
    with pytest.raises(ValueError, match=r"it returned int, not a torch\.nn\.Module"):
        sim.models.build("mine_own:count")
    assert isinstance(sim.models.build("mine_own:Bare", seed=0), nn.Module)
