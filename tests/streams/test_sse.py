"""client.sse(): events over as many connections as it takes, in virtual time, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import httpx
import pytest
from support.event_streams import (
    EVENT_STREAM,
    NEVER,
    URL,
    break_off,
    client_of,
    data_of,
    event,
    new_network,
    send_events,
    times_of,
)
from support.pieces import cut
from support.rows import each_row
from support.virtual_time import virtual_time_backend

from prefect_http import (
    EventStream,
    PrefectHTTPStatusError,
    ResponseTooLarge,
    RetryPolicy,
    ServerSentEvent,
    Telemetry,
    Throttle,
)
from prefect_http.testing import ReceivedRequest, Reply

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both backends, in virtual time."""
    return virtual_time_backend(request.param)


@pytest.fixture(params=[False, True], ids=["http1", "http2"])
def http2(request: pytest.FixtureRequest) -> bool:
    """Run a test over HTTP/1.1 and over HTTP/2."""
    return bool(request.param)


def notes_of(error: BaseException) -> list[str]:
    """Return the notes of an error that are not about the attempts of one request."""
    return [note for note in getattr(error, "__notes__", []) if "attempts:" not in note]


# --- Events


async def test_events_arrive_one_by_one(http2: bool) -> None:
    """Each event is there as soon as it has arrived, with its fields; 204 ends the iteration."""
    network, api = new_network()
    first, second = event("a", 1, 10), b"event: add\ndata: b\ndata: c\n\n"
    size = len(second)
    route = api.get("/events")
    route.drip(every=10, size=size, headers=EVENT_STREAM, content=first.ljust(size, b"\n") + second).reply(204)
    async with network, client_of(network, http2=http2) as client, client.sse("GET", URL) as events:
        assert isinstance(events, EventStream)
        assert (events.response.status_code, events.response.headers["Content-Type"]) == (200, "text/event-stream")
        assert (events.last_event_id, anyio.current_time()) == ("", 0)
        assert await anext(events) == ServerSentEvent("message", "a", "1", 10)
        assert (events.last_event_id, anyio.current_time()) == ("1", 10)
        assert await anext(events) == ServerSentEvent("add", "b\nc", "1", None)
        assert anyio.current_time() == 20
        assert [each async for each in events] == []
        assert (events.response.status_code, anyio.current_time()) == (204, 20.01)
        assert [each async for each in events] == []
    assert [each.http_version for each in network.connections] == ["HTTP/2" if http2 else "HTTP/1.1"]


async def test_events_that_arrive_together() -> None:
    """Events that arrive together are returned one by one, each with the last event ID as of then."""
    network, api = new_network()
    send_events(api.get("/events"), event("a", 1), event("b"), b"id: 2\n\n", event("c", 3))
    async with network, client_of(network) as client, client.sse("GET", URL, reconnect=False) as events:
        assert [(each.data, each.id, events.last_event_id) async for each in events] == [
            ("a", "1", "1"),
            ("b", "1", "1"),
            ("c", "3", "3"),
        ]


async def test_quiet_stream(http2: bool) -> None:
    """A stream may be quiet for long, whatever the read timeout of the client."""
    network, api = new_network()
    api.get("/events").drip(every=600, size=50, headers=EVENT_STREAM, content=event("a"))
    async with network, client_of(network, http2=http2) as client:
        async with client.sse("GET", URL, reconnect=False) as events:
            assert await times_of(events) == [("a", 600)]


async def test_read_timeout_of_the_caller(http2: bool) -> None:
    """With ``timeout=``, a stream that is quiet for longer has broken: it is connected again, or an error."""
    network, api = new_network()
    api.get("/events").drip(every=60, size=50, headers=EVENT_STREAM, content=event("a"), times=2).reply(204)
    async with network, client_of(network, http2=http2) as client:
        async with client.sse("GET", URL, reconnect=False, timeout=30) as events:
            with pytest.raises(httpx.ReadTimeout):
                await anext(events)
            assert anyio.current_time() == 30
        async with client.sse("GET", URL, timeout=30) as events:
            assert await times_of(events) == []
            assert anyio.current_time() == 62


