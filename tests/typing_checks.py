"""What users can rely on when they check types. mypy and pyright read it, and must report every ignored line."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Hashable, Set
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Literal, assert_type

import httpx
from starlette.applications import Starlette

from prefect_http import (
    ASGIApp,
    ASGITransport,
    Attempt,
    Download,
    EventStream,
    Lifespan,
    LifespanError,
    LifespanTimeoutError,
    Message,
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    PrefectResponse,
    RateLimit,
    Receive,
    RetryPolicy,
    Scope,
    Send,
    ServerSentEvent,
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


async def every_verb_returns_our_response(client: PrefectHttpxClient, request: httpx.Request) -> None:
    """Every verb returns a PrefectResponse."""
    assert_type(await client.request("GET", "/"), PrefectResponse)
    assert_type(await client.get("/"), PrefectResponse)
    assert_type(await client.options("/"), PrefectResponse)
    assert_type(await client.head("/"), PrefectResponse)
    assert_type(await client.post("/"), PrefectResponse)
    assert_type(await client.put("/"), PrefectResponse)
    assert_type(await client.patch("/"), PrefectResponse)
    assert_type(await client.delete("/"), PrefectResponse)
    assert_type(await client.send(request), PrefectResponse)
    assert_type(await client.download("/", "file", progress=lambda received, total: None, timeout=5), Download)
    async with client.stream("GET", "/") as response:
        assert_type(response, PrefectResponse)
        assert_type(response.raise_for_status(), PrefectResponse)


async def event_streams(client: PrefectHttpxClient) -> None:
    """An event stream is entered and iterated over, and takes what requests take."""
    async with client.sse("GET", httpx.URL("/"), reconnect=False, max_event_bytes=10, params={"a": 1}) as events:
        assert_type(events, EventStream)
        assert_type(events.response, PrefectResponse)
        assert_type(events.last_event_id, str)
        async for event in events:
            assert_type(event, ServerSentEvent)
            assert_type(event.retry, int | None)
            event.data = ""  # type: ignore[misc]
    async with client.sse("POST", "/", retry=RetryPolicy(), json=[1], timeout=3, auth=None):
        pass
    client.sse("GET", "/", reconect=True)  # type: ignore[call-arg]


async def verbs_take_what_httpx_takes(client: PrefectHttpxClient, request: httpx.Request) -> None:
    """The verbs have the parameters of httpx's, and no others."""
    url = httpx.URL("https://example.org")
    await client.get(
        url, params={"a": [1, 2]}, headers={"a": "b"}, cookies={"c": "d"}, extensions={"retry": RetryPolicy()}
    )
    await client.post(url=url, content=b"", data={"a": "b"}, files={"a": b"b"}, json=[1], timeout=3, auth=("u", "p"))
    await client.send(request, stream=True, auth=None, follow_redirects=httpx.USE_CLIENT_DEFAULT)
    async with client.stream("POST", url, json={}, follow_redirects=True):
        pass
    policy = RetryPolicy()
    assert_type(await client.request("GET", url, retry=policy), PrefectResponse)
    assert_type(await client.get(url, retry=policy, params={"a": 1}), PrefectResponse)
    assert_type(await client.options(url, retry=policy), PrefectResponse)
    assert_type(await client.head(url, retry=None), PrefectResponse)
    assert_type(await client.post(url, retry=policy, json=[1], files=[("f", b"")], auth=("u", "p")), PrefectResponse)
    assert_type(await client.put(url, retry=policy, content=b""), PrefectResponse)
    assert_type(await client.patch(url, retry=policy, data={"a": ["b"]}), PrefectResponse)
    assert_type(await client.delete(url, retry=policy, timeout=3), PrefectResponse)
    async with client.stream("GET", url, retry=policy) as response:
        assert_type(response, PrefectResponse)
        assert_type(response.attempts, tuple[Attempt, ...])
    await client.get(url, retry=5)  # type: ignore[call-overload]
    await client.get(url, retry=policy, json={})  # type: ignore[call-overload]
    await client.get()  # type: ignore[call-overload]
    await client.get(url, json={})  # type: ignore[call-overload]
    await client.post(url, jsn={})  # type: ignore[call-overload]
    await client.post(url, timeout="soon")  # type: ignore[call-overload]
    await client.send(request, auth=5)  # type: ignore[arg-type]
    client.stream("GET", url, tiemout=5)  # type: ignore[call-overload]
    client.build_request("GET", url, jsn={})  # type: ignore[call-arg]


class Subclass(PrefectHttpxClient):
    """A client that overrides methods, as one does with httpx.AsyncClient."""

    async def get(self, url: httpx.URL | str, **arguments: Any) -> PrefectResponse:
        response = await super().get(url, **arguments)
        return assert_type(response, PrefectResponse)

    async def send(self, request: httpx.Request, **arguments: Any) -> PrefectResponse:
        response = await super().send(request, **arguments)
        return assert_type(response, PrefectResponse)

    @asynccontextmanager
    async def stream(
        self, method: str, url: httpx.URL | str, **arguments: Any
    ) -> AsyncGenerator[PrefectResponse, None]:
        async with super().stream(method, url, **arguments) as response:
            yield assert_type(response, PrefectResponse)


