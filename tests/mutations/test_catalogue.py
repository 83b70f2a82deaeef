"""The list of deliberate errors fits the code as it stands; `python -m tests.mutations` runs it."""

from pathlib import Path

import pytest

from tests.mutations.catalogue import MUTATIONS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.what)
def test_a_mutation_names_one_place_and_tests_that_exist(mutation):
    text = (ROOT / "hessian" / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.before) == 1
    assert mutation.before != mutation.after
    for file in mutation.tests.split():
        assert (ROOT / "tests" / "hessian" / file).exists()


def test_there_are_as_many_as_promised_and_none_twice():
    assert len(MUTATIONS) >= 30
    assert len({(m.file, m.before, m.after) for m in MUTATIONS}) == len(MUTATIONS)
