"""Admissions: requests that do not have to wait take a shorter way, and however they end, no turn is lost."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.timed_transport import KEY
from support.virtual_time import virtual_time_backend

from prefect_http import Throttle, ThrottledTransport, ThrottleEvent, ThrottleTimeout
from prefect_http._throttle.throttle import gates_of

URL = "http://host/"
ANSWERS: dict[str, Callable[[], httpx.Response | Exception]] = {
    "accepted": lambda: httpx.Response(200),
    "with-a-quota": lambda: httpx.Response(200, headers={"RateLimit": "limit=5, remaining=2, reset=3"}),
    "rejected": lambda: httpx.Response(429, headers={"Retry-After": "2"}),
    "doubtful": lambda: httpx.Response(503),
    "failed": lambda: httpx.ReadError("broken"),
}
requests = st.tuples(
    st.sampled_from([0.0, 0.1, 1.0, 5.0]),  # seconds after the request before
    st.sampled_from([0.0, 0.125, 3.0]),  # latency
    st.sampled_from([*["accepted"] * 3, *ANSWERS]),
)


class Scripted(httpx.AsyncBaseTransport):
    """Answers as the request says.

    Args:
        headers: are added to each response.
    """

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.sleep(float(request.headers["latency"]))
        answer = ANSWERS[request.headers["answer"]]()
        if isinstance(answer, Exception):
            raise answer
        answer.headers.update(self._headers)
        return answer


def is_throttled(response: httpx.Response) -> bool:
    """Return whether a response is a rejection."""
    return response.status_code in (429, 503)


async def is_throttled_async(response: httpx.Response) -> bool:
    """Return the same, to whoever awaits it."""
    return is_throttled(response)


# --- The short way


def state(thing: object) -> object:
    """Return all that an object holds, apart from functions, in a form that can be compared."""
    if callable(thing):
        return None
    if hasattr(thing, "__dict__"):
        return {name: state(value) for name, value in vars(thing).items()}
    slots = getattr(thing, "__slots__", ())
    return {name: state(getattr(thing, name)) for name in slots} if slots else thing


async def outcome(script: list[tuple[float, float, str]], transport: ThrottledTransport, throttle: Throttle) -> object:
    """Send the requests, and return what the throttle has learned."""
    # No two responses come at the same time: asyncio's timers are in no order then.
    chance = random.Random(0)

    async def send(latency: float, answer: str) -> None:
        latency += chance.random() / 100
        request = httpx.Request("GET", URL, headers={"latency": str(latency), "answer": answer})
        try:
            await transport.handle_async_request(request)
        except httpx.ReadError:
            assert answer == "failed"

    async with anyio.create_task_group() as tasks:
        for wait, latency, answer in script:
            await anyio.sleep(wait)
            tasks.start_soon(send, latency, answer)
    return state(gates_of(throttle).gate_for(httpx.Request("GET", URL)).limiter)


@given(st.lists(requests, max_size=20), st.booleans())
@settings(max_examples=20, derandomize=True, database=None)
def test_the_short_way_makes_no_difference(script: list[tuple[float, float, str]], slow_start: bool) -> None:
    """An is_throttled, also an async one, and fields to parse leave the same state and events as none of them."""
    backend, options = virtual_time_backend("asyncio")  # its tasks run in the same order each time
    outcomes: list[tuple[object, list[ThrottleEvent]]] = []
    for verdict, headers in ((None, {}), (is_throttled, {}), (is_throttled_async, {"RateLimit-Limit": "none"})):
        random.seed(0)  # of the jitter
        events: list[ThrottleEvent] = []
        throttle = Throttle(slow_start=slow_start, max_in_flight=3, is_throttled=verdict, on_event=events.append)
        transport = ThrottledTransport(Scripted(headers), throttle)
        run = partial(outcome, script, transport, throttle)
        outcomes.append((anyio.run(run, backend=backend, backend_options=options), events))
    assert outcomes[0] == outcomes[1] == outcomes[2]


# --- No turn is lost


class Interrupt(BaseException):
    """What a signal handler raises, for instance."""


ERRORS = (ThrottleTimeout, httpx.ConnectError, httpx.ReadError, KeyError, Interrupt)


class Chaos(httpx.AsyncBaseTransport):
    """A server, a predicate and an event function that do what chance says.

    Attributes:
        in_flight: how many requests the server has.
        most: how many it had at most.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.in_flight = 0
        self.most = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await self.rest()
            self.fail_sometimes(httpx.ReadError, KeyError)
        finally:
            self.in_flight -= 1
        status, seconds = self.chance.choice([(200, None)] * 8 + [(429, "1"), (429, None), (503, None), (503, "2")])
        headers = {} if seconds is None else {"Retry-After": seconds}
        return httpx.Response(status, headers=headers, stream=ChaoticStream(self))

    async def rest(self) -> None:
        """Let some time pass, or none."""
        await anyio.sleep(self.chance.choice([0, 0.01, self.chance.random()]))

    def fail_sometimes(self, *errors: type[BaseException]) -> None:
        """Raise one of the errors, or mostly nothing."""
        if self.chance.random() < 0.1:
            raise self.chance.choice(errors)("chaos")

    def is_throttled(self, response: httpx.Response) -> bool | Awaitable[bool]:
        """Answer at once, or later."""
        self.fail_sometimes(KeyError, Interrupt)
        return self._is_throttled(response) if self.chance.random() < 0.5 else is_throttled(response)

    async def _is_throttled(self, response: httpx.Response) -> bool:
        await self.rest()
        self.fail_sometimes(KeyError, Interrupt)
        return is_throttled(response)

    def on_event(self, _: ThrottleEvent) -> None:
        """Take note of an event."""
        self.fail_sometimes(KeyError, Interrupt)


