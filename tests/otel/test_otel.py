"""OpenTelemetry: spans, metrics and headers, as the conventions for HTTP clients have them.

https://opentelemetry.io/docs/specs/semconv/http/
"""

# pyright: reportMissingTypeStubs=false
# It takes the names of the conventions that are in development for a package without types.

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any

import anyio
import httpx
import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled as is_enabled
from opentelemetry.instrumentation.utils import suppress_http_instrumentation, suppress_instrumentation
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.propagators.textmap import CarrierT, Setter, TextMapPropagator, default_setter
from opentelemetry.sdk.metrics.export import HistogramDataPoint
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.semconv._incubating.attributes import http_attributes as dev_http
from opentelemetry.semconv._incubating.attributes import url_attributes as dev_url
from opentelemetry.semconv._incubating.metrics import http_metrics as dev_metrics
from opentelemetry.semconv.attributes import error_attributes as error
from opentelemetry.semconv.attributes import http_attributes as http
from opentelemetry.semconv.attributes import network_attributes as network_names
from opentelemetry.semconv.attributes import server_attributes as server
from opentelemetry.semconv.attributes import url_attributes as url
from opentelemetry.semconv.metrics import http_metrics
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode
from support.asgi_apps import hello
from support.garbage import garbage_of
from support.recorded_telemetry import Recorded
from support.rows import each_row
from support.scripted_transport import AT_ONCE, ONCE, URL, Body, Server
from support.virtual_time import virtual_time_backend

from prefect_http import (
    ASGITransport,
    ConnectionInfo,
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    Receive,
    Scope,
    Send,
    Throttle,
)
from prefect_http.otel import OpenTelemetry
from prefect_http.testing import FakeNetwork, FakeServer

API = "https://api.example.com"
HTTPX = httpx.__name__

