"""Results as objects: print, notebooks, tables, pictures, files, layers, devices."""

import copy
import functools
import itertools
import json
import math
import pickle
import struct
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian

X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
Y = torch.tensor([0, 1, 2, 2, 1, 0])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def of(kind):
    arguments = net(), F.cross_entropy, (X, Y)
    if kind == "diagonal":
        return hessian.diagonal(*arguments, verify=5, standard_error=True)
    if kind == "samples":
        return hessian.sample(*arguments, per_parameter=7, generator=torch.Generator())
    if kind == "estimate":
        return hessian.estimate(*arguments, "hutchinson", probes=3)
    if kind == "plan":
        return hessian.plan(*arguments)
    return hessian.operator(*arguments)


once = functools.cache(of)  # for those that change nothing

KINDS = ("diagonal", "samples", "estimate", "plan", "operator")
FILED = ("diagonal", "samples", "estimate", "plan")


def same(a, b):
    """Equal in all that they hold, tensors by their values, nan like nan."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b)
    elif not hasattr(a, "__dict__"):
        assert a == b
    if hasattr(a, "__dict__") and not isinstance(a, torch.Tensor):
        same(vars(a), vars(b))


@pytest.mark.parametrize("kind", KINDS)
def test_print_is_short_and_a_notebook_shows_a_table_and_a_picture(kind):
    result = of(kind)
    assert len(repr(result)) < 160
    assert "\n" not in repr(result)
    text = result._repr_html_()
    assert "<svg" in text
    assert all(name in text for name in ("0.weight", "2.bias"))

    class Tags(HTMLParser):
        open, rows = [], 0

        def handle_starttag(self, tag, attrs):
            self.rows += tag == "tr"
            if tag != "rect":
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    tags = Tags()
    tags.feed(text.replace("/>", ">"))
    assert tags.open == []
    assert tags.rows == 5


def test_large_results_print_short():
    h = hessian.Diagonal({f"layer{i}.weight": torch.randn(40, 40) for i in range(100)})
    assert repr(h).startswith("Diagonal(100 parameters, 160,000 entries, trace ")
    assert len(h._repr_html_()) < 20_000
    assert "and 60 more" in h._repr_html_()


def test_the_frame_is_tidy():
    h = of("diagonal")
    frame = h.to_frame()
    assert list(frame.parameter) == list(h)
    row = frame.set_index("parameter").loc["0.weight"]
    values = h["0.weight"].flatten().numpy()
    assert row.entries == 20
    assert row["shape"] == "5x4"
    assert row.layer == "0"
    assert row["mean"] == pytest.approx(values.mean())
    assert row["max"] == values.max()
    assert row.share_zero == np.mean(values == 0)
    assert row.share_negative == np.mean(values < 0)
    assert row.trace == pytest.approx(values.sum())
    assert row.method == h.plan["0.weight"].method
    assert row.deviation == h.deviation["0.weight"]
    g = h.gradient["0.weight"].flatten().numpy()
    with np.errstate(divide="ignore"):
        radii = np.sort((1 + g**2) ** 1.5 / np.abs(values))
    assert row.median_radius == pytest.approx(radii[9])
    some = of("samples").to_frame().set_index("parameter").loc["0.weight"]
    assert (some.entries, some.sampled) == (20, 7)
    plan = of("plan").to_frame()
    assert set(plan.method) == {"affine"}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures(kind):
    result = of(kind)
    axes = result.plot()
    assert axes.get_xlabel()
    assert result.plot(axes) is axes
    if kind != "operator":
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert labels == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_picture_shows_the_quantiles():
    h = hessian.Diagonal(w=torch.cat([torch.zeros(50), torch.arange(1.0, 102.0)]))
    axes = h.plot()
    ends = [list(line.get_xdata()) for line in axes.lines]
    assert ends == [[6.0, 96.0], [26.0, 76.0], [51.0]]
    assert [t.get_text() for t in axes.texts] == ["33 % are 0"]


def matrix(operator):
    return operator @ np.eye(operator.shape[0])


def alike(kind, a, b):
    """Equal in what it holds; an operator has its matrix, up to the rounding of a product."""
    assert type(a) is type(b)
    if kind != "operator":
        return same(a, b)
    assert (a.kind, a.names, a.shapes, a.dtype) == (b.kind, b.names, b.shapes, b.dtype)
    return np.testing.assert_allclose(matrix(a), matrix(b), rtol=0, atol=1e-14)


def saved(result, folder):
    result.save(folder / "file")
    return hessian.load(folder / "file")


def torch_saved(result, folder):
    torch.save(result, folder / "file")
    return torch.load(folder / "file", weights_only=True)


def loaded_by_its_class(result, folder):
    result.save(folder / "file")
    return type(result).load(folder / "file", device="cpu")


# What every result does, and what shows that it did.
DOES = {
    "save and load": lambda kind, result, folder: alike(kind, saved(result, folder), result),
    "load of the class": lambda kind, result, folder: alike(
        kind, loaded_by_its_class(result, folder), result
    ),
    "torch.save and torch.load": lambda kind, result, folder: alike(
        kind, torch_saved(result, folder), result
    ),
    "to": lambda kind, result, folder: alike(kind, result.to("cpu"), result),
    "layer": lambda kind, result, folder: (
        set(result.layer("0").to_frame().parameter) == {"0.weight", "0.bias"}
    ),
    "to_frame": lambda kind, result, folder: (
        list(result.to_frame().parameter) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    ),
    "plot": lambda kind, result, folder: bool(result.plot().get_xlabel()),
    "_repr_html_": lambda kind, result, folder: "<table" in result._repr_html_(),
}


@pytest.mark.parametrize("what", DOES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_result_does_all_of_it(kind, what, tmp_path):
    assert DOES[what](kind, once(kind), tmp_path) in (True, None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_has_a_trace_or_says_where_it_is(kind):
    if kind == "plan":
        with pytest.raises(TypeError, match=r"no trace; take hessian\.diagonal\(.*\)\.trace"):
            of(kind).trace()
        return
    result = of(kind)
    found = result.trace()
    if kind == "estimate":
        expected, tolerance = sum(float(v.sum()) for v in result.values()), 1e-9
    else:
        # The generator's seed is fixed; five standard errors where it is sampled.
        expected, tolerance = float(np.trace(matrix(of("operator")))), 5 * found.standard_error
    assert found.value == pytest.approx(expected, abs=tolerance, rel=1e-9)


def test_an_operator_that_was_written_out(tmp_path):
    """Neither model nor data: the spectrum, blocks and sums are those of the matrix itself."""
    live = of("operator")
    whole = matrix(live)
    stored = saved(live, tmp_path)
    values = np.linalg.eigvalsh(whole)
    assert stored.top(2, tolerance=1e-7).values == pytest.approx(values[::-1][:2], rel=1e-6)
    assert stored.bottom(1, tolerance=1e-7).values == pytest.approx(values[:1], rel=1e-6, abs=1e-9)
    for trace in (stored.trace(), stored.trace(method="hutch++", products=60)):
        assert trace.value == pytest.approx(np.trace(whole), rel=1e-9)
    part = stored.layer("2")
    assert part.names == ("2.weight", "2.bias")
    np.testing.assert_allclose(matrix(part), whole[25:, 25:], atol=1e-14)
    scattered = stored.restricted("*.bias")
    places = [*range(20, 25), *range(40, 43)]
    np.testing.assert_allclose(matrix(scattered), whole[np.ix_(places, places)], atol=1e-14)
    layers = stored.layers(probes=2)
    assert layers["2"].trace == pytest.approx(np.trace(whole[25:, 25:]))
    assert stored.density(starts=4).mean()[0] * 43 == pytest.approx(np.trace(whole), rel=0.5)
    with stored.kept() as h:
        np.testing.assert_allclose(h @ np.ones(43), whole.sum(0), atol=1e-13)
    assert stored.samples == 6
    # Blocks are stored as blocks, and a kind as that kind.
    alike("operator", saved(live.layer("2"), tmp_path), part)
    other = hessian.operator(net(), F.cross_entropy, (X, Y), kind="empirical-fisher")
    assert saved(other, tmp_path).kind == "empirical-fisher"
    assert hessian.operator(net().float(), F.cross_entropy, (X.float(), Y)).to("cpu").dtype == "f4"
    # The live one notices what is written to its weights later; the one in the file does not.
    model = net()
    live = hessian.operator(model, F.cross_entropy, (X, Y))
    stored = saved(live, tmp_path)
    assert copy.copy(live)._source is live._source
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(ValueError, match="differ from one call to the next"):
        matrix(live)
    np.testing.assert_allclose(matrix(stored), whole, atol=1e-14)


def test_a_matrix_beyond_the_memory_is_refused(tmp_path):
    h = hessian.operator(net(), F.cross_entropy, (X, Y), memory=8 * 43 * 43 - 1)
    with pytest.raises(ValueError, match=r"^memory: the matrix has 43 x 43 .* memory=14792"):
        h.save(tmp_path / "h")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="nowhere"):  # torch's word, before that on the memory
        h.to("nowhere")
    h.layer("2").save(tmp_path / "h")
    assert hessian.load(tmp_path / "h").shape == (18, 18)
    with pytest.raises(ValueError, match=r"holds Hessian, not Plan; use hessian\.load"):
        hessian.Plan.load(tmp_path / "h")


@pytest.mark.parametrize("kind", FILED)
def test_what_is_saved_is_loaded(kind, tmp_path):
    result = of(kind)
    result.save(tmp_path / "result")
    same(hessian.load(tmp_path / "result"), result)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    # The header is JSON, and nothing is a pickle.
    content = (tmp_path / "result").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header["__metadata__"]["result"])["class"] == type(result).__name__
    torch.save(result, tmp_path / "torch")
    same(torch.load(tmp_path / "torch", weights_only=True), result)
    same(pickle.loads(pickle.dumps(result)), result)
    same(copy.deepcopy(result), result)


def test_loading_the_next_day(tmp_path):
    torch.save(of("diagonal"), tmp_path / "h.pt")
    code = (
        "import torch, hessian\n"
        f"h = torch.load({str(tmp_path / 'h.pt')!r})\n"
        "print(type(h).__name__, h.plan['0.weight'].method, len(h.verification))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.stdout.split() == ["Diagonal", "affine", "5"], done.stderr


def test_files_that_are_none(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match=r"^path: there is no file"):
        hessian.load(tmp_path / "none")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match=r"^path: .* is no file of a result"):
        hessian.load(tmp_path / "text")
    save_file({"w": torch.ones(1)}, tmp_path / "tensors")
    with pytest.raises(ValueError, match=r"^path: .* holds tensors, but no result"):
        hessian.load(tmp_path / "tensors")
    of("plan").save(tmp_path / "plan")
    with pytest.raises(ValueError, match=r"holds Plan, not Diagonal; use hessian\.load"):
        hessian.Diagonal.load(tmp_path / "plan")
    h = of("diagonal")
    h.loss = object()
    with pytest.raises(TypeError, match="a result holds object, which is not stored"):
        h.save(tmp_path / "h")


def test_layers_and_names():
    h = of("diagonal")
    for pattern in ("0", "0.*"):
        part = h.layer(pattern)
        assert list(part) == ["0.weight", "0.bias"]
        assert (
            list(part.gradient)
            == list(part.standard_error)
            == list(part.plan.methods())
            == list(part)
        )
        assert {v.name for v in part.verification} <= set(part)
        assert set(part.deviation) == set(part)
        assert part.loss == h.loss
    assert list(h.layer("*.bias")) == ["0.bias", "2.bias"]
    assert list(of("samples").layer("2")) == ["2.weight", "2.bias"]
    assert list(of("estimate").layer("2").standard_error) == ["2.weight", "2.bias"]
    assert len(of("plan").layer("2")) == 2
    assert of("operator").layer("2").names == ("2.weight", "2.bias")
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"pattern.*'3.*' (fits|matches) none of"):
            of(kind).layer("3")
    assert h["module.0.weight"] is h["0.weight"]
    with pytest.raises(KeyError, match=r"3\.weight"):
        h["3.weight"]


def test_traces():
    h, e = of("diagonal"), of("estimate")
    total = sum(float(v.sum()) for v in h.values())
    assert float(h.trace()) == pytest.approx(total, rel=1e-12)
    assert float(h.trace()) == pytest.approx(float(of("operator").trace(method="exact")), rel=1e-9)
    assert float(e.trace()) == pytest.approx(sum(float(v.sum()) for v in e.values()))
    assert math.isnan(e.trace().standard_error)
    # Of all entries it is exact; over draws of some it is unbiased, with the error that it says.
    arguments = net(), F.cross_entropy, (X, Y)
    whole = hessian.sample(*arguments, per_parameter=20).trace()
    assert whole.value == pytest.approx(total, rel=1e-9)
    assert whole.standard_error == 0
    values = {name: v.flatten() for name, v in h.items()}
    draws = []
    generator = np.random.default_rng(0)
    for _ in range(2000):
        index = {name: generator.permutation(len(v))[:2] for name, v in values.items()}
        some = hessian.Samples(
            (n, hessian.Sample(torch.from_numpy(i), values[n][i], len(values[n])))
            for n, i in index.items()
        )
        draws.append((some.trace().value, some.trace().standard_error))
    traces, errors = np.array(draws).T
    spread = traces.std() / math.sqrt(len(traces))
    assert traces.mean() == pytest.approx(total, abs=5 * spread)
    # A variance from 2000 draws is within some 5 % of its own standard deviation.
    assert np.mean(errors**2) == pytest.approx(traces.var(), rel=0.2)


@pytest.mark.parametrize("kind", ["diagonal", "samples", "estimate"])
def test_other_devices_get_every_tensor(kind):
    result = of(kind)
    copied = result.to("cpu")
    same(copied, result)
    assert copied is not result
    moved = result.to("meta")  # a device that is always there

    def devices(value):
        if isinstance(value, torch.Tensor):
            return {value.device.type}
        inside = value.values() if isinstance(value, dict) else []
        more = vars(value).values() if hasattr(value, "__dict__") else []
        return set().union(*map(devices, [*inside, *more]), set())

    assert devices(moved) == {"meta"}


def test_a_sampled_trace_and_its_error_are_right_over_all_samples():
    """Every sample that there is: the mean is the trace, and of squared errors its variance."""
    values = torch.tensor([3.0, -1.0, 0.5, 2.0, 7.0], dtype=torch.float64)
    exact = torch.tensor([1.0, 4.0], dtype=torch.float64)
    traces = [
        hessian.Samples(
            part=hessian.Sample(torch.tensor(places), values[list(places)], 5),
            whole=hessian.Sample(torch.arange(2), exact, 2),
        ).trace()
        for places in itertools.combinations(range(5), 3)
    ]
    numbers = np.array([trace.value for trace in traces])
    squares = np.array([trace.standard_error for trace in traces]) ** 2
    assert numbers.mean() == pytest.approx(16.5, rel=1e-12)
    assert squares.mean() == pytest.approx(numbers.var(), rel=1e-12)
