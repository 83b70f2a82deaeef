"""Numbers of `hessian` with names of torch hidden: `python -m tests.devices.hidden NAME …`.

For each name the package is imported anew, from a torch that does not have it.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from tests.hessian.networks import build

SOURCE = Path(__file__).resolve().parents[2] / "hessian" / "torch_private.py"
# What is known of forward mode is an attribute that changes, and is looked up each time.
FORWARD_LEVEL = "forward_ad._current_level"


class Without:
    """A module, but for one name in it or below it."""

    def __init__(self, owner, path):
        self._owner, self._path = owner, path

    def __getattr__(self, name):
        first, _, rest = self._path.partition(".")
        if name != first:
            return getattr(self._owner, name)
        if not rest:
            raise AttributeError(name)
        return Without(getattr(self._owner, name), rest)


def imported(hidden):
    """`hessian` from a torch without the name; `None` hides nothing."""
    for name in [name for name in sys.modules if name.split(".")[0] == "hessian"]:
        del sys.modules[name]
    module = type(sys)("hessian.torch_private")
    real = sys.modules["torch"]
    sys.modules["torch"] = Without(real, hidden) if hidden else real
    try:
        exec(compile(SOURCE.read_text(encoding="utf-8"), str(SOURCE), "exec"), module.__dict__)
    finally:
        sys.modules["torch"] = real
    if hidden == FORWARD_LEVEL:
        module.HAS_FORWARD_LEVEL, module.forward_level = False, lambda: -1
    sys.modules["hessian.torch_private"] = module
    import hessian

    assert hessian._runtime.ledger.torch_private is module
    return hessian


def numbers(hidden):
    """Exact diagonals by several routes, in parts and checked; an estimate; an eigenvalue."""
    hessian = imported(hidden)
    found = {}
    for name in ("relu-cnn", "tanh-mlp", "attention", "residual-bn-train", "dropout-train"):
        model, inputs = build(name)
        data = inputs(3, torch.Generator("cpu").manual_seed(1)), torch.tensor([0, 1, 2])
        for memory in (None, 1):
            torch.manual_seed(0)
            h = hessian.diagonal(model, F.cross_entropy, data, memory=memory)
            found[f"{name} {memory}"] = [float(v.sum()) for v in h.values()]
    h = hessian.diagonal(model.eval(), F.cross_entropy, data, verify=2)
    found["verify"] = [max(v for v in h.deviation.values() if v == v) < 1e-6]
    estimate = hessian.estimate(model, F.cross_entropy, data, "hutchinson", 2)
    found["estimate"] = [float(v.sum()) for v in estimate.values()]
    found["top"] = hessian.operator(model, F.cross_entropy, data).top(1).values.tolist()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: numbers(name or None) for name in sys.argv[1:]}))