Call = Callable[[PrefectHttpxClient], Awaitable[object]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both backends, in virtual time."""
    return virtual_time_backend(request.param)


def new_network() -> tuple[FakeNetwork, FakeServer]:
    """Return a network, and the server in it."""
    network = FakeNetwork()
    return network, network.serve(API)


def ids_of(span: ReadableSpan) -> tuple[int, int]:
    """Return the ids of a span and its trace."""
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def sent_ids(request: Any) -> tuple[int, int]:
    """Return the ids that a server has received."""
    [traceparent] = request.headers.get_list("traceparent")
    _, trace_id, span_id, _ = traceparent.split("-")
    return int(trace_id, 16), int(span_id, 16)


# --- Scenarios


async def get(client: PrefectHttpxClient, **arguments: Any) -> None:
    """Send a request, whatever becomes of it."""
    with contextlib.suppress(httpx.HTTPError):
        await client.get(f"{API}/", **arguments)


async def get_cancelled(client: PrefectHttpxClient) -> None:
    """Send a request, and give up after a second."""
    with anyio.move_on_after(1):
        await client.get(f"{API}/")


async def leave_stream(client: PrefectHttpxClient) -> None:
    """Stream a response, and leave it unread."""
    async with client.stream("GET", f"{API}/"):
        pass


async def get_once(client: PrefectHttpxClient) -> None:
    """Send a request that is not repeated."""
    await get(client, retry=ONCE)


async def get_redirected(client: PrefectHttpxClient) -> None:
    """Follow a redirect."""
    await client.get(f"{API}/", follow_redirects=True)


async def get_challenged(client: PrefectHttpxClient) -> None:
    """Answer a challenge."""
    await client.get(f"{API}/", auth=httpx.DigestAuth("user", "password"))


async def get_purged(client: PrefectHttpxClient) -> None:
    """Send a method that no RFC has."""
    await client.request("PURGE", f"{API}/")


async def get_elsewhere(client: PrefectHttpxClient) -> None:
    """Send a request to a host that there is none of."""
    with pytest.raises(httpx.ConnectError):
        await client.get("http://other.example.com:8000/")


def redirect(api: FakeServer) -> None:
    """Redirect a request."""
    api.get("/").reply(302, headers={"Location": "/there"})
    api.get("/there").reply()


def challenge(api: FakeServer) -> None:
    """Ask for a password."""
    api.get("/").reply(401, headers={"WWW-Authenticate": 'Digest realm="a", nonce="b", qop="auth"'}).reply()


RESENT = http.HTTP_REQUEST_RESEND_COUNT
STATUS = http.HTTP_RESPONSE_STATUS_CODE
ERROR = error.ERROR_TYPE
# What servers do; what is sent; and the attributes of the spans that tell one scenario from another.
SCENARIOS: dict[str, tuple[Callable[[FakeServer], object], Call, list[dict[str, object]]]] = {
    "200": (lambda api: api.get("/").reply(), get, [{STATUS: 200}]),
    "404": (lambda api: api.get("/").reply(404), get, [{STATUS: 404, ERROR: "404"}]),
    "503 and a retry": (
        lambda api: api.get("/").reply(503).reply(),
        get,
        [{STATUS: 503, ERROR: "503"}, {STATUS: 200, RESENT: 1}],
    ),
    "redirect": (redirect, get_redirected, [{STATUS: 302}, {STATUS: 200, RESENT: 1}]),
    "challenge": (challenge, get_challenged, [{STATUS: 401, ERROR: "401"}, {STATUS: 200, RESENT: 1}]),
    "timeout": (
        lambda api: api.get("/").hang().reply(),
        get,
        [{ERROR: f"{HTTPX}.ReadTimeout"}, {STATUS: 200, RESENT: 1}],
    ),
    "broken connection": (
        lambda api: api.get("/").drop(),
        get_once,
        [{ERROR: f"{HTTPX}.RemoteProtocolError"}],
    ),
    "broken body": (
        lambda api: api.get("/").drop(after=100, content=bytes(1000)),
        get_once,
        [{STATUS: 200, ERROR: f"{HTTPX}.RemoteProtocolError"}],
    ),
    "stream": (lambda api: api.get("/").reply(content=bytes(1000)), leave_stream, [{STATUS: 200}]),
    "unknown method": (
        lambda api: api.any("/").reply(),
        get_purged,
        [{STATUS: 200, http.HTTP_REQUEST_METHOD: "_OTHER", http.HTTP_REQUEST_METHOD_ORIGINAL: "PURGE"}],
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
@each_row("script, send, expected", SCENARIOS.values(), ids=SCENARIOS)
async def test_scenario(
    script: Callable[[FakeServer], object], send: Call, expected: list[dict[str, object]], http2: bool
) -> None:
    """Each attempt is a span with these attributes, whose ids the server receives, and a duration."""
    recorded, (network, api) = Recorded(), new_network()
    script(api)
    async with network.client(PrefectHttpxClient, telemetry=recorded.telemetry, retry=AT_ONCE, http2=http2) as client:
        await send(client)
    known = {http.HTTP_REQUEST_METHOD: "GET", server.SERVER_ADDRESS: "api.example.com", server.SERVER_PORT: 443}
    version = {network_names.NETWORK_PROTOCOL_VERSION: "2" if http2 else "1.1"}
    for span, attributes, wanted, received in zip(
        recorded.spans, recorded.attributes, expected, network.requests, strict=True
    ):
        if http2 and "RemoteProtocolError" in str(wanted.get(ERROR)):
            wanted = {**wanted, ERROR: attributes[ERROR]}  # a reset stream may be another error
        path = received.url.path
        common = {**known, url.URL_FULL: f"{API}{path}"} | (version if STATUS in wanted else {}) | wanted
        for peer in network_names.NETWORK_PEER_ADDRESS, network_names.NETWORK_PEER_PORT:
            attributes.pop(peer, None)
        if STATUS not in wanted:  # without the connection, the version is not known
            attributes.pop(network_names.NETWORK_PROTOCOL_VERSION, None)
        assert attributes == common
        assert span.kind is SpanKind.CLIENT
        assert span.name == ("HTTP" if http.HTTP_REQUEST_METHOD_ORIGINAL in wanted else "GET")
        assert span.status.status_code is (StatusCode.ERROR if ERROR in wanted else StatusCode.UNSET)
        assert span.parent is None
        assert sent_ids(received) == ids_of(span)
    assert recorded.value(dev_metrics.HTTP_CLIENT_ACTIVE_REQUESTS) == 0
    assert recorded.value(dev_metrics.HTTP_CLIENT_OPEN_CONNECTIONS) == 0
    measured = recorded.points(http_metrics.HTTP_CLIENT_REQUEST_DURATION)
    assert sum(point.count for point in measured.values() if isinstance(point, HistogramDataPoint)) == len(expected)


@pytest.mark.anyio
async def test_connection_error() -> None:
    """A request that no server has got has neither status nor version, and its span has the message."""
    recorded = Recorded()
    async with FakeNetwork().client(PrefectHttpxClient, telemetry=recorded.telemetry) as client:
        await get_elsewhere(client)
    [span], [attributes] = recorded.spans, recorded.attributes
    assert attributes == {
        http.HTTP_REQUEST_METHOD: "GET",
        server.SERVER_ADDRESS: "other.example.com",
        server.SERVER_PORT: 8000,
        url.URL_FULL: "http://other.example.com:8000/",
        ERROR: f"{HTTPX}.ConnectError",
    }
    assert span.status.description is not None
    assert "other.example.com" in span.status.description
    assert not span.events  # the exception is the caller's to record


@pytest.mark.anyio
async def test_cancellation() -> None:
    """A cancellation is not an error; if the status was one, it still is."""
    recorded, (network, api) = Recorded(), new_network()
    api.get("/").hang().drip(content=b"slowly", every=1).drip(content=b"slowly", every=1, status=404)
    async with network.client(
        PrefectHttpxClient, telemetry=recorded.telemetry, raise_on_all_errors=False, retry=ONCE
    ) as client:
        for _ in range(3):
            await get_cancelled(client)
    assert [(each.get(STATUS), each.get(ERROR)) for each in recorded.attributes] == [
        (None, None),
        (200, None),
        (404, "404"),
    ]
    assert [span.status.status_code.name for span in recorded.spans] == ["UNSET", "UNSET", "ERROR"]
    assert recorded.value(dev_metrics.HTTP_CLIENT_ACTIVE_REQUESTS) == 0


@pytest.mark.anyio
async def test_too_many_redirects() -> None:
    """The redirect that is not followed any more is an error."""
    recorded, (network, api) = Recorded(), new_network()
    api.get("/").reply(302, headers={"Location": "/"}, times=None)
    async with network.client(PrefectHttpxClient, telemetry=recorded.telemetry, max_redirects=1) as client:
        with pytest.raises(httpx.TooManyRedirects):
            await get_redirected(client)
    assert [(each[STATUS], each.get(ERROR)) for each in recorded.attributes] == [
        (302, None),
        (302, f"{HTTPX}.TooManyRedirects"),
    ]


# --- Spans


async def attributes_of(request_url: str, **arguments: Any) -> dict[str, Any]:
    """Return the attributes of the span of a request to an URL."""
    recorded = Recorded()
    async with PrefectHttpxClient(transport=Server(200), telemetry=recorded.telemetry) as client:
        await client.get(request_url, **arguments)
    [attributes] = recorded.attributes
    return attributes


@pytest.mark.anyio
@each_row(
    "request_url, headers, expected",
    [
        ("http://[::1]:4200/", {}, ("::1", 4200, "http://[::1]:4200/")),
        ("http://a", {}, ("a", 80, "http://a")),
        ("https://a:443", {}, ("a", 443, "https://a")),
        ("https://10.0.0.1/", {"Host": "a.example.com:8443"}, ("a.example.com", 8443, "https://10.0.0.1/")),
        ("https://bücher.example/", {}, ("xn--bcher-kva.example", 443, "https://xn--bcher-kva.example/")),
        ("http://user:password@a/?sig=b#c", {}, ("a", 80, "http://REDACTED:REDACTED@a/?sig=REDACTED#c")),
    ],
)
async def test_server_and_url(request_url: str, headers: dict[str, str], expected: tuple[str, int, str]) -> None:
    """The server is that of the Host header, and the URL has no credentials."""
    attributes = await attributes_of(request_url, headers=headers)
    assert (attributes[server.SERVER_ADDRESS], attributes[server.SERVER_PORT], attributes[url.URL_FULL]) == expected


@pytest.mark.anyio
async def test_url_without_default_port() -> None:
    """If the port is not known, it is not reported."""
    assert server.SERVER_PORT not in await attributes_of("other://a/")


@pytest.mark.anyio
async def test_no_credentials_in_the_message() -> None:
    """The message of an exception is reported without the credentials of its request."""
    recorded = Recorded()
    transport = Server(httpx.ConnectError("cannot connect to http://user:password@server/"))
    async with PrefectHttpxClient(transport=transport, telemetry=recorded.telemetry) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://user:password@server/")
    [span] = recorded.spans
    assert span.status.description == "cannot connect to http://[secure]@server/"


class RememberingSampler(Sampler):
    """Notes the attributes that it sees."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        self.seen.append(dict(attributes))
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return ""


@pytest.mark.anyio
async def test_sampling() -> None:
    """Samplers see all that is known before the request is sent."""
    sampler = RememberingSampler()
    recorded = Recorded(sampler)
    async with PrefectHttpxClient(transport=Server(503, 200), telemetry=recorded.telemetry, retry=AT_ONCE) as client:
        await client.request("PURGE", URL)
    assert [set(seen) for seen in sampler.seen] == [
        {
            http.HTTP_REQUEST_METHOD,
            http.HTTP_REQUEST_METHOD_ORIGINAL,
            server.SERVER_ADDRESS,
            server.SERVER_PORT,
            url.URL_FULL,
        }
        | resent
        for resent in (set[str](), {RESENT})
    ]


@pytest.mark.anyio
async def test_unsampled() -> None:
    """Without a span, the server is told so, and the metrics are there."""
    recorded, transport = Recorded(ALWAYS_OFF), Server(404)
    async with PrefectHttpxClient(transport=transport, telemetry=recorded.telemetry) as client:
        with pytest.raises(PrefectHTTPStatusError):
            await client.get(URL)
    assert not recorded.spans
    assert transport.seen[0].headers["traceparent"].endswith(("-00", "-02"))
    assert recorded.points(http_metrics.HTTP_CLIENT_REQUEST_DURATION)


@pytest.mark.anyio
async def test_many_at_once() -> None:
    """The span of each attempt has the caller's as its parent, and is the current one until the attempt ends."""
    recorded = Recorded()
    current: dict[str, int] = {}

    async def answer(request: httpx.Request) -> httpx.Response:
        current[request.url.path] = trace.get_current_span().get_span_context().span_id
        await anyio.sleep(1)
        assert current[request.url.path] == trace.get_current_span().get_span_context().span_id
        return httpx.Response(200)

    async def call(client: PrefectHttpxClient, number: int) -> None:
        with recorded.tracer.start_as_current_span(f"/{number}") as span:
            await client.get(f"http://server/{number}")
            assert trace.get_current_span() is span

    async with PrefectHttpxClient(transport=Server(answer, ...), telemetry=recorded.telemetry) as client:
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(call, client, number)
    callers = {ids_of(span)[1]: span.name for span in recorded.spans if span.kind is SpanKind.INTERNAL}
    attempts = [span for span in recorded.spans if span.kind is SpanKind.CLIENT]
    assert len(attempts) == len(callers) == 20
    for span in attempts:
        assert span.parent is not None
        assert current[callers[span.parent.span_id]] == ids_of(span)[1]


@pytest.mark.anyio
async def test_captured_headers() -> None:
    """Headers are reported if they are named, and credentials never."""
    recorded = Recorded(request_headers=["X-Id", "Authorization", "X-None"], response_headers=["X-Id", "Set-Cookie"])
    response = httpx.Response(200, headers=[("X-Id", "3"), ("x-id", "4"), ("Set-Cookie", "a=secret")])
    async with PrefectHttpxClient(transport=Server(response), telemetry=recorded.telemetry) as client:
        await client.get(URL, headers={"X-Id": "1, 2", "Authorization": "secret"})
    [attributes] = recorded.attributes
    assert {name: value for name, value in attributes.items() if ".header." in name} == {
        f"{http.HTTP_REQUEST_HEADER_TEMPLATE}.x-id": ("1, 2",),
        f"{http.HTTP_REQUEST_HEADER_TEMPLATE}.authorization": ("REDACTED",),
        f"{http.HTTP_RESPONSE_HEADER_TEMPLATE}.x-id": ("3", "4"),
        f"{http.HTTP_RESPONSE_HEADER_TEMPLATE}.set-cookie": ("REDACTED",),
    }


@each_row("argument", ["request_headers", "response_headers", "sensitive_query_parameters"])
def test_a_string_in_place_of_names(argument: str) -> None:
    """It is an error that says so, and not taken for one name a letter."""
    arguments: dict[str, Any] = {argument: "token"}
    with pytest.raises(TypeError, match=rf"^{argument} must be names, such as \['token'\], not the string 'token'$"):
        Recorded(**arguments)


@each_row(
    ("arguments", "message"),
    [
        ((5,), r"^tracer_provider must be a TracerProvider of OpenTelemetry, not 5$"),
        ((NoOpTracerProvider,), r"^tracer_provider must be a TracerProvider of OpenTelemetry, not <class "),
        ((NoOpMeterProvider(),), r"^tracer_provider must be .*; pass a meter provider as meter_provider=$"),
        (
            (None, NoOpTracerProvider()),
            r"^meter_provider must be a MeterProvider of OpenTelemetry, not <.*TracerProvider",
        ),
    ],
)
def test_wrong_providers(arguments: tuple[Any, ...], message: str) -> None:
    """They are errors that say what is expected, at once."""
    with pytest.raises(TypeError, match=message):
        OpenTelemetry(*arguments)


class FakeStream:
    """The network stream of a response."""

    def __init__(self, address: object) -> None:
        self._address = address

    def get_extra_info(self, name: str) -> object:
        return self._address if name == "server_addr" else None


@pytest.mark.anyio
@each_row(
    "address, expected", [(("10.0.0.1", 80), ("10.0.0.1", 80)), (("::1", 80, 0, 0), ("::1", 80)), (None, (None, None))]
)
async def test_peer_of_another_transport(address: object, expected: tuple[str, int]) -> None:
    """If the transport tells nothing of connections, the response does."""
    recorded = Recorded()
    response = httpx.Response(200, extensions={"network_stream": FakeStream(address)})
    async with PrefectHttpxClient(transport=Server(response), telemetry=recorded.telemetry) as client:
        await client.get(URL)
    [attributes] = recorded.attributes
    names = network_names.NETWORK_PEER_ADDRESS, network_names.NETWORK_PEER_PORT
    assert tuple(map(attributes.get, names)) == expected


# --- Headers


class RememberedHeaders(TextMapPropagator):
    """Adds what it is told to, one set of headers for each request."""

    def __init__(self, *script: dict[str, str] | Exception) -> None:
        self._script = list(script)

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        headers = self._script.pop(0)
        if isinstance(headers, Exception):
            raise headers
        for name, value in headers.items():
            setter.set(carrier, name, value)

    def extract(self, *args: Any, **kwargs: Any) -> Context:
        raise NotImplementedError

    @property
    def fields(self) -> set[str]:
        return set()


SetPropagator = Callable[[TextMapPropagator], None]


@pytest.fixture
def set_propagator() -> Iterator[SetPropagator]:
    """Set the global propagator for a test."""
    before = propagate.get_global_textmap()
    yield propagate.set_global_textmap
    propagate.set_global_textmap(before)


@pytest.mark.anyio
async def test_headers_of_the_caller() -> None:
    """The headers of the propagator replace those of the caller, and others stay."""
    recorded, transport = Recorded(), Server(200)
    async with PrefectHttpxClient(transport=transport, telemetry=recorded.telemetry) as client:
        await client.get(URL, headers={"Traceparent": "00-1-2-01", "Baggage": "own=1"})
        [span], [seen] = recorded.spans, transport.seen
        assert sent_ids(seen) == ids_of(span)
        assert seen.headers.get_list("baggage") == ["own=1"]


@pytest.mark.anyio
async def test_baggage() -> None:
    """The baggage of the caller's context is sent with each attempt."""
    recorded, transport = Recorded(), Server(503, 200)
    async with PrefectHttpxClient(transport=transport, telemetry=recorded.telemetry, retry=AT_ONCE) as client:
        token = context.attach(baggage.set_baggage("flow", "etl"))
        try:
            await client.get(URL)
        finally:
            context.detach(token)
    assert [seen.headers.get_list("baggage") for seen in transport.seen] == [["flow=etl"]] * 2


@pytest.mark.anyio
async def test_headers_of_the_attempt_before(set_propagator: SetPropagator) -> None:
    """A retry, or a redirect, has none of the headers that the attempt before had for its own span."""
    set_propagator(RememberedHeaders({"a": "1", "b": "1"}, {"a": "2"}, {"c": "3"}))
    recorded = Recorded()
    transport = Server(503, httpx.Response(302, headers={"Location": "/"}), 200)
    async with PrefectHttpxClient(transport=transport, telemetry=recorded.telemetry, retry=AT_ONCE) as client:
        await client.get(URL, follow_redirects=True, headers={"d": "4"})
    assert [{name: seen.headers.get(name) for name in "abcd" if name in seen.headers} for seen in transport.seen] == [
        {"a": "1", "b": "1", "d": "4"},
        {"a": "2", "d": "4"},
        {"c": "3", "d": "4"},
    ]


@pytest.mark.anyio
async def test_broken_propagator(set_propagator: SetPropagator, caplog: pytest.LogCaptureFixture) -> None:
    """An error of a propagator is logged, and neither the request nor its surroundings notice."""
    set_propagator(RememberedHeaders(ValueError("broken"), {}))
    recorded = Recorded()
    before = context.get_current()
    async with PrefectHttpxClient(transport=Server(200, ...), telemetry=recorded.telemetry) as client:
        await client.get(URL)
        assert context.get_current() == before
        await client.get(URL)
    assert "broken" in caplog.text
    assert recorded.value(dev_metrics.HTTP_CLIENT_ACTIVE_REQUESTS) == 0
    caplog.clear()


# --- Suppressed


@contextlib.contextmanager
def suppressed_by_key() -> Generator[None]:
    """Suppress instrumentation with the key that other languages share."""
    token = context.attach(context.set_value("suppress_instrumentation", True))
    try:
        yield
    finally:
        context.detach(token)


@pytest.mark.anyio
@each_row("suppress", [suppress_http_instrumentation, suppress_instrumentation, suppressed_by_key])
async def test_suppressed(suppress: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    """Users can suppress spans, events, headers and metrics."""
    recorded, transport = Recorded(), Server(503, 200)
    async with PrefectHttpxClient(transport=transport, telemetry=recorded.telemetry, retry=AT_ONCE) as client:
        with recorded.tracer.start_as_current_span("around"), suppress():
            await client.get(URL)
    [span] = recorded.spans
    assert (span.name, len(span.events)) == ("around", 0)
    assert not any("traceparent" in seen.headers for seen in transport.seen)
    assert not recorded.points(http_metrics.HTTP_CLIENT_REQUEST_DURATION)


@pytest.mark.anyio
async def test_clients_within_an_attempt() -> None:
    """What an event hook sends has spans of its own, within that of the attempt."""
    recorded = Recorded()

    async def log_in(request: httpx.Request) -> None:
        async with PrefectHttpxClient(transport=Server(200), telemetry=recorded.telemetry) as client:
            await client.post("http://login/")

    hooks: dict[str, list[Callable[..., object]]] = {"request": [log_in]}
    async with PrefectHttpxClient(transport=Server(200), telemetry=recorded.telemetry, event_hooks=hooks) as client:
        await client.get(URL)
    login, attempt = recorded.spans
    assert login.parent is not None
    assert (login.name, login.parent.span_id) == ("POST", ids_of(attempt)[1])


# --- Waits


@pytest.mark.anyio
async def test_waits() -> None:
    """A wait is an event of the span around the call, with its reason."""
    recorded, (network, api) = Recorded(), new_network()
    api.get("/").reply(503, headers={"Retry-After": "7"}).reply(times=2)
    async with network.client(PrefectHttpxClient, telemetry=recorded.telemetry) as client:
        with recorded.tracer.start_as_current_span("around"):
            await client.get(f"{API}/")
        await get(client)  # without a span around it, there is no event
    span = recorded.spans[2]
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        (
            "prefect_http.wait",
            {"prefect_http.wait.delay": pytest.approx(7, abs=2), "prefect_http.wait.reason": "Retry-After of 7 s"},
        )
    ]


# --- Metrics


@pytest.mark.anyio
async def test_duration() -> None:
    """The duration is that of the span, in seconds, in the buckets of the conventions."""
    recorded = Recorded()
    async with PrefectHttpxClient(transport=Server(404), telemetry=recorded.telemetry) as client:
        with pytest.raises(PrefectHTTPStatusError):
            await client.get(URL)
    [span] = recorded.spans
    [(attributes, point)] = recorded.points(http_metrics.HTTP_CLIENT_REQUEST_DURATION).items()
    assert dict(attributes) == {
        http.HTTP_REQUEST_METHOD: "GET",
        server.SERVER_ADDRESS: "server",
        server.SERVER_PORT: 80,
        STATUS: 404,
        ERROR: "404",
    }
    assert isinstance(point, HistogramDataPoint)
    assert span.end_time is not None
    assert span.start_time is not None
    assert point.sum == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-8)
    assert list(point.explicit_bounds) == [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]


