"""The pages are generated, whole and current, and a step that does not check stops them."""

import dataclasses
import re
from pathlib import Path

import pytest

from theory import DERIVATIONS, EQUATIONS
from theory import gallery as gallery_module
from theory.derivations import SUBJECTS
from theory.gallery import markdown

PAGES = Path(__file__).parents[2] / "docs" / "theory"


def test_the_pages_of_the_site_are_current():
    """After a change of a law or a sentence: `make gallery`."""
    for name, page in (
        ("derivations.md", gallery_module.render()),
        ("statements.md", gallery_module.statements()),
    ):
        written = (PAGES / name).read_text(encoding="utf-8")
        assert written == page, f"docs/theory/{name} is not what the code gives; run `make gallery`"


def test_everything_is_on_the_page(tmp_path):
    page = gallery_module.write(tmp_path / "new" / "page.md").read_text(encoding="utf-8")
    for label, equation in EQUATIONS.items():
        assert f"## Equation {label}: " in page
        assert equation.latex() in page
        assert all(step.latex() in page for step in equation.steps)
    for derivation in DERIVATIONS.values():
        assert f"### {markdown(derivation.title)}\n" in page
        assert all(f"`{law}`" in page for law in derivation.laws)
        assert all(step.latex() in page for step in derivation.steps)
        assert all(markdown(statement.text) in page for statement in derivation.statements)
    assert page.count("$$") % 2 == 0


def test_every_statement_has_its_firmness_and_its_rate_on_the_page():
    page = gallery_module.statements()
    for derivation in DERIVATIONS.values():
        for s in derivation.statements:
            text, rate = (markdown(part).replace("|", r"\|") for part in (s.text, s.rate))
            assert f"| {s.firmness} | {text} | {rate} |" in page
    assert all(f"\n## {markdown(subject)}\n" in page for subject in SUBJECTS)
    for label, equation in EQUATIONS.items():
        assert re.search(rf"^\| {label}: .* \| {equation.verdict.value} \|", page, re.MULTILINE)


def test_the_command_writes_both(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gallery_module, "SUBJECTS", {"Any": (DERIVATIONS["lars_rate"],)})
    monkeypatch.setattr(gallery_module, "EQUATIONS", {"25": EQUATIONS["25"]})
    gallery_module.main(str(tmp_path / "theory"))
    assert (tmp_path / "theory" / "statements.md").read_text(encoding="utf-8").startswith("# What")
    assert "derivations.md and statements.md" in capsys.readouterr().out


def test_a_wrong_step_stops_it(monkeypatch):
    good = DERIVATIONS["bend"]
    wrong = dataclasses.replace(good.steps[0], rhs=2 * good.steps[0].rhs)
    bad = dataclasses.replace(good, make_steps=lambda: (wrong,))
    monkeypatch.setattr(gallery_module, "EQUATIONS", {})
    monkeypatch.setattr(gallery_module, "SUBJECTS", {"Any": (bad,)})
    with pytest.raises(ValueError, match=r"^step 1 of bend does not check: The line of equation 4"):
        gallery_module.render(check=True)
    assert "Where the" in gallery_module.render()


def test_the_examples_of_the_overview_run(capsys):
    text = (PAGES / "index.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    shown = capsys.readouterr().out
    assert "Computed(value=" in shown
    assert all(rule in shown for rule in names["theory"].RULES)


def test_the_site_has_the_pages():
    text = (PAGES.parents[1] / "mkdocs.yml").read_text(encoding="utf-8")
    pages = re.findall(r": (\S+\.md)$", text, re.MULTILINE)
    assert {"theory/statements.md", "theory/derivations.md", "reference/theory.md"} <= set(pages)
    # A tutorial is a script, which the site's build runs.
    sources = [page.replace(".md", ".py") if "tutorials/" in page else page for page in pages]
    assert [page for page in sources if not (PAGES.parent / page).is_file()] == []
