"""A process of its own for the pretended device, which stays known to torch for good.

It reads a request a line on its standard input, {"function": …, "arguments": […]}, calls that
function of this file, and answers with a line of what it returns, or of how it failed.
"""

import json
import os
import sys
import traceback
import warnings

import torch
import torch.nn.functional as F

import hessian
import sim
from tests.devices import calls, pretended
from tests.hessian.modules import MODULES
from tests.hessian.modules import build as build_module
from tests.hessian.networks import NETWORKS
from tests.hessian.networks import build as build_network
from tests.hessian.transformers import Llama, each_token

METHODS = ("auto", "affine", "chain", "preactivation", "parameter")
# Both are computed in float64 on one processor; the sums of a device come in another order, and
# its routes are chosen by other prices, each exact to rounding.
ROUNDING = 1e-9


def here(value):
    return value


def there(value):
    return value.to(torch.device(pretended.NAME))


def differences(name):
    """Where a public call on the device differs from the same call on the CPU."""
    results = []
    for move in (here, there):
        call = calls.CASES[name](move)
        torch.manual_seed(0)
        results.append(calls.plain(call()))
    # Most cases are float64; those in float32 sum some hundred terms.
    return calls.differences(*results, tolerance=1e-5)


def problem(group, name):
    """A model, its loss and its data, on the CPU."""
    if group == "modules":
        model, x, y, _, _ = build_module(name)
        return model, F.cross_entropy, (x, y)
    if group == "transformers":
        torch.manual_seed(0)
        ids = torch.arange(10).view(2, 5) * 7 % 11
        return Llama().double(), each_token, (ids, ids.flip(1))
    model, inputs = build_network(name)
    x = inputs(5, torch.Generator("cpu").manual_seed(1))
    return model, F.cross_entropy, (x, torch.tensor([0, 1, 2, 3, 0]))


NAMES = {"networks": sorted(NETWORKS), "modules": list(MODULES), "transformers": ["llama"]}


def diagonals(group, name, methods=METHODS):
    """The largest gap between device and CPU over methods, and how many of them were proved."""
    gaps, proved = {}, 0
    for method in methods:
        results = []
        for move in (here, there):
            model, loss, (x, y) = problem(group, name)
            torch.manual_seed(0)
            data = (move(x), move(y))
            try:
                result = hessian.diagonal(move(model), loss, data, method=method)
            except ValueError as error:
                if "is not proved" not in str(error):
                    raise
                result = None
            results.append(result)
        want, got = results
        if want is None or got is None:
            assert want is got
            continue
        proved += 1
        assert all(h.device.type == pretended.NAME for h in got.values())
        top = max(float(h.abs().max()) for h in want.values() if h.numel())
        for parameter, h in want.items():
            size = max(float(h.abs().max()), 1e-6 * top) if h.numel() else 1.0
            gap = float((got[parameter].cpu() - h).abs().max()) / (size or 1.0) if h.numel() else 0
            gaps[f"{method} {parameter}"] = gap
    return {"proved": proved, "wrong": {k: g for k, g in gaps.items() if not g <= ROUNDING}}


def refused(text):
    """What the rules of the device say to an expression."""
    names = {"torch": torch, "F": F, "d": torch.device(pretended.NAME),
             "x": torch.ones(3, device=pretended.NAME), "y": torch.ones(3)}  # fmt: skip
    try:
        value = eval(text, names)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    values = value if isinstance(value, list | tuple) else [value]
    return [v.tolist() if isinstance(v, torch.Tensor) else v for v in values]


def second_derivative():
    """d²/dx² of x³ at 2, by a double backward on the device, and where it is."""
    x = torch.tensor([2.0], device=pretended.NAME, requires_grad=True)
    (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), x)
    return [h.tolist(), h.device.type]


def random_state():
    """Draws of the device and of the CPU, before and after an exact computation with dropout."""
    torch.manual_seed(0)
    model, loss, (x, y) = problem("networks", "dropout-train")
    model, data = there(model), (there(x), there(y))
    states = []
    for _ in range(2):
        states.append([torch.pretend.get_rng_state().tolist(), torch.get_rng_state().tolist()])
        hessian.diagonal(model, loss, data, memory=1)
    drawn = torch.rand(3, device=pretended.NAME).tolist()
    moved = torch.pretend.get_rng_state().tolist() != states[1][0]
    return {"as_found": states[0] == states[1], "moves": moved, "drawn": drawn}


def without_float64(name):
    """What a public call says on a device without float64."""
    pretended.Rules.float64 = False
    hessian.devices.has_float64.cache_clear()
    try:
        torch.manual_seed(0)
        result = {
            "diagonal": lambda: calls.of(hessian.diagonal, FLOAT32)(there)(),
            "operator": lambda: calls.of(hessian.operator, FLOAT32)(there)().top(1),
            "moments": lambda: calls.of(sim.gradient_moments, FLOAT32, "0.weight")(there)(),
            "LARS": lambda: calls.rule("LARS")(there)(),
            "CBLR": lambda: calls.rule("CBLR")(there)(),
            "train": lambda: sim.train({**calls.MLP, "device": "pretend"}).status,
            "train float64": lambda: sim.train(
                {**calls.MLP, "device": "pretend", "dtype": "float64"}
            ),
        }[name]()
    except ValueError as error:
        return str(error)
    finally:
        pretended.Rules.float64 = True
        hessian.devices.has_float64.cache_clear()
    return "done" if not isinstance(result, str) else result


def FLOAT32(move):
    return calls.vectors(move, dtype=torch.float32)


def trained():
    """Runs on the device beside those of the CPU, by the columns of their steps."""
    fields = {**calls.TRAINED, "dtype": "float64", "optimizer": "lars", "lr": 0.01}
    runs = [sim.train({**fields, "device": device}) for device in ("cpu", pretended.NAME)]
    assert runs[1].environment["gpu"] == "pretended"
    first, second = (calls.plain(run.steps) for run in runs)
    return calls.differences(first, second, tolerance=1e-8)


def serve():
    # What torch prints must not come among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    pretended.register()
    torch.set_num_threads(1)
    # As a plain tensor would: its class stands for no wrapper of the user's.
    sim.optimizers._shards.PLAIN |= {pretended.Pretended}
    warnings.simplefilter("error")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": globals()[request["function"]](*request["arguments"])}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    answers.close()


if __name__ == "__main__":
    serve()
