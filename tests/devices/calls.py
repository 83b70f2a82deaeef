"""A call of every public function, for the tests of devices.

A case gets `move`, which puts a tensor or a module where the user keeps them, prepares the
arguments with it, and returns the call. `plain` makes numbers of what the call returns.
"""

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hessian
import sim

CPU = torch.device("cpu")
# What two runs of the same call may differ in.
# (in `compare_estimates`, "gradients" is the time of a call over that of a gradient).
OF_THE_RUN = {
    *("gradients", "error_per_gradient", "seconds"),
    *("folder", "environment", "_source", "plan"),
}


class Small(nn.Module):
    """Convolution, dropout, layer norm and a smooth activation, a few dozen entries."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.LayerNorm(12)
        self.hidden, self.out = nn.Linear(12, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 3).flatten(1)
        x = torch.tanh(self.hidden(F.dropout(self.norm(x), 0.3, self.training)))
        return self.out(x)


def generator(seed=0):
    return torch.Generator(device=CPU).manual_seed(seed)


def images(move, n=5, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Small().to(dtype).eval()
    x = torch.randn(n, 2, 6, 6, generator=generator(1), dtype=dtype)
    return move(model), F.cross_entropy, (move(x), move(torch.arange(n) % 4))


def few(move):
    return images(move, 2)


def vectors(move, n=6, dtype=torch.float64, activation=nn.Tanh):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), activation(), nn.Linear(5, 4)).to(dtype)
    x = torch.randn(n, 6, generator=generator(1), dtype=dtype)
    return move(model), F.cross_entropy, (move(x), move(torch.arange(n) % 4))


def of(function, maker=images, *arguments, training=False, **options):
    """`function(model, loss, data, …)`, and a generator where one is asked for by a number."""

    def case(move):
        model, loss, data = maker(move)
        model.train(training)
        seed = options.get("generator")
        seeded = {} if seed is None else {"generator": generator(seed)}
        return lambda: function(model, loss, data, *arguments, **{**options, **seeded})

    return case


def split(function, **options):
    """The same over batches of an iterable."""

    def case(move):
        model, loss, (x, y) = images(move)
        batches = [(x[:3], y[:3]), (x[3:], y[3:])]
        return lambda: function(model, loss, batches, **options)

    return case


def of_operator(method, kind="hessian", maker=vectors):
    def case(move):
        model, loss, data = maker(move)
        return lambda: method(hessian.operator(model, loss, data, kind=kind))

    return case


def tensors(function, *values):
    def case(move):
        moved = [move(value) for value in values]
        return lambda: function(*moved)

    return case


def rule(name, **options):
    """Two steps of an optimizer, with momentum and weight decay."""

    def case(move):
        shapes = ((3, 4), (4,), (2, 3, 2))
        draw = generator()
        weights = [nn.Parameter(move(torch.randn(s, generator=draw))) for s in shapes]
        slopes = [[move(torch.randn(s, generator=draw)) for s in shapes] for _ in range(2)]
        curvature = {f"p{i}": move(torch.randn(s, generator=draw)) for i, s in enumerate(shapes)}

        def call():
            named = [(f"p{i}", w) for i, w in enumerate(weights)]
            made = getattr(sim.optimizers, name)(
                named, 0.01, momentum=0.9, weight_decay=0.1, **options
            )
            for gradients in slopes:
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient.clone()
                made.step(*([curvature] if name == "CBLR" else []))
            made.load_state_dict(made.state_dict())
            return [w.detach() for w in weights], made.state_dict()["state"]

        return call

    return case


def monitored(move):
    model, loss, data = vectors(move, 12, torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def call():
        monitor = sim.monitor(model, loss, data, optimizer, every=1)
        for _ in range(2):
            optimizer.zero_grad()
            loss(model(data[0]), data[1]).backward()
            optimizer.step()
            monitor.step()
        return monitor.table(), monitor.steps, list(model.parameters())

    return call


def stable(move):
    model, loss, data = vectors(move)
    return lambda: sim.stable_gamma(
        model, loss, 3 * [data], max_radius=[10.0, 100.0], refresh_interval=[1, 2]
    )


TRAINED = {
    "model": "lenet", "samples": 32, "batch_size": 16, "epochs": 1, "lr": 0.05,
    "measure": {"decrease_every": 1, "held_out": 8, "curvature_every": 2, "curvature_samples": 4},
}  # fmt: skip
MLP = {"model_options": {"hidden": [6]}, "samples": 64, "batch_size": 16, "epochs": 2}


def trained(**changes):
    return lambda move: lambda: sim.train({**TRAINED, **changes})


def swept(**options):
    configs = sim.training.grid(MLP, seed=range(2))
    return lambda move: lambda: sim.sweep(configs, jobs=1, **options)


def alone(function, *arguments, **options):
    """A call that takes no tensor of the user's."""
    return lambda move: lambda: function(*arguments, **options)


