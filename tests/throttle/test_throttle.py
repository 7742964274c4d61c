"""Throttle and ThrottledTransport: keys, rejections, headers, events, statistics, and how requests end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import math
import re
import threading
import weakref
from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence
from typing import Any, cast

import anyio
import httpx
import pytest
import trio
import trio.testing
from support.rows import each_row
from support.timed_transport import KEY, Server, ask, busy

from prefect_http import (
    PrefectHttpxClient,
    RateLimit,
    Throttle,
    ThrottledTransport,
    ThrottleEvent,
    ThrottleStatistics,
    ThrottleTimeout,
)


def test_public_names() -> None:
    """A Throttle shows its users what is for them, and nothing that is for our transport."""
    assert [name for name in dir(Throttle()) if not name.startswith("_")] == ["statistics"]


def test_new_key() -> None:
    """A key without requests is open, knows no rate, and starts slowly."""
    assert Throttle().statistics(KEY) == ThrottleStatistics(
        closed_until=None, rate=math.inf, limit=10, in_flight=0, waiting=0, accepted=0, rejected=0
    )
    assert Throttle(slow_start=False).statistics(KEY).limit == 100
    assert Throttle(slow_start=False, max_in_flight=7).statistics(KEY).limit == 7


@pytest.mark.trio
async def test_statistics(autojump_clock: trio.testing.MockClock) -> None:
    """The statistics are a frozen snapshot."""
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
@pytest.mark.parametrize(
    ("status", "seconds", "rejections"), [(429, 3, 1), (503, 3, 4), (429, None, 4), (503, None, 4)]
)
async def test_rejection_holds_back_all_requests(
    status: int, seconds: int | None, rejections: int, autojump_clock: trio.testing.MockClock
) -> None:
    """After a 429 with Retry-After no request of the key is sent before that has passed.

    Others may be faults: only several in a row hold back all requests, for the Retry-After or a first backoff.
    """
    server = Server(*(busy(seconds, status) for _ in range(rejections)))
    transport = ThrottledTransport(server, Throttle())
    async with trio.open_nursery() as nursery:
        for _ in range(rejections):
            nursery.start_soon(ask, transport)
    del server.sent[1:rejections]
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
    """A rejection closes one origin: scheme, host and port, with default ports filled in."""
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
    """Requests share a limit if the key function returns the same for them."""

    def by_credential(request: httpx.Request) -> str:
        return request.headers["Authorization"]

    throttle = Throttle(key=by_credential)
    transport = ThrottledTransport(Server(busy(10)), throttle)
    request = httpx.Request("GET", "http://host/", headers={"Authorization": "one"})
    await transport.handle_async_request(request)
    assert throttle.statistics("one").rejected == 1
    assert throttle.statistics("two").rejected == 0


@pytest.mark.anyio
async def test_the_same_url_again() -> None:
    """Requests with one and the same URL object have the same gate, unless the user's key function says otherwise."""
    one, two = httpx.Request("GET", "http://one/"), httpx.Request("GET", "http://two/")
    throttle = Throttle()
    transport = ThrottledTransport(Server(seconds=0), throttle)
    for request in (one, one, two, two, one):
        await transport.handle_async_request(request)
    keys = ("http", "two", 80), ("http", "one", 80)
    assert [(key, each.accepted) for key, each in throttle.statistics().items()] == list(zip(keys, (2, 3), strict=True))

    by_header = Throttle(key=lambda request: request.headers["Authorization"])
    transport = ThrottledTransport(Server(seconds=0), by_header)
    for credential in ("a", "a", "b"):
        one.headers["Authorization"] = credential
        await transport.handle_async_request(one)
    assert [(key, each.accepted) for key, each in by_header.statistics().items()] == [("a", 2), ("b", 1)]


class ClosedStream(httpx.AsyncByteStream):
    """A body that records whether it has been closed."""

    is_closed = False

    async def aclose(self) -> None:
        self.is_closed = True


def fail(*_: object) -> bool:
    """Stand for a function of the user's that fails."""
    raise KeyError("fail")