@pytest.mark.anyio
async def test_active_requests() -> None:
    """Requests are counted while their attempts run, but not while they wait."""
    recorded, (network, api) = Recorded(), new_network()
    api.get("/").reply(503, delay=1, headers={"Retry-After": "5"}).reply(delay=4)
    counted: dict[float, float] = {}
    async with network.client(PrefectHttpxClient, telemetry=recorded.telemetry, throttle=Throttle()) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get, client)
            for at in 0.5, 3, 9:
                await anyio.sleep(at - sum(counted and [max(counted)]))
                counted[at] = recorded.value(
                    dev_metrics.HTTP_CLIENT_ACTIVE_REQUESTS,
                    http__request__method="GET",
                    server__address="api.example.com",
                    server__port=443,
                )
    assert counted == {0.5: 1, 3: 0, 9: 1}
    assert recorded.value(dev_metrics.HTTP_CLIENT_ACTIVE_REQUESTS) == 0


def info(requests: int = 0, number: int = 1, **changes: Any) -> ConnectionInfo:
    """Return what a transport tells of a connection."""
    known = ConnectionInfo(
        number=number,
        scheme="https",
        host="a",
        port=443,
        peer_address="10.0.0.1",
        peer_port=443,
        protocol="HTTP/2",
        lookup_seconds=None,
        connect_seconds=0.1,
        tunnel_seconds=None,
        tls_seconds=0.1,
        requests=requests,
    )
    return dataclasses.replace(known, **changes)


