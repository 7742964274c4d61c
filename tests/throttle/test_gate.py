"""Gate: order, cancellation, deadlines, and that nothing is left behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing
from support.rows import each_row

from prefect_http import ThrottleTimeout
from prefect_http._throttle.gate import Gate
from prefect_http._throttle.known_limit import KnownLimit
from prefect_http._throttle.limiter import Limiter
from prefect_http._throttle.ticket import Ticket


def new_gate(max_in_flight: int = 1, max_wait: float = float("inf"), early_probe: bool = False) -> Gate:
    """Return a gate that lets out so many requests at a time, and learns nothing before a rejection."""
    return Gate(
        Limiter(max_in_flight=max_in_flight, slow_start=False, early_probe=early_probe), max_wait, anyio.current_time
    )


def idle(gate: Gate) -> bool:
    """Return whether no request is under way or waiting."""
    return (gate.limiter.in_flight, gate.waiting) == (0, 0)


def route() -> str:
    """Return a route."""
    return "GET /"


class Crowd:
    """Tasks that queue at a gate.

    Attributes:
        tickets: the tickets of the tasks that have been let out, in that order.
        failures: the messages of those that have failed.
        scopes: the cancel scopes around the waits.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.tickets: dict[int, Ticket] = {}
        self.failures: dict[int, str] = {}
        self.scopes: dict[int, anyio.CancelScope] = {}

    async def enter(self, number: int, seconds: float = float("inf")) -> None:
        """Queue, with a deadline in so many seconds."""
        with anyio.move_on_after(seconds) as self.scopes[number]:
            try:
                self.tickets[number] = self.gate.enter_nowait(route) or await self.gate.queue(route)
            except ThrottleTimeout as error:
                self.failures[number] = str(error)


