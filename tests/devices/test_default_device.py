"""With another default device, and all that is the user's on the CPU, nothing is different."""

from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch

import hessian
import sim

from .calls import CASES, HESSIAN, INSIDE, MADE_BY, SIM, differences, plain


def here(value):
    return value


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("public", [(hessian, HESSIAN), (sim, SIM)], ids=["hessian", "sim"])
def test_every_public_function_is_called(public):
    package, table = public
    assert set(package.__all__) == set(table) | (set(MADE_BY) & set(package.__all__))
    assert set(MADE_BY.values()) <= set(HESSIAN) | set(SIM)
    for name, inside in INSIDE.items():
        if hasattr(package, name):
            assert set(getattr(package, name).__all__) == inside


def compared(name, setting):
    """Where a call under a setting differs from the same call without."""
    results = []
    for around in (nullcontext, setting):
        call = CASES[name](here)
        torch.manual_seed(0)
        with around():
            result = call()
            assert around is nullcontext or torch.get_default_device().type == "meta"
        results.append(plain(result))
    # The same operations on the same processor: the same bits.
    return differences(*results)


@pytest.mark.parametrize("name", CASES)
def test_a_default_device_changes_nothing(name):
    assert compared(name, default_device) == []


@pytest.mark.parametrize("name", ["hessian.diagonal: auto", "hessian.operator: top",
                                  "sim.optimizers: MCLR", "sim.monitor: loop"])  # fmt: skip
def test_a_device_for_a_block_changes_nothing(name):
    assert compared(name, lambda: torch.device("meta")) == []


def test_a_forgotten_device_is_seen(monkeypatch):
    def forgetful(columns, entry, **options):
        return torch.tensor(1.0, dtype=torch.float64)

    monkeypatch.setattr("sim.optimizers._mclr.median", forgetful)
    with pytest.raises(RuntimeError, match="not on the expected device meta"):
        compared("sim.optimizers: MCLR", default_device)


def test_a_difference_is_seen():
    a = {"h": np.array([1.0, 2.0]), "n": 3, "loss": float("nan")}
    assert differences(a, {**a, "h": a["h"].copy()}) == []
    for other in ({**a, "h": np.array([1.0, 2.0 + 1e-9])}, {**a, "n": 4}, {**a, "loss": 1.0},
                  {"h": a["h"]}, {**a, "h": a["h"].astype(np.float32)}):  # fmt: skip
        assert len(differences(a, other)) == 1
    assert differences(a, {**a, "h": np.array([1.0, 2.0 + 1e-9])}, tolerance=1e-8) == []
    empty = torch.zeros(0)
    assert plain([empty, {"x": empty.double()}])[1]["x"].dtype == np.float64
