"""Unix sockets, and ``connect=``, which opens connections in the place of TCP."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest
import trio
from anyio.streams.tls import TLSListener, TLSStream
from support.fake_stream import FakeStream
from support.proxies import running_proxy
from support.rows import each_row
from support.scripted_servers import byte_server, read_to_end
from support.servers import RawServer, answer, raw_server, upgrade_to_echo
from support.sockets import open_sockets, sockets_closed
from support.tls_servers import server_context, tls_server
from support.wire import ONE_IDLE, figures, new_request, trusting_context, until, until_readable
from trio.testing import MockClock

from prefect_http import HTTPTransport, PrefectHttpxClient
from prefect_http._wire import openers
from prefect_http._wire.input_probe import input_probe_of
from prefect_http._wire.openers import Connect

FINE = answer(body=b"fine")


def new_client(transport: HTTPTransport, timeout: float = 5) -> httpx.AsyncClient:
    """Make a client."""
    return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False)


# --- Unix sockets


@contextlib.asynccontextmanager
async def unix_server(path: Path, *, is_secure: bool = False) -> AsyncGenerator[RawServer]:
    """Run a RawServer on a Unix socket."""
    server = RawServer((FINE,))
    listener: Any = await anyio.create_unix_listener(path)
    if is_secure:
        listener = TLSListener(listener, server_context("x.test"), standard_compatible=False)
    with anyio.fail_after(10):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, server.serve)
            yield server
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize("is_secure", [False, True], ids=["http", "https"])
async def test_unix_socket(socket_path: Path, *, is_secure: bool) -> None:
    """All requests go to the socket, over a connection for each origin, which is kept alive."""
    before = open_sockets()
    async with unix_server(socket_path, is_secure=is_secure) as server:
        transport = HTTPTransport(verify=trusting_context(), uds=str(socket_path))
        async with new_client(transport) as client:
            url = "https://x.test/path" if is_secure else "http://x.test/path"
            responses = [await client.get(url) for _ in range(3)]
            assert [response.text for response in responses] == ["fine"] * 3
            assert transport.statistics() == ONE_IDLE
            stream = responses[0].extensions["network_stream"]
            assert stream.get_extra_info("client_addr") == ""
            assert stream.get_extra_info("server_addr") == str(socket_path)
            assert (await client.get(url.replace("http:", "ws:"))).text == "fine"
    assert server.connections == (1 if is_secure else 2)
    assert {request.headers["host"] for request in server.requests} == {"x.test"}
    await sockets_closed(before)


@pytest.mark.anyio
async def test_a_stale_unix_socket(socket_path: Path) -> None:
    """A connection that the server has closed is not used again."""
    async with new_client(HTTPTransport(uds=str(socket_path))) as client:
        for count in (1, 2):
            async with unix_server(socket_path) as server:
                response = await client.post("http://x.test/")
                assert (response.text, server.connections) == ("fine", 1), count
            await until_readable(response)
            socket_path.unlink()


@pytest.mark.anyio
async def test_no_unix_socket(socket_path: Path) -> None:
    """A socket that is not there is a ConnectError that names it."""
    for path in (socket_path, socket_path.parent, socket_path.with_name("x" * 200)):
        async with new_client(HTTPTransport(uds=str(path))) as client:
            message = f"could not connect to x.test:80 at the Unix socket {path}: "
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get("http://x.test/")
            assert str(caught.value).startswith(message)


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the connection is refused")
async def test_a_unix_socket_whose_queue_is_full(socket_path: Path) -> None:
    """While a server has too many new connections to accept, requests wait, as long as the connect timeout."""
    before = open_sockets()
    path = str(socket_path)
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        listener.settimeout(5)
        waiting = sockets.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(path)
        async with new_client(HTTPTransport(uds=path), timeout=0.03) as client:
            with pytest.raises(httpx.ConnectTimeout, match=r"could not connect to x\.test:80 at the Unix socket "):
                await client.get("http://x.test/")
        async with new_client(HTTPTransport(uds=path)) as client, anyio.create_task_group() as tasks:

            async def post() -> None:
                assert (await client.post("http://x.test/")).status_code == 204

            def serve() -> None:
                sockets.enter_context(listener.accept()[0])
                accepted = sockets.enter_context(listener.accept()[0])
                assert accepted.recv(4096).startswith(b"POST")
                accepted.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

            tasks.start_soon(post)
            await anyio.sleep(0.03)
            await anyio.to_thread.run_sync(serve)
    await sockets_closed(before)


@pytest.mark.anyio
async def test_a_full_queue_under_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uvloop reports a full queue as an error, after which the socket is tried again as well."""
    errors: list[Exception] = [FileNotFoundError("gone"), BlockingIOError("full"), BlockingIOError("full")]

    async def connect(path: str) -> anyio.abc.ByteStream:
        raise errors.pop()

    monkeypatch.setattr(openers, "connect_unix", connect)
    async with new_client(HTTPTransport(uds="/socket")) as client:
        with pytest.raises(httpx.ConnectError, match="at the Unix socket /socket: gone"):
            await client.get("http://x.test/")
    assert errors == []


