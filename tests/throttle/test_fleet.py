"""Fleet, through Throttle(shared=): what several throttles do together, on both backends, in virtual time."""

from __future__ import annotations

import gc
import logging
import math
import random
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, cast

import anyio
import httpx
import pytest
import trio
from support.fleet import Process, end, in_use, own_tasks, state_of
from support.memory_store import DeafStore, MemoryStore
from support.rows import each_row
from support.timed_transport import KEY, Server, ask, busy
from support.virtual_time import virtual_time_backend
from trio.testing import MockClock

from prefect_http import Throttle, ThrottledTransport, ThrottleEvent, ThrottleTimeout
from prefect_http._throttle.fleet_state import to_text
from prefect_http._throttle.share import Share
from prefect_http._throttle.store import Stored

pytestmark = pytest.mark.anyio

# What a store knows is not older than this, in seconds, as long as the processes reach it.
LEASE = 1.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run on both backends, in virtual time."""
    return virtual_time_backend(str(request.param))


# --- One closure


@pytest.mark.parametrize(
    ("store", "within"),
    [(MemoryStore, 0.05), (DeafStore, LEASE)],
    ids=["news", "no news"],
)
async def test_a_rejection_closes_all(store: type[MemoryStore], within: float) -> None:
    """A rejection of one process closes the gates of all: at once, and within a lease if the news is lost."""
    shared = store()
    one, two = (Process(shared, Server(busy(20))) for _ in "12")
    async with in_use(one, two):
        assert (one.closed_until, two.closed_until) == (None, None)
        assert await one.ask() == 429
        await anyio.sleep(within)
        assert one.closed_until is not None
        assert two.closed_until == pytest.approx(one.closed_until, abs=1e-3)
        assert two.kinds == ["closed"]
        now = anyio.current_time()
        with (
            anyio.fail_after(15),
            pytest.raises(ThrottleTimeout, match=r"\(another process was rejected\), and the dead"),
        ):
            await two.ask()
        assert anyio.current_time() == now, "a deadline that cannot be met fails a request at once"
        assert cast(Server, two.server).sent == []
    await end(shared)


async def test_a_long_closure_is_logged_by_all_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each process says so as soon as it knows, by the origin of its requests, and not when it sends the next one."""
    caplog.set_level(logging.INFO, "prefect_http.throttle")
    store = MemoryStore()
    one, two = (Process(store, Server(busy(60))) for _ in "12")
    async with in_use(one, two):
        assert await one.ask("http://user:secret@host/") == 429
        await anyio.sleep(0.05)
        mine, theirs = caplog.messages
        assert mine.startswith("http://host: the server accepts no requests for 60")
        assert theirs.startswith("http://host: the server accepts no requests for 60")
        assert "another process was rejected" in theirs
    await end(store)


async def test_one_probe_for_all() -> None:
    """The first request after a closure is sent by one process only; its answer opens the gates of all."""
    store, server = MemoryStore(), Server(busy(2), seconds=0.3)
    one, two = (Process(store, server) for _ in "12")
    async with in_use(one, two):
        assert await one.ask() == 429
        await anyio.sleep(0.05)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.ask_often, 5)
            tasks.start_soon(two.ask_often, 5)
    rejected_at, probed_at, *others = server.sent
    assert rejected_at + 0.3 + 2 <= probed_at <= rejected_at + 0.3 + 2.6
    assert len(others) == 9
    assert min(others) >= probed_at + 0.3, "they wait for the answer to the probe"
    assert max(others) <= probed_at + 6
    assert one.kinds.count("opened") == two.kinds.count("opened") == 1
    await end(store)


