"""Garbage cycles: a failing request leaves no more objects to the garbage collector than with httpx's own transport."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import anyio
import httpx
import pytest
import trio
from support.garbage import garbage_of, responding_server, silent_server
from support.scripted_servers import settle
from support.servers import refusing_port
from support.wire import fetch, is_asyncio, new_request, trusting_context

from prefect_http import HTTPTransport

pytestmark = [
    pytest.mark.anyio,
    # httpx leaves generators and sockets to the garbage collector, the request's own included.
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

SHORT = 0.01
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
RESPONSES = {
    "garbage": b"220 smtp.example.org ESMTP\r\n",
    "closed": b"",
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    "bad-chunk": CHUNKED + b"3\r\nabc\r\nxyz\r\n",
}
SECURE = "https://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def ports() -> Iterator[Mapping[str, int]]:
    """Run the servers; yield their ports."""
    with contextlib.ExitStack() as stack:
        found = {name: stack.enter_context(responding_server(data)) for name, data in RESPONSES.items()}
        found["reset"] = stack.enter_context(responding_server(b"", resets=True))
        found["silent"] = stack.enter_context(silent_server())
        found["refusing"] = refusing_port()
        yield found


async def endless() -> AsyncIterator[bytes]:
    """Generate an endless body."""
    while True:
        yield b"x" * 65536


async def failing() -> AsyncIterator[bytes]:
    """Fail in the middle of a body."""
    yield b"x"
    raise LookupError("the caller's own")


@dataclass(frozen=True)
class Case:
    """A request that fails.

    Attributes:
        error: the exception; None: a cancellation.
        server: the name of the server.
        url: where the request goes; with the server's port.
        method: the request's method.
        content: makes its body.
        headers: added to it.
        timeouts: those that are not 5 s.
        is_crowded: whether another request has the only connection.
        step: the step in which it is cancelled, as a trace event says; "": the one that it has come to.
    """

    error: type[Exception] | None
    server: str = "silent"
    url: str = "http://127.0.0.1:{port}/"
    method: str = "GET"
    content: Callable[[], bytes | AsyncIterable[bytes] | None] = lambda: None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    timeouts: Mapping[str, float] = field(default_factory=dict[str, float])
    is_crowded: bool = False
    step: str = ""

    async def fail(self, transport: httpx.AsyncBaseTransport, port: int) -> None:
        """Make the request."""
        request = new_request(self.url.format(port=port), self.method, self.content(), **self.timeouts)
        request.headers.update(self.headers)
        with anyio.move_on_after(10 if self.error or self.step else SHORT) as scope:
            if self.step:

                async def trace(event: str, _: object) -> None:
                    if event == self.step:
                        scope.deadline = anyio.current_time() + SHORT

                request.extensions["trace"] = trace
            with contextlib.suppress(*(() if self.error is None else (self.error,))):
                await fetch(transport, request)
                assert not self.error, "the request did not fail"
        assert scope.cancelled_caught is (self.error is None)


CASES = {
    "refused": Case(httpx.ConnectError, "refusing"),
    "refused-by-all": Case(httpx.ConnectError, "refusing", "http://localhost:{port}/"),
    "unknown-host": Case(httpx.ConnectError, url="http://no-such-host.invalid/"),
    "no-tls": Case(httpx.ConnectError, "garbage", SECURE),
    "closed": Case(httpx.RemoteProtocolError, "closed"),
    "reset": Case(httpx.ReadError, "reset"),
    "garbage": Case(httpx.RemoteProtocolError, "garbage"),
    "short-body": Case(httpx.RemoteProtocolError, "short"),
    "bad-chunk": Case(httpx.RemoteProtocolError, "bad-chunk"),
    "connect-timeout": Case(httpx.ConnectTimeout, timeouts={"connect": 0}),
    "tls-timeout": Case(httpx.ConnectTimeout, url=SECURE, timeouts={"connect": SHORT}),
    "read-timeout": Case(httpx.ReadTimeout, timeouts={"read": SHORT}),
    "read-timeout-of-an-upload": Case(
        httpx.ReadTimeout, method="POST", content=lambda: b"x" * 100_000, timeouts={"read": SHORT}
    ),
    "write-timeout": Case(httpx.WriteTimeout, method="POST", content=endless, timeouts={"write": SHORT}),
    "pool-timeout": Case(httpx.PoolTimeout, timeouts={"pool": SHORT}, is_crowded=True),
    "bad-header": Case(httpx.LocalProtocolError, headers={"X": "a\nb"}),
    "bad-scheme": Case(httpx.UnsupportedProtocol, url="ftp://127.0.0.1/"),
    "failing-body": Case(LookupError, method="POST", content=failing),
    "cancelled": Case(None),
    "cancelled-in-the-handshake": Case(None, url=SECURE, step="connection.start_tls.started"),
    "cancelled-upload": Case(None, method="POST", content=endless),
    "cancelled-while-waiting": Case(None, is_crowded=True),
}


class NoHosts(trio.abc.HostnameResolver):
    """Knows no host, and says so without a thread: what a thread drops when is a matter of luck."""

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002  # trio's name for it
        proto: int = 0,
        flags: int = 0,
    ) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> NoReturn:
        raise NotImplementedError


@contextlib.asynccontextmanager
async def crowd(transport: httpx.AsyncBaseTransport, case: Case, port: int) -> AsyncIterator[None]:
    """Have another request hold the only connection, if the case says so."""
    async with anyio.create_task_group() as tasks:
        if case.is_crowded:
            tasks.start_soon(fetch, transport, new_request(f"http://127.0.0.1:{port}/", read=None))
            await settle()
        yield
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("name", CASES)
async def test_no_more_garbage_than_with_httpx(name: str, ports: Mapping[str, int]) -> None:
    """A failing request leaves no more objects to the garbage collector than with httpx's own transport."""
    case, found = CASES[name], list[list[int]]()
    limits, port = httpx.Limits(max_connections=1 if case.is_crowded else 10), ports[case.server]
    if name == "unknown-host" and not is_asyncio():
        trio.socket.set_custom_hostname_resolver(NoHosts())
    for new in (HTTPTransport, httpx.AsyncHTTPTransport):
        async with new(verify=trusting_context(), limits=limits) as transport, crowd(transport, case, port):
            found.append(await garbage_of(lambda: case.fail(transport, port)))
    ours, httpxs = found
    assert min(ours) <= max(httpxs)
