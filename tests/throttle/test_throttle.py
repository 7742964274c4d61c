"""Throttle and ThrottledTransport: keys, signals, headers, events, statistics, and the ends of requests."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, cast

import httpx
import pytest
import trio
import trio.testing
from support.timed_transport import KEY, Server, ask, busy

from prefect_http import (
    PrefectHttpxClient,
    RateLimit,
    Throttle,
    ThrottledTransport,
    ThrottleEvent,
    ThrottleStatistics,
    ThrottleTimeout,
    is_throttled_by_github,
)


@pytest.mark.anyio
async def test_new_key() -> None:
    """A key that has seen nothing is open, knows no rate, and starts slowly."""
    assert Throttle().statistics(KEY) == ThrottleStatistics(
        closed_until=None, rate=math.inf, limit=10, in_flight=0, waiting=0, accepted=0, rejected=0
    )
    assert Throttle(slow_start=False).statistics(KEY).limit == 100
    assert Throttle(slow_start=False, max_in_flight=7).statistics(KEY).limit == 7


@pytest.mark.trio
async def test_statistics_follow(autojump_clock: trio.testing.MockClock) -> None:
    """The statistics are of the moment, and frozen."""
    throttle = Throttle(max_in_flight=1)
    transport = ThrottledTransport(Server(httpx.Response(200), busy(5)), throttle)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, transport)
        nursery.start_soon(ask, transport)
        await trio.sleep(0.05)
        before = throttle.statistics(KEY)
        assert (before.in_flight, before.waiting, before.accepted, before.limit) == (1, 1, 0, 1)
    after = throttle.statistics(KEY)
    assert (after.in_flight, after.waiting, after.accepted, after.rejected) == (0, 0, 1, 1)
    assert after.closed_until == pytest.approx(5.2, abs=0.26)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cast(Any, after).waiting = 3


@pytest.mark.trio
@pytest.mark.parametrize(("status", "seconds"), [(429, 3), (503, 3), (429, None), (503, None)])
async def test_rejection_holds_back_everybody(
    status: int, seconds: int | None, autojump_clock: trio.testing.MockClock
) -> None:
    """After a 429 or 503, no request of the key leaves before its Retry-After, or a first backoff, has passed."""
    server = Server(busy(seconds, status))
    transport = ThrottledTransport(server, Throttle())
    assert (await ask(transport)).status_code == status
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, transport)
    wait = seconds or 0.1
    assert server.sent[1] >= 0.1 + wait
    assert server.sent[1] <= 0.1 + wait + min(0.1 * wait, 0.25)
    assert server.sent[2] >= server.sent[1] + 0.1, "the others wait for the probe's answer"
    assert len(server.sent) == 6


@pytest.mark.trio
async def test_keys_are_independent(autojump_clock: trio.testing.MockClock) -> None:
    """One origin's rejection is nothing to another; scheme and port are parts of it, and default ports are known."""
    throttle = Throttle()
    transport = ThrottledTransport(Server(busy(100)), throttle)
    await ask(transport, "http://host/")
    assert throttle.statistics(("http", "host", 80)).closed_until is not None
    for url in ("https://host/", "http://host:8080/", "http://other/"):
        with trio.fail_after(1):
            await ask(transport, url)
    with trio.move_on_after(90), pytest.raises(ThrottleTimeout):
        await ask(transport, "http://host:80/")


@pytest.mark.trio
async def test_own_key(autojump_clock: trio.testing.MockClock) -> None:
    """What shares a limit is the key function's to say."""

    def by_credential(request: httpx.Request) -> str:
        return request.headers["Authorization"]

    throttle = Throttle(key=by_credential)
    transport = ThrottledTransport(Server(busy(10)), throttle)
    request = httpx.Request("GET", "http://host/", headers={"Authorization": "one"})
    await transport.handle_async_request(request)
    assert throttle.statistics("one").rejected == 1
    assert throttle.statistics("two").rejected == 0