@pytest.mark.parametrize("store", [MemoryStore, DeafStore], ids=["news", "no news"])
async def test_the_opening_reaches_all(store: type[MemoryStore]) -> None:
    """What waits in a process that sends no probe is sent soon after another one has opened the gate."""
    shared = store()
    one, two = Process(shared, Server(busy(2))), Process(shared, Server())
    async with in_use(one, two):
        assert await one.ask() == 429
        await anyio.sleep(LEASE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.ask)
            tasks.start_soon(two.ask)
    (one_at,), (two_at,) = cast(Server, one.server).sent[1:], cast(Server, two.server).sent
    assert 0.1 <= abs(one_at - two_at) <= 0.1 + 1.2
    await end(shared)


async def test_one_curve() -> None:
    """All processes follow the rate that one of them has learned."""
    store = MemoryStore()
    one = Process(store, Server(*(httpx.Response(200) for _ in range(30)), busy(2)))
    two = Process(store, Server())
    async with in_use(one, two):
        await one.ask_often(31)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.ask_often, 5)
            tasks.start_soon(two.ask_often, 5)
        await anyio.sleep(LEASE)
        assert one.throttle.statistics(KEY).rate < math.inf
        assert two.throttle.statistics(KEY).rate == pytest.approx(one.throttle.statistics(KEY).rate, rel=0.05)
        assert "learned" in two.kinds
    await end(store)


async def test_a_process_that_comes_late() -> None:
    """A process that was not there when another one was rejected asks before it sends anything."""
    store = MemoryStore()
    one, two = Process(store, Server(busy(5))), Process(store, Server())
    assert await one.ask() == 429
    await two.ask()
    (sent_at,) = cast(Server, two.server).sent
    assert sent_at >= 5
    await end(store)


async def test_a_process_that_joins_one_that_was_alone() -> None:
    """A second process halves what the first one may have in flight."""
    store = MemoryStore()
    one, two = Process(store, Server()), Process(store, Server())
    async with in_use(one):
        assert one.throttle.statistics(KEY).limit == 10
        assert set(state_of(store).members) != set()
        async with in_use(two):
            assert len(state_of(store).members) == 2
            assert one.throttle.statistics(KEY).limit == two.throttle.statistics(KEY).limit == 5
        await anyio.sleep(2 * LEASE)
        assert len(state_of(store).members) == 1
        assert one.throttle.statistics(KEY).limit == 10, "the other one has left"
    await end(store)


# --- The tasks


async def test_good_bye() -> None:
    """A second or two after its last request, a process says good-bye, and has no task left."""
    store = MemoryStore()
    one = Process(store, Server())
    assert own_tasks() == []
    await one.ask()
    assert sorted(map(str, own_tasks())) == ["prefect_http shared throttle", "prefect_http throttle news"]
    await anyio.sleep(LEASE - 0.1)
    assert own_tasks() != []
    assert len(state_of(store).members) == 1
    await anyio.sleep(LEASE)
    assert own_tasks() == []
    assert store.listeners == []
    assert len(state_of(store).members) == 0


async def test_closing_a_transport_says_good_bye_at_once() -> None:
    """Whoever leaves the client of the store right after the client of the server leaves no task behind."""
    store = MemoryStore(delay=0.01)
    one = Process(store, Server(busy(20)))
    assert await one.ask() == 429  # which is still to be told
    before = anyio.current_time()
    await one.transport.aclose()
    assert anyio.current_time() - before < 0.2
    assert own_tasks() == []
    assert store.listeners == []
    assert len(state_of(store).members) == 0
    assert state_of(store).closed_until is not None


async def test_closing_a_transport_while_it_reports() -> None:
    """What is under way is finished first."""
    store = MemoryStore(delay=0.05)
    one = Process(store, Server(busy(20), seconds=0))
    async with in_use(one):
        await anyio.sleep(0.2)
        assert await one.ask() == 429
    await one.transport.aclose()
    assert own_tasks() == []
    assert state_of(store).closed_until is not None
    assert len(state_of(store).members) == 0


