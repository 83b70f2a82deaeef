"""What no law takes, in every argument of every law: an error that names it and says what to do."""

import inspect
import re

import numpy as np
import pytest
import scipy.stats
import sympy

import theory
from theory import numeric

NAN = float("nan")
NOT_NUMBERS = [NAN, sympy.nan, 1j, sympy.I, "many", "", None, [1, 2], np.ones(2), {}, object(),
               b"x", True]  # fmt: skip
LAWS = [
    name
    for name in theory.__all__
    if inspect.isfunction(getattr(theory, name)) and name not in {"judge", "numeric"}
]
f, v = sympy.symbols("f v")
# Values that every law takes, by the name of the argument; some laws need others.
TAKEN = {
    "n": 2, "sigma": 1, "mu": 0.5, "population": 100, "tau": 0.5, "mask": 0.1, "common": 0.1,
    "lr": 0.1, "momentum": 0.5, "curvature": 1, "on": "batch", "a": 1, "s_w": 1, "s_g": 1,
    "beta": 0.1, "gamma": 0.5, "size": 100, "share": 0.25, "weight_decay": 0.1, "minimum": 1,
    "x": 0.3, "h": 1, "hessian": [[2, 1], [1, 2]], "density": 0.3, "r": 1, "s_h": 1, "w": 1, "b": 1,
    "s_x": 1, "mean": 0.1, "slope": 1, "q": 0.5, "cut": sympy.oo, "rule": "lars", "kurtosis_w": 3,
    "kurtosis_g": 3, "tail_w": 2, "tail_g": 2, "landau": 1, "scale": 1, "degrees": 3, "alpha": 1.5,
    "skew": 0.1, "skewness": 0.1, "kurtosis": 0.1, "shape": 1, "level": 0.95, "g": 1,
    "sample": [1, 2, 3], "source": [1.0, 2.0, 3.0], "phi": lambda t: sympy.exp(-(t**2) / 2),
    "p": 0.5, "factor": 2, "spread_a": 0.5, "spread": 0.5, "exponent": 1, "s_lw": 1, "rho": 0.1,
    "sigmas": [1, 2], "mus": [0, 1], "covariance": [[2, 1], [1, 2]], "gradient": [1, 2],
    "loss": f**2, "outputs": [2 * v], "parameter": v, "symbols": [f],
}  # fmt: skip
OTHERS = {
    "rule_estimate": {"w": np.arange(1.0, 50.0), "g": np.arange(2.0, 51.0)},
    "lars_rate": {"mu": 0, "beta": 0},
    "rule_limit_of": {"w": scipy.stats.norm(), "g": scipy.stats.laplace()},
    "lars_ratio_mean": {"w": [1, 2], "g": [3, 4]},
    "percent_delta_ratio_mean": {"w": [1, 2], "g": [3, 4]},
    "ratio_quantile_bounds": {"w": [1, 2], "g": [3, 4]},
}
# Arguments of one law that take arrays, while other laws take numbers under the same name.
ARRAYS = {
    "shortcut_entries_probability": ("h", "sigma", "mu"),
    "shortcut_entries_quantile": ("h", "sigma", "mu"),
}
# Where a value of the list is taken after all.
ALLOWED = {
    "source": lambda value: not isinstance(value, str | bytes | dict) and np.size(value) > 0,
    "sample": lambda value: isinstance(value, list | np.ndarray),
    "outputs": lambda value: isinstance(value, list | np.ndarray),
    "w": lambda value: isinstance(value, list | np.ndarray),
    "g": lambda value: isinstance(value, list | np.ndarray),
    "sigmas": lambda value: isinstance(value, list | np.ndarray),
    "mus": lambda value: isinstance(value, list | np.ndarray),
    "gradient": lambda value: isinstance(value, list | np.ndarray),
}


@pytest.mark.parametrize("name", LAWS)
def test_what_is_no_real_number_is_named(name):
    law = getattr(theory, name)
    taken = {k: (TAKEN | OTHERS.get(name, {}))[k] for k in inspect.signature(law).parameters}
    law(**taken)
    for argument, value in ((a, v) for a in taken for v in NOT_NUMBERS):
        if value is None and inspect.signature(law).parameters[argument].default is None:
            continue
        if argument in ARRAYS.get(name, ()) and isinstance(value, list | np.ndarray):
            continue
        if argument in ALLOWED and ALLOWED[argument](value) and value is not None:
            continue
        # What two arguments must share may be said of the other one.
        named = "|".join(taken) if argument in ALLOWED else argument
        with pytest.raises(ValueError, match=rf"^({named})\S* (is|has|and) .*; ") as found:
            law(**taken | {argument: value})
        assert len(str(found.value)) < 400


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: numeric("sigma"), r"^expression is 'sigma'; it must be a sympy expression"),
        (lambda: numeric(sympy.Eq(f, v)), r"^expression is .*; it must be a sympy expression"),
        (lambda: numeric(f, "f"), r"^symbols is .*'f'.*; it must hold sympy symbols"),
        (lambda: numeric(f + v, f), r"^symbols lacks v; pass every free symbol"),
        (lambda: numeric(f)(1, 2), r"^2 arrays were given; pass one for each of: f"),
        (lambda: numeric(theory.symbols.sigma)([1.0, -2.0]), r"^sigma is -2.0; .* at least 0"),
    ],
)
def test_numeric_says_what_is_wrong(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_compiled_above_the_population_there_is_no_value():
    n, population = theory.symbols.n, theory.symbols.N
    law = numeric(theory.expected_abs_gradient(n, 1, population=population), n, population)
    found = law([99, 100, 101, NAN], 100)
    assert found[0] > found[1] == 0
    assert np.isnan(found[2:]).all()


def test_a_saddle_has_no_stable_gamma():
    for hessian in ([[1, 2], [2, 1]], sympy.Matrix([[1, sympy.sqrt(2)], [sympy.sqrt(2), 1]]),
                    np.array([[1.0, 2.0], [2.0, 1.0]])):  # fmt: skip
        with pytest.raises(ValueError, match=r"^hessian is .*; it must be positive definite"):
            theory.cblr_largest_gamma(hessian)
    assert theory.cblr_largest_gamma(np.ones((2, 2))) == pytest.approx(1)


def test_numpy_numbers_are_numbers():
    law = theory.expected_abs_gradient
    assert law(np.int64(4), np.int8(1)) == law(4, 1)
    assert law(4, np.float32(0.1)) == law(4, float(np.float32(0.1)))
    assert theory.expected_abs_mean([-1.0, 1.0], np.int32(2)).value == 0.5
    assert theory.finite_population_abs_mean(np.arange(3), np.float64(2)) == 1
    with pytest.raises(ValueError, match=re.escape("n is 2.5; it must be a whole number: a batch")):
        theory.expected_abs_mean([1.0], 2.5)
