"""The top of the report: plain words, chosen by the verdicts; units, glossary, links both ways."""

import re
from dataclasses import replace

import pytest

from paper_checks.ledger.lock import stated
from paper_checks.registry import IDS, build
from paper_checks.report.beside import Beside, Entry, beside
from paper_checks.report.overview import ADVICE, MEANING, STATEMENTS, overview
from paper_checks.report.page import render
from paper_checks.report.words import WORDS, checks_of, words
from paper_checks.result import Result
from paper_checks.verdicts import _RANK, CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE, MEANINGS

NOTHING = Result("", *[None] * 13)
ENDS = {HOLDS: "holds", IN_PART: "part", CONTRADICTED: "contradicted", INCONCLUSIVE: "open"}


def result(name, verdict, **values):
    kind = "equation" if name.startswith("eq") else name.split("-")[0].rstrip("0123456789")
    kind = {"fig": "figure"}.get(kind, kind)
    known = {"id": name, "kind": kind, "verdict": verdict, "statement": "s", "criterion": "c"}
    rest = {"reason": "r", "environment": {}, "seeds": [], "seconds": 0.0}
    return replace(NOTHING, **known | rest | values)


def told(results, ledger=None):
    return {
        section.heading: [line.text for line in section.lines]
        for section in overview(results, ledger or Beside())
    }


def test_every_check_has_a_sentence_without_symbols_and_nothing_else_has():
    assert list(WORDS) == list(IDS)
    for name, each in WORDS.items():
        assert re.fullmatch(r"[A-Z][A-Za-z ,;'-]+\.", each.sentence), name
        assert set(each.equations) <= set(IDS), name
    assert len({each.sentence for each in WORDS.values()}) == len(IDS)


def test_a_check_whose_criterion_asks_for_accuracies_is_read_in_points():
    """The limit that a criterion calls a point is one where the measured value is shown too."""
    for name in IDS:
        if not name.startswith("eq") and re.search(r"\((one|half a) point", build(name).criterion):
            assert words(name).unit == "points", name


@pytest.mark.parametrize("each", ADVICE, ids=lambda each: each["check"])
def test_the_advice_turns_with_its_verdict(each):
    assert each["check"] in IDS
    texts = {verdict: told([result(each["check"], verdict)])[MEANING] for verdict in ENDS}
    assert texts == {verdict: [each[end]] for verdict, end in ENDS.items()}
    assert len({each[end] for end in ENDS.values()}) == len(ENDS)


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_stands_where_its_verdict_puts_it(name):
    headings = {
        verdict: [h for h, lines in told([result(name, verdict)]).items() if h != MEANING]
        for verdict in (*ENDS, "skipped")
    }
    assert headings == {
        HOLDS: ["What stands"],
        IN_PART: ["What stands in part"],
        CONTRADICTED: ["What does not"],
        INCONCLUSIVE: ["What is not decided"],
        "skipped": ["What is not decided"],
    }


def test_the_equations_are_counted_by_how_they_end():
    verdicts = {"eq9": "holds", "eq4": "wrong constant", "eq20": "ambiguous", "eq1": "assumption"}
    lines = told([result(name, verdict) for name, verdict in verdicts.items()])
    assert [lines[h][0].split(",")[0] for h in lines] == ["1 of the 4 equations"] * 3
    turned = told([result(name, "holds") for name in verdicts])
    assert list(turned) == ["What stands"]
    assert turned["What stands"][0].startswith("4 of the 4 equations")


def test_another_verdict_on_cifar_stands_beside():
    ledger = Beside({"fig1": Entry("fig1", CONTRADICTED, "r"), "fig3": Entry("fig3", HOLDS, "r")})
    sections = overview([result("fig1", HOLDS), result("fig3", HOLDS)], ledger)
    beside_it = {line.checks[0]: line.elsewhere for s in sections for line in s.lines}
    assert beside_it["fig3"] == ""
    (advice,) = [each for each in ADVICE if each["check"] == "fig1"]
    assert beside_it["fig1"] == f"On CIFAR-10: {advice['contradicted']}"


def test_an_equation_and_its_tests_are_seen_together_both_ways():
    results = [
        result("eq17", "approximation"),
        result("claim-majority-inaccurate", HOLDS, interval=(0.1, 0.2), measured=0.15),
    ]
    page = render(results, {}, ledger=Beside())
    articles = dict(re.findall(r'<article id="([^"]+)">(.*?)</article>', page, re.DOTALL))
    assert "claim-majority-inaccurate" in checks_of("eq17")
    assert re.search(
        r'href="#claim-majority-inaccurate".*?✓ holds.*?wrong for most parameters.*?0\.15',
        articles["eq17"],
    )
    assert re.search(r'href="#eq17".*?approximation', articles["claim-majority-inaccurate"])


def test_an_equation_names_its_checks_that_were_not_run():
    page = render(
        [result("eq17", "approximation"), result("claim-majority-inaccurate", CONTRADICTED)], {}
    )
    article = page.split('<article id="eq17">')[1].split("</article>")[0]
    others = [name for name in checks_of("eq17") if name != "claim-majority-inaccurate"]
    assert len(others) > 3
    assert f"<dd>{', '.join(others)} <span" in article
    assert "not run here" in article
    other = page.split('<article id="claim-majority-inaccurate">')[1].split("</article>")[0]
    assert "not run here" not in other


def test_a_tolerance_is_in_the_unit_of_its_check():
    rows = [result("fig16", HOLDS, tolerance=0.03), result("fig4", HOLDS, tolerance=0.1)]
    page = render(rows, {})
    assert "<dt>Tolerance</dt><dd>3 points</dd>" in page
    assert "<dt>Tolerance</dt><dd>0.1</dd>" in page


def test_accuracies_are_in_points_wherever_the_page_has_them():
    page = render(
        [result("fig1", HOLDS, measured=0.397, interval=(0.33, 0.46), predicted="> 1 points")],
        {},
        ledger=Beside(),
    )
    assert page.count("39.7 points") >= 2
    assert "[33, 46]" in page
    assert "0.397<" not in page


def test_the_glossary_has_every_word_that_a_check_may_end_with():
    assert set(MEANINGS) == set(_RANK)
    page = render([result("fig1", "contradicted")], {}, ledger=Beside())
    assert "The interval of what was measured excludes what the paper says." in page
    assert MEANINGS["typo"] not in page


def test_margins_that_were_changed_with_results_known_are_deviations():
    names = ("fig7", "fig16", "claim-large-batch-doomed", "claim-layer-statistics-usable")
    assert {each.id for each in beside(names).deviations} >= set(names)
    assert all(re.match(r"2026-1\d-\d\dT\d\d:", each.date) for each in stated(IDS))


def test_a_file_of_deviations_that_is_none_is_refused(tmp_path):
    assert stated(["fig7"], tmp_path) == []
    (tmp_path / "deviations.toml").write_text('[[deviation]]\nids = ["fig7"]\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"deviations.toml: 'date'; each deviation has ids"):
        stated(["fig7"], tmp_path)


def test_why_a_check_has_no_row_is_said():
    ledger = Beside({"fig3": Entry("fig3", HOLDS, "r")})
    name = "claim-second-derivative-costly"
    assert "No run: It measures seconds" in render([result(name, IN_PART)], {}, ledger=ledger)
