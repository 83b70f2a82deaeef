"""Without any one of torch's private names that are asked for, the numbers are the same."""

import ast
import json
import os
import subprocess
import sys
from collections import OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path

import pytest
import torch

from hessian import trees

from .hiding import names, private_module

ROOT = Path(__file__).resolve().parents[2]


def numbers(hidden):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.devices.hidden", "", *hidden],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def compared(hidden):
    found = numbers(hidden)
    want = found.pop("")
    for name in hidden:
        assert list(found[name]) == list(want)
        for call, values in want.items():
            # Other routes may be taken, each exact to rounding.
            assert found[name][call] == pytest.approx(values, rel=1e-8, abs=1e-12), (name, call)


def test_without_the_names_that_routes_depend_on():
    compared([
        *("_C._functions", "_C._autograd", "autograd.forward_ad._current_level"),
        *("utils._pytree", "utils._python_dispatch", "Tensor._version"),
        *("autograd.graph.Node._input_metadata", "autograd._unsafe_preserve_version_counter"),
    ])  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_without_each_of_the_names():
    compared(names())


# Of the suite, which takes hours with each name hidden (`python -m tests.devices.hiding`).
REPRESENTATIVE = [
    *(f"tests/hessian/test_{name}.py" for name in ("functional", "outputs", "random", "state")),
    *("tests/sim/optimizers/test_updates.py", "tests/sim/test_mappings.py"),
]


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", names())
def test_the_tests_pass_without_it(name):
    done = subprocess.run(
        [sys.executable, "-m", "tests.devices.hiding", "--names", name, "-p", "no:cacheprovider",
         *REPRESENTATIVE],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


# ------------------------------------------------------------------------- one place


# Attributes of objects, not functions, whose names begin so: the values that a node has saved
# (documented in torch's notes on autograd) and what every module keeps its tensors in.
LAYOUT = {
    *("_parameters", "_buffers", "_backward_hooks", "_backward_pre_hooks"),
    *("_post_accumulate_grad_hooks", "_forward_cls", "_sequence_nr"),
}
# Where one is read that is not of Python's own: asked for there, or of a wrapper by its name.
ASKED_THERE = {
    ("hessian/_tape/graph.py", "_input_metadata"),
    *(("sim/optimizers/_layerwise.py", name) for name in ("_is_flat_param", "_fsdp_flattened")),
    *(("hessian/_call/labelled.py", "_orig_mod"), ("sim/_measurements/monitor.py", "_orig_mod")),
}
# Python's, of named tuples, frames, locks and processes; NumPy's.
OTHERS = {"_replace", "_fields", "_make", "_getframe", "_exit", "_is_owned"}
OTHERS |= {"_rand", "_bit_generator"}
READERS = ("getattr", "hasattr", "setattr", "delattr", "_there")


def dotted(node):
    """`a.b.c` as its steps; nothing for what does not start at a name."""
    steps = []
    while isinstance(node, ast.Attribute):
        steps.append(node.attr)
        node = node.value
    return [node.id, *reversed(steps)] if isinstance(node, ast.Name) else []


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def of_torch(tree):
    """The private names that a file reads of torch's modules, however it has imported them."""
    known, offences = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    known[alias.asname or "torch"] = alias.name if alias.asname else "torch"
                    offences |= {alias.name} if "._" in alias.name else set()
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                known[alias.asname or alias.name] = name
                offences |= {name} if "._" in name else set()
    for node in ast.walk(tree):
        steps = dotted(node) if isinstance(node, ast.Attribute) else []
        if steps and steps[0] in known and any(map(is_private, steps[1:])):
            offences.add(".".join([known[steps[0]], *steps[1:]]))
    return offences


def read(tree):
    """The private attributes that a file reads of any object but its own classes'."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            found.add(node.attr)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in READERS:
            constants = [a.value for a in node.args if isinstance(a, ast.Constant)]
            found |= {c for c in constants if isinstance(c, str) and is_private(c)}
    return found


def defined(tree):
    """The private names that a file makes: functions, classes, variables, attributes, arguments."""
    made = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            made.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.alias):
            made.add(node.asname or node.name)
    return set(filter(is_private, made))


def files():
    """The trees of the packages' files by path, but for the one place."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for package in ("hessian", "sim", "paper_checks")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "torch_private.py"
    }


def test_private_names_are_asked_for_in_one_place():
    trees_of = files()
    assert {(path, name) for path, tree in trees_of.items() for name in of_torch(tree)} == set()
    ours = set().union(*map(defined, trees_of.values()))
    foreign = {
        (path, name)
        for path, tree in trees_of.items()
        for name in read(tree) - ours - LAYOUT - OTHERS
        if not name.startswith("_saved_")
    }
    assert foreign == ASKED_THERE


@pytest.mark.parametrize(("text", "names_in_it"), {
    "import torch\ntorch._C._nn.f": {"torch._C", "torch._C._nn", "torch._C._nn.f"},
    "from torch.autograd import forward_ad as f\nf._level": {"torch.autograd.forward_ad._level"},
    "from torch.utils._pytree import tree_map": {"torch.utils._pytree.tree_map"},
    "from torch import _foreach_add": {"torch._foreach_add"},
    "import torch._dynamo": {"torch._dynamo"},
    "import torch\ntorch._foreach_add_(a, b)": {"torch._foreach_add_"},
    "from torch import nn\nnn.modules.batchnorm._BatchNorm":
        {"torch.nn.modules.batchnorm._BatchNorm"},
    "import torch\ntorch.add(a, b)": set(),
}.items())  # fmt: skip
def test_private_names_are_seen(text, names_in_it):
    assert of_torch(ast.parse(text)) == names_in_it
    assert read(ast.parse("t._version\ngetattr(t, '_local')")) == {"_version", "_local"}


