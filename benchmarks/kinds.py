"""What a request takes by its kind, next to httpx's client: with headers, parameters, cookies, a body, a new URL.

Both clients call the same handler in this process, so that what differs is the client.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import httpx

from benchmarks._measure import Ratio, compare
from benchmarks._table import print_checked
from prefect_http import PrefectHttpxClient

_URL = "http://example.org/items"
_NUMBERS = itertools.count()

Request = Callable[[httpx.AsyncClient], Awaitable[object]]

_KINDS: dict[str, Request] = {
    "GET": lambda client: client.get(_URL),
    "headers": lambda client: client.get(_URL, headers={"Accept": "application/json", "X-Version": "2"}),
    "parameters": lambda client: client.get(_URL, params={"limit": 100, "sort": "name"}),
    "parameters that change": lambda client: client.get(_URL, params={"page": next(_NUMBERS)}),
    "a URL that changes": lambda client: client.get(f"{_URL}/{next(_NUMBERS)}"),
    "POST of JSON": lambda client: client.post(_URL, json={"name": "value"}),
    "POST of bytes": lambda client: client.post(_URL, content=b"value"),
}


async def run(backend: str) -> None:
    """Measure all kinds, without cookies and with one."""
    print(f"\nA request by its kind, MockTransport, {backend}: ratio to httpx.AsyncClient")
    no_cookies: dict[str, str] = {}
    for cookies in (no_cookies, {"session": "abc"}):
        for kind, request in _KINDS.items():
            name = f"{kind}, cookie" if cookies else kind
            one = await _measure(request, cookies)
            times = f"{one.base_seconds * 1e6:.1f} us, {one.seconds * 1e6:.1f} us"
            print_checked(name, f"{one.median:.3f}   {one.low:.3f}-{one.high:.3f}   {times}")


async def _measure(request: Request, cookies: dict[str, str]) -> Ratio:
    async with _new_client(httpx.AsyncClient, cookies) as theirs, _new_client(PrefectHttpxClient, cookies) as ours:
        results = await compare(lambda: request(theirs), {"": lambda: request(ours)}, rounds=40, calls=50)
    return results[""]


def _new_client(kind: type[httpx.AsyncClient], cookies: dict[str, str]) -> httpx.AsyncClient:
    handler = httpx.MockTransport(lambda _: httpx.Response(200, text="hello"))
    return kind(transport=handler, cookies=cookies)
