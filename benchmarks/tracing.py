"""A request with OpenTelemetry on: what its spans, headers and metrics cost.

The other contestant is opentelemetry-instrumentation-httpx on httpx.AsyncClient, with the stable conventions. Both
have the SDK, with spans that are recorded and not exported, and metrics that are collected and not read.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import httpx
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from benchmarks._measure import compare
from benchmarks._table import print_checked, print_table
from prefect_http import PrefectHttpxClient
from prefect_http.otel import OpenTelemetry

_URL = "http://example.org/"
_PLAIN, _PLAIN_OURS = "httpx.AsyncClient", "prefect_http.PrefectHttpxClient"
_TRACED, _TRACED_OURS = "  with HTTPXClientInstrumentor", "  with OpenTelemetry"


async def run(backend: str) -> None:
    """Measure a request with tracing and without, through a mock, so that little else is measured."""
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"  # read when the first client is instrumented
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SpanProcessor())
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    telemetry = OpenTelemetry(tracers, meters)
    async with (
        httpx.AsyncClient(transport=_mock()) as plain,
        httpx.AsyncClient(transport=_mock()) as traced,
        PrefectHttpxClient(transport=_mock()) as ours,
        PrefectHttpxClient(transport=_mock(), telemetry=telemetry) as ours_traced,
    ):
        HTTPXClientInstrumentor.instrument_client(traced, tracers, meters)
        others = {_TRACED: _get(traced), _PLAIN_OURS: _get(ours), _TRACED_OURS: _get(ours_traced)}
        results = await compare(_get(plain), others, rounds=80, calls=100)
    print_table(f"GET with OpenTelemetry, MockTransport, {backend}", _PLAIN, results)
    theirs = results[_TRACED].seconds - results[_TRACED].base_seconds
    added = results[_TRACED_OURS].seconds - results[_PLAIN_OURS].seconds
    shown = f"{added * 1e6:.1f} us, instrumentation {theirs * 1e6:.1f} us"
    print_checked("added by OpenTelemetry", shown, added / theirs, 1.0)


def _mock() -> httpx.AsyncBaseTransport:
    return httpx.MockTransport(lambda request: httpx.Response(200, text="hello"))


def _get(client: httpx.AsyncClient) -> Callable[[], Awaitable[object]]:
    return lambda: client.get(_URL)