@pytest.mark.trio
async def test_own_signal(autojump_clock: trio.testing.MockClock) -> None:
    """The predicate says what a rejection is. One that fails loses no place, and closes the response."""
    closed: list[str] = []

    class Stream(httpx.AsyncByteStream):
        async def aclose(self) -> None:
            closed.append("closed")

    def predicate(response: httpx.Response) -> bool:
        if response.status_code == 500:
            raise KeyError("predicate")
        return response.status_code == 403

    throttle = Throttle(is_throttled=predicate)
    answers = [httpx.Response(429), httpx.Response(500, stream=Stream()), httpx.Response(403)]
    transport = ThrottledTransport(Server(*answers), throttle)
    await ask(transport)
    with pytest.raises(KeyError, match="predicate"):
        await ask(transport)
    assert closed == ["closed"]
    await ask(transport)
    statistics = throttle.statistics(KEY)
    assert (statistics.accepted, statistics.rejected, statistics.in_flight) == (1, 1, 0)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, False),
        (429, {}, True),
        (503, {}, True),
        (403, {}, False),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1700000000"}, True),
        (403, {"X-RateLimit-Remaining": "4"}, False),
        (403, {"Retry-After": "60"}, True),
    ],
)
def test_github(status: int, headers: dict[str, str], expected: bool) -> None:
    """GitHub's 403 is a rejection if its headers say so; 429 and 503 are as elsewhere."""
    assert is_throttled_by_github(httpx.Response(status, headers=headers)) is expected


@pytest.mark.trio
@pytest.mark.parametrize(
    ("headers", "extra", "expected"),
    [
        ({"RateLimit": '"default";r=0;t=20'}, {}, 20.1),
        ({"RateLimit": '"default";r=0;t=20'}, {"Age": "5"}, None),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "20"}, {}, 20.1),
        ({"RateLimit": '"default";r=1;t=20'}, {}, None),
        ({"RateLimit": "nonsense"}, {}, None),
    ],
)
async def test_advertised_limits_are_minded(
    headers: dict[str, str], extra: dict[str, str], expected: float | None, autojump_clock: trio.testing.MockClock
) -> None:
    """A fine answer that says that nothing is left closes the gate until there is; not if it comes from a cache."""
    throttle = Throttle()
    server = Server(httpx.Response(200, headers={**headers, **extra}))
    transport = ThrottledTransport(server, throttle)
    await ask(transport)
    assert throttle.statistics(KEY).closed_until == (expected and pytest.approx(expected))
    await ask(transport)
    assert server.sent[1] >= (expected or 0.1)
    assert throttle.statistics(KEY).rate == math.inf, "nothing was rejected, so nothing is learned"


@pytest.mark.trio
async def test_limits_of_a_redirect_are_not_minded(autojump_clock: trio.testing.MockClock) -> None:
    """What an answer that redirects says of limits is not believed."""
    throttle = Throttle()
    redirect = httpx.Response(302, headers={"Location": "/x", "RateLimit": '"default";r=0;t=20'})
    await ask(ThrottledTransport(Server(redirect), throttle))
    assert throttle.statistics(KEY).closed_until is None


@pytest.mark.trio
async def test_advertised_concurrency_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    """No more requests are under way than the server's policy allows at a time."""
    policy = httpx.Response(200, headers={"RateLimit-Policy": '"c";q=2;qu="concurrent-requests"'})
    throttle = Throttle()
    transport = ThrottledTransport(Server(policy), throttle)
    await ask(transport)
    assert throttle.statistics(KEY).limit == 2
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(ask, transport)
    assert trio.current_time() == pytest.approx(0.4)


@pytest.mark.trio
async def test_failed_requests_give_their_place_back(autojump_clock: trio.testing.MockClock) -> None:
    """However a request ends, its place is free then: answer, error, cancellation."""
    throttle = Throttle(max_in_flight=1)
    transport = ThrottledTransport(Server(httpx.ReadError("broken"), KeyError("odd")), throttle)
    with pytest.raises(httpx.ReadError):
        await ask(transport)
    with pytest.raises(KeyError):
        await ask(transport)
    with trio.move_on_after(0.05):
        await ask(transport)
    assert throttle.statistics(KEY).in_flight == 0
    await ask(transport)


@pytest.mark.trio
async def test_broken_probe_backs_off(autojump_clock: trio.testing.MockClock) -> None:
    """A probe that fails on the way says that the server is not back: the next waits, for longer each time."""
    broken = [httpx.ConnectError("down") for _ in range(4)]
    server = Server(busy(None, 503), *broken, seconds=0.01)
    transport = ThrottledTransport(server, Throttle())
    await ask(transport)
    for _ in broken:
        with pytest.raises(httpx.ConnectError):
            await ask(transport)
    await ask(transport)
    gaps = [later - earlier for earlier, later in zip(server.sent, server.sent[1:], strict=False)]
    assert gaps == pytest.approx([0.11, 0.21, 0.41, 0.81, 1.61], abs=0.03)


@pytest.mark.trio
async def test_slot_is_free_when_the_headers_are_there(autojump_clock: trio.testing.MockClock) -> None:
    """A response that is still being read holds no place: one task can read one and ask for the next."""
    transport = ThrottledTransport(Server(), Throttle(max_in_flight=1))
    first = await ask(transport)
    second = await ask(transport)
    assert (first.status_code, second.status_code) == (200, 200)