# ------------------------------------------------------------------------- what is done without


Pair = namedtuple("Pair", "a b")
TREES = [
    1,
    None,
    [1, (2, {"b": 3, "a": [4]}), []],
    OrderedDict(x=1, y=deque([2, 3], maxlen=4)),
    defaultdict(list, {"k": (1, None)}),
    Pair([1], {"c": 2}),
    {1: {}, "s": ()},
    type("Sub", (dict,), {})(a=1),
]


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_trees_without_torchs(tree, monkeypatch):
    """Torch's own functions are the oracle."""
    want = trees.flatten_with_path(tree)
    doubled = trees.mapped(lambda leaf: (leaf, leaf), tree)
    monkeypatch.setattr(trees.torch_private, "PYTREE", None)
    pairs, structure = trees.flatten_with_path(tree)
    assert pairs == want[0]
    assert structure.num_leaves == len(pairs)
    assert trees.flatten(tree)[1] == structure
    again = trees.unflatten([leaf for _, leaf in pairs], structure)
    assert again == tree
    assert type(again) is type(tree)
    assert trees.mapped(lambda leaf: (leaf, leaf), tree) == doubled
    others = [trees.flatten(other)[1] for other in TREES if other is not tree]
    leaf = trees.flatten(0)[1]
    assert all(other != structure or structure == leaf for other in others)


def test_results_of_torch_are_opened_without_its_trees(monkeypatch):
    result = torch.tensor([[1.0, 3.0]]).max(1)
    monkeypatch.setattr(trees.torch_private, "PYTREE", None)
    leaves, structure = trees.flatten(result)
    assert [leaf.tolist() for leaf in leaves] == [[3.0], [1]]
    assert type(trees.unflatten(leaves, structure)) is type(result)


def lists():
    generator = torch.Generator("cpu").manual_seed(0)
    return [
        [torch.rand(shape, generator=generator) + 0.5 for shape in ((2, 3), (4,), ())]
        for _ in range(3)
    ]


FOREACH = {
    "abs": lambda a, b, c: ((a,), {}),
    "add": lambda a, b, c: ((a, b), {"alpha": 0.5}),
    "add_": lambda a, b, c: ((a, 2.0), {}),
    "addcmul_": lambda a, b, c: ((a, b, c), {"value": 0.25}),
    "clamp_max_": lambda a, b, c: ((a, 1.0), {}),
    "clamp_min_": lambda a, b, c: ((a, 1.0), {}),
    "copy_": lambda a, b, c: ((a, b), {}),
    "div": lambda a, b, c: ((a, b), {}),
    "div_": lambda a, b, c: ((a, 3.0), {}),
    "mul": lambda a, b, c: ((a, [t.sum().double() for t in b]), {}),
    "mul_": lambda a, b, c: ((a, b), {}),
    "norm": lambda a, b, c: ((a, 1), {"dtype": torch.float64}),
    "sqrt": lambda a, b, c: ((a,), {}),
    "sub_": lambda a, b, c: ((a, b), {}),
}


@pytest.mark.parametrize("name", FOREACH)
def test_lists_of_tensors_one_after_another(name):
    results = []
    for hidden in ("", f"_foreach_{name}"):
        function = getattr(private_module(hidden), f"foreach_{name}")
        assert (function is getattr(torch, f"_foreach_{name}")) == (not hidden)
        arguments, options = FOREACH[name](*lists())
        result = function(*arguments, **options)
        results.append(list(arguments[0] if name.endswith("_") else result))
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        # In one kernel a sum or product may be fused or taken in another order.
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_every_function_of_lists_is_compared():
    asked = private_module("").ASKED
    assert {f"_foreach_{name}" for name in FOREACH} == {n for n in asked if "_foreach_" in n}


WITHOUT = """
import sys, torch
from torch import nn
import torch.nn.functional as F
from torch.nn.utils import parametrizations, parametrize
from tests.devices.hiding import imported
hessian = imported(sys.argv[1])
x, y = torch.randn(6, 4), torch.arange(6) % 3
{}
"""
UNTOLD = {
    # What is right is not known: one sentence, and no number.
    "nn.utils.parametrize._cache": """
model = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 3))
with parametrize.cached():
    model(x)
    try:
        hessian.diagonal(model, F.cross_entropy, (x, y))
    except ValueError as error:
        assert "leave that context" in str(error)
    else:
        raise SystemExit("not refused")
hessian.diagonal(model, F.cross_entropy, (x, y))
""",
    "_weight_norm,_weight_norm_interface": """
model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 3))
try:
    hessian.diagonal(model, F.cross_entropy, (x, y))
except NotImplementedError as error:
    assert "weight normalisation" in str(error)
else:
    raise SystemExit("not refused")
""",
    # What public names can do is done.
    "_C._DisableAutocast": """
class Cast(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.cast):
            return self.b(torch.tanh(self.a(x)))
model = Cast()
values = []
for model.cast in (False, True):
    values.append(hessian.diagonal(model, F.cross_entropy, (x, y)))
for name, value in values[0].items():
    assert torch.allclose(values[1][name], value, rtol=1e-5, atol=1e-8), name
""",
    **dict.fromkeys(
        ("autograd.forward_ad._current_level", "autograd._unsafe_preserve_version_counter"),
        """
model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
plan = hessian.plan(model, F.cross_entropy, (x, y))
assert plan.parts == 1
""",
    ),
}


@pytest.mark.parametrize("hidden", UNTOLD)
def test_without_it_nothing_wrong_is_told(hidden):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT.format(UNTOLD[hidden]), hidden],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