async def test_closing_a_transport_leaves_the_others_alone() -> None:
    """A throttle that is still in use by another transport goes on sharing."""
    store = MemoryStore()
    one = Process(store, Server())
    async with in_use(one):
        await one.ask("http://other/")
        async with one.transport:
            pass
        assert len(own_tasks()) == 2
        assert len(store.listeners) == 1
        await anyio.sleep(0.1)
        assert await one.ask() == 200
    await end(store)


async def test_closing_a_transport_while_the_store_hangs() -> None:
    """It takes no longer than a call may take, and the tasks end a little later."""
    store = MemoryStore()
    one = Process(store, Server())
    await one.ask()
    store.delay = 3600
    before = anyio.current_time()
    await one.transport.aclose()
    assert anyio.current_time() - before == pytest.approx(1.0, abs=0.1)
    await end(store)


def test_closing_a_transport_in_another_event_loop() -> None:
    """What was shared in an event loop that has ended is of no concern to the next one."""
    one = Process(MemoryStore(), Server(seconds=0))
    anyio.run(one.ask, backend="trio")
    anyio.run(one.transport.aclose, backend="asyncio")
    anyio.run(one.transport.aclose, backend="trio")


async def test_a_key_that_comes_again_before_it_has_been_forgotten() -> None:
    """What was shared of it before says good-bye; what is shared of it now is not touched by that."""
    store = MemoryStore()
    one = Process(store, Server(seconds=0))
    await one.ask()
    for number in range(1001):
        await one.ask(f"http://host{number}/")
    await anyio.sleep(LEASE / 2)
    async with in_use(one):
        await anyio.sleep(2 * LEASE)
        assert len(own_tasks()) == 2
    await end(store)


class StoppingStore(MemoryStore):
    """A store in whose next call the process is stopped for so many seconds."""

    stopped = 0.0

    async def swap(self, name: str, version: int, text: str, seconds: float, news: str) -> Stored:
        """Stop the process, and let the answer come only after the time allowed for it."""
        if self.stopped:
            cast(MockClock, trio.lowlevel.current_clock()).jump(self.stopped)
            self.stopped = 0.0
            await anyio.sleep(0.01)
        return await super().swap(name, version, text, seconds, news)


@pytest.mark.parametrize("anyio_backend", [virtual_time_backend("trio")])
async def test_a_process_that_is_stopped_while_it_asks() -> None:
    """It does not go on alone for that, but asks again before it sends anything."""
    store = StoppingStore()
    one = Process(store, Server())
    async with in_use(one):
        store.stopped = 60.0
        assert await one.ask() == 200
        await anyio.sleep(2)
        assert await one.ask() == 200
        assert one.kinds == []
    await end(store)


async def test_an_idle_throttle_makes_no_calls() -> None:
    """A throttle that is not used costs the store nothing; nor does one that has never been used."""
    store = MemoryStore()
    Process(store, Server())
    one = Process(store, Server())
    await anyio.sleep(3600)
    assert store.calls == 0
    await one.ask()
    await end(store)
    calls = store.calls
    await anyio.sleep(3600)
    assert store.calls == calls <= 5


@pytest.mark.parametrize("after", [number / 20 for number in range(16, 60)])
async def test_a_request_that_comes_while_the_task_leaves(after: float) -> None:
    """It is served, and the process is a member again."""
    store = MemoryStore(delay=0.1)
    one = Process(store, Server(seconds=0.5))
    await one.ask()
    await anyio.sleep(after)
    with anyio.fail_after(2):
        await one.ask()
    assert len(state_of(store).members) == 1
    await end(store)
    assert len(state_of(store).members) == 0


@pytest.mark.parametrize("after", [0.1, 0.5, 0.9])
async def test_a_process_that_has_left_asks_first(after: float) -> None:
    """What others have been told since then holds for it, although its last lease may not be over."""
    store = MemoryStore()
    one, two = Process(store, Server(busy(5))), Process(store, Server())
    async with in_use(one):
        await two.ask()
        await anyio.sleep(1.8)
        assert len(state_of(store).members) == 1, "it has left"
        assert await one.ask() == 429
        await anyio.sleep(after)
        now = anyio.current_time()
        await two.ask()
        assert cast(Server, two.server).sent[1] >= now + 3
    await end(store)


