"""Without any one of torch's private names that are asked for, the numbers are the same."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    *("_C.DisableTorchFunction", "_C._get_torch_function_state", "_C._set_torch_function_state"),
    *("_C._len_torch_function_stack", "_C._get_function_stack_at", "_C._pop_torch_function_stack"),
    *("_C._push_on_torch_function_stack", "_C._len_torch_dispatch_stack"),
    *("_C._pop_torch_dispatch_stack", "_C._functorch", "_C._autograd", "_C._set_grad_enabled"),
    "_C._functorch.get_dynamic_layer_stack_depth",
    "_C._functorch.pop_dynamic_layer_stack_and_undo_to_depth",
    "_C._autograd._top_saved_tensors_default_hooks",
    "_C._autograd._pop_saved_tensors_default_hooks",
    *("_C._autograd._get_sequence_nr", "_C._DisableAutocast", "_C._is_any_autocast_enabled"),
    *("_C._functions", "_C._nn", "autograd._unsafe_preserve_version_counter"),
    "forward_ad._current_level",
]


def numbers(names):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.devices.hidden", "", *names],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def compared(names):
    found = numbers(names)
    want = found.pop("")
    for name in names:
        assert list(found[name]) == list(want)
        for call, values in want.items():
            # Other routes may be taken, each exact to rounding.
            assert found[name][call] == pytest.approx(values, rel=1e-8, abs=1e-12), (name, call)


def test_without_the_names_that_routes_depend_on():
    compared(["_C._functions", "_C._autograd", "forward_ad._current_level"])


@pytest.mark.slow
def test_without_each_of_the_names():
    compared(NAMES)


def private(text):
    """Private names of torch in a file: those below `torch._C`, and of `torch.autograd`."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.startswith(("torch._C", "_C.", "torch.autograd._", "forward_ad._")):
                found.add(name)
    return found


def test_private_names_are_asked_for_in_one_place():
    elsewhere = {
        (str(path.relative_to(ROOT)), name)
        for package in ("hessian", "sim")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "torch_private.py"
        for name in private(path.read_text(encoding="utf-8"))
    }
    # Asked for where it is used.
    switch = {("sim/_isolation.py", f"torch._C{end}") for end in ("", "._set_mkldnn_enabled")}
    assert elsewhere == switch
    assert private("x = torch._C._nn.f\nforward_ad._level") == {
        *("torch._C", "torch._C._nn", "torch._C._nn.f", "forward_ad._level"),
    }
