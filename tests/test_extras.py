"""What works with the core dependencies alone, and what is said where an extra is missing."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {"theory", "hessian", "sim", "paper_checks"}
CORE = {"numpy", "scipy", "torch"}


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names):
    """Distributions with all that they require on this machine, extras left out."""
    reached, left = set(), [*names]
    while left:
        name = plain(left.pop())
        if name in reached:
            continue
        reached.add(name)
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or marker.evaluate({**default_environment(), "extra": ""}):
                left.append(requirement.name)
    return reached


def alone(code, allowed=CORE):
    """What a process prints in which every import of another distribution fails."""
    kept = closure(allowed)
    blocked = {
        module
        for module, names in packages_distributions().items()
        if module not in OURS and module.isidentifier() and not {plain(n) for n in names} & kept
    }
    assert {"pandas", "rich", "matplotlib", "typer"} <= blocked
    head = f"import sys\nfor name in {sorted(blocked)}:\n    sys.modules.setdefault(name, None)\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_core_dependencies_are_three():
    assert {Requirement(line).name for line in PROJECT["dependencies"]} == CORE


def test_exact_curvature_and_a_rule_need_the_core_alone():
    code = (
        "import torch, hessian, sim\n"
        "model = torch.nn.Linear(2, 1, bias=False)\n"
        "batch = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 1)\n"
        "loss = torch.nn.functional.mse_loss\n"
        "h = hessian.diagonal(model, loss, batch)\n"
        "print(h['weight'].tolist(), len(hessian.sample(model, loss, batch)['weight'].value))\n"
        "loss(model(batch[0]), batch[1]).backward()\n"
        "sim.optimizers.CBLR(model.named_parameters(), 0.1).step(h)\n"
        "print(sim.models.build('mlp', in_shape=(1, 8, 8)) is not None)\n"
        "print(sim.data.load('gaussian', samples=3).inputs.shape)\n"
        "print(sim.stable_gamma(model, loss, [batch]).gamma > 0)\n"
    )
    status, output, errors = alone(code)
    assert status == 0, errors
    # d²/dw² of (w·x)² is 2x².
    assert output.splitlines() == [
        "[[2.0, 8.0]] 2", "True", "torch.Size([3, 20])", "True",
    ]  # fmt: skip


def test_the_theory_needs_what_torch_brings():
    status, output, errors = alone("import theory\nprint(theory.EQUATIONS['4'].verdict.value)")
    assert (status, output) == (0, "wrong constant\n"), errors


SENTENCES = {
    "import sim; sim.train": "sim.train(ing)? needs (joblib|pandas)",
    "import sim.training": r"sim\.training needs (joblib|pandas)",
    "import sim; sim.compare_radii": r"sim\.compare_radii needs pandas",
    "import sim; sim.data.load('digits')": "the data set 'digits' needs sklearn",
    "import sim; sim.data.download_cifar10('.')": "download_cifar10 needs pooch",
    "import paper_checks; paper_checks.run": r"paper_checks\.run needs .*pandas",
    "from paper_checks.cli import main; main()": "the command cblr needs .*typer",
    (
        "import hessian, torch\n"
        "hessian.diagonal(torch.nn.Linear(2, 1), lambda o, y: o.sum(), "
        "(torch.ones(2, 2), torch.ones(2)), progress=True)"
    ): "progress=True needs rich",
}


def test_a_missing_extra_is_one_sentence():
    code = (
        f"for case in {[*SENTENCES]}:\n"
        "    try:\n"
        "        exec(case)\n"
        "        print('no error')\n"
        "    except (ModuleNotFoundError, SystemExit) as error:\n"
        "        print(error)\n"
    )
    status, output, errors = alone(code)
    assert status == 0, errors
    for line, (case, sentence) in zip(output.splitlines(), SENTENCES.items(), strict=True):
        pattern = rf"{sentence}.*, which (is|are) not installed; pip install 'cblr\[(\w+)\]'"
        assert re.fullmatch(pattern, line), (case, line)
        # The extra that it names installs what is missing.
        (extra,) = re.findall(r"cblr\[(\w+)\]", line)
        missing = re.search(r"needs (.*), which", line)[1].replace(" and ", ", ").split(", ")
        names = {"sklearn": "scikit-learn"}
        assert {plain(names.get(name, name)) for name in missing} <= installed_by(extra)


def installed_by(extra):
    """The names of what an extra installs, those of other extras in it."""
    names = set()
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            names |= set().union(*map(installed_by, requirement.extras))
        else:
            names.add(plain(requirement.name))
    return names


def test_theory_says_so_without_sympy():
    code = "import sys; sys.modules['sympy'] = None\nimport theory"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.endswith(
        "theory needs sympy, which is not installed; pip install 'cblr[theory]'\n"
    )


def test_a_missing_module_of_ours_is_no_missing_extra():
    from hessian._runtime.extras import extra

    with (
        pytest.raises(ModuleNotFoundError, match=r"^No module named 'hessian\.nothing'$"),
        extra("display", "this"),
    ):
        import hessian.nothing  # noqa: F401


def test_the_make_targets_install_extras_that_there_are():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"-e '\.\[(\w+)\]'", makefile))
    assert {"audit", "test", "docs"} <= named <= set(PROJECT["optional-dependencies"])
    assert not re.search(r"-e \.(\s|$)", makefile), "no target may do without its extra"