class ChaoticStream(httpx.AsyncByteStream):
    """A body that takes a while to be closed, or fails then."""

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos

    async def aclose(self) -> None:
        await self._chaos.rest()
        self._chaos.fail_sometimes(httpx.ReadError, Interrupt)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("seed", range(5))
def test_chaos(seed: int, backend: str) -> None:
    """Whatever fails or is cancelled, and when, no request hangs, and none stays in flight or in the queue."""
    name, options = virtual_time_backend(backend)
    anyio.run(chaos, seed, backend=name, backend_options=options)


async def chaos(seed: int) -> None:
    """Send requests in the midst of chaos, some through a transport that is closed meanwhile."""
    server = Chaos(seed)
    chance = server.chance
    max_in_flight = chance.choice([1, 3, 10])
    throttle = Throttle(
        max_in_flight=max_in_flight,
        max_wait=chance.choice([2, 20, None]),
        rate=chance.choice([None, 20]),
        early_probe=chance.random() < 0.5,
        is_throttled=server.is_throttled,
        on_event=server.on_event,
    )
    ended = 0

    async def one(transport: ThrottledTransport) -> None:
        nonlocal ended
        with anyio.move_on_after(chance.choice([0, 0.1, 1, 1000])), contextlib.suppress(*ERRORS):
            await transport.handle_async_request(httpx.Request("GET", f"http://host/{chance.randrange(3)}"))
        ended += 1

    with anyio.fail_after(10_000):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                transport = ThrottledTransport(server, throttle)
                for _ in range(25):
                    tasks.start_soon(one, transport)
                    await anyio.sleep(chance.expovariate(30))
                await transport.aclose()
        statistics = throttle.statistics(KEY)
        assert (ended, statistics.in_flight, statistics.waiting, server.in_flight) == (100, 0, 0, 0)
        assert server.most <= max_in_flight
        while throttle.statistics(KEY).accepted == statistics.accepted:
            await one(ThrottledTransport(server, throttle))
            await anyio.sleep(0.1)
