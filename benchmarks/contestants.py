"""Who computes the diagonal, and what it is measured by: one gradient, C plain backward passes.

A contestant returns its result and the part of the work it did: those that would take days do a
few samples or entries, and their time is taken in proportion.
"""

import copy
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from cases import GGN, HESSIAN, Case
from torch import Tensor, nn

import hessian

Result = dict[str, Tensor]
# Entries whose Hessian-vector products are taken, and samples whose Jacobians.
ENTRIES, SAMPLES = 512, 2
# A product with a linear operator of curvlinops is taken this many entries at a time.
OPERATOR = 4


def ours(case: Case) -> tuple[Result, float]:
    return hessian.diagonal(case.model, F.cross_entropy, (case.x, case.y)), 1.0


def gradient(case: Case) -> tuple[Result, float]:
    parameters = dict(case.model.named_parameters())
    loss = F.cross_entropy(case.model(case.x), case.y)
    got = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, got, strict=True)), 1.0


def plain_columns(case: Case) -> tuple[Result, float]:
    """C plain backward passes with one forward: what a column method cannot avoid."""
    parameters = dict(case.model.named_parameters())
    output = case.model(case.x)
    got: tuple[Tensor, ...] = ()
    for c in range(case.classes):
        one = torch.zeros_like(output)
        one[:, c] = 1.0
        got = torch.autograd.grad(output, list(parameters.values()), one, retain_graph=True)
    return dict(zip(parameters, got, strict=True)), 1.0


def backpack_exact(case: Case) -> tuple[Result, float]:
    from backpack import backpack, extend, extensions

    # On a copy: the hooks that BackPACK adds would stand on everybody else's tape too.
    model, criterion = extend(copy.deepcopy(case.model)), extend(nn.CrossEntropyLoss())
    extension = getattr(extensions, case.peer)()
    with backpack(extension), warnings.catch_warnings():
        # The inputs need no gradient, which torch has a word on.
        warnings.filterwarnings("ignore", "Full backward hook", UserWarning)
        criterion(model(case.x), case.y).backward()
    return {
        name: getattr(p, extension.savefield).detach() for name, p in model.named_parameters()
    }, 1.0


def chosen(case: Case, count: int) -> Tensor:
    """Entries of the concatenated parameters, the same in every call."""
    total = sum(p.numel() for p in case.model.parameters())
    return torch.randint(total, (count,), generator=torch.Generator().manual_seed(0)).sort().values


def by_products(case: Case) -> tuple[Result, float]:
    """d²L/dw² at random entries by batched Hessian-vector products over the parameters."""
    parameters = list(case.model.parameters())
    loss = F.cross_entropy(case.model(case.x), case.y)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    index = chosen(case, ENTRIES)
    found = []
    for part in index.split(32):
        rows = torch.zeros(len(part), flat.numel(), device=flat.device)
        rows[torch.arange(len(part)), part] = 1.0
        got = torch.autograd.grad(flat, parameters, rows, retain_graph=True, is_grads_batched=True)
        joined = torch.cat([g.reshape(len(part), -1) for g in got], 1)
        found.append(joined[torch.arange(len(part)), part])
    return {"entries": index, "value": torch.cat(found)}, ENTRIES / flat.numel()


def torch_func(case: Case) -> tuple[Result, float]:
    """Plain ``torch.func``: Jacobian columns of a sample under `vmap`, squared and added up.

    For networks that are curved in a parameter: `vmap` of vjp of grad, over unit vectors.
    """
    parameters = {name: p.detach() for name, p in case.model.named_parameters()}
    call = torch.func.functional_call
    if not case.affine:
        flat = torch.cat([p.reshape(-1) for p in parameters.values()])
        sizes = [p.numel() for p in parameters.values()]

        def loss(values: Tensor) -> Tensor:
            parts = values.split(sizes)
            shaped = {k: v.view_as(p) for (k, p), v in zip(parameters.items(), parts, strict=True)}
            return F.cross_entropy(call(case.model, shaped, case.x), case.y)

        _, pull = torch.func.vjp(torch.func.grad(loss), flat)
        index = chosen(case, 32).to(flat.device)

        def second(entry: Tensor) -> Tensor:
            unit = (torch.arange(len(flat), device=flat.device) == entry).to(flat.dtype)
            return (pull(unit)[0] * unit).sum()

        return {"entries": index, "value": torch.func.vmap(second)(index)}, 32 / len(flat)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for i in range(SAMPLES):
        x = case.x[i : i + 1]
        output, pull = torch.func.vjp(lambda w, x=x: call(case.model, w, x)[0], parameters)
        p = output.softmax(0)
        values, vectors = torch.linalg.eigh(torch.diag(p) - torch.outer(p, p))
        columns = (vectors * values.clamp_min(0).sqrt()).T
        # Rows of P entries, a few at a time: all of a large network's would not fit.
        for part in columns.split(16):
            (rows,) = torch.func.vmap(pull)(part)
            for name, row in rows.items():
                total[name] += row.square_().sum(0)
    return {name: h / SAMPLES for name, h in total.items()}, SAMPLES / len(case.x)


def curvlinops_operator(case: Case) -> tuple[Result, float]:
    """curvlinops has no exact diagonal: products of its Hessian with unit vectors."""
    from curvlinops import HessianLinearOperator

    parameters = list(case.model.parameters())
    operator = HessianLinearOperator(
        case.model, nn.CrossEntropyLoss(), parameters, [(case.x, case.y)],
        check_deterministic=False, progressbar=False,
    )  # fmt: skip
    index = chosen(case, OPERATOR)
    total = sum(p.numel() for p in parameters)
    units = torch.zeros(total, OPERATOR, device=case.x.device)
    units[index, torch.arange(OPERATOR)] = 1.0
    products = operator @ units
    return {"entries": index, "value": products[index, torch.arange(OPERATOR)]}, OPERATOR / total


MEASURES: dict[str, Callable[[Case], tuple[Result, float]]] = {
    "gradient": gradient,
    "C backward passes": plain_columns,
}


def peers(case: Case) -> dict[str, Callable[[Case], tuple[Result, float]]]:
    """Those that can do this case exactly."""
    found: dict[str, Callable[[Case], tuple[Result, float]]] = {}
    if case.peer in (GGN, HESSIAN):
        found[f"BackPACK {case.peer}"] = backpack_exact
    else:
        found[case.peer] = by_products
    return {**found, "curvlinops": curvlinops_operator, "torch.func": torch_func}


def difference(case: Case, exact: Result, peer: Result) -> float:
    """max|Δ| / max|h|, per tensor where the peer gives tensors."""
    if "entries" in peer:
        mine = torch.cat([h.reshape(-1) for h in exact.values()])
        gap = (mine[peer["entries"].to(mine.device)] - peer["value"]).abs().max()
        return float(gap / mine.abs().max())
    return max(
        float((exact[k] - peer[k]).abs().max() / exact[k].abs().max().clamp_min(1e-30))
        for k in exact
    )


def compared(case: Case, exact: Result, peer: Result, part: float) -> float:
    """The same, on the samples that a peer did alone."""
    if "entries" not in peer and part < 1:
        some = Case(case.model, case.x[:SAMPLES], case.y[:SAMPLES], case.peer, case.classes)
        exact = ours(some)[0]
    return difference(case, exact, peer)
