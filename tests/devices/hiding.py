"""Hide a private name of torch from this project, as a torch would that does not have it.

`imported` imports `hessian` anew without a name. As a plugin of pytest this file hides the name in
the environment variable `CBLR_HIDE`, or several with commas between, from a whole run:

    CBLR_HIDE=_foreach_add_ python -m pytest -p tests.devices.hiding tests/sim/optimizers

and as a program it does so for name after name, each in a process of its own, without the tests
that are about the name (`ABOUT`), and says what failed; with `--together` all of them but those
that decide about routes (`ROUTES`) in one run:

    python -m tests.devices.hiding [--names NAME …] [--skip N] [PYTEST'S ARGUMENTS …]
    python -m tests.devices.hiding --together [PYTEST'S ARGUMENTS …]

Only the project's own questions are hidden, not what torch itself uses. What a test starts in
another process has the name.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "hessian" / "torch_private.py"
VARIABLE = "CBLR_HIDE"

# Tests of what is given up without a name, by a part of their ids: a refusal stands in the place of
# a number, an interrupt leaves something behind, it takes more launches, a setting is not followed.
_INTERRUPTS = ("test_interrupted.py", "test_hooks.py")
ABOUT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("_C._len_torch_function_stack", "_C._len_torch_dispatch_stack", "_C._functorch"),
        _INTERRUPTS,
    ),
    "_C._set_grad_enabled": ("test_a_custom_function_holds_no_constants",),
    "_C._set_mkldnn_enabled": ("no oneDNN",),
    "_C._autograd._top_saved_tensors_default_hooks": ("[checkpoint]", "[checkpoint, autocast]"),
    **dict.fromkeys(
        ("autograd.forward_ad._current_level", "autograd._unsafe_preserve_version_counter"),
        (
            *("test_parts.py", "test_pieces.py", "test_provenance.py", "test_rehearsal.py"),
            *("test_random.py", "test_a_custom_function_holds_no_constants"),
        ),
    ),
    "_weight_norm": (
        *("weight_norm", "weight-norm", "weight norm", "test_draws_that_were_misses"),
        "cache_are_made_again",
    ),
    "nn.utils.parametrize._cache": ("cache_are_made_again",),
    "nn.modules.module._global_backward_hooks": ("test_hooks_for_all_modules_are_refused",),
    "utils._pytree": ("test_random_networks_are_exact", "dataclass"),
    "ops.mkldnn._linear_pointwise": ("test_products_in_any_strides",),
    "_fused_sgd_": ("test_only_sgd_has_a_step_in_parts",),
    **dict.fromkeys(("_foreach_add_", "_foreach_mul_"), ("test_foreach_launches_few_operations",)),
}
# Without these other routes are taken, and proofs not made that tests ask for: the numbers of all
# public calls are compared without each of them (`test_torch_private`), not the whole suite.
ROUTES = (
    *("utils._python_dispatch", "utils._python_dispatch.TorchDispatchMode", "_C._functions"),
    *("autograd.graph.Node._input_metadata", "Tensor._version"),
    *("_C._autograd", "_C._autograd._get_sequence_nr", "autograd.forward_ad._current_level"),
    "autograd._unsafe_preserve_version_counter",
)


class Without:
    """A module or class, but for some names in it or below it."""

    def __init__(self, owner, paths):
        self._owner, self._paths = owner, paths

    def __getattr__(self, name):
        if name in self._paths:
            raise AttributeError(name)
        below = [
            rest for first, _, rest in (p.partition(".") for p in self._paths) if first == name
        ]
        value = getattr(self._owner, name)
        return Without(value, below) if below else value

    def __call__(self, *arguments, **options):
        return self._owner(*arguments, **options)


def private_module(hidden):
    """`hessian.torch_private`, from a torch without the names; an empty text hides nothing."""
    import torch

    spec = importlib.util.spec_from_file_location("hessian.torch_private", SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["torch"] = Without(torch, hidden.split(",")) if hidden else torch
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules["torch"] = torch
    return module


def imported(hidden):
    """`hessian`, imported anew from a torch without the name."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("hessian", "sim")]:
        del sys.modules[name]
    sys.modules["hessian.torch_private"] = module = private_module(hidden)
    import hessian

    assert hessian._runtime.ledger.torch_private is module
    return hessian


def names():
    """The names that are asked for, and the private modules that they are in."""
    every = []
    for path in private_module("").ASKED:
        steps = path.split(".")
        parents = [".".join(steps[:n]) for n in range(1, len(steps)) if steps[n - 1][0] == "_"]
        every += [name for name in (*parents, path) if name != "_C"]
    return list(dict.fromkeys(every))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="+", default=None, metavar="NAME")
    parser.add_argument(
        "--together", action="store_true", help="all but those of ROUTES in one run"
    )
    parser.add_argument("--skip", type=int, default=0, help="so many names, done before")
    given, rest = parser.parse_known_args(arguments)
    rest = rest or ["tests/hessian", "tests/sim"]
    failed, hidden = [], (given.names or names())[given.skip :]
    if given.together:
        hidden = [",".join(name for name in hidden if name not in ROUTES)]
    for name in hidden:
        start = time.monotonic()
        parts = [part for one in name.split(",") for part in ABOUT.get(one, [])]
        leave = [f"--deselect-part={part}" for part in parts]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "tests.devices.hiding", *leave, *rest],
            cwd=ROOT, env={**os.environ, VARIABLE: name, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        last = (done.stdout.splitlines() or [done.stderr[-500:]])[-1]
        print(
            f"{'together' if given.together else name}: {last} [{time.monotonic() - start:.0f} s]",
            *lines,
            sep="\n  ",
            flush=True,
        )
        if done.returncode:
            failed.append(name)
    return 1 if failed else 0


def pytest_addoption(parser):
    parser.addoption("--deselect-part", action="append", default=[])


def pytest_collection_modifyitems(config, items):
    parts = config.getoption("--deselect-part")
    items[:] = [item for item in items if not any(part in item.nodeid for part in parts)]


if __name__ == "__main__":
    sys.exit(main())
elif os.environ.get(VARIABLE):
    imported(os.environ[VARIABLE])