@pytest.mark.trio
async def test_events(autojump_clock: trio.testing.MockClock) -> None:
    """Closing, opening and learning are told, with key, time and the state afterwards."""
    events: list[ThrottleEvent] = []
    throttle = Throttle(on_event=events.append)
    transport = ThrottledTransport(Server(httpx.Response(200), busy(2)), throttle)
    for _ in range(3):
        await ask(transport)
    assert [(event.kind, event.key) for event in events] == [("closed", KEY), ("opened", KEY), ("learned", KEY)]
    assert events[0].statistics.closed_until == pytest.approx(2.2, abs=0.25)
    assert events[0].time == pytest.approx(0.2)
    assert events[1].statistics.closed_until is None
    assert 0 < events[2].statistics.rate < math.inf


@pytest.mark.trio
async def test_event_function_that_raises(autojump_clock: trio.testing.MockClock) -> None:
    """An exception from on_event is raised by the request that it concerns, and harms no other."""

    def complain(event: ThrottleEvent) -> None:
        raise KeyError(event.kind)

    throttle = Throttle(on_event=complain)
    transport = ThrottledTransport(Server(busy(2)), throttle)
    with pytest.raises(KeyError, match="closed"):
        await ask(transport)
    with pytest.raises(KeyError, match="opened"):
        await ask(transport)
    await ask(transport)
    assert throttle.statistics(KEY).in_flight == 0


@pytest.mark.anyio
async def test_keys_are_bounded() -> None:
    """A thousand keys are remembered, those that were used last; one that is closed or in use is never forgotten."""
    throttle = Throttle(key=lambda request: request.url.path)
    server = Server(busy(100), seconds=0)
    transport = ThrottledTransport(server, throttle)
    await ask(transport, "http://host/closed")
    for number in range(1500):
        await ask(transport, f"http://host/{number}")
        await ask(transport, "http://host/often")
    assert len(throttle._gates) == 1000
    await ask(transport, "http://host/often")
    assert throttle.statistics("/closed").rejected == 1
    assert throttle.statistics("/often").accepted == 1501
    assert throttle.statistics("/0").accepted == 0
    assert throttle.statistics("/1499").accepted == 1


@pytest.mark.trio
async def test_new_key_is_never_the_one_to_go(autojump_clock: trio.testing.MockClock) -> None:
    """Closed keys that nobody asks for any more make room for others, once they would let a request out."""
    throttle = Throttle(key=lambda request: request.url.path)
    server = Server(*[busy(60) for _ in range(1003)], seconds=0)
    transport = ThrottledTransport(server, throttle)
    for number in range(1002):
        await ask(transport, f"http://host/{number}")
    assert len(throttle._gates) == 1002, "all are closed"
    await trio.sleep(100)
    await ask(transport, "http://host/new")
    assert throttle.statistics("/new").closed_until is not None
    assert throttle.statistics("/0").rejected == 0, "forgotten"
    with trio.move_on_after(50) as scope, pytest.raises(ThrottleTimeout):
        await ask(transport, "http://host/new")
    assert not scope.cancelled_caught


@pytest.mark.trio
@pytest.mark.parametrize("how", ["aclose", "__aexit__"])
async def test_waiters_of_a_closed_transport_are_not_sent(how: str, autojump_clock: trio.testing.MockClock) -> None:
    """Closing a transport fails what still waits there, and nothing that waits elsewhere."""
    throttle = Throttle()
    server, other = Server(busy(5)), Server()
    transport = ThrottledTransport(server, throttle)
    await ask(transport)

    async def wait() -> None:
        with pytest.raises(httpx.ConnectError, match="closed while the request waited for its turn"):
            await ask(transport)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        nursery.start_soon(ask, ThrottledTransport(other, throttle))
        await trio.sleep(1)
        await getattr(transport, how)()
    assert (len(server.sent), len(other.sent)) == (1, 1)
    assert throttle.statistics(KEY).waiting == 0


@pytest.mark.trio
async def test_requests_that_are_done_are_not_kept(autojump_clock: trio.testing.MockClock) -> None:
    """A throttle that has nothing to do keeps no request alive, also none that had a deadline."""
    transport = ThrottledTransport(Server(), Throttle(max_in_flight=1))
    requests: list[weakref.ref[httpx.Request]] = []

    async def one() -> None:
        request = httpx.Request("POST", "http://host/", content=b"x" * 1000)
        requests.append(weakref.ref(request))
        with trio.fail_after(1000):
            await transport.handle_async_request(request)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(one)
    gc.collect()
    assert [reference for reference in requests if reference() is not None] == []


