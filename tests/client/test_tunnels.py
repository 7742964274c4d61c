"""What becomes of a request whose proxy does not open a tunnel, over loopback."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import pytest
from support.proxies import ProxyServer, running_proxy
from support.servers import answer, raw_server, retrying_at_once
from support.tls_servers import server_context, tls_server
from support.wire import trusting_context

from prefect_http import HTTPTransport, PrefectHttpxClient, RetryPolicy

pytestmark = pytest.mark.anyio

NAME = "origin.test"


def refused(status: int, *headers: str) -> bytes:
    """Make a response to CONNECT."""
    return "\r\n".join([f"HTTP/1.1 {status} Refused", *headers, "Content-Length: 0", "", ""]).encode()


def socks(code: int) -> bytes:
    """Make a reply of a SOCKS5 proxy."""
    return bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0])


# By the scheme of the proxy: those after which a request is sent again, and those after which it is not.
PASSING = {
    "http": [*map(refused, (429, 500, 502, 503, 504)), refused(503, "Retry-After: 0"), refused(429, "Retry-After: 0")],
    "socks5": [*map(socks, (1, 3, 4, 5, 6))],
}
FINAL = {"http": [*map(refused, (400, 403, 407, 501, 302))], "socks5": [*map(socks, (2, 7, 8, 9))]}


@contextlib.asynccontextmanager
async def through_proxy(
    scheme: str, policy: RetryPolicy, *, has_answered: bool = True
) -> AsyncGenerator[tuple[PrefectHttpxClient, str, ProxyServer]]:
    """Yield a client that may have used an origin through a proxy before, the origin's URL, and the proxy."""
    servers = tls_server(answer(), context=server_context(NAME))
    async with servers if scheme == "http" else raw_server(answer()) as origin:
        url = f"{'https' if scheme == 'http' else 'http'}://{NAME}:{origin.port}/"
        async with running_proxy(scheme, {NAME: origin.port}) as proxy:
            limits = httpx.Limits(max_keepalive_connections=0)  # a tunnel for each request
            transport = HTTPTransport(verify=trusting_context(), proxy=proxy.url(), limits=limits)
            async with PrefectHttpxClient(transport=transport, retry=policy) as client:
                if has_answered:
                    await client.get(url)
                yield client, url, proxy


async def body() -> AsyncIterator[bytes]:
    """Generate a body that can be sent only once."""
    yield b"once"


@pytest.mark.parametrize("scheme", PASSING)
async def test_a_proxy_that_cannot_connect(scheme: str) -> None:
    """The request was not sent, so it is sent again, whatever its method and its body."""
    async with through_proxy(scheme, retrying_at_once(len(PASSING[scheme]))) as (client, url, proxy):
        proxy.refusals[:] = PASSING[scheme]
        assert (await client.post(url, content=body())).status_code == 200
        assert not proxy.refusals


@pytest.mark.parametrize("scheme", FINAL)
async def test_a_proxy_that_refuses(scheme: str) -> None:
    """A refusal that would be the same the next time is final."""
    async with through_proxy(scheme, retrying_at_once()) as (client, url, proxy):
        for reply in FINAL[scheme]:
            proxy.refusals[:] = [reply, reply]
            with pytest.raises(httpx.ProxyError):
                await client.get(url)
            assert len(proxy.refusals) == 1, reply


async def test_an_origin_that_has_never_answered() -> None:
    """A wrong address fails fast through a proxy as well; one that is only busy is asked again."""
    async with through_proxy("http", retrying_at_once(), has_answered=False) as (client, url, proxy):
        proxy.refusals[:] = [refused(502), refused(429)]
        with pytest.raises(httpx.ProxyError) as caught:
            await client.get(url)
        assert "never answered" in caught.value.__notes__[0]
        assert (await client.get(url)).status_code == 200


async def test_a_proxy_that_says_when() -> None:
    """The Retry-After of a proxy counts like that of a server."""
    policy = RetryPolicy(backoff_base=0, jitter=0, max_retry_after=10)
    async with through_proxy("http", policy) as (client, url, proxy):
        proxy.refusals[:] = [refused(503, "Retry-After: 11"), refused(429, "Retry-After: 0.01"), refused(502)]
        with pytest.raises(httpx.ProxyError) as caught:
            await client.get(url)
        assert "Retry-After of 11 s exceeds max_retry_after of 10 s" in caught.value.__notes__[0]
        assert len(proxy.refusals) == 2
