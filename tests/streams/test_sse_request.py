"""The requests of an event stream: their headers and timeouts, and what sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from support.event_streams import EVENT_STREAM, STEADY, URL, client_of, data_of, event, new_network, send_events
from support.rows import each_row
from support.virtual_time import virtual_time_backend

from prefect_http import InvalidResponse, PrefectHttpxClient

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both backends, in virtual time."""
    return virtual_time_backend(request.param)


Pairs = list[tuple[str, str]]
NAMES = {"accept", "cache-control", "last-event-id", "x"}
ACCEPT, CACHE = ("accept", "text/event-stream"), ("cache-control", "no-store")

HEADERS: list[tuple[Any, Any, Pairs]] = [
    (None, None, [ACCEPT, CACHE]),
    (None, {}, [ACCEPT, CACHE]),
    (None, {"X": "1"}, [("x", "1"), ACCEPT, CACHE]),
    (None, [(b"X", b"1"), (b"x", b"2")], [("x", "1"), ("x", "2"), ACCEPT, CACHE]),
    # The caller's own.
    (None, {"ACCEPT": "*/*", "cache-control": "max-age=0"}, [("accept", "*/*"), ("cache-control", "max-age=0")]),
    # Those of the client are for its other requests.
    ({"Accept": "application/json", "Cache-Control": "no-cache"}, None, [ACCEPT, CACHE]),
    ({"Last-Event-ID": "0", "X": "1"}, None, [("last-event-id", "0"), ("x", "1"), ACCEPT, CACHE]),
    # Where to begin.
    (None, {"last-event-id": "7"}, [ACCEPT, CACHE, ("last-event-id", "7")]),
    (None, [("Last-Event-ID", "7"), ("Last-Event-ID", "8")], [ACCEPT, CACHE, ("last-event-id", "8")]),
    (None, {"Last-Event-ID": ""}, [ACCEPT, CACHE]),
    (None, [(b"Last-Event-ID", "\u20ac".encode())], [ACCEPT, CACHE, ("last-event-id", "\u20ac")]),
    (None, httpx.Headers({"Last-Event-ID": "\u20ac"}, encoding="utf-8"), [ACCEPT, CACHE, ("last-event-id", "\u20ac")]),
]


@each_row("of_client, of_call, sent", HEADERS)
async def test_headers(of_client: Any, of_call: Any, sent: Pairs) -> None:
    """A request says that it is for an event stream, unless the caller says otherwise."""
    network, api = new_network()
    api.get("/events").reply(204)
    async with network, client_of(network, headers=of_client) as client:
        events = client.sse("GET", URL, headers=of_call)
        assert events.last_event_id == dict(sent if of_client is None else []).get("last-event-id", "")
        async with events:
            pass
    received = [(name.lower().decode(), value.decode()) for name, value in network.requests[0].headers.raw]
    assert [pair for pair in received if pair[0] in NAMES] == sent


IDS = [
    (b"id: 1\n", "1"),
    ("id: \u20ac \U0001f600".encode() + b"\n", "\u20ac \U0001f600"),
    (b"id: \xff\n", "\ufffd"),
    (b"id:  \t 2 \n", "2"),
    (b"id:   \n", ""),
    (b"id: 3\nid: 4\n", "4"),
    # None, so that not even that of the caller is sent.
    (b"id\n", None),
]


async def test_last_event_id() -> None:
    """The last event ID is sent in UTF-8, without the blanks that no header has at its ends."""
    for line, sent in IDS:
        network, api = new_network()
        send_events(api.get("/events"), line + event("a")).reply(204)
        async with network, client_of(network) as client:
            async with client.sse("GET", URL, headers={"Last-Event-ID": "0"}) as events:
                assert await data_of(events) == ["a"]
        assert [request.headers.get("Last-Event-ID") for request in network.requests] == ["0", sent], line


async def test_id_that_cannot_be_sent() -> None:
    """An ID with a control character, which no header can have, is an error that says where it is from."""
    network, api = new_network()
    send_events(api.get("/events"), b"id: \x01\n" + event("a"))
    async with network, client_of(network) as client, client.sse("GET", URL) as events:
        assert (await anext(events)).id == "\x01"
        with pytest.raises(httpx.LocalProtocolError, match=r"the server's event ID '\\x01' has a control") as caught:
            await anext(events)
    assert str(caught.value.request.url) == URL
    with pytest.raises(httpx.LocalProtocolError, match=r"header Last-Event-ID has a control character"):
        async with client_of(network) as client, client.sse("GET", URL, headers={"Last-Event-ID": "\x01"}):
            raise AssertionError


async def test_id_that_cannot_be_sent_and_echoes_a_credential() -> None:
    """It is shown without the credential."""
    network, api = new_network()
    send_events(api.get("/events"), b"id: t0ken\x01\n" + event("a"))
    headers = {"Authorization": "Bearer t0ken"}
    async with network, client_of(network) as client, client.sse("GET", URL, headers=headers) as events:
        await anext(events)
        with pytest.raises(httpx.LocalProtocolError, match=r"event ID '\[secure\]\\x01' has a control"):
            await anext(events)


