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

from paper_checks.equations import equation_check
from paper_checks.equations import measure as measure_equation
from paper_checks.fig_law import LINES
from paper_checks.registry import IDS, build
from paper_checks.result import plain


def sibling(name):
    """A test module beside this one; they are in no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


V, C = sibling("test_verdicts"), sibling("test_claims")
D = sibling("test_deciding")


def true(name):
    """The measurement in which what the paper says is true."""
    return lambda: plain(D.CASES[name].true(np.random.default_rng(0)))


KINDS = ("constant", "controls", "labels", "exact")


# ---- ways to break a stored measurement -------------------------------------------------------


def swapped(column, first, second, rows="rows"):
    """Controls: the rows that say `first` say `second`, and the other way round."""

    def break_(found):
        names = {first: second, second: first}
        for row in found[rows]:
            row[column] = names.get(row[column], row[column])

    return break_


def relabelled(order, column="n"):
    """Labels: the rows of each batch size get another's."""

    def break_(found):
        names = dict(zip(V.SIZES, (V.SIZES[k] for k in order), strict=True))
        for row in found["rows"]:
            row[column] = names[row[column]]

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


def rotated_layers(found):
    """Labels: every layer's statistic is its neighbour's but three."""
    (network,) = found["networks"]
    rows = network["rows"]
    held = [row["eq23"] for row in rows]
    for row, other in zip(rows, (3, 7, 0, 5, 1, 6, 2, 4), strict=True):
        row["eq23"] = held[other]


def exchange(first, second):
    """Controls: two series of the same case."""

    def change(case, k):
        values = case["values"]
        values[first], values[second] = values[second], values[first]

    return of_cases(change)


def exact_step(point, k):
    point["newton"] = point["true"]


# ---- measurements that have their verdict ------------------------------------------------------

GROWS = {"holds": lambda p: 1.2 ** (10 * p) / (1 - p)}


def curvatures():
    """Figure 2's rows: layers a decade apart."""
    rows = [
        {
            "parameter": f"fc{k}.weight",
            "radius": [10.0**k / 2, 10.0**k, 2 * 10.0**k],
            "ratio": [1.0, 2.0, 3.0],
            "ratio_mean": 4.0,
        }
        for k in range(4)
    ]
    return {"seeds": [0], "samples": 1, "deviation": 1e-6, "rows": rows}


def falling(constant=1.128):
    """Figure 3's curves, which follow the printed constant."""
    sizes = [32, 128, 512, 2048]
    curves = [
        {
            "dropout": dropout,
            "replacement": replacement,
            "mean": [constant / n**0.5 for n in sizes],
            "standard_error": [0.0] * len(sizes),
        }
        for dropout in ("on", "off")
        for replacement in (True, False)
    ]
    lines = {
        name: [c / n**0.5 for n in sizes]
        for name, c in (
            ("printed", 1.128),
            ("corrected", 0.798),
            ("means", 0.798),
            ("finite", 0.798),
        )
    }
    moments = {"sigma_mean": 1.0, "abs_mu_mean": 0.01, "mask_sigma_mean": 0.0}
    return {
        "seeds": [0],
        "samples": 2048,
        "n": sizes,
        "curves": curves,
        "lines": {"on": lines, "off": lines},
        "moments": {"on": moments, "off": moments},
    }


def law_of_real_gradients():
    """fig-law's cases, on the full law."""
    sizes = [1, 8, 64, 512]
    finite = [(1 / n - 1 / 600) ** 0.5 for n in sizes]
    case = {
        "case": "net",
        "parameter": "fc1.weight",
        "samples": 600,
        "n": sizes,
        "mean": finite,
        "standard_error": [0.0] * 4,
        "lines": {line: [2**0.5 * v for v in finite] for line in LINES} | {"finite": finite},
    }
    return {"cases": [case | {"trained": trained} for trained in (False, True)]}


def weights(**columns):
    return lambda: {"networks": [C.network(C.tensors(8, **columns))]}


def decayed():
    return weights(
        fit_entries=100, fit_weight=1.0, fit_distance=8.0, fit_distance_decayed=2.0
    )() | {"beta": 0.0005}


def accurate_few():
    return {"factor": 2.0} | weights(error_count=900, within_factor_2=0.01)()


def losses_and_norms():
    cases = [{"case": "net", "ranks": V.around(0.8, 6), "ranks_shuffled": V.around(0.05, 6)}]
    return {"seeds": [0], "samples": 1, "cases": cases}