async def test_keys_come_and_go() -> None:
    """One task listens for all keys, as long as there is any."""
    store = MemoryStore()
    one = Process(store, Server())
    for number in range(3):
        await one.ask(f"http://host{number}/")
        await anyio.sleep(0.5)
        assert len(store.listeners) == 1
    assert len(own_tasks()) == 1 + 3 - 1
    await end(store)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_end_of_the_event_loop(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """It ends the tasks, and nothing is left; the throttle can be used in the next event loop."""
    store = MemoryStore()
    one = Process(store, Server())

    async def main() -> None:
        await one.ask()
        assert own_tasks() != []
        assert one.throttle.statistics(KEY).accepted == 1

    for _ in range(2):
        name, options = virtual_time_backend(backend)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            anyio.run(main, backend=name, backend_options=options)
            gc.collect()
        assert store.listeners == []
    assert caplog.text == ""


# --- News


class FailingNews(MemoryStore):
    """A store from which no news can be had at first."""

    attempts = 0

    async def listen(self, on_ready: Callable[[], object], on_news: Callable[[int, str], object]) -> None:
        """Fail twice."""
        self.attempts += 1
        if self.attempts <= 2:
            raise ConnectionError("no news")
        await super().listen(on_ready, on_news)


async def test_listening_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, that fails nothing else, and it is tried again after a second."""
    caplog.set_level(logging.DEBUG, "prefect_http.throttle")
    store = FailingNews()
    one = Process(store, Server())
    async with in_use(one):
        assert store.listeners == []
        await anyio.sleep(2)
        assert (store.attempts, len(store.listeners)) == (3, 1)
    assert caplog.messages == ["the throttle hears no news from other processes: ConnectionError: no news"] * 2
    assert one.kinds == []
    await end(store)


@each_row(
    "text",
    {
        "empty": "",
        "other words": "hello",
        "one field less": "{name} other 0 closed",
        "no number": "{name} other 0 closed soon {at} ",
        "another kind": "{name} other 0 reset 0.0 {at} ",
        "another cycle": "{name} other 7 closed 1099.0 {at} ",
        "another key": "0123 other 0 closed 1099.0 {at} ",
        "its own": "{name} {member} 0 closed 1099.0 {at} ",
    },
)
async def test_news_that_change_nothing(text: str) -> None:
    """News of another version, of other keys and from itself are ignored."""
    store = MemoryStore()
    one = Process(store, Server())
    async with in_use(one):
        (name,), (member,) = store.texts, state_of(store).members
        store.listeners[0](99, text.format(name=name, member=member, at=anyio.current_time() + store.shift))
        await anyio.sleep(LEASE)
        assert one.closed_until is None
        assert one.kinds == []
    await end(store)


@pytest.mark.parametrize("number", [2, 8, 20])
async def test_a_change_is_news(number: int) -> None:
    """A few processes know what the others have changed; many find out when they change it as well, in a call more."""
    store = MemoryStore()
    async with AsyncExitStack() as stack:
        for _ in range(number):
            await stack.enter_async_context(in_use(Process(store, Server())))  # 0.1 s after each other
        await anyio.sleep(1)
        calls, refused = store.calls, store.refused
        await anyio.sleep(10)
        share = (store.refused - refused) / (store.calls - calls)
        assert share < 0.1 if number <= 8 else 0.4 < share < 0.6
    await end(store)


async def test_news_that_come_too_late() -> None:
    """News change nothing in a process that has nothing to send, and has left."""
    store = MemoryStore()
    one = Process(store, Server())
    async with in_use(one):
        (hear,), (name,) = store.listeners, store.texts
    await end(store)
    hear(99, f"{name} other 0 closed 1099.0 1099.0 ")
    assert one.closed_until is None
    assert own_tasks() == []


async def test_doubtful_rejections_are_counted_together() -> None:
    """A few bare 503 of each process close the gates of all, as they would in one process."""
    store = MemoryStore()
    servers = [Server(*(busy(None, 503) for _ in range(2))) for _ in range(4)]
    processes = [Process(store, server, slow_start=False) for server in servers]
    async with in_use(*processes):
        async with anyio.create_task_group() as tasks:
            for process in processes:
                tasks.start_soon(process.ask_often, 2)
        await anyio.sleep(0.02)
        assert all(process.closed_until is not None for process in processes)
    await end(store)


# --- Requests that end otherwise


async def test_cancelled_waiters() -> None:
    """They leave the queue, and hold up nobody."""
    store = MemoryStore(delay=0.05)
    one, two = Process(store, Server(busy(2))), Process(store, Server())
    async with in_use(one, two):
        assert await one.ask() == 429
        await anyio.sleep(0.2)
        async with anyio.create_task_group() as tasks:
            for process in (one, two):
                for _ in range(5):
                    tasks.start_soon(process.ask)
            await anyio.sleep(1)
            assert one.throttle.statistics(KEY).waiting == 5
            tasks.cancel_scope.cancel()
        assert one.throttle.statistics(KEY).waiting == two.throttle.statistics(KEY).waiting == 0
        with anyio.fail_after(5):
            await two.ask()
    await end(store)


async def test_cancelled_before_the_first_answer_of_the_store() -> None:
    """A request that is cancelled while its process asks for the first time leaves nothing."""
    store = MemoryStore(delay=0.1)
    one = Process(store, Server())
    with anyio.move_on_after(0.1) as scope:
        await one.ask()
    assert scope.cancelled_caught
    await end(store)
    assert cast(Server, one.server).sent == []
    assert state_of(store).members == {}


@pytest.mark.parametrize("store", [MemoryStore, DeafStore], ids=["news", "no news"])
async def test_cancelled_probe(store: type[MemoryStore]) -> None:
    """If the process with the probe gives up, another one probes within 3 s."""
    shared, slow = store(), Server(seconds=100)
    one, two = Process(shared, Server(busy(2)), max_in_flight=2), Process(shared, Server())
    async with in_use(one, two), anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as probing:
            probing.start_soon(one.ask)
            await anyio.sleep(0.01)
            probing.start_soon(ask, ThrottledTransport(slow, one.throttle))
            await anyio.sleep(LEASE)
            assert slow.sent == []
            tasks.start_soon(two.ask)
            await anyio.sleep(2)
            assert len(slow.sent) == 1, "the probe is on its way"
            assert cast(Server, two.server).sent == []
            cancelled_at = anyio.current_time()
            probing.cancel_scope.cancel()
    (sent_at,) = cast(Server, two.server).sent
    assert cancelled_at <= sent_at <= cancelled_at + 3
    await end(shared)


async def test_a_probe_that_is_stopped_with_its_process() -> None:
    """If the process with the probe is not heard of any more, another one probes within 3 s."""
    store = MemoryStore()
    one, two = Process(store, Server(busy(2))), Process(store, Server())
    async with in_use(two):
        async with in_use(one):
            assert await one.ask() == 429
            await anyio.sleep(0.05)
            (name,) = store.texts
            closed = state_of(store)
            assert closed.closed_until is not None
        await anyio.sleep(1)
        # As if it had not said good-bye.
        store.texts[name] = store.texts[name][0] + 1, to_text(closed)
        await two.ask()
        assert cast(Server, two.server).sent[0] <= closed.closed_until - store.shift + 3
    await end(store)


class StoppedStore(MemoryStore):
    """A store for a process that is stopped: its calls wait until it goes on.

    Attributes:
        store: the store of the others.
        until: when it goes on.
    """

    until = -math.inf

    def __init__(self, store: MemoryStore) -> None:
        super().__init__()
        self.store = store

    async def swap(self, name: str, version: int, text: str, seconds: float, news: str) -> Stored:
        """Wait, then ask."""
        await anyio.sleep_until(max(self.until, anyio.current_time()))
        return await self.store.swap(name, version, text, seconds, news)

    async def listen(self, on_ready: Callable[[], object], on_news: Callable[[int, str], object]) -> None:
        """Hear nothing."""
        await anyio.sleep_forever()


async def test_a_lease_that_is_over() -> None:
    """A process that comes back after its lease sends nothing before it has asked."""
    store = MemoryStore()
    stopped = StoppedStore(store)
    one, two = Process(store, Server(busy(5))), Process(stopped, Server())
    async with in_use(one, two):
        started = anyio.current_time() - 0.1
        stopped.until = started + 1.5
        assert await one.ask() == 429
        await two.ask()
        assert len(cast(Server, two.server).sent) == 1, "it has a lease, and no news"
        await anyio.sleep_until(started + 1.1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(two.ask_often, 20)
            await anyio.sleep_until(started + 1.49)
            assert len(cast(Server, two.server).sent) == 1
            assert two.throttle.statistics(KEY).waiting == 20
    assert cast(Server, two.server).sent[1] >= 5.1
    assert "alone" not in two.kinds
    await end(store)


# --- What the user gives it


@pytest.mark.parametrize("burst", [1, 10])
@pytest.mark.parametrize("delay", [0.0, 0.02])
async def test_known_rate(burst: int, delay: float) -> None:
    """All processes together send at most ``rate``, after a pause ``burst`` at once."""
    store, server = MemoryStore(delay=delay), Server(seconds=0.03)
    processes = [Process(store, server, rate=120, per=6, burst=burst) for _ in range(3)]
    started = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for process, count in zip(processes, (60, 20, 40), strict=True):
            tasks.start_soon(process.ask_often, count)
    await anyio.sleep(2)
    async with anyio.create_task_group() as tasks:
        for process in processes:
            tasks.start_soon(process.ask_often, 20)
    sent = server.sent
    assert len(sent) == 180
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            assert last - first + 1 <= burst + 20 * (sent[last] - sent[first] + 4 * delay) + 1e-6
    assert sent[119] - started <= 1.2 * 120 / 20 + 1, "and not much less"
    await end(store)


@pytest.mark.parametrize(("processes", "burst", "seed"), [(1, 1, 0), (2, 1, 1), (3, 1, 2), (3, 5, 3)])
async def test_known_rate_with_any_demand(processes: int, burst: int, seed: int) -> None:
    """However requests come and are cancelled, no more than ``burst + rate * t`` are sent in any ``t`` seconds."""
    rate, chance = 20, random.Random(seed)
    store, server = MemoryStore(delay=0.001, seed=seed), Server(seconds=0.01)

    async def ask_now_and_then(process: Process) -> None:
        async def ask_once() -> None:
            with anyio.move_on_after(chance.choice([math.inf, math.inf, chance.random() * 0.3])):
                await process.ask()

        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                await anyio.sleep(chance.choice([chance.expovariate(rate / processes), chance.random() * 2]))
                for _ in range(chance.choice([1, 1, 3, 6])):
                    tasks.start_soon(ask_once)

    async with anyio.create_task_group() as tasks:
        for _ in range(processes):
            tasks.start_soon(ask_now_and_then, Process(store, server, rate=rate, burst=burst))
    fewest = math.inf
    for number, at in enumerate(server.sent):
        fewest = min(fewest, number - rate * at)
        assert number + 1 - rate * at - fewest <= burst + 0.1  # of a request: the store takes 2 ms
    await end(store)


async def test_max_wait() -> None:
    """A request fails at once if the gate is closed for longer than ``max_wait``, whoever has closed it."""
    store = MemoryStore()
    one, two = (Process(store, Server(busy(20)), max_wait=10) for _ in "12")
    async with in_use(one, two):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.ask)
            await anyio.sleep(0.2)
            now = anyio.current_time()
            for process in (one, two):
                with pytest.raises(ThrottleTimeout, match=r"max_wait ends in 10\.0 s"):
                    await process.ask()
            assert anyio.current_time() == now
    await end(store)


async def test_news_fail_what_waits_in_vain() -> None:
    """What waits already fails as soon as another process is told to wait for longer than it can."""
    store = MemoryStore()
    one, two = Process(store, Server(busy(2), busy(60)), max_in_flight=2), Process(store, Server())
    async with in_use(one, two):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.ask_often, 2)
            await anyio.sleep(0.2)
            started = anyio.current_time()
            with anyio.fail_after(30), pytest.raises(ThrottleTimeout, match="another process was rejected"):
                await two.ask()
            assert 2 <= anyio.current_time() - started < 3
    await end(store)


async def test_max_wait_while_the_store_hangs() -> None:
    """A request waits for a store no longer than ``max_wait``."""
    store = MemoryStore(delay=1e6)
    one = Process(store, Server(), max_wait=0.5)
    started = anyio.current_time()
    with pytest.raises(ThrottleTimeout, match=r"max_wait, 0\.5 s"):
        await one.ask()
    assert anyio.current_time() == pytest.approx(started + 0.5)
    await end(store)


async def test_on_event_that_raises_in_the_task(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and changes nothing else."""
    store = MemoryStore()

    def on_event(event: ThrottleEvent) -> None:
        raise KeyError(event.kind)

    one, two = Process(store, Server(busy(2)), max_in_flight=2), Process(store, Server(), on_event=on_event)
    async with in_use(one, two):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.ask_often, 2)
            await anyio.sleep(1)
            await two.ask()
        store.error = ConnectionError("it is away")
        await anyio.sleep(2)
        await two.ask()
    raised = [record for record in caplog.records if record.message == "on_event has raised an exception"]
    kinds = [record.exc_info[1].args[0] for record in raised if record.exc_info and record.exc_info[1]]
    assert {"closed", "alone"} <= set(kinds)
    await end(store)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_keyboard_interrupt(backend: str) -> None:
    """A KeyboardInterrupt in the task ends the program, as anywhere else."""
    store = MemoryStore(error=ConnectionError("it is away"))

    def interrupt(_: ThrottleEvent) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        one = Process(store, Server(), on_event=interrupt)
        await one.ask()
        await anyio.sleep(10)

    name, options = virtual_time_backend(backend)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        anyio.run(main, backend=name, backend_options=options)
    error: BaseException | None = caught.value
    assert not isinstance(error, Exception) or "KeyboardInterrupt" in repr(error.__cause__)