def reloaded(folder):
    sim.train(MLP, out=folder / "run", checkpoint_steps=1)
    return sim.training.load(folder / "run")


def interval(samples):
    return {name: (s, s.quantile(0.5)) for name, s in samples.items()}


def halved(gradient):
    sim.training.DiscardGradients(share=0.5).apply([gradient], torch.rand_like)
    return gradient


def shifted(x):
    augment = sim.training.Augment(crop=2)
    drawn = torch.from_numpy(augment.draw([0, 1], len(x))).to(x.device)
    return augment.apply(x, drawn)


def problem():
    from hessian.testing import strategies

    model, loss, pairs = strategies.Problem(("tanh",), "mse", 5, 2, "tuple", 0, None).make()
    return [loss(model(x), y).detach() for x, y in pairs], model.state_dict()


def of_function(method, *arguments):
    """A curved function of tensors, by the forms of `hessian.functional`."""

    def case(move):
        _, _, (x, y) = vectors(move)
        w = {name: move(torch.randn(shape, generator=generator(2), dtype=torch.float64))
             for name, shape in (("a", (6, 5)), ("b", (5, 4)))}  # fmt: skip

        def f(w, x, y):
            return F.cross_entropy(torch.tanh(x @ w["a"]) @ w["b"], y)

        return lambda: method(f, *arguments)(w, x, y)

    return case


def reread(move):
    model, loss, data = vectors(move)

    def call():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "h.safetensors")
            hessian.diagonal(model, loss, data).save(path)
            return hessian.load(path, device=data[0].device)

    return call


def walked(move):
    model, loss, data = images(move)
    walk = hessian.batches
    return lambda: [
        (walk.loss_of(loss, walk.call(model, x), y), walk.size(x))
        for x, y in walk.pairs(walk.lasting(iter(data)), model)
    ]


def batch_curvature(move):
    model, loss, data = vectors(move)
    source = sim.integrations.BatchCurvature(model, loss)
    source.batch = data
    return source


def on_logits(logits, targets):
    return hessian.on_logits(shift=True)({"logits": logits}, targets)


KINDS = ("hutchinson", "preactivation", "gauss-newton", "gauss-newton-mc", "empirical-fisher",
         "becker-lecun")  # fmt: skip
MATRICES = ("hessian", "gauss-newton", "fisher", "empirical-fisher")
ENTRIES = ["out.bias"]


def resumed_sample(move):
    model, loss, data = images(move)

    def call():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "entries.pt")
            first = sample(model, loss, data, 3, generator(1), checkpoint=path)
            return first, sample(model, loss, data, 3, checkpoint=path)

    return call