def special(rule):
    rows = [{"seed": 0, "parameter": f"fc{k}.weight", "spread": 1.5} for k in range(4)]
    return lambda: {"rule": rule, "even": 1e-5, "uneven": 3.0, "rows": rows}


def failing():
    from paper_checks.claims.same_failure_conditions import changes

    w, g = np.random.default_rng(0).standard_normal((2, 1000))
    return {"parameter": "fc1", "entries": 1000, "changes": changes(w, g)}


def near():
    found = V.stepped(lambda k: 1.0, count=80)
    for point in found["points"]:
        point |= {"network": "MLP at initialisation", "true": 1e-4}
    return found


def valid_near():
    found = V.stepped(lambda k: 1.0, count=80)
    found["points"].sort(key=lambda point: abs(point["true"]))
    for k, point in enumerate(found["points"]):
        point["newton"] = point["true"] * (1.1 if k < 40 else 9.0)
    return found


def shuffled_steps(found):
    steps = [point["newton"] for point in found["points"]]
    for point, step in zip(found["points"], reversed(steps), strict=True):
        point["newton"] = step


def grown():
    found = V.critical()
    for case, factor in zip(found["cases"], (20.0, 10.0), strict=True):
        case["sharpness"] = [1.0, 1.0, 1.0, 1.0, factor]
    return found


def costly():
    return {"parameters": 10**6, "gradient_seconds": [1.0, 1.0], "diagonal_seconds": [5e3, 5e3]}


def fallen():
    return {
        "n": [32, 2048],
        "mean": [1.0, 0.125],
        "standard_error": [0.01, None],
        "abs_mu_mean": 0.1,
    }


