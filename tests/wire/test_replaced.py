"""What mocks, recorders and tracers replace in httpx is replaced for the wire as well, and only as long as it is."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
import respx
import vcr  # type: ignore[import-untyped]  # it has no types
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_httpx import HTTPXMock
from support.servers import answer, raw_server
from support.wire import trusting_context

from prefect_http import HTTPTransport, PrefectHttpxClient, Throttle, ThrottledTransport
from prefect_http._wire.network_stream import NetworkStream

pytestmark = pytest.mark.anyio

MakeClient = Callable[[], httpx.AsyncClient]
CLIENTS: dict[str, MakeClient] = {
    "default": lambda: PrefectHttpxClient(verify=trusting_context(), trust_env=False),
    "throttled": lambda: PrefectHttpxClient(verify=trusting_context(), trust_env=False, throttle=Throttle()),
    "mounted": lambda: PrefectHttpxClient(
        verify=trusting_context(), trust_env=False, mounts={"http://": HTTPTransport(verify=trusting_context())}
    ),
    "plain httpx": lambda: httpx.AsyncClient(transport=HTTPTransport(verify=trusting_context()), trust_env=False),
    "throttled httpx": lambda: httpx.AsyncClient(
        transport=ThrottledTransport(HTTPTransport(verify=trusting_context()), Throttle()), trust_env=False
    ),
}


@contextlib.contextmanager
def mocked_by_respx(using: str) -> Generator[None]:
    """Mock one path with respx."""
    with respx.mock(using=using, assert_all_called=False) as router:
        router.get(path="/mocked").respond(text="mock")
        router.route().pass_through()
        yield


@contextlib.contextmanager
def replaced_by_hand(wrap: Callable[[Any], Any]) -> Generator[None]:
    """Mock one path with a function of our own."""
    original = httpx.AsyncHTTPTransport.handle_async_request

    async def handle(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="mock") if request.url.path == "/mocked" else await original(self, request)

    with mock.patch.object(httpx.AsyncHTTPTransport, "handle_async_request", wrap(handle)):
        yield


def wraps(handle: Any) -> Any:
    """Make a function look like the method that it replaces."""
    return functools.wraps(httpx.AsyncHTTPTransport.handle_async_request)(handle)


MOCKS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "respx on httpcore": lambda: mocked_by_respx("httpcore"),
    "a function": lambda: replaced_by_hand(lambda handle: handle),
    "functools.wraps": lambda: replaced_by_hand(wraps),
}


async def is_ours(client: httpx.AsyncClient, url: str) -> bool:
    """Whether a request goes over the project's own wire."""
    response = await client.get(url)
    return isinstance(response.extensions["network_stream"], NetworkStream)


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize("mocked", MOCKS.values(), ids=MOCKS)
async def test_a_mock_that_comes_later(mocked: Callable[[], AbstractContextManager[None]], make: MakeClient) -> None:
    """A client in use obeys a mock from the moment it is there, and goes back to the wire afterwards."""
    async with raw_server(answer(200, b"real")) as server, make() as client:
        assert await is_ours(client, server.url)
        with mocked():
            assert (await client.get(server.url + "mocked")).text == "mock"
            assert len(server.requests) == 1
            assert not await is_ours(client, server.url)
        assert await is_ours(client, server.url)
        assert len(server.requests) == 3


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize("mocked", MOCKS.values(), ids=MOCKS)
async def test_a_mock_that_comes_first(mocked: Callable[[], AbstractContextManager[None]], make: MakeClient) -> None:
    """A client that is made while a mock is there obeys it as well, and uses the wire afterwards."""
    async with raw_server(answer(200, b"real")) as server:
        with contextlib.ExitStack() as mock:
            mock.enter_context(mocked())
            async with make() as client:
                assert (await client.get(server.url + "mocked")).text == "mock"
                mock.close()
                assert await is_ours(client, server.url)


async def test_pytest_httpx(httpx_mock: HTTPXMock) -> None:
    """pytest-httpx answers in place of the network."""
    httpx_mock.add_response(url="http://server.example/", text="mock")
    async with PrefectHttpxClient(verify=trusting_context(), trust_env=False) as client:
        assert (await client.get("http://server.example/")).text == "mock"


async def test_vcrpy(tmp_path: Path) -> None:
    """Vcrpy records a response, and replays it once the server is gone."""
    cassette = str(tmp_path / "cassette.yaml")
    async with raw_server(answer(200, b"real")) as server:
        for _ in range(2):
            with vcr.use_cassette(cassette, record_mode="once"):
                async with PrefectHttpxClient(verify=trusting_context(), trust_env=False) as client:
                    assert (await client.get(server.url)).text == "real"
        assert len(server.requests) == 1


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Instrument httpx, and collect the spans."""
    exporter, provider, instrumentor = InMemorySpanExporter(), TracerProvider(), HTTPXClientInstrumentor()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor.instrument(tracer_provider=provider)
    yield exporter
    instrumentor.uninstrument()


async def test_opentelemetry(spans: InMemorySpanExporter) -> None:
    """OpenTelemetry's global instrumentation sees every request of a retrying client, the retries included."""
    async with raw_server(answer(503, retry_after="0"), answer(200)) as server:
        async with PrefectHttpxClient(verify=trusting_context(), trust_env=False) as client:
            await client.get(server.url)
        assert [span.attributes["http.status_code"] for span in spans.get_finished_spans() if span.attributes] == [
            503,
            200,
        ]
        assert all("traceparent" in request.headers for request in server.requests)
