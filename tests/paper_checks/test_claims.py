"""Every claim's verdict is read from stored measurements, and turns when they are broken."""

import copy

import pytest

from paper_checks.claims import CLAIMS, claim_check
from paper_checks.claims.layer_statistics_usable import compare
from paper_checks.claims.registry import parse


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


@pytest.mark.parametrize(
    ("largest", "quantile", "verdict"),
    [(1e-4, 1e-6, "holds"), (0.5, 1e-6, "holds in part"), (0.5, 0.2, "contradicted")],
)
def test_squared_gradient(largest, quantile, verdict):
    rows = tensors(3, gradient_squared_max=1e-9, gradient_squared_q99=1e-9)
    rows[1] |= {"gradient_squared_max": largest, "gradient_squared_q99": quantile}
    measurements = {"networks": [network(rows)]}
    assert judged("squared-gradient-negligible", measurements) == verdict


def test_one_seed_is_enough_to_break_the_squared_gradient():
    calm = tensors(2, gradient_squared_max=1e-9, gradient_squared_q99=1e-9)
    wild = tensors(2, gradient_squared_max=4.0, gradient_squared_q99=3.0)
    both = {"networks": [network(calm), network(wild, 1)]}
    assert judged("squared-gradient-negligible", both) == "contradicted"


@pytest.mark.parametrize(
    ("far", "verdict"), [(0, "holds"), (3, "holds in part"), (6, "contradicted")]
)
def test_minimum_at_zero(far, verdict):
    rows = tensors(
        10, fit_entries=100, fit_weight=1.0, fit_distance=lambda k: 50.0 if k < far else 1.2
    )
    measurements = {"networks": [network(rows)]}
    assert judged("minimum-at-zero", measurements) == verdict


def test_a_minimum_too_near_the_weight_counts_against_zero_too():
    rows = tensors(10, fit_entries=100, fit_weight=1.0, fit_distance=0.01)
    assert judged("minimum-at-zero", {"networks": [network(rows)]}) == "contradicted"


def test_too_few_tensors_leave_the_minimum_open():
    rows = tensors(10, fit_entries=3, fit_weight=1.0, fit_distance=1.0)
    assert judged("minimum-at-zero", {"networks": [network(rows)]}) == "inconclusive"


@pytest.mark.parametrize(("after", "verdict"), [(2.0, "holds"), (8.0, "contradicted")])
def test_weight_decay(after, verdict):
    rows = tensors(8, fit_entries=100, fit_weight=1.0, fit_distance=8.0, fit_distance_decayed=after)
    measurements = {"beta": 0.0005, "networks": [network(rows)]}
    assert judged("weight-decay-centres-minimum", measurements) == verdict


def test_weight_decay_is_judged_at_the_value_it_was_measured_at():
    with pytest.raises(ValueError, match=r"measured at β = 0\.1"):
        judged("weight-decay-centres-minimum", {"beta": 0.1, "networks": []})


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [((0.1, 0.2), "holds"), ((0.1, 0.9), "holds in part"), ((0.8, 0.9), "contradicted")],
)
def test_majority(shares, verdict):
    networks = [
        network(tensors(3, error_count=900, within_factor_2=share), seed)
        for seed, share in enumerate(shares)
    ]
    measurements = {"factor": 2.0, "networks": networks}
    assert judged("majority-inaccurate", measurements) == verdict


def test_the_majority_is_of_entries_not_of_tensors():
    rows = tensors(3, error_count=10, within_factor_2=1.0)
    rows += tensors(1, error_count=5000, within_factor_2=0.0)
    assert judged("majority-inaccurate", {"factor": 2.0, "networks": [network(rows)]}) == "holds"


def test_a_handful_of_entries_decides_no_majority():
    measurements = {"factor": 2.0, "networks": [network(tensors(2, error_count=4))]}
    assert judged("majority-inaccurate", measurements) == "inconclusive"


def statistics(**more):
    exact = [10.0**k for k in range(8)]
    off = [1.0, 90.0, 0.02, 300.0, 0.5, 7000.0, 0.01, 40.0]
    poor = {
        name: (lambda k: exact[7 - k] * off[k])
        for name in ("ratio_median", "ratio_finite_mean", "eq24_nonzero", "eq23")
    }
    columns = {"error_count": 500, "radius_finite_q50": lambda k: exact[k]} | poor
    return columns | more


