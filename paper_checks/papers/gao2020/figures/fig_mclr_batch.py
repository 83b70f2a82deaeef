"""Beyond the paper: the batch size beyond which MCLR's growing rate is no longer stable."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.shared import Shared, reads
from paper_checks.statistics import conclude, ratio, too_few, within

if TYPE_CHECKING:
    from torch import nn

    from paper_checks.papers.gao2020.measurements.context import Context

RULES = ("mclr", "lars")
STEPS = 20
DRAWS = 4
# Single batches of the smallest n, for the scatter of the growth.
SINGLE = 8
PROTOCOL = (
    "An MLP (64-32-32-10, tanh, so that no median of gradients is zero) on scikit-learn's digits "
    "at initialisation, no momentum.",
    "For each n the rates of MCLR (absolute medians) and LARS, averaged over random batches, and "
    "λ_max of the Hessian scaled by them. γ is set so that γ·λ_max reaches 2, the limit of "
    "stability, at n = N/8: below it the rule should descend, beyond it not.",
    f"From the same start {STEPS} steps with fresh batches of n; a run failed if the loss on the "
    "test images is then higher than at the start, or not finite.",
    "The law: rates in proportion to √n while noise is all there is in a gradient (theory: "
    "mclr_largest_batch), and level beyond the bend.",
)


BATCH_RATES = Shared.under("fig-mclr-batch")


@reads(BATCH_RATES)
def measure(context: "Context") -> dict[str, Any]:
    """λ_max by n for both rules, and the losses that the runs ended with."""
    return context.shared("fig-mclr-batch", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    import torch
    from torch.nn.functional import cross_entropy

    from sim import sweep
    from sim.data import load
    from sim.models import build
    from sim.training import Measure, TrainConfig, grid

    seed, runs = context.profile.seeds[0], min(5, context.profile.runs)
    inputs, targets = load("digits").pair
    pair = inputs.double(), targets
    total = len(targets)
    sizes = [4**k for k in range(1, 20) if 4**k < total] + [total]
    options: Any = {"hidden": [32, 32], "activation": "tanh"}
    model = build("mlp", in_shape=(1, 8, 8), classes=10, seed=seed, **options).double()
    test_inputs, test_targets = load("digits", split="test").pair
    with torch.no_grad():
        start = float(cross_entropy(model(test_inputs.double()), test_targets))
    base = TrainConfig(
        dataset="digits",
        model="mlp",
        model_options=options,
        seed=seed,
        dtype="float64",
        steps=STEPS,
        measure=Measure(layers_every=0),
    )
    cases = []
    for rule in RULES:
        sharp = [_sharpness(model, pair, rule, n, seed) for n in sizes]
        sharpness = float(np.exp(np.interp(np.log(total / 8), np.log(sizes), np.log(sharp))))
        gamma = 2 / sharpness
        frame = sweep(
            grid(base.replace(optimizer=rule, lr=gamma), batch_size=sizes, order_seed=range(runs)),
            jobs=1,
            vectorise=True,
            threads=1,
        )
        losses = [
            [
                float(row.test_loss) if row.status == "finished" else None
                for row in frame[frame.batch_size == n].itertuples()
            ]
            for n in sizes
        ]
        cases.append(
            {
                "rule": rule.upper(),
                "gamma": gamma,
                "sharpness": sharp,
                "single": [
                    _sharpness(model, pair, rule, sizes[0], seed + k, draws=1)
                    for k in range(SINGLE)
                ],
                "losses": losses,
            }
        )
    return {
        "seeds": [seed],
        "samples": total,
        "n": sizes,
        "predicted": total / 8,
        "start": start,
        "cases": cases,
    }


def _sharpness(
    model: "nn.Module", pair: Any, rule: str, n: int, seed: int, draws: int = DRAWS
) -> float:
    """λ_max with the rates of each tensor, averaged over batches."""
    import torch
    from torch.nn.functional import cross_entropy

    from sim import sharpness

    inputs, targets = pair
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    rates = dict.fromkeys(parameters, 0.0)
    for _ in range(draws):
        index = torch.randperm(len(targets), generator=generator)[:n]
        loss = cross_entropy(model(inputs[index]), targets[index])
        for name, g in zip(
            parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True
        ):
            w = parameters[name].detach()
            rate = w.norm() / g.norm() if rule == "lars" else w.abs().median() / g.abs().median()
            rates[name] += float(rate) / draws
    radius = {name: torch.full_like(w, rates[name]) for name, w in parameters.items()}
    return sharpness(model, cross_entropy, pair, radius, tolerance=0.05)


def critical(measurements: Measurements, case: Mapping[str, Any]) -> list[float]:
    """Run by run, the geometric middle of the last n that descends and the first that does not.

    Where none fails it lies beyond: a step of n above the largest; the smallest where that fails.
    """
    sizes = measurements["n"]
    critical_sizes = []
    for run in range(min(map(len, case["losses"]))):
        losses = [losses[run] for losses in case["losses"]]
        failed = [loss is None or loss > measurements["start"] for loss in losses]
        place = failed.index(True) if any(failed) else None
        if place is None:
            critical_sizes.append(float(sizes[-1] ** 2 / sizes[-2]))
        else:
            critical_sizes.append(float(np.sqrt(sizes[place] * sizes[max(0, place - 1)])))
    return critical_sizes


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The batch at which training fails, over that at which the rate reaches the limit."""
    predicted, factor = measurements["predicted"], thresholds["factor"]
    by_rule = {case["rule"]: critical(measurements, case) for case in measurements["cases"]}
    if min(map(len, by_rule.values())) < thresholds["runs"]:
        return too_few(predicted, "Too few runs.")
    quotients = {rule: ratio(each, [predicted] * len(each)) for rule, each in by_rule.items()}
    near = {rule: within(each, 1 / factor, factor) for rule, each in quotients.items()}
    beyond = measurements["n"][-1]
    grown = "; ".join(
        f"{case['rule']}: λ_max grows {short(case['sharpness'][-1] / case['sharpness'][0])} times "
        f"from n = {measurements['n'][0]} to {beyond} "
        f"(√n: {short((beyond / measurements['n'][0]) ** 0.5)}), training fails "
        + (
            "at no n"
            if min(by_rule[case["rule"]]) > beyond
            else f"from n ≈ {short(predicted * quotients[case['rule']].value)}"
        )
        for case in measurements["cases"]
    )
    reason = f"The rate reaches the limit at n = {short(predicted)} by choice of γ. {grown}."
    if near["MCLR"].fails:
        reason += (
            " Our own prediction fails here: the limit of stability at initialisation does not say "
            "at which batch training breaks down."
        )
    core, control = near["MCLR"], near["LARS"]
    return conclude(core, [control], 1.0, quotients["MCLR"], reason, factor - 1)


