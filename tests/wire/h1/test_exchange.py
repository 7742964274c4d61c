"""Exchange: what it does on a connection that is broken while the request is sent."""

from __future__ import annotations

from typing import cast

import anyio
import httpx
import pytest
from support.rows import each_row

from prefect_http._wire.connection import Connection
from prefect_http._wire.h1.exchange import Exchange, OutgoingRequest
from prefect_http._wire.h1.request_head import encode_headers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


class Broken:
    """A connection that cannot send, but has received a response."""

    async def send(self, data: bytes, timeout: float | None) -> None:
        """Raise."""
        raise httpx.WriteError("broken")

    async def receive(self, timeout: float | None) -> bytes:
        """Return the response."""
        return OK


@pytest.mark.anyio
@each_row("size", [0, 100, 200_000])
async def test_response_on_a_broken_connection(size: int) -> None:
    """If the request cannot be sent, but a response has arrived, that is what counts; the connection is not reused."""
    request = OutgoingRequest.of(httpx.Request("POST", "http://x/", content=b"x" * size), encode_headers)
    exchange = Exchange(cast(Connection, Broken()), request)
    with anyio.fail_after(5):
        await exchange.send()
        await exchange.receive_head()
    assert (exchange.parser.is_complete, exchange.initial_body, exchange.is_sent) == (True, b"fine", False)
