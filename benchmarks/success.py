"""A request that succeeds at once: what retrying costs when there is nothing to retry.

All clients call the same app or handler in this process, each over a transport of its own. The wrappers raise for
a bad status, as they must to see one; PrefectHttpxClient and RetryTransport see it anyway.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AsyncExitStack

import httpx
import httpx_retries
import stamina
import tenacity

from benchmarks._apps import hello
from benchmarks._measure import Call, take_turns
from benchmarks._table import print_table
from prefect_http import PrefectHttpxClient

_URL = "http://example.org/"
_BARE, _OURS = "httpx.AsyncClient", "prefect_http.PrefectHttpxClient"
_TARGETS = {_OURS: 1.03}

MakeTransport = Callable[[], httpx.AsyncBaseTransport]


async def run(backend: str) -> None:
    """Measure the success path on each transport."""
    for name, make_transport in _transports().items():
        async with AsyncExitStack() as stack:
            contestants = await _contestants(make_transport, backend, stack)
            results = await take_turns(contestants, rounds=60, calls=150)
        print_table(f"GET that succeeds, {name}, {backend}", results, _TARGETS)


def _transports() -> dict[str, MakeTransport]:
    transports: dict[str, MakeTransport] = {
        "raw ASGI app": lambda: httpx.ASGITransport(hello),
        "MockTransport": lambda: httpx.MockTransport(lambda request: httpx.Response(200, text="hello")),
    }
    if importlib.util.find_spec("starlette"):
        transports["Starlette app"] = _starlette_transport
    return transports


def _starlette_transport() -> httpx.AsyncBaseTransport:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse({"hello": "world"})

    return httpx.ASGITransport(Starlette(routes=[Route("/", endpoint)]))


async def _contestants(make_transport: MakeTransport, backend: str, stack: AsyncExitStack) -> dict[str, Call]:
    bare = await stack.enter_async_context(httpx.AsyncClient(transport=make_transport()))
    ours = await stack.enter_async_context(PrefectHttpxClient(transport=make_transport()))
    contestants: dict[str, Call] = {_BARE: lambda: bare.get(_URL), _OURS: lambda: ours.get(_URL)}
    if backend == "asyncio":  # it sleeps with asyncio.sleep
        transport = httpx_retries.RetryTransport(make_transport())
        retrying = await stack.enter_async_context(httpx.AsyncClient(transport=transport))
        contestants["httpx_retries.RetryTransport"] = lambda: retrying.get(_URL)

    async def get() -> httpx.Response:
        return (await bare.get(_URL)).raise_for_status()

    contestants["tenacity.retry"] = tenacity.retry(
        retry=tenacity.retry_if_exception_type(httpx.HTTPError),
        stop=tenacity.stop_after_attempt(6),
        wait=tenacity.wait_exponential(),
    )(get)
    contestants["stamina.retry"] = stamina.retry(on=httpx.HTTPError, attempts=6)(get)
    return contestants
