"""Failures on the wire: each is the exception that httpx's own transport raises, with a helpful message.

And what does not become one: a request on a connection that the server closes just then is sent again, once.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import warnings
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import anyio
import anyio.abc
import httpx
import pytest
from support.rows import each_row
from support.scripted_servers import send_and_close
from support.servers import Act, answer, drop, half_answer, raw_server, refusing_port, stall, stay_silent, talk_nonsense
from support.sockets import open_sockets, reset, sockets_closed
from support.tls_servers import tls_server, url_of
from support.wire import (
    HELD,
    fetch,
    figures,
    new_request,
    new_transport,
    request_targets,
    trusting_context,
)

from prefect_http import HTTPTransport, InvalidResponse

pytestmark = [
    pytest.mark.anyio,
    # httpx leaves generators and sockets to the garbage collector, and so does anyio where it cannot bind a socket.
    pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def nothing_for_other_tests() -> Iterator[None]:
    """Collect what is left to the garbage collector here, with the warnings that other tests would have."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


SHORT = 0.05
NEVER_ASSIGNED = "192.0.2.1"  # RFC 5737


# --- Servers that fail


def send_and_reset(data: bytes) -> Act:
    """Send this, and reset the connection once it has arrived."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        if data:
            await stream.send(data)
            await anyio.sleep(0.01)  # a reset overtakes what has not been read
        await reset(stream)

    return act


def send_and_wait(data: bytes) -> Act:
    """Send this, and nothing more until the client gives up."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        await stream.send(data)
        await stay_silent(stream)

    return act


async def wait_for_the_end(stream: anyio.abc.ByteStream) -> None:
    """Read everything, and never answer."""
    async with stream:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            while True:
                await stream.receive()


async def read_some_and_reset(stream: anyio.abc.ByteStream) -> None:
    """Read a little, and reset the connection."""
    await stream.receive(100)
    await reset(stream)


async def send_first(stream: anyio.abc.ByteStream) -> None:
    """Send first, and something that is not TLS."""
    async with stream:
        await stream.send(b"220 smtp.example.org ESMTP\r\n")
        with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            await stream.receive()


async def hang_up(stream: anyio.abc.ByteStream) -> None:
    """Close the connection at once."""
    await stream.aclose()


