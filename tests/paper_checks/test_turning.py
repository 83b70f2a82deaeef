"""One table for all checks: a measurement that has its verdict, and how breaking it turns that.

Each entry names what was broken: a wrong constant, swapped controls, shuffled labels, a value
replaced by the exact one or by another quantity. The measurements come from the modules that test
each verdict closely; here is shown that no check is without one.
"""

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paper_checks.papers.gao2020.measurements.context import Context
from paper_checks.papers.gao2020.measurements.profile import profile
from paper_checks.registry import IDS, build
from paper_checks.result import plain


def sibling(name):
    """A test module beside this one; they are in no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


D = sibling("test_deciding")
M, P = D.M, D.P
KINDS = ("constant", "controls", "labels", "exact")


# ---- ways to break a stored measurement -------------------------------------------------------


def swapped(column, first, second, rows="rows"):
    """Controls: the rows that say `first` say `second`, and the other way round."""

    def break_(found):
        names = {first: second, second: first}
        for row in found[rows]:
            row[column] = names.get(row[column], row[column])

    return break_


def relabelled(order):
    """Labels: the rows of each batch size get another's."""

    def break_(found):
        names = dict(zip(M.SIZES, (M.SIZES[k] for k in order), strict=True))
        for row in found["rows"]:
            row["n"] = names[row["n"]]

    return break_


def scaled(column, factor, rows="rows", **where):
    """A constant: `column` times `factor` in the rows that fit."""

    def break_(found):
        for row in found[rows]:
            if all(row[key] == value for key, value in where.items()):
                value = row[column]
                row[column] = (
                    [factor * v for v in value] if isinstance(value, list) else factor * value
                )

    return break_


def put(**values):
    """Other values in the measurement itself."""
    return lambda found: found.update(values)


def other(make, *arguments, **options):
    """The measurement of another world."""
    return lambda found: found.update(make(np.random.default_rng(0), *arguments, **options))


def each(change, rows="rows"):
    """`change(row, k)` of every row."""

    def break_(found):
        for k, row in enumerate(found[rows]):
            change(row, k)

    return break_


def of_networks(change):
    """`change(row, k)` of every row of every network."""

    def break_(found):
        for network in found["networks"]:
            for k, row in enumerate(network["rows"]):
                change(row, k)

    return break_


def of_cases(change):
    return each(change, "cases")


def rotated_layers(column):
    """Labels: every layer's statistic is its neighbour's but three."""

    def break_(found):
        for network in found["networks"]:
            rows = network["rows"]
            values = [row[column] for row in rows]
            for k, row in enumerate(rows):
                row[column] = values[(3 * k + 4) % len(rows)]

    return break_


def exchange(first, second):
    """Controls: two series of the same case."""

    def change(case, k):
        values = case["values"]
        values[first], values[second] = values[second], values[first]

    return of_cases(change)


def reversed_steps(found):
    """Labels: every entry gets another's step."""
    points = found["points"]
    steps = [point["newton"] for point in points]
    for point, step in zip(points, reversed(steps), strict=True):
        point["newton"] = 5 * step


