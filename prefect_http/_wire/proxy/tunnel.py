"""Opening a tunnel through a proxy, on a stream that leads to the proxy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import httpx
from anyio.abc import ByteStream

from prefect_http._concurrency.backend import checkpoint
from prefect_http._errors import InvalidResponse
from prefect_http._wire.network_errors import with_timeout
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.origin import Origin
from prefect_http._wire.proxy.http_tunnel import HttpTunnelHandshake
from prefect_http._wire.proxy.proxy_server import ProxyServer
from prefect_http._wire.proxy.socks5 import Socks5Handshake
from prefect_http._wire.trace import Trace, step

Limit = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Does something within a time limit, and raises httpx's errors."""


async def open_tunnel(
    stream: ByteStream, proxy: ProxyServer, origin: Origin, timeout: float | None, trace: Trace | None
) -> None:
    """Ask a proxy for a tunnel. The stream then leads to the origin.

    Args:
        stream: leads to the proxy. It is not closed if there is no tunnel.
        proxy: the proxy.
        origin: where the tunnel leads.
        timeout: in seconds, for each step: to send a request, and to receive the response; None: no limit.
        trace: what listens.

    Raises:
        httpx.ProxyError: the proxy refuses, or cannot connect to the origin.
        httpx.ConnectError: the connection to the proxy breaks.
        httpx.ConnectTimeout: a step takes longer than ``timeout``.
        InvalidResponse: what arrives is not HTTP, or SOCKS5.
    """
    limit = partial(
        with_timeout,
        timeout,
        timed_out=httpx.ConnectTimeout,
        failed=httpx.ConnectError,
        failure=f"could not open a tunnel to {origin.peer} through {proxy.origin.peer}",
    )
    through = _through_socks if proxy.is_socks else _through_http
    if await through(stream, proxy, origin, limit, trace):
        # Perhaps the server greets its clients, as those for mail or SSH do, or the proxy has sent a page.
        raise InvalidResponse(f"data arrived through {proxy.origin.peer} before the request to {origin.peer} was sent")


async def _through_http(
    stream: ByteStream, proxy: ProxyServer, origin: Origin, limit: Limit, trace: Trace | None
) -> bytes:
    """Open a tunnel through an HTTP proxy, and return what has arrived through it."""
    handshake = HttpTunnelHandshake(proxy.origin.peer, origin.peer, proxy.origin.url, proxy.headers)
    trace = None if trace is None else trace.about(handshake.request)

    async def receive_head() -> None:
        while not handshake.is_complete:
            handshake.feed(await _receive(stream))

    await step(trace, "http11.send_request_headers", lambda: limit(lambda: stream.send(handshake.head)))
    if trace is not None:
        await trace.step("http11.send_request_body", checkpoint)
    await step(
        trace,
        "http11.receive_response_headers",
        lambda: limit(receive_head),
        result=lambda _: handshake.parser.head_for_trace(),
    )
    handshake.check()
    return handshake.trailing_data


async def _through_socks(
    stream: ByteStream, proxy: ProxyServer, origin: Origin, limit: Limit, trace: Trace | None
) -> bytes:
    """Open a tunnel through a SOCKS5 proxy, and return what has arrived through it."""
    handshake = Socks5Handshake(proxy.origin.peer, origin.peer, origin.host, origin.port, proxy.credentials)

    async def talk() -> None:
        to_send = handshake.start()
        while not handshake.is_complete:
            if to_send:
                await stream.send(to_send)
            to_send = handshake.feed(await _receive(stream))

    # Without the credentials, which httpcore adds.
    info = {"stream": NetworkStream(stream), "host": origin.host.decode("ascii"), "port": origin.port}
    await step(trace, "socks.setup_socks5_connection", lambda: limit(talk), info, lambda _: info["stream"])
    return handshake.trailing_data


async def _receive(stream: ByteStream) -> bytes:
    try:
        return await stream.receive()
    except anyio.EndOfStream:
        raise ConnectionError("the proxy closed the connection") from None