@pytest.mark.trio
@pytest.mark.parametrize(
    ("answer", "arguments", "error", "accepted", "rejected"),
    [
        pytest.param(httpx.Response(200), {}, None, 1, 0, id="answered"),
        pytest.param(busy(), {}, None, 0, 1, id="rejected"),
        pytest.param(httpx.ReadError("broken"), {}, httpx.ReadError, 0, 0, id="failed"),
        pytest.param(KeyError("odd"), {}, KeyError, 0, 0, id="odd-failure"),
        pytest.param(None, {}, trio.TooSlowError, 0, 0, id="cancelled"),
        pytest.param(httpx.Response(200), {"is_throttled": fail}, None, 1, 0, id="predicate-fails"),
        pytest.param(busy(1), {"on_event": fail}, KeyError, 0, 1, id="on_event-fails"),
    ],
)
async def test_every_request_gives_its_turn_back(
    answer: httpx.Response | Exception | None,
    arguments: dict[str, Any],
    error: type[Exception] | None,
    accepted: int,
    rejected: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However a request ends, its turn is free afterwards; a response that the caller does not get is closed."""
    throttle = Throttle(max_in_flight=1, **arguments)
    stream = ClosedStream()
    if isinstance(answer, httpx.Response):
        answer = httpx.Response(answer.status_code, headers=answer.headers, stream=stream)
    transport = ThrottledTransport(Server(answer or httpx.Response(200)), throttle)
    with pytest.raises(error) if error else contextlib.nullcontext():
        with trio.fail_after(0.05 if answer is None else 1):
            await ask(transport)
    statistics = throttle.statistics(KEY)
    assert (statistics.accepted, statistics.rejected, statistics.in_flight) == (accepted, rejected, 0)
    assert stream.is_closed is (isinstance(answer, httpx.Response) and error is not None)


@pytest.mark.trio
async def test_own_predicate(autojump_clock: trio.testing.MockClock) -> None:
    """The predicate decides what a rejection is. It can look at the response's request."""
    seen: list[str] = []

    def predicate(response: httpx.Response) -> bool:
        seen.append(str(response.request.url))
        return response.status_code == 403

    throttle = Throttle(is_throttled=predicate)
    transport = ThrottledTransport(Server(httpx.Response(429), httpx.Response(403)), throttle)
    for _ in range(2):
        await ask(transport)
    statistics = throttle.statistics(KEY)
    assert (statistics.accepted, statistics.rejected) == (1, 1)
    assert seen == ["http://host/"] * 2


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
async def test_advertised_limits_are_obeyed(
    headers: dict[str, str], extra: dict[str, str], expected: float | None, autojump_clock: trio.testing.MockClock
) -> None:
    """If a good answer says that nothing is left, the gate closes until something is; not if it comes from a cache."""
    throttle = Throttle()
    server = Server(httpx.Response(200, headers={**headers, **extra}))
    transport = ThrottledTransport(server, throttle)
    await ask(transport)
    assert throttle.statistics(KEY).closed_until == (expected and pytest.approx(expected))
    await ask(transport)
    assert server.sent[1] >= (expected or 0.1)
    assert throttle.statistics(KEY).rate == math.inf, "nothing was rejected, so nothing is learned"


@pytest.mark.trio
async def test_limits_of_a_redirect_are_ignored(autojump_clock: trio.testing.MockClock) -> None:
    """What a redirect says about limits is ignored: they may be those of another server."""
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
async def test_broken_probe_backs_off(autojump_clock: trio.testing.MockClock) -> None:
    """If a probe fails on the network, the server is not back: the next one waits, longer each time."""
    broken = [httpx.ConnectError("down") for _ in range(4)]
    rejections = [busy(None, 503) for _ in range(4)]  # as many as close the gate
    server = Server(*rejections, *broken, seconds=0.01)
    transport = ThrottledTransport(server, Throttle())
    for _ in rejections:
        await ask(transport)
    for _ in broken:
        with pytest.raises(httpx.ConnectError):
            await ask(transport)
    await ask(transport)
    gaps = [later - earlier for earlier, later in zip(server.sent[3:], server.sent[4:], strict=False)]
    assert gaps == pytest.approx([0.11, 0.21, 0.41, 0.81, 1.61], abs=0.03)


@pytest.mark.trio
async def test_turn_ends_with_the_headers(autojump_clock: trio.testing.MockClock) -> None:
    """A response that is still being read does not count as under way: its task can send another request."""
    transport = ThrottledTransport(Server(), Throttle(max_in_flight=1))
    first = await ask(transport)
    second = await ask(transport)
    assert (first.status_code, second.status_code) == (200, 200)


@pytest.mark.trio
async def test_events(autojump_clock: trio.testing.MockClock) -> None:
    """Closing, opening and learning are reported, with the key, the time and the state afterwards."""
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
async def test_event_function_that_raises(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """The first exception from on_event is raised by the request that caused the events; further ones are logged."""
    kinds = list[str]()

    def complain(event: ThrottleEvent) -> None:
        kinds.append(event.kind)
        raise KeyError(event.kind)

    throttle = Throttle(on_event=complain)
    transport = ThrottledTransport(Server(httpx.Response(200), busy(2)), throttle)
    await ask(transport)
    with pytest.raises(KeyError, match="closed"):
        await ask(transport)
    assert caplog.records == []
    with pytest.raises(KeyError, match="opened"):
        await ask(transport)
    await ask(transport)
    assert kinds == ["closed", "opened", "learned"]
    assert throttle.statistics(KEY).in_flight == 0
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("prefect_http.throttle", "ERROR")
    assert "KeyError: 'learned'" in caplog.text


@pytest.mark.trio
async def test_interrupt_in_an_event_function(autojump_clock: trio.testing.MockClock) -> None:
    """A KeyboardInterrupt in on_event is raised at once, and no other request gets anything of it."""

    def interrupt(event: ThrottleEvent) -> None:
        if event.kind == "opened":
            raise KeyboardInterrupt

    transport = ThrottledTransport(Server(httpx.Response(200), busy(2)), Throttle(on_event=interrupt))
    await ask(transport)
    await ask(transport)
    with pytest.raises(KeyboardInterrupt):
        await ask(transport)
    await ask(transport)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (lambda request: {}[request.url.path], KeyError, "'/'"),
        (
            lambda request: ["secret"],
            TypeError,
            "key must return a hashable value: .*unhashable type: 'list'.*",
        ),
        (lambda request: ("a", ["secret"]), TypeError, "key must return a hashable value: .*unhashable type: 'list'.*"),
    ],
    ids=["raises", "unhashable", "unhashable-item"],
)
async def test_key_function_that_fails(
    key: Callable[[httpx.Request], Hashable], error: type[Exception], message: str
) -> None:
    """What a key function raises is raised by that request; nothing is sent, and nothing is left behind."""
    keys = [key]
    throttle = Throttle(key=lambda request: keys[0](request))
    client = PrefectHttpxClient(transport=(server := Server(seconds=0)), throttle=throttle)
    async with client:
        with pytest.raises(error, match=f"^{message}$"):
            await client.get("http://host/")
        with pytest.raises(error, match=f"^{message}$"):
            throttle.statistics("http://host/")
        assert server.sent == []
        assert throttle.statistics() == {}
        keys[0] = lambda request: "fine"
        await client.get("http://host/")
    assert list(throttle.statistics()) == ["fine"]