# --- Reconnection


async def test_reconnects_behind_the_last_event(http2: bool) -> None:
    """A connection that breaks in the middle of an event is followed by one behind the last whole event."""
    network, api = new_network()
    route = break_off(api.get("/events"), event("a", "é 1"), event("b"))
    send_events(break_off(route, event("c", 2), b"id: 3\n\nid: 4\n"), event("d"), b"data: lost\nid: 5\n").reply(204)
    async with network, client_of(network, http2=http2) as client:
        async with client.sse("GET", URL) as events:
            assert await times_of(events) == [("a", 0), ("b", 0), ("c", 2), ("d", 4)]
            assert events.last_event_id == "3"
    assert [request.headers.get("Last-Event-ID") for request in network.requests] == [None, "é 1", "3", "3"]


async def test_every_event_comes_once(http2: bool) -> None:
    """Wherever connections end, and however the rest is cut, each event comes once, and in order."""
    source = random.Random(1)
    texts = [f"{number} \u20ac\n{number}" for number in range(40)]
    network, api = new_network()

    def reply(request: ReceivedRequest) -> Reply:
        behind = int(request.headers.get("Last-Event-ID", -1)) + 1
        if behind == len(texts):
            return Reply(204)
        lines = [f"id: {at}\ndata: {text.replace(chr(10), chr(10) + 'data: ')}\n\n" for at, text in enumerate(texts)]
        rest = "".join(lines[behind:]).replace("\n", source.choice(("\n", "\r\n", "\r"))).encode()
        return Reply(headers=EVENT_STREAM, stream=cut(source, rest[: source.randrange(200)]))

    api.get("/events").call(reply)
    async with network, client_of(network, http2=http2, retry=RetryPolicy(max_retries=30)) as client:
        async with client.sse("GET", URL) as events:
            assert await data_of(events) == texts
    assert len(network.requests) > 10


async def test_backoff_between_connections() -> None:
    """Without ``retry:``, the waits are the policy's backoff; it starts anew with an event, but not with a comment."""
    network, api = new_network()
    route = api.get("/events")
    for body in (b"", b": ping\n\n", b"id: 1\n\n", event("a"), b"", b"", event("b"), event("c")):
        send_events(route, body)
    route.reply(204)
    async with network, client_of(network) as client, client.sse("GET", URL) as events:
        assert await times_of(events) == [("a", 2 + 4 + 8), ("b", 14 + 2 + 4 + 8), ("c", 28 + 2)]
        network.assert_waits([2, 4, 8, 2, 4, 8, 2, 2])


async def test_reconnection_time_of_the_server() -> None:
    """``retry:`` is the wait before each connection from then on, until the server says otherwise."""
    network, api = new_network()
    route = send_events(api.get("/events"), event("a", retry=1500))
    send_events(send_events(send_events(route, b""), event("b")), b"retry: 0\n")
    send_events(send_events(route, event("c")), b"data: lost\nretry: 60000").reply(204)
    async with network, client_of(network) as client, client.sse("GET", URL) as events:
        assert await data_of(events) == ["a", "b", "c"]
        network.assert_waits([1.5, 1.5, 1.5, 0, 0, 0])


async def test_jitter() -> None:
    """Jitter makes a backoff longer or shorter, and the server's time only longer."""
    network, api = new_network()
    route = send_events(send_events(api.get("/events"), event("a")), event("b", retry=10_000))
    send_events(route, event("c")).reply(204)
    async with network, client_of(network, retry=RetryPolicy(jitter=0.5)) as client:
        async with client.sse("GET", URL) as events:
            assert await data_of(events) == ["a", "b", "c"]
        network.assert_waits([(1, 3), (10, 15), (10, 15)])
        assert len({pause % 1 for pause in (each.time for each in network.requests)}) > 1


