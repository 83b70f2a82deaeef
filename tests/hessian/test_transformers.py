"""Transformers as they are built now: exact, by the chain, by every rule of merging."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import hessian
from hessian._routes._chain import chain, policy
from hessian.testing import assert_exact

from . import oracle
from .test_huggingface import bert, gpt2, label, masked_text, next_token, text
from .transformers import Llama, RMSNorm, each_token

OPTIONS = {
    "root mean square": {},
    "torch's root mean square": {"norm": nn.RMSNorm},
    "layer norm": {"norm": nn.LayerNorm},
    "capped scores": {"cap": 2.0},
    "a key head for each": {"key_heads": 4},
}


def ids(batch: int, positions: int = 5) -> torch.Tensor:
    return torch.randint(0, 11, (batch, positions), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("options", OPTIONS)
def test_exact(options: str, batch: int) -> None:
    torch.manual_seed(0)
    model = Llama(**OPTIONS[options]).double()
    data = (ids(batch), ids(batch).flip(1))
    want = oracle.diagonal(model, each_token, [data])
    oracle.assert_exact(hessian.diagonal(model, each_token, data), want)
    chained = hessian.diagonal(model, each_token, data, method="chain")
    assert set(chained.plan.methods().values()) == {"chain"}
    oracle.assert_exact(chained, want)


def test_against_values_of_the_loss() -> None:
    torch.manual_seed(0)
    assert_exact(Llama(blocks=2).double(), each_token, (ids(2), ids(2).flip(1)), entries=40)


def _data(name: str) -> tuple:
    if name == "llama":
        return Llama(blocks=2), (ids(2), ids(2).flip(1)), each_token
    if name == "gpt2":
        return gpt2(blocks=2), text(), next_token
    return bert(), masked_text(), label


@pytest.mark.parametrize("rule", policy.RULES, ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_exact_by_every_rule_of_merging(name, rule, monkeypatch):
    """A long sweep goes by the cheapest rule; here each is the only one there is."""
    monkeypatch.setattr(chain, "LONG", 0.0)
    monkeypatch.setattr(chain, "RULES", (rule,))
    torch.manual_seed(0)
    model, data, loss = _data(name)
    model = model.double().eval()
    with sdpa_kernel(SDPBackend.MATH):
        want = oracle.diagonal(model, loss, [data])
    found = hessian.diagonal(model, loss, data)
    assert "chain" in found.plan.methods().values()
    oracle.assert_exact(found, want)


def test_the_cheapest_rule_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every position meets itself alone in most operations: that is seen, and so is who carries."""
    torch.manual_seed(0)
    model, data = Llama(blocks=2, width=16, hidden=40), (ids(1, 8), ids(1, 8))
    passes = {}
    for rule in policy.RULES:
        monkeypatch.setattr(chain, "LONG", 0.0)
        monkeypatch.setattr(chain, "RULES", (rule,))
        plan = hessian.plan(
            model,
            each_token,
            data,
        )
        passes[rule] = max((e.backward for e in plan if e.method == "chain"), default=0)
    monkeypatch.setattr(chain, "RULES", policy.RULES)
    best = hessian.plan(model, each_token, data)
    assert set(best.methods().values()) == {"chain"}
    assert max(e.backward for e in best) == min(passes.values()) < max(passes.values())


def test_positions_are_blocks() -> None:
    """What acts on every position alone costs by position, whatever the rows of all would take.

    In passes, which grow with the positions themselves: 24 at 8 positions and 36 at 16, as pairs of
    positions meet at the weights; 437 and 590 with the rows of every position written out at all.
    """

    def passes(positions: int) -> int:
        torch.manual_seed(0)
        layers = [nn.Embedding(11, 16), RMSNorm(16), nn.Linear(16, 24), nn.GELU()]
        model = nn.Sequential(*layers, nn.Linear(24, 11))
        data = (ids(1, positions), ids(1, positions))
        plan = hessian.plan(model, each_token, data, method="chain")
        return max(entry.backward for entry in plan)

    assert passes(16) <= 40
