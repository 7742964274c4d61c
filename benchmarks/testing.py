"""A small request through a FakeNetwork, with the real wire, beside mocks that answer above it.

The target is 10,000 exchanges a second through HTTPTransport, on a quiet machine, so that no suite of tests is slow
because of it. What comes on top is the client's.
"""

from __future__ import annotations

import contextlib
from functools import partial

import anyio
import httpx
import respx

from benchmarks._measure import Call, compare
from benchmarks._table import print_table
from prefect_http import HTTPTransport, PrefectHttpxClient
from prefect_http.testing import FakeNetwork

_URL = "http://api.example.com/flows/1"
_BASE = "httpx on httpx.MockTransport"
_BODY = b'{"name":"etl"}'
_AT_ONCE = 100
_TRANSPORT, _TRANSPORT_2 = "HTTPTransport on a FakeNetwork", "the same over HTTP/2"
# Of httpx's time with its mock, 130 us on the machine where 100 us for an exchange was the target.
_TARGETS = {_TRANSPORT: 0.7}
# Otherwise most of many at once would open connections.
_LIMITS = httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=_AT_ONCE)


async def run(backend: str) -> None:
    """Measure one request after the other, and many at once."""
    async with contextlib.AsyncExitStack() as stack:
        calls: dict[str, Call] = {}

        async def enter(name: str, client: httpx.AsyncClient) -> None:
            await stack.enter_async_context(client)
            calls[name] = partial(client.get, _URL)

        await enter(_BASE, httpx.AsyncClient(transport=httpx.MockTransport(_answer)))
        router = respx.Router()
        router.get(_URL).mock(return_value=httpx.Response(200, content=_BODY))
        await enter("httpx on respx", httpx.AsyncClient(transport=httpx.MockTransport(router.async_handler)))
        for name, http2 in ((_TRANSPORT, False), (_TRANSPORT_2, True)):
            transport = HTTPTransport(
                connect=_network().connect, limits=_LIMITS, http1=not http2, http2=http2, trust_env=False
            )
            await stack.enter_async_context(transport)
            calls[name] = partial(_send, transport, httpx.Request("GET", _URL, extensions={"timeout": _TIMEOUT}))
            own = _network().client(PrefectHttpxClient, limits=_LIMITS, http1=not http2, http2=http2)
            await enter(f"PrefectHttpxClient{', HTTP/2' if http2 else ''}", own)
        await enter("httpx on a FakeNetwork", _network().client(httpx.AsyncClient, limits=_LIMITS))

        base = calls.pop(_BASE)
        results = await compare(base, calls, rounds=40, calls=100)
        print_table(f"GET from a server in memory, {backend}", _BASE, results, _TARGETS)
        many = {name: _at_once(call) for name, call in calls.items()}
        results = await compare(_at_once(base), many, rounds=20, calls=2)
        print_table(f"the same, {_AT_ONCE} at once", _BASE, results)


_TIMEOUT = httpx.Timeout(5).as_dict()


def _answer(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=_BODY)


def _network() -> FakeNetwork:
    network = FakeNetwork()
    network.serve("http://api.example.com").get("/flows/{id}").reply(content=_BODY, times=None)
    return network


async def _send(transport: HTTPTransport, request: httpx.Request) -> None:
    response = await transport.handle_async_request(request)
    await response.aread()
    await response.aclose()


def _at_once(call: Call) -> Call:
    async def run_one() -> None:
        await call()

    async def run_many() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(_AT_ONCE):
                tasks.start_soon(run_one)

    return run_many
