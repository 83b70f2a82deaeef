"""The directions of imports between the packages, read from the source without running it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"theory", "hessian", "sim", "paper_checks"}
# A prediction and its measurement must not share a formula, so `sim` never sees `theory`.
MAY_IMPORT = {
    "theory": set(),
    "hessian": set(),
    "sim": {"hessian"},
    "paper_checks": {"theory", "hessian", "sim"},
}
FOREIGN = {"theory": {"torch", "scipy.stats"}}


def imported(path: Path) -> set[str]:
    """Every absolute module name a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def offences(package: str, names: set[str]) -> set[str]:
    roots = {name.split(".")[0] for name in names}
    ours = (roots & OURS) - MAY_IMPORT[package] - {package}
    foreign = {
        name
        for name in names
        for banned in FOREIGN.get(package, set())
        if name == banned or name.startswith(banned + ".")
    }
    return ours | foreign


@pytest.mark.parametrize("package", sorted(OURS))
def test_import_directions(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {str(f.relative_to(ROOT)): offences(package, imported(f)) for f in files}
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_the_check_sees_an_offence(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from theory import EQUATIONS\n    import torch.nn\n")
    assert offences("sim", imported(bad)) == {"theory"}
    assert offences("theory", imported(bad)) == {"torch.nn"}


# The stages of `hessian`, from what all rest on to what the public functions rest on: each imports
# from those before it only.
STAGES = (
    "_runtime",
    "_tape",
    "_call",
    "_results",
    "_loss",
    "_site",
    "_routes/_chain/steps",
    "_routes/_chain",
    "_routes",
    "_batch",
    "_verification",
    "_estimators",
    "_spectrum",
)
GAO = "paper_checks/papers/gao2020"
SECOND = "paper_checks/papers/mccandlish2018"
# What each folder of a package may import of the others; what stands on top may import all.
INNER = {
    "hessian": {
        f"hessian/{folder}": {f"hessian/{before}" for before in STAGES[:number]}
        for number, folder in enumerate(STAGES)
    },
    "sim": {
        "sim/data": set(),
        "sim/models": set(),
        "sim/optimizers": set(),
        "sim/training/config": {"sim/data", "sim/models", "sim/optimizers"},
        "sim/training/record": {"sim/models", "sim/training/config"},
        "sim/training/engine/fast": {"sim/data", "sim/models", "sim/training/config"},
        "sim/training/engine": {
            *("sim/data", "sim/models", "sim/optimizers"),
            *("sim/training/config", "sim/training/engine/fast", "sim/training/record"),
        },
        "sim/_measurements": {"sim/data", "sim/optimizers"},
        "sim/integrations": {"sim/optimizers", "sim/_measurements"},
    },
    # A module that lies on top and is not below all folders has a row of its own.
    "paper_checks": {
        "paper_checks/ledger": set(),
        "paper_checks/measurements": {"paper_checks/ledger"},
        "paper_checks/equations": {"paper_checks/measurements"},
        f"{GAO}/statements": set(),
        f"{GAO}/experiments": {"paper_checks/equations"},
        f"{GAO}/measurements": {
            *("paper_checks/ledger", "paper_checks/measurements", f"{GAO}/statements"),
        },
        f"{GAO}/figures": {f"{GAO}/measurements", "paper_checks/measurements"},
        f"{GAO}/claims": {
            *(f"{GAO}/statements", f"{GAO}/measurements", f"{GAO}/figures"),
            "paper_checks/measurements",
        },
        GAO: {
            *("paper_checks/equations", "paper_checks/ledger", f"{GAO}/statements"),
            *(f"{GAO}/experiments", f"{GAO}/measurements", f"{GAO}/figures", f"{GAO}/claims"),
        },
        f"{SECOND}/statements": set(),
        f"{SECOND}/equations": set(),
        f"{SECOND}/experiments": {"paper_checks/equations", f"{SECOND}/equations"},
        f"{SECOND}/measurements": {"paper_checks/measurements"},
        f"{SECOND}/claims": {"paper_checks/measurements"},
        SECOND: {
            *("paper_checks/equations", "paper_checks/ledger", f"{SECOND}/statements"),
            *(f"{SECOND}/equations", f"{SECOND}/experiments", f"{SECOND}/measurements"),
            f"{SECOND}/claims",
        },
        "paper_checks/registry": set(),
        "paper_checks/campaign": {
            *("paper_checks/ledger", "paper_checks/measurements", "paper_checks/registry"),
        },
        "paper_checks/report": {
            *("paper_checks/ledger", "paper_checks/measurements", "paper_checks/registry"),
            "paper_checks/campaign",
        },
        "paper_checks/summary": {"paper_checks/report"},
        "paper_checks/own_network": {
            *("paper_checks/measurements", f"{GAO}/figures", f"{GAO}/claims"),
            "paper_checks/report",
        },
        "paper_checks/referee": {"paper_checks/report", "paper_checks/own_network"},
        "paper_checks/running": {
            *("paper_checks/ledger", "paper_checks/measurements", "paper_checks/registry"),
            *("paper_checks/campaign", "paper_checks/report"),
        },
        "paper_checks/cli": {
            *("paper_checks/ledger", "paper_checks/measurements", "paper_checks/registry"),
            *("paper_checks/report", "paper_checks/own_network", "paper_checks/running"),
            "paper_checks/referee",
        },
    },
}
# On top of their package, but below all of its folders.
BELOW = {
    *("sim._arguments", "sim._extras", "sim._isolation", "sim._own"),
    *("hessian.allocator", "hessian.devices", "hessian.torch_private", "hessian.trees"),
    *(
        f"paper_checks.{name}"
        for name in (
            *("check", "drawing", "environment", "errors", "estimates", "extras", "files"),
            *("judges", "numbers"),
            *("paper", "papers", "quotients", "result", "shared", "statements", "statistics"),
            "verdicts",
        )
    ),
}


def folder_of(name, folders):
    """The innermost of the folders that a module is in; `None` on top of the package."""
    path = name.replace(".", "/")
    inside = [folder for folder in folders if f"{path}/".startswith(f"{folder}/")]
    return max(inside, key=len, default=None)


def inner_offences(module, names, table):
    """The modules of its own package that a module must not import."""
    here = folder_of(module, table)
    if here is None and module not in BELOW:
        return set()
    allowed = set() if here is None else {here, *table[here]}
    package = module.split(".")[0]
    modules = {name for name in names if name.split(".")[0] == package and name != package}
    # `from a.b import c` names `a.b` and `a.b.c`; where c is a module, only that one counts.
    outer = {name.rpartition(".")[0] for name in modules}
    foreign = set()
    for name in modules - outer:
        below = name in BELOW or name.rpartition(".")[0] in BELOW
        if not below and folder_of(name, table) not in allowed:
            foreign.add(name)
    return foreign


@pytest.mark.parametrize("package", sorted(INNER))
def test_directions_between_the_folders_of_a_package(package):
    table = INNER[package]
    assert all(
        path.is_dir() or path.with_suffix(".py").is_file() for path in map(ROOT.joinpath, table)
    )
    bad = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        offending = inner_offences(module, imported(path), table)
        if offending:
            bad[module] = offending
    assert bad == {}


@pytest.mark.parametrize("package", sorted(INNER))
def test_the_directions_are_directions(package):
    """No two folders may import one another, by however many others between."""
    assert circles(INNER[package]) == []


def test_a_folder_that_imports_against_the_direction_is_seen():
    table = INNER["sim"]
    against = {"sim.training.engine.network", "sim.training.engine.network.Network"}
    assert inner_offences("sim.training.record.run", against, table)
    assert inner_offences("sim.training.engine.state", against, table) == set()
    assert inner_offences("sim.data._load", {"sim.models", "sim.models.build"}, table)
    assert inner_offences("sim.data._load", {"sim", "sim._arguments"}, table) == set()
    table = INNER["paper_checks"]
    assert inner_offences(
        "paper_checks.papers.gao2020.figures.fig1", {"paper_checks.papers.gao2020.claims.x"}, table
    )
    assert (
        inner_offences(
            "paper_checks.papers.gao2020.claims.x",
            {"paper_checks.papers.gao2020.figures.fig1"},
            table,
        )
        == set()
    )
    assert inner_offences(
        "paper_checks.measurements.context", {"paper_checks.running.runner"}, table
    )
    assert inner_offences("paper_checks.campaign.progress", {"paper_checks.running.runner"}, table)
    assert inner_offences("paper_checks.registry", {"paper_checks.running.runner"}, table)
    assert inner_offences(
        "paper_checks.papers.gao2020.figures.fig1", {"paper_checks.registry.build"}, table
    )
    # What lies below all folders knows none of them.
    assert inner_offences("paper_checks.check", {"paper_checks.papers.gao2020.figures.fig1"}, table)
    assert inner_offences("paper_checks.check", {"paper_checks.statements.Claim"}, table) == set()
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c"]]
    table = INNER["sim"]
    # Not the package as a whole either, which would be a way round.
    assert inner_offences("sim.data._load", {"sim.training", "sim.training.train"}, table)


@pytest.mark.parametrize("package", sorted(OURS))
def test_no_module_imports_one_that_imports_it(package):
    """At no depth of the code, for types alone either: each file can be read before its users."""
    assert circles(graph(ROOT, package)) == []


def graph(root: Path, package: str) -> dict[str, set[str]]:
    """Which modules of a package each of them imports; not the packages that it lies in."""
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((root / package).rglob("*.py"))
    }
    return {
        name: {
            target
            for target in _targets(path, files)
            if target != name and not name.startswith(f"{target}.")
        }
        for name, path in files.items()
    }


def _targets(path: Path, files: dict[str, Path]) -> set[str]:
    """The modules that a file imports, those that it takes a name from as well."""
    targets = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                targets.add(inner if inner in files else node.module)
    return targets & set(files)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach one another."""
    reached = {name: _reached(name, imports) for name in imports}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in imports
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def _reached(name: str, imports: dict[str, set[str]]) -> set[str]:
    """All modules that importing one brings in."""
    seen: set[str] = set()
    left = set(imports[name])
    while left:
        seen.add(each := left.pop())
        left |= imports.get(each, set()) - seen
    return seen


def test_a_circle_is_seen_wherever_it_is_closed(tmp_path):
    package = tmp_path / "p"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from p import b\n")
    (package / "b.py").write_text("def f():\n    from p.c import x\n")
    (package / "c.py").write_text("if False:\n    import p.a\nx = 1\n")
    assert circles(graph(tmp_path, "p")) == [["p.a", "p.b", "p.c"]]
    (package / "c.py").write_text("x = 1\n")
    assert circles(graph(tmp_path, "p")) == []


def test_every_folder_of_hessian_is_a_stage():
    folders = {str(f.parent.relative_to(ROOT)) for f in (ROOT / "hessian").rglob("*.py")}
    assert folders - {"hessian", "hessian/testing"} == set(INNER["hessian"])
    table = INNER["hessian"]
    assert inner_offences("hessian._loss.factor", {"hessian._batch.plan"}, table)
    assert inner_offences("hessian._loss.factor", {"hessian._tape.graph"}, table) == set()
    assert inner_offences("hessian._loss.factor", {"hessian._sample"}, table)


MOST_LINES, MOST_ATTRIBUTES = 450, 12


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_file_can_be_read_at_one_go(package):
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_class_has_few_attributes(package):
    counts = {
        f"{path.relative_to(ROOT)}: {name}": len(names)
        for path in sorted((ROOT / package).rglob("*.py"))
        for name, names in attributes(path.read_text(encoding="utf-8")).items()
    }
    assert counts
    assert {name: count for name, count in counts.items() if count > MOST_ATTRIBUTES} == {}


def attributes(text: str) -> dict[str, set[str]]:
    """The attributes that the methods of each class set on `self`; a record's fields are data."""
    return {
        node.name: {
            each.attr
            for each in ast.walk(node)
            if isinstance(each, ast.Attribute)
            and isinstance(each.ctx, ast.Store)
            and isinstance(each.value, ast.Name)
            and each.value.id == "self"
        }
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    }


def test_attributes_are_counted_wherever_they_are_set():
    text = "class A:\n b: int = 0\n def f(self):\n  self.x = self.y = 1\n  self.z += 1\n"
    text += "  other.w = self.v\n"
    assert attributes(text) == {"A": {"x", "y", "z"}}


# Words that say what was done to a value, or where it lies, and not what it is.
NAMELESS = {
    *("at", "found", "given", "got", "held", "kept", "mine"),
    *("res", "some", "stuff", "thing", "things", "tmp"),
}
# A field of results.json, and two arguments that callers may have by their names.
PUBLIC = {
    "paper_checks": {("paper_checks/result.py", "kept")},
    "sim": {
        ("sim/training/config/options.py", "given"),
        ("sim/training/config/train_config.py", "given"),
    },
    "theory": set(),
}


def bound(text: str) -> set[str]:
    """The names that a file binds: variables, loop variables, arguments."""
    nodes = list(ast.walk(ast.parse(text)))
    arguments = {node.arg for node in nodes if isinstance(node, ast.arg)}
    return arguments | {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


@pytest.mark.parametrize("package", sorted(PUBLIC))
def test_a_name_is_the_noun_of_what_it_is(package):
    nameless = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / package).rglob("*.py")
        for name in bound(path.read_text(encoding="utf-8")) & NAMELESS
    }
    assert nameless == PUBLIC[package]