@contextlib.asynccontextmanager
async def accepting(serve: Act) -> AsyncGenerator[int]:
    """Run a server that does this with each connection; yield its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    with anyio.fail_after(10):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            yield listener.extra(anyio.abc.SocketAttribute.local_port)
            tasks.cancel_scope.cancel()


async def endless() -> AsyncIterator[bytes]:
    """Generate an endless body."""
    while True:
        yield b"x" * 65536


async def one_shot() -> AsyncIterator[bytes]:
    """Generate a short body."""
    yield b"only "
    yield b"once"


# --- The same situations for both transports


@dataclass(frozen=True)
class Case:
    """A situation, and the exception in it.

    Attributes:
        error: the type of the exception; several, if it depends on the system.
        act: what the server does with the request.
        serve: or else, what it does with each connection.
        is_deaf: or else, whether it never takes any from the system, which accepts them for it, and holds some data.
        url: where the request goes; with the port.
        method: the request's method.
        content: makes its body.
        timeouts: those that are not 5 s.
        says: a part of the message; with the port.
    """

    error: type[Exception] | tuple[type[Exception], ...]
    act: Act | None = None
    serve: Act | None = None
    is_deaf: bool = False
    url: str = "http://user:secret@127.0.0.1:{port}/?key=secret"
    method: str = "GET"
    content: Callable[[], bytes | AsyncIterable[bytes] | None] = lambda: None
    timeouts: dict[str, float | None] = field(default_factory=dict[str, float | None])
    says: str = ""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """All types that the exception may have."""
        return self.error if isinstance(self.error, tuple) else (self.error,)

    @contextlib.asynccontextmanager
    async def server(self) -> AsyncGenerator[int]:
        """Run the server; yield its port."""
        if self.act is not None:
            async with raw_server(self.act) as server:
                yield server.port
        elif self.serve is not None:
            async with accepting(self.serve) as port:
                yield port
        elif self.is_deaf:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                yield listener.getsockname()[1]
        else:
            yield refusing_port()

    async def outcome(self, transport: httpx.AsyncBaseTransport, port: int) -> BaseException:
        """Send the request, and return the exception."""
        request = new_request(self.url.format(port=port), self.method, self.content(), **self.timeouts)
        async with transport:
            with anyio.fail_after(5), pytest.raises(Exception) as caught:  # noqa: PT011, it is looked at
                await fetch(transport, request)
        return caught.value


SECURE = "https://user:secret@127.0.0.1:{port}/?key=secret"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BREAKS = (httpx.ReadError, "receiving from 127.0.0.1:{port} failed: ")
SILENT = "127.0.0.1:{port} sent no data for 0.05 s"
WRITE_SHORT: dict[str, float | None] = {"write": SHORT}
NO_TAKER = "127.0.0.1:{port} accepted no data for 0.05 s"

CASES = {
    "unknown-host": Case(
        httpx.ConnectError, url="http://user:secret@no-such-host.invalid/", says="no-such-host.invalid:80"
    ),
    "refused": Case(httpx.ConnectError, says="could not connect to 127.0.0.1:{port}: "),
    "refused-by-all": Case(
        httpx.ConnectError, url="http://localhost:{port}/", says="could not connect to localhost:{port}: "
    ),
    "no-tls": Case(httpx.ConnectError, serve=send_first, url=SECURE, says="127.0.0.1:{port}"),
    "closed-for-tls": Case(httpx.ConnectError, serve=hang_up, url=SECURE, says="127.0.0.1:{port}"),
    "reset-for-tls": Case(httpx.ConnectError, serve=read_some_and_reset, url=SECURE, says="127.0.0.1:{port}"),
    "slow-tls": Case(
        httpx.ConnectTimeout, serve=wait_for_the_end, url=SECURE, timeouts={"connect": SHORT}, says="within 0.05 s"
    ),
    "no-time-for-tcp": Case(
        httpx.ConnectTimeout, act=drop, timeouts={"connect": 0}, says="127.0.0.1:{port} within 0 s"
    ),
    "closed": Case(
        httpx.RemoteProtocolError, act=drop, says="Server disconnected without sending a response. (127.0.0.1:{port})"
    ),
    "reset": Case(BREAKS[0], act=send_and_reset(b""), says=BREAKS[1]),
    "closed-in-head": Case(
        httpx.RemoteProtocolError, act=send_and_close(HEAD[:30]), says="the response's head (127.0.0.1:{port})"
    ),
    "reset-in-head": Case(BREAKS[0], act=send_and_reset(HEAD[:30]), says=BREAKS[1]),
    "closed-in-body": Case(
        httpx.RemoteProtocolError, act=half_answer(), says="90 of 100 bytes are missing (127.0.0.1:{port})"
    ),
    "reset-in-body": Case(BREAKS[0], act=send_and_reset(HEAD + b"0123456789"), says=BREAKS[1]),
    "closed-in-chunk": Case(httpx.RemoteProtocolError, act=send_and_close(CHUNKED + b"5\r\nab")),
    "closed-before-last-chunk": Case(
        httpx.RemoteProtocolError, act=send_and_close(CHUNKED + b"2\r\nab\r\n"), says="response (127.0.0.1:{port})"
    ),
    "reset-in-chunk": Case(BREAKS[0], act=send_and_reset(CHUNKED + b"5\r\nab"), says=BREAKS[1]),
    "reset-in-endless-body": Case(BREAKS[0], act=send_and_reset(b"HTTP/1.1 200 OK\r\n\r\nabc"), says=BREAKS[1]),
    "bad-chunk": Case((InvalidResponse, httpx.RemoteProtocolError), act=send_and_close(CHUNKED + b"xyz\r\n")),
    "garbage": Case((InvalidResponse, httpx.RemoteProtocolError), act=talk_nonsense),
    "slow-answer": Case(httpx.ReadTimeout, act=stay_silent, timeouts={"read": SHORT}, says=SILENT),
    "slow-head": Case(httpx.ReadTimeout, act=send_and_wait(HEAD[:30]), timeouts={"read": SHORT}, says=SILENT),
    "slow-body": Case(httpx.ReadTimeout, act=stall, timeouts={"read": SHORT}, says=SILENT),
    "slow-chunk": Case(
        httpx.ReadTimeout, act=send_and_wait(CHUNKED + b"5\r\nab"), timeouts={"read": SHORT}, says=SILENT
    ),
    "slow-answer-to-upload": Case(
        httpx.ReadTimeout, act=stay_silent, method="POST", content=one_shot, timeouts={"read": SHORT}, says=SILENT
    ),
    "no-time-to-read": Case(
        httpx.ReadTimeout, act=stay_silent, timeouts={"read": 0}, says="127.0.0.1:{port} sent no data"
    ),
    "slow-taker": Case(
        httpx.WriteTimeout,
        is_deaf=True,
        method="POST",
        content=lambda: b"x" * 20_000_000,
        timeouts=WRITE_SHORT,
        says=NO_TAKER,
    ),
    "slow-taker-of-upload": Case(
        httpx.WriteTimeout, is_deaf=True, method="POST", content=endless, timeouts=WRITE_SHORT, says=NO_TAKER
    ),
    "slow-taker-without-limit-to-read": Case(
        httpx.WriteTimeout,
        is_deaf=True,
        method="POST",
        content=endless,
        timeouts={"write": SHORT, "read": None},
        says=NO_TAKER,
    ),
    "slow-taker-who-may-not-answer": Case(
        httpx.WriteTimeout,
        is_deaf=True,
        method="POST",
        content=endless,
        timeouts={"write": SHORT, "read": SHORT / 2},
        says=NO_TAKER,
    ),
    "reset-while-sending": Case(
        (httpx.ReadError, httpx.RemoteProtocolError), serve=read_some_and_reset, method="POST", content=endless
    ),
    "reset-while-sending-bytes": Case(
        (httpx.ReadError, httpx.RemoteProtocolError),
        serve=read_some_and_reset,
        method="POST",
        content=lambda: b"x" * 20_000_000,
    ),
    "relative": Case(httpx.UnsupportedProtocol, act=answer(), url="/path"),
    "no-scheme": Case(httpx.UnsupportedProtocol, act=answer(), url="//127.0.0.1:{port}/path"),
    "other-scheme": Case(httpx.UnsupportedProtocol, act=answer(), url="ftp://127.0.0.1/", says="ftp"),
    "other-scheme-and-port": Case(
        httpx.UnsupportedProtocol, act=answer(), url="gopher://127.0.0.1:{port}/", says="gopher"
    ),
    "mail": Case(httpx.UnsupportedProtocol, act=answer(), url="mailto:user@example.org", says="mailto"),
}


@each_row("name", CASES)
async def test_failures(name: str) -> None:
    """A failure is httpx's exception or a subclass; its message says where and how long, and reveals no secrets."""
    case, transport, sockets = CASES[name], new_transport(), open_sockets()
    async with case.server() as port:
        error = await case.outcome(transport, port)
        says = case.says.format(port=port)
    assert type(error) in case.errors
    assert says in str(error)
    assert "secret" not in f"{error!r}{error.__cause__!r}"
    assert figures(transport) == (0, 0, 0)
    await sockets_closed(sockets)


