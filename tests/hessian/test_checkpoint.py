"""Sampling that was interrupted goes on from what was finished, and from nothing else."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._routes import affine, parameter, preactivation
from hessian._routes._chain.chain import Chain
from hessian._runtime.progress import Lines

from .networks import NETWORKS, build, mlp

ENTRIES = 4


def drawn():
    return torch.Generator().manual_seed(2)


def data(inputs, sizes=(5, 4)):
    pairs = []
    for number, n in enumerate(sizes):
        x = inputs(n, torch.Generator().manual_seed(number))
        pairs.append((x, torch.arange(n) % 4))
    return pairs


class Counted:
    """Counts what the routes do: products by entry, products at sites, passes of the others.

    With `limit`, the one after so many is interrupted.
    """

    def __init__(self, monkeypatch, limit=None):
        self.count, self.limit = Counter(), limit
        for place, name in (
            (parameter, "_batched"), (parameter, "single"), (preactivation, "_along"),
            (affine, "by_sites"), (affine, "by_columns"), (Chain, "run"),
        ):  # fmt: skip
            monkeypatch.setattr(place, name, self.counted(name, getattr(place, name)))

    def counted(self, name, function):
        def call(*arguments, **options):
            if self.limit is not None and self.count.total() >= self.limit:
                raise KeyboardInterrupt
            result = function(*arguments, **options)
            self.count[name] += 1  # not where no batching rule is known
            return result

        return call


@pytest.mark.parametrize("network", NETWORKS)
def test_nothing_is_computed_twice_whatever_the_route(network, tmp_path, monkeypatch):
    model, inputs = build(network)
    pairs, path = data(inputs), tmp_path / "entries.pt"
    torch.manual_seed(5)
    want = hessian.sample(model, F.cross_entropy, pairs, ENTRIES, drawn())
    with monkeypatch.context() as patches:
        every = Counted(patches)
        torch.manual_seed(5)
        hessian.sample(model, F.cross_entropy, pairs, ENTRIES, drawn())
    total, done = every.count.total(), 0
    for limit in (1, 2, None):
        with monkeypatch.context() as patches:
            counted = Counted(patches, limit)
            torch.manual_seed(5)
            # The entries are those of the first call, whatever the later ones would draw.
            generator = torch.Generator().manual_seed(2 if limit == 1 else 9)
            try:
                got = hessian.sample(
                    model, F.cross_entropy, pairs, ENTRIES, generator, checkpoint=path
                )
            except KeyboardInterrupt:
                assert limit is not None
                done += limit
            else:
                assert counted.count.total() <= max(0, total - done)
    torch.manual_seed(5)
    again = hessian.sample(model, F.cross_entropy, pairs, ENTRIES, generator, checkpoint=path)
    for name, sample in want.items():
        assert torch.equal(again[name].index, sample.index)
        assert torch.equal(again[name].value, got[name].value)
        assert torch.allclose(again[name].value, sample.value, rtol=1e-9, atol=1e-12)


@pytest.fixture
def smooth():
    torch.manual_seed(0)
    model = mlp(nn.GELU).double()
    x = torch.randn(6, 6, dtype=torch.float64)
    return model, F.cross_entropy, (x, torch.arange(6) % 4)


def test_parts_of_a_batch_are_finished_one_by_one(smooth, tmp_path, monkeypatch):
    model, loss, batch = smooth
    path, memory = tmp_path / "entries.pt", 1  # a part for each sample
    with monkeypatch.context() as patches:
        counted = Counted(patches)
        want = hessian.sample(model, loss, batch, ENTRIES, drawn(), memory=memory)
    assert want.plan.parts == 6
    with monkeypatch.context() as patches:
        Counted(patches, limit=counted.count.total() // 2)
        with pytest.raises(KeyboardInterrupt):
            hessian.sample(model, loss, batch, ENTRIES, drawn(), memory=memory, checkpoint=path)
    content = torch.load(path, weights_only=True)["values"]
    finished = [all(bool(v.isfinite().all()) for v in part.values()) for part in content.values()]
    assert any(finished)
    assert not all(finished)
    got = hessian.sample(model, loss, batch, ENTRIES, memory=memory, checkpoint=path)
    for name, sample in want.items():
        assert torch.equal(got[name].index, sample.index)
        assert torch.allclose(got[name].value, sample.value, rtol=1e-12, atol=1e-15)


def test_a_finished_entry_is_taken_from_the_file(smooth, tmp_path):
    """A value that was altered in the file comes out, so nothing was computed once more."""
    model, loss, batch = smooth
    path = tmp_path / "entries.pt"
    want = hessian.sample(model, loss, batch, ENTRIES, drawn(), checkpoint=path)
    content = torch.load(path, weights_only=True)
    (values,) = content["values"].values()
    values["0.weight"][1] = 42.0
    torch.save(content, path)
    got = hessian.sample(model, loss, batch, ENTRIES, checkpoint=path)
    assert got["0.weight"].value[1] == 42.0
    assert torch.equal(got["0.weight"].value[2:], want["0.weight"].value[2:])


@pytest.mark.parametrize("what", ["model", "data", "loss", "per_parameter", "names", "dtype"])
def test_another_question_is_refused(smooth, tmp_path, what):
    model, loss, (x, y) = smooth
    path = tmp_path / "entries.pt"
    hessian.sample(model, loss, (x, y), ENTRIES, drawn(), checkpoint=path)
    content = path.read_bytes()
    options, count = {}, ENTRIES
    if what == "model":
        model = copy.deepcopy(model)
        model[0].weight.data[0, 0] += 1e-9
    elif what == "data":
        x = x + 1e-9
    elif what == "loss":
        loss = lambda output, target: 1.001 * F.cross_entropy(output, target)  # noqa: E731
    elif what == "per_parameter":
        count += 1
    elif what == "names":
        options["names"] = ["0.weight"]
    else:
        options["dtype"] = torch.float32
    with pytest.raises(ValueError, match=f"checkpoint: .* was begun with .*{what}"):
        hessian.sample(model, loss, (x, y), count, checkpoint=path, **options)
    assert path.read_bytes() == content


def test_what_is_no_checkpoint_is_refused(smooth, tmp_path):
    path = tmp_path / "entries.pt"
    path.write_text("notes")
    with pytest.raises(ValueError, match=r"checkpoint: .* cannot be read"):
        hessian.sample(*smooth, checkpoint=path)
    assert path.read_text() == "notes"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"checkpoint: .* is a file of something else"):
        hessian.sample(*smooth, checkpoint=path)
    with pytest.raises(FileNotFoundError, match="checkpoint: there is no folder"):
        hessian.sample(*smooth, checkpoint=tmp_path / "none" / "entries.pt")


def test_lines_say_what_is_left_once_a_minute():
    said, now = [], [0.0]
    lines = Lines(said.append, lambda: now[0])
    task = lines.add_task("exact diagonal", total=0)
    lines.update(task, total=1000, description="exact diagonal, batch 1")
    for _ in range(10):
        now[0] += 20.0
        lines.advance(task, 5)
    assert said == [
        "exact diagonal, batch 1: 15 of 1,000 products and passes, about 1:05:40 left",
        "exact diagonal, batch 1: 30 of 1,000 products and passes, about 1:04:40 left",
        "exact diagonal, batch 1: 45 of 1,000 products and passes, about 1:03:40 left",
    ]
