"""Details in which the client is to be like httpx.AsyncClient, harmless as they are."""

from __future__ import annotations

import httpx
import pytest
from support.beside_httpx import URL, Run, beside_httpx


@pytest.mark.trio
@beside_httpx
async def test_the_place_of_the_user_agent(run: Run) -> None:
    """The User-Agent by default comes before the headers of the client and of the request."""
    for headers in ({}, {"X-A": "1"}, {"User-Agent": "own", "X-A": "1"}, {"X-A": "1", "User-Agent": "own"}):
        run.case(headers)
        client = run.client(lambda _: httpx.Response(200), headers=headers)
        run.note(list(client.headers), list(client.build_request("GET", URL, headers={"X-B": "2"}).headers))
        client.headers = headers
        run.note(list(client.headers))