async def test_policy_of_the_request() -> None:
    """``retry=``, and ``extensions``, bring the policy for the requests and for reconnection."""
    policy = RetryPolicy(backoff_base=3, jitter=0)
    ways: list[Any] = [{"retry": policy}, {"extensions": {"retry": policy}}]
    for argument in ways:
        network, api = new_network()
        began = anyio.current_time()
        send_events(api.get("/events").reply(503), event("a")).reply(204)
        async with network, client_of(network) as client, client.sse("GET", URL, **argument) as events:
            assert [(data, time - began) for data, time in await times_of(events)] == [("a", 3)]
            network.assert_waits([3, 3])


@each_row("body", [b"", b": ping\n\n", None])
async def test_gives_up(body: bytes | None) -> None:
    """When ``max_retries`` reconnections in a row have brought no event, what came last is raised, with a note."""
    network, api = new_network()
    route = send_events(api.get("/events"), event("a"))
    for _ in range(2):
        break_off(route) if body is None else send_events(route, body)
    async with network, client_of(network, retry=RetryPolicy(max_retries=2, jitter=0)) as client:
        began = anyio.current_time()
        async with client.sse("GET", URL) as events:
            assert (await anext(events)).data == "a"
            with pytest.raises(httpx.RemoteProtocolError) as caught:
                await anext(events)
            assert anyio.current_time() == began + 2 + 4
            if body is not None:
                assert str(caught.value) == "the server has ended the event stream"
            assert str(caught.value.request.url) == URL
            assert notes_of(caught.value) == ["prefect_http did not reconnect: all retries are used up"]
            # It is over, as after an error of a generator.
            assert await data_of(events) == []
    assert len(network.requests) == 3


async def test_never_reconnects() -> None:
    """With ``max_retries=0`` or ``reconnect=False``, and by default for a POST, the end of the response is the end."""
    ways: list[tuple[str, Any]] = [
        ("GET", {"retry": NEVER}),
        ("GET", {"retry": NEVER, "reconnect": True}),
        ("GET", {"reconnect": False}),
        ("POST", {}),
        ("post", {}),
    ]
    for method, arguments in ways:
        network, api = new_network()
        break_off(send_events(api.any("/events"), event("a", retry=0)), event("b", retry=0))
        async with network, client_of(network) as client:
            async with client.sse(method, URL, **arguments) as events:
                assert await data_of(events) == ["a"]
            async with client.sse(method, URL, **arguments) as events:
                assert (await anext(events)).data == "b"
                with pytest.raises(httpx.RemoteProtocolError) as caught:
                    await anext(events)
                assert notes_of(caught.value) == []
                assert await data_of(events) == []


async def test_get_in_small_letters_reconnects() -> None:
    """The method is compared as httpx sends it."""
    network, api = new_network()
    send_events(api.get("/events"), event("a")).reply(204)
    async with network, client_of(network) as client, client.sse("get", URL) as events:
        assert await data_of(events) == ["a"]


async def test_reconnects_a_post() -> None:
    """With ``reconnect=True`` a POST is sent again, with its body; also if a new connection breaks before its head."""
    network, api = new_network()
    break_off(api.post("/events"), event("a", 1)).drop().reply(204)
    async with network, client_of(network) as client:
        async with client.sse("POST", URL, reconnect=True, json={"prompt": "hi"}) as events:
            assert await data_of(events) == ["a"]
            network.assert_waits([2, 2])
    assert [request.json() for request in network.requests] == [{"prompt": "hi"}] * 3
    # But not before there has been a connection: nobody has said that this may be repeated.
    network, api = new_network()
    api.post("/events").drop()
    async with network, client_of(network) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.sse("POST", URL, reconnect=True).__aenter__()