def test_open_connections() -> None:
    """A connection is active while it has requests, of which HTTP/2 has several, and idle between them."""
    recorded = Recorded(development=True)
    telemetry, states = recorded.telemetry, list[tuple[float, float]]()

    def look() -> None:
        states.append(
            (
                recorded.value(dev_metrics.HTTP_CLIENT_OPEN_CONNECTIONS, http__connection__state="active"),
                recorded.value(dev_metrics.HTTP_CLIENT_OPEN_CONNECTIONS, http__connection__state="idle"),
            )
        )

    for step in (
        *(telemetry.connection_opened, telemetry.connection_acquired, telemetry.connection_acquired),
        *(telemetry.connection_released, telemetry.connection_released, telemetry.connection_closed),
    ):
        step(info(open_seconds=1.5 if step == telemetry.connection_closed else None))
        look()
    assert states == [(0, 1), (1, 0), (1, 0), (1, 0), (0, 1), (0, 0)]
    telemetry.connection_opened(info(number=2))
    telemetry.connection_acquired(info(number=2))
    telemetry.connection_closed(info(number=2, open_seconds=3.0))
    telemetry.connection_released(info(number=2))
    look()
    for step in telemetry.connection_acquired, telemetry.connection_released, telemetry.connection_closed:
        step(info(number=3))  # it was opened before this telemetry was told of anything
    look()
    assert states[6:] == [(0, 0)] * 2
    [(attributes, point)] = recorded.points(dev_metrics.HTTP_CLIENT_CONNECTION_DURATION).items()
    names = server.SERVER_ADDRESS, server.SERVER_PORT, network_names.NETWORK_PROTOCOL_VERSION
    assert dict(attributes) == dict(zip(names, ("a", 443, "2"), strict=True))
    assert isinstance(point, HistogramDataPoint)
    assert (point.count, point.sum) == (2, 4.5)
    assert list(point.explicit_bounds) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300]