Make = Callable[[], dict]
ROTATED, REVERSED = (1, 2, 3, 0), (3, 2, 1, 0)
# What is measured, and what is broken in it, by the kind of the fault.
TURNS: dict[str, tuple[Make, dict[str, Callable[[dict], None]]]] = {
    # ---- figures
    "fig1": (
        true("fig1"),
        {"labels": relabelled(REVERSED)},
    ),
    "fig2": (
        curvatures,
        {
            # Entries shuffled over the layers: all have the same median.
            "labels": each(lambda row, k: row.update(radius=[1.0, 2.0, 3.0])),
            "constant": put(deviation=0.2),
        },
    ),
    "fig3": (falling, {"constant": scaled("mean", 0.5**0.5, "curves")}),
    "fig4": (true("fig4"), {"labels": relabelled(REVERSED)}),
    "fig5": (true("fig5"), {"labels": relabelled(REVERSED)}),
    "fig6": (
        lambda: build("fig6").measure(None),
        {"constant": lambda found: found.update(lr=2 * found["lr"])},
    ),
    "fig7": (true("fig7"), {"labels": relabelled(REVERSED)}),
    "fig8": (true("fig8"), {"labels": relabelled((0, 3, 2, 1))}),
    "fig9": (
        lambda: V.discarded(GROWS["holds"]),
        {"controls": exchange("small", "random"), "labels": exchange("small", "large")},
    ),
    "fig10": (
        true("fig10"),
        {
            "controls": swapped("protocol", "small losses", "random"),
            "labels": swapped("protocol", "small losses", "baseline"),
        },
    ),
    "fig11": (
        true("fig11"),
        {
            "labels": swapped("protocol", "baseline", D.OURS),
            "controls": swapped("protocol", D.OURS, "warm-up"),
        },
    ),
    "fig12": (
        true("fig12"),
        {"labels": swapped("protocol", "baseline", D.OURS)},
    ),
    "fig13": (
        true("fig13"),
        {"controls": swapped("protocol", D.OURS, "warm-up")},
    ),
    "fig14": (
        true("fig14"),
        {"controls": swapped("protocol", D.OURS, "only the rate")},
    ),
    "fig15": (
        lambda: build("fig15").measure(None),
        {
            "constant": lambda found: found.update(
                a=2 * found["a"],
                error=np.abs(
                    np.array(found["error"]) + found["a"] * np.array(found["distance"]) ** 2
                ).tolist(),
            )
        },
    ),
    "fig16": (
        lambda: D.M.ruled(np.random.default_rng(0), 0.002, sgd=0.1),
        {"controls": swapped("rule", "lars", "sgd")},
    ),
    "fig-law": (
        law_of_real_gradients,
        {
            "constant": of_cases(
                lambda case, k: case["lines"].update(finite=case["lines"]["printed"])
            )
        },
    ),
    "fig-radius": (
        lambda: V.ranked(lambda w, g: g / w),
        {"exact": lambda found: found.update(V.ranked(lambda w, g: w / g))},
    ),
    "fig-b": (
        lambda: V.placed(lambda w: 50.0 + 0 * w),
        {"exact": lambda found: found.update(V.placed(lambda w: -w + 1e-3))},
    ),
    "fig-minimum": (
        lambda: V.stepped(lambda k: 30.0),
        {"exact": each(exact_step, "points"), "constant": scaled("newton", 1 / 30, "points")},
    ),
    "fig-convergence": (
        V.convergent,
        {
            "constant": lambda found: found.update(
                law={rule: [2 * v for v in values] for rule, values in found["law"].items()}
            )
        },
    ),
    "fig-bend": (
        V.bent,
        {
            "constant": of_cases(
                lambda case, k: case.update(
                    bend=2 * case["bend"], interval=[2 * end for end in case["interval"]]
                )
            )
        },
    ),
    "fig-mclr-batch": (
        V.critical,
        {
            "labels": of_cases(lambda case, k: case["losses"].reverse()),
            "constant": put(predicted=128.0 / 32),
        },
    ),
    "fig-gaussian": (
        lambda: V.shaped(0.3),
        {"constant": scaled("excess", 100.0, network="MLP at initialisation")},
    ),
    "fig-spread": (
        V.warmed,
        {
            "controls": swapped("protocol", "warm-up", "full rate"),
            "labels": swapped("step", 0, 30),
        },
    ),
    "fig-cblr": (
        true("fig-cblr"),
        {
            "controls": swapped("rule", "cblr", "lars"),
            "exact": D.same_rule("cblr", "mclr"),
        },
    ),
    # ---- claims
    "claim-squared-gradient-negligible": (
        weights(gradient_squared_max=1e-4, gradient_squared_q99=1e-6),
        # A loss a hundred times as large.
        {"constant": of_networks(lambda row, k: row.update(gradient_squared_max=1.0))},
    ),
    "claim-minimum-at-zero": (
        weights(fit_entries=100, fit_weight=1.0, fit_distance=1.2),
        {"constant": of_networks(lambda row, k: row.update(fit_distance=12.0))},
    ),
    "claim-weight-decay-centres-minimum": (
        decayed,
        {
            "controls": of_networks(
                lambda row, k: row.update(fit_distance=2, fit_distance_decayed=8)
            )
        },
    ),
    "claim-majority-inaccurate": (
        accurate_few,
        {"exact": of_networks(lambda row, k: row.update(within_factor_2=1.0))},
    ),
    "claim-layer-statistics-usable": (
        lambda: {"networks": [C.network(C.tensors(8, **C.statistics(eq23=lambda k: 10.0**k)))]},
        {"labels": rotated_layers},
    ),
    "claim-curvature-varies": (
        lambda: {
            "networks": [
                C.network(
                    C.tensors(
                        2,
                        radius_finite_q50=lambda k: 1e4**k,
                        log_radius_mean=lambda k: 4.0 * k,
                        log_radius_variance=0.1,
                    )
                )
            ]
        },
        # Entries shuffled over the layers.
        {
            "labels": of_networks(
                lambda row, k: row.update(radius_finite_q50=100.0, log_radius_mean=2.0)
            )
        },
    ),
    "claim-second-derivative-costly": (
        costly,
        {"controls": lambda found: found.update(gradient_seconds=found["diagonal_seconds"])},
    ),
    "claim-gradients-fall-to-zero": (
        fallen,
        {"constant": put(mean=[1.0, 0.5]), "labels": put(mean=[0.125, 1.0])},
    ),
    "claim-gaussian-initially": (
        lambda: V.shaped(1.0, 10.0),
        {"labels": swapped("network", "MLP at initialisation", "MLP trained")},
    ),
    "claim-sigma-constant": (
        lambda: V.shaped(1.0),
        {"constant": scaled("sigma", 10.0, network="MLP trained")},
    ),
    "claim-large-batch-doomed": (
        true("claim-large-batch-doomed"),
        {"labels": relabelled(REVERSED)},
    ),
    "claim-searching-space": (
        true("claim-searching-space"),
        {"labels": each(lambda row, k: row.update(path=[10.0 - v for v in row["path"]]))},
    ),
    "claim-high-loss-larger-gradients": (
        losses_and_norms,
        {"labels": of_cases(lambda case, k: case.update(ranks=[0.05, -0.05] * 3))},
    ),
    "claim-discarding-fades": (
        true("claim-discarding-fades"),
        {"labels": each(lambda row, k: row.update(n={57: 471, 471: 57}.get(row["n"], row["n"])))},
    ),
    "claim-first-epoch-amplifies": (
        true("claim-first-epoch-amplifies"),
        {"controls": swapped("protocol", D.OURS, "baseline")},
    ),
    "claim-global-rate-small-batch": (
        true("claim-global-rate-small-batch"),
        {"labels": relabelled(REVERSED)},
    ),
    "claim-mclr-falls-behind": (
        true("claim-mclr-falls-behind"),
        {"controls": swapped("rule", "mclr", "lars")},
    ),
    "claim-mclr-because-gradients-shrink": (
        grown,
        {
            "controls": of_cases(
                lambda case, k: case.update(rule={"MCLR": "LARS", "LARS": "MCLR"}[case["rule"]])
            )
        },
    ),
    "claim-lars-special-case": (special("lars"), {"constant": put(even=2**0.5 - 1)}),
    "claim-percentdelta-special-case": (
        special("percentdelta"),
        {"constant": put(even=2**0.5 - 1)},
    ),
    "claim-same-failure-conditions": (
        failing,
        {"constant": lambda found: found.update(changes=dict.fromkeys(found["changes"], 1.0))},
    ),
    "claim-centre-on-minimum": (near, {"constant": scaled("true", 1e5, "points")}),
    "claim-morse-validated": (valid_near, {"labels": shuffled_steps}),
    "claim-training-stuck": (
        true("claim-training-stuck"),
        {"labels": relabelled(REVERSED)},
    ),
    "claim-warmup-flattens": (
        lambda: V.warmed(layers=((1.0, -1.0), (-2.0, -2.0))),
        {"labels": swapped("step", 0, 30)},
    ),
    "claim-schedule-is-step-length": (
        true("claim-schedule-is-step-length"),
        {
            "labels": each(lambda row, k: row.update(first_stride=1 / row["first_stride"])),
        },
    ),
    "claim-training-longer": (
        true("claim-training-longer"),
        {"controls": swapped("series", "epochs", "steps")},
    ),
    "claim-sharp-minima": (true("claim-sharp-minima"), {"labels": swapped("n", 15, 1413)}),
    "claim-two-instabilities": (true("claim-two-instabilities"), {"labels": relabelled(ROTATED)}),
    "claim-other-enlargers": (
        lambda: V.enlarged(2.0, 2.0, 2.0),
        {"controls": lambda found: found["values"].update(plain=V.around(3.0, 6))},
    ),
    "claim-layer-wise-necessary": (
        true("claim-layer-wise-necessary"),
        {"controls": swapped("rule", "sgd", "lars")},
    ),
    "claim-gap-worsens": (
        true("claim-gap-worsens"),
        {"labels": relabelled(REVERSED)},
    ),
}


def test_no_check_is_without():
    equations = {f"eq{label}" for label in range(1, 29)}
    assert set(TURNS) | equations == set(IDS)
    for name, (_, faults) in TURNS.items():
        assert faults, name
        assert set(faults) <= set(KINDS), name
    # All the kinds are among them, and none is rare.
    for kind in KINDS:
        assert sum(kind in faults for _, faults in TURNS.values()) >= 5


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, (_, faults) in TURNS.items() for kind in faults]
)
def test_a_broken_measurement_turns_the_verdict(name, kind):
    make, faults = TURNS[name]
    found = copy.deepcopy(make())
    judge = build(name).judge
    before = judge(copy.deepcopy(found)).verdict
    assert before != "inconclusive"
    faults[kind](found)
    assert judge(found).verdict != before


@pytest.mark.parametrize("label", [str(k) for k in range(1, 29)])
def test_a_broken_equation_turns_the_verdict(tiny, label):
    """A derivation that does not bear it; where numbers can try it, another constant."""
    check = equation_check(label)
    found = plain(measure_equation(tiny, label=label))
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
