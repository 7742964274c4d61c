"""What mocks, recorders and tracers replace in httpx is replaced for the wire as well, and only as long as it is."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import httpcore
import httpx
import pytest
import respx
import vcr  # type: ignore[import-untyped]  # it has no types
from anyio.abc import ByteStream
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_httpx import HTTPXMock
from support.rows import each_row
from support.servers import answer, raw_server
from support.wire import trusting_context

from prefect_http import HTTPTransport, PrefectHttpxClient, RetryPolicy, Throttle, ThrottledTransport
from prefect_http._wire.network_stream import NetworkStream
from prefect_http.testing import FakeNetwork

pytestmark = pytest.mark.anyio

BACKENDS = ["asyncio", "trio"]
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


@each_row("make", CLIENTS.values(), ids=CLIENTS)
@each_row("mocked", MOCKS.values(), ids=MOCKS)
async def test_a_mock_that_comes_first(mocked: Callable[[], AbstractContextManager[None]], make: MakeClient) -> None:
    """A client that is made while a mock is there obeys it as well, and uses the wire afterwards."""
    async with raw_server(answer(200, b"real")) as server:
        with contextlib.ExitStack() as mock:
            mock.enter_context(mocked())
            async with make() as client:
                assert (await client.get(server.url + "mocked")).text == "mock"
                mock.close()
                assert await is_ours(client, server.url)


def transport_class(text: str) -> type[httpx.AsyncHTTPTransport]:
    """Make a class that responds with a text."""

    class Fake(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, text=text)

    return Fake


def mock_transport(text: str) -> Callable[..., httpx.AsyncBaseTransport]:
    """Make a function that makes a transport that responds with a text."""
    return lambda **_: httpx.MockTransport(lambda _: httpx.Response(200, text=text))


def pool_class(text: str) -> type[httpcore.AsyncConnectionPool]:
    """Make a pool that responds with a text."""

    class Pool(httpcore.AsyncConnectionPool):
        async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
            return httpcore.Response(200, content=text.encode())

    return Pool


WHOLE_CLASSES: dict[str, Callable[[str], AbstractContextManager[object]]] = {
    "transport": lambda text: mock.patch("httpx.AsyncHTTPTransport", transport_class(text)),
    "function": lambda text: mock.patch("httpx.AsyncHTTPTransport", mock_transport(text)),
    "pool": lambda text: mock.patch("httpcore.AsyncConnectionPool", pool_class(text)),
}


@pytest.mark.parametrize("replaced", WHOLE_CLASSES.values(), ids=WHOLE_CLASSES)
async def test_whole_class(replaced: Callable[[str], AbstractContextManager[object]]) -> None:
    """A class that takes the place of httpx's, or of its pool's, is used only as long as it is there."""
    async with raw_server(answer(200, b"real")) as server, PrefectHttpxClient(trust_env=False) as client:
        for text in ("first", "second"):
            with replaced(text):
                assert [(await client.get(server.url)).text for _ in range(2)] == [text] * 2
            with mocked_by_respx("httpcore"):
                assert (await client.get(server.url + "mocked")).text == "mock"
            assert await is_ours(client, server.url)


async def test_function_without_a_module() -> None:
    """A function that exec() has made is recognized as a replacement."""
    names: dict[str, Any] = {}
    exec("async def handle(self, request): return Response(200, text='mock')", names)
    names["Response"] = httpx.Response
    with mock.patch.object(httpx.AsyncHTTPTransport, "handle_async_request", names["handle"]):
        async with PrefectHttpxClient(trust_env=False) as client:
            assert (await client.get("http://server.example/")).text == "mock"


async def test_same_arguments() -> None:
    """The transport that takes the requests has the same arguments, also where they can be read only once."""
    option, given = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), dict[str, Any]()

    def make(**arguments: Any) -> httpx.AsyncBaseTransport:
        given.update(arguments)
        return httpx.MockTransport(lambda _: httpx.Response(200))

    transport = HTTPTransport(retries=2, socket_options=iter([option]))
    with mock.patch("httpx.AsyncHTTPTransport", make):
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get("http://server.example/")
    assert (given["retries"], given["socket_options"]) == (2, [option])


async def test_end_of_a_mock_during_a_response() -> None:
    """A response that is being streamed is not disturbed by a mock that begins or ends meanwhile."""
    async with raw_server(answer(200, b"x" * 500_000)) as server, PrefectHttpxClient(trust_env=False) as client:
        for begins in (False, True):
            before: AbstractContextManager[None] = contextlib.nullcontext()
            after: AbstractContextManager[None] = mocked_by_respx("httpcore")
            if not begins:
                before, after = after, before
            with contextlib.ExitStack() as mocks:
                mocks.enter_context(before)
                async with client.stream("GET", server.url) as response:
                    chunks = response.aiter_bytes()
                    size = len(await anext(chunks))
                    mocks.close()
                    with after:
                        assert size + sum([len(chunk) async for chunk in chunks]) == 500_000
            assert await is_ours(client, server.url)


async def test_closing() -> None:
    """A client that is closed closes every transport that has stood in, even if one of them fails."""
    closed = list[str]()

    def failing_transport(name: str) -> Callable[..., object]:
        async def aclose() -> None:
            closed.append(name)
            raise LookupError(name)

        respond = mock.AsyncMock(return_value=httpx.Response(200))
        return lambda **_: mock.Mock(handle_async_request=respond, aclose=aclose)

    client = PrefectHttpxClient(trust_env=False)
    for name in ("first", "second"):
        with mock.patch("httpx.AsyncHTTPTransport", failing_transport(name)):
            await client.get("http://server.example/")
    with pytest.raises(LookupError):
        await client.aclose()
    assert sorted(closed) == ["first", "second"]


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Python warns of what is left open
@pytest.mark.parametrize("backends", list(itertools.product(BACKENDS, BACKENDS)), ids="-then-".join)
def test_two_event_loops(backends: tuple[str, str]) -> None:
    """A mock that lets requests through to the network does so in one event loop after the other."""
    client = PrefectHttpxClient(trust_env=False)

    async def use(*, port: int = 0, is_last: bool = False) -> int:
        async with raw_server(answer(200, b"real"), port=port) as server:
            with mocked_by_respx("httpcore"):
                for _ in range(2):
                    assert not await is_ours(client, server.url)
                if is_last:
                    await client.aclose()
            assert server.connections == 1
        return server.port

    port = anyio.run(use, backend=backends[0])
    anyio.run(lambda: use(port=port, is_last=True), backend=backends[1])
    gc.collect()


def test_two_event_loops_at_once() -> None:
    """Each has a transport of its own, and closing ours in one of them closes that of this loop alone."""
    made, closed = list[int](), list[int]()

    def make(**_: object) -> mock.Mock:
        async def aclose() -> None:
            closed.append(number)

        number = len(made)
        made.append(number)
        respond = mock.AsyncMock(return_value=httpx.Response(200, text=str(number)))
        return mock.Mock(handle_async_request=respond, aclose=aclose)

    async def numbers(*, close: bool) -> list[str]:
        client = httpx.AsyncClient(transport=transport, trust_env=False)
        found = [(await client.get("http://server.example/")).text for _ in range(2)]
        if close:
            await client.aclose()
        return found

    transport, loop = HTTPTransport(), asyncio.new_event_loop()
    with mock.patch("httpx.AsyncHTTPTransport", make):
        assert loop.run_until_complete(numbers(close=False)) == ["0", "0"]
        assert anyio.run(lambda: numbers(close=True)) == ["1", "1"]
        assert closed == [1]
        assert anyio.run(lambda: numbers(close=True), backend="trio") == ["2", "2"]
        assert loop.run_until_complete(numbers(close=True)) == ["0", "0"]
    assert closed == [1, 2, 0]
    loop.close()


async def test_log(caplog: pytest.LogCaptureFixture) -> None:
    """What has been replaced is logged once."""
    with caplog.at_level("DEBUG", logger="prefect_http"), replaced_by_hand(lambda handle: handle):
        async with PrefectHttpxClient(trust_env=False) as client:
            for _ in range(2):
                await client.get("http://server.example/mocked")
    messages = [record.getMessage() for record in caplog.records if "replaced" in record.getMessage()]
    name = f"{httpx.__name__}.AsyncHTTPTransport.handle_async_request"
    assert messages == [f"{name} has been replaced: requests go through it, and not over prefect_http's wire"]


async def test_without_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until something imports httpcore, nothing is replaced in it; a transport that imports it serves all requests."""
    for package in ("httpcore", "httpcore2"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    async with raw_server(answer(200)) as server, PrefectHttpxClient(trust_env=False) as client:
        assert await is_ours(client, server.url)
        with replaced_by_hand(lambda handle: handle):
            for _ in range(2):
                assert not await is_ours(client, server.url)
        assert server.connections == 2


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


async def test_a_tracer_does_not_lead_past_connect(spans: InMemorySpanExporter) -> None:
    """It calls the library's own method, which would connect to the host itself: to DNS, or past a tunnel."""
    async with FakeNetwork() as network:
        network.serve("http://api.example.com").get("/").reply(text="fake")
        async with network.client(PrefectHttpxClient, base_url="http://api.example.com") as client:
            assert (await client.get("/")).text == "fake"
    assert spans.get_finished_spans() == ()


async def _no_connection(host: str, port: int) -> ByteStream:
    raise OSError("the network is not to be used")


def _client(**arguments: Any) -> httpx.AsyncClient:
    return PrefectHttpxClient(
        retry=RetryPolicy(max_retries=0), verify=trusting_context(), trust_env=False, timeout=5, **arguments
    )


def _transport(**arguments: Any) -> HTTPTransport:
    return HTTPTransport(verify=trusting_context(), **arguments)


NOWHERE: dict[str, MakeClient] = {
    "proxy": lambda: _client(proxy="http://127.0.0.1:1"),
    "socks": lambda: _client(proxy="socks5://127.0.0.1:1"),
    "mount": lambda: _client(mounts={"all://": _transport(proxy="https://127.0.0.1:1")}),
    "uds": lambda: _client(transport=_transport(uds="/nowhere")),
    "connect": lambda: _client(transport=_transport(connect=_no_connection)),
}


@pytest.mark.parametrize("mocked", MOCKS.values(), ids=MOCKS)
async def test_proxies_and_sockets(mocked: Callable[[], AbstractContextManager[None]]) -> None:
    """Whatever its connections lead to, a client obeys a mock; without one, its requests go there."""
    for name, make in NOWHERE.items():
        async with make() as client:
            with mocked():
                for scheme in ("http", "https"):
                    assert (await client.get(f"{scheme}://server.example/mocked")).text == "mock", name
            with pytest.raises(httpx.ConnectError):
                await client.get("https://server.example/mocked")