@pytest.mark.anyio
async def test_throttle_twice_in_one_stack_is_refused() -> None:
    """The same throttle around itself would have each request wait for itself."""
    throttle = Throttle()
    transport = ThrottledTransport(Server(), throttle)
    with pytest.raises(ValueError, match="behind this throttle already"):
        ThrottledTransport(transport, throttle)
    with pytest.raises(ValueError, match="behind this throttle already"):
        PrefectHttpxClient(transport=transport, throttle=throttle)
    ThrottledTransport(transport, Throttle())


@pytest.mark.trio
async def test_slow_answers_do_not_block_slow_start(autojump_clock: trio.testing.MockClock) -> None:
    """Requests that are answered late on purpose, as long polls are, leave room for one more each second."""
    transport = ThrottledTransport(Server(seconds=300), Throttle())
    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(ask, transport)
        await trio.sleep(5)
    assert trio.current_time() < 310


@pytest.mark.trio
async def test_predicate_may_look_at_the_request(autojump_clock: trio.testing.MockClock) -> None:
    """A response knows its request when the predicate is asked."""
    seen: list[str] = []

    def predicate(response: httpx.Response) -> bool:
        seen.append(str(response.request.url))
        return False

    await ask(ThrottledTransport(Server(), Throttle(is_throttled=predicate)))
    assert seen == ["http://host/"]


def test_second_event_loop_is_an_error() -> None:
    """The same Throttle in another event loop is a clear error, and no silent mixing of two clocks."""
    throttle = Throttle()
    transport = ThrottledTransport(Server(seconds=0), throttle)

    async def main() -> None:
        await ask(transport)

    asyncio.run(main())
    for run in (asyncio.run, lambda coroutine: trio.run(lambda: coroutine)):
        with pytest.raises(RuntimeError, match="this Throttle is used in another event loop; make one for each"):
            cast("Callable[[object], None]", run)(main())


@pytest.mark.anyio
async def test_transport_is_entered_and_closed() -> None:
    """The transport behind is entered and closed with the client."""
    async with httpx.AsyncClient(transport=ThrottledTransport(server := Server(seconds=0), Throttle())) as client:
        await client.get("http://host/")
    assert (server.entered, server.closed) == (1, 1)
    await ThrottledTransport(server, Throttle()).aclose()
    assert server.closed == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_in_flight": 0}, ValueError, "max_in_flight must be a whole number from 1, not 0"),
        ({"max_in_flight": 2.5}, ValueError, "max_in_flight must be a whole number from 1, not 2.5"),
        ({"max_in_flight": True}, ValueError, "max_in_flight must be a whole number from 1, not True"),
        ({"max_wait": 0}, ValueError, "max_wait must be a number of seconds above 0, or None, not 0"),
        ({"max_wait": math.nan}, ValueError, "max_wait must be a number of seconds above 0, or None, not nan"),
        ({"max_wait": "1"}, ValueError, "max_wait must be a number of seconds above 0, or None, not '1'"),
        ({"key": None}, TypeError, "key must be a plain function, and not an async one, not None"),
        ({"is_throttled": ask}, TypeError, "is_throttled must be a plain function, and not an async one, not .*"),
        ({"key": "host"}, TypeError, "key must be a plain function, and not an async one, not 'host'"),
        ({"is_throttled": 429}, TypeError, "is_throttled must be a plain function, and not an async one, not 429"),
        ({"on_event": 5}, TypeError, "on_event must be a plain function, and not an async one, not 5"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """What makes no sense is refused by name."""
    with pytest.raises(error, match=f"^{message}$"):
        Throttle(**arguments)


def test_throttle_must_be_one() -> None:
    """A transport refuses what is no Throttle."""
    with pytest.raises(TypeError, match="throttle must be a Throttle, not 3"):
        ThrottledTransport(Server(), cast(Any, 3))


@pytest.mark.trio
async def test_poison_route_is_its_own_problem(autojump_clock: trio.testing.MockClock) -> None:
    """A route that is rejected again and again while others are served holds them back no more."""
    poisoned: Sequence[str] = ("/report/1", "/report/2", "/report/77")

    class Poisoned(Server):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await super().handle_async_request(request)
            return busy() if request.url.path.startswith("/report") else httpx.Response(200)

    throttle = Throttle()
    transport = ThrottledTransport(Poisoned(seconds=0.01), throttle)
    for number in range(6):
        await ask(transport, "http://host/report/" + str(number))
        await ask(transport, "http://host/fine")
    for path in poisoned:
        await ask(transport, "http://host" + path)
        assert throttle.statistics(KEY).closed_until is None


def test_rate_limit_is_frozen() -> None:
    """What is parsed of a response cannot be changed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        cast(Any, RateLimit(remaining=1)).remaining = 2
