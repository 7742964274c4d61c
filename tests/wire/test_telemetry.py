"""What a telemetry is told of connections: when they are opened, acquired, released and closed, and why."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import random
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
import trio.testing
from anyio.abc import ByteStream
from support.cancelling import MOST, WAYS, Way, run_cancelled
from support.fake_stream import FakeStream
from support.h2_peers import Peer, h2_server, h2_transport, respond, serve_paths
from support.proxies import SCHEMES, running_proxy
from support.rows import each_row
from support.scripted_servers import byte_server, send, send_and_close
from support.servers import Act, answer, drop, raw_server, refusing_port, stay_silent, upgrade_to_echo
from support.tls_servers import server_context, tls_server, url_of
from support.wire import HELD, fetch, figures, new_request, trusting_context, until
from trio.testing import MockClock

from prefect_http import (
    ConnectionInfo,
    HTTPTransport,
    InvalidResponse,
    PrefectHttpxClient,
    Telemetry,
    Throttle,
    ThrottledTransport,
)
from prefect_http._wire.close_reasons import BROKEN_OFF, MAKES_ROOM
from prefect_http._wire.input_probe import input_probe_of
from prefect_http._wire.observed_connection import ObservedConnection
from prefect_http._wire.opening_times import OpeningTimes
from prefect_http._wire.origin import Origin
from prefect_http._wire.pool_request import PoolRequest
from prefect_http._wire.transport import tell
from prefect_http.testing import FakeNetwork, FakeServer, Route

URL, OTHER_URL = "https://api.example.com/", "https://other.example.com/"


class Recorder(Telemetry):
    """Notes what it is told of connections, and checks that it makes sense.

    Attributes:
        told: the events in order, with the connections numbered from 1.
        opened: what was told when a connection was opened, in order.
        closed: likewise.
        active: what was told of the requests that use a connection.
    """

    def __init__(self) -> None:
        self.told: list[str] = []
        self.opened: list[ConnectionInfo] = []
        self.closed: list[ConnectionInfo] = []
        self.active: dict[int, list[ConnectionInfo]] = {}

    def _note(self, what: str, info: ConnectionInfo) -> None:
        number = [each.number for each in self.opened].index(info.number) + 1
        self.told.append(f"{what} {number}")
        for field in fields(info):
            if field.name not in {"requests", "open_seconds", "reason"}:
                assert getattr(info, field.name) == getattr(self.opened[number - 1], field.name)
        assert (info.reason is None, info.open_seconds is None) == (
            (False, False) if what == "closed" else (True, True)
        )

    def connection_opened(self, info: ConnectionInfo) -> None:
        assert info.requests == 0
        assert info.number not in [each.number for each in self.opened]
        self.opened.append(info)
        self.active[info.number] = []
        self._note("opened", info)

    def connection_acquired(self, info: ConnectionInfo) -> None:
        self.active[info.number].append(info)
        self._note("acquired", info)

    def connection_released(self, info: ConnectionInfo) -> None:
        assert any(info is each for each in self.active[info.number])
        self.active[info.number].remove(info)
        self._note("released", info)

    def connection_closed(self, info: ConnectionInfo) -> None:
        assert self.active.pop(info.number) == []
        assert info.reason
        assert "reason" not in info.reason
        self.closed.append(info)
        self._note("closed", info)

    @property
    def reasons(self) -> list[str | None]:
        """Why the connections were closed."""
        return [info.reason for info in self.closed]

    def figures(self) -> tuple[int, int, int]:
        """Return how many connections are open, idle, and how many requests use one."""
        return len(self.active), sum(not each for each in self.active.values()), sum(map(len, self.active.values()))


def observed(transport: HTTPTransport) -> tuple[HTTPTransport, Recorder]:
    """Have a recorder told of a transport's connections."""
    recorder = Recorder()
    tell(transport, recorder)
    return transport, recorder


def on(network: FakeNetwork, limits: httpx.Limits | None = None, *, http2: bool = False) -> HTTPTransport:
    """Return a transport whose network this is."""
    limits = limits or httpx.Limits()
    return HTTPTransport(connect=network.connect, trust_env=False, limits=limits, http1=not http2, http2=http2)


async def open_response(transport: HTTPTransport, url: str = URL) -> httpx.Response:
    """Send a request, and return its response, whose body is not read."""
    return await transport.handle_async_request(new_request(url))