@pytest.mark.parametrize("part", [object(), ask, [Server().aclose]], ids=["object", "function", "bound method"])
async def test_key_with_an_address(part: object) -> None:
    """A key that looks different in each process is refused, and the message says what to do."""
    store = MemoryStore()
    one = Process(store, Server(), key=lambda request: ("a", repr(part)))
    with pytest.raises(
        TypeError, match=r"key must return something that is the same in all processes, as a string, not \('a', '\[?<"
    ):
        await one.ask()
    assert own_tasks() == []
    assert store.calls == 0


@pytest.mark.parametrize("shared", [MemoryStore(), "redis://localhost", True], ids=["store", "URL", "bool"])
def test_shared_with_something_else(shared: Any) -> None:
    """Only a backend can be shared."""
    with pytest.raises(TypeError, match="shared must be a RedisBackend, not "):
        Throttle(shared=shared)


async def test_many_keys() -> None:
    """What is forgotten of a key is forgotten here as well; if it comes again, it is shared again."""
    store = MemoryStore()
    one = Process(store, Server(seconds=0))
    for number in range(1100):
        await one.ask(f"http://host{number}/")
    await end(store)
    assert len(one.throttle.statistics()) <= 1100
    for number in range(2000, 3100):
        await one.ask(f"http://host{number}/")
    await end(store)
    gc.collect()
    shares = [each for each in gc.get_objects() if isinstance(each, Share)]
    assert len(shares) <= 1100
    async with in_use(one):
        assert len(store.listeners) == 1
    await end(store)