@each_row("name", CASES)
async def test_failures_with_httpx(name: str) -> None:
    """In the same situation, httpx.AsyncHTTPTransport raises the same exception."""
    case = CASES[name]
    async with case.server() as port:
        error = await case.outcome(httpx.AsyncHTTPTransport(verify=trusting_context()), port)
    assert type(error) in case.errors


async def quick_parts() -> AsyncIterator[bytes]:
    """Make a body at once."""
    yield b"a part"


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(("name", "expected"), [("read", httpx.ReadTimeout), ("write", httpx.WriteTimeout)])
@each_row("content", [None, b"small", b"x" * 100_000, quick_parts], ids=["none", "small", "large", "parts"])
async def test_a_timeout_of_zero(
    content: bytes | Callable[[], AsyncIterator[bytes]] | None,
    name: str,
    expected: type[Exception],
    is_secure: bool,
) -> None:
    """It has always passed, as with httpx, however quick the server is, on new connections and on reused ones."""
    script, sockets = answer(body=b"fine"), open_sockets()
    async with tls_server(script) if is_secure else raw_server(script) as server:
        url = url_of(server) if is_secure else server.url
        for transport in (new_transport(), httpx.AsyncHTTPTransport(verify=trusting_context())):
            async with transport:
                for _ in range(5):
                    body = content() if callable(content) else content
                    with pytest.raises(expected) as caught:
                        await fetch(transport, new_request(url, "POST", body, **{name: 0}))
                    assert type(caught.value) is expected
                    if isinstance(transport, HTTPTransport):
                        assert str(caught.value).endswith(" no data for 0 s")
                        assert figures(transport) == (0, 0, 0)
                        assert await fetch(transport, url) == b"fine"
    await sockets_closed(sockets)


