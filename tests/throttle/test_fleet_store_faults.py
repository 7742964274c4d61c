"""What throttles do that share a store which is away, slow, or loses something, on both backends, in virtual time."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import anyio
import httpx
import pytest
from support.fleet import Process, end, in_use, own_tasks, state_of
from support.memory_store import DeafStore, MemoryStore
from support.timed_transport import KEY, Server, busy
from support.virtual_time import virtual_time_backend

from prefect_http._throttle import fleet_state
from prefect_http._throttle.fleet_state import FleetState, from_text, moved, to_text
from prefect_http._throttle.share import Share
from prefect_http._throttle.store import Stored

pytestmark = pytest.mark.anyio

# What a store knows is not older than this, in seconds, as long as the processes reach it.
LEASE = 1.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run on both backends, in virtual time."""
    return virtual_time_backend(str(request.param))


WARNING = "cannot use Redis; continuing alone, as if this were the only process"
BACK = "Redis can be used now; sharing the rate limit"


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what has been logged that is no debugging."""
    return [record.message for record in caplog.records if record.levelno >= logging.INFO]


async def test_store_away_from_the_beginning(caplog: pytest.LogCaptureFixture) -> None:
    """No request fails or waits; an event and a line in the log say so, and when it is over."""
    store = MemoryStore(error=ConnectionError("it is away"))
    one = Process(store, Server(seconds=0.01))
    with anyio.fail_after(1):
        await one.ask_often(30)
    assert one.kinds == ["alone"]
    assert one.events[0].key == KEY
    assert logged(caplog) == [f"{WARNING}: ConnectionError: it is away"]
    assert {record.levelname for record in caplog.records if record.levelno >= logging.INFO} == {"WARNING"}
    async with in_use(one):
        await anyio.sleep(60)
        store.error = None
        await anyio.sleep(LEASE + 0.1)
        assert one.kinds == ["alone", "shared"]
        assert one.events[1].key == KEY
        assert logged(caplog)[1:] == [BACK]
    await end(store)
    assert len(logged(caplog)) == 2


async def test_store_away_in_the_middle(caplog: pytest.LogCaptureFixture) -> None:
    """Each process goes on with its last share, and takes over what it has missed when the store is back."""
    store = MemoryStore()
    one, two = Process(store, Server(busy(30))), Process(store, Server())
    async with in_use(one, two):
        store.error = ConnectionError("it is away")
        await anyio.sleep(2)
        assert one.kinds == two.kinds == ["alone"]
        assert two.throttle.statistics(KEY).limit == 5
        assert await one.ask() == 429
        await anyio.sleep(2)
        assert two.closed_until is None
        store.error = None
        await anyio.sleep(2)
        assert one.kinds == ["alone", "closed", "shared"]
        assert sorted(two.kinds) == ["alone", "closed", "shared"]
        assert two.closed_until == pytest.approx(one.closed_until, abs=1e-3)
    lost = "cannot use Redis; continuing alone, at the last share of the rate limit: ConnectionError: it is away"
    assert logged(caplog) == [lost, lost, BACK, BACK], "two of each process"
    await end(store)


async def test_store_away_for_many_keys(caplog: pytest.LogCaptureFixture) -> None:
    """There is one line in the log for all keys, and an event for each."""
    store = MemoryStore(error=ConnectionError("it is away"))
    one = Process(store, Server(seconds=5))
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(one.ask, f"http://host{number}/")
            await anyio.sleep(0.01)
        await anyio.sleep(2)
        assert len(logged(caplog)) == 1
        store.error = None
        await anyio.sleep(2)
        assert len(logged(caplog)) == 2
    assert Counter(one.kinds) == {"alone": 20, "shared": 20}
    assert len({event.key for event in one.events}) == 20
    await end(store)


async def test_store_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    """A store that does not answer holds up requests for a second, once."""
    store = MemoryStore(delay=1e6)
    one = Process(store, Server())
    await one.ask()
    assert cast(Server, one.server).sent[0] == pytest.approx(1.0, abs=0.01)
    assert logged(caplog) == [f"{WARNING}: TimeoutError: no answer for 1 s"]
    started = anyio.current_time()
    for _ in range(10):
        await one.ask()
    assert anyio.current_time() - started == pytest.approx(1.0, abs=0.01)
    await end(store)


async def test_store_that_comes_back_while_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    """A process that was alone when it was last used looks again as soon as it is used, one request after the other."""
    store = MemoryStore(error=ConnectionError("it is away"))
    one = Process(store, Server())
    await one.ask()
    await end(store)
    store.error = None
    for _ in range(30):
        await one.ask()
    assert one.kinds == ["alone", "shared"]
    assert len(state_of(store).members) == 1
    await end(store)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no state", "ValueError"),
        ("[2,2,3]", "ValueError"),
        ("null", ""),
        (to_text(FleetState()).replace("[2,", "[3,", 1), "written by another version of prefect_http"),
    ],
    ids=["no JSON", "too short", "null", "another version"],
)
async def test_text_that_is_no_state(text: str, problem: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is left alone, and so is the process, until it is gone."""
    store = MemoryStore()
    one = Process(store, Server())
    async with in_use(one):
        (name,) = store.texts
        store.texts[name] = (99, text)
        await anyio.sleep(1)
        assert one.kinds == ["alone"]
        assert problem in logged(caplog)[0]
        assert store.texts == {name: (99, text)}
        await one.ask()
        store.texts.clear()
        await anyio.sleep(1.1)
        assert one.kinds == ["alone", "shared"]
    await end(store)


