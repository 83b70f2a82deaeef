"""Every law's derivation: it is complete, each step checks, and each altered step fails."""

import dataclasses
import inspect

import pytest
import sympy
from sympy import Rational, S

import theory
from theory import DERIVATIONS, Derivation, Statement

ALL = [
    pytest.param(step, id=f"{name}-{place}")
    for name, derivation in DERIVATIONS.items()
    for place, step in enumerate(derivation.steps)
]


@pytest.mark.parametrize("name", DERIVATIONS)
def test_complete(name):
    derivation = DERIVATIONS[name]
    assert derivation.name == name
    assert derivation.title
    assert derivation.source
    assert derivation.statements
    assert len(derivation.steps) >= 3
    assert derivation.formulas
    for law in derivation.laws:
        assert callable(getattr(theory, law))
        assert law in theory.__all__
    for value in derivation.formulas.values():
        assert isinstance(value, sympy.Basic)
        assert sympy.latex(value)


@pytest.mark.parametrize("step", ALL)
def test_every_step_checks_and_an_altered_one_fails(step):
    assert step.sentence.endswith((".", ":", ",", ".)"))
    assert step.check()
    assert step.latex()
    if step.relation == "=" and step.rhs == 0:
        altered = [dataclasses.replace(step, rhs=S(1) / 100)]
    elif step.relation == "=":
        altered = [dataclasses.replace(step, rhs=step.rhs * r) for r in (Rational(101, 100), -1)]
    elif step.relation == "!=":
        altered = [dataclasses.replace(step, rhs=step.lhs)]
    else:
        altered = [dataclasses.replace(step, lhs=step.rhs, rhs=step.lhs)]
    assert [a.check() for a in altered] == [False] * len(altered)


def test_steps_and_formulas_are_built_once_and_on_demand():
    built = []

    def steps():
        built.append("steps")
        return ()

    derivation = Derivation("x", "X", (), (), "none", lambda: {}, steps)
    assert built == []
    assert derivation.steps is derivation.steps
    assert derivation.formulas is derivation.formulas
    assert built == ["steps"]


def test_the_mapping_cannot_be_written():
    with pytest.raises(TypeError):
        DERIVATIONS["new"] = DERIVATIONS["bend"]


def test_every_public_law_has_a_derivation():
    derived = {law for derivation in DERIVATIONS.values() for law in derivation.laws}
    public = {name for name in theory.__all__ if inspect.isfunction(getattr(theory, name))}
    assert derived == public - {"judge", "numeric"}


def test_firmness():
    with pytest.raises(ValueError, match=r"^rate is ''; an asymptotic statement must have one"):
        Statement("asymptotic", "It tends to something.")
    with pytest.raises(ValueError, match=r"^rate is '1/n'; an asymptotic statement must"):
        Statement("theorem", "It holds.", rate="1/n")
    with pytest.raises(ValueError, match=r"^firmness is 'likely'; it must be one of theorem, "):
        Statement("likely", "It may rain.")