@pytest.mark.anyio
async def test_events_of_a_unix_socket(socket_path: Path) -> None:
    """They say where the socket is, as httpx's do."""
    infos = list[object]()

    async def listen(event: str, info: Mapping[str, object]) -> None:
        if event == "connection.connect_unix_socket.started":
            infos.append(info)

    async with unix_server(socket_path), new_client(HTTPTransport(uds=str(socket_path))) as client:
        await client.get("http://x.test/", extensions={"trace": listen})
    assert infos == [{"path": str(socket_path), "timeout": 5, "socket_options": None}]


@pytest.mark.anyio
async def test_options_of_a_unix_socket(socket_path: Path) -> None:
    """Socket options are set on Unix sockets as well."""
    option = (socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
    async with (
        unix_server(socket_path),
        new_client(HTTPTransport(uds=str(socket_path), socket_options=[option])) as client,
    ):
        response = await client.get("http://x.test/")
        raw_socket = response.extensions["network_stream"].get_extra_info("socket")
        assert raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) in {100_000, 200_000}


@pytest.mark.anyio
async def test_a_proxy_at_a_unix_socket(socket_path: Path) -> None:
    """With a proxy as well, the socket is where the proxy is."""
    async with unix_server(socket_path) as server:
        transport = HTTPTransport(uds=str(socket_path), proxy="http://user:pw@proxy.test")
        async with new_client(transport) as client:
            assert (await client.get("http://x.test/path")).text == "fine"
    assert server.requests[0].target == "http://x.test/path"
    assert server.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpwdw=="


# --- connect=


