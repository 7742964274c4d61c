"""PrefectHttpxClient(throttle=Throttle(rate=...)): a limit that the user knows, in virtual time on both backends."""

from __future__ import annotations

import itertools
import math
import random
import re
from fractions import Fraction
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from support.timed_transport import KEY, Server, busy
from support.virtual_time import virtual_time_backend

from prefect_http import PrefectHttpxClient, RetryPolicy, Throttle, ThrottleTimeout
from prefect_http.testing import FakeNetwork, TokenBucket

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run the tests on both backends, in virtual time."""
    return virtual_time_backend(request.param)


class Host(Server):
    """A server that notes the numbers of the requests, in the order in which they are sent."""

    def __init__(self, *answers: httpx.Response, seconds: float) -> None:
        super().__init__(*answers, seconds=seconds)
        self.numbers = list[int]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.numbers.append(number_of(request))
        return await super().handle_async_request(request)


def number_of(request: httpx.Request) -> int:
    """Return the number of a request."""
    return int(request.url.path[1:])


class Crowd:
    """Requests of many tasks.

    Attributes:
        server: what they are sent to.
        came: the numbers of all requests, in the order in which they came.
        done: the numbers of those that were answered.
        failures: the messages of those that could not be sent in time.
    """

    def __init__(self, throttle: Throttle, *answers: httpx.Response, seconds: float = 0.02) -> None:
        self.server = Host(*answers, seconds=seconds)
        self.client = PrefectHttpxClient(
            transport=self.server,
            throttle=throttle,
            retry=RetryPolicy(jitter=0),
            event_hooks={"request": [self.note]},
        )
        self.done = list[int]()
        self.failures = dict[int, str]()
        self.came = list[int]()

    async def note(self, request: httpx.Request) -> None:
        """Note a request before it queues up."""
        self.came.append(number_of(request))

    async def get(self, number: int, host: str = "host", seconds: float = math.inf) -> None:
        """Send a request, with a deadline in so many seconds."""
        with anyio.move_on_after(seconds):
            try:
                await self.client.get(f"http://{host}/{number}")
            except ThrottleTimeout as error:
                self.failures[number] = str(error)
            else:
                self.done.append(number)

    async def get_all(self, count: int, **arguments: Any) -> None:
        """Send so many requests at once."""
        async with self.client, anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(partial(self.get, number, **arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"rate": 10}, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        ({"rate": 30, "per": 60}, [0, 2, 4, 6, 8, 10]),
        ({"rate": 10, "burst": 4}, [0, 0, 0, 0, 0.1, 0.2]),
        ({"rate": 1000, "burst": 1000, "max_in_flight": 2}, [0, 0, 0.02, 0.02, 0.04, 0.04]),
    ],
)
async def test_burst_first_then_evenly_spaced(arguments: dict[str, Any], expected: list[float]) -> None:
    """Requests are sent at the known rate, after a burst, and none before one that came earlier."""
    crowd = Crowd(Throttle(**arguments))
    await crowd.get_all(6)
    assert crowd.server.sent == pytest.approx(expected)
    times = dict(zip(crowd.server.numbers, crowd.server.sent, strict=True))
    assert [times[number] for number in crowd.came] == crowd.server.sent


async def test_keys_have_the_limit_each() -> None:
    """The limit is one of each key."""
    crowd = Crowd(Throttle(rate=1))
    async with crowd.client, anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(crowd.get, number, f"host{number % 2}")
    assert crowd.server.sent == pytest.approx([0, 0, 1, 1, 2, 2])


async def test_statistics_show_the_lower_rate() -> None:
    """The rate in the statistics is the known one, or the learned one if that is lower."""
    throttle = Throttle(rate=5)
    crowd = Crowd(throttle, httpx.Response(200), busy(3))
    assert throttle.statistics(KEY).rate == 5
    await crowd.get_all(6)
    assert 0 < throttle.statistics(KEY).rate < 5
    assert len(crowd.done) == 6


async def test_cancelled_request_gives_its_turn_to_the_next() -> None:
    """A request that is cancelled in the queue takes nothing of the limit; one that is cancelled in flight does."""
    crowd = Crowd(Throttle(rate=1), seconds=0.5)
    async with crowd.client, anyio.create_task_group() as tasks:
        for number, seconds in enumerate((0.25, 0.7, 0.7, math.inf, math.inf)):
            tasks.start_soon(crowd.get, number, "host", seconds)
            await anyio.sleep(0.001)
    assert crowd.server.sent == pytest.approx([0, 1, 2])
    assert crowd.done == [3, 4]


async def test_request_whose_task_is_cancelled_as_its_turn_comes() -> None:
    """A request that is cancelled at the very moment of its turn was not sent: the next one is, at once."""
    crowd = Crowd(Throttle(rate=1), seconds=0)
    scope = anyio.CancelScope()

    async def cancelled() -> None:
        with scope:
            await crowd.get(1)

    async with crowd.client, anyio.create_task_group() as tasks:
        tasks.start_soon(crowd.get, 0)
        await anyio.sleep(0.001)
        tasks.start_soon(cancelled)
        await anyio.sleep(0.001)
        tasks.start_soon(crowd.get, 2)
        await anyio.sleep(1 - 0.002)
        scope.cancel()
    assert crowd.server.sent[-1] == pytest.approx(1)
    assert crowd.done in ([0, 2], [0, 1, 2])


@pytest.mark.parametrize("seed", range(3))
async def test_no_period_sees_more(seed: int) -> None:
    """Whatever is cancelled and when, no period sees more requests than the limit, and nobody waits for nothing."""
    chance = random.Random(seed)
    rate, per, burst = chance.choice([(7, 3.0, 1), (100, 60.0, 3), (50, 1.0, 10)])
    throttle = Throttle(rate=rate, per=per, burst=burst)
    crowd = Crowd(throttle, seconds=0.3)
    async with crowd.client, anyio.create_task_group() as tasks:
        for number in range(100):
            seconds = chance.choice([math.inf, per / rate * chance.randint(1, 60), chance.uniform(0, 40)])
            tasks.start_soon(crowd.get, number, "host", seconds)
            await anyio.sleep(chance.choice([0, 0, per / rate, chance.uniform(0, 0.2)]))
    sent = crowd.server.sent
    for first in range(len(sent)):
        for last in range(first + burst, len(sent)):
            period = Fraction(sent[last]) - Fraction(sent[first])
            assert last - first + 1 <= burst + rate * period / Fraction(per)
    assert (throttle.statistics(KEY).in_flight, throttle.statistics(KEY).waiting) == (0, 0)
    assert max(later - earlier for earlier, later in itertools.pairwise(sent)) <= 2.01 * per / rate


@pytest.mark.parametrize("early_probe", [False, True])
async def test_retry_after_and_the_known_rate(early_probe: bool) -> None:
    """After a rejection requests wait for both, for the Retry-After and for the known rate; an early probe, too."""
    crowd = Crowd(Throttle(rate=0.5, early_probe=early_probe), busy(5), busy(5), seconds=0)
    await crowd.get_all(5)
    sent = crowd.server.sent
    assert sent[1] == pytest.approx(2 if early_probe else 5.1, abs=0.25)
    assert sent[2] >= sent[1] + 5
    assert min(later - earlier for earlier, later in itertools.pairwise(sent)) >= 2
    assert sorted(crowd.done) == list(range(5))


async def test_lower_limit_is_learned() -> None:
    """If the server accepts less than the known rate, nobody fails, and few requests are rejected."""
    network = FakeNetwork()
    network.serve("http://host").limit(TokenBucket(10, burst=5)).any().reply(delay=0.02, times=None)
    crowd = Crowd(throttle := Throttle(rate=40))
    crowd.client = network.client(PrefectHttpxClient, throttle=throttle)
    await crowd.get_all(150)
    assert len(crowd.done) == 150
    assert 0 < sum(request.status == 429 for request in network.requests) <= 20
    assert throttle.statistics(KEY).rate < 40


async def test_request_that_cannot_be_sent_in_time_fails_at_once() -> None:
    """A request fails at once if those ahead of it take all the time that it has; the message says why, and when."""
    crowd = Crowd(Throttle(rate=1, max_wait=3.5), seconds=0)
    failed_at = dict[int, float]()
    async with crowd.client, anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(crowd.get, number, "host", 1.5 if number == 2 else math.inf)
            await anyio.sleep(0.001)
            failed_at |= {number: anyio.current_time() for number in crowd.failures.keys() - failed_at.keys()}
    assert failed_at == {2: pytest.approx(0.003), 5: pytest.approx(0.006)}
    assert crowd.server.sent == pytest.approx([0, 1, 2, 3])
    assert re.fullmatch(
        r"the request was not sent: it cannot be sent for 4\.0 s, until ....-..-.. ..:..:.. UTC "
        r"\(3 ahead of it in the queue, at the known rate of 1 per second\), and max_wait ends in 3\.5 s",
        crowd.failures[5],
    )
    assert crowd.failures[2].endswith(", and the deadline is in 1.5 s")


async def test_closed_gate_leaves_less_time() -> None:
    """If the gate closes, the requests fail for which there is no time afterwards, and the others are sent."""
    crowd = Crowd(Throttle(rate=1), busy(5))
    async with crowd.client, anyio.create_task_group() as tasks:
        for number, seconds in enumerate([math.inf, 20, 7, 7.9, 6.5, 7.9, 20]):
            tasks.start_soon(crowd.get, number, "host", seconds)
            await anyio.sleep(0.001)
        assert crowd.failures == {}
        await anyio.sleep(0.2)
        assert sorted(crowd.failures) == [4, 5]
        assert anyio.current_time() < 0.3
        assert "(3 ahead of it in the queue" in crowd.failures[4]
    assert sorted(crowd.done) == [0, 1, 2, 3, 6]


async def test_closed_gate_is_the_reason() -> None:
    """If the gate is closed for longer than a request may wait, the message says that, and not the known rate."""
    crowd = Crowd(Throttle(rate=1), busy(3600), seconds=0)
    async with crowd.client, anyio.create_task_group() as tasks:
        tasks.start_soon(crowd.get, 0)
        await anyio.sleep(0.001)
        await crowd.get(1, seconds=10)
        assert "(429 with Retry-After: 3600), and the deadline is in 10.0 s" in crowd.failures[1]