@pytest.mark.trio
async def test_statistics_of_urls_and_of_all_keys(autojump_clock: trio.testing.MockClock) -> None:
    """A URL stands for the key of a GET request for it; without a key, there are the statistics of all keys."""
    throttle = Throttle(key=lambda request: request.url.path if request.method == "GET" else "other")
    assert throttle.statistics() == {}
    transport = ThrottledTransport(Server(), throttle)
    for path in ("a", "b", "http://host/a"):
        await ask(transport, f"http://host/{path}")
    await ask(transport, "http://host/b")
    found = throttle.statistics()
    assert list(found) == ["/a", "/http://host/a", "/b"]
    assert [statistics.accepted for statistics in found.values()] == [1, 1, 2]
    for url in ("http://host/b", "https://user:password@other/b?c", httpx.URL("http://host/b")):
        assert throttle.statistics(url) == found["/b"]
    assert throttle.statistics("/b") == found["/b"]
    assert throttle.statistics("http://host/c").accepted == 0
    assert throttle.statistics("b").accepted == 0, "not a URL, and not a key"
    with pytest.raises(httpx.InvalidURL):
        throttle.statistics("http://host:port/")
    with pytest.raises(TypeError, match=r"key must be hashable: .*unhashable type: 'list'"):
        throttle.statistics(cast(Any, ["/a"]))
    assert throttle.statistics() == found