@pytest.mark.parametrize("shift", [0.0, -5.0, 1.5])
@pytest.mark.parametrize("when", ["closed", "learned"])
async def test_store_that_loses_everything(when: str, shift: float) -> None:
    """What was known survives in the processes, also if the clock is another one then."""
    store = MemoryStore()
    one = Process(store, Server(*(httpx.Response(200) for _ in range(30)), busy(5)))
    two = Process(store, Server())
    async with in_use(one, two):
        await one.ask_often(31)
        if when == "learned":
            await one.ask()
        await anyio.sleep(LEASE)
        before = state_of(store)
        assert (before.curve is not None) == (when == "learned")
        store.texts.clear()
        store.shift += shift
        await anyio.sleep(LEASE)
        after = state_of(store)
        assert (after.cycle, after.begun_by, after.curve) == (before.cycle, before.begun_by, before.curve)
        assert after.began - before.began == pytest.approx(shift, abs=1e-3)
        if before.closed_until is not None:
            assert after.closed_until == pytest.approx(before.closed_until + shift, abs=1e-3)
        assert set(after.members) == set(before.members)
        third = Process(store, Server())
        async with in_use(third):
            assert third.closed_until == (None if when == "learned" else pytest.approx(one.closed_until, abs=0.01))
            assert (third.throttle.statistics(KEY).rate < math.inf) == (when == "learned")
    await end(store)


@pytest.mark.parametrize("loses", [False, True])
async def test_store_that_loses_what_was_accepted(loses: bool) -> None:
    """The rate that is learned then is not far too low."""
    store = MemoryStore()
    answers = [httpx.Response(200) for _ in range(40)]
    one, two = Process(store, Server(*answers, busy(1))), Process(store, Server(*answers))
    async with in_use(one, two):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.ask_often, 40)
            tasks.start_soon(two.ask_often, 40)
        await anyio.sleep(1)
        if loses:
            store.texts.clear()
            await anyio.sleep(1)
        await one.ask()
        await one.ask()
        assert 10 <= one.throttle.statistics(KEY).rate <= 80
    await end(store)


@pytest.mark.parametrize("shift", [0.0, -5.0, 5.0])
async def test_replica_that_is_behind(shift: float) -> None:
    """If one takes over, the rate that is learned is the same, whatever its clock shows."""
    store = MemoryStore()
    answers = [httpx.Response(200) for _ in range(40)]
    one, two = Process(store, Server(*answers, busy(1))), Process(store, Server(*answers))
    async with in_use(one, two):
        await anyio.sleep(1)
        behind = {name: (version + 100, text) for name, (version, text) in store.texts.items()}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.ask_often, 40)
            tasks.start_soon(two.ask_often, 40)
        await anyio.sleep(1)
        assert state_of(store).accepted == 80
        store.texts = behind
        store.shift += shift
        await anyio.sleep(2)
        assert state_of(store).accepted == 80
        await one.ask()
        await one.ask()
        assert one.throttle.statistics(KEY).rate == pytest.approx(15.1, rel=0.02)
    await end(store)


async def test_store_that_loses_a_closure_of_which_no_other_process_knows() -> None:
    """The process that was told to wait says so again: the gate is closed for all, and opens for all."""
    store = DeafStore()
    one, two = Process(store, Server(busy(2), seconds=0.01), max_in_flight=2), Process(store, Server())
    async with in_use(one, two):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.ask_often, 2)
            await anyio.sleep(0.02)
            ((name, (version, text)),) = store.texts.items()
            known = from_text(text)
            assert known.closed_until is not None
            store.texts[name] = version + 1, to_text(replace(known, closed_until=None, learner=""))
            await anyio.sleep(2.5)
        with anyio.fail_after(5):
            await two.ask()
    assert len(cast(Server, one.server).sent) == 2
    await end(store)