diagonal, estimate, sample = hessian.diagonal, hessian.estimate, hessian.sample
# Public name → a case for every way through it.
HESSIAN = {
    "diagonal": {
        "auto": of(diagonal),
        "affine": of(diagonal, method="affine", names=["out.*"]),
        "preactivation": of(diagonal, method="preactivation", names=["hidden.weight"]),
        "parameter": of(diagonal, method="parameter"),
        "chain": of(diagonal, vectors),
        "float32": of(diagonal, lambda move: vectors(move, dtype=torch.float32)),
        "another dtype": of(diagonal, dtype=torch.float32),
        "training": of(diagonal, training=True),
        "training in parts": of(diagonal, few, training=True, memory=1),
        "in parts": of(diagonal, few, memory=1),
        "verify": of(diagonal, verify=4),
        "standard error": of(diagonal, standard_error=True),
        "batches": split(diagonal, weight="sum", verify=2),
    },
    "plan": {"plan": of(lambda *args: str(hessian.plan(*args)))},
    "sample": {
        "sample": of(lambda *args: interval(sample(*args)), images, 3),
        "generator": of(sample, images, 3, generator=1),
        "in parts": of(sample, few, 3, memory=1),
        "resumed": resumed_sample,
    },
    "coordinate_minimum": {
        "nearest": of(hessian.coordinate_minimum, vectors, 2, generator=1, names=["2.*"]),
        "lowest": of(hessian.coordinate_minimum, vectors, 1, search="lowest", points=9,
                     names=["2.bias"]),
    },
    "estimate": {
        **{kind: of(estimate, vectors, kind, 3) for kind in KINDS},
        **{f"{kind}, generator": of(estimate, images, kind, 2, generator=1) for kind in KINDS[:-1]},
        **{f"{kind}, in parts": of(estimate, few, kind, 2, memory=1) for kind in KINDS[:-1]},
    },
    "operator": {
        **{f"{kind}, product": of_operator(lambda h: h @ np.eye(len(h.names), h.shape[0]).T, kind)
           for kind in MATRICES},
        "top": of_operator(lambda h: h.top(2)),
        "bottom": of_operator(lambda h: h.bottom(1)),
        "trace": of_operator(lambda h: h.trace()),
        "trace, hutch++": of_operator(lambda h: h.trace(method="hutch++", products=12)),
        "density": of_operator(lambda h: h.density(starts=2, steps=5)),
        "layers": of_operator(lambda h: h.layers()),
        "restricted": of_operator(lambda h: h.restricted("0.*") @ np.ones(35)),
        "to": of_operator(lambda h: h.to(CPU).top(1)),
        "convolutions": of_operator(lambda h: h.top(1), maker=images),
    },
    "functional": {
        "diagonal": of_function(hessian.functional.diagonal),
        "plan": of_function(lambda f: lambda *args: str(hessian.functional.plan(f)(*args))),
        "sample": of_function(hessian.functional.sample),
        "estimate": of_function(hessian.functional.estimate, "hutchinson"),
        "operator": of_function(
            lambda f: lambda *args: hessian.functional.operator(f)(*args).top(1)
        ),
    },
    "load": {"load": reread},
    "batches": {"walk": walked},
    "on_logits": {"shift": tensors(on_logits, torch.ones(2, 3, 4), torch.ones(2, 3).long())},
    "radius": {"radius": tensors(hessian.radius, torch.tensor([0.0, 1.0]), torch.ones(2))},
    "product": {
        "small": tensors(hessian.product, torch.ones(2, 3), torch.ones(3, 2)),
        "large": tensors(hessian.product, torch.randn(96, 80, generator=generator()),
                         torch.randn(80, 64, generator=generator(1))),
    },
    "testing": {
        "assert_exact": of(hessian.testing.assert_exact, few, entries=4, methods=("auto",)),
        "differences": of(hessian.testing.differences, few, entries=4),
        "strategies": alone(problem),
    },
}  # fmt: skip

SIM = {
    "GradientMoments": {
        "one": tensors(lambda *moments: sim.GradientMoments("weight", *moments, samples=8),
                       torch.zeros(2), torch.ones(2)),
    },
    "gradient_moments": {
        "linear": of(sim.gradient_moments, vectors, "0.weight"),
        "convolution": of(sim.gradient_moments, images, "conv.weight"),
        "passes": of(sim.gradient_moments, images, "conv.weight", training=True, passes=2),
    },
    "mean_abs_gradient": {
        "linear": of(sim.mean_abs_gradient, vectors, "0.weight", [1, 3], repeats=2),
        "replacement": of(sim.mean_abs_gradient, images, "conv.weight", [2], repeats=2,
                          replacement=True),
    },
    "compare_radii": {"radii": of(sim.compare_radii, images)},
    "compare_estimates": {
        "draws": of(sim.compare_estimates, vectors, probes=2, draws=2, steps=2),
    },
    "rate_terms": {"terms": of(sim.rate_terms, vectors, batch_size=3, cap=1e3)},
    "sharpness": {
        "plain": of(sim.sharpness, vectors),
        "lanczos": of(sim.sharpness, lambda move: images(move, 4)),
    },
    "monitor": {"loop": monitored},
    "stable_gamma": {"search": stable},
    "TrainConfig": {"hash": lambda move: lambda: sim.TrainConfig.read(TRAINED).hash},
    "train": {
        "sgd": trained(),
        "cblr": trained(optimizer="cblr", lr=1e-4),
        "lars": trained(optimizer="lars", lr=0.01),
        "dropout": trained(model="alexnet", model_options={"width": 0.05, "dropout": 0.5}),
        "augment": trained(augment={"crop": 1}),
        "discard": trained(discard={"share": 0.3, "kind": "random"}),
        "discard gradients": trained(discard_gradients={"share": 0.3, "kind": "random"}),
        "batch norm": trained(model="resnet18", model_options={"width": 0.06}, samples=16,
                              micro_batch=8, batch_norm="synchronised", measure={}),
    },
    "sweep": {"one by one": swept(), "lanes": swept(vectorise=True)},
    "integrations": {"BatchCurvature": batch_curvature},
    "data": {
        "digits": alone(lambda: sim.data.load("digits").subset(7, 1).pair),
        "gaussian": alone(lambda: sim.data.load("gaussian", samples=16).pair),
        "batches": alone(lambda: list(sim.data.load("digits").batches(700, seed=1))),
    },
    "models": {
        name: alone(lambda name=name, width=width: sim.models.build(name, seed=0, **width))
        for name, width in {
            "alexnet": {"width": 0.05}, "resnet18": {"width": 0.06}, "mlp": {}, "lenet": {},
            "transformer": {"width": 0.25},
        }.items()
    },
    "optimizers": {
        **{name: rule(name) for name in sim.optimizers.__all__},
        **{f"{name}, one by one": rule(name, foreach=False) for name in sim.optimizers.__all__},
    },
    "training": {
        "Augment": tensors(shifted, torch.arange(150.0).view(2, 3, 5, 5)),
        "Discard": tensors(sim.training.Discard(share=0.5).weights, torch.tensor([3.0, 1.0, 2.0])),
        "DiscardGradients": tensors(halved, torch.tensor([3.0, 1.0, 2.0])),
    },
}  # fmt: skip
# Classes of results and settings, and the case in which they are made.
MADE_BY = {
    **dict.fromkeys(("CoordinateMinima", "CoordinateMinimum"), "coordinate_minimum"),
    **dict.fromkeys(("Density", "Eigenpair", "Eigenpairs", "Hessian", "Layer"), "operator"),
    **dict.fromkeys(("Layers", "Trace"), "operator"),
    **dict.fromkeys(("Sample", "Samples"), "sample"),
    **dict.fromkeys(("Entry", "Plan"), "plan"),
    **{"Diagonal": "diagonal", "Estimate": "estimate"},
    **{"Monitor": "monitor", "Run": "train", "Stability": "stable_gamma", "Trial": "stable_gamma"},
}
# Of the public modules inside.
INSIDE = {
    "functional": {"diagonal", "estimate", "operator", "plan", "sample"},
    "batches": {"call", "lasting", "loss_of", "pairs", "size"},
    "integrations": {"BatchCurvature"},
    "testing": {"Differences", "Exactness", "Record", "assert_exact", "differences"},
    "data": {"DATASETS", "SPLITS", "Batches", "Dataset", "download_cifar10", "load"},
    "models": {"MODELS", "build", "first_linear"},
    "training": {
        *("Augment", "Decay", "Discard", "DiscardGradients", "Interrupted", "Measure", "Phase"),
        *("Run", "TrainConfig", "Unfinished", "Warmup", "grid", "load", "sweep", "train"),
    },
}
CASES = {
    f"{package}.{name}: {way}": case
    for package, table in (("hessian", HESSIAN), ("sim", SIM))
    for name, ways in table.items()
    for way, case in ways.items()
}


