"""The law of E|g| against per-sample gradients of real networks, from one sample to all of them."""

import math
from typing import TYPE_CHECKING, Any

from paper_checks import drawing
from paper_checks.check import Check, Drawing, Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.papers.gao2020.figures.fig3 import LINES, TOLERANCE, batch_sizes
from paper_checks.shared import Shared, reads
from paper_checks.statistics import UNDECIDED, Estimate, all_of, conclude, within

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn

    from paper_checks.papers.gao2020.measurements.context import Context

# The smallest batch of the paper's figure 3. Below it the law is shown, not judged: a mean of so
# few is not normal unless the per-sample gradients are.
SMALLEST = 32
# Random batches for each of the profile's, by the largest n they serve: few samples scatter most.
BATCHES = {16: 512, None: 32}
# A layer of more entries than this costs more and, being an average over them, scatters less.
LARGE_LAYER = 100_000
BATCHES_OF_LARGE = {64: 32, None: 2}
EPOCHS = 20


LAWS = Shared.under("fig-law")


@reads(LAWS)
def measure(context: "Context") -> dict[str, Any]:
    """E|g| and the four lines for each network; AlexNet joins where CIFAR-10 is given."""
    return context.shared("fig-law", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from paper_checks.papers.gao2020.figures import _samples

    seed = context.profile.seeds[0]
    pair, model = _samples.small_data(context), _samples.small_network(context)
    cases = [_case(context, "digits MLP at initialisation", model, pair, "digits")]
    _samples.train(model, pair, seed, EPOCHS)
    cases.append(_case(context, "digits MLP trained", model, pair, "digits"))
    cases[-1] |= {"trained": True, "accuracy": accuracy(model, pair)}
    if context.name == "cifar10":
        model, pair = context.model(seed), context.population.pair
        cases.append(_case(context, "AlexNet at initialisation", model, pair, "cifar10"))
    samples = max(case["samples"] for case in cases)
    return {"seeds": [seed], "samples": samples, "cases": cases, "rows": table(cases)}


def accuracy(model: "nn.Module", pair: Any) -> float:
    """The share of samples that the network gets right."""
    import torch

    inputs, targets = pair
    with torch.no_grad():
        return float((model(inputs).argmax(1) == targets).double().mean())


def _case(
    context: "Context", name: str, model: "nn.Module", pair: Any, dataset: str
) -> dict[str, Any]:
    from torch.nn.functional import cross_entropy

    from paper_checks.papers.gao2020.measurements.laws import layer_lines
    from sim import gradient_moments, mean_abs_gradient
    from sim.models import first_linear

    seed, parameter, total = context.profile.seeds[0], first_linear(model), len(pair[1])
    sizes = batch_sizes(total, smallest=1)
    gradients = gradient_moments(model, cross_entropy, pair, parameter, dropout=False)
    drawn = layer_lines(
        gradients.mean.cpu(),
        gradients.std.cpu(),
        sizes,
        total,
        max(context.profile.entries, LARGE_LAYER),
    )
    large = gradients.mean.numel() > LARGE_LAYER
    case: dict[str, Any] = {
        "case": name,
        "dataset": dataset,
        "trained": False,
        "samples": total,
        "parameter": parameter,
        "n": sizes,
        "mean": [],
        "standard_error": [],
        "batches": [],
        "lines": drawn.lines,
        "moments": drawn.moments,
    }
    before = 0
    for most, times in (BATCHES_OF_LARGE if large else BATCHES).items():
        part = [n for n in sizes if before < n and (most is None or n <= most)]
        before = most or total
        frame = mean_abs_gradient(
            model,
            cross_entropy,
            pair,
            parameter,
            part,
            repeats=times * context.profile.batches,
            dropout=False,
            seed=seed + len(case["n"]) - len(part),
        )
        case["mean"] += frame["mean_abs_gradient"].tolist()
        case["standard_error"] += frame["standard_error"].tolist()
        case["batches"] += frame["repeats"].tolist()
    return case


def off(case: Measurements, line: str) -> list[float]:
    """The error of a line at every n, in per cent of what was measured."""
    pairs = zip(case["lines"][line], case["mean"], strict=True)
    return [100 * (predicted / mean - 1) for predicted, mean in pairs]


def table(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each network and n: what was measured, and the error of each line."""
    return [
        {
            "network": case["case"],
            "n": n,
            "measured": case["mean"][place],
            "standard error": case["standard_error"][place],
            "batches": case["batches"][place],
        }
        | {f"{line}: error in %": off(case, line)[place] for line in LINES}
        for case in cases
        for place, n in enumerate(case["n"])
    ]


def errors(case: Measurements, line: str) -> list[Estimate]:
    """The relative error of a line at each n that is judged, with its standard error."""
    batches = case.get("batches") or [math.inf] * len(case["n"])
    return [
        Estimate(predicted / mean - 1, (error or 0.0) * predicted / mean**2, count - 1)
        for n, predicted, mean, error, count in zip(
            case["n"],
            case["lines"][line],
            case["mean"],
            case["standard_error"],
            batches,
            strict=True,
        )
        if n >= SMALLEST
    ]


def worst(case: Measurements, line: str) -> Estimate:
    """The largest of these errors."""
    return max(errors(case, line), key=lambda each: abs(each.value))


def judge(measurements: Measurements) -> Judgement:
    """Whether the full law is within the tolerance in every network, or at initialisation only."""
    cases = measurements["cases"]
    decisions = {
        case["case"]: all_of(
            *(within(each, -TOLERANCE, TOLERANCE) for each in errors(case, "finite"))
        )
        for case in cases
    }
    fresh = [decisions[case["case"]] for case in cases if not case["trained"]]
    reason = (
        f"Largest error for n from {SMALLEST} to N: "
        + ". ".join(
            f"{case['case']} ({case['parameter']}, N = {short(case['samples'])}): "
            + "; ".join(
                f"{LINES[line][0]} {_percent(abs(worst(case, line).value))}" for line in LINES
            )
            for case in cases
        )
        + ". Gradients of a trained network come from few samples, so that a mean of small n is "
        "far from normal."
    )
    largest = max((worst(case, "finite") for case in cases), key=lambda each: abs(each.value))
    core, every = all_of(*fresh), all_of(*decisions.values())
    if core.holds and not (every.holds or every.fails):
        # Not a part of the law, but a measurement of a trained network that says nothing.
        core = UNDECIDED
    return conclude(core, [every], 0.0, largest, reason, TOLERANCE)


def _percent(share: float) -> str:
    return f"{short(100 * share)} %"


def draw(measurements: Measurements) -> Drawing:
    """A column for each network: E|g| with the four lines, and the error of each in per cent."""
    cases = measurements["cases"]
    with drawing.style("fig-law"):
        chart = drawing.figure(4.8 * len(cases), 8.0)
        panels = chart.subplots(2, len(cases), sharex="col", squeeze=False, height_ratios=[1.6, 1])
        for column, case in enumerate(cases):
            _draw_law(panels[0][column], case)
            _draw_errors(panels[1][column], case)
        panels[0][0].set_ylabel("mean |g| (loss per weight unit)")
        panels[1][0].set_ylabel("line / measured - 1 (%)")
        handles, labels = panels[0][0].get_legend_handles_labels()
        chart.legend(handles, labels, loc="outside upper center", ncols=3)
    largest = {line: max(abs(worst(case, line).value) for case in cases) for line in LINES}
    alt = (
        "Log-log charts of the mean absolute gradient against the batch size, from one sample to "
        "the whole training set, for "
        + ", ".join(case["case"] for case in cases)
        + f". From n = {SMALLEST} on the line with means and finite N is within "
        f"{_percent(largest['finite'])} of the measured points, the printed one within "
        f"{_percent(largest['printed'])}; the lower panels give every error in per cent."
    )
    caption = (
        "Mean |g| of the first fully connected layer over random batches drawn without "
        "replacement, bars of two standard errors, "
        + "; ".join(
            f"{case['case']}: N = {short(case['samples'])}, "
            f"{min(case['batches'])} to {max(case['batches'])} batches for each n"
            for case in cases
        )
        + ". Lines as in figure 3, from each entry's own μ and σ. Below: the error of each line; "
        f"grey: the tolerance of {_percent(TOLERANCE)}. Left of the dotted line, n < {SMALLEST}, "
        "the law is shown but not judged: a mean of so few is not normal."
    )
    title = "The law of E|g| on real per-sample gradients"
    return Drawing(drawing.to_svg(chart, "fig-law", title, alt), alt, caption)


def _draw_law(axes: "Axes", case: Measurements) -> None:
    sizes = case["n"]
    for line, (label, colour, dash) in LINES.items():
        # A log axis has no place for the zero of a finite law whose means are all zero.
        axes.plot(
            sizes, [v or math.nan for v in case["lines"][line]], dash, color=colour, label=label
        )
    axes.errorbar(
        sizes,
        case["mean"],
        yerr=[2 * (error or 0.0) for error in case["standard_error"]],
        fmt="o",
        color=drawing.BLACK,
        markersize=4.5,
        capsize=2,
        label="measured, without replacement",
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_title(case["case"], loc="left")


def _draw_errors(axes: "Axes", case: Measurements) -> None:
    sizes = case["n"]
    axes.axhspan(-100 * TOLERANCE, 100 * TOLERANCE, color="#EEEEEE", zorder=0, linewidth=0)
    for line, (_, colour, dash) in LINES.items():
        axes.plot(sizes, off(case, line), dash, marker=".", color=colour)
    axes.axhline(0, color=drawing.BLACK, linewidth=0.8)
    axes.axvline(SMALLEST, color=drawing.GREY, linewidth=0.8, linestyle=":")
    low, high = axes.get_ylim()
    # A line far off must not press the others flat; its numbers are in results.json.
    axes.set_ylim(max(low, -100), min(high, 150))
    axes.set_xticks(sizes, [str(n) for n in sizes], rotation=45, ha="right")
    axes.minorticks_off()
    axes.set_xlabel("batch size n (samples)")


FIG_LAW = Check(
    id="fig-law",
    kind="figure",
    title="The law of E|g| on real gradients",
    section="2.1",
    statement=(
        "What should stand for equation 4: an entry whose per-sample gradients have mean μ and "
        "standard deviation σ has E|g| = s√(2/π)·exp(-μ²/(2s²)) + μ·erf(μ/(s√2)), "
        "s² = σ²/n·(N - n)/(N - 1). (Paper: we suppose here that the distribution of gradient on "
        "a layer is Gaussian; μ = 0 is another assumption; E(|g_i|) = 2σ/√(πn).)"
    ),
    criterion=(
        f"The relative error of the law is taken at every n from {SMALLEST}, where the paper's "
        f"figure 3 begins, to N, with Student's interval over the batches. Holds if the law with "
        f"means and finite N is within {100 * TOLERANCE:.0f} % (figure 3's tolerance) in every "
        f"network by the 95 % intervals; holds in part if it is in those at initialisation (the "
        f"paper takes gradients for Gaussian 'especially in the initial training epochs') "
        f"and an interval of a trained one lies outside; contradicted if at initialisation one "
        f"lies outside (its p counts as often as there are n); "
        f"inconclusive otherwise."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
    protocol=(
        "The weight of the first fully connected layer: of an MLP (64-128-128-10, ReLU) on "
        "scikit-learn's digits at initialisation and after "
        f"{EPOCHS} epochs of SGD; with CIFAR-10, of AlexNet at initialisation too.",
        "Cross-entropy, dropout off. For each entry, μ and σ (divisor N) of its per-sample "
        "gradients over all N samples; the printed and the corrected line use the layer's mean σ.",
        "For each n from 1 to N (powers of two, and N) random batches without replacement, and "
        "each batch's mean |g| over the layer.",
    ),
)