both_protocols = each_row("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])


# --- What is told


@pytest.mark.anyio
@both_protocols
async def test_a_connection_and_its_requests(*, http2: bool) -> None:
    """A connection is opened once, acquired and released by each request, and closed with the transport."""
    network = FakeNetwork()
    network.serve(URL).get("/").reply(content=b"one", times=None)
    transport, recorder = observed(on(network, http2=http2))
    with anyio.fail_after(5):
        async with transport:
            for _ in range(2):
                await fetch(transport, URL)
    assert recorder.told == ["opened 1", *(["acquired 1", "released 1"] * 2), "closed 1"]
    (opened,), (closed,) = recorder.opened, recorder.closed
    assert opened == ConnectionInfo(
        number=opened.number,
        scheme="https",
        host="api.example.com",
        port=443,
        peer_address="api.example.com",
        peer_port=443,
        protocol="HTTP/2" if http2 else "HTTP/1.1",
        lookup_seconds=None,
        connect_seconds=opened.connect_seconds,
        tunnel_seconds=None,
        tls_seconds=opened.tls_seconds,
        requests=0,
    )
    assert opened.tls_seconds is not None
    assert (closed.requests, closed.reason) == (2, "the transport was closed")


@pytest.mark.anyio
async def test_how_many_requests_there_were_before() -> None:
    """Each request is told how many there were before it on its connection; over HTTP/2 also those beside it."""
    requests, network = list[int](), FakeNetwork()
    network.serve(URL).get("/").reply(content=b"one", times=None)

    class Requests(Telemetry):
        def connection_acquired(self, info: ConnectionInfo) -> None:
            requests.append(info.requests)

    telemetry = Requests()
    async with on(network, http2=True) as transport:
        tell(transport, telemetry)
        with anyio.fail_after(5):
            for count in (1, 3):
                async with anyio.create_task_group() as tasks:
                    for _ in range(count):
                        tasks.start_soon(fetch, transport, URL)
    assert requests == [0, 1, 2, 3]


@pytest.mark.trio
async def test_times_of_the_steps(autojump_clock: MockClock) -> None:
    """The times are those of the attempt that has succeeded; failed ones, and the waits between them, do not count."""
    network, delays = FakeNetwork(), iter([2.0, 3.0])
    network.serve(URL).get("/").reply()

    async def connect(host: str, port: int) -> ByteStream:
        delay = next(delays)
        await anyio.sleep(delay)
        if delay == 2.0:
            raise ConnectionRefusedError
        return await network.connect(host, port)

    transport, recorder = observed(HTTPTransport(connect=connect, retries=3, trust_env=False))
    async with transport:
        await fetch(transport, URL)
        await anyio.sleep(7)
    opened, closed = recorder.opened[0], recorder.closed[0]
    times = opened.lookup_seconds, opened.connect_seconds, opened.tunnel_seconds, opened.tls_seconds
    assert (times, closed.open_seconds) == ((None, 3.0, None, 0.0), 7.0)


def test_steps() -> None:
    """A stopwatch measures each step from the one before, and leaves pauses out."""
    now = 0.0
    times = OpeningTimes(lambda: now)
    for step in "connect", None, "tls":
        now += 1.5
        if step is None:
            times.pause()
        else:
            times.lap(step)
    assert times.seconds == {"connect": 1.5, "tls": 1.5}
    times.begin()
    assert times.seconds == {}


# --- Over sockets


@pytest.mark.anyio
async def test_over_tcp() -> None:
    """The peer is an IP address, whose lookup is told if there was one."""
    async with raw_server(answer()) as server:
        for host, is_name in (("127.0.0.1", False), ("localhost", True)):
            transport, recorder = observed(HTTPTransport(trust_env=False))
            async with transport:
                await fetch(transport, f"http://{host}:{server.port}/")
            (info,) = recorder.opened
            assert (info.scheme, info.host, info.port, info.protocol) == ("http", host, server.port, "HTTP/1.1")
            assert (info.peer_address, info.peer_port) == ("127.0.0.1", server.port)
            assert (info.lookup_seconds is not None, info.tls_seconds) == (is_name, None)
            assert 0 <= info.connect_seconds < 5


@pytest.mark.anyio
async def test_over_tls() -> None:
    """The handshake with the server is told."""
    transport, recorder = observed(HTTPTransport(verify=trusting_context()))
    async with tls_server(answer()) as server, transport:
        await fetch(transport, url_of(server))
    (info,) = recorder.opened
    assert info.scheme == "https"
    assert info.tls_seconds is not None
    assert 0 < info.tls_seconds < 5


@pytest.mark.anyio
async def test_over_a_unix_socket(socket_path: Path) -> None:
    """A Unix socket has no address."""
    listener = await anyio.create_unix_listener(socket_path)

    async def serve(stream: ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    transport, recorder = observed(HTTPTransport(uds=str(socket_path)))
    with anyio.fail_after(5):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            async with transport:
                await fetch(transport, "http://x.test/")
            tasks.cancel_scope.cancel()
    (info,) = recorder.opened
    assert (info.host, info.port, info.peer_address, info.peer_port) == ("x.test", 80, None, None)


@pytest.mark.anyio
@each_row("scheme", ["http", *(["https"] if "socks5h" in SCHEMES else []), "socks5"])
async def test_through_a_proxy(scheme: str) -> None:
    """A tunnel leads to the server, and has the address of the proxy. One that forwards is where requests go to."""
    is_secure = scheme == "https"
    async with tls_server(answer()) as secure, raw_server(answer()) as plain:
        hosts = {"127.0.0.1": secure.port, "plain.test": plain.port}
        async with running_proxy(scheme, hosts, context=server_context() if is_secure else None) as proxy:
            more: dict[str, Any] = {"ssl_context": trusting_context()} if is_secure else {}
            given = httpx.Proxy(proxy.url(), **more)
            transport, recorder = observed(HTTPTransport(verify=trusting_context(), proxy=given))
            async with transport:
                await fetch(transport, url_of(secure))
                await fetch(transport, "http://plain.test/")
    tunnel, other = recorder.opened
    assert (tunnel.scheme, tunnel.host, tunnel.port) == ("https", "127.0.0.1", secure.port)
    assert (tunnel.peer_address, tunnel.peer_port) == ("127.0.0.1", proxy.port)
    assert tunnel.tunnel_seconds is not None
    assert tunnel.tls_seconds is not None
    if scheme == "socks5":
        assert (other.host, other.port, other.tls_seconds) == ("plain.test", 80, None)
        assert other.tunnel_seconds is not None
    else:
        assert (other.scheme, other.port, other.tunnel_seconds) == (scheme, proxy.port, None)
        assert (other.tls_seconds is not None) == is_secure


# --- Why connections are closed


@dataclass
class Scene:
    """What a connection is closed in.

    Attributes:
        network: has the server.
        api: the server.
        transport: sends requests, over HTTP/1.1 or HTTP/2.
    """

    network: FakeNetwork
    api: FakeServer
    transport: HTTPTransport

    async def get(self, url: str = URL) -> None:
        """Send a request, and read the response."""
        await fetch(self.transport, url)

    async def arrival(self) -> None:
        """Wait until a request has arrived at the server."""
        await until(lambda: self.network.requests)


async def response_closes(scene: Scene) -> None:
    """The server says Connection: close."""
    scene.api.get("/").reply(headers={"Connection": "close"})
    await scene.get()


async def request_closes(scene: Scene) -> None:
    """The client does."""
    scene.api.get("/").reply()
    request = new_request(URL)
    request.headers["Connection"] = "close"
    await fetch(scene.transport, request)


async def left_early(scene: Scene) -> None:
    """A response is closed before its end."""
    scene.api.get("/").drip(content=b"much", every=1)
    await (await open_response(scene.transport)).aclose()


async def never_closed(scene: Scene) -> None:
    """A response is not closed at all."""
    scene.api.get("/").drip(content=b"much", every=1)
    response = await open_response(scene.transport)
    with pytest.warns(ResourceWarning, match="unclosed response"):
        del response
    await until(lambda: figures(scene.transport) == (0, 0, 0))


async def failing(scene: Scene) -> None:
    """A request fails."""
    scene.api.get("/").drop(after=40, content=b"x" * 1000)
    with pytest.raises(httpx.RemoteProtocolError):
        await scene.get()


async def breaking_off(scene: Scene) -> None:
    """A response breaks off."""
    scene.api.get("/").drop(after=200, content=b"x" * 1000)
    with pytest.raises(httpx.RemoteProtocolError, match="in the middle of the response body"):
        await scene.get()


async def garbage(scene: Scene) -> None:
    """What comes is no response."""
    scene.api.get("/").garbage(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    with pytest.raises(httpx.RemoteProtocolError):
        await scene.get()


async def timeout(scene: Scene) -> None:
    """A request times out."""
    scene.api.get("/").hang()
    with pytest.raises(httpx.ReadTimeout):
        await fetch(scene.transport, new_request(URL, read=0.001))


async def cancelled(scene: Scene) -> None:
    """A request is cancelled."""
    scene.api.get("/").hang()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.get)
        await scene.arrival()
        tasks.cancel_scope.cancel()


async def cancelled_in_the_body(scene: Scene) -> None:
    """A request is cancelled when the head of its response has arrived."""
    scene.api.get("/").drip(content=b"much", every=1)
    response = await open_response(scene.transport)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await response.aread()


async def closed_by_server(scene: Scene) -> None:
    """The server closes the connection just as it is reused."""
    scene.api.get("/").stale_keep_alive().reply()
    for _ in range(2):
        await scene.get()


async def idle_for_long(scene: Scene) -> None:
    """A connection expires."""
    scene.api.get("/").reply(times=2)
    await scene.get()
    await scene.get()


async def to_another_origin(scene: Scene) -> None:
    """There is only room for one connection."""
    scene.api.get("/").reply()
    scene.network.serve(OTHER_URL).get("/").reply()
    await scene.get()
    await scene.get(OTHER_URL)


async def handed_on(scene: Scene) -> None:
    """The same, and the request for the other origin waits."""
    scene.api.get("/").reply(delay=0.001)
    scene.network.serve(OTHER_URL).get("/").reply()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.get)
        await scene.arrival()
        tasks.start_soon(scene.get, OTHER_URL)


async def too_many_idle(scene: Scene) -> None:
    """Not all connections may be kept."""
    scene.api.any("/").reply(delay=0.001, times=2)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(scene.get)


async def none_kept(scene: Scene) -> None:
    """None may be."""
    scene.api.any("/").reply()
    await scene.get()


async def went_away(scene: Scene) -> None:
    """The server says GOAWAY, and answers the next connection."""
    scene.api.get("/").goaway().reply()
    await scene.get()


async def transport_closed(scene: Scene) -> None:
    """The transport is closed while a request uses the connection."""
    scene.api.get("/").hang()
    async with anyio.create_task_group() as tasks:

        async def fail() -> None:
            with pytest.raises(httpx.ReadError):
                await scene.get()

        tasks.start_soon(fail)
        await scene.arrival()
        await scene.transport.aclose()


CLOSED, ONE = "the transport was closed", httpx.Limits(max_connections=1)
FAILED = "a request on it failed"
KEEP_ONE, KEEP_NONE = httpx.Limits(max_keepalive_connections=1), httpx.Limits(max_keepalive_connections=0)
SHORT = httpx.Limits(keepalive_expiry=0)


@pytest.mark.anyio
@each_row(
    ("http2", "limits", "scenario", "reasons"),
    [
        (False, None, response_closes, ["a response did not allow it to be reused, as with Connection: close"]),
        (False, None, request_closes, ["a request said Connection: close"]),
        (False, None, left_early, ["a response was not read to its end"]),
        (False, None, never_closed, ["a response was never closed"]),
        (False, None, failing, [FAILED]),
        (False, None, breaking_off, [FAILED]),
        (False, None, garbage, [FAILED]),
        (False, None, timeout, [FAILED]),
        (False, None, cancelled, ["a request on it was cancelled"]),
        (False, None, cancelled_in_the_body, ["a request on it was cancelled"]),
        (False, None, closed_by_server, ["the server closed it while it was idle", CLOSED]),
        (False, SHORT, idle_for_long, ["it was idle for longer than keepalive_expiry", CLOSED]),
        (False, ONE, to_another_origin, [MAKES_ROOM, CLOSED]),
        (False, ONE, handed_on, [MAKES_ROOM, CLOSED]),
        (False, KEEP_ONE, too_many_idle, ["more than max_keepalive_connections would be idle", CLOSED]),
        (False, KEEP_NONE, none_kept, ["more than max_keepalive_connections would be idle"]),
        (False, None, transport_closed, [CLOSED]),
        (True, None, left_early, [CLOSED]),
        (True, None, failing, [BROKEN_OFF]),
        (True, None, garbage, ["the server broke a rule of HTTP/2"]),
        (True, None, cancelled, [CLOSED]),
        (True, None, closed_by_server, [BROKEN_OFF, CLOSED]),
        (True, None, went_away, ["the server said GOAWAY", CLOSED]),
        (True, SHORT, idle_for_long, ["it was idle for longer than keepalive_expiry", CLOSED]),
        (True, ONE, to_another_origin, [MAKES_ROOM, CLOSED]),
        (True, ONE, handed_on, [MAKES_ROOM, CLOSED]),
        (True, KEEP_NONE, none_kept, ["more than max_keepalive_connections would be idle"]),
        (True, None, transport_closed, [CLOSED]),
    ],
)
async def test_reasons(
    *, http2: bool, limits: httpx.Limits | None, scenario: Callable[[Scene], Awaitable[None]], reasons: list[str]
) -> None:
    """When a connection is closed, it is told why; and at the end, nothing is open."""
    network = FakeNetwork()
    api = network.serve(URL)
    transport, recorder = observed(on(network, limits, http2=http2))
    with anyio.fail_after(5):
        async with transport:
            await scenario(Scene(network, api, transport))
    assert recorder.reasons == reasons
    assert recorder.figures() == (0, 0, 0)


@pytest.mark.anyio
@each_row(
    ("act", "reason"),
    [
        (send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore"), "the server sent more data than a response"),
        (send_and_close(b"HTTP/1.1 200 OK\r\n\r\nfine"), "a response had no length, and so ended with the connection"),
    ],
)
async def test_reasons_of_responses(act: Act, reason: str) -> None:
    """A connection may be of no use after its response."""
    transport, recorder = observed(HTTPTransport())
    async with raw_server(act) as server, transport:
        await fetch(transport, server.url)
    assert recorder.reasons == [reason]


@pytest.mark.anyio
async def test_tunnels() -> None:
    """After an upgrade, the request is done with the connection when its response is closed."""
    transport, recorder = observed(HTTPTransport())
    async with raw_server(upgrade_to_echo) as server, transport:
        request = new_request(server.url)
        request.headers.update({"Connection": "upgrade", "Upgrade": "echo"})
        response = await transport.handle_async_request(request)
        assert recorder.told == ["opened 1", "acquired 1"]
        await response.aclose()
        assert recorder.told == ["opened 1", "acquired 1", "released 1", "closed 1"]
    assert recorder.reasons == ["it was used for another protocol"]


@pytest.mark.anyio
async def test_a_refused_body() -> None:
    """If the server responds before it has all of the body, the connection is closed."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000
            await anyio.lowlevel.checkpoint()

    network = FakeNetwork()
    network.serve(URL).post("/").early_answer(413)
    transport, recorder = observed(on(network))
    with anyio.fail_after(5):
        async with transport:
            await fetch(transport, new_request(URL, "POST", body()))
    assert recorder.reasons == ["a request was not sent to its end"]


@pytest.mark.anyio
async def test_an_idle_session_that_ends() -> None:
    """Over HTTP/2 it is noticed at once that the server closes an idle connection."""

    async def once(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(respond(request.stream_id, b"fine"))
        await peer.stream.aclose()

    transport, recorder = observed(h2_transport())
    async with h2_server(once) as server, transport:
        await fetch(transport, server.url)
        await until(lambda: not recorder.active)
    assert recorder.reasons == [BROKEN_OFF]


@pytest.mark.anyio
async def test_a_misdirected_request() -> None:
    """A 421 is sent again on another connection; the first one takes no more."""

    async def misdirect(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(respond(request.stream_id, status="421"))
        await peer.wait_closed()

    transport, recorder = observed(h2_transport())
    async with h2_server(misdirect, serve_paths) as server, transport:
        await fetch(transport, server.url)
    assert recorder.told == [
        *("opened 1", "acquired 1", "released 1", "closed 1"),
        *("opened 2", "acquired 2", "released 2", "closed 2"),
    ]
    assert recorder.reasons == ["the server said 421 Misdirected Request", CLOSED]


@pytest.mark.trio
async def test_a_silent_session(autojump_clock: MockClock) -> None:
    """A connection on which nothing arrives takes no more requests."""
    network = FakeNetwork()
    network.serve(URL).get("/").hang(times=None)
    transport, recorder = observed(on(network, http2=True))
    async with transport:
        with pytest.raises(httpx.ReadTimeout):
            await fetch(transport, URL)
    assert recorder.reasons == ["the server no longer answers"]


def test_the_loop_has_ended() -> None:
    """Connections whose loop has ended are closed when the transport is used again; so are the requests on them."""
    for http2, name in itertools.product((False, True), ("trio", "asyncio")):
        network = FakeNetwork()
        network.serve(URL).get("/").reply(content=b"x" * 10, times=None)
        transport, recorder = observed(on(network, http2=http2))
        held = list[httpx.Response]()

        async def use(*, hold: bool, transport: HTTPTransport = transport, held: list[Any] = held) -> None:
            await fetch(transport, URL)
            if hold:
                held.append(await transport.handle_async_request(new_request(URL, "GET", None, HELD)))
            else:
                await transport.aclose()

        anyio.run(partial(use, hold=True), backend=name)
        anyio.run(partial(use, hold=False), backend=name)
        assert recorder.reasons == ["its event loop has ended", CLOSED]
        assert recorder.figures() == (0, 0, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            held.clear()
            gc.collect()
        assert len(recorder.closed) == 2


@pytest.mark.anyio
async def test_closed_in_another_loop() -> None:
    """A transport that is closed in another loop drops its connections."""
    network = FakeNetwork()
    network.serve(URL).get("/").reply()
    transport, recorder = observed(on(network))
    await fetch(transport, URL)

    def close() -> None:
        with pytest.raises(RuntimeError, match="belong to another event loop"):
            anyio.run(transport.aclose)

    with anyio.fail_after(5):
        await anyio.to_thread.run_sync(close)
    assert (recorder.reasons, recorder.figures()) == ([CLOSED], (0, 0, 0))


# --- What is not told


@pytest.mark.anyio
async def test_what_cannot_be_opened() -> None:
    """A connection that fails while it is opened is neither opened nor closed."""

    async def greeted(host: str, port: int) -> ByteStream:
        stream = await anyio.connect_tcp(host, port)
        await until(input_probe_of(stream))
        return stream

    async def greet(stream: ByteStream) -> None:
        await stream.send(b"220 mail.test ESMTP\r\n")
        await stay_silent(stream)

    async with byte_server(greet) as server, byte_server(drop) as no_tls:
        for url, error, connect in (
            (f"http://127.0.0.1:{refusing_port()}/", httpx.ConnectError, None),
            (no_tls.url.replace("http", "https"), httpx.ConnectError, None),
            (server.url, InvalidResponse, greeted),
        ):
            transport, recorder = observed(HTTPTransport(verify=trusting_context(), connect=connect))
            async with transport:
                with pytest.raises(error):
                    await fetch(transport, url)
            assert recorder.told == []


@pytest.mark.anyio
@both_protocols
async def test_closed_while_it_opens(*, http2: bool) -> None:
    """Nor is one whose transport is closed meanwhile."""
    network, is_closed = FakeNetwork(), anyio.Event()
    network.serve(URL)

    async def connect(host: str, port: int) -> ByteStream:
        stream = await network.connect(host, port)
        await is_closed.wait()
        return stream

    transport, recorder = observed(HTTPTransport(connect=connect, http1=not http2, http2=http2, trust_env=False))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:

            async def fail() -> None:
                with pytest.raises(httpx.ConnectError):
                    await fetch(transport, URL)

            tasks.start_soon(fail)
            await until(lambda: network.connections)
            await transport.aclose()
            is_closed.set()
    assert recorder.told == []


@pytest.mark.anyio
async def test_connections_from_before() -> None:
    """Of a connection that was open before, a telemetry is told nothing; of the next one, each of them is."""
    network = FakeNetwork()
    network.serve(URL).get("/").reply(times=2).reply(headers={"Connection": "close"}).reply()
    transport, first = observed(on(network))
    second = Recorder()
    with anyio.fail_after(5):
        async with transport:
            await fetch(transport, URL)
            tell(transport, second)
            for _ in range(3):
                await fetch(transport, URL)
    assert second.told == ["opened 1", "acquired 1", "released 1", "closed 1"]
    assert first.told == [
        "opened 1",
        *(["acquired 1", "released 1"] * 3),
        "closed 1",
        *(each.replace("1", "2") for each in second.told),
    ]


@pytest.mark.anyio
async def test_a_telemetry_that_is_gone() -> None:
    """A transport that outlives its clients does not keep their telemetries, but while a connection is open."""
    network, told = FakeNetwork(), list[str]()
    network.serve(URL).get("/").reply(headers={"Connection": "close"}).reply(times=None)

    class Closings(Telemetry):
        def connection_closed(self, info: ConnectionInfo) -> None:
            told.append("closed")

    async with on(network) as transport:
        telemetry = Closings()
        gone = weakref.ref(telemetry)
        tell(transport, telemetry)
        await fetch(transport, URL)
        await fetch(transport, URL)
        assert told == ["closed"]
        del telemetry
        assert gone() is not None
        await transport.aclose()
        gc.collect()
        assert gone() is None
        await fetch(transport, URL)
    assert told == ["closed", "closed"]


# --- Clients


@pytest.mark.anyio
async def test_the_transports_of_a_client() -> None:
    """A client tells of the connections of its own transports."""
    recorder = Recorder()
    async with raw_server(answer()) as server:
        for more in ({}, {"throttle": Throttle()}, {"mounts": {"all://": None}}):
            arguments: dict[str, Any] = {"trust_env": False, **more}
            async with PrefectHttpxClient(telemetry=recorder, **arguments) as client:
                await client.get(server.url)
        async with running_proxy("http", {"x.test": server.port}) as proxy:
            async with PrefectHttpxClient(telemetry=recorder, proxy=proxy.url()) as client:
                await client.get("http://x.test/")
    assert recorder.told == [
        f"{what} {n}" for n in range(1, 5) for what in ("opened", "acquired", "released", "closed")
    ]


@pytest.mark.anyio
async def test_transports_that_are_given() -> None:
    """So it does for those that it is given, wherever they stand; once, however often they do."""
    network = FakeNetwork()
    network.serve(URL).get("/").reply(times=None)
    for arguments in (
        {"transport": on(network)},
        {"transport": ThrottledTransport(on(network), Throttle())},
        {"transport": ThrottledTransport(ThrottledTransport(on(network), Throttle()), Throttle())},
        {"transport": on(network), "throttle": Throttle()},
        {"transport": on(FakeNetwork()), "mounts": dict.fromkeys(["https://", "all://api.example.com"], on(network))},
        {"transport": httpx.MockTransport(lambda _: httpx.Response(200)), "mounts": {"all://": on(network)}},
    ):
        recorder, given = Recorder(), cast("dict[str, Any]", arguments)
        with anyio.fail_after(5):
            async with PrefectHttpxClient(telemetry=recorder, **given) as client:
                await client.get(URL)
        assert recorder.told == ["opened 1", "acquired 1", "released 1", "closed 1"], arguments


@pytest.mark.anyio
async def test_clients_that_share_a_transport() -> None:
    """Each telemetry is told of all its connections, once."""
    network = FakeNetwork()
    network.serve(URL).get("/").reply(times=None)
    transport, one, other = on(network), Recorder(), Recorder()
    clients = [PrefectHttpxClient(transport=transport, telemetry=each) for each in (one, other, one, None)]
    with anyio.fail_after(5):
        for client in clients:
            await client.get(URL)
        await clients[0].aclose()
    assert one.told == other.told == ["opened 1", *(["acquired 1", "released 1"] * 4), "closed 1"]
    for client in clients[1:]:
        await client.aclose()


@pytest.mark.anyio
async def test_clients_of_a_fake_network() -> None:
    """FakeNetwork.client() makes clients that tell, over both protocols."""
    network = FakeNetwork()
    network.serve(URL).get("/").reply(times=None)
    for http2 in False, True:
        recorder = Recorder()
        with anyio.fail_after(5):
            async with network.client(PrefectHttpxClient, telemetry=recorder, http2=http2) as client:
                await client.get(URL)
        assert [info.protocol for info in recorder.closed] == ["HTTP/2" if http2 else "HTTP/1.1"]


# --- Whatever happens


METHODS = ("connection_opened", "connection_acquired", "connection_released", "connection_closed")


class Failing(Telemetry):
    """Raises an error from one of its methods."""

    def __init__(self, method: str, error: BaseException) -> None:
        def fail(_: ConnectionInfo) -> None:
            raise error

        setattr(self, method, fail)


@pytest.mark.anyio
@each_row(("http2", "method"), itertools.product([False, True], METHODS))
async def test_errors(*, http2: bool, method: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception is logged, and changes nothing, also for other telemetries."""
    network = FakeNetwork()
    network.serve(URL).get("/").reply(times=None)
    transport, failing_one = on(network, http2=http2), Failing(method, ZeroDivisionError())
    caplog.clear()
    with anyio.fail_after(5), caplog.at_level(logging.ERROR, "prefect_http.telemetry"):
        tell(transport, failing_one)
        _, recorder = observed(transport)
        async with transport:
            await fetch(transport, URL)
    assert recorder.told == ["opened 1", "acquired 1", "released 1", "closed 1"]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


@each_row(("http2", "method", "backend"), itertools.product([False, True], METHODS, ["trio", "asyncio"]))
def test_interrupts(*, http2: bool, method: str, backend: str) -> None:
    """A KeyboardInterrupt goes through. The pool is still right, and so is what is told after that."""
    if http2 and method == "connection_released":
        return  # it is called in a task of the session's own, which trio never interrupts
    network = FakeNetwork()
    network.serve(URL).get("/").reply(times=None)
    transport, recorder = observed(on(network, httpx.Limits(max_connections=1), http2=http2))
    interrupting = Failing(method, KeyboardInterrupt())
    tell(transport, interrupting)

    async def use() -> None:
        with anyio.fail_after(5):
            await fetch(transport, URL)
            await transport.aclose()

    with pytest.raises(KeyboardInterrupt):
        anyio.run(use, backend=backend)
    setattr(interrupting, method, lambda _: None)
    anyio.run(use, backend=backend)
    assert figures(transport) == (0, 0, 0)
    assert recorder.figures() == (0, 0, 0)
    assert len(recorder.opened) == 2


def test_nothing_is_told_twice() -> None:
    """Once a connection is closed, nothing more is told of it, whoever releases or closes it later."""
    times = OpeningTimes(lambda: 0.0)
    times.lap("connect")
    origin, recorder = Origin(b"http", b"a", 80, "a"), Recorder()
    connection = ObservedConnection([recorder], origin, FakeStream(), "HTTP/1.1", times)
    connection.open()
    requests = [PoolRequest[int](origin) for _ in range(2)]
    connection.begin(requests[0])
    connection.close("done")
    connection.close("done again")
    connection.begin(requests[1])
    assert requests[0].on_released is not None
    assert requests[1].on_released is None
    requests[0].on_released()
    assert recorder.told == ["opened 1", "acquired 1", "released 1", "closed 1"]
    assert recorder.reasons == ["done"]


async def small(transport: HTTPTransport) -> None:
    """Send a request, and read the response."""
    await fetch(transport, URL)


async def streamed(transport: HTTPTransport) -> None:
    """Send a body while it is made, and read a response that comes in parts."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
            yield b"x" * 10

    assert await fetch(transport, new_request(URL, "POST", chunks())) == b"fine"


async def left(transport: HTTPTransport) -> None:
    """Close the response before its end."""
    await (await open_response(transport)).aclose()


async def closed(transport: HTTPTransport) -> None:
    """Close the transport with a response that is not closed."""
    response = await transport.handle_async_request(new_request(URL, "GET", None, HELD))
    await transport.aclose()
    await response.aclose()


@pytest.mark.anyio
@WAYS
@pytest.mark.no_cover
async def test_cancelling_at_each_point(way: Way) -> None:
    """Whatever is cancelled, and where: what is told is paired, and agrees with the transport's own figures."""
    cases = ((False, small), (True, small), (False, streamed), (True, left), (True, closed))
    for http2, (warm, run) in itertools.product((False, True), cases):
        for number in range(1, MOST):
            network = FakeNetwork()
            network.serve(URL).any("/").reply(stream=[b"fi", b"ne"], times=None)
            transport, recorder = observed(on(network, http2=http2))
            with anyio.fail_after(5):
                if warm:
                    await fetch(transport, URL)
                got_there = await run_cancelled(number, way, "waiting", partial(run, transport))
                connections, idle, _ = figures(transport)
                assert recorder.figures() == (connections, idle, 0), (http2, warm, run.__name__, number)
                await transport.aclose()
            assert recorder.figures() == (0, 0, 0)
            if not got_there:
                break


# --- A model: whatever happens, in any order


ROUNDS = 4


async def random_requests(transport: HTTPTransport, urls: Sequence[str], seed: random.Random) -> None:
    """Send requests one after the other, treat their responses in some way, and cancel some of them."""
    for _ in range(6):
        way = seed.choice(["read", "read", "leave", "part", "hold"])
        with anyio.CancelScope() as scope, contextlib.suppress(httpx.TransportError):
            if seed.random() < 0.4:
                scope.deadline = anyio.current_time() + seed.random() * 0.02
            content = b"x" * seed.choice([0, 0, 100_000])
            request = new_request(seed.choice(urls), seed.choice(["GET", "POST"]), content, read=0.01)
            response = await transport.handle_async_request(request)
            try:
                if way == "read":
                    await response.aread()
                elif way == "part":
                    await anext(aiter(response.stream), b"")  # type: ignore[arg-type]
                elif way == "hold":
                    for _ in range(seed.randrange(10)):
                        await anyio.lowlevel.checkpoint()
            finally:
                await response.aclose()


def add_random_steps(route: Route, seed: random.Random, *, http2: bool) -> None:
    """Let a server answer in some way, or not."""
    for _ in range(20):
        match seed.randrange(10 if http2 else 9):
            case 0:
                route.drop(after=seed.randrange(60), content=b"x" * 50)
            case 1:
                route.reset()
            case 2:
                route.hang()
            case 3:
                route.stale_keep_alive()
            case 4:
                route.early_answer(413)
            case 5:
                route.reply(headers={} if http2 else {"Connection": "close"})
            case 6:
                route.drip(content=b"slowly", every=0.002)
            case 9:
                route.goaway()
            case _:
                route.reply(content=b"x" * 50)
    route.reply(times=None)


@pytest.mark.trio
@pytest.mark.no_cover
async def test_model(autojump_clock: MockClock) -> None:
    """With random requests, cancellations and failures, what is told is what the transport's figures say."""
    for number in range(ROUNDS):
        seed, network = random.Random(number), FakeNetwork()
        http2, urls = bool(number % 2), [f"https://{name}.example.com/" for name in "abc"]
        for url in urls:
            add_random_steps(network.serve(url).any(), seed, http2=http2)
        limits = httpx.Limits(max_connections=2, max_keepalive_connections=1, keepalive_expiry=0.01)
        transport, recorder = observed(on(network, limits, http2=http2))
        with anyio.fail_after(1000):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(random_requests, transport, urls, seed)
            await trio.testing.wait_all_tasks_blocked()
            connections, idle, waiting = figures(transport)
            assert (recorder.figures(), waiting) == ((connections, idle, 0), 0), number
            assert connections == idle, number
            await transport.aclose()
        assert recorder.figures() == (0, 0, 0), number
        assert sum(each.startswith("acquired") for each in recorder.told) >= 10, number