async def a_subclass_returns_our_response(client: Subclass, request: httpx.Request) -> None:
    """So do the verbs of a subclass, overridden or not."""
    assert_type(await client.get("/"), PrefectResponse)
    assert_type(await client.put("/", json={}), PrefectResponse)
    assert_type(await client.send(request), PrefectResponse)
    async with client.stream("GET", "/") as response:
        assert_type(response, PrefectResponse)
    await client.put("/", jsn={})  # type: ignore[call-overload]


def any_response_becomes_ours(response: httpx.Response) -> None:
    """A response of httpx becomes a PrefectResponse."""
    assert_type(PrefectResponse.from_httpx_response(response), PrefectResponse)


def client_takes_what_httpx_takes() -> None:
    """Every keyword of httpx.AsyncClient is typed, and no other is accepted."""
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

    PrefectHttpxClient(on_retry=show, on_attempt=show)
    PrefectHttpxClient(on_retry=lambda request, attempt: seen.append(assert_type(attempt, Attempt)))
    PrefectHttpxClient(on_retry=seen.append)  # type: ignore[arg-type]


def policy_is_immutable(policy: RetryPolicy) -> None:
    """A policy takes keywords only and is immutable."""
    assert_type(RetryPolicy.from_env(), RetryPolicy)
    assert_type(RetryPolicy.from_env(os.environ), RetryPolicy)
    assert_type(policy.max_retries, int)
    assert_type(policy.statuses, Set[int])
    assert_type(policy.total_timeout, float | None)
    RetryPolicy(statuses={503}, backoff_base=1)
    RetryPolicy(3)  # type: ignore[call-arg]
    policy.max_retries = 3  # type: ignore[misc]


def error_tells_the_story(error: PrefectHTTPStatusError) -> None:
    """The error is one of httpx's, and has the attempts and the wait that the server asked for."""
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
    """A context takes any ASGI app, and yields a Lifespan."""
    context = app_lifespan_context(app, startup_timeout=5, mode="on")
    assert_type(context, AbstractAsyncContextManager[Lifespan])
    async with context as lifespan:
        assert_type(lifespan.state, dict[str, Any])
        assert_type(lifespan.supported, bool)
        lifespan.supported = True  # type: ignore[misc]
    app_lifespan_context(app, startup_timeout=None, shutdown_timeout=None)
    assert_type(PrefectHttpxClient(app=app).lifespan, Lifespan | None)
    app_lifespan_context(app, mode="maybe")  # type: ignore[arg-type]
    app_lifespan_context(app, cancel_on_crash="yes")  # type: ignore[arg-type]
    app_lifespan_context("app")  # type: ignore[arg-type]


def timeout_is_a_timeout() -> None:
    """Handlers for TimeoutError and for LifespanError handle the lifespan's timeout."""
    timeout: TimeoutError = LifespanTimeoutError()
    error: LifespanError = LifespanTimeoutError()
    raise timeout from error


def apps_in_this_process_are_typed(app: Starlette) -> None:
    """The transport is an httpx transport with the arguments of httpx's own, for any ASGI app."""
    transport: httpx.AsyncBaseTransport = ASGITransport(app, False, "/root", ("127.0.0.1", 1), {"a": 1})
    httpx.AsyncClient(transport=transport)
    PrefectHttpxClient(app=app)
    PrefectHttpxClient(app="app")  # type: ignore[arg-type]


def apps_are_annotated(framework: Starlette) -> ASGIApp:
    """An app of one's own, and middleware, are annotated with what the package exports."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = await receive()
        await send(message)
        await framework(scope, receive, send)

    PrefectHttpxClient(app=middleware)
    return middleware


async def tells_by_its_body(response: httpx.Response) -> bool:
    """An ``is_throttled`` may be async."""
    return b"limit" in await response.aread()


def throttle_is_typed(throttle: Throttle, response: PrefectResponse, event: ThrottleEvent) -> None:
    """A throttle goes into a client or around a transport; its statistics and events are immutable."""
    transport: httpx.AsyncBaseTransport = ThrottledTransport(httpx.AsyncHTTPTransport(), throttle)
    PrefectHttpxClient(throttle=throttle, transport=transport)
    Throttle(key=lambda request: request.url.host, is_throttled=is_throttled_by_github, on_event=print)
    Throttle(rate=100, per=60, burst=5, max_wait=None)
    Throttle(is_throttled=lambda response: response.status_code == 429)
    Throttle(is_throttled=tells_by_its_body)
    Throttle(100)  # type: ignore[call-arg, arg-type]
    Throttle(rate="100")  # type: ignore[arg-type]
    Throttle(rate=100, burst=1.5)  # type: ignore[arg-type]
    statistics = throttle.statistics("key")
    assert_type(statistics, ThrottleStatistics)
    assert_type(throttle.statistics(("https", "example.org", 443)), ThrottleStatistics)
    assert_type(throttle.statistics(httpx.URL("https://example.org")), ThrottleStatistics)
    assert_type(throttle.statistics(), dict[Hashable, ThrottleStatistics])
    throttle.statistics(["key"])  # type: ignore[call-overload]
    assert_type(statistics.closed_until, float | None)
    assert_type(event.kind, Literal["closed", "opened", "learned", "alone", "shared"])
    assert_type(response.rate_limit, RateLimit | None)
    event.time = 0.0  # type: ignore[misc]


def throttle_timeout_is_a_pool_timeout(error: ThrottleTimeout) -> httpx.PoolTimeout:
    """Handlers for httpx.PoolTimeout handle the throttle's timeout."""
    return error
