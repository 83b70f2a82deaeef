"""What goes into verdicts beside the judges, which `test_deciding.py` tries: sketches, readings."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from paper_checks.papers.gao2020.figures import figure_check

rng = np.random.default_rng(0)


def judged(name, measurements):
    return figure_check(name).judge(measurements).verdict


def drawn(name, measurements):
    """The picture of `measurements`: whole and with its text."""
    found = figure_check(name).draw(measurements)
    root = ET.fromstring(found.svg)
    assert root.get("role") == "img"
    assert found.alt in [child.text for child in root]
    ids = re.findall(r'\bid="([^"]+)"', found.svg)
    assert len(ids) == len(set(ids))
    assert found.caption
    return found


@pytest.mark.parametrize("name", ["fig6", "fig15"])
def test_a_sketch_is_an_illustration_only_if_it_is_right(name, tiny):
    right = figure_check(name).measure(tiny)
    assert judged(name, right) == "illustration"
    drawn(name, right)
    if name == "fig6":
        # Equation 8's decrease drawn as if it were exact; a step uphill; another rate.
        for key, value in (
            ("loss_after", right["loss_before"] - right["lr"] * right["gradient"] ** 2),
            ("after", 2 * right["w"] - right["after"]),
            ("lr", 2 * right["lr"]),
        ):
            assert judged(name, right | {key: value}) == "inconclusive"
    else:
        # A parabola of twice the curvature, and one that opens downwards.
        a, d = right["a"], np.array(right["distance"])
        wrong = np.abs(np.array(right["error"]) + a * d**2)
        assert judged(name, right | {"a": 2 * a, "error": wrong.tolist()}) == "inconclusive"
        assert judged(name, right | {"a": -a}) == "inconclusive"


def test_the_rate_is_chosen_on_other_seeds_than_it_is_read_on():
    """A rate that is lucky on the choosing seeds alone gets its bad luck back."""
    from paper_checks.papers.gao2020.measurements.training import best

    lucky, steady = {"accuracy": [1.0, 0.1] * 3}, {"accuracy": [0.6, 0.6] * 3}
    assert best([lucky, steady])[1] == [0.1, 0.1, 0.1]


def test_the_fluctuation_is_of_the_noise_and_not_of_the_trend():
    from paper_checks.papers.gao2020.measurements.training import fluctuation

    steep, noise = np.linspace(9, 0, 4000), rng.normal(0, 0.3, 4000)
    found = fluctuation(steep + noise)["absolute"]
    # The root mean square of 2000 deviations: a relative standard error of 3 per cent.
    assert found == pytest.approx(0.3, rel=0.1)
    assert fluctuation([1.0] * 5) == {"absolute": None, "relative": None}


def test_the_moments_of_outer_products_are_those_of_their_entries():
    from scipy.stats import kurtosis

    from paper_checks.papers.gao2020.figures.fig_gaussian import moments

    generator = np.random.default_rng(0)
    a, delta = generator.exponential(size=(500, 3)), generator.standard_normal((500, 2))
    direct = np.einsum("no,nk->nok", delta, a).reshape(500, -1)
    found = moments(a, delta)
    assert found["excess"][2] == pytest.approx(np.median(kurtosis(direct, axis=0)), rel=1e-9)
    assert found["sigma"] == pytest.approx(direct.std(axis=0).mean(), rel=1e-9)


def test_loss_and_gradient_of_real_samples_go_together_until_shuffled():
    """The measurement itself: shuffling the samples takes the correlation away."""
    import torch

    from paper_checks.papers.gao2020.figures import fig9

    losses = torch.linspace(0, 3, 400)
    norms = losses.exp()
    assert fig9._rank(losses, norms) == pytest.approx(1)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    # Three standard errors of a rank correlation of 400.
    assert abs(fig9._rank(losses, norms[order])) < 0.15


@pytest.mark.parametrize("rule", ["lars", "percentdelta"])
def test_the_rules_equal_the_exact_radius_where_they_must(rule):
    from paper_checks.papers.gao2020.claims._special_case import rate

    w = rng.standard_normal(100) * 1e-4
    assert rate(rule, w, 2.0 * w) == pytest.approx(0.5, rel=1e-12)
    assert rate(rule, w, 2.0 * w) != pytest.approx(0.5 * 2**0.5, rel=0.1)
