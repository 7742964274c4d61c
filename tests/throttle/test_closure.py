"""A closure, and the probes that may end it."""

from __future__ import annotations

import math

import pytest
from support.limiters import new_ticket
from support.rows import each_row

from prefect_http._throttle.closure import FIRST_BACKOFF, Closure
from prefect_http._throttle.evidence import Evidence
from prefect_http._throttle.ticket import Ticket


def new_closure(
    *, allows_early_probes: bool = False, backoff: float = FIRST_BACKOFF, is_of_others: bool = False
) -> Closure:
    """Return a closure from 10 until 20."""
    return Closure(
        10.0,
        20.0,
        hit_at=9.0,
        rate=5.0,
        is_low=False,
        teaches=True,
        allows_early_probes=allows_early_probes,
        backoff=backoff,
        is_of_others=is_of_others,
    )


def probe(closure: Closure, sent_at: float) -> Ticket:
    """Let a probe out."""
    ticket = new_ticket(sent_at, has_waited=True, is_probe=True)
    closure.begin_probe(ticket)
    return ticket


def test_one_probe_at_a_time() -> None:
    """A probe leaves at the opening, and the next one when that has ended, or after its lease."""
    closure = new_closure()
    assert (closure.next_probe(1.0), closure.shut_until) == (20.0, 20.0)
    first = probe(closure, 20.5)
    assert (closure.next_probe(1.0), closure.shut_until) == (21.5, -math.inf)
    assert closure.end_probe(first)
    assert (closure.next_probe(1.0), closure.shut_until) == (20.0, 20.0)
    assert not closure.end_probe(first)


def test_a_later_probe_replaces_an_earlier_one() -> None:
    """Only the last probe counts as the one under way."""
    closure = new_closure()
    first, second = probe(closure, 20.0), probe(closure, 21.0)
    assert not closure.end_probe(first)
    assert closure.end_probe(second)


def test_an_early_probe_is_the_only_one() -> None:
    """When an early probe has left, the next probe waits for the opening."""
    closure = new_closure(allows_early_probes=True)
    closure.early_probe_at = 10.5
    assert (closure.next_probe(1.0), closure.shut_until) == (10.5, -math.inf)
    closure.end_probe(probe(closure, 10.5))
    assert (closure.next_probe(1.0), closure.shut_until) == (20.0, 20.0)


def test_only_a_later_opening_counts() -> None:
    """The opening moves to later, never to sooner."""
    closure = new_closure()
    closure.extend(15.0)
    assert closure.until == 20.0
    closure.extend(25.0)
    assert closure.until == 25.0


@pytest.mark.parametrize(
    "expected",
    [[0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0], [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]],
)
def test_backoff(expected: list[float]) -> None:
    """The backoff doubles, from 0.1 s to 10 s; one that is longer from the first doubles up to an hour."""
    closure, backoffs = new_closure(backoff=expected[0]), list[float]()
    for _ in expected:
        backoffs.append(closure.backoff)
        closure.back_off()
    assert backoffs == pytest.approx(expected)
    assert closure.setbacks == len(expected)


@each_row(("is_of_others", "own_until"), [(False, [20.0, 20.0, 25.0]), (True, [-math.inf, -math.inf, 25.0])])
def test_what_others_were_told(*, is_of_others: bool, own_until: list[float]) -> None:
    """The opening is the latest that the server has asked anyone for; what it has asked this process for is apart."""
    closure = new_closure(is_of_others=is_of_others)
    seen = [closure.own_until]
    closure.follow(30.0)
    closure.follow(15.0)
    assert closure.until == 30.0
    seen.append(closure.own_until)
    closure.extend(25.0)
    closure.extend(22.0)
    assert closure.until == 30.0
    assert [*seen, closure.own_until] == own_until


def test_a_probe_is_in_flight() -> None:
    """From the moment that it leaves until it has ended."""
    closure = new_closure()
    assert not closure.is_probing
    ticket = probe(closure, 20.0)
    assert closure.is_probing
    closure.end_probe(ticket)
    assert not closure.is_probing


def test_evidence() -> None:
    """Doubtful rejections and accepted requests add to the evidence; a rejection that is not doubtful settles it."""
    evidence = Evidence(3, 1, first_sent_at=8.0, retry_after_until=25.0)
    closure = Closure(
        10.0, 20.0, hit_at=9.0, rate=5.0, is_low=False, teaches=True, allows_early_probes=False, evidence=evidence
    )
    assert (closure.until, closure.hit_at, closure.accepted_share) == (25.0, 8.0, 2 / 5)
    for sent_at in (7.5, 8.5):
        closure.accepted(new_ticket(sent_at), 12.0)
    closure.rejected(is_doubtful=True, is_late=False)
    closure.rejected(is_doubtful=True, is_late=True)
    assert (evidence.rejected_later, evidence.accepted_later, evidence.last_at) == (1, 1, 12.0)
    assert (evidence.all_rejected, evidence.all_accepted, closure.accepted_share) == (4, 2, 3 / 7)
    closure.rejected(is_doubtful=False, is_late=False)
    closure.rejected(is_doubtful=True, is_late=False)
    assert (closure.evidence, closure.accepted_share) == (None, 1.0)


@each_row(
    ("sent_at", "is_early", "opens", "opens_if_early_ones_may"),
    [(9.0, True, False, False), (10.0, True, False, True), (19.0, True, False, True), (20.0, False, True, True)],
)
def test_which_probes_open(sent_at: float, is_early: bool, opens: bool, opens_if_early_ones_may: bool) -> None:
    """The answer to a probe of this closure opens the gate if the probe left in time, or early probes are allowed."""
    for allows_early_probes, expected in ((False, opens), (True, opens_if_early_ones_may)):
        closure = new_closure(allows_early_probes=allows_early_probes)
        ticket = probe(closure, sent_at)
        assert (closure.is_early(ticket), closure.is_opened_by(ticket)) == (is_early, expected)
