"""Connector: retries and time limits in virtual time, sockets over loopback; and what is handed over to httpx."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
import trio
from support.fake_stream import FakeStream
from support.servers import answer, free_port, hypercorn_on_trio, raw_server
from support.tls_servers import client_context, listening
from trio.testing import MockClock

from prefect_http import HTTPTransport, PrefectHttpxClient
from prefect_http._types import Receive, Scope, Send, SocketOption
from prefect_http._wire.connector import Connector
from prefect_http._wire.pool import Origin
from prefect_http._wire.trace import Trace

HTTP: Origin = (b"http", b"x.test", 80, "x.test")
HTTPS: Origin = (b"https", b"x.test", 443, "x.test")
REFUSED = ConnectionRefusedError(111, "Connection refused")


class Network:
    """A network in which connecting takes some time, and comes to something.

    Attributes:
        outcomes: what each connecting comes to, in turn; the last one is repeated.
        delay: how many seconds it takes.
        calls: when it was begun, and where to.
    """

    def __init__(self, *outcomes: anyio.abc.ByteStream | BaseException, delay: float = 0.0) -> None:
        self.outcomes = list(outcomes)
        self.delay = delay
        self.calls: list[tuple[float, str, int]] = []

    async def connect(self, host: str, port: int) -> anyio.abc.ByteStream:
        """Connect."""
        outcome = self.outcomes[min(len(self.calls), len(self.outcomes) - 1)]
        self.calls.append((trio.current_time(), host, port))
        await anyio.sleep(self.delay)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    @property
    def times(self) -> list[float]:
        """When each connecting was begun."""
        return [time for time, _, _ in self.calls]


def new_connector(
    network: Network | None = None, *, retries: int = 0, options: tuple[SocketOption, ...] = ()
) -> Connector:
    """Make a connector, on a network that is not there."""

    class FakeConnector(Connector):
        async def _connect_tcp(self, host: str, port: int) -> anyio.abc.ByteStream:
            assert network is not None
            return await network.connect(host, port)

    kind = Connector if network is None else FakeConnector
    return kind(ssl_context=client_context(), local_address=None, retries=retries, socket_options=options)


def tracing(events: list[tuple[float, str, Mapping[str, Any]]]) -> Trace:
    """Make a trace that is remembered, with the times."""

    async def trace(name: str, info: Mapping[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        events.append((trio.current_time(), name, info))

    made = Trace.of(httpx.Request("GET", "http://x.test/", extensions={"trace": trace}))
    assert made is not None
    return made


# --- Retries


@pytest.mark.trio
@pytest.mark.parametrize(
    ("retries", "times"),
    [(0, [0]), (1, [0, 0]), (2, [0, 0, 0.5]), (4, [0, 0, 0.5, 1.5, 3.5]), (5, [0, 0, 0.5, 1.5, 3.5, 7.5])],
)
async def test_waits_between_retries(retries: int, times: list[float], autojump_clock: MockClock) -> None:
    """Tries follow each other after 0, 0.5, 1, 2, ... seconds, and the last error comes out."""
    network = Network(REFUSED)
    with pytest.raises(httpx.ConnectError, match=r"no connection to x\.test:80: .*refused"):
        await new_connector(network, retries=retries).connect(HTTP, 5, None)
    assert network.times == times
    assert trio.current_time() == times[-1]
    assert {call[1:] for call in network.calls} == {("x.test", 80)}


@pytest.mark.trio
async def test_a_retry_that_succeeds(autojump_clock: MockClock) -> None:
    """The first connection that is made is given, and no other one is."""
    stream = FakeStream()
    network = Network(REFUSED, TimeoutError(), stream, REFUSED)
    assert await new_connector(network, retries=5).connect(HTTP, 5, None) is stream
    assert network.times == [0, 0, 0.5]
    assert stream.closings == 0


@pytest.mark.trio
async def test_timeouts_are_retried(autojump_clock: MockClock) -> None:
    """What takes too long is tried again, and each try has all of the time."""
    network = Network(FakeStream(), delay=math.inf)
    with pytest.raises(httpx.ConnectTimeout, match="within 2 s"):
        await new_connector(network, retries=2).connect(HTTP, 2, None)
    assert network.times == [0, 2, 4.5]
    assert trio.current_time() == 6.5


@pytest.mark.trio
async def test_handshakes_are_retried(autojump_clock: MockClock) -> None:
    """A handshake that fails is tried again on a new connection, and the old ones are closed."""
    streams = [FakeStream(anyio.EndOfStream()) for _ in range(3)]
    network = Network(*streams)
    with pytest.raises(httpx.ConnectError):
        await new_connector(network, retries=2).connect(HTTPS, 2, None)
    assert network.times == [0, 0, 0.5]
    assert [stream.closings for stream in streams] == [1, 1, 1]


@pytest.mark.trio
@pytest.mark.parametrize("error", [KeyError("a bug"), httpx.ReadError("no"), KeyboardInterrupt()], ids=repr)
async def test_other_errors_are_not_retried(error: BaseException, autojump_clock: MockClock) -> None:
    """What is no failure to connect comes out as it is, at once."""
    network = Network(error)
    with pytest.raises(type(error)) as caught:
        await new_connector(network, retries=5).connect(HTTP, 5, None)
    assert caught.value is error
    assert network.times == [0]


@pytest.mark.trio
async def test_a_cancelled_wait(autojump_clock: MockClock) -> None:
    """A cancellation ends the wait for the next try."""
    network = Network(REFUSED)
    with trio.move_on_after(3) as scope:
        await new_connector(network, retries=50).connect(HTTP, 5, None)
    assert scope.cancelled_caught
    assert network.times == [0, 0, 0.5, 1.5]
    assert trio.current_time() == 3


@pytest.mark.trio
async def test_the_events_of_a_retry(autojump_clock: MockClock) -> None:
    """Each try and each wait is told of, when it begins and when it ends."""
    events: list[tuple[float, str, Mapping[str, Any]]] = []
    network = Network(REFUSED, REFUSED, FakeStream(), delay=1)
    await new_connector(network, retries=2).connect(HTTP, 5, tracing(events))
    assert [(time, name.removeprefix("connection.")) for time, name, _ in events] == [
        (0, "connect_tcp.started"),
        (1, "connect_tcp.failed"),
        (1, "retry.started"),
        (1, "retry.complete"),
        (1, "connect_tcp.started"),
        (2, "connect_tcp.failed"),
        (2, "retry.started"),
        (2.5, "retry.complete"),
        (2.5, "connect_tcp.started"),
        (3.5, "connect_tcp.complete"),
    ]
    assert [info["return_value"] for _, name, info in events if name == "connection.retry.complete"] == [None, None]


# --- Time limits


@pytest.mark.trio
async def test_tcp_takes_too_long(autojump_clock: MockClock) -> None:
    """A connection that takes longer than it may is a ConnectTimeout, at that very moment."""
    with pytest.raises(httpx.ConnectTimeout, match=r"no connection to x\.test:80 within 2\.5 s"):
        await new_connector(Network(FakeStream(), delay=3)).connect(HTTP, 2.5, None)
    assert trio.current_time() == 2.5


@pytest.mark.trio
@pytest.mark.parametrize("is_traced", [False, True])
async def test_tls_has_a_limit_of_its_own(is_traced: bool, autojump_clock: MockClock) -> None:
    """The handshake may take as long as TCP may, once more; and if it takes longer, the connection is closed."""
    stream = FakeStream()
    events: list[tuple[float, str, Mapping[str, Any]]] = []
    with pytest.raises(httpx.ConnectTimeout, match=r"no TLS with x\.test:\d+ within 5 s"):
        await new_connector(Network(stream, delay=4)).connect(HTTPS, 5, tracing(events) if is_traced else None)
    assert trio.current_time() == 9
    assert stream.closings == 1
    assert [(time, name) for time, name, _ in events][-1:] == (
        [(9, "connection.start_tls.failed")] if is_traced else []
    )


@pytest.mark.trio
async def test_no_limit(autojump_clock: MockClock) -> None:
    """None is no limit."""
    stream = FakeStream()
    assert await new_connector(Network(stream, delay=1e6)).connect(HTTP, None, None) is stream


@pytest.mark.trio
async def test_a_cancelled_handshake(autojump_clock: MockClock) -> None:
    """A cancellation in the handshake closes the connection."""
    stream = FakeStream()
    with trio.move_on_after(1) as scope:
        await new_connector(Network(stream), retries=5).connect(HTTPS, 5, None)
    assert scope.cancelled_caught
    assert stream.closings == 1


# --- Sockets


def _ended(stream: anyio.abc.ByteStream) -> Any:
    return stream.extra(anyio.abc.SocketAttribute.raw_socket)


@pytest.mark.anyio
async def test_socket_options() -> None:
    """The options are set, in each form, and TCP_NODELAY next to them."""
    options: tuple[SocketOption, ...] = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, (7).to_bytes(4, "little")),
    )
    async with listening(_wait) as port:
        origin = (b"http", b"127.0.0.1", port, "127.0.0.1")
        async with await new_connector(options=options).connect(origin, 5, None) as stream:
            raw_socket = _ended(stream)
            assert raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 7
            assert raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def _wait(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        while True:
            await stream.receive()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("option", "error"),
    [((socket.SOL_SOCKET, 9999, 1), httpx.ConnectError), ((socket.SOL_SOCKET, "nonsense", 1), TypeError)],
    ids=["unknown", "wrong"],
)
async def test_an_option_that_cannot_be_set(option: Any, error: type[Exception]) -> None:
    """If an option cannot be set, the connection is closed."""
    is_closed = anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        try:
            await _wait(stream)
        finally:
            is_closed.set()

    async with listening(serve) as port:
        with pytest.raises(error):
            await new_connector(options=(option,)).connect((b"http", b"127.0.0.1", port, "127.0.0.1"), 5, None)
        with anyio.fail_after(5):
            await is_closed.wait()


@pytest.mark.anyio
async def test_the_local_address() -> None:
    """Connections come from the address that was asked for."""
    async with raw_server(answer()) as server:
        async with httpx.AsyncClient(transport=HTTPTransport(verify=False, local_address="127.0.0.2")) as client:
            response = await client.get(server.url)
        assert response.extensions["network_stream"] is not None
    async with listening(_wait) as port:
        connector = Connector(ssl_context=client_context(), local_address="127.0.0.3", retries=0, socket_options=())
        async with await connector.connect((b"http", b"127.0.0.1", port, "127.0.0.1"), 5, None) as stream:
            assert stream.extra(anyio.abc.SocketAttribute.local_address)[0] == "127.0.0.3"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host", [b"127.0.0.1", b"name.invalid", b"x" * 64 + b".invalid", b"a..invalid", b"256.256.256.256"]
)
async def test_hosts_that_are_not_there(host: bytes) -> None:
    """A host that cannot be reached, or is none, is a ConnectError."""
    with anyio.fail_after(5), pytest.raises(httpx.ConnectError):
        await new_connector().connect((b"http", host, free_port(), host.decode()), 5, None)


# --- What httpx's own transport does


async def _tell_the_version(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["http_version"].encode()})


@pytest.mark.anyio
async def test_http2() -> None:
    """With http2= and without http1=, HTTP/2 is spoken, by httpx's transport; and it is closed with the client."""
    with hypercorn_on_trio(_tell_the_version) as url:
        with anyio.fail_after(10):
            transport = HTTPTransport(verify=False, http1=False, http2=True)
            async with httpx.AsyncClient(transport=transport) as client:
                response = await client.get(url)
            assert (response.http_version, response.text) == ("HTTP/2", "2")
            async with PrefectHttpxClient(verify=False, http1=False, http2=True, trust_env=False) as client:
                assert (await client.get(url)).http_version == "HTTP/2"