async def settle() -> None:
    """Let all other tasks run until they wait."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_free_gate_is_passed_at_once() -> None:
    """A request that may leave does not wait, not even for one turn of the event loop."""
    gate = new_gate()
    ticket = gate.enter_nowait(route)
    assert ticket is not None
    assert not ticket.has_waited
    assert gate.enter_nowait(route) is None
    gate.answered(ticket, None)
    assert idle(gate)


@pytest.mark.anyio
async def test_first_come_first_served() -> None:
    """Requests leave in the order in which they came."""
    crowd = Crowd(gate := new_gate())
    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(crowd.enter, number)
            await settle()
        assert gate.waiting == 4
        for number in range(5):
            assert list(crowd.tickets) == list(range(number + 1))
            assert crowd.tickets[number].has_waited is (number > 0)
            gate.answered(crowd.tickets[number], None)
            await settle()
    assert idle(gate)


@pytest.mark.anyio
async def test_newcomer_does_not_overtake() -> None:
    """A request that comes while others wait queues behind them, even if a place has just become free."""
    crowd = Crowd(gate := new_gate())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crowd.enter, 0)
        await settle()
        tasks.start_soon(crowd.enter, 1)
        await settle()
        gate.answered(crowd.tickets[0], None)
        tasks.start_soon(crowd.enter, 2)
        await settle()
        assert list(crowd.tickets) == [0, 1]
        gate.answered(crowd.tickets[1], None)
        await settle()
        gate.answered(crowd.tickets[2], None)


@pytest.mark.anyio
@each_row("cancelled", [[1], [2], [3], [1, 2], [2, 3], [1, 2, 3]])
async def test_cancelled_waiter_leaves_no_gap(cancelled: list[int]) -> None:
    """If requests in the queue are cancelled, even its head, the others go on in order, and nothing is left behind."""
    crowd = Crowd(gate := new_gate())
    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(crowd.enter, number)
            await settle()
        for number in cancelled:
            crowd.scopes[number].cancel()
        await settle()
        served: list[int] = []
        while len(served) < len(crowd.tickets):
            number = list(crowd.tickets)[len(served)]
            served.append(number)
            gate.answered(crowd.tickets[number], None)
            await settle()
    assert served == [number for number in range(5) if number not in cancelled]
    assert idle(gate)


@pytest.mark.anyio
async def test_waiter_that_is_cancelled_as_it_is_let_out_passes_its_turn_on() -> None:
    """If a request is cancelled at the moment that it is let out, the next one leaves."""
    crowd = Crowd(gate := new_gate())
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(crowd.enter, number)
            await settle()
        crowd.scopes[1].cancel()
        gate.answered(crowd.tickets[0], None)
        await settle()
        assert list(crowd.tickets) in ([0, 2], [0, 1])
        gate.answered(crowd.tickets[list(crowd.tickets)[-1]], None)
        await settle()
        if 1 in crowd.tickets:
            gate.answered(crowd.tickets[2], None)
    assert idle(gate)


@pytest.mark.trio
async def test_closed_gate_lets_one_out_and_then_the_others(autojump_clock: trio.testing.MockClock) -> None:
    """After a rejection, all wait for its Retry-After; then one leaves, and its answer opens the gate."""
    crowd = Crowd(gate := new_gate(max_in_flight=3))
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(crowd.enter, number)
            await settle()
        await trio.sleep(0.1)
        gate.answered(crowd.tickets[0], None)
        gate.rejected(crowd.tickets[1], None, 5.0, is_doubtful=False)
        gate.answered(crowd.tickets[2], None)
        await settle()
        assert sorted(crowd.tickets) in ([0, 1, 2], [0, 1, 2, 3])
        for ticket in list(crowd.tickets.values())[3:]:
            gate.answered(ticket, None)
        waiting = gate.waiting
        await trio.sleep(4.9)
        assert gate.waiting == waiting
        await trio.sleep(1)
        assert gate.waiting == waiting - 1
        probe = crowd.tickets[max(crowd.tickets)]
        assert probe.is_probe
        assert 5.1 <= probe.sent_at <= 5.1 + 0.25
        gate.answered(probe, None)
        await trio.sleep(60)
        while gate.waiting or gate.limiter.in_flight:
            for ticket in crowd.tickets.values():
                if ticket.is_out:
                    gate.answered(ticket, None)
            await trio.sleep(60)
    assert idle(gate)


@pytest.mark.trio
async def test_next_probe_follows_one_that_is_cancelled_or_not_answered(autojump_clock: trio.testing.MockClock) -> None:
    """The next request leaves as soon as a probe is cancelled, or if it is not answered within a second."""
    crowd = Crowd(gate := new_gate(max_in_flight=5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.enter, 0)
        await settle()
        gate.rejected(crowd.tickets[0], None, 2.0, is_doubtful=False)
        for number in range(1, 4):
            nursery.start_soon(crowd.enter, number)
            await settle()
        await trio.sleep(2.5)
        assert list(crowd.tickets) == [0, 1]
        gate.dropped(crowd.tickets[1], has_failed=False)
        await settle()
        assert list(crowd.tickets) == [0, 1, 2]
        await trio.sleep(0.9)
        assert list(crowd.tickets) == [0, 1, 2]
        await trio.sleep(0.2)
        assert list(crowd.tickets) == [0, 1, 2, 3]
        gate.answered(crowd.tickets[3], None)
        gate.answered(crowd.tickets[2], None)
    assert idle(gate)


@pytest.mark.trio
async def test_request_that_cannot_leave_in_time_fails_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """If the gate closes beyond a request's deadline, the request fails at once, queued or new; the others wait."""
    crowd = Crowd(gate := new_gate(max_in_flight=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.enter, 0)
        await settle()
        for number, seconds in ((1, 10), (2, 100), (3, 30), (4, float("inf"))):
            nursery.start_soon(crowd.enter, number, seconds)
            await settle()
        gate.rejected(crowd.tickets[0], None, 60.0, is_doubtful=False)
        await settle()
        assert sorted(crowd.failures) == [1, 3]
        nursery.start_soon(crowd.enter, 5, 20)
        await settle()
        assert sorted(crowd.failures) == [1, 3, 5]
        assert trio.current_time() == 0
        assert crowd.failures[1].startswith("the request was not sent: the server accepts no requests for 60.")
        assert crowd.failures[1].endswith(" UTC (a rejection), and the deadline is in 10.0 s")
        await trio.sleep(61)
        assert list(crowd.tickets) == [0, 2]
        gate.answered(crowd.tickets[2], None)
        await trio.sleep(61)
        gate.answered(crowd.tickets[4], None)
    assert idle(gate)


@pytest.mark.trio
async def test_max_wait(autojump_clock: trio.testing.MockClock) -> None:
    """A request waits in the queue for max_wait at most, and fails at once if the gate is closed for longer."""
    crowd = Crowd(gate := new_gate(max_wait=10))
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(crowd.enter, number)
            await settle()
            await trio.sleep(1)
        await trio.sleep(7.5)
        assert crowd.failures == {}
        await trio.sleep(1)
        assert list(crowd.failures) == [1]
        await trio.sleep(1)
        assert list(crowd.failures) == [1, 2]
        assert crowd.failures[1] == "the request was not sent: it has waited in the throttle's queue for max_wait, 10 s"
        gate.rejected(crowd.tickets[0], None, 11.0, is_doubtful=False)
        nursery.start_soon(crowd.enter, 3)
        await settle()
        assert crowd.failures[3].endswith(" UTC (a rejection), and max_wait ends in 10.0 s")
    assert idle(gate)


@pytest.mark.trio
async def test_max_wait_ends_behind_a_request_that_goes_first(autojump_clock: trio.testing.MockClock) -> None:
    """It ends on time for each request, although one that came later goes first."""
    crowd = Crowd(gate := new_gate(max_wait=10))
    failed: dict[str, float] = {}

    async def wait(name: str, *, goes_first: bool) -> None:
        try:
            await gate.queue(route, goes_first=goes_first)
        except ThrottleTimeout:
            failed[name] = trio.current_time()

    async with trio.open_nursery() as nursery:
        await crowd.enter(0)
        nursery.start_soon(partial(wait, "early", goes_first=False))
        await trio.sleep(5)
        nursery.start_soon(partial(wait, "late", goes_first=True))
    assert failed == {"early": 10.0, "late": 15.0}


@pytest.mark.trio
async def test_max_wait_ends_if_the_deadline_is_moved(autojump_clock: trio.testing.MockClock) -> None:
    """A caller that moves its deadline to later still waits for max_wait at most."""
    crowd = Crowd(gate := new_gate(max_wait=10))
    async with trio.open_nursery() as nursery:
        await crowd.enter(0)
        nursery.start_soon(crowd.enter, 1, 5)
        await trio.sleep(4)
        crowd.scopes[1].deadline = 100
    assert (list(crowd.failures), trio.current_time()) == ([1], 10.0)
    assert gate.waiting == 0


@pytest.mark.trio
async def test_max_wait_ends_behind_a_probe(autojump_clock: trio.testing.MockClock) -> None:
    """If the wait ends while a probe is in flight, the message says why the gate is closed."""
    crowd = Crowd(gate := new_gate(max_in_flight=2, max_wait=0.5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.enter, 0)
        await settle()
        gate.rejected(crowd.tickets[0], None, None, is_doubtful=False, reason="429 without Retry-After")
        for number in (1, 2):
            nursery.start_soon(crowd.enter, number)
            await settle()
        await trio.sleep(1)
        assert crowd.failures[2].endswith("for max_wait, 0.5 s; the gate is closed (429 without Retry-After)")
        gate.answered(crowd.tickets[1], None)
    assert idle(gate)


@pytest.mark.trio
async def test_early_probe_may_save_requests_with_little_time(autojump_clock: trio.testing.MockClock) -> None:
    """As long as an early probe may open the gate, no request fails because of its deadline."""
    crowd = Crowd(gate := new_gate(max_in_flight=2, early_probe=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.enter, 0)
        await settle()
        gate.rejected(crowd.tickets[0], None, 60.0, is_doubtful=False)
        for number in (1, 2):
            nursery.start_soon(crowd.enter, number, 10)
            await settle()
        await trio.sleep(0.5)
        assert list(crowd.tickets) == [0, 1]
        assert crowd.failures == {}
        gate.rejected(crowd.tickets[1], None, 60.0, is_doubtful=False)
        await settle()
        assert list(crowd.failures) == [2]
    assert idle(gate)


@pytest.mark.trio
async def test_deadlines_of_requests_that_have_left_are_swept(autojump_clock: trio.testing.MockClock) -> None:
    """Requests with deadlines that come and go do not leave a growing list behind."""
    crowd = Crowd(gate := new_gate())
    most = 0
    async with trio.open_nursery() as nursery:
        for number in (0, 1):
            nursery.start_soon(crowd.enter, number)
            await settle()
        for number in range(2, 100):
            nursery.start_soon(crowd.enter, number, 1000)
            await settle()
            crowd.scopes[number].cancel()
            await settle()
            most = max(most, len(gate._deadlines))
        for number in (0, 1):
            gate.answered(crowd.tickets[number], None)
            await settle()
    assert 50 < most < 80
    assert gate._deadlines == []
    assert idle(gate)


@pytest.mark.trio
async def test_gate_that_closes_before_the_task_runs(autojump_clock: trio.testing.MockClock) -> None:
    """If the gate closes after a request was let out and before its task runs, the request waits again, as the next."""
    crowd = Crowd(gate := new_gate(max_in_flight=2))
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(crowd.enter, number, 100)
            await settle()
        gate.answered(crowd.tickets[0], None)
        gate.rejected(crowd.tickets[1], None, 5.0, is_doubtful=False)
        await settle()
        assert list(crowd.tickets) == [0, 1]
        assert gate.limiter.in_flight == 0
        await trio.sleep(6)
        assert list(crowd.tickets) == [0, 1, 2]
        gate.answered(crowd.tickets[2], None)
        await trio.sleep(6)
        gate.answered(crowd.tickets[3], None)
    assert idle(gate)


@pytest.mark.trio
async def test_task_that_runs_late(autojump_clock: trio.testing.MockClock) -> None:
    """A known limit counts from when a task runs, not from its turn; until then it is nobody else's turn."""
    limiter = Limiter(max_in_flight=5, known=KnownLimit(1, 1.0, 2))
    crowd = Crowd(gate := Gate(limiter, float("inf"), anyio.current_time))
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(crowd.enter, number)
            await settle()
        autojump_clock.jump(1)
        gate.answered(crowd.tickets[0], None)  # it is the next one's turn, but its task has not run yet
        autojump_clock.jump(9)
        gate.answered(crowd.tickets[1], None)  # two could be sent at once, so it is another one's turn
        autojump_clock.jump(9)
        assert gate.waiting == 1
        await settle()
        assert sorted(crowd.tickets) == [0, 1, 2, 3]
        await trio.sleep(0.99)
        assert sorted(crowd.tickets) == [0, 1, 2, 3]
        await trio.sleep(0.02)
        for number in range(2, 5):
            gate.answered(crowd.tickets[number], None)
    assert idle(gate)


@pytest.mark.trio
@pytest.mark.parametrize("seed", range(5))
async def test_chaos(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Whatever is cancelled, rejected or answered, and when, no task hangs and no ticket is lost."""
    chance = random.Random(seed)
    gate = new_gate(max_in_flight=5)
    ended = 0

    def any_route() -> str:
        return f"GET /{chance.randrange(3)}"

    def answer(ticket: Ticket) -> None:
        gate.answered(ticket, None)

    async def one(end: Callable[[Ticket], None]) -> None:
        nonlocal ended
        with trio.move_on_after(chance.choice([0.05, 1, 1000])):
            try:
                ticket = gate.enter_nowait(any_route) or await gate.queue(any_route)
            except ThrottleTimeout:
                ended += 1
                return
            try:
                await trio.sleep(chance.uniform(0.01, 0.1))
            except trio.Cancelled:
                gate.dropped(ticket, has_failed=False)
                raise
            end(ticket)
        ended += 1

    def reject(ticket: Ticket) -> None:
        gate.rejected(ticket, None, chance.choice([None, 1.0, 3.0]), is_doubtful=chance.random() < 0.3)

    def fail(ticket: Ticket) -> None:
        gate.dropped(ticket, has_failed=True)

    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(one, chance.choice([answer] * 8 + [reject, fail]))
                await trio.sleep(chance.expovariate(30))
    assert ended == 200
    assert idle(gate)


# --- With other processes


@pytest.mark.anyio
async def test_others_may_have_to_know() -> None:
    """on_dispatch is called when a request is sent at once, waits or leaves the queue, and at the end of each."""
    crowd = Crowd(gate := new_gate())
    seen: list[tuple[int, int]] = []
    gate.on_dispatch = lambda: seen.append((gate.waiting, gate.limiter.in_flight))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crowd.enter, 0)
        await settle()
        assert seen == [(0, 1)]  # there was nothing to wait for
        seen.clear()
        tasks.start_soon(crowd.enter, 1)
        await settle()
        assert seen == [(1, 1)]
        gate.answered(crowd.tickets[0], None)
        await settle()
        assert seen == [(1, 1), (0, 1)]
        gate.rejected(crowd.tickets[1], None, 1.0, is_doubtful=False)
        assert seen == [(1, 1), (0, 1), (0, 0)]
    seen.clear()
    gate.follow_others(lambda now: None)
    assert seen == [(0, 0)]


@pytest.mark.anyio
async def test_the_last_answer_is_told() -> None:
    """Also if nothing waits: the others may have to know that it was accepted."""
    gate = new_gate()
    seen: list[int] = []
    gate.on_dispatch = lambda: seen.append(gate.limiter.in_flight)
    ticket = gate.enter_nowait(route)
    assert ticket is not None
    gate.answered(ticket, None)
    assert seen == [1, 0]
    ticket = gate.enter_nowait(route)
    assert ticket is not None
    gate.dropped(ticket, has_failed=False)
    assert seen == [1, 0, 1, 0]


@pytest.mark.anyio
@pytest.mark.parametrize(("seconds", "is_noticed"), [(5.0, False), (60.0, True)])
async def test_another_process_closes_the_gate(seconds: float, is_noticed: bool) -> None:
    """Requests wait, or fail if it is for too long; a long closure is noticed, and says why."""
    crowd = Crowd(gate := new_gate(max_wait=30.0))
    async with anyio.create_task_group() as tasks:
        for number in range(2):
            tasks.start_soon(crowd.enter, number)
            await settle()
        gate.follow_others(lambda now: gate.limiter.close_with_others(now, now + seconds))
        await settle()
        assert len(crowd.failures) == is_noticed
        assert all("another process was rejected" in message for message in crowd.failures.values())
        assert ("another process was rejected" in (gate.notice or "")) is is_noticed
        gate.dropped(crowd.tickets[0], has_failed=False)
        await settle()
        assert gate.waiting == (not is_noticed)
        gate.follow_others(lambda now: gate.limiter.open_with_others(now, now, begins_cycle=True))
        await settle()
        assert len(crowd.tickets) == 2 - is_noticed
