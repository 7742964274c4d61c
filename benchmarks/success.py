"""A request that succeeds at once: what retries cost if there is nothing to retry.

All clients call the same app or handler in this process, each through a transport of its own. The wrappers raise for a
bad status, because otherwise they would not notice it; PrefectHttpxClient and RetryTransport look at it themselves.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AsyncExitStack
from http.cookiejar import CookieJar

import httpx
import httpx_retries
import stamina
import tenacity

from benchmarks._apps import hello, starlette_app
from benchmarks._measure import Call, Ratio, compare
from benchmarks._table import print_table
from prefect_http import PrefectHttpxClient

_URL = "http://example.org/"
_BASE, _OURS = "httpx.AsyncClient", "prefect_http.PrefectHttpxClient"
_MOCK = "MockTransport"
_TARGETS = {_MOCK: 0.6}  # by the transport
_TARGET_OF_OTHERS = 1.03

MakeTransport = Callable[[], httpx.AsyncBaseTransport]


async def run(backend: str) -> None:
    """Measure the success path on each transport."""
    for name, make_transport in _transports().items():
        results = await _measure(make_transport, backend)
        targets = {_OURS: _TARGETS.get(name, _TARGET_OF_OTHERS)}
        print_table(f"GET that succeeds, {name}, {backend}", _BASE, results, targets)


def _transports() -> dict[str, MakeTransport]:
    transports: dict[str, MakeTransport] = {
        "raw ASGI app": lambda: httpx.ASGITransport(hello),
        _MOCK: lambda: httpx.MockTransport(lambda request: httpx.Response(200, text="hello")),
    }
    if importlib.util.find_spec("starlette"):
        transports["Starlette app"] = lambda: httpx.ASGITransport(starlette_app())
    return transports


async def _measure(make_transport: MakeTransport, backend: str) -> dict[str, Ratio]:
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(httpx.AsyncClient(transport=make_transport()))
        others = await _others(bare, make_transport, backend, stack)
        return await compare(lambda: bare.get(_URL), others, rounds=80, calls=100)


async def _others(
    bare: httpx.AsyncClient, make_transport: MakeTransport, backend: str, stack: AsyncExitStack
) -> dict[str, Call]:
    ours = await stack.enter_async_context(PrefectHttpxClient(transport=make_transport()))
    # What our own code adds, without what our cookie jar saves.
    standard = PrefectHttpxClient(transport=make_transport(), cookies=CookieJar())
    plain = await stack.enter_async_context(standard)
    others: dict[str, Call] = {_OURS: lambda: ours.get(_URL), "  with http.cookiejar": lambda: plain.get(_URL)}
    if backend == "asyncio":  # it sleeps with asyncio.sleep
        transport = httpx_retries.RetryTransport(make_transport())
        retrying = await stack.enter_async_context(httpx.AsyncClient(transport=transport))
        others["httpx_retries.RetryTransport"] = lambda: retrying.get(_URL)

    async def get() -> httpx.Response:
        return (await bare.get(_URL)).raise_for_status()

    others["tenacity.retry"] = tenacity.retry(
        retry=tenacity.retry_if_exception_type(httpx.HTTPError),
        stop=tenacity.stop_after_attempt(6),
        wait=tenacity.wait_exponential(),
    )(get)
    others["stamina.retry"] = stamina.retry(on=httpx.HTTPError, attempts=6)(get)
    return others
