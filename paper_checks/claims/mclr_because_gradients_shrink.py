"""Can the shrinking of gradients set MCLR apart from LARS?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import log_ratio
from paper_checks.figures.fig_mclr_batch import PROTOCOL as BATCH
from paper_checks.figures.fig_mclr_batch import measure
from paper_checks.numbers import short, spread
from paper_checks.verdicts import CONTRADICTED, HOLDS, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *BATCH,
    "Both rules divide by the gradient: MCLR by its median, LARS by its norm. The growth of "
    "λ_max of the rated Hessian from the smallest to the largest n says what the shrinking does "
    "to each; a cause that acts alike on both cannot set them apart.",
)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """MCLR's growth with n over LARS's."""
    growth = {
        case["rule"]: case["sharpness"][-1] / case["sharpness"][0] for case in measurements["cases"]
    }
    sizes = measurements["n"]
    if sizes[-1] / sizes[0] < thresholds["range"]:
        return Judgement(INCONCLUSIVE, None, None, "The batch sizes span too little.")
    ratio = growth["MCLR"] / growth["LARS"]
    verdict = HOLDS if ratio >= thresholds["ratio"] else CONTRADICTED
    single = [case.get("single", []) for case in measurements["cases"]]
    ends = None
    if all(single):
        # Paired by batch; at the largest n there is one batch, all of the data.
        first, second = (
            [case["sharpness"][-1] / value for value in case["single"]]
            for case in sorted(measurements["cases"], key=lambda case: case["rule"] != "MCLR")
        )
        ends = log_ratio(first, second)[1:]
    reason = (
        f"From n = {sizes[0]} to {sizes[-1]} the rated sharpness grows {short(growth['MCLR'])} "
        f"times for MCLR and {short(growth['LARS'])} times for LARS: {short(ratio)} times as much"
        + (f" {spread(ends)} over single batches of the smallest n." if ends else ".")
    )
    return Judgement(verdict, f"≥ {thresholds['ratio']:g}", ratio, reason, ends)