async def test_one_shot_body() -> None:
    """A body that can be sent only once is not sent again: what came last is raised, with a note."""

    async def body() -> AsyncIterator[bytes]:
        yield b"prompt"

    for ends in (break_off, send_events):
        network, api = new_network()
        ends(api.post("/events"), event("a"))
        async with network, client_of(network) as client:
            async with client.sse("POST", URL, reconnect=True, content=body()) as events:
                assert (await anext(events)).data == "a"
                with pytest.raises(httpx.RemoteProtocolError) as caught:
                    await anext(events)
        assert notes_of(caught.value) == [
            "prefect_http did not reconnect: the request body is a one-shot stream, and some of it has been read"
        ]
        assert [request.body for request in network.requests] == [b"prompt"]


async def test_deadline_of_the_caller(http2: bool) -> None:
    """A wait that does not fit into the caller's own deadline is not begun: what came last is raised at once."""
    network, api = new_network()
    send_events(api.get("/events"), event("a", retry=10_000))
    async with network, client_of(network, http2=http2) as client, client.sse("GET", URL) as events:
        with anyio.fail_after(10):
            assert (await anext(events)).data == "a"
            with pytest.raises(httpx.RemoteProtocolError) as caught:
                await anext(events)
        assert anyio.current_time() == 0
    (note,) = notes_of(caught.value)
    assert note.endswith(
        "reconnect: a retry field of 10 s would leave no time for an attempt: "
        "only 10 s remain until the caller's deadline"
    )


async def test_reconnection_time_that_is_too_long() -> None:
    """A ``retry:`` beyond ``max_retry_after`` is not shortened: what came last is raised."""
    for retry, is_allowed in ((300_000, True), (300_001, False), (10**15, False), (10**299, False)):
        network, api = new_network()
        began = anyio.current_time()
        send_events(api.get("/events"), event("a", retry=retry))
        if is_allowed:
            api.get("/events").reply(204)
        async with network, client_of(network) as client, client.sse("GET", URL) as events:
            if is_allowed:
                assert await data_of(events) == ["a"]
                assert anyio.current_time() == began + 300
                continue
            with pytest.raises(httpx.RemoteProtocolError) as caught:
                await data_of(events)
        assert anyio.current_time() == began
        (note,) = notes_of(caught.value)
        assert note.startswith("prefect_http did not reconnect: retry field of ")
        assert note.endswith(" s exceeds max_retry_after of 300 s")


async def test_reconnection_time_behind_a_throttle() -> None:
    """With a throttle, its ``max_wait`` takes the place of ``max_retry_after``, as for a ``Retry-After``."""
    network, api = new_network()
    send_events(send_events(api.get("/events"), event("a", retry=400_000)), event("b", retry=600_000))
    async with network, client_of(network, throttle=Throttle(max_wait=500)) as client:
        async with client.sse("GET", URL) as events:
            assert [(await anext(events)).data, (await anext(events)).data] == ["a", "b"]
            with pytest.raises(httpx.RemoteProtocolError) as caught:
                await anext(events)
            assert anyio.current_time() == 400
    assert notes_of(caught.value) == ["prefect_http did not reconnect: retry field of 600 s exceeds max_wait of 500 s"]


# --- Statuses


async def test_no_content() -> None:
    """A 204 ends the iteration before it has begun."""
    network, api = new_network()
    api.get("/events").reply(204)
    async with network, client_of(network) as client, client.sse("GET", URL) as events:
        assert events.response.status_code == 204
        assert await data_of(events) == []


async def test_statuses_are_retried(http2: bool) -> None:
    """Each connection is retried as any request, with ``Retry-After``, and the last event ID."""
    network, api = new_network()
    route = api.get("/events").reply(503)
    send_events(route, event("a", 1, 0)).reply(429, headers={"Retry-After": "60"}).reply(502).reply(204)
    async with network, client_of(network, http2=http2) as client, client.sse("GET", URL) as events:
        assert await times_of(events) == [("a", 2)]
        network.assert_waits([2, 0, 60, 4])
    assert [request.headers.get("Last-Event-ID") for request in network.requests] == [None, None, "1", "1", "1"]