def test_connection_duration_is_in_development() -> None:
    """By default, how long connections were open is not reported."""
    recorded = Recorded()
    recorded.telemetry.connection_opened(info())
    recorded.telemetry.connection_closed(info())
    assert recorded.points(dev_metrics.HTTP_CLIENT_OPEN_CONNECTIONS)
    assert not recorded.points(dev_metrics.HTTP_CLIENT_CONNECTION_DURATION)


@pytest.mark.anyio
@each_row("http2, version", [(False, "1.1"), (True, "2")])
async def test_connections_of_a_transport(http2: bool, version: str) -> None:
    """The connections of an HTTPTransport are counted while they are open, and spans have their other end."""
    recorded, (network, api) = Recorded(development=True), new_network()
    api.get("/").drip(content=b"ab", every=1, times=None)

    def states() -> tuple[float, float]:
        name = dev_metrics.HTTP_CLIENT_OPEN_CONNECTIONS
        common = {"server__address": "api.example.com", "server__port": 443, "network__protocol__version": version}
        active = recorded.value(name, http__connection__state="active", **common)
        return active, recorded.value(name, http__connection__state="idle", **common)

    async with network.client(PrefectHttpxClient, telemetry=recorded.telemetry, http2=http2) as client:
        async with client.stream("GET", f"{API}/") as response:
            assert states() == (1, 0)
            async with client.stream("GET", f"{API}/"):
                assert states() == ((1, 0) if http2 else (2, 0))
            await response.aread()
        await client.get(f"{API}/")
        assert states() == (0, 1)
    assert states() == (0, 0)
    for attributes in recorded.attributes:
        assert attributes[network_names.NETWORK_PEER_ADDRESS]
        assert attributes[network_names.NETWORK_PEER_PORT] == 443
    assert recorded.points(dev_metrics.HTTP_CLIENT_CONNECTION_DURATION)