# --- Whatever happens


class ChaoticServer(httpx.AsyncBaseTransport):
    """A server that answers as chance says."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or fail, after a while."""
        await anyio.sleep(self.chance.choice([0, 0.01, self.chance.random()]))
        status, seconds = self.chance.choice(
            [(200, None)] * 12 + [(429, 1), (429, None), (503, None), (503, 2), (0, None)]
        )
        if not status:
            raise httpx.ReadError("chaos")
        return busy(seconds, status)


class ChaoticStore(MemoryStore):
    """A store that is slow, away, restarted and empty, as chance says."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(seed=chance.randrange(1000))
        self.chance = chance

    async def rage(self) -> None:
        """Change how it is, for ever."""
        while True:
            await anyio.sleep(self.chance.random() * 2)
            self.error = self.chance.choice([None, None, ConnectionError("it is away")])
            self.delay = self.chance.choice([0.0, 0.0, 0.01, 0.3, 5.0])
            self.loss = self.chance.choice([0.0, 0.0, 0.2])
            if self.chance.random() < 0.2:
                self.texts.clear()
            if self.chance.random() < 0.1:
                self.texts = {name: (version, "chaos") for name, (version, _) in self.texts.items()}
            if self.chance.random() < 0.1:
                self.shift += self.chance.choice([-2.0, -0.05, 0.05, 2.0])

    def calm(self) -> None:
        """Be as a store should be again."""
        self.error, self.delay, self.loss = None, 0.0, 0.0
        self.texts.clear()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("seed", range(10))
def test_chaos(seed: int, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the store and the server do, and whatever is cancelled, no request is stuck, and nothing is left."""
    random.seed(seed)  # of the jitter
    name, options = virtual_time_backend(backend)
    anyio.run(chaos, random.Random(seed), backend=name, backend_options=options)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