def test_names_are_seen_wherever_they_are_bound():
    text = "def f(found, *, kept=1):\n for at, (mine, x) in y:\n  held: int = got.res\n"
    assert bound(text) & NAMELESS == {"found", "kept", "at", "mine", "held"}


# What makes a tensor, or a generator, on the default device, which is the user's to choose.
CONSTRUCTORS = {
    *("arange", "as_tensor", "asarray", "bartlett_window", "blackman_window", "empty"),
    *(
        "empty_permuted",
        "empty_quantized",
        "empty_strided",
        "eye",
        "fft.fftfreq",
        "fft.rfftfreq",
        "from_file",
    ),
    *("frombuffer", "full", "hamming_window", "hann_window", "kaiser_window", "linspace"),
    *("logspace", "nested.nested_tensor", "normal", "ones", "rand", "randint", "randn"),
    *("randperm", "range", "scalar_tensor", "sparse_bsc_tensor", "sparse_bsr_tensor"),
    *("sparse_compressed_tensor", "sparse_coo_tensor", "sparse_csc_tensor"),
    *("sparse_csr_tensor", "tensor", "tril_indices", "triu_indices", "zeros"),
    "Generator",
}
# Modules are made where their user wants them, as torch's own are: his default device holds.
BUILDS_MODULES = {"hessian/testing/_parts.py", "sim/models/_transformer.py"}


