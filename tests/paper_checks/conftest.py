"""A tiny audit: everything real, only small."""

import pytest

from paper_checks.check import Check, Drawing, Judgement
from paper_checks.papers.gao2020.measurements.context import Context
from paper_checks.papers.gao2020.measurements.profile import Profile

TINY = Profile(
    name="quick",
    width=0.05,
    sample=48,
    population=256,
    batches=3,
    entries=400,
    draws=20_000,
    seeds=(0, 1),
    batch_sizes=(8, 16, 64, 256),
    verify=1,
    runs=2,
    epochs=1,
    images=64,
)


@pytest.fixture(scope="session")
def tiny():
    """One context for the whole session, so that the network is measured once."""
    return Context(TINY, "digits")


@pytest.fixture
def fake_check():
    """Makes a check whose measurement is a value, an exception, or what a function does."""

    def make(name="fig2", value=1.0, error=None, kind="figure", draw=False, act=None):
        def measure(context):
            if act is not None:
                act()
            if error is not None:
                raise error
            return {"value": value, "seeds": [7], "samples": 3}

        def judge(measurements):
            return Judgement("holds", 1.0, measurements["value"], "because", (0.5, 1.5), 0.5)

        def picture(measurements):
            return Drawing('<svg role="img"><title>t</title></svg>', "a text", "a caption")

        return Check(
            id=name,
            kind=kind,
            title=f"Title of {name}",
            section="2.1",
            statement="A <statement> & more",
            criterion="value is near 1",
            measure=measure,
            judge=judge,
            draw=picture if draw else None,
            needs_data=False,
        )

    return make
