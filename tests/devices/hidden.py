"""Numbers of `hessian` with names of torch hidden: `python -m tests.devices.hidden NAME …`."""

import json
import sys

import torch
import torch.nn.functional as F

from tests.devices.hiding import imported
from tests.hessian.networks import build


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
