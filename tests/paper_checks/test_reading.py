"""What a check reads is what it declares: at the check, and nowhere else."""

import pytest

from paper_checks.campaign.recorder import Recorder, Unmeasured
from paper_checks.check import Check, Judgement
from paper_checks.ledger.rows import Ledger
from paper_checks.papers.gao2020.claims import high_loss_larger_gradients
from paper_checks.papers.gao2020.figures import fig9
from paper_checks.papers.gao2020.measurements.context import SNAPSHOTS, Context
from paper_checks.papers.gao2020.measurements.profile import profile
from paper_checks.registry import EQUATION_IDS, IDS, build, rows_read
from paper_checks.running.monitor import Silent
from paper_checks.running.runner import perform
from paper_checks.shared import Shared, reads


def check_of(measure):
    return Check(
        *("fig2", "figure", "t", "1", "s", "c"),
        measure=measure,
        judge=lambda measurements: Judgement("holds", 1.0, 1.0, "because"),
        needs_data=False,
    )


def shared(key):
    return lambda context: context.shared(key, lambda context: {"key": key})


@pytest.fixture
def context():
    return Context(profile("quick", "digits"))


def test_a_check_that_reads_what_it_does_not_declare_fails(context):
    own, other = Shared.under("own"), Shared.under("other")
    for measure in (reads(own)(shared("other")), reads()(shared("own")), shared("own")):
        result, _ = perform(check_of(measure), context, Silent())
        assert not result.completed
        assert "is read but not declared" in result.reason
        assert result.verdict == "inconclusive"
    for measure in (reads(own)(shared("own")), reads(own, other)(shared("other"))):
        assert perform(check_of(measure), context, Silent())[0].completed


def test_a_refusal_lasts_as_long_as_the_check(context):
    with pytest.raises(LookupError, match="own is read but not declared; name it in @reads"):
        reads()(shared("own"))(context)
    assert shared("own")(context) == {"key": "own"}


@pytest.mark.parametrize("name", ["snapshot", "exact"])
def test_networks_are_no_way_round(tiny, name):
    tiny.exact(0)
    with pytest.raises(LookupError, match="is read but not declared"):
        reads()(getattr(Context, name))(tiny)
    reads(SNAPSHOTS)(lambda context: {"samples": context.snapshot(0).samples})(tiny)


def test_a_key_is_the_whole_of_it_or_what_comes_before_a_dash(context):
    assert reads(Shared.under("a"))(shared("a-epochs"))(context)
    with pytest.raises(LookupError):
        reads(Shared.under("a"))(shared("ab"))(context)


def test_what_a_measurement_is_made_of_is_its_own_affair(context):
    own = Shared.under("own")
    measure = reads(own)(lambda context: context.shared("own", shared("other")))
    assert measure(context) == {"key": "other"}


def test_a_borrowed_measure_may_read_no_more_than_the_borrower(context):
    borrowed = reads(Shared.under("own"))(shared("own"))
    assert reads(Shared.under("own"))(borrowed)(context)
    with pytest.raises(LookupError):
        reads(Shared.under("more"))(borrowed)(Context(profile("quick", "digits")))
    assert build("claim-high-loss-larger-gradients").reads == build("fig9").reads
    assert high_loss_larger_gradients.measure.reads == (fig9.DISCARDED_BATCHES,)


class AskedError(Exception):
    """Instead of a measurement."""


@pytest.mark.parametrize("name", [name for name in IDS if name not in EQUATION_IDS])
def test_what_it_asks_for_first_is_declared_and_what_declares_asks(name, context, monkeypatch):
    def once(self, key, make):
        raise AskedError(key)

    monkeypatch.setattr(Context, "_once", once)
    check = build(name)
    if not check.reads:
        assert name in ("fig6", "fig15")
        check.measure(context)
        return
    with pytest.raises(AskedError):
        check.measure(context)


@pytest.mark.parametrize("name", [name for name in IDS if name not in EQUATION_IDS])
def test_the_ledgers_rows_are_those_that_it_reads_first(name, tmp_path):
    """On an empty ledger the first rows that a check asks for are missing."""
    recorder = Recorder(Ledger(tmp_path))
    context = Context(profile("cifar", "cifar10"), "cifar10", ledger=recorder)
    if not rows_read(name):
        return
    with pytest.raises(Unmeasured) as error:
        build(name).measure(context)
    assert error.value.sweep == rows_read(name)[0]


def test_the_ledger_is_of_the_same_checks_as_its_locked_criteria():
    from paper_checks.ledger import lock

    # Locked before it was seen that the ledger has no large batch for them.
    undecidable = {"claim-mclr-falls-behind", "claim-layer-wise-necessary"}
    assert {name for name in IDS if rows_read(name)} == set(lock.read()) - undecidable
