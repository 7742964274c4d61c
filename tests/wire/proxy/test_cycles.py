"""Garbage cycles: a proxy that fails leaves nothing to the garbage collector that a server would not."""

from __future__ import annotations

import contextlib

import anyio
import httpx
import pytest
from support.garbage import garbage_of, responding_server, silent_server
from support.servers import refusing_port
from support.wire import fetch, new_request, trusting_context

from prefect_http import HTTPTransport

pytestmark = pytest.mark.anyio

SHORT = 0.05  # enough to connect, on a busy machine too
# Of the proxy and of the origin; and what the proxy answers: None: nothing.
CASES: dict[str, tuple[str, str, bytes | None]] = {
    "refused": ("http", "https", b"HTTP/1.1 403 Forbidden\r\n\r\n"),
    "closed": ("http", "https", b""),
    "early": ("http", "https", b"HTTP/1.1 200 OK\r\n\r\nearly"),
    "no-tls": ("http", "https", b"HTTP/1.1 200 OK\r\n\r\n"),
    "silent": ("http", "https", None),
    "socks-refused": ("socks5", "http", b"\5\xff"),
    "socks-silent": ("socks5", "http", None),
    "no-proxy": ("http", "http", b"nowhere"),
}


async def garbage(url: str, response: bytes | None, proxy: str | None, *, is_cancelled: bool = False) -> list[int]:
    """Return how many objects requests leave that fail, or are cancelled, while what they connect to does this."""
    with silent_server() if response is None else responding_server(response) as port:
        place = refusing_port() if response == b"nowhere" else port
        given = proxy and f"{proxy}://user:pw@127.0.0.1:{place}"
        async with HTTPTransport(verify=trusting_context(), proxy=given) as transport:
            times_out = response is None and not is_cancelled

            async def fail() -> None:
                request = new_request(url.format(port=port), connect=SHORT if times_out else 5)
                with anyio.move_on_after(SHORT if is_cancelled else 5):
                    with contextlib.suppress(httpx.TransportError):
                        await fetch(transport, request)
                        raise AssertionError

            return await garbage_of(fail)


async def test_garbage() -> None:
    """Neither an error nor a cancellation while a proxy is at work leaves more garbage than a direct connection."""
    # On asyncio, opening a connection leaves some, most times.
    direct = max(await garbage("http://127.0.0.1:{port}/", b"", None))
    found: dict[str, int] = {}
    for name, (proxy, origin, response) in CASES.items():
        found[name] = min(await garbage(f"{origin}://x.test/", response, proxy))
        if response is None:
            found[f"{name}, cancelled"] = min(await garbage(f"{origin}://x.test/", None, proxy, is_cancelled=True))
    assert {name: count for name, count in found.items() if count > direct} == {}