async def test_timeouts() -> None:
    """There is no read timeout unless ``timeout=`` is given; the others stay those of the client."""
    seen: list[object] = []

    async def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(204)

    timeout = httpx.Timeout(connect=1, read=2, write=3, pool=4)
    async with PrefectHttpxClient(transport=httpx.MockTransport(respond), timeout=timeout) as client:
        given: list[Any] = [{}, {"timeout": 5}, {"timeout": None}, {"extensions": {"timeout": {"read": 6}}}]
        for arguments in given:
            async with client.sse("GET", URL, **arguments):
                pass
    assert seen == [
        {"connect": 1, "read": None, "write": 3, "pool": 4},
        {"connect": 5, "read": 5, "write": 5, "pool": 5},
        {"connect": None, "read": None, "write": None, "pool": None},
        {"read": 6},
    ]


async def test_each_connection_is_a_request_of_the_client() -> None:
    """Parameters, cookies, authentication, redirects and event hooks work, for each connection."""
    network, api = new_network()
    old = api.get("/old").reply(307, headers={"Location": "/events"}, times=2)
    new = send_events(api.get("/events"), event("a", 1)).reply(204, times=2)
    called: list[str] = []

    async def hook(request: httpx.Request) -> None:
        called.append(request.url.path)

    arguments: Any = {
        "event_hooks": {"request": [hook]},
        "auth": ("user", "secret"),
        "base_url": "https://api.example.com",
    }
    async with network, client_of(network, **arguments) as client:
        async with client.sse("GET", "/old", params={"q": "1"}, follow_redirects=True) as events:
            assert await data_of(events) == ["a"]
            assert [each.status_code for each in events.response.history] == [307]
            assert str(events.response.url) == URL
        async with client.sse("GET", "/events", auth=None) as events:
            pass
    assert called[:4] == ["/old", "/events"] * 2
    assert [request.url.query for request in old.requests] == [b"q=1"] * 2
    assert ["Authorization" in request.headers for request in new.requests] == [True, True, False]
    assert [request.headers.get("Last-Event-ID") for request in new.requests] == [None, "1", None]


@each_row("body", [{"json": [1]}, {"data": {"a": "1"}}, {"content": b"x"}, {"files": {"f": b"1"}}])
async def test_bodies_are_sent_again(body: Any) -> None:
    """Each connection of a POST that reconnects has the whole body."""
    network, api = new_network()
    route = send_events(api.post("/events"), event("a")).reply(204)
    async with network, client_of(network) as client, client.sse("POST", URL, reconnect=True, **body) as events:
        assert await data_of(events) == ["a"]
    first, second = route.requests
    assert len(first.body) == len(second.body) > 0


async def test_mocked_send() -> None:
    """A ``send()`` that has been replaced gets the requests, and may return a response of httpx's class."""
    requests: list[httpx.Request] = []

    class Client(PrefectHttpxClient):
        async def send(self, request: httpx.Request, **arguments: Any) -> Any:
            requests.append(request)
            assert arguments == {"stream": True}
            return httpx.Response(200, headers=EVENT_STREAM, content=event("a"), request=request)

    async with Client(retry=STEADY) as client, client.sse("GET", URL, reconnect=False) as events:
        assert await data_of(events) == ["a"]
        assert events.response.raise_for_status() is events.response
    assert len(requests) == 1


async def test_hook_that_reads_the_response() -> None:
    """An event hook may read a response whole."""

    async def read(response: httpx.Response) -> None:
        await response.aread()

    network, api = new_network()
    send_events(api.get("/events"), event("a"), event("b"))
    async with network, client_of(network, event_hooks={"response": [read]}) as client:
        async with client.sse("GET", URL, reconnect=False) as events:
            assert await data_of(events) == ["a", "b"]


async def test_unknown_argument() -> None:
    """An argument that httpx does not know is a TypeError."""
    async with PrefectHttpxClient() as client:
        with pytest.raises(TypeError, match="unexpected keyword argument 'jason'"):
            await client.sse("POST", URL, jason=1).__aenter__()  # type: ignore[call-arg]


async def test_streamed_body() -> None:
    """A request body may be streamed while there is one connection."""

    async def body() -> AsyncIterator[bytes]:
        yield b"pro"
        await anyio.sleep(1)
        yield b"mpt"

    network, api = new_network()
    send_events(api.post("/events"), event("a"))
    async with network, client_of(network) as client, client.sse("POST", URL, content=body()) as events:
        assert await data_of(events) == ["a"]
    assert network.requests[0].body == b"prompt"


def test_invalid_response_is_a_protocol_error() -> None:
    """A caller who handles what httpx raises handles a wrong content type."""
    assert issubclass(InvalidResponse, httpx.RemoteProtocolError)
