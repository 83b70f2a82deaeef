"""The gallery is generated, whole, and refuses a step that does not check."""

import dataclasses

import pytest

from theory import DERIVATIONS, EQUATIONS
from theory import gallery as gallery_module


def test_everything_is_on_the_page(tmp_path):
    page = gallery_module.write(tmp_path / "new" / "page.md").read_text(encoding="utf-8")
    for label, equation in EQUATIONS.items():
        assert f"## Equation {label}: " in page
        assert equation.latex() in page
        assert all(step.latex() in page for step in equation.steps)
    for derivation in DERIVATIONS.values():
        assert f"## {derivation.title}\n" in page
        assert all(f"`{law}`" in page for law in derivation.laws)
        assert all(step.latex() in page for step in derivation.steps)
        assert all(statement.text in page for statement in derivation.statements)
    assert page.count("$$") % 2 == 0


def test_a_wrong_step_stops_it(monkeypatch):
    good = DERIVATIONS["bend"]
    wrong = dataclasses.replace(good.steps[0], rhs=2 * good.steps[0].rhs)
    bad = dataclasses.replace(good, make_steps=lambda: (wrong,))
    monkeypatch.setattr(gallery_module, "EQUATIONS", {})
    monkeypatch.setattr(gallery_module, "DERIVATIONS", {"bend": bad})
    with pytest.raises(ValueError, match=r"^step 1 of bend does not check: The line of equation 4"):
        gallery_module.render(check=True)
    assert "Where the" in gallery_module.render()