def placeless(text: str) -> list[tuple[int, str]]:
    """Lines that make a tensor or a generator and do not say where."""
    return [
        (node.lineno, name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and (name := ast.unparse(node.func).removeprefix("torch.")) in CONSTRUCTORS
        and ast.unparse(node.func).startswith("torch.")
        and not any(keyword.arg == "device" for keyword in node.keywords)
        and not (name == "Generator" and node.args)
    ]


@pytest.mark.parametrize("package", ["hessian", "sim"])
def test_every_tensor_is_made_where_it_belongs(package):
    places = {
        (name, *place)
        for path in sorted((ROOT / package).rglob("*.py"))
        if (name := str(path.relative_to(ROOT))) not in BUILDS_MODULES
        for place in placeless(path.read_text(encoding="utf-8"))
    }
    assert places == set()


def test_a_tensor_without_a_place_is_seen():
    text = "import torch\ntorch.zeros(3)\ntorch.zeros(3, device=d)\ntorch.Generator()\n"
    text += "torch.Generator('cpu')\nnp.zeros(3)\ntorch.zeros_like(x)\nf(torch.fft.fftfreq(3))\n"
    assert placeless(text) == [(2, "zeros"), (4, "Generator"), (8, "fft.fftfreq")]


def test_torch_makes_tensors_by_no_other_function():
    from torch.utils import _device

    if not hasattr(_device, "_device_constructors"):
        pytest.skip("this torch has no list of what makes tensors")
    names = {function.__name__ for function in _device._device_constructors()}
    inside = {"nested_tensor": "nested.nested_tensor"}
    names = {inside.get(name, name.replace("fft_", "fft.", 1)) for name in names}
    assert len(names) > 20
    assert names - CONSTRUCTORS == set()


# Of `hessian.devices`, which asks for the kind of a device, and of nobody else.
KINDS = {"cpu", "cuda", "mps", "xpu"}


def kinds_asked_for(text: str) -> list[tuple[int, str]]:
    """Lines that compare the kind of a device, or speak to one kind alone."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.cuda", "torch.mps"):
            lines.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Attribute) and node.attr in ("is_cuda", "is_mps", "is_xpu"):
            lines.append((node.lineno, node.attr))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            (".cuda", ".startswith")
        ):
            constants = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if node.func.attr == "cuda" or KINDS & set(map(str, constants)):
                lines.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            constants = {str(s.value) for s in sides if isinstance(s, ast.Constant)}
            if constants & (KINDS - {"cpu"}):
                lines.append((node.lineno, ast.unparse(node)))
    return sorted(lines)


@pytest.mark.parametrize("package", ["hessian", "sim"])
def test_what_a_device_can_do_is_asked_in_one_place(package):
    lines = {
        (name, *line)
        for path in sorted((ROOT / package).rglob("*.py"))
        if (name := str(path.relative_to(ROOT))) != "hessian/devices.py"
        for line in kinds_asked_for(path.read_text(encoding="utf-8"))
    }
    assert lines == set()


def test_the_kind_of_a_device_is_seen_wherever_it_is_asked_for():
    text = "x.is_cuda\ny = d.type == 'cuda'\ntorch.cuda.synchronize()\nx.cuda()\n"
    text += "name.startswith('cuda')\nd.type != 'cpu'\nname.startswith('c')\ntorch.backends.cuda\n"
    assert [line for line, _ in kinds_asked_for(text)] == [1, 2, 3, 4, 5]