async def chaos(chance: random.Random) -> None:
    """Send requests from several processes, and cancel some of them."""
    store = ChaoticStore(chance)
    arguments = {"rate": chance.choice([None, None, 50]), "early_probe": chance.random() < 0.5}
    processes = [
        Process(store, ChaoticServer(chance), max_in_flight=chance.choice([1, 3, 100]), **arguments) for _ in range(3)
    ]
    ended = Counter[str]()

    async def send(process: Process) -> None:
        with anyio.move_on_after(chance.choice([chance.random() * 3, math.inf, math.inf])) as scope:
            try:
                await process.ask(f"http://host{chance.randrange(2)}/")
            except ThrottleTimeout:
                ended["too late"] += 1
            except httpx.ReadError:
                ended["failed"] += 1
            else:
                ended["answered"] += 1
        ended["cancelled"] += scope.cancelled_caught

    async def send_some(process: Process) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(send, process)
                await anyio.sleep(chance.choice([0.0, 0.0, 0.1, 0.5, 3.0]) * chance.random())

    with anyio.fail_after(600):
        async with anyio.create_task_group() as raging:
            raging.start_soon(store.rage)
            async with anyio.create_task_group() as tasks:
                for process in processes:
                    tasks.start_soon(send_some, process)
            raging.cancel_scope.cancel()
    assert sum(ended.values()) == 3 * 60
    await anyio.sleep(15)
    assert own_tasks() == []
    for process in processes:
        for statistics in process.throttle.statistics().values():
            assert (statistics.in_flight, statistics.waiting) == (0, 0)
    store.calm()
    # Faults may have been counted as a limit; no request takes longer than the longest closure, and its share.
    for process in processes:
        with anyio.fail_after(60):
            await ask(ThrottledTransport(Server(), process.throttle), "http://host0/")
        assert store.error is None
    await anyio.sleep(15)
    assert own_tasks() == []
    assert store.listeners == []
