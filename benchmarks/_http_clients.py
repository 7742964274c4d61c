"""The clients that are measured over loopback, each as a function that makes one GET and reads the response."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx

from benchmarks._loopback import Server
from prefect_http import HTTPTransport, PrefectHttpxClient

Get = Callable[[], Coroutine[Any, Any, object]]

CLIENT, ON_TRANSPORT = "PrefectHttpxClient", "httpx on HTTPTransport"
ALONE = "HTTPTransport alone"
SOCKET = "a bare socket"  # what the server, the system and the event loop take, whatever the client
HTTP2 = " HTTP/2"  # added to the name of a client that may use it
_TIMEOUT = 60.0
_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: socket\r\n\r\n"
_ANSWER = b"Hello, world!"


class Contestant(NamedTuple):
    """A client on a backend: trio, asyncio or uvloop; and in what way, where there are several."""

    client: str
    backend: str
    way: str = ""

    def __str__(self) -> str:
        return f"{self.client}, {self.backend}{self.way}"

    @property
    def is_available(self) -> bool:
        """Whether there is its event loop: uvloop does not run on Windows."""
        return self.backend != "uvloop" or importlib.util.find_spec("uvloop") is not None

    def run(self, function: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
        """Run a coroutine function on the backend, and return its result."""
        if self.backend != "uvloop":
            return anyio.run(function, *arguments, backend=self.backend)
        return anyio.run(function, *arguments, backend="asyncio", backend_options={"use_uvloop": True})


@functools.cache
def tls_context(authority: Path | None) -> ssl.SSLContext:
    """Return a context that trusts an authority; it is shared, since each takes some 20 ms to create."""
    return ssl.create_default_context(cafile=authority)


def _connected(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").strip("/").partition(":")
    one = socket.create_connection((host, int(port)))
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    one.setblocking(False)
    return one


@contextlib.asynccontextmanager
async def open_client(name: str, server: Server, connections: int, path: str = "") -> AsyncGenerator[Get]:
    """Open a client that makes requests to the server, over so many connections at once."""
    name, http2 = name.removesuffix(HTTP2), name.endswith(HTTP2)
    url, proxy = server.url + path, server.proxy  # only httpx's clients and ours use it
    context = tls_context(server.authority)
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    match name:
        case "aiohttp":
            import aiohttp

            connector = aiohttp.TCPConnector(limit=connections, ssl=context)
            async with aiohttp.ClientSession(connector=connector) as session:

                async def get() -> None:
                    async with session.get(url) as response:
                        await response.read()

                yield get
        case "pyreqwest":
            from pyreqwest.client import ClientBuilder

            builder = ClientBuilder().max_connections(connections).timeout(timedelta(seconds=_TIMEOUT))
            if server.authority:
                builder = builder.add_root_certificate_pem(server.authority.read_bytes())
            async with builder.build() as reqwest:

                async def get() -> None:
                    response = await reqwest.get(url).build().send()
                    await response.bytes()

                yield get
        case "httpx2":
            import httpx2

            limits2 = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
            async with httpx2.AsyncClient(verify=context, http2=http2, limits=limits2, timeout=_TIMEOUT) as client2:
                yield lambda: client2.get(url)
        case _ if name == SOCKET:
            with contextlib.ExitStack() as stack:
                idle = [stack.enter_context(_connected(url)) for _ in range(connections)]

                async def get() -> None:
                    one = idle.pop()
                    one.send(_REQUEST)
                    await anyio.wait_readable(one)
                    assert one.recv(65536).endswith(_ANSWER)
                    idle.append(one)

                yield get
        case _ if name == ALONE:
            async with HTTPTransport(verify=context, limits=limits, proxy=proxy) as transport:

                async def get() -> None:
                    response = await transport.handle_async_request(httpx.Request("GET", url))
                    await response.aread()

                yield get
        case _:
            clients: dict[str, Callable[[], httpx.AsyncClient]] = {
                CLIENT: lambda: PrefectHttpxClient(
                    verify=context, http2=http2, limits=limits, proxy=proxy, timeout=_TIMEOUT
                ),
                ON_TRANSPORT: lambda: httpx.AsyncClient(
                    transport=HTTPTransport(verify=context, limits=limits, proxy=proxy), timeout=_TIMEOUT
                ),
                "httpx": lambda: httpx.AsyncClient(
                    verify=context, http2=http2, limits=limits, proxy=proxy, timeout=_TIMEOUT
                ),
            }
            async with clients[name]() as client:
                yield lambda: client.get(url)
