"""Can the shrinking of gradients set MCLR apart from LARS?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures.fig_mclr_batch import PROTOCOL as BATCH
from paper_checks.papers.gao2020.figures.fig_mclr_batch import measure
from paper_checks.statistics import conclude, more, ratio, too_few

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *BATCH,
    "Both rules divide by the gradient: MCLR by its median, LARS by its norm. The growth of "
    "λ_max of the rated Hessian from the smallest to the largest n says what the shrinking does "
    "to each; a cause that acts alike on both cannot set them apart.",
)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """MCLR's growth with n over LARS's, batch by batch of the smallest n."""
    sizes, limit = measurements["n"], thresholds["ratio"]
    predicted = f"> {limit:g}"
    cases = {case["rule"]: case for case in measurements["cases"]}
    batches = min(len(case.get("single", [])) for case in cases.values())
    if sizes[-1] / sizes[0] < thresholds["range"] or batches < thresholds["batches"]:
        return too_few(predicted, "The batch sizes span too little, or too few batches.")
    # Paired by batch; at the largest n there is one batch, all of the data.
    growth = {
        rule: [case["sharpness"][-1] / value for value in case["single"]]
        for rule, case in cases.items()
    }
    quotient = ratio(growth["MCLR"], growth["LARS"])
    told = {
        rule: short(case["sharpness"][-1] / case["sharpness"][0]) for rule, case in cases.items()
    }
    reason = (
        f"From n = {sizes[0]} to {sizes[-1]} the rated sharpness grows {told['MCLR']} times for "
        f"MCLR and {told['LARS']} times for LARS: {short(quotient.value)} times as much "
        f"{spread(quotient.interval())} over single batches of the smallest n."
    )
    return conclude(more(quotient, limit), [], predicted, quotient, reason)
