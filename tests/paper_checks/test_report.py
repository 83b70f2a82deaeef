"""The page: complete, self-contained, in the right order, and safe with any text."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import paper_checks
from paper_checks.numbers import short
from paper_checks.report.formula import formula
from paper_checks.report.page import command, render, seen_in
from paper_checks.running.monitor import Silent
from paper_checks.running.runner import execute
from paper_checks.verdicts import VERDICTS, mark, rank, tone

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use"}


class Page(HTMLParser):
    """Elements with their attributes, and a check that tags close."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.bad = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.bad.append(tag)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    ids = [name for name in paper_checks.IDS if name.startswith("eq")]
    results = paper_checks.run(only=ids, out=out)
    return results, (out / "index.html").read_text(encoding="utf-8")


def test_every_check_is_in_the_table_and_has_its_article(page):
    results, text = page
    for result in results:
        assert f'<a href="#{result.id}">' in text
        assert f'<article id="{result.id}">' in text
        assert command(result) == f"cblr audit --only {result.id}"
        assert f"<code>{command(result)}</code>" in text


def test_contradictions_come_first(page):
    results, text = page
    order = re.findall(r'<tr data-kind="\w+" data-verdict="([^"]+)">', text)
    assert len(order) == len(results)
    assert [rank(word) for word in order] == sorted(rank(word) for word in order)
    assert order[0] in ("fails", "contradicted", "wrong constant")


def test_the_page_is_well_formed_with_unique_ids(page):
    parsed = Page(page[1])
    assert parsed.bad == []
    assert parsed.open == []
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_nothing_is_asked_of_the_network(page):
    parsed = Page(page[1])
    for tag, attributes in parsed.elements:
        assert tag not in {"iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "action", "data", "poster"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert "@import" not in page[1]
    assert not re.search(r"url\((?!#)", page[1])
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket", page[1])


def test_every_picture_has_a_text(page, tmp_path, tiny, fake_check):
    execute([fake_check("fig2", draw=True)], tiny, tmp_path, Silent())
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    pictures = re.findall(r"<svg[^>]*>(?:<title)?", text)
    assert pictures
    for picture in pictures:
        assert 'role="img"' in picture
        assert "aria-label" in picture or "<title" in picture
    assert "<svg" not in page[1]  # formulas are no pictures


def test_every_formula_is_set(page):
    _, text = page
    assert len(re.findall(r'<math alttext="[^"]+"', text)) > 100
    assert '<code class="formula"' not in text
    assert not re.search(r"<m[ion]>[^<]*\\\\", text)  # no command is spelled out


def test_foreign_text_is_escaped(tiny, tmp_path, fake_check):
    execute([fake_check("claim-minimum-at-zero", kind="claim")], tiny, tmp_path, Silent())
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "A &lt;statement&gt; &amp; more" in text
    assert "<statement>" not in text


def test_other_configurations_stand_beside(page, tmp_path):
    import dataclasses

    from paper_checks.report.page import evidence
    from paper_checks.result import write_results

    first, *rest = page[0]
    other = dataclasses.replace(
        first,
        verdict="inconclusive",
        measured=0.125,
        environment={**first.environment, "profile": "full", "device": "cuda (a card)"},
        criterion_hash="0" * 64,
    )
    write_results(tmp_path / "full.json", [other, rest[0]])
    found = evidence(tmp_path)
    assert set(found) == {first.id, rest[0].id}
    text = render(page[0], {}, others=found)
    # The second is of this very configuration, so it is nothing else to show.
    assert text.count("<dt>Elsewhere</dt>") == 1
    assert "0.125 (full, digits, cuda (a card); by another criterion)" in text
    assert "<dt>Elsewhere</dt>" not in render(page[0], {}, others={})


def test_the_evidence_that_is_kept_gives_its_verdicts_again_and_stands_beside():
    from importlib.resources import files

    import jsonschema

    from paper_checks.report.page import EVIDENCE, evidence
    from paper_checks.running.runner import rejudge

    schema = json.loads(files("paper_checks").joinpath("results.schema.json").read_text("utf-8"))
    paths = sorted(EVIDENCE.glob("*.json"))
    assert paths
    for path in paths:
        jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), schema)
        pairs = rejudge(path)
        assert [(old.id, old.verdict) for old, _ in pairs] == [
            (old.id, new.verdict) for old, new in pairs
        ]
        assert f"`{path.name}`" in (EVIDENCE / "README.md").read_text(encoding="utf-8")
    kept = evidence()["fig2"]
    own = replace(kept[0], environment=kept[0].environment | {"dataset": "digits"})
    assert "(quick, cifar10, cpu)" in render([own], {})


