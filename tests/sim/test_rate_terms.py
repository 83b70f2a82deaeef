"""The factors between a rule's rate and the radius, by their definitions and their product."""

import math
from statistics import geometric_mean, median

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
import sim
from sim._measurements.rate_terms import RULES, TERMS


def case(dead=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randint(0, 3, (20,))
    if dead:
        x[:, 0] = 0  # inputs that are always zero: no gradient, no curvature
        with torch.no_grad():
            model[0].weight[0, 1] = 0
    return model, x, y


def naive(model, x, y, name, n, cap, seed):
    """Lists over entries, gradients sample by sample."""
    import numpy as np

    p = dict(model.named_parameters())[name]

    def gradient(index):
        value = F.cross_entropy(model(x[index]), y[index])
        return torch.autograd.grad(value, p)[0].reshape(-1).tolist()

    single = [gradient([i]) for i in range(20)]
    order = np.random.default_rng(seed).permutation(20)[:n].tolist()
    g, w = gradient(order), p.detach().reshape(-1).tolist()
    h = hessian.diagonal(model, F.cross_entropy, (x, y))[name].reshape(-1).tolist()
    entries = []
    for k in range(len(w)):
        values = [one[k] for one in single]
        mu = sum(values) / 20
        sigma = math.sqrt(max(0.0, sum((v - mu) ** 2 for v in values) / 20))
        entries.append((abs(w[k]), abs(g[k]), abs(h[k]), mu, sigma))
    return entries


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("name", ["0.weight", "2.weight"])
def test_every_term_is_what_it_says(name, dead):
    model, x, y = case(dead)
    n, cap = 4, 40.0
    frame = sim.rate_terms(model, F.cross_entropy, (x, y), batch_size=n, cap=cap, seed=2)
    rows = frame[frame.parameter == name].set_index("rule")
    entries = naive(model, x, y, name, n, cap, 2)
    radius = [(1 + g * g) ** 1.5 / h if h else math.inf for _, g, h, _, _ in entries]
    alive = [k for k, (w, g, h, _, sigma) in enumerate(entries) if w and g and h and sigma > 1e-15]
    part = [entries[k] for k in alive]
    assert (len(part) < len(entries)) == (dead and name == "0.weight")
    cblr = median(min(r, cap) for r in radius)
    capped = median(min(radius[k], cap) for k in alive)
    inside = median(radius[k] for k in alive)
    flat = median(1 / h for _, _, h, _, _ in part)
    inverse = geometric_mean(1 / h for _, _, h, _, _ in part)
    batch = math.sqrt(n * 19 / 16)
    noise = [(mu, sigma / batch) for _, _, _, mu, sigma in part]
    expected = {
        "zeros": capped / cblr,
        "cap": inside / capped,
        "square": flat / inside,
        "middle": inverse / flat,
        "compression": 1 / geometric_mean(h**-0.5 for _, _, h, _, _ in part),
        "noise": geometric_mean(math.sqrt(h) / sigma for _, _, h, _, sigma in part),
        "batch": batch,
        "means": geometric_mean(s / math.hypot(mu, s) for mu, s in noise),
        "chance": geometric_mean(
            math.hypot(mu, s) / e[1] for (mu, s), e in zip(noise, part, strict=True)
        ),
        "weight": geometric_mean(e[0] for e in part),
    }

    def rules(entries):
        zero_with_slope = any(not w and g for w, g, *_ in entries)
        return {
            "mclr": median(e[0] for e in entries) / median(e[1] for e in entries),
            "median": median(w / g if g else math.inf for w, g, *_ in entries if w or g),
            "lars": math.sqrt(sum(e[0] ** 2 for e in entries) / sum(e[1] ** 2 for e in entries)),
            "percent-delta": 0.0 if zero_with_slope
            else len(entries) / sum(g / w for w, g, *_ in entries if g),
        }  # fmt: skip

    middle = geometric_mean(w / g for w, g, *_ in part)
    for rule in RULES:
        row, every, some = rows.loc[rule], rules(entries)[rule], rules(part)[rule]
        wanted = expected | {"spread": some / middle, "rule_zeros": every / some}
        for term in TERMS:
            assert row[term] == pytest.approx(wanted[term], rel=1e-7), term
        assert row["rate"] == pytest.approx(every)
        assert row["cblr"] == pytest.approx(cblr)
        product = math.prod(row[term] for term in TERMS)
        assert row["whole"] == pytest.approx(every / cblr)
        assert product == pytest.approx(row["whole"], rel=1e-12)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 20, "cap": 1.0}, r"^batch_size: got 20; give a whole number from 1 to 19"),
        ({"batch_size": 4, "cap": 0.0}, r"^cap: got 0"),
        ({"batch_size": 4, "cap": 1.0, "seed": -1}, r"^seed: got -1"),
    ],
)
def test_what_is_refused(options, says):
    model, x, y = case()
    with pytest.raises(ValueError, match=says):
        sim.rate_terms(model, F.cross_entropy, (x, y), **options)