class Connections:
    """Connects to a server whatever the host is, and keeps what was asked for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.calls: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> anyio.abc.ByteStream:
        self.calls.append((host, port))
        return await anyio.connect_tcp("127.0.0.1", self.port)


@pytest.mark.anyio
async def test_connect() -> None:
    """The function is called for each connection, with the host and the port; the connections are kept alive."""
    before = open_sockets()
    async with raw_server(FINE) as server:
        connect = Connections(server.port)
        transport = HTTPTransport(connect=connect)
        async with new_client(transport) as client:
            for url in (
                "http://x.test/",
                "http://x.test/",
                "http://[::1]:81/",
                "http://xn--tda.test/",
                "http://x.test/",
            ):
                assert (await client.get(url)).text == "fine"
        assert connect.calls == [("x.test", 80), ("::1", 81), ("xn--tda.test", 80)]
    await sockets_closed(before)


@pytest.mark.anyio
async def test_connect_with_tls() -> None:
    """TLS is started on top of what the function returns, and checked against the host."""
    async with tls_server(FINE, context=server_context("x.test")) as server:
        connect = Connections(server.port)
        async with new_client(HTTPTransport(verify=trusting_context(), connect=connect)) as client:
            assert (await client.get("https://x.test/")).text == "fine"
            with pytest.raises(httpx.ConnectError, match=r"certificate is not valid for 'y\.test'"):
                await client.get("https://y.test/")
        assert connect.calls == [("x.test", 443), ("y.test", 443)]


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_connect_with_a_proxy(scheme: str) -> None:
    """With a proxy, the function opens the connections to the proxy."""
    async with raw_server(FINE) as server, running_proxy(scheme, {"x.test": server.port}) as proxy:
        connect = Connections(proxy.port)
        async with new_client(HTTPTransport(proxy=f"{scheme}://proxy.test:99", connect=connect)) as client:
            assert (await client.get("http://x.test/")).text == "fine"
        assert connect.calls == [("proxy.test", 99)]


@pytest.mark.anyio
async def test_connect_with_tls_of_its_own() -> None:
    """The function may return any stream, one with TLS included."""

    async def connect(host: str, port: int) -> anyio.abc.ByteStream:
        stream = await anyio.connect_tcp("127.0.0.1", server.port)
        return await TLSStream.wrap(
            stream, hostname="127.0.0.1", ssl_context=trusting_context(), standard_compatible=False
        )

    async with tls_server(FINE) as server, new_client(HTTPTransport(connect=connect)) as client:
        for _ in range(3):
            assert (await client.get("http://x.test/")).text == "fine"
        assert server.connections == 1


class InMemory(anyio.abc.ByteStream):
    """One end of a connection in memory, without a socket."""

    def __init__(
        self, receiving: anyio.abc.ObjectReceiveStream[bytes], sending: anyio.abc.ObjectSendStream[bytes]
    ) -> None:
        self.receiving = receiving
        self.sending = sending

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self.receiving.receive()

    async def send(self, item: bytes) -> None:
        await self.sending.send(item)

    async def send_eof(self) -> None:
        await self.sending.aclose()

    async def aclose(self) -> None:
        await self.sending.aclose()
        await self.receiving.aclose()


@pytest.mark.anyio
async def test_streams_without_a_socket() -> None:
    """Streams in memory are kept alive like any other; one that has ended is replaced where that is safe."""
    server = RawServer((FINE,))
    ends: list[anyio.abc.ByteStream] = []

    async def connect(host: str, port: int) -> anyio.abc.ByteStream:
        to_server, from_client = anyio.create_memory_object_stream[bytes](10)
        to_client, from_server = anyio.create_memory_object_stream[bytes](10)
        ends.append(InMemory(from_client, to_client))
        tasks.start_soon(server.serve, ends[-1])
        return InMemory(from_server, to_server)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            transport = HTTPTransport(connect=connect)
            async with new_client(transport) as client:
                for count in (1, 2, 3):
                    assert (await client.get("http://x.test/")).text == "fine"
                    assert (len(ends), figures(transport)) == (1, (1, 1, 0)), count
                await ends[0].aclose()
                assert (await client.get("http://x.test/")).text == "fine"
                assert (len(ends), figures(transport)) == (2, (1, 1, 0))
            tasks.cancel_scope.cancel()


ERRORS: list[tuple[BaseException, type[BaseException], str]] = [
    (
        ConnectionRefusedError(111, "Connection refused"),
        httpx.ConnectError,
        "could not connect to x.test:80: .*refused",
    ),
    (OSError("no tunnel"), httpx.ConnectError, "could not connect to x.test:80: no tunnel"),
    (anyio.BrokenResourceError(), httpx.ConnectError, "could not connect to x.test:80: "),
    (TimeoutError("took too long"), httpx.ConnectTimeout, "could not connect to x.test:80: took too long"),
    (httpx.ConnectError("mine"), httpx.ConnectError, "^mine$"),
    (httpx.ProxyError("mine"), httpx.ProxyError, "^mine$"),
    (KeyError("a bug"), KeyError, "a bug"),
    (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
]


@pytest.mark.anyio
async def test_connect_that_fails() -> None:
    """A network error is a ConnectError, a TimeoutError a ConnectTimeout, and any other exception is raised plain."""
    for error, expected, message in ERRORS:

        async def connect(host: str, port: int, error: BaseException = error) -> anyio.abc.ByteStream:
            await anyio.lowlevel.checkpoint()
            raise error

        transport = HTTPTransport(connect=connect)
        with pytest.raises(expected, match=message) as caught:
            await transport.handle_async_request(new_request("http://x.test/"))
        assert type(caught.value) is expected
        if expected is not httpx.ConnectTimeout and type(error) is expected:
            assert caught.value is error
        assert figures(transport) == (0, 0, 0)


def test_connect_that_is_no_function() -> None:
    """Anything but a function is a TypeError at once."""
    connect: Any = "x.test:80"
    with pytest.raises(TypeError, match=r"connect must be an async function that takes a host and a port, not 'x"):
        HTTPTransport(connect=connect)


@pytest.mark.anyio
async def test_connect_that_returns_no_stream() -> None:
    """Anything but a stream is a TypeError that says what it must be."""

    async def connect(host: str, port: int) -> Any:
        return socket

    with pytest.raises(TypeError, match=r"connect= must return an anyio.abc.ByteStream, not <module 'socket'"):
        await HTTPTransport(connect=connect).handle_async_request(new_request("http://x.test/"))


@pytest.mark.anyio
async def test_connect_that_is_not_async() -> None:
    """A function that is not async is a TypeError that says so."""

    def connect(host: str, port: int) -> Any:
        return socket

    with pytest.raises(TypeError, match=r"^connect= must be an async function; <.*connect.*> has returned <module "):
        await HTTPTransport(connect=connect).handle_async_request(new_request("http://x.test/"))


@pytest.mark.trio
async def test_connect_that_hangs(autojump_clock: MockClock) -> None:
    """The connect timeout holds, and so does a cancellation; the function can clean up."""
    ended: list[float] = []

    async def connect(host: str, port: int) -> anyio.abc.ByteStream:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())
        raise AssertionError

    async with new_client(HTTPTransport(connect=connect), timeout=3) as client:
        with pytest.raises(httpx.ConnectTimeout, match=r"could not connect to x\.test:80 within 3 s"):
            await client.get("http://x.test/")
        with trio.move_on_after(1) as scope:
            await client.get("http://x.test/")
        assert scope.cancelled_caught
    assert ended == [3, 4]


@pytest.mark.trio
async def test_connect_is_retried(autojump_clock: MockClock) -> None:
    """``retries`` holds for the function as well."""
    times: list[float] = []

    async def connect(host: str, port: int) -> anyio.abc.ByteStream:
        times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if len(times) < 3:
            raise OSError("not yet")
        return FakeStream(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")

    async with new_client(HTTPTransport(connect=connect, retries=2)) as client:
        assert (await client.get("http://x.test/")).text == "fine"
    assert times == [0, 0, 0.5]


@pytest.mark.anyio
async def test_a_stream_that_speaks_first() -> None:
    """What a stream holds before the request is sent is no response to it, where it can be seen."""

    async def greet(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"220 smtp.x.test ESMTP\r\n")
        await read_to_end(stream)

    async def connect(host: str, port: int) -> anyio.abc.ByteStream:
        stream = await anyio.connect_tcp("127.0.0.1", server.port)
        await until(input_probe_of(stream))
        return stream

    async with byte_server(greet) as server:
        with pytest.raises(httpx.RemoteProtocolError, match=r"x\.test:80 sent data before the request was sent"):
            await HTTPTransport(connect=connect).handle_async_request(new_request("http://x.test/"))


def test_arguments_that_exclude_each_other() -> None:
    """What concerns only the transport's own sockets is refused beside ``connect``."""

    async def connect(host: str, port: int) -> anyio.abc.ByteStream:
        raise AssertionError

    others: list[dict[str, Any]] = [{"uds": "/socket"}, {"local_address": "127.0.0.1"}, {"socket_options": []}]
    for arguments in others:
        with pytest.raises(ValueError, match="uds=, local_address= and socket_options= do not apply"):
            HTTPTransport(connect=connect, **arguments)