@each_row(
    ("most", "why"),
    [
        (-1, "max_connections=-1 allows none"),
        (0, "max_connections=0 allows none"),
        (1, "max_connections=1 allows no more than one, which is in use"),
        (2, "all 2 are in use"),
    ],
)
async def test_message_of_a_pool_timeout(most: int, why: str) -> None:
    """The message says how many connections there may be."""
    async with raw_server(answer()) as server, new_transport(httpx.Limits(max_connections=most)) as transport:
        held = [await transport.handle_async_request(new_request(server.url, "GET", None, HELD)) for _ in range(most)]
        with pytest.raises(httpx.PoolTimeout) as caught:
            await fetch(transport, new_request(server.url, pool=0))
        assert str(caught.value) == f"no connection became free within 0 s: {why}"
        for response in held:
            await response.aclose()


async def test_a_timeout_of_zero_for_what_does_not_wait() -> None:
    """A request that need not wait for a connection, as with httpx, is not too late for a pool timeout of 0."""
    async with raw_server(answer(body=b"fine")) as server:
        for transport in (new_transport(), httpx.AsyncHTTPTransport()):
            async with transport:
                with pytest.raises(httpx.ConnectTimeout):
                    await fetch(transport, new_request(server.url, connect=0))
                assert await fetch(transport, new_request(server.url, pool=0)) == b"fine"
                assert await fetch(transport, new_request(server.url, pool=0, connect=0)) == b"fine"


def httpxs_own(limits: httpx.Limits) -> httpx.AsyncHTTPTransport:
    """Make httpx's own transport."""
    return httpx.AsyncHTTPTransport(verify=False, limits=limits)


@each_row("new", [new_transport, httpxs_own])
@each_row("seconds", [0, SHORT])
async def test_pool_timeout(new: Callable[[httpx.Limits], httpx.AsyncBaseTransport], seconds: float) -> None:
    """A request that gets no connection in time raises PoolTimeout, and leaves the connection in use alone."""
    async with raw_server(answer(body=b"fine")) as server, new(httpx.Limits(max_connections=1)) as transport:
        response = await transport.handle_async_request(new_request(server.url, "GET", None, HELD))
        with pytest.raises(httpx.PoolTimeout) as caught:
            await fetch(transport, new_request(server.url, pool=seconds))
        assert type(caught.value) is httpx.PoolTimeout
        if isinstance(transport, HTTPTransport):
            assert f"{seconds:g} s" in str(caught.value)
            assert figures(transport) == (1, 0, 0)
        await response.aread()
        assert await fetch(transport, server.url) == b"fine"
    assert server.connections == 1


@each_row("method", ["GET", "POST"])
async def test_timeouts_are_off(method: str) -> None:
    """With timeouts of None, or without any, there is no limit."""
    none: dict[str, float | None] = dict.fromkeys(("connect", "read", "write", "pool"))
    async with raw_server(answer(body=b"fine")) as server, new_transport() as transport:
        with anyio.fail_after(5):
            request = new_request(server.url, method, one_shot() if method == "POST" else None, **none)
            assert await fetch(transport, request) == b"fine"
            assert await fetch(transport, httpx.Request(method, server.url)) == b"fine"