@pytest.mark.anyio
@each_row(
    "changes, expected",
    [({}, ("10.0.0.1", 443)), ({"peer_port": None}, ("10.0.0.1", None)), ({"peer_address": None}, (None, None))],
)
async def test_connection_of_an_attempt(changes: dict[str, Any], expected: tuple[str, int]) -> None:
    """The span has the other end of the connection, also if there is no response."""
    recorded = Recorded()

    async def fail(request: httpx.Request) -> httpx.Response:
        recorded.telemetry.connection_acquired(info(**changes))
        raise httpx.ReadError("broken")

    async def answer(request: httpx.Request) -> httpx.Response:
        recorded.telemetry.connection_acquired(info(**changes))
        return httpx.Response(200, extensions={"http_version": b"HTTP/2"})

    transport = Server(fail, answer)
    async with PrefectHttpxClient(transport=transport, telemetry=recorded.telemetry, retry=AT_ONCE) as client:
        await client.get(URL)
    for attributes in recorded.attributes:
        names = network_names.NETWORK_PEER_ADDRESS, network_names.NETWORK_PEER_PORT
        assert tuple(map(attributes.get, names)) == expected
        assert attributes[network_names.NETWORK_PROTOCOL_VERSION] == "2"


@pytest.mark.anyio
async def test_throttle_events() -> None:
    """The events of a throttle are counted in development, without its keys."""
    for development, expected in (True, 1), (False, 0):
        recorded, (network, api) = Recorded(development=development), new_network()
        api.get("/").reply(429, headers={"Retry-After": "1"}).reply()
        async with network.client(PrefectHttpxClient, telemetry=recorded.telemetry, throttle=Throttle()) as client:
            await get(client)
        closed = recorded.value("prefect_http.throttle.events", prefect_http__throttle__event="closed")
        assert closed == expected