def test_a_check_without_a_picture_names_the_figure_that_shows_it(tmp_path, tiny, fake_check):
    checks = [
        fake_check("fig1", 1.0, draw=True),
        # The same measurements; others, with a figure named in the registry; nothing to show.
        fake_check("claim-gap-worsens", 1.0, kind="claim"),
        fake_check("claim-minimum-at-zero", 2.0, kind="claim"),
        fake_check("claim-sharp-minima", 3.0, kind="claim"),
        fake_check("fig-b", 4.0, draw=True),
    ]
    results = execute(checks, tiny, tmp_path, Silent())
    assert seen_in(results) == {"claim-gap-worsens": "fig1", "claim-minimum-at-zero": "fig-b"}
    assert seen_in(results[1:4]) == {}
    assert seen_in([replace(result, measurements={}) for result in results[:2]]) == {}
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'To be seen in <a href="#fig-b">fig-b</a>.' in text


def test_every_figure_that_a_claim_names_is_one():
    from paper_checks.papers.gao2020.claims import CLAIMS
    from paper_checks.registry import FIGURE_IDS

    named = {claim.shown for claim in CLAIMS.values()} - {""}
    assert named
    assert named <= set(FIGURE_IDS)


def test_an_empty_report_says_so():
    assert "0 checks" in render([], {})


def test_every_verdict_has_a_tone_and_a_mark():
    import theory

    for word in (*VERDICTS, *(verdict.value for verdict in theory.Verdict)):
        assert tone(word) in {"bad", "warn", "good", "plain"}
        assert mark(word)
    # Words no list has are not buried.
    assert rank("a new word") < rank("holds")


def test_a_formula_is_mathml_and_carries_its_source():
    drawn = formula(r"$E\left(\left|g_i\right|\right) = \frac{2 \sigma}{\sqrt{\pi}} < 1$")
    assert drawn.startswith('<math alttext="E\\left(\\left|g_i')
    assert "&lt; 1" in drawn.split(">")[0]
    assert "<mfrac><mrow><mn>2</mn><mi>&#x003C3;</mi></mrow><mrow><msqrt>" in drawn


def test_numbers_are_short():
    assert short(1e-12) == "1e-12"
    assert short(float(2**40)) == "1.10e+12"
    assert short(123456.7) == "1.23e5"
    assert short(-0.5) == "-0.5"


def test_the_report_says_how_many_verdicts_and_which_stand_corrected(fake_check, tiny, tmp_path):
    from paper_checks.report.multiplicity import multiplicity

    (one,) = execute([fake_check("fig2")], tiny, tmp_path, Silent())
    results = [
        replace(one, id=name, verdict=verdict, p=p)
        for name, verdict, p in (
            ("fig2", "holds", 1e-6),
            ("fig3", "contradicted", 0.04),
            ("fig4", "inconclusive", 0.4),
            ("fig6", "illustration", None),
        )
    ]
    found = multiplicity(results)
    # Undecided ones count; a sketch has no interval.
    assert set(found.corrected) == {"fig2", "fig3", "fig4"}
    assert found.decided == ["fig2", "fig3"]
    assert found.fragile == ["fig3"]
    text = render(results, {}, others={})
    assert "3 verdicts of figures and claims are read from intervals" in text
    assert 'These do not: <a href="#fig3">fig3</a>.' in text
    assert not Page(text).bad
    assert "How many verdicts" not in render([replace(one, p=None)], {}, others={})
