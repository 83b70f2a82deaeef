"""The page of the plans is that of the record, and the record keeps what is promised of it."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def regret():
    spec = importlib.util.spec_from_file_location("regret", BENCHMARKS / "regret.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.fixture(scope="module")
def rows(regret):
    return json.loads(regret.RESULTS.read_text(encoding="utf-8"))["networks"]


def test_the_page_is_that_of_the_record(regret, rows):
    assert regret.PAGE.read_text(encoding="utf-8") == regret.page(rows)


def test_every_network_was_measured(regret, rows):
    assert [row["network"] for row in rows] == list(regret.networks.NETWORKS)


def test_the_plan_is_near_the_best(rows):
    """Nine networks of ten within 1.3 of the best plan that can be forced, all within 2."""
    regrets = [row["seconds"]["auto"] / min(row["seconds"].values()) for row in rows]
    assert regrets == pytest.approx([row["regret"] for row in rows])
    assert sum(regret <= 1.3 for regret in regrets) >= 0.9 * len(regrets)
    assert max(regrets) <= 2.0


def test_the_planner_uses_what_fits_the_record():
    """Within a factor of five: networks disagree, and two plans' order is what matters."""
    spec = importlib.util.spec_from_file_location("prices", BENCHMARKS / "prices.py")
    prices = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prices)
    from hessian._batch.prices import CALL, LANE, SPEED

    parts, _ = prices.fit()
    fitted = {
        "speed": parts["products"] / parts["chain"],
        "lane": parts["lane"] / parts["products"],
        "call": parts["call"] / parts["chain"],
    }
    for name, value in (("speed", SPEED), ("lane", LANE), ("call", CALL)):
        assert 0.2 <= value / fitted[name] <= 5.0, (name, value, fitted[name])
