"""HTTP/2 on connections that are opened in other ways than over TCP: through proxies, by the user, to a Unix socket."""

from __future__ import annotations

import contextlib
from pathlib import Path

import anyio
import anyio.abc
import httpx
import pytest
from support.h2_frames import settings
from support.h2_peers import Peer, h2_server, h2_transport, secure_server, serve_paths
from support.proxies import running_proxy
from support.rows import each_row
from support.servers import answer, raw_server
from support.tls_servers import server_context
from support.wire import fetch_at_once, new_request, trusting_context

from prefect_http import HTTPTransport

pytestmark = pytest.mark.anyio

LOCAL = "127.0.0.1"
ONE = answer(body=b"one")


@each_row("scheme", ["http", "https", "socks5"])
async def test_tunnel(scheme: str) -> None:
    """A server that chooses HTTP/2 within a tunnel gets all requests of a burst through that one tunnel."""
    context = server_context() if scheme == "https" else None
    async with secure_server("h2", "http/1.1", script=serve_paths, act=ONE) as server:
        port = httpx.URL(server.url).port
        assert port is not None
        async with running_proxy(scheme, {LOCAL: port}, context=context) as proxy:
            outer = trusting_context() if scheme == "https" else None
            proxy_of_client = httpx.Proxy(proxy.url(), ssl_context=outer)
            async with HTTPTransport(verify=trusting_context(), http2=True, proxy=proxy_of_client) as transport:
                assert await fetch_at_once(transport, server.url, 4) == [("HTTP/2", b"/")] * 4
                assert await fetch_at_once(transport, server.url, 4) == [("HTTP/2", b"/")] * 4
                assert (transport.statistics().connections, proxy.connections) == (1, 1)
        assert server.versions == ["h2"]


@each_row("scheme", ["http", "https"])
async def test_forwarded(scheme: str) -> None:
    """What a proxy forwards goes to it over HTTP/1.1, also over TLS, and does not wait for a first connection."""
    async with raw_server(ONE) as server:
        context = server_context() if scheme == "https" else None
        async with running_proxy(scheme, {LOCAL: server.port}, context=context) as proxy:
            outer = trusting_context() if scheme == "https" else None
            proxy_of_client = httpx.Proxy(proxy.url(), ssl_context=outer)
            async with HTTPTransport(verify=False, http2=True, proxy=proxy_of_client) as transport:
                assert await fetch_at_once(transport, server.url, 4) == [("HTTP/1.1", b"one")] * 4
                assert (proxy.connections, {asked.method for asked in proxy.asked}) == (4, {"GET"})


async def test_prior_knowledge_through_a_proxy() -> None:
    """Without HTTP/1.1, an http:// URL needs a tunnel as well: a proxy forwards nothing but HTTP/1.1."""
    async with h2_server(serve_paths) as server:
        async with running_proxy("http", {LOCAL: server.bytes_server.port}) as proxy:
            async with HTTPTransport(verify=False, http1=False, http2=True, proxy=proxy.url()) as transport:
                assert await fetch_at_once(transport, server.url, 4) == [("HTTP/2", b"/")] * 4
            assert proxy.targets == [f"CONNECT {LOCAL}:{server.bytes_server.port}"]


async def test_proxy_that_refuses() -> None:
    """Each request of a burst fails with the proxy's refusal, and none waits for ever."""
    async with running_proxy("http", {}) as proxy:
        failures: list[str] = []

        async def get(transport: HTTPTransport) -> None:
            with pytest.raises(httpx.ProxyError) as raised:
                await transport.handle_async_request(new_request("https://unknown.test/"))
            failures.append(str(raised.value))

        async with HTTPTransport(verify=False, http2=True, proxy=proxy.url()) as transport:
            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    for _ in range(4):
                        tasks.start_soon(get, transport)
        assert len(failures) == 4
        assert all("could not connect to unknown.test:443: 502" in failure for failure in failures)


async def test_errors_name_the_proxy() -> None:
    """A connection through a proxy is called that when it breaks."""

    async def leave(peer: Peer) -> None:
        await peer.request()

    async with secure_server("h2", script=leave, act=None) as server:
        port = httpx.URL(server.url).port
        assert port is not None
        async with running_proxy("http", {LOCAL: port}) as proxy:
            async with HTTPTransport(verify=trusting_context(), http2=True, proxy=proxy.url()) as transport:
                with pytest.raises(httpx.TransportError, match=f"{port} through the proxy http://"):
                    await transport.handle_async_request(new_request(server.url, "POST", b"x"))


async def test_connect() -> None:
    """A stream that the user opens carries HTTP/2, after a TLS handshake or without."""
    asked: list[tuple[str, int]] = []

    def to(port: int | None) -> object:
        async def connect(host: str, asked_port: int) -> anyio.abc.ByteStream:
            asked.append((host, asked_port))
            return await anyio.connect_tcp(LOCAL, port or 0)

        return connect

    async with secure_server("h2", script=serve_paths, act=None) as server:
        arguments = {"connect": to(httpx.URL(server.url).port), "verify": trusting_context(), "http2": True}
        async with HTTPTransport(**arguments) as transport:  # type: ignore[arg-type]
            assert await fetch_at_once(transport, "https://localhost/", 4) == [("HTTP/2", b"/")] * 4
    async with h2_server(serve_paths) as plain:
        arguments = {"connect": to(plain.bytes_server.port), "http1": False, "http2": True}
        async with HTTPTransport(verify=False, **arguments) as transport:  # type: ignore[arg-type]
            assert await fetch_at_once(transport, "http://localhost/", 4) == [("HTTP/2", b"/")] * 4
    assert asked == [("localhost", 443), ("localhost", 80)]


async def test_unix_socket(socket_path: Path) -> None:
    """So does a Unix socket."""

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            peer = Peer(stream)
            await peer.begin(settings())
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await serve_paths(peer)

    listener = await anyio.create_unix_listener(socket_path)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        async with HTTPTransport(verify=False, http1=False, http2=True, uds=str(socket_path)) as transport:
            assert await fetch_at_once(transport, "http://x.test/", 4) == [("HTTP/2", b"/")] * 4
            assert transport.statistics().connections == 1
        tasks.cancel_scope.cancel()


async def test_nothing_of_httpx_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the arguments are, no transport of httpx's is made."""

    def make(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "__init__", make)
    for arguments in ({"http2": True}, {"http1": False}, {"proxy": "http://x.test"}, {"uds": "/socket"}):
        HTTPTransport(verify=False, **arguments).statistics()
    async with h2_server(serve_paths) as server, h2_transport() as transport:
        assert await fetch_at_once(transport, server.url, 1) == [("HTTP/2", b"/")]