@pytest.mark.parametrize("late", [False, True])
async def test_store_that_loses_a_closure_of_another_process(late: bool) -> None:
    """A gate that another process has closed, and nobody knows of any more, opens when its time is over."""
    store = MemoryStore()
    one = Process(store, Server())
    async with in_use(one):
        (name,) = store.texts
        now = anyio.current_time() + store.shift
        store.listeners[0](99, f"{name} other 0 closed {now + 3} {now} ")
        assert one.closed_until == pytest.approx(anyio.current_time() + 3)
        if late:
            await anyio.sleep(5)
        with anyio.fail_after(5):
            await one.ask()
    assert cast(Server, one.server).sent[0] >= 3.1
    await end(store)


class LockedStore(MemoryStore):
    """A store in which another process is always faster, as long as it is told so.

    Attributes:
        faster: how many times more another process is faster.
    """

    faster = 0

    async def swap(self, name: str, version: int, text: str, seconds: float, news: str) -> Stored:
        """Refuse to swap."""
        if version >= 0 and self.faster > 0:
            self.faster -= 1
            before, stored = self.texts.get(name, (0, ""))
            self.texts[name] = before + 1, stored
        return await super().swap(name, version, text, seconds, news)


@pytest.mark.parametrize(("processes", "trip"), [(8, 0.1), (4, 0.2), (16, 0.02)])
async def test_store_that_is_slow(processes: int, trip: float) -> None:
    """If it answers within a second, however many others ask as well, each process goes on sharing."""
    store, server = MemoryStore(delay=trip / 2), Server(seconds=0.05)
    every = [Process(store, server, rate=20) for _ in range(processes)]
    async with anyio.create_task_group() as tasks:
        for process in every:
            tasks.start_soon(process.ask_often, 600)
        await anyio.sleep(20)
        tasks.cancel_scope.cancel()
    assert {kind for process in every for kind in process.kinds} <= {"closed", "opened"}
    assert 0.85 * 20 * 20 <= len(server.sent) <= 20 * 20 + 1
    await anyio.sleep(10)  # a good-bye takes as long
    await end(store)


