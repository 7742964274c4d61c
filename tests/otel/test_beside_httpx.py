"""OpenTelemetry beside opentelemetry-instrumentation-httpx: one span for each request, and not two."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, contextmanager

import httpx
import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from support.asgi_apps import hello
from support.recorded_telemetry import Recorded
from support.servers import RawServer, answer, raw_server, retrying_at_once

from prefect_http import PrefectHttpxClient, Receive, Scope, Send

pytestmark = pytest.mark.anyio


@contextmanager
def instrumented(recorded: Recorded) -> Generator[None]:
    """Instrument httpx as a whole, with the same provider."""
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=recorded.tracers)
    try:
        yield
    finally:
        instrumentor.uninstrument()


def failing_once() -> AbstractAsyncContextManager[RawServer]:
    """Return a server that fails the first request."""
    return raw_server(answer(503, retry_after="0"), answer(200), answer(200))


def new_client(recorded: Recorded) -> PrefectHttpxClient:
    """Return a client with telemetry."""
    return PrefectHttpxClient(trust_env=False, retry=retrying_at_once(), telemetry=recorded.telemetry)


def assert_ours(recorded: Recorded, server: RawServer) -> None:
    """Check that each request has one span, that of prefect_http, and the header of that span."""
    scopes = [span.instrumentation_scope.name for span in recorded.spans if span.instrumentation_scope is not None]
    assert scopes == ["prefect_http"] * len(server.requests)
    for span, request in zip(recorded.spans, server.requests, strict=True):
        assert span.context is not None
        assert f"-{span.context.span_id:016x}-" in request.headers["traceparent"]


async def test_instrumented_before() -> None:
    """One has been made for all clients before the client."""
    recorded = Recorded()
    async with failing_once() as server:
        with instrumented(recorded):
            async with new_client(recorded) as client:
                await client.get(server.url)
    assert_ours(recorded, server)


async def test_instrumented_after() -> None:
    """One is made for all clients after the client."""
    recorded = Recorded()
    async with failing_once() as server, new_client(recorded) as client:
        with instrumented(recorded):
            await client.get(server.url)
        await client.get(server.url)
    assert len(server.requests) == 3
    assert_ours(recorded, server)


async def test_client_is_instrumented() -> None:
    """One is made for the client."""
    recorded = Recorded()
    async with failing_once() as server, new_client(recorded) as client:
        HTTPXClientInstrumentor.instrument_client(client, tracer_provider=recorded.tracers)
        await client.get(server.url)
    assert_ours(recorded, server)


async def test_transport_of_httpx() -> None:
    """One is made for all clients, and the client has httpx's own transport."""
    recorded = Recorded()
    async with failing_once() as server:
        with instrumented(recorded):
            transport = httpx.AsyncHTTPTransport(trust_env=False)
            async with PrefectHttpxClient(
                transport=transport, retry=retrying_at_once(), telemetry=recorded.telemetry
            ) as client:
                await client.get(server.url)
    assert_ours(recorded, server)
    for attributes in recorded.attributes:
        assert attributes["network.peer.address"] == "127.0.0.1"
        assert attributes["network.peer.port"] == server.port


async def test_app() -> None:
    """One is made for a client with an app: what the app sends itself with other clients has spans of theirs."""
    recorded = Recorded()
    async with raw_server(answer(200)) as server:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                async with httpx.AsyncClient(trust_env=False) as client:
                    await client.post(server.url)
            await hello(scope, receive, send)

        with instrumented(recorded):
            async with PrefectHttpxClient(app=app, telemetry=recorded.telemetry) as client:
                HTTPXClientInstrumentor.instrument_client(client, tracer_provider=recorded.tracers)
                await client.get("/")
    inner, outer = recorded.spans
    assert (inner.name, outer.name) == ("POST", "GET")
    assert inner.parent == outer.context


async def test_other_clients() -> None:
    """Clients without this telemetry have spans of the instrumentation."""
    recorded = Recorded()
    async with raw_server(answer(200)) as server:
        with instrumented(recorded):
            async with PrefectHttpxClient(trust_env=False) as client:
                await client.get(server.url)
    [span] = recorded.spans
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "opentelemetry.instrumentation.httpx"
