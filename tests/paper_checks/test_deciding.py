"""One table for all judges: what is true, its opposite, pure noise, and the control that decides.

`true` makes the paper's statement true, controls and all: *holds*. `opposite` makes the contrary
true: *contradicted*. `noise` makes nothing true, and the judge must say *inconclusive* as often as
its level promises. `control` takes the measurement of `true` and makes the deciding control say
that the statement does not mean what it says: the verdict must not be *holds* any more.
"""

import importlib.util
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from paper_checks.registry import IDS, build
from paper_checks.result import plain


def sibling(name):
    """A module beside this one; they are in no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


M, P = sibling("made_up"), sibling("made_up_at_start")
Make = Callable[[np.random.Generator], dict]


@dataclass(frozen=True)
class Case:
    """The four measurements by which a judge is tried."""

    true: Make
    opposite: Make
    noise: Make
    control: Callable[[dict], None]


CASES: dict[str, Case] = {
    **sibling("cases_of_training").table(M, Case),
    **sibling("cases_at_start").table(M, P, Case),
}
# Sketches are drawn from the mathematics, or show what is not judged; nothing random is in them.
EXACT = {"fig6", "fig15", "fig-rate-terms"}
DRAWS = 40
# Three standard errors above the level, in DRAWS draws.
MOST = int(DRAWS * 0.05 + 3 * (DRAWS * 0.05 * 0.95) ** 0.5)


def verdict(name, measurements):
    return build(name).judge(plain(measurements)).verdict


def test_no_judge_is_without():
    judged = {name for name in IDS if not name.startswith("eq")}
    assert set(CASES) | EXACT == judged


@pytest.mark.parametrize("name", CASES)
def test_what_the_paper_says_holds(name):
    found = CASES[name].true(np.random.default_rng(0))
    judgement = build(name).judge(plain(found))
    assert judgement.verdict == "holds", judgement.reason
    assert judgement.reason


@pytest.mark.parametrize("name", CASES)
def test_its_opposite_is_contradicted(name):
    found = CASES[name].opposite(np.random.default_rng(0))
    judgement = build(name).judge(plain(found))
    assert judgement.verdict == "contradicted", judgement.reason


@pytest.mark.parametrize("name", CASES)
def test_noise_decides_no_more_often_than_its_level_says(name):
    verdicts = [verdict(name, CASES[name].noise(np.random.default_rng(k))) for k in range(DRAWS)]
    assert sum(each != "inconclusive" for each in verdicts) <= MOST, verdicts


@pytest.mark.parametrize("name", CASES)
def test_the_deciding_control_turns_it(name):
    found = CASES[name].true(np.random.default_rng(0))
    CASES[name].control(found)
    assert verdict(name, found) != "holds"


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("fig")])
def test_the_picture_is_whole(name):
    drawn = build(name).draw(plain(CASES[name].true(np.random.default_rng(0))))
    root = ET.fromstring(drawn.svg)
    assert root.get("role") == "img"
    assert drawn.alt in [child.text for child in root]
    ids = re.findall(r'\bid="([^"]+)"', drawn.svg)
    assert len(ids) == len(set(ids))
    assert drawn.caption


@pytest.mark.parametrize("name", ["fig5", "fig8", "claim-two-instabilities"])
def test_what_the_digits_leave_out_of_the_whole_batches_no_judge_reads(name):
    """At equal epochs the remainder's batch is in the ledger alone."""
    rng = np.random.default_rng(3)
    full = M.whole(rng, paths=(8, 4, 2, 1), accuracy=(0.9, 0.8, 0.7, 0.6))
    rows = full["rows"]
    read = [row for row in rows if row["series"] == "steps" or not row["remainder"]]
    assert len(read) < len(rows)
    # The reasons count all runs.
    first, second = (build(name).judge(m) for m in ({**full, "rows": read}, full))
    assert replace(first, reason="") == replace(second, reason="")


# A control of each that a profile may leave out, by the column and the value that its rows have.
LEFT_OUT = {
    "fig1": [("series", "steps")],
    "fig5": [("rates", "grows")],
    "fig8": [("rates", "grows")],
    "fig11": [("protocol", "warm-up")],
    "fig13": [("protocol", "only the rate")],
    "fig14": [("protocol", "only the rate")],
    "fig-cblr": [("series", "steps"), ("rule", "percent-delta")],
    "claim-gap-worsens": [("series", "steps")],
    "claim-global-rate-small-batch": [("series", "steps")],
    "claim-layer-wise-necessary": [("series", "steps")],
    "claim-mclr-falls-behind": [("series", "steps")],
    "claim-schedule-is-step-length": [("protocol", "as many steps more")],
    "claim-two-instabilities": [("rates", "grows")],
}


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [(name, *each) for name, controls in LEFT_OUT.items() for each in controls],
)
def test_a_control_that_was_not_run_is_not_shown(name, column, value):
    whole = plain(CASES[name].true(np.random.default_rng(0)))
    rows = [row for row in whole["rows"] if row[column] != value]
    assert len(rows) < len(whole["rows"])
    series = [each for each in whole.get("series", ()) if each != value]
    without = whole | {"rows": rows} | ({"series": series} if series else {})
    assert build(name).judge(without).verdict == "holds in part"


def test_exact_curvature_at_one_batch_size_is_no_whole_answer():
    whole = plain(CASES["fig-cblr"].true(np.random.default_rng(0)))
    n = whole["n"][0]
    rows = [row for row in whole["rows"] if row["n"] == n]
    judgement = build("fig-cblr").judge(whole | {"n": [n], "rows": rows})
    assert judgement.verdict == "holds in part"
    assert "Not run: another batch size." in judgement.reason


def test_a_series_that_was_not_run_has_no_panel():
    whole = plain(CASES["fig-cblr"].true(np.random.default_rng(0)))
    rows = [row for row in whole["rows"] if row["series"] == "epochs"]
    one = build("fig-cblr").draw(whole | {"rows": rows, "equal_steps": None}).svg
    two = build("fig-cblr").draw(whole).svg
    assert "None" not in one
    # Text is drawn as text: the label of every panel's axis.
    assert (one.count("batch size n"), two.count("batch size n")) == (1, 2)