async def test_store_that_becomes_faster_and_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others tell seems to come from the future then, and not from a clock that has gone back."""
    moves: list[float] = []

    def move(state: FleetState, ahead: float) -> FleetState:
        moves.append(ahead)
        return moved(state, ahead)

    monkeypatch.setattr(fleet_state, "moved", move)
    store, server = MemoryStore(delay=0.2), Server(seconds=0.02)
    every = [Process(store, server, rate=20) for _ in range(8)]
    async with anyio.create_task_group() as tasks:
        for process in every:
            tasks.start_soon(process.ask_often, 800)
        for _ in range(10):
            for store.delay in (0.2, 0.001):
                await anyio.sleep(2)
        tasks.cancel_scope.cancel()
    assert moves
    assert set(moves) == {0.0}, "some turns were given twice"
    store.delay = 0.0
    await anyio.sleep(12)
    await end(store)


async def test_news_from_a_store_that_has_been_replaced() -> None:
    """A process whose subscription is still that to the old store goes on sharing through the new one."""
    store = MemoryStore(delay=0.005)
    one, two = (Process(store, Server(seconds=0.02), rate=20) for _ in range(2))
    async with in_use(one, two):
        await anyio.sleep(2)
        ((name, (version, text)),) = store.texts.items()
        calls = store.calls
        for number in range(1000):
            await anyio.sleep(0.01)
            told = to_text(replace(from_text(text), at=anyio.current_time() + store.shift))
            for listener in list(store.listeners):
                listener(version + 100_000 + number, f"{name} other 0 changed 0.0 {anyio.current_time()} {told}")
        assert store.calls - calls < 100
        assert one.kinds == two.kinds == []
    await end(store)


@pytest.mark.parametrize(("faster", "kinds"), [(10, []), (1000, ["alone", "shared"])])
async def test_others_that_are_always_faster(faster: int, kinds: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """A swap is tried again for up to 10 s; then the process goes on alone."""
    store = LockedStore()
    store.faster = faster
    one = Process(store, Server())
    with anyio.fail_after(12):
        await one.ask()
    store.faster = 0
    async with in_use(one):
        await anyio.sleep(2)
    assert one.kinds == kinds
    assert len(logged(caplog)) == len(kinds)
    await end(store)


async def test_an_error_of_ours(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """If the task fails, that is logged, and the process goes on alone; the next request tries again."""
    store = MemoryStore()
    one = Process(store, Server())

    def fail(_: Share) -> None:
        raise AssertionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Share, "store_reached", fail)
        with anyio.fail_after(1):
            await one.ask_often(20)
    assert {record.message for record in caplog.records if record.levelno >= logging.ERROR} == {
        "the throttle can no longer share; it goes on alone"
    }
    async with in_use(one):
        await anyio.sleep(2 * LEASE)
        assert own_tasks() != []
        assert len(state_of(store).members) == 1
        assert one.kinds[-1] == "shared"
    await end(store)


async def test_a_good_bye_that_does_not_arrive(caplog: pytest.LogCaptureFixture) -> None:
    """It is worth no more than a line for debugging: the others forget the process by themselves."""
    caplog.set_level(logging.DEBUG, "prefect_http.throttle")
    store = MemoryStore()
    one = Process(store, Server())
    await one.ask()
    store.error = ConnectionError("it is away")
    await end(store)
    assert one.kinds == []
    assert "the throttle could not give up its share: ConnectionError: it is away" in caplog.messages
    store.error = None
    for _ in range(3):
        await one.ask()
    assert len(state_of(store).members) == 1
    await end(store)
    assert len(state_of(store).members) == 0


async def test_a_good_bye_that_hangs() -> None:
    """The task ends nevertheless."""
    store = MemoryStore()
    one = Process(store, Server())
    await one.ask()
    store.delay = 1e6
    await end(store)
    store.delay = 0.0
    for _ in range(3):
        await one.ask()
    assert len(state_of(store).members) == 1
    await end(store)
    assert len(state_of(store).members) == 0


async def test_store_away_for_one_key_of_many(caplog: pytest.LogCaptureFixture) -> None:
    """What works for the other keys is not logged again and again."""
    store = MemoryStore()
    one = Process(store, Server(seconds=30))
    async with in_use(one):
        (name,) = store.texts
        store.texts[name] = (99, "no state")
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(one.ask, f"http://host{number}/")
        assert len(logged(caplog)) == 1
        store.texts.clear()
        await anyio.sleep(1.1)
        assert logged(caplog)[1:] == [BACK]
    await end(store)


async def test_store_that_comes_back_before_the_good_bye(caplog: pytest.LogCaptureFixture) -> None:
    """If it arrives, the process is not alone any more, and says so."""
    store = MemoryStore(error=ConnectionError("it is away"))
    one = Process(store, Server())
    await one.ask()
    store.error = None
    await end(store)
    assert one.kinds == ["alone", "shared"]
    assert len(logged(caplog)) == 2


class ClosingStore(MemoryStore):
    """A store that calls a function during each swap."""

    during: Callable[[], Awaitable[object]] | None = None

    async def swap(self, name: str, version: int, text: str, seconds: float, news: str) -> Stored:
        """Call it first."""
        during, self.during = self.during, None
        if during is not None:
            await during()
        return await super().swap(name, version, text, seconds, news)


async def test_a_rejection_during_the_good_bye() -> None:
    """It closes the gates of all, although the process has nothing left to send."""
    store = ClosingStore()
    one, two = Process(store, Server(httpx.Response(200), busy(20), seconds=0.05)), Process(store, Server())
    async with in_use(two):
        await one.ask()
        await anyio.sleep(LEASE - 0.1)
        store.during = one.ask
        await anyio.sleep(1.5)
        assert store.during is None
        assert one.closed_until is not None
        assert two.closed_until == pytest.approx(one.closed_until, abs=1e-3)
    await end(store)


async def test_a_closure_that_ended_while_the_store_was_away() -> None:
    """It is of no concern to the others any more."""
    store = MemoryStore()
    one, two = Process(store, Server(busy(2))), Process(store, Server())
    async with in_use(one, two):
        store.error = ConnectionError("it is away")
        assert await one.ask() == 429
        await anyio.sleep(2)
        assert await one.ask() == 200
        store.error = None
        await anyio.sleep(2)
        assert "closed" not in two.kinds
        assert state_of(store).closed_until is None
    await end(store)


async def test_doubts_wait_for_the_store() -> None:
    """Rejections that may be faults are told when the store is back."""
    store = MemoryStore()
    processes = [Process(store, Server(*(busy(None, 503) for _ in range(2))), slow_start=False) for _ in range(4)]
    async with in_use(*processes):
        store.error = ConnectionError("it is away")
        async with anyio.create_task_group() as tasks:
            for process in processes:
                tasks.start_soon(process.ask_often, 2)
        assert all(process.closed_until is None for process in processes)
        store.error = None
        await anyio.sleep(1.1)
        assert all("closed" in process.kinds for process in processes)
    await end(store)


# --- Another server takes over, whose clock is behind


@pytest.mark.parametrize("back", [0.5, 100.0])
async def test_another_clock_while_the_store_is_away(back: float) -> None:
    """What is still to be told is told in its times."""
    store = MemoryStore()
    one, two = Process(store, Server(busy(20))), Process(store, Server())
    async with in_use(one, two):
        store.error = ConnectionError("it is away")
        assert await one.ask() == 429
        await anyio.sleep(1)
        store.shift -= back
        store.error = None
        await anyio.sleep(2)
        assert one.closed_until is not None
        assert two.closed_until == pytest.approx(one.closed_until, abs=back if back < LEASE else 0.01)
    await end(store)


class ShiftingStore(MemoryStore):
    """A store whose clock goes back in a swap, once it is told so.

    Attributes:
        back: by how many seconds.
    """

    back = 0.0

    async def swap(self, name: str, version: int, text: str, seconds: float, news: str) -> Stored:
        """Change the clock first."""
        if version >= 0:
            self.shift -= self.back
            self.back = 0.0
        return await super().swap(name, version, text, seconds, news)


async def test_another_clock_during_a_swap() -> None:
    """The turns that a process gets are not those of the clock before."""
    store, server = ShiftingStore(), Server()
    processes = [Process(store, server, rate=20) for _ in "12"]
    async with anyio.create_task_group() as tasks:
        for process in processes:
            tasks.start_soon(process.ask_often, 60)
        await anyio.sleep(2)
        store.back = 100.0
        await anyio.sleep(1)
        assert store.back == 0.0
        before = len(server.sent)
        await anyio.sleep(2)
        assert len(server.sent) - before >= 30
    await end(store)


async def test_a_clock_that_jumps_ahead() -> None:
    """News in its times close no gate for as long as it has jumped, and closures last as long as they should."""
    store = MemoryStore()
    one, two, three = Process(store, Server(busy(20))), Process(store, Server(), max_wait=60), Process(store, Server())
    async with in_use(one, two):
        await anyio.sleep(0.3)
        started = anyio.current_time()
        store.shift += 300
        assert await one.ask() == 429
        await anyio.sleep(1)
        assert two.closed_until == pytest.approx(one.closed_until, abs=0.01)
        store.shift += 100
        async with anyio.create_task_group() as tasks:
            for process in (two, three):
                await anyio.sleep(1)
                tasks.start_soon(process.ask)
    for process in (two, three):
        assert 20 <= cast(Server, process.server).sent[0] - started < 22
    await end(store)


# --- Messages that cannot be read


@pytest.mark.parametrize(
    "news",
    [
        "{name} other 0 changed 0.0 {now} garbage",
        "{name} other 0 closed inf {now} ",
        "{name} other 0 closed nan {now} ",
        "{name} other 0 doubts inf {now} ",
        "{name} other 0 closed {now} nan ",
    ],
)
async def test_news_that_cannot_be_read(news: str) -> None:
    """They change nothing, now or later."""
    store = MemoryStore()
    one = Process(store, Server())
    async with in_use(one):
        (name,) = store.texts
        store.listeners[0](99, news.format(name=name, now=anyio.current_time() + store.shift))
        await anyio.sleep(3)
        assert one.kinds == []
        assert one.closed_until is None
        assert await one.ask() == 200
    await end(store)


class ForgettingStore(MemoryStore):
    """A store that goes away right after it has stored something, once it is told so.

    Attributes:
        gone: set when it has done that; None: it does not.
    """

    gone: anyio.Event | None = None

    async def swap(self, name: str, version: int, text: str, seconds: float, news: str) -> Stored:
        """Store something, and give no answer."""
        stored = await super().swap(name, version, text, seconds, news)
        if self.gone is not None and stored.is_swapped and not self.gone.is_set():
            self.gone.set()
            self.error = ConnectionError("it is away")
            raise self.error
        return stored


@pytest.mark.parametrize("away", [0.3, 3.0])
async def test_a_report_whose_answer_is_lost(away: float) -> None:
    """It counts once, also when the store has forgotten its number."""
    store = ForgettingStore()
    one = Process(store, Server(seconds=0.01))
    async with in_use(one):
        await one.ask_often(5)
        await anyio.sleep(1.2)
        assert state_of(store).accepted == 5
        await one.ask_often(5)
        store.gone = anyio.Event()
        await store.gone.wait()
        await anyio.sleep(away)
        store.error = None
        await anyio.sleep(2.5)
        assert state_of(store).accepted == 10
    await end(store)