async def test_bad_status() -> None:
    """A status that is not retried is raised: on entering for the first connection, and else from the iteration."""
    network, api = new_network()
    send_events(api.get("/events").reply(404, json={"detail": "gone"}), event("a")).reply(401)
    async with network, client_of(network) as client:
        with pytest.raises(PrefectHTTPStatusError, match=r"^404 Not Found for GET \S+: gone\n"):
            await client.sse("GET", URL).__aenter__()
        async with client.sse("GET", URL) as events:
            assert (await anext(events)).data == "a"
            with pytest.raises(PrefectHTTPStatusError, match=r"^401 "):
                await anext(events)
            assert await data_of(events) == []


async def test_server_that_is_down_for_a_while() -> None:
    """A server that refuses connections after a break is waited for, since it has answered before."""
    network, api = new_network()
    break_off(api.get("/events"), event("a", 1)).refuse().refuse().reply(204)
    async with network, client_of(network) as client, client.sse("GET", URL) as events:
        assert await data_of(events) == ["a"]
        assert anyio.current_time() == 2 + 2 + 4


# --- Limits


async def test_event_that_is_too_large(http2: bool) -> None:
    """An event beyond the limit is an error that is not retried, behind the events before it. The connection ends."""
    network, api = new_network()
    api.get("/events").drip(every=1, size=50_000, headers=EVENT_STREAM, content=event("a") + b"data: " + b"x" * 200_000)
    async with network, client_of(network, http2=http2) as client:
        async with client.sse("GET", URL, max_event_bytes=100_000) as events:
            assert (await anext(events)).data == "a"
            with pytest.raises(ResponseTooLarge, match=r"max_event_bytes of 100000 bytes") as caught:
                await anext(events)
            assert str(caught.value.request.url) == URL
            assert await data_of(events) == []
            if not http2:
                assert [each.closed_by for each in network.connections] == ["client"]
        assert anyio.current_time() == 3


async def test_endless_pings() -> None:
    """Comments between events do not count, however many there are."""
    network, api = new_network()
    pings = b": ping\n\n" * 5_000
    api.get("/events").reply(headers=EVENT_STREAM, stream=[pings] * 5 + [event("a")]).reply(204)
    async with network, client_of(network) as client:
        async with client.sse("GET", URL, max_event_bytes=20) as events:
            assert await data_of(events) == ["a"]


@each_row("limit", [0, -1, 1.5, True, "1", None, math.inf])
async def test_bad_limit(limit: Any) -> None:
    """What is no limit is refused where it is given."""
    network, _ = new_network()
    async with network, client_of(network) as client:
        with pytest.raises(ValueError, match=r"^max_event_bytes must be an integer, 1 or more, not "):
            client.sse("GET", URL, max_event_bytes=limit)


@each_row("reconnect", [0, 1, "no", 3.0])
async def test_bad_reconnect(reconnect: Any) -> None:
    """What is neither a bool nor None is refused where it is given."""
    network, _ = new_network()
    async with network, client_of(network) as client:
        with pytest.raises(TypeError, match=r"^reconnect must be True, False or None, not "):
            client.sse("GET", URL, reconnect=reconnect)


@each_row("arguments", [{"retry": 3}, {"extensions": {"retry": "no"}}])
async def test_bad_policy(arguments: Any) -> None:
    """What is no policy is refused where it is given."""
    network, _ = new_network()
    async with network, client_of(network) as client:
        with pytest.raises(TypeError, match=r"must be a RetryPolicy"):
            client.sse("GET", URL, **arguments)


# --- Use