def plain(value):
    """Numbers, in lists and mappings, of whatever a public function returns."""
    if isinstance(value, Tensor):
        return value.detach().cpu().resolve_conj().numpy()
    if isinstance(value, nn.Module):
        return plain(value.state_dict())
    if isinstance(value, pd.DataFrame):
        timed = [name for name in value.columns if name in OF_THE_RUN]
        return {name: value[name].to_numpy() for name in value.columns if name not in timed}
    if isinstance(value, pd.Series):
        return value.to_numpy()
    fields = {}
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif isinstance(value, Mapping | list) or type(value).__module__.startswith("hessian"):
        fields = dict(getattr(value, "__dict__", {}))
    fields = {name: plain(v) for name, v in fields.items() if name not in OF_THE_RUN}
    if isinstance(value, Mapping):
        return {**fields, **{key: plain(v) for key, v in value.items()}}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {**fields, **{i: plain(v) for i, v in enumerate(value)}}
    return fields or value


def differences(a, b, tolerance=0.0, path=""):
    """Where two `plain` results differ, by more than a share of the largest entry beside it."""
    if isinstance(a, dict):
        if not isinstance(b, dict) or list(a) != list(b):
            return [f"{path}: {list(a)} and {b if not isinstance(b, dict) else list(b)}"]
        return [
            line for key in a for line in differences(a[key], b[key], tolerance, f"{path}.{key}")
        ]
    if isinstance(a, np.ndarray) and a.dtype.kind in "fc":
        if not isinstance(b, np.ndarray) or a.dtype != b.dtype or a.shape != b.shape:
            return [f"{path}: {a.dtype}{a.shape} and {getattr(b, 'dtype', b)}"]
        finite = np.isfinite(a)
        same = np.array_equal(a[~finite], b[~finite], equal_nan=True)
        size = np.abs(a[finite]).max(initial=0.0)
        gap = np.abs(a[finite] - b[finite]).max(initial=0.0)
        return [] if same and gap <= tolerance * size else [f"{path}: {gap} of {size}"]
    if isinstance(a, np.ndarray):
        return [] if np.array_equal(a, b) else [f"{path}: {a} and {b}"]
    if isinstance(a, float) and isinstance(b, float):
        if math.isnan(a) and math.isnan(b):
            return []
        return [] if a == b or abs(a - b) <= tolerance * abs(a) else [f"{path}: {a} and {b}"]
    return [] if a == b else [f"{path}: {a!r} and {b!r}"]
