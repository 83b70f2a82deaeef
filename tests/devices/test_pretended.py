"""What runs on the CPU runs on another device, under its rules, and gives the same numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .calls import CASES
from .child import NAMES

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """The process in which the device is pretended."""

    def __init__(self):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.devices.child"], cwd=ROOT, env=environment, text=True,
            encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, function, *arguments):
        request = json.dumps({"function": function, "arguments": arguments})
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "the process ended"}')
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def child():
    made = Child()
    yield made
    made.close()


RULES = {
    "x + y": "RuntimeError: Expected all tensors to be on the same device",
    "x.add_(y)": "RuntimeError: Expected all tensors to be on the same device",
    "torch.cat([x, y])": "RuntimeError: Expected all tensors to be on the same device",
    "torch.stack([x[0], y[0]])": "RuntimeError: Expected all tensors to be on the same device",
    "y[x.long()]": "RuntimeError: Expected all tensors to be on the same device",
    "torch._foreach_add([x], [y])": "RuntimeError: Expected all tensors to be on the same device",
    "F.linear(x, y.view(1, 3))": "RuntimeError: Expected all tensors to be on the same device",
    "torch.rand(3, device=d, generator=torch.Generator())":
        "RuntimeError: Expected a 'pretend' device type for generator but found {'cpu'}",
    "x.numpy()": "TypeError: can't convert pretend:0 device type tensor to numpy",
    "y.copy_(x)": [[1.0, 1.0, 1.0]],
    "x + y[0]": [[2.0, 2.0, 2.0]],
    "x[y.long()]": [[1.0, 1.0, 1.0]],
    "x.cpu() + y": [[2.0, 2.0, 2.0]],
    "torch.tensor([1.0, 2.0], device=d)": [[1.0, 2.0]],
    "torch.arange(3, device=d)": [[0, 1, 2]],
    "[torch._foreach_mul_([x], 3.0), x][1]": [[3.0, 3.0, 3.0]],
    "[setattr(x, 'data', torch.zeros(2, device=d)), x + 1][1]": [[1.0, 1.0]],
}  # fmt: skip


@pytest.mark.parametrize("text", RULES)
def test_the_device_has_rules(child, text):
    """Those of CUDA; else code that mixes devices would pass here."""
    answer, want = child("refused", text), RULES[text]
    assert answer == want or (isinstance(want, str) and str(answer).startswith(want))


def test_it_is_differentiated_twice(child):
    assert child("second_derivative") == [[12.0], "pretend"]


@pytest.mark.parametrize("name", CASES)
def test_every_public_function(child, name):
    assert child("differences", name) == []


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in ("networks", "transformers")
                                         for n in NAMES[g]])  # fmt: skip
def test_the_networks_of_the_tests_by_every_route(child, group, name):
    answer = child("diagonals", group, name)
    assert answer["wrong"] == {}
    assert answer["proved"] >= 2  # the automatic choice, and single products


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES["modules"])
def test_every_kind_of_module(child, name):
    answer = child("diagonals", "modules", name)
    assert answer["wrong"] == {}
    assert answer["proved"] >= 2


def test_the_devices_random_state_is_as_found(child):
    answer = child("random_state")
    assert answer["as_found"]
    assert answer["moves"]
    assert len(set(answer["drawn"])) == 3


def test_training(child):
    assert child("trained") == []


SENTENCES = {
    "diagonal": "model: pretend:0 has no float64, in which losses are factored",
    "operator": "model: pretend:0 has no float64",
    "moments": "model: pretend:0 has no float64, in which gradients of samples are summed",
    "LARS": "params: parameter 'p0': pretend:0 has no float64, in which norms are summed",
    "CBLR": "done",
    "train": "finished",
    "train float64": "dtype: got 'float64', which 'pretend' does not have",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_device_without_float64(child, name):
    assert child("without_float64", name).startswith(SENTENCES[name])