ROTATED, REVERSED = (1, 2, 3, 0), (3, 2, 1, 0)
Fault = Callable[[dict], None]
# What is broken in the measurement in which the paper's statement is true, by the kind of fault.
FAULTS: dict[str, dict[str, Fault]] = {
    # ---- figures
    "fig1": {"labels": relabelled(REVERSED)},
    "fig2": {
        "labels": put(ratios={"weights": [1.0] * 4, "all": [1.0] * 4}),
        "constant": put(deviation=0.2),
    },
    "fig3": {"constant": scaled("mean", 0.5**0.5, "curves")},
    "fig4": {"labels": relabelled(REVERSED)},
    "fig5": {"labels": relabelled(REVERSED)},
    "fig6": {"constant": lambda found: found.update(lr=2 * found["lr"])},
    "fig7": {"labels": relabelled(REVERSED)},
    "fig8": {"labels": relabelled((0, 3, 2, 1))},
    "fig9": {"controls": exchange("small", "random"), "labels": exchange("small", "large")},
    "fig10": {
        "controls": swapped("protocol", "small losses", "random"),
        "labels": swapped("protocol", "small losses", "baseline"),
    },
    "fig11": {
        "labels": swapped("protocol", "baseline", M.OURS),
        "controls": swapped("protocol", M.OURS, "warm-up"),
    },
    "fig12": {"labels": swapped("protocol", "baseline", M.OURS)},
    "fig13": {"controls": swapped("protocol", M.OURS, "warm-up")},
    "fig14": {"controls": swapped("protocol", M.OURS, "only the rate")},
    "fig15": {
        "constant": lambda found: found.update(
            a=2 * found["a"],
            error=np.abs(
                np.array(found["error"]) + found["a"] * np.array(found["distance"]) ** 2
            ).tolist(),
        )
    },
    "fig16": {"controls": other(M.ruled, noise=0.002, lars=0.1)},
    "fig-law": {
        "constant": of_cases(lambda case, k: case["lines"].update(finite=case["lines"]["printed"]))
    },
    "fig-radius": {"labels": each(lambda row, k: row.update(rank=0.0, low=-0.1))},
    "fig-b": {"constant": each(lambda row, k: row.update(share=0.1, share_decayed=0.1))},
    "fig-minimum": {"labels": reversed_steps, "constant": scaled("newton", 30.0, "points")},
    "fig-convergence": {
        "constant": lambda found: found.update(
            law={rule: [2 * v for v in values] for rule, values in found["law"].items()}
        )
    },
    "fig-bend": {
        "constant": of_cases(
            lambda case, k: case.update(
                bend=8 * case["bend"], interval=[8 * end for end in case["interval"]]
            )
        )
    },
    "fig-mclr-batch": {
        "labels": of_cases(lambda case, k: case["losses"].reverse()),
        "constant": put(predicted=128.0 / 32),
    },
    "fig-shortcut": {"constant": scaled("law", 4.0), "labels": scaled("free", 8.0, epochs=0)},
    "fig-shortcut-alexnet": {"constant": scaled("law", 4.0)},
    "fig-rate-terms": {"constant": scaled("compression", 2.0, rule="lars")},
    "fig-gaussian": {"constant": scaled("excess", 1000.0, network="MLP at initialisation")},
    "fig-spread": {
        "controls": swapped("protocol", "warm-up", "full rate"),
        "labels": swapped("step", 0, 30),
    },
    "fig-cblr": {
        "controls": swapped("rule", "cblr", "lars"),
        "exact": M.same_rule("cblr", "mclr"),
    },
    # ---- claims
    # A loss a hundred times as large.
    "claim-squared-gradient-negligible": {"constant": scaled("largest", 1e4)},
    "claim-minimum-at-zero": {
        "constant": of_networks(lambda row, k: row.update(fit_distance=12.0))
    },
    "claim-weight-decay-centres-minimum": {
        "controls": swapped("arm", "trained with it", "added at the end")
    },
    "claim-majority-inaccurate": {
        "exact": of_networks(lambda row, k: row.update(within_factor_2=1.0))
    },
    "claim-layer-statistics-usable": {"labels": rotated_layers("eq23")},
    "claim-curvature-varies": {
        # Entries shuffled over the layers.
        "labels": of_networks(
            lambda row, k: row.update(radius_finite_q50=100.0, log_radius_mean=2.0)
        )
    },
    "claim-second-derivative-costly": {
        "exact": each(lambda row, k: row.update(diagonal_seconds=row["gradient_seconds"]))
    },
    "claim-gradients-fall-to-zero": {
        "constant": put(mean=[1.0, 0.5]),
        "labels": put(mean=[0.125, 1.0]),
    },
    "claim-gaussian-initially": {
        "labels": swapped("network", "MLP at initialisation", "MLP trained")
    },
    "claim-sigma-constant": {"constant": scaled("sigma", 10.0, network="MLP trained")},
    "claim-large-batch-doomed": {"labels": relabelled(REVERSED)},
    "claim-searching-space": {
        "labels": each(lambda row, k: row.update(path=[10.0 - v for v in row["path"]]))
    },
    "claim-high-loss-larger-gradients": {
        "labels": of_cases(lambda case, k: case.update(ranks=[0.05, -0.05] * 3))
    },
    "claim-discarding-fades": {
        "labels": each(lambda row, k: row.update(n={57: 471, 471: 57}.get(row["n"], row["n"])))
    },
    "claim-first-epoch-amplifies": {"controls": swapped("protocol", M.OURS, "baseline")},
    "claim-global-rate-small-batch": {"labels": relabelled(REVERSED)},
    "claim-mclr-falls-behind": {"controls": swapped("rule", "mclr", "lars")},
    "claim-mclr-because-gradients-shrink": {
        "controls": of_cases(
            lambda case, k: case.update(rule={"MCLR": "LARS", "LARS": "MCLR"}[case["rule"]])
        )
    },
    "claim-lars-special-case": {"labels": rotated_layers("rate")},
    "claim-percentdelta-special-case": {"labels": rotated_layers("rate")},
    "claim-same-failure-conditions": {
        "constant": lambda found: found.update(
            changes=[dict.fromkeys(each, 1.0) for each in found["changes"]]
        )
    },
    "claim-centre-on-minimum": {"constant": scaled("true", 1e5, "points")},
    "claim-morse-validated": {"labels": reversed_steps},
    "claim-training-stuck": {"labels": relabelled(REVERSED)},
    "claim-warmup-flattens": {"labels": swapped("step", 0, 30)},
    "claim-schedule-is-step-length": {
        "labels": each(lambda row, k: row.update(first_stride=1 / row["first_stride"]))
    },
    "claim-training-longer": {"controls": swapped("series", "epochs", "steps")},
    "claim-sharp-minima": {"labels": swapped("n", 15, 1413)},
    "claim-two-instabilities": {"labels": relabelled(ROTATED)},
    "claim-other-enlargers": {"controls": lambda found: found["values"].update(plain=[5.0] * 6)},
    "claim-layer-wise-necessary": {"controls": swapped("rule", "sgd", "lars")},
    "claim-works-below-8192": {"constant": scaled("accuracy", 0.9, rule="mclr")},
    "claim-gap-worsens": {"labels": relabelled(REVERSED)},
    "claim-bias-factor-ten": {
        "labels": of_networks(
            lambda row, k: row.update(radius_finite_q50=1 / row["radius_finite_q50"])
        )
    },
    "claim-distance-constant-curvature": {
        "exact": of_networks(lambda row, k: row.update(fit_distance=50.0))
    },
    # Figure 3's σ in place of the layer's.
    "claim-sigma-of-the-layer": {"constant": lambda found: found.update(sigma_layer=2.0)},
    "claim-sigma-and-curvature": {"constant": scaled("quotient", 2.0)},
    "claim-eliminating-sharp-minima": {"controls": swapped("arm", "plain", "noise on the weights")},
}


