"""Without their extensions the laws are the paper's corrected equations, and each extension fades.

The corrected form is `EQUATIONS[label].derived`, worked out by its own steps. An extension is
a symbol at first, so that the whole formula is in play, then goes to the value of its absence.
"""

import inspect

import pytest
import sympy
from sympy import Rational, S, Symbol, oo

import theory
from theory import EQUATIONS

# Points at which two expressions are compared: the law's own arguments.
POINT = {
    "lr": Rational(1, 7),
    "n": S(12),
    "sigma": Rational(5, 3),
    "a": Rational(9, 4),
    "h": Rational(9, 2),
    "s_w": Rational(4, 3),
    "s_g": Rational(2, 7),
    "beta": Rational(1, 5),
    "curvature": Rational(3, 2),
    "size": S(1000),
    "scale": Rational(5, 3),
}
LAWS = {
    "expected_abs_gradient": ("n", "sigma"),
    "expected_abs_step": ("lr", "n", "sigma"),
    "expected_loss_decrease": ("lr", "n", "sigma"),
    "expected_abs_distance": ("a", "n", "sigma"),
    "edgeworth_abs_gradient": ("n", "sigma"),
    "lars_rate": ("n", "s_w", "sigma"),
    "stationary_abs_distance": ("lr", "n", "sigma", "curvature"),
    "stationary_distance_deviation": ("lr", "n", "sigma", "curvature"),
    "ratio_mean": ("s_w", "s_g"),
}
# Where absence is a limit of another kind: with no weight decay the mean of |w/g| is infinite, and
# a cut makes it finite whatever the decay.
# A finite layer comes with factorials of its size: see test_dynamics.
ELSEWHERE = {("ratio_mean", "cut"), ("ratio_mean", "beta"), ("lars_rate", "size")}


def arguments(names):
    return {name: POINT[name] for name in names}


def number(value):
    return sympy.N(value, 40)


def extensions():
    for name, own in LAWS.items():
        for parameter in inspect.signature(getattr(theory, name)).parameters.values():
            if parameter.name in own or isinstance(parameter.default, str):
                continue
            if (name, parameter.name) not in ELSEWHERE:
                yield name, parameter.name, sympy.sympify(parameter.default)


@pytest.mark.parametrize(
    ("label", "law"),
    [
        ("4", lambda p: theory.expected_abs_gradient(p["n"], p["sigma"])),
        ("6", lambda p: theory.expected_abs_step(p["lr"], p["n"], p["sigma"])),
        (
            "8",
            lambda p: theory.expected_loss_decrease(p["lr"], p["n"], p["sigma"], curvature=p["h"]),
        ),
        ("28", lambda p: theory.expected_abs_distance(p["a"], p["n"], p["sigma"])),
        ("20", lambda p: theory.rule_limit("mclr-absolute", p["s_w"], p["s_g"])),
        ("22", lambda p: theory.rule_limit("mclr-ratio", p["s_w"], p["s_g"], p["beta"])),
    ],
)
def test_the_papers_corrected_form(label, law):
    # `derived` calls the laws themselves, so what they must be is written out here.
    p = POINT
    size = sympy.sqrt(2 / sympy.pi) * p["sigma"] / sympy.sqrt(p["n"])
    written = {
        "4": size,
        "6": p["lr"] * size,
        "8": p["lr"] * p["sigma"] ** 2 / p["n"] * (1 - p["lr"] * p["h"] / 2),
        "28": size / (2 * p["a"]),
        "20": p["s_w"] / p["s_g"],
        "22": p["s_w"] / sympy.sqrt(p["s_g"] ** 2 + (p["beta"] * p["s_w"]) ** 2),
    }
    assert number(law(p)) == pytest.approx(number(written[label]), rel=1e-30)
    derived = EQUATIONS[label].derived
    corrected = derived.subs({symbol: POINT[symbol.name] for symbol in derived.free_symbols})
    assert number(law(POINT)) == pytest.approx(number(corrected), rel=1e-30)
    # What is printed is another number, or this would not tell the two apart.
    printed = EQUATIONS[label].printed
    if label in ("4", "6", "28"):
        values = {symbol: POINT[symbol.name] for symbol in printed.free_symbols}
        assert abs(number(printed.subs(values)) / number(corrected) - 1) > 0.4


@pytest.mark.parametrize(("name", "extension", "absent"), list(extensions()))
def test_an_extension_fades(name, extension, absent):
    law, own = getattr(theory, name), arguments(LAWS[name])
    plain = number(law(**own))
    symbol = Symbol(extension, positive=True)
    # The extension works through what goes with it, such as decay through a minimum away from 0.
    beside = {"population": {}, "weight_decay": {}, "minimum": {"weight_decay": Rational(1, 50)}}
    more = beside.get(extension, {})
    general = law(**own, **more, **{extension: symbol})
    if more:
        plain = number(law(**own, **more))

    def at(value):
        return number(general.subs(symbol, value))

    if absent is oo:
        near, far = S(10) ** 24, S(13)
    elif absent == 1:
        near, far = 1 + Rational(1, 10**24), Rational(3, 2)
    else:
        near, far = Rational(1, 10**24), Rational(1, 3)
    assert at(near) == pytest.approx(plain, rel=1e-20)
    assert abs(at(far) / plain - 1) > 1e-4
