"""HTTPTransport: whether it uses its own connections or httpx's, and how PrefectHttpxClient uses it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import anyio.abc
import httpx
import pytest
from support.rows import each_row
from support.servers import answer, hypercorn_on_trio, raw_server
from support.wire import HELD, request_targets

from prefect_http import HTTPTransport, PrefectHttpxClient, RetryPolicy
from prefect_http._types import Receive, Scope, Send

FINE = answer(body=b"fine")


# --- Requests that are left to httpx


async def _http_version(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["http_version"].encode()})


@pytest.mark.anyio
async def test_http2() -> None:
    """With http2=True and http1=False, requests go over HTTP/2."""
    with hypercorn_on_trio(_http_version) as url:
        with anyio.fail_after(10):
            transport = HTTPTransport(verify=False, http1=False, http2=True)
            async with httpx.AsyncClient(transport=transport) as client:
                response = await client.get(url)
            assert (response.http_version, response.text) == ("HTTP/2", "2")
            async with PrefectHttpxClient(verify=False, http1=False, http2=True, trust_env=False) as client:
                assert (await client.get(url)).http_version == "HTTP/2"


@pytest.mark.anyio
async def test_a_unix_socket(socket_path: Path) -> None:
    """With uds=, requests go through a Unix socket, whatever their host."""
    received: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            received.append(await stream.receive())
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nunix")

    with anyio.fail_after(10):
        async with await anyio.create_unix_listener(socket_path) as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            async with httpx.AsyncClient(transport=HTTPTransport(verify=False, uds=str(socket_path))) as client:
                assert (await client.get("http://anything.invalid/path")).text == "unix"
            tasks.cancel_scope.cancel()
    assert received[0].startswith(b"GET /path HTTP/1.1\r\nHost: anything.invalid\r\n")


@pytest.mark.anyio
@each_row("kind", [str, httpx.URL, httpx.Proxy])
async def test_a_proxy(kind: type[Any]) -> None:
    """With proxy=, in each form, requests go to the proxy, with its credentials."""
    async with raw_server(answer(body=b"proxied")) as proxy:
        transport = HTTPTransport(verify=False, proxy=kind(f"http://user:pw@127.0.0.1:{proxy.port}"))
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://x.invalid/path?q=1")).text == "proxied"
    assert [request.target for request in proxy.requests] == ["http://x.invalid/path?q=1"]
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpwdw=="


@pytest.mark.anyio
async def test_a_proxy_that_refuses() -> None:
    """A proxy that refuses a tunnel is a ProxyError."""
    async with raw_server(answer(403)) as proxy:
        async with httpx.AsyncClient(transport=HTTPTransport(verify=False, proxy=proxy.url)) as client:
            with pytest.raises(httpx.ProxyError):
                await client.get("https://x.invalid/")
    assert [(request.method, request.target) for request in proxy.requests] == [("CONNECT", "x.invalid:443")]


# --- The client's transport


def maker(response: httpx.Response) -> str:
    """Return the package that made the connection of a response."""
    return type(response.extensions["network_stream"]).__module__.partition(".")[0]


class Mounted(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="mounted")


@contextlib.contextmanager
def proxies(**variables: str) -> Generator[None]:
    """Set these environment variables, and no others that name proxies."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        for name, text in variables.items():
            patch.setenv(name, text)
        yield


@pytest.mark.anyio
async def test_client_uses_it() -> None:
    """A PrefectHttpxClient uses an HTTPTransport by default."""
    with proxies():
        async with raw_server(FINE) as server, PrefectHttpxClient() as client:
            assert maker(await client.get(server.url)) == "prefect_http"
            assert maker(await client.get(server.url)) == "prefect_http"
    assert server.connections == 1


@pytest.mark.anyio
async def test_client_uses_it_with_the_clients_arguments() -> None:
    """The transport of a client has the client's limits and timeouts."""
    limits = httpx.Limits(max_connections=1)
    async with raw_server(FINE) as server:
        retry = RetryPolicy(max_retries=0)
        async with PrefectHttpxClient(retry=retry, limits=limits, trust_env=False) as client:
            async with client.stream("GET", server.url, extensions=dict(HELD)):
                with pytest.raises(httpx.PoolTimeout):
                    await client.get(server.url, timeout=httpx.Timeout(5, pool=0.01))


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["transport", "mounts"])
async def test_client_with_another_transport(how: str) -> None:
    """A client that is given a transport, or one for some URLs, uses that."""
    arguments: Any = {"transport": Mounted()} if how == "transport" else {"mounts": {"http://": Mounted()}}
    with proxies():
        async with PrefectHttpxClient(**arguments) as client:
            assert (await client.get("http://127.0.0.1:1/")).text == "mounted"


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["argument", "environment"])
async def test_client_with_a_proxy(how: str) -> None:
    """A client with a proxy, given or from the environment, uses an HTTPTransport for it."""
    async with raw_server(FINE) as server:
        with proxies(**({"HTTP_PROXY": server.url} if how == "environment" else {})):
            arguments: Any = {"proxy": server.url} if how == "argument" else {}
            async with PrefectHttpxClient(**arguments) as client:
                assert maker(await client.get("http://example.org/")) == "prefect_http"
    assert request_targets(server) == ["http://example.org/"]


@pytest.mark.anyio
async def test_client_with_no_proxy_for_a_host() -> None:
    """A host that the environment exempts from its proxies is reached by an HTTPTransport."""
    async with raw_server(FINE) as server:
        with proxies(HTTP_PROXY="http://127.0.0.1:1", NO_PROXY="127.0.0.1"):
            async with PrefectHttpxClient() as client:
                assert maker(await client.get(server.url)) == "prefect_http"


@pytest.mark.anyio
async def test_client_with_http2() -> None:
    """A client with HTTP/2 needs no h2 package, and uses HTTP/1.1 where the server does not speak HTTP/2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "h2", None)
        client = PrefectHttpxClient(http2=True, trust_env=False)
    async with raw_server(FINE) as server, client:
        response = await client.get(server.url)
    assert (maker(response), response.http_version) == ("prefect_http", "HTTP/1.1")


@pytest.mark.anyio
async def test_a_mock_of_the_method() -> None:
    """unittest.mock makes one that can be awaited."""
    transport = HTTPTransport()
    with mock.patch.object(transport, "handle_async_request", return_value=httpx.Response(201)):
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://server/")).status_code == 201
