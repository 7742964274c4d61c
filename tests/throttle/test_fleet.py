"""Fleet, through Throttle(shared=): what several throttles do together, on both backends, in virtual time."""

from __future__ import annotations

import gc
import logging
import math
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import httpx
import pytest
from support.memory_store import MemoryStore, memory_backend
from support.timed_transport import KEY, Server, ask, busy
from support.virtual_time import virtual_time_backend

from prefect_http import Throttle, ThrottledTransport, ThrottleEvent, ThrottleTimeout
from prefect_http._throttle.fleet_state import FleetState, from_text, to_text

pytestmark = pytest.mark.anyio

# What a store knows is not older than this, in seconds, as long as the processes reach it.
LEASE = 1.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run on both backends, in virtual time."""
    return virtual_time_backend(str(request.param))


class Process:
    """What stands for a process here: a throttle with a transport of its own.

    Attributes:
        throttle: the throttle.
        server: what its requests are sent to.
        transport: between these two.
        events: of the throttle.
    """

    def __init__(self, store: MemoryStore, server: httpx.AsyncBaseTransport, **arguments: Any) -> None:
        self.events: list[ThrottleEvent] = []
        arguments.setdefault("on_event", self.events.append)
        self.throttle = Throttle(shared=memory_backend(store), **arguments)
        self.server = server
        self.transport = ThrottledTransport(server, self.throttle)

    @property
    def kinds(self) -> list[str]:
        """Return the kinds of all events."""
        return [event.kind for event in self.events]

    async def ask(self, url: str = "http://host/") -> int:
        """Send a request, and return the status of its response."""
        return (await ask(self.transport, url)).status_code

    async def ask_often(self, count: int, url: str = "http://host/") -> None:
        """Send so many requests at once, and wait for all."""
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(self.ask, url)

    @property
    def closed_until(self) -> float | None:
        """Return until when it sends nothing."""
        return self.throttle.statistics(KEY).closed_until


class DeafStore(MemoryStore):
    """A store whose news are all lost."""

    async def listen(self, on_ready: Callable[[], object], on_news: Callable[[str], object]) -> None:
        """Do nothing."""
        await anyio.sleep_forever()


def own_tasks() -> list[str | None]:
    """Return the names of the package's tasks."""
    return [task.name for task in anyio.get_running_tasks() if (task.name or "").startswith("prefect_http")]


async def end(store: MemoryStore) -> None:
    """Wait until the throttles have nothing left to do, and check that there is nothing left of them."""
    await anyio.sleep(3)
    assert own_tasks() == []
    assert store.listeners == []


def state_of(store: MemoryStore) -> FleetState:
    """Return what the store has of its only key."""
    ((_, text),) = store.texts.values()
    return from_text(text)


@asynccontextmanager
async def in_use(*processes: Process) -> AsyncIterator[None]:
    """Have each of some processes send a request, of which the response takes an hour."""
    async with anyio.create_task_group() as tasks:
        for process in processes:
            transport = ThrottledTransport(Server(seconds=3600), process.throttle)
            tasks.start_soon(ask, transport)
        await anyio.sleep(0.1)
        yield
        tasks.cancel_scope.cancel()


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
    assert rejected_at + 0.3 + 2 <= probed_at <= rejected_at + 0.3 + 2.3
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


# --- The store is away


WARNING = "the throttle cannot reach what it shares with other processes, and goes on with its last share"


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
        assert logged(caplog)[1:] == ["the throttle can reach again what it shares with other processes"]
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
    assert len(logged(caplog)) == 4, "two of each process"
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
    assert logged(caplog) == [f"{WARNING}: it took longer than 1 s"]
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
        ("[1,2,3]", "ValueError"),
        ("null", ""),
        (to_text(FleetState()).replace("[1,", "[2,", 1), "written by another version of prefect_http"),
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


@pytest.mark.parametrize("when", ["closed", "learned"])
async def test_store_that_loses_everything(when: str) -> None:
    """What was known survives in the processes."""
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
        await anyio.sleep(LEASE)
        after = state_of(store)
        assert (after.cycle, after.closed_until, after.curve) == (before.cycle, before.closed_until, before.curve)
        assert set(after.members) == set(before.members)
        third = Process(store, Server())
        async with in_use(third):
            assert third.closed_until == (None if when == "learned" else pytest.approx(one.closed_until, abs=0.01))
            assert (third.throttle.statistics(KEY).rate < math.inf) == (when == "learned")
    await end(store)