# --- In development


@pytest.mark.anyio
async def test_url_template() -> None:
    """In development, a template is a part of the name, and an attribute, but not for where a redirect leads."""
    template = {"url_template": "/path/{id}"}
    for development, expected in (False, ["GET", "GET", "GET"]), (True, ["GET /path/{id}", "GET /path/{id}", "GET"]):
        recorded = Recorded(development=development)
        transport = Server(503, httpx.Response(302, headers={"Location": "/"}), 200)
        async with PrefectHttpxClient(transport=transport, telemetry=recorded.telemetry, retry=AT_ONCE) as client:
            await client.get(URL, follow_redirects=True, extensions=template)
        assert [span.name for span in recorded.spans] == expected
        assert [attributes.get(dev_url.URL_TEMPLATE) for attributes in recorded.attributes] == [
            "/path/{id}" if " " in name else None for name in expected
        ]
        measured = recorded.points(dev_metrics.HTTP_CLIENT_ACTIVE_REQUESTS)
        assert len(measured) == len(set(expected))


@pytest.mark.anyio
async def test_body_sizes() -> None:
    """In development, the sizes of the bodies are reported, as they were sent, where they are known."""
    for development, expected in (True, [(4, 1000), (None, None)]), (False, [(None, None)] * 2):
        recorded = Recorded(development=development)
        transport = Server(*(httpx.Response(200, stream=Body([bytes(400), bytes(600)])) for _ in range(2)))
        async with PrefectHttpxClient(transport=transport, telemetry=recorded.telemetry) as client:
            await client.post(URL, content=b"four")
            async with client.stream("GET", URL):
                pass
        names = dev_http.HTTP_REQUEST_BODY_SIZE, dev_http.HTTP_RESPONSE_BODY_SIZE
        assert [tuple(map(each.get, names)) for each in recorded.attributes] == expected


