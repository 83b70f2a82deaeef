"""Every claim's verdict is read from stored measurements, and turns when they are broken."""

import pytest

from paper_checks.papers.gao2020.claims import CLAIMS, claim_check
from paper_checks.papers.gao2020.claims.layer_statistics_usable import compare
from paper_checks.statements import parse


def judged(name, measurements):
    return claim_check(f"claim-{name}").judge(measurements).verdict


def network(rows, seed=0):
    return {"seed": seed, "rows": rows}


def tensors(count, **columns):
    """`count` rows; a column is a value or a function of the row's number."""
    return [
        {"parameter": f"layer{k}.weight", "size": 1000}
        | {name: value(k) if callable(value) else value for name, value in columns.items()}
        for k in range(count)
    ]


def test_weight_decay_is_judged_at_the_value_it_was_measured_at():
    with pytest.raises(ValueError, match=r"measured at β = 0\.1"):
        judged("weight-decay-centres-minimum", {"beta": 0.1, "networks": []})


def statistics(**more):
    exact = [10.0**k for k in range(8)]
    off = [1.0, 90.0, 0.02, 300.0, 0.5, 7000.0, 0.01, 40.0]
    poor = {
        name: (lambda k: exact[7 - k] * off[k])
        for name in ("ratio_median", "ratio_finite_mean", "eq24_nonzero", "eq23")
    }
    columns = {"error_count": 500, "radius_finite_q50": lambda k: exact[k]} | poor
    return columns | more


def test_the_picture_of_the_layer_statistics_says_what_it_shows():
    flat = {name: (lambda k: 2.0**k) for name in ("ratio_median", "ratio_finite_mean")}
    flat |= {name: (lambda k: 3.0**k) for name in ("eq24_nonzero", "eq23")}
    draw = claim_check("claim-layer-statistics-usable").draw
    compressed = draw({"networks": [network(tensors(8, **statistics(**flat)))]})
    assert "more slowly" in compressed.alt
    assert compressed.alt in compressed.svg
    wild = draw({"networks": [network(tensors(8, **statistics()))]})
    assert "more slowly" not in wild.alt
    assert draw({"networks": [network([])]}).svg.startswith("<svg")


def test_a_constant_statistic_has_no_rank():
    rows = [{"radius_finite_q50": 10.0**k, "x": 1.0} for k in range(4)]
    assert compare(rows, "x", 2.0)[1] == 0.0


class TestRegistry:
    def test_every_claim_has_a_check_with_its_hash_and_criterion(self):
        for name, claim in CLAIMS.items():
            check = claim_check(name)
            assert check.criterion_hash == claim.hash
            assert len(claim.hash) == 64
            assert check.criterion == claim.criterion
            assert "{" not in claim.criterion

    def test_a_changed_threshold_changes_the_hash(self):
        text = """
        [[claim]]
        id = "claim-x"
        title = "t"
        section = "1"
        quotation = "q"
        criterion = "at most {limit}"
        [claim.thresholds]
        limit = 1.0
        """
        before = parse(text)["claim-x"]
        after = parse(text.replace("limit = 1.0", "limit = 2.0"))["claim-x"]
        assert before.criterion == "at most 1.0"
        assert before.hash != after.hash
        assert before.hash != parse(text.replace('"q"', '"Q"'))["claim-x"].hash

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("limit = 1.0", "limit = 1.0\n        other = 2.0", "does not state other"),
            ("limit = 1.0", "bound = 1.0", "limit"),
            ('section = "1"', "", "section"),
        ],
    )
    def test_a_claim_that_hides_or_lacks_something_is_refused(self, old, new, message):
        text = """
        [[claim]]
        id = "claim-x"
        title = "t"
        section = "1"
        quotation = "q"
        criterion = "at most {limit}"
        [claim.thresholds]
        limit = 1.0
        """
        with pytest.raises(ValueError, match=message):
            parse(text.replace(old, new))


@pytest.mark.parametrize(
    "name",
    [
        "squared-gradient-negligible",
        "second-derivative-costly",
        "weight-decay-centres-minimum",
        "sigma-and-curvature",
        "eliminating-sharp-minima",
        "bias-factor-ten",
        "distance-constant-curvature",
        "lars-special-case",
        "percentdelta-special-case",
        "same-failure-conditions",
        "gaussian-initially",
        "sigma-of-the-layer",
    ],
)
def test_what_is_measured_is_judged_without_further_ado(tiny, monkeypatch, name):
    """Everything real, only small: one epoch, a few steps."""
    import json

    from paper_checks.papers.gao2020.claims import eliminating_sharp_minima
    from paper_checks.papers.gao2020.figures import _samples
    from paper_checks.result import plain
    from paper_checks.verdicts import VERDICTS

    _samples._trained.cache_clear()
    monkeypatch.setattr(_samples, "STAGES", (0, 1))
    monkeypatch.setattr(eliminating_sharp_minima, "STEPS", 3)
    check = claim_check(f"claim-{name}")
    found = json.loads(json.dumps(plain(check.measure(tiny))))
    judgement = check.judge(found)
    _samples._trained.cache_clear()
    assert judgement.verdict in VERDICTS
    assert judgement.reason
    assert found["seeds"]