def measured(name):
    """The measurement in which what the paper says is true; a sketch measures itself."""
    if name == "fig-rate-terms":
        return plain(P.rate_terms())
    if name in D.EXACT:
        return build(name).measure(Context(profile("quick", "digits")))
    return plain(D.CASES[name].true(np.random.default_rng(0)))


def test_no_check_is_without():
    equations = {f"eq{label}" for label in range(1, 29)}
    assert set(FAULTS) | equations == set(IDS)
    for name, faults in FAULTS.items():
        assert faults, name
        assert set(faults) <= set(KINDS), name
    # All the kinds are among them, and none is rare.
    for kind in KINDS:
        assert sum(kind in faults for faults in FAULTS.values()) >= 4


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, faults in FAULTS.items() for kind in faults]
)
def test_a_broken_measurement_turns_the_verdict(name, kind):
    found = measured(name)
    judge = build(name).judge
    before = judge(copy.deepcopy(found)).verdict
    assert before != "inconclusive"
    FAULTS[name][kind](found)
    assert judge(found).verdict != before


@pytest.mark.parametrize("label", [str(k) for k in range(1, 29)])
def test_a_broken_equation_turns_the_verdict(tiny, label):
    """A derivation that does not bear it; where numbers can try it, another constant."""
    check = build(f"eq{label}")
    found = plain(check.measure(tiny))
    before = check.judge(copy.deepcopy(found)).verdict
    broken = copy.deepcopy(found)
    broken["derivation"]["steps"][0]["checked"] = False
    assert check.judge(broken).verdict != before
    if found.get("numbers"):
        broken = copy.deepcopy(found)
        numbers = broken["numbers"]
        # As if the paper's constant were off by a factor of two in what was measured.
        width = max(abs(end) for end in numbers["interval"]) + 1
        numbers["interval"] = [end + width for end in numbers["interval"]]
        numbers["measured"] += width
        assert check.judge(broken).verdict != before