@pytest.mark.parametrize(
    ("statistic", "verdict"),
    [
        # In proportion to the exact radius: γ absorbs the factor.
        (lambda k: 0.001 * 10.0**k, "holds"),
        # In the right order, but compressed.
        (lambda k: 2.0**k, "holds in part"),
        # In the wrong order.
        (lambda k: 2.0**-k, "contradicted"),
    ],
)
def test_layer_statistics(statistic, verdict):
    rows = tensors(8, **statistics(eq23=statistic))
    assert judged("layer-statistics-usable", {"networks": [network(rows)]}) == verdict


def test_shuffled_layers_turn_the_layer_statistics():
    rows = tensors(8, **statistics(eq23=lambda k: 10.0**k))
    shuffled = copy.deepcopy(rows)
    for row, other in zip(shuffled, [3, 7, 0, 5, 1, 6, 2, 4], strict=True):
        row["eq23"] = rows[other]["eq23"]
    assert judged("layer-statistics-usable", {"networks": [network(rows)]}) == "holds"
    assert judged("layer-statistics-usable", {"networks": [network(shuffled)]}) == "contradicted"


def test_the_worst_seed_decides_the_layer_statistics():
    good = tensors(8, **statistics(eq23=lambda k: 10.0**k))
    bad = tensors(8, **statistics())
    both = {"networks": [network(good), network(bad, 1)]}
    assert judged("layer-statistics-usable", both) == "contradicted"


def test_few_tensors_leave_the_layer_statistics_open():
    rows = tensors(3, **statistics())
    assert judged("layer-statistics-usable", {"networks": [network(rows)]}) == "inconclusive"


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


@pytest.mark.parametrize(
    ("ratio", "inside", "verdict"),
    [(1e4, 0.1, "holds"), (1e4, 50.0, "holds in part"), (2.0, 1e-9, "contradicted")],
)
def test_curvature_varies(ratio, inside, verdict):
    from math import log10

    rows = tensors(
        2,
        radius_finite_q50=lambda k: ratio**k,
        log_radius_mean=lambda k: k * log10(ratio),
        log_radius_variance=inside,
    )
    assert judged("curvature-varies", {"networks": [network(rows)]}) == verdict


def test_biases_do_not_make_curvature_vary():
    rows = tensors(2, radius_finite_q50=1.0, log_radius_mean=0.0, log_radius_variance=1.0)
    bias = {**rows[0], "parameter": "layer0.bias", "radius_finite_q50": 1e9}
    assert judged("curvature-varies", {"networks": [network([*rows, bias])]}) == "contradicted"
    assert judged("curvature-varies", {"networks": [network(rows[:1])]}) == "inconclusive"


@pytest.mark.parametrize(
    ("seconds", "parameters", "verdict"),
    [
        (20.0, 10**6, "contradicted"),
        (500.0, 10**6, "holds in part"),
        (5000.0, 10**6, "holds"),
        (20.0, 100, "inconclusive"),
    ],
)
def test_cost(seconds, parameters, verdict):
    measurements = {
        "parameters": parameters,
        "gradient_seconds": [1.0, 1.0],
        "diagonal_seconds": [seconds, seconds],
    }
    assert judged("second-derivative-costly", measurements) == verdict


def test_one_disturbed_timing_does_not_decide_the_cost():
    measurements = {
        "parameters": 10**6,
        "gradient_seconds": [1.0, 1.0, 1.0],
        "diagonal_seconds": [20.0, 5000.0, 25.0],
    }
    assert judged("second-derivative-costly", measurements) == "contradicted"


@pytest.mark.parametrize(
    ("last", "verdict"), [(0.125, "holds"), (0.2, "holds in part"), (0.5, "contradicted")]
)
def test_gradients_fall(last, verdict):
    measurements = {
        "n": [32, 2048],
        "mean": [1.0, last],
        "standard_error": [0.01, None],
        "abs_mu_mean": 0.1,
    }
    assert judged("gradients-fall-to-zero", measurements) == verdict
    measurements["n"] = [32, 64]
    assert judged("gradients-fall-to-zero", measurements) == "inconclusive"


def test_a_wide_interval_decides_nothing_about_falling():
    measurements = {
        "n": [32, 2048],
        "mean": [1.0, 0.3],
        "standard_error": [0.01, 0.1],
        "abs_mu_mean": 0.1,
    }
    assert judged("gradients-fall-to-zero", measurements) == "holds in part"


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