# --- Apps in this process


@pytest.mark.anyio
async def test_app() -> None:
    """An app in this process has no version and no connection, and what it sends itself is traced."""
    recorded = Recorded()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            current = trace.get_current_span()
            assert f"{current.get_span_context().span_id:016x}" in dict(scope["headers"])[b"traceparent"].decode()
            assert is_enabled()
            async with PrefectHttpxClient(transport=Server(200), telemetry=recorded.telemetry) as client:
                await client.post(URL)
        await hello(scope, receive, send)

    choices: tuple[dict[str, Any], ...] = {"app": app}, {"transport": ASGITransport(app)}
    for arguments in choices:
        recorded = Recorded()
        before = context.get_current()
        async with PrefectHttpxClient(telemetry=recorded.telemetry, **arguments) as client:
            await client.get("http://localhost/")
            async with client.stream("GET", "http://localhost/"):
                assert context.get_current() == before
        names = [span.name for span in recorded.spans]
        assert sorted(names) == ["GET", "GET", "POST", "POST"]
        attributes = recorded.attributes[names.index("GET")]
        assert attributes == {
            http.HTTP_REQUEST_METHOD: "GET",
            server.SERVER_ADDRESS: "localhost",
            server.SERVER_PORT: 80,
            url.URL_FULL: "http://localhost/",
            STATUS: 200,
        }
        for span in recorded.spans:
            assert (span.parent is None) == (span.name == "GET")


@pytest.mark.anyio
async def test_exception_of_an_app() -> None:
    """The span of a request that an app fails has the type of its exception, but not its message."""
    recorded = Recorded()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("secret")

    async with PrefectHttpxClient(transport=ASGITransport(app), telemetry=recorded.telemetry) as client:
        with pytest.raises(ValueError, match="secret"):
            await client.get(URL)
    [span], [attributes] = recorded.spans, recorded.attributes
    assert (attributes[ERROR], span.status.status_code, span.status.description) == (
        "ValueError",
        StatusCode.ERROR,
        None,
    )


# --- Without garbage


@pytest.mark.anyio
@each_row("answers", [[200], [503, 200], [httpx.ConnectTimeout("slow"), 200], [404]])
async def test_nothing_is_left(answers: list[Any]) -> None:
    """Neither the span of a good attempt nor that of a failed one leaves anything to the garbage collector."""
    telemetry, baseline = Recorded(ALWAYS_OFF).telemetry, list[list[int]]()
    for each in None, telemetry:
        script = itertools.cycle(answers)
        transport = httpx.MockTransport(lambda request, script=script: respond(next(script)))
        async with PrefectHttpxClient(transport=transport, telemetry=each, retry=AT_ONCE) as client:

            async def get(client: PrefectHttpxClient = client) -> None:
                with contextlib.suppress(PrefectHTTPStatusError):
                    await client.get(URL)

            baseline.append(await garbage_of(get))
    without, within = baseline
    assert max(within) <= max(without)


def respond(answer: int | Exception) -> httpx.Response:
    """Return a response, or raise an exception."""
    if isinstance(answer, int):
        return httpx.Response(answer)
    raise answer


# --- Without OpenTelemetry


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenTelemetry's API, the import of the module says what to install."""
    monkeypatch.delitem(sys.modules, "prefect_http.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    with pytest.raises(ImportError, match=r"opentelemetry-api; install it with: pip install 'prefect_http\[otel\]'$"):
        importlib.import_module("prefect_http.otel")