@each_row(
    ("name", "value", "message"),
    [
        ("uds", 5, "uds must be the path of a Unix socket, not 5"),
        ("local_address", 5, "local_address must be an address or a name, as a string, not 5"),
        ("local_address", ("127.0.0.1", 0), r"local_address must be .*, not \('127.0.0.1', 0\)"),
        ("retries", "a", "retries must be an integer, not 'a'"),
        ("retries", 1.5, "retries must be an integer, not 1.5"),
    ],
)
def test_arguments_of_the_wrong_type(name: str, value: Any, message: str) -> None:
    """They are errors at once that name the argument."""
    with pytest.raises(TypeError, match=f"^{message}$"):
        HTTPTransport(**{name: value})


@pytest.mark.anyio
async def test_an_upgrade() -> None:
    """A connection that the function has opened can change to another protocol."""
    async with raw_server(upgrade_to_echo) as server:
        connect: Connect = Connections(server.port)
        client = PrefectHttpxClient(transport=HTTPTransport(connect=connect), trust_env=False)
        headers = {"Upgrade": "echo", "Connection": "upgrade"}
        async with client, client.stream("GET", "http://x.test/", headers=headers) as response:
            stream = response.extensions["network_stream"]
            await stream.write(b"hello")
            assert await stream.read(100) == b"hello"