@pytest.mark.trio
async def test_known_key_wins_over_a_url(autojump_clock: trio.testing.MockClock) -> None:
    """If a URL is a key, the statistics are those of this key."""
    throttle = Throttle(key=lambda request: str(request.url) if request.method == "POST" else None)
    transport = ThrottledTransport(Server(), throttle)
    await ask(transport, "http://host/", "POST")
    await ask(transport, "http://host/")
    await ask(transport, "http://host/")
    assert throttle.statistics("http://host/").accepted == 1
    assert throttle.statistics("http://host/2").accepted == 2
    assert throttle.statistics(None).accepted == 2, "None may be a key"


# --- The log


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines at level INFO of the throttle's logger."""
    return [
        record.getMessage()
        for record in caplog.records
        if (record.name, record.levelno) == ("prefect_http.throttle", logging.INFO)
    ]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (busy(60), r"for 60\.\d s, until ....-..-.. ..:..:.. UTC \(429 with Retry-After: 60\)"),
        (busy(60, 503), None),  # alone, it may be a fault
        (busy(9), None),
        (busy(), None),
        (busy(172800), None),
        (
            httpx.Response(200, headers={"RateLimit": '"default";r=0;t=20'}),
            r"for 20\.0 s, until .* \(the server said that no requests are left\)",
        ),
        (
            httpx.Response(429, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "20"}),
            r"for 20\.0 s, until .* \(the server said that no requests are left\)",
        ),
    ],
    ids=str,
)
async def test_long_closure_is_logged(
    answer: httpx.Response,
    line: str | None,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """If the gate closes for more than 10 s, the log says so: for which origin, how long, until when, and why."""
    caplog.set_level(logging.INFO)
    throttle = Throttle(key=lambda request: request.headers.get("Authorization"))
    copy = httpx.Response(answer.status_code, headers=answer.headers)
    await ask(ThrottledTransport(Server(copy), throttle), "https://user:password@host/path?token=secret")
    expected = [] if line is None else [f"https://host: the server accepts no requests {line}"]
    assert [re.fullmatch(*pair) is not None for pair in zip(expected, lines_of(caplog), strict=True)] == [
        True for _ in expected
    ], lines_of(caplog)


@pytest.mark.trio
async def test_long_closure_is_logged_once(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A closure is logged once, however often it is prolonged, when it first lasts longer than 10 s; so is the next."""
    caplog.set_level(logging.INFO)
    rejections = [busy(seconds) for seconds in (5, 8, 30, 60)]
    transport = ThrottledTransport(Server(*rejections, httpx.Response(200), busy(60)), Throttle())
    logged = list[int]()
    for _ in range(6):
        await ask(transport, "http://host:8080/")
        logged.append(len(lines_of(caplog)))
    assert logged == [0, 1, 1, 1, 1, 2]
    assert re.match(r"http://host:8080: the server accepts no requests for 8\.\d s, .*: 8\)", lines_of(caplog)[0])


@pytest.mark.trio
async def test_outage_is_logged_once(caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock) -> None:
    """If backoffs, or probes that fail on the network, add up to more than 10 s, that is logged, too."""
    caplog.set_level(logging.INFO)
    broken = [httpx.ConnectError("down") for _ in range(9)]
    for answers, why in (
        ([busy() for _ in range(12)], "rejected time and again, most recently with 429 without Retry-After"),
        ([busy(), busy(), busy(), busy(), *broken], "a request failed on the network"),
    ):
        caplog.clear()
        transport = ThrottledTransport(Server(*answers, seconds=0), Throttle())
        for _ in answers:
            with contextlib.suppress(httpx.ConnectError):
                await ask(transport)
        (line,) = lines_of(caplog)
        assert line.endswith(f" UTC ({why})")


@pytest.mark.trio
async def test_keys_are_bounded() -> None:
    """The thousand keys that were used last are remembered; one that is closed is not forgotten."""
    throttle = Throttle(key=lambda request: request.url.path)
    transport = ThrottledTransport(Server(busy(100), seconds=0), throttle)
    for path in ("closed", "often", *map(str, range(500)), "often", *map(str, range(500, 1010))):
        await ask(transport, f"http://host/{path}")
    assert throttle.statistics("/closed").rejected == 1
    assert throttle.statistics("/often").accepted == 2
    remembered = [number for number in range(1010) if throttle.statistics(f"/{number}").accepted]
    assert remembered == list(range(12, 1010))


@pytest.mark.trio
async def test_closed_keys_make_room_later(autojump_clock: trio.testing.MockClock) -> None:
    """Closed keys that are no longer used make room for new ones, once they would let a request out."""
    throttle = Throttle(key=lambda request: request.url.path)
    server = Server(*[busy(60) for _ in range(1003)], seconds=0)
    transport = ThrottledTransport(server, throttle)
    for number in range(1002):
        await ask(transport, f"http://host/{number}")
    assert all(throttle.statistics(f"/{number}").rejected for number in range(1002)), "all are closed, and remembered"
    await trio.sleep(100)
    await ask(transport, "http://host/new")
    assert throttle.statistics("/new").closed_until is not None
    assert throttle.statistics("/0").rejected == 0, "it was forgotten"
    with trio.move_on_after(50) as scope, pytest.raises(ThrottleTimeout):
        await ask(transport, "http://host/new")
    assert not scope.cancelled_caught


@pytest.mark.trio
@pytest.mark.parametrize("how", ["aclose", "__aexit__"])
async def test_waiters_of_a_closed_transport_are_not_sent(how: str, autojump_clock: trio.testing.MockClock) -> None:
    """Closing a transport fails the requests that wait there, and no others."""
    throttle = Throttle()
    server, other = Server(busy(5)), Server()
    transport = ThrottledTransport(server, throttle)
    await ask(transport)

    async def wait() -> None:
        with pytest.raises(httpx.ConnectError, match="closed while the request waited for its turn; it was not sent"):
            await ask(transport)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        nursery.start_soon(ask, ThrottledTransport(other, throttle))
        await trio.sleep(1)
        await getattr(transport, how)()
    assert (len(server.sent), len(other.sent)) == (1, 1)
    assert throttle.statistics(KEY).waiting == 0


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Disable the garbage collector during the block, so that objects in a reference cycle stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.trio
async def test_requests_that_have_ended_are_not_kept_alive(autojump_clock: trio.testing.MockClock) -> None:
    """A throttle that is idle keeps no request alive, even if it had a deadline."""
    transport = ThrottledTransport(Server(), Throttle(max_in_flight=1))
    requests: list[weakref.ref[httpx.Request]] = []

    async def one() -> None:
        request = httpx.Request("POST", "http://host/", content=b"x" * 1000)
        requests.append(weakref.ref(request))
        with trio.fail_after(1000):
            await transport.handle_async_request(request)

    with without_collector():
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        assert [reference for reference in requests if reference() is not None] == []


@pytest.mark.anyio
@each_row("error", [None, httpx.ReadError, ThrottleTimeout])
async def test_requests_are_in_no_reference_cycle(error: type[Exception] | None) -> None:
    """However a request ends, it is freed at once, not only by the garbage collector."""
    throttle = Throttle(max_wait=1)
    server = Server(seconds=0) if error is None else Server(httpx.ReadError("broken"), seconds=0)
    transport = ThrottledTransport(server, throttle)
    if error is ThrottleTimeout:
        await ask(ThrottledTransport(Server(busy(100), seconds=0), throttle))
    request = httpx.Request("GET", "http://host/")
    reference = weakref.ref(request)
    with without_collector():
        try:
            await transport.handle_async_request(request)
        except httpx.TransportError as raised:  # pytest.raises() would keep the traceback
            assert type(raised) is error  # noqa: PT017
        del request
        assert reference() is None


def test_same_throttle_twice_is_an_error() -> None:
    """A transport behind the same throttle twice would make each request wait for itself; two throttles are fine."""
    throttle = Throttle()
    transport = ThrottledTransport(Server(), throttle)
    with pytest.raises(ValueError, match="the transport already uses this throttle"):
        ThrottledTransport(transport, throttle)
    with pytest.raises(ValueError, match="the transport already uses this throttle"):
        PrefectHttpxClient(transport=transport, throttle=throttle)
    ThrottledTransport(transport, Throttle())


@pytest.mark.trio
async def test_slow_answers_do_not_block_slow_start(autojump_clock: trio.testing.MockClock) -> None:
    """Requests that are answered late on purpose, such as long polls, leave room for one more each second."""
    transport = ThrottledTransport(Server(seconds=300), Throttle())
    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(ask, transport)
        await trio.sleep(5)
    assert trio.current_time() < 310


def run_on_trio(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run a function on trio, in a thread: there may be an event loop in this one."""
    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    thread.join(10)


def test_two_event_loops_at_once_are_an_error() -> None:
    """Using a Throttle in a second event loop, while the first is there, is an error: their clocks do not agree."""
    errors = list[Exception]()
    transport = ThrottledTransport(Server(seconds=0), Throttle())

    async def other() -> None:
        with pytest.raises(RuntimeError, match="this Throttle belongs to another event loop; make one") as caught:
            await ask(transport)
        errors.append(caught.value)

    async def main() -> None:
        await ask(transport)
        run_on_trio(other)
        await ask(transport)

    asyncio.run(main())
    assert len(errors) == 1


@each_row("first", ["asyncio", "trio"])
@each_row("second", ["asyncio", "trio"])
def test_next_event_loop(first: str, second: str) -> None:
    """Once its event loop has ended, a Throttle may be used in the next one, and has forgotten what it knew."""
    throttle, rejected = Throttle(max_wait=1), list[int]()
    transport = ThrottledTransport(Server(busy(60), seconds=0), throttle)
    request = httpx.Request("GET", "http://host/")

    async def main() -> None:
        await transport.handle_async_request(request)
        rejected.append(throttle.statistics(KEY).rejected)

    anyio.run(main, backend=first)
    anyio.run(main, backend=second)
    assert rejected == [1, 0]


@pytest.mark.anyio
async def test_transport_is_entered_and_closed() -> None:
    """The transport behind the throttle is entered and closed with the client."""
    async with httpx.AsyncClient(transport=ThrottledTransport(server := Server(seconds=0), Throttle())) as client:
        await client.get("http://host/")
    assert (server.entered, server.closed) == (1, 1)
    await ThrottledTransport(server, Throttle()).aclose()
    assert server.closed == 2


@each_row(
    ("arguments", "error", "message"),
    [
        ({"max_in_flight": 0}, ValueError, "max_in_flight must be an integer of at least 1, not 0"),
        ({"max_in_flight": 2.5}, ValueError, "max_in_flight must be an integer of at least 1, not 2.5"),
        ({"max_in_flight": True}, ValueError, "max_in_flight must be an integer of at least 1, not True"),
        ({"max_wait": 0}, ValueError, "max_wait must be a positive number of seconds, or None, not 0"),
        ({"max_wait": math.nan}, ValueError, "max_wait must be a positive number of seconds, or None, not nan"),
        ({"max_wait": 10**400}, ValueError, "max_wait must be a positive number of seconds, or None, not 10+"),
        ({"max_wait": "1"}, ValueError, "max_wait must be a positive number of seconds, or None, not '1'"),
        *(
            ({"rate": rate}, ValueError, rf"rate must be a number of requests from 1e-06 to 1e\+09, not {rate!r}")
            for rate in (0, -1, 1e-7, 2e9, True, math.nan, math.inf, "5")
        ),
        *(
            ({"rate": 1, "per": per}, ValueError, rf"per must be a number of seconds from 1e-06 to 1e\+09, not {per!r}")
            for per in (0, -1, 1e-7, 2e9, True, math.nan, math.inf, None)
        ),
        *(
            ({"rate": 1, "burst": burst}, ValueError, rf"burst must be an integer from 1 to 1e\+09, not {burst!r}")
            for burst in (0, -1, 10**10, True, math.nan, math.inf, 1.5, None)
        ),
        ({"per": 60}, ValueError, "per cannot be given without rate"),
        ({"burst": 5}, ValueError, "burst cannot be given without rate"),
        ({"key": None}, TypeError, "key must be a sync function, not None"),
        ({"key": "host"}, TypeError, "key must be a sync function, not 'host'"),
        ({"is_throttled": 429}, TypeError, "is_throttled must be a function, not 429"),
        ({"on_event": 5}, TypeError, "on_event must be a sync function, not 5"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """The error names the argument, what it must be, and what it is."""
    with pytest.raises(error, match=f"^{message}$"):
        Throttle(**arguments)


def test_throttle_must_be_one() -> None:
    """A transport only accepts a Throttle."""
    with pytest.raises(TypeError, match="throttle must be a Throttle, not 3"):
        ThrottledTransport(Server(), cast(Any, 3))


@pytest.mark.trio
async def test_route_with_a_problem_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    """A route that is rejected again and again while others are served no longer holds them back."""
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
    """A parsed rate limit cannot be changed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        cast(Any, RateLimit(remaining=1)).remaining = 2
