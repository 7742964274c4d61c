"""What an httpx.AsyncClient sees over HTTP/2 with our transport and with httpx's: the same."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx
import pytest
from support.servers import hypercorn_on_trio
from support.tls_servers import authority, certificate
from support.wire import trusting_context

from prefect_http import HTTPTransport
from prefect_http._types import Receive, Scope, Send

T = TypeVar("T")

pytest.importorskip("h2")


async def mirror(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what arrived; the path says with which status."""
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    hidden = {b"host", b"user-agent"}
    sent = sorted((name, value) for name, value in scope["headers"] if name not in hidden)
    status = int(scope["path"][1:] or 200)
    headers = [(b"x-method", scope["method"].encode()), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": repr(sent).encode(), "more_body": True})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run hypercorn with TLS and ALPN."""
    path: Path = tmp_path_factory.mktemp("tls") / "server.pem"
    certificate("127.0.0.1", "localhost", issuer=authority()).private_key_and_cert_chain_pem.write_to_path(path)
    with hypercorn_on_trio(mirror, certfile=str(path), keyfile=str(path)) as address:
        yield address


async def chunks() -> AsyncIterator[bytes]:
    """Make a body in parts."""
    yield b"one"
    yield b"two"


async def failing() -> AsyncGenerator[bytes]:
    """Make a body that fails."""
    yield b"one"
    raise ValueError("no more")


Make = Callable[[], Mapping[str, Any]]
REQUESTS: dict[str, tuple[str, str, Make]] = {
    "get": ("GET", "", dict),
    "head": ("HEAD", "", dict),
    "no content": ("GET", "204", dict),
    "not found": ("GET", "404", dict),
    "bytes": ("POST", "201", lambda: {"content": b"body"}),
    "empty": ("POST", "", lambda: {"content": b""}),
    "stream": ("POST", "", lambda: {"content": chunks()}),
    "failing stream": ("POST", "", lambda: {"content": failing()}),
    "form": ("PUT", "", lambda: {"data": {"a": "b"}}),
    "json": ("PATCH", "", lambda: {"json": {"a": [1]}}),
    "upper case": ("GET", "", lambda: {"headers": {"X-Upper": "Case", "Accept": "A/B"}}),
    "repeated": ("GET", "", lambda: {"headers": [("x-a", "1"), ("X-A", "2")]}),
    "of the connection": ("GET", "", lambda: {"headers": {"Connection": "close", "TE": "trailers"}}),
    "method": ("PURGE", "", dict),
    "timeout": ("GET", "", lambda: {"timeout": 5}),
}


async def outcome(client: httpx.AsyncClient, method: str, url: str, arguments: Mapping[str, Any]) -> object:
    """Send a request, and return everything about the response, or the error."""
    try:
        response = await client.request(method, url, **arguments)
    except Exception as error:
        return type(error), str(error)
    headers = [(name.lower(), value) for name, value in response.headers.raw if name.lower() != b"date"]
    extensions = response.extensions.keys() - {"trailing_headers"}  # which httpx does not have
    stream = response.extensions["network_stream"]
    return (
        *(response.status_code, headers, response.content, response.http_version, response.reason_phrase),
        *(sorted(extensions), response.is_closed, response.num_bytes_downloaded, dict(response.cookies)),
        *(stream.get_extra_info("ssl_object").selected_alpn_protocol(), stream.get_extra_info("server_addr")),
    )


async def both(url: str, run: Callable[[httpx.AsyncClient], Awaitable[T]]) -> list[T]:
    """Run something with a client of ours and with one of httpx's."""
    found: list[T] = []
    for transport in (HTTPTransport, httpx.AsyncHTTPTransport):
        with anyio.fail_after(10):
            mounted: Any = transport(verify=trusting_context(), http2=True)
            async with httpx.AsyncClient(transport=mounted, trust_env=False, base_url=url) as client:
                found.append(await run(client))
    return found


@pytest.mark.anyio
async def test_responses_are_the_same(url: str) -> None:
    """Every kind of request has the same response, down to the extensions, on one connection."""

    async def run(client: httpx.AsyncClient) -> list[object]:
        return [await outcome(client, method, path, make()) for method, path, make in REQUESTS.values()]

    ours, theirs = await both(url, run)
    for name, one, other in zip(REQUESTS, ours, theirs, strict=True):
        assert one == other, name


@pytest.mark.anyio
async def test_streamed_response_is_the_same(url: str) -> None:
    """A response that is streamed has the same bytes; one that is left early leaves the connection usable."""

    async def run(client: httpx.AsyncClient) -> object:
        async with client.stream("POST", "", content=b"x" * 100_000) as response:
            assert not response.is_closed
        async with client.stream("POST", "", content=b"y" * 100_000) as response:
            content = b"".join([chunk async for chunk in response.aiter_raw()])
        return content, (await client.get("")).extensions["stream_id"]

    ours, theirs = await both(url, run)
    assert ours == theirs
