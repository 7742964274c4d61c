"""Whether doubtful rejections come from a limit: tables and properties, without a clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http._throttle.evidence import Evidence, FaultShare, LimitTest


def share_of(faults: float, answers: int) -> FaultShare:
    """Return a share that has been counted."""
    share = FaultShare()
    share.add_faults(faults - 0.15)
    share.new_answers += answers - 50
    return share


def reject(test: LimitTest, *, counts: bool = True) -> Evidence | None:
    """Weigh a rejection that says nothing for how long."""
    return test.rejected(1.0, sent_at=0.0, retry_after_until=-math.inf, counts=counts)


def accept(test: LimitTest, number: int, *, counts: bool = False) -> None:
    """Weigh accepted requests."""
    for _ in range(number):
        test.accepted(2.0, counts=counts)


# --- The share


@each_row(
    ("counted", "value"),
    [
        ([], 0.003),
        ([(0, 50)], 0.0015),
        ([(1, 50)], 0.0115),
        # Never 0, also if more is taken back than was counted.
        ([(3, 0), (-5, 0)], 0.003),
        # About the last 500 responses: what is older is scaled down.
        ([(49.85, 450)], 0.1),
        ([(49.85, 450), (0, 500)], 0.1 * (500 / 501) ** 500),
        ([(0, 10_000)], 0.0003),
        # At most a half.
        ([(400, 400)], 0.5),
    ],
)
def test_share(counted: list[tuple[float, int]], value: float) -> None:
    """The share is that of the faults among the responses, within its bounds."""
    share = FaultShare()
    for faults, answers in counted:
        share.add_faults(faults)
        share.new_answers += answers
    assert share.value == pytest.approx(value)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(-3, 50)), max_size=5))
def test_the_share_may_be_computed_late(counted: list[tuple[int, int]]) -> None:
    """It makes no difference whether the share is computed after each response, or once after many of them."""
    late, at_once = FaultShare(), FaultShare()
    for answers, faults in counted:
        late.new_answers += answers
        for _ in range(answers):
            at_once.new_answers += 1
            assert 0 < at_once.value <= 0.5
        late.add_faults(faults)
        at_once.add_faults(faults)
    assert late.value == pytest.approx(at_once.value)


# --- The test


@each_row(
    ("share", "rejections"),
    [(share_of(0.15, 50), 2), (share_of(5, 500), 3), (share_of(15, 500), 5), (share_of(50, 500), 8)],
)
def test_rejections_in_a_row(share: FaultShare, rejections: int) -> None:
    """The fewer faults there are, the fewer rejections in a row close the gate; they do not count as faults."""
    before, test = share.value, LimitTest(share)
    for _ in range(rejections - 1):
        assert reject(test, counts=False) is None
    evidence = reject(test, counts=False)
    assert evidence is not None
    assert (evidence.rejected, evidence.accepted) == (rejections, 0)
    assert share.value == before


@pytest.mark.parametrize(("accepted", "closes"), [(0, True), (1, False), (30, False)])
def test_rejections_apart(accepted: int, closes: bool) -> None:
    """Two rejections close a new gate if no accepted request comes between them."""
    test = LimitTest(FaultShare())
    assert reject(test, counts=False) is None
    accept(test, accepted)
    assert (reject(test, counts=False) is not None) is closes


def test_what_is_paid_off_is_forgotten() -> None:
    """After enough accepted requests, the next rejection stands alone."""
    test = LimitTest(FaultShare())
    reject(test, counts=False)
    accept(test, 20)
    reject(test, counts=False)
    evidence = reject(test, counts=False)
    assert evidence is not None
    assert (evidence.rejected, evidence.accepted) == (2, 0)


def test_the_evidence() -> None:
    """The evidence has the counts, the earliest request and the longest Retry-After."""
    test = LimitTest(share_of(5, 500))
    assert test.rejected(1.0, sent_at=5.0, retry_after_until=9.0, counts=False) is None
    accept(test, 2)
    assert test.rejected(3.0, sent_at=4.0, retry_after_until=-math.inf, counts=False) is None
    evidence = test.rejected(4.0, sent_at=6.0, retry_after_until=8.0, counts=False)
    assert evidence == Evidence(3, 2, first_sent_at=4.0, first_at=1.0, last_at=4.0, retry_after_until=9.0)
    evidence.accepted_later, evidence.rejected_later = 4, 1
    assert (evidence.all_accepted, evidence.all_rejected, evidence.accepted_share) == (6, 4, 0.6)
    assert (evidence.accepted_rate(0.5), evidence.accepted_rate(6.0)) == (2.0, 1.0)


def test_what_counts_for_the_share() -> None:
    """Rejections count as faults until they close the gate; then they are taken back, and their number stays."""
    share = FaultShare()
    test = LimitTest(share)
    accept(test, 50, counts=True)
    reject(test)
    assert share.value == pytest.approx(1.15 / 101)
    assert reject(test) is None  # the first one has made it less surprising
    assert reject(test) is not None
    assert share.value == pytest.approx(0.15 / 103)


@each_row("counts", [False, True])
def test_an_accepted_request_that_stands_for_several(*, counts: bool) -> None:
    """It weighs as much as each of those would."""
    states = list[tuple[float, Evidence | None]]()
    for numbers in ([4], [1] * 4):
        share = share_of(5, 500)
        test = LimitTest(share)
        reject(test, counts=False)
        reject(test, counts=False)
        for number in numbers:
            test.accepted(2.0, counts=counts, number=number)
        states.append((share.value, reject(test, counts=False) or reject(test, counts=False)))
    (one, evidence), (several, same) = states
    assert evidence is not None
    assert (evidence.accepted, evidence) == (4, same)
    assert one == pytest.approx(several, rel=1e-12)


@given(st.lists(st.booleans(), max_size=200), st.booleans())
def test_a_limit_is_always_found(history: list[bool], counts: bool) -> None:
    """Whatever came before, 25 rejections in a row close the gate, and accepted requests never do."""
    share = FaultShare()
    test = LimitTest(share)
    for is_accepted in history:
        if is_accepted:
            test.accepted(2.0, counts=counts)
        else:
            reject(test, counts=counts)
        assert 0 < share.value <= 0.5
    assert any(reject(test, counts=counts) is not None for _ in range(25))