def draw(measurements: Measurements) -> Drawing:
    """γ·λ_max against n with the limit; the loss after the steps against n."""
    sizes = measurements["n"]
    with drawing.style("fig-mclr-batch"):
        chart = drawing.figure(10.0, 4.6)
        left, right = chart.subplots(1, 2)
        for case, colour, marker in zip(
            measurements["cases"], (drawing.BLUE, drawing.ORANGE), "os", strict=True
        ):
            scaled = case["gamma"] * np.array(case["sharpness"])
            left.plot(sizes, scaled, marker=marker, color=colour, label=case["rule"])
            finite = [
                np.median([value if value is not None else 1e3 for value in losses])
                for losses in case["losses"]
            ]
            right.plot(
                sizes, np.minimum(finite, 1e3), marker=marker, color=colour, label=case["rule"]
            )
        line = 2 * np.sqrt(np.array(sizes) / measurements["predicted"])
        left.plot(sizes, line, ":", color=drawing.GREY, label="√n")
        left.axhline(2, color=drawing.BLACK, linestyle="--", label="limit")
        right.axhline(
            measurements["start"], color=drawing.BLACK, linestyle="--", label="at the start"
        )
        for axes in (left, right):
            axes.axvline(measurements["predicted"], color=drawing.GREY, linewidth=1)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel("batch size n")
            axes.legend()
        left.set_ylabel("γ · λ_max of the rated Hessian")
        right.set_ylabel(f"median loss after {STEPS} steps")
    beyond = sizes[-1]
    by_rule = {
        case["rule"]: float(np.exp(np.mean(np.log(critical(measurements, case)))))
        for case in measurements["cases"]
    }
    alt = (
        "Left: the rate times the sharpness against the batch size for MCLR and LARS, with the "
        f"limit of 2 reached at {short(measurements['predicted'])}. Right: the loss after "
        f"{STEPS} steps. Training fails from "
        + ", ".join(
            f"{rule}: {'no n' if value > beyond else short(value)}"
            for rule, value in by_rule.items()
        )
        + "."
    )
    caption = (
        "The rate is w over g, so it grows as the batch's gradient shrinks. The vertical line is "
        "the batch size at which it reaches the limit of stability at initialisation."
    )
    return drawing.finished(chart, "fig-mclr-batch", "MCLR's critical batch", alt, caption)
