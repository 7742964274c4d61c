"""What the types promise. This file is not run: mypy and pyright read it, and both must object at every ignore."""

from __future__ import annotations

import os
from collections.abc import Set
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Literal, assert_type

import httpx
from starlette.applications import Starlette

from prefect_http import (
    ASGITransport,
    Attempt,
    Lifespan,
    LifespanError,
    LifespanTimeoutError,
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    PrefectResponse,
    RateLimit,
    RetryPolicy,
    Throttle,
    ThrottledTransport,
    ThrottleEvent,
    ThrottleStatistics,
    ThrottleTimeout,
    app_lifespan_context,
    is_throttled_by_github,
)


async def client_is_an_httpx_client(stack: AsyncExitStack) -> None:
    """A client goes wherever an httpx.AsyncClient goes."""

    async def needs_httpx(client: httpx.AsyncClient) -> httpx.Response:
        return await client.get("https://example.org")

    client = await stack.enter_async_context(PrefectHttpxClient())
    assert_type(client, PrefectHttpxClient)
    await needs_httpx(client)


async def response_is_ours(client: PrefectHttpxClient, request: httpx.Request) -> None:
    """A response is a PrefectResponse, and stays one."""
    response = await client.send(request, stream=True, auth=("user", "secret"), follow_redirects=True)
    assert_type(response, PrefectResponse)
    assert_type(response.raise_for_status(), PrefectResponse)
    await client.send(request, auth=None, follow_redirects=httpx.USE_CLIENT_DEFAULT)


def any_response_becomes_ours(response: httpx.Response) -> None:
    """A response of httpx is taken over as a PrefectResponse."""
    assert_type(PrefectResponse.from_httpx_response(response), PrefectResponse)


def client_takes_what_httpx_takes() -> None:
    """Every keyword of httpx.AsyncClient is typed, and no other is taken."""
    PrefectHttpxClient(
        retry=RetryPolicy(),
        raise_on_all_errors=False,
        base_url="https://example.org",
        headers={"Accept": "text/plain"},
        timeout=httpx.Timeout(5, read=None),
        limits=httpx.Limits(max_connections=1),
        transport=httpx.MockTransport(lambda request: httpx.Response(200, request=request)),
        follow_redirects=True,
        http2=True,
        verify=False,
    )
    PrefectHttpxClient(timeout="soon")  # type: ignore[arg-type]
    PrefectHttpxClient(tiemout=5)  # type: ignore[call-arg]
    PrefectHttpxClient(RetryPolicy())  # type: ignore[call-arg]


def hook_is_typed(seen: list[Attempt]) -> None:
    """``on_retry`` gets a request and an attempt, and may return anything."""

    def show(request: httpx.Request, attempt: Attempt) -> str:
        return f"{request.url}: {attempt.reason}"

    PrefectHttpxClient(on_retry=show)
    PrefectHttpxClient(on_retry=lambda request, attempt: seen.append(assert_type(attempt, Attempt)))
    PrefectHttpxClient(on_retry=seen.append)  # type: ignore[arg-type]


def policy_is_immutable(policy: RetryPolicy) -> None:
    """A policy is made with keywords and never changed."""
    assert_type(RetryPolicy.from_env(), RetryPolicy)
    assert_type(RetryPolicy.from_env(os.environ), RetryPolicy)
    assert_type(policy.max_retries, int)
    assert_type(policy.statuses, Set[int])
    assert_type(policy.total_timeout, float | None)
    RetryPolicy(statuses={503}, backoff_base=1)
    RetryPolicy(3)  # type: ignore[call-arg]
    policy.max_retries = 3  # type: ignore[misc]


def error_tells_the_story(error: PrefectHTTPStatusError) -> None:
    """The error is httpx's, and knows the attempts and the wait that was asked for."""
    httpx_error: httpx.HTTPStatusError = error
    assert_type(httpx_error.response, httpx.Response)
    assert_type(error.attempts, tuple[Attempt, ...])
    assert_type(error.retry_after, float | None)
    for attempt in error.attempts:
        assert_type(attempt.number, int)
        assert_type(attempt.status_code, int | None)
        assert_type(attempt.exception, Exception | None)
        assert_type(attempt.delay, float | None)
        assert_type(attempt.elapsed, float)


async def lifespan_is_typed(app: Starlette) -> None:
    """A context takes any ASGI app, and gives a Lifespan."""
    context = app_lifespan_context(app, startup_timeout=5, mode="on")
    assert_type(context, AbstractAsyncContextManager[Lifespan])
    async with context as lifespan:
        assert_type(lifespan.state, dict[str, Any])
        assert_type(lifespan.supported, bool)
        lifespan.supported = True  # type: ignore[misc]
    app_lifespan_context(app, mode="maybe")  # type: ignore[arg-type]
    app_lifespan_context("app")  # type: ignore[arg-type]


def timeout_is_a_timeout() -> None:
    """Who handles TimeoutError or LifespanError handles the lifespan's timeout, too."""
    timeout: TimeoutError = LifespanTimeoutError()
    error: LifespanError = LifespanTimeoutError()
    raise timeout from error


def apps_in_this_process_are_typed(app: Starlette) -> None:
    """The transport is an httpx transport, takes what httpx's takes, and any ASGI app."""
    transport: httpx.AsyncBaseTransport = ASGITransport(app, False, "/root", ("127.0.0.1", 1), {"a": 1})
    httpx.AsyncClient(transport=transport)
    PrefectHttpxClient(app=app)
    PrefectHttpxClient(app="app")  # type: ignore[arg-type]


def throttle_is_typed(throttle: Throttle, response: PrefectResponse, event: ThrottleEvent) -> None:
    """A throttle goes into a client or around a transport; what it tells is frozen."""
    transport: httpx.AsyncBaseTransport = ThrottledTransport(httpx.AsyncHTTPTransport(), throttle)
    PrefectHttpxClient(throttle=throttle, transport=transport)
    Throttle(key=lambda request: request.url.host, is_throttled=is_throttled_by_github, on_event=print)
    Throttle(100)  # type: ignore[call-arg, arg-type]
    statistics = throttle.statistics("key")
    assert_type(statistics, ThrottleStatistics)
    assert_type(statistics.closed_until, float | None)
    assert_type(event.kind, Literal["closed", "opened", "learned"])
    assert_type(response.rate_limit, RateLimit | None)
    event.time = 0.0  # type: ignore[misc]


def throttle_timeout_is_a_pool_timeout(error: ThrottleTimeout) -> httpx.PoolTimeout:
    """Who handles httpx.PoolTimeout handles the throttle's, too."""
    return error