@pytest.mark.anyio
async def test_a_unix_socket(tmp_path: Path) -> None:
    """With uds=, requests go through a Unix socket, whatever their host is."""
    heard: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            heard.append(await stream.receive())
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nunix")

    path = tmp_path / "socket"
    with anyio.fail_after(10):
        async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            async with httpx.AsyncClient(transport=HTTPTransport(verify=False, uds=str(path))) as client:
                assert (await client.get("http://anything.invalid/path")).text == "unix"
            tasks.cancel_scope.cancel()
    assert heard[0].startswith(b"GET /path HTTP/1.1\r\nHost: anything.invalid\r\n")


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [str, httpx.URL, httpx.Proxy])
async def test_a_proxy(kind: type[Any]) -> None:
    """With proxy=, in each form, requests go to the proxy, with the URL as their target, and with its credentials."""
    async with raw_server(answer(body=b"proxied")) as proxy:
        transport = HTTPTransport(verify=False, proxy=kind(f"http://user:pw@127.0.0.1:{proxy.port}"))
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://x.invalid/path?q=1")).text == "proxied"
    assert [request.target for request in proxy.requests] == ["http://x.invalid/path?q=1"]
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpwdw=="


@pytest.mark.anyio
async def test_a_proxy_that_refuses() -> None:
    """A proxy that opens no tunnel is a ProxyError."""
    async with raw_server(answer(403)) as proxy:
        async with httpx.AsyncClient(transport=HTTPTransport(verify=False, proxy=proxy.url)) as client:
            with pytest.raises(httpx.ProxyError):
                await client.get("https://x.invalid/")
    assert [(request.method, request.target) for request in proxy.requests] == [("CONNECT", "x.invalid:443")]


@pytest.mark.parametrize(
    "arguments", [{"http2": True}, {"http1": False}, {"proxy": "http://x.test"}, {"uds": "/x"}], ids=str
)
def test_no_statistics_of_httpxs(arguments: dict[str, Any]) -> None:
    """What has been handed over has no statistics, and says why."""
    if arguments == {"http1": False}:
        arguments = {"http1": False, "http2": True}
    with pytest.raises(RuntimeError, match="httpx's"):
        HTTPTransport(verify=False, **arguments).statistics()