async def test_misuse() -> None:
    """What is done in the wrong order is an error that says what is wrong."""
    network, api = new_network()
    send_events(api.get("/events"), event("a"), event("b"))
    async with network, client_of(network) as client:
        events = client.sse("GET", URL)
        with pytest.raises(RuntimeError, match=r"^there is no response yet: use `async with"):
            events.response  # noqa: B018
        with pytest.raises(RuntimeError, match=r"^an event stream must be entered: use `async with"):
            await anext(events)
        async with events:
            assert aiter(events) is events
            with pytest.raises(RuntimeError, match=r"^an event stream can be entered only once"):
                await events.__aenter__()
            assert (await anext(events)).data == "a"
        with pytest.raises(RuntimeError, match=r"^the event stream has been left$"):
            await anext(events)
        with pytest.raises(RuntimeError, match=r"^an event stream can be entered only once"):
            await events.__aenter__()
        with pytest.raises(httpx.StreamConsumed):
            await events.response.aread()


async def test_closed_client() -> None:
    """A closed client makes no connection; one that is closed during a wait makes no other."""
    network, api = new_network()
    send_events(api.get("/events"), event("a"))
    async with network:
        client = client_of(network)
        async with client.sse("GET", URL) as events:
            assert (await anext(events)).data == "a"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_after, 1, client.aclose)
                with pytest.raises(RuntimeError, match=r"client has been closed"):
                    await anext(events)
        with pytest.raises(RuntimeError, match=r"client has been closed"):
            await client.sse("GET", URL).__aenter__()


async def _after(seconds: float, do: Callable[[], Awaitable[object]]) -> None:
    await anyio.sleep(seconds)
    await do()


async def test_client_that_is_closed_while_waiting_for_an_event(http2: bool) -> None:
    """The wait ends with an error, and there is no other connection."""
    network, api = new_network()
    api.get("/events").drip(every=60, size=50, headers=EVENT_STREAM, content=event("a"))
    async with network:
        client = client_of(network, http2=http2)
        async with client.sse("GET", URL) as events:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_after, 1, client.aclose)
                with pytest.raises(httpx.RequestError) as caught:
                    await anext(events)
                assert notes_of(caught.value) == ["prefect_http did not reconnect: the client has been closed"]
            assert anyio.current_time() == 1


async def test_telemetry() -> None:
    """Each wait for another connection is told, with its reason, and so are those of the requests in between."""

    class Waits(Telemetry):
        def wait(self, request: httpx.Request, delay: float, reason: str) -> None:
            told.append((anyio.current_time(), request.headers.get("Last-Event-ID"), delay, reason))
            raise ZeroDivisionError  # it is logged

    told: list[tuple[float, str | None, float, str]] = []
    network, api = new_network()
    send_events(send_events(api.get("/events"), event("a", 1)).reply(503), b"retry: 500\n").reply(204)
    async with network, client_of(network, telemetry=Waits()) as client, client.sse("GET", URL) as events:
        assert await data_of(events) == ["a"]
    assert told == [
        (0, None, 2, "backoff of 2 s"),
        (2, "1", 2, "backoff of 2 s"),
        (4, "1", 0.5, "retry field of 0.5 s"),
    ]


async def test_log(caplog: pytest.LogCaptureFixture) -> None:
    """Each reconnection is logged, without credentials."""
    caplog.set_level(logging.DEBUG, "prefect_http")
    network, api = new_network()
    send_events(send_events(api.get("/events"), event("a"), b""), b"retry: 500\n").reply(204)
    url = URL.replace("https://", "https://user:secret@")
    async with network, client_of(network) as client, client.sse("GET", url) as events:
        assert await data_of(events) == ["a"]
    ended = f"GET {URL}: RemoteProtocolError: the server has ended the event stream"
    lines = [record for record in caplog.records if "reconnection" in record.getMessage()]
    assert [record.getMessage() for record in lines] == [
        f"{ended}; reconnection 1/5 in 2 s (backoff of 2 s)",
        f"{ended}; reconnection 2/5 in 0.5 s (retry field of 0.5 s)",
    ]
    fields = {"http_method": "GET", "http_url": URL, "delay": 2, "reason": "backoff of 2 s"}
    assert vars(lines[0]).items() >= fields.items()
    assert "secret" not in caplog.text