async def test_timeout_is_for_each_part() -> None:
    """The read timeout holds for each part of the body, and not for all of it."""

    async def slowly(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        for _ in range(5):
            await anyio.sleep(0.03)
            await stream.send(b"x")

    async with raw_server(slowly) as server, new_transport() as transport:
        assert await fetch(transport, new_request(server.url, read=0.1)) == b"x" * 5


@each_row("host", ["a" * 64 + ".invalid", "a..invalid", "x" * 300], ids=["long-label", "empty-label", "long-name"])
async def test_invalid_host(host: str) -> None:
    """An invalid host name is a ConnectError, where httpx raises a UnicodeError."""
    async with new_transport() as transport:
        with anyio.fail_after(10), pytest.raises(httpx.ConnectError):
            await fetch(transport, f"http://{host}/")
        assert figures(transport) == (0, 0, 0)


@each_row(
    "new",
    [
        lambda: HTTPTransport(verify=False, local_address=NEVER_ASSIGNED),
        lambda: httpx.AsyncHTTPTransport(verify=False, local_address=NEVER_ASSIGNED),
        lambda: HTTPTransport(verify=False, socket_options=[(socket.SOL_SOCKET, 9999, 1)]),
        lambda: httpx.AsyncHTTPTransport(verify=False, socket_options=[(socket.SOL_SOCKET, 9999, 1)]),
    ],
    ids=["address-ours", "address-httpx", "option-ours", "option-httpx"],
)
async def test_bad_arguments_of_sockets(new: Callable[[], httpx.AsyncBaseTransport]) -> None:
    """A local address or a socket option that the system refuses is a ConnectError."""
    async with raw_server(answer()) as server, new() as transport:
        with pytest.raises(httpx.ConnectError):
            await fetch(transport, server.url)
        if isinstance(transport, HTTPTransport):
            assert figures(transport) == (0, 0, 0)


@each_row("address", [NEVER_ASSIGNED, "a..invalid"])
async def test_message_names_the_local_address(address: str) -> None:
    """If a connection cannot be opened, that may be due to the local address."""
    async with HTTPTransport(verify=False, local_address=address) as transport:
        with anyio.fail_after(10), pytest.raises(httpx.ConnectError) as caught:
            await fetch(transport, "http://127.0.0.1:9/")
    assert str(caught.value).startswith(f"could not connect to 127.0.0.1:9 from the local address {address}: ")


async def fail() -> AsyncIterator[bytes]:
    """Fail in the middle of a body."""
    yield b"begun"
    raise LookupError("the caller's own")


@each_row("new", [new_transport, lambda: httpx.AsyncHTTPTransport(verify=False)], ids=["ours", "httpx"])
async def test_body_that_fails(new: Callable[[], httpx.AsyncBaseTransport]) -> None:
    """An exception of the request body is raised unchanged, as with httpx."""
    async with raw_server(answer()) as server, new() as transport:
        with pytest.raises(LookupError, match="the caller's own"):
            await fetch(transport, new_request(server.url, "POST", fail()))
        if isinstance(transport, HTTPTransport):
            assert figures(transport) == (0, 0, 0)


async def test_body_that_is_too_short() -> None:
    """A body that is shorter than its Content-Length is a LocalProtocolError, where httpx raises h11's own."""
    async with accepting(wait_for_the_end) as port, new_transport() as transport:
        request = new_request(f"http://127.0.0.1:{port}/", "POST", one_shot())
        del request.headers["Transfer-Encoding"]
        request.headers["Content-Length"] = "100"
        with pytest.raises(httpx.LocalProtocolError):
            await fetch(transport, request)
        assert figures(transport) == (0, 0, 0)


# --- Sending again


CLOSES = each_row("close", [drop, send_and_reset(b"")], ids=["closed", "reset"])


@CLOSES
@each_row("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
async def test_sent_again(method: str, close: Act) -> None:
    """If the server closes a reused connection just then, the request is sent again on a fresh one."""
    content = b"all of it" if method in {"PUT", "DELETE"} else None
    async with raw_server(answer(), close, answer(204)) as server, new_transport() as transport:
        await fetch(transport, server.url)
        response = await transport.handle_async_request(new_request(server.url + "again", method, content))
        await response.aclose()
        assert figures(transport) == (1, 1, 0)
    assert response.status_code == 204
    assert [(each.method, each.target, each.body) for each in server.requests[1:]] == [
        (method, "/again", content or b"")
    ] * 2
    assert server.connections == 2


@CLOSES
async def test_large_body_is_sent_again(close: Act) -> None:
    """A large body of bytes is sent again whole."""
    body = bytes(range(256)) * 4000
    async with raw_server(answer(), close, answer(body=b"fine")) as server, new_transport() as transport:
        await fetch(transport, server.url)
        assert await fetch(transport, new_request(server.url, "PUT", body)) == b"fine"
        assert figures(transport) == (1, 1, 0)
    assert [each.body == body for each in server.requests] == [False, True, True]


@CLOSES
@each_row(
    ("method", "content"), [("POST", b"pay"), ("PATCH", b"add 1"), ("POST", None), ("CONNECT", None), ("PUT", one_shot)]
)
async def test_not_sent_again(
    method: str, content: bytes | Callable[[], AsyncIterator[bytes]] | None, close: Act
) -> None:
    """A request that is not safe to repeat, or cannot be, fails."""
    body = content() if callable(content) else content
    async with raw_server(answer(), close, answer()) as server, new_transport() as transport:
        await fetch(transport, server.url)
        with pytest.raises(httpx.RemoteProtocolError if close is drop else httpx.ReadError):
            await fetch(transport, new_request(server.url + "again", method, body))
        assert figures(transport) == (0, 0, 0)
    assert len(server.requests) == 2


@each_row(
    "data",
    [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"220 smtp.example.org\r\n", b"\r\n", b"\0"],
)
@each_row("then", [send_and_close, send_and_reset], ids=["closed", "reset"])
async def test_not_sent_again_after_the_first_byte(data: bytes, then: Callable[[bytes], Act]) -> None:
    """A request is not sent again once a byte has arrived, even if it is not HTTP."""
    async with raw_server(answer(), then(data), answer()) as server, new_transport() as transport:
        await fetch(transport, server.url)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await fetch(transport, server.url)
        assert figures(transport) == (0, 0, 0)
    assert len(server.requests) == 2


@CLOSES
async def test_not_sent_again_on_a_fresh_connection(close: Act) -> None:
    """A request that fails on a fresh connection is not sent again."""
    async with raw_server(close, answer()) as server, new_transport() as transport:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await fetch(transport, server.url)
    assert len(server.requests) == 1


@CLOSES
async def test_sent_again_only_once(close: Act) -> None:
    """A request that fails again is not sent a third time."""
    async with raw_server(answer(), close, close, answer()) as server, new_transport() as transport:
        await fetch(transport, server.url)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await fetch(transport, server.url)
        assert figures(transport) == (0, 0, 0)
    assert (len(server.requests), server.connections) == (3, 2)


async def test_sent_again_on_a_fresh_connection() -> None:
    """The second attempt does not use an idle connection, which may be as stale as the first."""
    async with raw_server(answer(), answer(), drop, answer()) as server, new_transport() as transport:
        requests = [new_request(server.url, "GET", None, HELD) for _ in range(2)]
        for response in [await transport.handle_async_request(request) for request in requests]:
            await response.aread()
        assert figures(transport) == (2, 2, 0)
        await fetch(transport, server.url)
        assert figures(transport) == (2, 2, 0)
    assert server.connections == 3


async def test_timeout_on_a_reused_connection() -> None:
    """A timeout on a reused connection is not retried."""
    async with raw_server(answer(), stay_silent, answer()) as server, new_transport() as transport:
        await fetch(transport, server.url)
        with pytest.raises(httpx.ReadTimeout):
            await fetch(transport, new_request(server.url, read=SHORT))
        assert figures(transport) == (0, 0, 0)
    assert len(server.requests) == 2


async def test_server_that_is_gone() -> None:
    """If the server closes the connection and then refuses another, the refusal is raised."""
    async with new_transport() as transport:
        async with raw_server(answer()) as server:
            await fetch(transport, server.url)
        with pytest.raises(httpx.ConnectError):
            await fetch(transport, server.url)
        assert figures(transport) == (0, 0, 0)
    assert request_targets(server) == ["/"]
